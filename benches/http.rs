//! How fast the status page, the read API and the metrics answer while 100,000 sessions are
//! tracked and polls go on: the real daemon, before the simulated API, over a real socket.
//!
//! `cargo bench --bench http`

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Settings, Simulator};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SDK_ID: &str = "5f3d0d0a-6a51-4f0a-9a55-3d1e0f6f2b10";
const PRIVATE_KEY: &str = include_str!("../tests/data/yoti/rfc7515_a2.pem");
const SESSIONS: usize = 100_000;
/// When it is only seen whether it works, as `cargo test` does.
const SESSIONS_TRIED: usize = 100;
/// Sessions in one file.
const FILE: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(300);
/// Of the request budget; some 1,700 polls a second are due, so it is used to the full.
const POLLS_PER_SECOND: u32 = 300;

fn main() {
    let daemon = Daemon::start();
    ADDRESS.set(daemon.address.clone()).expect("one daemon");
    ID.set(daemon.id).expect("one daemon");
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

/// A daemon at work. Dropped, it is killed.
struct Daemon {
    child: Child,
    address: String,
    id: SessionId,
    _home: TempDir,
    _simulator: Simulator,
    _runtime: Runtime,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().expect("a daemon that can be killed");
        self.child.wait().expect("its end");
    }
}

impl Daemon {
    fn start() -> Self {
        let measures = std::env::args().any(|argument| argument == "--bench");
        let sessions = if measures { SESSIONS } else { SESSIONS_TRIED };
        let runtime = Runtime::new().expect("a runtime");
        let simulator = Simulator::start(Settings::new(SDK_ID));
        let simulator = runtime.block_on(simulator).expect("a free port");
        let month = Duration::from_secs(30 * 86_400);
        let ids = simulator.create_random(sessions, month, month);
        let home = tempfile::tempdir().expect("a temporary directory");
        prepare(home.path(), &simulator.base_url(), &ids);
        let log = home.path().join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_ibvwatch"))
            .args(["run", "--config", "config.toml"])
            .current_dir(home.path())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a file"))
            .spawn()
            .expect("a daemon that starts");
        let address = runtime.block_on(logged(&log, "are served address="));
        runtime.block_on(logged(&log, &format!("tracked={sessions}")));
        Self {
            child,
            address,
            id: ids[sessions / 2],
            _home: home,
            _simulator: simulator,
            _runtime: runtime,
        }
    }
}

fn prepare(home: &Path, base_url: &str, ids: &[SessionId]) {
    let write = |name: &str, text: &str| {
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(home.join(name));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    };
    fs::create_dir(home.join("sessions.d")).expect("a directory");
    for (part, ids) in ids.chunks(FILE).enumerate() {
        let entry = |(n, id): (usize, &SessionId)| {
            let case = part * FILE + n;
            serde_json::json!({
                "session_id": id,
                "labels": { "case": format!("A-{case}"), "branch": format!("branch {}", case % 500) },
            })
        };
        let entries: Vec<_> = ids.iter().enumerate().map(entry).collect();
        write(&format!("sessions.d/{part}.json"), &serde_json::Value::from(entries).to_string());
    }
    write("yoti.pem", PRIVATE_KEY);
    let config = format!(
        "api.base_url = \"{base_url}\"\n\
         api.sdk_id = \"{SDK_ID}\"\n\
         api.auth.private_key_file = \"yoti.pem\"\n\
         sessions.directories = [\"sessions.d\"]\n\
         store.path = \"ibvwatch.db\"\n\
         poll.interval = \"1m\"\n\
         poll.rate_limit = {POLLS_PER_SECOND}\n\
         http.listen = \"127.0.0.1:0\"\n"
    );
    write("config.toml", &config);
}

/// Waits until that is logged; returns what stands behind it up to the next space.
async fn logged(log: &Path, text: &str) -> String {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let logged = fs::read_to_string(log).expect("a log");
        if let Some((_, rest)) = logged.split_once(text) {
            return rest.split_whitespace().next().unwrap_or_default().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{text:?} is not in {}", fs::read_to_string(log).expect("a log"));
}
