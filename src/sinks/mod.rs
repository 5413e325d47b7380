//! Where events go: each sink has its own durable cursor, so that a slow or failing one holds
//! back no other.

mod dispatcher;
mod journald;
mod stdout;

use std::future::Future;

pub use dispatcher::{DispatchError, Report, dispatch};
pub use journald::Journald;
pub use stdout::Stdout;

use crate::domain::Record;

/// Takes events out of the daemon.
pub trait Sink: Send + 'static {
    /// The name that its cursor is kept under; never changes.
    fn name(&self) -> &'static str;

    /// Delivers the events in order. When it returns, they are out of this process's hands.
    ///
    /// # Errors
    /// [`SinkError::Closed`] if nobody will ever take them again. After
    /// [`SinkError::Failed`] the same events are offered again, some perhaps a second time.
    fn deliver(&mut self, events: &[Record]) -> impl Future<Output = Result<(), SinkError>> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("whoever read the events has gone away")]
    Closed,
    #[error("{0}")]
    Failed(String),
}
