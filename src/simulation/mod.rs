//! The whole daemon in a world of its own.

mod api;
mod book;
mod clock;
mod files;
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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use self::plan::Plan;
use self::run::Outcome;
use self::world::World;

fn simulate(plan: Plan, seed: u64, dies_at: Option<u64>) -> (Result<Outcome, ()>, String) {
    let world = Arc::new(World::new(plan, seed));
    let outcome = catch_unwind(AssertUnwindSafe(|| run::run(&world, dies_at))).map_err(|_| ());
    (outcome, world.trace())
}

#[test]
fn one() {
    let seed = std::env::var("SIMULATION_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let (outcome, trace) = simulate(Plan::draw(seed), seed, None);
    println!("{trace}");
    println!("{outcome:#?}");
    assert!(outcome.is_ok());
}

#[test]
fn many() {
    let mut bad = Vec::new();
    for seed in 0..100 {
        let begun = std::time::Instant::now();
        let (outcome, trace) = simulate(Plan::draw(seed), seed, None);
        println!("{seed} {:?} {} {:?}", begun.elapsed(), trace.len(), outcome.as_ref().map(|o| (o.deaths, o.lasted)));
        if outcome.is_err() { bad.push(seed); }
    }
    println!("{bad:?}");
}
