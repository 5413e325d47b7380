//! What a poll and a scan are made of, piece by piece.
//!
//! `cargo bench --bench pieces --features fuzzing`. The status page and the metrics are measured
//! by the bench `http`, and all of it together by the bench `daemon`.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ibvwatch::clock::{Clock, SystemClock};
use ibvwatch::directory::survey;
use ibvwatch::domain::{DueQueue, Packed, Policy, Seat, Session, Timestamp, Urgency, Wake};
use ibvwatch::fuzzing::Reader;
use ibvwatch::metrics::Writes;
use ibvwatch::store::{Context, MemoryStore, SqliteStore, Store};
use ibvwatch::yoti::{PrivateKey, Secret};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::fixtures::{answer, body, entry, exchange, session_id};

fn main() {
    divan::main();
}

const PRIVATE_KEY: &str = include_str!("../tests/data/yoti/rfc7515_a2.pem");
const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

#[divan::bench]
fn sign(bencher: Bencher<'_, '_>) {
    let pem = Secret::new(PRIVATE_KEY.as_bytes().to_vec());
    let key = PrivateKey::from_pem(&pem).expect("a key");
    let message = [b'x'; 190];
    bencher.bench(|| key.sign(black_box(&message)));
}

/// A body is read where nothing is known of it, and known again where its fingerprint is.
#[divan::bench(args = [false, true])]
fn read_4_kb_that_is_known(bencher: Bencher<'_, '_>, known: bool) {
    let (id, reader) = (session_id(1), Reader::default());
    let body = body(id, 2_592_000, "REQUIRED");
    let snapshot = reader.read(body.as_bytes(), id, None).expect("a configuration");
    let known = snapshot.listing.fingerprint().filter(|_| known);
    bencher
        .counter(BytesCount::of_str(&body))
        .bench(|| reader.read(black_box(body.as_bytes()), id, known));
}

/// A session that has been polled once.
fn observed() -> Session {
    let tracked = Session::track(entry(1), 0, NOW, &Policy::default()).session;
    see(&tracked, "REQUIRED")
}

fn see(session: &Session, state: &str) -> Session {
    let rng = &mut StdRng::seed_from_u64(1);
    let seen = answer(session.id(), state);
    session.observe(seen, None, exchange(NOW), &Policy::default(), rng).session
}

#[divan::bench(args = ["REQUIRED", "IN_PROGRESS"])]
fn observe_when_it_was_required(bencher: Bencher<'_, '_>, state: &str) {
    let (session, policy) = (observed(), Policy::default());
    let rng = &mut StdRng::seed_from_u64(1);
    bencher
        .with_inputs(|| answer(session.id(), state))
        .bench_local_values(|seen| session.observe(seen, None, exchange(NOW), &policy, rng));
}

#[divan::bench]
fn pack(bencher: Bencher<'_, '_>) {
    let session = observed();
    let scratch = &mut Vec::new();
    bencher.bench_local(|| Packed::of(black_box(&session), scratch));
}

#[divan::bench]
fn unpack(bencher: Bencher<'_, '_>) {
    let session = observed();
    let packed = Packed::of(&session, &mut Vec::new());
    bencher.bench(|| black_box(&packed).unpack(session.id(), None));
}

/// A million sessions, one of which is taken out and put in again.
#[divan::bench]
fn queue_of_a_million(bencher: Bencher<'_, '_>) {
    const MONTH: Duration = Duration::from_secs(30 * 86_400);
    let mut queue = DueQueue::default();
    let wake = |at: Timestamp| Wake {
        timer: at.plus(MONTH),
        poll: Some((at, Urgency::Quiet)),
        last_chance: Some(at.plus(MONTH)),
    };
    for n in 0..1_000_000_u32 {
        let spread = u64::from(n).wrapping_mul(2_654_435_761) % 300_000;
        queue.set(Seat(n), wake(NOW.plus(Duration::from_millis(spread))));
    }
    bencher.bench_local(|| {
        let (seat, at, _) = queue.pop_poll(Timestamp::MAX).expect("a million");
        queue.set(seat, wake(at.plus(Duration::from_secs(300))));
    });
}

fn context() -> Context {
    Context {
        clock: Arc::new(SystemClock),
        policy: watch::Sender::new(Arc::new(Policy::default())).subscribe(),
        seed: 1,
        source: "ibvwatch".to_owned(),
        metrics: Writes::default(),
    }
}

/// From the lease to the commit, without a request and without a change.
#[divan::bench]
fn steady_poll_of_one_in_a_hundred_thousand(bencher: Bencher<'_, '_>) {
    let policy = Policy { interval: Duration::ZERO, ..Policy::default() };
    let context =
        Context { policy: watch::Sender::new(Arc::new(policy.clone())).subscribe(), ..context() };
    let (runtime, store) = (Runtime::new().expect("a runtime"), MemoryStore::new(&context));
    let rng = &mut StdRng::seed_from_u64(1);
    runtime.block_on(store.track((0..100_000).map(entry).collect())).expect("sessions");
    let mut poll = || {
        runtime.block_on(async {
            let lease = store.next_due().await.expect("a lease");
            let seen = answer(lease.session.id(), "REQUIRED");
            let now = exchange(SystemClock.now().wall);
            let transition = lease.session.observe(seen, None, now, &policy, rng);
            store.commit(lease, transition).await.expect("a commit");
        });
    };
    for _ in 0..200_000 {
        poll();
    }
    bencher.bench_local(poll);
}

/// A thousand changes, all of which are under way at once.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn commit_a_thousand_changes(bencher: Bencher<'_, '_>) {
    const CHANGES: u64 = 1_000;
    let policy = Policy::default();
    let runtime = Runtime::new().expect("a runtime");
    bencher
        .counter(ItemsCount::new(CHANGES))
        .with_inputs(|| {
            let home = tempfile::tempdir().expect("a directory");
            let store = SqliteStore::open(&home.path().join("ibvwatch.db"), &context());
            let store = store.expect("a store");
            runtime.block_on(store.track((0..CHANGES).map(entry).collect())).expect("sessions");
            (home, store)
        })
        .bench_local_refs(|(_, store)| {
            let rng = &mut StdRng::seed_from_u64(1);
            runtime.block_on(async {
                let mut commits = Vec::new();
                for _ in 0..CHANGES {
                    let lease = store.next_due().await.expect("a lease");
                    let seen = answer(lease.session.id(), "REQUIRED");
                    let now = exchange(SystemClock.now().wall);
                    let transition = lease.session.observe(seen, None, now, &policy, rng);
                    commits.push(store.commit(lease, transition));
                }
                for commit in futures_util::future::join_all(commits).await {
                    commit.expect("a commit");
                }
            });
        });
}

/// Entries of 100,000 sessions in so many files.
#[divan::bench(sample_count = 5, sample_size = 1, args = [10, 10_000])]
fn scan_100_000_entries(bencher: Bencher<'_, '_>, files: u64) {
    let home = tempfile::tempdir().expect("a directory");
    let each = 100_000 / files;
    for file in 0..files {
        let entry = |n: u64| {
            let id = session_id(n);
            format!(r#"{{"session_id":"{id}","labels":{{"case":"A-{n}"}}}}"#)
        };
        let entries: Vec<String> = (file * each..(file + 1) * each).map(entry).collect();
        let path = home.path().join(format!("{file}.json"));
        fs::write(path, format!("[{}]", entries.join(",\n"))).expect("a file");
    }
    let directories = [home.path().to_owned()];
    bencher.bench(|| assert_eq!(survey(&directories).entries.len(), 100_000));
}
