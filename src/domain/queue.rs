//! Who is polled next: a queue of due times that knows urgency and starves nobody.

use std::collections::{BTreeSet, HashMap};

use super::census::Moments;
use super::id::SessionId;
use super::schedule::Urgency;
use super::time::Timestamp;

/// When a session wants attention, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// Something is to be decided that needs no request, such as the end at the deadline.
    pub timer: Timestamp,
    pub poll: Option<(Timestamp, Urgency)>,
    /// When a poll that is still waiting becomes the final one, whatever it was due for.
    pub last_chance: Option<Timestamp>,
}

impl Wake {
    /// Where the session stands in line for a poll.
    fn places(self) -> impl Iterator<Item = (Timestamp, Urgency)> {
        let last_chance = self.last_chance.map(|at| (at, Urgency::Final));
        self.poll.into_iter().chain(last_chance)
    }
}

const POLL_LANES: usize = 3;

/// Sessions ordered by when they want attention; each stands in it once.
///
/// Of the polls that are due, final ones go first, then active ones, then the longest overdue.
/// That alone would let a flood of active sessions starve the quiet, so every
/// [`FAIR_SHARE`](Self::FAIR_SHARE)th poll goes to the longest overdue of all. A session that is
/// due and has `n` sessions due before it is therefore polled within `FAIR_SHARE * (n + 1)` polls.
#[derive(Debug, Default)]
pub struct DueQueue {
    timers: BTreeSet<(Timestamp, SessionId)>,
    polls: [BTreeSet<(Timestamp, SessionId)>; POLL_LANES],
    wakes: HashMap<SessionId, Wake>,
    /// When the polls fall due, each counted once.
    due: Moments,
    taken: u64,
}

impl DueQueue {
    pub const FAIR_SHARE: u64 = 4;

    /// Puts the session in, in place of what was there for it.
    pub fn set(&mut self, id: SessionId, wake: Wake) {
        self.remove(id);
        self.timers.insert((wake.timer, id));
        for (at, urgency) in wake.places() {
            self.polls[urgency as usize].insert((at, id));
        }
        if let Some((at, _)) = wake.poll {
            self.due.add(at);
        }
        self.wakes.insert(id, wake);
    }

    pub fn remove(&mut self, id: SessionId) {
        let Some(wake) = self.wakes.remove(&id) else { return };
        self.timers.remove(&(wake.timer, id));
        for (at, urgency) in wake.places() {
            self.polls[urgency as usize].remove(&(at, id));
        }
        if let Some((at, _)) = wake.poll {
            self.due.remove(at);
        }
    }

    /// Takes out a session with a timer that is due at `now`.
    pub fn pop_timer(&mut self, now: Timestamp) -> Option<SessionId> {
        let &(_, id) = self.timers.first().filter(|&&(at, _)| at <= now)?;
        self.remove(id);
        Some(id)
    }

    /// Whose timers are due at `now`, in the order in which they ran out.
    pub fn timers_due(&self, now: Timestamp) -> impl Iterator<Item = SessionId> {
        self.timers.iter().take_while(move |&&(at, _)| at <= now).map(|&(_, id)| id)
    }

    /// Takes out the session that is to be polled first at `now`, with when and for what it was
    /// due.
    pub fn pop_poll(&mut self, now: Timestamp) -> Option<(SessionId, Timestamp, Urgency)> {
        let mut due = Urgency::ALL.into_iter().filter_map(|urgency| {
            let &(at, id) = self.polls[urgency as usize].first()?;
            (at <= now).then_some((at, id, urgency))
        });
        let fair = self.taken % Self::FAIR_SHARE == Self::FAIR_SHARE - 1;
        let (at, id, urgency) = if fair { due.min() } else { due.next() }?;
        self.taken += 1;
        self.remove(id);
        Some((id, at, urgency))
    }

    /// Takes back that the last session popped for a poll was polled: it is to be put in again,
    /// and must not have used up somebody's fair share.
    pub const fn not_polled(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// When the next timer runs out; may lie in the past.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// When the next poll falls due; may lie in the past.
    #[must_use]
    pub fn next_poll(&self) -> Option<Timestamp> {
        self.polls.iter().filter_map(|lane| lane.first()).map(|&(at, _)| at).min()
    }

    /// How many polls were due by the last whole second.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> usize {
        self.due.up_to(now)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.wakes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wakes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 16])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn poll(seconds: i64, urgency: Urgency) -> Wake {
        Wake { timer: at(1_000), poll: Some((at(seconds), urgency)), last_chance: None }
    }

    fn drain(queue: &mut DueQueue, now: Timestamp) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop_poll(now)).map(|(id, ..)| id.as_bytes()[0]).collect()
    }

    #[test]
    fn nothing_is_popped_before_it_is_due() {
        let mut queue = DueQueue::default();
        queue.set(id(1), poll(10, Urgency::Quiet));
        assert_eq!(queue.pop_poll(at(9)), None);
        assert_eq!(queue.pop_timer(at(999)), None);
        assert_eq!(queue.next_poll(), Some(at(10)));
        assert_eq!(drain(&mut queue, at(10)), [1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn final_then_active_then_the_longest_overdue() {
        let mut queue = DueQueue::default();
        queue.set(id(1), poll(2, Urgency::Quiet));
        queue.set(id(2), poll(8, Urgency::Active));
        queue.set(id(3), poll(9, Urgency::Final));
        queue.set(id(5), poll(1, Urgency::Quiet));
        assert_eq!(drain(&mut queue, at(10)), [3, 2, 5, 1]);
    }

    #[test]
    fn a_poll_that_waits_too_long_becomes_the_final_one_and_goes_first() {
        let mut queue = DueQueue::default();
        queue.set(id(1), poll(1, Urgency::Quiet));
        queue.set(id(2), poll(2, Urgency::Active));
        queue.set(id(3), Wake { last_chance: Some(at(9)), ..poll(3, Urgency::Quiet) });
        assert_eq!(queue.pop_poll(at(8)).unwrap().0, id(2));
        assert_eq!(queue.pop_poll(at(9)), Some((id(3), at(9), Urgency::Final)));
        assert_eq!(drain(&mut queue, at(9)), [1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_timer_runs_out_whether_or_not_a_poll_is_overdue() {
        let mut queue = DueQueue::default();
        queue.set(id(1), poll(2, Urgency::Quiet));
        assert_eq!(queue.pop_timer(at(1_000)), Some(id(1)));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_session_stands_in_the_queue_once() {
        let mut queue = DueQueue::default();
        queue.set(id(1), poll(1, Urgency::Quiet));
        queue.set(id(1), poll(5, Urgency::Final));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.next_poll(), Some(at(5)));
    }

    /// The bound that the type's documentation states, under a flood that never ends.
    #[test]
    fn a_flood_of_active_sessions_starves_no_quiet_one() {
        let mut queue = DueQueue::default();
        let ahead = 5;
        for n in 0..ahead {
            queue.set(id(n), poll(0, Urgency::Quiet));
        }
        queue.set(id(ahead), poll(1, Urgency::Quiet));
        let mut now = at(2);
        let bound = DueQueue::FAIR_SHARE * u64::from(ahead + 1);
        let popped_at = (1..=bound).find(|_| {
            let poll = Some((now, Urgency::Active));
            queue.set(id(200), Wake { timer: at(1_000), poll, last_chance: None });
            now = now.plus(Duration::from_secs(1));
            queue.pop_poll(now).is_some_and(|(popped, ..)| popped == id(ahead))
        });
        assert!(popped_at.is_some(), "not within {bound} polls");
    }
}
