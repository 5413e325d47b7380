//! The daemon: every part built from the configuration, joined, and stopped in order.
//!
//! This is the only file that sees every part. What ends first decides how the daemon ends: a
//! request to stop, a reader of standard output that has gone, or the death of a part, which is
//! an error, since no part ends by itself.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::{Clock, SteadyClock, SystemClock};
use crate::config::{Api, Config};
use crate::directory;
use crate::domain::{Policy, Timestamp};
use crate::failpoint::Failpoint;
use crate::http;
use crate::limiter::Bucket;
use crate::metrics::{Metrics, Process};
use crate::notify;
use crate::poller::{self, Poller, PollerError};
use crate::refresh;
use crate::sinks::{self, DispatchError, Journald, Stdout, dispatch};
use crate::status::{self, Stage, Status};
use crate::store::{Context, Gauges, JetStreamStore, SqliteStore, Store, StoreError};
use crate::yoti;

/// How the outside steers a running daemon.
#[derive(Debug)]
pub struct Control {
    /// Cancelled when the daemon is to stop.
    pub stop: CancellationToken,
    /// The newest configuration to take over, already validated.
    pub reload: watch::Receiver<Option<Config>>,
    /// Who is told how the daemon is, and that a reload is over.
    pub service: notify::Service,
}

/// How a daemon ended that was not at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to.
    Stopped,
    /// Nobody reads standard output any more. What they did not read is delivered at the next
    /// start.
    ReaderGone,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The key, a certificate, or the store: nothing that trying again would mend.
    #[error("{0}")]
    Unusable(String),
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Poller(PollerError),
    #[error(transparent)]
    Directory(directory::WatchError),
    #[error("standard output can't be used: {0}")]
    Output(#[source] std::io::Error),
    #[error(transparent)]
    Listen(#[from] http::ListenError),
    #[error("the {part} ended by itself{}", .error.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Died { part: &'static str, error: Option<JoinError> },
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unusable(message) => Self::Unusable(message),
            StoreError::Stale(_) | StoreError::Failed(_) => Self::Store(error),
        }
    }
}

impl From<PollerError> for AppError {
    fn from(error: PollerError) -> Self {
        match error {
            PollerError::Store(error) => error.into(),
            PollerError::Died(_) => Self::Poller(error),
        }
    }
}

/// From the request to stop to the end: polls under way are waited for this long ...
const POLLS_WITHIN: Duration = Duration::from_secs(6);
/// ... and everything is over after this long, whatever hangs.
const STOP_WITHIN: Duration = Duration::from_millis(9_500);
/// For tests: while the file that this environment variable names is there, no poll is begun.
const HOLD_POLLS: &str = "IBVWATCH_TEST_HOLD_POLLS";
/// What is to be forgotten stays for at most this much longer ...
const PURGE_EVERY: Duration = Duration::from_secs(3_600);
/// ... and this part of the retention.
const PURGE_PART: u32 = 10;
/// Changes of the wanted set that may wait for the store; the directory waits beyond that.
const DELTAS_WAITING: usize = 4;

/// Runs the daemon until it is told to stop or can't go on.
///
/// # Errors
/// See [`AppError`].
pub async fn run(config: Config, control: Control) -> Result<Ending, AppError> {
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::new(SystemClock));
    let started = clock.now().wall;
    // First, since nothing is to be begun with a key that can't be used.
    let api = client(&config.api)?;
    let (policy, policy_now) = watch::channel(Arc::new(config.policy.clone()));
    let metrics = Metrics::new();
    let context = Context {
        clock: Arc::clone(&clock),
        policy: policy_now,
        seed: rand::random(),
        source: config.events.source.clone(),
        metrics: metrics.writes.clone(),
    };
    let ground = Ground { clock, started, api, policy, metrics };
    let Some(settings) = config.store.jetstream.clone() else {
        let store = Arc::new(open_database(&config.store.path, context).await?);
        let refresh = refresh_on_request(&config.store.path, &store);
        let place = config.store.path.display().to_string();
        return run_on(store, &place, ground, config, control, refresh).await;
    };
    let in_flight = config.limits.max_in_flight;
    let (store, preflight) = tokio::select! {
        biased;
        // Servers that don't answer keep nobody from stopping.
        () = control.stop.cancelled() => return Ok(Ending::Stopped),
        opened = JetStreamStore::open(&settings, in_flight, &context) => opened?,
    };
    info!(
        node = settings.node,
        server_version = preflight.version,
        "what an acknowledgement of stream {} means: {}",
        settings.name,
        preflight.durability
    );
    let place = format!("JetStream stream {} at {}", settings.name, settings.servers.join(", "));
    run_on(Arc::new(store), &place, ground, config, control, None).await
}

