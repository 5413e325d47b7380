//! The simulated API, asked by a client of a few lines that signs for itself.

#![expect(clippy::unwrap_used, reason = "the configured leave doesn't reach a test's helpers")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RSA_PSS_SHA384, RsaSignatureEncoding,
};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use ibvwatch::clock::Clock;
use ibvwatch::domain::{Now, ResourceKey, ResourceState, SessionId, Timestamp};
use ibvwatch::sim::{
    Action, AfterEnd, Effect, Endpoint, Fault, Happening, Outcome, PublicKey, Refusal, Requirement,
    SECRETS, Script, Session, SessionState, Settings, Simulator, TokenRefusal, TokenTotals,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

const SDK_ID: &str = "c6f1d1a4-9f6e-4f0e-8b39-4b5bd8a9a6ee";
/// When the first of the documented examples was created.
const START: &str = "2026-09-01T08:14:52Z";

/// Stands still until it is told.
#[derive(Default)]
struct TestClock(AtomicU64);

impl TestClock {
    fn pass(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let monotonic = Duration::from_millis(self.0.load(Ordering::SeqCst));
        Now { wall: START.parse::<Timestamp>().unwrap().plus(monotonic), monotonic }
    }
}

struct Bench {
    simulator: Simulator,
    clock: Arc<TestClock>,
    key: KeyPair,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Whether the connection ended in an error.
    broken: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    fn states(&self) -> Vec<String> {
        let body = self.json();
        let listed = body["capture"]["required_resources"].as_array().unwrap();
        listed.iter().map(|r| r["state"].as_str().unwrap().to_owned()).collect()
    }
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut Settings)) -> Self {
        let clock = Arc::new(TestClock::default());
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut settings = Settings::new(SDK_ID);
        settings.public_key = Some(PublicKey::parse(key.public_key().as_ref()).unwrap());
        settings.clock = Arc::<TestClock>::clone(&clock);
        adjust(&mut settings);
        let simulator = Simulator::start(settings).await.unwrap();
        Self { simulator, clock, key }
    }

    fn three_documents(&self) -> SessionId {
        self.simulator.create(Session::requiring(Requirement::three_documents()))
    }

    fn sign(&self, message: &str) -> String {
        BASE64_STANDARD.encode(self.sign_as(&RSA_PKCS1_SHA256, message))
    }

    fn sign_as(&self, encoding: &'static RsaSignatureEncoding, message: &str) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        signature
    }

    /// The claims of an assertion that is to be accepted.
    fn claims(&self) -> Value {
        let now = self.clock.now().wall.as_millis() / 1_000;
        let subject = format!("sdk:{SDK_ID}");
        json!({
            "iss": subject, "sub": subject, "aud": "http://simulator/v1/oauth/token",
            "jti": Uuid::new_v4(), "iat": now, "exp": now + 300
        })
    }

    fn assertion(&self, header: &str, claims: &Value) -> String {
        self.assertion_as(&RSA_PSS_SHA384, header, claims)
    }

    fn assertion_as(
        &self,
        encoding: &'static RsaSignatureEncoding,
        header: &str,
        claims: &Value,
    ) -> String {
        let [header, claims] =
            [header.to_owned(), claims.to_string()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{header}.{claims}");
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign_as(encoding, &signed));
        format!("{signed}.{signature}")
    }

    async fn ask_for_token(&self, assertion: &str) -> Answer {
        self.post_form(&token_form("idv:sessions", assertion)).await
    }

    async fn post_form(&self, form: &str) -> Answer {
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.raw("POST", "/v1/oauth/token", kind, form).await
    }

    async fn token(&self) -> String {
        let answer = self.ask_for_token(&self.assertion(PS384, &self.claims())).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A configuration, asked for with a token and more that comes after the path.
    async fn bearing(&self, id: SessionId, token: &str, rest: &str) -> Answer {
        let target = format!("/idverify/v1/sessions/{id}/configuration{rest}");
        self.raw("GET", &target, &format!("Authorization: Bearer {token}\r\n"), "").await
    }

    /// A target that is to be let in, without the path of the base URL.
    fn target(&self, path: &str) -> String {
        let timestamp = self.clock.now().wall.as_millis();
        let nonce = Uuid::new_v4();
        format!("{path}?sdkId={SDK_ID}&nonce={nonce}&timestamp={timestamp}")
    }

    async fn configuration(&self, id: SessionId) -> Answer {
        self.get(&format!("/sessions/{id}/configuration")).await
    }

    async fn session(&self, id: SessionId) -> Answer {
        self.get(&format!("/sessions/{id}")).await
    }

    async fn get(&self, path: &str) -> Answer {
        let target = self.target(path);
        self.send(&target, &self.sign(&format!("GET&{target}"))).await
    }

    async fn send(&self, target: &str, digest: &str) -> Answer {
        let headers = format!("X-Yoti-Auth-Digest: {digest}\r\n");
        self.raw("GET", &format!("/idverify/v1{target}"), &headers, "").await
    }

    async fn control(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(method, &format!("/_sim/{path}"), "", &body).await
    }

    async fn raw(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.ask(method, target, headers, body).await;
        let mut bytes = Vec::new();
        let broken = stream.read_to_end(&mut bytes).await.is_err();
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        let head = String::from_utf8(bytes[..end.unwrap_or(0)].to_vec()).unwrap();
        Answer {
            status: head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap()),
            head,
            body: bytes.split_off(end.unwrap_or(0)),
            broken,
        }
    }

    async fn ask(&self, method: &str, target: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.simulator.address()).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: simulator\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

