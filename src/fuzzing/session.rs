//! The session state machine against a model that is written from the contract: what a consumer
//! of the events can rely on, and when a life ends.

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::model::{Model, kinds, sees};
use crate::domain::{
    EndReason, Entry, EventKind, Exchange, Labels, Listed, Observation, Policy, Problem,
    ProblemKind, Progress, Resource, ResourceKey, ResourceState, Session, SessionId, Snapshot,
    Step, Timestamp, Transition,
};

#[derive(Debug, Arbitrary)]
struct Input {
    settings: Settings,
    seed: u64,
    acts: Vec<Act>,
}

#[derive(Debug, Arbitrary)]
struct Settings {
    interval: u16,
    active_for: u16,
    unknown_ttl: u32,
    failing_after: u8,
    expiring_before: u16,
    stop_on_completed: bool,
    confirm: bool,
}

#[derive(Debug, Arbitrary)]
enum Act {
    Wait {
        millis: u32,
    },
    /// Until the session wants attention.
    Sleep,
    Poll {
        answer: Said,
        state: Said,
        took: u16,
        outage: bool,
    },
    Elapse,
    Amend {
        expires_in: Option<u32>,
        interval: Option<u16>,
        label: bool,
    },
    Untrack,
    Track,
    /// The wall clock is set.
    Set {
        seconds: i32,
    },
    Restart,
}

#[derive(Debug, Arbitrary)]
enum Said {
    Configuration { ttl: Option<u32>, listed: Vec<Item> },
    Absurd { ttl: u64, listed: Vec<Item> },
    Ongoing,
    Completed,
    Expired,
    NotReady,
    NotFound,
    Unauthorized,
    RateLimited { retry_after: Option<u32> },
    ServerError { retry_after: Option<u32> },
    Unreachable,
    Malformed,
}

/// Of few types, ids and states, so that there are equals.
#[derive(Debug, Arbitrary)]
struct Item(u8);

impl Item {
    fn listed(&self) -> Listed {
        let kind = ["ID_DOCUMENT", "LIVENESS"][usize::from(self.0 & 1)];
        let id = ["a", "b"][usize::from(self.0 >> 1 & 1)];
        let state = ["REQUIRED", "IN_PROGRESS", "COMPLETE", "ODD"][usize::from(self.0 >> 2 & 3)];
        Listed::new(Some(kind), Some(id), Some(state))
    }
}

impl Said {
    fn observation(&self) -> Observation {
        let problem = |kind| Problem {
            kind,
            status: None,
            code: None,
            request_id: None,
            message: "it failed".to_owned(),
        };
        let seconds = |wait: &Option<u32>| wait.map(|wait| Duration::from_secs(wait.into()));
        let configuration = |ttl, listed: &[Item]| {
            let resources: Vec<_> = listed.iter().take(12).map(Item::listed).collect();
            Observation::Configuration(Snapshot { ttl, listing: resources.into() })
        };
        match self {
            Self::Configuration { ttl, listed } => configuration(seconds(ttl), listed),
            Self::Absurd { ttl, listed } => configuration(Some(Duration::from_secs(*ttl)), listed),
            Self::Ongoing => Observation::Ongoing,
            Self::Completed => Observation::Completed,
            Self::Expired => Observation::Expired,
            Self::NotReady => Observation::NotReady(problem(ProblemKind::NotReady)),
            Self::NotFound => Observation::NotFound(problem(ProblemKind::NotFound)),
            Self::Unauthorized => Observation::Unauthorized(problem(ProblemKind::Unauthorized)),
            Self::RateLimited { retry_after } => Observation::RateLimited {
                problem: problem(ProblemKind::RateLimited),
                retry_after: seconds(retry_after),
            },
            Self::ServerError { retry_after } => Observation::ServerError {
                problem: problem(ProblemKind::ServerError),
                retry_after: seconds(retry_after),
            },
            Self::Unreachable => Observation::Unreachable(problem(ProblemKind::Unreachable)),
            Self::Malformed => Observation::Malformed(problem(ProblemKind::Malformed)),
        }
    }
}

pub(super) fn session_machine(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let seconds = |seconds: u64| Duration::from_secs(seconds);
    let policy = Policy {
        interval: seconds(u64::from(input.settings.interval) + 1),
        active_interval: seconds(1),
        active_for: seconds(input.settings.active_for.into()),
        unknown_ttl: seconds(u64::from(input.settings.unknown_ttl) + 1),
        failing_after: u32::from(input.settings.failing_after % 5) + 1,
        expiring_before: seconds(input.settings.expiring_before.into()),
        stop_on_completed: input.settings.stop_on_completed,
        confirm: input.settings.confirm,
        ..Policy::default()
    };
    let mut run = Run::begin(policy, input.seed);
    for act in input.acts.iter().take(200) {
        run.act(act);
    }
}

