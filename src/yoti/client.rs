use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::{Certificate, Response};
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::domain::{Observation, Problem, ProblemKind, SessionId};

use super::SessionApi;
use super::address::{BaseUrl, SessionPath};
use super::answer::Head;
use super::auth::Auth;
use super::state_scan::StateScan;
use super::text;
use super::transport::{AtomicTimeout, Failure, Route, root_cause};
use super::wire::{self, Unreadable};

const VERSION: &str = concat!("ibvwatch-", env!("CARGO_PKG_VERSION"));
const USER_AGENT: &str = concat!("ibvwatch/", env!("CARGO_PKG_VERSION"));

/// What a client is made from.
#[derive(Debug)]
pub struct Settings {
    pub base_url: BaseUrl,
    pub configuration_path: SessionPath,
    /// Without it, [`SessionApi::session_state`] is not to be asked.
    pub session_path: Option<SessionPath>,
    pub auth: Auth,
    /// For a whole request, from connecting to the last byte of the answer. Cut to an hour.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Largest configuration taken, in bytes.
    pub max_response_size: u64,
    /// PEM certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("can't read api.ca_file {path}: {source}; name a PEM file of certificates")]
    CaUnreadable { path: PathBuf, source: io::Error },
    #[error("api.ca_file {path} holds no usable certificate; name a PEM file of certificates")]
    CaUnusable { path: PathBuf },
    #[error(
        "TLS can't be set up: {0}; install the system's CA certificates (package ca-certificates), or set api.ca_file"
    )]
    Tls(String),
}

/// Asks the real API, over connections that are kept and shared.
///
/// A proxy is used where `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say so, as by other programs;
/// it only ever passes on encrypted bytes. An API on this machine is reached directly. There
/// are no cookies, no redirects, and no silent second tries: each try is signed afresh.
pub struct Client {
    http: reqwest::Client,
    route: Route,
    configuration_path: SessionPath,
    session_path: Option<SessionPath>,
    auth: Auth,
    max_response_size: u64,
    clock: Arc<dyn Clock>,
    server_ahead_seconds: AtomicI64,
}

/// Stands for "no answer has told the server's time yet".
const UNKNOWN: i64 = i64::MIN;

impl Client {
    /// # Errors
    /// [`ClientError`] if the certificates to trust can't be loaded.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let http = build(&settings)?;
        let Settings { base_url, connect_timeout, .. } = settings;
        let timeout = AtomicTimeout::new(settings.timeout);
        Ok(Self {
            http,
            route: Route { base_url, timeout, connect_timeout },
            configuration_path: settings.configuration_path,
            session_path: settings.session_path,
            auth: settings.auth,
            max_response_size: settings.max_response_size,
            clock,
            server_ahead_seconds: AtomicI64::new(UNKNOWN),
        })
    }

    /// Changes how long requests may take from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.route.timeout.set(timeout);
    }

    /// Whether [`SessionApi::session_state`] can be asked.
    #[must_use]
    pub const fn has_session_path(&self) -> bool {
        self.session_path.is_some()
    }

    /// By how many seconds the server's clock was ahead of this machine's (behind, if negative)
    /// at the last answer that told. Seconds off by one or two mean nothing.
    #[must_use]
    pub fn server_ahead_seconds(&self) -> Option<i64> {
        Some(self.server_ahead_seconds.load(Ordering::Relaxed)).filter(|&ahead| ahead != UNKNOWN)
    }

    /// Sends one request; an answer other than 200 is already an observation.
    async fn ask(&self, path: &SessionPath, id: SessionId) -> Result<Answer<'_>, Observation> {
        let deadline = Instant::now() + self.route.timeout.get();
        let started = self.clock.now();
        let authorized = self
            .auth
            .authorize(&self.route.base_url, &path.of(id), started.wall)
            .map_err(|error| {
                Observation::Unauthorized(unsent(ProblemKind::Unauthorized, &error.to_string()))
            })?;
        let request = self.http.get(authorized.url).headers(authorized.headers);
        let response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.route.unreachable(Failure::Broken(error), None)),
            Err(_) => return Err(self.route.unreachable(Failure::Late, None)),
        };
        let now = self.clock.now();
        let head = Head::read(response.status(), response.headers(), now.wall);
        if let Some(ahead) = head.server_ahead_seconds {
            self.server_ahead_seconds.store(ahead, Ordering::Relaxed);
        }
        tracing::debug!(
            session_id = %id,
            status = head.status.as_u16(),
            after = ?now.monotonic.saturating_sub(started.monotonic),
            "the API answered"
        );
        let answer = Answer { head, response, deadline, route: &self.route };
        if answer.head.status == StatusCode::OK { Ok(answer) } else { Err(answer.refusal().await) }
    }
}

