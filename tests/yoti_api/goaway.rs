//! HTTP/2 servers that send their clients away.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ibvwatch::domain::Observation;
use ibvwatch::yoti::{Client, SessionApi};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use super::server::PATIENCE;
use super::tls::Authority;
use super::{client, id, problem, settings};

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEADERS: u8 = 1;

/// Says that no stream was worked on, for that reason.
fn goaway(code: u8) -> [u8; 17] {
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code]
}

/// Sends the first connection away as soon as a request has come, and serves all others. With
/// `hangs`, the first is left open after that.
async fn sends_away_once(code: u8, hangs: bool) -> (Client, Arc<AtomicUsize>) {
    let authority = Authority::new("ours");
    let acceptor = authority.acceptor(&["h2"], |_| {});
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let counted = Arc::clone(&counted);
            if std::mem::take(&mut first) {
                tokio::spawn(send_away(stream, code, hangs, counted));
            } else {
                tokio::spawn(serve(stream, counted, false));
            }
        }
    });
    (trusting(address, &authority), requests)
}

fn trusting(address: SocketAddr, authority: &Authority) -> Client {
    let mut settings = settings(&format!("https://localhost:{}/idverify/v1", address.port()));
    settings.ca_file = Some(authority.ca_file());
    settings.timeout = Duration::from_secs(3);
    client(settings)
}

async fn send_away(
    mut stream: TlsStream<TcpStream>,
    code: u8,
    hangs: bool,
    requests: Arc<AtomicUsize>,
) {
    stream.write_all(&SETTINGS).await.unwrap();
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut frame).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    stream.write_all(&goaway(code)).await.unwrap();
    stream.flush().await.unwrap();
    if hangs {
        while let Ok(1..) = stream.read(&mut [0; 64]).await {}
    }
}

/// Serves requests; only one, if it is then to send the client away in good order.
async fn serve(stream: TlsStream<TcpStream>, requests: Arc<AtomicUsize>, once: bool) {
    let asked = Arc::new(tokio::sync::Notify::new());
    let heard = Arc::clone(&asked);
    let service = service_fn(move |_: http::Request<hyper::body::Incoming>| {
        requests.fetch_add(1, Ordering::SeqCst);
        heard.notify_one();
        async {
            let body = Full::new(Bytes::from_static(br#"{"state":"ONGOING"}"#));
            Ok::<_, Infallible>(http::Response::new(body))
        }
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // How it ends is the client's affair.
        _ = connection.as_mut() => return,
        () = asked.notified(), if once => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[tokio::test]
async fn a_goaway_in_the_place_of_an_answer_fails_the_poll_in_time_and_not_the_next_one() {
    for (code, hangs) in [(0, false), (0, true), (1, false), (11, true)] {
        let (client, requests) = sends_away_once(code, hangs).await;
        let first = tokio::time::timeout(PATIENCE, client.session_state(id())).await.unwrap();
        assert!(matches!(first, Observation::Unreachable(_)), "{code}, {hangs}: {first:?}");
        assert!(!problem(&first).message.is_empty());
        assert_eq!(requests.load(Ordering::SeqCst), 1, "a signed request was sent a second time");
        assert_eq!(client.session_state(id()).await, Observation::Ongoing, "{code}, {hangs}");
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_goaway_after_an_answer_is_noticed_by_nobody() {
    let authority = Authority::new("ours");
    let acceptor = authority.acceptor(&["h2"], |_| {});
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            tokio::spawn(serve(stream, Arc::clone(&counted), true));
        }
    });
    let client = trusting(address, &authority);
    for count in 1..=10 {
        assert_eq!(client.session_state(id()).await, Observation::Ongoing);
        assert_eq!(requests.load(Ordering::SeqCst), count);
    }
}
