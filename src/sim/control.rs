//! Control by HTTP, for a simulator that runs as a process of its own. Loopback only.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer;
use super::body::Served;
use super::fault::{Fault, FaultId};
use super::reply::Reply;
use super::requirement::Requirement;
use super::script::{Action, Script};
use super::server::Origin;
use super::session::{Session, SessionState};
use super::world::{NoSuch, World};
use crate::domain::SessionId;

pub(super) const PREFIX: &str = "/_sim/";

const MAX_BODY: usize = 1024 * 1024;
const MAX_CREATED: usize = 100_000;
/// The last exchanges shown.
const MAX_SHOWN: usize = 1_000;

pub(super) async fn serve<B>(
    world: &World,
    origin: &Origin,
    request: Request<B>,
) -> Response<Served>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let outcome = if origin.peer.to_canonical().is_loopback() {
        answer(world, request).await
    } else {
        Err(Mistake(
            StatusCode::FORBIDDEN,
            "the simulator is controlled from its own machine alone; ask it there".into(),
        ))
    };
    let (status, body) = match outcome {
        Ok(body) => (StatusCode::OK, body),
        Err(Mistake(status, text)) => (status, json!({ "error": text })),
    };
    Reply::json(status, answer::json(&body)).into_response(world)
}

struct Mistake(StatusCode, String);

impl From<NoSuch> for Mistake {
    fn from(error: NoSuch) -> Self {
        Self(StatusCode::NOT_FOUND, error.to_string())
    }
}

async fn answer<B>(world: &World, request: Request<B>) -> Result<Value, Mistake>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        bad(format!("the body can't be read ({error}); send at most {MAX_BODY} bytes of JSON"))
    })?;
    let body = body.to_bytes();
    let path = head.uri.path();
    let path: Vec<&str> = path.strip_prefix(PREFIX).unwrap_or(path).split('/').collect();
    let get = head.method == Method::GET;
    let post = head.method == Method::POST;
    let delete = head.method == Method::DELETE;
    match path.as_slice() {
        ["sessions"] if get => Ok(world.ids().into_iter().map(|id| shown(world, id)).collect()),
        ["sessions"] if post => create(world, &parse(&body)?),
        ["sessions", id] if get => {
            let id = session(id)?;
            world.status(id)?;
            Ok(shown(world, id))
        }
        ["sessions", id] if delete => {
            let id = session(id)?;
            world.delete(id)?;
            Ok(shown(world, id))
        }
        ["sessions", id, "ttl"] if post => {
            let (id, ttl): (_, Ttl) = (session(id)?, parse(&body)?);
            world.set_ttl(id, ttl.seconds)?;
            Ok(shown(world, id))
        }
        ["sessions", id, "state"] if post => {
            let id = session(id)?;
            match parse::<End>(&body)?.state {
                SessionState::Completed => world.complete(id)?,
                SessionState::Expired => world.expire(id)?,
                SessionState::Ongoing => {
                    return Err(bad("no session becomes ONGOING again; create another".into()));
                }
            }
            Ok(shown(world, id))
        }
        ["sessions", id, "resources"] if post => {
            let (id, wanted): (_, Wanted) = (session(id)?, parse(&body)?);
            world.act(id, Action::Add(Requirement::of_type(&wanted.kind)))?;
            Ok(shown(world, id))
        }
        ["sessions", id, "resources", index] if post || delete => {
            let (id, index) = (session(id)?, number(index)?);
            let action = if delete {
                Action::Remove { index }
            } else {
                Action::SetState { index, state: parse::<NewState>(&body)?.state }
            };
            world.act(id, action)?;
            Ok(shown(world, id))
        }
        ["forward"] if post => {
            let forward: Forward = parse(&body)?;
            world.fast_forward(Duration::from_secs(forward.seconds));
            Ok(json!({}))
        }
        ["skew"] if post => {
            let skew: Skew = parse(&body)?;
            world.set_skew_millis(skew.millis);
            Ok(json!({}))
        }
        ["faults"] if get => Ok(json!(world.faults())),
        ["faults"] if post => {
            let id: FaultId = world.fault(parse::<Fault>(&body)?);
            Ok(json!({ "fault": id }))
        }
        ["faults"] if delete => {
            world.clear_faults();
            Ok(json!({}))
        }
        ["history"] if get => world.ids().into_iter().map(|id| history(world, id)).collect(),
        ["history", id] if get => Ok(json!(world.history(session(id)?)?)),
        ["requests"] if get => Ok(traffic(world)),
        ["tokens"] if get => Ok(json!(world.tokens())),
        ["tokens", "revoke"] if post => {
            world.revoke_tokens();
            Ok(json!(world.tokens()))
        }
        _ => Err(Mistake(
            StatusCode::NOT_FOUND,
            format!(
                "{} {} does nothing here; there are sessions, forward, skew, faults, history, requests and tokens below {PREFIX}",
                head.method,
                head.uri.path()
            ),
        )),
    }
}

