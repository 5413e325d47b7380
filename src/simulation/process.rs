//! One process: every part of the daemon, joined as `app` joins them, until it dies or is told to
//! stop.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::clock::DaemonClock;
use super::sink::{Reader, SINKS};
use super::store::Watched;
use super::world::World;
use crate::clock::Clock;
use crate::config::Limits;
use crate::directory::simulated::Eyes;
use crate::domain::Policy;
use crate::limiter::Bucket;
use crate::metrics::{Polls, Writes};
use crate::poller::{Poller, Settings};
use crate::sinks::dispatch;
use crate::store::simulated::SimulatedStore;
use crate::store::{Context, Store, StoreError};

pub(super) struct Process {
    world: Arc<World>,
    clock: Arc<dyn Clock>,
    pub(super) store: Arc<Watched>,
    policy: watch::Sender<Arc<Policy>>,
    bucket: watch::Sender<Arc<Bucket>>,
    max_in_flight: watch::Sender<usize>,
    stop_polls: CancellationToken,
    flush: CancellationToken,
    poller: JoinSet<Ended>,
    sinks: JoinSet<Ended>,
    rest: JoinSet<Ended>,
}

/// Which part, and how.
type Ended = (&'static str, Result<(), String>);

/// Everything is over after this long, whatever hangs, as in `app`.
const POLLS_WITHIN: Duration = Duration::from_secs(6);
const STOP_WITHIN: Duration = Duration::from_millis(9_500);

impl Process {
    pub(super) fn start(world: &Arc<World>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(DaemonClock::new(world));
        let (policy_now, limits, seeds) = {
            let mut state = world.state();
            state.life.clock = Some(Arc::clone(&clock));
            let seeds: [u64; 2] = state.rng.random();
            (state.policy.clone(), state.limits, seeds)
        };
        let policy = watch::Sender::new(Arc::new(policy_now));
        let context = Context {
            clock: Arc::clone(&clock),
            policy: policy.subscribe(),
            seed: seeds[0],
            source: "simulation".to_owned(),
            metrics: Writes::default(),
        };
        let store = SimulatedStore::open(&context, &world.disk, world);
        let store = Arc::new(Watched { store, world: Arc::clone(world) });
        let bucket = watch::Sender::new(Arc::new(Bucket::new(limits, Arc::clone(&clock))));
        let max_in_flight = watch::Sender::new(limits.max_in_flight);
        let settings = Settings {
            policy: policy.subscribe(),
            bucket: bucket.subscribe(),
            max_in_flight: max_in_flight.subscribe(),
            hold: None,
        };
        let poller = Poller::new(
            Arc::clone(&store),
            Arc::new(Api(Arc::clone(world))),
            Arc::clone(&clock),
            settings,
            seeds[1],
            watch::Sender::default(),
            Polls::default(),
        );
        let mut process = Self {
            world: Arc::clone(world),
            clock,
            store,
            policy,
            bucket,
            max_in_flight,
            stop_polls: CancellationToken::new(),
            flush: CancellationToken::new(),
            poller: JoinSet::new(),
            sinks: JoinSet::new(),
            rest: JoinSet::new(),
        };
        process.spawn_all(poller);
        process
    }

    fn spawn_all(&mut self, poller: Poller<Watched, Api>) {
        let stop = self.stop_polls.clone();
        self.poller.spawn(mortal(&self.world, "poller", async move { poller.run(stop).await }));
        for number in 0..SINKS.len() {
            let reader = Reader { world: Arc::clone(&self.world), number };
            let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
            let sink = dispatch(store, reader, clock, watch::Sender::default(), self.flush.clone());
            self.sinks.spawn(mortal(&self.world, "sink", sink));
        }
        let store = Arc::clone(&self.store);
        let time = async move { store.keep_time().await.map(|never| match never {}) };
        self.rest.spawn(mortal::<_, StoreError>(&self.world, "keeper of time", time));
        let store = Arc::clone(&self.store);
        let purge = purge(store, self.world.plan.retention);
        self.rest.spawn(mortal(&self.world, "purge", async move {
            purge.await.map(|never| match never {})
        }));
        let files = follow(Arc::clone(&self.world), Arc::clone(&self.store));
        self.rest.spawn(mortal(&self.world, "files", async move {
            files.await.map(|never| match never {})
        }));
    }

    /// Which part ended, though none does by itself.
    pub(super) async fn ended(&mut self) -> String {
        let ended = tokio::select! {
            biased;
            Some(ended) = self.poller.join_next() => ended,
            Some(ended) = self.sinks.join_next() => ended,
            Some(ended) = self.rest.join_next() => ended,
        };
        match ended {
            Ok((part, result)) => format!("the {part} ended: {result:?}"),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => error.to_string(),
            },
        }
    }

    pub(super) fn reload(&self, policy: Policy, limits: Limits) {
        self.policy.send_replace(Arc::new(policy));
        let bucket = Bucket::new(limits, Arc::clone(&self.clock));
        self.bucket.send_replace(Arc::new(bucket));
        self.max_in_flight.send_replace(limits.max_in_flight);
    }

    /// Stops the parts in the order in which work flows; returns whether all got out.
    pub(super) async fn stop(mut self) -> bool {
        let deadline = Instant::now() + STOP_WITHIN;
        self.rest.abort_all();
        self.stop_polls.cancel();
        let polls = timeout(POLLS_WITHIN, join(&mut self.poller)).await.is_ok();
        if !polls {
            self.poller.abort_all();
        }
        let saved = tokio::time::timeout_at(deadline, self.store.checkpoint()).await;
        let saved = saved.map(|saved| saved.expect("a store that works")).is_ok();
        self.flush.cancel();
        let flushed = tokio::time::timeout_at(deadline, join(&mut self.sinks)).await.is_ok();
        polls && saved && flushed
    }
}

