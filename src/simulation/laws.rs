//! Laws that depend on the time: what may not come too early, too late, or not at all.

use std::time::Duration;

use super::plan::{At, SECOND, millis, span};
use super::world::{State, World};
use crate::domain::{SessionId, Timestamp, Urgency};

/// By how much anything may come late when nothing is wrong.
const SLACK: At = 15 * SECOND;

impl World {
    /// Never because of an error: every look for the whole grace found no file that names it.
    pub(super) fn untracked(&self, state: &mut State, id: SessionId) {
        let absent = state.files.absent_for(id);
        assert!(
            absent.is_some_and(|absent| absent >= millis(self.plan.removal_grace)),
            "{id} is untracked, and a file named it or had shortly before: missing for {absent:?} ms"
        );
        state.cover("untracked");
    }

    /// By its deadline and not by an answer, so it must have had its last poll.
    pub(super) fn expired(&self, state: &mut State, id: SessionId, at: At, wall: Timestamp) {
        let window = 2 * millis(state.policy.final_poll_before_expiry) + 5 * SECOND;
        let calm = self.calm_since(state, at);
        let book = state.book(id);
        assert!(wall >= book.expires_at(), "{id} ends before its time");
        let known = |since: At| since + window <= at;
        let answers = book.settled.is_none_or(|(_, good)| good);
        if self.is_roomy()
            && answers
            && calm.is_some_and(known)
            && known(book.begun)
            && known(book.amended)
        {
            // One whose deadline passed unseen is given time for a last poll after it.
            let late = millis(wall.since(book.expires_at()));
            let polled = book.asked.is_some_and(|asked| asked + window + late >= at);
            assert!(
                polled,
                "{id} expires without a final poll: it was asked for at {:?}",
                book.asked
            );
            state.cover("expired after a final poll");
        }
    }

    /// Since when nothing has been wrong, if nothing is.
    fn calm_since(&self, state: &State, at: At) -> Option<At> {
        if state.traffic.pause.is_some() || self.plan.has(at, |_| true).is_some() {
            return None;
        }
        let over = self.plan.windows.iter().filter(|w| w.to <= at).map(|w| w.to).max();
        Some(over.unwrap_or(0).max(state.disturbed))
    }

    /// No session waits longer for its poll than the cadence and the jitter make it.
    pub(super) fn in_time(&self, state: &mut State, id: SessionId, at: At) {
        let Some(calm) = self.calm_since(state, at).filter(|_| self.is_roomy()) else { return };
        let policy = state.policy.clone();
        let book = state.book(id);
        let (settled, good) = book.settled.unwrap_or((book.begun, true));
        let quiet = book.entry.interval.unwrap_or(policy.interval).max(policy.interval);
        let mut longest = quiet.mul_f64(1.0 + policy.jitter);
        if book.session.missing_since.is_some() {
            longest = longest.max(Duration::from_secs(66));
        }
        if !good {
            longest = longest.max(policy.backoff_max).max(Duration::from_secs(3_600));
        }
        let since = settled.max(calm).max(book.amended);
        let waits = at - since;
        assert!(waits <= millis(longest) + SLACK, "{id} has not been polled for {waits} ms");
    }

    /// How long it was until this poll, next to the mean that it should be.
    pub(super) fn measure(&self, state: &mut State, id: SessionId, urgency: Urgency, leased: At) {
        let Some(calm) = self.calm_since(state, leased).filter(|_| self.is_roomy()) else { return };
        let policy = state.policy.clone();
        let book = state.book(id);
        let Some((settled, true)) = book.settled.filter(|_| book.session.missing_since.is_none())
        else {
            return;
        };
        let undisturbed = settled.max(book.amended) >= calm && book.amended < settled;
        if !undisturbed || urgency == Urgency::Final {
            return;
        }
        let cadence = book.settled_cadence(&policy);
        state.lateness.total += span(leased - settled).div_duration_f64(cadence);
        state.lateness.polls += 1.0;
    }

    /// Whether polls fit into the limits with room to spare, whatever happens: a few that get no
    /// answer don't take all that may be under way.
    fn is_roomy(&self) -> bool {
        let few = self.plan.limits().any(|limits| limits.max_in_flight < 4);
        if few && self.plan.faulty > 0 {
            return false;
        }
        let rate = self.plan.limits().map(|limits| limits.rate).fold(f64::INFINITY, f64::min);
        let sessions = u32::try_from(self.plan.truths.len()).expect("few");
        f64::from(sessions) <= 2.5 * rate
    }
}
