//! The life of one session: tracked, observed, changed, ended.
//!
//! A [`Session`] is a value. [`track`](Session::track) begins it; [`observe`](Session::observe),
//! [`elapse`](Session::elapse), [`amend`](Session::amend) and [`untrack`](Session::untrack) each
//! take it to the next value with the events that tell of the difference. It has two halves:
//! the [`Life`], which must survive a crash, and the [`Schedule`], which may be lost, since
//! losing it costs a poll too many and never an event. A poll that leaves the life as it was is
//! steady: nothing is written for it.

use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::event::{Detail, EndReason, Event};
use super::id::SessionId;
use super::labels::Labels;
use super::observation::{Observation, Problem, ProblemKind, Snapshot};
use super::policy::Policy;
use super::queue::Wake;
use super::resource::{self, Difference, Progress, Resource, ResourceState};
use super::schedule::{Backoff, Urgency, jittered, up_to};
use super::time::{Step, Timestamp};

/// What a session file says of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub session_id: SessionId,
    pub labels: Labels,
    /// Shortens the deadline; never lengthens it.
    pub expires_at: Option<Timestamp>,
    /// Cadence of this session while quiet, in place of `poll.interval`.
    pub interval: Option<Duration>,
}

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
    resources: Vec<Resource>,
    active_until: Option<Timestamp>,
    /// When the API first said that it knows no such session; cleared by any other answer.
    missing_since: Option<Timestamp>,
    told: Told,
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
    pub last_poll: Option<Timestamp>,
    /// When the last good answer was asked for: what it says may be as old as that.
    pub last_good: Option<Timestamp>,
    /// In a row, of any kind; what the backoff grows with.
    pub failures: u32,
    /// In a row, of those that count against the session and not the daemon.
    strikes: u32,
    pub failing_since: Option<Timestamp>,
    pub last_problem: Option<Problem>,
    /// Until when a session is still polled whose deadline passed while nobody looked.
    #[serde(skip)]
    overtime: Option<Timestamp>,
}

