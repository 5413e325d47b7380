//! What is true of a session, whoever asks.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom, IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::plan::{At, MINUTE, SECOND, span};
use crate::domain::{Listed, Observation, Problem, ProblemKind, SessionId, Snapshot};

#[derive(Debug, Clone)]
pub(super) struct Truth {
    pub(super) id: SessionId,
    pub(super) deadline: At,
    /// What is listed from when on; the first from the beginning.
    pub(super) versions: Vec<(At, Vec<Item>)>,
    pub(super) completed: Option<At>,
    pub(super) deleted: Option<At>,
    /// What the configuration is answered once the session is completed.
    after: After,
    /// One in so many answers states an odd time left; none with 0.
    odd_ttl: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    kind: &'static str,
    id: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum After {
    Configuration,
    Conflict,
    Missing,
}

const KINDS: [&str; 3] = ["ID_DOCUMENT", "SUPPLEMENTARY_DOCUMENT", "FACE_CAPTURE"];
/// Few, so that there are equals.
const IDS: [&str; 2] = ["d430440c", "d430440c-2"];
const STATES: [&str; 5] = ["REQUIRED", "IN_PROGRESS", "COMPLETE", "COMPLETE", "UNDER_REVIEW"];

impl Truth {
    pub(super) fn draw(horizon: At, rng: &mut StdRng) -> Self {
        let mut truth = Self::quiet(rng);
        truth.deadline = if rng.random_bool(0.5) {
            rng.random_range(2 * MINUTE..horizon)
        } else {
            100 * horizon
        };
        let mut items = truth.versions[0].1.clone();
        let mut at = rng.random_range(0..horizon);
        for _ in 0..rng.random_range(0..12) {
            change(&mut items, rng);
            truth.versions.push((at, items.clone()));
            at += rng.random_range(SECOND..5 * MINUTE);
            if at >= horizon {
                break;
            }
        }
        let end = at.min(horizon);
        match rng.random_range(0..10) {
            0..3 => {
                for item in &mut items {
                    item.state = "COMPLETE";
                }
                truth.versions.push((end, items));
                truth.completed = Some(end);
            }
            3 => truth.deleted = Some(rng.random_range(0..horizon)),
            _ => {}
        }
        truth
    }

    pub(super) fn visited(at: At, deadline: At, rng: &mut StdRng) -> Self {
        let mut truth = Self::quiet(rng);
        let mut items = truth.versions[0].1.clone();
        items[0].state = "COMPLETE";
        truth.versions.push((at, items));
        truth.deadline = deadline;
        truth
    }

    /// Nothing ever happens to it.
    pub(super) fn quiet(rng: &mut StdRng) -> Self {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        let item = |rng: &mut StdRng| Item {
            kind: KINDS.choose(rng).expect("some"),
            id: IDS.choose(rng).expect("some"),
            state: "REQUIRED",
        };
        let items = (0..rng.random_range(1..5)).map(|_| item(rng)).collect();
        Self {
            id: SessionId::from_bytes(id),
            deadline: At::MAX / 2,
            versions: vec![(0, items)],
            completed: None,
            deleted: None,
            after: *[After::Configuration, After::Conflict, After::Missing]
                .choose(rng)
                .expect("some"),
            odd_ttl: *[0, 0, 7].choose(rng).expect("some"),
        }
    }

    fn listed(&self, at: At, rng: &mut StdRng) -> Vec<Listed> {
        let version = self.versions.iter().rev().find(|(from, _)| *from <= at);
        let (_, items) = version.unwrap_or(&self.versions[0]);
        let listed = |item: &Item| Listed::new(Some(item.kind), Some(item.id), Some(item.state));
        let mut listed: Vec<Listed> = items.iter().map(listed).collect();
        if rng.random_bool(0.1) {
            listed.shuffle(rng);
        }
        listed
    }

    /// What the API says of the configuration that looks at `at`, and at a copy that is `old`.
    pub(super) fn configuration(&self, at: At, old: At, rng: &mut StdRng) -> Observation {
        if self.deleted.is_some_and(|deleted| deleted <= at) {
            return missing();
        }
        if self.completed.is_some_and(|completed| completed <= at) {
            match self.after {
                After::Configuration => {}
                After::Conflict => return conflict(),
                After::Missing => return missing(),
            }
        }
        if self.deadline <= at {
            return conflict();
        }
        // Servers whose clocks differ a little.
        let left = span(self.deadline - at) + span(rng.random_range(0..3 * SECOND));
        let whole = Duration::from_secs(left.as_secs());
        let odd = self.odd_ttl > 0 && rng.random_range(0..self.odd_ttl) == 0;
        let ttl = match rng.random_range(0..4) {
            0 if odd => None,
            1 if odd => Some(Duration::ZERO),
            2 if odd => Some(Duration::from_secs(u64::MAX)),
            3 if odd => Some(Duration::from_secs(rng.random_range(1..90))),
            _ => Some(whole),
        };
        let resources = self.listed(at.saturating_sub(old), rng);
        Observation::Configuration(Snapshot { ttl, listing: resources.into() })
    }

    /// Type, id and state of all that is listed for good, in order; none where nothing need be.
    pub(super) fn states(&self, at: At) -> Option<Vec<(String, String, String)>> {
        let told = |end: Option<At>| end.is_some_and(|end| end <= at);
        if told(self.deleted) || told(self.completed) || self.deadline <= at {
            return None;
        }
        let (_, items) = self.versions.last()?;
        let texts = |item: &Item| (item.kind.to_owned(), item.id.to_owned(), item.state.to_owned());
        let mut states: Vec<_> = items.iter().map(texts).collect();
        states.sort();
        Some(states)
    }

    pub(super) fn state(&self, at: At) -> Observation {
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

fn change(items: &mut Vec<Item>, rng: &mut StdRng) {
    match rng.random_range(0..10) {
        0 => items.push(Item {
            kind: KINDS.choose(rng).expect("some"),
            id: IDS.choose(rng).expect("some"),
            state: STATES.choose(rng).expect("some"),
        }),
        1 if !items.is_empty() => {
            items.remove(rng.random_range(0..items.len()));
        }
        2 => items.shuffle(rng),
        _ => {
            for _ in 0..rng.random_range(1..3) {
                if let Some(item) = items.choose_mut(rng) {
                    item.state = STATES.choose(rng).expect("some");
                }
            }
        }
    }
}

fn missing() -> Observation {
    Observation::NotFound(problem(ProblemKind::NotFound, Some(404)))
}

fn conflict() -> Observation {
    Observation::NotReady(problem(ProblemKind::NotReady, Some(409)))
}

pub(super) fn problem(kind: ProblemKind, status: Option<u16>) -> Problem {
    Problem { kind, status, code: None, request_id: None, message: kind.as_str().to_owned() }
}
