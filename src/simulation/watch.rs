//! What the daemon does, as the world sees it, and the laws for each of these moments.

use std::time::Duration;

use rand::RngExt;

use super::book::{Book, Poll};
use super::ledger::Journaled;
use super::plan::{At, SECOND};
use super::sink::SINKS;
use super::traffic::{Pass, Turn};
use super::world::{State, World};
use crate::domain::{
    ApiDetail, ApiEvent, Detail, EndReason, Event, Observation, Record, Session, SessionId, Step,
    Timestamp, Transition, Urgency,
};
use crate::store::simulated::{Disk, Surroundings, Written};
use crate::store::{Lease, StoreError};

impl Surroundings for World {
    async fn pass(&self, point: &'static str) {
        World::pass(self, point).await;
    }

    fn is_alive(&self) -> bool {
        self.state().is_alive()
    }

    fn transact(&self) -> (Duration, bool) {
        self.disk_takes()
    }

    fn journaled(&self, write: &Written<'_>) {
        let wall = self.wall();
        let state = &mut *self.state();
        let write = match write {
            Written::Decisions(decisions) => {
                let mut books = Vec::new();
                let mut recorded = Vec::new();
                for (session, events) in decisions {
                    self.decided(state, session, events, wall);
                    books.push((session.id(), state.book(session.id()).clone()));
                    for event in *events {
                        let data = serde_json::to_string(event).expect("an event");
                        recorded.push((event.id(), data));
                        state.cover(event.kind().short_name());
                        if let Detail::Ended { reason, .. } = event.detail {
                            state.cover(&format!("ended {}", reason.as_str()));
                        }
                        state.say(format_args!(
                            "decides {} {}",
                            event.id(),
                            event.kind().short_name()
                        ));
                    }
                }
                Journaled::Decisions { books, events: recorded }
            }
            Written::Announced(event) => {
                state.cover(event.kind().short_name());
                state.cover(&format!("{} {}", event.kind().short_name(), event.cause.as_str()));
                Journaled::Announced
            }
            Written::Cursor { sink, up_to } => {
                let sink = SINKS.iter().position(|name| name == sink).expect("one of ours");
                Journaled::Cursor { sink, up_to: *up_to }
            }
            Written::Forgotten(ids) => {
                for id in ids {
                    let book = state.book(*id);
                    assert!(!book.is_alive() && !book.listed, "{id} is forgotten while it lives");
                    state.cover("forgotten");
                }
                Journaled::Forgotten
            }
            Written::Purge { up_to } => Journaled::Purge { up_to: *up_to },
        };
        state.ledger.journaled(write);
        state.life.done += 1;
    }

    fn durable(&self, writes: usize, disk: &Disk) {
        let state = &mut *self.state();
        state.ledger.durable(writes, disk);
        state.life.done += 1;
        if writes > 1 {
            state.cover("several writes at once");
        }
        if disk.events().len() < state.ledger.log.len() {
            state.cover("purged");
        }
    }
}

impl World {
    pub(super) fn leased(&self, lease: &Lease) {
        let state = &mut *self.state();
        if !state.is_alive() {
            return;
        }
        let (id, at) = (lease.session.id(), state.at());
        let book = state.book(id).clone();
        assert!(book.is_alive(), "{id} is to be polled after its end");
        let pass = state.traffic.leased(id, at);
        let poll = Poll::new(book, lease.urgency, at);
        let before = state.polls.insert(id, (poll, pass));
        assert!(before.is_none(), "{id} is handed out twice at once");
        let most = state.limits.max_in_flight;
        assert!(state.polls.len() <= most, "more than {most} polls are under way");
    }

    pub(super) fn released(&self, id: SessionId) {
        let state = &mut *self.state();
        if state.is_alive() {
            state.polls.remove(&id).expect("a session that was handed out");
            state.traffic.released(id);
        }
    }

    /// A request for the configuration goes out.
    pub(super) fn asked(&self, id: SessionId) {
        let wall = self.wall();
        let state = &mut *self.state();
        let at = state.at();
        state.say(format_args!("asks for {id}"));
        state.cover("poll");
        state.traffic.requested(at);
        state.life.done += 1;
        self.in_time(state, id, at);
        let (poll, pass) = state.polls.get_mut(&id).expect("a session that was handed out");
        assert_ne!(*pass, Pass::Barred, "{id} is polled while polls pause");
        poll.sent = Some(wall);
        let (urgency, pass, leased) = (poll.urgency, *pass, poll.leased);
        state.book(id).asked = Some(at);
        if pass == Pass::Probe {
            state.cover("probe");
            state.disturb();
        }
        self.measure(state, id, urgency, leased);
        if at < self.plan.horizon
            && self.plan.meddlesome > 0
            && state.rng.random_range(0..self.plan.meddlesome) == 0
        {
            self.meddle(state, id);
        }
        state.cover(match urgency {
            Urgency::Final => "final poll",
            Urgency::Active => "active poll",
            Urgency::Quiet => "quiet poll",
        });
    }

