//! The request budget: a token bucket that runs on the shell's clock.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as GovernorClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::clock::Clock;
use crate::config::Limits;

/// Allows `rate` requests a second on average, and `burst` at once after a pause.
pub struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<Instant>>,
    clock: Monotonic,
}

impl Bucket {
    #[must_use]
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let period = Duration::from_secs_f64(1.0 / limits.rate).max(Duration::from_nanos(1));
        let burst = NonZeroU32::new(limits.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period)
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX))
            .allow_burst(burst);
        let clock = Monotonic(clock);
        Self { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), clock }
    }

    /// One that has to fill first: what it replaces may have been spent a moment ago.
    #[must_use]
    pub fn spent(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let bucket = Self::new(limits, clock);
        while bucket.try_take().is_ok() {}
        bucket
    }

    /// Takes a token, or says how long it is until there may be one.
    ///
    /// # Errors
    /// The time to wait before asking again.
    pub fn try_take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// Waits as long as [`try_take`](Self::try_take) said.
    pub async fn wait(wait: Duration) {
        // tokio's timers count whole milliseconds; rounding down would spin.
        tokio::time::sleep(wait + Duration::from_millis(1)).await;
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Monotonic(Arc<dyn Clock>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Instant(Duration);

impl GovernorClock for Monotonic {
    type Instant = Instant;

    fn now(&self) -> Instant {
        Instant(self.0.monotonic())
    }
}

impl Add<Nanos> for Instant {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        Self(self.0.saturating_add(nanos.into()))
    }
}

impl Reference for Instant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, nanos: Nanos) -> Self {
        self.0.checked_sub(nanos.into()).map_or(*self, Self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::clock::TokioClock;
    use crate::domain::{Now, Timestamp};

    /// Milliseconds, as the test sets them.
    struct Manual(AtomicU64);

    impl Clock for Manual {
        fn now(&self) -> Now {
            let monotonic = Duration::from_millis(self.0.load(Ordering::Relaxed));
            Now { wall: Timestamp::from_millis(0), monotonic }
        }
    }

    proptest! {
        /// Whenever tokens are asked for: the burst and what the rate brings, and no more; and
        /// who waits as long as told gets one.
        #[test]
        fn no_pattern_of_requests_gets_more_than_the_burst_and_the_rate(
            rate in 0.01..500.0_f64,
            burst in 1_u32..100,
            pattern in prop::collection::vec((0_u64..20_000, 1_usize..40, any::<bool>()), 1..60),
        ) {
            let clock = Arc::new(Manual(AtomicU64::new(1_000)));
            let limits = Limits { rate, burst, max_in_flight: 1 };
            let bucket = Bucket::new(limits, Arc::clone(&clock) as Arc<dyn Clock>);
            let mut taken = Vec::new();
            for (pause, asked, patient) in pattern {
                clock.0.fetch_add(pause, Ordering::Relaxed);
                for _ in 0..asked {
                    if let Err(wait) = bucket.try_take() {
                        if !patient {
                            break;
                        }
                        let wait = u64::try_from(wait.as_millis()).unwrap() + 1;
                        clock.0.fetch_add(wait, Ordering::Relaxed);
                        prop_assert!(bucket.try_take().is_ok());
                    }
                    taken.push(f64::from(u32::try_from(clock.0.load(Ordering::Relaxed)).unwrap()));
                }
            }
            for (first, from) in taken.iter().enumerate() {
                let mut allowed = f64::from(burst) + 1e-6;
                for (to, before) in taken[first..].iter().zip([from].into_iter().chain(&taken[first..])) {
                    allowed += (to - before) / 1_000.0 * rate - 1.0;
                    prop_assert!(allowed >= 0.0, "from {from} to {to}");
                }
            }
        }
    }

    async fn take(bucket: &Bucket) {
        while let Err(wait) = bucket.try_take() {
            Bucket::wait(wait).await;
        }
    }

    fn bucket(rate: f64, burst: u32) -> Bucket {
        let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(0)));
        Bucket::new(Limits { rate, burst, max_in_flight: 1 }, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_holds_more_than_the_burst_and_the_rate() {
        let bucket = bucket(10.0, 20);
        let start = tokio::time::Instant::now();
        let mut taken = Vec::new();
        while taken.len() < 200 {
            take(&bucket).await;
            taken.push(start.elapsed().as_secs_f64());
        }
        for first in 0..taken.len() {
            let mut count = 0.0;
            for to in &taken[first..] {
                count += 1.0;
                let allowed = 20.0 + 10.0 * (to - taken[first]);
                assert!(count <= allowed + 1e-6, "{count} from {} to {to}", taken[first]);
            }
        }
        assert!((17.9..19.0).contains(&taken[199]), "{}", taken[199]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_below_one_a_second_works() {
        let bucket = bucket(0.1, 1);
        take(&bucket).await;
        let start = tokio::time::Instant::now();
        take(&bucket).await;
        assert!((9.9..10.2).contains(&start.elapsed().as_secs_f64()));
    }
}
