//! How fast the status page, the read API and the metrics answer while 100,000 sessions are
//! tracked and polls go on: the real daemon, before the simulated API, over a real socket.
//!
//! `cargo bench --bench http`

#[path = "common/stage.rs"]
mod stage;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use divan::{Bencher, black_box};
use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Settings, Simulator};
use tokio::runtime::Runtime;

use self::stage::{Daemon, Home, SDK_ID, SQLITE};

const SESSIONS: usize = 100_000;
/// When it is only seen whether it works, as `cargo test` does.
const SESSIONS_TRIED: usize = 100;
/// Of the request budget; some 1,700 polls a second are due, so it is used to the full.
const POLLS_PER_SECOND: u32 = 300;

fn main() {
    let watched = start();
    ADDRESS.set(watched.address.clone()).expect("one daemon");
    ID.set(watched.id).expect("one daemon");
    divan::main();
}

static ADDRESS: OnceLock<String> = OnceLock::new();
static ID: OnceLock<SessionId> = OnceLock::new();

/// Asks for something, each time on a connection of its own; returns the size of the answer.
fn get(target: &str) -> usize {
    let address = ADDRESS.get().expect("a daemon");
    let mut stream = TcpStream::connect(address).expect("a connection");
    let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{target}");
    answer.len()
}

#[divan::bench(sample_count = 300, sample_size = 1, args = [
    "/",
    "/?phase=quiet",
    "/?q=A-99998",
    "/?q=there+is+no+such+label",
    "/metrics",
    "/healthz",
    "/api/v1/sessions",
    "/api/v1/sessions?limit=1000",
    "/api/v1/sessions?label=case%3DA-99998",
    "/api/v1/events",
    "/api/v1/events?type=api.available",
])]
fn answers(bencher: Bencher<'_, '_>, target: &str) {
    bencher.bench(|| get(black_box(target)));
}

#[divan::bench(sample_count = 300, sample_size = 1)]
fn one_session(bencher: Bencher<'_, '_>) {
    let target = format!("/sessions/{}", ID.get().expect("a session"));
    bencher.bench(|| get(black_box(&target)));
}

/// A daemon at work, and what it needs.
struct Watched {
    address: String,
    id: SessionId,
    _daemon: Daemon,
    _home: Home,
    _simulator: Simulator,
    _runtime: Runtime,
}

fn start() -> Watched {
    let measures = std::env::args().any(|argument| argument == "--bench");
    let sessions = if measures { SESSIONS } else { SESSIONS_TRIED };
    let runtime = Runtime::new().expect("a runtime");
    let simulator = Simulator::start(Settings::new(SDK_ID));
    let simulator = runtime.block_on(simulator).expect("a free port");
    let month = Duration::from_secs(30 * 86_400);
    let ids = simulator.create_random(sessions, month, month);
    let home = Home::new(&ids);
    let keys = format!("{SQLITE}poll.interval = \"1m\"\npoll.rate_limit = {POLLS_PER_SECOND}\n");
    home.configure(&simulator.base_url(), &keys);
    let mut daemon = home.start(&[]);
    let address = daemon.address();
    daemon.tracks(sessions);
    Watched {
        address,
        id: ids[sessions / 2],
        _daemon: daemon,
        _home: home,
        _simulator: simulator,
        _runtime: runtime,
    }
}
