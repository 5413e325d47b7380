//! The socket: connections come in, and are cut off hard where a fault wants it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::auth::PublicKey;
use super::body::Served;
use super::world::{AfterEnd, World};
use super::{api, control, token};
use crate::clock::{Clock, SystemClock};

/// How a simulated API is set up.
#[derive(Clone)]
pub struct Settings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The only SDK id that is let in.
    pub sdk_id: String,
    /// Without one, signatures are not verified; everything else still is.
    pub public_key: Option<PublicKey>,
    /// Decides ids, applicants and what befalls by chance.
    pub seed: u64,
    /// How many times faster than time the scripts run. TTLs fall with the time.
    pub speed: NonZeroU32,
    pub after_end: AfterEnd,
    /// How long access tokens live; without it they live on, and `expires_in` is left out.
    pub token_life: Option<Duration>,
    /// How many exchanges are kept in detail; the oldest go first, totals never. The usual 100,000
    /// are a minute and a half at 1,000 requests a second.
    pub exchanges_kept: usize,
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// On a free loopback port, in real time, without verifying signatures.
    #[must_use]
    pub fn new(sdk_id: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            sdk_id: sdk_id.into(),
            public_key: None,
            seed: 0,
            speed: NonZeroU32::MIN,
            after_end: AfterEnd::default(),
            token_life: Some(Duration::from_secs(3_600)),
            exchanges_kept: 100_000,
            clock: Arc::new(SystemClock),
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("listen", &self.listen)
            .field("sdk_id", &self.sdk_id)
            .field("verifies", &self.public_key.is_some())
            .field("seed", &self.seed)
            .field("speed", &self.speed)
            .finish_non_exhaustive()
    }
}

/// A [`World`] behind a socket, for as long as it is held.
#[derive(Debug)]
pub struct Simulator {
    world: Arc<World>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Simulator {
    /// # Errors
    /// That the address can't be listened on.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let world = Arc::new(World::new(settings));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&world)));
        Ok(Self { world, address, accepting })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `api.base_url` is to be.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/idverify/v1", self.address)
    }

    /// What `api.auth.token_url` is to be.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("http://{}{}", self.address, token::PATH)
    }

    #[must_use]
    pub fn world(&self) -> Arc<World> {
        Arc::clone(&self.world)
    }

    /// Closes every connection and the port, and returns once both are closed.
    pub async fn stop(mut self) {
        self.accepting.abort();
        match (&mut self.accepting).await {
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "the simulator's accept loop had panicked");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl Deref for Simulator {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, world: Arc<World>) {
    const AFTER_FAILURE: Duration = Duration::from_millis(50);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve(stream, peer, Arc::clone(&world)));
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulator can't accept a connection; it goes on trying");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            },
            Some(Err(error)) = connections.join_next() => {
                tracing::error!(%error, "a connection of the simulator ended badly");
            }
        }
    }
}

/// Where a request comes from.
#[derive(Clone)]
pub(super) struct Origin {
    /// Counts from 1.
    pub(super) connection: u64,
    pub(super) peer: IpAddr,
    pub(super) reset: Arc<Reset>,
}

/// Cuts a connection off with a TCP reset.
#[derive(Default)]
pub(super) struct Reset {
    pulled: AtomicBool,
    now: Notify,
}

impl Reset {
    pub(super) fn pull(&self) {
        self.pulled.store(true, Ordering::Release);
        self.now.notify_one();
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, world: Arc<World>) {
    let connection = world.state().traffic.connected();
    let reset = Arc::new(Reset::default());
    let origin = Origin { connection, peer: peer.ip(), reset: Arc::clone(&reset) };
    let io = TokioIo::new(Socket { stream, reset: Arc::clone(&reset) });
    let service = service_fn(move |request| handle(Arc::clone(&world), origin.clone(), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    tokio::select! {
        served = builder.serve_connection(io, service) => {
            if let Err(error) = served {
                tracing::debug!(connection, error = &*error, "a connection of the simulator broke");
            }
        }
        () = reset.now.notified() => {}
    }
}

async fn handle(
    world: Arc<World>,
    origin: Origin,
    request: Request<Incoming>,
) -> io::Result<Response<Served>> {
    if request.uri().path().starts_with(control::PREFIX) {
        Ok(control::serve(&world, &origin, request).await)
    } else {
        Ok(api::serve(&world, &origin, request).await)
    }
}

/// A stream that, once [`Reset`] is pulled, is reset where it would have been closed.
struct Socket {
    stream: TcpStream,
    reset: Arc<Reset>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.pulled.load(Ordering::Acquire)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::warn!(%error, "a connection of the simulator is closed, not reset as it should be");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
