//! Answers that nobody promised: what is in them is told, and what isn't does no harm.

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Requirement, Session};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::common::{Daemon, Home, PATIENCE};

const ONE_ID_FOR_ALL: &str = include_str!("../data/yoti/config_04_same_id_four_resources.json");
const UNKNOWNS: &str = include_str!("../data/yoti/config_05_unknowns_nulls_missing.json");

/// Serves this as the configuration of the session that it is about.
fn serve(home: &Home, body: &str) -> SessionId {
    let json: Value = serde_json::from_str(body).expect("a body that is JSON");
    let id = json["session_id"].as_str().and_then(|id| id.parse().ok()).expect("a session id");
    home.create(Session::requiring([Requirement::passport()]).with_id(id));
    home.serve_body(id, body.to_owned()).expect("the session just created");
    home.track(id);
    id
}

/// The body with another state for one of its resources.
fn with_state(body: &str, index: usize, state: &str) -> String {
    let mut json: Value = serde_json::from_str(body).expect("a body that is JSON");
    json["capture"]["required_resources"][index]["state"] = state.into();
    json.to_string()
}

fn states(observed: &Value) -> Vec<(&str, &str)> {
    let resources = observed["resources"].as_array().expect("a list of resources");
    let text = |value: &'_ Value| -> Option<String> { value.as_str().map(str::to_owned) };
    assert!(resources.iter().all(|r| text(&r["resource"]["id"]).is_some()), "{observed}");
    resources
        .iter()
        .map(|r| (r["resource"]["type"].as_str().unwrap_or(""), r["state"].as_str().unwrap_or("")))
        .collect()
}

#[tokio::test]
async fn four_resources_with_one_id_are_four_resources() {
    let home = Home::new().await;
    let id = serve(&home, ONE_ID_FOR_ALL);
    let mut daemon = Daemon::start(&home);
    let observed = daemon.event(|event| event.is("session.observed", id)).await;
    let kinds = ["ID_DOCUMENT", "SUPPLEMENTARY_DOCUMENT", "FACE_CAPTURE", "APPLICANT_PROFILE"];
    assert_eq!(states(observed.data()), kinds.map(|kind| (kind, "REQUIRED")));

    let mut body = ONE_ID_FOR_ALL.to_owned();
    for (index, kind) in kinds.into_iter().enumerate() {
        body = with_state(&body, index, "COMPLETE");
        home.serve_body(id, body.clone()).unwrap();
        let is_it = |event: &crate::common::Event| {
            event.tells(id, "COMPLETE") && event.data()["resource"]["type"] == kind
        };
        let event = daemon.event(is_it).await;
        assert_eq!(event.data()["progress"]["complete"], index + 1, "{}", event.line);
    }
    daemon.event(|event| event.is("session.nothing_required", id)).await;
    let events = daemon.stop().await.events();
    let changes = events.iter().filter(|event| event.kind() == "resource.state_changed").count();
    assert_eq!((changes, events.len()), (4, 7));
}

#[tokio::test]
async fn unknown_types_and_states_nulls_and_a_ttl_of_zero_are_followed_like_all_others() {
    let home = Home::new().await;
    let id = serve(&home, UNKNOWNS);
    let mut daemon = Daemon::start(&home);
    let observed = daemon.event(|event| event.is("session.observed", id)).await;
    assert_eq!(
        states(observed.data()),
        [
            ("LIVENESS", "COMPLETE"),
            ("LIVENESS", "REQUIRED"),
            ("PROOF_OF_RESIDENCE_CHIP", "REQUIRED"),
            ("ID_DOCUMENT", "AWAITING_REVIEW"),
            ("SUPPLEMENTARY_DOCUMENT", "UNKNOWN"),
            ("FACE_CAPTURE", "UNKNOWN"),
        ]
    );
    let progress = json!({"total": 6, "required": 2, "in_progress": 0, "complete": 1, "other": 3});
    assert_eq!(observed.data()["progress"], progress);

    home.serve_body(id, with_state(UNKNOWNS, 2, "CHIP_READ")).unwrap();
    let event = daemon.event(|event| event.tells(id, "CHIP_READ")).await;
    assert_eq!(event.data()["left_required"], true);
    home.serve_body(id, with_state(UNKNOWNS, 4, "COMPLETE")).unwrap();
    daemon.event(|event| event.tells(id, "COMPLETE") && event.text("from") == "UNKNOWN").await;
    daemon.event(|event| event.tells(id, "REQUIRED") && event.text("from") == "CHIP_READ").await;

    let log = daemon.stop().await.stderr;
    for state in ["AWAITING_REVIEW", "CHIP_READ", "UNKNOWN"] {
        let warnings = log.lines().filter(|line| line.contains(&format!("{state:?}"))).count();
        assert_eq!(warnings, 1, "{state} in\n{log}");
    }
}

