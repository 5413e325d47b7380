//! What every store must do, as tests that each of them passes.
//!
//! The wall clock is the test's and moves only when told to; `next_due` sleeps by tokio's clock,
//! at most a second, and is asked anew after each step. A store across a network notices a step
//! after a moment, its home's `LAG`.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{
    Context, EventFilter, EventQuery, Gauges, JetStreamStore, Lease, MemoryStore, Position,
    SessionFilter, SessionQuery, SqliteStore, Store, StoreError,
};
use crate::clock::Clock;
use crate::domain::{
    ApiDetail, ApiEvent, Cause, Census, EndReason, Entry, EventKind, Exchange, Labels, Listed, Now,
    Observation, Phase, PhaseName, Policy, Record, Session, SessionId, Snapshot, Timestamp,
    Transition,
};
use crate::metrics::Writes;
use crate::store::jetstream::{Settings, Sweep};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Longer than any step takes; reached only by a test that fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of store, and the place where one of them is.
pub(super) trait Home: Default + Send + Sync + 'static {
    type Store: Store;
    /// How long it may take until the store knows of a step of the clock.
    const LAG: Duration = Duration::ZERO;
    /// Whether events are numbered without gaps.
    const GAPLESS: bool = true;
    fn open(&self, context: &Context) -> impl Future<Output = Self::Store> + Send;
}

#[derive(Default)]
pub(super) struct InMemory;

impl Home for InMemory {
    type Store = MemoryStore;

    async fn open(&self, context: &Context) -> MemoryStore {
        MemoryStore::new(context)
    }
}

pub(super) struct OnDisk(pub(super) TempDir);

impl Default for OnDisk {
    fn default() -> Self {
        Self(TempDir::new().unwrap())
    }
}

impl Home for OnDisk {
    type Store = SqliteStore;

    async fn open(&self, context: &Context) -> SqliteStore {
        SqliteStore::open(&self.0.path().join("ibvwatch.db"), context).unwrap()
    }
}

#[path = "../../tests/nats/server.rs"]
mod nats_server;

/// A stream of its own on the one server of this process.
pub(super) struct OnNats {
    pub(super) settings: Settings,
}

static SERVER: OnceLock<(nats_server::Server, TempDir)> = OnceLock::new();
static STREAMS: AtomicUsize = AtomicUsize::new(0);

impl Default for OnNats {
    fn default() -> Self {
        let (server, _) = SERVER.get_or_init(|| {
            let directory = TempDir::new().unwrap();
            (nats_server::Server::start(directory.path()), directory)
        });
        let n = STREAMS.fetch_add(1, Ordering::Relaxed);
        let settings = Settings {
            servers: vec![server.url()],
            credentials_file: None,
            nkey_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            name: format!("test{n}"),
            replicas: 1,
            node: "a".to_owned(),
            owner: "a".to_owned(),
            sweep: Sweep { every: Duration::from_millis(20), lost_after: Duration::ZERO },
        };
        Self { settings }
    }
}

impl Home for OnNats {
    type Store = JetStreamStore;
    const LAG: Duration = Duration::from_secs(1);
    const GAPLESS: bool = false;

    async fn open(&self, context: &Context) -> JetStreamStore {
        JetStreamStore::open(&self.settings, 64, context).await.unwrap().0
    }
}

pub(super) struct ManualClock(AtomicI64);

impl ManualClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        let millis = self.0.load(Ordering::SeqCst);
        let monotonic = Duration::from_millis(millis.unsigned_abs());
        Now { wall: Timestamp::from_millis(millis), monotonic }
    }
}

/// A store and the world around it, at noon of some day.
pub(super) struct World<H: Home> {
    pub(super) clock: Arc<ManualClock>,
    pub(super) policy: watch::Sender<Arc<Policy>>,
    pub(super) home: H,
    pub(super) store: H::Store,
}

impl World<OnDisk> {
    pub(super) fn new() -> Self {
        let (clock, policy, home) = surroundings::<OnDisk>();
        let path = home.0.path().join("ibvwatch.db");
        let store = SqliteStore::open(&path, &context(&clock, &policy)).unwrap();
        Self { clock, policy, home, store }
    }
}

fn surroundings<H: Home>() -> (Arc<ManualClock>, watch::Sender<Arc<Policy>>, H) {
    let policy = Policy { jitter: 0.0, ..Policy::default() };
    let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock(AtomicI64::new(noon.as_millis())));
    (clock, watch::Sender::new(Arc::new(policy)), H::default())
}

impl<H: Home> World<H> {
    pub(super) async fn begin() -> Self {
        let (clock, policy, home) = surroundings::<H>();
        let store = home.open(&context(&clock, &policy)).await;
        Self { clock, policy, home, store }
    }

