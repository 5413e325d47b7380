//! The ticks that a node has been handed: who is in flight, and who waits to be taken up.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::AckKind;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::view::{Known, View};
use crate::domain::{Phase, Policy, SessionId, Timestamp, Urgency};
use crate::store::Lease;

/// A tick that was handed out and not heard of for so long goes to another node.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(15);
/// A few words may be lost before a tick is.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(4);
/// A tick that this node doesn't take up within so long is left to others.
const HELD_FOR: Duration = Duration::from_secs(5);
/// A tick that comes so much too early is waited for; clocks differ by that much.
const EARLY_BY: Duration = Duration::from_secs(2);

/// A word about a message to the server. It is not waited for: one that is lost costs a
/// redelivery, which finds the session not due.
pub(super) type Word = (Subject, AckKind);

#[derive(Debug)]
pub(super) struct Desk {
    held: HashMap<SessionId, Tick>,
    in_flight: HashMap<SessionId, Tick>,
    words: mpsc::UnboundedSender<Word>,
}

#[derive(Debug, Clone)]
struct Tick {
    /// Where to say what becomes of it.
    reply: Subject,
    since: Instant,
}

/// What became of looking for a poll to be made.
pub(super) enum Look {
    Found(Box<Lease>),
    /// Nothing, and nothing will be for so long.
    Nothing(Option<Duration>),
}

impl Desk {
    pub(super) fn new(words: mpsc::UnboundedSender<Word>) -> Self {
        Self { held: HashMap::new(), in_flight: HashMap::new(), words }
    }

    fn say(&self, reply: &Subject, kind: AckKind) {
        // Nobody listens any more when the store is being closed.
        let _ = self.words.send((reply.clone(), kind));
    }

    /// Takes a tick in. An earlier one of the same session has been replaced by it in the stream.
    pub(super) fn take_in(&mut self, id: SessionId, reply: Subject) {
        let tick = Tick { reply, since: Instant::now() };
        let place = match self.in_flight.get_mut(&id) {
            Some(in_flight) => Some(std::mem::replace(in_flight, tick)),
            None => self.held.insert(id, tick),
        };
        if let Some(earlier) = place {
            self.say(&earlier.reply, AckKind::Ack);
        }
    }

    pub(super) fn is_busy_with(&self, id: SessionId) -> bool {
        self.in_flight.contains_key(&id)
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.is_busy_with(id) || self.held.contains_key(&id)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn is_empty_handed(&self) -> bool {
        self.held.is_empty()
    }

    /// Leases the session that is to be polled first, of those that are alike the one whose tick came
    /// first; ticks without a poll behind them are done.
    pub(super) fn look(&mut self, view: &View, now: Timestamp, policy: &Policy) -> Look {
        let mut first: Option<((Urgency, Timestamp, Instant), Known)> = None;
        let mut soonest: Option<Duration> = None;
        let mut done = Vec::new();
        for (&id, tick) in self.held.iter().filter(|(id, _)| !self.in_flight.contains_key(*id)) {
            let known = view.get(id);
            let wake = known.as_ref().and_then(|known| known.session.wake(policy));
            let (Some(known), Some((due_at, _))) = (known, wake.and_then(|wake| wake.poll)) else {
                done.push(id);
                continue;
            };
            if due_at > now {
                let early = due_at.since(now);
                if early > EARLY_BY {
                    done.push(id);
                } else {
                    soonest = Some(soonest.map_or(early, |soonest| soonest.min(early)));
                }
                continue;
            }
            // The deadline has passed: what becomes of that is for time to decide, which waits for
            // polls that are under way.
            if known.session.is_given_up(now) {
                done.push(id);
                continue;
            }
            let is_final = wake.and_then(|w| w.last_chance).is_some_and(|at| at <= now);
            let urgency = match known.session.phase(now) {
                _ if is_final => Urgency::Final,
                Phase::Active => Urgency::Active,
                Phase::Pending | Phase::Quiet | Phase::Failing | Phase::Ended(_) => Urgency::Quiet,
            };
            let place = (urgency, due_at, tick.since);
            if first.as_ref().is_none_or(|(first, _)| place < *first) {
                first = Some((place, known));
            }
        }
        for id in done {
            self.finish(id);
        }
        let Some(((urgency, due_at, _), Known { session, revision, .. })) = first else {
            return Look::Nothing(soonest);
        };
        let id = session.id();
        if let Some(tick) = self.held.remove(&id) {
            self.in_flight.insert(id, tick);
        }
        let session = crate::domain::Session::clone(&session);
        Look::Found(Box::new(Lease { session, urgency, due_at, revision }))
    }

    /// The session's tick has led to what it was for.
    pub(super) fn finish(&mut self, id: SessionId) {
        let ticks = [self.in_flight.remove(&id), self.held.remove(&id)];
        for tick in ticks.into_iter().flatten() {
            self.done_with(&tick.reply);
        }
    }

    /// A tick that was not taken in has led to what it was for.
    pub(super) fn done_with(&self, reply: &Subject) {
        self.say(reply, AckKind::Ack);
    }

    /// The session's poll has come to nothing; somebody has to look again.
    pub(super) fn put_back(&mut self, id: SessionId) {
        if let Some(tick) = self.in_flight.remove(&id) {
            self.held.insert(id, Tick { since: Instant::now(), ..tick });
        }
    }

    /// Says that this node is at it, and leaves to others what it isn't.
    pub(super) fn keep_up(&mut self) {
        let late: Vec<SessionId> = self
            .held
            .iter()
            .filter(|(_, tick)| tick.since.elapsed() >= HELD_FOR)
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.hand_back(id);
        }
        for tick in self.in_flight.values().chain(self.held.values()) {
            self.say(&tick.reply, AckKind::Progress);
        }
    }

    pub(super) fn hand_all_back(&mut self) {
        let held: Vec<SessionId> = self.held.keys().copied().collect();
        for id in held {
            self.hand_back(id);
        }
    }

    fn hand_back(&mut self, id: SessionId) {
        if let Some(tick) = self.held.remove(&id) {
            self.say(&tick.reply, AckKind::Nak(None));
        }
    }
}
