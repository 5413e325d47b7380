//! How many instructions the pieces of a poll take, each held against its baseline: what takes a
//! tenth more fails. Whoever makes one cheaper, or dearer with a reason, writes the new number here.
//!
//! Baselines are of a build on what the tests are built of, so that these need not be built again
//! for release:
//!
//! ```sh
//! CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_OPT_LEVEL=3 \
//!     cargo bench --profile dev --features fuzzing --bench instructions
//! ```
//!
//! Without the first line and the profile, it counts as released and holds nothing against
//! anything. Both want valgrind and gungraun-runner.

#![expect(clippy::must_use_candidate, reason = "gungraun makes public what it measures")]

#[path = "common/fixtures.rs"]
mod fixtures;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};
use gungraun::{library_benchmark, library_benchmark_group, main};
use ibvwatch::clock::TokioClock;
use ibvwatch::domain::{
    DueQueue, Fingerprint, Observation, Packed, Policy, Seat, Session, SessionId, Snapshot,
    Timestamp, Transition, Urgency, Wake,
};
use ibvwatch::fuzzing::Reader;
use ibvwatch::metrics::Writes;
use ibvwatch::store::{Context, MemoryStore, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::fixtures::{answer, body, entry, exchange, session_id};

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const INTERVAL: Duration = Duration::from_secs(300);

/// Fails where it takes a tenth more.
fn baseline(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    if cfg!(debug_assertions) {
        callgrind.hard_limits([(EventKind::Ir, instructions + instructions / 10)]);
    }
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// A body that was sent, and its fingerprint if it has been read.
struct Sent {
    reader: Reader,
    body: String,
    id: SessionId,
    known: Option<Fingerprint>,
}

impl Sent {
    fn new() -> Self {
        let id = session_id(1);
        let body = body(id, 2_592_000, "REQUIRED");
        Self { reader: Reader::default(), body, id, known: None }
    }

    fn read(&self) -> Option<Snapshot> {
        self.reader.read(black_box(self.body.as_bytes()), self.id, self.known)
    }

    fn known(self) -> Self {
        let known = self.read().and_then(|snapshot| snapshot.listing.fingerprint());
        Self { known, ..self }
    }
}

#[library_benchmark]
#[bench::for_the_first_time(args = (Sent::new()), config = baseline(87_100))]
#[bench::again(args = (Sent::new().known()), config = baseline(18_000))]
fn read(sent: Sent) -> (Option<Snapshot>, Sent) {
    (sent.read(), sent)
}

/// A session that has been polled once, and what the next poll brings.
fn observed(state: &str) -> (Session, Observation) {
    let tracked = Session::track(entry(1), 0, NOW, &Policy::default()).session;
    let session = see(&tracked, answer(session_id(1), "REQUIRED")).session;
    (session, answer(session_id(1), state))
}

fn see(session: &Session, seen: Observation) -> Transition {
    let rng = &mut StdRng::seed_from_u64(1);
    session.observe(seen, None, exchange(NOW), &Policy::default(), rng)
}

#[library_benchmark]
#[bench::unchanged(args = (observed("REQUIRED")), config = baseline(4_130))]
#[bench::changed(args = (observed("IN_PROGRESS")), config = baseline(28_300))]
fn observe((session, seen): (Session, Observation)) -> Transition {
    see(&session, seen)
}

#[library_benchmark(config = baseline(3_230))]
#[bench::four_resources(observed("REQUIRED").0, Vec::with_capacity(256))]
fn pack(session: Session, mut scratch: Vec<u8>) -> (Packed, Session, Vec<u8>) {
    (Packed::of(black_box(&session), &mut scratch), session, scratch)
}

#[library_benchmark(config = baseline(2_650))]
#[bench::four_resources(Packed::of(&observed("REQUIRED").0, &mut Vec::new()))]
fn unpack(packed: Packed) -> (Session, Packed) {
    (black_box(&packed).unpack(session_id(1), None), packed)
}

fn wake(at: Timestamp) -> Wake {
    let far = at.plus(INTERVAL * 1_000);
    Wake { timer: far, poll: Some((at, Urgency::Quiet)), last_chance: Some(far) }
}

fn queue() -> DueQueue {
    let mut queue = DueQueue::default();
    for n in 0..100_000_u32 {
        let spread = u64::from(n.wrapping_mul(2_654_435_761) % 300_000);
        queue.set(Seat(n), wake(NOW.plus(Duration::from_millis(spread))));
    }
    queue
}

// One of 100,000 is taken out, and put in again.
#[library_benchmark(config = baseline(6_570))]
#[bench::of_100_000(queue())]
fn requeue(mut queue: DueQueue) -> DueQueue {
    if let Some((seat, at, _)) = queue.pop_poll(Timestamp::MAX) {
        queue.set(seat, wake(at.plus(INTERVAL)));
    }
    queue
}

/// Ten thousand sessions that are always due, each of which has been polled.
struct Watched {
    runtime: Runtime,
    store: MemoryStore,
    policy: Policy,
    rng: StdRng,
}

impl Watched {
    const SESSIONS: u64 = 10_000;

    fn new() -> Self {
        let policy = Policy { interval: Duration::ZERO, ..Policy::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let context = Context {
            clock: Arc::new(TokioClock::starting_at(NOW)),
            policy: watch::Sender::new(Arc::new(policy.clone())).subscribe(),
            seed: 1,
            source: "ibvwatch".to_owned(),
            metrics: Writes::default(),
        };
        let mut this = Self {
            runtime: runtime.expect("a runtime"),
            store: MemoryStore::new(&context),
            policy,
            rng: StdRng::seed_from_u64(1),
        };
        let entries = (0..Self::SESSIONS).map(entry).collect();
        this.runtime.block_on(this.store.track(entries)).expect("sessions");
        for _ in 0..2 * Self::SESSIONS {
            this.poll();
        }
        this
    }

    /// From the lease to the commit, without a request and without a change.
    fn poll(&mut self) {
        let Self { runtime, store, policy, rng } = self;
        runtime.block_on(async {
            let lease = store.next_due().await.expect("a lease");
            let seen = answer(lease.session.id(), "REQUIRED");
            let transition = lease.session.observe(seen, None, exchange(NOW), policy, rng);
            store.commit(lease, transition).await.expect("a commit");
        });
    }
}

#[library_benchmark(config = baseline(30_300))]
#[bench::of_10_000(Watched::new())]
fn steady_poll(mut watched: Watched) -> Watched {
    watched.poll();
    watched
}

library_benchmark_group!(
    name = poll,
    benchmarks = [read, observe, pack, unpack, requeue, steady_poll]
);

main!(library_benchmark_groups = poll);
