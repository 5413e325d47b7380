//! How far the cadence is stretched when more polls are due than may be made.

use std::time::Duration;

use super::time::{Now, Timestamp};

/// The stretch of late polls: 1 when each comes when it is due, 2 when they come twice as far
/// apart as configured.
#[derive(Debug)]
pub struct Pace {
    stretch: f64,
    /// By the monotonic clock.
    warned_at: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { stretch: 1.0, warned_at: None }
    }
}

impl Pace {
    /// The stretch that is warned of; less is the ordinary unrest of a full queue.
    pub const WARNED_FROM: f64 = 1.2;
    const WARN_EVERY: Duration = Duration::from_secs(60);
    /// Weight of the newest poll in the mean: about the last hundred count.
    const WEIGHT: f64 = 0.01;

    /// A poll goes out that was due at `due_at`, of a session with that cadence. Returns the
    /// stretch where it is time to warn of it, which is once a minute at most.
    pub fn polling(&mut self, due_at: Timestamp, cadence: Duration, now: Now) -> Option<f64> {
        let cadence = cadence.as_secs_f64().max(0.001);
        let late = now.wall.since(due_at).as_secs_f64();
        self.stretch += Self::WEIGHT * ((cadence + late) / cadence - self.stretch);
        let quiet = |at: Duration| now.monotonic.saturating_sub(at) >= Self::WARN_EVERY;
        if self.stretch >= Self::WARNED_FROM && self.warned_at.is_none_or(quiet) {
            self.warned_at = Some(now.monotonic);
            return Some(self.stretch);
        }
        None
    }

    #[must_use]
    pub const fn stretch(&self) -> f64 {
        self.stretch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn now(seconds: u64) -> Now {
        let monotonic = Duration::from_secs(seconds);
        Now { wall: Timestamp::from_millis(0).plus(monotonic), monotonic }
    }

    #[test]
    fn polls_that_come_twice_as_far_apart_are_stretched_by_two() {
        let mut pace = Pace::default();
        let warnings: Vec<u64> = (0..1_000)
            .filter(|&second| {
                let present = now(10_000 + second);
                let due_at = present.wall.minus(INTERVAL);
                pace.polling(due_at, INTERVAL, present).is_some()
            })
            .collect();
        assert!((1.99..=2.0).contains(&pace.stretch()), "{}", pace.stretch());
        assert!(warnings.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{warnings:?}");
        assert!(warnings.len() > 10);
    }

    #[test]
    fn punctual_polls_are_not_stretched() {
        let mut pace = Pace::default();
        for second in 0..1_000 {
            let present = now(second);
            assert_eq!(pace.polling(present.wall, INTERVAL, present), None);
        }
        assert!((pace.stretch() - 1.0).abs() < f64::EPSILON);
    }
}
