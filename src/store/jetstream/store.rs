//! The store itself: what the trait asks, put to the view, the desk and the stream.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::batch::Message;
use super::change::Change;
use super::link::{AGAIN_AFTER, Link, Preflight};
use super::nodes::{Cluster, HEARTBEAT_EVERY, LastMinute, Nodes};
use super::polls::{ACK_WAIT, Desk, Look, Word};
use super::settings::Settings;
use super::sinks::Sink;
use super::view::View;
use super::wire::{Api, EventBody, Heartbeat};
use super::writer::Commit;
use crate::domain::{
    ApiDetail, ApiEvent, Cause, Census, Entry, Policy, Record, Session, SessionId, Timestamp,
    Transition,
};
use crate::failpoint::Failpoint;
use crate::store::{
    Context, EventFilter, EventPage, EventQuery, Gauges, Lease, SessionPage, SessionQuery, Store,
    StoreError, TOGETHER, WriteFailure,
};

/// The longest sleep: the wall clock may be stepped, and the machine suspended, in the middle
/// of any.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Who was heard so often, at some distance, is alive.
const LIVES: u32 = 3;
/// The stream is read at a few thousand messages a second at least.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(600);

/// Keeps everything in a JetStream stream, which any number of nodes share.
pub struct JetStreamStore {
    pub(super) inner: Arc<Inner>,
    /// Ended with the store.
    tasks: Mutex<JoinSet<()>>,
}

/// What the tasks of a node share. Of several locks that are held at once, the view's is the first
/// to be taken.
pub(super) struct Inner {
    pub(super) link: Link,
    pub(super) settings: Settings,
    pub(super) context: Context,
    pub(super) polls: Consumer<pull::Config>,
    /// Something may have become due sooner, or somebody can be given more.
    pub(super) changed: Notify,
    /// Somebody waits for a poll.
    pub(super) asked: Notify,
    pub(super) commits: mpsc::UnboundedSender<Commit>,
    pub(super) recorded: watch::Sender<u64>,
    live_nodes: watch::Sender<usize>,
    view: Mutex<View>,
    desk: Mutex<Desk>,
    nodes: Mutex<Nodes>,
    /// With the sequence that it stands at.
    api: Mutex<(u64, Api)>,
    sinks: Mutex<HashMap<String, Arc<Sink>>>,
    failure: Mutex<Option<WriteFailure>>,
    polled: Mutex<LastMinute>,
    rng: Mutex<StdRng>,
    measured: Mutex<Measured>,
    /// Polls that were due by then are spread.
    paused_until: Mutex<Option<Timestamp>>,
    leaving: AtomicBool,
    view_behind: AtomicU64,
    /// Of this run, so that another node of the same name is noticed.
    run: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    bytes: Option<u64>,
    messages: u64,
    ticks_waiting: u64,
    in_flight: usize,
    replicas_behind: usize,
}