    /// Gives the future the time that it needs if there is something for it at all.
    pub(super) async fn briefly<F: Future>(&self, future: F) -> Poll<F::Output> {
        let mut future = pin!(future);
        match poll_once(future.as_mut()).await {
            Poll::Pending if H::LAG > Duration::ZERO => {
                tokio::time::timeout(H::LAG, future).await.map_or(Poll::Pending, Poll::Ready)
            }
            Poll::Ready(output) => Poll::Ready(output),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The sequence of the log's nth event.
    pub(super) async fn place(&self, n: usize) -> u64 {
        let query =
            EventQuery { from: Position::After(0), limit: n, filter: EventFilter::default() };
        let page = self.store.find_events(query).await.unwrap();
        page.events[n - 1].sequence
    }

    /// The events are all of the log's, in order.
    fn assert_in_sequence(events: &[Record]) {
        let sequences = events.iter().map(|event| event.sequence);
        if H::GAPLESS {
            assert!(sequences.eq(1..=events.len() as u64));
        } else {
            assert!(sequences.is_sorted_by(|a, b| a < b));
        }
    }

    pub(super) fn context(&self) -> Context {
        context(&self.clock, &self.policy)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    pub(super) async fn track(&self, numbers: &[u16]) {
        self.store.track(numbers.iter().map(|&n| entry(n)).collect()).await.unwrap();
    }

    pub(super) async fn untrack(&self, n: u16) {
        self.store.untrack(vec![id(n)]).await.unwrap();
    }

    pub(super) async fn lease(&self) -> Lease {
        patiently(self.store.next_due()).await.unwrap()
    }

    /// The lease of what is due, or `None`, once what time has brought about is durable. Nothing
    /// may be in flight.
    pub(super) async fn due(&self) -> Option<Lease> {
        patiently(async {
            self.keep_time().await;
            match self.briefly(self.store.next_due()).await {
                Poll::Ready(lease) => Some(lease.unwrap()),
                Poll::Pending => None,
            }
        })
        .await
    }

    /// Lets the store decide what time has brought about, by one that gives up again and again.
    async fn keep_time(&self) {
        let policy = self.policy.borrow().clone();
        let due =
            |session: &Session| session.wake(&policy).is_some_and(|wake| wake.timer <= self.now());
        loop {
            let time = self.briefly(self.store.keep_time()).await;
            assert!(time.is_pending(), "{time:?}");
            self.settle().await;
            if !self.store.sessions().await.unwrap().iter().any(due) {
                return;
            }
        }
    }

    /// Waits until all that was decided is durable: a purge of nothing stands behind it.
    pub(super) async fn settle(&self) {
        patiently(self.store.purge(Duration::MAX, &[])).await.unwrap();
    }

    pub(super) fn decide(&self, lease: &Lease, observation: Observation) -> Transition {
        let rng = &mut StdRng::seed_from_u64(7);
        let policy = self.policy.borrow().clone();
        {
            let exchange = Exchange { sent: self.now(), arrived: self.now(), outage: false };
            lease.session.observe(observation, None, exchange, &policy, rng)
        }
    }

    /// Polls what is due and commits what the answer means.
    pub(super) async fn poll(&self, observation: Observation) -> SessionId {
        let lease = self.lease().await;
        let transition = self.decide(&lease, observation);
        let id = lease.session.id();
        self.store.commit(lease, transition).await.unwrap();
        id
    }

    pub(super) async fn read(&self, sink: &str) -> Vec<Record> {
        patiently(self.store.read_events(sink, 1_000_000)).await.unwrap()
    }

    pub(super) async fn session(&self, n: u16) -> Option<Session> {
        self.store.session(id(n)).await.unwrap()
    }

    pub(super) async fn ended(&self, n: u16) -> Option<EndReason> {
        let ended = self.session(n).await.and_then(|session| session.ended());
        ended.map(|(reason, _)| reason)
    }

    /// Whether a sink would wait.
    async fn nothing_for(&self, sink: &str) -> bool {
        let read = self.store.read_events(sink, 1_000_000);
        tokio::time::timeout(H::LAG + Duration::from_millis(50), read).await.is_err()
    }
}

/// A month in which something of everything that a store may hold comes about.
pub(super) async fn filled<H: Home>(w: &World<H>) {
    w.track(&[1, 2]).await;
    w.untrack(2).await;
    w.store.ack_events("stdout", 3).await.unwrap();
    w.clock.advance(31 * DAY);
    w.store.purge(15 * DAY, &["stdout"]).await.unwrap();
    w.track(&[3, 4]).await;
    w.poll(answer("REQUIRED")).await;
    w.store.ack_events("stdout", 4).await.unwrap();
    let detail = ApiDetail::Available { unavailable_since: w.now() };
    let event = ApiEvent { time: w.now(), cause: Cause::RateLimited, detail };
    w.store.announce(event).await.unwrap();
    w.store.checkpoint().await.unwrap();
}

pub(super) fn context(clock: &Arc<ManualClock>, policy: &watch::Sender<Arc<Policy>>) -> Context {
    Context {
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        policy: policy.subscribe(),
        seed: 1,
        source: "ibvwatch".to_owned(),
        metrics: Writes::default(),
    }
}

pub(super) fn id(n: u16) -> SessionId {
    let mut bytes = [0; 16];
    bytes[14..].copy_from_slice(&n.to_be_bytes());
    SessionId::from_bytes(bytes)
}

pub(super) fn entry(n: u16) -> Entry {
    Entry { session_id: id(n), labels: Labels::default(), expires_at: None, interval: None }
}

/// An answer with one document in that state, which leaves the deadline where it was assumed.
pub(super) fn answer(state: &str) -> Observation {
    let resources = vec![Listed::new(Some("ID_DOCUMENT"), Some("d1"), Some(state))];
    Observation::Configuration(Snapshot { ttl: None, listing: resources.into() })
}

pub(super) fn kinds(events: &[Record]) -> Vec<&str> {
    events.iter().map(|event| event.kind.trim_start_matches("ibvwatch.")).collect()
}

pub(super) fn ids(events: &[Record]) -> Vec<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

pub(super) fn lines(events: &[Record]) -> Vec<String> {
    events.iter().map(|event| event.to_line().unwrap()).collect()
}

fn numbered(n: u16, ordinals: std::ops::RangeInclusive<u64>) -> Vec<String> {
    ordinals.map(|ordinal| format!("{}/{ordinal}", id(n))).collect()
}

pub(super) async fn patiently<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it came to no end")
}

pub(super) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

async fn what_is_committed_is_read_in_order<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.poll(answer("REQUIRED")).await;
    w.clock.advance(5 * MINUTE);
    w.poll(answer("IN_PROGRESS")).await;
    let events = w.read("sink").await;
    assert_eq!(
        kinds(&events),
        [
            "session.tracked",
            "session.observed",
            "resource.state_changed",
            "session.nothing_required"
        ]
    );
    assert_eq!(ids(&events), numbered(1, 1..=4));
    World::<H>::assert_in_sequence(&events);
    let limited = w.store.read_events("sink", 3).await.unwrap();
    assert_eq!(lines(&limited), lines(&events[..3]));
}

async fn a_sink_waits_until_there_is_something_for_it<H: Home>(w: World<H>) {
    let mut read = pin!(w.store.read_events("sink", 10));
    assert!(poll_once(read.as_mut()).await.is_pending());
    w.track(&[1]).await;
    assert_eq!(kinds(&patiently(read).await.unwrap()), ["session.tracked"]);
    w.store.ack_events("sink", w.place(1).await).await.unwrap();
    assert!(w.nothing_for("sink").await);
}

async fn a_steady_poll_moves_the_schedule_and_tells_nothing<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.poll(answer("REQUIRED")).await;
    w.clock.advance(5 * MINUTE);
    w.poll(answer("REQUIRED")).await;
    assert_eq!(w.read("sink").await.len(), 2);
    let session = w.session(1).await.unwrap();
    assert_eq!(session.schedule().poll_at, w.now().plus(5 * MINUTE));
    assert!(w.due().await.is_none());
}