#[tokio::test]
async fn a_ttl_that_makes_no_sense_ends_nothing_and_hides_no_change() {
    let home = Home::new().await;
    let ttls = [
        "0",
        "-1",
        "-9223372036854775808",
        "null",
        "9223372036854775807",
        "99999999999999999999999999",
        "1e300",
        "\"soon\"",
        "true",
        "[7]",
        "{}",
        "",
    ];
    let body = |id: SessionId, ttl: &str, state: &str| {
        let ttl = match ttl {
            "" => String::new(),
            ttl => format!("\"client_session_token_ttl\": {ttl},"),
        };
        format!(
            "{{\"session_id\": \"{id}\", {ttl} \"capture\": {{\"required_resources\":
             [{{\"type\": \"ID_DOCUMENT\", \"id\": \"a\", \"state\": \"{state}\"}}]}}}}"
        )
    };
    let sessions: Vec<(SessionId, &str)> =
        ttls.iter().map(|ttl| (home.track_new(), *ttl)).collect();
    for (id, ttl) in &sessions {
        home.serve_body(*id, body(*id, ttl, "REQUIRED")).unwrap();
    }
    let mut daemon = Daemon::start(&home);
    for (id, ttl) in &sessions {
        daemon.event(|event| event.is("session.observed", *id)).await;
        let asked = timeout(PATIENCE, home.asked(*id, 3)).await;
        assert!(asked.is_ok(), "{ttl}: {:?}\n{}", home.exchanges_of(*id), daemon.log());
        home.serve_body(*id, body(*id, ttl, "IN_PROGRESS")).unwrap();
    }
    for (id, ttl) in &sessions {
        let event = daemon.event(|event| event.tells(*id, "IN_PROGRESS")).await;
        let expires = event.moment("expires_at");
        assert!(expires > event.time(), "a TTL of {ttl}: {}", event.line);
    }
    let run = daemon.stop().await;
    assert!(run.events().iter().all(|event| event.kind() != "session.ended"), "{run:?}");
}

/// The list is empty, not there, null, or of no known form; then it is what it was.
#[tokio::test]
async fn a_list_that_is_missing_is_told_and_one_of_no_known_form_is_not_believed() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    for odd in ["{\"required_resources\": 3}", "[]", "\"x\""] {
        let asked = home.session_totals(id).requests;
        home.serve_body(id, format!("{{\"session_id\": \"{id}\", \"capture\": {odd}}}")).unwrap();
        timeout(PATIENCE, home.asked(id, asked + 4)).await.unwrap();
    }
    daemon.event(|event| event.is("session.poll_failing", id)).await;
    home.serve_body(id, format!("{{\"session_id\": \"{id}\", \"capture\": null}}")).unwrap();
    let three = |events: &[crate::common::Event]| {
        events.iter().filter(|event| event.is("resource.removed", id)).count() == 3
    };
    daemon.until(three).await;
    let events = daemon.stop().await.events();
    let kinds: Vec<&str> = events.iter().map(crate::common::Event::kind).collect();
    assert_eq!(
        kinds,
        [
            "session.tracked",
            "session.observed",
            "session.poll_failing",
            "session.poll_recovered",
            "resource.removed",
            "resource.removed",
            "resource.removed",
        ]
    );
}
