//! What is counted and timed as it happens, in the instruments that the parts are given, and the
//! forms in which figures are shown to Prometheus.
//!
//! Labels take their values from what this program knows, never from what it is told: whatever an
//! API, a session file or a client says, the number of series stays the same.

mod exposition;
mod process;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use self::exposition::{Format, expose};
pub use self::process::Process;
use crate::domain::{EventKind, Observation};

/// One label and its value, both known beforehand.
pub type Label = [(&'static str, &'static str); 1];

/// The instruments of all parts. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    pub polls: Polls,
    pub writes: Writes,
    registry: Arc<Registry>,
}

/// What the poller measures.
#[derive(Debug, Clone)]
pub struct Polls {
    outcomes: Family<Label, Counter>,
    duration: Histogram,
    lateness: Histogram,
}

/// What the store measures.
#[derive(Debug, Clone)]
pub struct Writes {
    events: Family<Label, Counter>,
    commit_duration: Histogram,
}

/// In seconds. A request is given up after `api.timeout`, 10 s by default.
const DURATION: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0];
/// From a timer's own lateness to an outage.
const LATENESS: [f64; 14] =
    [0.002, 0.01, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0];
/// From a fast disk to one that is full for a while.
const COMMIT: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0, 60.0];

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let (polls, writes) = (Polls::default(), Writes::default());
        let mut registry = Registry::with_prefix("ibvwatch");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which version this is", build);
        registry.register(
            "polls",
            "Polls that came back, by what they brought",
            polls.outcomes.clone(),
        );
        registry.register_with_unit(
            "poll_duration",
            "Time from asking for a session's configuration to the end of the answer",
            Unit::Seconds,
            polls.duration.clone(),
        );
        registry.register_with_unit(
            "poll_lateness",
            "Time from when a poll was due to when it went out; polls wait up to 20 ms for one another",
            Unit::Seconds,
            polls.lateness.clone(),
        );
        registry.register(
            "events",
            "Events written to the event log, by type",
            writes.events.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "Time until a group of writes was durable, with the tries that failed",
            Unit::Seconds,
            writes.commit_duration.clone(),
        );
        Self { polls, writes, registry: Arc::new(registry) }
    }

    /// What the instruments show.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Polls {
    /// A poll goes out, that long after it was due.
    pub fn began(&self, late: Duration) {
        self.lateness.observe(late.as_secs_f64());
    }

    /// A poll has come back. `took` is the time that the configuration took, `last_word` what the
    /// API said last.
    pub fn answered(&self, last_word: &Observation, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        self.outcomes.get_or_create(&[("outcome", last_word.outcome())]).inc();
    }
}

impl Default for Polls {
    fn default() -> Self {
        Self {
            outcomes: counters("outcome", Observation::OUTCOMES),
            duration: Histogram::new(DURATION),
            lateness: Histogram::new(LATENESS),
        }
    }
}

impl Writes {
    /// An event has become durable.
    pub fn event(&self, kind: EventKind) {
        self.events.get_or_create(&[("type", kind.as_str())]).inc();
    }

    /// A group of writes has become durable.
    pub fn committed(&self, took: Duration) {
        self.commit_duration.observe(took.as_secs_f64());
    }
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            events: counters("type", EventKind::ALL.map(EventKind::as_str)),
            commit_duration: Histogram::new(COMMIT),
        }
    }
}

/// A counter for each value from the start on: one that appeared with its first count would hide
/// that count from `rate`.
fn counters<const N: usize>(
    label: &'static str,
    values: [&'static str; N],
) -> Family<Label, Counter> {
    let family = Family::default();
    for value in values {
        let _: Counter = family.get_or_create_owned(&[(label, value)]);
    }
    family
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
