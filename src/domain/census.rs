//! How many sessions stand where, counted as they change and not by looking at each.

use std::collections::BTreeMap;

use super::session::{Phase, Session};
use super::time::Timestamp;

/// How many sessions and resources stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    pub pending: usize,
    pub quiet: usize,
    pub active: usize,
    pub failing: usize,
    pub ended: usize,
    /// Resources of sessions that have not ended, by state.
    pub required: usize,
    pub in_progress: usize,
    pub complete: usize,
    pub other: usize,
    /// Polls that were due and have not gone out.
    pub overdue: usize,
}

impl Census {
    /// Sessions that have not ended.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.pending + self.quiet + self.active + self.failing
    }
}

/// The counts behind a [`Census`], kept up to date session by session.
#[derive(Debug, Default)]
pub struct Tally {
    /// What doesn't depend on the time; whoever is active stands among the quiet.
    settled: Census,
    /// Until when sessions are active that are neither ended nor failing nor pending.
    active_until: Moments,
}

impl Tally {
    /// Takes a session in.
    pub fn add(&mut self, session: &Session) {
        self.count(session, |count, by| *count += by);
        if let Some(until) = Self::active_until(session) {
            self.active_until.add(until);
        }
    }

    /// Takes a session out that was taken in with this very value.
    pub fn remove(&mut self, session: &Session) {
        self.count(session, |count, by| *count -= by);
        if let Some(until) = Self::active_until(session) {
            self.active_until.remove(until);
        }
    }

    /// The counts as of the last whole second, but for what is overdue.
    #[must_use]
    pub fn census(&self, now: Timestamp) -> Census {
        let active = self.active_until.after(now);
        Census { active, quiet: self.settled.quiet - active, ..self.settled }
    }

    fn count(&mut self, session: &Session, change: impl Fn(&mut usize, usize)) {
        let settled = &mut self.settled;
        // At the end of time nobody is active any more.
        let sessions = match session.phase(Timestamp::MAX) {
            Phase::Pending => &mut settled.pending,
            Phase::Quiet | Phase::Active => &mut settled.quiet,
            Phase::Failing => &mut settled.failing,
            Phase::Ended(_) => return change(&mut settled.ended, 1),
        };
        change(sessions, 1);
        let progress = session.progress();
        change(&mut settled.required, progress.required as usize);
        change(&mut settled.in_progress, progress.in_progress as usize);
        change(&mut settled.complete, progress.complete as usize);
        change(&mut settled.other, progress.other as usize);
    }

    fn active_until(session: &Session) -> Option<Timestamp> {
        let quiet = session.phase(Timestamp::MAX) == Phase::Quiet;
        session.active_until().filter(|_| quiet)
    }
}

/// How many of some things lie at which second: counted in as many steps as there are seconds
/// in question, however many things there are.
#[derive(Debug, Default)]
pub(super) struct Moments {
    /// By the first whole second that isn't before the moment.
    seconds: BTreeMap<i64, usize>,
}

