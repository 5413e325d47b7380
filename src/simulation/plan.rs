//! What a seed stands for: the settings, the sessions as they truly are, what goes wrong and when.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};

use super::truth::Truth;
use crate::config::Limits;
use crate::domain::Policy;

/// Milliseconds since the beginning, by the true time.
pub(super) type At = u64;

pub(super) const SECOND: At = 1_000;
pub(super) const MINUTE: At = 60 * SECOND;

pub(super) const fn span(millis: At) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn millis(span: Duration) -> At {
    At::try_from(span.as_millis()).unwrap_or(At::MAX)
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) policy: Policy,
    pub(super) limits: Limits,
    pub(super) removal_grace: Duration,
    pub(super) rescan_interval: Duration,
    pub(super) retention: Duration,
    /// One in so many requests goes wrong by itself; none with 0.
    pub(super) faulty: u32,
    /// In one of so many requests, the session's file or the clock is changed meanwhile.
    pub(super) meddlesome: u32,
    /// After this, nothing changes and nothing goes wrong.
    pub(super) horizon: At,
    pub(super) truths: Vec<Truth>,
    /// In order of time.
    pub(super) acts: Vec<(At, Act)>,
    pub(super) windows: Vec<Window>,
}

/// A time in which something is out of order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: At,
    pub(super) to: At,
    pub(super) trouble: Trouble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Unreachable,
    TimedOut,
    ServerError(Option<Duration>),
    Unauthorized,
    ClockSkew,
    RateLimited(Option<Duration>),
    /// 429 to those who ask more than so often a second.
    Throttled(u32),
    /// What a proxy says that is no answer of the API's.
    Garbage,
    /// Answers are minutes old, and fresh ones in between.
    Flicker,
    /// Answers take almost as long as they may.
    Late,
    DiskFull,
    DiskSlow,
    SinkFails(usize),
    SinkSlow(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// A session is written into its file, with what was said of it before.
    Add(usize),
    Drop(usize),
    /// Other labels, and perhaps another cadence or deadline.
    Amend(usize, Option<Duration>, Option<Duration>),
    /// A session stands in a second file as well.
    Double(usize),
    /// What becomes of a file, by its number.
    File(usize, Condition),
    /// Whether a directory, by its number, can't be listed.
    Hide(usize, bool),
    /// The wall clock is set by so many milliseconds.
    SetClock(i64),
    Suspend(At),
    Reload(Limits, Duration),
    /// The process dies at so many steps from now, and is started again after so long.
    Kill {
        steps: u64,
        down: At,
    },
    Stop {
        down: At,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Good,
    Spoiled,
    Empty,
    Torn,
    Unreadable,
    Gone,
}

/// Cadences that a session file may ask for.
const AMENDED_LEAST: Duration = Duration::from_secs(10);
const AMENDED_MOST: Duration = Duration::from_secs(200);

pub(super) const DIRECTORIES: usize = 2;
pub(super) const FILES: usize = 4;

impl Plan {
    pub(super) fn draw(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let horizon = rng.random_range(10 * MINUTE..60 * MINUTE);
        let policy = policy(horizon, rng);
        let sessions =
            if rng.random_bool(0.7) { rng.random_range(1..8) } else { rng.random_range(8..30) };
        let limits = limits(rng);
        let truths: Vec<Truth> = (0..sessions).map(|_| Truth::draw(horizon, rng)).collect();
        let mut plan = Self {
            policy,
            limits,
            removal_grace: *[0, 2, 10, 30].map(Duration::from_secs).choose(rng).expect("some"),
            rescan_interval: Duration::from_secs(rng.random_range(5..60)),
            retention: span(rng.random_range(3 * MINUTE..40 * MINUTE)),
            faulty: *[0, 4, 20, 100].choose(rng).expect("some"),
            meddlesome: *[0, 10, 40].choose(rng).expect("some"),
            horizon,
            truths,
            acts: Vec::new(),
            windows: Vec::new(),
        };
        plan.draw_files(rng);
        plan.draw_trouble(rng);
        plan.draw_machine(rng);
        plan.acts.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Two sessions and a little of everything: for trying every step of it.
    pub(super) fn small(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let seconds = Duration::from_secs;
        let policy = Policy {
            interval: seconds(20),
            active_interval: seconds(10),
            active_for: seconds(30),
            backoff_max: seconds(5),
            expiring_before: seconds(50),
            final_poll_before_expiry: seconds(5),
            failing_after: 1,
            ..Policy::default()
        };
        Self {
            policy,
            limits: Limits { rate: 5.0, burst: 5, max_in_flight: 2 },
            removal_grace: seconds(1),
            rescan_interval: seconds(30),
            retention: seconds(20),
            faulty: 0,
            meddlesome: 3,
            horizon: 80 * SECOND,
            truths: vec![Truth::visited(15 * SECOND, 70 * SECOND, rng), Truth::quiet(rng)],
            acts: vec![
                (0, Act::Add(0)),
                (0, Act::Add(1)),
                (30 * SECOND, Act::Drop(1)),
                (45 * SECOND, Act::Add(1)),
                (60 * SECOND, Act::Stop { down: SECOND }),
            ],
            windows: vec![
                Window { from: 16 * SECOND, to: 22 * SECOND, trouble: Trouble::Unauthorized },
                Window { from: 0, to: 30 * SECOND, trouble: Trouble::SinkFails(1) },
            ],
        }
    }

    fn at(&self, rng: &mut StdRng) -> At {
        rng.random_range(0..self.horizon)
    }

    fn draw_files(&mut self, rng: &mut StdRng) {
        for n in 0..self.truths.len() {
            let first = if rng.random_bool(0.6) { 0 } else { self.at(rng) / 2 };
            self.acts.push((first, Act::Add(n)));
            if rng.random_bool(0.3) {
                let gone = rng.random_range(first..self.horizon);
                self.acts.push((gone, Act::Drop(n)));
                if rng.random_bool(0.7) {
                    let again = gone + rng.random_range(0..12 * MINUTE);
                    self.acts.push((again.min(self.horizon), Act::Add(n)));
                }
            }
            while rng.random_bool(0.4) {
                let interval = rng.random_bool(0.4);
                let interval = interval.then(|| rng.random_range(AMENDED_LEAST..=AMENDED_MOST));
                let expires = rng.random_bool(0.2).then(|| self.at(rng));
                let amend = Act::Amend(n, interval, expires.map(span));
                self.acts.push((self.at(rng), amend));
            }
            if rng.random_bool(0.1) {
                self.acts.push((self.at(rng), Act::Double(n)));
            }
        }
        for _ in 0..rng.random_range(0..5) {
            let (file, from) = (rng.random_range(0..FILES), self.at(rng));
            let condition = *[
                Condition::Spoiled,
                Condition::Empty,
                Condition::Torn,
                Condition::Unreadable,
                Condition::Gone,
            ]
            .choose(rng)
            .expect("some");
            let to = from + rng.random_range(0..2 * MINUTE);
            self.acts.push((from, Act::File(file, condition)));
            self.acts.push((to, Act::File(file, Condition::Good)));
        }
        for _ in 0..rng.random_range(0..2) {
            let (directory, from) = (rng.random_range(0..DIRECTORIES), self.at(rng));
            self.acts.push((from, Act::Hide(directory, true)));
            self.acts.push((from + rng.random_range(0..5 * MINUTE), Act::Hide(directory, false)));
        }
    }

    fn draw_trouble(&mut self, rng: &mut StdRng) {
        for _ in 0..rng.random_range(0..6) {
            let from = self.at(rng);
            let seconds = |rng: &mut StdRng, most| {
                let seconds =
                    if rng.random_bool(0.1) { 1 << 40 } else { rng.random_range(0..most) };
                rng.random_bool(0.5).then(|| Duration::from_secs(seconds))
            };
            let (trouble, most) = match rng.random_range(0..15) {
                0 => (Trouble::Unreachable, 20 * MINUTE),
                1 => (Trouble::TimedOut, 5 * MINUTE),
                2 | 3 => (Trouble::ServerError(seconds(rng, 90)), 10 * MINUTE),
                4 => (Trouble::Unauthorized, 10 * MINUTE),
                5 => (Trouble::ClockSkew, 10 * MINUTE),
                6 => (Trouble::RateLimited(seconds(rng, 60)), 5 * MINUTE),
                7 => (Trouble::Throttled(rng.random_range(1..4)), 10 * MINUTE),
                8 => (Trouble::Garbage, 10 * MINUTE),
                9 => (Trouble::Flicker, 30 * MINUTE),
                10 => (Trouble::Late, 10 * MINUTE),
                11 => (Trouble::DiskFull, 5 * MINUTE),
                12 => (Trouble::DiskSlow, 20 * MINUTE),
                13 => (Trouble::SinkFails(rng.random_range(0..2)), 10 * MINUTE),
                _ => (Trouble::SinkSlow(rng.random_range(0..2)), 10 * MINUTE),
            };
            let to = (from + rng.random_range(1..most)).min(self.horizon);
            self.windows.push(Window { from, to, trouble });
        }
    }

    fn draw_machine(&mut self, rng: &mut StdRng) {
        for _ in 0..rng.random_range(0..3) {
            let by = *[3 * SECOND, MINUTE, 60 * MINUTE].choose(rng).expect("some");
            let by = by.cast_signed() * if rng.random() { 1 } else { -1 };
            self.acts.push((self.at(rng), Act::SetClock(by)));
        }
        if rng.random_bool(0.3) {
            let suspend = Act::Suspend(rng.random_range(SECOND..30 * MINUTE));
            self.acts.push((self.at(rng), suspend));
        }
        if rng.random_bool(0.3) {
            let reload = Act::Reload(limits(rng), Duration::from_secs(rng.random_range(15..300)));
            self.acts.push((self.at(rng), reload));
        }
        for _ in 0..*[0, 1, 3, 8].choose(rng).expect("some") {
            let steps = if rng.random_bool(0.7) { rng.random_range(0..60) } else { 0 };
            let kill = Act::Kill { steps, down: down(rng) };
            self.acts.push((self.at(rng), kill));
        }
        if rng.random_bool(0.3) {
            self.acts.push((self.at(rng), Act::Stop { down: down(rng) }));
        }
    }

    /// All that are ever in force.
    pub(super) fn limits(&self) -> impl Iterator<Item = Limits> {
        let reloaded = self.reloads().map(|(limits, _)| limits);
        [self.limits].into_iter().chain(reloaded)
    }

    /// The longest cadence that a session may be polled at.
    pub(super) fn longest_interval(&self) -> Duration {
        let reloaded = self.reloads().map(|(_, interval)| interval);
        reloaded.fold(self.policy.interval.max(AMENDED_MOST), Duration::max)
    }

    fn reloads(&self) -> impl Iterator<Item = (Limits, Duration)> {
        self.acts.iter().filter_map(|(_, act)| match act {
            Act::Reload(limits, interval) => Some((*limits, *interval)),
            Act::Add(_)
            | Act::Drop(_)
            | Act::Amend(..)
            | Act::Double(_)
            | Act::File(..)
            | Act::Hide(..)
            | Act::SetClock(_)
            | Act::Suspend(_)
            | Act::Kill { .. }
            | Act::Stop { .. } => None,
        })
    }

    pub(super) fn has(&self, at: At, trouble: impl Fn(Trouble) -> bool) -> Option<Trouble> {
        let under_way = |window: &&Window| (window.from..window.to).contains(&at);
        self.windows.iter().filter(under_way).map(|window| window.trouble).find(|t| trouble(*t))
    }
}

/// Mostly a restart, at times a machine that was off.
fn down(rng: &mut StdRng) -> At {
    if rng.random_bool(0.8) {
        rng.random_range(0..5 * SECOND)
    } else {
        rng.random_range(0..30 * MINUTE)
    }
}

fn limits(rng: &mut StdRng) -> Limits {
    Limits {
        rate: *[0.5, 2.0, 10.0].choose(rng).expect("some"),
        burst: rng.random_range(1..12),
        max_in_flight: rng.random_range(1..9),
    }
}

fn policy(horizon: At, rng: &mut impl Rng) -> Policy {
    let seconds = Duration::from_secs;
    Policy {
        interval: seconds(rng.random_range(15..300)),
        active_interval: seconds(rng.random_range(5..30)),
        active_for: seconds(rng.random_range(30..600)),
        final_poll_before_expiry: seconds(rng.random_range(5..60)),
        stop_on_completed: rng.random_bool(0.8),
        unknown_ttl: if rng.random_bool(0.9) {
            span(10 * horizon)
        } else {
            span(rng.random_range(MINUTE..horizon))
        },
        backoff_max: seconds(rng.random_range(10..200)),
        failing_after: rng.random_range(1..4),
        expiring_before: if rng.random_bool(0.2) {
            Duration::ZERO
        } else {
            span(rng.random_range(MINUTE..horizon))
        },
        confirm: rng.random_bool(0.9),
        ..Policy::default()
    }
}
