use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::domain::{Fingerprint, Observation, ProblemKind, SessionId, Snapshot};

use super::SessionApi;
use super::address::{BaseUrl, Origin, SessionPath};
use super::answer::unsent;
use super::auth::{Access, Auth, Authorized, Target};
use super::fingerprint::Recognizer;
use super::server::{Answer, Body, ClientError, Server};
use super::state_scan::StateScan;
use super::text;
use super::token_endpoint::TokenEndpoint;
use super::tokens::Tokens;
use super::transport::{AtomicTimeout, Route};
use super::wire::Unreadable;

/// What a client is made from.
#[derive(Debug)]
pub struct Settings {
    pub base_url: BaseUrl,
    pub configuration_path: SessionPath,
    /// Without it, [`SessionApi::session_state`] is not to be asked.
    pub session_path: Option<SessionPath>,
    pub auth: Auth,
    /// For a whole request, from connecting to the last byte of the answer, and with the wait
    /// for an access token where one is needed. Cut to an hour.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Largest configuration taken, in bytes.
    pub max_response_size: u64,
    /// PEM certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Asks the real API, over connections that are kept and shared.
///
/// A proxy is used where `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say so, as by other programs;
/// it only ever passes on encrypted bytes. An API on this machine is reached directly. There
/// are no cookies, no redirects, and no silent second tries but one: with a new access token,
/// when the API refuses the one it was shown.
pub struct Client {
    server: Server,
    base_url: BaseUrl,
    configuration_path: SessionPath,
    session_path: Option<SessionPath>,
    access: Access,
    recognizer: Recognizer,
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
        let connect = |origin: &Origin, key| {
            let route = Route {
                origin: origin.clone(),
                key,
                timeout: AtomicTimeout::new(settings.timeout),
                connect_timeout: settings.connect_timeout,
            };
            Server::new(route, settings.ca_file.as_deref())
        };
        let server = connect(settings.base_url.origin(), "api.base_url")?;
        let access = match settings.auth {
            Auth::SignedRequest(signer) => Access::SignedRequest(signer),
            Auth::Bearer(bearer) => {
                let server = connect(bearer.token_url().origin(), "api.auth.token_url")?;
                Access::Bearer(Tokens::new(TokenEndpoint::new(server, bearer), Arc::clone(&clock)))
            }
        };
        Ok(Self {
            server,
            base_url: settings.base_url,
            configuration_path: settings.configuration_path,
            session_path: settings.session_path,
            access,
            recognizer: Recognizer::default(),
            max_response_size: settings.max_response_size,
            clock,
            server_ahead_seconds: AtomicI64::new(UNKNOWN),
        })
    }

    /// Changes how long requests may take from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.server.set_timeout(timeout);
        self.access.set_timeout(timeout);
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

    /// How long the access token at hand lives on; nothing where there is none.
    #[must_use]
    pub fn token_expires_in(&self) -> Option<Duration> {
        self.access.token_expires_in()
    }

    /// Sends one request; an answer other than 200 is already an observation.
    async fn ask(&self, path: &SessionPath, id: SessionId) -> Result<Answer<'_>, Observation> {
        let deadline = self.server.deadline();
        let target = Target { base_url: &self.base_url, path: &path.of(id), deadline };
        let authorized = self.access.authorize(&target, self.clock.now().wall).await?;
        let token = authorized.token.clone();
        let mut answer = self.get(id, authorized, deadline).await?;
        if answer.head.status == StatusCode::UNAUTHORIZED
            && let Some(refused) = token
            && let Some(again) = self.access.reauthorize(&target, &refused).await?
        {
            answer = self.get(id, again, deadline).await?;
        }
        if answer.head.status == StatusCode::OK {
            return Ok(answer);
        }
        let body = answer.beginning().await;
        Err(answer.head.refusal(&body, self.access.scheme()))
    }

    async fn get(
        &self,
        id: SessionId,
        authorized: Authorized,
        deadline: Instant,
    ) -> Result<Answer<'_>, Observation> {
        let started = self.clock.monotonic();
        let Authorized { url, headers, token } = authorized;
        let request = self.server.http.get(url).headers(headers);
        let answer = self.server.send(request, deadline, &*self.clock).await?;
        if let Some(token) = token.filter(|_| answer.head.status != StatusCode::UNAUTHORIZED) {
            token.note_accepted();
        }
        if let Some(ahead) = answer.head.server_ahead_seconds {
            self.server_ahead_seconds.store(ahead, Ordering::Relaxed);
        }
        tracing::debug!(
            session = %id,
            status = answer.head.status.as_u16(),
            after = ?self.clock.monotonic().saturating_sub(started),
            "the API answered"
        );
        Ok(answer)
    }
}

impl SessionApi for Client {
    async fn configuration(&self, id: SessionId) -> Observation {
        self.configuration_since(id, None).await
    }

    async fn configuration_since(&self, id: SessionId, known: Option<Fingerprint>) -> Observation {
        let read = |body: &[u8]| self.recognizer.read(body, id, known);
        match self.ask(&self.configuration_path, id).await {
            Ok(answer) => answer.configuration(self.max_response_size, read).await,
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

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// What a good answer says.
impl Answer<'_> {
    async fn configuration(
        mut self,
        largest: u64,
        read: impl Fn(&[u8]) -> Result<Snapshot, Unreadable>,
    ) -> Observation {
        match self.body::<Vec<u8>>(largest).await {
            Ok(Body::Whole(body)) => read(&body)
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
}
