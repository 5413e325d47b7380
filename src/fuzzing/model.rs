//! The reference model of a session, written from the contract and apart from the code: what a
//! consumer of the events knows, and what each answer obliges to. The fuzzer of the session machine
//! and the simulation of the daemon hold the code against it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{
    Detail, EndReason, Event, EventKind, Listed, Observation, Policy, ProblemKind, Resource,
    ResourceKey, ResourceState, Timestamp,
};

/// What a consumer knows who has read every event, and what the answers so far oblige to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) sequence: u64,
    pub(crate) resources: BTreeMap<ResourceKey, ResourceState>,
    pub(crate) observed: bool,
    pub(crate) ended: Option<EndReason>,
    pub(crate) missing_since: Option<Timestamp>,
    pub(crate) strikes: u32,
    pub(crate) failing: bool,
    pub(crate) completed: bool,
}

/// What must come of an answer.
#[derive(Debug)]
pub(crate) struct Obliged {
    pub(crate) end: Option<EndReason>,
    pub(crate) failing: bool,
    pub(crate) recovered: bool,
    pub(crate) completed: bool,
}

impl Model {
    /// Two 404 a minute apart end a session, failures between them leave that open and any other
    /// word clears it; COMPLETED and EXPIRED end it at once.
    pub(crate) fn hears(
        &mut self,
        observation: &Observation,
        state: Option<&Observation>,
        outage: bool,
        now: Timestamp,
        policy: &Policy,
    ) -> Obliged {
        let configured = matches!(observation, Observation::Configuration(_));
        let mut word = state.unwrap_or(observation);
        if configured && matches!(word, Observation::Configuration(_) | Observation::NotFound(_)) {
            word = &Observation::Ongoing;
        }
        let missing_since = self.missing_since.take();
        let mut end = None;
        let mut completed = false;
        let failure = word.is_failure();
        match word {
            Observation::NotFound(_) => {
                let since = missing_since.map_or(now, |since| since.min(now));
                if now.since(since) >= Duration::from_secs(60) {
                    end = Some(EndReason::NotFound);
                }
                self.missing_since = Some(since);
            }
            Observation::Completed => {
                completed = !self.completed;
                self.completed = true;
                end = policy.stop_on_completed.then_some(EndReason::Completed);
            }
            Observation::Expired => end = Some(EndReason::Expired),
            Observation::Configuration(_) | Observation::Ongoing | Observation::NotReady(_) => {}
            Observation::Unauthorized(_)
            | Observation::RateLimited { .. }
            | Observation::ServerError { .. }
            | Observation::Unreachable(_)
            | Observation::Malformed(_) => {
                self.missing_since = missing_since.filter(|_| !configured);
            }
        }
        let good = configured && !failure
            || matches!(word, Observation::Ongoing | Observation::NotReady(_))
            || matches!(word, Observation::Completed) && !policy.stop_on_completed;
        let recovered = good && self.failing;
        if good {
            self.strikes = 0;
            self.failing = false;
        }
        let blameless = matches!(
            word.problem().map(|problem| problem.kind),
            Some(ProblemKind::Unauthorized | ProblemKind::ClockSkew | ProblemKind::RateLimited)
        );
        if failure && !outage && !blameless {
            self.strikes += 1;
        }
        let failing = failure && self.strikes >= policy.failing_after;
        self.failing |= failing;
        Obliged { end, failing, recovered, completed }
    }

    pub(crate) fn reads(&mut self, event: &Event) {
        self.sequence += 1;
        assert_eq!(event.session_sequence, self.sequence, "a gap before {event:?}");
        match &event.detail {
            Detail::Observed { resources } => {
                assert!(!self.observed, "the baseline is told twice");
                self.observed = true;
                for Resource { key, state } in resources {
                    let twice = self.resources.insert(key.clone(), state.clone());
                    assert_eq!(twice, None, "{key} stands twice in the baseline");
                }
            }
            Detail::StateChanged { resource, from, to, left_required, .. } => {
                assert!(self.observed && from != to, "{event:?}");
                let was = self.resources.insert(resource.clone(), to.clone());
                assert_eq!(was.as_ref(), Some(from), "{event:?}");
                assert_eq!(*left_required, from.is_required() && !to.is_required());
            }
            Detail::Added { resource, state, .. } => {
                let was = self.resources.insert(resource.clone(), state.clone());
                assert_eq!(was, None, "{event:?}");
            }
            Detail::Removed { resource, last_state, .. } => {
                let was = self.resources.remove(resource);
                assert_eq!(was.as_ref(), Some(last_state), "{event:?}");
            }
            Detail::Ended { reason, unresolved } => {
                let complete = |(_, state): &(_, &ResourceState)| state.as_str() == "COMPLETE";
                let open = self.resources.iter().filter(|resource| !complete(resource)).count();
                assert_eq!(unresolved.len(), open, "{event:?}");
                self.ended = Some(*reason);
            }
            Detail::Tracked {}
            | Detail::NothingRequired {}
            | Detail::Completed {}
            | Detail::Expiring { .. }
            | Detail::PollFailing { .. }
            | Detail::PollRecovered { .. } => {}
        }
        serde_json::to_string(event).expect("an event that can be written");
    }
}

/// By type and id, the states before and after.
type Groups<'a> = BTreeMap<(&'a str, &'a str), (Vec<&'a str>, Vec<&'a str>)>;

/// What is told of a configuration is what differs, in as few changes as explain it.
pub(crate) fn sees(
    listed: &[Listed],
    before: &BTreeMap<ResourceKey, ResourceState>,
    was_observed: bool,
    events: &[Event],
) {
    let count = |kind| events.iter().filter(|event| event.kind() == kind).count();
    let told = count(EventKind::ResourceStateChanged)
        + count(EventKind::ResourceAdded)
        + count(EventKind::ResourceRemoved);
    assert_eq!(count(EventKind::SessionObserved), usize::from(!was_observed));
    let mut groups: Groups<'_> = BTreeMap::new();
    for (key, state) in before {
        groups.entry((&key.kind, &key.id)).or_default().0.push(state.as_str());
    }
    for item in listed {
        groups.entry((&item.kind, &item.id)).or_default().1.push(item.state.as_str());
    }
    let fewest = |(mut from, to): (Vec<&str>, Vec<&str>)| {
        let most = from.len().max(to.len());
        let kept = to.iter().filter(|state| {
            let place = from.iter().position(|other| other == *state);
            place.map(|place| from.swap_remove(place)).is_some()
        });
        most - kept.count()
    };
    let fewest: usize = groups.into_values().map(fewest).sum();
    assert_eq!(told, if was_observed { fewest } else { 0 }, "of {before:?} and {listed:?}");
    let now_listed = listed.iter().filter(|item| item.state.is_required()).count();
    let left = events
        .iter()
        .any(|event| matches!(event.detail, Detail::StateChanged { left_required: true, .. }));
    let nothing = count(EventKind::SessionNothingRequired);
    assert_eq!(nothing, usize::from(left && now_listed == 0));
}

pub(crate) fn kinds(events: &[Event]) -> Vec<EventKind> {
    events.iter().map(Event::kind).collect()
}
