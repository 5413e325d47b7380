//! What was told, held against what happened.
//!
//! The simulator knows each change to the millisecond and when it answered whom. From that
//! follows which changes a daemon must tell: those that stood when an answer went out to a daemon
//! that lived to record it. How often it asks is another matter, and this does not depend on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use ibvwatch::clock::{Clock, SystemClock};
use ibvwatch::domain::{SessionId, Timestamp};
use ibvwatch::sim::{Change, Endpoint, Happening, Outcome, SessionState, World};
use serde_json::Value;
use tokio::time::Instant;

use super::{Event, Run, lines};

/// By how much two readings of one machine's clocks may differ.
const TICK: Duration = Duration::from_millis(5);
/// From the arrival of a request until its answer is made up, on a busy machine.
const SLACK: Duration = Duration::from_millis(100);
/// A lease of a session lasts for 15 s, and is no older than the answer before: where three answers
/// follow each other so soon, no lease can have run out behind the one in the middle.
const IN_TURN: Duration = Duration::from_secs(5);
/// Of two answers that are no further apart, one was to a node that didn't have the session, and what
/// it decides is refused. Whoever asks in turn asks 2 s later, less at most a tenth of it.
const SIDE_BY_SIDE: Duration = Duration::from_millis(1_750);
/// Pipes of several processes are read apart, on a busy machine.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// Requests of a process that was killed may still arrive for so long.
const AFTERMATH: Duration = Duration::from_millis(250);

/// Values of one resource, each from that moment on; none while it isn't listed.
type Timeline = Vec<(Timestamp, Option<String>)>;

/// What truly happened.
pub(crate) struct Truth(BTreeMap<SessionId, Life>);

struct Life {
    resources: BTreeMap<String, Timeline>,
    /// When good answers were given.
    answers: Vec<Timestamp>,
    completed: bool,
}

/// What all runs of a daemon told, one after the other.
#[derive(Default)]
pub(crate) struct Deliveries {
    runs: Vec<Ended>,
    /// Each event once, in order of sequence.
    events: BTreeMap<u64, Event>,
    lines: usize,
    /// They are of several nodes that share one log.
    shared: bool,
}

struct Ended {
    at: Timestamp,
    /// It did not stop in good order.
    killed: bool,
}

/// One thing told of a resource, and the time within which it came about.
struct Told {
    after: Timestamp,
    before: Timestamp,
    value: Option<String>,
}

/// How much there was to hold against each other.
#[derive(Debug)]
pub(crate) struct Score {
    pub(crate) happened: usize,
    /// Changes that answers showed for certain.
    pub(crate) due: usize,
    pub(crate) told: usize,
}

impl Deliveries {
    /// Takes in what a run printed. Call it right after the run's end.
    pub(crate) fn add(&mut self, run: &Run) {
        let at = SystemClock.now().wall;
        let mut last = None;
        for event in run.events() {
            let sequence = event.sequence();
            assert!(last < Some(sequence), "out of order: {}", event.line);
            if let (Some(last), Some((known, _))) = (last, self.events.last_key_value()) {
                assert!(sequence == last + 1 || sequence <= *known + 1, "a gap: {}", event.line);
            }
            last = Some(sequence);
            self.lines += 1;
            let line = event.line.clone();
            let first = self.events.entry(sequence).or_insert(event);
            assert_eq!(first.line, line, "delivered again, and not the same");
        }
        self.runs.push(Ended { at, killed: run.status.code() != Some(0) });
    }

    /// Takes in what nodes told that share one log, some of them at the same time.
    pub(crate) fn of_nodes(runs: &[Run]) -> Self {
        let mut all = Self { shared: true, ..Self::default() };
        let mut told = Vec::new();
        for (run, output) in runs.iter().enumerate() {
            told.extend(output.told().map(|(at, event)| (at, run, event)));
        }
        told.sort_by_key(|(at, ..)| *at);
        let mut firsts: HashMap<Option<SessionId>, (Instant, usize, u64)> = HashMap::new();
        for (at, run, event) in told {
            all.lines += 1;
            let sequence = event.sequence();
            if all.events.contains_key(&sequence) {
                assert_eq!(all.events[&sequence].line, event.line, "delivered again, and changed");
                continue;
            }
            let last = firsts.entry(event.session()).or_insert((at, run, sequence));
            let is_later = run == last.1 || at > last.0 + READ_WITHIN;
            assert!(sequence >= last.2 || !is_later, "told after what came later: {}", event.line);
            if sequence >= last.2 {
                *last = (at, run, sequence);
            }
            all.events.insert(sequence, event);
        }
        all
    }

