//! What is true: the sessions, what applicants do at their branches, and how the API answers.

use std::time::Duration;

use ibvwatch::domain::{
    Cause, Entry, Labels, Listed, Observation, Problem, ProblemKind, SessionId, Snapshot,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use super::clock::{At, DAY, HOUR, MINUTE, SECOND, Virtual, evening, span};

pub(crate) const SESSIONS: usize = 10_000;
pub(crate) const DAYS: At = 30;

/// Of the sessions that are there from the beginning: those that expire together on one
/// evening and fit, and those that expire together on another and are too many.
pub(crate) const COHORT: std::ops::Range<usize> = 0..400;
pub(crate) const COHORT_EVENING: At = evening(10);
pub(crate) const CROWD: std::ops::Range<usize> = 400..1_600;
pub(crate) const CROWD_EVENING: At = evening(14);

/// Those whose resources change all the time for some hours, so that they stay active.
const RESTLESS: std::ops::Range<usize> = 1_600..1_800;
pub(crate) const RESTLESS_TIME: std::ops::Range<At> = 17 * DAY..17 * DAY + 7 * HOUR;

const KINDS: [&str; 3] = ["ID_DOCUMENT", "SUPPLEMENTARY_DOCUMENT", "FACE_CAPTURE"];
const REQUIRED: &str = "REQUIRED";
const IN_PROGRESS: &str = "IN_PROGRESS";
const COMPLETE: &str = "COMPLETE";

/// One session as it really is.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) id: SessionId,
    pub(crate) tracked: At,
    pub(crate) deadline: At,
    /// In order of time.
    pub(crate) changes: Vec<Change>,
    pub(crate) completed: Option<At>,
    pub(crate) deleted: Option<At>,
    pub(crate) untracked: Option<At>,
    pub(crate) trouble: Option<Trouble>,
    /// Cadence that its file asks for, in place of the configured one.
    pub(crate) interval: Option<Duration>,
    /// Deadline that its file states, sooner than the API's.
    pub(crate) said: Option<At>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) at: At,
    pub(crate) resource: usize,
    pub(crate) to: &'static str,
}

/// What goes wrong with one session and no other, from one time to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    pub(crate) from: At,
    pub(crate) to: At,
    pub(crate) kind: TroubleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    Garbage,
    ServerError,
    /// Both endpoints deny the session, for less than the minute that it takes to be believed.
    Missing,
    /// The session endpoint fails and can confirm nothing.
    Unconfirmed,
}

/// A time in which the API can't be used, or not as much as one would.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) from: At,
    pub(crate) to: At,
    pub(crate) kind: OutageKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutageKind {
    Unreachable,
    ServerError,
    Unauthorized,
    /// 429 to all, with or without `Retry-After`.
    RateLimited(Option<Duration>),
    /// 429 to those who ask more than so many times a second.
    Throttled(u64),
}

impl OutageKind {
    pub(crate) const fn cause(self) -> Cause {
        match self {
            Self::Unreachable => Cause::Unreachable,
            Self::ServerError => Cause::ServerError,
            Self::Unauthorized => Cause::Unauthorized,
            Self::RateLimited(_) | Self::Throttled(_) => Cause::RateLimited,
        }
    }
}

pub(crate) struct World {
    pub(crate) sessions: Vec<Truth>,
    pub(crate) outages: Vec<Outage>,
    /// The second in which requests were last let through a throttle, and how many.
    let_through: (At, u64),
}

/// What comes back for a request, and how long after it was served.
pub(crate) struct Reply {
    pub(crate) observation: Observation,
    pub(crate) way_back: At,
}

impl World {
    pub(crate) fn new(outages: Vec<Outage>, rng: &mut StdRng) -> Self {
        let sessions = (0..SESSIONS).map(|n| Truth::draw(n, rng)).collect();
        Self { sessions, outages, let_through: (0, 0) }
    }

    pub(crate) fn outage(&self, at: At) -> Option<Outage> {
        self.outages.iter().copied().find(|outage| (outage.from..outage.to).contains(&at))
    }

    /// What a request for the configuration is answered that the API sees at that moment.
    pub(crate) fn configuration(&mut self, n: usize, at: At, rng: &mut StdRng) -> Reply {
        self.reply(at, rng, |world, rng| world.sessions[n].configuration(n, at, rng))
    }

    pub(crate) fn state(&mut self, n: usize, at: At, rng: &mut StdRng) -> Reply {
        self.reply(at, rng, |world, _| world.sessions[n].state(at))
    }

