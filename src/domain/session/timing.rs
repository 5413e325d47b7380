//! When a session is polled, and when it wants attention for another reason.

use std::time::Duration;

use rand::Rng;

use super::super::policy::Policy;
use super::super::queue::Wake;
use super::super::schedule::{Urgency, up_to};
use super::super::time::{Step, Timestamp};
use super::{Life, Schedule, Session};

impl Session {
    /// Takes the schedule up again after a restart: what is still to come stays where it was,
    /// unless the policy is another one by now and [asks for it sooner](Self::repace); what fell
    /// due meanwhile is spread over one interval. So is what waits for longer than anything is made
    /// to wait: a clock was wrong when that was decided.
    ///
    /// A session whose deadline passed meanwhile is not given up unseen: it has a last poll.
    pub fn resume<R: Rng + ?Sized>(&mut self, now: Timestamp, policy: &Policy, rng: &mut R) {
        // What was done in the future shows that the clock has been set back since.
        let last = self.schedule.last_poll.unwrap_or(self.life.tracked_at);
        let overdue = self.schedule.poll_at <= now || last > now;
        let longest_wait = policy.backoff_max.max(Policy::RETRY_AFTER_MAX);
        if overdue || self.waits() && self.schedule.poll_at > now.plus(longest_wait) {
            let within =
                if self.life.observed { self.cadence(now, policy) } else { Duration::ZERO };
            self.schedule.poll_at = now.plus(up_to(within, rng));
        }
        self.schedule.urgency = self.urgency(now);
        let said = self.entry.expires_at.is_some_and(|at| at <= now);
        if self.life.deadline <= now && !said && self.life.ended.is_none() {
            let overtime = Policy::OVERTIME.max(2 * policy.final_poll_before_expiry);
            self.schedule.overtime = Some(now.plus(overtime));
            self.schedule.poll_at = now.plus(up_to(overtime / 4, rng));
            self.schedule.urgency = Urgency::Final;
            return;
        }
        self.retry_final_poll(now, policy, rng);
        self.repace(now, policy, rng);
    }

    /// Takes up a policy that asks for a poll sooner than it is due: within one interval, at
    /// some time in it. What waits for a failure or a 404 to pass goes on waiting.
    pub fn repace<R: Rng + ?Sized>(&mut self, now: Timestamp, policy: &Policy, rng: &mut R) {
        let cadence = self.cadence(now, policy);
        let latest = now.plus(cadence.mul_f64(1.0 + policy.jitter));
        if !self.waits() && self.schedule.poll_at > latest {
            self.schedule.poll_at = now.plus(up_to(cadence, rng));
        }
        self.keep_final_poll(now, policy);
    }

    /// Whether the next poll is put off because of what the last one came to.
    const fn waits(&self) -> bool {
        self.schedule.failures > 0 || self.life.missing_since.is_some()
    }

    /// The same session by a wall clock that has been stepped. What was measured moves with the
    /// clock, or an hour's step would make everything overdue; what a session file says is
    /// said of the true time and stays. `now` is the present by the clock as it is set now.
    #[must_use]
    pub fn stepped(&self, step: Step, now: Timestamp, policy: &Policy) -> Self {
        let mut session = self.clone();
        if session.life.ended.is_some() {
            return session;
        }
        let Life { tracked_at, deadline, active_until, missing_since, .. } = &mut session.life;
        let Schedule { poll_at, last_poll, last_good, failing_since, .. } = &mut session.schedule;
        let optional = [active_until, missing_since, last_poll, last_good, failing_since];
        let times = [tracked_at, deadline, poll_at].into_iter();
        for time in times.chain(optional.into_iter().flatten()) {
            *time = step.of(*time);
        }
        session.keep_final_poll(now, policy);
        session
    }

