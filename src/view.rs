//! How sessions and events are shown, by commands and over HTTP alike.

use std::time::Duration;

use serde::Serialize;

use crate::domain::{
    EndReason, Labels, Problem, Progress, Record, Resource, Session, SessionId, Timestamp,
};

/// A session as JSON: a stable form, apart from the record that is kept.
#[derive(Debug, Serialize)]
pub struct SessionView<'a> {
    session_id: SessionId,
    phase: &'static str,
    ended: Option<EndedView>,
    labels: &'a Labels,
    progress: Progress,
    resources: &'a [Resource],
    tracked_at: Timestamp,
    expires_at: Timestamp,
    last_poll: Option<Timestamp>,
    next_poll: Option<Timestamp>,
    last_error: Option<&'a Problem>,
    session_sequence: u64,
}

#[derive(Debug, Serialize)]
struct EndedView {
    reason: EndReason,
    at: Timestamp,
}

impl<'a> SessionView<'a> {
    #[must_use]
    pub fn of(session: &'a Session, now: Timestamp) -> Self {
        let schedule = session.schedule();
        Self {
            session_id: session.id(),
            phase: session.phase(now).as_str(),
            ended: session.ended().map(|(reason, at)| EndedView { reason, at }),
            labels: &session.entry().labels,
            progress: session.progress(),
            resources: session.resources(),
            tracked_at: session.tracked_at(),
            expires_at: session.expires_at(),
            last_poll: schedule.last_poll,
            next_poll: session.ended().is_none().then_some(schedule.poll_at),
            last_error: schedule.last_problem.as_ref(),
            session_sequence: session.sequence(),
        }
    }
}

/// How far `at` lies from `now`, in two units at most: `3d 4h`, `12m 5s ago`.
#[must_use]
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    if at >= now { span(at.since(now)) } else { format!("{} ago", span(now.since(at))) }
}

/// A span in two units at most.
#[must_use]
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(unit, _)| seconds >= *unit) else {
        return "0s".to_owned();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in units.iter().skip(first).take(2) {
        if rest >= *unit {
            parts.push(format!("{}{name}", rest / unit));
        }
        rest %= unit;
    }
    parts.join(" ")
}

/// What an event says beyond its type, in a few words.
#[must_use]
pub fn said(event: &Record) -> String {
    let Ok(data) = serde_json::from_str::<serde_json::Value>(event.data.get()) else {
        return String::new();
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let resource = &data["resource"];
    let name = format!("{} {}", text(&resource["type"]), text(&resource["id"]));
    match event.kind.as_str() {
        "ibvwatch.resource.state_changed" => {
            format!("{} \u{2192} {}  {name}", text(&data["from"]), text(&data["to"]))
        }
        "ibvwatch.resource.added" => format!("{}  {name}", text(&data["state"])),
        "ibvwatch.resource.removed" => format!("{}  {name}", text(&data["last_state"])),
        "ibvwatch.session.observed" => {
            let count = data["resources"].as_array().map_or(0, Vec::len);
            format!("{count} resources, {} required", data["progress"]["required"])
        }
        "ibvwatch.session.ended" => text(&data["reason"]),
        "ibvwatch.session.poll_failing" | "ibvwatch.session.poll_recovered" => {
            text(&data["error"]["message"])
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        assert_eq!(span(Duration::from_secs(0)), "0s");
        assert_eq!(span(Duration::from_secs(59)), "59s");
        assert_eq!(span(Duration::from_secs(3_600)), "1h");
        assert_eq!(span(Duration::from_secs(90_061)), "1d 1h");
    }
}
