//! The loop: take what is due, ask, let the core decide, commit, repeat.
//!
//! The poller decides nothing about a session. It carries out what the core has decided, within
//! the limits: the request budget, how many requests may be under way, at most one for each
//! session (which the store's lease sees to), and none but a probe while the breaker is open.

mod diary;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::diary::{Diary, Told};
use crate::clock::Clock;
use crate::domain::{
    Admission, Admitted, Answer, ApiDetail, ApiEvent, Cause, Gate, Policy, Problem, Timestamp, Turn,
};
use crate::failpoint::Failpoint;
use crate::limiter::Bucket;
use crate::metrics::Polls;
use crate::store::{Lease, Store, StoreError};
use crate::yoti::SessionApi;

/// What the poller works with.
pub struct Poller<S, A> {
    store: Arc<S>,
    api: Arc<A>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    admission: Mutex<Admission>,
    rng: Mutex<StdRng>,
    diary: Diary,
    report: watch::Sender<Report>,
    metrics: Polls,
}

/// How the loop fares.
#[derive(Debug, Clone)]
pub struct Report {
    /// When it last took a turn, which it does at least once a second.
    pub heartbeat: Instant,
    /// Polls under way.
    pub in_flight: usize,
    /// How many times as far apart as configured polls come.
    pub stretch: f64,
    /// Why and since when polls pause, if they do.
    pub unavailable: Option<(Cause, Timestamp)>,
    /// What the poll said that made them pause, where that was since the start.
    pub error: Option<Problem>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            heartbeat: Instant::now(),
            in_flight: 0,
            stretch: 1.0,
            unavailable: None,
            error: None,
        }
    }
}

/// What a poller can be told anew while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub policy: watch::Receiver<Arc<Policy>>,
    /// The request budget.
    pub bucket: watch::Receiver<Arc<Bucket>>,
    pub max_in_flight: watch::Receiver<usize>,
    /// The loop stands still while there is a file here: for tests of what that leads to.
    pub hold: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum PollerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a poll died: {0}")]
    Died(#[from] JoinError),
}

/// The machine may be suspended in the middle of any sleep, and limits be changed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Between two looks at whether a test still holds the loop.
const HELD_FOR: Duration = Duration::from_millis(20);

type UnderWay = JoinSet<Result<(), PollerError>>;

impl<S: Store, A: SessionApi> Poller<S, A> {
    /// `seed` is of the random numbers that spread polls; `report` tells how the loop fares.
    pub fn new(
        store: Arc<S>,
        api: Arc<A>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        seed: u64,
        report: watch::Sender<Report>,
        metrics: Polls,
    ) -> Self {
        let admission = Mutex::new(Admission::resume(store.unavailable()));
        Self {
            store,
            api,
            clock,
            settings,
            admission,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            diary: Diary::default(),
            report,
            metrics,
        }
    }