    /// Each event once, as lines.
    pub(crate) fn text(&self) -> String {
        lines(self.events.values())
    }

    pub(crate) fn redelivered(&self) -> usize {
        self.lines - self.events.len()
    }

    pub(crate) fn kinds(&self) -> BTreeMap<&str, usize> {
        let mut kinds = BTreeMap::new();
        for event in self.events.values() {
            *kinds.entry(event.kind()).or_default() += 1;
        }
        kinds
    }

    pub(crate) fn any(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.values().any(wanted)
    }

    /// Panics at a gap between the events told, or an id that two of them have.
    pub(crate) fn hold_together(&self) {
        let sequences: Vec<u64> = self.events.keys().copied().collect();
        let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
        if !self.shared {
            assert_eq!(sequences, expected, "events are missing from the union of all runs");
        }
        let ids: BTreeSet<&str> = self.events.values().map(Event::id).collect();
        assert_eq!(ids.len(), sequences.len(), "an id belongs to two events");
    }

    /// The run that was under way, unless the last one had only just ended.
    fn run_at(&self, at: Timestamp) -> Option<usize> {
        let run = self.runs.iter().position(|run| at <= run.at)?;
        let fresh = run > 0 && at.since(self.runs[run - 1].at) < AFTERMATH;
        (!fresh).then_some(run)
    }

    fn of(&self, session: SessionId) -> Vec<&Event> {
        self.events.values().filter(|event| event.session() == Some(session)).collect()
    }
}

impl Truth {
    pub(crate) fn of(world: &World) -> Self {
        let mut lives: BTreeMap<SessionId, Life> = BTreeMap::new();
        for id in world.ids() {
            let history = world.history(id).expect("a session that was created");
            let status = world.status(id).expect("a session that was created");
            lives.insert(
                id,
                Life {
                    resources: timelines(&history),
                    answers: Vec::new(),
                    completed: status.state == SessionState::Completed,
                },
            );
        }
        for exchange in world.exchanges() {
            let good = exchange.endpoint == Endpoint::Configuration
                && exchange.outcome == Outcome::Answered(200);
            if let (true, Some(id)) = (good, exchange.session) {
                lives.get_mut(&id).expect("a session that was created").answers.push(exchange.at);
            }
        }
        Self(lives)
    }

    /// Panics at whatever was told and hadn't happened, and at whatever was not told and had to be.
    pub(crate) fn hold_against(&self, deliveries: &Deliveries) -> Score {
        deliveries.hold_together();
        let times: Vec<Timestamp> = deliveries.events.values().map(Event::time).collect();
        let mut score = Score { happened: 0, due: 0, told: 0 };
        for (&id, life) in &self.0 {
            let events = deliveries.of(id);
            in_order(&events);
            life.hold_against(
                &events,
                &|answer| witnessed(answer, &life.answers, deliveries, &times),
                &mut score,
            );
        }
        score
    }

    /// Every resource was last told to be what it now is.
    pub(crate) fn is_known(&self, deliveries: &Deliveries) {
        for (&id, life) in &self.0 {
            let told = told(&deliveries.of(id));
            for (resource, timeline) in &life.resources {
                let last = told.get(resource).and_then(|told| told.last());
                let truth = timeline.last().and_then(|(_, value)| value.clone());
                assert_eq!(last.and_then(|told| told.value.clone()), truth, "{id} {resource}");
            }
        }
    }
}

