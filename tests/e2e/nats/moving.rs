//! What a database holds is carried to a cluster, and what a cluster holds to a database.

use std::fs;
use std::time::Duration;

use super::server::Server;
use super::share;
use crate::common::{Daemon, Home, ids_in};
use crate::moving::with_two_sessions;

/// Exports what the home's store holds.
async fn exported(home: &Home) -> String {
    let exported = home.run(&["export"]).await.succeeded();
    fs::write(home.path("export.ndjson"), &exported).expect("a file that can be written");
    exported
}

async fn imported(home: &Home) -> String {
    home.run(&["import", "export.ndjson"]).await.succeeded()
}

#[tokio::test]
async fn nats_a_database_goes_on_as_a_cluster_and_a_cluster_as_a_database() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start(directory.path());
    let mut home = Home::new().await;
    let (daemon, first, second) = with_two_sessions(&home).await;
    daemon.stop().await;

    let recorded = home.recorded().await;
    let of_the_database = exported(&home).await;
    share(&mut home, &server);
    home.set("store.jetstream.node", "\"a\"");
    let told = imported(&home).await;
    assert_eq!(told, "2 sessions and 5 events imported into stream ibvwatch\n");
    assert_eq!(home.recorded().await, recorded);
    assert_eq!(exported(&home).await, of_the_database);
    let refused = home.run(&["import", "export.ndjson"]).await.refused(78);
    assert!(refused.contains("holds sessions or events already"), "{refused}");

    home.set_state(first, 0, "COMPLETE").expect("a resource that is listed");
    let mut daemon = Daemon::start(&home);
    let event = daemon.event(|event| event.tells(first, "COMPLETE")).await;
    assert_eq!(event.ordinal(), 4);
    assert!(event.sequence() > 5, "{}", event.line);
    for command in [&["export"][..], &["import", "export.ndjson"]] {
        let refused = home.run(command).await.refused(78);
        assert!(refused.contains("stream ibvwatch is in use by node a"), "{refused}");
    }
    // The node's files speak for what was imported.
    home.remove(&format!("{second}.json"));
    let ended = daemon.event(|event| event.is("session.ended", second)).await;
    assert_eq!((ended.text("reason"), ended.ordinal()), ("untracked", 3));
    assert_eq!(daemon.stop().await.events().len(), 2, "what was told is told again");

    let recorded = home.recorded().await;
    assert_eq!(ids_in(&recorded).len(), 7);
    exported(&home).await;
    home.set("store.kind", "\"sqlite\"");
    home.set("store.path", &format!("{:?}", home.path("other.db")));
    let told = imported(&home).await;
    assert!(told.starts_with("2 sessions and 7 events imported into "), "{told}");
    assert_eq!(home.recorded().await, recorded);
    home.set_state(first, 1, "IN_PROGRESS").expect("a resource that is listed");
    let mut daemon = Daemon::start(&home);
    let event = daemon.event(|event| event.tells(first, "IN_PROGRESS")).await;
    assert_eq!(event.ordinal(), 5);
    assert_eq!(daemon.stop().await.events().len(), 1, "what was told is told again");
    assert!(home.recorded().await.starts_with(&recorded));
}

#[tokio::test]
async fn nats_until_an_import_that_was_killed_is_done_again_no_node_starts() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start(directory.path());
    let mut home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    daemon.stop().await;
    // With so much between the events that the import takes a while.
    let stretched = exported(&home)
        .await
        .replace("\"last_sequence\":2}", "\"last_sequence\":40000000}")
        .replace(&format!("{:020}", 2), &format!("{:020}", 40_000_000));
    fs::write(home.path("export.ndjson"), &stretched).expect("a file that can be written");
    share(&mut home, &server);
    home.set("store.jetstream.node", "\"a\"");
    let import = home.command(&["import", "export.ndjson"]).spawn().expect("an import");
    let context = async_nats::jetstream::new(
        async_nats::connect(server.url()).await.expect("a server that lets it in"),
    );
    let under_way = async {
        loop {
            if let Ok(stream) = context.get_stream("ibvwatch").await
                && stream.cached_info().state.last_sequence > 10_000
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), under_way).await.expect("an import under way");
    drop(import);
    let run = Daemon::start(&home).ended().await;
    assert_eq!(run.status.code(), Some(78), "{}", run.stderr);
    assert!(
        run.stderr.contains("run ibvwatch import with the same export again"),
        "{}",
        run.stderr
    );
}
