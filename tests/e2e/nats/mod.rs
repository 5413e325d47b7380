//! Several nodes on a real nats-server: what docs/CLUSTER.md promises.

mod cluster;
mod moving;
mod nodes;
mod secured;
#[path = "../../nats/server.rs"]
mod server;
mod shipped;

use std::fs;
use std::path::Path;

use tokio::process::Command;

use crate::common::{Daemon, Home};
use server::Server;

/// Has the home's daemons share a stream of these servers.
fn share(home: &mut Home, server: &Server) {
    share_at(home, &[server.url()], 1);
}

fn share_at(home: &mut Home, urls: &[String], replicas: usize) {
    home.set("store.kind", "\"jetstream\"");
    home.set("store.jetstream.servers", &format!("{urls:?}"));
    home.set("store.jetstream.replicas", &replicas.to_string());
    home.unset("store.path");
}

/// Starts a node of that name, whose files all nodes of the home watch.
/// It reaches the servers by ways of its own, if it has some.
fn node(home: &Home, name: &str, ways: Option<&[String]>) -> Daemon {
    node_as(Path::new(env!("CARGO_BIN_EXE_ibvwatch")), home, name, ways)
}

/// The same with another binary.
fn node_as(program: &Path, home: &Home, name: &str, ways: Option<&[String]>) -> Daemon {
    let fragment = home.path(&format!("{name}.toml"));
    let servers = ways.map(|ways| format!("servers = {ways:?}\n")).unwrap_or_default();
    let text = format!("[store.jetstream]\nnode = {name:?}\nowner = \"shared\"\n{servers}");
    run_with(home.command_as(program, &["run"]), &fragment, &text)
}

fn run_with(mut command: Command, fragment: &Path, text: &str) -> Daemon {
    fs::write(fragment, text).expect("a configuration that can be written");
    command.arg("--config").arg(fragment);
    Daemon::spawn(command)
}

/// Starts a node that watches a directory of its own, called as the node.
fn node_with_files(home: &Home, name: &str) -> Daemon {
    let directory = home.path(name);
    fs::create_dir_all(&directory).expect("a directory");
    let fragment = home.path(&format!("{name}.toml"));
    let text = format!(
        "[sessions]\ndirectories = [{:?}]\n[store.jetstream]\nnode = {name:?}\n",
        directory.display().to_string()
    );
    run_with(home.command(&["run"]), &fragment, &text)
}
