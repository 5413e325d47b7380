use std::time::Duration;

use ibvwatch::domain::{Observation, ProblemKind};
use ibvwatch::yoti::SessionApi;
use tokio::net::TcpListener;

use super::log::Log;
use super::server::{PATIENCE, Server, answer};
use super::{SDK_ID, client, id, problem, settings};

fn unreachable(observation: &Observation, words: &str) {
    assert!(matches!(observation, Observation::Unreachable(_)), "{observation:?}");
    let problem = problem(observation);
    assert_eq!(problem.kind, ProblemKind::Unreachable);
    assert!(problem.message.contains(words), "{}", problem.message);
}

#[tokio::test]
async fn a_redirect_is_refused_and_nothing_reaches_where_it_points() {
    let other = Server::answering(answer(200, &[], "{}")).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://{}/elsewhere", other.address);
        let server = Server::answering(answer(status, &[("location", &location)], "")).await;
        let client = client(settings(&server.base_url()));
        let observation = client.configuration(id()).await;
        assert!(matches!(observation, Observation::Malformed(_)), "{observation:?}");
        let message = &problem(&observation).message;
        assert!(message.contains("redirects") && message.contains("api.base_url"), "{message}");
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn an_answer_that_announces_too_much_is_refused_unread() {
    let server = Server::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1048577\r\n\r\n").await;
        connection.hang().await;
    })
    .await;
    let observation = client(settings(&server.base_url())).configuration(id()).await;
    assert!(matches!(observation, Observation::Malformed(_)), "{observation:?}");
    assert!(problem(&observation).message.contains("larger than 1048576 bytes"));
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_the_limit() {
    let server = Server::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = [b"1000\r\n", &[b' '; 0x1000][..], b"\r\n"].concat();
        while connection.send(&chunk).await {}
    })
    .await;
    let mut settings = settings(&server.base_url());
    settings.timeout = 2 * PATIENCE;
    let client = client(settings);
    let observation = tokio::time::timeout(PATIENCE, client.configuration(id())).await.unwrap();
    assert!(matches!(observation, Observation::Malformed(_)), "{observation:?}");
    assert!(problem(&observation).message.contains("api.max_response_size"));
}

#[tokio::test]
async fn a_huge_refusal_is_cut_too_and_keeps_its_meaning() {
    let server = Server::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = [b"1000\r\n", &[b' '; 0x1000][..], b"\r\n"].concat();
        // Far above the limit, then silence: only a client that stops by itself is done in time.
        for _ in 0..0x1000 {
            connection.send(&chunk).await;
        }
        connection.hang().await;
    })
    .await;
    let mut settings = settings(&server.base_url());
    settings.timeout = 2 * PATIENCE;
    let client = client(settings);
    let observation = tokio::time::timeout(PATIENCE, client.configuration(id())).await.unwrap();
    assert!(matches!(observation, Observation::ServerError { .. }), "{observation:?}");
}

#[tokio::test]
async fn a_connection_that_ends_within_the_answer_is_no_answer() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"session_id\":";
    let server = Server::answering(*cut).await;
    let client = client(settings(&server.base_url()));
    for observation in [client.configuration(id()).await, client.session_state(id()).await] {
        unreachable(&observation, "broke before the answer was complete");
        assert_eq!(problem(&observation).status, Some(200));
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_or_reset_is_no_answer() {
    let closed = Server::answering(*b"").await;
    let observation = client(settings(&closed.base_url())).configuration(id()).await;
    unreachable(&observation, "broke before the answer was complete");
    let reset = Server::start(|mut connection| async move {
        connection.request().await;
        connection.reset();
    })
    .await;
    let observation = client(settings(&reset.base_url())).configuration(id()).await;
    unreachable(&observation, "broke before the answer was complete");
}

#[tokio::test]
async fn a_server_that_talks_something_else_is_no_answer() {
    let server = Server::answering(*b"220 smtp ready\r\n").await;
    let observation = client(settings(&server.base_url())).configuration(id()).await;
    unreachable(&observation, "broke before the answer was complete");
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = client(settings(&format!("http://{address}/idverify/v1")));
    let observation = client.configuration(id()).await;
    unreachable(&observation, &format!("{address} refuses the connection"));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_so() {
    let client = client(settings("https://nowhere.invalid/idverify/v1"));
    let observation = client.configuration(id()).await;
    unreachable(&observation, "nowhere.invalid can't be resolved");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_at_the_deadline() {
    let silent = Server::start(|mut connection| async move {
        connection.request().await;
        connection.hang().await;
    })
    .await;
    let stuck = Server::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").await;
        connection.hang().await;
    })
    .await;
    for server in [silent, stuck] {
        let mut settings = settings(&server.base_url());
        settings.timeout = Duration::from_millis(200);
        let client = client(settings);
        let observation = tokio::time::timeout(PATIENCE, client.configuration(id())).await;
        unreachable(&observation.unwrap(), "within 200ms");
    }
}

#[tokio::test]
async fn an_answer_that_drips_does_not_prolong_the_deadline() {
    let server = Server::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
        while connection.send(b" ").await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut settings = settings(&server.base_url());
    settings.timeout = Duration::from_millis(200);
    let client = client(settings);
    for session in [false, true] {
        let observation = tokio::time::timeout(PATIENCE, async {
            if session {
                client.session_state(id()).await
            } else {
                client.configuration(id()).await
            }
        });
        unreachable(&observation.await.unwrap(), "within 200ms");
    }
}

#[tokio::test]
async fn even_at_the_finest_level_nothing_secret_is_logged() {
    let (log, guard) = Log::of_this_thread();
    let body =
        format!(r#"{{"session_id":"{}","client_session_token":"hunter2","capture":7}}"#, id());
    let server = Server::answering(answer(200, &[], &body)).await;
    let client = client(settings(&server.base_url()));
    let observations = [client.configuration(id()).await, client.session_state(id()).await];
    drop(guard);
    let logged = log.text();
    assert!(logged.contains("the API answered"), "{logged}");
    let shown = format!("{logged} {observations:?} {client:?}");
    for secret in [SDK_ID, "nonce", "sdkId", "timestamp=", "hunter2", "client_session_token"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}
