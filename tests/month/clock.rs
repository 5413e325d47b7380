//! Virtual time: true milliseconds since the month began, and a wall clock that may be set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use ibvwatch::clock::Clock;
use ibvwatch::domain::{Now, Timestamp};

/// A moment of true time, in milliseconds since the month began.
pub(crate) type At = u64;

pub(crate) const SECOND: At = 1_000;
pub(crate) const MINUTE: At = 60 * SECOND;
pub(crate) const HOUR: At = 60 * MINUTE;
pub(crate) const DAY: At = 24 * HOUR;

/// 2026-11-23T09:00:00Z
pub(crate) const EPOCH: Timestamp = Timestamp::from_millis(1_795_424_400_000);

/// 22:00 on that day of the month, counted from 0.
pub(crate) const fn evening(day: At) -> At {
    day * DAY + 13 * HOUR
}

pub(crate) const fn span(millis: At) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn millis(duration: Duration) -> At {
    At::try_from(duration.as_millis()).expect("less than ages")
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Virtual(Arc<Hands>);

#[derive(Debug, Default)]
struct Hands {
    millis: AtomicU64,
    /// How far the wall clock is off.
    offset: AtomicI64,
}

impl Virtual {
    pub(crate) fn at(&self) -> At {
        self.0.millis.load(Ordering::Relaxed)
    }

    pub(crate) fn advance_to(&self, at: At) {
        let before = self.0.millis.swap(at, Ordering::Relaxed);
        assert!(before <= at, "time goes back from {before} to {at}");
    }

    /// Sets the wall clock ahead, or back.
    pub(crate) fn step(&self, millis: i64) {
        self.0.offset.fetch_add(millis, Ordering::Relaxed);
    }

    /// What a right wall clock would show.
    pub(crate) fn true_wall(at: At) -> Timestamp {
        EPOCH.plus(span(at))
    }
}

impl Clock for Virtual {
    fn now(&self) -> Now {
        let monotonic = span(self.at());
        let off = self.0.offset.load(Ordering::Relaxed);
        let wall = Timestamp::from_millis(EPOCH.plus(monotonic).as_millis() + off);
        Now { wall, monotonic }
    }
}
