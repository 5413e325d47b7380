//! Which polls go out, and what an answer means: for the API as a whole and for its session.
//!
//! The poller carries out what is decided here, and so does the simulation of a month, which is
//! how the month proves anything about the daemon.

use std::time::Duration;

use rand::Rng;

use super::breaker::{Breaker, Cause, Gate, Turn};
use super::observation::Observation;
use super::pace::Pace;
use super::policy::Policy;
use super::session::{Exchange, Session, Transition};
use super::time::{Now, Timestamp};

/// The breaker and the pace, fed with every poll.
#[derive(Debug, Default)]
pub struct Admission {
    breaker: Breaker,
    pace: Pace,
}

/// Whether a session's poll goes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Admitted {
    /// It does. With a number, polls come that many times as far apart as configured, and it is
    /// time to warn of it.
    Yes { stretched: Option<f64> },
    /// Polls pause; the session is to be given back.
    No,
}

/// All that came back from one poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub observation: Observation,
    /// What the session endpoint said, if it was asked.
    pub state: Option<Observation>,
    pub sent: Timestamp,
    pub arrived: Timestamp,
}

impl Admission {
    /// As it was before a restart; `unavailable` is why and since when polls paused, if they did.
    #[must_use]
    pub fn resume(unavailable: Option<(Cause, Timestamp)>) -> Self {
        Self { breaker: Breaker::resume(unavailable), pace: Pace::default() }
    }

    /// Whether a session is to be taken up at all.
    #[must_use]
    pub fn gate(&self, now: Now) -> Gate {
        self.breaker.gate(now)
    }

    /// The session that was taken up is to be polled now, if the gate still lets it. `cadence` is
    /// how far apart its polls are meant to be, `due_at` when this one was meant to be.
    pub fn admit(
        &mut self,
        session: &Session,
        due_at: Timestamp,
        cadence: Duration,
        now: Now,
    ) -> Admitted {
        let stretched = match self.breaker.gate(now) {
            Gate::Closed(_) => return Admitted::No,
            // A probe is late because the API was away, not because polls are too many.
            Gate::Probe => None,
            Gate::Open => self.pace.polling(due_at, cadence, now),
        };
        self.breaker.polling(session.id());
        Admitted::Yes { stretched }
    }

    /// Decides what an answer means. `session` is the value that was polled, `live` how many
    /// sessions there are to be polled.
    pub fn answered<R: Rng + ?Sized>(
        &mut self,
        session: &Session,
        answer: Answer,
        live: usize,
        now: Now,
        policy: &Policy,
        rng: &mut R,
    ) -> (Option<Turn>, Transition) {
        let Answer { observation, state, sent, arrived } = answer;
        let last_word = state.as_ref().unwrap_or(&observation);
        let turn = self.breaker.answered(session.id(), last_word, live, now, policy, rng);
        let outage = self.breaker.open().is_some();
        let exchange = Exchange { sent, arrived, outage };
        (turn, session.observe(observation, state, exchange, policy, rng))
    }

    /// Why and since when polls pause, if they do.
    #[must_use]
    pub const fn unavailable(&self) -> Option<(Cause, Timestamp)> {
        self.breaker.open()
    }

    /// How many times as far apart as configured polls come.
    #[must_use]
    pub const fn stretch(&self) -> f64 {
        self.pace.stretch()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::labels::Labels;
    use super::super::observation::{Problem, ProblemKind};
    use super::super::session::Entry;
    use super::*;

    const START: Now = Now {
        wall: Timestamp::from_millis(1_795_000_000_000),
        monotonic: Duration::from_secs(1_000),
    };

    fn later(time: Duration) -> Now {
        Now { wall: START.wall.plus(time), monotonic: START.monotonic + time }
    }

    fn session() -> Session {
        let session_id = "3fa85f64-5717-4562-b3fc-2c963f66afa6".parse().unwrap();
        let entry =
            Entry { session_id, labels: Labels::default(), expires_at: None, interval: None };
        Session::track(entry, 0, START.wall, &Policy::default()).session
    }

    fn refused(at: Now) -> Answer {
        let problem = Problem {
            kind: ProblemKind::RateLimited,
            status: Some(429),
            code: None,
            request_id: None,
            message: "slow down".to_owned(),
        };
        let observation = Observation::RateLimited { problem, retry_after: None };
        Answer { observation, state: None, sent: at.wall, arrived: at.wall }
    }

    #[test]
    fn a_restart_finds_the_polls_paused_as_they_were() {
        assert_eq!(Admission::resume(None).unavailable(), None);
        let paused = Some((Cause::Unreachable, START.wall));
        let admission = Admission::resume(paused);
        assert_eq!((admission.unavailable(), admission.gate(START)), (paused, Gate::Probe));
    }

    #[test]
    fn late_polls_stretch_the_cadence() {
        let policy = Policy::default();
        let mut admission = Admission::default();
        let due_at = START.wall.minus(policy.interval);
        for _ in 0..1_000 {
            admission.admit(&session(), due_at, policy.interval, START);
        }
        assert!((1.99..=2.0).contains(&admission.stretch()), "{}", admission.stretch());
    }

    /// One by one, for hours: each probe is of a session that has been due for long.
    #[test]
    fn probes_of_a_long_outage_are_not_taken_for_too_many_polls() {
        let (policy, rng) = (Policy::default(), &mut StdRng::seed_from_u64(1));
        let (mut admission, session) = (Admission::default(), session());
        admission.answered(&session, refused(START), 1, START, &policy, rng);
        for n in 1..=500 {
            let now = later(policy.backoff_max * n);
            let admitted = admission.admit(&session, START.wall, policy.interval, now);
            assert_eq!(admitted, Admitted::Yes { stretched: None });
            assert_eq!(
                admission.admit(&session, START.wall, policy.interval, now),
                Admitted::No,
                "a second poll beside the probe"
            );
            admission.answered(&session, refused(now), 1, now, &policy, rng);
        }
        assert!((admission.stretch() - 1.0).abs() < f64::EPSILON);
    }
}
