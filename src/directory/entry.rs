//! One entry of a session file: a node in, a validated [`Entry`] out.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::syntax::{Fault, Faults, Node, Value};
use crate::domain::{Entry, InvalidSessionId, Labels, SessionId, Timestamp};

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(31 * 86_400);

/// The entry, unless something is wrong with it, which is then added to `faults`.
pub(super) fn entry(node: Node<'_>, faults: &mut Faults) -> Option<Entry> {
    let before = faults.count;
    let mut blame = |at, message| faults.add(Fault { at, message });
    let mut entry = bare(SessionId::from_bytes([0; 16]));
    match node.value {
        Value::Text(id) => match session_id(&id) {
            Ok(id) => entry = bare(id),
            Err(message) => blame(node.at, message),
        },
        Value::Table(fields) => fill(&mut entry, node.at, fields, &mut blame),
        other @ (Value::Null | Value::Moment(_) | Value::List(_) | Value::Other(_)) => {
            let kind = other.kind();
            blame(
                node.at,
                format!("an entry is {kind}; write a session id, or fields with a session_id"),
            );
        }
    }
    (faults.count == before).then_some(entry)
}

fn bare(session_id: SessionId) -> Entry {
    Entry { session_id, labels: Labels::default(), expires_at: None, interval: None }
}

fn fill(
    entry: &mut Entry,
    at: usize,
    fields: Vec<(Cow<'_, str>, Node<'_>)>,
    blame: &mut impl FnMut(usize, String),
) {
    let mut seen = HashSet::new();
    for (name, node) in fields {
        if seen.contains(&name) {
            blame(node.at, format!("field {:?} is written twice; keep one", shortened(&name)));
        } else if let Err(message) = set(entry, &name, node.value) {
            blame(node.at, message);
        }
        seen.insert(name);
    }
    if !seen.contains("session_id") {
        blame(at, "an entry has no session_id; write the UUID that Yoti returned".to_owned());
    }
}

fn set(entry: &mut Entry, name: &str, value: Value<'_>) -> Result<(), String> {
    match (name, value) {
        ("session_id", Value::Text(text)) => entry.session_id = session_id(&text)?,
        ("labels", Value::Table(pairs)) => entry.labels = labels(pairs)?,
        ("expires_at", Value::Text(text)) => entry.expires_at = Some(moment(&text)?),
        ("expires_at", Value::Moment(value)) => {
            entry.expires_at = Some(moment(&value.to_string())?);
        }
        ("interval", Value::Text(text)) => entry.interval = Some(interval(&text)?),
        // Many programs write an absent value so.
        ("labels" | "expires_at" | "interval", Value::Null) => {}
        ("session_id", other) => {
            return Err(format!(
                "session_id is {}; write the UUID that Yoti returned, as a string",
                other.kind()
            ));
        }
        ("labels", other) => {
            return Err(format!(
                "labels is {}; write pairs of strings, like case = \"A-17\"",
                other.kind()
            ));
        }
        ("expires_at", other) => {
            return Err(format!("expires_at is {}; {TIME_FORM}", other.kind()));
        }
        ("interval", other) => {
            return Err(format!("interval is {}; {INTERVAL_FORM}", other.kind()));
        }
        (unknown, _) => {
            return Err(format!(
                "unknown field {:?}; the nearest known one is {:?}",
                shortened(unknown),
                nearest_of(unknown, &FIELDS)
            ));
        }
    }
    Ok(())
}

fn session_id(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|error: InvalidSessionId| error.to_string())
}

fn labels(pairs: Vec<(Cow<'_, str>, Node<'_>)>) -> Result<Labels, String> {
    let mut labels = BTreeMap::new();
    for (name, node) in pairs {
        let Value::Text(value) = node.value else {
            return Err(format!(
                "label {:?} is {}; write its value as a string, in quotes",
                shortened(&name),
                node.value.kind()
            ));
        };
        if labels.contains_key(name.as_ref()) {
            return Err(format!("label {:?} is written twice; keep one", shortened(&name)));
        }
        labels.insert(name.into_owned(), value.into_owned());
    }
    Labels::new(labels).map_err(|error| error.to_string())
}

const TIME_FORM: &str =
    "write an RFC 3339 time with its offset from UTC, like \"2026-12-07T22:00:00Z\"";

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        format!("expires_at {:?} is not a moment in time; {TIME_FORM}", shortened(text))
    })
}

pub(super) const INTERVAL_FORM: &str = "write a duration from 1s to 31d, like \"90s\" or \"5m\"";

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) => Ok(interval),
        Ok(_) => Err(format!("interval {:?} is out of bounds; {INTERVAL_FORM}", shortened(text))),
        Err(_) => Err(format!("interval {:?} is not a duration; {INTERVAL_FORM}", shortened(text))),
    }
}

const FIELDS: [&str; 4] = ["session_id", "labels", "expires_at", "interval"];

/// The known field nearest to a misspelt one, at the top of a file.
pub(super) fn nearest(name: &str) -> &'static str {
    nearest_of(name, &["sessions", "session_id", "labels", "expires_at", "interval"])
}

fn nearest_of(name: &str, known: &[&'static str]) -> &'static str {
    let name = shortened(name);
    known
        .iter()
        .min_by_key(|candidate| strsim::damerau_levenshtein(&name, candidate))
        .copied()
        .unwrap_or("session_id")
}

/// Enough to recognise a wrong word by, however long it is.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 48;
    if text.chars().nth(LONGEST).is_none() {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).chain("...".chars()).collect()
    }
}