    fn reply(
        &mut self,
        at: At,
        rng: &mut StdRng,
        answer: impl FnOnce(&Self, &mut StdRng) -> Observation,
    ) -> Reply {
        let way_back = rng.random_range(50..250);
        let observation = match self.outage(at).map(|outage| outage.kind) {
            None => answer(self, rng),
            Some(OutageKind::Unreachable) => {
                let observation = Observation::Unreachable(problem(ProblemKind::Unreachable));
                return Reply { observation, way_back: 10 * SECOND };
            }
            Some(OutageKind::ServerError) => Observation::ServerError {
                problem: problem(ProblemKind::ServerError),
                retry_after: None,
            },
            Some(OutageKind::Unauthorized) => {
                Observation::Unauthorized(problem(ProblemKind::Unauthorized))
            }
            Some(OutageKind::RateLimited(retry_after)) => limited(retry_after),
            Some(OutageKind::Throttled(most)) => {
                let second = at / SECOND;
                let (last, count) = self.let_through;
                let count = if last == second { count + 1 } else { 1 };
                self.let_through = (second, count);
                if count > most { limited(Some(Duration::from_secs(5))) } else { answer(self, rng) }
            }
        };
        Reply { observation, way_back }
    }
}

impl Truth {
    fn draw(n: usize, rng: &mut StdRng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        let place = u32::try_from(n).expect("few sessions");
        bytes[12..].copy_from_slice(&place.to_be_bytes());
        let tracked = if n < 6_000 { 0 } else { rng.random_range(0..12 * DAY) };
        let together = COHORT.contains(&n) || CROWD.contains(&n);
        let restless = RESTLESS.contains(&n);
        let deadline = if restless {
            evening(22)
        } else if COHORT.contains(&n) {
            COHORT_EVENING
        } else if CROWD.contains(&n) {
            CROWD_EVENING
        } else {
            evening(tracked / DAY + rng.random_range(7..=30))
        };
        let mut truth = Self {
            id: SessionId::from_bytes(bytes),
            tracked,
            deadline,
            changes: Vec::new(),
            completed: None,
            deleted: None,
            untracked: None,
            trouble: None,
            interval: None,
            said: None,
        };
        if restless {
            truth.restless(rng);
        }
        if together || restless {
            return truth;
        }
        let life = tracked + HOUR..deadline;
        match rng.random_range(0..1_000) {
            0..650 => truth.visited(rng),
            650..670 => truth.deleted = Some(rng.random_range(life)),
            670..690 => truth.untracked = Some(rng.random_range(life)),
            690..740 => {
                truth.said = Some(tracked + rng.random_range(6 * DAY..deadline - tracked));
            }
            740..790 => truth.interval = Some(Duration::from_secs(20 * 60)),
            _ => {}
        }
        if rng.random_range(0..20) == 0 {
            let mut trouble = Trouble::draw(tracked..deadline, rng);
            if let (TroubleKind::Unconfirmed, Some(completed)) = (trouble.kind, truth.completed) {
                // Just when there is something to confirm.
                trouble.to = completed + (trouble.to - trouble.from);
                trouble.from = completed - MINUTE;
            }
            truth.trouble = Some(trouble);
        }
        truth
    }

    fn restless(&mut self, rng: &mut StdRng) {
        let mut at = RESTLESS_TIME.start + rng.random_range(0..5 * MINUTE);
        for to in [IN_PROGRESS, REQUIRED].into_iter().cycle() {
            if at >= RESTLESS_TIME.end {
                break;
            }
            self.changes.push(Change { at, resource: 0, to });
            at += rng.random_range(4 * MINUTE..6 * MINUTE);
        }
    }

    /// An applicant comes to the branch within its hours and hands in one document after the
    /// other, as in the one visit that is documented: slower or faster.
    fn visited(&mut self, rng: &mut StdRng) {
        let day = rng.random_range(self.tracked / DAY..self.deadline / DAY);
        let opens = day * DAY + rng.random_range(0..8 * HOUR + 30 * MINUTE);
        let begun = opens.max(self.tracked + MINUTE);
        let pace = rng.random_range(0.5..2.0);
        let after = |seconds: u32| -> At {
            begun + super::clock::millis(Duration::from_secs(seconds.into()).mul_f64(pace))
        };
        let steps = [
            (0, 0, IN_PROGRESS),
            (153, 0, COMPLETE),
            (325, 1, COMPLETE),
            (400, 2, IN_PROGRESS),
            (452, 2, COMPLETE),
        ];
        let change = |(seconds, resource, to)| Change { at: after(seconds), resource, to };
        self.changes = steps.map(change).to_vec();
        // Some leave before everything is handed in.
        if rng.random_range(0..10) == 0 {
            self.changes.truncate(3);
        } else {
            self.completed = Some(after(572));
        }
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry {
            session_id: self.id,
            labels: Labels::default(),
            expires_at: self.said.map(Virtual::true_wall),
            interval: self.interval,
        }
    }

