//! What a session's book says: the truth as answers and files gave it, by which every decision of
//! the daemon is judged.

use std::time::Duration;

use super::plan::At;
use crate::domain::{
    Detail, EndReason, Entry, Event, EventKind, Listed, Listing, Observation, Policy, ResourceKey,
    Session, Snapshot, Step, Timestamp, Transition, Urgency,
};
use crate::fuzzing::model::{self, Obliged, kinds, sees};

/// One session, as one who knows every answer and every file has to think of it.
#[derive(Debug, Clone)]
pub(super) struct Book {
    pub(super) session: model::Model,
    pub(super) entry: Entry,
    pub(super) listed: bool,
    tracked_at: Timestamp,
    deadline: Timestamp,
    /// The end that was last told to be near.
    expiring: Option<Timestamp>,
    last_good: Option<Timestamp>,
    active_until: Option<Timestamp>,
    /// How often it was changed by anything but a poll.
    pub(super) revision: u64,
    /// When it was last decided on after an answer, and whether that was a good one.
    pub(super) settled: Option<(At, bool)>,
    /// The same by the daemon's clock.
    settled_by: Option<Timestamp>,
    /// When it was last asked for.
    pub(super) asked: Option<At>,
    pub(super) begun: At,
    pub(super) amended: At,
}

/// What the truth lists, of which nothing was left out yet.
fn listed(listing: &Listing) -> &[Listed] {
    listing.resources().expect("the whole truth")
}

/// A session that was handed out, on its way to a decision.
#[derive(Debug)]
pub(super) struct Poll {
    /// As it was handed out.
    pub(super) book: Book,
    pub(super) urgency: Urgency,
    pub(super) leased: At,
    pub(super) sent: Option<Timestamp>,
    pub(super) answer: Option<(Observation, Timestamp)>,
    pub(super) state: Option<Observation>,
    pub(super) expected: Option<Expected>,
    pub(super) decided: Option<Decided>,
}

/// What must come of the answers.
#[derive(Debug)]
pub(super) struct Expected {
    obliged: Obliged,
    session: model::Model,
}

/// What the daemon made of them, and the book if that holds.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) session: Session,
    pub(super) events: Vec<Event>,
    pub(super) steady: bool,
    pub(super) after: Book,
}

/// A deadline that moves by no more is the same.
const SAME_DEADLINE: Duration = Duration::from_secs(5);

