use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ibvwatch::yoti::{Auth, SessionApi, SessionPath, Signer};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::key::key_pair;
use super::server::{Request, Server, answer};
use super::{NOW, SDK_ID, client, id, settings};

/// A server that keeps its connections, answers 404 to everything, and tells what it was asked.
async fn recording() -> (Server, UnboundedReceiver<Request>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = Server::start(move |mut connection| {
        let sender = sender.clone();
        async move {
            while let Some(request) = connection.request().await {
                sender.send(request).unwrap();
                connection.send(&answer(404, &[], "{}")).await;
            }
        }
    })
    .await;
    (server, receiver)
}

#[tokio::test]
async fn a_request_names_the_sdk_and_carries_no_more_than_it_must() {
    let (server, mut requests) = recording().await;
    client(settings(&server.base_url())).configuration(id()).await;
    let request = requests.recv().await.unwrap();

    let version = env!("CARGO_PKG_VERSION");
    let mut headers: Vec<(&str, &str)> = request
        .headers
        .iter()
        .filter(|(name, _)| *name != "x-yoti-auth-digest")
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("accept", "application/json"),
            ("host", server.address.to_string().as_str()),
            ("user-agent", format!("ibvwatch/{version}").as_str()),
            ("x-yoti-sdk", "ibvwatch"),
            ("x-yoti-sdk-version", format!("ibvwatch-{version}").as_str()),
        ]
    );
}

#[tokio::test]
async fn the_paths_are_as_configured_below_the_base_url() {
    let (server, mut requests) = recording().await;
    let mut settings = settings(&format!("http://{}/", server.address));
    settings.configuration_path =
        SessionPath::parse("/session/{session_id}/configuration").unwrap();
    let client = client(settings);
    client.configuration(id()).await;
    let configuration = requests.recv().await.unwrap().target;
    let path = format!("/session/{}/configuration?sdkId={SDK_ID}&nonce=", id());
    assert!(configuration.starts_with(&path), "{configuration}");
    client.session_state(id()).await;
    let state = requests.recv().await.unwrap().target;
    assert!(state.starts_with(&format!("/sessions/{}?sdkId={SDK_ID}&nonce=", id())), "{state}");
}

#[tokio::test]
async fn every_try_has_its_own_nonce_and_signature_on_one_connection() {
    let (server, mut requests) = recording().await;
    let client = client(settings(&server.base_url()));
    let mut nonces = Vec::new();
    let mut digests = Vec::new();
    for _ in 0..3 {
        client.configuration(id()).await;
        let request = requests.recv().await.unwrap();
        let (_, nonce) = request.target.split_once("nonce=").unwrap();
        let (nonce, timestamp) = nonce.split_once("&timestamp=").unwrap();
        assert_eq!(timestamp, NOW.as_millis().to_string());
        let parsed = uuid::Uuid::parse_str(nonce).unwrap();
        assert_eq!(parsed.get_version_num(), 4);
        assert_eq!(parsed.as_hyphenated().to_string(), nonce, "not in lower case");
        nonces.push(nonce.to_owned());
        digests.push(request.headers["x-yoti-auth-digest"].clone());
    }
    nonces.sort_unstable();
    nonces.dedup();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!((nonces.len(), digests.len()), (3, 3));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn openssl_accepts_the_digest_of_a_request_with_an_odd_sdk_id() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let key = key_pair(directory.path());

    let (server, mut requests) = recording().await;
    let mut settings = settings(&server.base_url());
    settings.auth = Auth::SignedRequest(Signer::new("a/b c?d&e=\u{e9}", key).unwrap());
    client(settings).configuration(id()).await;
    let request = requests.recv().await.unwrap();

    let signed = request.target.strip_prefix("/idverify/v1").unwrap();
    assert!(signed.contains("?sdkId=a%2Fb%20c%3Fd%26e%3D%C3%A9&nonce="), "{signed}");
    let digest = BASE64_STANDARD.decode(&request.headers["x-yoti-auth-digest"]).unwrap();
    fs::write(at("digest"), digest).unwrap();
    let accepted = |message: String| {
        fs::write(at("message"), message).unwrap();
        verifies(directory.path())
    };
    assert!(accepted(format!("GET&{signed}")));
    assert!(!accepted(format!("GET&{}", request.target)));
    assert!(!accepted(format!("GET&{signed}0")));
}

fn verifies(directory: &Path) -> bool {
    Command::new("openssl")
        .current_dir(directory)
        .args("dgst -sha256 -verify public.pem -signature digest message".split(' '))
        .output()
        .unwrap()
        .status
        .success()
}
