//! What it means, in words, that no complete answer came.
//!
//! reqwest's own message is a chain of layers of which the innermost says most, and it holds the
//! URL, which is signed and must not be shown.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::{Observation, Problem, ProblemKind};

use super::address::Origin;
use super::text;

/// Why there is no complete answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// `api.timeout` passed, counted from the start of the request.
    Late,
    Broken(reqwest::Error),
}

/// What the words are about.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) origin: Origin,
    /// The key of the configuration that says where it is.
    pub(super) key: &'static str,
    pub(super) timeout: AtomicTimeout,
    pub(super) connect_timeout: Duration,
}

/// How long a request may take; can be changed while requests are under way.
#[derive(Debug)]
pub(super) struct AtomicTimeout(AtomicU64);

impl AtomicTimeout {
    /// Longer ones are cut to this, so that no deadline overflows.
    const LONGEST: Duration = Duration::from_secs(3_600);

    pub(super) fn new(timeout: Duration) -> Self {
        let this = Self(AtomicU64::new(0));
        this.set(timeout);
        this
    }

    pub(super) fn set(&self, timeout: Duration) {
        let millis = timeout.min(Self::LONGEST).as_millis();
        self.0.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

impl Route {
    /// The status is given where an answer had begun.
    pub(super) fn unreachable(&self, failure: Failure, status: Option<u16>) -> Observation {
        Observation::Unreachable(Problem {
            kind: ProblemKind::Unreachable,
            status,
            code: None,
            request_id: None,
            message: self.words(failure),
        })
    }

    fn words(&self, failure: Failure) -> String {
        let (host, key) = (&self.origin.authority, self.key);
        let error = match failure {
            Failure::Late => {
                let timeout = humantime::format_duration(self.timeout.get());
                return format!(
                    "no complete answer from {host} within {timeout}; check the network, or raise api.timeout"
                );
            }
            Failure::Broken(error) => error.without_url(),
        };
        let cause = text::one_line(&root_cause(&error)).unwrap_or_default();
        if error.is_timeout() && error.is_connect() {
            let timeout = humantime::format_duration(self.connect_timeout);
            return format!(
                "can't connect to {host} within {timeout}; check the network, or raise api.connect_timeout"
            );
        }
        if error.is_dns() {
            return format!(
                "the name of {host} can't be resolved: {cause}; check {key} and this machine's DNS"
            );
        }
        if cause.contains("certificate") || cause.contains("Certificate") {
            return format!("TLS with {host} failed: {cause}; {}", certificate_hint(&cause, key));
        }
        match io_kind(&error) {
            Some(io::ErrorKind::ConnectionRefused) => {
                format!("{host} refuses the connection; check {key}, and that the server runs")
            }
            Some(
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof,
            ) => format!("the connection to {host} broke before the answer was complete"),
            Some(_) | None if error.is_connect() => {
                format!("can't connect to {host}: {cause}; check the network and {key}")
            }
            Some(_) | None => {
                format!("the connection to {host} broke before the answer was complete: {cause}")
            }
        }
    }
}

fn certificate_hint(cause: &str, key: &str) -> String {
    // A bad signature is that of an authority which has the name of a trusted one, not its key.
    if cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
        "its certificate is not issued by an authority that this machine trusts: if it should be, set api.ca_file to that authority's certificate".to_owned()
    } else if cause.contains("expired") || cause.contains("not valid yet") {
        "compare this machine's clock; if that is right, the server's operator must renew the certificate".to_owned()
    } else {
        format!("check that {key} names the server by the name in its certificate")
    }
}

/// The innermost error, which knows what happened.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind).last()
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}
