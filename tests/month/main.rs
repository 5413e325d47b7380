//! Thirty days of ten thousand sessions, in virtual time and by the daemon's own decisions.
//!
//! What decides is the real thing: `Session`, `DueQueue`, `Admission` with its breaker and pace,
//! the token bucket and the steady clock. Around them stands a loop without a runtime
//! (`daemon`), a world that knows what is true (`world`), a month of mishaps (`script`), and
//! the laws that must hold at every step (`laws`). That the real loop keeps its part of them is
//! shown beside it (`poller`).
//!
//! `MONTH_SEED=7 cargo test --test month -- --nocapture` runs another month and prints what it
//! came to.

mod clock;
mod daemon;
mod laws;
mod poller;
mod script;
mod summary;
mod world;

use ibvwatch::config::Limits;

use daemon::Daemon;
use script::Script;

#[test]
fn a_month_keeps_every_law() {
    let seed = std::env::var("MONTH_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    println!("MONTH_SEED={seed}");
    let begun = std::time::Instant::now();
    let limits = Limits { rate: 10.0, burst: 20, max_in_flight: 8 };
    let script = Script::new();
    let mut daemon = Daemon::new(seed, daemon::policy(), limits, &script);
    daemon.run(script);
    print!("{}", daemon.laws.conclude());
    println!("in {:.1} s", begun.elapsed().as_secs_f64());
}