const PS384: &str = r#"{"alg":"PS384","typ":"JWT"}"#;

fn token_form(scope: &str, assertion: &str) -> String {
    format!(
        "grant_type=client_credentials&scope={scope}&client_assertion={assertion}\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
    )
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/data/yoti/{name}.json", env!("CARGO_MANIFEST_DIR")))
        .unwrap()
}

#[tokio::test]
async fn a_request_signed_as_documented_is_answered() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    let answer = bench.configuration(id).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.json()["session_id"], id.to_string());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("date"), Some("Tue, 01 Sep 2026 08:14:52 GMT"));
    assert!(Uuid::try_parse(answer.header("x-request-id").unwrap()).is_ok());
    assert_eq!(bench.get(&format!("/session/{id}/configuration")).await.status, 200);

    let target = bench.target(&format!("/session/{id}/configuration"));
    let digest = format!("X-Yoti-Auth-Digest: {}\r\n", bench.sign(&format!("GET&{target}")));
    assert_eq!(bench.raw("GET", &target, &digest, "").await.status, 200, "without a base path");
    let sandbox = format!("/sandbox/idverify/v1{}", bench.target(&format!("/sessions/{id}")));
    let signed = sandbox.strip_prefix("/sandbox/idverify/v1").unwrap();
    let digest = format!("X-Yoti-Auth-Digest: {}\r\n", bench.sign(&format!("GET&{signed}")));
    assert_eq!(bench.raw("GET", &sandbox, &digest, "").await.status, 200, "the sandbox");
}

#[tokio::test]
async fn what_is_not_signed_as_documented_is_turned_away() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    let path = format!("/sessions/{id}/configuration");
    let now = bench.clock.now().wall.as_millis();
    let v4 = || Uuid::new_v4().to_string();
    let with = |sdk: &str, nonce: &str, timestamp: &str| {
        format!("{path}?sdkId={sdk}&nonce={nonce}&timestamp={timestamp}")
    };
    let ms = now.to_string();
    for (wrong, target, code) in [
        ("a foreign SDK id", with("another", &v4(), &ms), "BAD_SDK_ID"),
        (
            "an SDK id given twice",
            with(SDK_ID, &v4(), &format!("{ms}&sdkId=x")),
            "MALFORMED_REQUEST",
        ),
        ("an upper-case nonce", with(SDK_ID, &v4().to_uppercase(), &ms), "MESSAGE_SIGNING"),
        ("a nonce without hyphens", with(SDK_ID, &v4().replace('-', ""), &ms), "MESSAGE_SIGNING"),
        (
            "a nonce that isn't random",
            with(SDK_ID, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", &ms),
            "MESSAGE_SIGNING",
        ),
        ("no nonce", with(SDK_ID, "", &ms), "MALFORMED_REQUEST"),
        ("seconds", with(SDK_ID, &v4(), &(now / 1_000).to_string()), "MESSAGE_SIGNING"),
        ("five minutes ago", with(SDK_ID, &v4(), &(now - 300_001).to_string()), "MESSAGE_SIGNING"),
        ("in five minutes", with(SDK_ID, &v4(), &(now + 300_001).to_string()), "MESSAGE_SIGNING"),
    ] {
        let answer = bench.send(&target, &bench.sign(&format!("GET&{target}"))).await;
        assert_eq!(answer.json()["code"], code, "{wrong}");
        assert_eq!(answer.status, if code == "MALFORMED_REQUEST" { 400 } else { 401 }, "{wrong}");
    }
    let edge = with(SDK_ID, &v4(), &(now - 300_000).to_string());
    assert_eq!(bench.send(&edge, &bench.sign(&format!("GET&{edge}"))).await.status, 200);
}

#[tokio::test]
async fn a_signature_holds_only_for_the_very_bytes_that_are_sent() {
    let bench = Bench::new().await;
    let (id, other) = (bench.three_documents(), bench.three_documents());
    let target = bench.target(&format!("/sessions/{id}/configuration"));
    let digest = bench.sign(&format!("GET&{target}"));
    for tampered in [
        target.replace(&id.to_string(), &other.to_string()),
        target.replace("/configuration", ""),
        target.replace("sdkId", "x=1&sdkId"),
        target.replace("/sessions/", "/session/"),
    ] {
        let answer = bench.send(&tampered, &digest).await;
        assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("MESSAGE_SIGNING")));
    }
    let whole = format!("GET&/idverify/v1{target}");
    assert_eq!(bench.send(&target, &bench.sign(&whole)).await.status, 401, "base path signed");
    assert_eq!(bench.send(&target, &format!("!{digest}")).await.status, 401, "no base64");
    let missing = bench.send(&target, "").await;
    let documented: Value = serde_json::from_str(&fixture("error_bodies")).unwrap();
    assert_eq!((missing.status, missing.json()), (400, documented[0]["body"].clone()));
    assert_eq!(bench.send(&target, &digest).await.status, 200, "none of it used up the nonce");
}

#[tokio::test]
async fn a_nonce_is_good_for_one_request_even_if_nobody_answered_it() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    bench.simulator.fault(Fault::new(Effect::status(503)).times(1));
    let target = bench.target(&format!("/sessions/{id}/configuration"));
    let digest = bench.sign(&format!("GET&{target}"));
    assert_eq!(bench.send(&target, &digest).await.status, 503);
    assert_eq!(bench.send(&target, &digest).await.status, 401);
    let refusals: Vec<_> =
        bench.simulator.exchanges_of(id).into_iter().map(|e| e.refusal).collect();
    assert_eq!(refusals, [None, Some(Refusal::NonceRepeated)]);
}

