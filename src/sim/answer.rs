//! What the API says when it says no, and the form of everything it says.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::auth::Refusal;
use super::token::TokenRefusal;

/// An error as the API documents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    code: &'static str,
    message: Option<String>,
    /// The part of the request that is at fault.
    property: Option<(String, String)>,
    style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Api,
    OAuth,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self { status, code, message: Some(message.to_owned()), property: None, style: Style::Api }
    }

    fn oauth(refusal: TokenRefusal) -> Self {
        let (status, error, description) = refusal.told();
        Self { style: Style::OAuth, ..Self::new(status, error, description) }
    }

    fn malformed(property: &str, message: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "MALFORMED_REQUEST",
            message: None,
            property: Some((property.to_owned(), message.to_owned())),
            style: Style::Api,
        }
    }

    pub(super) fn session_not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "SESSION_NOT_FOUND",
            "No session found matching the sessionId provided",
        )
    }

    pub(super) fn session_expired() -> Self {
        Self::new(StatusCode::CONFLICT, "SESSION_EXPIRED", "The session has expired")
    }

    pub(super) fn session_locked() -> Self {
        Self::new(StatusCode::CONFLICT, "SESSION_LOCKED", "The session is locked or completed")
    }

    pub(super) fn no_such_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "HTTP 404 Not Found")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "HTTP 405 Method Not Allowed",
        )
    }

    /// The documented error of a status, or a server error of that status.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_REQUEST => {
                Self::malformed("header.X-Yoti-Auth-Digest", "must not be null or empty")
            }
            StatusCode::UNAUTHORIZED => Refusal::WrongSignature.into(),
            StatusCode::FORBIDDEN => Self::new(
                status,
                "INSUFFICIENT_PERMISSION",
                "The Yoti App associated with this sdk_id does not have permission to use Yoti Doc Scan",
            ),
            StatusCode::NOT_FOUND => Self::session_not_found(),
            StatusCode::CONFLICT => Self::new(
                status,
                "SESSION_NOT_READY",
                "Cannot begin this session until integrator provides all required resources (Face Capture)",
            ),
            StatusCode::TOO_MANY_REQUESTS => {
                Self::new(status, "TOO_MANY_REQUESTS", "Too many requests, please try later")
            }
            StatusCode::SERVICE_UNAVAILABLE => Self::new(
                status,
                "TEMPORARILY_UNAVAILABLE",
                "Unable to complete your request right now.  Please try again later",
            ),
            other => Self::new(other, "SERVER_ERROR", "An unexpected error occurred on the server"),
        }
    }

    pub(super) fn body(&self) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            code: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            message: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            errors: Option<[Property<'a>; 1]>,
        }
        #[derive(Serialize)]
        struct Property<'a> {
            property: &'a str,
            message: &'a str,
        }
        #[derive(Serialize)]
        struct OAuthBody<'a> {
            error: &'a str,
            error_description: Option<&'a str>,
        }
        if self.style == Style::OAuth {
            let error_description = self.message.as_deref();
            return json(&OAuthBody { error: self.code, error_description });
        }
        json(&Body {
            code: self.code,
            message: self.message.as_deref(),
            errors: self
                .property
                .as_ref()
                .map(|(property, message)| [Property { property, message }]),
        })
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let signing = |message| Self::new(StatusCode::UNAUTHORIZED, "MESSAGE_SIGNING", message);
        match refusal {
            Refusal::MissingDigest => {
                Self::malformed("header.X-Yoti-Auth-Digest", "must not be null or empty")
            }
            Refusal::MissingParameter(parameter) => Self::malformed(
                &format!("query.{}", parameter.as_str()),
                "must be given exactly once",
            ),
            Refusal::WrongSdkId => Self::new(
                StatusCode::UNAUTHORIZED,
                "BAD_SDK_ID",
                "Cannot authorize your request for the session with the given sdkId",
            ),
            Refusal::WrongSignature => signing("The message was not signed correctly"),
            Refusal::NonceNotUuid4 => signing("The nonce is not a lowercase UUID of version 4"),
            Refusal::NonceRepeated => signing("The nonce was used before"),
            Refusal::TimestampNotMilliseconds => {
                signing("The timestamp is not in milliseconds since 1970")
            }
            Refusal::TimestampStale => signing("The timestamp is more than 5 minutes off"),
            Refusal::MixedCredentials => Self::malformed(
                "header.Authorization",
                "must not come with sdkId, nonce, timestamp or X-Yoti-Auth-Digest",
            ),
            Refusal::BadToken => {
                Self::new(StatusCode::UNAUTHORIZED, "BAD_TOKEN", "The access token is not valid")
            }
            Refusal::Token(refusal) => Self::oauth(refusal),
        }
    }
}

/// JSON text of one of our own types.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(text) => text.into(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON; a field of it has to change");
            Bytes::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn errors_are_those_that_the_documentation_shows() {
        let documented: Vec<Value> =
            serde_json::from_str(include_str!("../../tests/data/yoti/error_bodies.json")).unwrap();
        let named = |name: &str| {
            let entry = documented.iter().find(|e| e["name"] == name).unwrap();
            (entry["status"].clone(), entry["body"].clone())
        };
        let of = StatusCode::from_u16;
        for (name, problem) in [
            ("malformed_digest", Refusal::MissingDigest.into()),
            ("message_signing", Refusal::WrongSignature.into()),
            ("bad_sdk_id", Refusal::WrongSdkId.into()),
            ("insufficient_permission", Problem::of_status(of(403).unwrap())),
            ("session_not_found", Problem::session_not_found()),
            ("session_not_ready", Problem::of_status(of(409).unwrap())),
            ("session_expired", Problem::session_expired()),
            ("session_locked", Problem::session_locked()),
            ("too_many_requests", Problem::of_status(of(429).unwrap())),
            ("server_error", Problem::of_status(of(500).unwrap())),
            ("temporarily_unavailable", Problem::of_status(of(503).unwrap())),
        ] {
            let (status, body) = named(name);
            assert_eq!(problem.status.as_u16(), status, "{name}");
            let said: Value = serde_json::from_slice(&problem.body()).unwrap();
            assert_eq!(said, body, "{name}");
        }
    }
}
