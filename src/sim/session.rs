//! A session as the simulated API knows it.
//!
//! Nothing runs in the background: a session is a function of the time. Whoever looks at it
//! first brings it up to date, and every step of its script is put down at the moment it fell
//! due, not the moment somebody looked. Thousands of idle sessions thus cost nothing, and a
//! test's clock decides all.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::answer;
use super::history::{Change, Happening};
use super::requirement::{Requirement, Wire};
use super::script::{Action, Script};
use crate::domain::{Resource, ResourceKey, ResourceState, SessionId, Timestamp};

/// A session to be created.
#[derive(Debug, Clone)]
pub struct Session {
    pub(super) id: Option<SessionId>,
    requirements: Vec<Requirement>,
    ttl_seconds: i64,
    script: Script,
    shuffled: bool,
}

impl Session {
    /// A session that lives for 14 days, and to which nothing happens.
    #[must_use]
    pub fn requiring(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self {
            id: None,
            requirements: requirements.into_iter().collect(),
            ttl_seconds: 14 * 24 * 60 * 60,
            script: Script::new(),
            shuffled: false,
        }
    }

    /// With this id in place of a random one. A session that already has it is replaced.
    #[must_use]
    pub fn with_id(mut self, id: SessionId) -> Self {
        self.id = Some(id);
        self
    }

    /// Whole seconds; at the end of them the session expires.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl_seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        self
    }

    #[must_use]
    pub fn with_script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Lists its resources in another order in every answer.
    #[must_use]
    pub const fn shuffled(mut self) -> Self {
        self.shuffled = true;
        self
    }
}

/// What `GET /sessions/{id}` says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SessionState {
    Ongoing,
    Completed,
    Expired,
}

#[derive(Debug)]
enum Ttl {
    /// Falls from `seconds` since `from`, and ends the session at zero.
    Falling { seconds: i64, from: Timestamp },
    /// Stated as it is, and ends nothing.
    Stated(Option<i64>),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) requirement: Requirement,
    pub(super) key: ResourceKey,
    pub(super) listed: bool,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) slots: Vec<Slot>,
    pub(super) history: Vec<Change>,
    pub(super) state: SessionState,
    pub(super) deleted: bool,
    /// Served word for word in place of the configuration.
    pub(super) body: Option<Bytes>,
    created_at: Timestamp,
    media_id: Uuid,
    ttl: Ttl,
    script: VecDeque<(Duration, Action)>,
    /// How much of the script's time was jumped over.
    skipped: Duration,
    /// No step may be put down before the last jump.
    jumped_at: Timestamp,
    shuffled: bool,
}

impl Live {
    pub(super) fn new(session: Session, now: Timestamp, rng: &mut StdRng) -> Self {
        let mut live = Self {
            id: session.id.unwrap_or_else(|| random_id(rng)),
            slots: Vec::new(),
            history: Vec::new(),
            state: SessionState::Ongoing,
            deleted: false,
            body: None,
            created_at: now,
            media_id: random_uuid(rng),
            ttl: Ttl::Falling { seconds: session.ttl_seconds, from: now },
            script: session.script.into_steps().into(),
            skipped: Duration::ZERO,
            jumped_at: now,
            shuffled: session.shuffled,
        };
        for requirement in session.requirements {
            live.push(requirement, rng);
        }
        let resources = live
            .slots
            .iter()
            .map(|slot| Resource { key: slot.key.clone(), state: slot.requirement.state.clone() })
            .collect();
        live.history.push(Change { at: now, what: Happening::Created { resources } });
        live
    }

