//! The HTTP server: where it listens, whom it answers, and that it holds up nothing.

use std::net::TcpListener;

use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{Daemon, Home, Printed};

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
