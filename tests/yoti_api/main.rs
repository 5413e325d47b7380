//! The Yoti client against servers on this machine: what it sends, and what it makes of
//! every kind of answer and of none.

#![expect(clippy::unwrap_used, reason = "clippy takes only #[test] functions for tests")]

mod answers;
mod assertion;
mod bearer;
mod failures;
mod goaway;
mod key;
mod log;
mod request;
mod server;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use ibvwatch::clock::Clock;
use ibvwatch::domain::{Now, Observation, Problem, SessionId, Timestamp};
use ibvwatch::yoti::{Auth, BaseUrl, Client, PrivateKey, Secret, SessionPath, Settings, Signer};

const SDK_ID: &str = "0f5c1d6e-sdk";
/// The key of RFC 7515, appendix A.2, which everybody knows.
const PUBLISHED_KEY: &str = include_str!("../data/yoti/rfc7515_a2.pem");
/// 2026-11-23T10:15:30.123Z
const NOW: Timestamp = Timestamp::from_millis(1_795_428_930_123);

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Now {
        Now { wall: NOW, monotonic: Duration::ZERO }
    }
}

fn id() -> SessionId {
    "3fa85f64-5717-4562-b3fc-2c963f66afa6".parse().unwrap()
}

fn published_key() -> PrivateKey {
    PrivateKey::from_pem(&Secret::new(PUBLISHED_KEY.as_bytes().to_vec())).unwrap()
}

fn settings(base_url: &str) -> Settings {
    Settings {
        base_url: BaseUrl::parse(base_url).unwrap(),
        configuration_path: SessionPath::parse("/sessions/{session_id}/configuration").unwrap(),
        session_path: Some(SessionPath::parse("/sessions/{session_id}").unwrap()),
        auth: Auth::SignedRequest(Signer::new(SDK_ID, published_key()).unwrap()),
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        max_response_size: 1 << 20,
        ca_file: None,
    }
}

fn client(settings: Settings) -> Client {
    Client::new(settings, Arc::new(StoppedClock)).unwrap()
}

/// The problem of an observation, found fit to be shown.
fn problem(observation: &Observation) -> &Problem {
    let problem = observation.problem().unwrap_or_else(|| panic!("no problem: {observation:?}"));
    let shown = format!("{problem:?} {problem}");
    for secret in ["sdkId=", SDK_ID, "nonce=", "timestamp=", "GET&", "http://", "https://"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert!(!problem.message.chars().any(char::is_control), "{shown}");
    assert!(!problem.message.is_empty() && problem.message.len() < 500, "{shown}");
    problem
}