async fn a_stale_commit_is_refused_whole_and_the_session_is_due_again<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.poll(answer("REQUIRED")).await;
    w.clock.advance(5 * MINUTE);
    let lease = w.lease().await;
    let amended = Entry { expires_at: Some(w.now().plus(DAY)), ..entry(1) };
    w.store.track(vec![amended.clone()]).await.unwrap();
    let before = w.session(1).await.unwrap();
    let transition = w.decide(&lease, answer("COMPLETE"));
    let refused = w.store.commit(lease, transition).await;
    assert_eq!(refused, Err(StoreError::Stale(id(1))));
    assert_eq!(w.session(1).await.unwrap(), before);
    assert_eq!(w.read("sink").await.len() as u64, before.sequence());

    let again = w.lease().await;
    assert_eq!(again.session.entry(), &amended);
    let transition = w.decide(&again, answer("COMPLETE"));
    w.store.commit(again, transition).await.unwrap();
}

async fn a_stale_steady_commit_is_refused_too<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.poll(answer("REQUIRED")).await;
    w.clock.advance(5 * MINUTE);
    let lease = w.lease().await;
    let interval = Some(MINUTE);
    w.store.track(vec![Entry { interval, ..entry(1) }]).await.unwrap();
    let transition = w.decide(&lease, answer("REQUIRED"));
    assert!(transition.steady);
    assert_eq!(w.store.commit(lease, transition).await, Err(StoreError::Stale(id(1))));
    assert_eq!(w.session(1).await.unwrap().entry().interval, interval);
}

async fn a_session_is_leased_to_one_at_a_time<H: Home>(w: World<H>) {
    w.track(&[1, 2]).await;
    let (first, second) = (w.lease().await, w.lease().await);
    assert_ne!(first.session.id(), second.session.id());
    w.clock.advance(60 * MINUTE);
    // Neither time nor a new entry brings out a session that is in flight.
    w.store.track(vec![Entry { interval: Some(MINUTE), ..entry(1) }]).await.unwrap();
    assert!(w.briefly(w.store.next_due()).await.is_pending());
}

async fn sessions_fall_due_in_order_and_not_before<H: Home>(w: World<H>) {
    for n in [3, 1, 2] {
        w.track(&[n]).await;
        w.poll(answer("REQUIRED")).await;
        w.clock.advance(MINUTE);
    }
    assert!(w.due().await.is_none());
    w.clock.advance(10 * MINUTE);
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(w.poll(answer("REQUIRED")).await);
    }
    assert_eq!(order, [id(3), id(1), id(2)]);
}

