//! The sessions as they are now, and who is due.
//!
//! No IO and no waiting: each method takes the time, changes what is in memory, and returns the
//! decisions that are to be journaled. The caller holds one lock over both, which makes the
//! journal's order the registry's. A leased session stands in no queue, so it is never in
//! flight twice, and its deadline waits for the answer that is on its way.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::journal::Decision;
use super::{Lease, StoreError};
use crate::domain::{
    Census, DueQueue, Entry, Policy, Session, SessionId, Step, Tally, Timestamp, Transition,
};

#[derive(Debug, Default)]
pub(super) struct Registry {
    /// In order, so that they can be looked through in portions.
    slots: BTreeMap<SessionId, Slot>,
    queue: DueQueue,
    tally: Tally,
    /// How many are leased.
    leased: usize,
    /// The latest revision given; one count for all sessions, so that no two values of a
    /// session share one even when it was forgotten between them.
    revision: u64,
}

#[derive(Debug)]
struct Slot {
    session: Arc<Session>,
    revision: u64,
    leased: bool,
    /// Whether the schedule is another than the journal's.
    unsaved: bool,
}

impl Registry {
    /// Takes in a session that the journal holds; `unsaved` if its schedule has moved since.
    pub(super) fn load(&mut self, session: Session, unsaved: bool, policy: &Policy) {
        self.put(Arc::new(session), unsaved, policy);
    }

    /// Those of the entries' sessions whose last `session_sequence` only the journal can know.
    pub(super) fn unknown(&self, entries: &[Entry]) -> Vec<SessionId> {
        let ids = entries.iter().map(|entry| entry.session_id);
        ids.filter(|id| !self.slots.contains_key(id)).collect()
    }