/// What is kept in these locks is whole at every moment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JetStreamStore {
    /// Connects, makes the stream and its consumers where there are none, and reads all sessions.
    /// `max_in_flight` bounds the polls under way of the whole cluster; the last word counts.
    ///
    /// # Errors
    /// [`StoreError::Unusable`], with what to do: the servers are too old or refuse this node, the
    /// stream is not ibvwatch's, or another node has this one's name. [`StoreError::Failed`] if no
    /// server can be reached, or none that has JetStream.
    pub async fn open(
        settings: &Settings,
        max_in_flight: usize,
        context: &Context,
    ) -> Result<(Self, Preflight), StoreError> {
        let link = Link::connect(settings).await?;
        let preflight = link.open_stream(settings).await?;
        link.at_first(|| link.refuse_unfinished()).await?;
        link.at_first(|| own_the_name(&link, &settings.node)).await?;
        let polls = polls(&link, max_in_flight);
        let consumer = || async { link.consumer(polls.clone()).await.map_err(StoreError::Failed) };
        let polls = link.at_first(consumer).await?;
        let events = link.subjects.events();
        let last = || async { link.last(&events).await.map_err(StoreError::Failed) };
        let last = link.at_first(last).await?;
        let (words, heard) = mpsc::unbounded_channel::<Word>();
        let (commits, committed) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            link,
            settings: settings.clone(),
            context: context.clone(),
            polls,
            changed: Notify::new(),
            asked: Notify::new(),
            commits,
            recorded: watch::Sender::new(last.map_or(0, |event| event.sequence)),
            live_nodes: watch::Sender::new(1),
            view: Mutex::default(),
            desk: Mutex::new(Desk::new(words)),
            nodes: Mutex::new(Nodes::new(&settings.node)),
            api: Mutex::default(),
            sinks: Mutex::default(),
            failure: Mutex::default(),
            polled: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(context.seed)),
            measured: Mutex::default(),
            paused_until: Mutex::default(),
            leaving: AtomicBool::new(false),
            view_behind: AtomicU64::new(0),
            run: rand::random(),
        });
        let beat = || async { inner.say_how_it_is().await.map_err(StoreError::Failed) };
        inner.link.at_first(beat).await?;
        // An import that begins now hears that one.
        inner.link.at_first(|| inner.link.refuse_unfinished()).await?;
        let mut tasks = JoinSet::new();
        let (caught_up, has_caught_up) = oneshot::channel();
        tasks.spawn(Arc::clone(&inner).follow(caught_up));
        let caught_up = async {
            match tokio::time::timeout(CAUGHT_UP_WITHIN, has_caught_up).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => {
                    Err(StoreError::Failed(format!("stream {} can't be read", settings.name)))
                }
            }
        };
        inner.link.denials.none_in(caught_up).await?;
        inner.take_up_what_is_over();
        tasks.spawn(Arc::clone(&inner).follow_events());
        tasks.spawn(Arc::clone(&inner).talk(heard));
        tasks.spawn(Arc::clone(&inner).write(committed));
        tasks.spawn(Arc::clone(&inner).pull());
        tasks.spawn(Arc::clone(&inner).keep_up());
        tasks.spawn(Arc::clone(&inner).beat());
        tasks.spawn(Arc::clone(&inner).sweep());
        Failpoint::Opened.reached();
        Ok((Self { inner, tasks: Mutex::new(tasks) }, preflight))
    }

    async fn sink(&self, name: &str) -> Arc<Sink> {
        if let Some(sink) = lock(&self.inner.sinks).get(name) {
            return Arc::clone(sink);
        }
        let sink = Arc::new(self.inner.insist(|| Sink::open(&self.inner.link, name)).await);
        let mut sinks = lock(&self.inner.sinks);
        let known = sinks.entry(name.to_owned()).or_insert_with(|| {
            lock(&self.tasks).spawn(Arc::clone(&sink).follow());
            sink
        });
        Arc::clone(known)
    }
}

