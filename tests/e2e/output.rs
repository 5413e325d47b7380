//! Standard output: events, one a line, for whoever reads them, at whatever pace.

use std::io::{BufRead as _, BufReader, PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::common::{Daemon, Event, Home, PATIENCE, STOP_WITHIN, ids_in, lines};

/// A daemon whose standard output is left to the test.
fn start(home: &Home) -> (tokio::process::Child, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = home.command(&["run"]);
    command.stdout(OwnedFd::from(writer)).stderr(Stdio::null());
    (command.spawn().expect("a daemon that starts"), reader)
}

/// Reads lines until one is the event, then closes the pipe.
async fn read_until(reader: PipeReader, kind: &'static str) -> Vec<Event> {
    let read = move || {
        let mut events = Vec::new();
        for line in BufReader::new(reader).lines() {
            let line = line.expect("a pipe that can be read");
            events.push(Event::parse(&line).expect("nothing but events"));
            if events.last().is_some_and(|event| event.kind() == kind) {
                break;
            }
        }
        events
    };
    timeout(PATIENCE, spawn_blocking(read)).await.expect("the event in time").expect("no panic")
}

#[tokio::test]
async fn when_nobody_reads_any_more_it_ends_in_good_order_and_tells_the_rest_next_time() {
    let home = Home::new().await;
    let id = home.track_new();
    let (mut child, reader) = start(&home);
    let read = read_until(reader, "session.observed").await;
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    home.set_state(id, 1, "COMPLETE").unwrap();
    let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));

    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    daemon.event(|event| event.tells(id, "COMPLETE")).await;
    let rest = daemon.stop().await;
    let first_unread = read.len() as u64 + 1;
    let told = rest.events();
    assert!(told[0].sequence() <= first_unread, "{}", told[0].line);
    let both = lines(&read);
    let rest = String::from_utf8(rest.stdout).unwrap();
    assert_eq!(ids_in(&(both + &rest)), ids_in(&home.recorded().await));
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_neither_the_polls_nor_the_stop() {
    let home = Home::new().await;
    // Far more than a pipe holds.
    let ids: Vec<_> = (0..150).map(|_| home.track_new()).collect();
    let (mut child, mut reader) = start(&home);
    for id in &ids {
        timeout(PATIENCE, home.asked(*id, 5)).await.unwrap();
    }
    home.set_state(ids[0], 0, "IN_PROGRESS").unwrap();
    let asked = home.session_totals(ids[0]).requests;
    timeout(PATIENCE, home.asked(ids[0], asked + 3)).await.unwrap();
    assert!(home.recorded().await.contains("IN_PROGRESS"));

    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())).unwrap();
    let asked = Instant::now();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() < STOP_WITHIN, "{:?}", asked.elapsed());

    let mut stuck = String::new();
    reader.read_to_string(&mut stuck).unwrap();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.tells(ids[0], "IN_PROGRESS")).await;
    let rest = String::from_utf8(daemon.stop().await.stdout).unwrap();
    let both = ids_in(&stuck).union(&ids_in(&rest)).cloned().collect();
    assert_eq!(ids_in(&home.recorded().await), both);
}

#[tokio::test]
async fn nothing_but_events_is_written_to_it_and_they_are_those_recorded() {
    let mut home = Home::new().await;
    home.set("log.level", "\"trace\"");
    let id = home.track_new();
    home.put("broken.json", "{");
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    daemon.signal(Signal::HUP);
    daemon.logs("configuration reloaded").await;
    home.set_state(id, 0, "COMPLETE").unwrap();
    daemon.event(|event| event.tells(id, "COMPLETE")).await;
    let run = daemon.stop().await;
    assert!(run.took < Duration::from_secs(5), "{:?}", run.took);
    assert_eq!(run.events().len(), 3);
    assert_eq!(String::from_utf8(run.stdout).unwrap(), home.recorded().await);
}

#[tokio::test]
async fn with_the_sink_off_events_are_recorded_and_not_printed() {
    let mut home = Home::new().await;
    home.set("sinks.stdout.enabled", "false");
    let id = home.track_new();
    let daemon = Daemon::start(&home);
    timeout(PATIENCE, home.asked(id, 3)).await.unwrap();
    assert_eq!(daemon.stop().await.stdout, b"");
    let recorded = home.recorded().await;
    assert!(recorded.contains("session.observed"), "{recorded}");
}