    /// Something changes while the poll is under way.
    fn meddle(&self, state: &mut State, id: SessionId) {
        if state.rng.random_bool(0.9) {
            state.files.amend(id, None, None);
            self.hint.notify_one();
        } else {
            let by = state.rng.random_range(-90..90) * SECOND.cast_signed();
            state.set_clock(by);
        }
    }

    pub(super) fn answered(&self, id: SessionId, observation: &Observation) {
        let wall = self.wall();
        let state = &mut *self.state();
        state.life.done += 1;
        state.say(format_args!("hears {} of {id}", observation.outcome()));
        state.cover(&format!("answer {}", observation.outcome()));
        let (poll, _) = state.polls.get_mut(&id).expect("a session that was handed out");
        poll.answer = Some((observation.clone(), wall));
        if !poll.asks_state(&state.policy) {
            state.expect(id);
        }
    }

    pub(super) fn state_asked(&self, id: SessionId) {
        let state = &mut *self.state();
        let at = state.at();
        state.traffic.requested(at);
        state.life.done += 1;
        state.cover("state asked");
        let (poll, _) = state.polls.get(&id).expect("a session that was handed out");
        assert!(poll.expected.is_none(), "{id}: the session endpoint is asked for no reason");
    }

    pub(super) fn state_answered(&self, id: SessionId, observation: &Observation) {
        let state = &mut *self.state();
        state.life.done += 1;
        state.say(format_args!("hears {} of the state of {id}", observation.outcome()));
        state.cover(&format!("answer {}", observation.outcome()));
        let (poll, _) = state.polls.get_mut(&id).expect("a session that was handed out");
        poll.state = Some(observation.clone());
        state.expect(id);
    }

    pub(super) fn announced(&self, event: &ApiEvent) {
        let state = &mut *self.state();
        if !state.is_alive() {
            return;
        }
        let told = match event.detail {
            ApiDetail::Unavailable { .. } => Turn::Unavailable,
            ApiDetail::Available { .. } => Turn::Available,
        };
        state.say(format_args!("tells {}", event.kind().short_name()));
        assert_eq!(state.turn.take(), Some(told), "what is told of the API is not what it showed");
    }

    pub(super) fn committing(&self, id: SessionId, transition: &Transition) {
        let state = &mut *self.state();
        if !state.is_alive() {
            return;
        }
        let at = state.at();
        let (poll, _) = state.polls.get_mut(&id).expect("a session that was handed out");
        poll.judge(transition, at, &state.policy);
        assert_eq!(state.turn, None, "it was not told of the API");
    }

    /// A commit is over. One that wrote something was seen when it did.
    pub(super) fn committed(&self, id: SessionId, result: Result<&(), &StoreError>) {
        let state = &mut *self.state();
        if !state.is_alive() {
            return;
        }
        let outcome = match result {
            Ok(()) => {
                let steady = |(poll, _): &(Poll, Pass)| {
                    poll.decided.as_ref().is_some_and(|decided| decided.steady)
                };
                if state.polls.get(&id).is_some_and(steady) {
                    state.settle(id);
                }
                return;
            }
            Err(error) => error.clone(),
        };
        assert_eq!(outcome, StoreError::Stale(id));
        let (poll, _) = state.polls.remove(&id).expect("a session that was handed out");
        let book = state.book(id);
        assert_ne!(poll.book.revision, book.revision, "{id} is refused as stale, and is not");
        let after = if !book.is_alive() || book.begun > poll.book.begun {
            "stale after an end"
        } else if book.entry != poll.book.entry {
            "stale after another entry"
        } else {
            "stale after a step"
        };
        state.cover(after);
        state.cover("stale");
        state.say(format_args!("refuses what was decided of {id} as stale"));
    }

    pub(super) fn stepped(&self, step: Step) {
        let state = &mut *self.state();
        if !state.is_alive() {
            return;
        }
        for book in state.ledger.books.values_mut() {
            book.step(step);
            // What was decided by the old time is refused.
            book.revision += u64::from(book.is_alive());
        }
        state.disturb();
        state.cover("step taken over");
        state.say(format_args!("takes over that the clock was set by {} s", step.as_seconds()));
    }

