use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::tcp::OwnedReadHalf;

use super::*;
use crate::domain::{Entry, Labels, SessionId};
use crate::store::Store;

fn id(n: u8) -> SessionId {
    let mut bytes = [0; 16];
    bytes[15] = n;
    SessionId::from_bytes(bytes)
}

fn entry(n: u8, labels: &[(&str, &str)]) -> Entry {
    let pairs = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let labels = Labels::new(pairs.collect()).unwrap();
    Entry { session_id: id(n), labels, expires_at: None, interval: None }
}

/// A server of three sessions, and its store.
async fn three() -> (Server, SocketAddr, Arc<MemoryStore>) {
    let sources = sources();
    let store = Arc::clone(&sources.store);
    let entries = vec![
        entry(1, &[("case", "A-1"), ("branch", "Kärnten")]),
        entry(2, &[("case", "A-2")]),
        entry(3, &[("case", "A=3&x")]),
    ];
    store.track(entries).await.unwrap();
    store.untrack(vec![id(2)]).await.unwrap();
    let (server, address) = site(sources).await;
    (server, address, store)
}

async fn fetch_json(address: SocketAddr, target: &str) -> Value {
    let (status, body) = fetch(address, target).await;
    assert_eq!(status, "200", "{target}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn ids(answer: &Value) -> Vec<&str> {
    let sessions = answer["sessions"].as_array().unwrap().iter();
    sessions.map(|session| session["session_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn sessions_are_filtered_and_paged() {
    let (_server, address, _) = three().await;
    let [one, two, three] = [1, 2, 3].map(|n| id(n).to_string());
    for (query, expected) in [
        ("", vec![&one, &two, &three]),
        ("?phase=ended", vec![&two]),
        ("?phase=pending&q=&after=", vec![&one, &three]),
        ("?label=case%3DA-2", vec![&two]),
        ("?label=case=A-1&label=branch=K%C3%A4rnten", vec![&one]),
        ("?label=case=A-1&label=branch=x", vec![]),
        ("?label=case=A%3D3%26x", vec![&three]),
        ("?q=k%C3%84r", vec![&one]),
        ("?q=a-&phase=ended", vec![&two]),
        ("?limit=1000", vec![&one, &two, &three]),
    ] {
        let answer = fetch_json(address, &format!("/api/v1/sessions{query}")).await;
        assert_eq!(ids(&answer), expected, "{query}");
        assert_eq!(answer["next_after"], Value::Null);
    }
    let first = fetch_json(address, "/api/v1/sessions?limit=2").await;
    assert_eq!((ids(&first), &first["next_after"]), (vec![&*one, &*two], &json!(two)));
    let next = fetch_json(address, &format!("/api/v1/sessions?limit=2&after={two}")).await;
    assert_eq!((ids(&next), &next["next_after"]), (vec![&*three], &Value::Null));
}

#[tokio::test]
async fn a_session_is_shown_as_in_the_list_and_an_unknown_one_is_none() {
    let (_server, address, _) = three().await;
    let list = fetch_json(address, "/api/v1/sessions").await;
    let one = fetch_json(address, &format!("/api/v1/sessions/{}", id(1))).await;
    assert_eq!(one, list["sessions"][0]);
    assert_eq!(one["labels"], json!({"case": "A-1", "branch": "Kärnten"}));
    let (status, body) = fetch(address, &format!("/api/v1/sessions/{}", id(9))).await;
    assert!(status == "404" && body.contains("is not known here"), "{body}");
}

#[tokio::test]
async fn events_are_paged_in_order() {
    let (_server, address, _) = three().await;
    let types = |answer: &Value| -> Vec<String> {
        let events = answer["events"].as_array().unwrap().iter();
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    let (tracked, ended) = ("ibvwatch.session.tracked", "ibvwatch.session.ended");
    let all = fetch_json(address, "/api/v1/events").await;
    assert_eq!(types(&all), [tracked, tracked, tracked, ended]);
    assert_eq!(all["next_after"], Value::Null);
    assert_eq!(all["last_sequence"], "00000000000000000004");
    let page = fetch_json(address, "/api/v1/events?after=1&limit=2").await;
    assert_eq!(
        (types(&page), &page["next_after"]),
        (vec![tracked.into(); 2], &json!("00000000000000000003"))
    );
    let next = fetch_json(address, "/api/v1/events?after=00000000000000000003").await;
    assert_eq!(types(&next), [ended]);
    let of_one = fetch_json(address, &format!("/api/v1/events?session={}", id(2))).await;
    assert_eq!(types(&of_one), [tracked, ended]);
    let of_type = fetch_json(address, "/api/v1/events?type=session.ended").await;
    assert_eq!(types(&of_type), [ended]);
    assert_eq!(types(&fetch_json(address, "/api/v1/events?after=4").await), [""; 0]);
}

#[tokio::test]
async fn a_mistake_is_named_with_what_to_write() {
    let (_server, address, _) = three().await;
    for (target, parameter, words) in [
        ("sessions?limit=0", "limit", "from 1 to 1000"),
        ("sessions?phase=over", "phase", "pending, quiet, active, failing, ended"),
        ("sessions?label=case", "label", "write like \"case=A-17\""),
        ("sessions?after=3", "after", "write a UUID like"),
        ("sessions?size=3", "size", "there are after, limit, phase, label, q"),
        ("sessions?q=a&q=b", "q", "give it once"),
        ("sessions/3", "id", "is not a session id"),
        ("events?after=-1", "after", "write the one of an event, like 42"),
        ("events?type=ended", "type", "session.ended"),
        ("events?session=x", "session", "is no session id"),
        ("events?limit=1001", "limit", "from 1 to 1000"),
    ] {
        let (status, body) = fetch(address, &format!("/api/v1/{target}")).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status.as_str(), &body["error"]["parameter"]), ("400", &json!(parameter)));
        assert!(body["error"]["message"].as_str().unwrap().contains(words), "{target}: {body}");
    }
    let (status, body) = fetch(address, "/api/v1/nothing").await;
    assert!(status == "404" && body.starts_with("{\"error\":{\"message\":"), "{body}");
}

struct Stream {
    lines: Lines<BufReader<OwnedReadHalf>>,
    _write: tokio::net::tcp::OwnedWriteHalf,
    head: String,
}

impl Stream {
    async fn open(address: SocketAddr, target: &str, headers: &str) -> Self {
        let mut stream = connect(address).await;
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (read, write) = stream.into_split();
        let mut stream =
            Self { lines: BufReader::new(read).lines(), _write: write, head: String::new() };
        while let Some(line) = stream.line().await.filter(|line| !line.is_empty()) {
            stream.head += &line;
            stream.head += "\n";
        }
        stream
    }

    async fn line(&mut self) -> Option<String> {
        timeout(PATIENCE, self.lines.next_line()).await.expect("a line").ok().flatten()
    }

    /// The id and the data of the next event; chunk sizes and comments are passed over.
    async fn event(&mut self) -> (String, String) {
        let mut id = None;
        loop {
            let line = self.line().await.expect("an event");
            assert!(!line.starts_with("event:"), "{line}");
            if let Some(value) = line.strip_prefix("id: ") {
                id = Some(value.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (id.expect("an id before its data"), data.to_owned());
            }
        }
    }
}

#[tokio::test]
async fn a_stream_tells_what_was_and_what_comes_by_the_very_lines_of_the_log() {
    let (_server, address, store) = three().await;
    let mut stream = Stream::open(address, "/api/v1/events?after=2", "").await;
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    let lines: Vec<String> = store
        .read_events("test", 9)
        .await
        .unwrap()
        .iter()
        .map(|event| event.to_line().unwrap().trim_end().to_owned())
        .collect();
    assert_eq!(stream.event().await, ("00000000000000000003".to_owned(), lines[2].clone()));
    assert_eq!(stream.event().await, ("00000000000000000004".to_owned(), lines[3].clone()));
    store.track(vec![entry(9, &[])]).await.unwrap();
    let (sequence, data) = stream.event().await;
    assert_eq!(sequence, "00000000000000000005");
    assert!(data.contains(&id(9).to_string()), "{data}");
}

#[tokio::test]
async fn who_comes_again_goes_on_behind_the_last_event_seen() {
    let (_server, address, _) = three().await;
    let again = "Last-Event-ID: 00000000000000000003\r\n";
    let mut stream = Stream::open(address, "/api/v1/events?after=1", again).await;
    assert_eq!(stream.event().await.0, "00000000000000000004");
    let of_one = format!("/api/v1/events?session={}&type=session.tracked", id(3));
    let mut stream = Stream::open(address, &of_one, "").await;
    assert_eq!(stream.event().await.0, "00000000000000000003");
    let stream = Stream::open(address, "/api/v1/events", "Last-Event-ID: last\r\n").await;
    assert!(stream.head.starts_with("HTTP/1.1 400"), "{}", stream.head);
}

#[tokio::test]
async fn readers_are_limited_and_a_stop_ends_them() {
    let (server, address, _) = three().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(Stream::open(address, "/api/v1/events?after=4", "").await);
    }
    let refused = Stream::open(address, "/api/v1/events", "").await;
    assert!(refused.head.starts_with("HTTP/1.1 503"), "{}", refused.head);
    assert_eq!(fetch(address, "/api/v1/sessions").await.0, "200");
    let asked = Instant::now();
    server.stop().await;
    assert!(asked.elapsed() < Bounds::default().last_answers_within, "{:?}", asked.elapsed());
    while streams[0].line().await.is_some() {}
}
