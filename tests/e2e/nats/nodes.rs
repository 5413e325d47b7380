//! Two nodes on one server.

use std::collections::BTreeMap;
use std::fs;

use ibvwatch::domain::SessionId;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::server::Server;
use super::{node, node_with_files, share, share_at};
use crate::common::{Daemon, Event, Home, Run, ids_in};

/// Every event of these outputs, once; each must be the same wherever it was told.
fn told(outputs: &[Vec<Event>]) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    for event in outputs.iter().flatten() {
        let line = told.entry(event.id().to_owned()).or_insert_with(|| event.line.clone());
        assert_eq!(*line, event.line, "told in two ways");
    }
    told
}

fn count(outputs: &[Vec<Event>]) -> usize {
    outputs.iter().map(Vec::len).sum()
}

/// Waits until one of two nodes has told it.
async fn either(a: &mut Daemon, b: &mut Daemon, wanted: impl Fn(&Event) -> bool) -> Event {
    tokio::select! {
        event = a.event(&wanted) => event,
        event = b.event(&wanted) => event,
    }
}

async fn started() -> (Home, Server, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start(directory.path());
    let mut home = Home::new().await;
    share(&mut home, &server);
    (home, server, directory)
}

#[tokio::test]
async fn nats_two_nodes_share_the_work_and_tell_each_event_once() {
    let (home, _server, _directory) = started().await;
    let ids: Vec<SessionId> = (0..12).map(|_| home.track_new()).collect();
    let (mut a, mut b) = (node(&home, "a", None), node(&home, "b", None));
    for &id in &ids {
        either(&mut a, &mut b, |event| event.is("session.observed", id)).await;
        home.set_state(id, 0, "IN_PROGRESS").unwrap();
    }
    for &id in &ids {
        either(&mut a, &mut b, |event| event.tells(id, "IN_PROGRESS")).await;
    }
    let seen = home.run(&["sessions"]).await.succeeded();
    assert!(seen.contains("12 sessions"), "{seen}");
    assert!(seen.contains("a (") && seen.contains("b ("), "{seen}");
    let shown = home.run(&["show", &ids[0].to_string()]).await.succeeded();
    assert!(shown.contains("IN_PROGRESS"), "{shown}");

    let outputs = [a.stop().await.events(), b.stop().await.events()];
    assert_eq!(count(&outputs), 36);
    let told = told(&outputs);
    assert_eq!(told.len(), 36, "an event was told twice");
    let recorded = home.recorded().await;
    assert_eq!(ids_in(&recorded).len(), 36);
    for line in recorded.lines() {
        assert!(told.values().any(|told| told.trim_end() == line), "{line}");
    }
}

#[tokio::test]
async fn nats_a_node_that_is_killed_is_stood_in_for_and_loses_nothing() {
    let (home, _server, _directory) = started().await;
    let ids: Vec<SessionId> = (0..6).map(|_| home.track_new()).collect();
    let (mut a, mut b) = (node(&home, "a", None), node(&home, "b", None));
    for &id in &ids {
        either(&mut a, &mut b, |event| event.is("session.observed", id)).await;
    }
    let a = a.kill().await;
    for &id in &ids {
        home.set_state(id, 0, "IN_PROGRESS").unwrap();
    }
    for &id in &ids {
        b.event(|event| event.tells(id, "IN_PROGRESS")).await;
    }
    // Under the same name, once it is certain that the one before is no more.
    let mut again = node(&home, "a", None);
    again.logs("ibvwatch is running").await;
    for &id in &ids {
        home.set_state(id, 0, "COMPLETE").unwrap();
        either(&mut again, &mut b, |event| event.tells(id, "COMPLETE")).await;
    }
    let outputs = [a.events(), again.stop().await.events(), b.stop().await.events()];
    assert_eq!(told(&outputs).len(), ids_in(&home.recorded().await).len());
}

#[tokio::test]
async fn nats_a_server_that_is_killed_loses_nothing_that_was_acknowledged() {
    let (home, server, directory) = started().await;
    let id = home.track_new();
    let mut daemon = node(&home, "a", None);
    daemon.event(|event| event.is("session.observed", id)).await;
    let port = server.port;
    drop(server);
    home.set_state(id, 0, "IN_PROGRESS").unwrap();
    daemon.logs("NATS can't be used").await;
    let listen = port.to_string();
    let _server = Server::start_with(directory.path(), Some(port), &["-p", &listen, "-js"]);
    daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    daemon.logs("NATS can be used again").await;
    let run = daemon.stop().await;
    assert_eq!(ids_in(&home.recorded().await).len(), run.events().len());
}

#[tokio::test]
async fn nats_a_name_that_another_node_has_is_refused() {
    let (home, _server, _directory) = started().await;
    let mut first = node(&home, "a", None);
    first.logs("ibvwatch is running").await;
    let second: Run = node(&home, "a", None).ended().await;
    assert_eq!(second.status.code(), Some(78), "{}", second.stderr);
    assert!(second.stderr.contains("another node named a is running"), "{}", second.stderr);
    first.stop().await;
}

#[tokio::test]
async fn nats_that_does_not_answer_keeps_no_node_from_stopping() {
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = mute.local_addr().expect("its address").port();
    let mut home = Home::new().await;
    share_at(&mut home, &[format!("nats://127.0.0.1:{port}")], 1);
    let daemon = node(&home, "a", None);
    let _asked = mute.accept().await.expect("a node that asks");
    daemon.stop().await;
}

/// A session file in the directory of a node.
fn name(home: &Home, node: &str, id: SessionId) {
    let text = format!("{{\"session_id\": \"{id}\"}}\n");
    home.put("moved.json", &text);
    fs::rename(home.sessions().join("moved.json"), home.path(node).join(format!("{id}.json")))
        .expect("a file that can be moved");
}