#[tokio::test]
async fn without_a_key_only_the_signature_goes_unverified() {
    let bench = Bench::with(|settings| settings.public_key = None).await;
    let id = bench.three_documents();
    let target = bench.target(&format!("/sessions/{id}/configuration"));
    assert_eq!(bench.send(&target, "anything").await.status, 200);
    assert_eq!(bench.send(&target, "anything").await.status, 401);
}

#[tokio::test]
async fn other_paths_methods_and_sessions_are_not_there() {
    let bench = Bench::new().await;
    let unknown = SessionId::from_bytes([9; 16]);
    assert_eq!(bench.configuration(unknown).await.json()["code"], "SESSION_NOT_FOUND");
    assert_eq!(bench.get("/sessions/nonsense").await.json()["code"], "SESSION_NOT_FOUND");
    assert_eq!(bench.get("/other").await.status, 404);
    let id = bench.three_documents();
    let posted = bench.raw("POST", &format!("/idverify/v1/sessions/{id}"), "", "{}").await;
    assert_eq!(posted.status, 405);
    bench.simulator.delete(id).unwrap();
    assert_eq!(bench.configuration(id).await.status, 404);
    assert_eq!(bench.session(id).await.status, 404);
}

#[tokio::test]
async fn bodies_are_those_of_the_documented_examples_byte_for_byte() {
    let bench = Bench::new().await;
    let ids = [
        "40a922ea-6049-438d-8be0-9a52e2c06beb",
        "a81552a1-8b20-4a4b-9ce9-299254bffb43",
        "4a55df36-8d0c-4af3-a6be-0404df01afb2",
    ];
    let [passport, card, bill]: [Requirement; 3] = Requirement::three_documents()
        .into_iter()
        .zip(ids)
        .map(|(requirement, id)| requirement.with_id(id))
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let id: SessionId = "54de4aa9-1a35-4c78-b070-3330d40ce31f".parse().unwrap();
    let session = |first: &Requirement, second: &Requirement| {
        Session::requiring([first.clone(), second.clone(), bill.clone()]).with_id(id)
    };
    let same = async |name: &str| {
        let served = bench.configuration(id).await;
        let media = served.json()["applicant_profile"]["media"]["id"].as_str().unwrap().to_owned();
        let expected: String = fixture(name)
            .replace("9e06dc0c-8a12-4a27-bee4-f8cb285b171b", &media)
            .split_whitespace()
            .collect();
        assert_eq!(String::from_utf8(served.body).unwrap(), expected, "{name}");
    };
    let sim = &bench.simulator;

    sim.create(session(&passport, &card).with_ttl(Duration::from_secs(1_252_800)));
    same("config_01_fresh_3docs").await;

    sim.create(session(&card, &passport));
    sim.set_ttl(id, Some(1_166_222)).unwrap();
    for (index, state) in [(0, "IN_PROGRESS"), (0, "REQUIRED"), (0, "IN_PROGRESS"), (1, "COMPLETE")]
    {
        sim.set_state(id, index, state).unwrap();
    }
    same("config_02_partial").await;

    sim.set_ttl(id, Some(1_165_871)).unwrap();
    sim.set_state(id, 0, "COMPLETE").unwrap();
    sim.act(id, Action::SetAssessments { index: 1, state: "COMPLETE".into() }).unwrap();
    sim.set_state(id, 2, "COMPLETE").unwrap();
    same("config_03_all_complete").await;

    for name in ["config_04_same_id_four_resources", "config_05_unknowns_nulls_missing"] {
        sim.serve_body(id, fixture(name)).unwrap();
        assert_eq!(bench.configuration(id).await.body, fixture(name).as_bytes());
    }
}

#[tokio::test]
async fn the_ttl_falls_with_the_time_and_ends_the_session_at_zero() {
    let bench = Bench::new().await;
    let session = Session::requiring([Requirement::liveness()]).with_ttl(Duration::from_secs(600));
    let id = bench.simulator.create(session);
    let ttl = async || bench.configuration(id).await.json()["client_session_token_ttl"].clone();
    assert_eq!(ttl().await, 600);
    bench.clock.pass(Duration::from_millis(599_999));
    assert_eq!(ttl().await, 1);
    bench.clock.pass(Duration::from_secs(1));
    let answer = bench.configuration(id).await;
    assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("SESSION_EXPIRED")));
    assert_eq!(bench.session(id).await.json()["state"], "EXPIRED");
    let expired = bench.simulator.history(id).unwrap().pop().unwrap();
    let at = START.parse::<Timestamp>().unwrap().plus(Duration::from_secs(600));
    assert_eq!((expired.what, expired.at), (Happening::Expired, at));
}

#[tokio::test]
async fn an_odd_ttl_is_stated_as_it_is_and_ends_nothing() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    for odd in [Some(0), Some(-5), None] {
        bench.simulator.set_ttl(id, odd).unwrap();
        bench.clock.pass(Duration::from_secs(60));
        let body = bench.configuration(id).await.json();
        assert_eq!(body.get("client_session_token_ttl").and_then(Value::as_i64), odd);
    }
    bench.simulator.set_ttl(id, Some(i64::MAX)).unwrap();
    assert_eq!(bench.configuration(id).await.json()["client_session_token_ttl"], i64::MAX);
}

#[tokio::test]
async fn an_extension_moves_the_end() {
    let bench = Bench::new().await;
    let script = Script::new().at(Duration::from_secs(5), Action::Extend { seconds: 100 });
    let id = bench.simulator.create(
        Session::requiring([Requirement::passport()])
            .with_ttl(Duration::from_secs(10))
            .with_script(script),
    );
    bench.clock.pass(Duration::from_secs(60));
    assert_eq!(bench.configuration(id).await.json()["client_session_token_ttl"], 50);
}

