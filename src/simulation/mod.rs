//! The whole daemon in a world of its own, from one seed, in virtual time.
//!
//! The ledger with its registry, the group writer, the poller with its breaker and budget, the
//! dispatchers, the wanted set and the steady clock are the real ones. Around them everything is
//! simulated: the API and what applicants do (`truth`, `api`), the session files (`files`), the
//! disk (`store::simulated`), those who read the events (`sink`), the machine's clocks (`clock`),
//! and the life of the process (`process`), which ends at any await. `plan` says what a seed stands
//! for, `world` holds it together, `run` lets it go on.
//!
//! A model knows what the answers and files that the daemon was given oblige it to (`book`), what
//! its disk holds and its sinks were given (`ledger`), and what it may ask the API for (`traffic`).
//! Each thing that the daemon does is judged by it in that moment (`watch`), and all of it once
//! nothing has happened for a while (`run`).
//!
//! Everything runs on one thread, on tokio's paused clock, and nothing but the seed decides what
//! comes next. `docs/TESTING.md` says how a seed is replayed.

mod api;
mod book;
mod clock;
mod files;
mod laws;
mod ledger;
mod plan;
mod process;
mod run;
mod sink;
mod store;
mod traffic;
mod truth;
mod watch;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use self::plan::{At, MINUTE, Plan};
use self::run::Outcome;
use self::world::{Lateness, World};
use crate::domain::{Cause, EndReason, EventKind, Observation};

/// Enough for all that may happen to happen.
const FIXED: u64 = 100;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is not a number")))
}

/// Also returns the trace.
fn simulate(plan: Plan, seed: u64, dies_at: Option<u64>) -> (thread::Result<Outcome>, String) {
    let world = Arc::new(World::new(plan, seed));
    let outcome = catch_unwind(AssertUnwindSafe(|| run::run(&world, dies_at)));
    (outcome, world.trace())
}

/// What many runs came to.
#[derive(Debug, Default)]
struct Total {
    runs: u64,
    lasted: At,
    deaths: u64,
    seen: BTreeMap<String, u64>,
    lateness: Lateness,
    /// Which broke a law.
    failed: Vec<u64>,
}

impl Total {
    fn add(&mut self, number: u64, outcome: thread::Result<Outcome>) {
        self.runs += 1;
        let Ok(outcome) = outcome else {
            println!("that was run {number}");
            self.failed.push(number);
            return;
        };
        self.lasted += outcome.lasted;
        self.deaths += outcome.deaths;
        for (what, count) in outcome.seen {
            *self.seen.entry(what).or_default() += count;
        }
        self.lateness.total += outcome.lateness.total;
        self.lateness.polls += outcome.lateness.polls;
    }

    /// All is well, or says what to look at.
    fn conclude(&self) {
        let Self { runs, lasted, deaths, .. } = self;
        let (hours, polls) = (lasted / (60 * MINUTE), self.count("poll"));
        println!("{runs} seeds, {hours} h of virtual time, {deaths} deaths, {polls} polls");
        for seed in &self.failed {
            println!(
                "replay: SIMULATION_SEED={seed} cargo test --lib simulation::replay -- --nocapture"
            );
        }
        assert!(self.failed.is_empty(), "seeds {:?} break a law, said above", self.failed);
        self.on_average();
    }

    fn count(&self, what: &str) -> u64 {
        self.seen.get(what).copied().unwrap_or(0)
    }

    /// Jitter spreads polls and changes nothing of their number.
    fn on_average(&self) {
        let Lateness { total, polls } = self.lateness;
        if polls < 100.0 {
            return;
        }
        let mean = total / polls;
        // Six standard errors of a uniform distribution of 10 % to both sides, and the time that
        // a timer and the token bucket take.
        let tolerance = 6.0 * 0.1 / 3.0_f64.sqrt() / polls.sqrt() + 0.003;
        println!("on average, polls come {mean:.4} times as far apart as they should ({polls})");
        assert!((mean - 1.0).abs() <= tolerance, "{mean} and not 1, within {tolerance}");
    }
}

