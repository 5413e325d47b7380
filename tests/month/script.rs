//! What happens in the month besides applicants: outages, clocks, crashes, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::clock::{At, DAY, HOUR, MINUTE, evening};
use super::daemon::STEP_NOTICED_AFTER;
use super::world::{CROWD_EVENING, DAYS, Outage, OutageKind, RESTLESS_TIME, Truth};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Happening {
    Track(usize),
    Untrack(usize),
    /// The wall clock is set ahead, or back, by so many milliseconds.
    SetClock(i64),
    TakeStep,
    /// The rate limit is made that share of what the cadence asks for; or what it was.
    Rate(Option<f64>),
    /// Killed, and started again that much later.
    Crash(At),
    /// The machine is suspended for that long.
    Sleep(At),
    Inspect,
}

/// A time in which the schedule can't be kept, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    pub(crate) from: At,
    /// When things are as they should be again.
    pub(crate) to: At,
    pub(crate) kind: DisturbanceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DisturbanceKind {
    Outage,
    /// The API lets less through than the cadence asks for.
    Throttle,
    Clock,
    Away,
    Overload,
    Flood,
    Crowd,
}

pub(crate) struct Script {
    pub(crate) outages: Vec<Outage>,
    overloads: Vec<Disturbance>,
    others: Vec<Disturbance>,
    happenings: BinaryHeap<Reverse<(At, usize)>>,
    kept: Vec<Happening>,
}

const STEPS: [(At, i64); 3] = [
    (8 * DAY + 2 * HOUR, 3_600_000),
    (9 * DAY + 3 * HOUR, -3_600_000),
    // In the midst of an outage.
    (12 * DAY + 90 * MINUTE, 3_600_000),
];
const CRASH: (At, At) = (11 * DAY + 4 * HOUR, 20 * MINUTE);
const SLEEP: (At, At) = (13 * DAY + 2 * HOUR, 3 * HOUR);
/// Half of what the cadence asks for ...
const OVERLOAD: (At, At) = (15 * DAY + 20 * HOUR, 16 * DAY + 4 * HOUR);
/// ... and less than the active sessions alone ask for.
const FLOOD: (At, At) = (RESTLESS_TIME.start + 3 * HOUR, RESTLESS_TIME.end);
/// How long it takes until what was put off is made up for.
const CATCHING_UP: At = 4 * HOUR;

impl Script {
    pub(crate) fn new() -> Self {
        let outage = |day: At, hour: At, lasts: At, kind| {
            let from = day * DAY + hour * HOUR;
            Outage { from, to: from + lasts, kind }
        };
        let two_minutes = Some(Duration::from_secs(120));
        let outages = vec![
            outage(2, 1, 3 * HOUR, OutageKind::Unreachable),
            outage(4, 0, 5 * HOUR, OutageKind::ServerError),
            outage(5, 3, 2 * HOUR, OutageKind::Unauthorized),
            outage(6, 2, HOUR, OutageKind::RateLimited(two_minutes)),
            outage(7, 2, HOUR, OutageKind::RateLimited(None)),
            outage(12, 1, HOUR, OutageKind::Unreachable),
            outage(18, 2, 2 * HOUR, OutageKind::Throttled(2)),
            // Over an evening's deadlines.
            Outage {
                from: evening(25) - 10 * MINUTE,
                to: evening(25) + 20 * MINUTE,
                kind: OutageKind::ServerError,
            },
        ];
        let disturbed = |(from, to): (At, At), kind| Disturbance { from, to, kind };
        let overloads = vec![
            disturbed((OVERLOAD.0, OVERLOAD.1 + CATCHING_UP), DisturbanceKind::Overload),
            disturbed((FLOOD.0, FLOOD.1 + CATCHING_UP), DisturbanceKind::Flood),
        ];
        let mut others = vec![
            // The first polls of all that is there from the beginning.
            disturbed((0, 15 * MINUTE), DisturbanceKind::Crowd),
            disturbed((CRASH.0, CRASH.0 + CRASH.1), DisturbanceKind::Away),
            disturbed((SLEEP.0, SLEEP.0 + SLEEP.1), DisturbanceKind::Away),
            disturbed((CROWD_EVENING - MINUTE, CROWD_EVENING + 5 * MINUTE), DisturbanceKind::Crowd),
        ];
        let mut script = Self {
            outages,
            overloads,
            others: Vec::new(),
            happenings: BinaryHeap::new(),
            kept: vec![],
        };
        for (at, by) in STEPS {
            script.at(at, Happening::SetClock(by));
            script.at(at + STEP_NOTICED_AFTER, Happening::TakeStep);
            let to = at + STEP_NOTICED_AFTER + 1;
            others.push(disturbed((at, to), DisturbanceKind::Clock));
        }
        script.others = others;
        script.at(CRASH.0, Happening::Crash(CRASH.1));
        script.at(SLEEP.0, Happening::Sleep(SLEEP.1));
        script.at(OVERLOAD.0, Happening::Rate(Some(0.5)));
        script.at(OVERLOAD.1, Happening::Rate(None));
        script.at(FLOOD.0, Happening::Rate(Some(0.15)));
        script.at(FLOOD.1, Happening::Rate(None));
        for n in 1..=DAYS * 24 {
            script.at(n * HOUR, Happening::Inspect);
        }
        script
    }

    pub(crate) fn add_sessions(&mut self, sessions: &[Truth]) {
        for (n, truth) in sessions.iter().enumerate() {
            self.at(truth.tracked, Happening::Track(n));
            if let Some(at) = truth.untracked.filter(|&at| at < DAYS * DAY) {
                self.at(at, Happening::Untrack(n));
            }
        }
    }

    pub(crate) fn disturbances(&self) -> Vec<Disturbance> {
        let outages = self.outages.iter().map(|outage| {
            // A probe comes once in `backoff_max` at least, unless the API named a time.
            let noticed = 6 * MINUTE;
            Disturbance {
                from: outage.from - 11_000,
                to: outage.to + noticed,
                kind: match outage.kind {
                    OutageKind::Throttled(_) => DisturbanceKind::Throttle,
                    OutageKind::Unreachable
                    | OutageKind::ServerError
                    | OutageKind::Unauthorized
                    | OutageKind::RateLimited(_) => DisturbanceKind::Outage,
                },
            }
        });
        let mut all: Vec<_> = outages.collect();
        all.extend(self.overloads.iter().chain(&self.others));
        all
    }

    fn at(&mut self, at: At, happening: Happening) {
        self.happenings.push(Reverse((at, self.kept.len())));
        self.kept.push(happening);
    }

    /// What happens next.
    pub(crate) fn next(&mut self) -> Option<(At, Happening)> {
        let Reverse((at, place)) = self.happenings.pop()?;
        Some((at, self.kept[place]))
    }
}
