//! All that is around the daemon and outlives its process: the time, what is true, what goes wrong,
//! the disk, and the model by which everything that the daemon does is judged as it does it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::api::{self, Fate};
use super::book::Poll;
use super::files::Files;
use super::ledger::Ledger;
use super::plan::{At, MINUTE, Plan, SECOND, Trouble, millis, span};
use super::traffic::{Pass, Traffic, Turn};
use crate::clock::Clock;
use crate::config::Limits;
use crate::directory::simulated;
use crate::domain::{Now, Observation, Policy, SessionId, Timestamp};
use crate::store::simulated::Disk;

/// What the wall clock says at the beginning.
const EPOCH: Timestamp = Timestamp::from_millis(1_795_000_000_000);

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) disk: Arc<Mutex<Disk>>,
    /// The process is dead.
    pub(super) died: Notify,
    /// Something may have happened to the session files.
    pub(super) hint: Notify,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) rng: StdRng,
    pub(super) life: Life,
    pub(super) files: Files,
    pub(super) ledger: Ledger,
    pub(super) polls: BTreeMap<SessionId, (Poll, Pass)>,
    pub(super) traffic: Traffic,
    /// What must be told of the API before the poll that showed it is committed.
    pub(super) turn: Option<Turn>,
    pub(super) policy: Policy,
    pub(super) limits: Limits,
    /// When something last was as it should not be.
    pub(super) disturbed: At,
    pub(super) lateness: Lateness,
    pub(super) seen: BTreeMap<String, u64>,
    /// Requests in the present second, while they are throttled.
    throttle: (At, u32),
    trace: String,
}

/// The process that runs, by the clocks of its machine.
pub(super) struct Life {
    alive: bool,
    /// At each await that it came to, how much it had done that somebody could know of.
    steps: Vec<(u64, &'static str)>,
    pub(super) done: u64,
    dies_at: Option<u64>,
    /// The same, counted in those alone at which something outside of it happens.
    dies_outside: Option<u64>,
    /// How long the machine is without it once it is dead.
    pub(super) down: At,
    /// The true time at its start.
    base: At,
    start: Option<Instant>,
    suspended: At,
    /// By how much the wall clock is ahead.
    wall_off: i64,
    booted: At,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) deaths: u64,
}

/// How the time between two polls compares to what it should be on average.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lateness {
    pub(super) total: f64,
    pub(super) polls: f64,
}

impl World {
    pub(super) fn new(plan: Plan, seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            life: Life {
                alive: false,
                steps: Vec::new(),
                done: 0,
                dies_at: None,
                dies_outside: None,
                down: SECOND,
                base: 0,
                start: None,
                suspended: 0,
                wall_off: 0,
                booted: 0,
                clock: None,
                deaths: 0,
            },
            files: Files::default(),
            ledger: Ledger::default(),
            polls: BTreeMap::new(),
            traffic: Traffic::new(plan.limits, false, 0),
            turn: None,
            policy: plan.policy.clone(),
            limits: plan.limits,
            disturbed: 0,
            lateness: Lateness::default(),
            seen: BTreeMap::new(),
            throttle: (0, 0),
            trace: String::new(),
        };
        Self {
            plan,
            disk: Arc::default(),
            died: Notify::new(),
            hint: Notify::new(),
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Whoever broke a law has said so.
        self.state.lock().unwrap_or_else(|_| resume_unwind(Box::new("a law was broken")))
    }