/// Creates sessions; every field may be left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct New {
    count: usize,
    session_id: Option<SessionId>,
    ttl: u64,
    resources: Vec<String>,
    visit: VisitKind,
    /// Before the documented visit begins.
    delay_seconds: u64,
    /// In which random applicants come.
    window_seconds: u64,
    shuffled: bool,
}

impl Default for New {
    fn default() -> Self {
        Self {
            count: 1,
            session_id: None,
            ttl: 14 * 24 * 60 * 60,
            resources: Vec::new(),
            visit: VisitKind::None,
            delay_seconds: 0,
            window_seconds: 60 * 60,
            shuffled: false,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum VisitKind {
    None,
    Documented,
    Random,
}

fn create(world: &World, new: &New) -> Result<Value, Mistake> {
    if new.count > MAX_CREATED {
        return Err(bad(format!("count is {}; ask for at most {MAX_CREATED}", new.count)));
    }
    if new.session_id.is_some() && new.count != 1 {
        return Err(bad("session_id names one session; leave count out".into()));
    }
    let ttl = Duration::from_secs(new.ttl);
    let requirements = if new.resources.is_empty() {
        Requirement::three_documents()
    } else {
        new.resources.iter().map(|name| Requirement::of_type(name)).collect()
    };
    let window = Duration::from_secs(new.window_seconds);
    let ids: Vec<SessionId> = (0..new.count)
        .map(|_| {
            let script = match new.visit {
                VisitKind::None => Script::new(),
                VisitKind::Documented => Script::documented_visit(requirements.len())
                    .delayed(Duration::from_secs(new.delay_seconds)),
                VisitKind::Random => world.random_visit(requirements.len(), window),
            };
            let mut session =
                Session::requiring(requirements.clone()).with_ttl(ttl).with_script(script);
            if let Some(id) = new.session_id {
                session = session.with_id(id);
            }
            world.create(if new.shuffled { session.shuffled() } else { session })
        })
        .collect();
    Ok(json!({ "sessions": ids }))
}

/// Left out or null, the answers leave it out too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ttl {
    seconds: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    state: SessionState,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewState {
    state: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forward {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skew {
    millis: i64,
}

fn shown(world: &World, id: SessionId) -> Value {
    let requests = world.session_totals(id).requests;
    world.status(id).map_or(Value::Null, |status| {
        json!({
            "session_id": id,
            "state": status.state,
            "deleted": status.deleted,
            "ttl": status.ttl_seconds,
            "requests": requests,
            "resources": status.resources.into_iter().enumerate()
                .filter_map(|(index, listed)| listed.map(|listed| (index, listed)))
                .map(|(index, (kind, state))| json!({"index": index, "type": kind, "state": state}))
                .collect::<Vec<Value>>(),
        })
    })
}

fn history(world: &World, id: SessionId) -> Result<Value, Mistake> {
    Ok(json!({ "session_id": id, "history": world.history(id)? }))
}

fn traffic(world: &World) -> Value {
    #[derive(Serialize)]
    struct Tally {
        endpoint: super::Endpoint,
        outcome: super::Outcome,
        requests: u64,
    }
    let totals = world.totals();
    let outcomes: Vec<Tally> = totals
        .outcomes
        .iter()
        .map(|(&(endpoint, outcome), &requests)| Tally { endpoint, outcome, requests })
        .collect();
    let exchanges = world.exchanges();
    let last = &exchanges[exchanges.len().saturating_sub(MAX_SHOWN)..];
    json!({
        "requests": totals.requests,
        "connections": totals.connections,
        "in_flight": totals.in_flight,
        "max_in_flight": totals.max_in_flight,
        "max_in_flight_per_session": totals.max_in_flight_per_session,
        "outcomes": outcomes,
        "last": last,
    })
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Mistake> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).map_err(|error| bad(format!("the body is wrong: {error}")))
}

fn session(text: &str) -> Result<SessionId, Mistake> {
    text.parse().map_err(|error: crate::domain::InvalidSessionId| bad(error.to_string()))
}

fn number(text: &str) -> Result<usize, Mistake> {
    text.parse().map_err(|_| bad(format!("{text:?} is no number of a resource; count from 0")))
}

fn bad(text: String) -> Mistake {
    Mistake(StatusCode::BAD_REQUEST, text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sim::server::{Reset, Settings};

    #[tokio::test]
    async fn nobody_from_another_machine_is_in_control() {
        let world = World::new(Settings::new("sdk"));
        for (peer, status) in
            [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("192.0.2.1", 403)]
        {
            let peer = peer.parse().unwrap();
            let origin = Origin { connection: 1, peer, reset: Arc::new(Reset::default()) };
            let request = Request::get("/_sim/sessions").body(String::new()).unwrap();
            assert_eq!(serve(&world, &origin, request).await.status(), status, "{peer}");
        }
    }
}
