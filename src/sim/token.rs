//! The token endpoint: verifies a client's assertion, gives out access tokens, and knows them
//! again. Written from RFC 6749, RFC 7523 and what Yoti's documentation demands beyond them.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use http::request::Parts;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::answer;
use super::reply::Reply;
use super::world::World;
use crate::domain::Timestamp;

pub(super) const PATH: &str = "/v1/oauth/token";

const MAX_BODY: usize = 64 * 1024;
const SCOPE: &str = "idv:sessions";
/// How far ahead `exp` may lie, and how old `iat` may be.
const ASSERTION_LIFE_SECONDS: i64 = 5 * 60;

/// Why no access token was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRefusal {
    /// No form, or a field is missing, given twice, or not what it has to be.
    NotATokenRequest,
    WrongScope,
    /// Not three parts of base64url, or not JSON within, or a claim is missing.
    NotAnAssertion,
    /// `alg` isn't PS384, or `typ` isn't JWT.
    WrongAlgorithm,
    WrongAssertionSignature,
    /// `iss` or `sub` isn't `sdk:` and the SDK id.
    WrongIssuer,
    /// `aud` isn't the URL that the request came to.
    WrongAudience,
    /// `exp` is past or more than 5 minutes ahead, or `iat` lies ahead or 5 minutes back.
    WrongTime,
    /// `jti` was used before.
    AssertionRepeated,
}

impl TokenRefusal {
    /// Status, OAuth's `error`, and `error_description`.
    pub(super) fn told(self) -> (StatusCode, &'static str, &'static str) {
        let client = |words| (StatusCode::UNAUTHORIZED, "invalid_client", words);
        let request = |error, words| (StatusCode::BAD_REQUEST, error, words);
        match self {
            Self::NotATokenRequest => {
                request("invalid_request", "The form is not one for client credentials")
            }
            Self::WrongScope => request("invalid_scope", "The scope must hold idv:sessions"),
            Self::NotAnAssertion => client("The client assertion is not a JWT with all claims"),
            Self::WrongAlgorithm => client("The client assertion is not signed as PS384"),
            Self::WrongAssertionSignature => client("The client assertion has a wrong signature"),
            Self::WrongIssuer => client("The client is unknown"),
            Self::WrongAudience => client("The client assertion is meant for somebody else"),
            Self::WrongTime => client("The client assertion has expired or lives too long"),
            Self::AssertionRepeated => client("The client assertion was used before"),
        }
    }
}

/// Access tokens since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TokenTotals {
    pub issued: u64,
    /// Neither expired nor revoked.
    pub live: usize,
    pub max_live: usize,
}

/// The access tokens that are alive, and the assertions that were used.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// With the time each expires; nothing if it doesn't.
    live: BTreeMap<String, Option<Timestamp>>,
    /// `jti` and `exp`, until that is past.
    assertions: BTreeMap<String, i64>,
    issued: u64,
    max_live: usize,
}

impl Tokens {
    fn issue(&mut self, life: Option<Duration>, now: Timestamp, rng: &mut StdRng) -> String {
        self.forget_expired(now);
        let token = format!("simulated-access-token-{:032x}", rng.random::<u128>());
        self.live.insert(token.clone(), life.map(|life| now.plus(life)));
        self.issued += 1;
        self.max_live = self.max_live.max(self.live.len());
        token
    }

    pub(super) fn is_live(&self, token: &str, now: Timestamp) -> bool {
        self.live.get(token).is_some_and(|expiry| expiry.is_none_or(|expiry| now < expiry))
    }

    pub(super) fn revoke_all(&mut self) {
        self.live.clear();
    }

    pub(super) fn totals(&mut self, now: Timestamp) -> TokenTotals {
        self.forget_expired(now);
        TokenTotals { issued: self.issued, live: self.live.len(), max_live: self.max_live }
    }

    fn forget_expired(&mut self, now: Timestamp) {
        self.live.retain(|_, expiry| expiry.is_none_or(|expiry| now < expiry));
    }

