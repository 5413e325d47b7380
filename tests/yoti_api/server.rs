//! A server of plain bytes, which does exactly what a test tells it to.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Hands every connection to `handle`.
    pub(crate) async fn start<F, Fut>(handle: F) -> Self
    where
        F: Fn(Connection) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(handle(Connection { stream }));
            }
        });
        Self { address, connections }
    }

    /// Answers the first request of every connection with these bytes, then closes it.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                connection.request().await;
                connection.send(&answer).await;
            }
        })
        .await
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/idverify/v1", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// By name in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Connection {
    /// The next request, unless the client has closed the connection.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().lines();
        let (method, target) = lines.next()?.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8(body).unwrap();
        Some(Request { method: method.to_owned(), target: target.to_owned(), headers, body })
    }

    /// Whether the bytes went out; they don't once the client has closed the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Holds the connection open until the client closes it.
    pub(crate) async fn hang(mut self) {
        while let Ok(1..) = self.stream.read(&mut [0; 64]).await {}
    }

    /// Closes the connection with an RST instead of a FIN.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// A whole answer with a body of known length.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let length = body.len().to_string();
    let headers = [&[("content-length", length.as_str())], headers].concat();
    let headers: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Whatever\r\n{}\r\n{body}", headers.concat()).into_bytes()
}

/// A deadline long enough for nothing on this machine to miss it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
