use std::time::Duration;

/// The settings that decisions depend on; the validated form of `poll.*`.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Cadence of a quiet session.
    pub interval: Duration,
    /// Cadence after a change.
    pub active_interval: Duration,
    /// How long a session stays active after a change.
    pub active_for: Duration,
    /// Each delay is multiplied by a uniform draw from `1 - jitter ..= 1 + jitter`; within 0..1.
    pub jitter: f64,
    /// The last poll comes this long before the deadline.
    pub final_poll_before_expiry: Duration,
    /// Whether a session ends once the API says COMPLETED.
    pub stop_on_completed: bool,
    /// Lifetime assumed until an answer states one.
    pub unknown_ttl: Duration,
    pub backoff_initial: Duration,
    pub backoff_max: Duration,
    /// Consecutive failures before `session.poll_failing`; at least 1.
    pub failing_after: u32,
    /// How long before the deadline `session.expiring` is told; zero turns it off.
    pub expiring_before: Duration,
    /// Whether the session endpoint may be asked to confirm an ending.
    pub confirm: bool,
}

impl Policy {
    /// A deadline that moves by no more than this is the same deadline: the TTL comes in whole
    /// seconds and the answer's way here takes time.
    pub(super) const DEADLINE_TOLERANCE: Duration = Duration::from_secs(5);
    /// The least time between the two 404 that end a session.
    pub(super) const NOT_FOUND_APART: Duration = Duration::from_secs(60);
    /// How long at least a session is still polled whose deadline passed while nobody looked.
    pub(super) const OVERTIME: Duration = Duration::from_secs(120);
    /// The longest `Retry-After` that is honoured.
    pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
}

impl Default for Policy {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            interval: 5 * MINUTE,
            active_interval: Duration::from_secs(30),
            active_for: 15 * MINUTE,
            jitter: 0.1,
            final_poll_before_expiry: Duration::from_secs(30),
            stop_on_completed: true,
            unknown_ttl: 31 * DAY,
            backoff_initial: Duration::from_secs(1),
            backoff_max: 5 * MINUTE,
            failing_after: 3,
            expiring_before: DAY,
            confirm: true,
        }
    }
}
