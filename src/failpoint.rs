//! Places at which a debug build dies when told to, so that tests can have it die at each.
//!
//! With `IBVWATCH_FAILPOINT=store.committed:3` the process ends as by `kill -9` when it comes to
//! that place for the third time. In a release build nothing of this is left.

/// Between two steps of the way from an answer to its acknowledged events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// The database is open, the sessions read, and nothing running yet.
    Opened,
    /// A migration is carried out and not committed.
    Migrating,
    /// What session files want is tracked; what they don't, not yet untracked.
    Tracked,
    /// The API has answered a poll.
    Answered,
    /// It is decided what the answer means.
    Decided,
    /// A turn of the API is recorded, the poll that brought it about is not.
    Announced,
    /// A decision is in memory and handed to the writer.
    Journaled,
    /// The writer has begun a transaction.
    Begun,
    /// All of it is written and not committed.
    Applied,
    /// It is durable, and nobody knows.
    Committed,
    /// Sinks know, whoever waits for the commit does not.
    Published,
    /// A poll is over.
    Polled,
    /// A sink has been given events.
    Read,
    /// Some lines are with the reader of standard output, more are to come.
    Written,
    /// The sink has delivered them.
    Delivered,
    /// The cursor has been moved past them.
    Acknowledged,
    /// Forgotten sessions are off the disk, and still in memory.
    Forgotten,
    /// Of a stop: polls have ended.
    Drained,
    /// Of a stop: due times are saved.
    Checkpointed,
    /// Of a stop: every event is delivered.
    Flushed,
    /// Of a stop: the database is closed.
    Closed,
}

impl Failpoint {
    pub const ALL: [Self; 21] = [
        Self::Opened,
        Self::Migrating,
        Self::Tracked,
        Self::Answered,
        Self::Decided,
        Self::Announced,
        Self::Journaled,
        Self::Begun,
        Self::Applied,
        Self::Committed,
        Self::Published,
        Self::Polled,
        Self::Read,
        Self::Written,
        Self::Delivered,
        Self::Acknowledged,
        Self::Forgotten,
        Self::Drained,
        Self::Checkpointed,
        Self::Flushed,
        Self::Closed,
    ];

    /// The name that `IBVWATCH_FAILPOINT` takes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "store.opened",
            Self::Migrating => "store.migrating",
            Self::Tracked => "files.tracked",
            Self::Answered => "poll.answered",
            Self::Decided => "poll.decided",
            Self::Announced => "poll.announced",
            Self::Journaled => "store.journaled",
            Self::Begun => "store.begun",
            Self::Applied => "store.applied",
            Self::Committed => "store.committed",
            Self::Published => "store.published",
            Self::Polled => "poll.over",
            Self::Read => "sink.read",
            Self::Written => "stdout.written",
            Self::Delivered => "sink.delivered",
            Self::Acknowledged => "sink.acknowledged",
            Self::Forgotten => "purge.forgotten",
            Self::Drained => "stop.drained",
            Self::Checkpointed => "stop.checkpointed",
            Self::Flushed => "stop.flushed",
            Self::Closed => "stop.closed",
        }
    }

    /// Dies here if it is time to.
    #[inline]
    pub(crate) fn reached(self) {
        #[cfg(debug_assertions)]
        armed::reached(self);
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Failpoint;

    /// Where to die, and how many more times to pass there first.
    static ARMED: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let armed = std::env::var("IBVWATCH_FAILPOINT").ok()?;
        let (place, nth) = armed.split_once(':')?;
        Some((place.to_owned(), AtomicU64::new(nth.parse().ok()?)))
    });

    pub(super) fn reached(place: Failpoint) {
        let Some((armed, left)) = &*ARMED else { return };
        if armed == place.as_str() && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nothing may run after this, so a signal that could not be sent is as good as one
            // that is not taken yet.
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        }
    }
}
