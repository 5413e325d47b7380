//! How it is stopped, and how it takes over a changed configuration.

use std::time::Duration;

use ibvwatch::sim::{Effect, Fault};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::common::{Daemon, Home, PATIENCE, STOP_WITHIN};

async fn request_is_under_way(home: &Home) {
    timeout(PATIENCE, home.until(|world| world.totals().in_flight > 0))
        .await
        .expect("a request under way");
}

#[tokio::test]
async fn on_sigterm_and_sigint_polls_under_way_are_finished_and_told() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new().await;
        let id = home.track_new();
        let mut daemon = Daemon::start(&home);
        daemon.event(|event| event.is("session.observed", id)).await;
        timeout(PATIENCE, home.until(|world| world.totals().in_flight == 0)).await.unwrap();
        home.fault(Fault::new(Effect::Delay { millis: 1_500 }));
        home.set_state(id, 0, "IN_PROGRESS").unwrap();
        request_is_under_way(&home).await;
        daemon.signal(signal);
        daemon.logs("stopping").await;
        let run = daemon.ended().await;
        assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
        assert!(run.took < STOP_WITHIN, "{:?}", run.took);
        assert!(run.events().iter().any(|event| event.tells(id, "IN_PROGRESS")), "{}", run.stderr);
    }
}

#[tokio::test]
async fn an_api_that_hangs_does_not_hold_up_the_stop() {
    let mut home = Home::new().await;
    home.set("api.timeout", "\"10m\"");
    home.track_new();
    home.fault(Fault::new(Effect::Hang));
    let daemon = Daemon::start(&home);
    request_is_under_way(&home).await;
    let run = daemon.stop().await;
    assert!(run.stderr.contains("given up"), "{}", run.stderr);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut home = Home::new().await;
        home.set("api.timeout", "\"10m\"");
        home.track_new();
        home.fault(Fault::new(Effect::Hang));
        let mut daemon = Daemon::start(&home);
        request_is_under_way(&home).await;
        daemon.signal(first);
        daemon.logs("a second signal ends at once").await;
        daemon.signal(second);
        let run = daemon.ended().await;
        assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
        assert_eq!(run.status.code(), Some(130), "{}", run.stderr);
    }
}

#[tokio::test]
async fn sighup_takes_over_a_shorter_interval_for_sessions_that_wait_by_the_longer_one() {
    let mut home = Home::new().await;
    home.set("poll.interval", "\"1h\"");
    home.set("poll.active_interval", "\"1h\"");
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.set("poll.interval", "\"200ms\"");
    home.set("poll.active_interval", "\"200ms\"");
    daemon.signal(Signal::HUP);
    daemon.logs("configuration reloaded").await;
    home.set_state(id, 0, "COMPLETE").unwrap();
    daemon.event(|event| event.tells(id, "COMPLETE")).await;
    daemon.stop().await;
}

/// The client stays as it is until a restart, and can't confirm what it was made without.
#[tokio::test]
async fn sighup_with_a_session_path_that_takes_effect_later_makes_no_poll_fail() {
    let mut home = Home::new().await;
    home.set("api.session_path", "\"\"");
    let id = home.track_new();
    for index in 0..3 {
        home.set_state(id, index, "COMPLETE").unwrap();
    }
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.unset("api.session_path");
    daemon.signal(Signal::HUP);
    daemon.logs("configuration reloaded").await;
    let asked = home.session_totals(id).requests;
    timeout(PATIENCE, home.asked(id, asked + 10)).await.unwrap();
    let list = home.run(&["sessions", "--json"]).await.succeeded();
    assert!(list.contains("\"last_error\":null"), "{list}");
    daemon.stop().await;
}

#[tokio::test]
async fn sighup_takes_over_other_directories_and_another_kind_of_log() {
    let mut home = Home::new().await;
    let (old, new) = (home.track_new(), home.track_new());
    home.remove(&format!("{new}.json"));
    std::fs::create_dir(home.path("new.d")).unwrap();
    std::fs::write(home.path("new.d/new.json"), format!("\"{new}\"")).unwrap();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", old)).await;
    assert!(!daemon.log().contains("DEBUG"), "{}", daemon.log());

    home.set("sessions.directories", &format!("[{:?}]", home.path("new.d")));
    home.set("log.level", "\"ibvwatch=debug\"");
    home.set("log.format", "\"json\"");
    daemon.signal(Signal::HUP);
    daemon.event(|event| event.is("session.observed", new)).await;
    let ended = daemon.event(|event| event.is("session.ended", old)).await;
    assert_eq!(ended.text("reason"), "untracked");
    daemon.logs("\"level\":\"DEBUG\"").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_bad_configuration_is_reported_and_the_old_one_stays() {
    let mut home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.set("poll.intervall", "\"1h\"");
    home.set("log.level", "\"trace\"");
    daemon.signal(Signal::HUP);
    daemon.logs("the configuration stays as it was").await;
    daemon.logs("poll.intervall: unknown key; did you mean poll.interval?").await;
    home.set_state(id, 0, "COMPLETE").unwrap();
    daemon.event(|event| event.tells(id, "COMPLETE")).await;
    assert!(!daemon.log().contains("TRACE"), "{}", daemon.log());

    home.unset("poll.intervall");
    home.set("log.level", "\"info\"");
    daemon.signal(Signal::HUP);
    daemon.logs("configuration reloaded").await;
    daemon.stop().await;
}

#[tokio::test]
async fn sighup_names_what_takes_effect_only_after_a_restart() {
    let mut home = Home::new().await;
    let mut daemon = Daemon::start(&home);
    daemon.logs("ibvwatch is running").await;
    home.set("events.source", "\"elsewhere\"");
    home.set("api.connect_timeout", "\"3s\"");
    home.set("store.retention", "\"3d\"");
    daemon.signal(Signal::HUP);
    daemon.logs("configuration reloaded").await;
    let log = daemon.stop().await.stderr;
    let warned = |key: &str| {
        log.lines().any(|line| line.contains("only after a restart") && line.contains(key))
    };
    assert!(warned("events") && warned("api") && warned("store"), "{log}");
}
