//! The life of one session: tracked, observed, changed, ended.
//!
//! A [`Session`] is a value. [`track`](Session::track) begins it; [`observe`](Session::observe),
//! [`elapse`](Session::elapse), [`amend`](Session::amend) and [`untrack`](Session::untrack) each
//! take it to the next value with the events that tell of the difference. It has two halves:
//! the [`Life`], which must survive a crash, and the [`Schedule`], which may be lost, since
//! losing it costs a poll too many and never an event. A poll that leaves the life as it was is
//! steady: nothing is written for it.

mod decision;
mod packed;
mod stored;
mod timing;

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::event::{Detail, EndReason, Event};
use super::id::SessionId;
use super::labels::Labels;
use super::observation::{Fingerprint, Listing, Observation, Problem};
use super::policy::Policy;
use super::resource::{Progress, Resource, ResourceState};
use super::schedule::{Urgency, jittered};
use super::time::Timestamp;
use decision::{Blame, Decision, Verdict};

pub use packed::Packed;

/// What a session file says of one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    pub session_id: SessionId,
    pub labels: Labels,
    /// Shortens the deadline; never lengthens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Cadence of this session while quiet, in place of `poll.interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

/// It is stored as it serializes, by the million: what is absent takes no room there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    entry: Entry,
    life: Life,
    schedule: Schedule,
}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    /// `session_sequence` of the last event.
    sequence: u64,
    /// Whether a session file names it. An ended session stays ended while one does.
    listed: bool,
    tracked_at: Timestamp,
    /// What the API stated, or the assumption until it did.
    deadline: Timestamp,
    observed: bool,
    /// Shared by the values of a session, which hardly ever differ in it.
    #[serde(serialize_with = "stored::serialize")]
    resources: Arc<[Resource]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_until: Option<Timestamp>,
    /// When the API first said that it knows no such session; cleared by any other answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "is_default")]
    told: Told,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<(EndReason, Timestamp)>,
}

/// Which events are not to be told again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    expiring: bool,
    completed: bool,
    failing: bool,
}

/// What may be lost in a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub poll_at: Timestamp,
    #[serde(skip, default = "quiet")]
    pub urgency: Urgency,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_poll: Option<Timestamp>,
    /// When the last good answer was asked for: what it says may be as old as that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Timestamp>,
    /// In a row, of any kind; what the backoff grows with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failures: u32,
    /// In a row, of those that count against the session and not the daemon.
    #[serde(default, skip_serializing_if = "is_default")]
    strikes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_problem: Option<Problem>,
    /// Of the answer whose resources the session has.
    #[serde(skip)]
    fingerprint: Option<Fingerprint>,
    /// Until when a session is still polled whose deadline passed while nobody looked.
    #[serde(skip)]
    overtime: Option<Timestamp>,
}

const fn quiet() -> Urgency {
    Urgency::Quiet
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// When a configuration was asked for and when it came. What happened in between may or may not
/// be in it, so a change is bounded by the one answer's asking and the next one's arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    pub sent: Timestamp,
    pub arrived: Timestamp,
    /// Whether the API as a whole can't be used: no session is to blame for that.
    pub outage: bool,
}

/// Where a session stands, as people are shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No good answer yet.
    Pending,
    Quiet,
    /// Something changed a short while ago.
    Active,
    Failing,
    Ended(EndReason),
}

/// A [`Phase`] as it is written: without how a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PhaseName {
    Pending,
    Quiet,
    Active,
    Failing,
    Ended,
}

impl PhaseName {
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Quiet, Self::Active, Self::Failing, Self::Ended];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Quiet => "quiet",
            Self::Active => "active",
            Self::Failing => "failing",
            Self::Ended => "ended",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl Phase {
    #[must_use]
    pub const fn name(self) -> PhaseName {
        match self {
            Self::Pending => PhaseName::Pending,
            Self::Quiet => PhaseName::Quiet,
            Self::Active => PhaseName::Active,
            Self::Failing => PhaseName::Failing,
            Self::Ended(_) => PhaseName::Ended,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.name().as_str()
    }
}

/// A decision: the session as it is now, and the events that tell of the difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub session: Session,
    pub events: Vec<Event>,
    /// Whether nothing came of it that must survive a crash.
    pub steady: bool,
}

