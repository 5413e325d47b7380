//! Everything the simulated API knows, and the strings a test or the demo pulls.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;

use super::auth::{Gate, Nonces};
use super::fault::{Effect, Fault, FaultId, Faults};
use super::history::Change;
use super::requirement::Requirement;
use super::script::{Action, Script};
use super::server::Settings;
use super::session::{self, Live, Session, SessionState};
use super::token::{TokenTotals, Tokens};
use super::traffic::{Endpoint, Exchange, SessionTotals, Totals, Traffic};
use crate::clock::Clock;
use crate::domain::{Now, ResourceState, SessionId, Timestamp};

/// What the configuration endpoint says of a session that is completed or expired: the
/// documentation doesn't tell, so a client has to live with each of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterEnd {
    /// 409 `SESSION_LOCKED` or `SESSION_EXPIRED`.
    #[default]
    Conflict,
    /// 404 `SESSION_NOT_FOUND`.
    NotFound,
    /// 200, as before.
    Configuration,
}

/// The sessions, faults and traffic of one simulated API.
pub struct World {
    pub(super) gate: Gate,
    pub(super) after_end: AfterEnd,
    pub(super) token_life: Option<Duration>,
    clock: Arc<dyn Clock>,
    epoch: Now,
    speed: NonZeroU32,
    state: Mutex<State>,
    activity: watch::Sender<()>,
}

