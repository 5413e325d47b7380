//! The HTTP server: where it listens, whom it answers, and that it holds up nothing.

use std::net::TcpListener;

use http::Method;
use ibvwatch::sim::{Requirement, Session};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{Daemon, Home, Printed};

const API: &str = include_str!("../../docs/API.md");

#[tokio::test]
async fn an_address_in_use_is_named_with_its_key_and_is_a_failure_that_may_pass() {
    let mut home = Home::new().await;
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    home.set("http.listen", &format!("{address:?}"));
    let message = Printed::of(home.command(&["run"])).await.refused(1);
    for expected in ["http.listen", &address, "in use", "\"\" for no server"] {
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn only_reading_is_allowed_and_only_under_a_known_name() {
    let mut home = Home::new().await;
    home.serve_http();
    home.set("http.allowed_hosts", "[\"127.0.0.1\", \"watch.example\"]");
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    for (host, expected) in [("watch.example", 404), ("localhost", 403), ("evil.example", 403)] {
        let answer = site.ask(Method::GET, "/nothing", &[("host", host)]).await;
        assert_eq!(answer.status, expected, "{host}: {answer:?}");
    }
    let nothing = site.get("/nothing").await;
    assert!(nothing.body.contains("nothing at this address"), "{nothing:?}");
    let answer = site.ask(Method::POST, "/", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["allow"]),
        (405, &"GET, HEAD".parse().unwrap())
    );
    assert!(answer.headers.contains_key("content-security-policy"), "{answer:?}");
    assert!(!daemon.log().contains("no authentication"), "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn an_address_that_others_reach_is_warned_of() {
    let mut home = Home::new().await;
    home.set("http.listen", "\"0.0.0.0:0\"");
    let mut daemon = Daemon::start(&home);
    daemon.logs("there is no authentication").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_delays_no_stop() {
    let mut home = Home::new().await;
    home.serve_http();
    let mut daemon = Daemon::start(&home);
    let address = daemon.site().await.url("").replace("http://", "");
    let _silent = TcpStream::connect(&address).await.unwrap();
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let run = daemon.stop().await;
    assert!(run.took.as_secs() < 5, "{:?}", run.took);
}

/// What a JSON value is made of: its keys, all of them, and what kind of value each has.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) if fields.contains_key("case") => Value::from("labels"),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), shape(value))).collect()
        }
        Value::Array(items) => items.first().map(shape).into_iter().collect(),
        Value::String(_) => Value::from("text"),
        Value::Number(_) => Value::from("number"),
        Value::Bool(_) | Value::Null => value.clone(),
    }
}

/// The documentation's example that begins with that key.
fn documented(key: &str) -> Value {
    let mut blocks = API.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.starts_with(&format!("{{\"{key}\":")));
    serde_json::from_str(block.expect("an example")).expect("JSON")
}

#[tokio::test]
async fn the_api_answers_in_the_documented_form() {
    let mut home = Home::new().await;
    home.serve_http();
    let id = home.create(Session::requiring(Requirement::three_documents()));
    let entry = json!({ "session_id": id, "labels": { "case": "A-101", "branch": "Cardiff" } });
    home.put("one.json", &entry.to_string());
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    daemon.event(|event| event.is("session.observed", id)).await;
    let json = async |target: &str| -> Value {
        let answer = site.get(target).await;
        assert_eq!(answer.headers["content-type"], "application/json");
        serde_json::from_str(&answer.body).unwrap()
    };
    for (target, key) in [
        ("/api/v1/sessions?label=case=A-101", "sessions"),
        ("/api/v1/events?limit=1", "events"),
        ("/api/v1/sessions?phase=over", "error"),
    ] {
        assert_eq!(shape(&json(target).await), shape(&documented(key)), "{target}");
    }
    assert_eq!(json("/api/v1/sessions?phase=over").await, documented("error"));
    let listed = &json("/api/v1/sessions").await["sessions"][0];
    let printed: Value =
        serde_json::from_str(&home.run(&["sessions", "--json"]).await.succeeded()).unwrap();
    assert_eq!(shape(listed), shape(&printed[0]));
    let lines = home.recorded().await;
    let told: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json("/api/v1/events").await["events"], Value::from(told));
    let page = site.ask(Method::HEAD, "/", &[]).await;
    assert_eq!((page.status.as_u16(), page.body.as_str()), (200, ""));
    daemon.stop().await;
}

#[tokio::test]
async fn a_reader_of_the_stream_delays_no_stop_and_goes_on_after_it() {
    let mut home = Home::new().await;
    home.serve_http();
    let first = home.track_new();
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    daemon.event(|event| event.is("session.observed", first)).await;
    let mut stream = site.follow("/api/v1/events?after=1", None).await;
    let id = stream.until("id: ").await;
    assert_eq!(id, "00000000000000000002");
    let run = daemon.stop().await;
    assert!(run.took.as_secs() < 5, "{:?}", run.took);

    let second = home.track_new();
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    daemon.event(|event| event.is("session.observed", second)).await;
    let mut stream = site.follow("/api/v1/events", Some(&id)).await;
    assert_eq!(stream.until("id: ").await, "00000000000000000003");
    let recorded = home.recorded().await;
    assert_eq!(stream.until("data: ").await, recorded.lines().nth(2).unwrap());
    daemon.stop().await;
}
