//! The breaker: when the API as a whole can't be used, polls pause but for a probe.
//!
//! A refused key, a rate limit, a failing network or a wrong clock are conditions of the daemon.
//! Asking on for every session would only make them worse, and blaming the sessions would be
//! wrong. So after a few failures in a row the breaker opens, one `api.unavailable` is told, and
//! single probes go out at growing distances until one succeeds. One 429 alone makes a pause,
//! which is told only if it lasts.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::SessionId;
use super::observation::{Observation, Problem, ProblemKind};
use super::policy::Policy;
use super::schedule::Backoff;
use super::time::{Now, Timestamp};

/// Why the API can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Unauthorized,
    RateLimited,
    ServerError,
    Unreachable,
    ClockSkew,
}

impl Cause {
    pub const ALL: [Self; 5] = [
        Self::Unauthorized,
        Self::RateLimited,
        Self::ServerError,
        Self::Unreachable,
        Self::ClockSkew,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Unreachable => "unreachable",
            Self::ClockSkew => "clock_skew",
        }
    }
}

/// Whether a poll may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// One poll may, to see whether the API can be used again.
    Probe,
    /// None may for that long; with nothing given, not before the probe has come back.
    Closed(Option<Duration>),
}

/// What an answer did to the breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Polls pause.
    Opened { cause: Cause, error: Problem },
    /// Polls go on.
    Closed {
        cause: Cause,
        since: Timestamp,
        /// Whether the opening was told.
        told: bool,
        /// Whether what fell due meanwhile is to be spread: after a short pause little did, and
        /// everybody keeps their place.
        spread: bool,
    },
}

#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
    /// The sessions whose polls failed in a row, as far as it takes to know, and how many did.
    failing: BTreeSet<SessionId>,
    failures: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        cause: Cause,
        since: Timestamp,
        probe: Probe,
        /// Probes that failed.
        failures: u32,
        told: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Of the monotonic clock: a step of the wall clock must not put it off.
    At(Duration),
    UnderWay(SessionId),
}

impl Breaker {
    /// Failures in a row that open it, and of how many sessions they are (of all, where there
    /// are fewer): one session that the API refuses is no reason to pause the others.
    pub const FAILURES: u32 = 3;

    /// A breaker as it was before a restart: a first probe may go out at once.
    #[must_use]
    pub fn resume(open: Option<(Cause, Timestamp)>) -> Self {
        let state = match open {
            None => State::Closed,
            Some((cause, since)) => State::Open {
                cause,
                since,
                probe: Probe::At(Duration::ZERO),
                failures: 0,
                told: true,
            },
        };
        Self { state, ..Self::default() }
    }

    #[must_use]
    pub fn gate(&self, now: Now) -> Gate {
        match self.state {
            State::Closed => Gate::Open,
            State::Open { probe: Probe::At(at), .. } if at <= now.monotonic => Gate::Probe,
            State::Open { probe: Probe::At(at), .. } => {
                Gate::Closed(Some(at.saturating_sub(now.monotonic)))
            }
            State::Open { probe: Probe::UnderWay(_), .. } => Gate::Closed(None),
        }
    }

    /// Why and since when polls pause, if they do.
    #[must_use]
    pub const fn open(&self) -> Option<(Cause, Timestamp)> {
        match self.state {
            State::Closed => None,
            State::Open { cause, since, .. } => Some((cause, since)),
        }
    }

    /// A poll of that session goes out; while open, it is the probe.
    pub fn polling(&mut self, id: SessionId) {
        if let State::Open { probe, .. } = &mut self.state {
            *probe = Probe::UnderWay(id);
        }
    }

