use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::{Observation, ProblemKind, Timestamp};

use super::address::BaseUrl;
use super::answer::unsent;
use super::bearer::Bearer;
use super::key::SigningFailed;
use super::sign::Signer;
use super::tokens::{Token, Tokens};

const DIGEST: HeaderName = HeaderName::from_static("x-yoti-auth-digest");

/// How requests prove who sends them.
#[derive(Debug)]
pub enum Auth {
    SignedRequest(Signer),
    Bearer(Bearer),
}

/// [`Auth`] at work.
pub(super) enum Access {
    SignedRequest(Signer),
    Bearer(Tokens),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    SignedRequest,
    Bearer,
}

/// What is to be asked, and by when all must be over.
pub(super) struct Target<'a> {
    pub(super) base_url: &'a BaseUrl,
    pub(super) path: &'a str,
    pub(super) deadline: Instant,
}

/// Where a request goes and what it carries to be let in; both are secret, so it has no `Debug`.
pub(super) struct Authorized {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) token: Option<Arc<Token>>,
}

impl Access {
    pub(super) const fn scheme(&self) -> Scheme {
        match self {
            Self::SignedRequest(_) => Scheme::SignedRequest,
            Self::Bearer(_) => Scheme::Bearer,
        }
    }

    /// Authorizes one try of a GET; another try needs another.
    pub(super) async fn authorize(
        &self,
        target: &Target<'_>,
        now: Timestamp,
    ) -> Result<Authorized, Observation> {
        match self {
            Self::SignedRequest(signer) => signed(signer, target, now).map_err(unsigned),
            Self::Bearer(tokens) => bearing(tokens.current(target.deadline).await?, target),
        }
    }

    /// Authorizes a second try after the API has refused that token, if a second try makes sense.
    pub(super) async fn reauthorize(
        &self,
        target: &Target<'_>,
        refused: &Arc<Token>,
    ) -> Result<Option<Authorized>, Observation> {
        match self {
            Self::SignedRequest(_) => Ok(None),
            Self::Bearer(tokens) => {
                let token = tokens.instead_of(refused, target.deadline).await?;
                token.map(|token| bearing(token, target)).transpose()
            }
        }
    }

    pub(super) fn token_expires_in(&self) -> Option<Duration> {
        match self {
            Self::SignedRequest(_) => None,
            Self::Bearer(tokens) => tokens.expires_in(),
        }
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        match self {
            Self::SignedRequest(_) => {}
            Self::Bearer(tokens) => tokens.set_timeout(timeout),
        }
    }
}

fn signed(
    signer: &Signer,
    target: &Target<'_>,
    now: Timestamp,
) -> Result<Authorized, SigningFailed> {
    let path_and_query = signer.path_and_query(target.path, Uuid::new_v4(), now);
    let mut digest =
        HeaderValue::try_from(signer.digest(&path_and_query)?).map_err(|_| SigningFailed)?;
    digest.set_sensitive(true);
    Ok(Authorized {
        url: target.base_url.join(&path_and_query).ok_or(SigningFailed)?,
        headers: HeaderMap::from_iter([(DIGEST, digest)]),
        token: None,
    })
}

/// What can't be signed isn't let in, only that it needn't be sent to know.
pub(super) fn unsigned(error: SigningFailed) -> Observation {
    Observation::Unauthorized(unsent(ProblemKind::Unauthorized, &error.to_string()))
}

fn bearing(token: Arc<Token>, target: &Target<'_>) -> Result<Authorized, Observation> {
    let unusable = |what| Observation::Malformed(unsent(ProblemKind::Malformed, what));
    let value = format!("Bearer {}", token.value().expose());
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        unusable("the access token is of an unknown form; check api.auth.token_url")
    })?;
    value.set_sensitive(true);
    let url = target.base_url.join(target.path).ok_or_else(|| {
        unusable("api.base_url and the session's path make no URL; check both in the configuration")
    })?;
    Ok(Authorized {
        url,
        headers: HeaderMap::from_iter([(AUTHORIZATION, value)]),
        token: Some(token),
    })
}