fn in_order(events: &[&Event]) {
    let ordinals: Vec<u64> = events.iter().map(|event| event.ordinal()).collect();
    let expected: Vec<u64> = (1..=events.len() as u64).collect();
    assert_eq!(ordinals, expected, "session_sequence has gaps or is out of order");
    let ended = events.iter().position(|event| event.kind() == "session.ended");
    assert!(ended.is_none_or(|at| at + 1 == events.len()), "something came after the end");
}

/// Whether what an answer said is certain to have been recorded.
///
/// A daemon that stops in good order records all it was told. Of one that is killed, this is
/// known: it asks again only once it has decided what the last answer means, and what is decided
/// later is not recorded sooner. Among several nodes, one that dies with an answer in its hands, or
/// is cut off, is stood in for once its lease has run out, and no sooner; what an answer meant is
/// recorded where the session is asked about in turn before and after it.
fn witnessed(
    answer: Timestamp,
    answers: &[Timestamp],
    deliveries: &Deliveries,
    recorded: &[Timestamp],
) -> bool {
    let next = answers.iter().find(|next| **next > answer);
    if deliveries.shared {
        let before = answers.iter().rfind(|before| **before < answer);
        let in_turn = |earlier: Timestamp, later: Timestamp| {
            let apart = later.since(earlier);
            apart > SIDE_BY_SIDE && apart < IN_TURN
        };
        return before.is_some_and(|before| in_turn(*before, answer))
            && next.is_some_and(|next| in_turn(answer, *next));
    }
    let Some(run) = deliveries.run_at(answer) else { return false };
    let end = deliveries.runs[run].at;
    if !deliveries.runs[run].killed {
        return true;
    }
    next.is_some_and(|next| recorded.iter().any(|at| *at > next.plus(TICK) && *at < end))
}

impl Life {
    fn hold_against(
        &self,
        events: &[&Event],
        is_witnessed: &dyn Fn(Timestamp) -> bool,
        score: &mut Score,
    ) {
        let all = || lines(events.iter().copied());
        let nexts = self.answers.iter().skip(1).copied().chain([Timestamp::MAX]);
        let answers = self.answers.iter().copied().zip(nexts);
        let witnessed: Vec<_> = answers.filter(|(answer, _)| is_witnessed(*answer)).collect();
        if !events.iter().any(|event| event.kind() == "session.observed") {
            assert!(witnessed.is_empty(), "answered and never observed:\n{}", all());
            return;
        }
        let told = told(events);
        for resource in told.keys() {
            assert!(self.resources.contains_key(resource), "there is no {resource}");
        }
        for (resource, timeline) in &self.resources {
            let told = told.get(resource).map_or(&[][..], Vec::as_slice);
            each_happened(resource, timeline, told);
            let mut seen = BTreeSet::new();
            for (answer, next) in &witnessed {
                let Some(place) = standing(timeline, *answer) else { continue };
                seen.insert(place);
                // Between the arrival of one answer and the next request lies most of an interval.
                let by_then = |told: &&Told| told.before <= next.minus(2 * TICK);
                let known = told.iter().rfind(by_then).and_then(|told| told.value.as_ref());
                let truth = timeline[place].1.as_ref();
                assert_eq!(
                    known,
                    truth,
                    "{resource} in the answer of {answer}, of {}:\n{}",
                    self.answers.iter().map(Timestamp::to_string).collect::<Vec<_>>().join(", "),
                    all()
                );
            }
            score.happened += timeline.len() - 1;
            score.due += seen.len().saturating_sub(1);
            score.told += told.len().saturating_sub(1);
        }
        if let Some(last) = events.last() {
            counts_are_right(last, &told);
        }
        let ended = |event: &&&Event| event.kind() == "session.ended";
        let by_itself = |event: &&&Event| ended(event) && event.text("reason") != "untracked";
        let ends = events.iter().filter(by_itself).count();
        assert!(ends <= usize::from(self.completed), "ended without a reason:\n{}", all());
    }
}

/// Which value an answer gave, unless it came about or went too close to that moment to tell.
fn standing(timeline: &Timeline, answer: Timestamp) -> Option<usize> {
    let place = timeline.iter().rposition(|(at, _)| at.plus(TICK) <= answer)?;
    let next = timeline.get(place + 1).map_or(Timestamp::MAX, |(next, _)| *next);
    (answer.plus(SLACK) <= next).then_some(place)
}