impl Session {
    /// Begins a life. `last_sequence` is that of the session's last event in an earlier life.
    #[must_use]
    pub fn track(entry: Entry, last_sequence: u64, now: Timestamp, policy: &Policy) -> Transition {
        let session = Self {
            entry,
            life: Life {
                sequence: last_sequence,
                listed: true,
                tracked_at: now,
                deadline: now.plus(policy.unknown_ttl).floor_seconds(),
                observed: false,
                resources: Arc::default(),
                active_until: None,
                missing_since: None,
                told: Told::default(),
                ended: None,
            },
            schedule: Schedule {
                poll_at: now,
                urgency: Urgency::Quiet,
                last_poll: None,
                last_good: None,
                failures: 0,
                strikes: 0,
                failing_since: None,
                last_problem: None,
                fingerprint: None,
                overtime: None,
            },
        };
        let mut step = Decision { session, events: Vec::new(), now };
        step.session.keep_final_poll(now, policy);
        step.tell(Detail::Tracked {});
        step.decide_timers(policy);
        Transition { session: step.session, events: step.events, steady: false }
    }

    /// Takes over what the session's file now says. An ended session is left alone.
    #[must_use]
    pub fn amend(&self, entry: Entry, now: Timestamp, policy: &Policy) -> Option<Transition> {
        if self.life.ended.is_some() || self.entry == entry {
            return None;
        }
        let mut step = self.step(now);
        step.session.entry = entry;
        if step.session.entry.interval != self.entry.interval {
            // Many sessions may be given another interval at once.
            let share = step.session.share();
            let latest = now.plus(step.session.cadence(now, policy).mul_f64(share));
            step.session.schedule.poll_at = step.session.schedule.poll_at.min(latest);
        }
        step.session.keep_final_poll(now, policy);
        step.decide_timers(policy);
        Some(step.finish(self))
    }

    /// No file names the session any more.
    #[must_use]
    pub fn untrack(&self, now: Timestamp) -> Option<Transition> {
        if !self.life.listed {
            return None;
        }
        let mut step = self.step(now);
        step.session.life.listed = false;
        step.end(EndReason::Untracked);
        Some(step.finish(self))
    }

    /// Whether the session endpoint is to be asked what this answer means.
    #[must_use]
    pub fn asks_state(&self, observation: &Observation, policy: &Policy) -> bool {
        if !policy.confirm {
            return false;
        }
        match observation {
            Observation::NotReady(_) | Observation::NotFound(_) => true,
            Observation::Configuration(snapshot) => {
                let complete = |state: &ResourceState| *state == ResourceState::Complete;
                let done = match &snapshot.listing {
                    Listing::Read { resources, .. } => resources.iter().all(|r| complete(&r.state)),
                    Listing::Same => self.life.resources.iter().all(|r| complete(&r.state)),
                };
                done && !self.life.told.completed || snapshot.ttl == Some(Duration::ZERO)
            }
            Observation::Ongoing
            | Observation::Completed
            | Observation::Expired
            | Observation::Unauthorized(_)
            | Observation::RateLimited { .. }
            | Observation::ServerError { .. }
            | Observation::Unreachable(_)
            | Observation::Malformed(_) => false,
        }
    }

