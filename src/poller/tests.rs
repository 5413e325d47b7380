//! The loop on a paused clock: a day of polls takes a moment, and every wait is exact.

use std::collections::{BTreeMap, VecDeque};

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;
use crate::clock::TokioClock;
use crate::config::Limits;
use crate::domain::{Entry, Labels, Listed, Observation, ProblemKind, Record, SessionId, Snapshot};
use crate::metrics::Writes;
use crate::store::{Context, Gauges, MemoryStore};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// An API that answers as it is told to, and remembers who asked when.
struct Api {
    state: Mutex<State>,
    start: Instant,
}

struct State {
    /// In turns.
    answers: VecDeque<Observation>,
    /// What the next requests take; the rest take none.
    takes: Duration,
    asked: Vec<(Duration, SessionId)>,
    in_flight: BTreeMap<SessionId, usize>,
    most_in_flight: usize,
    most_of_one: usize,
}

impl Api {
    fn tell(&self, answer: Observation) {
        self.tell_in_turns([answer]);
    }

    fn tell_in_turns(&self, answers: impl Into<VecDeque<Observation>>) {
        self.state.lock().unwrap().answers = answers.into();
    }

    fn asked(&self) -> Vec<(Duration, SessionId)> {
        self.state.lock().unwrap().asked.clone()
    }

    fn asked_since(&self, since: Duration) -> Vec<Duration> {
        self.asked().into_iter().map(|(at, _)| at).filter(|at| *at >= since).collect()
    }
}

impl SessionApi for Api {
    async fn configuration(&self, id: SessionId) -> Observation {
        let takes = {
            let mut state = self.state.lock().unwrap();
            state.asked.push((self.start.elapsed(), id));
            *state.in_flight.entry(id).or_default() += 1;
            let all = state.in_flight.values().sum();
            let of_one = state.in_flight[&id];
            state.most_in_flight = state.most_in_flight.max(all);
            state.most_of_one = state.most_of_one.max(of_one);
            state.takes
        };
        sleep(takes).await;
        let mut state = self.state.lock().unwrap();
        *state.in_flight.entry(id).or_default() -= 1;
        state.answers.rotate_left(1);
        state.answers[0].clone()
    }

    async fn session_state(&self, _: SessionId) -> Observation {
        Observation::Ongoing
    }
}

struct World {
    store: Arc<MemoryStore>,
    api: Arc<Api>,
    stop: CancellationToken,
    reported: watch::Receiver<Report>,
    poller: JoinHandle<Result<(), PollerError>>,
    time: JoinHandle<()>,
}

impl World {
    fn start(limits: Limits, policy: Policy) -> Self {
        let clock: Arc<dyn Clock> =
            Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_795_000_000_000)));
        let policy = watch::Sender::new(Arc::new(policy)).subscribe();
        let store = Arc::new(MemoryStore::new(&Context {
            clock: Arc::clone(&clock),
            policy: policy.clone(),
            seed: 1,
            source: "test".to_owned(),
            metrics: Writes::default(),
        }));
        let state = State {
            answers: [good()].into(),
            takes: SECOND / 10,
            asked: Vec::new(),
            in_flight: BTreeMap::new(),
            most_in_flight: 0,
            most_of_one: 0,
        };
        let api = Arc::new(Api { state: Mutex::new(state), start: Instant::now() });
        let bucket = Arc::new(Bucket::new(limits, Arc::clone(&clock)));
        let settings = Settings {
            policy,
            bucket: watch::Sender::new(bucket).subscribe(),
            max_in_flight: watch::Sender::new(limits.max_in_flight).subscribe(),
            hold: None,
        };
        let (report, reported) = watch::channel(Report::default());
        let poller = Poller::new(
            Arc::clone(&store),
            Arc::clone(&api),
            Arc::clone(&clock),
            settings,
            2,
            report,
            Polls::default(),
        );
        let stop = CancellationToken::new();
        let time = {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let ended = store.keep_time().await;
                panic!("the keeper of time ended: {ended:?}");
            })
        };
        let poller = tokio::spawn(poller.run(stop.clone()));
        Self { store, api, stop, reported, poller, time }
    }

    async fn track(&self, count: u8) {
        let entry = |n| Entry {
            session_id: SessionId::from_bytes([n; 16]),
            labels: Labels::default(),
            expires_at: None,
            interval: None,
        };
        self.store.track((1..=count).map(entry).collect()).await.unwrap();
    }

    async fn events(&self) -> Vec<Record> {
        if self.store.undelivered("test") == 0 {
            return Vec::new();
        }
        self.store.read_events("test", 10_000).await.unwrap()
    }

    async fn kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for event in self.events().await {
            *kinds.entry(event.kind).or_default() += 1;
        }
        kinds
    }

    async fn stop(self) {
        self.stop.cancel();
        self.poller.await.unwrap().unwrap();
        self.time.abort();
    }
}

