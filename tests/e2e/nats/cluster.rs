//! Three servers with three replicas, three nodes, and faults at random: nodes and servers are
//! killed, cut off from each other, and stopped in good order one after the other. What all nodes
//! told together is held against what happened.
//!
//! `CLUSTER_SECONDS=1200` goes on for so long; usual is a minute and a half. `CLUSTER_SEED` is of
//! the faults, `CLUSTER_SESSIONS` how many sessions there are. `CLUSTER_FROM_IBVWATCH` and
//! `CLUSTER_FROM_NATS` name binaries that nodes and servers are upgraded from.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ibvwatch::clock::{Clock, SystemClock};
use ibvwatch::domain::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::server::{self, Server};
use super::shipped::free_port;
use super::{node_as, share_at};
use crate::common::{Daemon, Deliveries, Gate, Home, Run, Truth};

const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);
const SERVERS: usize = 3;
const NODES: [&str; 3] = ["a", "b", "c"];
/// A session is polled again at the latest so long after the last fault is over: the lease of a
/// node that died runs out, its name is taken over, and what is overdue is worked off.
const POLLED_WITHIN: Duration = Duration::from_secs(60);
/// A server that is told to retire hands over what it leads and sees its clients off, one a second,
/// and one that begins catches up with the others.
const RESTARTED_WITHIN: Duration = Duration::from_secs(90);
const RATE: usize = 300;
const BURST: usize = 60;

