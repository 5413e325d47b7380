//! What an access token is asked for with: a client assertion, which is a JWT that is signed
//! with the application's key (RFC 7523), in a form (RFC 6749, section 4.4).

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use uuid::Uuid;

use crate::domain::Timestamp;

use super::address::TokenUrl;
use super::key::{PrivateKey, SigningFailed};
use super::secret::Secret;
use super::sign::{InvalidSdkId, percent_encoded, trimmed};

/// `{"alg":"PS384","typ":"JWT"}`
const HEADER: &str = "eyJhbGciOiJQUzM4NCIsInR5cCI6IkpXVCJ9";
/// An assertion is dated back by this and ends as much before the five minutes that the API
/// allows, so that clocks that are up to a minute apart still agree on it.
const SKEW: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(5 * 60);

/// Asks for access tokens in the name of one SDK id.
#[derive(Debug)]
pub struct Bearer {
    sdk_id: String,
    key: PrivateKey,
    token_url: TokenUrl,
    scopes: Scopes,
}

/// What access tokens are to be good for; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScopes {
    #[error("is empty; write at least one scope, like \"idv:sessions\"")]
    Empty,
    #[error(
        "{0:?} is no scope: each is one word of visible ASCII characters without quotes and backslashes, like \"idv:sessions\""
    )]
    NotAScope(String),
}

impl Bearer {
    /// # Errors
    /// [`InvalidSdkId`] if the id is empty.
    pub fn new(
        sdk_id: &str,
        key: PrivateKey,
        token_url: TokenUrl,
        scopes: Scopes,
    ) -> Result<Self, InvalidSdkId> {
        Ok(Self { sdk_id: trimmed(sdk_id)?.to_owned(), key, token_url, scopes })
    }

    pub(super) const fn token_url(&self) -> &TokenUrl {
        &self.token_url
    }

    /// The form to post for one token. `id` must be new each time.
    pub(super) fn form(&self, id: Uuid, now: Timestamp) -> Result<Secret<String>, SigningFailed> {
        let assertion = self.assertion(id, now)?;
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("scope", &self.scopes.0),
            ("client_assertion", assertion.expose()),
        ];
        let fields = fields.map(|(name, value)| format!("{name}={}", percent_encoded(value)));
        Ok(Secret::new(fields.join("&")))
    }

    fn assertion(&self, id: Uuid, now: Timestamp) -> Result<Secret<String>, SigningFailed> {
        let seconds = |time: Timestamp| time.as_millis().div_euclid(1_000);
        let subject = format!("sdk:{}", self.sdk_id);
        let claims = serde_json::to_vec(&Claims {
            iss: &subject,
            sub: &subject,
            aud: self.token_url.as_str(),
            jti: id,
            iat: seconds(now.minus(SKEW)),
            exp: seconds(now.plus(LONGEST_LIFE.saturating_sub(SKEW))),
        })
        .map_err(|_| SigningFailed)?;
        let signed = format!("{HEADER}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign_ps384(signed.as_bytes())?;
        Ok(Secret::new(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))))
    }
}

/// In seconds since 1970, as JWTs count.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: Uuid,
    iat: i64,
    exp: i64,
}

impl Scopes {
    const DEFAULT: &str = "idv:sessions";

    /// # Errors
    /// There is none, or one is not of the form that OAuth allows (RFC 6749, section 3.3).
    pub fn new<I>(scopes: I) -> Result<Self, InvalidScopes>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut joined = String::new();
        for scope in scopes {
            let scope = scope.as_ref().trim();
            let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
            if scope.is_empty() || !scope.bytes().all(allowed) {
                return Err(InvalidScopes::NotAScope(scope.to_owned()));
            }
            if !joined.is_empty() {
                joined.push(' ');
            }
            joined.push_str(scope);
        }
        if joined.is_empty() { Err(InvalidScopes::Empty) } else { Ok(Self(joined)) }
    }
}

/// What Yoti's sessions need.
impl Default for Scopes {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_the_algorithm() {
        let header = BASE64_URL_SAFE_NO_PAD.decode(HEADER).unwrap();
        assert_eq!(header, br#"{"alg":"PS384","typ":"JWT"}"#);
    }

    #[test]
    fn scopes_are_joined_by_single_spaces() {
        assert_eq!(Scopes::new(["idv:sessions", " b "]).unwrap().to_string(), "idv:sessions b");
        assert_eq!(Scopes::new([Scopes::DEFAULT]).unwrap(), Scopes::default());
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        assert_eq!(Scopes::new([""; 0]), Err(InvalidScopes::Empty));
        for scope in ["", " ", "a b", "a\"b", "a\\b", "\u{e9}", "a\n b"] {
            let refused = Scopes::new(["good", scope]);
            assert!(matches!(refused, Err(InvalidScopes::NotAScope(_))), "{scope:?}");
        }
    }
}
