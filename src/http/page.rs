//! The status page: made here in full, so that it works without a script; `page.js` only asks
//! for it anew when something has happened, and puts in place what has changed.

mod events;
mod health;
mod layout;
mod session;
mod sessions;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, Uri, header};
use maud::{Markup, html};

use self::layout::Page;
use super::Site;
use super::api::{self, session_filter, session_id};
use super::parameters::{BadParameter, Parameters};
use crate::domain::{Session, SessionId};
use crate::store::{
    EventFilter, EventQuery, Position, SessionFilter, SessionPage, SessionQuery, Store, StoreError,
};

/// Rows on a page: about as many as fit a screen or two.
const SESSIONS: usize = 25;
const LATEST_EVENTS: usize = 20;
/// Events of a session's timeline at once; few have more.
const TIMELINE: usize = 100;

pub(super) fn routes<S: Store>() -> Router<Arc<Site<S>>> {
    Router::new().route("/", get(index::<S>)).route("/sessions/{id}", get(session::<S>))
}

async fn index<S: Store>(
    State(site): State<Arc<Site<S>>>,
    target: Uri,
) -> Result<Response, Apology> {
    let mut parameters = Parameters::of(&target)?;
    let query = SessionQuery {
        after: session_id(&mut parameters, "after")?,
        limit: SESSIONS,
        filter: session_filter(&mut parameters)?,
    };
    parameters.finish()?;
    let _look = site.look().await;
    // Read first: what happens from here on, the script is told of.
    let last = *site.store.recorded().borrow();
    let condition = site.status.condition();
    let found = if condition.stuck { None } else { Some(site.store.find_sessions(&query).await?) };
    let latest = EventQuery {
        from: Position::Before(u64::MAX),
        limit: LATEST_EVENTS,
        filter: EventFilter::default(),
    };
    let latest = site.store.find_events(latest).await?;
    let body = html! {
        (health::section(&condition))
        (sessions::section(&query, found.as_ref(), &condition))
        (events::latest(&latest, condition.at))
    };
    let places = html! {
        nav .places aria-label="On this page" {
            a href="#sessions" { "Sessions" }
            a href="#events" { "Events" }
        }
    };
    let title = health::summary(&condition).heading;
    let page = Page { title: &title, at: condition.at, last, places: Some(places), body };
    Ok(page.render().into_response())
}

async fn session<S: Store>(
    State(site): State<Arc<Site<S>>>,
    Path(id): Path<String>,
    target: Uri,
) -> Result<Response, Apology> {
    let mut parameters = Parameters::of(&target)?;
    let before = api::sequence(&mut parameters, "before")?;
    parameters.finish()?;
    let id: SessionId = id.parse().map_err(|error| BadParameter::new("id", format!("{error}")))?;
    if !site.shows_sessions() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let message = api::STUCK.to_owned();
        return Err(Apology { status, title: "That can't be shown", message });
    }
    let _look = site.look().await;
    let last = *site.store.recorded().borrow();
    let known = site.store.session(id).await?;
    let filter = EventFilter { session: Some(id), kind: None };
    let from = Position::Before(before.unwrap_or(u64::MAX));
    let timeline = site.store.find_events(EventQuery { from, limit: TIMELINE, filter }).await?;
    if known.is_none() && timeline.events.is_empty() {
        return Err(Apology {
            status: StatusCode::NOT_FOUND,
            title: "No such session",
            message: format!(
                "Session {id} is not known here: no session file has named it, or it ended so long \
                 ago that it has been forgotten."
            ),
        });
    }
    let at = site.clock.now().wall;
    let body = session::body(id, known.as_ref(), &timeline, before, at);
    let page = Page { title: &format!("Session {id}"), at, last, places: None, body };
    Ok(page.render().into_response())
}

/// A page that says why there is none.
struct Apology {
    status: StatusCode,
    title: &'static str,
    message: String,
}

impl From<BadParameter> for Apology {
    fn from(bad: BadParameter) -> Self {
        let title = "That can't be shown";
        Self { status: StatusCode::BAD_REQUEST, title, message: bad.to_string() }
    }
}

impl From<StoreError> for Apology {
    fn from(error: StoreError) -> Self {
        let title = "The store can't be read";
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, title, message: error.to_string() }
    }
}

impl IntoResponse for Apology {
    fn into_response(self) -> Response {
        let Self { status, title, message } = self;
        (status, layout::apology(title, &message)).into_response()
    }
}

/// A page that is not there.
pub(super) async fn nothing_here() -> Response {
    let message = "There is nothing at this address.".to_owned();
    Apology { status: StatusCode::NOT_FOUND, title: "Nothing here", message }.into_response()
}

/// HTML with its content type.
struct Html(Markup);

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        (headers, self.0.into_string()).into_response()
    }
}
