//! An API that does its worst: each poll ends by its deadline with the right word for it, the
//! memory stays as it was, and what is known of a session stays what it was.

use std::fs;
use std::time::Duration;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Effect, Endpoint, Fault};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use crate::common::{Daemon, Event, Home};

/// `api.timeout` in these tests.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a poll and the pause after it take at most, on a busy machine.
const ROUND: Duration = Duration::from_secs(4);
/// By how much the memory may have grown, in KiB: less than any of the bodies.
const GROWTH: u64 = 24 * 1024;

/// The most memory that the daemon ever held, in KiB.
fn peak_memory(daemon: &Daemon) -> u64 {
    let path = format!("/proc/{}/status", daemon.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A daemon that watches two sessions, of which the second is to be spared, so that the trouble is
/// the first one's and not the API's.
async fn watching(home: &mut Home) -> (Daemon, SessionId) {
    home.set("api.timeout", "\"1s\"");
    home.set("poll.failing_after", "1");
    let (id, spared) = (home.track_new(), home.track_new());
    let mut daemon = Daemon::start(home);
    for id in [id, spared] {
        daemon.event(|event| event.is("session.observed", id)).await;
        daemon.polls(home, id, 3).await;
    }
    (daemon, id)
}

#[tokio::test]
async fn every_hostile_answer_ends_in_time_with_the_right_word_and_in_flat_memory() {
    const TEN_GB: u64 = 10_000_000_000;
    let mut home = Home::new().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let location = format!("http://{}/", elsewhere.local_addr().expect("its address"));
    let (mut daemon, id) = watching(&mut home).await;
    let before = peak_memory(&daemon);
    let trials = [
        (Effect::Drip { bytes_per_second: 1 }, "unreachable", "within 1s"),
        (Effect::Hang, "unreachable", "within 1s"),
        (Effect::Reset, "unreachable", "broke before the answer was complete"),
        (Effect::Truncate { bytes: 200 }, "unreachable", "broke before the answer was complete"),
        (Effect::Huge { bytes: TEN_GB }, "malformed", "larger than 1048576 bytes"),
        (Effect::GzipBomb { bytes: TEN_GB }, "malformed", "larger than 1048576 bytes"),
        (Effect::GzipBomb { bytes: TEN_GB / 20 }, "malformed", "is not JSON"),
        (Effect::Garbage { bytes: 100_000 }, "malformed", "is not JSON"),
        (Effect::Html, "server_error", "the server failed"),
        (Effect::Redirect { location }, "malformed", "redirects to another address"),
        (Effect::WrongSession, "malformed", "is about another session"),
    ];
    for (failures, (effect, kind, words)) in (1..).zip(trials) {
        let fault = home.fault(Fault::new(effect.clone()).on(id));
        let began = Instant::now();
        daemon.until(|events| told(events, "session.poll_failing", id) == failures).await;
        daemon.polls(&home, id, 2).await;
        let took = began.elapsed();
        assert!(took < 3 * ROUND + TIMEOUT, "{effect:?} held three polls up for {took:?}");
        home.clear_fault(fault);
        daemon.until(|events| told(events, "session.poll_recovered", id) == failures).await;
        let events = daemon.events();
        let event = events.iter().rfind(|event| event.is("session.poll_failing", id));
        let error = &event.expect("the event just waited for").data()["error"];
        assert_eq!(error["kind"], kind, "{effect:?}: {error}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(words), "{effect:?}: {message}");
        let grown = peak_memory(&daemon) - before;
        assert!(grown < GROWTH, "{effect:?} took {grown} KiB");
    }
    assert!(timeout(Duration::ZERO, elsewhere.accept()).await.is_err(), "a redirect was followed");
    let events = daemon.stop().await.events();
    let others = ["session.tracked", "session.observed", "session.poll_failing"];
    let others = [&others[..], &["session.poll_recovered"]].concat();
    assert!(events.iter().all(|event| others.contains(&event.kind())), "{events:?}");
}

fn told(events: &[Event], kind: &str, id: SessionId) -> usize {
    events.iter().filter(|event| event.is(kind, id)).count()
}

/// The report of a session holds whatever its applicant handed in; its state may come last.
#[tokio::test]
async fn a_state_behind_a_hundred_megabytes_is_found_in_flat_memory() {
    let mut home = Home::new().await;
    home.set("api.timeout", "\"20s\"");
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    daemon.polls(&home, id, 3).await;
    let before = peak_memory(&daemon);
    let media = "x".repeat(100_000_000);
    let body = format!("{{\"resources\":{{\"media\":\"{media}\"}},\"state\":\"COMPLETED\"}}");
    let answer = Effect::Status { status: 200, headers: [].into(), body: Some(body) };
    home.fault(Fault::new(answer).on(id).at(Endpoint::Session));
    home.fault(Fault::new(Effect::status(409)).on(id).at(Endpoint::Configuration));
    let ended = daemon.event(|event| event.is("session.ended", id)).await;
    assert_eq!(ended.text("reason"), "completed");
    let grown = peak_memory(&daemon) - before;
    assert!(grown < GROWTH, "it took {grown} KiB");
    daemon.stop().await;
}

/// Each answer contradicts the one before. What is told stays a chain for each resource, and a
/// session that never rests is asked no more than the active cadence allows.
#[tokio::test]
async fn states_that_flicker_are_told_one_by_one_at_the_active_cadence() {
    const CHANGES: usize = 60;
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.fault(Fault::new(Effect::Flicker).on(id).at(Endpoint::Configuration));
    let (began, asked) = (Instant::now(), home.session_totals(id).requests);
    daemon.until(|events| told(events, "resource.state_changed", id) >= CHANGES).await;
    let asked = home.session_totals(id).requests - asked;
    // A jitter of a tenth around 100 ms, and twice that many where the session itself is asked.
    let most = began.elapsed().as_millis() / 90 * 2 + 4;
    assert!(u128::from(asked) <= most, "{asked} requests, at most {most} were to be");
    let events = daemon.stop().await.events();
    let mut states = ["REQUIRED"; 3].map(str::to_owned);
    let ids: Vec<String> = events
        .iter()
        .find(|event| event.is("session.observed", id))
        .and_then(|event| event.data()["resources"].as_array())
        .expect("the baseline")
        .iter()
        .map(|resource| resource["resource"]["id"].to_string())
        .collect();
    for event in events.iter().filter(|event| event.kind() == "resource.state_changed") {
        let resource = event.data()["resource"]["id"].to_string();
        let place = ids.iter().position(|id| *id == resource).expect("a known resource");
        assert_eq!(event.text("from"), states[place], "{}", event.line);
        states[place] = event.text("to").to_owned();
    }
    assert_eq!(told(&events, "session.ended", id), 0);
}