/// The consumer that shares the ticks.
fn polls(link: &Link, max_in_flight: usize) -> pull::Config {
    pull::Config {
        durable_name: Some("polls".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: i64::try_from(max_in_flight).unwrap_or(i64::MAX),
        filter_subject: link.subjects.all_due(),
        ..pull::Config::default()
    }
}

/// Waits until a node of this name that died is no more; refuses if it lives. What the dead one
/// said last may come in late, and replicas may lag; who lives says something again and again.
async fn own_the_name(link: &Link, node: &str) -> Result<(), StoreError> {
    let subject = link.subjects.node(node);
    let (mut newest, mut signs_of_life) = (0, 0);
    let mut heard = Instant::now();
    loop {
        let found = link.last(&subject).await.map_err(StoreError::Failed)?;
        let Some(found) = found.filter(|found| !found.body.is_empty()) else { return Ok(()) };
        if found.sequence > newest {
            signs_of_life += u32::from(newest > 0 && heard.elapsed() >= HEARTBEAT_EVERY / 2);
            (newest, heard) = (found.sequence, Instant::now());
        }
        if signs_of_life == LIVES {
            return Err(StoreError::Unusable(format!(
                "another node named {node} is running on stream {}; give each a \
                 store.jetstream.node of its own",
                link.name
            )));
        }
        if heard.elapsed() > HEARTBEAT_EVERY * 2 {
            return Ok(());
        }
        tokio::time::sleep(HEARTBEAT_EVERY / 8).await;
    }
}

impl Inner {
    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        lock(&self.desk)
    }

    pub(super) fn nodes(&self) -> MutexGuard<'_, Nodes> {
        lock(&self.nodes)
    }

    pub(super) fn api(&self) -> MutexGuard<'_, (u64, Api)> {
        lock(&self.api)
    }

    pub(super) fn failure(&self) -> MutexGuard<'_, Option<WriteFailure>> {
        lock(&self.failure)
    }

    pub(super) fn polled(&self) -> MutexGuard<'_, LastMinute> {
        lock(&self.polled)
    }

    pub(super) fn rng(&self) -> MutexGuard<'_, StdRng> {
        lock(&self.rng)
    }

    pub(super) fn paused_until(&self) -> Option<Timestamp> {
        *lock(&self.paused_until)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(super) fn behind(&self, pending: u64) {
        self.view_behind.store(pending, Ordering::Release);
    }

    pub(super) fn live_nodes(&self, count: usize) {
        self.live_nodes.send_if_modified(|live| std::mem::replace(live, count) != count);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.context.clock.now().wall
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.context.policy.borrow())
    }

    pub(super) fn known_sinks(&self) -> Vec<(String, Arc<Sink>)> {
        let sinks = lock(&self.sinks);
        sinks.iter().map(|(name, sink)| (name.clone(), Arc::clone(sink))).collect()
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            run: self.run,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            owner: self.settings.owner.clone(),
            polls: self.polled().total(),
            in_flight: self.desk().in_flight(),
            sinks: lock(&self.sinks).keys().cloned().collect(),
        }
    }

    /// Asks the servers what they alone know. What they don't answer stays as it was.
    pub(super) async fn measure(&self) {
        if let Ok(info) = self.polls.get_info().await {
            let mut measured = lock(&self.measured);
            measured.ticks_waiting = info.num_pending;
            measured.in_flight = info.num_ack_pending;
        }
        if let Ok(info) = self.link.stream.get_info().await {
            let replicas = info.cluster.map(|cluster| cluster.replicas).unwrap_or_default();
            let mut measured = lock(&self.measured);
            measured.bytes = Some(info.state.bytes);
            measured.messages = info.state.messages;
            measured.replicas_behind =
                replicas.iter().filter(|peer| peer.offline || !peer.current).count();
        }
        for (name, sink) in self.known_sinks() {
            if let Err(error) = sink.refresh().await {
                tracing::debug!(sink = name, "the sink's place is not known: {error}");
            }
        }
    }
}

impl Gauges for JetStreamStore {
    fn census(&self) -> Census {
        let view = self.inner.view();
        view.registry.census(self.inner.now())
    }

    fn undelivered(&self, sink: &str) -> u64 {
        let known = lock(&self.inner.sinks).get(sink).map(Arc::clone);
        let last = *self.inner.recorded.borrow();
        let Some(sink) = known else { return last };
        if last <= sink.floor() {
            return 0;
        }
        // What another node can deliver is not for one to wait for that wants to stop.
        if self.inner.is_leaving() && sink.held().is_none() && self.inner.nodes().count() > 1 {
            return 0;
        }
        sink.pending().max(1)
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        self.inner.failure().clone()
    }

    fn size(&self) -> Option<u64> {
        lock(&self.inner.measured).bytes
    }