/// Runs what has a number, one after the other on each core, until there is no more.
fn run_all(
    next: impl Fn() -> Option<u64> + Sync,
    run: impl Fn(u64) -> thread::Result<Outcome> + Sync,
) -> Total {
    let total = Mutex::new(Total::default());
    let work = || {
        while let Some(number) = next() {
            let outcome = run(number);
            total.lock().expect("whole").add(number, outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut total = total.into_inner().expect("whole");
    total.failed.sort_unstable();
    total
}

fn seed(seed: u64) -> thread::Result<Outcome> {
    simulate(Plan::draw(seed), seed, None).0
}

#[test]
fn fixed_seeds_keep_every_law_and_see_everything() {
    let next = AtomicU64::new(0);
    let seeds = number("SIMULATION_SEEDS").unwrap_or(FIXED);
    let count = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds);
    let total = run_all(count, seed);
    println!("{:#?}", total.seen);
    total.conclude();
    if seeds >= FIXED {
        let missing: Vec<String> = everything().filter(|what| total.count(what) == 0).collect();
        assert!(missing.is_empty(), "it never came to {missing:?}");
    }
}

/// Where something outside of the process is about to happen.
const DEATHS: [&str; 10] = [
    "ask",
    "answer",
    "ask state",
    "place",
    "begun",
    "applied",
    "committed",
    "read",
    "deliver",
    "delivered",
];

/// All that must have happened for the laws to mean something; deaths are tried one by one.
fn everything() -> impl Iterator<Item = String> {
    const OTHER: [&str; 42] = [
        "active poll",
        "amended",
        "answer known again",
        "boot",
        "changed during its poll",
        "checkpoint",
        "clock set",
        "clock set while down",
        "death at look",
        "death at now",
        "delivered",
        "delivered again",
        "disk fails",
        "expired after a final poll",
        "file Empty",
        "file Gone",
        "file Spoiled",
        "file Torn",
        "file Unreadable",
        "final poll",
        "forgotten",
        "late answer",
        "pause",
        "pause over",
        "probe",
        "purged",
        "quiet poll",
        "reload",
        "several writes at once",
        "sink fails",
        "spread",
        "stale",
        "stale copy",
        "state asked",
        "step taken over",
        "stop",
        "suspend",
        "tracked again",
        "untracked",
        "stale after a step",
        "stale after an end",
        "stale after another entry",
    ];
    let kinds = EventKind::ALL.map(|kind| kind.short_name().to_owned());
    let causes = Cause::ALL.map(|cause| format!("api.unavailable {}", cause.as_str()));
    let ends = EndReason::ALL.map(|reason| format!("ended {}", reason.as_str()));
    let answers = Observation::OUTCOMES.map(|outcome| format!("answer {outcome}"));
    let other = OTHER.map(str::to_owned);
    kinds.into_iter().chain(causes).chain(ends).chain(answers).chain(other)
}

/// `SIMULATION_SECONDS` has it search for longer.
#[test]
fn fresh_seeds_keep_every_law() {
    let limit = Duration::from_secs(number("SIMULATION_SECONDS").unwrap_or(10));
    let (begun, first) = (Instant::now(), u64::from(rand::random::<u32>()));
    println!("from seed {first} on");
    let next = AtomicU64::new(first);
    let count = || (begun.elapsed() < limit).then(|| next.fetch_add(1, Ordering::Relaxed));
    run_all(count, seed).conclude();
}

/// `SIMULATION_SEED` names the run, of which all is printed; with `SIMULATION_DEATH` it is a small
/// one, and the await at which its first process dies.
#[test]
fn replay() {
    let (asked, death) = (number("SIMULATION_SEED"), number("SIMULATION_DEATH"));
    let seed = asked.unwrap_or(1);
    let plan = if death.is_some() { Plan::small(seed) } else { Plan::draw(seed) };
    let (outcome, trace) = simulate(plan, seed, death);
    if asked.is_some() {
        println!("{trace}");
    }
    assert!(outcome.is_ok(), "seed {seed} breaks a law, said above");
}

#[test]
fn a_seed_is_the_same_run_to_the_byte() {
    for seed in 0..10 {
        let (_, one) = simulate(Plan::draw(seed), seed, None);
        let (_, other) = simulate(Plan::draw(seed), seed, None);
        assert!(one.lines().count() > 20, "{one}");
        let differ = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!(one.len(), other.len(), "seed {seed}");
    }
}

/// Wherever the process dies on its way from an answer to an acknowledged event. Of several awaits
/// of one kind between which it has done nothing, the first stands for all.
#[test]
fn death_at_every_await_loses_nothing() {
    for seed in 1..=number("SIMULATION_SEEDS").unwrap_or(1) {
        let (outcome, _) = simulate(Plan::small(seed), seed, None);
        let steps = outcome.expect("a run without a death").steps;
        let mut seen = BTreeSet::new();
        let deaths: Vec<u64> =
            (1..).zip(&steps).filter_map(|(n, step)| seen.insert(step).then_some(n)).collect();
        println!("seed {seed}: {} of {} awaits", deaths.len(), steps.len());
        let next = AtomicUsize::new(0);
        let death = || deaths.get(next.fetch_add(1, Ordering::Relaxed)).copied();
        let total = run_all(death, |death| simulate(Plan::small(seed), seed, Some(death)).0);
        for death in &total.failed {
            println!(
                "replay: SIMULATION_SEED={seed} SIMULATION_DEATH={death} \
                 cargo test --lib simulation::replay -- --nocapture"
            );
        }
        assert!(total.failed.is_empty(), "seed {seed}, dying at {:?}, breaks a law", total.failed);
        assert!(deaths.len() > 100 && total.deaths >= deaths.len() as u64);
        for point in DEATHS {
            assert!(total.count(&format!("death at {point}")) > 0, "no death at {point}");
        }
    }
}
