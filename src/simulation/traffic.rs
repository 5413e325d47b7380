//! What requests may go out: the budget, and none but a probe while the API can't be used.

use std::collections::BTreeSet;
use std::time::Duration;

use super::plan::{At, millis};
use crate::config::Limits;
use crate::domain::{Observation, Policy, SessionId};

#[derive(Debug)]
pub(super) struct Traffic {
    limits: Limits,
    /// Requests that the budget still has to make up for.
    level: f64,
    at: At,
    /// Failures in a row that are the API's, and whose.
    failures: u32,
    failing: BTreeSet<SessionId>,
    pub(super) pause: Option<Pause>,
}

/// A time in which polls pause.
#[derive(Debug)]
pub(super) struct Pause {
    told: bool,
    failures: u32,
    probe: Option<SessionId>,
    /// No probe before the API wants one.
    not_before: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Open,
    Probe,
    /// It may be polled no more, and must be given back.
    Barred,
}

/// What is to be told of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Unavailable,
    Available,
}

impl Traffic {
    /// Of a process that begins; `unavailable` if that is what was told last.
    pub(super) fn new(limits: Limits, unavailable: bool, at: At) -> Self {
        let pause = Pause { told: true, failures: 0, probe: None, not_before: 0 };
        Self {
            limits,
            level: 0.0,
            at,
            failures: 0,
            failing: BTreeSet::new(),
            pause: unavailable.then_some(pause),
        }
    }

    /// New limits come with a full bucket.
    pub(super) fn limit(&mut self, limits: Limits, at: At) {
        if limits != self.limits {
            (self.limits, self.level, self.at) = (limits, 0.0, at);
        }
    }

    pub(super) fn requested(&mut self, at: At) {
        let passed = Duration::from_millis(at - self.at).as_secs_f64();
        self.level = (self.level - passed * self.limits.rate).max(0.0) + 1.0;
        self.at = at;
        assert!(
            self.level <= f64::from(self.limits.burst) + 0.01,
            "more requests than {:?} allow",
            self.limits
        );
    }

    pub(super) fn leased(&mut self, id: SessionId, at: At) -> Pass {
        match &mut self.pause {
            None => Pass::Open,
            Some(pause) if pause.probe.is_none() && at >= pause.not_before => {
                pause.probe = Some(id);
                Pass::Probe
            }
            Some(_) => Pass::Barred,
        }
    }

    pub(super) fn released(&mut self, id: SessionId) {
        if let Some(pause) = self.pause.as_mut().filter(|pause| pause.probe == Some(id)) {
            pause.probe = None;
        }
    }

    /// Takes up the last word of a poll, while so many sessions are being polled.
    pub(super) fn answered(
        &mut self,
        id: SessionId,
        word: &Observation,
        live: usize,
        at: At,
    ) -> Option<Turn> {
        let condition = match word {
            Observation::Unauthorized(_) | Observation::Unreachable(_) => Some(None),
            Observation::RateLimited { retry_after, .. }
            | Observation::ServerError { retry_after, .. } => Some(*retry_after),
            // It says nothing of the API.
            Observation::Malformed(_) => None,
            Observation::Configuration(_)
            | Observation::Ongoing
            | Observation::Completed
            | Observation::Expired
            | Observation::NotReady(_)
            | Observation::NotFound(_) => return self.works(id),
        };
        let wait = condition.flatten().unwrap_or_default().min(Policy::RETRY_AFTER_MAX);
        let until = at + millis(wait);
        match &mut self.pause {
            None => {
                condition?;
                self.failures += 1;
                if self.failing.len() < 3 {
                    self.failing.insert(id);
                }
                let many = self.failures >= 3 && self.failing.len() >= live.clamp(1, 3);
                let limited = matches!(word, Observation::RateLimited { .. });
                if many || limited {
                    let pause = Pause { told: many, failures: 0, probe: None, not_before: until };
                    self.pause = Some(pause);
                }
                many.then_some(Turn::Unavailable)
            }
            Some(pause) if pause.probe == Some(id) => {
                pause.probe = None;
                pause.failures += 1;
                pause.not_before = until;
                (!std::mem::replace(&mut pause.told, true)).then_some(Turn::Unavailable)
            }
            Some(pause) if pause.probe.is_some() => None,
            Some(pause) => {
                pause.not_before = pause.not_before.max(until);
                let late = pause.failures > 0 && !pause.told;
                pause.told |= late;
                late.then_some(Turn::Unavailable)
            }
        }
    }

    fn works(&mut self, id: SessionId) -> Option<Turn> {
        self.failing.clear();
        self.failures = 0;
        // One that was asked before the pause says nothing about now.
        let over = self.pause.take_if(|pause| pause.probe == Some(id))?;
        over.told.then_some(Turn::Available)
    }
}