    /// Also after a law was broken.
    pub(super) fn trace(&self) -> String {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).trace.clone()
    }

    /// True time.
    pub(super) fn at(&self) -> At {
        self.state().at()
    }

    pub(super) fn machine_now(&self) -> Now {
        self.state().machine_now()
    }

    /// The daemon's wall clock.
    pub(super) fn wall(&self) -> Timestamp {
        let clock = self.state().life.clock.clone();
        clock.map_or_else(|| self.machine_now().wall, |clock| clock.now().wall)
    }

    /// A process begins, in a runtime of its own.
    pub(super) fn begin(&self, dies_at: Option<u64>) {
        let unavailable = self.disk.lock().expect("whole").unavailable().is_some();
        let mut state = self.state();
        let at = state.life.base;
        state.life = Life {
            alive: true,
            steps: Vec::new(),
            dies_at,
            dies_outside: None,
            down: SECOND,
            start: Some(Instant::now()),
            ..state.life.now()
        };
        state.traffic = Traffic::new(state.limits, unavailable, at);
        state.disturbed = at;
        state.say(format_args!("begins"));
    }

    /// The process is over, and the next one begins after so long.
    pub(super) fn end(&self, down: At) {
        let mut state = self.state();
        let at = state.at();
        if state.life.alive {
            // As by a stop: what is undone is lost all the same.
            state.life.alive = false;
        }
        let reboot = down > 10 * MINUTE;
        let base = at + down;
        state.life.base = base;
        state.life.start = None;
        state.life.suspended = 0;
        state.life.clock = None;
        if reboot {
            state.life.booted = base;
            state.cover("boot");
        }
        state.polls.clear();
        state.turn = None;
        state.ledger.crashed();
    }

    pub(super) fn die(&self, down: At) {
        let mut state = self.state();
        state.life.down = down;
        if state.life.alive {
            state.death("now");
            self.died.notify_one();
        }
    }

    pub(super) fn die_within(&self, steps: u64, down: At) {
        let mut state = self.state();
        state.life.down = down;
        state.life.dies_outside = Some(steps);
    }

    /// One more await; false if the process is dead, or dies here.
    pub(super) fn step(&self, point: &'static str) -> bool {
        let mut state = self.state();
        if !state.life.alive {
            return false;
        }
        let done = state.life.done;
        state.life.steps.push((done, point));
        let dies = state.life.dies_at == Some(state.life.steps.len() as u64);
        if dies {
            state.death(point);
            self.died.notify_one();
        }
        !dies
    }

    /// An await at which something outside of the process is about to happen.
    pub(super) async fn pass(&self, point: &'static str) {
        {
            let mut state = self.state();
            state.life.dies_outside = match state.life.dies_outside {
                Some(0) => {
                    state.life.dies_at = Some(state.life.steps.len() as u64 + 1);
                    None
                }
                more => more.map(|more| more - 1),
            };
        }
        if !self.step(point) {
            std::future::pending::<()>().await;
        }
    }

    /// How much the process had done at each of its awaits.
    pub(super) fn steps(&self) -> Vec<(u64, &'static str)> {
        self.state().life.steps.clone()
    }

    pub(super) fn set_clock(&self, by: i64) {
        self.state().set_clock(by);
    }

    /// The time goes on, timers don't.
    pub(super) fn suspend(&self, millis: At) {
        let mut state = self.state();
        state.life.suspended += millis;
        state.disturb();
        state.cover("suspend");
        state.say(format_args!("was suspended for {millis} ms"));
    }

    pub(super) fn fate(&self) -> Fate {
        let mut state = self.state();
        let state = &mut *state;
        let at = state.at();
        let plan = &self.plan;
        let mut fate = Fate {
            there: span(state.rng.random_range(5..100)),
            back: span(state.rng.random_range(5..100)),
            instead: None,
            old: 0,
        };
        if plan.has(at, |t| t == Trouble::Late).is_some() {
            fate.back = span(state.rng.random_range(SECOND..9_500));
            state.cover("late answer");
        }
        if plan.has(at, |t| t == Trouble::Flicker).is_some() && state.rng.random() {
            fate.old = state.rng.random_range(SECOND..3 * MINUTE);
            state.cover("stale copy");
        }
        let random =
            at < plan.horizon && plan.faulty > 0 && state.rng.random_range(0..plan.faulty) == 0;
        let trouble = if let Some(Trouble::Throttled(most)) =
            plan.has(at, |t| matches!(t, Trouble::Throttled(_)))
        {
            let second = at / SECOND;
            let count = if state.throttle.0 == second { state.throttle.1 + 1 } else { 1 };
            state.throttle = (second, count);
            (count > most).then_some(Trouble::RateLimited(Some(Duration::from_secs(2))))
        } else if random {
            Some(match state.rng.random_range(0..7) {
                0 => Trouble::Unreachable,
                1 => Trouble::TimedOut,
                2 => Trouble::ServerError(None),
                3 => Trouble::Unauthorized,
                4 => Trouble::RateLimited(Some(Duration::from_secs(state.rng.random_range(0..5)))),
                5 => Trouble::ServerError(Some(Duration::from_secs(state.rng.random_range(0..20)))),
                _ => Trouble::Garbage,
            })
        } else {
            plan.has(at, |t| api::instead(t).is_some())
        };
        if let Some((observation, takes)) = trouble.and_then(api::instead) {
            fate.instead = Some(observation);
            fate.there = span(takes / 2);
            fate.back = span(takes - takes / 2);
        }
        fate
    }

    /// What the API truly says of a session now, or said by an older copy.
    pub(super) fn truth(&self, id: SessionId, configuration: bool, old: At) -> Observation {
        let mut state = self.state();
        let at = state.at();
        let truth = self.plan.truths.iter().find(|truth| truth.id == id).expect("one of ours");
        if configuration { truth.configuration(at, old, &mut state.rng) } else { truth.state(at) }
    }

    /// How long a sink takes for an event, and whether it then fails.
    pub(super) fn takes(&self, sink: usize) -> (Duration, bool) {
        let mut state = self.state();
        let at = state.at();
        let slow = self.plan.has(at, |t| t == Trouble::SinkSlow(sink)).is_some();
        let fails = self.plan.has(at, |t| t == Trouble::SinkFails(sink)).is_some();
        let takes = if slow { state.rng.random_range(0..20 * SECOND) } else { 0 };
        let fails = fails && state.rng.random_bool(0.7);
        if fails {
            state.cover("sink fails");
        }
        (span(takes), fails)
    }

    pub(super) fn disk_takes(&self) -> (Duration, bool) {
        let mut state = self.state();
        let at = state.at();
        let slow = self.plan.has(at, |t| t == Trouble::DiskSlow).is_some();
        let takes = state.rng.random_range(if slow { 0..4 * SECOND } else { 0..8 });
        let fails = self.plan.has(at, |t| t == Trouble::DiskFull).is_some();
        if fails {
            state.cover("disk fails");
        }
        (span(takes), fails)
    }
}