    /// An answer has come, or has failed to. `sessions` is how many there are to be polled.
    pub fn answered<R: Rng + ?Sized>(
        &mut self,
        id: SessionId,
        observation: &Observation,
        sessions: usize,
        now: Now,
        policy: &Policy,
        rng: &mut R,
    ) -> Option<Turn> {
        let (cause, retry_after) = match meaning(observation) {
            Meaning::Works => return self.succeeded(id, now, policy),
            Meaning::Nothing => (None, None),
            Meaning::Condition(cause, retry_after) => (Some(cause), retry_after),
        };
        match &mut self.state {
            State::Closed => {
                let cause = cause?;
                self.failures = self.failures.saturating_add(1);
                if self.failing.len() < Self::FAILURES as usize {
                    self.failing.insert(id);
                }
                let of = sessions.clamp(1, Self::FAILURES as usize);
                let many = self.failures >= Self::FAILURES && self.failing.len() >= of;
                // A rate limit is said to everyone who asks: one answer is enough to pause, and
                // is told if the probe is limited as well.
                if !(many || cause == Cause::RateLimited) {
                    return None;
                }
                let probe = Probe::At(probe_at(now, 1, retry_after, policy, rng));
                self.state = State::Open { cause, since: now.wall, probe, failures: 0, told: many };
                let error = observation.problem().filter(|_| many)?.clone();
                Some(Turn::Opened { cause, error })
            }
            State::Open { cause, probe, failures, told, .. } => {
                match *probe {
                    Probe::UnderWay(probing) if probing == id => {
                        *failures = failures.saturating_add(1);
                        let at =
                            probe_at(now, failures.saturating_add(1), retry_after, policy, rng);
                        *probe = Probe::At(at);
                    }
                    // A poll from before the opening; its Retry-After counts all the same.
                    Probe::At(at) => {
                        let asked = now.monotonic.saturating_add(clamped(retry_after));
                        *probe = Probe::At(at.max(asked));
                    }
                    Probe::UnderWay(_) => return None,
                }
                if *failures == 0 || *told {
                    return None;
                }
                *told = true;
                observation
                    .problem()
                    .map(|error| Turn::Opened { cause: *cause, error: error.clone() })
            }
        }
    }

    fn succeeded(&mut self, id: SessionId, now: Now, policy: &Policy) -> Option<Turn> {
        self.failing.clear();
        self.failures = 0;
        let State::Open { cause, since, probe, told, .. } = self.state else { return None };
        if probe != Probe::UnderWay(id) {
            // Asked before the opening, it says nothing about now.
            return None;
        }
        self.state = State::Closed;
        let spread = now.wall.since(since) >= policy.active_interval;
        Some(Turn::Closed { cause, since, told, spread })
    }
}

/// What an answer says of the API as a whole.
enum Meaning {
    Works,
    /// Garbage may be one session's, or a proxy's: it is no sign of trouble, nor of its end.
    Nothing,
    Condition(Cause, Option<Duration>),
}

fn meaning(observation: &Observation) -> Meaning {
    match observation {
        Observation::Unauthorized(problem) if problem.kind == ProblemKind::ClockSkew => {
            Meaning::Condition(Cause::ClockSkew, None)
        }
        Observation::Unauthorized(_) => Meaning::Condition(Cause::Unauthorized, None),
        Observation::RateLimited { retry_after, .. } => {
            Meaning::Condition(Cause::RateLimited, *retry_after)
        }
        Observation::ServerError { retry_after, .. } => {
            Meaning::Condition(Cause::ServerError, *retry_after)
        }
        Observation::Unreachable(_) => Meaning::Condition(Cause::Unreachable, None),
        Observation::Malformed(_) => Meaning::Nothing,
        Observation::Configuration(_)
        | Observation::Ongoing
        | Observation::Completed
        | Observation::Expired
        | Observation::NotReady(_)
        | Observation::NotFound(_) => Meaning::Works,
    }
}

fn clamped(retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or_default().min(Policy::RETRY_AFTER_MAX)
}

