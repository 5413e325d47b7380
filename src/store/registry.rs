//! The sessions as they are now, and who is due.
//!
//! No IO and no waiting: each method takes the time, changes what is in memory, and returns the
//! decisions that are to be journaled. The caller holds one lock over both, which makes the
//! journal's order the registry's. A leased session stands in no queue, so it is never in
//! flight twice, and its deadline waits for the answer that is on its way.
//!
//! Sessions are packed, since there may be a million, and unpacked for whoever asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::journal::Decision;
use super::query::Prepared;
use super::{Lease, StoreError};
use crate::domain::{
    Census, DueQueue, Entry, Fingerprint, Packed, Policy, Seat, Session, SessionId, Step, Tally,
    Timestamp, Transition,
};

#[derive(Debug, Default)]
pub(super) struct Registry {
    /// By seat.
    slots: Slab<Slot>,
    /// The seats in order of the sessions' ids, so that sessions are found, and can be looked
    /// through in portions.
    order: Vec<Seat>,
    /// Those that are put in order when somebody looks: many at once cost little more than one.
    /// In one piece of memory, since all that are loaded are among them.
    fresh: HashMap<SessionId, Seat>,
    queue: DueQueue,
    tally: Tally,
    /// Where those are that are leased: to look for one among all is a memory access for each step.
    leases: BTreeMap<SessionId, Seat>,
    /// The latest revision given; one count for all sessions, so that no two values of a
    /// session share one even when it was forgotten between them.
    revision: u64,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    id: SessionId,
    session: Packed,
    revision: u64,
    fingerprint: Option<Fingerprint>,
    /// Whether the session is another than the journal's.
    unsaved: bool,
}

impl Slot {
    fn session(&self) -> Session {
        self.session.unpack(self.id, self.fingerprint)
    }
}

impl Registry {
    /// Takes in a session as somebody else decided on it, in the place of what was known of it.
    pub(super) fn put(&mut self, session: &Session, policy: &Policy) {
        if let Some((seat, before)) = self.at(session.id()) {
            self.replace(seat, &before, session, false, policy);
        } else {
            self.insert(session, false, policy);
        }
    }

    /// Those of the entries' sessions whose last `session_sequence` only the journal can know.
    pub(super) fn unknown(&self, entries: &[Entry]) -> Vec<SessionId> {
        let ids = entries.iter().map(|entry| entry.session_id);
        ids.filter(|&id| self.find(id).is_none()).collect()
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
            let Some((seat, session)) = self.at(entry.session_id) else {
                let last = last.get(&entry.session_id).copied().unwrap_or(0);
                let Transition { session, events, .. } =
                    Session::track(entry.clone(), last, now, policy);
                self.insert(&session, false, policy);
                decisions.push(Decision { session: Arc::new(session), events });
                continue;
            };
            let transition = if session.is_listed() {
                session.amend(entry.clone(), now, policy)
            } else {
                Some(Session::track(entry.clone(), session.sequence(), now, policy))
            };
            decisions.extend(transition.and_then(|it| self.apply(seat, &session, it, policy)));
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
        for &id in ids {
            let Some((seat, session)) = self.at(id) else { continue };
            let transition = session.untrack(now);
            decisions.extend(transition.and_then(|it| self.apply(seat, &session, it, policy)));
        }
        decisions
    }

    pub(super) fn has_timer_due(&self, now: Timestamp) -> bool {
        self.queue.next_timer().is_some_and(|at| at <= now)
    }

    /// Sessions for which time has brought something about; it is left to the caller to decide it.
    pub(super) fn timers_due(&self, now: Timestamp) -> Vec<SessionId> {
        self.queue.timers_due(now).into_iter().map(|seat| self.slot(seat).id).collect()
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
            && let Some(seat) = self.queue.pop_timer(now)
        {
            let session = self.slot(seat).session();
            let transition = session.elapse(now, policy);
            decisions.extend(self.apply(seat, &session, transition, policy));
        }
        decisions
    }