const fn quiet() -> Urgency {
    Urgency::Quiet
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

impl Phase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Quiet => "quiet",
            Self::Active => "active",
            Self::Failing => "failing",
            Self::Ended(_) => "ended",
        }
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
                resources: Vec::new(),
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
                overtime: None,
            },
        };
        let mut step = Decision { session, events: Vec::new(), now };
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
                let complete = |r: &resource::Listed| r.state == ResourceState::Complete;
                let done = snapshot.resources.iter().all(complete) && !self.life.told.completed;
                done || snapshot.ttl == Some(Duration::ZERO)
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
                step.session.life.missing_since = known_missing;
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

    /// Takes the schedule up again after a restart: what is still to come stays where it was,
    /// what fell due meanwhile is spread over one interval. So is what is due in a future that no
    /// delay reaches: a clock was wrong when that was decided.
    ///
    /// A session whose deadline passed meanwhile is not given up unseen: it has a last poll.
    pub fn resume<R: Rng + ?Sized>(&mut self, now: Timestamp, policy: &Policy, rng: &mut R) {
        let overdue = self.schedule.poll_at <= now;
        if overdue || self.schedule.poll_at > now.plus(self.longest_delay(now, policy)) {
            let within =
                if self.life.observed { self.cadence(now, policy) } else { Duration::ZERO };
            self.schedule.poll_at = now.plus(up_to(within, rng));
        }
        self.schedule.urgency = self.urgency(now);
        let said = self.entry.expires_at.is_some_and(|at| at <= now);
        if self.life.deadline <= now && !said && self.life.ended.is_none() {
            let overtime = Policy::OVERTIME.max(2 * policy.final_poll_before_expiry);
            self.schedule.overtime = Some(now.plus(overtime));
            self.schedule.poll_at = now.plus(up_to(overtime / 4, rng));
            self.schedule.urgency = Urgency::Final;
        }
        self.retry_final_poll(now, policy, rng);
        self.keep_final_poll(now, policy);
    }

    /// The longest that a poll is ever put off.
    fn longest_delay(&self, now: Timestamp, policy: &Policy) -> Duration {
        let cadence = self.cadence(now, policy).mul_f64(1.0 + policy.jitter);
        cadence
            .max(policy.backoff_max)
            .max(Policy::RETRY_AFTER_MAX)
            .max(2 * Policy::NOT_FOUND_APART)
    }

    /// Takes up a policy that asks for a poll sooner than it is due: within one interval, at
    /// some time in it. What waits for a failure to pass goes on waiting.
    pub fn repace<R: Rng + ?Sized>(&mut self, now: Timestamp, policy: &Policy, rng: &mut R) {
        let cadence = self.cadence(now, policy);
        let latest = now.plus(cadence.mul_f64(1.0 + policy.jitter));
        if self.schedule.failures == 0 && self.schedule.poll_at > latest {
            self.schedule.poll_at = now.plus(up_to(cadence, rng));
        }
        self.keep_final_poll(now, policy);
    }

    /// The same session by a wall clock that has been stepped. What was measured moves with the
    /// clock, or an hour's step would make everything overdue; what a session file says is
    /// said of the true time and stays. `now` is the present by the clock as it is set now.
    #[must_use]
    pub fn stepped(&self, step: Step, now: Timestamp, policy: &Policy) -> Self {
        let mut session = self.clone();
        if session.life.ended.is_some() {
            return session;
        }
        let Life { tracked_at, deadline, active_until, missing_since, .. } = &mut session.life;
        let Schedule { poll_at, last_poll, last_good, failing_since, .. } = &mut session.schedule;
        let optional = [active_until, missing_since, last_poll, last_good, failing_since];
        let times = [tracked_at, deadline, poll_at].into_iter();
        for time in times.chain(optional.into_iter().flatten()) {
            *time = step.of(*time);
        }
        session.keep_final_poll(now, policy);
        session
    }

    /// When the session next wants attention; never again once it has ended.
    #[must_use]
    pub fn wake(&self, policy: &Policy) -> Option<Wake> {
        if self.life.ended.is_some() {
            return None;
        }
        let deadline = self.given_up_at();
        let timer = self.expiring_at(policy).map_or(deadline, |at| at.min(deadline));
        let Schedule { poll_at, urgency, .. } = self.schedule;
        let last_chance = self.misses_final_poll(policy).then(|| self.final_poll_at(policy));
        Some(Wake {
            timer,
            poll: (poll_at < deadline).then_some((poll_at, urgency)),
            last_chance: last_chance.filter(|at| urgency != Urgency::Final && poll_at < *at),
        })
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

    /// When the session ends if nothing else ends it.
    fn given_up_at(&self) -> Timestamp {
        self.schedule.overtime.map_or(self.expires_at(), |until| until.max(self.expires_at()))
    }

    #[must_use]
    pub fn phase(&self, now: Timestamp) -> Phase {
        match self.life.ended {
            Some((reason, _)) => Phase::Ended(reason),
            None if self.life.told.failing => Phase::Failing,
            None if !self.life.observed => Phase::Pending,
            None if self.is_active(now) => Phase::Active,
            None => Phase::Quiet,
        }
    }

    fn is_active(&self, now: Timestamp) -> bool {
        self.life.active_until.is_some_and(|until| now < until)
    }

    fn urgency(&self, now: Timestamp) -> Urgency {
        if self.is_active(now) { Urgency::Active } else { Urgency::Quiet }
    }

    /// The mean time between two polls, as things are.
    #[must_use]
    pub fn cadence(&self, now: Timestamp, policy: &Policy) -> Duration {
        let quiet = self.entry.interval.unwrap_or(policy.interval);
        if self.is_active(now) { quiet.min(policy.active_interval) } else { quiet }
    }

    /// The last poll comes once to twice `final_poll_before_expiry` before the deadline. Where in
    /// between depends on the id, so that sessions which expire together don't ask together.
    fn final_poll_at(&self, policy: &Policy) -> Timestamp {
        let before = policy.final_poll_before_expiry;
        self.expires_at().minus(before.saturating_add(before.mul_f64(self.share())))
    }

    /// A number from 0 to 1 that is the session's own: its id's.
    fn share(&self) -> f64 {
        let [high, low, ..] = *self.id().as_bytes();
        f64::from(u16::from_be_bytes([high, low])) / 65_536.0
    }

    fn schedule_poll<R: Rng + ?Sized>(
        &mut self,
        now: Timestamp,
        delay: Duration,
        policy: &Policy,
        rng: &mut R,
    ) {
        self.schedule.poll_at = now.plus(delay);
        self.schedule.urgency = self.urgency(now);
        self.retry_final_poll(now, policy, rng);
        self.keep_final_poll(now, policy);
    }

    /// Where the final poll has failed, what is left of the time is for trying again.
    fn retry_final_poll<R: Rng + ?Sized>(&mut self, now: Timestamp, policy: &Policy, rng: &mut R) {
        if now >= self.final_poll_at(policy) && self.schedule.failures > 0 {
            let soon = now.plus(up_to(policy.final_poll_before_expiry / 4, rng));
            self.schedule.poll_at = self.schedule.poll_at.min(soon);
            self.schedule.urgency = Urgency::Final;
        }
    }

    /// Whatever the cadence or the backoff says, the final poll is not passed over.
    fn keep_final_poll(&mut self, now: Timestamp, policy: &Policy) {
        let final_at = self.final_poll_at(policy);
        if self.misses_final_poll(policy) && self.schedule.poll_at >= final_at {
            self.schedule.poll_at = final_at.max(now);
            self.schedule.urgency = Urgency::Final;
        }
    }

    fn misses_final_poll(&self, policy: &Policy) -> bool {
        let final_at = self.final_poll_at(policy);
        self.schedule.last_poll.is_none_or(|last| last < final_at)
    }

    fn expiring_at(&self, policy: &Policy) -> Option<Timestamp> {
        let wanted = !policy.expiring_before.is_zero()
            && self.life.observed
            && !self.life.told.expiring
            && self.schedule.overtime.is_none()
            && self.life.resources.iter().any(|r| r.state.is_required());
        wanted.then(|| self.expires_at().minus(policy.expiring_before))
    }

    fn step(&self, now: Timestamp) -> Decision {
        Decision { session: self.clone(), events: Vec::new(), now }
    }
}