async fn a_released_session_is_due_when_it_was<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    let lease = w.lease().await;
    let due_at = lease.due_at;
    w.clock.advance(MINUTE);
    w.store.release(lease);
    let again = w.lease().await;
    assert_eq!((again.session.id(), again.due_at), (id(1), due_at));
}

async fn who_waits_is_woken_by_a_new_session_and_by_a_release<H: Home>(w: World<H>) {
    let mut next = pin!(w.store.next_due());
    assert!(poll_once(next.as_mut()).await.is_pending());
    w.track(&[1]).await;
    let lease = w.briefly(next).await;
    let Poll::Ready(Ok(lease)) = lease else { panic!("not woken by a new session") };
    let mut next = pin!(w.store.next_due());
    assert!(poll_once(next.as_mut()).await.is_pending());
    w.store.release(lease);
    assert!(w.briefly(next).await.is_ready(), "not woken by a release");
}

async fn a_waiter_that_gives_up_takes_nothing_with_it<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.poll(answer("REQUIRED")).await;
    let expires_at = Some(w.now().plus(MINUTE));
    w.store.track(vec![entry(1), Entry { expires_at, ..entry(2) }]).await.unwrap();
    w.poll(answer("REQUIRED")).await;
    w.clock.advance(5 * MINUTE);
    // The deadline of 2 is decided while nobody waits for it to the end.
    let lease = w.due().await.expect("a poll of 1");
    assert_eq!(lease.session.id(), id(1));
    assert_eq!(w.ended(2).await, Some(EndReason::Expired));
    w.store.release(lease);
    w.track(&[3]).await;
    let events = w.read("sink").await;
    assert_eq!(events.iter().filter(|event| event.kind == "ibvwatch.session.ended").count(), 1);
}

async fn an_untracked_session_ends_and_its_lease_with_it<H: Home>(w: World<H>) {
    w.track(&[1, 2]).await;
    let lease = w.lease().await;
    let leased = lease.session.id();
    w.store.untrack(vec![id(1), id(2), id(3)]).await.unwrap();
    w.store.untrack(vec![id(1)]).await.unwrap();
    let transition = w.decide(&lease, answer("REQUIRED"));
    assert_eq!(w.store.commit(lease, transition).await, Err(StoreError::Stale(leased)));
    assert_eq!(w.ended(1).await, Some(EndReason::Untracked));
    assert_eq!(w.ended(2).await, Some(EndReason::Untracked));
    assert!(w.store.listed().is_empty());
    assert!(w.due().await.is_none());
    let events = w.read("sink").await;
    assert_eq!(kinds(&events)[2..], ["session.ended", "session.ended"]);
}

async fn an_ended_session_stays_ended_while_it_is_listed<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.poll(Observation::Completed).await;
    w.store.track(vec![Entry { interval: Some(MINUTE), ..entry(1) }]).await.unwrap();
    w.clock.advance(DAY);
    assert_eq!(w.ended(1).await, Some(EndReason::Completed));
    assert_eq!(w.store.listed(), [id(1)]);
    assert!(w.due().await.is_none());
}

async fn a_session_that_comes_back_is_tracked_afresh_and_counts_on<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.poll(Observation::Completed).await;
    w.untrack(1).await;
    w.track(&[1]).await;
    assert_eq!(w.ended(1).await, None);
    w.poll(answer("REQUIRED")).await;
    let events = w.read("sink").await;
    assert_eq!(ids(&events), numbered(1, 1..=5));
    assert_eq!(kinds(&events)[3..], ["session.tracked", "session.observed"]);
}

async fn a_life_begun_under_an_old_lease_refuses_its_answer<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    let lease = w.lease().await;
    w.untrack(1).await;
    w.track(&[1]).await;
    assert!(w.briefly(w.store.next_due()).await.is_pending(), "still in flight");
    let transition = w.decide(&lease, answer("REQUIRED"));
    assert_eq!(w.store.commit(lease, transition).await, Err(StoreError::Stale(id(1))));
    assert_eq!(w.poll(answer("REQUIRED")).await, id(1));
    assert_eq!(ids(&w.read("sink").await), numbered(1, 1..=4));
}

async fn counting_goes_on_even_after_all_was_forgotten<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    w.untrack(1).await;
    let last = w.read("sink").await.last().unwrap().sequence;
    w.store.ack_events("sink", last).await.unwrap();
    w.clock.advance(31 * DAY);
    w.store.purge(30 * DAY, &["sink"]).await.unwrap();
    assert!(w.store.sessions().await.unwrap().is_empty());
    assert!(w.nothing_for("newcomer").await);

    w.track(&[1]).await;
    let events = w.read("sink").await;
    assert_eq!(ids(&events), numbered(1, 3..=3));
    assert!(events[0].sequence > last);
    assert!(!H::GAPLESS || events[0].sequence == last + 1);
}

async fn many_are_forgotten_at_once<H: Home>(w: World<H>) {
    let numbers: Vec<u16> = (1..=40).collect();
    w.track(&numbers).await;
    for n in numbers.iter().filter(|n| *n % 4 > 0) {
        w.untrack(*n).await;
    }
    w.clock.advance(31 * DAY);
    w.store.purge(30 * DAY, &[]).await.unwrap();
    let left: Vec<SessionId> = w.store.sessions().await.unwrap().iter().map(Session::id).collect();
    assert_eq!(left, (1..=10).map(|n| id(4 * n)).collect::<Vec<_>>());
}