/// Seconds from the start, and what the three documents then show.
const VISIT: [(u64, [&str; 3]); 6] = [
    (92, ["REQUIRED", "REQUIRED", "REQUIRED"]),
    (93, ["IN_PROGRESS", "REQUIRED", "REQUIRED"]),
    (153, ["COMPLETE", "REQUIRED", "REQUIRED"]),
    (325, ["COMPLETE", "COMPLETE", "REQUIRED"]),
    (451, ["COMPLETE", "COMPLETE", "IN_PROGRESS"]),
    (452, ["COMPLETE", "COMPLETE", "COMPLETE"]),
];

fn visited() -> Session {
    Session::requiring(Requirement::three_documents()).with_script(Script::documented_visit(3))
}

#[tokio::test]
async fn the_documented_visit_shows_the_documented_states_at_the_documented_times() {
    let bench = Bench::new().await;
    let id = bench.simulator.create(visited());
    let mut passed = 0;
    for (at, states) in VISIT {
        bench.clock.pass(Duration::from_secs(at - passed));
        passed = at;
        assert_eq!(bench.configuration(id).await.states(), states, "at {at} s");
    }
    bench.clock.pass(Duration::from_secs(571 - passed));
    assert_eq!(bench.session(id).await.json()["state"], "ONGOING");
    bench.clock.pass(Duration::from_secs(1));
    assert_eq!(bench.session(id).await.json()["state"], "COMPLETED");
    assert_eq!(bench.configuration(id).await.json()["code"], "SESSION_LOCKED");
}

#[tokio::test]
async fn scripts_run_as_fast_as_they_are_told_and_ttls_do_not() {
    let bench = Bench::with(|s| s.speed = NonZeroU32::new(60).unwrap()).await;
    let id = bench.simulator.create(visited());
    bench.clock.pass(Duration::from_millis(2_550));
    let answer = bench.configuration(id).await;
    assert_eq!(answer.states(), VISIT[2].1);
    assert_eq!(answer.json()["client_session_token_ttl"], 14 * 86_400 - 2);
}

#[tokio::test]
async fn a_jump_brings_on_at_once_what_lay_in_between() {
    let bench = Bench::new().await;
    let id = bench.simulator.create(visited());
    bench.clock.pass(Duration::from_secs(100));
    bench.simulator.fast_forward(Duration::from_secs(300));
    let answer = bench.configuration(id).await;
    assert_eq!(answer.states(), ["COMPLETE", "COMPLETE", "IN_PROGRESS"]);
    assert_eq!(answer.json()["client_session_token_ttl"], 14 * 86_400 - 400);
    let at: Vec<u128> = seconds_of(&bench, id);
    assert_eq!(at, [0, 93, 100, 100, 100, 100]);
    bench.clock.pass(Duration::from_secs(52));
    assert_eq!(bench.configuration(id).await.states(), VISIT[5].1);
    assert_eq!(seconds_of(&bench, id).last(), Some(&152));
}

fn seconds_of(bench: &Bench, id: SessionId) -> Vec<u128> {
    let start: Timestamp = START.parse().unwrap();
    let history = bench.simulator.history(id).unwrap();
    history.iter().map(|change| change.at.since(start).as_millis() / 1_000).collect()
}

#[tokio::test]
async fn the_history_is_what_was_served() {
    let bench = Bench::with(|settings| settings.seed = 11).await;
    let hour = Duration::from_secs(3_600);
    let ids = bench.simulator.create_random(8, 24 * hour, hour);
    let mut served: Vec<Vec<(Timestamp, Value)>> = vec![Vec::new(); ids.len()];
    for _ in 0..400 {
        for (id, seen) in ids.iter().zip(&mut served) {
            let answer = bench.configuration(*id).await;
            let listed = answer.json()["capture"]["required_resources"].clone();
            let shown: Vec<Value> = listed
                .as_array()
                .into_iter()
                .flatten()
                .map(|r| json!({"id": r["id"], "state": r["state"]}))
                .collect();
            let shown = if answer.status == 409 { json!("LOCKED") } else { json!(shown) };
            if seen.last().is_none_or(|(_, last)| *last != shown) {
                seen.push((bench.clock.now().wall, shown));
            }
        }
        bench.clock.pass(Duration::from_secs(15));
    }
    for (id, seen) in ids.iter().zip(served) {
        let history = bench.simulator.history(*id).unwrap();
        for (at, shown) in seen {
            let until = history.iter().take_while(|change| change.at <= at);
            assert_eq!(shown, replay(until.map(|change| &change.what)), "{id} at {at}");
        }
    }
}

/// What an answer lists after all of that.
fn replay<'a>(happenings: impl Iterator<Item = &'a Happening>) -> Value {
    let listed =
        |resource: &ResourceKey, state: &ResourceState| json!({"id": resource.id, "state": state});
    let mut list: Vec<Value> = Vec::new();
    for happening in happenings {
        match happening {
            Happening::Created { resources } => {
                list = resources.iter().map(|r| listed(&r.key, &r.state)).collect();
            }
            Happening::StateChanged { resource, from, to } => {
                let before = listed(resource, from);
                let entry = list.iter_mut().find(|entry| **entry == before).unwrap();
                *entry = listed(resource, to);
            }
            Happening::Added { resource, state } => list.push(listed(resource, state)),
            Happening::Removed { resource, last_state } => {
                let gone = listed(resource, last_state);
                list.retain(|entry| *entry != gone);
            }
            Happening::Completed => return json!("LOCKED"),
            Happening::Expired | Happening::Deleted => panic!("nobody did that"),
        }
    }
    json!(list)
}

