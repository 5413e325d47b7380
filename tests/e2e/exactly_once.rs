//! Every change is told once, whatever befalls the daemon.

use std::num::NonZeroU32;
use std::time::Duration;

use ibvwatch::clock::{Clock, SystemClock};
use ibvwatch::sim::{AfterEnd, Effect, Fault, Outcome, World};
use tokio::time::{Instant, timeout};

use crate::common::{Daemon, Deliveries, Event, Home, PATIENCE, Truth};

const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_that_stands_when_the_api_is_asked_is_told_once_and_in_order() {
    let mut home = Home::with(|settings| {
        settings.speed = NonZeroU32::new(60).unwrap();
        settings.after_end = AfterEnd::Configuration;
        settings.seed = 1;
    })
    .await;
    home.set("poll.interval", "\"300ms\"");
    home.set("poll.active_interval", "\"300ms\"");
    for id in home.create_random(200, FORTNIGHT, Duration::from_secs(300)) {
        home.track(id);
    }
    let mut daemon = Daemon::start(&home);
    // Between two steps of one applicant lie three seconds at most.
    daemon.quiet_for(Duration::from_secs(5)).await;
    let run = daemon.stop().await;

    let mut deliveries = Deliveries::default();
    deliveries.add(&run);
    let truth = Truth::of(home.simulator());
    let score = truth.hold_against(&deliveries);
    truth.is_known(&deliveries);
    assert!(score.due > 400, "{score:?}");
    assert_eq!(deliveries.redelivered(), 0);
    assert_eq!(deliveries.text(), home.recorded().await);
    let kinds = deliveries.kinds();
    let completed = kinds["session.completed"];
    assert_eq!(completed, kinds["session.ended"]);
    assert_eq!((kinds["session.tracked"], kinds["session.observed"]), (200, 200));
    assert!(completed > 100, "{kinds:?}");
    assert!(kinds["resource.added"] > 0 && kinds["resource.removed"] > 0, "{kinds:?}");
}

#[tokio::test]
async fn a_change_made_while_the_daemon_was_down_is_told_with_the_time_it_was_last_seen_otherwise()
{
    let home = Home::new().await;
    let id = home.track_new();
    let mut last_told = None;
    for (index, (state, killed)) in [("IN_PROGRESS", false), ("COMPLETE", true)].iter().enumerate()
    {
        let daemon = Daemon::start(&home);
        let asked = home.session_totals(id).requests;
        timeout(PATIENCE, home.asked(id, asked + 4)).await.unwrap();
        let run = if *killed { daemon.kill().await } else { daemon.stop().await };
        let down = SystemClock.now().wall;
        last_told = run.events().iter().map(Event::time).max().or(last_told);
        home.set_state(id, index, state).unwrap();
        let changed = SystemClock.now().wall;

        let mut daemon = Daemon::start(&home);
        let event = daemon.event(|event| event.tells(id, state)).await;
        assert!(event.moment("changed_after") <= down, "{}", event.line);
        assert!(event.moment("changed_before") >= changed, "{}", event.line);
        if !killed {
            // A stop in good order keeps when the session was last asked about.
            assert!(Some(event.moment("changed_after")) > last_told, "{}", event.line);
        }
        daemon.stop().await;
    }
}

/// What an answer says is as old as its making, however long it is under way.
#[tokio::test]
async fn a_change_during_a_slow_answer_is_told_with_a_time_from_before_that_answer() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.fault(Fault::new(Effect::Drip { bytes_per_second: 3_000 }).on(id).times(1));
    let made_up = |world: &World| {
        let slow = world.exchanges_of(id).into_iter().find(|e| e.faults.contains(&"drip"));
        slow.is_some_and(|slow| slow.outcome == Outcome::Answered(200))
    };
    timeout(PATIENCE, home.until(made_up)).await.unwrap();
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    let changed = SystemClock.now().wall;
    assert_eq!(home.session_totals(id).in_flight, 1, "the answer was not slow enough");
    let event = daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    assert!(event.moment("changed_after") <= changed, "{}", event.line);
    assert!(event.moment("changed_before") >= changed, "{}", event.line);
    daemon.stop().await;
}

/// Not a promise in numbers, but what `poll.interval` means.
#[tokio::test]
async fn a_session_is_asked_about_at_its_interval_and_one_request_at_a_time() {
    let mut home = Home::new().await;
    home.set("poll.interval", "\"100ms\"");
    let ids: Vec<_> = (0..5).map(|_| home.track_new()).collect();
    let daemon = Daemon::start(&home);
    let begun = Instant::now();
    for id in &ids {
        timeout(PATIENCE, home.asked(*id, 20)).await.unwrap();
    }
    let earliest = Duration::from_millis(100).mul_f64(0.9) * 18;
    assert!(begun.elapsed() >= earliest, "{:?}", begun.elapsed());
    assert_eq!(home.totals().max_in_flight_per_session, 1);
    daemon.stop().await;
}