async fn purging_keeps_what_is_listed_young_or_alive<H: Home>(w: World<H>) {
    w.track(&[1, 2, 3]).await;
    for n in 1..=3 {
        assert_eq!(w.poll(Observation::Completed).await, id(n));
    }
    w.untrack(2).await;
    w.clock.advance(31 * DAY);
    w.track(&[4, 5]).await;
    w.untrack(5).await;
    w.store.purge(30 * DAY, &[]).await.unwrap();
    let left: Vec<SessionId> = w.store.sessions().await.unwrap().iter().map(Session::id).collect();
    assert_eq!(left, [id(1), id(3), id(4), id(5)]);
    assert_eq!(
        kinds(&w.read("sink").await),
        ["session.tracked", "session.tracked", "session.ended"]
    );
}

async fn purging_keeps_what_a_sink_has_not_delivered<H: Home>(w: World<H>) {
    w.track(&[1, 2, 3]).await;
    w.store.ack_events("ahead", w.place(3).await).await.unwrap();
    w.store.ack_events("behind", w.place(1).await).await.unwrap();
    w.clock.advance(31 * DAY);
    let before = w.read("behind").await;
    w.store.purge(30 * DAY, &["ahead", "behind"]).await.unwrap();
    assert_eq!(lines(&w.read("behind").await), lines(&before));
    w.store.purge(30 * DAY, &["ahead", "never-seen"]).await.unwrap();
    assert_eq!(lines(&w.read("behind").await), lines(&before));
    assert_eq!(w.read("newcomer").await.len(), 2);
    w.store.purge(30 * DAY, &["ahead"]).await.unwrap();
    assert!(w.nothing_for("behind").await);
}

async fn a_session_in_flight_is_not_forgotten<H: Home>(w: World<H>) {
    w.track(&[1]).await;
    let lease = w.lease().await;
    w.untrack(1).await;
    w.clock.advance(31 * DAY);
    w.store.purge(30 * DAY, &[]).await.unwrap();
    assert!(w.session(1).await.is_some());
    w.store.release(lease);
    w.store.purge(30 * DAY, &[]).await.unwrap();
    assert!(w.session(1).await.is_none());
}

async fn sinks_advance_each_on_its_own<H: Home>(w: World<H>) {
    w.track(&[1, 2, 3]).await;
    w.store.ack_events("a", w.place(2).await).await.unwrap();
    assert_eq!(w.read("a").await.len(), 1);
    assert_eq!(w.read("b").await.len(), 3, "an unknown sink starts at the oldest");
    w.store.ack_events("b", w.place(1).await).await.unwrap();
    assert_eq!(w.read("a").await.len(), 1);
    assert_eq!(w.read("b").await.len(), 2);
}

async fn a_cursor_neither_goes_back_nor_beyond_the_log<H: Home>(w: World<H>) {
    w.track(&[1, 2]).await;
    w.store.ack_events("sink", u64::MAX).await.unwrap();
    w.track(&[3]).await;
    assert_eq!(w.read("sink").await.len(), 1, "an event was skipped");
    w.store.ack_events("sink", w.place(1).await).await.unwrap();
    assert_eq!(w.read("sink").await.len(), 1, "the cursor went back");
}

async fn a_redelivery_is_the_same_to_the_byte<H: Home>(w: World<H>) {
    let labels = Labels::new([("case".to_owned(), "Ä\"17\u{2028}".to_owned())].into()).unwrap();
    w.store.track(vec![Entry { labels, ..entry(1) }]).await.unwrap();
    w.poll(answer("REQUIRED")).await;
    let first = lines(&w.read("sink").await);
    w.clock.advance(DAY);
    w.store.track(vec![entry(1)]).await.unwrap();
    assert_eq!(lines(&w.read("sink").await)[..2], first);
}

async fn a_deadline_is_reached_without_a_poll<H: Home>(w: World<H>) {
    let expires_at = Some(w.now().plus(2 * DAY));
    w.store.track(vec![Entry { expires_at, ..entry(1) }]).await.unwrap();
    w.poll(answer("REQUIRED")).await;
    w.clock.advance(2 * DAY);
    assert!(w.due().await.is_none());
    assert_eq!(w.ended(1).await, Some(EndReason::Expired));
}

async fn what_time_brings_about_is_told_while_nothing_is_due<H: Home>(w: World<H>) {
    let expires_at = Some(w.now().plus(2 * DAY));
    w.store.track(vec![Entry { expires_at, ..entry(1) }]).await.unwrap();
    w.poll(answer("REQUIRED")).await;
    w.store.ack_events("sink", w.place(2).await).await.unwrap();
    w.clock.advance(DAY);
    w.keep_time().await;
    assert_eq!(kinds(&w.read("sink").await), ["session.expiring"]);
}

