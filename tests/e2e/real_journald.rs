//! Standard output that is the journal: a real journald, read back through `journalctl`.

use std::fmt::Write as _;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::timeout;

use crate::common::{Daemon, Event, Home, Journal, PATIENCE, STOP_WITHIN, ids_in};

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {entry}"))
}

/// The largest configuration that is accepted: the event which lists its resources has more
/// than a megabyte, since each quote takes two bytes there.
fn many_resources(session: impl std::fmt::Display) -> String {
    let quotes = |bytes: usize| "\\\"".repeat(bytes);
    let mut resources = String::new();
    for n in 0..1_000 {
        let comma = if n == 0 { "" } else { "," };
        let (kind, id) = (quotes(256), quotes(252));
        write!(resources, r#"{comma}{{"type":"{kind}","id":"{n:04}{id}","state":"REQUIRED"}}"#)
            .expect("a text that grows");
    }
    format!(
        r#"{{"session_id":"{session}","client_session_token_ttl":86400,"capture":{{"required_resources":[{resources}]}}}}"#
    )
}

#[tokio::test]
async fn journald_holds_every_event_in_full_with_fields_to_select_by() {
    let mut home = Home::new().await;
    home.set("api.max_response_size", "\"8MiB\"");
    let journal = Journal::start().await;
    let (plain, large) = (home.track_new(), home.track_new());
    home.serve_body(large, many_resources(large)).unwrap();
    let daemon = Daemon::spawn(journal.daemon(&home));
    journal.until(|stream| stream.matches("session.observed").count() == 2).await;
    home.set_state(plain, 0, "IN_PROGRESS").unwrap();
    home.set_state(plain, 1, "ODD\nSYSLOG_IDENTIFIER=other").unwrap();
    let stream = journal.until(|stream| stream.matches("state_changed").count() == 2).await;
    let run = daemon.stop().await;
    assert_eq!(run.stdout, b"");
    assert_eq!(stream, home.recorded().await);

    let entries = journal.entries(&["-t", "ibvwatch-events"]).await;
    let messages: Vec<&str> = entries.iter().map(|entry| text(entry, "MESSAGE")).collect();
    assert_eq!(messages, stream.lines().collect::<Vec<_>>());
    assert!(messages.iter().any(|message| message.len() > 1 << 20));
    for (entry, message) in entries.iter().zip(messages) {
        let event = Event::parse(message).unwrap();
        assert_eq!(text(entry, "IBVWATCH_EVENT_TYPE"), event.json["type"]);
        assert_eq!(text(entry, "IBVWATCH_SESSION_ID"), event.json["subject"]);
        assert_eq!(text(entry, "IBVWATCH_SEQUENCE"), event.json["sequence"]);
        assert_eq!(text(entry, "PRIORITY"), "6");
        let is_change = event.kind() == "resource.state_changed";
        let matter = ["IBVWATCH_RESOURCE_TYPE", "IBVWATCH_FROM", "IBVWATCH_TO"];
        assert!(matter.iter().all(|field| entry.get(field).is_some() == is_change), "{entry}");
        if is_change {
            assert_eq!(text(entry, "IBVWATCH_RESOURCE_TYPE"), "ID_DOCUMENT");
            assert_eq!(text(entry, "IBVWATCH_FROM"), event.text("from"));
            assert_eq!(text(entry, "IBVWATCH_TO"), event.text("to"));
            assert_eq!(text(entry, "MESSAGE_ID"), "b68979ad9cfe4f2a9d0ce2bb768f6380");
        }
    }
    let of_plain = journal.read(&["-o", "cat", &format!("IBVWATCH_SESSION_ID={plain}")]).await;
    let selected = stream.lines().filter(|line| line.contains(&plain.to_string()));
    assert_eq!(of_plain.lines().collect::<Vec<_>>(), selected.collect::<Vec<_>>());
    let diagnostics = journal.read(&["-t", "ibvwatch", "-o", "cat"]).await;
    assert!(diagnostics.contains("ibvwatch is running"), "{diagnostics}");
    assert!(!diagnostics.contains("specversion"), "{diagnostics}");
    assert_eq!(journal.read(&["-t", "other"]).await, "");
}

#[tokio::test]
async fn while_journald_is_away_or_does_not_read_nothing_is_lost_and_polls_go_on() {
    let home = Home::new().await;
    let mut journal = Journal::start().await;
    let id = home.track_new();
    let mut daemon = Daemon::spawn(journal.daemon(&home));
    journal.until(|stream| stream.contains("session.observed")).await;

    // More than its socket takes.
    journal.signal(Signal::STOP);
    let crowd: Vec<_> = (0..400).map(|_| home.track_new()).collect();
    timeout(PATIENCE, home.asked(crowd[399], 2)).await.unwrap();
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    let asked = home.session_totals(id).requests;
    timeout(PATIENCE, home.asked(id, asked + 3)).await.unwrap();
    journal.signal(Signal::CONT);
    journal.until(|stream| stream.contains("IN_PROGRESS")).await;
    for crowd in crowd {
        home.remove(&format!("{crowd}.json"));
    }
    let ended = |stream: &str| stream.matches("session.ended").count();
    journal.until(|stream| ended(stream) == 400).await;

    journal.end().await;
    home.set_state(id, 0, "COMPLETE").unwrap();
    let asked = home.session_totals(id).requests;
    timeout(PATIENCE, home.asked(id, asked + 3)).await.unwrap();
    journal.begin().await;
    let stream = journal.until(|stream| stream.contains("\"to\":\"COMPLETE\"")).await;
    daemon = {
        daemon.stop().await;
        Daemon::spawn(journal.daemon(&home))
    };
    home.set_state(id, 1, "COMPLETE").unwrap();
    let told = |stream: &str| stream.matches("\"to\":\"COMPLETE\"").count();
    journal.until(|stream| told(stream) == 2).await;
    daemon.stop().await;
    assert_eq!(ids_in(&stream).len(), stream.lines().count(), "something was told twice");
    let recorded = home.recorded().await;
    let stream = journal.until(|_| true).await;
    assert_eq!(ids_in(&stream), ids_in(&recorded));
}

#[tokio::test]
async fn a_journald_that_never_read_does_not_hold_up_the_stop() {
    let home = Home::new().await;
    let journal = Journal::start().await;
    journal.signal(Signal::STOP);
    for _ in 0..400 {
        home.track_new();
    }
    let last = home.track_new();
    let daemon = Daemon::spawn(journal.daemon(&home));
    timeout(PATIENCE, home.asked(last, 2)).await.unwrap();
    let run = daemon.stop().await;
    assert!(run.took < STOP_WITHIN);
    journal.signal(Signal::CONT);
    let daemon = Daemon::spawn(journal.daemon(&home));
    let recorded = ids_in(&home.recorded().await);
    journal.until(|stream| ids_in(stream).is_superset(&recorded)).await;
    daemon.stop().await;
}

/// Whoever reads the journal has not read the pipe.
#[tokio::test]
async fn journald_has_a_cursor_of_its_own_that_begins_at_the_oldest_event() {
    let home = Home::new().await;
    let journal = Journal::start().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    daemon.stop().await;

    let daemon = Daemon::spawn(journal.daemon(&home));
    journal.until(|stream| stream.contains("session.observed")).await;
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    let stream = journal.until(|stream| stream.contains("IN_PROGRESS")).await;
    daemon.stop().await;
    assert_eq!(stream, home.recorded().await);

    let mut daemon = Daemon::start(&home);
    let next = daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    assert_eq!(next.sequence(), 3);
    let printed = daemon.stop().await.events();
    assert_eq!(printed.len(), 1, "{printed:?}");
}

#[tokio::test]
async fn with_the_sink_off_journald_is_sent_nothing() {
    let mut home = Home::new().await;
    home.set("sinks.stdout.enabled", "false");
    let journal = Journal::start().await;
    let id = home.track_new();
    let daemon = Daemon::spawn(journal.daemon(&home));
    timeout(PATIENCE, home.asked(id, 3)).await.unwrap();
    daemon.stop().await;
    assert_eq!(journal.read(&["-t", "ibvwatch-events", "-o", "cat"]).await, "");
    assert!(home.recorded().await.contains("session.observed"));
}
