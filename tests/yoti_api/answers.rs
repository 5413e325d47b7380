use std::time::Duration;

use ibvwatch::domain::{Listed, Listing, Observation, ProblemKind, SessionId, Snapshot};
use ibvwatch::yoti::SessionApi;

use super::server::{PATIENCE, Server, answer};
use super::{client, id, problem, settings};

async fn configuration_of(id: SessionId, answer: Vec<u8>) -> Observation {
    let server = Server::answering(answer).await;
    client(settings(&server.base_url())).configuration(id).await
}

async fn state_of(body: &str) -> Observation {
    let server = Server::answering(answer(200, &[], body)).await;
    client(settings(&server.base_url())).session_state(id()).await
}

macro_rules! body {
    ($name:literal) => {
        include_str!(concat!("../data/yoti/", $name, ".json"))
    };
}

async fn snapshot(body: &str) -> Snapshot {
    let id = serde_json::from_str::<serde_json::Value>(body).unwrap()["session_id"].clone();
    let id = id.as_str().unwrap().parse().unwrap();
    let answer = answer(200, &[("content-type", "application/json")], body);
    let observation = configuration_of(id, answer).await;
    let Observation::Configuration(snapshot) = observation else { panic!("{observation:?}") };
    snapshot
}

fn listed(snapshot: &Snapshot) -> &[Listed] {
    snapshot.listing.resources().unwrap()
}

fn states(snapshot: &Snapshot) -> Vec<String> {
    listed(snapshot).iter().map(|r| format!("{} {}", r.kind, r.state)).collect()
}

#[tokio::test]
async fn a_fresh_session_lists_three_documents_in_order() {
    let snapshot = snapshot(body!("config_01_fresh_3docs")).await;
    assert_eq!(snapshot.ttl, Some(Duration::from_secs(1_252_800)));
    let required = Some("REQUIRED");
    assert_eq!(
        *listed(&snapshot),
        [
            Listed::new(
                Some("ID_DOCUMENT"),
                Some("40a922ea-6049-438d-8be0-9a52e2c06beb"),
                required
            ),
            Listed::new(
                Some("ID_DOCUMENT"),
                Some("a81552a1-8b20-4a4b-9ce9-299254bffb43"),
                required
            ),
            Listed::new(
                Some("SUPPLEMENTARY_DOCUMENT"),
                Some("4a55df36-8d0c-4af3-a6be-0404df01afb2"),
                required
            ),
        ]
    );
}

#[tokio::test]
async fn a_session_under_way_is_read_by_resource_and_not_by_task_or_assessment() {
    assert_eq!(
        states(&snapshot(body!("config_02_partial")).await),
        ["ID_DOCUMENT IN_PROGRESS", "ID_DOCUMENT COMPLETE", "SUPPLEMENTARY_DOCUMENT REQUIRED"]
    );
    assert_eq!(
        states(&snapshot(body!("config_03_all_complete")).await),
        ["ID_DOCUMENT COMPLETE", "ID_DOCUMENT COMPLETE", "SUPPLEMENTARY_DOCUMENT COMPLETE"]
    );
}

#[tokio::test]
async fn four_resources_of_one_id_are_all_kept() {
    let snapshot = snapshot(body!("config_04_same_id_four_resources")).await;
    assert_eq!(
        states(&snapshot),
        [
            "ID_DOCUMENT REQUIRED",
            "SUPPLEMENTARY_DOCUMENT REQUIRED",
            "FACE_CAPTURE REQUIRED",
            "APPLICANT_PROFILE REQUIRED"
        ]
    );
    assert!(listed(&snapshot).iter().all(|r| &*r.id == "07c4abc0-030c-4091-8860-59f00aedc575"));
}

#[tokio::test]
async fn what_is_unknown_null_or_missing_is_kept_as_it_came() {
    let snapshot = snapshot(body!("config_05_unknowns_nulls_missing")).await;
    assert_eq!(snapshot.ttl, Some(Duration::ZERO));
    assert_eq!(
        states(&snapshot),
        [
            "LIVENESS COMPLETE",
            "LIVENESS REQUIRED",
            "PROOF_OF_RESIDENCE_CHIP REQUIRED",
            "ID_DOCUMENT AWAITING_REVIEW",
            "SUPPLEMENTARY_DOCUMENT UNKNOWN",
            "FACE_CAPTURE UNKNOWN"
        ]
    );
}

