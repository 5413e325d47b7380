//! Servers as deploy/nats sets them up, but for where they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::server::Server;
use crate::common::Home;

const CONFIGURATION: &str = include_str!("../../../deploy/nats/nats.conf");
const ACCOUNTS: &str = include_str!("../../../deploy/nats/accounts.conf");
const OF_A_NODE: &str = include_str!("../../../deploy/kubernetes-cluster/store.toml");

/// The certificates, by the script that is shipped, and one server's files.
pub(super) struct Shipped {
    directory: TempDir,
    configuration: String,
    accounts: String,
}

impl Shipped {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = directory.path().join("certificates");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats/certificates");
        let made = Command::new(script).arg(&certificates).arg("localhost").status();
        assert!(made.expect("the script").success(), "it needs openssl");
        let configuration = CONFIGURATION
            .replace("$NATS_NAME", "one")
            // That is an argument here.
            .replace("store_dir: \"/data\"", "")
            .replace("/certificates/", &format!("{}/", certificates.display()))
            .replace("127.0.0.1:8222", "127.0.0.1:-1");
        Self { directory, configuration, accounts: ACCOUNTS.to_owned() }
    }

    /// Changes the servers' configuration, in which that has to stand.
    pub(super) fn configure(&mut self, from: &str, to: &str) {
        self.configuration = replaced(&self.configuration, from, to);
    }

    /// Changes who may do what.
    pub(super) fn allow(&mut self, from: &str, to: &str) {
        self.accounts = replaced(&self.accounts, from, to);
    }

    /// Has other accounts in their place.
    pub(super) fn accounts(&mut self, accounts: &str) {
        accounts.clone_into(&mut self.accounts);
    }

    /// What a node may publish, as it is shipped.
    pub(super) fn allowed() -> Vec<&'static str> {
        let (_, node) = ACCOUNTS.split_once("user: \"CN=ibvwatch\"").expect("a node");
        let (_, allowed) = node.split_once("allow: [").expect("what it may");
        let (allowed, _) = allowed.split_once(']').expect("the end of that");
        allowed
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'))
            .collect()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("certificates").join(name)
    }

    /// One server, which is no cluster.
    pub(super) fn start(&self) -> Server {
        self.start_at(None)
    }

    pub(super) fn start_at(&self, port: Option<u16>) -> Server {
        let (before, cluster) = self.configuration.split_once("cluster {").expect("a cluster");
        let (_, behind) = cluster.split_once("\n}\n").expect("the end of it");
        self.start_with(self.directory.path(), port, &format!("{before}{behind}"))
    }

    fn start_with(&self, directory: &Path, port: Option<u16>, configuration: &str) -> Server {
        let path = directory.join("nats.conf");
        fs::write(&path, configuration).expect("a configuration that can be written");
        fs::write(directory.join("accounts.conf"), &self.accounts).expect("accounts likewise");
        let listen = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let path = path.display().to_string();
        let arguments = ["-V", "-c", &path, "-a", "127.0.0.1", "-p", &listen];
        Server::start_with(directory, port, &arguments)
    }

    /// The three of them.
    pub(super) fn start_three(&self) -> (Vec<Server>, Vec<TempDir>) {
        let ports: [(u16, u16); 3] = std::array::from_fn(|_| (free_port(), free_port()));
        let directories: Vec<TempDir> =
            ports.iter().map(|_| tempfile::tempdir().expect("a directory")).collect();
        let servers =
            directories.iter().zip(ports).enumerate().map(|(n, (directory, (port, own)))| {
                let mut configuration = self.configuration.clone();
                configuration =
                    replaced(&configuration, "server_name: one", &format!("server_name: nats-{n}"));
                configuration =
                    replaced(&configuration, "0.0.0.0:6222", &format!("127.0.0.1:{own}"));
                for (n, (_, cluster)) in ports.iter().enumerate() {
                    let (route, here) =
                        (format!("nats-{n}.nats:6222"), format!("localhost:{cluster}"));
                    configuration = replaced(&configuration, &route, &here);
                }
                self.start_with(directory.path(), Some(port), &configuration)
            });
        (servers.collect(), directories)
    }

    /// What the one server has logged, every message that it got included.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("a log")
    }

    /// Has the home's daemons go to these servers as the manifests have it.
    pub(super) fn share(&self, home: &mut Home, servers: &[&Server]) {
        let files = format!("{}/", self.directory.path().join("certificates").display());
        let text = replaced(OF_A_NODE, "/run/nats/", &files);
        let table: toml::Table = text.parse().expect("TOML");
        let store = table["store"].as_table().expect("a section");
        for (key, value) in store["jetstream"].as_table().expect("a section") {
            home.set(&format!("store.jetstream.{key}"), &value.to_string());
        }
        home.set("store.kind", &store["kind"].to_string());
        home.unset("store.path");
        let urls: Vec<String> =
            servers.iter().map(|server| format!("tls://localhost:{}", server.port)).collect();
        home.set("store.jetstream.servers", &format!("{urls:?}"));
        home.set("store.jetstream.replicas", &servers.len().to_string());
        home.set("store.jetstream.node", "\"a\"");
    }
}

/// A free port of those that the kernel gives to nobody who asks for any, so that whoever is told of it
/// finds it free again when it comes back to it.
pub(super) fn free_port() -> u16 {
    /// Apart from those of tests that another process runs at the same time.
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(10_000 + std::process::id() % 700 * 30));
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let next = || NEXT.fetch_add(1, Ordering::Relaxed).try_into().expect("a port");
    let mut ports = std::iter::repeat_with(next);
    ports.find(is_free).expect("a free port")
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in {text}");
    text.replace(from, to)
}