impl Life {
    /// What was to kill it soon does so no more.
    pub(super) fn spare(&mut self) {
        self.dies_outside = None;
    }

    /// The machine goes on where it is.
    fn now(&self) -> Self {
        Self {
            steps: Vec::new(),
            clock: None,
            alive: false,
            dies_at: None,
            dies_outside: None,
            ..*self
        }
    }
}

impl State {
    /// What the daemon finds in the directories.
    pub(super) fn look(&mut self) -> simulated::Files {
        let at = self.at();
        self.files.look(at)
    }

    pub(super) fn at(&self) -> At {
        let Life { base, start, suspended, .. } = self.life;
        base + start.map_or(0, |start| millis(start.elapsed())) + suspended
    }

    fn machine_now(&self) -> Now {
        let at = self.at();
        let wall = EPOCH.plus(span(at)).as_millis() + self.life.wall_off;
        let monotonic = span(at - self.life.booted + 5 * SECOND);
        Now { wall: Timestamp::from_millis(wall), monotonic }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.life.alive
    }

    fn death(&mut self, point: &str) {
        self.life.alive = false;
        self.life.deaths += 1;
        self.cover(&format!("death at {point}"));
        let steps = self.life.steps.len();
        self.say(format_args!("dies at {point}, step {steps}"));
    }

    pub(super) fn disturb(&mut self) {
        self.disturbed = self.at();
    }

    pub(super) fn set_clock(&mut self, by: i64) {
        self.life.wall_off += by;
        self.disturb();
        self.cover("clock set");
        self.say(format_args!("the clock is set by {by} ms"));
    }

    /// It happened in this run.
    pub(super) fn cover(&mut self, what: &str) {
        match self.seen.get_mut(what) {
            Some(count) => *count += 1,
            None => {
                self.seen.insert(what.to_owned(), 1);
            }
        }
    }

    pub(super) fn say(&mut self, what: fmt::Arguments<'_>) {
        let at = self.at();
        let (minutes, seconds) = (at / MINUTE, at % MINUTE);
        let line = writeln!(
            self.trace,
            "{minutes:>4}:{:02}.{:03} {what}",
            seconds / SECOND,
            seconds % SECOND
        );
        line.expect("memory to write to");
    }
}