#[tokio::test]
async fn the_report_says_the_state_last_and_much_else_first() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    for state in ["ONGOING", "COMPLETED"] {
        let text = String::from_utf8(bench.session(id).await.body).unwrap();
        assert!(text.ends_with(&format!("\"state\":\"{state}\"}}")), "{text}");
        assert!(text.find("\"state\"").unwrap() < text.find("\"checks\"").unwrap());
        assert!(SECRETS.iter().all(|secret| text.contains(secret)), "{text}");
        bench.simulator.complete(id).unwrap();
    }
}

#[tokio::test]
async fn what_an_ended_session_answers_is_a_matter_of_choice() {
    for (after_end, completed, expired) in [
        (AfterEnd::Conflict, 409, 409),
        (AfterEnd::NotFound, 404, 404),
        (AfterEnd::Configuration, 200, 200),
    ] {
        let bench = Bench::with(|settings| settings.after_end = after_end).await;
        let (one, other) = (bench.three_documents(), bench.three_documents());
        bench.simulator.complete(one).unwrap();
        bench.simulator.expire(other).unwrap();
        assert_eq!(bench.configuration(one).await.status, completed);
        assert_eq!(bench.configuration(other).await.status, expired);
        assert_eq!(bench.session(other).await.json()["state"], "EXPIRED");
        assert_eq!(bench.simulator.status(one).unwrap().state, SessionState::Completed);
    }
}

#[tokio::test]
async fn a_skewed_clock_shows_in_date_and_in_what_is_stale() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    bench.simulator.set_skew_millis(-600_000);
    let answer = bench.configuration(id).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("date"), Some("Tue, 01 Sep 2026 08:04:52 GMT"));
}

#[tokio::test]
async fn resources_of_one_id_are_numbered_and_come_in_any_order() {
    let bench = Bench::new().await;
    let same = || Requirement::passport().with_id("same");
    let session = Session::requiring([same(), same().in_state("COMPLETE"), same()]).shuffled();
    let id = bench.simulator.create(session);
    let mut orders = std::collections::BTreeSet::new();
    for _ in 0..40 {
        orders.insert(bench.configuration(id).await.states());
    }
    assert_eq!(orders.len(), 3);
    bench.simulator.set_state(id, 2, "IN_PROGRESS").unwrap();
    let last = bench.simulator.history(id).unwrap().pop().unwrap();
    let Happening::StateChanged { resource, .. } = last.what else { panic!("{last:?}") };
    assert_eq!(resource.ordinal, 2);
}

/// Asks once under a fault that befalls the next request only.
async fn under(effect: Effect) -> Answer {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    bench.simulator.fault(Fault::new(effect).on(id).times(1));
    let answer = bench.configuration(id).await;
    assert_eq!(bench.configuration(id).await.status, 200, "the fault is spent");
    answer
}

fn promised(answer: &Answer) -> usize {
    answer.header("content-length").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_status_comes_with_its_documented_body_and_any_header() {
    let answer = under(Effect::retry_after("7")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    assert_eq!(answer.json()["code"], "TOO_MANY_REQUESTS");
    assert!(answer.header("x-request-id").is_some());
    let own = Effect::Status {
        status: 503,
        headers: [("content-type".into(), "text/plain".into())].into(),
        body: Some("busy".into()),
    };
    let answer = under(own).await;
    assert_eq!((answer.status, &*answer.body), (503, &b"busy"[..]));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn a_truncated_body_is_shorter_than_promised() {
    let answer = under(Effect::Truncate { bytes: 100 }).await;
    assert_eq!((answer.status, answer.body.len()), (200, 100));
    assert!(promised(&answer) > 1_000);
    let answer = under(Effect::Truncate { bytes: 1_000_000 }).await;
    assert!(promised(&answer) > answer.body.len());
}

#[tokio::test]
async fn garbage_is_no_json_and_a_proxy_speaks_html() {
    let answer = under(Effect::Garbage { bytes: 500 }).await;
    assert_eq!((answer.status, answer.body.len()), (200, 500));
    assert!(serde_json::from_slice::<Value>(&answer.body).is_err());
    let answer = under(Effect::Html).await;
    assert_eq!((answer.status, answer.header("content-type")), (502, Some("text/html")));
    assert!(answer.body.starts_with(b"<html>"));
}

#[tokio::test]
async fn a_huge_body_does_not_say_how_long_it_is() {
    let answer = under(Effect::Huge { bytes: 3_000_000 }).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, None));
    assert!(answer.body.len() > 3_000_000);
}

#[tokio::test]
async fn a_redirect_names_its_target() {
    let answer = under(Effect::Redirect { location: "http://elsewhere/".into() }).await;
    assert_eq!((answer.status, answer.header("location")), (302, Some("http://elsewhere/")));
}

#[tokio::test]
async fn a_reset_breaks_the_connection_and_does_not_close_it() {
    let answer = under(Effect::Reset).await;
    assert!(answer.broken && answer.head.is_empty());
}

#[tokio::test]
async fn a_slow_body_arrives_whole() {
    let answer = under(Effect::Drip { bytes_per_second: 20_000 }).await;
    assert_eq!(answer.body.len(), promised(&answer));
    assert_eq!(answer.states(), ["REQUIRED"; 3]);
}

#[tokio::test]
async fn a_wrong_session_is_another_where_there_is_one() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    bench.simulator.fault(Fault::new(Effect::WrongSession));
    let alone = bench.configuration(id).await.json()["session_id"].clone();
    assert_ne!(alone, id.to_string());
    let other = bench.three_documents();
    assert_eq!(bench.configuration(id).await.json()["session_id"], other.to_string());
}

