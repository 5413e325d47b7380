//! The list of sessions, with what narrows it down.

use maud::{Markup, html};

use super::words::{count, from_now, phase, phase_shape, resource, until};
use super::{Session, SessionFilter, SessionPage, SessionQuery};
use crate::domain::{Census, PhaseName, SessionId, Timestamp, Visible};
use crate::status::Condition;

pub(super) fn section(
    query: &SessionQuery,
    found: Option<&SessionPage>,
    condition: &Condition,
) -> Markup {
    let filter = &query.filter;
    html! {
        section #sessions aria-labelledby="sessions-heading" {
            div .heading {
                h2 #sessions-heading { "Sessions" }
                (search(filter))
            }
            div #found data-live {
                (phases(filter, &condition.census))
                @match found {
                    None => p .empty { "The sessions can't be shown while the poll loop stands still." },
                    Some(page) if page.sessions.is_empty() => (nothing(query)),
                    Some(page) => {
                        (table(page, condition.at))
                        (pages(query, page))
                    }
                }
            }
        }
    }
}

fn search(filter: &SessionFilter) -> Markup {
    html! {
        form .search role="search" action="/" method="get" {
            label for="q" { "Search by id or label" }
            input #q type="search" name="q" value=[filter.text.as_ref()]
                autocomplete="off" spellcheck="false" placeholder="3fa85f64 or A-17";
            @if let Some(phase) = filter.phase {
                input type="hidden" name="phase" value=(phase.as_str());
            }
            @for (name, value) in &filter.labels {
                input type="hidden" name="label" value={ (name) "=" (value) };
            }
            button type="submit" { "Search" }
        }
    }
}

fn phases(filter: &SessionFilter, census: &Census) -> Markup {
    let without = SessionFilter { phase: None, ..filter.clone() };
    html! {
        nav .phases aria-label="Phases" {
            ul {
                li {
                    a href=(address(&without, None)) aria-current=[filter.phase.is_none().then_some("page")] {
                        "All " b { (count(census.live() + census.ended)) }
                    }
                }
                @for name in PhaseName::ALL {
                    li {
                        a href=(address(&SessionFilter { phase: Some(name), ..filter.clone() }, None))
                            aria-current=[(filter.phase == Some(name)).then_some("page")] {
                            (phase_shape(name)) (name.as_str()) " " b { (count(in_phase(census, name))) }
                        }
                    }
                }
            }
            @for given in &filter.labels {
                @let labels = filter.labels.iter().filter(|other| *other != given).cloned().collect();
                a .remove href=(address(&SessionFilter { labels, ..filter.clone() }, None)) {
                    span .hidden { "Remove the filter " }
                    (Visible(&given.0)) "=" (Visible(&given.1)) span aria-hidden="true" { " ×" }
                }
            }
            @if let Some(text) = &filter.text {
                a .remove href=(address(&SessionFilter { text: None, ..filter.clone() }, None)) {
                    span .hidden { "Remove the search for " }
                    "“" (Visible(text)) "”" span aria-hidden="true" { " ×" }
                }
            }
        }
    }
}

const fn in_phase(census: &Census, name: PhaseName) -> usize {
    match name {
        PhaseName::Pending => census.pending,
        PhaseName::Quiet => census.quiet,
        PhaseName::Active => census.active,
        PhaseName::Failing => census.failing,
        PhaseName::Ended => census.ended,
    }
}

fn nothing(query: &SessionQuery) -> Markup {
    html! {
        p .empty {
            @if query.filter.is_empty() && query.after.is_none() {
                "No sessions yet. Track one: " code { "ibvwatch track ID" }
            } @else {
                "No session matches. " a href="/" { "Show all" }
            }
        }
    }
}

