use std::collections::BTreeSet;

use ibvwatch::domain::{SessionId, Timestamp};
use serde_json::Value;

/// One line of the event stream.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Without its line feed.
    pub(crate) line: String,
    pub(crate) json: Value,
}

impl Event {
    /// The event, if the line is one, with all that every event has.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line:?}"))?;
        let event = Self { line: line.to_owned(), json };
        for (field, expected) in [("specversion", "1.0"), ("datacontenttype", "application/json")] {
            if event.json[field] != expected {
                return Err(format!("{field} is not {expected}: {line}"));
            }
        }
        let id = match event.session() {
            Some(session) => format!("{session}/{}", event.ordinal()),
            None => event.id().to_owned(),
        };
        let is_of_api = event.kind().starts_with("api.") && id.starts_with("api/");
        if event.session().is_none() != is_of_api {
            return Err(format!("neither about a session nor about the API: {line}"));
        }
        let sequence = event.json["sequence"].as_str().unwrap_or("");
        if event.id() != id || event.json["data"]["session_id"] != event.json["subject"] {
            return Err(format!("the id is not <session_id>/<session_sequence>: {line}"));
        }
        if sequence.len() != 20 || !sequence.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("the sequence has not 20 digits: {line}"));
        }
        super::judge(&event.json).map_err(|error| format!("{error}: {line}"))?;
        Ok(event)
    }

    pub(crate) fn id(&self) -> &str {
        self.json["id"].as_str().unwrap_or_default()
    }

    /// The type without `ibvwatch.`.
    pub(crate) fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default().trim_start_matches("ibvwatch.")
    }

    /// None where the event is about the API.
    pub(crate) fn session(&self) -> Option<SessionId> {
        let subject = self.json.get("subject")?;
        Some(subject.as_str().and_then(|id| id.parse().ok()).expect("a session id"))
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.json["sequence"].as_str().and_then(|s| s.parse().ok()).expect("a sequence")
    }

    /// `session_sequence`
    pub(crate) fn ordinal(&self) -> u64 {
        self.json["data"]["session_sequence"].as_u64().unwrap_or_default()
    }

    pub(crate) fn data(&self) -> &Value {
        &self.json["data"]
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.data()[field].as_str().unwrap_or_default()
    }

    pub(crate) fn moment(&self, field: &str) -> Timestamp {
        self.text(field).parse().expect("a moment in time")
    }

    pub(crate) fn time(&self) -> Timestamp {
        self.json["time"].as_str().and_then(|t| t.parse().ok()).expect("a moment in time")
    }

    /// Whether it is of that type and about that session.
    pub(crate) fn is(&self, kind: &str, session: SessionId) -> bool {
        self.kind() == kind && self.session() == Some(session)
    }

    /// Whether it tells that a resource of the session has come to be in that state.
    pub(crate) fn tells(&self, session: SessionId, to: &str) -> bool {
        self.is("resource.state_changed", session) && self.text("to") == to
    }
}

/// The events as they were printed.
pub(crate) fn lines<'a>(events: impl IntoIterator<Item = &'a Event>) -> String {
    events.into_iter().flat_map(|event| [event.line.as_str(), "\n"]).collect()
}

/// The ids of the events in some lines.
pub(crate) fn ids_in(lines: &str) -> BTreeSet<String> {
    let event = |line| Event::parse(line).expect("an event").id().to_owned();
    lines.lines().map(event).collect()
}
