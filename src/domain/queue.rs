//! Who is polled next: a queue of due times that knows urgency and starves nobody.

mod heap;

use std::time::Duration;

use self::heap::Heap;
use super::census::Moments;
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

/// Where the owner of a queue keeps a session: small numbers, which are given again once they
/// are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(pub u32);

/// The polls of each urgency, and the timers.
const LANES: usize = 4;
const TIMERS: usize = 3;

/// Where a session stands in each lane.
type Places = [u32; LANES];
/// In no place of a lane.
const NOWHERE: u32 = u32::MAX;

/// Sessions ordered by when they want attention; each stands in it once.
///
/// Of the polls that are due, final ones go first, then active ones, then the longest overdue.
/// That alone would let a flood of active sessions starve the quiet, so every
/// [`FAIR_SHARE`](Self::FAIR_SHARE)th poll goes to the longest overdue of all. A session that is
/// due and has `n` sessions due before it is therefore polled within `FAIR_SHARE * (n + 1)` polls.
///
/// It takes some fifty bytes a session: its timer, its poll, and the last chance of that.
#[derive(Debug, Default)]
pub struct DueQueue {
    lanes: [Heap; LANES],
    /// By seat.
    places: Vec<Places>,
    len: usize,
    /// When the polls fall due, each counted once.
    due: Moments,
    taken: u64,
}

impl DueQueue {
    pub const FAIR_SHARE: u64 = 4;