impl Moments {
    pub(super) fn add(&mut self, at: Timestamp) {
        *self.seconds.entry(Self::second(at)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, at: Timestamp) {
        let second = Self::second(at);
        if let Some(count) = self.seconds.get_mut(&second) {
            *count -= 1;
            if *count == 0 {
                self.seconds.remove(&second);
            }
        }
    }

    /// How many lie after the last whole second.
    pub(super) fn after(&self, now: Timestamp) -> usize {
        self.seconds.range(now.as_millis().div_euclid(1_000) + 1..).map(|(_, count)| count).sum()
    }

    /// How many don't lie after the last whole second.
    pub(super) fn up_to(&self, now: Timestamp) -> usize {
        self.seconds.range(..=now.as_millis().div_euclid(1_000)).map(|(_, count)| count).sum()
    }

    const fn second(at: Timestamp) -> i64 {
        at.as_millis().div_euclid(1_000) + (at.as_millis().rem_euclid(1_000) != 0) as i64
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::id::SessionId;
    use super::super::labels::Labels;
    use super::super::observation::{Observation, Problem, ProblemKind, Snapshot};
    use super::super::policy::Policy;
    use super::super::resource::Listed;
    use super::super::session::{Entry, Exchange};
    use super::*;

    #[test]
    fn moments_are_counted_exactly_at_whole_seconds_and_stand_still_in_between() {
        let mut moments = Moments::default();
        let all = [-1, 0, 1, 999, 1_000, 1_001, 1_001];
        for millis in all {
            moments.add(Timestamp::from_millis(millis));
        }
        let counts = |moments: &Moments, millis| {
            let now = Timestamp::from_millis(millis);
            (moments.up_to(now), moments.after(now))
        };
        assert_eq!(counts(&moments, -1_000), (0, 7));
        assert_eq!(counts(&moments, 0), (2, 5));
        assert_eq!(counts(&moments, 999), (2, 5));
        assert_eq!(counts(&moments, 1_000), (5, 2));
        assert_eq!(counts(&moments, 2_000), (7, 0));
        for (left, millis) in (0..7).rev().zip(all) {
            moments.remove(Timestamp::from_millis(millis));
            assert_eq!(counts(&moments, 2_000), (left, 0));
        }
        assert!(moments.seconds.is_empty(), "{moments:?}");
    }

    const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn tracked(n: u8) -> Session {
        let session_id = SessionId::from_bytes([n; 16]);
        let entry =
            Entry { session_id, labels: Labels::default(), expires_at: None, interval: None };
        Session::track(entry, 0, START, &Policy::default()).session
    }

    fn answered(session: &Session, observation: Observation) -> Session {
        let exchange = Exchange { sent: START, arrived: START, outage: false };
        let rng = &mut StdRng::seed_from_u64(1);
        session.observe(observation, None, exchange, &Policy::default(), rng).session
    }

    fn listing(states: &[&str]) -> Observation {
        let resources: Vec<_> =
            states.iter().map(|state| Listed::new(None, None, Some(state))).collect();
        Observation::Configuration(Snapshot { ttl: None, listing: resources.into() })
    }

    fn failing(session: &Session) -> Session {
        let message = "the server failed".to_owned();
        let kind = ProblemKind::ServerError;
        let problem = Problem { kind, status: None, code: None, request_id: None, message };
        let failed = Observation::ServerError { problem, retry_after: None };
        (0..3).fold(session.clone(), |session, _| answered(&session, failed.clone()))
    }

    #[test]
    fn sessions_are_counted_where_they_stand_and_leave_nothing_behind() {
        let quiet = answered(&tracked(2), listing(&["REQUIRED", "REQUIRED", "ODD"]));
        let active = answered(&tracked(3), listing(&["REQUIRED"]));
        let active = answered(&active, listing(&["COMPLETE"]));
        let ended = answered(&tracked(5), listing(&["REQUIRED", "IN_PROGRESS"]));
        let ended = ended.untrack(START).unwrap().session;
        // One that fails is that, whatever changed a short while ago.
        let all = [tracked(1), quiet, active.clone(), active.clone(), failing(&active), ended];
        let mut tally = Tally::default();
        for session in &all {
            tally.add(session);
        }
        let census = tally.census(START);
        assert_eq!(
            census,
            Census {
                pending: 1,
                quiet: 1,
                active: 2,
                failing: 1,
                ended: 1,
                required: 2,
                in_progress: 0,
                complete: 3,
                other: 1,
                overdue: 0
            }
        );
        assert_eq!(census.live(), 5);
        let later = START.plus(Policy::default().active_for);
        assert_eq!(tally.census(later), Census { quiet: 3, active: 0, ..census });
        for session in &all {
            tally.remove(session);
        }
        assert_eq!(tally.census(START), Census::default());
        assert!(tally.active_until.seconds.is_empty(), "{tally:?}");
    }
}