/// A transition in the making.
struct Decision {
    session: Session,
    events: Vec<Event>,
    now: Timestamp,
}

/// Whose trouble a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    Session,
    Daemon,
}

impl Blame {
    /// Being refused or slowed down is never the session's fault, nor is anything in an outage.
    const fn of(problem: &Problem, outage: bool) -> Self {
        match problem.kind {
            _ if outage => Self::Daemon,
            ProblemKind::Unauthorized | ProblemKind::ClockSkew | ProblemKind::RateLimited => {
                Self::Daemon
            }
            ProblemKind::NotReady
            | ProblemKind::NotFound
            | ProblemKind::ServerError
            | ProblemKind::Unreachable
            | ProblemKind::Malformed => Self::Session,
        }
    }
}

/// What an answer amounts to.
enum Verdict {
    Ended,
    /// The API works and the session goes on.
    Answered,
    /// The API knows no such session, which is believed when it says so twice.
    Missing,
    Failed {
        problem: Problem,
        retry_after: Option<Duration>,
    },
}

impl Decision {
    fn finish(self, before: &Session) -> Transition {
        let steady = self.events.is_empty()
            && self.session.life == before.life
            && self.session.entry == before.entry;
        Transition { session: self.session, events: self.events, steady }
    }

    fn tell(&mut self, detail: Detail) {
        let session = &mut self.session;
        session.life.sequence += 1;
        self.events.push(Event {
            time: self.now,
            session_id: session.id(),
            session_sequence: session.life.sequence,
            labels: session.entry.labels.clone(),
            detail,
            progress: session.progress(),
            expires_at: session.expires_at(),
        });
    }

    fn end(&mut self, reason: EndReason) {
        if self.session.life.ended.is_some() {
            return;
        }
        let complete = |r: &&Resource| r.state != ResourceState::Complete;
        let unresolved = self.session.life.resources.iter().filter(complete).cloned().collect();
        self.session.life.ended = Some((reason, self.now));
        self.tell(Detail::Ended { reason, unresolved });
    }

    fn configuration(&mut self, snapshot: Snapshot, sent: Timestamp, policy: &Policy) {
        self.estimate_deadline(snapshot.ttl, policy);
        let first = !self.session.life.observed;
        let last_good = self.session.schedule.last_good.replace(sent);
        if first {
            self.session.life.observed = true;
            self.session.life.resources = resource::number(&[], snapshot.resources);
            let resources = self.session.life.resources.clone();
            self.tell(Detail::Observed { resources });
        } else if !resource::unchanged(&self.session.life.resources, &snapshot.resources) {
            let since = last_good.unwrap_or(self.session.life.tracked_at).min(self.now);
            self.changed(snapshot, since, policy);
        }
    }

    fn changed(&mut self, snapshot: Snapshot, changed_after: Timestamp, policy: &Policy) {
        let after = resource::number(&self.session.life.resources, snapshot.resources);
        let before = std::mem::replace(&mut self.session.life.resources, after);
        let differences = resource::differences(&before, &self.session.life.resources);
        if differences.is_empty() {
            return;
        }
        self.session.life.active_until = Some(self.now.plus(policy.active_for));
        let changed_before = self.now;
        let leaves =
            |from: &ResourceState, to: &ResourceState| from.is_required() && !to.is_required();
        let left_required = differences.iter().any(
            |difference| matches!(difference, Difference::Changed { from, to, .. } if leaves(from, to)),
        );
        for difference in differences {
            self.tell(match difference {
                Difference::Changed { key, from, to } => Detail::StateChanged {
                    left_required: leaves(&from, &to),
                    resource: key,
                    from,
                    to,
                    changed_after,
                    changed_before,
                },
                Difference::Added(Resource { key, state }) => {
                    Detail::Added { resource: key, state, changed_after, changed_before }
                }
                Difference::Removed(Resource { key, state }) => Detail::Removed {
                    resource: key,
                    last_state: state,
                    changed_after,
                    changed_before,
                },
            });
        }
        // A resource that is no longer listed is absent, which is not completion.
        if left_required && self.session.progress().required == 0 {
            self.tell(Detail::NothingRequired {});
        }
    }

