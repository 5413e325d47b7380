//! The Yoti API: asks about one session, and says in the domain's words what came back.
//!
//! Every answer and every failure is an [`Observation`], so nothing past this module knows of
//! HTTP, and no trouble with one request can take the daemon down. What leaves here never holds
//! the key, the digest, a URL's query, or anything of a body but resource types, ids and
//! states: text of the server's that does go on is short, one line, and cleaned.
//!
//! In reading order: where the API is (`address`), how a request is signed (`key`, `sign`) or
//! gets an access token (`bearer`, `token_endpoint`, `tokens`), which of the two it is (`auth`),
//! the request itself (`client`, `server`), and what its outcome means (`wire` for a good
//! configuration, `fingerprint` for one that is the same again, `state_scan` for a good session,
//! `answer` for any other answer, `transport` for none).

mod address;
mod answer;
mod auth;
mod bearer;
mod client;
mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod key;
mod secret;
mod server;
mod sign;
mod state_scan;
mod text;
mod token_endpoint;
mod tokens;
mod transport;
mod wire;

use std::future::Future;

use crate::domain::{Fingerprint, Observation, SessionId};

pub use address::{BaseUrl, InvalidSessionPath, InvalidUrl, SessionPath, TokenUrl};
pub use auth::Auth;
pub use bearer::{Bearer, InvalidScopes, Scopes};
pub use client::{Client, Settings};
pub use key::{KeyError, KeyFault, PrivateKey, SigningFailed};
pub use secret::Secret;
pub use server::ClientError;
pub use sign::{InvalidSdkId, Signer};

/// What can be asked about a session.
pub trait SessionApi: Send + Sync + 'static {
    /// Asks for the session's configuration: its resources, and the time it has left.
    fn configuration(&self, id: SessionId) -> impl Future<Output = Observation> + Send;

    /// The same, of a session whose last answer had that fingerprint: if this one has it as well, it
    /// need not be read.
    fn configuration_since(
        &self,
        id: SessionId,
        known: Option<Fingerprint>,
    ) -> impl Future<Output = Observation> + Send {
        let _ = known;
        self.configuration(id)
    }

    /// Asks whether the session goes on, is completed, or has expired.
    fn session_state(&self, id: SessionId) -> impl Future<Output = Observation> + Send;
}
