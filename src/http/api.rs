//! The read API: sessions and events as JSON, and events as they come.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{self, HeaderMap};
use http::{StatusCode, Uri};
use serde::Serialize;

use super::Site;
use super::parameters::{BadParameter, Parameters};
use super::stream;
use crate::domain::{EventKind, PhaseName, Record, SessionId};
use crate::store::{
    EventFilter, EventQuery, Position, SessionFilter, SessionQuery, Store, StoreError,
};
use crate::view::SessionView;

const SESSIONS: usize = 100;
const MOST_SESSIONS: usize = 1_000;
const EVENTS: usize = 100;
const MOST_EVENTS: usize = 1_000;
/// Why sessions aren't shown, on pages as well.
pub(super) const STUCK: &str =
    "sessions can't be shown while the poll loop stands still; /healthz says for how long it has";
const TOO_MANY: &str =
    "as many streams as there may be are being followed; close one, or try again later";

pub(super) fn routes<S: Store>() -> Router<Arc<Site<S>>> {
    let routes = Router::new()
        .route("/sessions", get(sessions::<S>))
        .route("/sessions/{id}", get(session::<S>))
        .route("/events", get(events::<S>))
        .fallback(async || Refusal::not_found("there is no such thing; docs/API.md lists what is"));
    Router::new().nest("/api/v1", routes)
}

#[derive(Debug, Serialize)]
struct SessionList<'a> {
    sessions: Vec<SessionView<'a>>,
    next_after: Option<SessionId>,
}

async fn sessions<S: Store>(
    State(site): State<Arc<Site<S>>>,
    target: Uri,
) -> Result<Response, Refusal> {
    let mut parameters = Parameters::of(&target)?;
    let query = SessionQuery {
        after: session_id(&mut parameters, "after")?,
        limit: parameters.limit(SESSIONS, MOST_SESSIONS)?,
        filter: session_filter(&mut parameters)?,
    };
    parameters.finish()?;
    refuse_if_stuck(&site)?;
    let _look = site.look().await;
    let page = site.store.find_sessions(&query).await?;
    let now = site.clock.now().wall;
    Ok(json(&SessionList {
        sessions: page.sessions.iter().map(|session| SessionView::of(session, now)).collect(),
        next_after: page.next,
    }))
}

async fn session<S: Store>(
    State(site): State<Arc<Site<S>>>,
    Path(id): Path<String>,
    target: Uri,
) -> Result<Response, Refusal> {
    Parameters::of(&target)?.finish()?;
    let id: SessionId = id.parse().map_err(|error| BadParameter::new("id", format!("{error}")))?;
    refuse_if_stuck(&site)?;
    let session = site.store.session(id).await?;
    let session = session.ok_or_else(|| {
        Refusal::not_found(format!(
            "session {id} is not known here; /api/v1/sessions lists those that are"
        ))
    })?;
    Ok(json(&SessionView::of(&session, site.clock.now().wall)))
}

fn refuse_if_stuck<S>(site: &Site<S>) -> Result<(), Refusal> {
    if site.shows_sessions() { Ok(()) } else { Err(Refusal::unavailable(STUCK)) }
}

#[derive(Debug, Serialize)]
struct EventList {
    events: Vec<Record>,
    /// As it stands in an event: 20 digits.
    next_after: Option<String>,
    last_sequence: String,
}

async fn events<S: Store>(
    State(site): State<Arc<Site<S>>>,
    target: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut parameters = Parameters::of(&target)?;
    let after = sequence(&mut parameters, "after")?;
    let filter = EventFilter {
        session: session_id(&mut parameters, "session")?,
        kind: event_kind(&mut parameters)?,
    };
    if is_stream_wanted(&headers) {
        parameters.finish()?;
        let after = stream::last_event_id(&headers)?.or(after).unwrap_or(0);
        return stream::follow(&site, after, filter).ok_or_else(|| Refusal::unavailable(TOO_MANY));
    }
    let limit = parameters.limit(EVENTS, MOST_EVENTS)?;
    parameters.finish()?;
    // Read first, or an event that comes in between would lie behind what is said to be the last.
    let last = *site.store.recorded().borrow();
    let from = Position::After(after.unwrap_or(0));
    let _look = site.look().await;
    let page = site.store.find_events(EventQuery { from, limit, filter }).await?;
    let last = page.events.last().map_or(last, |event| last.max(event.sequence));
    let digits = |sequence: u64| format!("{sequence:020}");
    Ok(json(&EventList {
        events: page.events,
        next_after: page.next.map(digits),
        last_sequence: digits(last),
    }))
}

fn is_stream_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(','));
    types.any(|kind| {
        let kind = kind.split(';').next().unwrap_or(kind).trim();
        kind.eq_ignore_ascii_case(stream::CONTENT_TYPE)
    })
}

/// What a list of sessions can be narrowed down by, here and on the status page.
pub(super) fn session_filter(parameters: &mut Parameters) -> Result<SessionFilter, BadParameter> {
    let names = PhaseName::ALL.map(PhaseName::as_str).join(", ");
    let phase =
        parameters.take("phase", &format!("is no phase; write one of {names}"), |text| {
            PhaseName::parse(text)
        })?;
    let label = |given: String| match given.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => {
            let message = format!("{given:?} is no label with its value; write like \"case=A-17\"");
            Err(BadParameter::new("label", message))
        }
    };
    let labels = parameters.all("label").into_iter().map(label).collect::<Result<_, _>>()?;
    let text = parameters.take("q", "", |text| Some(text.trim().to_owned()))?;
    Ok(SessionFilter { phase, labels, text: text.filter(|text| !text.is_empty()) })
}

pub(super) fn session_id(
    parameters: &mut Parameters,
    name: &'static str,
) -> Result<Option<SessionId>, BadParameter> {
    let expected = "is no session id; write a UUID like 3fa85f64-5717-4562-b3fc-2c963f66afa6";
    parameters.take(name, expected, |text| text.parse().ok())
}

/// With or without the zeros before it.
pub(super) fn sequence(
    parameters: &mut Parameters,
    name: &'static str,
) -> Result<Option<u64>, BadParameter> {
    let expected = "is no sequence; write the one of an event, like 42";
    parameters.take(name, expected, |text| text.parse().ok())
}

fn event_kind(parameters: &mut Parameters) -> Result<Option<EventKind>, BadParameter> {
    let names = EventKind::ALL.map(EventKind::short_name).join(", ");
    parameters.take("type", &format!("is no type; write one of {names}"), EventKind::parse)
}

fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        // There are only string keys, so this doesn't happen; if it does, it is no client's fault.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    parameter: Option<String>,
    message: String,
}

impl Refusal {
    fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, parameter: None, message: message.into() }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, parameter: None, message: message.into() }
    }
}

impl From<BadParameter> for Refusal {
    fn from(bad: BadParameter) -> Self {
        let BadParameter { parameter, message } = bad;
        Self { status: StatusCode::BAD_REQUEST, parameter: Some(parameter), message }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { status, parameter: None, message: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: Said,
        }
        #[derive(Serialize)]
        struct Said {
            #[serde(skip_serializing_if = "Option::is_none")]
            parameter: Option<String>,
            message: String,
        }
        let Self { status, parameter, message } = self;
        let mut answer = json(&Body { error: Said { parameter, message } });
        *answer.status_mut() = status;
        answer
    }
}
