//! How many polls a second several nodes make together on NATS, and what it takes.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::api::Api;
use crate::server::{Server, binary};
use crate::stage::{Daemon, Home, pause};
use crate::usage::{memory_of, number, usage_of};
use crate::{LIMITS, Scale, home, left_out};

/// What the servers are, and what an acknowledgement of theirs means.
struct Setup {
    name: &'static str,
    replicas: usize,
    /// `sync_interval`, where it isn't the default of two minutes.
    sync: Option<&'static str>,
}

const SETUPS: [Setup; 4] = [
    Setup { name: "1 replica, fsync every 2 min", replicas: 1, sync: None },
    Setup { name: "1 replica, fsync always", replicas: 1, sync: Some("always") },
    Setup { name: "3 replicas, fsync every 2 min", replicas: 3, sync: None },
    Setup { name: "3 replicas, fsync always", replicas: 3, sync: Some("always") },
];

/// Of one core, in percent: so little that nodes and not the machine are what runs out.
const QUOTA: u32 = 10;

pub(crate) fn scale(scale: &Scale) {
    if !binary().exists() {
        return left_out("several nodes", "target/nats/nats-server, which tests/run fetches");
    }
    println!("each node has {QUOTA} % of a core where it says so, and the rest is the servers'");
    println!(
        "{:<30} {:>7} {:>6} {:>9} {:>9} {:>14} {:>14}",
        "", "quota", "nodes", "polls/s", "of one", "node µs/poll", "server µs/poll"
    );
    for setup in &SETUPS {
        for quota in [Some(QUOTA), None] {
            let mut first = None;
            for nodes in scale.nodes {
                let Some(measured) = measure(setup, quota, *nodes, scale) else {
                    left_out("nodes with a quota of CPU", "cgroups, as root");
                    break;
                };
                let Measured { rate, node, server } = measured;
                let of_one = rate / *first.get_or_insert(rate);
                let quota = quota.map_or("none".to_owned(), |quota| format!("{quota} %"));
                println!(
                    "{:<30} {quota:>7} {nodes:>6} {rate:>9.0} {of_one:>8.2}x {node:>14.0} {server:>14.0}",
                    setup.name
                );
            }
        }
    }
    size(scale);
}

/// What sessions take that were polled once, of a node's memory, and of a server's memory and disk.
fn size(scale: &Scale) {
    let sessions = scale.sessions / 10;
    let home = home(sessions);
    let api = Api::start(&home.path("."), false);
    let servers = Servers::start(&SETUPS[0]);
    configure(&home, &api, &SETUPS[0], &servers.running, "1day");
    let daemon = node(&home, 0);
    while api.requests() < sessions {
        pause(Duration::from_millis(50));
    }
    pause(scale.time / 4);
    let memory: f64 = servers.processes().map(|pid| memory_of(pid).0).sum();
    let disk =
        servers.directories.iter().map(|files| number(bytes_below(files.path()))).sum::<f64>();
    println!(
        "{sessions} sessions polled once: a node {:.0} MB, a server {memory:.0} MB and {:.0} MB of disk",
        daemon.memory().0,
        disk / 1e6
    );
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(file) if file.is_dir() => bytes_below(&entry.path()),
        Ok(file) => file.len(),
        // It was removed meanwhile.
        Err(_) => 0,
    });
    sizes.sum()
}

struct Measured {
    /// Polls a second, of all nodes.
    rate: f64,
    /// µs of CPU a poll.
    node: f64,
    server: f64,
}

/// None if nodes can't be given a quota.
fn measure(setup: &Setup, quota: Option<u32>, nodes: usize, scale: &Scale) -> Option<Measured> {
    let sessions = scale.sessions / 10;
    let home = home(sessions);
    let api = Api::start(&home.path("."), false);
    let servers = Servers::start(setup);
    configure(&home, &api, setup, &servers.running, "1s");
    let quotas = match quota {
        Some(percent) => Some((0..nodes).map(|_| Quota::of(percent)).collect::<Option<Vec<_>>>()?),
        None => None,
    };
    let mut daemons: Vec<Daemon> = (0..nodes).map(|n| node(&home, n)).collect();
    for daemon in &mut daemons {
        daemon.logged("ibvwatch is running");
    }
    while api.requests() < sessions {
        pause(Duration::from_millis(50));
    }
    for (quota, daemon) in quotas.iter().flatten().zip(&daemons) {
        quota.limit(daemon.child.id());
    }
    // Until what the quota holds back is all that is held back.
    pause(scale.time / 4);
    let used = || {
        let nodes: f64 = daemons.iter().map(|daemon| usage_of(daemon.child.id()).cpu()).sum();
        (number(api.requests()), nodes, servers.cpu())
    };
    let before = used();
    pause(scale.time / 2);
    let after = used();
    let polls = (after.0 - before.0).max(1.0);
    Some(Measured {
        rate: polls / (scale.time / 2).as_secs_f64(),
        node: (after.1 - before.1) / polls * 1e6,
        server: (after.2 - before.2) / polls * 1e6,
    })
}

