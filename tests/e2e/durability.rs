//! First the record, then the telling; and no record where there is nothing to record.

use std::fs;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use crate::common::{Daemon, Home, PATIENCE, ids_in};

/// Holds the database so that the daemon can't write to it, until rolled back.
fn blocked(home: &Home) -> Connection {
    let database = Connection::open(home.path("ibvwatch.db")).expect("the daemon's database");
    database.busy_timeout(PATIENCE).expect("a connection that can wait");
    database.execute_batch("BEGIN EXCLUSIVE").expect("a lock on it");
    database
}

#[tokio::test]
async fn nothing_is_told_before_it_is_recorded() {
    let home = Home::new().await;
    let (id, other) = (home.track_new(), home.track_new());
    let mut daemon = Daemon::start(&home);
    for id in [id, other] {
        daemon.event(|event| event.is("session.observed", id)).await;
        daemon.polls(&home, id, 2).await;
    }
    let told = daemon.events().len();
    let database = Connection::open(home.path("ibvwatch.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    // Steady polls need no record, so that they go on and show how time passes. One that was
    // under way at the change may miss it, the next can't.
    daemon.polls(&home, id, 1).await;
    daemon.polls(&home, other, 10).await;
    assert_eq!(daemon.events().len(), told, "{:#?}", daemon.events());
    database.execute_batch("ROLLBACK").unwrap();
    daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    let run = daemon.stop().await;
    assert_eq!(ids_in(&home.recorded().await).len(), run.events().len());
}

#[tokio::test]
async fn a_store_that_is_blocked_for_long_loses_nothing_and_its_end_is_noticed() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    let database = blocked(&home);
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    daemon.logs("can't be written").await;
    database.execute_batch("ROLLBACK").unwrap();
    daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    daemon.logs("can be written again").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_store_that_is_blocked_does_not_hold_up_the_stop() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    let database = blocked(&home);
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    daemon.polls(&home, id, 1).await;
    daemon.stop().await;
    database.execute_batch("ROLLBACK").unwrap();

    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    daemon.stop().await;
}

/// What is left to anybody who copies the database after that is one file.
#[tokio::test]
async fn a_stop_closes_the_database() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    assert!(home.path("ibvwatch.db-wal").exists());
    daemon.stop().await;
    assert!(!home.path("ibvwatch.db-wal").exists());
}

/// Size and time of everything that the store has on disk.
fn disk(home: &Home) -> Vec<(String, u64, SystemTime)> {
    let names = home.files().into_iter().map(|name| name.to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with("ibvwatch.db"))
        .map(|name| {
            let metadata = fs::metadata(home.path(&name)).expect("a file");
            (name, metadata.len(), metadata.modified().expect("its time"))
        })
        .collect()
}

#[tokio::test]
async fn polls_that_find_nothing_new_write_nothing() {
    let mut home = Home::new().await;
    home.set("poll.interval", "\"50ms\"");
    home.set("poll.active_interval", "\"50ms\"");
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    // By then it is noted that the event was printed.
    daemon.polls(&home, id, 20).await;
    let before = disk(&home);
    assert!(before.len() >= 3, "{before:?}");
    daemon.polls(&home, id, 40).await;
    assert_eq!(disk(&home), before);
    home.set_state(id, 0, "COMPLETE").unwrap();
    daemon.event(|event| event.tells(id, "COMPLETE")).await;
    assert_ne!(disk(&home), before);
    let stopped = daemon.stop().await;
    assert!(stopped.took < Duration::from_secs(5), "{:?}", stopped.took);
}
