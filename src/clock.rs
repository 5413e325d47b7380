//! The shell's clock: the one place that reads the time for the core.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::domain::{Now, Step, Timestamp};

/// Where the present comes from: the system in the daemon, a paused clock in tests.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;

    /// [`now`](Self::now) for those whom only the time that passes matters to.
    fn monotonic(&self) -> Duration {
        self.now().monotonic
    }

    /// Takes over a step of the wall clock, where there was one: from here on `now` has it.
    fn take_step(&self) -> Option<Step> {
        None
    }
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
        Now { wall, monotonic: self.monotonic() }
    }

    fn monotonic(&self) -> Duration {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(boot.tv_sec).unwrap_or(0),
            u32::try_from(boot.tv_nsec).unwrap_or(0),
        )
    }
}

/// The system's clocks, with the wall clock's steps held back until somebody takes them over.
///
/// When the wall clock is set an hour ahead, everything would be overdue at once; an hour
/// back, nothing would be due for an hour. So this clock goes on evenly, and
/// [`take_step`](Clock::take_step) lets whoever keeps due times move them in the same instant.
/// Small corrections, as time servers make them, are followed without a word.
#[derive(Debug)]
pub struct SteadyClock<C = SystemClock> {
    system: C,
    /// Wall clock minus monotonic clock, in milliseconds.
    offset: AtomicI64,
}

impl<C: Clock> SteadyClock<C> {
    /// What is a step and no correction.
    pub const STEP_FROM: Duration = Duration::from_secs(2);

    pub fn new(system: C) -> Self {
        let offset = AtomicI64::new(offset(system.now()));
        Self { system, offset }
    }
}

impl<C: Clock> Clock for SteadyClock<C> {
    fn now(&self) -> Now {
        let monotonic = self.monotonic();
        let offset = self.offset.load(Ordering::Acquire);
        Now { wall: Timestamp::from_millis(offset).plus(monotonic), monotonic }
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }

    fn take_step(&self) -> Option<Step> {
        let system = self.system.now();
        let before = self.offset.swap(offset(system), Ordering::AcqRel);
        let held = Timestamp::from_millis(before).plus(system.monotonic);
        let is_step = held.distance(system.wall) >= Self::STEP_FROM;
        is_step.then(|| Step::between(held, system.wall))
    }
}

fn offset(now: Now) -> i64 {
    now.wall.minus(now.monotonic).as_millis()
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Set(Mutex<Now>);

    impl Clock for &'static Set {
        fn now(&self) -> Now {
            *self.0.lock().unwrap()
        }
    }

    fn at(wall_seconds: u64, monotonic_seconds: u64) -> Now {
        Now {
            wall: Timestamp::from_millis(0).plus(Duration::from_secs(wall_seconds)),
            monotonic: Duration::from_secs(monotonic_seconds),
        }
    }

    #[test]
    fn a_step_is_held_back_until_it_is_taken_and_a_correction_is_not_told() {
        let system: &'static Set = Box::leak(Box::new(Set(Mutex::new(at(10_000, 100)))));
        let clock = SteadyClock::new(system);
        assert_eq!(clock.now(), at(10_000, 100));
        *system.0.lock().unwrap() = at(13_610, 110);
        assert_eq!(clock.now(), at(10_010, 110));
        let step = clock.take_step().unwrap();
        assert_eq!(step.as_seconds(), 3_600);
        assert_eq!(clock.now(), at(13_610, 110));
        assert_eq!(clock.take_step(), None);
        *system.0.lock().unwrap() = at(10_021, 120);
        assert_eq!(clock.take_step().unwrap().as_seconds(), -3_599);
        *system.0.lock().unwrap() = at(10_032, 130);
        assert_eq!(clock.take_step(), None);
        assert_eq!(clock.now(), at(10_032, 130));
    }
}
