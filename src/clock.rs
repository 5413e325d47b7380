//! The shell's clock: the one place that reads the time for the core.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::domain::{Now, Timestamp};

/// Where the present comes from: the system in the daemon, a paused clock in tests.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
}

/// The system's clocks. The monotonic one is `CLOCK_BOOTTIME`, which counts while the machine
/// is suspended: a session's deadline does not wait for a laptop lid.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp::from_millis(0).plus(after),
            Err(before) => Timestamp::from_millis(0).minus(before.duration()),
        };
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let monotonic = Duration::new(
            u64::try_from(boot.tv_sec).unwrap_or(0),
            u32::try_from(boot.tv_nsec).unwrap_or(0),
        );
        Now { wall, monotonic }
    }
}

/// A clock that moves with tokio's, so that a test which pauses one pauses both.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    epoch: Timestamp,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// A clock that reads `epoch` now.
    #[must_use]
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self { epoch, start: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Now {
        let monotonic = self.start.elapsed();
        Now { wall: self.epoch.plus(monotonic), monotonic }
    }
}
