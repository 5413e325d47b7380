//! A server that is asked: the connections to it, and its answer as it comes in.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, RequestBuilder, Response};
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::domain::Observation;

use super::answer::Head;
use super::transport::{Failure, Route, root_cause};

const VERSION: &str = concat!("ibvwatch-", env!("CARGO_PKG_VERSION"));
const USER_AGENT: &str = concat!("ibvwatch/", env!("CARGO_PKG_VERSION"));

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

/// Connections to one server, which are kept and shared.
pub(super) struct Server {
    pub(super) http: reqwest::Client,
    route: Route,
}

impl Server {
    pub(super) fn new(route: Route, ca_file: Option<&Path>) -> Result<Self, ClientError> {
        Ok(Self { http: build(&route, ca_file)?, route })
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.route.timeout.set(timeout);
    }

    /// When a request that begins now must be over.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.route.timeout.get()
    }

    /// What is to be said of a request that wasn't over by then.
    pub(super) fn late(&self) -> Observation {
        self.route.unreachable(Failure::Late, None)
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        deadline: Instant,
        clock: &dyn Clock,
    ) -> Result<Answer<'_>, Observation> {
        let response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.route.unreachable(Failure::Broken(error), None)),
            Err(_) => return Err(self.late()),
        };
        let head = Head::read(response.status(), response.headers(), clock.now().wall);
        Ok(Answer { head, response, deadline, route: &self.route })
    }
}

/// An answer of which the headers have come.
pub(super) struct Answer<'a> {
    pub(super) head: Head,
    response: Response,
    deadline: Instant,
    route: &'a Route,
}

/// `B` is one that is overwritten when dropped where there is a secret in it.
pub(super) enum Body<B> {
    Whole(B),
    TooLarge,
}

impl Answer<'_> {
    pub(super) async fn body<B>(&mut self, largest: u64) -> Result<Body<B>, Failure>
    where
        B: Default + AsMut<Vec<u8>>,
    {
        let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.response.content_length().is_some_and(|announced| announced > largest) {
            return Ok(Body::TooLarge);
        }
        let mut whole = B::default();
        while let Some(chunk) = self.chunk().await? {
            let body = whole.as_mut();
            if length(body.len()).saturating_add(length(chunk.len())) > largest {
                return Ok(Body::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Body::Whole(whole))
    }

    /// As much of a refusal's body as comes: the status has the meaning already.
    pub(super) async fn beginning(&mut self) -> Vec<u8> {
        const LARGEST: usize = 64 * 1024;
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = self.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST {
                break;
            }
        }
        body
    }

    pub(super) async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Failure> {
        timeout_at(self.deadline, self.response.chunk())
            .await
            .map_err(|_| Failure::Late)?
            .map_err(Failure::Broken)
    }

    pub(super) fn broken(&self, failure: Failure) -> Observation {
        self.route.unreachable(failure, Some(self.head.status.as_u16()))
    }
}

fn build(route: &Route, ca_file: Option<&Path>) -> Result<reqwest::Client, ClientError> {
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
        .connect_timeout(route.connect_timeout)
        // A connection that a firewall forgot takes every request on it down until it is found out.
        .http2_keep_alive_interval(Duration::from_secs(15))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http2_keep_alive_while_idle(true);
    if route.origin.loopback {
        builder = builder.no_proxy();
    }
    if route.origin.plain_http {
        // A simulated API must do on a machine without CA certificates, too.
        return builder.tls_certs_only([]).build().map_err(|e| ClientError::Tls(root_cause(&e)));
    }
    if let Some(path) = ca_file {
        let pem = std::fs::read(path)
            .map_err(|source| ClientError::CaUnreadable { path: path.to_owned(), source })?;
        let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if certificates.is_empty() {
            return Err(ClientError::CaUnusable { path: path.to_owned() });
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| match ca_file {
        // The system's own certificates are skipped where they are odd; these are not.
        Some(path) => ClientError::CaUnusable { path: path.to_owned() },
        None => ClientError::Tls(root_cause(&error)),
    })
}