pub(super) struct State {
    pub(super) sessions: BTreeMap<SessionId, Live>,
    pub(super) faults: Faults,
    pub(super) traffic: Traffic,
    pub(super) nonces: Nonces,
    pub(super) tokens: Tokens,
    pub(super) rng: StdRng,
    skew_millis: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSuch {
    #[error("the simulator has no session {0}; create it, or look at /_sim/sessions")]
    Session(SessionId),
    #[error("session {session} lists no resource number {index}; count from 0 as it was created")]
    Resource { session: SessionId, index: usize },
}

/// A session as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub state: SessionState,
    pub deleted: bool,
    pub ttl_seconds: Option<i64>,
    /// By number; nothing where the resource was removed.
    pub resources: Vec<Option<(String, ResourceState)>>,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let epoch = settings.clock.now();
        Self {
            gate: Gate { sdk_id: settings.sdk_id, public_key: settings.public_key },
            after_end: settings.after_end,
            token_life: settings.token_life,
            clock: settings.clock,
            epoch,
            speed: settings.speed,
            state: Mutex::new(State {
                sessions: BTreeMap::new(),
                faults: Faults::default(),
                traffic: Traffic::keeping(settings.exchanges_kept),
                nonces: Nonces::default(),
                tokens: Tokens::default(),
                rng: StdRng::seed_from_u64(settings.seed),
                skew_millis: 0,
            }),
            activity: watch::Sender::new(()),
        }
    }

    /// Time in which things happen here. Runs with the monotonic clock, so that the history is
    /// in order even where the wall clock is stepped.
    pub fn now(&self) -> Timestamp {
        self.epoch.wall.plus(self.clock.monotonic().saturating_sub(self.epoch.monotonic))
    }

    /// What the API takes the time to be: the wall clock, and the skew that was set.
    pub fn api_time(&self) -> Timestamp {
        let wall = self.clock.now().wall;
        Timestamp::from_millis(wall.as_millis().saturating_add(self.state().skew_millis))
    }

    /// Sets the API's clock off against that of the machine, for `Date` and for timestamps.
    pub fn set_skew_millis(&self, skew_millis: i64) {
        self.state().skew_millis = skew_millis;
    }

    pub fn create(&self, session: Session) -> SessionId {
        let now = self.now();
        let mut state = self.state();
        let state = &mut *state;
        let live = Live::new(session, now, &mut state.rng);
        let id = live.id;
        state.sessions.insert(id, live);
        id
    }

    /// Creates sessions of applicants drawn from the seed, who come within `window`.
    pub fn create_random(&self, count: usize, ttl: Duration, window: Duration) -> Vec<SessionId> {
        let draw = |rng: &mut StdRng| {
            let mut requirements = Requirement::three_documents();
            requirements.truncate(rng.random_range(1..=3));
            if rng.random_bool(0.3) {
                requirements.push(Requirement::face_capture());
            }
            let script = Script::random_visit(rng, requirements.len(), window);
            Session::requiring(requirements).with_ttl(ttl).with_script(script)
        };
        (0..count)
            .map(|_| {
                let session = draw(&mut self.state().rng);
                self.create(session)
            })
            .collect()
    }

    /// Ids of all sessions, the deleted ones included.
    pub fn ids(&self) -> Vec<SessionId> {
        self.state().sessions.keys().copied().collect()
    }

    /// # Errors
    /// That no such session was created.
    pub fn status(&self, id: SessionId) -> Result<Status, NoSuch> {
        self.with(id, |live, now, _| Status {
            state: live.state,
            deleted: live.deleted,
            ttl_seconds: live.ttl(now),
            resources: live
                .slots
                .iter()
                .map(|slot| {
                    let shown = || (slot.key.kind.to_string(), slot.requirement.state.clone());
                    slot.listed.then(shown)
                })
                .collect(),
        })
    }

    /// Does something to a session now, whatever its script says.
    ///
    /// # Errors
    /// That no such session was created, or that it doesn't list that resource.
    pub fn act(&self, id: SessionId, action: Action) -> Result<(), NoSuch> {
        self.with(id, |live, now, rng| {
            let index = match action {
                Action::SetState { index, .. }
                | Action::SetAssessments { index, .. }
                | Action::Remove { index } => Some(index),
                Action::Add(_)
                | Action::Complete
                | Action::Expire
                | Action::Delete
                | Action::Extend { .. } => None,
            };
            if let Some(index) = index.filter(|index| !live.lists(*index)) {
                return Err(NoSuch::Resource { session: id, index });
            }
            live.apply(action, now, rng);
            Ok(())
        })?
    }

    /// # Errors
    /// That no such session was created, or that it doesn't list that resource.
    pub fn set_state(&self, id: SessionId, index: usize, state: &str) -> Result<(), NoSuch> {
        self.act(id, Action::SetState { index, state: state.to_owned() })
    }

    /// # Errors
    /// That no such session was created.
    pub fn complete(&self, id: SessionId) -> Result<(), NoSuch> {
        self.act(id, Action::Complete)
    }

    /// # Errors
    /// That no such session was created.
    pub fn expire(&self, id: SessionId) -> Result<(), NoSuch> {
        self.act(id, Action::Expire)
    }

    /// The API knows no such session any more; its history stays.
    ///
    /// # Errors
    /// That no such session was created.
    pub fn delete(&self, id: SessionId) -> Result<(), NoSuch> {
        self.act(id, Action::Delete)
    }

    /// Above zero, the TTL falls from there and ends the session. Zero, a negative number and
    /// `None` (the field is left out) are stated as they are, and end nothing.
    ///
    /// # Errors
    /// That no such session was created.
    pub fn set_ttl(&self, id: SessionId, seconds: Option<i64>) -> Result<(), NoSuch> {
        self.with(id, |live, now, _| live.set_ttl(seconds, now))
    }

    /// Serves these bytes as the session's configuration while it is ongoing.
    ///
    /// # Errors
    /// That no such session was created.
    pub fn serve_body(&self, id: SessionId, body: impl Into<Bytes>) -> Result<(), NoSuch> {
        self.with(id, |live, _, _| live.body = Some(body.into()))
    }

    /// As if `by` had passed for all sessions, in their scripts and their TTLs. What falls due
    /// by it happens now.
    pub fn fast_forward(&self, by: Duration) {
        let now = self.now();
        let mut state = self.state();
        let State { sessions, rng, .. } = &mut *state;
        for live in sessions.values_mut() {
            live.advance(now, self.speed, rng);
            live.jump(by, now);
        }
    }

    /// All that truly happened to a session, in order.
    ///
    /// # Errors
    /// That no such session was created.
    pub fn history(&self, id: SessionId) -> Result<Vec<Change>, NoSuch> {
        self.with(id, |live, _, _| live.history.clone())
    }

    pub fn fault(&self, fault: Fault) -> FaultId {
        self.state().faults.add(fault)
    }

    /// Clears a fault; one that has spent itself is cleared already.
    pub fn clear_fault(&self, id: FaultId) {
        self.state().faults.remove(id);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    pub fn faults(&self) -> Vec<Fault> {
        self.state().faults.all()
    }

    pub fn totals(&self) -> Totals {
        self.state().traffic.totals().clone()
    }

    pub fn session_totals(&self, id: SessionId) -> SessionTotals {
        self.state().traffic.of(id)
    }

    /// The access tokens that were given out.
    pub fn tokens(&self) -> TokenTotals {
        let now = self.now();
        self.state().tokens.totals(now)
    }

    /// No access token given out so far is accepted any more.
    pub fn revoke_tokens(&self) {
        self.state().tokens.revoke_all();
    }

    /// The last exchanges (100,000 at most), in order of arrival.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.state().traffic.exchanges().cloned().collect()
    }

    /// The last exchanges about one session.
    pub fn exchanges_of(&self, id: SessionId) -> Vec<Exchange> {
        self.state().traffic.exchanges().filter(|e| e.session == Some(id)).cloned().collect()
    }

    /// Waits until the session has been asked for at least that many times.
    pub async fn asked(&self, id: SessionId, times: u64) {
        self.until(|world| world.session_totals(id).requests >= times).await;
    }

    /// Waits for a condition, which is looked at whenever a request arrives or is done with.
    pub async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut activity = self.activity.subscribe();
        while !condition(self) {
            // Never an error: the sender is a part of `self`.
            if activity.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn random_visit(&self, resources: usize, window: Duration) -> Script {
        Script::random_visit(&mut self.state().rng, resources, window)
    }

    pub(super) fn random_id(&self) -> SessionId {
        session::random_id(&mut self.state().rng)
    }

    pub(super) fn random_bytes(&self, count: usize) -> Bytes {
        let mut bytes = vec![0; count];
        self.state().rng.fill(&mut bytes[..]);
        bytes.into()
    }

    pub(super) fn draw_faults(
        &self,
        endpoint: Endpoint,
        session: Option<SessionId>,
    ) -> Vec<Effect> {
        let State { faults, rng, .. } = &mut *self.state();
        faults.draw(endpoint, session, rng)
    }

    pub(super) fn stirred(&self) {
        self.activity.send_replace(());
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session, brought up to date, under the lock.
    pub(super) fn with<R>(
        &self,
        id: SessionId,
        look: impl FnOnce(&mut Live, Timestamp, &mut StdRng) -> R,
    ) -> Result<R, NoSuch> {
        let mut state = self.state();
        let now = self.now();
        let State { sessions, rng, .. } = &mut *state;
        let live = sessions.get_mut(&id).ok_or(NoSuch::Session(id))?;
        live.advance(now, self.speed, rng);
        Ok(look(live, now, rng))
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("sdk_id", &self.gate.sdk_id).finish_non_exhaustive()
    }
}
