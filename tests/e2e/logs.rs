//! Diagnostics: what each warning and error means stands in docs/LOGS.md, and the JSON form is
//! the one that stands there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Daemon, Home};

const REFERENCE: &str = include_str!("../../docs/LOGS.md");

/// The sources of what the daemon does; the simulator is a tool of developers.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory below src") {
        let path = entry.expect("an entry of it").path();
        if path.ends_with("sim") || path.to_string_lossy().contains("tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// A string literal at the beginning of `code`, unescaped as far as log lines need it.
fn literal(code: &str) -> String {
    let mut text = String::new();
    let mut rest = code.strip_prefix('"').expect("a literal").chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => return text,
            '\\' => match rest.next() {
                Some('\n') => rest = rest.as_str().trim_start().chars(),
                Some(escaped) => text.push(escaped),
                None => break,
            },
            c => text.push(c),
        }
    }
    panic!("a literal without an end: {code}")
}

/// A message with an ellipsis for whatever is put in.
fn form(message: &str) -> String {
    let mut parts = message.split('{');
    let mut form = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        form.push('\u{2026}');
        form.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
    }
    form
}

/// The messages of all warnings and errors in the code.
fn logged() -> BTreeSet<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut logged = BTreeSet::new();
    for path in sources(&src) {
        let text = std::fs::read_to_string(&path).expect("a source in UTF-8");
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (level, call) in [("warning", "warn!("), ("error", "error!(")] {
            for (at, _) in code.match_indices(call) {
                // The message is the only literal there is before the call's end.
                let rest = &code[at + call.len()..];
                let quote = rest.find('"').expect("a message");
                logged.insert((form(&literal(&rest[quote..])), level.to_owned()));
            }
        }
    }
    logged
}

#[test]
fn every_warning_and_error_has_its_cause_and_remedy_in_the_reference() {
    let mut told = BTreeSet::new();
    for row in REFERENCE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [message, level, cause, remedy] = cells.as_slice() else { continue };
        assert!(cause.len() > 10 && remedy.len() > 10, "{row}");
        let fence = if message.starts_with("`` ") { "`` " } else { "`" };
        let message = message.trim_start_matches(fence).trim_end_matches(fence.trim()).trim();
        told.insert((message.to_owned(), (*level).to_owned()));
    }
    let logged = logged();
    assert!(logged.len() > 20, "{logged:#?}");
    let missing: Vec<_> = logged.difference(&told).collect();
    assert!(missing.is_empty(), "not in docs/LOGS.md: {missing:#?}");
    let gone: Vec<_> = told.difference(&logged).collect();
    assert!(gone.is_empty(), "in docs/LOGS.md and not logged: {gone:#?}");
}

#[tokio::test]
async fn the_json_form_has_the_fields_that_are_promised() {
    let mut home = Home::new().await;
    home.set("log.format", "\"json\"");
    home.set("log.level", "\"ibvwatch=debug\"");
    let id = home.track_new();
    home.put("broken.json", "{");
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.complete(id).expect("the session just created");
    daemon.event(|event| event.is("session.ended", id)).await;
    daemon.logs("broken.json").await;
    let run = daemon.stop().await;
    let lines: Vec<Value> =
        run.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for line in &lines {
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "{field} is missing: {line}");
        }
        let time = line["timestamp"].as_str().unwrap_or_default();
        assert!(time.parse::<ibvwatch::domain::Timestamp>().is_ok(), "{line}");
        let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        assert!(levels.iter().any(|level| line["level"] == *level), "{line}");
        assert!(line.get("spans").is_none() && line.get("fields").is_none(), "{line}");
    }
    let ended = lines.iter().find(|line| line["message"] == "the session has ended");
    let ended = ended.expect("a line for the end");
    assert_eq!(ended["session"], id.to_string());
    assert_eq!(ended["reason"], "completed");
    assert!(lines.iter().any(|line| line["level"] == "WARN"
        && line["message"].as_str().is_some_and(|message| message.contains("broken.json"))));
}

/// A page of a proxy before every session is one trouble, not one for each session.
#[tokio::test]
async fn a_failure_of_many_sessions_is_summarised() {
    let home = Home::new().await;
    let ids: Vec<_> = (0..60).map(|_| home.track_new()).collect();
    for id in &ids {
        home.serve_body(*id, "<html>").expect("the session just created");
    }
    let mut daemon = Daemon::start(&home);
    daemon
        .until(|events| {
            events.iter().filter(|event| event.kind() == "session.poll_failing").count() == 60
        })
        .await;
    let run = daemon.stop().await;
    let warnings = run.stderr.lines().filter(|line| line.contains("WARN")).count();
    assert!((1..=25).contains(&warnings), "{}", run.stderr);
}