    /// Polls until told to stop, then waits for the polls under way.
    ///
    /// # Errors
    /// The store failed for good, or a poll panicked: both end the daemon.
    pub async fn run(self, stop: CancellationToken) -> Result<(), PollerError> {
        let this = Arc::new(self);
        let mut under_way = UnderWay::new();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = Self::take_up(&this, &mut under_way) => ended?,
        }
        while let Some(done) = under_way.join_next().await {
            done??;
            this.beat(under_way.len());
        }
        Ok(())
    }

    /// Begins polls, one after the other; may be dropped at any await.
    async fn take_up(this: &Arc<Self>, under_way: &mut UnderWay) -> Result<(), PollerError> {
        loop {
            while let Some(done) = under_way.try_join_next() {
                done??;
            }
            while this.settings.hold.as_ref().is_some_and(|path| path.exists()) {
                tokio::time::sleep(HELD_FOR).await;
            }
            this.beat(under_way.len());
            if under_way.len() >= *this.settings.max_in_flight.borrow() {
                tokio::select! {
                    biased;
                    Some(done) = under_way.join_next() => done??,
                    () = tokio::time::sleep(LONGEST_SLEEP) => {}
                }
                continue;
            }
            let gate = this.admission().gate(this.clock.now());
            if let Gate::Closed(wait) = gate {
                let wait = wait.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
                tokio::select! {
                    biased;
                    Some(done) = under_way.join_next() => done??,
                    () = tokio::time::sleep(wait) => {}
                }
                continue;
            }
            let lease = tokio::select! {
                // Where one is due there is nothing to be waited for, and no timer to be set.
                biased;
                lease = this.store.next_due() => lease?,
                Some(done) = under_way.join_next() => {
                    done??;
                    continue;
                }
                () = tokio::time::sleep(LONGEST_SLEEP) => continue,
            };
            if let Err(wait) = this.bucket().try_take() {
                // By then somebody else may be more urgent, or be asking for a token as well.
                this.store.release(lease);
                Bucket::wait(wait.min(LONGEST_SLEEP)).await;
            } else if this.admit(&lease) {
                // A task copies its future at its start and writes over all of it at its end.
                under_way.spawn(Box::pin(Arc::clone(this).poll(lease)));
            } else {
                this.store.release(lease);
            }
        }
    }

    /// Shows that the loop goes round, and that it can get at what it needs to.
    fn beat(&self, in_flight: usize) {
        // The store's lock and the admission's: who waits for one of them for ever is stuck.
        self.store.live();
        let (stretch, unavailable) = {
            let admission = self.admission();
            (admission.stretch(), admission.unavailable())
        };
        self.report.send_modify(|report| {
            report.heartbeat = Instant::now();
            report.in_flight = in_flight;
            report.stretch = stretch;
            if unavailable != report.unavailable {
                report.unavailable = unavailable;
                report.error = report.error.take().filter(|_| unavailable.is_some());
            }
        });
    }

    fn admit(&self, lease: &Lease) -> bool {
        let now = self.clock.now();
        let cadence = lease.session.cadence(now.wall, &self.policy());
        match self.admission().admit(&lease.session, lease.due_at, cadence, now) {
            Admitted::No => return false,
            Admitted::Yes { stretched: None } => {}
            Admitted::Yes { stretched: Some(stretch) } => {
                warn!(
                    "more polls are due than poll.rate_limit, poll.max_in_flight or the API allow: \
                     they come {stretch:.1} times as far apart as configured; raise the limits or \
                     lengthen poll.interval (ibvwatch plan says more)"
                );
            }
        }
        self.metrics.began(now.wall.since(lease.due_at));
        true
    }

    async fn poll(self: Arc<Self>, lease: Lease) -> Result<(), PollerError> {
        let id = lease.session.id();
        let policy = self.policy();
        let sent = self.clock.now();
        let observation = self.api.configuration_since(id, lease.session.fingerprint()).await;
        let arrived = self.clock.now();
        let state = if lease.session.asks_state(&observation, &policy) {
            self.token().await;
            Some(self.api.session_state(id).await)
        } else {
            None
        };
        Failpoint::Answered.reached();
        let took = arrived.monotonic.saturating_sub(sent.monotonic);
        self.metrics.answered(state.as_ref().unwrap_or(&observation), took);
        let heard = self.clock.monotonic();
        self.diary.answered(&lease.session, &observation, state.as_ref(), heard);
        // A reload may have come while the request was under way.
        let policy = self.policy();
        let (turn, transition) = {
            let (mut admission, mut rng) = (self.admission(), lock(&self.rng));
            let (sent, arrived) = (sent.wall, arrived.wall);
            let answer = Answer { observation, state, sent, arrived };
            let (live, now) = (self.store.live(), self.clock.now());
            admission.answered(&lease.session, answer, live, now, &policy, &mut *rng)
        };
        Failpoint::Decided.reached();
        // Before the commit, which may take long: the next answer may turn the breaker back.
        if let Some(turn) = turn {
            self.announce(turn).await?;
            Failpoint::Announced.reached();
        }
        let told = Told::of(&transition);
        match self.store.commit(lease, transition).await {
            Ok(()) => self.diary.decided(id, &told, self.clock.monotonic()),
            Err(StoreError::Stale(id)) => {
                debug!(session = %id, "the session was changed during its poll; polling it again");
            }
            Err(error) => return Err(error.into()),
        }
        Failpoint::Polled.reached();
        Ok(())
    }

    async fn announce(&self, turn: Turn) -> Result<(), PollerError> {
        let time = self.clock.now().wall;
        let event = match turn {
            Turn::Opened { cause, error } => {
                self.report.send_modify(|report| report.error = Some(error.clone()));
                warn!(
                    cause = cause.as_str(),
                    "the API can't be used, polls pause but for probes: {error}"
                );
                ApiEvent { time, cause, detail: ApiDetail::Unavailable { error } }
            }
            Turn::Closed { cause, since, told, spread } => {
                if spread {
                    self.store.spread_overdue();
                }
                if !told {
                    return Ok(());
                }
                info!(cause = cause.as_str(), unavailable_since = %since, "the API can be used again");
                let detail = ApiDetail::Available { unavailable_since: since };
                ApiEvent { time, cause, detail }
            }
        };
        Ok(self.store.announce(event).await?)
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.settings.policy.borrow())
    }

    /// Waits for a token, of the budget that is in force when there is one.
    async fn token(&self) {
        while let Err(wait) = self.bucket().try_take() {
            Bucket::wait(wait.min(LONGEST_SLEEP)).await;
        }
    }

    fn bucket(&self) -> Arc<Bucket> {
        Arc::clone(&self.settings.bucket.borrow())
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        lock(&self.admission)
    }
}

/// What is kept in these locks is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S, A> std::fmt::Debug for Poller<S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
