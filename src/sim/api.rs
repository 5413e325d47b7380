//! The endpoints: verify, let faults befall, answer.

use std::error::Error;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Body;

use super::answer::Problem;
use super::auth::{self, Refusal};
use super::body::Served;
use super::fault::Effect;
use super::reply::Reply;
use super::report;
use super::server::Origin;
use super::session::SessionState;
use super::token;
use super::traffic::{Endpoint, Exchange, Outcome, Ticket};
use super::world::{AfterEnd, World};
use crate::domain::SessionId;

/// Paths of the base URLs that Yoti documents; what is signed begins behind them.
const BASE_PATHS: [&str; 2] = ["/idverify/v1", "/sandbox/idverify/v1"];

/// Answers a request, unless a fault keeps the answer back for good.
pub(super) async fn serve<B>(
    world: &Arc<World>,
    origin: &Origin,
    request: Request<B>,
) -> Response<Served>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let target = BASE_PATHS
        .iter()
        .find_map(|base| target.strip_prefix(base).filter(|rest| rest.starts_with('/')))
        .unwrap_or(target);
    let asked = Asked::parse(&head.method, target);
    let refusal = match asked {
        Asked::Endpoint(..) => verify(world, &head.headers, target).err(),
        Asked::Token => token::admit(world, &head, body).await.err().map(Refusal::Token),
        Asked::Elsewhere | Asked::OtherMethod => None,
    };
    let (endpoint, session) = asked.named();
    let effects = world.draw_faults(endpoint, session);
    let mut in_flight = InFlight::begin(
        world,
        Exchange {
            at: world.now(),
            endpoint,
            session,
            connection: origin.connection,
            outcome: Outcome::Pending,
            refusal,
            faults: effects.iter().map(Effect::name).collect(),
        },
    );
    let truth = || match refusal {
        Some(refusal) => Reply::problem(&refusal.into()),
        None => answer(world, asked),
    };
    let mut reply = None;
    for effect in effects {
        reply = Some(match effect {
            Effect::Delay { millis } => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                continue;
            }
            Effect::Hang => pending().await,
            Effect::Reset => {
                in_flight.conclude(Outcome::Reset);
                origin.reset.pull();
                pending().await
            }
            Effect::Status { status, headers, body } => Reply::status(status, &headers, body),
            Effect::Truncate { bytes } => truth().cut_after(bytes),
            Effect::Garbage { bytes } => Reply::garbage(world.random_bytes(bytes)),
            Effect::Html => Reply::bad_gateway(),
            Effect::Huge { bytes } => truth().paced(move |body| Served::padded_to(body, bytes)),
            Effect::Redirect { location } => Reply::redirect(&location),
            Effect::Drip { bytes_per_second } => {
                truth().paced(move |body| Served::dripping(body, bytes_per_second))
            }
            Effect::WrongSession => anothers_configuration(world, session),
            Effect::GzipBomb { bytes } => Reply::gzip_bomb(bytes),
            Effect::Flicker => truth().flickering(&mut world.state().rng),
        });
    }
    let response = reply.unwrap_or_else(truth).into_response(world);
    in_flight.conclude(Outcome::Answered(response.status().as_u16()));
    response.map(|body| body.until_sent(in_flight))
}

/// What a request is about.
#[derive(Clone, Copy)]
enum Asked {
    /// No session where what stands in its place is no session id.
    Endpoint(Endpoint, Option<SessionId>),
    Token,
    Elsewhere,
    OtherMethod,
}

impl Asked {
    fn parse(method: &Method, target: &str) -> Self {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if path == token::PATH {
            return if method == Method::POST { Self::Token } else { Self::OtherMethod };
        }
        let Some(rest) =
            ["/sessions/", "/session/"].iter().find_map(|prefix| path.strip_prefix(prefix))
        else {
            return Self::Elsewhere;
        };
        let (id, endpoint) = match rest.split_once('/') {
            None => (rest, Endpoint::Session),
            Some((id, "configuration")) => (id, Endpoint::Configuration),
            Some(_) => return Self::Elsewhere,
        };
        if method == Method::GET {
            Self::Endpoint(endpoint, id.parse().ok())
        } else {
            Self::OtherMethod
        }
    }

