//! One session with its timeline.

use maud::{Markup, html};

use super::events::entry;
use super::sessions::{labels, next_poll, resources, time_left};
use super::words::{from_now, moment, phase, supplied};
use crate::domain::{Session, SessionId, Timestamp, Visible};
use crate::store::EventPage;

/// `before` is where the timeline begins, if not with the latest event.
pub(super) fn body(
    id: SessionId,
    session: Option<&Session>,
    timeline: &EventPage,
    before: Option<u64>,
    now: Timestamp,
) -> Markup {
    html! {
        nav .crumbs aria-label="Breadcrumb" { a href="/" { "All sessions" } }
        section #session .session aria-labelledby="session-heading" data-live {
            h1 #session-heading { "Session " span .id { (id) } }
            @match session {
                Some(session) => (facts(session, now)),
                None => p { "This session has ended and been forgotten, but for its events." },
            }
        }
        section #timeline aria-labelledby="timeline-heading" {
            h2 #timeline-heading { "Timeline" }
            div #told data-live {
                @if timeline.events.is_empty() {
                    p .empty { "No events here." }
                } @else {
                    ol .events .timeline { @for event in &timeline.events { (entry(event, now, false)) } }
                }
                @if before.is_some() || timeline.next.is_some() {
                    nav .pages aria-label="Pages" {
                        @if before.is_some() { a href={ "/sessions/" (id) } { "Latest" } }
                        @if let Some(next) = timeline.next {
                            a rel="next" href={ "/sessions/" (id) "?before=" (next) } { "Earlier" }
                        }
                    }
                }
            }
        }
    }
}

fn facts(session: &Session, now: Timestamp) -> Markup {
    let schedule = session.schedule();
    html! {
        (labels(session))
        (resources(session))
        dl .facts {
            div { dt { "Phase" } dd { (phase(session.phase(now))) } }
            div { dt { "Documents and captures" } dd { (supplied(session.progress())) } }
            @if let Some((_, at)) = session.ended() {
                div { dt { "Ended" } dd { (moment(at)) } }
            } @else {
                div { dt { "Time left" } dd { (time_left(session, now)) } }
                div { dt { "Expires" } dd { (moment(session.expires_at())) } }
            }
            div { dt { "Tracked since" } dd { (moment(session.tracked_at())) } }
            div {
                dt { "Last poll" }
                dd { @match schedule.last_poll { Some(at) => (from_now(at, now)), None => "none yet" } }
            }
            div { dt { "Next poll" } dd { (next_poll(session, now)) } }
            div {
                dt { "Last error" }
                dd {
                    @match &schedule.last_problem {
                        Some(problem) => span .error { (Visible(problem)) },
                        None => "none",
                    }
                }
            }
        }
    }
}