async fn a_cohort_that_expires_together_ends_together<H: Home>(w: World<H>) {
    let expires_at = Some(w.now().plus(DAY));
    let cohort = (0..12_000).map(|n| Entry { expires_at, ..entry(n) }).collect();
    w.store.track(cohort).await.unwrap();
    w.clock.advance(DAY);
    assert!(w.due().await.is_none());
    let sessions = w.store.sessions().await.unwrap();
    assert!(sessions.iter().all(|session| session.ended().is_some()));
    w.store.checkpoint().await.unwrap();
}

async fn fifty_thousand_sessions_are_tracked_at_once<H: Home>(w: World<H>) {
    let entries: Vec<Entry> = (0..50_000).map(entry).collect();
    w.store.track(entries.clone()).await.unwrap();
    w.store.track(entries).await.unwrap();
    let events = w.read("sink").await;
    assert_eq!(events.len(), 50_000);
    let distinct: HashSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(distinct.len(), 50_000);
    assert_eq!(w.store.listed().len(), 50_000);
}

async fn many_workers_leave_no_gap<H: Home>(w: World<H>) {
    w.store.track((0..200).map(entry).collect()).await.unwrap();
    let w = Arc::new(w);
    let left = Arc::new(AtomicI64::new(400));
    let mut workers = JoinSet::new();
    for _ in 0..16 {
        let (w, left) = (Arc::clone(&w), Arc::clone(&left));
        workers.spawn(async move {
            while left.fetch_sub(1, Ordering::SeqCst) > 0 {
                w.poll(answer("REQUIRED")).await;
                w.clock.advance(MINUTE);
            }
        });
    }
    patiently(workers.join_all()).await;
    let events = w.read("sink").await;
    World::<H>::assert_in_sequence(&events);
    for n in 0..200 {
        let subject = Some(id(n));
        let of_one = events.iter().filter(|event| event.subject == subject);
        let sequence = w.session(n).await.unwrap().sequence();
        assert_eq!(
            of_one.map(|event| event.id.clone()).collect::<Vec<_>>(),
            numbered(n, 1..=sequence)
        );
    }
}

async fn one_entry_twice_is_one_session<H: Home>(w: World<H>) {
    w.track(&[1, 1]).await;
    assert_eq!(w.store.sessions().await.unwrap().len(), 1);
    assert_eq!(ids(&w.read("sink").await), numbered(1, 1..=1));
}

fn labelled(n: u16, case: &str) -> Entry {
    let labels = Labels::new([("case".to_owned(), case.to_owned())].into()).unwrap();
    Entry { labels, ..entry(n) }
}

async fn found<H: Home>(w: &World<H>, filter: &SessionFilter) -> Vec<SessionId> {
    let query = SessionQuery { after: None, limit: 100, filter: filter.clone() };
    let page = w.store.find_sessions(&query).await.unwrap();
    assert_eq!(page.next, None);
    page.sessions.iter().map(|session| session.id()).collect()
}

async fn sessions_are_found_by_phase_label_and_text<H: Home>(w: World<H>) {
    w.store.track(vec![labelled(1, "a-17"), labelled(3, "B-1"), labelled(2, "A-1")]).await.unwrap();
    assert_eq!(w.poll(answer("REQUIRED")).await, id(1));
    w.untrack(2).await;
    let all = SessionFilter::default();
    let phase = |phase| SessionFilter { phase: Some(phase), ..all.clone() };
    let text = |text: &str| SessionFilter { text: Some(text.to_owned()), ..all.clone() };
    let label = |name: &str, value: &str| SessionFilter {
        labels: vec![(name.to_owned(), value.to_owned())],
        ..all.clone()
    };
    assert_eq!(found(&w, &all).await, [id(1), id(2), id(3)]);
    assert_eq!(found(&w, &phase(PhaseName::Quiet)).await, [id(1)]);
    assert_eq!(found(&w, &phase(PhaseName::Ended)).await, [id(2)]);
    assert_eq!(found(&w, &phase(PhaseName::Pending)).await, [id(3)]);
    assert_eq!(found(&w, &phase(PhaseName::Failing)).await, []);
    assert_eq!(found(&w, &text("A-1")).await, [id(1), id(2)]);
    assert_eq!(found(&w, &text("0000")).await, [id(1), id(2), id(3)]);
    assert_eq!(found(&w, &text(&id(3).to_string().to_uppercase())).await, [id(3)]);
    assert_eq!(found(&w, &text("case")).await, [], "a label's name is not searched");
    assert_eq!(found(&w, &label("case", "A-1")).await, [id(2)]);
    assert_eq!(found(&w, &label("case", "A")).await, []);
    assert_eq!(found(&w, &label("c", "A-1")).await, []);
    let both = SessionFilter { phase: Some(PhaseName::Quiet), ..text("A-1") };
    assert_eq!(found(&w, &both).await, [id(1)]);
}

async fn pages_of_sessions_join_without_gap_or_overlap<H: Home>(w: World<H>) {
    const SESSIONS: u16 = 2_500;
    w.track(&(0..SESSIONS).rev().collect::<Vec<_>>()).await;
    // With a filter, most are looked through in vain.
    let last_ones = SessionFilter {
        text: Some(id(0).to_string()[..35].to_owned()),
        ..SessionFilter::default()
    };
    for (filter, limit, expected) in [
        (SessionFilter::default(), 700, SESSIONS),
        (SessionFilter::default(), 2_500, SESSIONS),
        (last_ones, 5, 16),
    ] {
        let mut query = SessionQuery { after: None, limit, filter };
        let mut seen = Vec::new();
        loop {
            let page = w.store.find_sessions(&query).await.unwrap();
            assert!(page.sessions.len() == limit || page.next.is_none(), "a page came short");
            seen.extend(page.sessions.iter().map(|session| session.id()));
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..expected).map(id).collect::<Vec<_>>());
    }
}

