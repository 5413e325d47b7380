//! Each write, sync and open of the store fails: the first, the second, and so on until the
//! daemon is through without it; once, and until the disk is mended.
//!
//! `DISK_FAULTS=1` tries every one. Usual is every 31st, begun elsewhere for each kind.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::shim::{self, Fault};
use super::story::Story;
use super::{MANY, asked, side_by_side};
use crate::common::{Daemon, Home, PATIENCE, Site, lines};

/// SQLite folds the WAL into the database when it has grown to so many frames.
const FOLDED_AT: u64 = 1_000;

/// How long a disk stays broken: long enough for the writer to try again and fail.
const BROKEN_FOR: Duration = Duration::from_millis(1_300);

#[derive(Debug, Clone, Copy)]
enum Age {
    /// There is no database yet.
    New,
    /// Its WAL is long and about to be folded into it.
    Old,
}

/// Leaves a WAL behind that a few more commits make fold.
pub(super) fn lengthen_wal(home: &Home) {
    let database = Connection::open(home.path("ibvwatch.db")).expect("the database");
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("a setting");
    database.execute_batch("PRAGMA wal_autocheckpoint = 0").expect("a setting");
    let frames = || {
        let wal = std::fs::metadata(home.path("ibvwatch.db-wal"));
        wal.map_or(0, |wal| wal.len() / 4_120)
    };
    let write = |set: &str| {
        // Of no meaning where there is no cause.
        database.execute_batch(&format!("UPDATE api SET since = {set}")).expect("a write");
    };
    while frames() < FOLDED_AT - 10 {
        write("coalesce(since, 0) + 1");
    }
    write("NULL");
}

/// What came of a fault.
#[derive(Debug)]
struct Outcome {
    logged: bool,
    /// A commit may have failed, and nobody was told.
    silent: bool,
    /// The daemon ended by it, or by being killed there.
    ended: bool,
}

/// Mends what lasts, some time after it began to fail.
async fn mended_later(home: &Home) {
    while shim::faults(home).is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(BROKEN_FOR).await;
    shim::mend(home);
}

