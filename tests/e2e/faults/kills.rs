//! The process is killed at any moment, under load, and what all of them told is held against what
//! happened.
//!
//! `KILLS=5000` kills so often, in rounds of fifty; usual is one round. `KILLS_SEED` is of the
//! first.

use std::num::NonZeroU32;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use super::{asked, side_by_side};
use crate::common::{Daemon, Deliveries, Home, Score, Truth};

const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);

/// Each round takes a core while it works.
const ROUNDS_AT_A_TIME: usize = 2;

/// How much there was to tell, and how many lines were told again.
async fn fifty_kills(seed: u64) -> (Score, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let home = Home::with(|settings| {
        settings.speed = NonZeroU32::new(50).expect("50");
        settings.seed = seed;
    })
    .await;
    for id in home.create_random(60, FORTNIGHT, Duration::from_secs(700)) {
        home.track(id);
    }
    let mut deliveries = Deliveries::default();
    for kill in 0..50 {
        let mut daemon = Daemon::start(&home);
        // At any moment at all, and at that between an event and the note that it was printed.
        let moment = Duration::from_millis(rng.random_range(0..600));
        if kill % 2 == 0 {
            sleep(moment).await;
        } else {
            daemon.prints_within(moment * 2).await;
        }
        deliveries.add(&daemon.kill().await);
    }
    let mut daemon = Daemon::start(&home);
    daemon.quiet_for(Duration::from_secs(4)).await;
    deliveries.add(&daemon.stop().await);

    let score = Truth::of(home.simulator()).hold_against(&deliveries);
    assert_eq!(deliveries.text(), home.recorded().await);
    (score, deliveries.redelivered())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_tell_nothing_in_two_ways() {
    let kills: u64 = asked("KILLS").unwrap_or(50);
    let first: u64 = asked("KILLS_SEED").unwrap_or(4);
    let rounds = (first..first + kills.div_ceil(50)).map(|seed| async move {
        let round = tokio::spawn(fifty_kills(seed)).await;
        round.unwrap_or_else(|died| panic!("KILLS=50 KILLS_SEED={seed}: {died}"))
    });
    let rounds = side_by_side(ROUNDS_AT_A_TIME, rounds).await;
    let sum = |of: fn(&(Score, usize)) -> usize| rounds.iter().map(of).sum::<usize>();
    let due = sum(|(score, _)| score.due);
    println!(
        "{} kills; {} changes happened, {} were certain to be seen, {} told; {} lines told again",
        50 * rounds.len(),
        sum(|(score, _)| score.happened),
        due,
        sum(|(score, _)| score.told),
        sum(|(_, again)| *again),
    );
    // A busy machine starts slowly, so that less is seen between two kills.
    assert!(due > 10 * rounds.len(), "too little to prove anything by");
}