    pub(super) fn next_timer(&self) -> Option<Timestamp> {
        self.queue.next_timer()
    }

    /// Moves every session with the wall clock; all are to be saved then. Polls under way were
    /// begun by the old time, so what they will have decided is stale.
    pub(super) fn step(&mut self, step: Step, now: Timestamp, policy: &Policy) {
        for seat in self.live_seats() {
            let session = self.slot(seat).session();
            self.replace(seat, &session, &session.stepped(step, now, policy), true, policy);
        }
    }

    /// Plans sessions anew that are not being polled: those that `plan` says it has changed.
    pub(super) fn replan(&mut self, policy: &Policy, mut plan: impl FnMut(&mut Session) -> bool) {
        for seat in self.live_seats() {
            if self.is_leased(self.slot(seat)) {
                continue;
            }
            let session = self.slot(seat).session();
            let mut planned = session.clone();
            if plan(&mut planned) {
                self.replace(seat, &session, &planned, true, policy);
            }
        }
    }

    /// In order of id.
    fn live_seats(&mut self) -> Vec<Seat> {
        self.sort();
        let seats = self.order.iter().copied();
        seats.filter(|&seat| self.slot(seat).session.ended().is_none()).collect()
    }

    /// How many sessions there are to be polled.
    pub(super) fn live(&self) -> usize {
        self.queue.len() + self.leases.len()
    }

    /// How many sessions stand where, in a time that doesn't grow with their number.
    pub(super) fn census(&self, now: Timestamp) -> Census {
        Census { overdue: self.queue.overdue(now), ..self.tally.census(now) }
    }

    pub(super) fn lease(&mut self, now: Timestamp) -> Option<Lease> {
        let (seat, due_at, urgency) = self.queue.pop_poll(now)?;
        let slot = &self.slots[seat.0 as usize];
        self.leases.insert(slot.id, seat);
        Some(Lease { session: slot.session(), urgency, due_at, revision: slot.revision })
    }

    /// When the next poll falls due; may lie in the past.
    pub(super) fn next_poll(&self) -> Option<Timestamp> {
        self.queue.next_poll()
    }

    pub(super) fn next_polls(&self, many: usize, after: Duration) -> Option<Timestamp> {
        self.queue.next_polls(many, after)
    }

    /// Ends a lease with its decision; there is none to be journaled where it is steady.
    pub(super) fn settle(
        &mut self,
        lease: &Lease,
        transition: Transition,
        policy: &Policy,
    ) -> Result<Option<Decision>, StoreError> {
        let id = lease.session.id();
        let Some(seat) = self.leases.remove(&id) else { return Err(StoreError::Stale(id)) };
        if self.slot(seat).revision == lease.revision {
            return Ok(self.apply(seat, &lease.session, transition, policy));
        }
        self.enqueue(seat, &self.slot(seat).session(), policy);
        Err(StoreError::Stale(id))
    }

    pub(super) fn release(&mut self, lease: &Lease, policy: &Policy) {
        if let Some(seat) = self.leases.remove(&lease.session.id()) {
            self.queue.not_polled();
            self.enqueue(seat, &self.slot(seat).session(), policy);
        }
    }

    fn is_leased(&self, slot: &Slot) -> bool {
        self.leases.contains_key(&slot.id)
    }

    /// At most `limit` sessions that are to be saved, and taken for saved from here on; with whom
    /// to go on, unless those are all. Whoever needs to be saved only meanwhile is left out.
    pub(super) fn take_unsaved(
        &mut self,
        from: SessionId,
        limit: usize,
    ) -> (Vec<Decision>, Option<SessionId>) {
        self.sort();
        let from = self.order.partition_point(|&seat| self.slot(seat).id < from);
        let mut unsaved = Vec::new();
        for &Seat(seat) in &self.order[from..] {
            let slot = &mut self.slots[seat as usize];
            if !slot.unsaved {
                continue;
            }
            if unsaved.len() == limit {
                return (unsaved, Some(slot.id));
            }
            slot.unsaved = false;
            unsaved.push(Decision { session: Arc::new(slot.session()), events: Vec::new() });
        }
        (unsaved, None)
    }