#[tokio::test]
async fn every_documented_error_has_its_meaning_and_its_reason() {
    let errors: Vec<serde_json::Value> = serde_json::from_str(body!("error_bodies")).unwrap();
    let mut kinds = Vec::new();
    for error in errors {
        let headers = error["headers"].as_object().unwrap();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        let body = match (error["body"].as_str(), error["body"].is_null()) {
            (Some(text), _) => text.to_owned(),
            (None, true) => String::new(),
            (None, false) => error["body"].to_string(),
        };
        let status = u16::try_from(error["status"].as_u64().unwrap()).unwrap();
        let observation = configuration_of(id(), answer(status, &headers, &body)).await;
        let name = error["name"].as_str().unwrap();

        let found = problem(&observation);
        assert_eq!(found.status, Some(status), "{name}");
        assert_eq!(found.code.as_deref(), error["body"]["code"].as_str(), "{name}");
        assert_eq!(found.request_id.as_deref(), error["headers"]["x-request-id"].as_str());
        if let Some(message) = error["body"]["message"].as_str() {
            let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(found.message.contains(&message), "{name}: {}", found.message);
        }
        let wait = if let Observation::RateLimited { retry_after, .. }
        | Observation::ServerError { retry_after, .. } = &observation
        {
            *retry_after
        } else {
            None
        };
        kinds.push((name.to_owned(), found.kind, wait.map(|wait| wait.as_secs())));
    }
    let kinds: Vec<(&str, ProblemKind, Option<u64>)> =
        kinds.iter().map(|(name, kind, wait)| (name.as_str(), *kind, *wait)).collect();
    assert_eq!(
        kinds,
        [
            ("malformed_digest", ProblemKind::Malformed, None),
            ("malformed_token", ProblemKind::Malformed, None),
            ("bad_token", ProblemKind::Unauthorized, None),
            ("message_signing", ProblemKind::Unauthorized, None),
            ("bad_sdk_id", ProblemKind::Unauthorized, None),
            ("insufficient_permission", ProblemKind::Unauthorized, None),
            ("session_not_found", ProblemKind::NotFound, None),
            ("app_not_found", ProblemKind::Unauthorized, None),
            ("session_not_ready", ProblemKind::NotReady, None),
            ("session_expired", ProblemKind::NotReady, None),
            ("session_locked", ProblemKind::NotReady, None),
            ("too_many_requests", ProblemKind::RateLimited, None),
            ("too_many_requests_retry_after", ProblemKind::RateLimited, Some(7)),
            ("server_error", ProblemKind::ServerError, None),
            ("bad_gateway_html", ProblemKind::ServerError, None),
            ("temporarily_unavailable", ProblemKind::ServerError, None),
            ("empty_503", ProblemKind::ServerError, None),
        ]
    );
}