fn table(page: &SessionPage, now: Timestamp) -> Markup {
    // The roles say again what the elements are: on a phone they are laid out as cards, and
    // browsers then forget that they were a table.
    html! {
        table .sessions role="table" {
            caption .hidden { "Sessions in order of id" }
            thead role="rowgroup" {
                tr role="row" {
                    @for name in ["Session", "Phase", "Resources", "Time left", "Last poll", "Next poll", "Last error"] {
                        th scope="col" role="columnheader" { (name) }
                    }
                }
            }
            tbody role="rowgroup" { @for session in &page.sessions { (row(session, now)) } }
        }
    }
}

fn row(session: &Session, now: Timestamp) -> Markup {
    let id = session.id();
    let schedule = session.schedule();
    html! {
        tr role="row" id={ "session-" (id) } {
            th scope="row" role="rowheader" {
                a .id href={ "/sessions/" (id) } { (id) }
                (labels(session))
            }
            td role="cell" data-label="Phase" { (phase(session.phase(now))) }
            td .states role="cell" data-label="Resources" { (resources(session)) }
            td role="cell" data-label="Time left" { (time_left(session, now)) }
            td role="cell" data-label="Last poll" {
                @match schedule.last_poll {
                    Some(at) => (from_now(at, now)),
                    None => "none yet",
                }
            }
            td role="cell" data-label="Next poll" { (next_poll(session, now)) }
            td role="cell" data-label="Last error" .error {
                @match &schedule.last_problem {
                    Some(problem) => (Visible(problem)),
                    None => span .none { "none" },
                }
            }
        }
    }
}

/// A session's labels, each of which leads to the sessions that share it.
pub(super) fn labels(session: &Session) -> Markup {
    html! {
        @if !session.entry().labels.is_empty() {
            ul .labels {
                @for (name, value) in session.entry().labels.iter() {
                    @let labels = vec![(name.to_owned(), value.to_owned())];
                    li {
                        a href=(address(&SessionFilter { labels, ..SessionFilter::default() }, None)) {
                            span { (Visible(name)) } " " (Visible(value))
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn resources(session: &Session) -> Markup {
    html! {
        @if session.resources().is_empty() {
            span .none { "not known yet" }
        } @else {
            ul .resources { @for one in session.resources() { li { (resource(one)) } } }
        }
    }
}

pub(super) fn time_left(session: &Session, now: Timestamp) -> Markup {
    if session.ended().is_some() {
        return html! { span .none { "ended" } };
    }
    let expires = session.expires_at();
    let whole = expires.since(session.tracked_at()).as_secs().max(1);
    let left = expires.since(now).as_secs().min(whole);
    html! {
        span .left {
            (from_now(expires, now))
            meter min="0" max=(whole) value=(left) low=(whole / 10) aria-label="Time left" {}
        }
    }
}

pub(super) fn next_poll(session: &Session, now: Timestamp) -> Markup {
    let at = session.schedule().poll_at;
    html! {
        @if session.ended().is_some() { span .none { "none" } }
        @else if at <= now { "due" }
        @else { (until(at, now)) }
    }
}

fn pages(query: &SessionQuery, page: &SessionPage) -> Markup {
    html! {
        @if query.after.is_some() || page.next.is_some() {
            nav .pages aria-label="Pages" {
                @if query.after.is_some() { a href=(address(&query.filter, None)) { "First page" } }
                @if page.next.is_some() {
                    a rel="next" href=(address(&query.filter, page.next)) { "Next page" }
                }
            }
        }
    }
}

/// Where the list is to be found, so narrowed down.
fn address(filter: &SessionFilter, after: Option<SessionId>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(text) = &filter.text {
        query.append_pair("q", text);
    }
    if let Some(phase) = filter.phase {
        query.append_pair("phase", phase.as_str());
    }
    for (name, value) in &filter.labels {
        query.append_pair("label", &format!("{name}={value}"));
    }
    if let Some(after) = after {
        query.append_pair("after", &after.to_string());
    }
    let query = query.finish();
    if query.is_empty() { "/".to_owned() } else { format!("/?{query}") }
}
