//! The loop with its runtime: the real poller over the store in memory, on a paused clock. What
//! the month's own loop takes for granted of it is seen here.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ibvwatch::clock::{Clock, TokioClock};
use ibvwatch::config::Limits;
use ibvwatch::domain::{
    Entry, Labels, Listed, Observation, Policy, Problem, ProblemKind, SessionId, Snapshot,
};
use ibvwatch::limiter::Bucket;
use ibvwatch::metrics::{Polls, Writes};
use ibvwatch::poller::{Poller, Settings};
use ibvwatch::store::{Context, MemoryStore, Store};
use ibvwatch::yoti::SessionApi;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::EPOCH;

const SESSIONS: u16 = 400;
const LIMITS: Limits = Limits { rate: 3.0, burst: 5, max_in_flight: 4 };
const MINUTE: Duration = Duration::from_secs(60);
/// The API is away from there to there.
const AWAY: std::ops::Range<Duration> = Duration::from_secs(3_600)..Duration::from_secs(5_400);

/// An API that keeps book of who asks.
struct Api {
    begun: Instant,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    under_way: HashSet<SessionId>,
    most_under_way: usize,
    requests: Vec<Duration>,
}

impl Api {
    async fn asked(&self, id: SessionId) -> bool {
        let at = self.begun.elapsed();
        {
            let mut book = self.book.lock().expect("whole");
            assert!(book.under_way.insert(id), "{id} is asked for twice at once");
            book.most_under_way = book.most_under_way.max(book.under_way.len());
            book.requests.push(at);
        }
        // Different for each, so that answers overtake one another.
        let takes = 50 + u64::from(id.as_bytes()[1]) * 7;
        tokio::time::sleep(Duration::from_millis(takes)).await;
        self.book.lock().expect("whole").under_way.remove(&id);
        AWAY.contains(&at)
    }
}

fn unreachable() -> Observation {
    Observation::Unreachable(Problem {
        kind: ProblemKind::Unreachable,
        status: None,
        code: None,
        request_id: None,
        message: "refused".to_owned(),
    })
}

impl SessionApi for Api {
    async fn configuration(&self, id: SessionId) -> Observation {
        if self.asked(id).await {
            return unreachable();
        }
        // One in four has everything complete, and asks the session endpoint each time.
        let state = if id.as_bytes()[1].is_multiple_of(4) { "COMPLETE" } else { "REQUIRED" };
        let resources = vec![Listed::new(Some("LIVENESS"), Some("a"), Some(state))];
        Observation::Configuration(Snapshot { ttl: None, listing: resources.into() })
    }

    async fn session_state(&self, id: SessionId) -> Observation {
        if self.asked(id).await { unreachable() } else { Observation::Ongoing }
    }
}

fn entry(n: u16) -> Entry {
    let [high, low] = n.to_be_bytes();
    let mut bytes = [7; 16];
    (bytes[0], bytes[1], bytes[2]) = (high, low, high);
    Entry {
        session_id: SessionId::from_bytes(bytes),
        labels: Labels::default(),
        expires_at: None,
        interval: None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_poller_asks_once_at_a_time_within_its_budget_and_only_probes_in_an_outage() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(EPOCH));
    let policy = watch::Sender::new(Arc::new(Policy::default()));
    let bucket = watch::Sender::new(Arc::new(Bucket::new(LIMITS, Arc::clone(&clock))));
    let max_in_flight = watch::Sender::new(LIMITS.max_in_flight);
    let store = Arc::new(MemoryStore::new(&Context {
        clock: Arc::clone(&clock),
        policy: policy.subscribe(),
        seed: 1,
        source: "month".to_owned(),
        metrics: Writes::default(),
    }));
    store.track((0..SESSIONS).map(entry).collect()).await.unwrap();
    let api = Arc::new(Api { begun: Instant::now(), book: Mutex::default() });
    let settings = Settings {
        policy: policy.subscribe(),
        bucket: bucket.subscribe(),
        max_in_flight: max_in_flight.subscribe(),
        hold: None,
    };
    let poller = Poller::new(
        Arc::clone(&store),
        Arc::clone(&api),
        clock,
        settings,
        1,
        watch::Sender::default(),
        Polls::default(),
    );
    let stop = CancellationToken::new();
    let running = tokio::spawn(poller.run(stop.clone()));
    tokio::time::sleep_until(api.begun + 3 * 60 * MINUTE).await;
    stop.cancel();
    running.await.unwrap().unwrap();

    let book = api.book.lock().unwrap();
    assert!(book.under_way.is_empty());
    assert_eq!(book.most_under_way, LIMITS.max_in_flight);
    let mut level = 0.0_f64;
    let mut before = Duration::ZERO;
    for &at in &book.requests {
        level = (level - (at.saturating_sub(before)).as_secs_f64() * LIMITS.rate).max(0.0) + 1.0;
        before = at;
        assert!(level <= f64::from(LIMITS.burst) + 0.01, "{level} at {at:?}");
    }
    let within = |from, to| book.requests.iter().filter(|at| (from..to).contains(*at)).count();
    // Three failures open the breaker; what was under way comes back; then the probes.
    let probes = within(AWAY.start + MINUTE, AWAY.end);
    assert!((6..=30).contains(&probes), "{probes} requests in an outage");
    let calm = within(30 * MINUTE, 60 * MINUTE);
    let back = AWAY.end + 5 * MINUTE;
    let minutes = (0..5).map(|n| within(back + n * MINUTE, back + (n + 1) * MINUTE));
    let most = minutes.max().unwrap();
    assert!(most <= calm / 30 * 3 / 2, "{most} requests in a minute, {calm} in half an hour");
    assert!(within(back + 10 * MINUTE, back + 40 * MINUTE).abs_diff(calm) < calm / 20);
}
