//! Where sessions and events are kept: one trait, and what stands behind it.
//!
//! Two promises hold for every implementation. What was decided about a session (its new value
//! and all events of the decision) is one atomic commit, and whoever awaits the commit is told
//! only once it is durable. And a commit against a session that has moved on since it was
//! leased is refused as stale, whole.
//!
//! Sessions and due times live in memory (`registry`), since a poll that finds nothing new must
//! cost nothing. What must survive is handed to a `journal`, in the order in which it was
//! decided. Memory therefore runs ahead of the disk by a moment, but the order is one and the
//! same, so nothing is ever told that rests on something that was lost. `ledger` joins the
//! two; [`MemoryStore`] and [`SqliteStore`] differ only in their journal.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::domain::{
    ApiEvent, Cause, Census, Entry, Policy, Record, Session, SessionId, Timestamp, Transition,
    Urgency,
};
use crate::metrics::Writes;

mod archive;
#[cfg(test)]
mod conformance;
pub mod jetstream;
mod journal;
mod ledger;
mod memory;
mod query;
mod registry;
#[cfg(test)]
pub(crate) mod simulated;
pub mod sqlite;
mod writer;

pub use archive::{Carried, ExportError, ImportError};
pub use jetstream::JetStreamStore;
pub use memory::MemoryStore;
pub use query::{
    EventFilter, EventPage, EventQuery, Position, SessionFilter, SessionPage, SessionQuery,
};
pub use sqlite::SqliteStore;

/// What can be known of a store at any moment, without waiting for the disk and in a time that
/// doesn't grow with the number of sessions.
pub trait Gauges: Send + Sync + 'static {
    fn census(&self) -> Census;

    /// How far the sink's cursor is behind the last event: at least as many events as are still
    /// to be delivered, and zero when there are none.
    fn undelivered(&self, sink: &str) -> u64;

    /// Why nothing can be written at present, if nothing can.
    fn write_failure(&self) -> Option<WriteFailure>;

    /// Bytes on the disk as of the last write; none where there is no disk.
    fn size(&self) -> Option<u64>;

    /// Who shares the store, and how they fare; none where it is one process's own.
    fn cluster(&self) -> Option<jetstream::Cluster> {
        None
    }
}

/// What the store tries again and again to write. Polls wait for it, and nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFailure {
    pub path: PathBuf,
    /// As the database says it.
    pub error: String,
    /// What to do about it.
    pub remedy: &'static str,
    pub since: Timestamp,
}

/// How much longer a store may wait for the next poll than until it is due, so that those which are
/// due soon after it go out with it: to wake up, and to read what was in no cache, takes more CPU
/// than a poll does.
const TOGETHER: Duration = Duration::from_millis(20);

