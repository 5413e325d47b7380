//! What can go wrong between a client and the API, on demand.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::traffic::Endpoint;
use crate::domain::SessionId;

/// Something that goes wrong with requests: with all of them, or with those it is narrowed to.
///
/// Requests are verified and counted before a fault befalls them: a nonce sent twice is
/// refused even if nobody answered the first time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub session: Option<SessionId>,
    pub endpoint: Option<Endpoint>,
    /// How many more requests it befalls; without end if left out.
    pub times: Option<u32>,
    /// Of befalling a request that it matches.
    #[serde(default = "certain")]
    pub probability: f64,
    pub effect: Effect,
}

const fn certain() -> f64 {
    1.0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// An answer of that status: with the documented body for it, or with `body`.
    Status {
        status: u16,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        body: Option<String>,
    },
    /// Answers late, and otherwise as if nothing were.
    Delay { millis: u64 },
    /// Never answers.
    Hang,
    /// Promises the whole body and closes the connection after so many bytes of it.
    Truncate { bytes: usize },
    /// 200 with random bytes.
    Garbage { bytes: usize },
    /// 502 with the HTML page of a proxy.
    Html,
    /// The true answer, followed by white space up to that length, which isn't stated.
    Huge { bytes: u64 },
    /// 302 to `location`.
    Redirect { location: String },
    /// A TCP reset in place of an answer.
    Reset,
    /// The true answer, slowly.
    Drip { bytes_per_second: u32 },
    /// The configuration of another session.
    WrongSession,
    /// 200 with some thousandth of that, which unpacks to so many bytes of white space. Says that
    /// it is packed, whether or not that was asked for.
    GzipBomb { bytes: u64 },
    /// The true answer, but for the state of each resource, which is drawn anew.
    Flicker,
}

impl Effect {
    /// An error of that status with the body documented for it.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Status { status, headers: BTreeMap::new(), body: None }
    }

    /// 429 with that `Retry-After`: seconds or an HTTP date.
    #[must_use]
    pub fn retry_after(value: &str) -> Self {
        let headers = BTreeMap::from([("retry-after".to_owned(), value.to_owned())]);
        Self::Status { status: 429, headers, body: None }
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Delay { .. } => "delay",
            Self::Hang => "hang",
            Self::Truncate { .. } => "truncate",
            Self::Garbage { .. } => "garbage",
            Self::Html => "html",
            Self::Huge { .. } => "huge",
            Self::Redirect { .. } => "redirect",
            Self::Reset => "reset",
            Self::Drip { .. } => "drip",
            Self::WrongSession => "wrong_session",
            Self::GzipBomb { .. } => "gzip_bomb",
            Self::Flicker => "flicker",
        }
    }
}

impl Fault {
    /// Befalls every request until it is cleared.
    #[must_use]
    pub const fn new(effect: Effect) -> Self {
        Self { session: None, endpoint: None, times: None, probability: certain(), effect }
    }

    #[must_use]
    pub const fn on(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    #[must_use]
    pub const fn at(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Anything outside of 0 to 1 is taken for the nearer of the two.
    #[must_use]
    pub const fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    fn matches(&self, endpoint: Endpoint, session: Option<SessionId>) -> bool {
        self.times != Some(0)
            && self.endpoint.is_none_or(|wanted| wanted == endpoint)
            && self.session.is_none_or(|wanted| Some(wanted) == session)
    }
}

/// A fault that was set, to clear it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FaultId(u64);

#[derive(Debug, Default)]
pub(super) struct Faults {
    set: BTreeMap<FaultId, Fault>,
    last: u64,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) -> FaultId {
        self.last += 1;
        let id = FaultId(self.last);
        self.set.insert(id, fault);
        id
    }

    pub(super) fn remove(&mut self, id: FaultId) {
        self.set.remove(&id);
    }

    pub(super) fn clear(&mut self) {
        self.set.clear();
    }

    pub(super) fn all(&self) -> Vec<Fault> {
        self.set.values().cloned().collect()
    }

    /// What befalls a request: all delays in the order they were set, then at most one other.
    pub(super) fn draw(
        &mut self,
        endpoint: Endpoint,
        session: Option<SessionId>,
        rng: &mut StdRng,
    ) -> Vec<Effect> {
        let mut drawn = Vec::new();
        for fault in self.set.values_mut() {
            let probability = fault.probability.clamp(0.0, 1.0);
            if !fault.matches(endpoint, session) || rng.random::<f64>() >= probability {
                continue;
            }
            fault.times = fault.times.map(|times| times - 1);
            drawn.push(fault.effect.clone());
            if !matches!(fault.effect, Effect::Delay { .. }) {
                break;
            }
        }
        self.set.retain(|_, fault| fault.times != Some(0));
        drawn
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const ID: SessionId = SessionId::from_bytes([7; 16]);

    #[test]
    fn a_fault_befalls_only_what_it_is_narrowed_to_and_only_so_often() {
        let mut rng = StdRng::seed_from_u64(0);
        let mut faults = Faults::default();
        faults.add(Fault::new(Effect::Hang).on(ID).at(Endpoint::Configuration).times(2));
        let mut draw = |endpoint, id| faults.draw(endpoint, id, &mut rng);
        assert_eq!(draw(Endpoint::Session, Some(ID)), []);
        assert_eq!(draw(Endpoint::Configuration, None), []);
        assert_eq!(draw(Endpoint::Configuration, Some(ID)), [Effect::Hang]);
        assert_eq!(draw(Endpoint::Configuration, Some(ID)), [Effect::Hang]);
        assert_eq!(draw(Endpoint::Configuration, Some(ID)), []);
    }

    #[test]
    fn delays_add_up_before_the_first_other_effect() {
        let mut rng = StdRng::seed_from_u64(0);
        let mut faults = Faults::default();
        let delay = Effect::Delay { millis: 5 };
        for effect in [delay.clone(), Effect::Hang, Effect::Html] {
            faults.add(Fault::new(effect));
        }
        assert_eq!(faults.draw(Endpoint::Session, None, &mut rng), [delay, Effect::Hang]);
    }

    #[test]
    fn a_probability_is_kept_to() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut faults = Faults::default();
        faults.add(Fault::new(Effect::Html).with_probability(0.25));
        let hit = (0..4_000)
            .filter(|_| !faults.draw(Endpoint::Session, None, &mut rng).is_empty())
            .count();
        assert!((900..1_100).contains(&hit), "{hit} of 4000");
        faults.clear();
        faults.add(Fault::new(Effect::Html).with_probability(f64::NAN));
        assert!(faults.draw(Endpoint::Session, None, &mut rng).len() <= 1);
    }

    #[test]
    fn a_fault_is_read_from_json_as_it_is_written() {
        let text = r#"{"effect":{"status":{"status":429,"headers":{"retry-after":"7"}}}}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault, Fault::new(Effect::retry_after("7")));
        let written = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&written).unwrap(), fault);
        assert!(serde_json::from_str::<Fault>(r#"{"effect":"hang","time":1}"#).is_err());
    }
}