    const fn named(self) -> (Endpoint, Option<SessionId>) {
        match self {
            Self::Endpoint(endpoint, session) => (endpoint, session),
            Self::Token => (Endpoint::Token, None),
            Self::Elsewhere | Self::OtherMethod => (Endpoint::Unknown, None),
        }
    }
}

fn verify(world: &World, headers: &HeaderMap, target: &str) -> Result<(), Refusal> {
    let digest = headers.get("x-yoti-auth-digest").map(http::HeaderValue::as_bytes);
    if let Some(value) = headers.get(AUTHORIZATION) {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        if digest.is_some() || auth::has_parameters(query) {
            return Err(Refusal::MixedCredentials);
        }
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let now = world.now();
        return match token.filter(|token| world.state().tokens.is_live(token, now)) {
            Some(_) => Ok(()),
            None => Err(Refusal::BadToken),
        };
    }
    let signed = world.gate.check(target, digest, world.api_time())?;
    world.state().nonces.admit(&signed, world.now())
}

fn answer(world: &World, asked: Asked) -> Reply {
    let (endpoint, id) = match asked {
        Asked::Elsewhere => return Reply::problem(&Problem::no_such_endpoint()),
        Asked::OtherMethod => return Reply::problem(&Problem::method_not_allowed()),
        Asked::Token => return token::answer(world),
        Asked::Endpoint(endpoint, id) => (endpoint, id),
    };
    let found = id.map(|id| {
        world.with(id, |live, now, rng| {
            if live.deleted {
                return Err(Problem::session_not_found());
            }
            match endpoint {
                Endpoint::Session | Endpoint::Token | Endpoint::Unknown => {
                    Ok(report::body(live, now))
                }
                Endpoint::Configuration => ended(live.state, world.after_end)
                    .map_or_else(|| Ok(live.configuration(now, rng)), Err),
            }
        })
    });
    match found {
        Some(Ok(Ok(body))) => Reply::json(StatusCode::OK, body),
        Some(Ok(Err(problem))) => Reply::problem(&problem),
        None | Some(Err(_)) => Reply::problem(&Problem::session_not_found()),
    }
}

/// What keeps the configuration endpoint from answering as before.
fn ended(state: SessionState, after_end: AfterEnd) -> Option<Problem> {
    match (state, after_end) {
        (SessionState::Ongoing, _) | (_, AfterEnd::Configuration) => None,
        (SessionState::Completed | SessionState::Expired, AfterEnd::NotFound) => {
            Some(Problem::session_not_found())
        }
        (SessionState::Completed, AfterEnd::Conflict) => Some(Problem::session_locked()),
        (SessionState::Expired, AfterEnd::Conflict) => Some(Problem::session_expired()),
    }
}

/// Of whichever other session there is; the session's own under a made-up id if there is none.
fn anothers_configuration(world: &World, session: Option<SessionId>) -> Reply {
    let other = world.ids().into_iter().find(|id| Some(*id) != session);
    let made_up = world.random_id();
    let body = other.map(|other| (other, other)).or(session.map(|own| (own, made_up))).and_then(
        |(of, shown)| world.with(of, |live, now, rng| live.configuration_as(shown, now, rng)).ok(),
    );
    body.map_or_else(
        || Reply::problem(&Problem::session_not_found()),
        |body| Reply::json(StatusCode::OK, body),
    )
}

/// A request from its arrival until the last byte of its answer is handed over.
pub(super) struct InFlight {
    world: Arc<World>,
    ticket: Ticket,
    endpoint: Endpoint,
    session: Option<SessionId>,
    concluded: bool,
}

impl InFlight {
    fn begin(world: &Arc<World>, exchange: Exchange) -> Self {
        let (endpoint, session) = (exchange.endpoint, exchange.session);
        let ticket = world.state().traffic.begin(exchange);
        world.stirred();
        Self { world: Arc::clone(world), ticket, endpoint, session, concluded: false }
    }

    fn conclude(&mut self, outcome: Outcome) {
        self.concluded = true;
        self.world.state().traffic.conclude(self.ticket, self.endpoint, outcome);
        self.world.stirred();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.concluded {
            self.conclude(Outcome::Abandoned);
        }
        self.world.state().traffic.end(self.session);
        self.world.stirred();
    }
}
