//! Stores as a daemon leaves them, and how fast changes become durable.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ibvwatch::clock::{Clock, SystemClock};
use ibvwatch::domain::{Entry, Policy, Session};
use ibvwatch::metrics::Writes;
use ibvwatch::store::{Context, SqliteStore, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fixtures::{MONTH, answer, answer_with, entry, exchange};
use crate::stage::Home;
use crate::usage::number;

fn context(seed: u64) -> Context {
    Context {
        clock: Arc::new(SystemClock),
        policy: watch::Sender::new(Arc::new(Policy::default())).subscribe(),
        seed,
        source: "ibvwatch".to_owned(),
        metrics: Writes::default(),
    }
}

/// Makes the home's database, with sessions that were polled once within the last interval, and
/// that expire when an API says that has begun by now: what comes next finds nothing new.
pub(crate) fn fill(home: &Home, sessions: u64, policy: &Policy) {
    let path = home.path("ibvwatch.db");
    drop(SqliteStore::open(&path, &context(1)).expect("a store"));
    let mut connection = Connection::open(&path).expect("a database");
    let transaction = connection.transaction().expect("a transaction");
    let rng = &mut StdRng::seed_from_u64(7);
    let now = SystemClock.now().wall;
    {
        let insert = "INSERT INTO session (id, record) VALUES (?1, ?2)";
        let mut insert = transaction.prepare(insert).expect("a statement");
        let mut entries: Vec<Entry> = (0..sessions).map(entry).collect();
        entries.sort_unstable_by_key(|entry| entry.session_id);
        for (n, entry) in (0_u32..).zip(entries) {
            let ago = policy.interval.mul_f64(f64::from(n) / number(sessions) / 1.1);
            let id = entry.session_id;
            let tracked = Session::track(entry, 0, now.minus(ago), policy).session;
            let good = answer_with(id, "REQUIRED", MONTH + ago);
            let polled = tracked.observe(good, None, exchange(now.minus(ago)), policy, rng);
            let json = serde_json::to_string(&polled.session).expect("a record");
            insert.execute(params![id.as_bytes(), json]).expect("a row");
        }
    }
    transaction.commit().expect("a commit");
}

/// A store with sessions of which none has been polled.
async fn tracking(path: &Path, sessions: u64) -> SqliteStore {
    let store = SqliteStore::open(path, &context(2)).expect("a store");
    store.track((0..sessions).map(entry).collect()).await.expect("a commit");
    store
}

/// Changes a second that become durable through the store, so many under way at once.
pub(crate) fn commits(path: &Path, changes: u64, at_once: usize) -> f64 {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Arc::new(tracking(path, changes).await);
        let started = Instant::now();
        let mut under_way = JoinSet::new();
        for n in 0..changes {
            if under_way.len() == at_once {
                let done = under_way.join_next().await.expect("one under way");
                done.expect("no panic");
            }
            let lease = store.next_due().await.expect("a lease");
            // Each is a task, as in the daemon.
            let store = Arc::clone(&store);
            under_way.spawn(async move {
                let rng = &mut StdRng::seed_from_u64(n);
                let good = answer(lease.session.id(), "REQUIRED");
                let exchange = exchange(SystemClock.now().wall);
                let policy = Policy::default();
                let transition = lease.session.observe(good, None, exchange, &policy, rng);
                store.commit(lease, transition).await.expect("a commit");
            });
        }
        under_way.join_all().await;
        number(changes) / started.elapsed().as_secs_f64()
    })
}

/// The same rows into the same database by SQLite alone, that many changes in a transaction.
pub(crate) fn bare_commits(path: &Path, changes: u64, batch: usize) -> f64 {
    drop(Runtime::new().expect("a runtime").block_on(tracking(path, changes)));
    let mut connection = Connection::open(path).expect("a database");
    connection.pragma_update(None, "synchronous", "FULL").expect("a setting");
    let policy = Policy::default();
    let rng = &mut StdRng::seed_from_u64(3);
    let now = SystemClock.now().wall;
    let rows: Vec<_> = (0..changes)
        .map(|n| {
            let tracked = Session::track(entry(n), 0, now, &policy).session;
            let good = answer(tracked.id(), "REQUIRED");
            let polled = tracked.observe(good, None, exchange(now), &policy, rng);
            let session = serde_json::to_string(&polled.session).expect("a record");
            let event = serde_json::to_string(&polled.events[0]).expect("an event");
            (*polled.session.id().as_bytes(), polled.events[0].kind().as_str(), event, session)
        })
        .collect();
    let started = Instant::now();
    for batch in rows.chunks(batch) {
        let transaction = connection.transaction().expect("a transaction");
        for (id, kind, event, session) in batch {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO event (session, session_sequence, type, time, source, data)
                     VALUES (?1, 2, ?2, ?3, 'ibvwatch', ?4)",
                )
                .expect("a statement");
            insert.execute(params![id, kind, now.as_millis(), event]).expect("a row");
            let mut upsert = transaction
                .prepare_cached(
                    "INSERT INTO session (id, record) VALUES (?1, ?2)
                     ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                )
                .expect("a statement");
            upsert.execute(params![id, session]).expect("a row");
        }
        transaction.commit().expect("a commit");
    }
    number(changes) / started.elapsed().as_secs_f64()
}
