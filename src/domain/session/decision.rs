//! A transition in the making: what an answer, or the time, does to a session.

use std::time::Duration;

use rand::Rng;

use super::super::event::{Detail, EndReason, Event};
use super::super::observation::{Listing, Observation, Problem, ProblemKind, Snapshot};
use super::super::policy::Policy;
use super::super::resource::{self, Difference, Listed, Resource, ResourceState};
use super::super::schedule::{Backoff, up_to};
use super::super::time::Timestamp;
use super::{Session, Transition};

/// A transition in the making.
pub(super) struct Decision {
    pub(super) session: Session,
    pub(super) events: Vec<Event>,
    pub(super) now: Timestamp,
}

/// Whose trouble a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Session,
    Daemon,
}

impl Blame {
    /// Being refused or slowed down is never the session's fault, nor is anything in an outage.
    pub(super) const fn of(problem: &Problem, outage: bool) -> Self {
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
pub(super) enum Verdict {
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
    pub(super) fn finish(self, before: &Session) -> Transition {
        let steady = self.events.is_empty()
            && self.session.life == before.life
            && self.session.entry == before.entry;
        Transition { session: self.session, events: self.events, steady }
    }

    pub(super) fn tell(&mut self, detail: Detail) {
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

    pub(super) fn end(&mut self, reason: EndReason) {
        if self.session.life.ended.is_some() {
            return;
        }
        let complete = |r: &&Resource| r.state != ResourceState::Complete;
        let unresolved = self.session.life.resources.iter().filter(complete).cloned().collect();
        self.session.life.ended = Some((reason, self.now));
        self.tell(Detail::Ended { reason, unresolved });
    }

    pub(super) fn configuration(&mut self, snapshot: Snapshot, sent: Timestamp, policy: &Policy) {
        self.estimate_deadline(snapshot.ttl, policy);
        let first = !self.session.life.observed;
        let last_good = self.session.schedule.last_good.replace(sent);
        let Listing::Read { resources, fingerprint } = snapshot.listing else { return };
        self.session.schedule.fingerprint = fingerprint;
        if first {
            self.session.life.observed = true;
            self.session.life.resources = resource::number(&[], resources).into();
            let resources = self.session.life.resources.to_vec();
            self.tell(Detail::Observed { resources });
        } else if !resource::unchanged(&self.session.life.resources, &resources) {
            let since = last_good.unwrap_or(self.session.life.tracked_at).min(self.now);
            self.changed(resources, since, policy);
        }
    }

    pub(super) fn changed(
        &mut self,
        listed: Vec<Listed>,
        changed_after: Timestamp,
        policy: &Policy,
    ) {
        let after = resource::number(&self.session.life.resources, listed);
        let before = std::mem::replace(&mut self.session.life.resources, after.into());
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

    pub(super) fn estimate_deadline(&mut self, ttl: Option<Duration>, policy: &Policy) {
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
    pub(super) fn state(&mut self, observation: Observation, policy: &Policy) -> Verdict {
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

    pub(super) fn missing<R: Rng + ?Sized>(
        &mut self,
        known_since: Option<Timestamp>,
        policy: &Policy,
        rng: &mut R,
    ) -> Duration {
        // What was heard in the future shows that the clock has been set back since.
        let since = known_since.map_or(self.now, |since| since.min(self.now));
        if self.now.since(since) >= Policy::NOT_FOUND_APART {
            self.end(EndReason::NotFound);
            return Duration::ZERO;
        }
        self.session.life.missing_since = Some(since);
        let apart = Policy::NOT_FOUND_APART.saturating_sub(self.now.since(since));
        apart + up_to(apart.mul_f64(policy.jitter), rng)
    }

    pub(super) fn failed<R: Rng + ?Sized>(
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

    pub(super) fn recovered(&mut self) {
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

    pub(super) fn decide_timers(&mut self, policy: &Policy) {
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
