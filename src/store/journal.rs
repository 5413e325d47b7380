//! What a store keeps for good, and the one way in which it gets there.
//!
//! A [`Write`] is atomic, and writes become durable in the order in which they were given. Getting
//! one in takes two steps: waiting for a [`place`](Journal::place), which may take as long as
//! the disk does, and [`write`](Journal::write), which never waits and can therefore be done
//! under the registry's lock.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use super::{EventPage, EventQuery, StoreError, WriteFailure};
use crate::domain::{ApiEvent, Event, EventKind, Record, Session, SessionId, Timestamp};

pub trait Journal: Send + Sync + 'static {
    /// The right to write once without waiting.
    type Place: Send;

    fn place(&self) -> impl Future<Output = Result<Self::Place, StoreError>> + Send;

    fn write(&self, place: Self::Place, write: Write) -> Receipt;

    /// The sequence of the last event that is durable.
    fn committed(&self) -> watch::Receiver<u64>;

    /// Durable events in order of sequence, from the first behind `after`.
    fn events(
        &self,
        after: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Record>, StoreError>> + Send;

    /// Why nothing can be written at present, if nothing can.
    fn write_failure(&self) -> Option<WriteFailure>;

    /// Bytes on the disk as of the last write; none where there is no disk.
    fn size(&self) -> Option<u64>;

    /// Durable events for somebody who looks, whom neither a sink nor the writer waits for.
    fn find(&self, query: EventQuery)
    -> impl Future<Output = Result<EventPage, StoreError>> + Send;

    /// The last `session_sequence` of those of the sessions that have been forgotten.
    fn forgotten(
        &self,
        ids: Vec<SessionId>,
    ) -> impl Future<Output = Result<HashMap<SessionId, u64>, StoreError>> + Send;
}

#[derive(Debug)]
pub enum Write {
    Decisions(Vec<Decision>),
    /// Goes under the API's next number.
    Announce(ApiEvent),
    /// A sink has delivered everything up to and with that sequence.
    Cursor {
        sink: String,
        up_to: u64,
    },
    Forget(Vec<Arc<Session>>),
    /// Drops events up to and with that sequence that happened before; all of them unless
    /// it answers [`Write::PURGED_AT_ONCE`].
    Purge {
        before: Timestamp,
        up_to: u64,
    },
}

impl Write {
    /// Old events go in portions, so that what is being decided meanwhile waits for little.
    pub(super) const PURGED_AT_ONCE: u64 = 10_000;

    /// The events that it adds to the log.
    pub(super) fn events(&self) -> Vec<EventKind> {
        match self {
            Self::Decisions(decisions) => {
                decisions.iter().flat_map(|d| &d.events).map(Event::kind).collect()
            }
            Self::Announce(event) => vec![event.kind()],
            Self::Cursor { .. } | Self::Forget(_) | Self::Purge { .. } => Vec::new(),
        }
    }

    /// How much work this is, in rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Decisions(decisions) => decisions.iter().map(|d| 1 + d.events.len()).sum(),
            Self::Announce(_) | Self::Cursor { .. } => 1,
            Self::Forget(sessions) => 2 * sessions.len(),
            Self::Purge { .. } => usize::try_from(Self::PURGED_AT_ONCE).unwrap_or(usize::MAX),
        }
    }
}

/// A session's new value and the events that tell of the difference.
#[derive(Debug)]
pub struct Decision {
    pub(super) session: Arc<Session>,
    pub(super) events: Vec<Event>,
}

/// Becomes ready once the write is durable. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Answer>);

/// How many events a purge in portions dropped; 0 for any other write.
pub(super) type Answer = Result<u64, StoreError>;

impl Receipt {
    pub(super) fn new() -> (oneshot::Sender<Answer>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    pub(super) fn ready(answer: Answer) -> Self {
        let (sender, receipt) = Self::new();
        // The receiver is right here.
        let _ = sender.send(answer);
        receipt
    }

    pub(super) async fn durable(self) -> Answer {
        self.0.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Nothing can be written any more, for a reason that has been logged where it arose.
pub(super) fn ended() -> StoreError {
    StoreError::Failed("its writer has ended; the log says why; restart ibvwatch".to_owned())
}

/// What a forgotten session is remembered by: enough to recognise its id, not to tell it.
pub(super) fn fingerprint(id: SessionId) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