impl SessionApi for Client {
    async fn configuration(&self, id: SessionId) -> Observation {
        match self.ask(&self.configuration_path, id).await {
            Ok(answer) => answer.configuration(id, self.max_response_size).await,
            Err(observation) => observation,
        }
    }

    async fn session_state(&self, id: SessionId) -> Observation {
        let Some(path) = &self.session_path else {
            let message = "the session can't be asked for its state: api.session_path is empty";
            return Observation::Malformed(unsent(ProblemKind::Malformed, message));
        };
        match self.ask(path, id).await {
            Ok(answer) => answer.state().await,
            Err(observation) => observation,
        }
    }
}

/// The problem of a request that was never sent.
fn unsent(kind: ProblemKind, message: &str) -> Problem {
    Problem { kind, status: None, code: None, request_id: None, message: message.to_owned() }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base_url", &self.route.base_url).finish_non_exhaustive()
    }
}

/// An answer of which the headers have come.
struct Answer<'a> {
    head: Head,
    response: Response,
    deadline: Instant,
    route: &'a Route,
}

impl Answer<'_> {
    async fn configuration(mut self, id: SessionId, largest: u64) -> Observation {
        match self.body(largest).await {
            Ok(Body::Whole(body)) => wire::configuration(&body, id)
                .map_or_else(|error| self.head.malformed(&error), Observation::Configuration),
            Ok(Body::TooLarge) => Observation::Malformed(self.head.problem(
                ProblemKind::Malformed,
                format!(
                    "the answer is larger than {largest} bytes; if that is to be expected, raise api.max_response_size"
                ),
            )),
            Err(failure) => self.broken(failure),
        }
    }

    /// Bounded by the deadline alone: a session with much in it has a large body.
    async fn state(mut self) -> Observation {
        let mut scan = StateScan::default();
        loop {
            let found = match self.chunk().await {
                Ok(Some(chunk)) => scan.feed(&chunk),
                Ok(None) => Err(scan.finish()),
                Err(failure) => return self.broken(failure),
            };
            match found {
                Ok(None) => {}
                Ok(Some(state)) => return self.known_state(&state),
                Err(error) => return self.head.malformed(&error),
            }
        }
    }

    fn known_state(&self, state: &str) -> Observation {
        match state {
            "ONGOING" => Observation::Ongoing,
            "COMPLETED" => Observation::Completed,
            "EXPIRED" => Observation::Expired,
            other => {
                let shown = text::one_line(other).unwrap_or_default();
                self.head.malformed(&Unreadable::UnknownState(shown))
            }
        }
    }

    /// The status has the meaning already, so as much of the body as comes will do.
    async fn refusal(mut self) -> Observation {
        const LARGEST: usize = 64 * 1024;
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = self.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST {
                break;
            }
        }
        self.head.refusal(&body)
    }

    async fn body(&mut self, largest: u64) -> Result<Body, Failure> {
        let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.response.content_length().is_some_and(|announced| announced > largest) {
            return Ok(Body::TooLarge);
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if length(body.len()).saturating_add(length(chunk.len())) > largest {
                return Ok(Body::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Body::Whole(body))
    }

    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Failure> {
        timeout_at(self.deadline, self.response.chunk())
            .await
            .map_err(|_| Failure::Late)?
            .map_err(Failure::Broken)
    }

    fn broken(&self, failure: Failure) -> Observation {
        self.route.unreachable(failure, Some(self.head.status.as_u16()))
    }
}

enum Body {
    Whole(Vec<u8>),
    TooLarge,
}

fn build(settings: &Settings) -> Result<reqwest::Client, ClientError> {
    let headers = [
        (ACCEPT, "application/json"),
        (HeaderName::from_static("x-yoti-sdk"), "ibvwatch"),
        (HeaderName::from_static("x-yoti-sdk-version"), VERSION),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(HeaderMap::from_iter(headers))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // A second try with the same nonce is a replay.
        .retry(reqwest::retry::never())
        .connect_timeout(settings.connect_timeout)
        // A connection that a firewall forgot takes every request on it down until it is found out.
        .http2_keep_alive_interval(Duration::from_secs(15))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http2_keep_alive_while_idle(true);
    if settings.base_url.is_loopback() {
        builder = builder.no_proxy();
    }
    if settings.base_url.is_plain_http() {
        // A simulated API must do on a machine without CA certificates, too.
        return builder.tls_certs_only([]).build().map_err(|e| ClientError::Tls(root_cause(&e)));
    }
    if let Some(path) = &settings.ca_file {
        let pem = std::fs::read(path)
            .map_err(|source| ClientError::CaUnreadable { path: path.clone(), source })?;
        let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if certificates.is_empty() {
            return Err(ClientError::CaUnusable { path: path.clone() });
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| match &settings.ca_file {
        // The system's own certificates are skipped where they are odd; these are not.
        Some(path) => ClientError::CaUnusable { path: path.clone() },
        None => ClientError::Tls(root_cause(&error)),
    })
}