/// Waits for all of them to end well.
async fn join(parts: &mut JoinSet<Ended>) {
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((part, Err(error))) => panic!("the {part} failed: {error}"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Keeps the registry in step with the session files.
async fn follow(world: Arc<World>, store: Arc<Watched>) -> Result<Infallible, StoreError> {
    let mut eyes = Eyes::new(world.plan.removal_grace, store.listed());
    loop {
        world.pass("look").await;
        let files = world.state().look();
        let (delta, wake_at) = eyes.look(&files);
        store.track(delta.wanted).await?;
        store.untrack(delta.unwanted).await?;
        let rescan_at = Instant::now() + world.plan.rescan_interval;
        let wake_at = wake_at.map_or(rescan_at, |wake_at| wake_at.min(rescan_at));
        tokio::select! {
            biased;
            () = world.hint.notified() => {}
            () = sleep_until(wake_at.max(Instant::now() + Duration::from_millis(100))) => {}
        }
    }
}

async fn purge(store: Arc<Watched>, retention: Duration) -> Result<Infallible, StoreError> {
    let mut again = tokio::time::interval(retention / 10);
    loop {
        again.tick().await;
        store.purge(retention, &SINKS).await?;
    }
}

/// A part of the process, which does nothing any more once the process is dead, and may die
/// whenever it is about to do something.
struct Mortal<F> {
    world: Arc<World>,
    name: &'static str,
    part: Pin<Box<F>>,
}

fn mortal<F, E>(
    world: &Arc<World>,
    name: &'static str,
    part: F,
) -> impl Future<Output = Ended> + use<F, E>
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let part = Mortal { world: Arc::clone(world), name, part: Box::pin(part) };
    async move { (name, part.await.map_err(|error| error.to_string())) }
}

impl<F: Future> Future for Mortal<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        if self.world.step(self.name) { self.part.as_mut().poll(cx) } else { Poll::Pending }
    }
}