/// What the environment asks for in place of what is usual.
fn asked(variable: &str, usual: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(usual, |value| value.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// The binary to begin with.
fn program(variable: &str, usual: PathBuf) -> PathBuf {
    std::env::var_os(variable).map_or(usual, PathBuf::from)
}

fn own_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ibvwatch"))
}

/// Three servers that know each other by gates alone, and each node's gates to them.
struct Servers {
    programs: Vec<PathBuf>,
    directories: Vec<TempDir>,
    /// For clients, the others, and to look in.
    ports: Vec<(u16, u16, u16)>,
    /// From one server to another.
    routes: Vec<Vec<Option<Gate>>>,
    running: Vec<Option<Server>>,
}

impl Servers {
    async fn start() -> Self {
        let ports: Vec<_> = (0..SERVERS).map(|_| (free_port(), free_port(), free_port())).collect();
        let mut routes = Vec::new();
        for from in 0..SERVERS {
            let mut gates = Vec::new();
            for (to, (_, port, _)) in ports.iter().enumerate() {
                gates.push(if from == to { None } else { Some(Gate::before(*port).await) });
            }
            routes.push(gates);
        }
        let directories = (0..SERVERS).map(|_| tempfile::tempdir().expect("a directory")).collect();
        let running = (0..SERVERS).map(|_| None).collect();
        let programs = vec![program("CLUSTER_FROM_NATS", server::binary()); SERVERS];
        let mut servers = Self { programs, directories, ports, routes, running };
        // Each waits for the others only once it listens.
        for n in 0..SERVERS {
            servers.revive(n);
        }
        servers
    }

    fn revive(&mut self, n: usize) {
        let (port, cluster, monitor) = self.ports[n];
        let gates = self.routes[n].iter().flatten();
        let routes: Vec<String> =
            gates.map(|gate| format!("nats://127.0.0.1:{}", gate.port)).collect();
        let (port_text, name) = (port.to_string(), format!("s{n}"));
        let config = self.directories[n].path().join("server.conf");
        let text = format!(
            "jetstream {{ sync_interval: always }}\n\
             http: \"127.0.0.1:{monitor}\"\n\
             lame_duck_grace_period: \"1s\"\nlame_duck_duration: \"30s\"\n\
             cluster {{\n name: c\n listen: \"127.0.0.1:{cluster}\"\n no_advertise: true\n\
             cluster_advertise: \"127.0.0.1:1\"\n routes: [{}]\n}}\n",
            routes.iter().map(|route| format!("{route:?}")).collect::<Vec<_>>().join(", ")
        );
        std::fs::write(&config, text).expect("a configuration that can be written");
        let config = config.display().to_string();
        let pid = self.directories[n].path().join("pid").display().to_string();
        let arguments =
            ["-c", &config, "-a", "127.0.0.1", "-p", &port_text, "-n", &name, "-P", &pid];
        let directory = self.directories[n].path();
        let server = Server::start_as(&self.programs[n], directory, Some(port), &arguments);
        self.running[n] = Some(server);
    }

    /// Restarts each as an operator does: it is told to retire, and the next one's turn comes once it
    /// is whole again.
    async fn roll(&mut self) {
        self.are_whole().await;
        for n in 0..SERVERS {
            let ended = self.ends_of(n);
            let pid = std::fs::read_to_string(self.directories[n].path().join("pid"));
            let pid = pid.ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
            kill_process(pid.expect("a server that runs"), Signal::USR2).expect("a signal");
            let retired = async {
                while self.ends_of(n) == ended {
                    sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(RESTARTED_WITHIN, retired).await.expect("a server that retires");
            drop(self.running[n].take());
            self.programs[n] = server::binary();
            self.revive(n);
            self.are_whole().await;
        }
    }

    /// How often it has ended in good order.
    fn ends_of(&self, n: usize) -> usize {
        let log = std::fs::read_to_string(self.directories[n].path().join("log"));
        log.expect("a log").matches("Server Exiting").count()
    }

    /// Waits until each has caught up with the others.
    async fn are_whole(&self) {
        let client = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        for (.., monitor) in &self.ports {
            let url = format!("http://127.0.0.1:{monitor}/healthz");
            let whole = async {
                loop {
                    let answer = client.get(&url).send().await;
                    if answer.is_ok_and(|answer| answer.status().is_success()) {
                        return;
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(RESTARTED_WITHIN, whole).await.expect("a server that is whole");
        }
    }

    /// Opens or shuts what leads from a server to the others and back.
    fn join(&self, n: usize, joined: bool) {
        for (from, gates) in self.routes.iter().enumerate() {
            for (to, gate) in gates.iter().enumerate() {
                if let (Some(gate), true) = (gate, from == n || to == n) {
                    gate.open(joined);
                }
            }
        }
    }
}

/// A node's name, its ways to the servers, and its process while it runs.
struct Member {
    name: &'static str,
    program: PathBuf,
    gates: Vec<Gate>,
    daemon: Option<Daemon>,
}

impl Member {
    fn start(&mut self, home: &Home) {
        let urls: Vec<String> =
            self.gates.iter().map(|gate| format!("nats://127.0.0.1:{}", gate.port)).collect();
        self.daemon = Some(node_as(&self.program, home, self.name, Some(&urls)));
    }

    /// Starts it again, as systemd does, where it gave up since no majority of the servers would
    /// answer it when it began.
    async fn supervise(&mut self, home: &Home) -> Option<Run> {
        if !self.daemon.as_mut()?.has_ended() {
            return None;
        }
        let run = self.daemon.take()?.ended().await;
        assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
        assert!(!run.stderr.contains("ibvwatch is running"), "{}", run.stderr);
        self.start(home);
        Some(run)
    }

    async fn runs(&mut self) {
        self.daemon.as_mut().expect("a node").logs("ibvwatch is running").await;
    }

    /// Restarts it in good order; what it told until then.
    async fn roll(&mut self, home: &Home) -> Run {
        let run = self.daemon.take().expect("a node that runs").stop().await;
        self.program = own_program();
        self.start(home);
        self.runs().await;
        run
    }
}

/// What was done to whom, and is to be mended at some time.
enum Fault {
    NodeDead(usize),
    ServerDead(usize),
    NodeCutOff(usize),
    ServerCutOff(usize),
    NodesRolled,
    ServersRolled,
}

impl Fault {
    /// What nodes told that are no more is added to `runs`.
    async fn strike(
        &self,
        home: &Home,
        servers: &mut Servers,
        members: &mut [Member],
        runs: &mut Vec<Run>,
    ) {
        match *self {
            Self::NodeDead(n) => {
                let daemon = members[n].daemon.take().expect("a node that runs");
                runs.push(daemon.kill().await);
            }
            Self::ServerDead(n) => drop(servers.running[n].take()),
            Self::NodeCutOff(n) => members[n].gates.iter().for_each(|gate| gate.open(false)),
            Self::ServerCutOff(n) => servers.join(n, false),
            Self::NodesRolled => {
                for member in members {
                    // A node that can't be heard takes what it has with it, and longer.
                    servers.are_whole().await;
                    if let Some(gave_up) = member.supervise(home).await {
                        runs.push(gave_up);
                        member.runs().await;
                    }
                    runs.push(member.roll(home).await);
                }
            }
            Self::ServersRolled => servers.roll().await,
        }
    }

    fn mend(&self, home: &Home, servers: &mut Servers, members: &mut [Member]) {
        match *self {
            Self::NodeDead(n) => members[n].start(home),
            Self::ServerDead(n) => servers.revive(n),
            Self::NodeCutOff(n) => members[n].gates.iter().for_each(|gate| gate.open(true)),
            Self::ServerCutOff(n) => servers.join(n, true),
            Self::NodesRolled | Self::ServersRolled => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_faults_at_random_lose_nothing_and_tell_nothing_in_two_ways() {
    let seed = asked("CLUSTER_SEED", 7);
    let seconds = Duration::from_secs(asked("CLUSTER_SECONDS", 90));
    let sessions = usize::try_from(asked("CLUSTER_SESSIONS", 300)).expect("a number");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut home = Home::with(|settings| {
        settings.speed = NonZeroU32::new(20).expect("20");
        settings.seed = seed;
        settings.exchanges_kept = usize::MAX;
    })
    .await;
    share_at(&mut home, &["nats://127.0.0.1:1".to_owned()], 3);
    for (key, value) in [
        ("poll.interval", "\"3s\"".to_owned()),
        ("poll.active_interval", "\"2s\"".to_owned()),
        ("poll.rate_limit", RATE.to_string()),
        ("poll.burst", BURST.to_string()),
        ("poll.max_in_flight", "64".to_owned()),
    ] {
        home.set(key, &value);
    }
    // The last of them come when the faults are over.
    let window = (seconds + Duration::from_secs(10)) * 20;
    for id in home.create_random(sessions, FORTNIGHT, window) {
        home.track(id);
    }
    let mut servers = Servers::start().await;
    let mut members = Vec::new();
    for name in NODES {
        let mut gates = Vec::new();
        for (port, ..) in &servers.ports {
            gates.push(Gate::before(*port).await);
        }
        let program = program("CLUSTER_FROM_IBVWATCH", own_program());
        let mut member = Member { name, program, gates, daemon: None };
        member.start(&home);
        members.push(member);
    }
    for member in &mut members {
        member.runs().await;
    }

    let (mut runs, mut faults, mut rolled): (Vec<Run>, usize, usize) = (Vec::new(), 0, 0);
    let end = Instant::now() + seconds;
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.random_range(500..3_000))).await;
        let who = rng.random_range(0..3);
        let fault = match (faults, rng.random_range(0..20)) {
            // Both in every run, among others.
            (2, _) | (_, 0) => Fault::NodesRolled,
            (4, _) | (_, 1) => Fault::ServersRolled,
            (_, 2..=6) => Fault::NodeDead(who),
            (_, 7..=11) => Fault::ServerDead(who),
            (_, 12..=15) => Fault::NodeCutOff(who),
            _ => Fault::ServerCutOff(who),
        };
        for member in &mut members {
            runs.extend(member.supervise(&home).await);
        }
        faults += 1;
        rolled += usize::from(matches!(fault, Fault::NodesRolled | Fault::ServersRolled));
        fault.strike(&home, &mut servers, &mut members, &mut runs).await;
        sleep(Duration::from_millis(rng.random_range(200..8_000))).await;
        fault.mend(&home, &mut servers, &mut members);
    }

    let healed = SystemClock.now().wall;
    while SystemClock.now().wall.since(healed) < POLLED_WITHIN {
        for member in &mut members {
            runs.extend(member.supervise(&home).await);
        }
        sleep(Duration::from_secs(1)).await;
    }
    for member in members {
        runs.push(member.daemon.expect("a node that runs").stop().await);
    }
    let told = runs.iter().flat_map(Run::events);
    let ended = told.filter(|event| event.kind() == "session.ended").map(|event| event.session());
    let after = home.exchanges().into_iter().filter(|exchange| exchange.at > healed);
    let cared_for: HashSet<_> = ended.chain(after.map(|exchange| exchange.session)).collect();
    for id in home.ids() {
        assert!(cared_for.contains(&Some(id)), "{id} is not polled any more");
    }
    within_limits(&home);
    let deliveries = Deliveries::of_nodes(&runs);
    let score = Truth::of(home.simulator()).hold_against(&deliveries);
    println!(
        "{faults} faults in {seconds:?}, {rolled} of them restarts of all; {} changes happened, {} were certain to be seen, {} told; \
         {} lines told again",
        score.happened,
        score.due,
        score.told,
        deliveries.redelivered(),
    );
    assert!(score.due > 30, "{score:?}");
    assert!(rolled > 1, "nothing was restarted in good order");
}

/// No window of some seconds holds more requests than the limits let, but for a burst of a node
/// that the others have not heard of yet.
fn within_limits(home: &Home) {
    const WINDOW: Duration = Duration::from_secs(5);
    let asked: Vec<Timestamp> = home.exchanges().iter().map(|exchange| exchange.at).collect();
    let most = RATE * 5 + BURST + BURST;
    let mut first = 0;
    for (last, at) in asked.iter().enumerate() {
        while at.since(asked[first]) > WINDOW {
            first += 1;
        }
        assert!(last - first < most, "{} requests before {at}", last - first + 1);
    }
}