/// Keeps sessions and their events, and says which session is to be polled next.
pub trait Store: Gauges {
    /// Tracks each session that isn't tracked yet and brings the entries of the others up to
    /// date. A session that has ended and was listed ever since stays ended.
    fn track(&self, entries: Vec<Entry>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends each of these sessions as untracked, unless it has ended already.
    fn untrack(&self, ids: Vec<SessionId>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Waits until a session is to be polled, and up to 20 ms longer, and leases it: nobody else is
    /// given it until the lease is committed or released. Cancel safe: dropping the future loses no
    /// lease.
    fn next_due(&self) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Decides and commits, for ever, what time brings about without a poll: deadlines, steps of
    /// the wall clock, and the spreading of what fell due while the machine was asleep. Takes
    /// up a changed policy as well. Cancel safe: dropping the future loses no decision.
    fn keep_time(&self) -> impl Future<Output = Result<Infallible, StoreError>> + Send;

    /// Spreads the polls that are overdue, each over its session's interval, so that they are not
    /// made all at once.
    fn spread_overdue(&self);

    /// How many sessions there are to be polled.
    fn live(&self) -> usize;

    /// Records an event of the API as a whole, under the next of its numbers.
    fn announce(&self, event: ApiEvent) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Why the API was unavailable, and since when, if that was the last thing announced.
    fn unavailable(&self) -> Option<(Cause, Timestamp)>;

    /// Makes a decision durable and gives the lease back. A steady transition is not written.
    ///
    /// # Errors
    /// [`StoreError::Stale`] if the session has moved on since it was leased; nothing of the
    /// transition is kept then, and the session is due again at once.
    ///
    /// Not cancel safe: if the future is dropped, the session may stay leased.
    fn commit(
        &self,
        lease: Lease,
        transition: Transition,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives a lease back undecided; the session is due again when it was.
    fn release(&self, lease: Lease);

    /// Waits until there are events behind the sink's cursor, and returns the first of them
    /// in order of sequence, at most `limit`. A sink that is not known yet starts at the oldest.
    fn read_events(
        &self,
        sink: &str,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Record>, StoreError>> + Send;

    /// Moves the sink's cursor: everything up to and with that sequence has been delivered.
    fn ack_events(
        &self,
        sink: &str,
        up_to: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The ids of all sessions that a session file named when last heard.
    fn listed(&self) -> Vec<SessionId>;

    /// Sessions in order of id.
    fn sessions(&self) -> impl Future<Output = Result<Vec<Session>, StoreError>> + Send;

    fn session(
        &self,
        id: SessionId,
    ) -> impl Future<Output = Result<Option<Session>, StoreError>> + Send;

    /// Sessions that pass a filter, a page at a time. However many there are to be looked through,
    /// nobody else is held up by it for long. Cancel safe.
    fn find_sessions(
        &self,
        query: &SessionQuery,
    ) -> impl Future<Output = Result<SessionPage, StoreError>> + Send;

    /// Durable events that pass a filter, a page at a time; no sink waits for it. Cancel safe.
    fn find_events(
        &self,
        query: EventQuery,
    ) -> impl Future<Output = Result<EventPage, StoreError>> + Send;

    /// The sequence of the last event that is durable, as it grows.
    fn recorded(&self) -> watch::Receiver<u64>;

    /// Makes the present schedule durable, so that after a restart due times are where they were.
    fn checkpoint(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// How many processes share the work, this one among them.
    fn nodes(&self) -> watch::Receiver<usize> {
        watch::Sender::new(1).subscribe()
    }

    /// How many polls all processes together may have under way.
    fn limit_in_flight(&self, most: usize) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = most;
        std::future::ready(Ok(()))
    }

    /// Forgets sessions that ended, and events that happened, more than `retention` ago. A
    /// session that a file still names is kept, and so is an event that one of `sinks` has not
    /// delivered. What a forgotten session's last `session_sequence` was is remembered without
    /// its id.
    fn purge(
        &self,
        retention: Duration,
        sinks: &[&str],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Leaves what this process has begun to others, where there are others. Whatever is asked of
    /// the store afterwards may wait for ever.
    fn close(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A session handed out to be polled.
#[derive(Debug)]
pub struct Lease {
    pub session: Session,
    pub urgency: Urgency,
    /// When the poll fell due.
    pub due_at: Timestamp,
    /// Which value of the session this is; differs once anybody else has changed it.
    pub revision: u64,
}

/// What a store is given of the world around it.
#[derive(Clone)]
pub struct Context {
    pub clock: Arc<dyn Clock>,
    pub policy: watch::Receiver<Arc<Policy>>,
    /// Of the random numbers that spread overdue polls after a restart.
    pub seed: u64,
    /// `events.source`, the CloudEvents source.
    pub source: String,
    pub metrics: Writes,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("source", &self.source).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("session {0} has moved on since it was leased")]
    Stale(SessionId),
    /// The store can't be used as it is; the text says why and what to do.
    #[error("{0}")]
    Unusable(String),
    #[error("the store failed: {0}")]
    Failed(String),
}