/// What is there before there is a store.
struct Ground {
    clock: Arc<dyn Clock>,
    started: Timestamp,
    api: Arc<yoti::Client>,
    policy: watch::Sender<Arc<Policy>>,
    metrics: Metrics,
}

/// Runs the daemon on a store; `refresh` is ended first.
async fn run_on<S: Store>(
    store: Arc<S>,
    place: &str,
    ground: Ground,
    config: Config,
    control: Control,
    refresh: Option<JoinHandle<()>>,
) -> Result<Ending, AppError> {
    let Ground { clock, started, api, policy, metrics } = ground;
    let policy_now = policy.subscribe();
    let nodes = store.nodes();
    let limits = config.limits.shared_by(*nodes.borrow());
    let bucket = Arc::new(Bucket::new(limits, Arc::clone(&clock)));
    let (bucket, bucket_now) = watch::channel(bucket);
    let (max_in_flight, max_in_flight_now) = watch::channel(config.limits.max_in_flight);
    let settings = poller::Settings {
        policy: policy_now,
        bucket: bucket_now,
        max_in_flight: max_in_flight_now,
        hold: std::env::var_os(HOLD_POLLS).map(PathBuf::from),
    };
    let poller_report = watch::Sender::default();
    let poller_reported = poller_report.subscribe();
    let poller = Poller::new(
        Arc::clone(&store),
        Arc::clone(&api),
        Arc::clone(&clock),
        settings,
        rand::random(),
        poller_report,
        metrics.polls.clone(),
    );
    let flush = CancellationToken::new();
    let output = config.events.stdout.then(|| standard_output(&store, &clock, &flush));
    let (sinks, sinks_reported): (Vec<_>, Vec<_>) =
        output.transpose()?.map(|(name, report, sink)| (sink, (name, report))).into_iter().unzip();
    let sink_names = sinks_reported.iter().map(|(name, _)| *name).collect();
    let directory_report = watch::Sender::default();
    let status = Status::new(status::Sources {
        clock: Arc::clone(&clock),
        store: Arc::downgrade(&(Arc::clone(&store) as Arc<dyn Gauges>)),
        poller: poller_reported,
        directory: directory_report.subscribe(),
        sinks: sinks_reported,
        api: told_by(&api),
    });
    let sources = http::Sources {
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        status: status.clone(),
        metrics,
        process: Process::started_at(started),
    };
    let http = http::start(&config.http, sources).await?;
    let service = tokio::spawn(control.service.clone().report(status.clone()));
    let stop_polls = CancellationToken::new();
    let poller = tokio::spawn(poller.run(stop_polls.clone()));
    let time = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.keep_time().await })
    };
    let purge = tokio::spawn(purge(Arc::clone(&store), config.store.retention, sink_names));
    info!(
        version = env!("CARGO_PKG_VERSION"),
        sessions = store.listed().len(),
        store = place,
        api = config.api.base_url.authority(),
        "ibvwatch is running"
    );
    let mut daemon = Daemon {
        config,
        clock,
        api,
        store,
        policy,
        bucket,
        max_in_flight,
        nodes,
        status,
        directory_report,
        time,
        purge,
        poller,
        sinks,
        http,
    };
    let ending = daemon.tend(control).await;
    if let Some(refresh) = refresh {
        refresh.abort();
        // Its end is what takes the socket away; that it was aborted is known.
        let _ = refresh.await;
    }
    let ending = daemon.stop(&stop_polls, &flush, ending).await;
    // To the last, so that a stop that takes its time is not taken for a hang.
    service.abort();
    ending
}

