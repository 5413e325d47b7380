//! What a configuration asks of the API, and what that means for how soon news comes.

use std::time::Duration;

use super::policy::Policy;
use super::queue::DueQueue;
use super::session::{Entry, Session};
use super::time::Timestamp;

/// What bounds the requests that can be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Requests a second, on average.
    pub rate: f64,
    pub burst: u32,
    pub max_in_flight: usize,
    /// The longest that an answer may take.
    pub timeout: Duration,
}

/// Sessions to be polled, as far as their number of requests goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demand {
    pub sessions: u32,
    /// How many go by the configured interval; the others' files name one.
    by_policy: u32,
    /// Polls a second of those others, while quiet and while active.
    own_quiet: f64,
    own_active: f64,
    /// How many are known to list nothing but COMPLETE, so that each poll asks the session
    /// endpoint as well.
    pub confirming: u32,
    deadlines: Vec<Timestamp>,
}

/// Requests and latencies that follow from a demand.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Requests a second while all are quiet, and while [`Plan::ACTIVE_SHARE`] of them are
    /// active.
    pub quiet_rate: f64,
    pub busy_rate: f64,
    /// Requests a second that can be made: by the rate limit, and by the requests under way
    /// where each takes [`Plan::ANSWER_TIME`], or as long as it may.
    pub allowed_rate: f64,
    pub in_flight_rate: f64,
    pub slowest_rate: f64,
    /// How many times as far apart as configured polls come at the busy rate.
    pub stretch: f64,
    pub quiet: Latency,
    pub active: Latency,
    /// How many sessions that expire together get their final poll for certain.
    pub cohort: u32,
    /// The most of the sessions that do expire together, and when.
    pub largest_cohort: Option<(u32, Timestamp)>,
    /// From the tracking of that many new sessions to the last one's first poll.
    pub first_polls: Duration,
    pub advice: Vec<Advice>,
}

/// From a change to its event, without an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub mean: Duration,
    pub p50: Duration,
    pub p99: Duration,
    pub worst: Duration,
}

/// A key that would help, and its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Advice {
    RateLimit(f64),
    Interval(Duration),
    MaxInFlight(u32),
    FinalPollBeforeExpiry(Duration),
}

impl Demand {
    /// So many sessions of which nothing else is known.
    #[must_use]
    pub fn of_number(sessions: u32) -> Self {
        Self { sessions, by_policy: sessions, ..Self::default() }
    }

    /// What session files list.
    #[must_use]
    pub fn of_entries<'a>(entries: impl IntoIterator<Item = &'a Entry>, policy: &Policy) -> Self {
        let mut demand = Self::default();
        for entry in entries {
            demand.add(entry, policy);
            demand.deadlines.extend(entry.expires_at);
        }
        demand
    }

    /// The sessions among these that have not ended.
    #[must_use]
    pub fn of_sessions<'a>(
        sessions: impl IntoIterator<Item = &'a Session>,
        policy: &Policy,
    ) -> Self {
        let mut demand = Self::default();
        for session in sessions.into_iter().filter(|session| session.ended().is_none()) {
            demand.add(session.entry(), policy);
            demand.deadlines.push(session.expires_at());
            let progress = session.progress();
            let complete = progress.total > 0 && progress.complete == progress.total;
            demand.confirming += u32::from(complete && policy.confirm);
        }
        demand
    }

    fn add(&mut self, entry: &Entry, policy: &Policy) {
        self.sessions += 1;
        match entry.interval {
            None => self.by_policy += 1,
            Some(interval) => {
                self.own_quiet += per_second(interval);
                self.own_active += per_second(interval.min(policy.active_interval));
            }
        }
    }

    /// Polls a second while all are quiet, at that `poll.interval`.
    fn quiet_polls(&self, interval: Duration) -> f64 {
        f64::from(self.by_policy) * per_second(interval) + self.own_quiet
    }

    /// Polls a second while all are active.
    fn active_polls(&self, policy: &Policy) -> f64 {
        f64::from(self.by_policy) * per_second(policy.active_interval) + self.own_active
    }

    /// The most sessions that expire within `window`, and when the last of them does.
    fn largest_cohort(&self, window: Duration) -> Option<(u32, Timestamp)> {
        let mut deadlines = self.deadlines.clone();
        deadlines.sort_unstable();
        let mut largest = None;
        let mut first = 0;
        for (place, &last) in deadlines.iter().enumerate() {
            while last.since(deadlines[first]) > window {
                first += 1;
            }
            let count = u32::try_from(place - first + 1).unwrap_or(u32::MAX);
            if largest.is_none_or(|(most, _)| count > most) {
                largest = Some((count, last));
            }
        }
        largest
    }
}

impl Plan {
    /// Of the sessions, at a busy time: applicants that are at the counter or just left it. A
    /// visit and what follows keep a session active for half an hour of its weeks; even if all
    /// came in one week and within the hours that branches are open, fewer would be.
    pub const ACTIVE_SHARE: f64 = 0.05;
    /// A usual answer of the API, for want of a measured one.
    pub const ANSWER_TIME: Duration = Duration::from_millis(200);
    /// What advice aims at: the rest is for final polls, confirmations and second tries.
    const UTILISATION: f64 = 0.8;

