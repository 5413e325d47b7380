//! What clients asked and were told: counted without end, kept in detail for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::auth::Refusal;
use crate::domain::{SessionId, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `/sessions/{id}/configuration`
    Configuration,
    /// `/sessions/{id}`
    Session,
    /// `/v1/oauth/token`
    Token,
    /// Any other path.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Pending,
    /// The head of an answer with that status was sent.
    Answered(u16),
    /// The connection was reset on purpose.
    Reset,
    /// The client went away before it was answered.
    Abandoned,
}

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// When the request had arrived.
    pub at: Timestamp,
    pub endpoint: Endpoint,
    pub session: Option<SessionId>,
    /// Counts connections from 1.
    pub connection: u64,
    pub outcome: Outcome,
    /// Why it was turned away, or would have been but for a fault.
    pub refusal: Option<Refusal>,
    /// The effects that befell it.
    pub faults: Vec<&'static str>,
}

/// Totals since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub requests: u64,
    pub connections: u64,
    /// Requests whose answer isn't sent in full yet.
    pub in_flight: usize,
    pub max_in_flight: usize,
    /// The most that were ever in flight for one session.
    pub max_in_flight_per_session: usize,
    pub outcomes: BTreeMap<(Endpoint, Outcome), u64>,
}

impl Totals {
    /// How many requests of that kind were answered with that status.
    #[must_use]
    pub fn answered(&self, endpoint: Endpoint, status: u16) -> u64 {
        self.outcomes.get(&(endpoint, Outcome::Answered(status))).copied().unwrap_or(0)
    }
}

/// Totals of one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionTotals {
    pub requests: u64,
    pub in_flight: usize,
    pub max_in_flight: usize,
}

#[derive(Debug)]
pub(super) struct Traffic {
    totals: Totals,
    sessions: HashMap<SessionId, SessionTotals>,
    kept: VecDeque<Exchange>,
    most_kept: usize,
}

/// Which exchange: its place in the order of arrival.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

impl Traffic {
    pub(super) fn keeping(most_kept: usize) -> Self {
        let (totals, sessions, kept) = Default::default();
        Self { totals, sessions, kept, most_kept }
    }

    pub(super) fn connected(&mut self) -> u64 {
        self.totals.connections += 1;
        self.totals.connections
    }

    pub(super) fn begin(&mut self, exchange: Exchange) -> Ticket {
        let ticket = Ticket(self.totals.requests);
        self.totals.requests += 1;
        self.totals.in_flight += 1;
        self.totals.max_in_flight = self.totals.max_in_flight.max(self.totals.in_flight);
        if let Some(id) = exchange.session {
            let session = self.sessions.entry(id).or_default();
            session.requests += 1;
            session.in_flight += 1;
            session.max_in_flight = session.max_in_flight.max(session.in_flight);
            let most = &mut self.totals.max_in_flight_per_session;
            *most = session.max_in_flight.max(*most);
        }
        self.kept.push_back(exchange);
        if self.kept.len() > self.most_kept {
            self.kept.pop_front();
        }
        ticket
    }

    /// Only the first outcome of an exchange counts.
    pub(super) fn conclude(&mut self, ticket: Ticket, endpoint: Endpoint, outcome: Outcome) {
        *self.totals.outcomes.entry((endpoint, outcome)).or_default() += 1;
        let first = self.totals.requests - self.kept.len() as u64;
        let place = ticket.0.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(exchange) = place.and_then(|place| self.kept.get_mut(place)) {
            exchange.outcome = outcome;
        }
    }

    pub(super) fn end(&mut self, session: Option<SessionId>) {
        self.totals.in_flight -= 1;
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
            session.in_flight -= 1;
        }
    }

    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    pub(super) fn of(&self, session: SessionId) -> SessionTotals {
        self.sessions.get(&session).copied().unwrap_or_default()
    }

    pub(super) fn exchanges(&self) -> impl DoubleEndedIterator<Item = &Exchange> {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(session: SessionId) -> Exchange {
        Exchange {
            at: Timestamp::from_millis(0),
            endpoint: Endpoint::Configuration,
            session: Some(session),
            connection: 1,
            outcome: Outcome::Pending,
            refusal: None,
            faults: Vec::new(),
        }
    }

    #[test]
    fn the_most_in_flight_is_kept_overall_and_per_session() {
        let (one, other) = (SessionId::from_bytes([1; 16]), SessionId::from_bytes([2; 16]));
        let mut traffic = Traffic::keeping(3);
        traffic.begin(exchange(one));
        traffic.begin(exchange(other));
        traffic.begin(exchange(one));
        traffic.end(Some(one));
        traffic.end(Some(one));
        traffic.begin(exchange(one));
        assert_eq!(traffic.totals().max_in_flight, 3);
        assert_eq!(traffic.totals().max_in_flight_per_session, 2);
        assert_eq!(traffic.of(one), SessionTotals { requests: 3, in_flight: 1, max_in_flight: 2 });
        assert_eq!(traffic.of(other).max_in_flight, 1);
    }

    #[test]
    fn details_are_forgotten_in_time_and_totals_never() {
        let id = SessionId::from_bytes([1; 16]);
        let mut traffic = Traffic::keeping(3);
        let first = traffic.begin(exchange(id));
        for _ in 0..3 {
            traffic.begin(exchange(id));
        }
        assert_eq!(traffic.exchanges().count(), 3);
        traffic.conclude(first, Endpoint::Configuration, Outcome::Answered(200));
        assert_eq!(traffic.totals().answered(Endpoint::Configuration, 200), 1);
        assert!(traffic.exchanges().all(|e| e.outcome == Outcome::Pending));
    }
}
