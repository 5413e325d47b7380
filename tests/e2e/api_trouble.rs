//! Trouble with the API as a whole is the daemon's, and no session's.

use std::time::Duration;

use ibvwatch::domain::{SessionId, Timestamp};
use ibvwatch::sim::{Effect, Fault, Outcome, World};
use tokio::time::timeout;

use crate::common::{Daemon, Event, Home, PATIENCE};

/// Lets everything fail until that is told, with a change meanwhile, and then go well again.
async fn through_trouble(home: &Home, fault: Fault, cause: &str) -> Vec<Event> {
    let ids: Vec<SessionId> = (0..5).map(|_| home.track_new()).collect();
    let mut daemon = Daemon::start(home);
    for id in &ids {
        daemon.event(|event| event.is("session.observed", *id)).await;
    }
    home.fault(fault);
    let unavailable = daemon.event(|event| event.kind() == "api.unavailable").await;
    assert_eq!(unavailable.text("cause"), cause, "{}", unavailable.line);
    home.set_state(ids[0], 0, "IN_PROGRESS").expect("a resource that is listed");
    let asked = home.totals().requests;
    timeout(PATIENCE, home.until(|world| world.totals().requests > asked + 2))
        .await
        .expect("probes");
    home.clear_faults();
    let available = daemon.event(|event| event.kind() == "api.available").await;
    assert_eq!(available.text("cause"), cause, "{}", available.line);
    daemon.event(|event| event.tells(ids[0], "IN_PROGRESS")).await;
    let asked: Vec<u64> = ids.iter().map(|id| home.session_totals(*id).requests).collect();
    for (id, asked) in ids.iter().zip(asked) {
        timeout(PATIENCE, home.asked(*id, asked + 2)).await.expect("polls that go on");
    }
    daemon.stop().await.events()
}

#[tokio::test]
async fn a_refused_key_an_outage_and_a_rate_limit_are_told_once_and_blamed_on_no_session() {
    for (effect, cause) in [
        (Effect::status(401), "unauthorized"),
        (Effect::status(503), "server_error"),
        (Effect::Reset, "unreachable"),
        (Effect::retry_after("1"), "rate_limited"),
    ] {
        let mut home = Home::new().await;
        // A session may fail a few times before the trouble is seen to be everyone's.
        home.set("poll.failing_after", "10");
        let events = through_trouble(&home, Fault::new(effect), cause).await;
        let others = ["session.tracked", "session.observed"];
        let mut kinds: Vec<&str> =
            events.iter().map(Event::kind).filter(|kind| !others.contains(kind)).collect();
        // The answer that shows the end of the trouble may be the one with the change.
        kinds.sort_unstable();
        assert_eq!(kinds, ["api.available", "api.unavailable", "resource.state_changed"]);
        let ids: Vec<&str> =
            events.iter().filter(|e| e.session().is_none()).map(Event::id).collect();
        assert_eq!(ids, ["api/1", "api/2"], "{cause}");
    }
}

#[tokio::test]
async fn an_outage_that_outlasts_the_daemon_is_told_once() {
    let home = Home::new().await;
    home.track_new();
    home.fault(Fault::new(Effect::status(401)));
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.kind() == "api.unavailable").await;
    daemon.kill().await;
    let daemon = Daemon::start(&home);
    let asked = home.totals().requests;
    timeout(PATIENCE, home.until(|world| world.totals().requests > asked + 5)).await.unwrap();
    let kinds = |events: &[Event]| -> Vec<String> {
        let of_api = events.iter().filter(|event| event.session().is_none());
        of_api.map(|event| event.kind().to_owned()).collect()
    };
    let told = kinds(&daemon.stop().await.events());
    assert!(told.len() <= 1, "{told:?}");
    home.clear_faults();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.kind() == "api.available").await;
    daemon.stop().await;
    let recorded = home.recorded().await;
    let events: Vec<Event> = recorded.lines().map(|line| Event::parse(line).unwrap()).collect();
    assert_eq!(kinds(&events), ["api.unavailable", "api.available"]);
}

/// The ten minutes of it are in `src/poller/tests.rs`, on a paused clock; here are four probes'
/// worth over real sockets.
#[tokio::test]
async fn a_rate_limit_with_retry_after_brings_probes_and_nothing_else() {
    let mut home = Home::new().await;
    home.set("poll.max_in_flight", "8");
    let ids: Vec<SessionId> = (0..20).map(|_| home.track_new()).collect();
    let mut daemon = Daemon::start(&home);
    for id in &ids {
        daemon.event(|event| event.is("session.observed", *id)).await;
    }
    home.fault(Fault::new(Effect::retry_after("3")));
    let limited = |world: &World| -> Vec<Timestamp> {
        let limited = Outcome::Answered(429);
        let exchanges = world.exchanges().into_iter().filter(|e| e.outcome == limited);
        exchanges.map(|exchange| exchange.at).collect()
    };
    let is_probe = |pair: &[Timestamp]| pair[1].since(pair[0]) >= Duration::from_millis(2_990);
    let probes = |world: &World| limited(world).windows(2).filter(|pair| is_probe(pair)).count();
    timeout(PATIENCE, home.until(|world| probes(world) >= 4)).await.expect("four probes");
    home.clear_faults();
    let refused = limited(&home);
    // What was under way when the first 429 came, then one probe after the other.
    let under_way = refused.windows(2).take_while(|pair| !is_probe(pair)).count() + 1;
    assert!(under_way <= 8, "{under_way} requests were refused before the pause");
    assert!(refused[under_way - 1..].windows(2).all(is_probe), "{refused:?}");

    daemon.event(|event| event.kind() == "api.available").await;
    let asked: Vec<u64> = ids.iter().map(|id| home.session_totals(*id).requests).collect();
    for (id, asked) in ids.iter().zip(asked) {
        timeout(PATIENCE, home.asked(*id, asked + 1)).await.expect("no session is lost");
    }
    let events = daemon.stop().await.events();
    let of_api = events.iter().filter(|event| event.session().is_none());
    assert_eq!(of_api.map(Event::kind).collect::<Vec<_>>(), ["api.unavailable", "api.available"]);
}