#[tokio::test]
async fn whoever_hangs_is_in_flight_until_the_client_gives_up() {
    let bench = Bench::new().await;
    let (id, other) = (bench.three_documents(), bench.three_documents());
    let fault = bench.simulator.fault(Fault::new(Effect::Hang).on(id));
    let target = format!("/idverify/v1{}", bench.target(&format!("/sessions/{id}")));
    let first = bench.ask("GET", &target, "", "").await;
    let second = bench.ask("GET", &target, "", "").await;
    bench.simulator.asked(id, 2).await;
    assert_eq!(bench.configuration(other).await.status, 200);
    assert_eq!(bench.simulator.session_totals(id).in_flight, 2);
    drop((first, second));
    bench.simulator.until(|world| world.totals().in_flight == 0).await;
    bench.simulator.clear_fault(fault);
    assert_eq!(bench.configuration(id).await.status, 200);
    let totals = bench.simulator.totals();
    assert_eq!((totals.max_in_flight, totals.max_in_flight_per_session), (3, 2));
    assert_eq!((totals.requests, totals.connections), (4, 4));
    assert_eq!(totals.outcomes[&(Endpoint::Session, Outcome::Abandoned)], 2);
    assert_eq!(totals.answered(Endpoint::Configuration, 200), 2);
}

#[tokio::test]
async fn a_delayed_answer_tells_the_state_at_the_time_it_is_given() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    bench.simulator.fault(Fault::new(Effect::Delay { millis: 100 }));
    let (answer, ()) = tokio::join!(bench.configuration(id), async {
        bench.simulator.asked(id, 1).await;
        bench.simulator.set_state(id, 0, "COMPLETE").unwrap();
    });
    assert_eq!(answer.states(), ["COMPLETE", "REQUIRED", "REQUIRED"]);
    assert_eq!(bench.simulator.exchanges_of(id)[0].faults, ["delay"]);
}

#[tokio::test]
async fn http2_is_spoken_too_and_faults_reach_it() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let get = async || {
        let target = bench.target(&format!("/sessions/{id}/configuration"));
        client
            .get(format!("{}{target}", bench.simulator.base_url()))
            .header("x-yoti-auth-digest", bench.sign(&format!("GET&{target}")))
            .send()
            .await
    };
    let answer = get().await.unwrap();
    assert_eq!(
        (answer.status(), answer.version()),
        (200.try_into().unwrap(), http::Version::HTTP_2)
    );
    bench.simulator.fault(Fault::new(Effect::Truncate { bytes: 10 }).times(1));
    assert!(get().await.unwrap().bytes().await.is_err());
    bench.simulator.fault(Fault::new(Effect::Reset).times(1));
    assert!(get().await.is_err());
    assert!(get().await.unwrap().bytes().await.is_ok());
}

#[tokio::test]
async fn everything_is_controlled_by_http_as_well() {
    let bench = Bench::new().await;
    let none = Value::Null;
    let created = json!({"count": 2, "visit": "documented", "delay_seconds": 10, "ttl": 3600});
    let ids = bench.control("POST", "sessions", &created).await.json()["sessions"].clone();
    let id: SessionId = serde_json::from_value(ids[0].clone()).unwrap();
    let session = format!("sessions/{id}");
    let resource = format!("{session}/resources/0");

    bench.control("POST", &resource, &json!({"state": "COMPLETE"})).await;
    bench.control("POST", &format!("{session}/resources"), &json!({"type": "LIVENESS"})).await;
    bench.control("DELETE", &format!("{session}/resources/1"), &none).await;
    assert_eq!(bench.configuration(id).await.states(), ["COMPLETE", "REQUIRED", "REQUIRED"]);
    let shown = bench.control("GET", &session, &none).await.json();
    assert_eq!(
        shown["resources"],
        json!([
            {"index": 0, "type": "ID_DOCUMENT", "state": "COMPLETE"},
            {"index": 2, "type": "SUPPLEMENTARY_DOCUMENT", "state": "REQUIRED"},
            {"index": 3, "type": "LIVENESS", "state": "REQUIRED"},
        ])
    );
    assert_eq!((&shown["ttl"], &shown["requests"]), (&json!(3600), &json!(1)));
    bench.control("POST", &format!("{session}/ttl"), &json!({"seconds": null})).await;
    assert_eq!(bench.control("GET", &session, &none).await.json()["ttl"], none);

    bench.control("POST", "faults", &json!({"effect": {"status": {"status": 401}}})).await;
    assert_eq!(bench.configuration(id).await.status, 401);
    let faults = bench.control("GET", "faults", &none).await.json();
    assert_eq!(faults[0]["effect"]["status"]["status"], 401);
    bench.control("DELETE", "faults", &none).await;
    assert_eq!(bench.configuration(id).await.status, 200);

    bench.control("POST", "skew", &json!({"millis": 400_000})).await;
    assert_eq!(bench.configuration(id).await.status, 401);
    bench.control("POST", "skew", &json!({"millis": 0})).await;

    bench.control("POST", "forward", &json!({"seconds": 582})).await;
    assert_eq!(bench.session(id).await.json()["state"], "COMPLETED");
    let history = bench.control("GET", &format!("history/{id}"), &none).await.json();
    assert_eq!(history[1]["what"], "state_changed");
    assert_eq!(history[1]["to"], "COMPLETE");
    assert_eq!(history.as_array().unwrap().last().unwrap()["what"], "completed");
    let all = bench.control("GET", "history", &none).await.json();
    assert_eq!(all.as_array().unwrap().len(), 2);
    bench.control("DELETE", &session, &none).await;
    assert_eq!(bench.session(id).await.status, 404);

    let requests = bench.control("GET", "requests", &none).await.json();
    assert_eq!(requests["requests"], 6, "control is not counted");
    assert_eq!(requests["last"][1]["faults"], json!(["status"]));
    let random = json!({"count": 5, "visit": "random", "resources": ["LIVENESS", "NEW_KIND"]});
    bench.control("POST", "sessions", &random).await;
    assert_eq!(bench.control("GET", "sessions", &none).await.json().as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn a_wrong_control_request_says_what_is_wrong() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    let session = format!("sessions/{id}");
    for (method, path, body, status, says) in [
        ("POST", "faults".to_owned(), json!({"effect": "explode"}), 400, "explode"),
        ("POST", "sessions".to_owned(), json!({"counts": 1}), 400, "counts"),
        ("POST", "sessions".to_owned(), json!({"count": 100_001}), 400, "at most 100000"),
        ("GET", "sessions/x".to_owned(), Value::Null, 400, "not a session id"),
        ("GET", format!("sessions/{}", Uuid::nil()), Value::Null, 404, "no session"),
        ("POST", format!("{session}/resources/9"), json!({"state": "X"}), 404, "number 9"),
        ("POST", format!("{session}/state"), json!({"state": "ONGOING"}), 400, "create another"),
        ("PUT", "faults".to_owned(), Value::Null, 404, "does nothing"),
    ] {
        let answer = bench.control(method, &path, &body).await;
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status, "{method} {path}: {error}");
        assert!(error.contains(says), "{method} {path}: {error}");
    }
}