fn probe_at<R: Rng + ?Sized>(
    now: Now,
    failures: u32,
    retry_after: Option<Duration>,
    policy: &Policy,
    rng: &mut R,
) -> Duration {
    let backoff = Backoff { initial: policy.backoff_initial, max: policy.backoff_max };
    now.monotonic.saturating_add(backoff.delay(failures, rng).max(clamped(retry_after)))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const START: Now = Now {
        wall: Timestamp::from_millis(1_795_000_000_000),
        monotonic: Duration::from_secs(1_000),
    };

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 16])
    }

    fn problem(kind: ProblemKind) -> Problem {
        Problem { kind, status: None, code: None, request_id: None, message: "no".to_owned() }
    }

    fn unauthorized() -> Observation {
        Observation::Unauthorized(problem(ProblemKind::Unauthorized))
    }

    fn limited(seconds: u64) -> Observation {
        Observation::RateLimited {
            problem: problem(ProblemKind::RateLimited),
            retry_after: Some(Duration::from_secs(seconds)),
        }
    }

    struct Driven {
        breaker: Breaker,
        now: Now,
        rng: StdRng,
    }

    impl Driven {
        fn new() -> Self {
            Self { breaker: Breaker::default(), now: START, rng: StdRng::seed_from_u64(3) }
        }

        fn answer(&mut self, n: u8, observation: &Observation) -> Option<Turn> {
            let policy = Policy::default();
            self.breaker.answered(id(n), observation, 100, self.now, &policy, &mut self.rng)
        }

        /// Lets the time of the probe come and sends it.
        fn probe(&mut self, n: u8) {
            if let Gate::Closed(Some(wait)) = self.breaker.gate(self.now) {
                self.now.monotonic += wait;
            }
            assert_eq!(self.breaker.gate(self.now), Gate::Probe);
            self.breaker.polling(id(n));
            assert_eq!(self.breaker.gate(self.now), Gate::Closed(None));
        }
    }

    #[test]
    fn opens_after_three_sessions_failed_in_a_row_and_tells_it_once() {
        let mut driven = Driven::new();
        assert_eq!(driven.answer(1, &unauthorized()), None);
        assert_eq!(driven.answer(2, &unauthorized()), None);
        let turn = driven.answer(3, &unauthorized());
        assert!(matches!(turn, Some(Turn::Opened { cause: Cause::Unauthorized, .. })));
        assert_eq!(driven.answer(4, &unauthorized()), None);
        driven.probe(5);
        assert_eq!(driven.answer(5, &unauthorized()), None);
        driven.probe(6);
        assert_eq!(
            driven.answer(6, &Observation::Ongoing),
            Some(Turn::Closed {
                cause: Cause::Unauthorized,
                since: START.wall,
                told: true,
                spread: false
            })
        );
        assert_eq!(driven.breaker.gate(driven.now), Gate::Open);
    }

    #[test]
    fn one_session_that_is_refused_for_ever_pauses_no_other() {
        let mut driven = Driven::new();
        for _ in 0..50 {
            assert_eq!(driven.answer(1, &unauthorized()), None);
        }
        assert_eq!(driven.answer(2, &Observation::Ongoing), None);
        for _ in 0..50 {
            assert_eq!(driven.answer(1, &unauthorized()), None);
            assert_eq!(driven.answer(2, &Observation::Ongoing), None);
        }
    }

    #[test]
    fn where_there_is_one_session_its_failures_are_enough() {
        let policy = Policy::default();
        let mut driven = Driven::new();
        let turns: Vec<_> = (0..3)
            .map(|_| {
                let Driven { breaker, now, rng } = &mut driven;
                breaker.answered(id(1), &unauthorized(), 1, *now, &policy, rng)
            })
            .collect();
        assert!(matches!(turns[..], [None, None, Some(Turn::Opened { .. })]));
    }

    #[test]
    fn a_rate_limit_opens_at_once_and_its_retry_after_is_kept() {
        let mut driven = Driven::new();
        assert_eq!(driven.answer(1, &limited(7)), None);
        let Gate::Closed(Some(wait)) = driven.breaker.gate(driven.now) else { panic!() };
        assert!(wait >= Duration::from_secs(7));
        // Another poll that was under way is told to wait longer.
        assert_eq!(driven.answer(2, &limited(30)), None);
        let Gate::Closed(Some(wait)) = driven.breaker.gate(driven.now) else { panic!() };
        assert!(wait >= Duration::from_secs(30));
        driven.probe(3);
        let turn = driven.answer(3, &limited(7));
        assert!(matches!(turn, Some(Turn::Opened { cause: Cause::RateLimited, .. })));
        driven.probe(3);
        assert!(matches!(driven.answer(3, &Observation::Ongoing), Some(Turn::Closed { .. })));
    }

    #[test]
    fn a_single_429_makes_a_pause_and_no_event() {
        let mut driven = Driven::new();
        assert_eq!(driven.answer(1, &limited(7)), None);
        driven.probe(2);
        let turn = driven.answer(2, &Observation::Ongoing);
        assert!(matches!(turn, Some(Turn::Closed { told: false, .. })));
        assert_eq!(driven.breaker.gate(driven.now), Gate::Open);
    }

    #[test]
    fn garbage_neither_opens_nor_closes() {
        let garbage = Observation::Malformed(problem(ProblemKind::Malformed));
        let mut driven = Driven::new();
        for n in 1..50 {
            assert_eq!(driven.answer(n, &garbage), None);
        }
        assert_eq!(driven.breaker.gate(driven.now), Gate::Open);
        for n in 1..=3 {
            assert_eq!(driven.answer(1, &garbage), None);
            assert_eq!(driven.answer(n, &unauthorized()).is_some(), n == 3);
        }
        driven.probe(1);
        assert_eq!(driven.answer(1, &garbage), None);
        assert!(matches!(driven.breaker.gate(driven.now), Gate::Closed(Some(_))));
    }

    #[test]
    fn an_answer_from_before_the_opening_closes_nothing() {
        let mut driven = Driven::new();
        driven.answer(1, &limited(7));
        assert_eq!(driven.answer(2, &Observation::Ongoing), None);
        assert!(matches!(driven.breaker.gate(driven.now), Gate::Closed(Some(_))));
    }

    #[test]
    fn a_failure_from_before_the_opening_is_not_the_probes() {
        let mut driven = Driven::new();
        driven.answer(1, &limited(7));
        driven.probe(2);
        assert_eq!(driven.answer(3, &limited(7)), None, "one 429 is no news");
        assert_eq!(driven.breaker.gate(driven.now), Gate::Closed(None), "the probe is under way");
        let closed = driven.answer(2, &Observation::Ongoing);
        assert!(matches!(closed, Some(Turn::Closed { told: false, .. })), "{closed:?}");
    }

    #[test]
    fn it_says_why_and_since_when_it_is_open() {
        let mut driven = Driven::new();
        let skewed = Observation::Unauthorized(problem(ProblemKind::ClockSkew));
        for n in 1..=3 {
            assert_eq!(driven.breaker.open(), None);
            driven.answer(n, &skewed);
        }
        assert_eq!(driven.breaker.open(), Some((Cause::ClockSkew, START.wall)));
    }

    #[test]
    fn a_cause_is_counted_under_the_word_that_events_have_for_it() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
    }

    #[test]
    fn probes_come_at_growing_distances_with_a_limit() {
        let mut driven = Driven::new();
        driven.answer(1, &limited(0));
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let before = driven.now;
            driven.probe(1);
            longest = longest.max(driven.now.monotonic.saturating_sub(before.monotonic));
            driven.answer(1, &limited(0));
        }
        assert!(longest > Duration::from_secs(200), "{longest:?}");
        assert!(longest <= Policy::default().backoff_max);
    }

    #[test]
    fn a_restart_finds_it_open_and_probes_at_once() {
        let now = START;
        let mut breaker = Breaker::resume(Some((Cause::Unreachable, START.wall)));
        assert_eq!(breaker.gate(now), Gate::Probe);
        breaker.polling(id(1));
        let mut rng = StdRng::seed_from_u64(1);
        let policy = Policy::default();
        let turn = breaker.answered(id(1), &Observation::Ongoing, 1, now, &policy, &mut rng);
        assert!(matches!(turn, Some(Turn::Closed { cause: Cause::Unreachable, told: true, .. })));
    }
}
