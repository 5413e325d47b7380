//! Three servers with three replicas, three nodes, and faults at random: nodes and servers are
//! killed, and cut off from each other. What all nodes told together is held against what happened.
//!
//! `CLUSTER_SECONDS=1200` goes on for so long; usual is a minute and a half. `CLUSTER_SEED` is of
//! the faults, `CLUSTER_SESSIONS` how many sessions there are.

use std::num::NonZeroU32;
use std::time::Duration;

use ibvwatch::clock::{Clock, SystemClock};
use ibvwatch::domain::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::server::Server;
use super::shipped::free_port;
use super::{node, share_at};
use crate::common::{Daemon, Deliveries, Gate, Home, Run, Truth};

const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);
const SERVERS: usize = 3;
const NODES: [&str; 3] = ["a", "b", "c"];
/// A session is polled again at the latest so long after the last fault is over: the lease of a
/// node that died runs out, its name is taken over, and what is overdue is worked off.
const POLLED_WITHIN: Duration = Duration::from_secs(60);
const RATE: usize = 300;
const BURST: usize = 60;

/// What the environment asks for in place of what is usual.
fn asked(variable: &str, usual: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(usual, |value| value.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// Three servers that know each other by gates alone, and each node's gates to them.
struct Servers {
    directories: Vec<TempDir>,
    ports: Vec<(u16, u16)>,
    /// From one server to another.
    routes: Vec<Vec<Option<Gate>>>,
    running: Vec<Option<Server>>,
}

impl Servers {
    async fn start() -> Self {
        let ports: Vec<(u16, u16)> = (0..SERVERS).map(|_| (free_port(), free_port())).collect();
        let mut routes = Vec::new();
        for from in 0..SERVERS {
            let mut gates = Vec::new();
            for (to, (_, port)) in ports.iter().enumerate() {
                gates.push(if from == to { None } else { Some(Gate::before(*port).await) });
            }
            routes.push(gates);
        }
        let directories = (0..SERVERS).map(|_| tempfile::tempdir().expect("a directory")).collect();
        let running = (0..SERVERS).map(|_| None).collect();
        let mut servers = Self { directories, ports, routes, running };
        // Each waits for the others only once it listens.
        for n in 0..SERVERS {
            servers.revive(n);
        }
        servers
    }

    fn revive(&mut self, n: usize) {
        let (port, cluster) = self.ports[n];
        let gates = self.routes[n].iter().flatten();
        let routes: Vec<String> =
            gates.map(|gate| format!("nats://127.0.0.1:{}", gate.port)).collect();
        let (port_text, name) = (port.to_string(), format!("s{n}"));
        let config = self.directories[n].path().join("server.conf");
        let text = format!(
            "jetstream {{ sync_interval: always }}\n\
             cluster {{\n name: c\n listen: \"127.0.0.1:{cluster}\"\n no_advertise: true\n\
             cluster_advertise: \"127.0.0.1:1\"\n routes: [{}]\n}}\n",
            routes.iter().map(|route| format!("{route:?}")).collect::<Vec<_>>().join(", ")
        );
        std::fs::write(&config, text).expect("a configuration that can be written");
        let config = config.display().to_string();
        let arguments = ["-c", &config, "-a", "127.0.0.1", "-p", &port_text, "-n", &name];
        let server = Server::start_with(self.directories[n].path(), Some(port), &arguments);
        self.running[n] = Some(server);
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
    gates: Vec<Gate>,
    daemon: Option<Daemon>,
}

impl Member {
    fn start(&mut self, home: &Home) {
        let urls: Vec<String> =
            self.gates.iter().map(|gate| format!("nats://127.0.0.1:{}", gate.port)).collect();
        self.daemon = Some(node(home, self.name, Some(&urls)));
    }
}

/// What was done to whom, and is to be mended at some time.
enum Fault {
    NodeDead(usize),
    ServerDead(usize),
    NodeCutOff(usize),
    ServerCutOff(usize),
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
        for (port, _) in &servers.ports {
            gates.push(Gate::before(*port).await);
        }
        let mut member = Member { name, gates, daemon: None };
        member.start(&home);
        members.push(member);
    }
    for member in &mut members {
        member.daemon.as_mut().expect("a node").logs("ibvwatch is running").await;
    }

    let (mut runs, mut faults): (Vec<Run>, usize) = (Vec::new(), 0);
    let end = Instant::now() + seconds;
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.random_range(500..3_000))).await;
        let who = rng.random_range(0..3);
        let fault = match rng.random_range(0..4) {
            0 => Fault::NodeDead(who),
            1 => Fault::ServerDead(who),
            2 => Fault::NodeCutOff(who),
            _ => Fault::ServerCutOff(who),
        };
        faults += 1;
        match fault {
            Fault::NodeDead(n) => {
                let daemon = members[n].daemon.take().expect("a node that runs");
                runs.push(daemon.kill().await);
            }
            Fault::ServerDead(n) => drop(servers.running[n].take()),
            Fault::NodeCutOff(n) => members[n].gates.iter().for_each(|gate| gate.open(false)),
            Fault::ServerCutOff(n) => servers.join(n, false),
        }
        sleep(Duration::from_millis(rng.random_range(200..8_000))).await;
        match fault {
            Fault::NodeDead(n) => members[n].start(&home),
            Fault::ServerDead(n) => servers.revive(n),
            Fault::NodeCutOff(n) => members[n].gates.iter().for_each(|gate| gate.open(true)),
            Fault::ServerCutOff(n) => servers.join(n, true),
        }
    }

    let healed = SystemClock.now().wall;
    sleep(POLLED_WITHIN).await;
    for member in members {
        runs.push(member.daemon.expect("a node that runs").stop().await);
    }
    for id in home.ids() {
        let ended = runs.iter().flat_map(Run::events).any(|event| event.is("session.ended", id));
        let polled = home.exchanges_of(id).iter().any(|exchange| exchange.at > healed);
        assert!(polled || ended, "{id} is not polled any more");
    }
    within_limits(&home);
    let deliveries = Deliveries::of_nodes(&runs);
    let score = Truth::of(home.simulator()).hold_against(&deliveries);
    println!(
        "{faults} faults in {seconds:?}; {} changes happened, {} were certain to be seen, {} told; \
         {} lines told again",
        score.happened,
        score.due,
        score.told,
        deliveries.redelivered(),
    );
    assert!(score.due > 30, "{score:?}");
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
