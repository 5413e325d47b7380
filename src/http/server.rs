//! The socket: connections come in, each with limits of its own.
//!
//! Nobody is trusted here. A client that sends its request slowly, or takes its answer slowly,
//! loses its connection; there are only so many of them; and a stop waits for none of them.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What clients may take of the daemon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections at the same time; who comes later waits in the kernel's queue.
    pub(super) connections: usize,
    /// How long a request's head may take to come, and a connection may be idle.
    pub(super) head_within: Duration,
    /// How long a client may take none of its answer.
    pub(super) taken_within: Duration,
    /// How long requests under way may take once a stop has been asked for.
    pub(super) last_answers_within: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 128,
            head_within: Duration::from_secs(15),
            taken_within: Duration::from_secs(10),
            last_answers_within: Duration::from_secs(1),
        }
    }
}

/// Of a request's head: browsers send less than 2 KiB in some 20 headers.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// The address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "http.listen: {address} can't be listened on: {error}; end what holds it, or write another address, or \"\" for no server"
)]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// A server that runs until it is stopped.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    /// Begins to answer. `stop` ends it, and may be handed to answers that would not end by
    /// themselves.
    ///
    /// # Errors
    /// The address is in use, not of this machine, or may not be listened on.
    pub(super) async fn start(
        address: SocketAddr,
        router: Router,
        bounds: Bounds,
        stop: CancellationToken,
    ) -> Result<(Self, SocketAddr), ListenError> {
        let refused = |error| ListenError { address, error };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        info!(%address, "the status page and the read API are served");
        if !address.ip().is_loopback() {
            warn!(
                %address,
                "http.listen can be reached from other machines, and there is no authentication: \
                 whoever connects sees session ids and labels; put a proxy or a firewall before it"
            );
        }
        let serving = tokio::spawn(accept(listener, router, bounds, stop.clone()));
        Ok((Self { stop, serving }, address))
    }

    /// Resolves only if the server dies.
    pub async fn died(&mut self) -> Option<JoinError> {
        (&mut self.serving).await.err()
    }

    /// Closes the port and every connection, soon, whatever clients do.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            warn!("the HTTP server had ended by itself: {error}");
        }
    }
}

async fn accept(listener: TcpListener, router: Router, bounds: Bounds, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        let accept = async {
            // Never closed, so there is a place sooner or later.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                let connection = serve(stream, router.clone(), bounds, stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!("the HTTP server can't accept a connection; it goes on trying: {error}");
                }
                tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
            }
        }
    }
    drop(listener);
    let answered = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(bounds.last_answers_within, answered).await.is_err() {
        debug!(
            connections = connections.len(),
            "connections are closed in the middle of an answer"
        );
        connections.shutdown().await;
    }
}

async fn serve(stream: TcpStream, router: Router, bounds: Bounds, stop: CancellationToken) {
    // Events are small and wanted at once; without it they are only late.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.taken_within));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_within)
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(2 * HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!("an HTTP connection broke off: {error}");
    }
}
