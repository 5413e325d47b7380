//! The API: answers by the truth, unless something is wrong with it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::plan::{At, SECOND, Trouble};
use super::truth::problem;
use super::world::World;
use crate::domain::{Fingerprint, Listed, Listing, Observation, ProblemKind, SessionId, Snapshot};
use crate::yoti::SessionApi;

#[derive(Clone)]
pub(super) struct Api(pub(super) Arc<World>);

/// A client's total deadline.
const TIMEOUT: At = 10 * SECOND;

/// How a request fares: how long until it is looked at, how long the answer takes, and what it is
/// unless it is the truth, which may be some time old.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) there: Duration,
    pub(super) back: Duration,
    pub(super) instead: Option<Observation>,
    pub(super) old: At,
}

impl SessionApi for Api {
    async fn configuration(&self, id: SessionId) -> Observation {
        self.configuration_since(id, None).await
    }

    async fn configuration_since(&self, id: SessionId, known: Option<Fingerprint>) -> Observation {
        self.0.pass("ask").await;
        self.0.asked(id);
        let observation = self.answer(id, true).await;
        self.0.answered(id, &observation);
        let observation = unless_known(observation, known);
        if let Observation::Configuration(Snapshot { listing: Listing::Same, .. }) = observation {
            self.0.state().cover("answer known again");
        }
        observation
    }

    async fn session_state(&self, id: SessionId) -> Observation {
        self.0.pass("ask state").await;
        self.0.state_asked(id);
        let observation = self.answer(id, false).await;
        self.0.state_answered(id, &observation);
        observation
    }
}

impl Api {
    async fn answer(&self, id: SessionId, configuration: bool) -> Observation {
        let fate = self.0.fate();
        sleep(fate.there).await;
        let observation = match fate.instead {
            Some(observation) => observation,
            None => self.0.truth(id, configuration, fate.old),
        };
        sleep(fate.back).await;
        self.0.pass("answer").await;
        observation
    }
}

/// Leaves out what is known already.
fn unless_known(observation: Observation, known: Option<Fingerprint>) -> Observation {
    let Observation::Configuration(Snapshot { ttl, listing: Listing::Read { resources, .. } }) =
        observation
    else {
        return observation;
    };
    let mut hasher = DefaultHasher::new();
    for Listed { kind, id, state } in &resources {
        (kind, id, state).hash(&mut hasher);
    }
    let fingerprint = Some(Fingerprint::of(hasher.finish()));
    let listing =
        if fingerprint == known { Listing::Same } else { Listing::Read { resources, fingerprint } };
    Observation::Configuration(Snapshot { ttl, listing })
}

/// What comes back where nothing but that is wrong.
pub(super) fn instead(trouble: Trouble) -> Option<(Observation, At)> {
    let said = |kind, status| (problem(kind, status), 80);
    Some(match trouble {
        Trouble::Unreachable => {
            (Observation::Unreachable(problem(ProblemKind::Unreachable, None)), 5)
        }
        Trouble::TimedOut => {
            (Observation::Unreachable(problem(ProblemKind::Unreachable, None)), TIMEOUT)
        }
        Trouble::ServerError(retry_after) => {
            let (problem, takes) = said(ProblemKind::ServerError, Some(503));
            (Observation::ServerError { problem, retry_after }, takes)
        }
        Trouble::Unauthorized => {
            let (problem, takes) = said(ProblemKind::Unauthorized, Some(401));
            (Observation::Unauthorized(problem), takes)
        }
        Trouble::ClockSkew => {
            let (problem, takes) = said(ProblemKind::ClockSkew, Some(401));
            (Observation::Unauthorized(problem), takes)
        }
        Trouble::RateLimited(retry_after) => {
            let (problem, takes) = said(ProblemKind::RateLimited, Some(429));
            (Observation::RateLimited { problem, retry_after }, takes)
        }
        Trouble::Garbage => {
            let (problem, takes) = said(ProblemKind::Malformed, Some(200));
            (Observation::Malformed(problem), takes)
        }
        Trouble::Throttled(_)
        | Trouble::Flicker
        | Trouble::Late
        | Trouble::DiskFull
        | Trouble::DiskSlow
        | Trouble::SinkFails(_)
        | Trouble::SinkSlow(_) => return None,
    })
}