    /// At most `limit` sessions that ended before `before` and that nobody holds on to.
    pub(super) fn forgettable(&mut self, before: Timestamp, limit: usize) -> Vec<Arc<Session>> {
        self.sort();
        let forgettable = |slot: &&Slot| {
            let over = slot.session.ended().is_some_and(|(_, at)| at < before);
            over && !slot.session.is_listed() && !self.is_leased(slot)
        };
        let slots = self.order.iter().map(|&seat| self.slot(seat));
        slots.filter(forgettable).take(limit).map(|slot| Arc::new(slot.session())).collect()
    }

    pub(super) fn forget(&mut self, sessions: &[Arc<Session>]) {
        self.sort();
        // Found before the first is gone: they are looked for among all that there are.
        let places: Vec<usize> = sessions.iter().filter_map(|it| self.place(it.id())).collect();
        for &place in &places {
            let seat = self.order[place];
            self.tally.remove(&self.slot(seat).session());
            self.queue.remove(seat);
            let Slot { id, .. } = self.slots.remove(seat.0 as usize);
            self.leases.remove(&id);
        }
        if let [place] = places[..] {
            self.order.remove(place);
        } else {
            self.order.retain(|seat| self.slots.contains(seat.0 as usize));
        }
    }

    pub(super) fn listed(&mut self) -> Vec<SessionId> {
        self.sort();
        let slots = self.order.iter().map(|&seat| self.slot(seat));
        slots.filter(|slot| slot.session.is_listed()).map(|slot| slot.id).collect()
    }

    /// In order of id.
    pub(super) fn sessions(&mut self) -> Vec<Arc<Session>> {
        self.sort();
        self.order.iter().map(|&seat| Arc::new(self.slot(seat).session())).collect()
    }

    /// The first `limit` sessions behind that one, in order of id.
    pub(super) fn behind(&mut self, after: Option<SessionId>, limit: usize) -> Vec<Arc<Session>> {
        self.sort();
        self.places_behind(after, limit)
            .iter()
            .map(|&it| Arc::new(self.slot(it).session()))
            .collect()
    }

    fn places_behind(&self, after: Option<SessionId>, limit: usize) -> &[Seat] {
        let from = self.order.partition_point(|&seat| Some(self.slot(seat).id) <= after);
        let behind = &self.order[from..];
        &behind[..behind.len().min(limit)]
    }

    /// Looks at the first `portion` sessions behind that one, in order of id: those of them that
    /// pass the filter, and which was the last, unless there are none behind it.
    pub(super) fn search(
        &mut self,
        after: Option<SessionId>,
        portion: usize,
        filter: &Prepared<'_>,
        now: Timestamp,
    ) -> (Vec<Arc<Session>>, Option<SessionId>) {
        self.sort();
        let looked_at = self.places_behind(after, portion);
        let slots = looked_at.iter().map(|&seat| self.slot(seat));
        let found = slots.filter(|slot| filter.passes(slot.id, &slot.session, now));
        let last = looked_at.last().filter(|_| looked_at.len() == portion);
        let last = last.map(|&seat| self.slot(seat).id);
        (found.map(|slot| Arc::new(slot.session())).collect(), last)
    }

