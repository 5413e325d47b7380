//! What the log says of polls: each thing once, however many sessions it concerns and however
//! often it happens.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::lock;
use crate::domain::{
    Detail, Event, Observation, ProblemKind, ResourceState, Session, SessionId, Timestamp,
    Transition,
};

#[derive(Debug, Default)]
pub(super) struct Diary {
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// Values outside the known states that have been warned of.
    states: HashSet<Box<str>>,
    /// Which kinds of trouble with the API the log has been told of, how many answers were of such
    /// a kind, and when the last of them came.
    troubles: HashSet<ProblemKind>,
    failures: u64,
    last_failure: Duration,
    warnings: Quota,
}

/// How many warnings single sessions get: a page of a proxy may stand before all of them.
#[derive(Debug, Default)]
struct Quota {
    /// When the present period began.
    since: Duration,
    given: u32,
    left_out: u64,
}

/// A hostile API could invent states for ever; after this many the warnings stop.
const STATES_NOTED: usize = 1_000;
/// An API that fails now and then is one trouble until it has not failed for so long.
const CALM: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_secs(60);
const WARNINGS_A_PERIOD: u32 = 20;

impl Quota {
    /// Whether one more warning may be given; the others are counted, and told once the period is
    /// over.
    fn allows(&mut self) -> bool {
        if self.given < WARNINGS_A_PERIOD {
            self.given += 1;
            return true;
        }
        self.left_out += 1;
        false
    }

    fn advance(&mut self, now: Duration) {
        if now.saturating_sub(self.since) < PERIOD {
            return;
        }
        if self.left_out > 0 {
            warn!(
                "{} more warnings about single sessions were left out; \
                 `ibvwatch sessions --phase failing` lists the sessions",
                self.left_out
            );
        }
        *self = Self { since: now, ..Self::default() };
    }
}

impl Noted {
    fn good_answer(&mut self, now: Duration) {
        if !self.troubles.is_empty() && now.saturating_sub(self.last_failure) >= CALM {
            info!(failures = self.failures, "polls succeed again");
            self.troubles.clear();
            self.failures = 0;
        }
    }

    fn failed(&mut self, kind: ProblemKind, now: Duration) -> bool {
        self.failures += 1;
        self.last_failure = now;
        self.troubles.insert(kind)
    }
}

impl Diary {
    /// Notes what a poll brought. `now` is monotonic time.
    pub(super) fn answered(
        &self,
        session: &Session,
        observation: &Observation,
        state: Option<&Observation>,
        now: Duration,
    ) {
        let id = session.id();
        let mut noted = lock(&self.noted);
        noted.warnings.advance(now);
        match state.unwrap_or(observation).problem() {
            None => noted.good_answer(now),
            Some(problem) if problem.kind.concerns_session() => {
                let kind = problem.kind.as_str();
                let known = session.schedule().last_problem.as_ref();
                let is_news = known.is_none_or(|known| known.kind != problem.kind);
                if is_news && noted.warnings.allows() {
                    warn!(session = %id, kind, "a poll told nothing of this session: {problem}");
                } else {
                    debug!(session = %id, kind, "a poll told nothing of this session: {problem}");
                }
            }
            Some(problem) => {
                let kind = problem.kind.as_str();
                if noted.failed(problem.kind, now) {
                    warn!(session = %id, kind,
                        "a poll failed; more failures of this kind are logged at debug: {problem}");
                } else {
                    debug!(session = %id, kind, "a poll failed: {problem}");
                }
            }
        }
        if let Observation::Configuration(snapshot) = observation {
            for listed in snapshot.listing.resources().unwrap_or_default() {
                if let ResourceState::Other(state) = &listed.state
                    && noted.states.len() < STATES_NOTED
                    && noted.states.insert(state.clone())
                {
                    warn!(session = %id, state = ?state, resource = ?listed.kind,
                        "a resource is in a state that this version does not know; it is passed on as it is");
                }
            }
        }
    }

    /// Notes what was decided, once it is durable.
    pub(super) fn decided(&self, session: SessionId, told: &Told, now: Duration) {
        for event in &told.events {
            match &event.detail {
                Detail::Ended { reason, unresolved } => {
                    info!(%session, reason = reason.as_str(), unresolved = unresolved.len(), "the session has ended");
                }
                Detail::PollFailing { error, .. } => {
                    let mut noted = lock(&self.noted);
                    noted.warnings.advance(now);
                    if noted.warnings.allows() {
                        warn!(%session, "polls of this session keep failing: {error}");
                    } else {
                        debug!(%session, "polls of this session keep failing: {error}");
                    }
                }
                Detail::PollRecovered { .. } => {
                    info!(%session, "polls of this session succeed again");
                }
                Detail::StateChanged { resource, from, to, .. } => {
                    debug!(%session, ?resource, ?from, ?to, "a resource has changed its state");
                }
                Detail::Tracked {}
                | Detail::Observed { .. }
                | Detail::Added { .. }
                | Detail::Removed { .. }
                | Detail::NothingRequired {}
                | Detail::Completed {}
                | Detail::Expiring { .. } => debug!(%session, "{} is recorded", event.kind()),
            }
        }
        if told.events.is_empty() {
            debug!(%session, next_poll = %told.next_poll, "a poll found nothing new");
        }
    }
}

/// What a decision is to be logged as.
pub(super) struct Told {
    events: Vec<Event>,
    next_poll: Timestamp,
}

impl Told {
    pub(super) fn of(transition: &Transition) -> Self {
        let next_poll = transition.session.schedule().poll_at;
        Self { events: transition.events.clone(), next_poll }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn warnings_about_single_sessions_are_counted_beyond_so_many_a_period() {
        let mut quota = Quota::default();
        let allowed = (0..100).filter(|_| quota.allows()).count();
        assert_eq!((allowed, quota.left_out), (20, 80));
        quota.advance(59 * SECOND);
        assert!(!quota.allows());
        quota.advance(PERIOD);
        assert!(quota.allows());
        assert_eq!(quota.left_out, 0);
    }

    #[test]
    fn an_api_that_fails_now_and_then_is_told_of_once() {
        let mut noted = Noted::default();
        let kind = ProblemKind::ServerError;
        let told = (0..600).filter(|&second| {
            let now = second * SECOND;
            noted.good_answer(now);
            noted.failed(kind, now)
        });
        assert_eq!(told.count(), 1);
        noted.good_answer(600 * SECOND);
        assert!(!noted.failed(kind, 601 * SECOND));
        noted.good_answer(661 * SECOND);
        assert!(noted.failed(kind, 662 * SECOND));
    }
}