#[tokio::test]
async fn a_stopped_simulator_has_let_go_of_its_port_and_its_connections() {
    let bench = Bench::new().await;
    let address = bench.simulator.address();
    let mut open = TcpStream::connect(address).await.unwrap();
    bench.simulator.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    // Read to the end, which may be an orderly one or, as it never sent anything, a reset.
    let mut rest = Vec::new();
    drop(open.read_to_end(&mut rest).await);
    assert!(rest.is_empty());
    let again = Settings { listen: address, ..Settings::new(SDK_ID) };
    Simulator::start(again).await.unwrap();
}

#[tokio::test]
async fn a_token_is_given_for_an_assertion_as_documented_and_opens_the_api() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    let assertion = bench.assertion(PS384, &bench.claims());
    let form = token_form("openid+idv%3Asessions", &assertion);
    let given = bench.post_form(&form).await;
    assert_eq!(given.status, 200, "{}", String::from_utf8_lossy(&given.body));
    let mut given = given.json();
    let token = given["access_token"].take();
    assert_eq!(
        given,
        json!({
            "access_token": null, "token_type": "Bearer", "expires_in": 3600,
            "scope": "idv:sessions"
        })
    );
    let token = token.as_str().unwrap();
    assert!(token.starts_with("simulated-access-token-"), "{token}");
    assert_eq!(bench.bearing(id, token, "").await.status, 200);
    assert_eq!(bench.configuration(id).await.status, 200, "signed requests are let in, too");
    let url = bench.simulator.token_url();
    assert_eq!(url, format!("http://{}/v1/oauth/token", bench.simulator.address()));
}

#[tokio::test]
async fn an_assertion_that_is_not_as_documented_gets_no_token() {
    let bench = Bench::new().await;
    let now = bench.clock.now().wall.as_millis() / 1_000;
    let with = |name: &str, value: Value| {
        let mut claims = bench.claims();
        claims[name] = value;
        bench.assertion(PS384, &claims)
    };
    let good = bench.claims();
    let tampered = {
        let whole = bench.assertion(PS384, &good);
        let (_, signature) = whole.rsplit_once('.').unwrap();
        let other = with("exp", json!(now + 299));
        format!("{}.{signature}", other.rsplit_once('.').unwrap().0)
    };
    for (wrong, assertion, refusal) in [
        ("nothing", String::new(), TokenRefusal::NotAnAssertion),
        ("no JWT", "a.b".into(), TokenRefusal::NotAnAssertion),
        ("no JSON", "YQ.YQ.YQ".into(), TokenRefusal::NotAnAssertion),
        ("no jti", with("jti", Value::Null), TokenRefusal::NotAnAssertion),
        ("a short jti", with("jti", json!("1")), TokenRefusal::NotAnAssertion),
        (
            "another algorithm",
            bench.assertion(r#"{"alg":"RS256","typ":"JWT"}"#, &good),
            TokenRefusal::WrongAlgorithm,
        ),
        (
            "no algorithm",
            bench.assertion(r#"{"alg":"none","typ":"JWT"}"#, &good),
            TokenRefusal::WrongAlgorithm,
        ),
        (
            "another hash",
            bench.assertion_as(&RSA_PSS_SHA256, PS384, &good),
            TokenRefusal::WrongAssertionSignature,
        ),
        (
            "another padding",
            bench.assertion_as(&RSA_PKCS1_SHA256, PS384, &good),
            TokenRefusal::WrongAssertionSignature,
        ),
        ("other claims than signed", tampered, TokenRefusal::WrongAssertionSignature),
        ("the bare SDK id", with("iss", json!(SDK_ID)), TokenRefusal::WrongIssuer),
        ("another subject", with("sub", json!("sdk:other")), TokenRefusal::WrongIssuer),
        ("another audience", with("aud", json!("https://x")), TokenRefusal::WrongAudience),
        ("an end just past", with("exp", json!(now)), TokenRefusal::WrongTime),
        ("an end too far ahead", with("exp", json!(now + 301)), TokenRefusal::WrongTime),
        ("a beginning ahead", with("iat", json!(now + 1)), TokenRefusal::WrongTime),
        ("a beginning long past", with("iat", json!(now - 301)), TokenRefusal::WrongTime),
    ] {
        let answer = bench.ask_for_token(&assertion).await;
        assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("invalid_client")));
        let refused = bench.simulator.exchanges().last().unwrap().refusal;
        assert_eq!(refused, Some(Refusal::Token(refusal)), "{wrong}");
    }
    assert_eq!(bench.simulator.tokens(), TokenTotals::default());
    assert_eq!(bench.ask_for_token(&bench.assertion(PS384, &good)).await.status, 200);
}