    fn use_up(&mut self, claims: Claims, now: i64) -> Result<(), TokenRefusal> {
        self.assertions.retain(|_, exp| *exp > now);
        match self.assertions.insert(claims.jti, claims.exp) {
            None => Ok(()),
            Some(_) => Err(TokenRefusal::AssertionRepeated),
        }
    }
}

/// Whether a token may be given for this request; its assertion is used up by it.
pub(super) async fn admit<B>(world: &World, head: &Parts, body: B) -> Result<(), TokenRefusal>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|_| TokenRefusal::NotATokenRequest)?.to_bytes();
    let fields = form(head, &body).ok_or(TokenRefusal::NotATokenRequest)?;
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    if field("grant_type") != "client_credentials"
        || field("client_assertion_type")
            != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    {
        return Err(TokenRefusal::NotATokenRequest);
    }
    let now = world.api_time().as_millis().div_euclid(1_000);
    let claims = verified(world, head, field("client_assertion"), now)?;
    if !field("scope").split(' ').any(|scope| scope == SCOPE) {
        return Err(TokenRefusal::WrongScope);
    }
    world.state().tokens.use_up(claims, now)
}

/// A new token, for a request that was admitted.
pub(super) fn answer(world: &World) -> Reply {
    #[derive(Serialize)]
    struct Given {
        access_token: String,
        token_type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_in: Option<u64>,
        scope: &'static str,
    }
    let access_token = {
        let now = world.now();
        let state = &mut *world.state();
        state.tokens.issue(world.token_life, now, &mut state.rng)
    };
    let expires_in = world.token_life.map(|life| life.as_secs());
    let given = Given { access_token, token_type: "Bearer", expires_in, scope: SCOPE };
    Reply::json(StatusCode::OK, answer::json(&given))
}

/// The fields of a form, each given once.
fn form(head: &Parts, body: &Bytes) -> Option<BTreeMap<String, String>> {
    let kind = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    if kind.split(';').next()?.trim() != "application/x-www-form-urlencoded" {
        return None;
    }
    let mut fields = BTreeMap::new();
    for pair in std::str::from_utf8(body).ok()?.split('&') {
        let (name, value) = pair.split_once('=')?;
        if fields.insert(decoded(name)?, decoded(value)?).is_some() {
            return None;
        }
    }
    Some(fields)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let [high, low] = [rest.next()?, rest.next()?].map(|c| char::from(c).to_digit(16));
                u8::try_from(high? * 16 + low?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    jti: String,
    iat: i64,
    exp: i64,
}

fn verified(
    world: &World,
    head: &Parts,
    assertion: &str,
    now: i64,
) -> Result<Claims, TokenRefusal> {
    let malformed = TokenRefusal::NotAnAssertion;
    let (signed, signature) = assertion.rsplit_once('.').ok_or(malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(malformed)?;
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed)?;
    let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| malformed)?;
    if header.alg != "PS384" || header.typ != "JWT" {
        return Err(TokenRefusal::WrongAlgorithm);
    }
    if let Some(key) = &world.gate.public_key {
        let signature = decode(signature)?;
        if !key.verifies_ps384(signed.as_bytes(), &signature) {
            return Err(TokenRefusal::WrongAssertionSignature);
        }
    }
    let client = format!("sdk:{}", world.gate.sdk_id);
    if claims.iss != client || claims.sub != client {
        return Err(TokenRefusal::WrongIssuer);
    }
    if Some(claims.aud.as_str()) != own_url(head).as_deref() {
        return Err(TokenRefusal::WrongAudience);
    }
    let expires = now + 1..=now + ASSERTION_LIFE_SECONDS;
    let issued = now - ASSERTION_LIFE_SECONDS..=now;
    if !expires.contains(&claims.exp) || !issued.contains(&claims.iat) {
        return Err(TokenRefusal::WrongTime);
    }
    if claims.jti.parse::<Uuid>().is_err() {
        return Err(malformed);
    }
    Ok(claims)
}

/// The URL that a request came to, by the name the client has for this machine.
fn own_url(head: &Parts) -> Option<String> {
    let of_uri = head.uri.authority().map(http::uri::Authority::as_str);
    let host = of_uri.or_else(|| head.headers.get(header::HOST)?.to_str().ok())?;
    Some(format!("http://{host}{PATH}"))
}
