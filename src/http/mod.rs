//! The HTTP server: what is known, for whoever may see it, and no way to change any of it.
//!
//! `server` bounds what a client can take of the daemon, `guard` refuses what is not meant for it
//! and hardens what is answered; the rest are answers. An answer takes what it needs of the
//! store in short slices, so that nobody who looks can hold up a poll.

mod api;
mod assets;
mod guard;
mod health;
mod host;
mod metrics;
mod page;
mod parameters;
mod server;
mod stream;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

pub use self::host::{HostName, InvalidHostName, Settings};
use self::server::Bounds;
pub use self::server::{ListenError, Server};
use crate::clock::Clock;
use crate::metrics::{Metrics, Process};
use crate::status::Status;
use crate::store::Store;

/// What the answers are made from.
pub struct Sources<S> {
    pub store: Arc<S>,
    pub clock: Arc<dyn Clock>,
    pub status: Status,
    pub metrics: Metrics,
    pub process: Process,
}

impl<S> Clone for Sources<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            status: self.status.clone(),
            metrics: self.metrics.clone(),
            process: self.process,
        }
    }
}

impl<S> std::fmt::Debug for Sources<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Readers that follow events at the same time; less than there may be connections, so that some
/// are left for those who only look.
const STREAMS: usize = 64;
/// Answers made at the same time that look through sessions or events: polls come first.
const LOOKS: usize = 4;

/// What the answers share.
struct Site<S> {
    sources: Sources<S>,
    stop: CancellationToken,
    streams: Arc<Semaphore>,
    looks: Semaphore,
}

impl<S> Site<S> {
    fn new(sources: Sources<S>, stop: CancellationToken) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS));
        Self { sources, stop, streams, looks: Semaphore::new(LOOKS) }
    }

    /// Whatever holds the poll loop up may hold the sessions too: who asked for them would wait
    /// with it, and nobody would be left to say so.
    fn shows_sessions(&self) -> bool {
        self.sources.status.live()
    }

    /// Waits for a turn to look through what is there; it lasts as long as it is held.
    async fn look(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.looks.acquire().await.ok()
    }
}

impl<S> Deref for Site<S> {
    type Target = Sources<S>;

    fn deref(&self) -> &Sources<S> {
        &self.sources
    }
}

/// Begins to serve, if the settings name an address.
///
/// # Errors
/// That it can't be listened on.
pub async fn start<S: Store>(
    settings: &Settings,
    sources: Sources<S>,
) -> Result<Option<Server>, ListenError> {
    let Some(address) = settings.listen else { return Ok(None) };
    let stop = CancellationToken::new();
    let router = router(&settings.allowed_hosts, sources, stop.clone());
    let (server, _) = Server::start(address, router, Bounds::default(), stop).await?;
    Ok(Some(server))
}

/// `stop` ends the answers that would not end by themselves.
fn router<S: Store>(
    allowed_hosts: &[HostName],
    sources: Sources<S>,
    stop: CancellationToken,
) -> Router {
    let hosts: Arc<[HostName]> = allowed_hosts.into();
    let Sources { status, metrics, process, .. } = sources.clone();
    let site = Arc::new(Site::new(sources, stop));
    api::routes()
        .merge(page::routes())
        .merge(assets::routes())
        .fallback(page::nothing_here)
        .with_state(site)
        .merge(health::router(status.clone()))
        .merge(metrics::router(metrics, process, status))
        .layer(middleware::from_fn_with_state(hosts, guard::admit))
        .layer(middleware::map_response(guard::harden))
}

#[cfg(test)]
mod tests;