#[tokio::test]
async fn a_good_answer_that_is_no_configuration_is_malformed() {
    let html = "<html><body>Jane Doe, please log in</body></html>";
    let other = r#"{"session_id":"54de4aa9-1a35-4c78-b070-3330d40ce31f"}"#;
    let ours = format!(r#"{{"session_id":"{}"}}"#, id());
    for (status, body, words) in [
        (200, html, "not JSON"),
        (200, other, "another session, 54de4aa9"),
        (200, r#"{"session_id":"3fa85f64"#, "cut short"),
        (200, "", "is empty"),
        (200, "{}", "no session_id"),
        (202, &ours, "undocumented kind"),
        (418, html, "did not understand"),
    ] {
        let observation = configuration_of(id(), answer(status, &[], body)).await;
        assert!(matches!(observation, Observation::Malformed(_)), "{observation:?}");
        let problem = problem(&observation);
        assert!(problem.message.contains(words), "{}", problem.message);
        assert_eq!(problem.status, Some(status));
        assert!(!problem.message.contains("Jane"), "{}", problem.message);
    }
}

#[tokio::test]
async fn json_is_read_whatever_type_it_is_sent_as() {
    let body = format!(r#"{{"session_id":"{}"}}"#, id());
    let observation = configuration_of(id(), answer(200, &[("content-type", "text/html")], &body));
    assert!(matches!(observation.await, Observation::Configuration(_)));
}

#[tokio::test]
async fn an_answer_without_content_is_malformed() {
    let observation = configuration_of(id(), b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    assert!(matches!(observation, Observation::Malformed(_)), "{observation:?}");
    assert_eq!(problem(&observation).status, Some(204));
}

#[tokio::test]
async fn the_session_endpoint_tells_whether_the_session_goes_on() {
    assert_eq!(state_of(r#"{"state":"ONGOING"}"#).await, Observation::Ongoing);
    assert_eq!(state_of(r#"{"state":"COMPLETED"}"#).await, Observation::Completed);
    assert_eq!(state_of(r#"{"state":"EXPIRED"}"#).await, Observation::Expired);
    for (body, words) in [
        (r#"{"state":"PAUSED\n\u001b[31m"}"#, r#"unknown state "PAUSED [31m""#),
        (r#"{"a":{"state":"COMPLETED"}}"#, "has no state"),
        (r#"{"resources":[{"state":"#, "cut short"),
        ("<html>", "not JSON"),
        ("", "is empty"),
    ] {
        let observation = state_of(body).await;
        assert!(matches!(observation, Observation::Malformed(_)), "{observation:?}");
        let message = &problem(&observation).message;
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn a_session_body_may_be_larger_than_the_limit_for_configurations() {
    let body = format!(
        r#"{{"resources":[{{"state":"COMPLETE","text":"{}"}}],"state":"COMPLETED"}}"#,
        "Jane Doe ".repeat(400_000)
    );
    let server = Server::answering(answer(200, &[], &body)).await;
    let mut settings = settings(&server.base_url());
    settings.max_response_size = 1024;
    let observation = client(settings).session_state(id()).await;
    assert_eq!(observation, Observation::Completed);
}

#[tokio::test]
async fn reading_a_session_stops_once_its_state_is_known() {
    let server = Server::start(|mut connection| async move {
        connection.request().await;
        connection
            .send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{\"state\":\"COMPLETED\",")
            .await;
        connection.hang().await;
    })
    .await;
    let mut settings = settings(&server.base_url());
    settings.timeout = 2 * PATIENCE;
    let client = client(settings);
    let observation = tokio::time::timeout(PATIENCE, client.session_state(id())).await;
    assert_eq!(observation.unwrap(), Observation::Completed);
}

#[tokio::test]
async fn without_a_session_path_no_state_is_asked_for() {
    let server = Server::answering(answer(200, &[], r#"{"state":"COMPLETED"}"#)).await;
    let mut settings = settings(&server.base_url());
    settings.session_path = None;
    let client = client(settings);
    assert!(!client.has_session_path());
    let observation = client.session_state(id()).await;
    assert!(problem(&observation).message.contains("api.session_path"));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_absurd_timeout_is_harmless() {
    let server = Server::answering(answer(200, &[], r#"{"state":"ONGOING"}"#)).await;
    let mut settings = settings(&server.base_url());
    settings.timeout = Duration::MAX;
    settings.connect_timeout = Duration::MAX;
    assert_eq!(client(settings).session_state(id()).await, Observation::Ongoing);
}

#[tokio::test]
async fn the_servers_clock_is_compared_with_ours() {
    let date = [("date", "Mon, 23 Nov 2026 09:15:30 GMT")];
    let server = Server::answering(answer(401, &date, "")).await;
    let client = client(settings(&server.base_url()));
    assert_eq!(client.server_ahead_seconds(), None);
    let observation = client.configuration(id()).await;
    assert_eq!(client.server_ahead_seconds(), Some(-3600));
    let message = &problem(&observation).message;
    assert!(message.contains("clock is 3600 s ahead of the server's"), "{message}");
}

#[tokio::test]
async fn an_answer_that_is_known_already_is_not_read_again() {
    const FIRST: &str = body!("config_01_fresh_3docs");
    const OTHER: &str = body!("config_02_partial");
    let id: SessionId = "54de4aa9-1a35-4c78-b070-3330d40ce31f".parse().unwrap();
    let later = FIRST.replace("1252800", "1252799");
    let server = Server::start(move |mut connection| {
        let later = later.clone();
        async move {
            for body in [FIRST, &later, OTHER] {
                connection.request().await;
                connection.send(&answer(200, &[], body)).await;
            }
        }
    })
    .await;
    let client = client(settings(&server.base_url()));
    let ask = async |known| {
        let observation = client.configuration_since(id, known).await;
        let Observation::Configuration(snapshot) = observation else { panic!("{observation:?}") };
        snapshot
    };
    let first = ask(None).await;
    let known = first.listing.fingerprint();
    assert!(known.is_some());
    let again = ask(known).await;
    assert_eq!(
        again,
        Snapshot { ttl: Some(Duration::from_secs(1_252_799)), listing: Listing::Same }
    );
    let changed = ask(known).await;
    assert_ne!(listed(&changed), listed(&first));
}