impl Book {
    /// `last` is the sequence of the session's last event, in an earlier life.
    pub(super) fn begin(
        entry: Entry,
        last: u64,
        revision: u64,
        at: At,
        now: Timestamp,
        policy: &Policy,
    ) -> Self {
        Self {
            session: model::Model { sequence: last, ..model::Model::default() },
            entry,
            listed: true,
            tracked_at: now,
            deadline: now.plus(policy.unknown_ttl).floor_seconds(),
            expiring: None,
            last_good: None,
            active_until: None,
            revision,
            settled: None,
            settled_by: None,
            asked: None,
            begun: at,
            amended: at,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.session.ended.is_none()
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        self.entry.expires_at.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// The mean time between two polls.
    pub(super) fn cadence(&self, now: Timestamp, policy: &Policy) -> Duration {
        let quiet = self.entry.interval.unwrap_or(policy.interval);
        let active = self.active_until.is_some_and(|until| now < until);
        if active { quiet.min(policy.active_interval) } else { quiet }
    }

    /// The same as of the last decision.
    pub(super) fn settled_cadence(&self, policy: &Policy) -> Duration {
        self.settled_by.map_or(policy.interval, |now| self.cadence(now, policy))
    }

    pub(super) fn step(&mut self, step: Step) {
        if !self.is_alive() {
            return;
        }
        for time in [&mut self.tracked_at, &mut self.deadline] {
            *time = step.of(*time);
        }
        let missing_since = &mut self.session.missing_since;
        let times =
            [&mut self.expiring, &mut self.last_good, &mut self.active_until, missing_since];
        for time in times.into_iter().flatten() {
            *time = step.of(*time);
        }
    }

    /// Takes in an event, and judges what all kinds have in common.
    pub(super) fn reads(&mut self, event: &Event, now: Timestamp, policy: &Policy) {
        let recovered = event.kind() == EventKind::SessionPollRecovered;
        self.session.reads(event);
        assert_eq!(event.time, now, "{event:?} is told as of another time");
        assert_eq!(event.labels, self.entry.labels, "{event:?}");
        // That polls succeed again is told before what they say.
        if !recovered {
            assert_eq!(event.expires_at, self.expires_at(), "{event:?}");
        }
        if let Detail::Expiring { required } = &event.detail {
            self.is_expiring(required, now, policy);
        }
    }

    fn is_expiring(&mut self, required: &[ResourceKey], now: Timestamp, policy: &Policy) {
        let open = self.session.resources.iter().filter(|(_, state)| state.is_required());
        let mut open: Vec<&ResourceKey> = open.map(|(key, _)| key).collect();
        let mut required: Vec<&ResourceKey> = required.iter().collect();
        open.sort();
        required.sort();
        assert!(
            !open.is_empty() && open == required,
            "{required:?} is said to be open, not {open:?}"
        );
        let near = self.expires_at().minus(policy.expiring_before);
        assert!(!policy.expiring_before.is_zero() && now >= near, "it does not expire soon");
        assert_ne!(self.expiring, Some(self.expires_at()), "told twice that it expires soon");
        self.expiring = Some(self.expires_at());
    }
}

impl Poll {
    pub(super) fn new(book: Book, urgency: Urgency, leased: At) -> Self {
        Self {
            book,
            urgency,
            leased,
            sent: None,
            answer: None,
            state: None,
            expected: None,
            decided: None,
        }
    }

    /// Whether nothing can be decided before the session endpoint has said what it means: of a
    /// 404 or 409, where all is complete, and where no time is left.
    pub(super) fn asks_state(&self, policy: &Policy) -> bool {
        let Some((observation, _)) = self.answer.as_ref().filter(|_| policy.confirm) else {
            return false;
        };
        match observation {
            Observation::NotReady(_) | Observation::NotFound(_) => true,
            Observation::Configuration(Snapshot { ttl, listing }) => {
                let complete = listed(listing).iter().all(|r| r.state.as_str() == "COMPLETE");
                complete && !self.book.session.completed || ttl.is_some_and(|ttl| ttl.is_zero())
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

    pub(super) fn last_word(&self) -> &Observation {
        let (observation, _) = self.answer.as_ref().expect("an answer");
        self.state.as_ref().unwrap_or(observation)
    }

    /// All answers are in.
    pub(super) fn expect(&mut self, outage: bool, policy: &Policy) {
        let (observation, arrived) = self.answer.as_ref().expect("an answer");
        let mut session = self.book.session.clone();
        let obliged = session.hears(observation, self.state.as_ref(), outage, *arrived, policy);
        self.expected = Some(Expected { obliged, session });
    }

    /// Holds what was decided against what had to be.
    pub(super) fn judge(&mut self, transition: &Transition, at: At, policy: &Policy) {
        let Transition { session, events, steady } = transition;
        let expected = self.expected.take();
        let Expected { obliged, session: heard } = expected.expect("a decision after all answers");
        let (observation, now) = self.answer.as_ref().expect("an answer");
        let (now, sent) = (*now, self.sent.expect("a poll that was sent").min(*now));
        let told = kinds(events);
        let has = |kind| told.contains(&kind);
        let before = &self.book.session;
        let failing = !before.failing && obliged.failing;
        assert_eq!(has(EventKind::SessionPollFailing), failing, "{observation:?}: {told:?}");
        let recovered = before.failing && obliged.recovered;
        assert_eq!(has(EventKind::SessionPollRecovered), recovered, "{observation:?}: {told:?}");
        assert_eq!(has(EventKind::SessionCompleted), obliged.completed, "{told:?}");
        let mut after = Book { session: heard, ..self.book.clone() };
        if let Observation::Configuration(snapshot) = observation {
            sees(listed(&snapshot.listing), &before.resources, before.observed, events);
            if let Some(ttl) = snapshot.ttl.filter(|ttl| !ttl.is_zero()) {
                let deadline = now.plus(ttl).floor_seconds();
                if !before.observed || deadline.distance(after.deadline) > SAME_DEADLINE {
                    after.deadline = deadline;
                    if after.expires_at().since(now) > policy.expiring_before {
                        after.expiring = None;
                    }
                }
            }
            after.last_good = Some(sent);
        }
        let since = self.book.last_good.unwrap_or(self.book.tracked_at).min(now);
        for event in events {
            after.reads(event, now, policy);
            if let Detail::StateChanged { changed_after, changed_before, .. }
            | Detail::Added { changed_after, changed_before, .. }
            | Detail::Removed { changed_after, changed_before, .. } = &event.detail
            {
                assert_eq!((*changed_after, *changed_before), (since, now), "{event:?}");
                after.active_until = Some(now.plus(policy.active_for));
            }
        }
        let ended = after.session.ended;
        if obliged.end.is_some() {
            assert_eq!(ended, obliged.end, "{observation:?}, {:?}", self.state);
        } else if ended.is_some() {
            assert_eq!(ended, Some(EndReason::Expired), "{observation:?}, {:?}", self.state);
            assert!(now >= after.expires_at(), "it ends before its time");
        }
        assert!(!steady || events.is_empty(), "{told:?} would be told and not written");
        after.settled = Some((at, !self.last_word().is_failure()));
        after.settled_by = Some(now);
        after.asked = self.book.asked;
        self.decided = Some(Decided {
            session: session.clone(),
            events: events.clone(),
            steady: *steady,
            after,
        });
    }
}