    /// Each resource's state at that moment.
    pub(crate) fn states(&self, at: At) -> [&'static str; 3] {
        let mut states = [REQUIRED; 3];
        for change in self.changes.iter().take_while(|change| change.at <= at) {
            states[change.resource] = change.to;
        }
        states
    }

    fn troubled(&self, at: At) -> Option<TroubleKind> {
        self.trouble.filter(|t| (t.from..t.to).contains(&at)).map(|t| t.kind)
    }

    fn configuration(&self, n: usize, at: At, rng: &mut StdRng) -> Observation {
        match self.troubled(at) {
            Some(TroubleKind::Garbage) => {
                return Observation::Malformed(problem(ProblemKind::Malformed));
            }
            Some(TroubleKind::ServerError) => {
                let problem = problem(ProblemKind::ServerError);
                return Observation::ServerError { problem, retry_after: None };
            }
            Some(TroubleKind::Missing) => return missing(),
            Some(TroubleKind::Unconfirmed) | None => {}
        }
        if self.deleted.is_some_and(|deleted| deleted <= at) {
            return missing();
        }
        if self.deadline <= at {
            return conflict();
        }
        let completed = self.completed.is_some_and(|completed| completed <= at);
        // What the API answers after completion is not known: it may be any of these.
        match (completed, n % 3) {
            (true, 0) => conflict(),
            (true, 1) => missing(),
            _ => {
                // Servers whose clocks differ a little.
                let left = (self.deadline - at) / SECOND + rng.random_range(0..4);
                let listed = |(kind, state): (&&str, &str)| {
                    Listed::new(Some(kind), Some("d430440c-5c6d"), Some(state))
                };
                let resources: Vec<_> = KINDS.iter().zip(self.states(at)).map(listed).collect();
                Observation::Configuration(Snapshot {
                    ttl: Some(span(left * SECOND)),
                    listing: resources.into(),
                })
            }
        }
    }

    fn state(&self, at: At) -> Observation {
        match self.troubled(at) {
            Some(TroubleKind::Garbage | TroubleKind::Unconfirmed) => {
                return Observation::Malformed(problem(ProblemKind::Malformed));
            }
            Some(TroubleKind::ServerError) => {
                let problem = problem(ProblemKind::ServerError);
                return Observation::ServerError { problem, retry_after: None };
            }
            Some(TroubleKind::Missing) => return missing(),
            None => {}
        }
        if self.deleted.is_some_and(|deleted| deleted <= at) {
            missing()
        } else if self.completed.is_some_and(|completed| completed <= at) {
            Observation::Completed
        } else if self.deadline <= at {
            Observation::Expired
        } else {
            Observation::Ongoing
        }
    }
}

impl Trouble {
    fn draw(life: std::ops::Range<At>, rng: &mut StdRng) -> Self {
        let from = rng.random_range(life);
        let (kind, lasts) = match rng.random_range(0..4) {
            0 => (TroubleKind::Garbage, rng.random_range(0..2 * DAY)),
            // A minute and a bit, so that the poll after the first denial finds the session.
            1 => (TroubleKind::Missing, 55 * SECOND),
            2 => (TroubleKind::Unconfirmed, rng.random_range(0..2 * DAY)),
            _ => (TroubleKind::ServerError, rng.random_range(0..6 * HOUR)),
        };
        Self { from, to: from + lasts, kind }
    }
}

fn missing() -> Observation {
    Observation::NotFound(problem(ProblemKind::NotFound))
}

fn conflict() -> Observation {
    Observation::NotReady(problem(ProblemKind::NotReady))
}

fn limited(retry_after: Option<Duration>) -> Observation {
    Observation::RateLimited { problem: problem(ProblemKind::RateLimited), retry_after }
}

fn problem(kind: ProblemKind) -> Problem {
    Problem { kind, status: None, code: None, request_id: None, message: String::new() }
}

/// Which session that is.
pub(crate) fn number(id: SessionId) -> usize {
    let bytes = id.as_bytes();
    let place = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    usize::try_from(place).expect("a small number")
}