    #[must_use]
    pub fn new(demand: &Demand, capacity: &Capacity, policy: &Policy) -> Self {
        let active = Self::ACTIVE_SHARE * demand.active_polls(policy);
        let quiet = (1.0 - Self::ACTIVE_SHARE) * demand.quiet_polls(policy.interval);
        // One confirmation at each poll, and it is not known which sessions they belong to.
        let confirmed = f64::from(demand.confirming) / f64::from(demand.sessions.max(1));
        let (active, quiet) = (active * (1.0 + confirmed), quiet * (1.0 + confirmed));
        let in_flight = f64::from(u32::try_from(capacity.max_in_flight).unwrap_or(u32::MAX));
        let in_flight_rate = in_flight * per_second(Self::ANSWER_TIME);
        let allowed_rate = capacity.rate.min(in_flight_rate);
        let busy_rate = active + quiet;
        // Active sessions go first, but for the fair share.
        let active_allowed = (1.0 - fair_share()) * allowed_rate;
        let overloaded = busy_rate > allowed_rate;
        let active_stretch = if overloaded { (active / active_allowed).max(1.0) } else { 1.0 };
        let left = allowed_rate - active / active_stretch;
        let quiet_stretch = if overloaded { (quiet / left).max(1.0) } else { 1.0 };
        let largest_cohort = demand.largest_cohort(policy.final_poll_before_expiry);
        let mut plan = Self {
            quiet_rate: demand.quiet_polls(policy.interval) * (1.0 + confirmed),
            busy_rate,
            allowed_rate,
            in_flight_rate,
            slowest_rate: in_flight * per_second(capacity.timeout),
            stretch: (busy_rate / allowed_rate).max(1.0),
            quiet: Latency::of(policy.interval, policy.jitter, quiet_stretch),
            active: Latency::of(policy.active_interval, policy.jitter, active_stretch),
            cohort: whole(final_rate(allowed_rate) * final_window(policy).as_secs_f64()),
            largest_cohort,
            first_polls: seconds(
                f64::from(demand.sessions.saturating_sub(capacity.burst)) / allowed_rate,
            ),
            advice: Vec::new(),
        };
        plan.advise(demand, capacity, policy, confirmed);
        plan
    }

    /// Whether every poll comes when it is due.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.busy_rate <= self.allowed_rate
    }

    fn advise(&mut self, demand: &Demand, capacity: &Capacity, policy: &Policy, confirmed: f64) {
        let needed = self.busy_rate / Self::UTILISATION;
        if self.busy_rate > capacity.rate {
            self.advice.push(Advice::RateLimit(needed.ceil()));
        }
        if self.busy_rate > self.in_flight_rate {
            let under_way = whole((needed * Self::ANSWER_TIME.as_secs_f64()).ceil());
            self.advice.push(Advice::MaxInFlight(under_way));
        }
        if !self.fits() {
            // What is left for the sessions that go by poll.interval.
            let quiet_share = 1.0 - Self::ACTIVE_SHARE;
            let fixed =
                Self::ACTIVE_SHARE * demand.active_polls(policy) + quiet_share * demand.own_quiet;
            let left = self.allowed_rate * Self::UTILISATION / (1.0 + confirmed) - fixed;
            if left > 0.0 {
                let interval = seconds(quiet_share * f64::from(demand.by_policy) / left);
                self.advice.push(Advice::Interval(rounded_up(interval)));
            }
        }
        if let Some((most, _)) = self.largest_cohort.filter(|(most, _)| *most > self.cohort) {
            let window = f64::from(most) / final_rate(self.allowed_rate);
            self.advice.push(Advice::FinalPollBeforeExpiry(rounded_up(seconds(window / 2.0))));
        }
    }
}

impl Latency {
    /// A change comes at any time between two polls, which are `interval` times a draw from
    /// `1 - jitter ..= 1 + jitter` apart: the waiting time of renewal theory.
    fn of(interval: Duration, jitter: f64, stretch: f64) -> Self {
        let wait = |share: f64| {
            let within = if share <= 1.0 - jitter {
                share
            } else {
                1.0 + jitter - (4.0 * jitter * (1.0 - share)).sqrt()
            };
            Self::after(interval, within * stretch)
        };
        Self {
            mean: Self::after(interval, f64::midpoint(1.0, jitter * jitter / 3.0) * stretch),
            p50: wait(0.5),
            p99: wait(0.99),
            worst: wait(1.0),
        }
    }

    fn after(interval: Duration, intervals: f64) -> Duration {
        seconds(interval.as_secs_f64() * intervals).saturating_add(Plan::ANSWER_TIME)
    }
}

/// Of the polls that are made while many are due.
fn fair_share() -> f64 {
    1.0 / f64::from(u32::try_from(DueQueue::FAIR_SHARE).unwrap_or(u32::MAX))
}

/// Final polls a second, whatever else is overdue.
fn final_rate(allowed: f64) -> f64 {
    (1.0 - fair_share()) * allowed
}

/// The time in which the final polls of one deadline are made. They fall due in its first half.
const fn final_window(policy: &Policy) -> Duration {
    policy.final_poll_before_expiry.saturating_mul(2)
}

fn per_second(interval: Duration) -> f64 {
    1.0 / interval.as_secs_f64().max(0.001)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// To a whole number of what people would write: seconds, or minutes where there are many.
fn rounded_up(duration: Duration) -> Duration {
    let unit = if duration >= Duration::from_secs(600) { 60.0 } else { 1.0 };
    seconds((duration.as_secs_f64() / unit - 1e-9).ceil().max(1.0) * unit)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float is cut to the range of the integer, which is what a count wants"
)]
const fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests;