    pub(super) fn spread(&self) {
        let state = &mut *self.state();
        state.disturb();
        state.cover("spread");
    }

    pub(super) fn delivered(&self, sink: usize, record: &Record) {
        let state = &mut *self.state();
        let first = state.ledger.delivered(sink, record);
        state.life.done += 1;
        state.cover(if first { "delivered" } else { "delivered again" });
        let again = if first { "" } else { " again" };
        state.say(format_args!("{} is given {}{again}", SINKS[sink], record.id));
    }

    /// A session's new value is on its way to the disk.
    fn decided(&self, state: &mut State, session: &Session, events: &[Event], wall: Timestamp) {
        let id = session.id();
        let is_polls = state.polls.get(&id).is_some_and(|(poll, _)| {
            let decided = poll.decided.as_ref();
            decided.is_some_and(|decided| decided.session == *session && decided.events == events)
        });
        if is_polls {
            state.settle(id);
            return;
        }
        let at = state.at();
        if let Some(Event { detail: Detail::Tracked {}, .. }) = events.first() {
            Self::tracked(state, session, wall, at);
        } else if events.is_empty() && session.is_listed() == state.book(id).listed {
            if *session.entry() == state.book(id).entry {
                state.cover("checkpoint");
                return;
            }
            state.cover("amended");
        }
        let polled = state.polls.contains_key(&id);
        let policy = state.policy.clone();
        let book = state.book(id);
        book.revision += 1;
        if book.entry != *session.entry() {
            assert!(book.is_alive(), "{id} is amended after its end");
            book.entry = session.entry().clone();
            book.amended = at;
        }
        let was_listed = std::mem::replace(&mut book.listed, session.is_listed());
        for event in events {
            book.reads(event, wall, &policy);
        }
        if was_listed && !session.is_listed() {
            self.untracked(state, id);
        }
        for event in events {
            match &event.detail {
                Detail::Tracked {} | Detail::Expiring { .. } => {}
                Detail::Ended { reason: EndReason::Untracked, .. } => {
                    assert!(was_listed && !session.is_listed(), "{id} is untracked and listed");
                }
                Detail::Ended { reason: EndReason::Expired, .. } => {
                    self.expired(state, id, at, wall);
                }
                Detail::Ended { .. }
                | Detail::Observed { .. }
                | Detail::StateChanged { .. }
                | Detail::Added { .. }
                | Detail::Removed { .. }
                | Detail::NothingRequired {}
                | Detail::Completed {}
                | Detail::PollFailing { .. }
                | Detail::PollRecovered { .. } => panic!("{event:?} is told without an answer"),
            }
        }
        if polled {
            state.cover("changed during its poll");
        }
    }

    fn tracked(state: &mut State, session: &Session, wall: Timestamp, at: At) {
        let id = session.id();
        assert!(state.files.was_seen(id), "{id} is tracked, and no look ever found it");
        if state.ledger.books.contains_key(&id) {
            state.cover("tracked again");
        }
        let before = state.ledger.books.get(&id);
        let (last, revision) = before.map_or((0, 0), |book| {
            assert!(!book.listed && !book.is_alive(), "{id} begins a second life in its first");
            (book.session.sequence, book.revision)
        });
        let entry = session.entry().clone();
        let book = Book::begin(entry, last, revision, at, wall, &state.policy);
        state.ledger.books.insert(id, book);
    }
}

impl State {
    pub(super) fn book(&mut self, id: SessionId) -> &mut Book {
        self.ledger.books.get_mut(&id).unwrap_or_else(|| panic!("nothing is known of {id}"))
    }

    /// All answers of a poll are in.
    fn expect(&mut self, id: SessionId) {
        let at = self.at();
        let live = self.ledger.live().count()
            + self.polls.keys().filter(|id| !self.ledger.books[id].is_alive()).count();
        let paused = self.traffic.pause.is_some();
        let (poll, _) = self.polls.get_mut(&id).expect("a session that was handed out");
        let word = poll.last_word();
        self.turn = self.traffic.answered(id, word, live, at);
        let outage = self.traffic.pause.is_some();
        poll.expect(outage, &self.policy);
        if paused != outage {
            self.cover(if outage { "pause" } else { "pause over" });
            self.disturb();
        }
    }

    /// What a poll has decided holds from here on.
    fn settle(&mut self, id: SessionId) {
        let (poll, _) = self.polls.remove(&id).expect("a session that was handed out");
        let decided = poll.decided.expect("a decision");
        let book = self.book(id);
        assert_eq!(poll.book.revision, book.revision, "{id}: what is stale was accepted");
        let asked = book.asked;
        *book = decided.after;
        book.asked = asked;
    }
}
