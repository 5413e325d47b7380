//! `/healthz` and `/readyz`: what a supervisor and a load balancer are told.

use std::fs;
use std::time::Duration;

use ibvwatch::sim::{Effect, Fault};
use rusqlite::Connection;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::common::{Answer, Daemon, Home, PATIENCE, Site};

/// Waits for an answer of that status.
async fn until(site: &Site, path: &str, status: u16) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = site.get(path).await;
        if answer.status == status {
            return answer;
        }
        assert!(Instant::now() < deadline, "{path} still says {answer:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The loop is held by the hook for tests, as a lock that is never given back would hold it.
#[tokio::test]
async fn a_poll_loop_that_stands_still_is_told_within_thirty_seconds_and_so_is_its_return() {
    let mut home = Home::new().await;
    home.serve_http();
    let hold = home.path("hold");
    let mut command = home.command(&["run"]);
    command.env("IBVWATCH_TEST_HOLD_POLLS", &hold);
    let mut daemon = Daemon::spawn(command);
    let id = home.track_new();
    daemon.polls(&home, id, 2).await;
    let site = daemon.site().await;
    until(&site, "/readyz", 200).await;
    let answer = site.get("/healthz").await;
    assert!(answer.status == 200 && answer.body.starts_with("ok: "), "{answer:?}");

    fs::write(&hold, "").unwrap();
    let since = Instant::now();
    let answer = until(&site, "/healthz", 503).await;
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    assert!(answer.body.contains("the poll loop has stood still for 1"), "{answer:?}");
    let answer = site.get("/readyz").await;
    assert!(answer.status == 503 && answer.body.starts_with("stuck: "), "{answer:?}");
    // Who asks for figures then isn't kept waiting either.
    assert_eq!(site.get("/metrics").await.status, 200);

    fs::remove_file(&hold).unwrap();
    until(&site, "/healthz", 200).await;
    until(&site, "/readyz", 200).await;
    daemon.stop().await;
}

#[tokio::test]
async fn it_is_not_ready_before_what_the_session_files_say_is_in_the_store() {
    let mut home = Home::new().await;
    home.serve_http();
    let mut daemon = Daemon::start(&home);
    daemon.logs("ibvwatch is running").await;
    daemon.stop().await;
    let database = Connection::open(home.path("ibvwatch.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    home.track_new();
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    let answer = site.get("/readyz").await;
    assert!(answer.status == 503 && answer.body.starts_with("starting: "), "{answer:?}");
    assert_eq!(site.get("/healthz").await.status, 200, "a restart would not help");
    database.execute_batch("ROLLBACK").unwrap();
    until(&site, "/readyz", 200).await;
    daemon.stop().await;
}

#[tokio::test]
async fn it_is_not_ready_while_it_stops() {
    let mut home = Home::new().await;
    home.serve_http();
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    daemon.event(|event| event.is("session.observed", id)).await;
    until(&site, "/readyz", 200).await;
    home.fault(Fault::new(Effect::Delay { millis: 3_000 }));
    let under_way = home.until(|world| world.totals().in_flight > 0);
    timeout(PATIENCE, under_way).await.unwrap();
    daemon.signal(Signal::TERM);
    daemon.logs("stopping").await;
    let answer = until(&site, "/readyz", 503).await;
    assert!(answer.body.starts_with("draining: "), "{answer:?}");
    assert_eq!(site.get("/healthz").await.status, 200);
    assert_eq!(daemon.ended().await.status.code(), Some(0));
}