    pub(super) fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.at(id).map(|(_, session)| Arc::new(session))
    }

    fn slot(&self, seat: Seat) -> &Slot {
        &self.slots[seat.0 as usize]
    }

    fn find(&self, id: SessionId) -> Option<Seat> {
        let found = self.place(id).map(|place| self.order[place]);
        found.or_else(|| self.fresh.get(&id).copied())
    }

    /// Where in the order it stands, if it is not fresh.
    fn place(&self, id: SessionId) -> Option<usize> {
        self.order.binary_search_by(|&seat| self.slot(seat).id.cmp(&id)).ok()
    }

    fn at(&self, id: SessionId) -> Option<(Seat, Session)> {
        self.find(id).map(|seat| (seat, self.slot(seat).session()))
    }

    /// Puts the fresh ones in order, the last first, so that each piece between two of them moves
    /// once.
    fn sort(&mut self) {
        let mut fresh: Vec<_> = std::mem::take(&mut self.fresh).into_iter().collect();
        fresh.sort_unstable_by_key(|&(id, _)| id);
        let mut end = self.order.len();
        self.order.resize(end + fresh.len(), Seat(0));
        for (left, &(id, seat)) in fresh.iter().enumerate().rev() {
            let at = self.order[..end].partition_point(|&other| self.slot(other).id < id);
            self.order.copy_within(at..end, at + left + 1);
            self.order[at + left] = seat;
            end = at;
        }
    }

    fn apply(
        &mut self,
        seat: Seat,
        before: &Session,
        transition: Transition,
        policy: &Policy,
    ) -> Option<Decision> {
        let Transition { session, events, steady } = transition;
        self.replace(seat, before, &session, steady, policy);
        (!steady).then(|| Decision { session: Arc::new(session), events })
    }

    /// Takes in a session that is not known yet; `unsaved` if the journal holds another value of it.
    pub(super) fn insert(&mut self, session: &Session, unsaved: bool, policy: &Policy) {
        let (id, revision) = (session.id(), self.next_revision());
        let packed = Packed::of(session, &mut self.scratch);
        let fingerprint = session.fingerprint();
        let slot = Slot { id, session: packed, revision, fingerprint, unsaved };
        // Memory for more sessions than that would be needed, a hundred bytes for each.
        let seat = u32::try_from(self.slots.insert(slot)).map(Seat).expect("four billion sessions");
        self.fresh.insert(id, seat);
        self.tally.add(session);
        self.enqueue(seat, session, policy);
    }

    /// Puts `after` in the place of `before`.
    fn replace(
        &mut self,
        seat: Seat,
        before: &Session,
        after: &Session,
        unsaved: bool,
        policy: &Policy,
    ) {
        let revision = self.next_revision();
        let slot = &mut self.slots[seat.0 as usize];
        slot.session.replace(after, &mut self.scratch);
        slot.revision = revision;
        slot.fingerprint = after.fingerprint();
        slot.unsaved = unsaved;
        self.tally.remove(before);
        self.tally.add(after);
        self.enqueue(seat, after, policy);
    }

    const fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Queues the session for when it wants attention. Nothing puts the poll of a session in
    /// flight off, so one that comes back without an answer is due at once.
    fn enqueue(&mut self, seat: Seat, session: &Session, policy: &Policy) {
        match session.wake(policy).filter(|_| !self.is_leased(self.slot(seat))) {
            Some(wake) => self.queue.set(seat, wake),
            None => self.queue.remove(seat),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::domain::{Exchange, Listing, Observation, Snapshot};
    use crate::store::conformance::{entry, id};

    #[test]
    fn what_somebody_else_has_decided_is_known_by_no_answer_of_before() {
        let (policy, now) = (Policy::default(), Timestamp::from_millis(1_795_000_000_000));
        let listing =
            Listing::Read { resources: Vec::new(), fingerprint: Some(Fingerprint::of(1)) };
        let answer = Observation::Configuration(Snapshot { ttl: None, listing });
        let exchange = Exchange { sent: now, arrived: now, outage: false };
        let rng = &mut StdRng::seed_from_u64(1);
        let session = Session::track(entry(1), 0, now, &policy).session;
        let session = session.observe(answer, None, exchange, &policy, rng).session;
        let mut registry = Registry::default();
        registry.put(&session, &policy);
        assert_eq!(registry.session(id(1)).unwrap().fingerprint(), Some(Fingerprint::of(1)));
        // As it comes from there.
        let json = serde_json::to_string(&session).unwrap();
        registry.put(&serde_json::from_str(&json).unwrap(), &policy);
        assert_eq!(registry.session(id(1)).unwrap().fingerprint(), None);
    }
}