fn give_up(home: &Home, node: &str, id: SessionId) {
    fs::remove_file(home.path(node).join(format!("{id}.json"))).expect("a file to remove");
}

#[tokio::test]
async fn nats_a_session_that_two_owners_name_is_one_and_goes_with_the_last() {
    let (home, _server, _directory) = started().await;
    let id = home.track_new();
    home.remove(&format!("{id}.json"));
    let (mut a, mut b) = (node_with_files(&home, "a"), node_with_files(&home, "b"));
    a.logs("ibvwatch is running").await;
    b.logs("ibvwatch is running").await;
    name(&home, "a", id);
    name(&home, "b", id);
    a.logs("new_or_changed=1").await;
    b.logs("new_or_changed=1").await;
    either(&mut a, &mut b, |event| event.is("session.observed", id)).await;

    give_up(&home, "a", id);
    a.logs("removed=1").await;
    a.polls(&home, id, 3).await;
    // That a node goes takes nobody's name off a session, nor does that it comes back.
    let b = b.kill().await;
    a.polls(&home, id, 3).await;
    let mut again = node_with_files(&home, "b");
    again.logs("ibvwatch is running").await;
    again.polls(&home, id, 3).await;

    give_up(&home, "b", id);
    let ended = either(&mut a, &mut again, |event| event.is("session.ended", id)).await;
    assert_eq!(ended.text("reason"), "untracked");
    let outputs = [a.stop().await.events(), b.events(), again.stop().await.events()];
    let told = told(&outputs);
    let of_kind = |kind: &str| told.values().filter(|line| line.contains(kind)).count();
    assert_eq!((of_kind("session.tracked"), of_kind("session.ended")), (1, 1), "{told:#?}");
}

#[tokio::test]
async fn nats_what_an_owner_that_is_gone_named_stays() {
    let (home, _server, _directory) = started().await;
    let (of_a, of_b) = (home.track_new(), home.track_new());
    for id in [of_a, of_b] {
        home.remove(&format!("{id}.json"));
    }
    let (mut a, mut b) = (node_with_files(&home, "a"), node_with_files(&home, "b"));
    name(&home, "a", of_a);
    name(&home, "b", of_b);
    for id in [of_a, of_b] {
        either(&mut a, &mut b, |event| event.is("session.observed", id)).await;
    }
    b.kill().await;
    a.stop().await;
    // What the other named is none of its business, at its start as little as later.
    let mut a = node_with_files(&home, "a");
    a.logs("ibvwatch is running").await;
    a.polls(&home, of_b, 3).await;
    give_up(&home, "a", of_a);
    a.event(|event| event.is("session.ended", of_a)).await;
    a.polls(&home, of_b, 3).await;
    // Whoever starts under the owner's name, with files that don't name it, gives it up.
    fs::remove_file(home.path("b").join(format!("{of_b}.json"))).unwrap();
    let mut b = node_with_files(&home, "b");
    either(&mut a, &mut b, |event| event.is("session.ended", of_b)).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn nats_a_check_says_what_an_acknowledgement_means() {
    let (home, server, _directory) = started().await;
    let said = home.run(&["check", "--online"]).await.succeeded();
    assert!(said.contains("stream ibvwatch on nats-server 2."), "{said}");
    assert!(said.contains("one copy, "), "{said}");
    drop(server);
    let refused = home.run(&["check", "--online"]).await.refused(78);
    assert!(refused.contains("no NATS server of store.jetstream.servers"), "{refused}");
}

#[tokio::test]
async fn nats_a_server_that_tells_how_often_it_syncs_is_believed() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("server.conf");
    let text = "jetstream { sync_interval: always }\n\
        accounts {\n\
          SYS { exports: [{ service: \"$SYS.REQ.SERVER.PING.VARZ\", response: stream }] }\n\
          A {\n\
            jetstream: enabled\n\
            users: [{ user: a, password: a }]\n\
            imports: [{ service: { account: SYS, subject: \"$SYS.REQ.SERVER.PING.VARZ\" } }]\n\
          }\n\
        }\n\
        system_account: SYS\n\
        no_auth_user: a\n";
    fs::write(&config, text).expect("a configuration that can be written");
    let config = config.display().to_string();
    let server = Server::start_with(directory.path(), None, &["-p", "-1", "-c", &config]);
    let mut home = Home::new().await;
    share(&mut home, &server);
    let said = home.run(&["check", "--online"]).await.succeeded();
    assert!(said.contains("one copy, fsynced always: "), "{said}");
}

#[tokio::test]
async fn nats_a_node_shows_the_cluster() {
    let (mut home, _server, _directory) = started().await;
    home.serve_http();
    let id = home.track_new();
    let mut a = node(&home, "a", None);
    a.event(|event| event.is("session.observed", id)).await;
    let site = a.site().await;
    let shown = site.get("/metrics").await.body;
    let (_, documented) =
        include_str!("../../../docs/METRICS.md").split_once("## In a cluster").unwrap();
    let names = documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names: Vec<&str> = names.filter(|name| name.starts_with("ibvwatch_cluster_")).collect();
    assert_eq!(names.len(), 6);
    for name in names {
        assert!(shown.contains(&format!("\n{name} ")), "{name} is not in\n{shown}");
    }
    assert!(shown.contains("\nibvwatch_cluster_nodes 1"), "{shown}");
    let page = site.get("/").await.body;
    assert!(page.contains("1 node") && page.contains("(this one)"), "{page}");
    a.stop().await;
}