/// The progress in the last event is that of the resources as told.
fn counts_are_right(last: &Event, told: &BTreeMap<String, Vec<Told>>) {
    let mut counts = BTreeMap::from([("total", 0_u64), ("required", 0), ("in_progress", 0)]);
    let values = told.values().filter_map(|told| told.last()?.value.as_deref());
    for value in values {
        *counts.entry("total").or_default() += 1;
        match value {
            "REQUIRED" => *counts.entry("required").or_default() += 1,
            "IN_PROGRESS" => *counts.entry("in_progress").or_default() += 1,
            _ => {}
        }
    }
    for (name, count) in counts {
        assert_eq!(last.data()["progress"][name], count, "{name} in {}", last.line);
    }
}

impl Told {
    fn holds(&self, at: Timestamp) -> bool {
        self.after.minus(TICK) <= at && at <= self.before.plus(TICK)
    }
}

/// Each thing told is another thing that happened, in the same order, within the time told.
fn each_happened(resource: &str, timeline: &Timeline, told: &[Told]) {
    let mut next = 0;
    for told in told {
        let (after, before, value) = (told.after, told.before, &told.value);
        let rest = timeline.iter().enumerate().skip(next);
        let mut happened = rest.filter(|(_, (at, v))| v == value && told.holds(*at));
        let (place, _) = happened.next().unwrap_or_else(|| {
            panic!("{resource} did not become {value:?} from {after} to {before}: {timeline:?}")
        });
        next = place + 1;
    }
}

fn timelines(history: &[Change]) -> BTreeMap<String, Timeline> {
    let mut timelines: BTreeMap<String, Timeline> = BTreeMap::new();
    for Change { at, what } in history {
        let mut note = |resource: &ibvwatch::domain::ResourceKey, value: Option<&str>| {
            let key = serde_json::to_value(resource).expect("a key that is JSON").to_string();
            timelines.entry(key).or_default().push((*at, value.map(str::to_owned)));
        };
        match what {
            Happening::Created { resources } => {
                for resource in resources {
                    note(&resource.key, Some(resource.state.as_str()));
                }
            }
            Happening::StateChanged { resource, to, .. } => note(resource, Some(to.as_str())),
            Happening::Added { resource, state } => note(resource, Some(state.as_str())),
            Happening::Removed { resource, .. } => note(resource, None),
            Happening::Completed | Happening::Expired | Happening::Deleted => {}
        }
    }
    timelines
}

/// The resources as the events of one session tell of them, from the baseline on.
fn told(events: &[&Event]) -> BTreeMap<String, Vec<Told>> {
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    for event in events {
        let data = event.data();
        if event.kind() == "session.observed" {
            for item in data["resources"].as_array().expect("a list of resources") {
                let (after, before) = (Timestamp::MIN, event.time());
                let value = text(&item["state"]);
                told.entry(item["resource"].to_string()).or_default().push(Told {
                    after,
                    before,
                    value,
                });
            }
            continue;
        }
        let (from, to) = match event.kind() {
            "resource.state_changed" => (text(&data["from"]), text(&data["to"])),
            "resource.added" => (None, text(&data["state"])),
            "resource.removed" => (text(&data["last_state"]), None),
            _ => continue,
        };
        let line = &event.line;
        let told = told.entry(data["resource"].to_string()).or_default();
        let known = told.last().and_then(|told| told.value.clone());
        assert_eq!(known, from, "it was not so before: {line}");
        assert_ne!(from, to, "that is no change: {line}");
        let left = from.as_deref() == Some("REQUIRED") && to.as_deref() != Some("REQUIRED");
        if event.kind() == "resource.state_changed" {
            assert_eq!(data["left_required"], left, "{line}");
        }
        let (after, before) = (event.moment("changed_after"), event.moment("changed_before"));
        assert!(after <= before && before == event.time(), "{line}");
        told.push(Told { after, before, value: to });
    }
    told
}
