//! What goes to the token endpoint and to the API, taken apart by hand.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ibvwatch::yoti::{Auth, Bearer, PrivateKey, Scopes, SessionApi, TokenUrl};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::key::key_pair;
use super::server::{Request, Server, answer};
use super::{NOW, client, id, published_key, settings};

const ODD_SDK_ID: &str = "a/b c?d&e=\u{e9}\"";

/// A server that gives tokens and sessions to everybody, and tells what it was asked.
async fn recording() -> (Server, UnboundedReceiver<Request>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = Server::start(move |mut connection| {
        let sender = sender.clone();
        async move {
            while let Some(request) = connection.request().await {
                let token = r#"{"access_token":"a-token","token_type":"Bearer","expires_in":60}"#;
                let state = r#"{"state":"ONGOING"}"#;
                let body = if request.method == "POST" { token } else { state };
                sender.send(request).unwrap();
                connection.send(&answer(200, &[], body)).await;
            }
        }
    })
    .await;
    (server, receiver)
}

/// The request for a token and the request that it was for.
async fn requests(key: PrivateKey, token_url: impl FnOnce(&Server) -> String) -> [Request; 2] {
    let (server, mut requests) = recording().await;
    let token_url = TokenUrl::parse(&token_url(&server)).unwrap();
    let scopes = Scopes::new(["idv:sessions", "b"]).unwrap();
    let mut settings = settings(&server.base_url());
    settings.auth =
        Auth::Bearer(Bearer::new(&format!(" {ODD_SDK_ID}\n"), key, token_url, scopes).unwrap());
    client(settings).session_state(id()).await;
    [requests.recv().await.unwrap(), requests.recv().await.unwrap()]
}

fn fields(request: &Request) -> BTreeMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://form/?{}", request.body)).unwrap();
    let fields: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    assert_eq!(fields.len(), 4, "{fields:?}");
    fields.into_iter().collect()
}

fn decoded(part: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()
}

#[tokio::test]
async fn a_token_is_asked_for_with_a_form_and_an_assertion_as_documented() {
    let mut asked = String::new();
    let [token, _] = requests(published_key(), |server| {
        asked = format!("http://LOCALHOST:{}/v1/oauth/token", server.address.port());
        asked.clone()
    })
    .await;
    assert_eq!((token.method.as_str(), token.target.as_str()), ("POST", "/v1/oauth/token"));
    assert_eq!(token.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(token.headers["accept"], "application/json");
    assert!(!token.headers.contains_key("authorization"));
    let fields = fields(&token);
    assert_eq!(fields["grant_type"], "client_credentials");
    assert_eq!(
        fields["client_assertion_type"],
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
    assert_eq!(fields["scope"], "idv:sessions b");

    let parts: Vec<&str> = fields["client_assertion"].split('.').collect();
    let [header, claims, _] = parts.try_into().unwrap();
    assert_eq!(decoded(header), br#"{"alg":"PS384","typ":"JWT"}"#);
    let mut claims: Value = serde_json::from_slice(&decoded(claims)).unwrap();
    let jti: uuid::Uuid = claims["jti"].take().as_str().unwrap().parse().unwrap();
    assert_eq!(jti.get_version_num(), 4);
    let now = NOW.as_millis() / 1_000;
    let subject = format!("sdk:{ODD_SDK_ID}");
    assert_eq!(
        claims,
        json!({
            "iss": subject, "sub": subject, "aud": asked,
            "jti": null, "iat": now - 60, "exp": now + 240
        }),
        "the audience must be the URL just as it was configured"
    );
}

#[tokio::test]
async fn a_request_with_a_token_carries_no_part_of_a_signed_one() {
    let [_, request] =
        requests(published_key(), |server| format!("http://{}/token", server.address)).await;
    assert_eq!(request.method, "GET");
    assert_eq!(request.target, format!("/idverify/v1/sessions/{}", id()));
    assert_eq!(request.headers["authorization"], "Bearer a-token");
    assert!(!request.headers.contains_key("x-yoti-auth-digest"));
    assert_eq!(request.headers["x-yoti-sdk"], "ibvwatch");
}

#[tokio::test]
async fn openssl_accepts_the_assertions_signature() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let key = key_pair(directory.path());
    let [token, _] = requests(key, |server| format!("http://{}/token", server.address)).await;

    let assertion = &fields(&token)["client_assertion"];
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    fs::write(at("signature"), decoded(signature)).unwrap();
    let accepted = |message: &str| {
        fs::write(at("message"), message).unwrap();
        let arguments = "dgst -sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48 \
                         -verify public.pem -signature signature message";
        let verified = Command::new("openssl")
            .current_dir(directory.path())
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        verified.status.success()
    };
    assert!(accepted(signed));
    assert!(!accepted(&format!("{signed}0")));
}