    fn cluster(&self) -> Option<Cluster> {
        let nodes = {
            let heartbeat = self.inner.heartbeat();
            self.inner.nodes().list(&heartbeat)
        };
        let measured = *lock(&self.inner.measured);
        Some(Cluster {
            nodes,
            ticks_waiting: measured.ticks_waiting,
            in_flight: measured.in_flight,
            view_behind: self.inner.view_behind.load(Ordering::Acquire),
            messages: measured.messages,
            replicas_behind: measured.replicas_behind,
        })
    }
}

impl Store for JetStreamStore {
    async fn track(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.inner.track(&entries).await
    }

    async fn untrack(&self, ids: Vec<SessionId>) -> Result<(), StoreError> {
        self.inner.untrack(&ids).await
    }

    async fn next_due(&self) -> Result<Lease, StoreError> {
        let inner = &self.inner;
        loop {
            // From here on no change is missed, whenever it comes.
            let changed = inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let wait = {
                let view = inner.view();
                match inner.desk().look(&view, inner.now(), &inner.policy()) {
                    Look::Found(lease) => return Ok(*lease),
                    Look::Nothing(wait) => {
                        wait.map_or(LONGEST_SLEEP, |wait| LONGEST_SLEEP.min(wait + TOGETHER))
                    }
                }
            };
            inner.asked.notify_one();
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn keep_time(&self) -> Result<Infallible, StoreError> {
        self.inner.keep_time().await
    }

    fn spread_overdue(&self) {
        *lock(&self.inner.paused_until) = Some(self.inner.now());
    }

    fn live(&self) -> usize {
        self.inner.view().registry.live()
    }

    async fn announce(&self, event: ApiEvent) -> Result<(), StoreError> {
        let inner = &self.inner;
        let unavailable = match event.detail {
            ApiDetail::Unavailable { .. } => Some((event.cause, event.time)),
            ApiDetail::Available { .. } => None,
        };
        loop {
            let (revision, before) = *inner.api();
            // Another node has told it.
            if before.unavailable.is_some() == unavailable.is_some() {
                return Ok(());
            }
            let n = before.announced + 1;
            let failed = |error: serde_json::Error| StoreError::Failed(error.to_string());
            let record = event.record(n, 0, &inner.context.source).map_err(failed)?;
            let api = Api { announced: n, unavailable };
            let subjects = &inner.link.subjects;
            let messages = vec![
                Message::json(subjects.api(), &api).map_err(failed)?.after(revision),
                Message::json(subjects.api_event(n), &EventBody::from(record))
                    .map_err(failed)?
                    .after(0),
            ];
            if let Ok(first) = inner.persist(messages).await {
                *inner.api() = (first, api);
                inner.event_recorded(event.kind(), first + 1);
                return Ok(());
            }
            let subject = subjects.api();
            if let Some(found) = inner.insist(|| inner.link.last(&subject)).await {
                inner.take_api(found.sequence, &found.body);
            }
            if inner.api().0 == revision {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    fn unavailable(&self) -> Option<(Cause, Timestamp)> {
        self.inner.api().1.unavailable
    }

    async fn commit(&self, lease: Lease, transition: Transition) -> Result<(), StoreError> {
        let inner = &self.inner;
        let id = lease.session.id();
        let known = inner.known(id).filter(|known| known.revision == lease.revision);
        let committed = match known {
            Some(known) => inner.commit(Change::of(&known, transition)).await,
            None => Err(StoreError::Stale(id)),
        };
        match committed {
            Ok(()) => {
                inner.polled().count();
                inner.desk().finish(id);
            }
            Err(StoreError::Stale(_)) => {
                inner.desk().put_back(id);
                inner.changed.notify_waiters();
            }
            Err(_) => {}
        }
        committed
    }

    fn release(&self, lease: Lease) {
        self.inner.desk().put_back(lease.session.id());
        self.inner.changed.notify_waiters();
    }

    async fn read_events(&self, name: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let sink = self.sink(name).await;
        let inner = &self.inner;
        loop {
            let taken = sink.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            let Some(first) = sink.held() else {
                sink.wanted.notify_one();
                tokio::select! {
                    () = taken => {}
                    () = tokio::time::sleep(LONGEST_SLEEP) => {}
                }
                continue;
            };
            let filter = EventFilter::default();
            let events = inner.insist(|| inner.link.events(first - 1, limit.max(1), filter)).await;
            if let Some(last) = events.last() {
                inner.recorded_up_to(last.sequence);
                return Ok(events);
            }
            // Any replica may have answered, and may lag; that the event is gone, the leader says.
            let events = inner.link.subjects.events();
            let last = inner.insist(|| inner.link.last(&events)).await;
            if last.is_none_or(|event| event.sequence < first) {
                sink.skip(&inner.link).await;
            }
        }
    }

    async fn ack_events(&self, name: &str, up_to: u64) -> Result<(), StoreError> {
        // What is not there yet can't have been delivered.
        let up_to = up_to.min(*self.inner.recorded.borrow());
        let sink = self.sink(name).await;
        if up_to > sink.floor() {
            let (inner, sink) = (&self.inner, &sink);
            inner.insist(|| sink.deliver_from(&inner.link, name, up_to + 1)).await;
        }
        Ok(())
    }

    fn listed(&self) -> Vec<SessionId> {
        self.inner.view().named_by(&self.inner.settings.owner)
    }

    async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        let sessions = self.inner.in_portions().flatten();
        Ok(sessions.map(Arc::unwrap_or_clone).collect())
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let session = self.inner.view().registry.session(id);
        Ok(session.map(Arc::unwrap_or_clone))
    }

    async fn find_sessions(&self, query: &SessionQuery) -> Result<SessionPage, StoreError> {
        let now = self.inner.now();
        let filter = query.filter.prepared();
        let search =
            |after, portion| self.inner.view().registry.search(after, portion, &filter, now);
        Ok(query.answer(search).await)
    }

    async fn find_events(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        self.inner.link.find(query).await.map_err(StoreError::Failed)
    }

    fn recorded(&self) -> watch::Receiver<u64> {
        self.inner.recorded.subscribe()
    }

    fn nodes(&self) -> watch::Receiver<usize> {
        self.inner.live_nodes.subscribe()
    }

    async fn limit_in_flight(&self, most: usize) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.insist(|| inner.link.consumer(polls(&inner.link, most))).await;
        Ok(())
    }

    async fn checkpoint(&self) -> Result<(), StoreError> {
        // Due times are durable with every commit; what is left is to hand back what others can do.
        self.inner.leaving.store(true, Ordering::Release);
        self.inner.desk().hand_all_back();
        Ok(())
    }

    async fn purge(&self, retention: Duration, sinks: &[&str]) -> Result<(), StoreError> {
        let inner = &self.inner;
        if !inner.nodes().is_first() {
            return Ok(());
        }
        let before = inner.now().minus(retention);
        inner.forget_sessions(before).await;
        let mut names: BTreeSet<String> = inner.nodes().sinks().cloned().collect();
        names.extend(sinks.iter().map(|&name| name.to_owned()));
        let mut delivered = u64::MAX;
        for name in names {
            let sink = self.sink(&name).await;
            delivered = inner.insist(|| sink.refresh()).await.min(delivered);
        }
        inner.insist(|| inner.link.purge_events(before, delivered)).await;
        Ok(())
    }

    async fn close(&self) {
        for (_, sink) in self.inner.known_sinks() {
            sink.let_go(&self.inner.link).await;
        }
        let subject = self.inner.link.subjects.node(&self.inner.settings.node);
        if let Err(error) = self.inner.link.publish(vec![Message::over(subject)]).await {
            tracing::debug!("that this node stops did not get out: {error}");
        }
        if let Err(error) = self.inner.link.client.flush().await {
            tracing::debug!("the last words did not get out: {error}");
        }
    }
}

impl fmt::Debug for JetStreamStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamStore").field("link", &self.inner.link).finish_non_exhaustive()
    }
}
