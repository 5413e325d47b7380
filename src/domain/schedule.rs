//! Delays: jitter with an unchanged mean, and backoff with full jitter.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Why a poll is due, which is also who goes first when not all can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// The last poll before the deadline.
    Final,
    /// Something changed a short while ago.
    Active,
    Quiet,
}

impl Urgency {
    /// In the order in which they go first.
    pub const ALL: [Self; 3] = [Self::Final, Self::Active, Self::Quiet];
}

/// `delay` times a uniform draw from `1 - jitter ..= 1 + jitter`.
///
/// The mean is `delay` itself, so jitter spreads requests without changing their number.
#[must_use]
pub fn jittered<R: Rng + ?Sized>(delay: Duration, jitter: f64, rng: &mut R) -> Duration {
    if jitter <= 0.0 {
        return delay;
    }
    let factor = rng.random_range(1.0 - jitter..=1.0 + jitter);
    Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(delay)
}

/// Exponential backoff with full jitter: after `failures` in a row, a uniform draw from zero
/// to `initial` doubled that often, at most `max`.
///
/// Full jitter, since what fails for one session fails for many at once, and they must not
/// come back together (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub initial: Duration,
    pub max: Duration,
}

impl Backoff {
    #[must_use]
    pub fn ceiling(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    #[must_use]
    pub fn delay<R: Rng + ?Sized>(self, failures: u32, rng: &mut R) -> Duration {
        up_to(self.ceiling(failures), rng)
    }
}

/// A uniform draw from zero to `limit`.
pub(super) fn up_to<R: Rng + ?Sized>(limit: Duration, rng: &mut R) -> Duration {
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rng.random_range(0..=millis))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds(seed: u64, millis in 1_u64..100_000_000, jitter in 0.0..0.99_f64) {
            let delay = Duration::from_millis(millis);
            let drawn = jittered(delay, jitter, &mut StdRng::seed_from_u64(seed)).as_secs_f64();
            prop_assert!(drawn >= delay.as_secs_f64() * (1.0 - jitter) - 1e-6);
            prop_assert!(drawn <= delay.as_secs_f64() * (1.0 + jitter) + 1e-6);
        }

        #[test]
        fn jitter_leaves_the_mean_alone(seed: u64, jitter in 0.0..0.9_f64) {
            const DRAWS: u32 = 20_000;
            let rng = &mut StdRng::seed_from_u64(seed);
            let delay = Duration::from_secs(300);
            let total: f64 = (0..DRAWS).map(|_| jittered(delay, jitter, rng).as_secs_f64()).sum();
            let mean = total / f64::from(DRAWS);
            // Six standard errors of a uniform distribution's mean.
            let tolerance = 6.0 * 300.0 * jitter / 3.0_f64.sqrt() / f64::from(DRAWS).sqrt();
            prop_assert!((mean - 300.0).abs() <= tolerance + 1e-6, "mean {mean}");
        }

        #[test]
        fn backoff_never_exceeds_its_maximum(seed: u64, failures: u32) {
            let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300) };
            prop_assert!(backoff.delay(failures, &mut StdRng::seed_from_u64(seed)) <= backoff.max);
        }
    }

    #[test]
    fn backoff_doubles() {
        let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300) };
        let ceilings: Vec<u64> = (1..=10).map(|n| backoff.ceiling(n).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    }
}