    /// Decides what an answer means. `state` is what the session endpoint said, if
    /// [`asks_state`](Self::asks_state) had it asked.
    #[must_use]
    pub fn observe<R: Rng + ?Sized>(
        &self,
        observation: Observation,
        state: Option<Observation>,
        exchange: Exchange,
        policy: &Policy,
        rng: &mut R,
    ) -> Transition {
        let now = exchange.arrived;
        let mut step = self.step(now);
        if self.life.ended.is_some() {
            return step.finish(self);
        }
        step.session.schedule.last_poll = Some(now);
        let known_missing = step.session.life.missing_since.take();
        let has_configuration = matches!(observation, Observation::Configuration(_));
        let mut noted = None;
        let verdict = match observation {
            Observation::Configuration(snapshot) => {
                let word = match state {
                    // What has a configuration is there, whatever the session endpoint knows.
                    Some(Observation::NotFound(problem)) => {
                        noted = Some(problem);
                        Observation::Ongoing
                    }
                    word => word.unwrap_or(Observation::Ongoing),
                };
                // A poll that gets half of its answers has failed, or its backoff would not grow.
                if !word.is_failure() {
                    step.recovered();
                }
                step.configuration(snapshot, exchange.sent.min(now), policy);
                step.state(word, policy)
            }
            // The session endpoint's word decides; without it, the configuration's stands.
            other @ (Observation::NotReady(_)
            | Observation::NotFound(_)
            | Observation::Ongoing
            | Observation::Completed
            | Observation::Expired
            | Observation::Unauthorized(_)
            | Observation::RateLimited { .. }
            | Observation::ServerError { .. }
            | Observation::Unreachable(_)
            | Observation::Malformed(_)) => {
                noted = other.problem().cloned();
                step.state(state.unwrap_or(other), policy)
            }
        };
        let delay = match verdict {
            Verdict::Ended => Duration::ZERO,
            Verdict::Answered => {
                step.session.schedule.overtime = None;
                step.recovered();
                step.session.schedule.last_problem = noted;
                jittered(step.session.cadence(now, policy), policy.jitter, rng)
            }
            Verdict::Missing => step.missing(known_missing, policy, rng),
            Verdict::Failed { problem, retry_after } => {
                // A failure leaves open whether the session is there; a configuration does not.
                step.session.life.missing_since = known_missing.filter(|_| !has_configuration);
                let blame = Blame::of(&problem, exchange.outage);
                step.failed(problem, retry_after, blame, policy, rng)
            }
        };
        step.session.schedule_poll(now, delay, policy, rng);
        step.decide_timers(policy);
        step.finish(self)
    }

    /// Decides what has come about by time alone: the deadline, and that it is near.
    #[must_use]
    pub fn elapse(&self, now: Timestamp, policy: &Policy) -> Transition {
        let mut step = self.step(now);
        step.decide_timers(policy);
        step.finish(self)
    }

    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.entry.session_id
    }

    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    #[must_use]
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Of the answer whose resources it has, if this process has read it.
    #[must_use]
    pub const fn fingerprint(&self) -> Option<Fingerprint> {
        self.schedule.fingerprint
    }

    #[must_use]
    pub fn resources(&self) -> &[Resource] {
        &self.life.resources
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::of(&self.life.resources)
    }

    /// `session_sequence` of the session's last event.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.life.sequence
    }

    #[must_use]
    pub const fn is_listed(&self) -> bool {
        self.life.listed
    }

    #[must_use]
    pub const fn ended(&self) -> Option<(EndReason, Timestamp)> {
        self.life.ended
    }

    #[must_use]
    pub const fn tracked_at(&self) -> Timestamp {
        self.life.tracked_at
    }

    /// When polling stops: the API's deadline, the assumed one until there is an answer, or
    /// the session file's where that is sooner.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.entry.expires_at.map_or(self.life.deadline, |at| at.min(self.life.deadline))
    }

    #[must_use]
    pub fn phase(&self, now: Timestamp) -> Phase {
        let Life { ended, told, observed, .. } = &self.life;
        let reason = ended.map(|(reason, _)| reason);
        Self::phase_of(reason, told.failing, *observed, self.is_active(now))
    }

    const fn phase_of(
        ended: Option<EndReason>,
        failing: bool,
        observed: bool,
        active: bool,
    ) -> Phase {
        match ended {
            Some(reason) => Phase::Ended(reason),
            None if failing => Phase::Failing,
            None if !observed => Phase::Pending,
            None if active => Phase::Active,
            None => Phase::Quiet,
        }
    }

    fn step(&self, now: Timestamp) -> Decision {
        Decision { session: self.clone(), events: Vec::new(), now }
    }
}

#[cfg(test)]
mod tests;
