//! A month at a pace of 3,000: sessions come, change, end and are forgotten, and the daemon grows
//! by nothing.
//!
//! `SOAK=864` takes so many seconds, which is the whole month; usual are 24, which is a day.
//! `SOAK_KEEPS=1` never lets go of a session, so that the daemon must be found to grow.

use std::collections::VecDeque;
use std::time::Duration;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Action, Requirement, Script, Session};
use procfs::process::Process;
use tokio::time::{Instant, interval, timeout};

use super::asked;
use crate::common::{Daemon, Deliveries, Home, PATIENCE};

/// Ten sessions a second.
const ARRIVES_EVERY: Duration = Duration::from_millis(100);
/// Long enough that its end has been told on a busy machine.
const FILE_STAYS: Duration = Duration::from_secs(4);
/// What an allocator may do at any time.
const SLACK: u64 = 3 << 20;
/// How many polls may be in flight. A moment in which the machine is busy elsewhere makes so many
/// late at once, each of which needs a connection.
const IN_FLIGHT: usize = 8;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    resident: u64,
    descriptors: usize,
    threads: i64,
}

impl Held {
    fn by(process: &Process) -> Self {
        Self {
            resident: process.statm().expect("its memory").resident * procfs::page_size(),
            descriptors: process.fd_count().expect("its descriptors"),
            threads: process.stat().expect("its state").num_threads,
        }
    }

    /// The most of each.
    fn most(of: &[Self]) -> Self {
        let most = |a: Self, b: &Self| Self {
            resident: a.resident.max(b.resident),
            descriptors: a.descriptors.max(b.descriptors),
            threads: a.threads.max(b.threads),
        };
        of.iter().fold(Self { resident: 0, descriptors: 0, threads: 0 }, most)
    }
}

fn visit() -> Script {
    let at = Duration::from_millis;
    let set = |state: &str| Action::SetState { index: 0, state: state.to_owned() };
    Script::new()
        .at(at(500), set("IN_PROGRESS"))
        .at(at(1_000), set("COMPLETE"))
        .at(at(1_500), Action::Complete)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_in_fast_motion_leaves_nothing_behind() {
    let lasts = Duration::from_secs(asked("SOAK").unwrap_or(24));
    let keeps = asked::<u8>("SOAK_KEEPS").is_some();
    let mut home = Home::new().await;
    for (key, value) in [
        ("poll.interval", "\"100ms\""),
        ("poll.rate_limit", "300"),
        ("poll.max_in_flight", &IN_FLIGHT.to_string()),
        ("sessions.removal_grace", "\"100ms\""),
        ("store.retention", "\"2s\""),
    ] {
        home.set(key, value);
    }
    let daemon = Daemon::start(&home);
    let process = Process::new(daemon.pid().as_raw_nonzero().get()).expect("the daemon");
    let mut arrivals = interval(ARRIVES_EVERY);
    let mut there: VecDeque<(Instant, SessionId)> = VecDeque::new();
    let (mut came, mut held) = (0, Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < lasts {
        arrivals.tick().await;
        came += 1;
        let session = Session::requiring([Requirement::passport()]).with_script(visit());
        let id = home.create(session);
        home.track(id);
        there.push_back((Instant::now(), id));
        while let Some((_, id)) = there.pop_front_if(|(since, _)| since.elapsed() > FILE_STAYS) {
            if !keeps {
                home.remove(&format!("{id}.json"));
            }
        }
        held.push(Held::by(&process));
    }
    // Those whose retention was over just now are forgotten within the next purges.
    let forgotten = async {
        loop {
            let left = home.run(&["sessions", "--json"]).await.succeeded();
            let left: Vec<serde_json::Value> = serde_json::from_str(&left).expect("JSON");
            if left.len() < 20 + there.len() {
                break;
            }
            arrivals.tick().await;
        }
    };
    let are_forgotten = timeout(PATIENCE, forgotten).await.is_ok();
    let run = daemon.stop().await;

    // The first half is for warming up. Of what is left, the end is no higher than the beginning.
    let warm = &held[held.len() / 2..];
    let (first, last) = warm.split_at(warm.len() / 2);
    let (first, last) = (Held::most(first), Held::most(last));
    println!("{came} sessions in {lasts:?}: {first:?}, and at the end {last:?}");
    let mut deliveries = Deliveries::default();
    deliveries.add(&run);
    deliveries.hold_together();
    let kinds = deliveries.kinds();
    println!("{kinds:?}");
    let (tracked, observed) = (kinds["session.tracked"], kinds["session.observed"]);
    assert!(tracked - observed <= there.len(), "{observed} of {tracked} observed");
    let ended = kinds["session.ended"];
    assert!(ended >= came - there.len(), "{ended} of {came} ended");
    assert!(last.resident <= first.resident + first.resident / 20 + SLACK, "{first:?} {last:?}");
    assert!(last.descriptors <= first.descriptors + IN_FLIGHT + 4, "{first:?} {last:?}");
    assert!(last.threads <= first.threads + 2, "{first:?} {last:?}");
    assert!(are_forgotten, "more than those whose files are there are not forgotten");
}