/// None if the daemon was through without coming there.
async fn befalls(fault: Fault, age: Age) -> Option<Outcome> {
    let mut story = Story::in_a_home().await;
    if matches!(age, Age::Old) {
        story.begin(|_, _| {});
        story.stop().await;
        lengthen_wal(&story.home);
    }
    if fault.lasting {
        shim::spoil(&story.home);
    }
    story.begin(|home, command| shim::arm(home, command, fault));
    let mending = fault.lasting.then(|| {
        let home = Arc::clone(&story.home);
        tokio::spawn(async move { mended_later(&home).await })
    });
    story.unfold().await;
    let before_the_stop = shim::faults(&story.home);
    let mut logs = story.stop().await;
    drop(mending.inspect(JoinHandle::abort));
    story.hold().await;

    let failed = shim::faults(&story.home).into_iter().next()?;
    let killed = fault.error == "KILL";
    let database = story.home.path("ibvwatch.db").display().to_string();
    for run in &story.casualties {
        // A status that says that trying again may help.
        let in_order = run.status.code() == Some(1) && run.stderr.contains(&database);
        assert!(killed || in_order, "{fault:?} ({failed}): {run:?}");
        logs.push_str(&run.stderr);
    }
    let is_a_failure = |line: &str| {
        !line.contains("ibvwatch is running") && !line.contains("can be written again")
    };
    let logged = logs.lines().any(|line| line.contains(&database) && is_a_failure(line));
    // What fails while the WAL is folded into the database, or put away, is made up for later.
    let of_a_commit =
        failed.ends_with("wal") && !before_the_stop.is_empty() && fault.kind != "open";
    let silent = of_a_commit && !killed && !logged;
    // That begins with one more sync of the WAL, which looks like a commit's.
    let folds = fault.kind == "sync" && matches!(age, Age::Old);
    assert!(!silent || folds, "{fault:?} ({failed}) left no trace: {logs}");
    Some(Outcome { logged, silent, ended: !story.casualties.is_empty() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_sync_and_open_may_fail() {
    let stride = asked("DISK_FAULTS").unwrap_or(31);
    let mut walks = Vec::new();
    for kind in ["open", "write", "sync"] {
        for age in [Age::New, Age::Old] {
            for (error, lasting) in [
                ("EIO", false),
                ("EIO", true),
                ("ENOSPC", false),
                ("ENOSPC", true),
                ("KILL", false),
            ] {
                // Opens are few, so that each walk has one of them.
                let first = 1 + walks.len() * 5 % stride.min(if kind == "open" { 8 } else { 20 });
                walks.push(async move {
                    let mut outcomes = Vec::new();
                    for nth in (first..).step_by(stride) {
                        let fault = Fault { kind, error, nth, lasting };
                        let outcome = tokio::spawn(befalls(fault, age)).await;
                        match outcome.unwrap_or_else(|died| panic!("{fault:?}, {age:?}: {died}")) {
                            Some(outcome) => outcomes.push(outcome),
                            None => break,
                        }
                    }
                    (kind, error, lasting, age, outcomes)
                });
            }
        }
    }
    let mut total = 0;
    for (kind, error, lasting, age, outcomes) in side_by_side(MANY, walks).await {
        let count = |which: fn(&Outcome) -> bool| outcomes.iter().filter(|o| which(o)).count();
        let (logged, ended) = (count(|o| o.logged), count(|o| o.ended));
        assert!(count(|o| o.silent) < 3, "it is folded once: {outcomes:?}");
        let lasting = if lasting { "until mended" } else { "once" };
        println!(
            "{kind} {error} {lasting}, {age:?}: {} faults, {logged} logged, {ended} ended it",
            outcomes.len()
        );
        total += outcomes.len();
    }
    println!("{total} faults in all");
    assert!(total > 30, "{total}");
}

/// Waits until nothing has been asked of the API for several intervals.
async fn no_more_requests(home: &Home) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = home.totals().requests;
        sleep(Duration::from_secs(1)).await;
        let now = home.totals().requests;
        if before == now {
            return now;
        }
        assert!(Instant::now() < deadline, "polling goes on");
    }
}

/// Waits until the metrics and the status page say whether it fails to write.
async fn shown(site: &Site, failing: bool) {
    let metric = format!("ibvwatch_store_write_failing {}", u8::from(failing));
    let words = "the store can't be written, and polling waits for it: database or disk is full";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = site.get("/metrics").await.body;
        let page = site.get("/").await.body;
        let counted = metrics.lines().any(|line| line == metric);
        if counted && page.contains(words) == failing {
            break;
        }
        assert!(Instant::now() < deadline, "{failing}: {metrics}\n{page}");
        sleep(Duration::from_millis(50)).await;
    }
    // A restart would make no room.
    assert_eq!(site.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_full_disk_pauses_polling_until_there_is_room_and_loses_nothing() {
    let mut home = Home::new().await;
    home.set("poll.max_in_flight", "4");
    home.serve_http();
    let ids: Vec<_> = (0..12).map(|_| home.track_new()).collect();
    let mut command = home.command(&["run"]);
    let full = Fault { kind: "write", error: "ENOSPC", nth: 1, lasting: true };
    shim::arm(&home, &mut command, full);
    let mut daemon = Daemon::spawn(command);
    for &id in &ids {
        daemon.event(|event| event.is("session.observed", id)).await;
    }
    let site = daemon.site().await;
    shown(&site, false).await;
    let told = daemon.events().len();
    shim::spoil(&home);
    for &id in &ids {
        home.set_state(id, 0, "IN_PROGRESS").unwrap();
    }
    daemon.logs("ibvwatch.db (store.path) can't be written: database or disk is full").await;
    shown(&site, true).await;
    let asked = no_more_requests(&home).await;
    assert_eq!(daemon.events().len(), told, "{:#?}", daemon.events());
    shim::mend(&home);
    for &id in &ids {
        daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    }
    daemon.logs("can be written again").await;
    shown(&site, false).await;
    assert!(home.totals().requests > asked);
    let run = daemon.stop().await;
    assert_eq!(home.recorded().await, lines(&run.events()));
}