    /// When the session next wants attention; never again once it has ended.
    #[must_use]
    pub fn wake(&self, policy: &Policy) -> Option<Wake> {
        if self.life.ended.is_some() {
            return None;
        }
        let deadline = self.given_up_at();
        let timer = self.expiring_at(policy).map_or(deadline, |at| at.min(deadline));
        let Schedule { poll_at, urgency, .. } = self.schedule;
        let last_chance = self.misses_final_poll(policy).then(|| self.final_poll_at(policy));
        Some(Wake {
            timer,
            poll: (poll_at < deadline).then_some((poll_at, urgency)),
            last_chance: last_chance.filter(|_| urgency != Urgency::Final),
        })
    }

    /// When the session ends if nothing else ends it.
    pub(super) fn given_up_at(&self) -> Timestamp {
        self.schedule.overtime.map_or(self.expires_at(), |until| until.max(self.expires_at()))
    }

    /// Whether its time is over, whatever a poll would say.
    #[must_use]
    pub fn is_given_up(&self, now: Timestamp) -> bool {
        self.given_up_at() <= now
    }

    pub(in crate::domain) const fn active_until(&self) -> Option<Timestamp> {
        self.life.active_until
    }

    pub(super) fn is_active(&self, now: Timestamp) -> bool {
        self.life.active_until.is_some_and(|until| now < until)
    }

    pub(super) fn urgency(&self, now: Timestamp) -> Urgency {
        if self.is_active(now) { Urgency::Active } else { Urgency::Quiet }
    }

    /// The mean time between two polls, as things are.
    #[must_use]
    pub fn cadence(&self, now: Timestamp, policy: &Policy) -> Duration {
        let quiet = self.entry.interval.unwrap_or(policy.interval);
        if self.is_active(now) { quiet.min(policy.active_interval) } else { quiet }
    }

    /// The last poll comes once to twice `final_poll_before_expiry` before the deadline. Where in
    /// between depends on the id, so that sessions which expire together don't ask together.
    pub(super) fn final_poll_at(&self, policy: &Policy) -> Timestamp {
        let before = policy.final_poll_before_expiry;
        self.expires_at().minus(before.saturating_add(before.mul_f64(self.share())))
    }

    /// A number from 0 to 1 that is the session's own: its id's.
    pub(super) fn share(&self) -> f64 {
        let [high, low, ..] = *self.id().as_bytes();
        f64::from(u16::from_be_bytes([high, low])) / 65_536.0
    }

    pub(super) fn schedule_poll<R: Rng + ?Sized>(
        &mut self,
        now: Timestamp,
        delay: Duration,
        policy: &Policy,
        rng: &mut R,
    ) {
        self.schedule.poll_at = now.plus(delay);
        self.schedule.urgency = self.urgency(now);
        self.retry_final_poll(now, policy, rng);
        self.keep_final_poll(now, policy);
    }

    /// Where the final poll has failed, what is left of the time is for trying again.
    fn retry_final_poll<R: Rng + ?Sized>(&mut self, now: Timestamp, policy: &Policy, rng: &mut R) {
        if now >= self.final_poll_at(policy) && self.schedule.failures > 0 {
            let soon = now.plus(up_to(policy.final_poll_before_expiry / 4, rng));
            self.schedule.poll_at = self.schedule.poll_at.min(soon);
            self.schedule.urgency = Urgency::Final;
        }
    }

    /// Whatever the cadence or the backoff says, the final poll is not passed over.
    pub(super) fn keep_final_poll(&mut self, now: Timestamp, policy: &Policy) {
        let final_at = self.final_poll_at(policy);
        if self.misses_final_poll(policy) && self.schedule.poll_at >= final_at {
            self.schedule.poll_at = final_at.max(now);
            self.schedule.urgency = Urgency::Final;
        }
    }

    fn misses_final_poll(&self, policy: &Policy) -> bool {
        let final_at = self.final_poll_at(policy);
        self.schedule.last_poll.is_none_or(|last| last < final_at)
    }

    pub(super) fn expiring_at(&self, policy: &Policy) -> Option<Timestamp> {
        let wanted = !policy.expiring_before.is_zero()
            && self.life.observed
            && !self.life.told.expiring
            && self.schedule.overtime.is_none()
            && self.life.resources.iter().any(|r| r.state.is_required());
        wanted.then(|| self.expires_at().minus(policy.expiring_before))
    }
}