    /// Puts the session in, in place of what was there for it.
    pub fn set(&mut self, seat: Seat, wake: Wake) {
        self.remove(seat);
        let index = seat.0 as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, [NOWHERE; LANES]);
        }
        self.insert(TIMERS, wake.timer, seat);
        if let Some((at, urgency)) = wake.poll {
            self.insert(urgency as usize, at, seat);
            self.due.add(at);
        }
        if let Some(at) = wake.last_chance
            && self.place(Urgency::Final as usize, seat).is_none()
        {
            self.insert(Urgency::Final as usize, at, seat);
        }
        self.len += 1;
    }

    pub fn remove(&mut self, seat: Seat) {
        if self.place(TIMERS, seat).is_none() {
            return;
        }
        // What stands among the final polls beside another is its last chance.
        let poll = Urgency::ALL.into_iter().rev().find_map(|urgency| {
            let lane = urgency as usize;
            self.place(lane, seat).map(|place| self.lanes[lane].moment(place))
        });
        if let Some(at) = poll {
            self.due.remove(at);
        }
        for lane in 0..LANES {
            if let Some(place) = self.place(lane, seat) {
                self.places[seat.0 as usize][lane] = NOWHERE;
                let places = &mut self.places;
                self.lanes[lane].remove(place, |seat, place| put(places, lane, seat, place));
            }
        }
        self.len -= 1;
    }

    /// Takes out a session with a timer that is due at `now`.
    pub fn pop_timer(&mut self, now: Timestamp) -> Option<Seat> {
        let (_, seat) = self.lanes[TIMERS].first().filter(|&(at, _)| at <= now)?;
        self.remove(seat);
        Some(seat)
    }

    /// Whose timers are due at `now`, in the order in which they ran out.
    #[must_use]
    pub fn timers_due(&self, now: Timestamp) -> Vec<Seat> {
        let mut due = self.lanes[TIMERS].up_to(now);
        due.sort_unstable();
        due.into_iter().map(|(_, seat)| seat).collect()
    }

    /// Takes out the session that is to be polled first at `now`, with when and for what it was
    /// due.
    pub fn pop_poll(&mut self, now: Timestamp) -> Option<(Seat, Timestamp, Urgency)> {
        let mut due = Urgency::ALL.into_iter().filter_map(|urgency| {
            let (at, seat) = self.lanes[urgency as usize].first()?;
            (at <= now).then_some((at, seat, urgency))
        });
        let fair = self.taken % Self::FAIR_SHARE == Self::FAIR_SHARE - 1;
        let (at, seat, urgency) = if fair { due.min() } else { due.next() }?;
        self.taken += 1;
        self.remove(seat);
        Some((seat, at, urgency))
    }

    /// Takes back that the last session popped for a poll was polled: it is to be put in again,
    /// and must not have used up somebody's fair share.
    pub const fn not_polled(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// When the next timer runs out; may lie in the past.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.lanes[TIMERS].first().map(|(at, _)| at)
    }

    /// When the next poll falls due; may lie in the past.
    #[must_use]
    pub fn next_poll(&self) -> Option<Timestamp> {
        self.lanes[..TIMERS].iter().filter_map(Heap::first).map(|(at, _)| at).min()
    }

    /// When `many` polls are due, but no later than so long `after` the first of them is.
    #[must_use]
    pub fn next_polls(&self, many: usize, after: Duration) -> Option<Timestamp> {
        let last = self.next_poll()?.plus(after);
        let soon = |lane: &Heap| {
            lane.in_order().take(many).take_while(|&at| at < last).collect::<Vec<_>>()
        };
        let mut due: Vec<_> = self.lanes[..TIMERS].iter().flat_map(soon).collect();
        due.sort_unstable();
        Some(due.get(many.saturating_sub(1)).copied().unwrap_or(last))
    }

    /// How many polls were due by the last whole second.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> usize {
        self.due.up_to(now)
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, lane: usize, seat: Seat) -> Option<usize> {
        let place = self.places.get(seat.0 as usize)?[lane];
        (place != NOWHERE).then_some(place as usize)
    }

    fn insert(&mut self, lane: usize, at: Timestamp, seat: Seat) {
        let places = &mut self.places;
        self.lanes[lane].insert(at, seat, |seat, place| put(places, lane, seat, place));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a lane holds no more than there are seats")]
fn put(places: &mut [Places], lane: usize, seat: Seat, place: usize) {
    places[seat.0 as usize][lane] = place as u32;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> Seat {
        Seat(n.into())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn poll(seconds: i64, urgency: Urgency) -> Wake {
        Wake { timer: at(1_000), poll: Some((at(seconds), urgency)), last_chance: None }
    }

    fn drain(queue: &mut DueQueue, now: Timestamp) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop_poll(now)).map(|(seat, ..)| seat.0).collect()
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

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, Wake),
        Remove(u32),
        PopTimer(i64),
        /// And whether a poll comes of it.
        PopPoll(i64, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let moment = || (0..30_i64).prop_map(at);
        let urgency = prop::sample::select(Urgency::ALL.to_vec());
        let wake = (moment(), prop::option::of((moment(), urgency)), prop::option::of(moment()))
            .prop_map(|(timer, poll, last_chance)| {
                let is_final = poll.is_none_or(|(_, urgency)| urgency == Urgency::Final);
                Wake { timer, poll, last_chance: last_chance.filter(|_| !is_final) }
            });
        let step = prop_oneof![
            4 => (0..40_u32, wake).prop_map(|(seat, wake)| Step::Set(seat, wake)),
            1 => (0..40_u32).prop_map(Step::Remove),
            1 => (0..30_i64).prop_map(Step::PopTimer),
            2 => (0..30_i64, any::<bool>()).prop_map(|(at, polled)| Step::PopPoll(at, polled)),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// Who is to be polled first of these, by looking at each.
    fn first(wakes: &BTreeMap<u32, Wake>, now: Timestamp, fair: bool) -> Option<(u32, Timestamp)> {
        let places = wakes.iter().flat_map(|(&seat, wake)| {
            let last_chance = wake.last_chance.map(|at| (at, Urgency::Final));
            let places = wake.poll.into_iter().chain(last_chance);
            places.map(move |(at, urgency)| (urgency, at, seat))
        });
        let due = places.filter(|&(_, at, _)| at <= now);
        let first = if fair {
            due.min_by_key(|&(urgency, at, seat)| (at, seat, urgency))
        } else {
            due.min()
        };
        first.map(|(_, at, seat)| (seat, at))
    }

    proptest! {
        /// Whatever is put in and taken out, it answers as a search through everything would.
        #[test]
        fn it_is_what_a_search_through_everything_finds(steps in steps()) {
            let mut queue = DueQueue::default();
            let mut wakes: BTreeMap<u32, Wake> = BTreeMap::new();
            let mut taken = 0;
            for step in steps {
                match step {
                    Step::Set(seat, wake) => {
                        queue.set(Seat(seat), wake);
                        wakes.insert(seat, wake);
                    }
                    Step::Remove(seat) => {
                        queue.remove(Seat(seat));
                        wakes.remove(&seat);
                    }
                    Step::PopTimer(seconds) => {
                        let due = wakes.iter().map(|(&seat, wake)| (wake.timer, seat));
                        let due = due.filter(|&(timer, _)| timer <= at(seconds)).min();
                        let popped = queue.pop_timer(at(seconds));
                        prop_assert_eq!(popped, due.map(|(_, seat)| Seat(seat)));
                        wakes.retain(|&seat, _| Some(Seat(seat)) != popped);
                    }
                    Step::PopPoll(seconds, polled) => {
                        let fair = taken % DueQueue::FAIR_SHARE == DueQueue::FAIR_SHARE - 1;
                        let found = first(&wakes, at(seconds), fair);
                        let popped = queue.pop_poll(at(seconds));
                        prop_assert_eq!(popped.map(|(seat, at, _)| (seat.0, at)), found);
                        taken += u64::from(popped.is_some());
                        if popped.is_some() && !polled {
                            queue.not_polled();
                            taken -= 1;
                        }
                        wakes.retain(|&seat, _| found.is_none_or(|(other, _)| other != seat));
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (wakes.len(), wakes.is_empty()));
                prop_assert_eq!(queue.next_timer(), wakes.values().map(|wake| wake.timer).min());
                let timers = wakes.iter().map(|(&seat, wake)| (wake.timer, Seat(seat)));
                let mut timers: Vec<_> = timers.filter(|(timer, _)| *timer <= at(15)).collect();
                timers.sort_unstable();
                let timers: Vec<Seat> = timers.into_iter().map(|(_, seat)| seat).collect();
                prop_assert_eq!(queue.timers_due(at(15)), timers);
                let polls = wakes.values().filter_map(|wake| wake.poll);
                prop_assert_eq!(queue.overdue(at(15)), polls.filter(|(due, _)| *due <= at(15)).count());
                let places = wakes.values().flat_map(|wake| {
                    wake.poll.map(|(at, _)| at).into_iter().chain(wake.last_chance)
                });
                let mut places: Vec<Timestamp> = places.collect();
                places.sort_unstable();
                prop_assert_eq!(queue.next_poll(), places.first().copied());
                let third = places.first().map(|first| {
                    let last = first.plus(Duration::from_secs(4));
                    places.get(2).map_or(last, |&third| third.min(last))
                });
                prop_assert_eq!(queue.next_polls(3, Duration::from_secs(4)), third);
            }
        }
    }
}
