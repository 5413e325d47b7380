//! Laws of what the API sends, for `crate::fuzzing`.

use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use http::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::answer::Head;
use super::auth::Scheme;
use super::fingerprint::Recognizer;
use super::state_scan::StateScan;
use super::wire;
use crate::domain::{
    Fingerprint, Listing, Observation, Policy, Problem, SessionId, Snapshot, Timestamp, is_visible,
};

/// A body, as the answer of every endpoint. `{}` in it stands for the session that is asked for.
pub(crate) fn api_body(data: &[u8]) {
    let (&chunk, body) = data.split_first().unwrap_or((&0, &[]));
    let asked = SessionId::from_bytes([7; 16]);
    if let Ok(read) = wire::configuration(body, asked) {
        assert!(read.resources.len() <= 100, "{} resources", read.resources.len());
        for listed in &read.resources {
            let longest = [listed.kind.len(), listed.id.len(), listed.state.as_str().len()];
            assert!(longest.iter().all(|&bytes| bytes <= 256), "{listed:?}");
        }
        // What is skipped need not be UTF-8.
        let text = String::from_utf8_lossy(body);
        assert!(text.to_lowercase().contains(&asked.to_string()) || text.contains('\\'));
    }
    known_again(body, asked);
    refusals(body);

    let whole = scanned([body]);
    assert_eq!(scanned(body.chunks(usize::from(chunk) + 1)), whole, "chunks make a difference");
    if let Some(states) = states(body) {
        // Of several, the scan takes the first, long before it could see the others.
        let expected = states.first().and_then(|state| state.as_str().map(str::to_owned));
        let short = |text: &String| text.len() < 40;
        if expected.as_ref().is_none_or(short) {
            assert_eq!(whole, expected, "{states:?}");
        }
    }
}

/// Whatever was read and has a fingerprint says the same when it comes again.
fn known_again(body: &[u8], asked: SessionId) {
    let recognizer = Recognizer::default();
    let Ok(snapshot) = recognizer.read(body, asked, None) else { return };
    let Some(fingerprint) = snapshot.listing.fingerprint() else { return };
    let again = recognizer.read(body, asked, Some(fingerprint));
    assert_eq!(again, Ok(Snapshot { ttl: snapshot.ttl, listing: Listing::Same }));
}

/// For benches: reads configurations as they were sent.
#[derive(Debug, Default)]
pub struct Reader(Recognizer);

impl Reader {
    /// Nothing where the body makes no sense.
    #[must_use]
    pub fn read(&self, body: &[u8], id: SessionId, known: Option<Fingerprint>) -> Option<Snapshot> {
        self.0.read(body, id, known).ok()
    }
}

fn scanned<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let mut scan = StateScan::default();
    for chunk in chunks {
        match scan.feed(chunk) {
            Ok(None) => {}
            Ok(found) => return found,
            Err(_) => return None,
        }
    }
    None
}

/// Every `state` of the outermost object, if the body is one that serde reads.
fn states(body: &[u8]) -> Option<Vec<Value>> {
    struct States;

    impl<'de> Visitor<'de> for States {
        type Value = Vec<Value>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Value>, A::Error> {
            let mut states = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                if name == "state" {
                    states.push(value);
                }
            }
            Ok(states)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let states = (&mut deserializer).deserialize_map(States).ok()?;
    deserializer.end().ok().map(|()| states)
}

/// What is said of a refusal is fit to be shown, whatever the body.
fn refusals(body: &[u8]) {
    let now = Timestamp::from_millis(1_795_428_930_123);
    for status in [400, 401, 403, 404, 409, 418, 429, 500, 503, 302, 204] {
        let status = StatusCode::from_u16(status).expect("a status");
        let head = Head::read(status, &HeaderMap::new(), now);
        for scheme in [Scheme::SignedRequest, Scheme::Bearer] {
            let observation = head.refusal(body, scheme);
            showable(observation.problem().expect("a refusal says what is wrong"));
        }
    }
}

fn showable(problem: &Problem) {
    let shown = problem.to_string();
    assert!(shown.chars().all(is_visible) && shown.len() < 1_500, "{shown:?}");
}

/// The values of `Retry-After`, `Date` and `x-request-id`, each up to a line feed.
pub(crate) fn headers(data: &[u8]) {
    let mut values = data.split(|&byte| byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [RETRY_AFTER, DATE, HeaderName::from_static("x-request-id")] {
        if let Some(value) = values.next().and_then(|value| HeaderValue::from_bytes(value).ok()) {
            headers.append(name, value);
        }
    }
    let now = Timestamp::from_millis(1_795_428_930_123);
    let head = Head::read(StatusCode::TOO_MANY_REQUESTS, &headers, now);
    let observation = head.refusal(b"", Scheme::SignedRequest);
    showable(observation.problem().expect("a refusal says what is wrong"));
    let Observation::RateLimited { problem, retry_after } = observation else {
        panic!("429 means {observation:?}");
    };
    if let Some(id) = &problem.request_id {
        assert!(id.is_ascii() && (1..=64).contains(&id.len()), "{id:?}");
    }
    assert!(retry_after.is_none_or(|wait| wait <= Policy::RETRY_AFTER_MAX), "{retry_after:?}");
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(Ok(seconds)) = text(RETRY_AFTER).map(|value| value.trim().parse::<u32>())
        && text(RETRY_AFTER).is_some_and(|value| !value.contains('+'))
    {
        let wait = Duration::from_secs(seconds.into()).min(Policy::RETRY_AFTER_MAX);
        assert_eq!(retry_after, Some(wait));
    }
    if let Some(Ok(date)) = text(DATE).map(httpdate::parse_http_date)
        && let Ok(since) = date.duration_since(UNIX_EPOCH)
    {
        let told = Timestamp::from_millis(0).plus(since);
        let ahead = told.as_millis() - now.as_millis();
        assert_eq!(head.server_ahead_seconds, Some(ahead / 1_000));
    }
}