async fn events_are_found_in_both_directions<H: Home>(w: World<H>) {
    w.track(&[1, 2]).await;
    w.poll(answer("REQUIRED")).await;
    w.poll(answer("REQUIRED")).await;
    w.untrack(1).await;
    // Here, events go by the number of their place in the log.
    let mut places = vec![0];
    for n in 1..=5 {
        places.push(w.place(n).await);
    }
    assert_eq!(*w.store.recorded().borrow(), places[5]);
    let place = |n: u64| usize::try_from(n).ok().and_then(|n| places.get(n).copied()).unwrap_or(n);
    let number = |sequence: u64| places.iter().position(|&place| place == sequence).unwrap();
    let find = async |from, limit, session: Option<u16>, kind| {
        let from = match from {
            Position::After(n) => Position::After(place(n)),
            Position::Before(n) => Position::Before(if n > 5 { u64::MAX } else { place(n) }),
        };
        let filter = EventFilter { session: session.map(id), kind };
        let page = w.store.find_events(EventQuery { from, limit, filter }).await.unwrap();
        let numbers: Vec<usize> = page.events.iter().map(|event| number(event.sequence)).collect();
        (numbers, page.next.map(number))
    };
    let (after, before) = (Position::After, Position::Before);
    let tracked = Some(EventKind::SessionTracked);
    assert_eq!(find(after(0), 9, None, None).await, (vec![1, 2, 3, 4, 5], None));
    assert_eq!(find(after(0), 5, None, None).await, (vec![1, 2, 3, 4, 5], None));
    assert_eq!(find(after(1), 3, None, None).await, (vec![2, 3, 4], Some(4)));
    assert_eq!(find(before(u64::MAX), 2, None, None).await, (vec![5, 4], Some(4)));
    assert_eq!(find(before(4), 9, None, None).await, (vec![3, 2, 1], None));
    assert_eq!(find(after(0), 9, Some(1), None).await, (vec![1, 3, 5], None));
    assert_eq!(find(before(5), 1, Some(1), None).await, (vec![3], Some(3)));
    assert_eq!(find(after(0), 9, None, tracked).await, (vec![1, 2], None));
    assert_eq!(find(before(9), 1, None, tracked).await, (vec![2], Some(2)));
    assert_eq!(find(after(0), 9, Some(2), tracked).await, (vec![2], None));
    assert_eq!(find(before(0), 9, None, None).await, (vec![], None));
    assert_eq!(find(after(u64::MAX), 9, None, None).await, (vec![], None));
}

macro_rules! conformance {
    ($module:ident, $home:ty: $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(super::World::<$home>::begin().await).await;
                }
            )*
        }
    };
}

macro_rules! for_every_store {
    ($($name:ident)*) => {
        conformance!(memory, crate::store::conformance::InMemory: $($name)*);
        conformance!(sqlite, crate::store::conformance::OnDisk: $($name)*);
        // They say in their names that they need a nats-server.
        conformance!(nats, crate::store::conformance::OnNats: $($name)*);
    };
}

for_every_store! {
    what_is_committed_is_read_in_order
    a_sink_waits_until_there_is_something_for_it
    a_steady_poll_moves_the_schedule_and_tells_nothing
    a_stale_commit_is_refused_whole_and_the_session_is_due_again
    a_stale_steady_commit_is_refused_too
    a_session_is_leased_to_one_at_a_time
    sessions_fall_due_in_order_and_not_before
    a_released_session_is_due_when_it_was
    who_waits_is_woken_by_a_new_session_and_by_a_release
    a_waiter_that_gives_up_takes_nothing_with_it
    an_untracked_session_ends_and_its_lease_with_it
    an_ended_session_stays_ended_while_it_is_listed
    a_session_that_comes_back_is_tracked_afresh_and_counts_on
    a_life_begun_under_an_old_lease_refuses_its_answer
    counting_goes_on_even_after_all_was_forgotten
    purging_keeps_what_is_listed_young_or_alive
    purging_keeps_what_a_sink_has_not_delivered
    a_session_in_flight_is_not_forgotten
    many_are_forgotten_at_once
    sinks_advance_each_on_its_own
    a_cursor_neither_goes_back_nor_beyond_the_log
    a_redelivery_is_the_same_to_the_byte
    a_deadline_is_reached_without_a_poll
    what_time_brings_about_is_told_while_nothing_is_due
    a_cohort_that_expires_together_ends_together
    fifty_thousand_sessions_are_tracked_at_once
    many_workers_leave_no_gap
    sessions_are_found_by_phase_label_and_text
    pages_of_sessions_join_without_gap_or_overlap
    events_are_found_in_both_directions
    one_entry_twice_is_one_session
}

