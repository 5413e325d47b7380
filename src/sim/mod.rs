//! A simulated Yoti API on a real socket, for tests, the demo, and development.
//!
//! It knows the API from its documentation alone and shares nothing with the client that it
//! puts to the test: signatures are verified over the bytes that came, nonces and timestamps
//! are checked, and what truly happened is kept beside what was served, so that a client's
//! events can be held against it.
//!
//! ```
//! use ibvwatch::sim::{PublicKey, Requirement, Script, Session, Settings, Simulator};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> anyhow::Result<()> {
//! let (private_key_pem, public_key) = PublicKey::generate()?;
//! let mut settings = Settings::new("my-sdk-id");
//! settings.public_key = Some(public_key);
//! let simulator = Simulator::start(settings).await?;
//! let id = simulator.create(
//!     Session::requiring(Requirement::three_documents())
//!         .with_script(Script::documented_visit(3)),
//! );
//! simulator.set_state(id, 0, "IN_PROGRESS")?;
//! # drop(private_key_pem); Ok(()) }
//! ```
//!
//! # Authentication
//! A request is let in with a digest, or with a bearer token and then with no `sdkId`, `nonce` or
//! `timestamp`. Tokens come from [`Simulator::token_url`], `/v1/oauth/token` on the same socket:
//! a POST of the form that OAuth's client credentials take, with an assertion signed as PS384 by
//! the key that also signs requests. Of the assertion, `iss` and `sub` must be `sdk:` and the SDK
//! id, `aud` the URL that was asked, `exp` at most 5 minutes ahead, `iat` not ahead, and `jti` a
//! UUID that was never used. Tokens begin with `simulated-access-token-`, so that what leaks
//! them is easily found out; how long they live is [`Settings::token_life`].
//!
//! # Control by HTTP
//! The same socket answers below `/_sim/`, in JSON, without authentication, to loopback alone:
//!
//! ```sh
//! sim=http://127.0.0.1:9000/_sim
//! curl $sim/sessions                                            # all, and how they stand
//! curl $sim/sessions -d '{"count": 20, "visit": "random", "window_seconds": 600}'
//! curl $sim/sessions -d '{"visit": "documented", "delay_seconds": 5, "ttl": 3600}'
//! curl $sim/sessions -d '{"session_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
//!                         "resources": ["ID_DOCUMENT", "LIVENESS"], "shuffled": true}'
//! curl $sim/sessions/$id/ttl -d '{"seconds": 60}'               # or null, 0, negative
//! curl $sim/sessions/$id/state -d '{"state": "COMPLETED"}'      # or EXPIRED
//! curl $sim/sessions/$id -X DELETE                              # the API answers 404
//! curl $sim/sessions/$id/resources -d '{"type": "FACE_CAPTURE"}'
//! curl $sim/sessions/$id/resources/0 -d '{"state": "COMPLETE"}'
//! curl $sim/sessions/$id/resources/0 -X DELETE                  # no longer listed
//! curl $sim/forward -d '{"seconds": 600}'                       # scripts and TTLs jump
//! curl $sim/skew -d '{"millis": 600000}'                        # the API's clock is off
//! curl $sim/faults -d '{"effect": "hang", "times": 3}'
//! curl $sim/faults -d '{"effect": {"status": {"status": 401}}}' # nobody is let in
//! curl $sim/faults -d '{"effect": {"status": {"status": 429, "headers": {"retry-after": "7"}}},
//!                       "endpoint": "configuration", "probability": 0.1}'
//! curl $sim/faults -X DELETE
//! curl $sim/history/$id                                         # what truly happened
//! curl $sim/requests                                            # who asked for what
//! curl $sim/tokens                                              # issued, live, most alive
//! curl $sim/tokens/revoke -X POST                               # 401 for every bearer token
//! ```
//!
//! The effects, as in [`Effect`]: `"hang"`, `"html"`, `"reset"`, `"wrong_session"`, `"flicker"`,
//! `{"status": {"status", "headers"?, "body"?}}`, `{"delay": {"millis"}}`,
//! `{"truncate": {"bytes"}}`, `{"garbage": {"bytes"}}`, `{"huge": {"bytes"}}`, `{"gzip_bomb": {"bytes"}}`,
//! `{"redirect": {"location"}}`, `{"drip": {"bytes_per_second"}}`. Each may be narrowed by
//! `session`, `endpoint` (`configuration`, `session`, `token`), `times` and `probability`.

mod answer;
mod api;
mod auth;
mod body;
mod control;
mod fault;
mod history;
mod reply;
mod report;
mod requirement;
mod script;
mod server;
mod session;
mod token;
mod traffic;
mod world;

pub use auth::{InvalidKey, Parameter, PublicKey, Refusal};
pub use fault::{Effect, Fault, FaultId};
pub use history::{Change, Happening};
pub use report::SECRETS;
pub use requirement::Requirement;
pub use script::{Action, Script};
pub use server::{Settings, Simulator};
pub use session::{Session, SessionState};
pub use token::{TokenRefusal, TokenTotals};
pub use traffic::{Endpoint, Exchange, Outcome, SessionTotals, Totals};
pub use world::{AfterEnd, NoSuch, Status, World};
