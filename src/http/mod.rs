//! The HTTP server: what is known, for whoever may see it, and no way to change any of it.
//!
//! `server` bounds what a client can take of the daemon, `guard` refuses what is not meant for it
//! and hardens what is answered; the rest are answers. An answer takes what it needs of the
//! store in short slices, so that nobody who looks can hold up a poll.

mod guard;
mod host;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::response::IntoResponse;
use http::StatusCode;
use tokio_util::sync::CancellationToken;

pub use self::host::{HostName, InvalidHostName, Settings};
use self::server::Bounds;
pub use self::server::{ListenError, Server};
use crate::clock::Clock;
use crate::status::Status;
use crate::store::Store;

/// What the answers are made from.
pub struct Sources<S> {
    pub store: Arc<S>,
    pub clock: Arc<dyn Clock>,
    pub status: Status,
}

impl<S> Clone for Sources<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            status: self.status.clone(),
        }
    }
}

impl<S> std::fmt::Debug for Sources<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
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
    let router = router(&settings.allowed_hosts, sources);
    let (server, _) = Server::start(address, router, Bounds::default(), stop).await?;
    Ok(Some(server))
}

fn router<S: Store>(allowed_hosts: &[HostName], sources: Sources<S>) -> Router {
    let hosts: Arc<[HostName]> = allowed_hosts.into();
    Router::new()
        .fallback(nothing_here)
        .with_state(sources)
        .layer(middleware::from_fn_with_state(hosts, guard::admit))
        .layer(middleware::map_response(guard::harden))
}

async fn nothing_here() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "There is nothing here; the status page is at /.\n")
}

#[cfg(test)]
mod tests;