#[tokio::test]
async fn an_assertion_is_good_for_one_token_even_if_nobody_answered_it() {
    let bench = Bench::new().await;
    bench.simulator.fault(Fault::new(Effect::status(503)).at(Endpoint::Token).times(1));
    let assertion = bench.assertion(PS384, &bench.claims());
    assert_eq!(bench.ask_for_token(&assertion).await.status, 503);
    assert_eq!(bench.ask_for_token(&assertion).await.status, 401);
    let refused = bench.simulator.exchanges().last().unwrap().refusal;
    assert_eq!(refused, Some(Refusal::Token(TokenRefusal::AssertionRepeated)));
    assert_eq!(bench.simulator.tokens().issued, 0);
}

#[tokio::test]
async fn what_is_no_form_for_client_credentials_gets_no_token() {
    let bench = Bench::new().await;
    let good = token_form("idv:sessions", &bench.assertion(PS384, &bench.claims()));
    for (form, error) in [
        (good.replace("client_credentials", "password"), "invalid_request"),
        (good.replace("jwt-bearer", "saml2-bearer"), "invalid_request"),
        (format!("{good}&scope=idv:sessions"), "invalid_request"),
        (good.replace("idv:sessions", "%zz"), "invalid_request"),
        ("x".repeat(100_000), "invalid_request"),
        (good.replace("idv:sessions", "idv:other"), "invalid_scope"),
        (good.replace("idv:sessions", ""), "invalid_scope"),
    ] {
        let answer = bench.post_form(&form).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!(error)));
    }
    let json = bench.raw("POST", "/v1/oauth/token", "Content-Type: application/json\r\n", &good);
    assert_eq!(json.await.status, 400);
    assert_eq!(bench.raw("GET", "/v1/oauth/token", "", "").await.status, 405);
    assert_eq!(bench.post_form(&good).await.status, 200, "none of it used the assertion up");
}

#[tokio::test]
async fn a_token_opens_the_api_until_it_expires_or_is_revoked() {
    let bench = Bench::with(|settings| settings.token_life = Some(Duration::from_secs(60))).await;
    let id = bench.three_documents();
    let (first, second) = (bench.token().await, bench.token().await);
    assert_eq!(bench.simulator.tokens(), TokenTotals { issued: 2, live: 2, max_live: 2 });
    bench.clock.pass(Duration::from_millis(59_999));
    assert_eq!(bench.bearing(id, &first, "").await.status, 200);
    bench.clock.pass(Duration::from_millis(1));
    let expired = bench.bearing(id, &second, "").await;
    assert_eq!((expired.status, &expired.json()["code"]), (401, &json!("BAD_TOKEN")));
    assert_eq!(bench.bearing(id, "made-up", "").await.status, 401);

    let third = bench.token().await;
    let told = bench.control("GET", "tokens", &Value::Null).await;
    assert_eq!(told.json(), json!({ "issued": 3, "live": 1, "max_live": 2 }));
    let revoked = bench.control("POST", "tokens/revoke", &Value::Null).await;
    assert_eq!(revoked.json(), json!({ "issued": 3, "live": 0, "max_live": 2 }));
    assert_eq!(bench.bearing(id, &third, "").await.status, 401);
    let last = bench.simulator.exchanges().last().unwrap().refusal;
    assert_eq!(last, Some(Refusal::BadToken));
}

#[tokio::test]
async fn a_token_beside_a_part_of_a_signed_request_is_refused() {
    let bench = Bench::new().await;
    let id = bench.three_documents();
    let token = bench.token().await;
    for rest in ["?sdkId=x", "?nonce=x", "?a=b&timestamp=1", "?sdkId"] {
        let answer = bench.bearing(id, &token, rest).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("MALFORMED_REQUEST")));
    }
    let digest = format!("Authorization: Bearer {token}\r\nX-Yoti-Auth-Digest: x\r\n");
    let target = format!("/idverify/v1/sessions/{id}");
    assert_eq!(bench.raw("GET", &target, &digest, "").await.status, 400);
    assert_eq!(bench.bearing(id, &token, "?a=b").await.status, 200);
}

#[tokio::test]
async fn a_token_without_a_stated_life_lives_on() {
    let bench = Bench::with(|settings| settings.token_life = None).await;
    let id = bench.three_documents();
    let given = bench.ask_for_token(&bench.assertion(PS384, &bench.claims())).await.json();
    assert!(given.get("expires_in").is_none(), "{given}");
    bench.clock.pass(Duration::from_secs(1_000_000));
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(bench.bearing(id, token, "").await.status, 200);
}