    /// `last` holds the last `session_sequence` of unknown sessions that had an earlier life.
    pub(super) fn track(
        &mut self,
        entries: &[Entry],
        last: &HashMap<SessionId, u64>,
        now: Timestamp,
        policy: &Policy,
    ) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for entry in entries {
            let id = entry.session_id;
            let transition = match self.slots.get(&id).map(|slot| &slot.session) {
                Some(session) if session.is_listed() => session.amend(entry.clone(), now, policy),
                Some(ended) => Some(Session::track(entry.clone(), ended.sequence(), now, policy)),
                None => {
                    let last = last.get(&id).copied().unwrap_or(0);
                    Some(Session::track(entry.clone(), last, now, policy))
                }
            };
            decisions.extend(transition.and_then(|transition| self.apply(transition, policy)));
        }
        decisions
    }

    pub(super) fn untrack(
        &mut self,
        ids: &[SessionId],
        now: Timestamp,
        policy: &Policy,
    ) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for id in ids {
            let transition = self.slots.get(id).and_then(|slot| slot.session.untrack(now));
            decisions.extend(transition.and_then(|transition| self.apply(transition, policy)));
        }
        decisions
    }

    pub(super) fn has_timer_due(&self, now: Timestamp) -> bool {
        self.queue.next_timer().is_some_and(|at| at <= now)
    }

    /// Sessions for which time has brought something about; it is left to the caller to decide it.
    pub(super) fn timers_due(&self, now: Timestamp) -> impl Iterator<Item = SessionId> {
        self.queue.timers_due(now)
    }

    /// Decides what time has brought about, for at most `limit` sessions.
    pub(super) fn elapse(
        &mut self,
        limit: usize,
        now: Timestamp,
        policy: &Policy,
    ) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while decisions.len() < limit
            && let Some(id) = self.queue.pop_timer(now)
        {
            let transition = self.slots.get(&id).map(|slot| slot.session.elapse(now, policy));
            decisions.extend(transition.and_then(|transition| self.apply(transition, policy)));
        }
        decisions
    }

    pub(super) fn next_timer(&self) -> Option<Timestamp> {
        self.queue.next_timer()
    }

    /// Moves every session with the wall clock. Polls under way were begun by the old time, so
    /// what they will have decided is stale.
    pub(super) fn step(&mut self, step: Step, now: Timestamp, policy: &Policy) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for session in self.live_sessions() {
            let session = Arc::new(session.stepped(step, now, policy));
            self.put(Arc::clone(&session), false, policy);
            decisions.push(Decision { session, events: Vec::new() });
        }
        decisions
    }

    /// Plans sessions anew that are not being polled: those that `plan` says it has changed.
    pub(super) fn replan(&mut self, policy: &Policy, mut plan: impl FnMut(&mut Session) -> bool) {
        for session in self.live_sessions() {
            if self.slots.get(&session.id()).is_some_and(|slot| slot.leased) {
                continue;
            }
            let mut planned = Session::clone(&session);
            if plan(&mut planned) {
                self.put(Arc::new(planned), true, policy);
            }
        }
    }

    fn live_sessions(&self) -> Vec<Arc<Session>> {
        let live = self.slots.values().filter(|slot| slot.session.ended().is_none());
        live.map(|slot| Arc::clone(&slot.session)).collect()
    }

    /// How many sessions there are to be polled.
    pub(super) fn live(&self) -> usize {
        self.queue.len() + self.leased
    }

    /// How many sessions stand where, in a time that doesn't grow with their number.
    pub(super) fn census(&self, now: Timestamp) -> Census {
        Census { overdue: self.queue.overdue(now), ..self.tally.census(now) }
    }

    pub(super) fn lease(&mut self, now: Timestamp) -> Option<Lease> {
        let (id, due_at, urgency) = self.queue.pop_poll(now)?;
        let slot = self.slots.get_mut(&id)?;
        slot.leased = true;
        self.leased += 1;
        let session = Session::clone(&slot.session);
        Some(Lease { session, urgency, due_at, revision: slot.revision })
    }

    /// When the next poll falls due; may lie in the past.
    pub(super) fn next_poll(&self) -> Option<Timestamp> {
        self.queue.next_poll()
    }

    /// Ends a lease with its decision; there is none to be journaled where it is steady.
    pub(super) fn settle(
        &mut self,
        lease: &Lease,
        transition: Transition,
        policy: &Policy,
    ) -> Result<Option<Decision>, StoreError> {
        let id = lease.session.id();
        let revision = self.take_back(id);
        if revision == Some(lease.revision) {
            return Ok(self.apply(transition, policy));
        }
        self.enqueue(id, policy);
        Err(StoreError::Stale(id))
    }

    pub(super) fn release(&mut self, lease: &Lease, policy: &Policy) {
        let id = lease.session.id();
        if self.take_back(id).is_some() {
            self.queue.not_polled();
            self.enqueue(id, policy);
        }
    }

    /// Ends the lease; returns the session's revision.
    fn take_back(&mut self, id: SessionId) -> Option<u64> {
        let slot = self.slots.get_mut(&id)?;
        if std::mem::take(&mut slot.leased) {
            self.leased -= 1;
        }
        Some(slot.revision)
    }

    /// At most `limit` sessions whose schedule is to be saved; taken for saved from here on.
    pub(super) fn take_unsaved(&mut self, limit: usize) -> Vec<Decision> {
        let unsaved = self.slots.values_mut().filter(|slot| slot.unsaved).take(limit);
        unsaved
            .map(|slot| {
                slot.unsaved = false;
                Decision { session: Arc::clone(&slot.session), events: Vec::new() }
            })
            .collect()
    }

    /// At most `limit` sessions that ended before `before` and that nobody holds on to.
    pub(super) fn forgettable(&self, before: Timestamp, limit: usize) -> Vec<Arc<Session>> {
        let forgettable = |slot: &&Slot| {
            let over = slot.session.ended().is_some_and(|(_, at)| at < before);
            over && !slot.session.is_listed() && !slot.leased
        };
        let sessions = self.slots.values().filter(forgettable).take(limit);
        sessions.map(|slot| Arc::clone(&slot.session)).collect()
    }

    pub(super) fn forget(&mut self, sessions: &[Arc<Session>]) {
        for session in sessions {
            if let Some(slot) = self.slots.remove(&session.id()) {
                self.tally.remove(&slot.session);
            }
        }
    }

    pub(super) fn listed(&self) -> Vec<SessionId> {
        let listed = self.slots.iter().filter(|(_, slot)| slot.session.is_listed());
        listed.map(|(&id, _)| id).collect()
    }

    /// In order of id.
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.slots.values().map(|slot| Arc::clone(&slot.session)).collect()
    }

    /// The first `limit` sessions behind that one, in order of id.
    pub(super) fn behind(&self, after: Option<SessionId>, limit: usize) -> Vec<Arc<Session>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let slots = self.slots.range((from, Bound::Unbounded)).take(limit);
        slots.map(|(_, slot)| Arc::clone(&slot.session)).collect()
    }

    pub(super) fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.slots.get(&id).map(|slot| Arc::clone(&slot.session))
    }

    fn apply(&mut self, transition: Transition, policy: &Policy) -> Option<Decision> {
        let Transition { session, events, steady } = transition;
        let session = Arc::new(session);
        self.put(Arc::clone(&session), steady, policy);
        (!steady).then_some(Decision { session, events })
    }

    fn put(&mut self, session: Arc<Session>, unsaved: bool, policy: &Policy) {
        let id = session.id();
        self.revision += 1;
        let revision = self.revision;
        let before = self.slots.get(&id);
        let leased = before.is_some_and(|slot| slot.leased);
        if let Some(before) = before {
            self.tally.remove(&before.session);
        }
        self.tally.add(&session);
        self.slots.insert(id, Slot { session, revision, leased, unsaved });
        self.enqueue(id, policy);
    }

    /// Queues the session for when it wants attention. Nothing puts the poll of a session in
    /// flight off, so one that comes back without an answer is due at once.
    fn enqueue(&mut self, id: SessionId, policy: &Policy) {
        let idle = self.slots.get(&id).filter(|slot| !slot.leased);
        match idle.and_then(|slot| slot.session.wake(policy)) {
            Some(wake) => self.queue.set(id, wake),
            None => self.queue.remove(id),
        }
    }
}
