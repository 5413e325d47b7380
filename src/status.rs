//! What the daemon knows of itself: whether it works, and if not, what is wrong, where, and what
//! to do about it.
//!
//! Each part reports on itself without waiting for anybody; here the reports are put together,
//! and only when somebody asks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::directory;
use crate::domain::{Cause, Census, Pace, Problem, Timestamp};
use crate::poller;
use crate::sinks;
use crate::store::jetstream::Cluster;
use crate::store::{Gauges, WriteFailure};

/// Where the daemon stands between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The session files have yet to be read for the first time.
    Starting,
    Running,
    /// It was told to stop.
    Draining,
}

impl Stage {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Sessions aren't polled, or nobody is told of what they do.
    Critical,
    /// Part of the work suffers, or will if nothing is done.
    Warning,
}

/// Something that a person should see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub severity: Severity,
    /// In words.
    pub what: String,
    /// A file with its line, a sink, or a configuration key.
    pub place: Option<String>,
    pub remedy: String,
    pub since: Option<Timestamp>,
}

/// How the daemon is at one moment.
#[derive(Debug, Clone)]
pub struct Condition {
    pub at: Timestamp,
    pub stage: Stage,
    /// Whether the poll loop has stopped going round.
    pub stuck: bool,
    /// The critical ones first.
    pub troubles: Vec<Trouble>,
    /// Where sessions and resources stand; as last known, when the poll loop is stuck.
    pub census: Census,
    pub poller: poller::Report,
    pub directory: directory::Report,
    pub sinks: Vec<SinkCondition>,
    pub api: Api,
    pub write_failure: Option<WriteFailure>,
    /// Bytes that the store takes on the disk, where there is one.
    pub store_size: Option<u64>,
    /// The nodes that share the store, where it is shared.
    pub cluster: Option<Cluster>,
}

impl Condition {
    /// Whether nobody need do anything.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.troubles.is_empty()
    }
}

#[derive(Debug, Clone)]
pub struct SinkCondition {
    pub name: &'static str,
    /// How many events it has yet to be given; may count some that are gone.
    pub undelivered: u64,
    pub report: sinks::Report,
}

/// What the API's answers have told beside sessions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Api {
    /// How long the access token lives on; none where none is used.
    pub token_expires_in: Option<Duration>,
    /// By how much the server's clock is ahead of this machine's; none before it has told.
    pub server_ahead_seconds: Option<i64>,
}

/// Where the reports come from.
pub struct Sources {
    pub clock: Arc<dyn Clock>,
    /// Its last owner closes the store, and this is asked until after that.
    pub store: Weak<dyn Gauges>,
    pub poller: watch::Receiver<poller::Report>,
    pub directory: watch::Receiver<directory::Report>,
    pub sinks: Vec<(&'static str, watch::Receiver<sinks::Report>)>,
    pub api: Box<dyn Fn() -> Api + Send + Sync>,
}

/// Answers how the daemon is; cheap to clone.
#[derive(Clone)]
pub struct Status(Arc<Inner>);

struct Inner {
    sources: Sources,
    stage: watch::Sender<Stage>,
    /// So that something can be shown while the registry can't be asked.
    census: Mutex<Census>,
}

impl Status {
    /// A poll loop that has taken no turn for so long is stuck; it takes one every second.
    pub const STUCK_AFTER: Duration = Duration::from_secs(15);
    /// A sink whose oldest event waits longer than this is behind.
    pub const BEHIND_AFTER: Duration = Duration::from_secs(60);
    /// Of the session files that are wrong, so many are told of one by one.
    const FILES_TOLD: usize = 20;

    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let stage = watch::Sender::new(Stage::Starting);
        Self(Arc::new(Inner { sources, stage, census: Mutex::default() }))
    }