fn limits() -> Limits {
    Limits { rate: 10.0, burst: 20, max_in_flight: 8 }
}

fn good() -> Observation {
    let listed = Listed::new(Some("ID_DOCUMENT"), Some("one"), Some("REQUIRED"));
    let ttl = Some(Duration::from_secs(30 * 86_400));
    Observation::Configuration(Snapshot { ttl, listing: vec![listed].into() })
}

fn problem(kind: ProblemKind) -> Problem {
    Problem { kind, status: None, code: None, request_id: None, message: "no".to_owned() }
}

fn limited(seconds: u64) -> Observation {
    Observation::RateLimited {
        problem: problem(ProblemKind::RateLimited),
        retry_after: Some(Duration::from_secs(seconds)),
    }
}

#[tokio::test(start_paused = true)]
async fn polls_keep_to_the_budget_and_each_session_to_one_at_a_time() {
    let policy = Policy { interval: SECOND, active_interval: SECOND, ..Policy::default() };
    let world = World::start(limits(), policy);
    world.api.state.lock().unwrap().takes = 5 * SECOND;
    world.track(100).await;
    sleep(10 * MINUTE).await;
    {
        let state = world.api.state.lock().unwrap();
        assert_eq!((state.most_in_flight, state.most_of_one), (8, 1));
    }
    world.api.state.lock().unwrap().takes = Duration::ZERO;
    let since = world.api.start.elapsed() + MINUTE;
    sleep(3 * MINUTE).await;
    let asked: Vec<f64> = world.api.asked_since(since).iter().map(Duration::as_secs_f64).collect();
    for (first, from) in asked.iter().enumerate() {
        let within = asked[first..].iter().take_while(|at| **at <= from + 1.0).count();
        assert!(within <= 31, "{within} in the second from {from}");
    }
    assert!((1_190..=1_230).contains(&asked.len()), "{} in two minutes", asked.len());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn polls_that_are_due_soon_after_one_another_go_out_together() {
    let policy = Policy { interval: SECOND, active_interval: SECOND, ..Policy::default() };
    let world = World::start(Limits { rate: 1e3, burst: 1_000, ..limits() }, policy);
    world.api.state.lock().unwrap().takes = Duration::ZERO;
    world.track(100).await;
    sleep(MINUTE).await;
    let since = world.api.start.elapsed();
    sleep(MINUTE).await;
    let mut asked = world.api.asked_since(since);
    assert!((5_800..=6_100).contains(&asked.len()), "{} in a minute", asked.len());
    asked.dedup();
    let apart = asked.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).min().unwrap();
    assert!(apart >= Duration::from_millis(20), "two {apart:?} apart");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_of_rate_limiting_bring_probes_and_nothing_else() {
    let world = World::start(limits(), Policy::default());
    world.track(100).await;
    sleep(10 * MINUTE).await;
    assert!(!world.kinds().await.contains_key("ibvwatch.api.unavailable"));

    let since = world.api.start.elapsed();
    world.api.tell(limited(3));
    sleep(10 * MINUTE).await;
    let asked = world.api.asked_since(since);
    let under_way = asked.iter().take_while(|at| **at <= asked[0] + SECOND / 10).count();
    assert!(under_way <= limits().max_in_flight, "{under_way} before the first answer");
    let probes = &asked[under_way..];
    assert!(probes.windows(2).all(|pair| pair[1] >= pair[0] + 3 * SECOND), "{probes:?}");
    assert!((5..=120).contains(&probes.len()), "{} probes", probes.len());

    world.api.tell(good());
    let until = world.api.start.elapsed();
    sleep(15 * MINUTE).await;
    let kinds = world.kinds().await;
    assert_eq!(kinds["ibvwatch.api.unavailable"], 1);
    assert_eq!(kinds["ibvwatch.api.available"], 1);
    assert_eq!(kinds.get("ibvwatch.session.poll_failing"), None);
    assert_eq!(kinds.get("ibvwatch.session.ended"), None);
    // What is overdue comes over the interval and not at once.
    let after = world.api.asked_since(until);
    let first = after.iter().filter(|at| **at < after[0] + 10 * SECOND).count();
    assert!(first <= 20, "{first} polls in the first ten seconds of 100 overdue");
    let last: BTreeMap<_, _> = world.api.asked().into_iter().map(|(at, id)| (id, at)).collect();
    assert!(last.values().all(|at| *at > until), "a session was lost");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_refusals_is_told_once_and_costs_no_session() {
    let world = World::start(limits(), Policy::default());
    world.track(20).await;
    world.api.tell(Observation::Unauthorized(problem(ProblemKind::Unauthorized)));
    sleep(60 * MINUTE).await;
    let kinds = world.kinds().await;
    assert_eq!(kinds["ibvwatch.session.tracked"], 20);
    assert_eq!(kinds["ibvwatch.api.unavailable"], 1);
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    world.api.tell(good());
    sleep(10 * MINUTE).await;
    let kinds = world.kinds().await;
    assert_eq!(kinds["ibvwatch.session.observed"], 20);
    assert_eq!(kinds["ibvwatch.api.available"], 1);
    let ids: Vec<String> = world.events().await.into_iter().map(|event| event.id).collect();
    assert!(ids.contains(&"api/1".to_owned()) && ids.contains(&"api/2".to_owned()));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_session_that_is_refused_holds_up_no_other() {
    let world = World::start(limits(), Policy::default());
    world.track(5).await;
    sleep(MINUTE).await;
    // As from sessions of two applications.
    world
        .api
        .tell_in_turns([good(), Observation::Unauthorized(problem(ProblemKind::Unauthorized))]);
    sleep(70 * MINUTE).await;
    assert!(world.api.asked().len() > 25, "{} polls", world.api.asked().len());
    assert_eq!(world.kinds().await.get("ibvwatch.api.unavailable"), None);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_session_even_while_no_poll_may_go_out() {
    let world = World::start(limits(), Policy::default());
    let ttl = Some(30 * MINUTE);
    let listed = Listed::new(Some("ID_DOCUMENT"), Some("one"), Some("REQUIRED"));
    world.api.tell(Observation::Configuration(Snapshot { ttl, listing: vec![listed].into() }));
    world.track(3).await;
    sleep(SECOND).await;
    world.api.tell(limited(3_600));
    sleep(40 * MINUTE).await;
    let kinds = world.kinds().await;
    assert_eq!(kinds["ibvwatch.session.ended"], 3, "{kinds:?}");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_polls_under_way_and_begins_no_other() {
    let world = World::start(limits(), Policy::default());
    world.api.state.lock().unwrap().takes = 5 * SECOND;
    world.track(20).await;
    sleep(SECOND).await;
    let began = world.api.asked().len();
    assert_eq!(began, 8);
    let (api, store) = (Arc::clone(&world.api), Arc::clone(&world.store));
    world.stop().await;
    assert_eq!(api.asked().len(), began);
    let events = store.read_events("test", 1_000).await.unwrap();
    let observed = events.iter().filter(|e| e.kind == "ibvwatch.session.observed").count();
    assert_eq!(observed, began);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_waits_for_its_turn_is_not_made_once_the_api_asks_for_fewer() {
    let world = World::start(Limits { rate: 1.0, burst: 1, max_in_flight: 8 }, Policy::default());
    world.api.tell(limited(60));
    world.track(5).await;
    sleep(30 * SECOND).await;
    assert_eq!(world.api.asked().len(), 1);
    world.stop().await;
}

/// The longest time between two beats in the next minutes.
async fn longest_silence(world: &World, minutes: u32) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..minutes * 600 {
        sleep(SECOND / 10).await;
        longest = longest.max(world.reported.borrow().heartbeat.elapsed());
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn the_loop_shows_that_it_goes_round_whatever_it_waits_for() {
    let at_least_every = SECOND + SECOND / 10;
    let world = World::start(Limits { rate: 0.1, burst: 3, max_in_flight: 2 }, Policy::default());
    assert!(longest_silence(&world, 1).await <= at_least_every, "without a session");
    world.api.state.lock().unwrap().takes = MINUTE;
    world.track(5).await;
    assert!(longest_silence(&world, 1).await <= at_least_every, "all slots in flight");
    assert_eq!(world.reported.borrow().in_flight, 2);
    world.api.state.lock().unwrap().takes = Duration::ZERO;
    assert!(longest_silence(&world, 3).await <= at_least_every, "without a token");
    world.api.tell(limited(600));
    assert!(longest_silence(&world, 9).await <= at_least_every, "in a pause");
    assert!(world.reported.borrow().unavailable.is_some());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_reported_while_it_lasts() {
    let world = World::start(limits(), Policy::default());
    world.track(20).await;
    let began = Timestamp::from_millis(1_795_000_000_000);
    world.api.tell(Observation::Unauthorized(problem(ProblemKind::Unauthorized)));
    sleep(10 * MINUTE).await;
    let report = world.reported.borrow().clone();
    let (cause, since) = report.unavailable.unwrap();
    assert_eq!(cause, Cause::Unauthorized);
    assert!(since.since(began) < MINUTE, "{since}");
    assert_eq!(report.error.unwrap().kind, ProblemKind::Unauthorized);
    world.api.tell(good());
    sleep(10 * MINUTE).await;
    let report = world.reported.borrow().clone();
    assert!(report.unavailable.is_none() && report.error.is_none(), "{report:?}");
    world.stop().await;
}