fn configure(home: &Home, api: &Api, setup: &Setup, servers: &[Server], interval: &str) {
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let mut keys = api.keys(true);
    let store = "store.kind = \"jetstream\"\nstore.jetstream.owner = \"shared\"\n";
    write!(
        keys,
        "{LIMITS}poll.max_in_flight = 256\npoll.interval = \"{interval}\"\n{store}\
         store.jetstream.servers = {urls:?}\nstore.jetstream.replicas = {}\n",
        setup.replicas
    )
    .expect("a string takes everything");
    home.configure(&api.base_url, &keys);
}

fn node(home: &Home, n: usize) -> Daemon {
    let name = format!("node-{n}");
    home.write(&format!("{name}.toml"), &format!("store.jetstream.node = \"{name}\"\n"));
    home.start_one(&[], Some(&name))
}

/// Servers of one cluster, and where their files are.
struct Servers {
    running: Vec<Server>,
    directories: Vec<TempDir>,
}

impl Servers {
    fn start(setup: &Setup) -> Self {
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("its address").port()
        };
        let ports: Vec<(u16, u16)> = (0..setup.replicas).map(|_| (free(), free())).collect();
        let routes: Vec<String> =
            ports.iter().map(|(_, port)| format!("nats://127.0.0.1:{port}")).collect();
        let sync = setup.sync.map(|sync| format!("sync_interval: {sync}")).unwrap_or_default();
        let mut servers = Self { running: Vec::new(), directories: Vec::new() };
        if let (1, None) = (setup.replicas, setup.sync) {
            let directory = tempfile::tempdir().expect("a temporary directory");
            servers.running.push(Server::start(directory.path()));
            servers.directories.push(directory);
            return servers;
        }
        for (n, (port, cluster)) in ports.iter().enumerate() {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let mut config = format!("jetstream {{ {sync} }}\n");
            if setup.replicas > 1 {
                let listen = format!("127.0.0.1:{cluster}");
                writeln!(config, "cluster {{ name: c, listen: \"{listen}\", routes: {routes:?} }}")
                    .expect("a string takes everything");
            }
            let path = directory.path().join("server.conf");
            fs::write(&path, config).expect("a file");
            let (path, port_text) = (path.display().to_string(), port.to_string());
            let name = format!("server-{n}");
            let arguments = ["-c", &path, "-a", "127.0.0.1", "-p", &port_text, "-n", &name];
            servers.running.push(Server::start_with(directory.path(), Some(*port), &arguments));
            servers.directories.push(directory);
        }
        servers
    }

    /// Seconds of CPU that they used so far.
    fn cpu(&self) -> f64 {
        self.processes().map(|pid| usage_of(pid).cpu()).sum()
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        let homes: Vec<String> =
            self.directories.iter().map(|files| files.path().display().to_string()).collect();
        let is_server = move |words: &[String]| {
            words.first().is_some_and(|word| word.ends_with("nats-server"))
                && words.iter().any(|word| homes.contains(word))
        };
        let processes = procfs::process::all_processes().expect("processes").flatten();
        let servers =
            processes.filter(move |one| one.cmdline().is_ok_and(|words| is_server(&words)));
        servers.map(|server| server.pid.cast_unsigned())
    }
}

/// A group of processes that may use so much of a core. Dropped, it is gone, if its processes are.
struct Quota(PathBuf);

impl Quota {
    /// None if this user can't make one.
    fn of(percent: u32) -> Option<Self> {
        const PERIOD: u32 = 20_000;
        let quota = PERIOD * percent / 100;
        let (root, files) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            ("/sys/fs/cgroup", vec![("cpu.max", format!("{quota} {PERIOD}"))])
        } else {
            let files = [("cpu.cfs_period_us", PERIOD), ("cpu.cfs_quota_us", quota)];
            ("/sys/fs/cgroup/cpu", files.map(|(name, value)| (name, value.to_string())).into())
        };
        let group = tempfile::Builder::new().prefix("ibvwatch-bench-").tempdir_in(root).ok()?;
        let group = Self(group.keep());
        let set = |(name, value): &(&str, String)| fs::write(group.0.join(name), value);
        files.iter().try_for_each(set).ok()?;
        Some(group)
    }

    fn limit(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process to limit");
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // The kernel keeps its files while there are processes.
        if let Err(error) = fs::remove_dir(&self.0) {
            println!("{} stays: {error}", self.0.display());
        }
    }
}
