//! The token endpoint: asks for one access token, and says in the domain's words what came back
//! where it is none.

use std::time::Duration;

use http::HeaderValue;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::domain::{Observation, Problem, ProblemKind};

use super::answer::Head;
use super::auth::unsigned;
use super::bearer::Bearer;
use super::secret::Secret;
use super::server::{Answer, Body, Server};
use super::text;
use super::wire::{as_text, object, reason, seconds};

/// Largest answer taken, in bytes. A token that large fits no header.
const LARGEST: u64 = 64 * 1024;
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

pub(super) struct TokenEndpoint {
    pub(super) server: Server,
    bearer: Bearer,
}

/// An access token as it was given.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) value: Secret<String>,
    /// `expires_in`, where it was stated and makes sense.
    pub(super) life: Option<Duration>,
}

impl TokenEndpoint {
    pub(super) const fn new(server: Server, bearer: Bearer) -> Self {
        Self { server, bearer }
    }

    pub(super) async fn ask(&self, clock: &dyn Clock) -> Result<Grant, Observation> {
        let deadline = self.server.deadline();
        let form = self.bearer.form(Uuid::new_v4(), clock.now().wall).map_err(unsigned)?;
        let request = self
            .server
            .http
            .post(self.bearer.token_url().as_str())
            .header(CONTENT_TYPE, FORM)
            .body(form.expose().clone());
        let answer = self.server.send(request, deadline, clock).await?;
        tracing::debug!(status = answer.head.status.as_u16(), "the token endpoint answered");
        if answer.head.status == StatusCode::OK {
            grant_in(answer).await
        } else {
            Err(refused(answer).await)
        }
    }
}

#[derive(Deserialize)]
struct TokenBody<'a> {
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    #[serde(borrow)]
    token_type: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_in: Option<&'a RawValue>,
}

async fn grant_in(mut answer: Answer<'_>) -> Result<Grant, Observation> {
    let read = match answer.body::<Zeroizing<Vec<u8>>>(LARGEST).await {
        Ok(Body::Whole(body)) => grant(&body),
        Ok(Body::TooLarge) => Err("is larger than any token"),
        Err(failure) => return Err(answer.broken(failure)),
    };
    read.map_err(|fault| {
        let message = format!("the token endpoint's answer {fault}; check api.auth.token_url");
        // Without a token no session can be asked about: none of them is to blame.
        Observation::Unauthorized(answer.head.problem(ProblemKind::Unauthorized, message))
    })
}

fn grant(body: &[u8]) -> Result<Grant, &'static str> {
    let body: TokenBody = object(body).map_err(|_| "is no JSON object")?;
    let kind = body.token_type.and_then(as_text);
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("holds a token of another type than Bearer");
    }
    let is_string = |value: &&RawValue| value.get().starts_with('"');
    let value = body.access_token.filter(is_string).and_then(as_text).map(Secret::new);
    let value = value.ok_or("holds no access_token")?;
    let visible = value.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if value.expose().is_empty() || !visible {
        return Err("holds an access_token that fits no header");
    }
    let life = body.expires_in.and_then(seconds).filter(|life| !life.is_zero());
    Ok(Grant { value, life })
}

async fn refused(mut answer: Answer<'_>) -> Observation {
    let body = answer.beginning().await;
    refusal(&answer.head, &body)
}

/// What any answer but 200 means.
fn refusal(head: &Head, body: &[u8]) -> Observation {
    let (code, words) = oauth_reason(body);
    let words = words.map_or(String::new(), |words| format!(": {words}"));
    let problem =
        |kind, message: String| Problem { code: code.clone(), ..head.problem(kind, message) };
    let elsewhere = |message: &str| {
        Observation::Unauthorized(problem(ProblemKind::Unauthorized, message.to_owned()))
    };
    match head.status.as_u16() {
        400 | 401 | 403 => {
            let refused = format!("the token endpoint refused to give an access token{words}");
            Observation::Unauthorized(match head.clock_skew() {
                Some(skew) => problem(ProblemKind::ClockSkew, format!("{refused}; {skew}")),
                None => problem(
                    ProblemKind::Unauthorized,
                    format!(
                        "{refused}; check api.sdk_id, api.auth.private_key_file, api.auth.scopes and api.auth.token_url"
                    ),
                ),
            })
        }
        408 => Observation::Unreachable(problem(
            ProblemKind::Unreachable,
            format!("the token endpoint timed out waiting for the request{words}"),
        )),
        429 => Observation::RateLimited {
            problem: problem(
                ProblemKind::RateLimited,
                format!(
                    "the token endpoint asks for fewer requests{words}; see that nothing else asks for tokens with this api.sdk_id"
                ),
            ),
            retry_after: head.retry_after,
        },
        500..=599 => Observation::ServerError {
            problem: problem(ProblemKind::ServerError, format!("the token endpoint failed{words}")),
            retry_after: head.retry_after,
        },
        300..=399 => elsewhere(
            "the token endpoint redirects to another address, which is not followed; check api.auth.token_url",
        ),
        _ => {
            elsewhere("what answered does not look like a token endpoint; check api.auth.token_url")
        }
    }
}

/// `error` and `error_description` as OAuth has them, or the form that the API itself uses.
fn oauth_reason(body: &[u8]) -> (Option<String>, Option<String>) {
    #[derive(Deserialize)]
    struct ErrorBody<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        error_description: Option<&'a RawValue>,
    }
    let yoti = reason(body);
    let Ok(body) = object::<ErrorBody>(body) else { return (yoti.code, yoti.words) };
    let [error, description] =
        [body.error, body.error_description].map(|field| field.and_then(as_text));
    (
        error.as_deref().and_then(text::identifier).or(yoti.code),
        description.as_deref().and_then(text::one_line).or(yoti.words),
    )
}