    /// Brings the session up to date.
    pub(super) fn advance(&mut self, now: Timestamp, speed: NonZeroU32, rng: &mut StdRng) {
        while self.state == SessionState::Ongoing && !self.deleted {
            let step = self.next_step(speed).filter(|due| *due <= now);
            let expiry = self.expires_at().filter(|due| *due <= now);
            match (step, expiry) {
                (Some(due), expiry) if expiry.is_none_or(|expiry| due <= expiry) => {
                    if let Some((_, action)) = self.script.pop_front() {
                        self.apply(action, due, rng);
                    }
                }
                (_, Some(expiry)) => self.apply(Action::Expire, expiry, rng),
                (_, None) => return,
            }
        }
    }

    fn next_step(&self, speed: NonZeroU32) -> Option<Timestamp> {
        let (offset, _) = self.script.front()?;
        let wait = offset.saturating_sub(self.skipped) / speed.get();
        Some(self.created_at.plus(wait).max(self.jumped_at))
    }

    fn expires_at(&self) -> Option<Timestamp> {
        match self.ttl {
            Ttl::Falling { seconds, from } => {
                let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                Some(from.plus(left).max(self.jumped_at))
            }
            Ttl::Stated(_) => None,
        }
    }

    /// As if `by` had passed for this session, in its script and in its TTL.
    pub(super) fn jump(&mut self, by: Duration, now: Timestamp) {
        self.skipped = self.skipped.saturating_add(by);
        self.jumped_at = now;
        if let Ttl::Falling { from, .. } = &mut self.ttl {
            *from = from.minus(by);
        }
    }

    pub(super) fn set_ttl(&mut self, seconds: Option<i64>, now: Timestamp) {
        self.ttl = match seconds {
            Some(seconds) if seconds > 0 => Ttl::Falling { seconds, from: now },
            stated => Ttl::Stated(stated),
        };
    }

    /// Seconds remaining; the second that has begun counts as remaining.
    pub(super) fn ttl(&self, now: Timestamp) -> Option<i64> {
        match self.ttl {
            Ttl::Falling { seconds, from } => {
                let passed = i64::try_from(now.since(from).as_secs()).unwrap_or(i64::MAX);
                Some(seconds.saturating_sub(passed).max(0))
            }
            Ttl::Stated(seconds) => seconds,
        }
    }

    /// Does what is to happen at `at`. An action that has nothing to act on is told of and
    /// changes nothing: a script may name a resource that it never added.
    pub(super) fn apply(&mut self, action: Action, at: Timestamp, rng: &mut StdRng) {
        let happened = match action {
            Action::SetState { index, state } => self.set_state(index, state.as_str().into()),
            Action::SetAssessments { index, state } => {
                if let Some(slot) = self.slot(index) {
                    slot.requirement.assess(&state);
                }
                None
            }
            Action::Add(requirement) => {
                let slot = self.push(requirement, rng);
                let (resource, state) = (slot.key.clone(), slot.requirement.state.clone());
                Some(Happening::Added { resource, state })
            }
            Action::Remove { index } => self.slot(index).map(|slot| {
                slot.listed = false;
                let last_state = slot.requirement.state.clone();
                Happening::Removed { resource: slot.key.clone(), last_state }
            }),
            Action::Complete => {
                self.state = SessionState::Completed;
                Some(Happening::Completed)
            }
            Action::Expire => {
                self.state = SessionState::Expired;
                Some(Happening::Expired)
            }
            Action::Delete => {
                self.deleted = true;
                Some(Happening::Deleted)
            }
            Action::Extend { seconds } => {
                if let Ttl::Falling { seconds: left, .. } = &mut self.ttl {
                    *left = left.saturating_add(i64::from(seconds));
                }
                None
            }
        };
        self.history.extend(happened.map(|what| Change { at, what }));
    }

    fn set_state(&mut self, index: usize, to: ResourceState) -> Option<Happening> {
        let slot = self.slot(index)?;
        let from = slot.requirement.state.clone();
        slot.requirement.enter(to.clone());
        (from != to).then(|| Happening::StateChanged { resource: slot.key.clone(), from, to })
    }