/// What may happen to a store, in any order.
#[derive(Debug, Clone)]
enum Op {
    Track {
        n: u16,
        minutes: Option<u64>,
    },
    Untrack(u16),
    Poll(Answer),
    Release,
    /// The session is untracked while it is in flight.
    Overtaken(Answer),
    Advance {
        seconds: u64,
        millis: u64,
    },
    Ack {
        sink: &'static str,
        up_to: u64,
    },
    Purge,
    Checkpoint,
}

#[derive(Debug, Clone)]
enum Answer {
    Document(&'static str),
    Completed,
}

impl Answer {
    fn observation(&self) -> Observation {
        match self {
            Self::Document(state) => answer(state),
            Self::Completed => Observation::Completed,
        }
    }
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => prop::sample::select(vec!["REQUIRED", "IN_PROGRESS", "COMPLETE", "odd"]).prop_map(Answer::Document),
        1 => Just(Answer::Completed),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let minutes = prop_oneof![Just(None), (1_u64..10).prop_map(Some)];
    prop_oneof![
        3 => (0_u16..5, minutes).prop_map(|(n, minutes)| Op::Track { n, minutes }),
        1 => (0_u16..5).prop_map(Op::Untrack),
        6 => answers().prop_map(Op::Poll),
        1 => Just(Op::Release),
        1 => answers().prop_map(Op::Overtaken),
        3 => (prop_oneof![1_u64..1_200, 1_200_000_u64..3_600_000], 0_u64..1_000)
            .prop_map(|(seconds, millis)| Op::Advance { seconds, millis }),
        1 => (prop::sample::select(vec!["a", "b"]), 0_u64..40).prop_map(|(sink, up_to)| Op::Ack { sink, up_to }),
        1 => Just(Op::Purge),
        1 => Just(Op::Checkpoint),
    ]
}

impl<H: Home> World<H> {
    async fn perform(&self, op: &Op) {
        match op {
            &Op::Track { n, minutes } => {
                let interval = minutes.map(|minutes| Duration::from_secs(60 * minutes));
                self.store.track(vec![Entry { interval, ..entry(n) }]).await.unwrap();
            }
            &Op::Untrack(n) => self.untrack(n).await,
            Op::Poll(answer) => {
                if let Some(lease) = self.due().await {
                    let transition = self.decide(&lease, answer.observation());
                    self.store.commit(lease, transition).await.unwrap();
                }
            }
            Op::Release => {
                if let Some(lease) = self.due().await {
                    self.store.release(lease);
                }
            }
            Op::Overtaken(answer) => {
                if let Some(lease) = self.due().await {
                    let id = lease.session.id();
                    self.store.untrack(vec![id]).await.unwrap();
                    let transition = self.decide(&lease, answer.observation());
                    let refused = self.store.commit(lease, transition).await;
                    assert_eq!(refused, Err(StoreError::Stale(id)));
                }
            }
            &Op::Advance { seconds, millis } => {
                self.clock.advance(Duration::from_millis(1_000 * seconds + millis));
                if let Some(lease) = self.due().await {
                    self.store.release(lease);
                }
            }
            &Op::Ack { sink, up_to } => self.store.ack_events(sink, up_to).await.unwrap(),
            Op::Purge => self.store.purge(30 * DAY, &["a", "b"]).await.unwrap(),
            Op::Checkpoint => self.store.checkpoint().await.unwrap(),
        }
    }
}

/// As the registry counts it, by looking at every session. Nothing may be in flight.
fn counted(sessions: &[Session], now: Timestamp, policy: &Policy) -> Census {
    let mut census = Census::default();
    for session in sessions {
        match session.phase(now.floor_seconds()) {
            Phase::Pending => census.pending += 1,
            Phase::Quiet => census.quiet += 1,
            Phase::Active => census.active += 1,
            Phase::Failing => census.failing += 1,
            Phase::Ended(_) => {
                census.ended += 1;
                continue;
            }
        }
        let progress = session.progress();
        census.required += progress.required as usize;
        census.in_progress += progress.in_progress as usize;
        census.complete += progress.complete as usize;
        census.other += progress.other as usize;
        let due_at = session.wake(policy).and_then(|wake| wake.poll).map(|(at, _)| at);
        census.overdue += usize::from(due_at.is_some_and(|at| at <= now.floor_seconds()));
    }
    census
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_stores_come_to_the_same(ops in prop::collection::vec(ops(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (memory, disk) = (World::<InMemory>::begin().await, World::<OnDisk>::begin().await);
            for op in &ops {
                memory.perform(op).await;
                disk.perform(op).await;
                let sessions = memory.store.sessions().await.unwrap();
                assert_eq!(sessions, disk.store.sessions().await.unwrap());
                let policy = memory.policy.borrow().clone();
                let census = counted(&sessions, memory.now(), &policy);
                assert_eq!(memory.store.census(), census);
                assert_eq!(disk.store.census(), census);
            }
            // So that there is something to read.
            memory.track(&[900]).await;
            disk.track(&[900]).await;
            for sink in ["a", "b", "newcomer"] {
                assert_eq!(lines(&memory.read(sink).await), lines(&disk.read(sink).await));
            }
        });
    }
}
