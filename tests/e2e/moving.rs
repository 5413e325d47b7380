//! What a store holds is carried to another, where all goes on.

use ibvwatch::domain::SessionId;

use crate::common::{Daemon, Home, ids_in};

/// A daemon that has told five events of two sessions, the last a change of the first one's.
pub(crate) async fn with_two_sessions(home: &Home) -> (Daemon, SessionId, SessionId) {
    let (first, second) = (home.track_new(), home.track_new());
    let mut daemon = Daemon::start(home);
    for id in [first, second] {
        daemon.event(|event| event.is("session.observed", id)).await;
    }
    home.set_state(first, 0, "IN_PROGRESS").expect("a resource that is listed");
    daemon.event(|event| event.tells(first, "IN_PROGRESS")).await;
    (daemon, first, second)
}

#[tokio::test]
async fn an_export_goes_on_elsewhere_and_nothing_is_told_under_another_id() {
    let mut home = Home::new().await;
    let (daemon, first, _) = with_two_sessions(&home).await;
    let refused = home.run(&["export"]).await.refused(78);
    assert!(refused.contains("is in use by another ibvwatch"), "{refused}");
    daemon.stop().await;

    let (before, exported) = (home.recorded().await, home.run(&["export"]).await.succeeded());
    std::fs::write(home.path("export.ndjson"), &exported).expect("a file that can be written");
    home.set("store.path", &format!("{:?}", home.path("other.db")));
    let imported = home.run(&["import", "export.ndjson"]).await.succeeded();
    assert!(imported.starts_with("2 sessions and 5 events imported into "), "{imported}");
    assert_eq!(home.recorded().await, before);
    assert_eq!(home.run(&["export"]).await.succeeded(), exported);
    let refused = home.run(&["import", "export.ndjson"]).await.refused(78);
    assert!(refused.contains("holds sessions or events already"), "{refused}");

    home.set_state(first, 0, "COMPLETE").expect("a resource that is listed");
    let mut daemon = Daemon::start(&home);
    let event = daemon.event(|event| event.tells(first, "COMPLETE")).await;
    assert_eq!((event.ordinal(), event.sequence()), (4, 6));
    assert_eq!(daemon.stop().await.events().len(), 1, "what was told is told again");
    assert_eq!(ids_in(&home.recorded().await).len(), 6);
}

#[tokio::test]
async fn an_export_that_was_cut_off_is_refused_with_its_line() {
    let mut home = Home::new().await;
    let session = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", session)).await;
    daemon.stop().await;
    let exported = home.run(&["export"]).await.succeeded();
    let cut: String = exported.split_inclusive('\n').take(4).collect();
    std::fs::write(home.path("export.ndjson"), cut).expect("a file that can be written");
    home.set("store.path", &format!("{:?}", home.path("other.db")));
    let refused = home.run(&["import", "export.ndjson"]).await.refused(1);
    assert_eq!(
        refused,
        "export.ndjson: line 4: the export was cut off behind this line; export it again\n"
    );
}
