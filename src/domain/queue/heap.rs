//! A heap out of which anything can be taken, in twelve bytes an entry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::time::Timestamp;
use super::Seat;

/// Seats by a moment, the earliest first; of equal moments, the lower seat.
///
/// Whoever owns it keeps for each seat the place at which it stands. Every method that moves an
/// entry says so to `moved`, with the entry's seat and its new place.
#[derive(Debug, Default)]
pub(super) struct Heap {
    // Two vectors, since pairs of the two would be padded by a third.
    moments: Vec<Timestamp>,
    seats: Vec<Seat>,
}

/// Children of an entry. Four are next to each other, and half as many levels lie below two.
const ARITY: usize = 4;

impl Heap {
    pub(super) fn first(&self) -> Option<(Timestamp, Seat)> {
        self.moments.first().copied().zip(self.seats.first().copied())
    }

    /// All that are no later than that, in no order.
    pub(super) fn up_to(&self, last: Timestamp) -> Vec<(Timestamp, Seat)> {
        let mut found = Vec::new();
        let mut open = vec![0];
        while let Some(place) = open.pop() {
            if place < self.seats.len() && self.moments[place] <= last {
                found.push((self.moments[place], self.seats[place]));
                open.extend(place * ARITY + 1..=place * ARITY + ARITY);
            }
        }
        found
    }

    /// Its moments in order, each of which costs more the later it comes.
    pub(super) fn in_order(&self) -> impl Iterator<Item = Timestamp> {
        let moment = |place: usize| Some(Reverse((*self.moments.get(place)?, place)));
        let mut open: BinaryHeap<_> = moment(0).into_iter().collect();
        std::iter::from_fn(move || {
            let Reverse((at, place)) = open.pop()?;
            open.extend((place * ARITY + 1..=place * ARITY + ARITY).filter_map(moment));
            Some(at)
        })
    }

    pub(super) fn moment(&self, place: usize) -> Timestamp {
        self.moments[place]
    }

    pub(super) fn insert(&mut self, at: Timestamp, seat: Seat, moved: impl FnMut(Seat, usize)) {
        self.moments.push(at);
        self.seats.push(seat);
        self.settle(self.seats.len() - 1, moved);
    }

    pub(super) fn remove(&mut self, place: usize, moved: impl FnMut(Seat, usize)) {
        self.moments.swap_remove(place);
        self.seats.swap_remove(place);
        if place < self.seats.len() {
            self.settle(place, moved);
        }
    }

    /// Moves an entry that may stand wrong to where it belongs, which may be where it is.
    fn settle(&mut self, mut place: usize, mut moved: impl FnMut(Seat, usize)) {
        while place > 0 && self.is_before(place, (place - 1) / ARITY) {
            self.swap(place, (place - 1) / ARITY, &mut moved);
            place = (place - 1) / ARITY;
        }
        while let Some(child) = self.first_child(place)
            && self.is_before(child, place)
        {
            self.swap(place, child, &mut moved);
            place = child;
        }
        moved(self.seats[place], place);
    }

    /// The child of an entry that is before all its others.
    fn first_child(&self, place: usize) -> Option<usize> {
        let from = place * ARITY + 1;
        let children = from..(from + ARITY).min(self.seats.len());
        children.reduce(|first, other| if self.is_before(other, first) { other } else { first })
    }

    fn is_before(&self, one: usize, other: usize) -> bool {
        (self.moments[one], self.seats[one]) < (self.moments[other], self.seats[other])
    }

    fn swap(&mut self, from: usize, to: usize, moved: &mut impl FnMut(Seat, usize)) {
        self.moments.swap(from, to);
        self.seats.swap(from, to);
        moved(self.seats[from], from);
    }
}
