use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use uuid::Uuid;

use crate::domain::Timestamp;

use super::address::BaseUrl;
use super::key::SigningFailed;
use super::sign::Signer;

const DIGEST: HeaderName = HeaderName::from_static("x-yoti-auth-digest");

/// How requests prove who sends them.
#[derive(Debug)]
pub enum Auth {
    SignedRequest(Signer),
}

/// Where a request goes and what it carries to be let in; both are secret, so it has no `Debug`.
pub(super) struct Authorized {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
}

impl Auth {
    /// Authorizes one try of a GET; another try needs another.
    pub(super) fn authorize(
        &self,
        base_url: &BaseUrl,
        path: &str,
        now: Timestamp,
    ) -> Result<Authorized, SigningFailed> {
        match self {
            Self::SignedRequest(signer) => {
                let path_and_query = signer.path_and_query(path, Uuid::new_v4(), now);
                let mut digest = HeaderValue::try_from(signer.digest(&path_and_query)?)
                    .map_err(|_| SigningFailed)?;
                digest.set_sensitive(true);
                Ok(Authorized {
                    url: base_url.join(&path_and_query).ok_or(SigningFailed)?,
                    headers: HeaderMap::from_iter([(DIGEST, digest)]),
                })
            }
        }
    }
}
