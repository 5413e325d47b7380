//! The process dies at each of its failpoints, the first time it comes there, the second, and so
//! on. `FAILPOINT_DEPTH=1000` goes on until it doesn't come there again; usual is a few times.

#![cfg(debug_assertions)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use ibvwatch::domain::SessionId;
use ibvwatch::failpoint::Failpoint;
use rusqlite::{Connection, OpenFlags};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::story::Story;
use super::{MANY, asked, side_by_side};
use crate::common::{Home, PATIENCE};

/// As the fastest daemon that forgets.
const RETENTION: Duration = Duration::from_secs(1);

fn arm(place: Failpoint, nth: usize) -> impl FnOnce(&Home, &mut Command) {
    move |_, command| {
        command.env("IBVWATCH_FAILPOINT", format!("{}:{nth}", place.as_str()));
    }
}

/// Whether it died as it was told to. Nothing else may have ended it.
fn died(story: &Story) -> bool {
    for run in &story.casualties {
        assert_eq!(run.status.signal(), Some(9), "{}", run.stderr);
    }
    assert!(story.casualties.len() <= 1);
    !story.casualties.is_empty()
}

async fn dies_and_loses_nothing(place: Failpoint, nth: usize) -> bool {
    let mut story = Story::in_a_home().await;
    story.begin(arm(place, nth));
    story.unfold().await;
    story.stop().await;
    story.hold().await;
    died(&story)
}

/// Whether the database holds that session. Who opened it to write would fold the WAL afterwards.
fn is_in(database: &Path, session: SessionId) -> bool {
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let database = database.expect("the database");
    database.busy_timeout(PATIENCE).expect("a connection that can wait");
    let is_in = "SELECT EXISTS (SELECT * FROM session WHERE id = ?1)";
    database.query_row(is_in, [session.as_bytes()], |row| row.get(0)).expect("an answer")
}

/// What is purged leaves neither gaps nor a second use of an id.
async fn dies_while_it_forgets(place: Failpoint, nth: usize) -> bool {
    let mut story = Story::in_a_home().await;
    story.begin(|_, _| {});
    story.unfold().await;
    story.stop().await;
    let session = story.home.ids()[0];
    sleep(RETENTION).await;
    story.begin(|home, command| {
        command.env("IBVWATCH__STORE__RETENTION", "1s");
        arm(place, nth)(home, command);
    });
    let deadline = Instant::now() + PATIENCE;
    while is_in(&story.home.path("ibvwatch.db"), session) {
        assert!(Instant::now() < deadline, "nothing is forgotten");
        sleep(Duration::from_millis(20)).await;
    }
    story.home.track(session);
    story.until(|event| event.is("session.tracked", session) && event.ordinal() > 1).await;
    story.stop().await;
    story.deliveries.hold_together();
    story.check_database();
    died(&story)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_may_die_at_every_failpoint() {
    let depth = asked("FAILPOINT_DEPTH").unwrap_or(3);
    let walks = Failpoint::ALL.into_iter().map(|place| async move {
        let mut deaths = 0;
        for nth in 1..=depth {
            let died = if place == Failpoint::Forgotten {
                dies_while_it_forgets(place, nth).await
            } else {
                dies_and_loses_nothing(place, nth).await
            };
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 0, "{place:?} is never reached");
        (place, deaths)
    });
    let walked = side_by_side(MANY, walks).await;
    let deaths: usize = walked.iter().map(|(_, deaths)| deaths).sum();
    println!("{deaths} deaths: {walked:?}");
}
