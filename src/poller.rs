//! The loop: take what is due, ask, let the core decide, commit, repeat.
//!
//! The poller decides nothing about a session. It holds the limits of 1.3 of the contract: the
//! request budget, how many requests are under way, and (by the store's lease) at most one for
//! each session.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::domain::{
    Detail, Exchange, Observation, Policy, ProblemKind, ResourceState, SessionId, Transition,
};
use crate::limiter::Bucket;
use crate::store::{Lease, Store, StoreError};
use crate::yoti::SessionApi;

/// What the poller works with.
pub struct Poller<S, A> {
    pub store: Arc<S>,
    pub api: Arc<A>,
    pub clock: Arc<dyn Clock>,
    pub policy: watch::Receiver<Arc<Policy>>,
    /// The request budget; replaced when the configuration is.
    pub bucket: watch::Receiver<Arc<Bucket>>,
    pub max_in_flight: usize,
    pub rng: Mutex<StdRng>,
    pub diary: Diary,
}

#[derive(Debug, thiserror::Error)]
pub enum PollerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a poll died: {0}")]
    Died(#[from] JoinError),
}

impl<S: Store, A: SessionApi> Poller<S, A> {
    /// Polls until told to stop, then waits for the polls under way.
    ///
    /// # Errors
    /// The store failed for good, or a poll panicked: both end the daemon.
    pub async fn run(self, stop: CancellationToken) -> Result<(), PollerError> {
        let this = Arc::new(self);
        let mut under_way: JoinSet<Result<(), PollerError>> = JoinSet::new();
        loop {
            while let Some(done) = under_way.try_join_next() {
                done??;
            }
            if under_way.len() >= this.max_in_flight {
                tokio::select! {
                    () = stop.cancelled() => break,
                    Some(done) = under_way.join_next() => done??,
                }
                continue;
            }
            let lease = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                lease = this.store.next_due() => lease?,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    this.store.release(lease);
                    break;
                }
                () = this.token() => {}
            }
            under_way.spawn(Arc::clone(&this).poll(lease));
        }
        while let Some(done) = under_way.join_next().await {
            done??;
        }
        Ok(())
    }

    async fn poll(self: Arc<Self>, lease: Lease) -> Result<(), PollerError> {
        let id = lease.session.id();
        let sent = self.clock.now().wall;
        let observation = self.api.configuration(id).await;
        let exchange = Exchange { sent, arrived: self.clock.now().wall };
        let policy = Arc::clone(&self.policy.borrow());
        let state = if lease.session.asks_state(&observation, &policy) {
            self.token().await;
            Some(self.api.session_state(id).await)
        } else {
            None
        };
        self.diary.answered(id, &observation, state.as_ref());
        let transition = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            lease.session.observe(observation, state, exchange, &policy, &mut *rng)
        };
        Diary::decided(&transition);
        match self.store.commit(lease, transition).await {
            Err(StoreError::Stale(id)) => {
                debug!(session = %id, "the session was changed during its poll; polling it again");
                Ok(())
            }
            other => Ok(other?),
        }
    }

    async fn token(&self) {
        let bucket = Arc::clone(&self.bucket.borrow());
        bucket.take().await;
    }
}

impl<S, A> std::fmt::Debug for Poller<S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

/// What the log says of polls: each thing once, however many sessions it concerns.
#[derive(Debug, Default)]
pub struct Diary {
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// Values outside the known states that have been warned of.
    states: HashSet<Box<str>>,
    /// Which kinds of trouble the log has been told of since the last good answer, and how
    /// many answers were of such a kind.
    troubles: HashSet<ProblemKind>,
    failures: u64,
}

impl Diary {
    /// A hostile API could invent states for ever; after this many the warnings stop.
    const STATES_NOTED: usize = 1_000;

    fn answered(&self, id: SessionId, observation: &Observation, state: Option<&Observation>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        match state.unwrap_or(observation).problem() {
            None => {
                if !noted.troubles.is_empty() {
                    info!(failures = noted.failures, "the API answers again");
                }
                noted.troubles.clear();
                noted.failures = 0;
            }
            Some(problem) => {
                noted.failures += 1;
                if noted.troubles.insert(problem.kind) {
                    warn!(session = %id, kind = problem.kind.as_str(),
                        "a poll failed, further failures of this kind are logged at debug: {problem}");
                } else {
                    debug!(session = %id, kind = problem.kind.as_str(), "a poll failed: {problem}");
                }
            }
        }
        if let Observation::Configuration(snapshot) = observation {
            for listed in &snapshot.resources {
                if let ResourceState::Other(state) = &listed.state
                    && noted.states.len() < Self::STATES_NOTED
                    && noted.states.insert(state.clone())
                {
                    warn!(session = %id, state = ?state, resource = ?listed.kind,
                        "a resource is in a state that this version does not know; it is passed on as it is");
                }
            }
        }
    }

    fn decided(transition: &Transition) {
        let session = transition.session.id();
        for event in &transition.events {
            match &event.detail {
                Detail::Ended { reason, unresolved } => {
                    info!(%session, reason = reason.as_str(), unresolved = unresolved.len(), "session ended");
                }
                Detail::PollFailing { error, .. } => {
                    warn!(%session, "polls of this session keep failing: {error}");
                }
                Detail::PollRecovered { .. } => {
                    info!(%session, "polls of this session succeed again");
                }
                Detail::StateChanged { resource, from, to, .. } => {
                    debug!(%session, ?resource, ?from, ?to, "resource changed");
                }
                Detail::Tracked {}
                | Detail::Observed { .. }
                | Detail::Added { .. }
                | Detail::Removed { .. }
                | Detail::NothingRequired {}
                | Detail::Completed {}
                | Detail::Expiring { .. } => debug!(%session, event = %event.kind(), "event"),
            }
        }
        if transition.events.is_empty() {
            debug!(%session, next_poll = %transition.session.schedule().poll_at, "polled");
        }
    }
}
