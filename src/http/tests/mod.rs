//! What holds for every request, over real sockets.

mod api;
mod page;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::*;
use crate::clock::SystemClock;
use crate::domain::Policy;
use crate::metrics::Writes;
use crate::status;
use crate::store::{Context, Gauges, MemoryStore};

/// Longer than anything takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an empty daemon would show.
pub(super) fn sources() -> Sources<MemoryStore> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (_, policy) = watch::channel(Arc::new(Policy::default()));
    let context = Context {
        clock: Arc::clone(&clock),
        policy,
        seed: 1,
        source: "ibvwatch".into(),
        metrics: Writes::default(),
    };
    let store = Arc::new(MemoryStore::new(&context));
    let status = Status::new(status::Sources {
        clock: Arc::clone(&clock),
        store: Arc::downgrade(&(Arc::clone(&store) as Arc<dyn Gauges>)),
        poller: watch::Sender::default().subscribe(),
        directory: watch::Sender::default().subscribe(),
        sinks: Vec::new(),
        api: Box::new(status::Api::default),
    });
    Sources {
        store,
        status,
        metrics: Metrics::new(),
        process: Process::started_at(clock.now().wall),
        clock,
    }
}

async fn serve(bounds: Bounds, more: Router) -> (Server, SocketAddr) {
    let hosts = ["localhost", "127.0.0.1"].map(|host| host.parse().unwrap());
    let stop = CancellationToken::new();
    let router = more.merge(router(&hosts, sources(), stop.clone()));
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Server::start(any_port, router, bounds, stop).await.unwrap()
}

/// A server of what these sources hold.
async fn site(sources: Sources<MemoryStore>) -> (Server, SocketAddr) {
    let stop = CancellationToken::new();
    let router = router(&["localhost".parse().unwrap()], sources, stop.clone());
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Server::start(any_port, router, Bounds::default(), stop).await.unwrap()
}

/// Status and body of what is at a target.
async fn fetch(address: SocketAddr, target: &str) -> (String, String) {
    let answer = get_as(address, target, "Host: localhost\r\n").await;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status(&answer).to_owned(), body.to_owned())
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// All that comes until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end");
    String::from_utf8(bytes).unwrap()
}

/// The whole answer to a request's head, after which the connection is closed.
async fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = connect(address).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

async fn get_as(address: SocketAddr, target: &str, headers: &str) -> String {
    ask(address, &format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn who_asks_for_another_host_is_refused() {
    let (_server, address) = serve(Bounds::default(), Router::new()).await;
    for (target, headers, expected) in [
        ("/nothing", "Host: localhost\r\n", "404"),
        ("/nothing", "Host: LOCALHOST:1\r\n", "404"),
        ("http://127.0.0.1/nothing", "Host: 127.0.0.1\r\n", "404"),
        ("/", "Host: evil.example\r\n", "403"),
        ("/", "Host: localhost.evil.example\r\n", "403"),
        ("/", "Host: \r\n", "403"),
        ("/", "", "403"),
        ("/", "Host: localhost\r\nHost: localhost\r\n", "403"),
        ("/", "Host: localhost:evil\r\n", "403"),
        ("http://evil.example/", "Host: localhost\r\n", "403"),
        ("http://localhost/", "Host: evil.example\r\n", "403"),
    ] {
        let answer = get_as(address, target, headers).await;
        assert_eq!(status(&answer), expected, "{target} {headers:?}: {answer}");
        assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    }
}

#[tokio::test]
async fn nothing_but_get_and_head_is_allowed() {
    let (_server, address) = serve(Bounds::default(), Router::new()).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"] {
        let target = if method == "CONNECT" { "localhost:80" } else { "/" };
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = ask(address, &head).await;
        assert_eq!(status(&answer), "405", "{answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
    // A body of a gigabyte is announced, and the answer does not wait for any of it.
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(status(&ask(address, head).await), "405");
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let (_server, address) = serve(Bounds::default(), Router::new()).await;
    for (target, headers) in [("/", "Host: evil.example\r\n"), ("/nothing", "Host: localhost\r\n")]
    {
        let answer = get_as(address, target, headers).await;
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff\r\n",
            "referrer-policy: no-referrer\r\n",
            "cross-origin-opener-policy: same-origin\r\n",
            "cross-origin-resource-policy: same-origin\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(answer.contains(header), "{header} is not in {answer}");
        }
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let (_server, address) = serve(Bounds::default(), Router::new()).await;
    let long = |length: usize| "x".repeat(length);
    let many = "X-Header: 1\r\n".repeat(100);
    for (target, headers, expected) in [
        (format!("/?q={}", long(5_000)), String::new(), "414"),
        ("/nothing".to_owned(), format!("X-Long: {}\r\n", long(30_000)), "431"),
        ("/nothing".to_owned(), many, "431"),
    ] {
        let answer = get_as(address, &target, &format!("Host: localhost\r\n{headers}")).await;
        assert_eq!(status(&answer), expected, "{answer}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_and_an_idle_connection_are_cut_off() {
    let bounds = Bounds { head_within: Duration::from_millis(100), ..Bounds::default() };
    let (_server, address) = serve(bounds, Router::new()).await;
    let mut slow = connect(address).await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local").await.unwrap();
    let mut silent = connect(address).await;
    let mut idle = connect(address).await;
    idle.write_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(rest(&mut slow).await.is_empty());
    assert!(rest(&mut silent).await.is_empty());
    assert_eq!(status(&rest(&mut idle).await), "404");
}

/// More than the kernel buffers for anybody.
const ENDLESS: usize = 64 << 20;

fn endless() -> Router {
    Router::new().route("/endless", get(|| async { vec![0; ENDLESS] }))
}

const ENDLESS_REQUEST: &[u8] = b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn who_does_not_take_the_answer_is_cut_off_and_makes_room() {
    let bounds =
        Bounds { connections: 1, taken_within: Duration::from_millis(200), ..Bounds::default() };
    let (_server, address) = serve(bounds, endless()).await;
    let mut slow = connect(address).await;
    slow.write_all(ENDLESS_REQUEST).await.unwrap();
    slow.readable().await.unwrap();
    // Waits until the slow one has lost its place.
    let answer = timeout(PATIENCE, get_as(address, "/nothing", "Host: localhost\r\n")).await;
    assert_eq!(status(&answer.unwrap()), "404");
    let mut taken = Vec::new();
    // What the kernel had taken comes, and then an end or a reset.
    let _ = timeout(PATIENCE, slow.read_to_end(&mut taken)).await.unwrap();
    assert!(taken.len() < ENDLESS);
}

#[tokio::test]
async fn a_stop_waits_for_no_client() {
    let (server, address) = serve(Bounds::default(), endless()).await;
    let mut slow = connect(address).await;
    slow.write_all(ENDLESS_REQUEST).await.unwrap();
    slow.readable().await.unwrap();
    let _idle = connect(address).await;
    let asked = Instant::now();
    server.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(TcpStream::connect(address).await.is_err());
}
