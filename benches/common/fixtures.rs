//! Sessions, and what the API says of them.

use std::time::Duration;

use ibvwatch::domain::{
    Entry, Exchange, Labels, Listed, Observation, SessionId, Snapshot, Timestamp,
};

/// As the API's documentation composes it: four resources in 3.9 kB.
const BODY: &str = include_str!("../../tests/data/yoti/config_04_same_id_four_resources.json");
const SAMPLE_SESSION: &str = "661b0309-c5d4-4348-a275-1c5b5b98ccea";
const SAMPLE_RESOURCE: &str = "07c4abc0-030c-4091-8860-59f00aedc575";
/// As the body lists them.
const KINDS: [&str; 4] =
    ["ID_DOCUMENT", "SUPPLEMENTARY_DOCUMENT", "FACE_CAPTURE", "APPLICANT_PROFILE"];
pub(crate) const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// Ids in the order of their numbers are in no order.
pub(crate) fn session_id(n: u64) -> SessionId {
    let high = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let low = high.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ n;
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    SessionId::from_bytes(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
}

pub(crate) fn entry(n: u64) -> Entry {
    let pairs = [("case", format!("A-{n}")), ("branch", format!("branch {}", n % 500))];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
    let labels = Labels::new(pairs.into()).expect("labels");
    Entry { session_id: session_id(n), labels, expires_at: None, interval: None }
}

/// A good answer with four resources, the first of which is in that state, and a month to go.
pub(crate) fn answer(id: SessionId, first: &str) -> Observation {
    answer_with(id, first, MONTH)
}

pub(crate) fn answer_with(id: SessionId, first: &str, ttl: Duration) -> Observation {
    let resource = |(n, kind): (usize, &&str)| {
        let state = if n == 0 { first } else { "REQUIRED" };
        Listed::new(Some(kind), Some(&resource_id(id, n)), Some(state))
    };
    let resources: Vec<_> = KINDS.iter().enumerate().map(resource).collect();
    Observation::Configuration(Snapshot { ttl: Some(ttl), listing: resources.into() })
}

/// Each of a session's resources has the session's id, but for one digit.
fn resource_id(session: SessionId, n: usize) -> String {
    let session = session.to_string();
    format!("{}{n}", &session[..session.len() - 1])
}

pub(crate) fn exchange(now: Timestamp) -> Exchange {
    Exchange { sent: now.minus(Duration::from_millis(50)), arrived: now, outage: false }
}

/// A good answer as it is sent.
pub(crate) fn body(id: SessionId, seconds_left: u64, first: &str) -> String {
    let ttl = format!("\"client_session_token_ttl\": {seconds_left}");
    let body = BODY.replace("\"client_session_token_ttl\": 599", &ttl);
    let body = body.replace(SAMPLE_SESSION, &id.to_string());
    let mut parts = body.split(SAMPLE_RESOURCE);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for (n, part) in parts.enumerate() {
        whole.push_str(&resource_id(id, n));
        whole.push_str(part);
    }
    whole.replacen("\"state\": \"REQUIRED\"", &format!("\"state\": \"{first}\""), 1)
}