fn client(api: &Api) -> Result<Arc<yoti::Client>, AppError> {
    // Signatures carry the true time at once, whenever others take over a step.
    let client = api.client(Arc::new(SystemClock));
    client.map(Arc::new).map_err(|error| AppError::Unusable(error.to_string()))
}

/// The sink that standard output is: the journal has a protocol of its own.
fn standard_output<S: Store>(
    store: &Arc<S>,
    clock: &Arc<dyn Clock>,
    flush: &CancellationToken,
) -> Result<(&'static str, watch::Receiver<sinks::Report>, Dispatching), AppError> {
    let (store, clock, flush) = (Arc::clone(store), Arc::clone(clock), flush.clone());
    let (report, reported) = watch::channel(sinks::Report::default());
    if Journald::is_standard_output() {
        let sink = dispatch(store, Journald::new(), clock, report, flush);
        return Ok((Journald::NAME, reported, tokio::spawn(sink)));
    }
    let stdout = Stdout::new().map_err(AppError::Output)?;
    let sink = dispatch(store, stdout, clock, report, flush);
    Ok((Stdout::NAME, reported, tokio::spawn(sink)))
}

/// What the client knows of the API, whenever it is asked.
fn told_by(api: &Arc<yoti::Client>) -> Box<dyn Fn() -> status::Api + Send + Sync> {
    let api = Arc::clone(api);
    Box::new(move || status::Api {
        token_expires_in: api.token_expires_in(),
        server_ahead_seconds: api.server_ahead_seconds(),
    })
}

/// Without it, commands show poll times that are old, which is no reason not to run.
fn refresh_on_request(database: &Path, store: &Arc<SqliteStore>) -> Option<JoinHandle<()>> {
    let listener = refresh::listen(database)
        .inspect_err(|error| {
            warn!(
                "`ibvwatch sessions` will show poll times as last written, since {} can't be made: {error}",
                refresh::socket_path(database).display()
            );
        })
        .ok()?;
    let store = Arc::clone(store);
    let write_down = move || {
        let store = Arc::clone(&store);
        async move { store.checkpoint().await }
    };
    Some(tokio::spawn(refresh::serve(listener, write_down)))
}

async fn open_database(path: &Path, context: Context) -> Result<SqliteStore, AppError> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&path, &context));
    let died = |error| AppError::Died { part: "store", error: Some(error) };
    Ok(opened.await.map_err(died)??)
}

async fn purge<S: Store>(
    store: Arc<S>,
    retention: Duration,
    sinks: Vec<&'static str>,
) -> Result<Infallible, StoreError> {
    let mut again = tokio::time::interval(PURGE_EVERY.min(retention / PURGE_PART));
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        store.purge(retention, &sinks).await?;
    }
}

/// What one scan of the session files has changed so far.
#[derive(Default)]
struct Taken {
    wanted: usize,
    unwanted: usize,
}

struct Daemon<S> {
    config: Config,
    clock: Arc<dyn Clock>,
    api: Arc<yoti::Client>,
    store: Arc<S>,
    policy: watch::Sender<Arc<Policy>>,
    bucket: watch::Sender<Arc<Bucket>>,
    max_in_flight: watch::Sender<usize>,
    /// How many share the request budget.
    nodes: watch::Receiver<usize>,
    status: Status,
    directory_report: watch::Sender<directory::Report>,
    time: JoinHandle<Result<Infallible, StoreError>>,
    purge: JoinHandle<Result<Infallible, StoreError>>,
    poller: JoinHandle<Result<(), PollerError>>,
    sinks: Vec<Dispatching>,
    http: Option<http::Server>,
}

