use std::fmt;
use std::num::NonZeroU8;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resource::Listed;

/// Everything that can come back from the API, in the words of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The session's configuration (200).
    Configuration(Snapshot),
    /// The session endpoint says ONGOING.
    Ongoing,
    /// The session endpoint says COMPLETED.
    Completed,
    /// The session endpoint says EXPIRED.
    Expired,
    /// 409: says nothing by itself.
    NotReady(Problem),
    /// 404: says nothing by itself; a deleted session and a wrong id look alike.
    NotFound(Problem),
    /// 401 or 403: a condition of the daemon, not of the session.
    Unauthorized(Problem),
    /// 429.
    RateLimited { problem: Problem, retry_after: Option<Duration> },
    /// 5xx.
    ServerError { problem: Problem, retry_after: Option<Duration> },
    /// No answer: refused, reset, timed out, TLS, DNS.
    Unreachable(Problem),
    /// An answer that makes no sense: not JSON, too large, another session's, an odd status.
    Malformed(Problem),
}

/// What one good answer says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// `client_session_token_ttl`, the time remaining; zero where the API says zero or less,
    /// `None` where it doesn't say.
    pub ttl: Option<Duration>,
    pub listing: Listing,
}

/// The resources that an answer lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    Read {
        resources: Vec<Listed>,
        /// By which an answer that lists the same can be known again.
        fingerprint: Option<Fingerprint>,
    },
    /// Those of the answer before: this one has the fingerprint that the session has kept.
    Same,
}

impl Listing {
    /// What was read.
    #[must_use]
    pub fn resources(&self) -> Option<&[Listed]> {
        match self {
            Self::Read { resources, .. } => Some(resources),
            Self::Same => None,
        }
    }

    /// Of what was read.
    #[must_use]
    pub const fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::Read { fingerprint, .. } => *fingerprint,
            Self::Same => None,
        }
    }
}

impl From<Vec<Listed>> for Listing {
    fn from(resources: Vec<Listed>) -> Self {
        Self::Read { resources, fingerprint: None }
    }
}

/// Stands for what an answer says beside the time remaining. That another answer about the session
/// has the same by chance happens once in 2^47 at most. Means nothing outside of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(NonZeroU8, [u8; 5]);

impl Fingerprint {
    /// Takes what it needs of a hash whose every bit is as good as any other.
    #[must_use]
    pub const fn of(hash: u64) -> Self {
        let [first, rest @ .., _, _] = hash.to_be_bytes();
        Self(NonZeroU8::MIN.saturating_add(first), rest)
    }
}

/// What went wrong with a poll, fit to be shown, logged and put into an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    pub kind: ProblemKind,
    /// HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// Yoti's `code`, e.g. `SESSION_NOT_FOUND`.
    pub code: Option<String>,
    /// `x-request-id`, which Yoti's support asks for.
    pub request_id: Option<String>,
    /// One line, in words; never holds a URL's query, a key or a token.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    NotReady,
    NotFound,
    Unauthorized,
    /// Refused, and this machine's clock is off.
    ClockSkew,
    RateLimited,
    ServerError,
    Unreachable,
    Malformed,
}

impl ProblemKind {
    /// In the order of their declaration.
    pub const ALL: [Self; 8] = [
        Self::NotReady,
        Self::NotFound,
        Self::Unauthorized,
        Self::ClockSkew,
        Self::RateLimited,
        Self::ServerError,
        Self::Unreachable,
        Self::Malformed,
    ];

    /// Whether such a problem is about one session, and not about the API or the way to it.
    #[must_use]
    pub const fn concerns_session(self) -> bool {
        match self {
            Self::NotReady | Self::NotFound | Self::Malformed => true,
            Self::Unauthorized
            | Self::ClockSkew
            | Self::RateLimited
            | Self::ServerError
            | Self::Unreachable => false,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::NotFound => "not_found",
            Self::Unauthorized => "unauthorized",
            Self::ClockSkew => "clock_skew",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Unreachable => "unreachable",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(status) = self.status {
            write!(f, " (HTTP {status}")?;
            if let Some(code) = &self.code {
                write!(f, ", {code}")?;
            }
            if let Some(id) = &self.request_id {
                write!(f, ", request {id}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl Observation {
    /// All that [`outcome`](Self::outcome) may return.
    pub const OUTCOMES: [&str; 11] = [
        "ok",
        "completed",
        "expired",
        ProblemKind::NotReady.as_str(),
        ProblemKind::NotFound.as_str(),
        ProblemKind::Unauthorized.as_str(),
        ProblemKind::ClockSkew.as_str(),
        ProblemKind::RateLimited.as_str(),
        ProblemKind::ServerError.as_str(),
        ProblemKind::Unreachable.as_str(),
        ProblemKind::Malformed.as_str(),
    ];

    /// What came back, in one of few words.
    #[must_use]
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Configuration(_) | Self::Ongoing => "ok",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::NotReady(problem)
            | Self::NotFound(problem)
            | Self::Unauthorized(problem)
            | Self::RateLimited { problem, .. }
            | Self::ServerError { problem, .. }
            | Self::Unreachable(problem)
            | Self::Malformed(problem) => problem.kind.as_str(),
        }
    }

    /// Whether nothing was learned of the session.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        match self {
            Self::Configuration(_)
            | Self::Ongoing
            | Self::Completed
            | Self::Expired
            | Self::NotReady(_)
            | Self::NotFound(_) => false,
            Self::Unauthorized(_)
            | Self::RateLimited { .. }
            | Self::ServerError { .. }
            | Self::Unreachable(_)
            | Self::Malformed(_) => true,
        }
    }

    /// What went wrong, unless nothing did.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Configuration(_) | Self::Ongoing | Self::Completed | Self::Expired => None,
            Self::NotReady(problem)
            | Self::NotFound(problem)
            | Self::Unauthorized(problem)
            | Self::RateLimited { problem, .. }
            | Self::ServerError { problem, .. }
            | Self::Unreachable(problem)
            | Self::Malformed(problem) => Some(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: ProblemKind) -> Problem {
        let (code, request_id) = (Some("BAD_TOKEN".to_owned()), Some("7d1f".to_owned()));
        let message = "the API refused the request".to_owned();
        Problem { kind, status: Some(401), code, request_id, message }
    }

    #[test]
    fn a_kind_is_counted_under_the_word_that_events_have_for_it() {
        for kind in ProblemKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(Observation::Malformed(problem(kind)).outcome(), kind.as_str());
            assert!(Observation::OUTCOMES.contains(&kind.as_str()));
        }
        assert_eq!(Observation::Ongoing.outcome(), "ok");
        assert_eq!(Observation::Completed.outcome(), "completed");
        assert_eq!(Observation::Expired.outcome(), "expired");
    }

    #[test]
    fn what_one_session_is_answered_says_nothing_of_the_others() {
        let concerning: Vec<_> =
            ProblemKind::ALL.into_iter().filter(|kind| kind.concerns_session()).collect();
        let expected = [ProblemKind::NotReady, ProblemKind::NotFound, ProblemKind::Malformed];
        assert_eq!(concerning, expected);
    }

    #[test]
    fn a_problem_is_shown_with_all_that_support_would_ask_for() {
        let problem = problem(ProblemKind::Unauthorized);
        let shown = "the API refused the request (HTTP 401, BAD_TOKEN, request 7d1f)";
        assert_eq!(problem.to_string(), shown);
        let without = Problem { status: None, ..problem };
        assert_eq!(without.to_string(), "the API refused the request");
    }
}