    fn estimate_deadline(&mut self, ttl: Option<Duration>, policy: &Policy) {
        // A TTL of zero beside a good answer is no deadline: the session endpoint is asked.
        let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) else { return };
        let estimate = self.now.plus(ttl).floor_seconds();
        let life = &mut self.session.life;
        let assumed = !life.observed;
        if assumed || estimate.distance(life.deadline) > Policy::DEADLINE_TOLERANCE {
            life.deadline = estimate;
            if self.session.expires_at().since(self.now) > policy.expiring_before {
                self.session.life.told.expiring = false;
            }
        }
    }

    /// What the last word on the session means for it.
    fn state(&mut self, observation: Observation, policy: &Policy) -> Verdict {
        match observation {
            Observation::Configuration(_) | Observation::Ongoing | Observation::NotReady(_) => {
                Verdict::Answered
            }
            Observation::Completed => {
                if !self.session.life.told.completed {
                    self.session.life.told.completed = true;
                    self.tell(Detail::Completed {});
                }
                if policy.stop_on_completed {
                    self.end(EndReason::Completed);
                    return Verdict::Ended;
                }
                Verdict::Answered
            }
            Observation::Expired => {
                self.end(EndReason::Expired);
                Verdict::Ended
            }
            Observation::NotFound(problem) => {
                self.session.schedule.last_problem = Some(problem);
                Verdict::Missing
            }
            Observation::RateLimited { problem, retry_after }
            | Observation::ServerError { problem, retry_after } => {
                Verdict::Failed { problem, retry_after }
            }
            Observation::Unauthorized(problem)
            | Observation::Unreachable(problem)
            | Observation::Malformed(problem) => Verdict::Failed { problem, retry_after: None },
        }
    }

    fn missing<R: Rng + ?Sized>(
        &mut self,
        known_since: Option<Timestamp>,
        policy: &Policy,
        rng: &mut R,
    ) -> Duration {
        let since = known_since.unwrap_or(self.now);
        if self.now.since(since) >= Policy::NOT_FOUND_APART {
            self.end(EndReason::NotFound);
            return Duration::ZERO;
        }
        self.session.life.missing_since = Some(since);
        let apart = Policy::NOT_FOUND_APART.saturating_sub(self.now.since(since));
        apart + up_to(apart.mul_f64(policy.jitter), rng)
    }

    fn failed<R: Rng + ?Sized>(
        &mut self,
        problem: Problem,
        retry_after: Option<Duration>,
        blame: Blame,
        policy: &Policy,
        rng: &mut R,
    ) -> Duration {
        let schedule = &mut self.session.schedule;
        let since = *schedule.failing_since.get_or_insert(self.now);
        schedule.failures = schedule.failures.saturating_add(1);
        schedule.strikes = schedule.strikes.saturating_add(u32::from(blame == Blame::Session));
        schedule.last_problem = Some(problem.clone());
        let backoff = Backoff { initial: policy.backoff_initial, max: policy.backoff_max };
        let delay = backoff.delay(schedule.failures, rng);
        if schedule.strikes >= policy.failing_after && !self.session.life.told.failing {
            self.session.life.told.failing = true;
            self.tell(Detail::PollFailing { error: problem, failing_since: since });
        }
        delay.max(retry_after.unwrap_or_default().min(Policy::RETRY_AFTER_MAX))
    }

    fn recovered(&mut self) {
        let schedule = &mut self.session.schedule;
        schedule.failures = 0;
        schedule.strikes = 0;
        let since = schedule.failing_since.take();
        let problem = schedule.last_problem.take();
        if std::mem::take(&mut self.session.life.told.failing)
            && let (Some(failing_since), Some(error)) = (since, problem)
        {
            self.tell(Detail::PollRecovered { error, failing_since });
        }
    }

    fn decide_timers(&mut self, policy: &Policy) {
        if self.session.life.ended.is_some() {
            return;
        }
        if self.now >= self.session.given_up_at() {
            self.end(EndReason::Expired);
        } else if self.session.expiring_at(policy).is_some_and(|at| at <= self.now) {
            self.session.life.told.expiring = true;
            let resources = self.session.life.resources.iter();
            let required = resources.filter(|r| r.state.is_required()).map(|r| r.key.clone());
            let required = required.collect();
            self.tell(Detail::Expiring { required });
        }
    }
}

#[cfg(test)]
mod tests;