impl<S: Store> Daemon<S> {
    /// Keeps the registry in step with the session files, and waits for something to end.
    async fn tend(&mut self, mut control: Control) -> Result<Ending, AppError> {
        let (mut watching, mut changes) = self.watch_directories();
        let mut taken = Taken::default();
        loop {
            tokio::select! {
                () = control.stop.cancelled() => return Ok(Ending::Stopped),
                ended = &mut self.poller => {
                    ended.map_err(|error| AppError::Died { part: "poller", error: Some(error) })??;
                    return Err(AppError::Died { part: "poller", error: None });
                }
                ended = &mut self.time => {
                    return Err(match ended {
                        Ok(Err(error)) => error.into(),
                        Err(error) => AppError::Died { part: "keeper of time", error: Some(error) },
                    });
                }
                ended = first_to_end(&mut self.sinks) => return sink_ended(ended),
                ended = &mut watching => {
                    return Err(match ended {
                        Ok(Err(error)) => AppError::Directory(error),
                        Err(error) => AppError::Died { part: "directory watch", error: Some(error) },
                    });
                }
                error = http_died(&mut self.http) => {
                    return Err(AppError::Died { part: "HTTP server", error });
                }
                ended = &mut self.purge => {
                    return Err(match ended {
                        Ok(Err(error)) => error.into(),
                        Err(error) => AppError::Died { part: "purge", error: Some(error) },
                    });
                }
                Some(delta) = changes.recv() => tokio::select! {
                    // The store may have to wait for a full disk.
                    () = control.stop.cancelled() => return Ok(Ending::Stopped),
                    done = self.take_over(delta, &mut taken) => done?,
                },
                Ok(()) = self.nodes.changed() => self.share_budget(),
                Ok(()) = control.reload.changed() => {
                    let config = control.reload.borrow_and_update().clone();
                    if let Some(config) = config {
                        if self.reload(&config) {
                            watching.abort();
                            (watching, changes) = self.watch_directories();
                            taken = Taken::default();
                        }
                        self.store.limit_in_flight(self.config.limits.max_in_flight).await?;
                    }
                    control.service.reloaded();
                }
            }
        }
    }

    /// Each watch has a channel of its own: what an earlier one found is no longer wanted.
    fn watch_directories(&self) -> (Watching, mpsc::Receiver<directory::Delta>) {
        let (deltas, changes) = mpsc::channel(DELTAS_WAITING);
        let watching = tokio::spawn(directory::watch(
            self.config.sessions.clone(),
            self.store.listed(),
            SystemClock,
            deltas,
            self.directory_report.clone(),
        ));
        (watching, changes)
    }

    async fn take_over(&self, delta: directory::Delta, taken: &mut Taken) -> Result<(), AppError> {
        taken.wanted += delta.wanted.len();
        taken.unwanted += delta.unwanted.len();
        self.store.track(delta.wanted).await?;
        Failpoint::Tracked.reached();
        self.store.untrack(delta.unwanted).await?;
        if delta.more {
            return Ok(());
        }
        let Taken { wanted, unwanted } = std::mem::take(taken);
        if wanted + unwanted > 0 {
            let tracked = self.store.listed().len();
            info!(new_or_changed = wanted, removed = unwanted, tracked, "session files taken over");
        }
        self.status.enter(Stage::Running);
        Ok(())
    }

    /// Takes this node's share of the request budget, as many as there are.
    fn share_budget(&mut self) {
        let nodes = *self.nodes.borrow_and_update();
        let limits = self.config.limits.shared_by(nodes);
        info!(
            nodes,
            rate_limit = limits.rate,
            burst = limits.burst,
            "the request budget is shared"
        );
        let bucket = Bucket::spent(limits, Arc::clone(&self.clock));
        self.bucket.send_replace(Arc::new(bucket));
    }

    /// Takes over what can change while running; true if the directories are to be watched anew.
    fn reload(&mut self, new: &Config) -> bool {
        let old = self.config.clone();
        let in_force = Config {
            api: Api { timeout: new.api.timeout, ..old.api.clone() },
            policy: Policy { confirm: old.policy.confirm, ..new.policy.clone() },
            store: old.store.clone(),
            events: old.events.clone(),
            http: old.http.clone(),
            ..new.clone()
        };
        self.policy.send_replace(Arc::new(in_force.policy.clone()));
        if new.limits != old.limits {
            let limits = new.limits.shared_by(*self.nodes.borrow());
            let bucket = Bucket::new(limits, Arc::clone(&self.clock));
            self.bucket.send_replace(Arc::new(bucket));
        }
        self.max_in_flight.send_replace(new.limits.max_in_flight);
        self.api.set_timeout(new.api.timeout);
        let fixed = [
            ("api", new.api != in_force.api),
            ("store", new.store != old.store),
            ("events", new.events.source != old.events.source),
            ("sinks", new.events.stdout != old.events.stdout),
            ("http", new.http != old.http),
        ];
        self.config = in_force;
        for (key, _) in fixed.iter().filter(|(_, changed)| *changed) {
            warn!("{key} has changed, which takes effect only after a restart");
        }
        info!("configuration reloaded");
        new.sessions != old.sessions
    }