    /// The resource of that number, if it is listed.
    fn slot(&mut self, index: usize) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(index).filter(|slot| slot.listed);
        if slot.is_none() {
            tracing::warn!(session_id = %self.id, index, "the script names a resource that isn't listed");
        }
        slot
    }

    pub(super) fn lists(&self, index: usize) -> bool {
        self.slots.get(index).is_some_and(|slot| slot.listed)
    }

    fn push(&mut self, mut requirement: Requirement, rng: &mut StdRng) -> &Slot {
        let id: Box<str> = requirement.id_or(|| random_uuid(rng)).into();
        let kind: Box<str> = requirement.type_name().into();
        let taken: Vec<u32> = self
            .slots
            .iter()
            .filter(|slot| slot.listed && slot.key.kind == kind && slot.key.id == id)
            .map(|slot| slot.key.ordinal)
            .collect();
        let ordinal = (0..u32::MAX).find(|ordinal| !taken.contains(ordinal)).unwrap_or(u32::MAX);
        let key = ResourceKey { kind, id, ordinal };
        self.slots.push(Slot { requirement, key, listed: true });
        let last = self.slots.len() - 1;
        &self.slots[last]
    }

    /// The body of `GET /sessions/{id}/configuration`, shaped like the documented examples.
    pub(super) fn configuration(&self, now: Timestamp, rng: &mut StdRng) -> Bytes {
        self.body.clone().unwrap_or_else(|| self.configuration_as(self.id, now, rng))
    }

    /// The same under another id.
    pub(super) fn configuration_as(
        &self,
        id: SessionId,
        now: Timestamp,
        rng: &mut StdRng,
    ) -> Bytes {
        let mut listed: Vec<&Requirement> =
            self.slots.iter().filter(|slot| slot.listed).map(|slot| &slot.requirement).collect();
        if self.shuffled {
            listed.shuffle(rng);
        }
        let biometric = listed.iter().any(|requirement| requirement.is_biometric());
        let created = self.created_at.floor_seconds();
        answer::json(&Configuration {
            session_id: id,
            client_session_token_ttl: self.ttl(now),
            requested_checks: [
                "IBV_VISUAL_REVIEW_CHECK",
                "DOCUMENT_SCHEME_VALIDITY_CHECK",
                "PROFILE_DOCUMENT_MATCH",
            ],
            applicant_profile: ApplicantProfile {
                media: Media { id: self.media_id, kind: "JSON", created, last_updated: created },
            },
            capture: Capture {
                required_resources: listed.into_iter().map(Requirement::wire).collect(),
                biometric_consent: if biometric { "REQUIRED" } else { "NOT_REQUIRED" },
            },
            sdk_config: SdkConfig {
                primary_colour: "#1F4E79",
                locale: "en-GB",
                hide_logo: false,
                allow_handoff: false,
            },
            track_ip_address: true,
        })
    }
}

pub(super) fn random_id(rng: &mut StdRng) -> SessionId {
    SessionId::from_bytes(*random_uuid(rng).as_bytes())
}

pub(super) fn random_uuid(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

#[derive(Serialize)]
struct Configuration<'a> {
    session_id: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_session_token_ttl: Option<i64>,
    requested_checks: [&'static str; 3],
    applicant_profile: ApplicantProfile,
    capture: Capture<'a>,
    sdk_config: SdkConfig,
    track_ip_address: bool,
}

#[derive(Serialize)]
struct ApplicantProfile {
    media: Media,
}

#[derive(Serialize)]
struct Media {
    id: Uuid,
    #[serde(rename = "type")]
    kind: &'static str,
    created: Timestamp,
    last_updated: Timestamp,
}

#[derive(Serialize)]
struct Capture<'a> {
    required_resources: Vec<Wire<'a>>,
    biometric_consent: &'static str,
}

#[derive(Serialize)]
struct SdkConfig {
    primary_colour: &'static str,
    locale: &'static str,
    hide_logo: bool,
    allow_handoff: bool,
}