    /// The daemon has come to its next stage; there is no way back.
    pub fn enter(&self, next: Stage) {
        self.0.stage.send_if_modified(|stage| {
            let is_later = (*stage as u8) < (next as u8);
            if is_later {
                *stage = next;
            }
            is_later
        });
    }

    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.0.stage.borrow()
    }

    /// Tells of each stage that is entered from now on.
    #[must_use]
    pub fn stages(&self) -> watch::Receiver<Stage> {
        self.0.stage.subscribe()
    }

    /// Since when the poll loop has taken no turn. Waits for nobody.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.0.sources.poller.borrow().heartbeat.elapsed()
    }

    /// Whether the poll loop goes round. Waits for nobody.
    #[must_use]
    pub fn live(&self) -> bool {
        self.silence() < Self::STUCK_AFTER
    }

    /// Whether sessions are being watched: the files have been read, polls are made, and no stop
    /// is under way. Waits for nobody.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.stage() == Stage::Running && self.live()
    }

    /// How things are. Costs the same however many sessions there are.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let Sources { clock, store, poller, directory, sinks, api } = &self.0.sources;
        let store = store.upgrade();
        let at = clock.now().wall;
        let stuck = !self.live();
        let sinks = sinks.iter().map(|(name, report)| SinkCondition {
            name,
            undelivered: store.as_ref().map_or(0, |store| store.undelivered(name)),
            report: report.borrow().clone(),
        });
        let mut condition = Condition {
            at,
            stage: self.stage(),
            stuck,
            troubles: Vec::new(),
            census: self.census(stuck),
            poller: poller.borrow().clone(),
            directory: directory.borrow().clone(),
            sinks: sinks.collect(),
            api: api(),
            write_failure: store.as_ref().and_then(|store| store.write_failure()),
            store_size: store.as_ref().and_then(|store| store.size()),
            cluster: store.as_ref().and_then(|store| store.cluster()),
        };
        condition.troubles = condition.find_troubles(self.silence());
        condition
    }

    /// A loop that is stuck may hold the lock of the registry.
    fn census(&self, stuck: bool) -> Census {
        let known = || self.0.census.lock().unwrap_or_else(PoisonError::into_inner);
        let store = self.0.sources.store.upgrade().filter(|_| !stuck);
        let Some(store) = store else { return *known() };
        let census = store.census();
        *known() = census;
        census
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("stage", &self.stage()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Condition {
    fn find_troubles(&self, silence: Duration) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        troubles.extend(self.stuck.then(|| self.stuck_for(silence)));
        troubles.extend(self.write_failure.as_ref().map(unwritable));
        troubles.extend(
            self.poller
                .unavailable
                .map(|(cause, since)| unavailable(cause, since, self.poller.error.as_ref())),
        );
        troubles.extend(self.sinks.iter().filter_map(|sink| sink.trouble(self.at)));
        troubles.extend(self.stretched());
        troubles.extend(self.files());
        // Stable, so that those of a kind stay in order.
        troubles.sort_by_key(|trouble| trouble.severity);
        troubles
    }

    fn stuck_for(&self, silence: Duration) -> Trouble {
        Trouble {
            severity: Severity::Critical,
            what: format!(
                "no session is polled: the poll loop has stood still for {} seconds",
                silence.as_secs()
            ),
            place: None,
            remedy: "restart ibvwatch, which loses nothing; if it happens again, report it with \
                     the log"
                .to_owned(),
            since: Some(self.at.minus(silence)),
        }
    }

    fn stretched(&self) -> Option<Trouble> {
        let Self { poller, census, .. } = self;
        // A pause says why itself, and without overdue polls the stretch is one of the past.
        let is_stretched = poller.stretch >= Pace::WARNED_FROM
            && poller.unavailable.is_none()
            && census.overdue > 0;
        is_stretched.then(|| Trouble {
            severity: Severity::Warning,
            what: format!(
                "more polls are due than the limits or the API allow: they come {:.1} times as \
                 far apart as configured, and {} are overdue",
                poller.stretch, census.overdue
            ),
            place: Some("poll.rate_limit, poll.max_in_flight, poll.interval".to_owned()),
            remedy: "raise poll.rate_limit, and poll.max_in_flight where the API is slow, as far \
                     as Yoti allows, or lengthen poll.interval; ibvwatch plan says what fits"
                .to_owned(),
            since: None,
        })
    }

    fn files(&self) -> impl Iterator<Item = Trouble> {
        let problems = &self.directory.problems;
        let more = problems.len().saturating_sub(Status::FILES_TOLD);
        let more = (more > 0).then(|| Trouble {
            severity: Severity::Warning,
            what: format!("{more} more problems with session files"),
            place: None,
            remedy: "ibvwatch check lists them all".to_owned(),
            since: None,
        });
        problems.iter().take(Status::FILES_TOLD).map(bad_file).chain(more)
    }
}

impl SinkCondition {
    fn trouble(&self, now: Timestamp) -> Option<Trouble> {
        let Self { name, undelivered, report } = self;
        if let Some((since, error)) = &report.failing {
            return Some(Trouble {
                severity: Severity::Critical,
                what: format!("events can't be delivered to {name}: {error}"),
                place: Some((*name).to_owned()),
                remedy: format!(
                    "mend what takes the events; {undelivered} wait, are tried again at least \
                     every 30 seconds, and none is lost"
                ),
                since: Some(*since),
            });
        }
        let waiting = now.since(report.oldest?);
        (waiting >= Status::BEHIND_AFTER).then(|| Trouble {
            severity: Severity::Warning,
            what: format!(
                "{name} is behind: {undelivered} events wait, the oldest for {} seconds",
                waiting.as_secs()
            ),
            place: Some((*name).to_owned()),
            remedy: "see that whoever reads the events keeps up; none is lost".to_owned(),
            since: report.oldest,
        })
    }
}

fn unwritable(failure: &WriteFailure) -> Trouble {
    Trouble {
        severity: Severity::Critical,
        what: format!("the store can't be written, and polling waits for it: {}", failure.error),
        place: Some(failure.path.display().to_string()),
        remedy: failure.remedy.to_owned(),
        since: Some(failure.since),
    }
}

fn unavailable(cause: Cause, since: Timestamp, error: Option<&Problem>) -> Trouble {
    let why = match cause {
        Cause::Unauthorized => "it refuses the key",
        Cause::RateLimited => "it asks for fewer requests",
        Cause::ServerError => "it answers with errors of its own",
        Cause::Unreachable => "it can't be reached",
        Cause::ClockSkew => "it refuses requests because this machine's clock is off",
    };
    let said = error.map(|error| format!(": {error}")).unwrap_or_default();
    let remedy = match cause {
        Cause::Unauthorized => {
            "compare api.sdk_id and api.auth.private_key_file with the application in the Yoti \
             Hub; ibvwatch check --online tries them"
        }
        Cause::RateLimited => {
            "nothing, if it passes; if it comes back, lower poll.rate_limit, or ask Yoti for more"
        }
        Cause::ServerError => {
            "nothing, if it passes; if it lasts, ask Yoti's support, with the request id"
        }
        Cause::Unreachable => {
            "check api.base_url, and the network, DNS, firewall and proxy of this machine"
        }
        Cause::ClockSkew => "set this machine's clock, and let it be kept right by NTP",
    };
    // One rate limit is said to everyone who asks, and is over in seconds as a rule.
    let is_pause = cause == Cause::RateLimited && error.is_none();
    Trouble {
        severity: if is_pause { Severity::Warning } else { Severity::Critical },
        what: format!("the API can't be used, and polls pause but for probes: {why}{said}"),
        place: None,
        remedy: remedy.to_owned(),
        since: Some(since),
    }
}

fn bad_file(problem: &directory::Problem) -> Trouble {
    let directory::Problem { path, line, message } = problem;
    let name = path.file_name().unwrap_or(path.as_os_str()).display();
    let place = match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    };
    Trouble {
        severity: Severity::Warning,
        what: format!("{name} {message}"),
        place: Some(place),
        remedy: "correct it; until then its last good content counts".to_owned(),
        since: None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