    /// Stops the parts in the order in which work flows, so that what is under way gets out.
    async fn stop(
        mut self,
        stop_polls: &CancellationToken,
        flush: &CancellationToken,
        ending: Result<Ending, AppError>,
    ) -> Result<Ending, AppError> {
        let deadline = Instant::now() + STOP_WITHIN;
        self.status.enter(Stage::Draining);
        self.time.abort();
        stop_polls.cancel();
        self.purge.abort();
        let mut ending = ending;
        if !self.poller.is_finished() {
            match tokio::time::timeout(POLLS_WITHIN, &mut self.poller).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => ending = ending.and(Err(error.into())),
                Ok(Err(error)) => {
                    let died = AppError::Died { part: "poller", error: Some(error) };
                    ending = ending.and(Err(died));
                }
                Err(_) => {
                    warn!(
                        "polls under way did not finish in time and are given up; nothing is lost by it"
                    );
                    self.poller.abort();
                }
            }
        }
        Failpoint::Drained.reached();
        match tokio::time::timeout_at(deadline, self.store.checkpoint()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!("due times could not be saved: {error}"),
            Err(_) => error!("due times could not be saved in time"),
        }
        Failpoint::Checkpointed.reached();
        flush.cancel();
        for mut sink in self.sinks.into_iter().filter(|sink| !sink.is_finished()) {
            match tokio::time::timeout_at(deadline, &mut sink).await {
                Ok(Ok(Ok(()))) => {}
                Ok(ended) => ending = ending.and(sink_ended(ended)),
                Err(_) => {
                    warn!(
                        "not every event could be written in time; the rest comes at the next start"
                    );
                    sink.abort();
                }
            }
        }
        Failpoint::Flushed.reached();
        // Until here it has told that a stop is under way; from here on nothing is left to ask.
        if let Some(http) = self.http {
            http.stop().await;
        }
        if tokio::time::timeout_at(deadline, self.store.close()).await.is_err() {
            warn!("what this node had begun could not be handed over in time; others wait for it");
        }
        // The store's writer is waited for, but not longer than for anything else.
        let close = tokio::task::spawn_blocking(move || drop(self.store));
        if tokio::time::timeout_at(deadline, close).await.is_err() {
            warn!("the store could not be closed in time; the next start takes it up as it is");
        }
        Failpoint::Closed.reached();
        info!("stopped");
        ending
    }
}

type Watching = JoinHandle<Result<Infallible, directory::WatchError>>;

type Dispatching = JoinHandle<Result<(), DispatchError>>;

type SinkEnd = Result<Result<(), DispatchError>, JoinError>;

async fn first_to_end(sinks: &mut [Dispatching]) -> SinkEnd {
    match sinks.first_mut() {
        Some(sink) => sink.await,
        None => std::future::pending().await,
    }
}

async fn http_died(server: &mut Option<http::Server>) -> Option<JoinError> {
    match server {
        Some(server) => server.died().await,
        None => std::future::pending().await,
    }
}

fn sink_ended(ended: SinkEnd) -> Result<Ending, AppError> {
    match ended {
        Ok(Err(DispatchError::Closed(sink))) => {
            warn!(
                sink,
                "nobody reads the events any more; stopping, the rest comes at the next start"
            );
            Ok(Ending::ReaderGone)
        }
        Ok(Err(DispatchError::Store(error))) => Err(error.into()),
        Ok(Ok(())) => Err(AppError::Died { part: "sink", error: None }),
        Err(error) => Err(AppError::Died { part: "sink", error: Some(error) }),
    }
}