struct Run {
    session: Session,
    model: Model,
    now: Timestamp,
    policy: Policy,
    rng: StdRng,
    /// Whether the session may outlive its deadline, since nobody looked when it passed.
    overtime: bool,
}

impl Run {
    fn begin(policy: Policy, seed: u64) -> Self {
        let now = Timestamp::from_millis(1_795_000_000_000);
        let entry = Entry {
            session_id: SessionId::from_bytes([7; 16]),
            labels: Labels::default(),
            expires_at: None,
            interval: None,
        };
        let begun = Session::track(entry, 0, now, &policy);
        let rng = StdRng::seed_from_u64(seed);
        let mut run = Self {
            session: begun.session.clone(),
            model: Model::default(),
            now,
            policy,
            rng,
            overtime: false,
        };
        assert_eq!(kinds(&begun.events)[..1], [EventKind::SessionTracked]);
        run.take(begun, None);
        run
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Wait { millis } => {
                self.now = self.now.plus(Duration::from_millis((*millis).into()));
            }
            Act::Sleep => {
                if let Some(wake) = self.session.wake(&self.policy) {
                    let poll = wake.poll.map_or(wake.timer, |(at, _)| at);
                    self.now = self.now.max(poll.min(wake.timer));
                }
            }
            Act::Poll { answer, state, took, outage } => self.poll(answer, state, *took, *outage),
            Act::Elapse => {
                let transition = self.session.elapse(self.now, &self.policy);
                self.take(transition, None);
            }
            Act::Amend { expires_in, interval, label } => {
                self.amend(*expires_in, *interval, *label);
            }
            Act::Untrack => {
                let was_listed = self.session.is_listed();
                let transition = self.session.untrack(self.now);
                assert_eq!(transition.is_some(), was_listed);
                if let Some(transition) = transition {
                    assert!(transition.session.ended().is_some());
                    self.take(transition, Some(EndReason::Untracked));
                }
            }
            Act::Track => self.track_again(),
            Act::Set { seconds } => {
                let moved = self.now.as_millis() + i64::from(*seconds) * 1_000;
                let now = Timestamp::from_millis(moved);
                let step = Step::between(self.now, now);
                self.session = self.session.stepped(step, now, &self.policy);
                self.model.missing_since = self.model.missing_since.map(|at| step.of(at));
                self.now = now;
                self.holds();
            }
            Act::Restart => {
                let kept = serde_json::to_string(&self.session).expect("a session that is kept");
                self.session = serde_json::from_str(&kept).expect("a session as it was kept");
                let again = serde_json::to_string(&self.session).expect("a session that is kept");
                assert_eq!(kept, again, "it is not read as it was kept");
                self.session.resume(self.now, &self.policy, &mut self.rng);
                self.overtime = true;
                self.holds();
            }
        }
    }

    fn poll(&mut self, answer: &Said, state: &Said, took: u16, outage: bool) {
        let observation = answer.observation();
        let asked = self.session.asks_state(&observation, &self.policy);
        // The session endpoint has no configurations to give.
        let state = asked.then(|| state.observation());
        let state = state.filter(|word| !matches!(word, Observation::Configuration(_)));
        let sent = self.now;
        self.now = self.now.plus(Duration::from_millis(took.into()));
        let exchange = Exchange { sent, arrived: self.now, outage };
        let transition = self.session.observe(
            observation.clone(),
            state.clone(),
            exchange,
            &self.policy,
            &mut self.rng,
        );
        if self.model.ended.is_some() {
            assert!(transition.events.is_empty() && transition.steady, "told after the end");
            return;
        }
        let before = self.model.resources.clone();
        let (was_observed, was_failing) = (self.model.observed, self.model.failing);
        let obliged =
            self.model.hears(&observation, state.as_ref(), outage, self.now, &self.policy);
        let told = kinds(&transition.events);
        let has = |kind| told.contains(&kind);
        assert_eq!(has(EventKind::SessionPollFailing), !was_failing && obliged.failing, "{told:?}");
        assert_eq!(has(EventKind::SessionPollRecovered), was_failing && obliged.recovered);
        assert_eq!(has(EventKind::SessionCompleted), obliged.completed, "{told:?}");
        if let Observation::Configuration(snapshot) = &observation {
            let listed = snapshot.listing.resources().expect("what was read");
            sees(listed, &before, was_observed, &transition.events);
        }
        let ended = transition.session.ended().map(|(reason, _)| reason);
        if let Some(reason) = obliged.end {
            assert_eq!(ended, Some(reason), "{observation:?}");
        }
        let due = self.session.cadence(self.now, &self.policy).mul_f64(1.0 + self.policy.jitter);
        let latest = due
            .max(self.policy.interval.mul_f64(1.0 + self.policy.jitter))
            .max(transition.session.cadence(self.now, &self.policy).mul_f64(1.2))
            .max(self.policy.backoff_max)
            .max(Policy::RETRY_AFTER_MAX)
            .max(Duration::from_secs(120));
        let poll_at = transition.session.schedule().poll_at;
        assert!(
            poll_at <= self.now.plus(latest),
            "the next poll is {:?} away",
            poll_at.since(self.now)
        );
        self.take(transition, obliged.end);
    }

    fn amend(&mut self, expires_in: Option<u32>, interval: Option<u16>, label: bool) {
        let labels = label.then(|| ("case".to_owned(), "A-17".to_owned()));
        let entry = Entry {
            labels: Labels::new(labels.into_iter().collect()).expect("labels within bounds"),
            expires_at: expires_in.map(|wait| self.now.plus(Duration::from_secs(wait.into()))),
            interval: interval.map(|wait| Duration::from_secs(u64::from(wait) + 1)),
            ..self.session.entry().clone()
        };
        if let Some(transition) = self.session.amend(entry.clone(), self.now, &self.policy) {
            assert!(self.model.ended.is_none(), "an ended session is amended");
            assert_eq!(*transition.session.entry(), entry);
            self.take(transition, None);
        }
    }

    fn track_again(&mut self) {
        if self.session.is_listed() {
            return;
        }
        let entry = self.session.entry().clone();
        let sequence = self.session.sequence();
        let transition = Session::track(entry, sequence, self.now, &self.policy);
        assert_eq!(kinds(&transition.events)[..1], [EventKind::SessionTracked]);
        self.model = Model { sequence, ..Model::default() };
        self.overtime = false;
        self.take(transition, None);
    }

    /// Reads the events as a consumer does, and holds what is left against the session.
    fn take(&mut self, transition: Transition, obliged: Option<EndReason>) {
        let Transition { session, events, steady } = transition;
        if steady {
            let kept = |session| serde_json::to_value(session).expect("a session that is kept");
            let (before, after) = (kept(&self.session), kept(&session));
            assert!(events.is_empty() && before["life"] == after["life"], "something came of it");
            assert_eq!(before["entry"], after["entry"]);
        }
        let progress_before = self.session.progress();
        self.session = session;
        for event in &events {
            assert!(self.model.ended.is_none(), "{event:?} is told after the end");
            self.model.reads(event);
            assert_eq!(event.time, self.now);
            assert_eq!(event.labels, self.session.entry().labels);
            // That polls succeed again is told before what they say.
            let recovered = event.kind() == EventKind::SessionPollRecovered;
            let progress = if recovered { progress_before } else { self.session.progress() };
            assert_eq!(event.progress, progress, "{event:?}");
        }
        if let Some(reason) = self.model.ended
            && obliged != Some(reason)
            && events.iter().any(|event| event.kind() == EventKind::SessionEnded)
        {
            assert_eq!(reason, EndReason::Expired, "it ends for no reason");
            assert!(self.now >= self.session.expires_at(), "it expires before its deadline");
        }
        if self.session.ended().is_none() && !self.overtime {
            assert!(self.now < self.session.expires_at(), "it goes on after its deadline");
        }
        self.holds();
    }

    fn holds(&self) {
        assert_eq!(self.session.sequence(), self.model.sequence);
        assert_eq!(self.session.ended().map(|(reason, _)| reason), self.model.ended);
        let resources: BTreeMap<ResourceKey, ResourceState> = self
            .session
            .resources()
            .iter()
            .map(|Resource { key, state }| (key.clone(), state.clone()))
            .collect();
        assert_eq!(resources, self.model.resources, "a consumer believes something else");
        let count = |state: &str| {
            let equal = resources.values().filter(|other| other.as_str() == state).count();
            u32::try_from(equal).expect("few resources")
        };
        let [required, in_progress, complete] = ["REQUIRED", "IN_PROGRESS", "COMPLETE"].map(count);
        let total = u32::try_from(resources.len()).expect("few resources");
        let other = total - required - in_progress - complete;
        let progress = Progress { total, required, in_progress, complete, other };
        assert_eq!(self.session.progress(), progress);
        let wake = self.session.wake(&self.policy);
        assert_eq!(wake.is_none(), self.model.ended.is_some(), "{wake:?}");
    }
}
