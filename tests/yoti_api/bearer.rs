//! Bearer tokens, from the simulated token endpoint to the simulated API.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use ibvwatch::clock::Clock;
use ibvwatch::domain::{Now, Observation, ProblemKind, SessionId};
use ibvwatch::sim::{
    Effect, Endpoint, Fault, PublicKey, Refusal, Requirement, Session, Simulator, TokenRefusal,
    World,
};
use ibvwatch::yoti::{Auth, Bearer, Client, PrivateKey, Scopes, Secret, SessionApi, TokenUrl};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::log::Log;
use super::server::{PATIENCE, Server, answer};
use super::tls::{ACCESS_TOKEN, Authority};
use super::{NOW, PUBLISHED_KEY, SDK_ID, problem, published_key, settings};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1);

/// Stands still until it is told.
#[derive(Default)]
struct TestClock {
    passed_millis: AtomicU64,
    step_millis: AtomicI64,
}

impl TestClock {
    fn pass(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap();
        self.passed_millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock ahead, or back.
    fn step(&self, seconds: i64) {
        self.step_millis.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let monotonic = Duration::from_millis(self.passed_millis.load(Ordering::SeqCst));
        let step = self.step_millis.load(Ordering::SeqCst);
        let (ahead, back) = (step.max(0).unsigned_abs(), step.min(0).unsigned_abs());
        let wall = NOW.plus(Duration::from_millis(ahead)).minus(Duration::from_millis(back));
        Now { wall: wall.plus(monotonic), monotonic }
    }
}

struct Bench {
    sim: Simulator,
    clock: Arc<TestClock>,
    client: Arc<Client>,
    session: SessionId,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Some(HOUR), |_, _| {}).await
    }

    async fn with(
        token_life: Option<Duration>,
        adjust: impl FnOnce(&mut ibvwatch::yoti::Settings, &Simulator),
    ) -> Self {
        let clock = Arc::new(TestClock::default());
        let mut sim_settings = ibvwatch::sim::Settings::new(SDK_ID);
        sim_settings.public_key = Some(PublicKey::parse(PUBLISHED_KEY.as_bytes()).unwrap());
        sim_settings.token_life = token_life;
        sim_settings.clock = Arc::<TestClock>::clone(&clock);
        let sim = Simulator::start(sim_settings).await.unwrap();
        let mut settings = settings(&sim.base_url());
        settings.timeout = PATIENCE;
        settings.auth = bearer(published_key(), &sim.token_url(), &["idv:sessions"]);
        adjust(&mut settings, &sim);
        let client = Client::new(settings, Arc::<TestClock>::clone(&clock)).unwrap();
        let session = sim.create(Session::requiring(Requirement::three_documents()));
        Self { sim, clock, client: Arc::new(client), session }
    }

    async fn ask(&self) -> Observation {
        self.client.configuration(self.session).await
    }

    async fn succeed(&self) {
        let observation = self.ask().await;
        assert!(matches!(observation, Observation::Configuration(_)), "{observation:?}");
    }

    async fn ask_at_once(&self, requests: usize) -> Vec<Observation> {
        let mut asking = JoinSet::new();
        for _ in 0..requests {
            let (client, session) = (Arc::clone(&self.client), self.session);
            asking.spawn(async move { client.configuration(session).await });
        }
        asking.join_all().await
    }

    async fn until(&self, condition: impl FnMut(&World) -> bool) {
        tokio::time::timeout(PATIENCE, self.sim.until(condition)).await.unwrap();
    }

    fn issued(&self) -> u64 {
        self.sim.tokens().issued
    }

    fn asked_for_tokens(&self) -> usize {
        self.sim.exchanges().iter().filter(|e| e.endpoint == Endpoint::Token).count()
    }

    fn asked_of_the_api(&self) -> u64 {
        self.sim.session_totals(self.session).requests
    }
}

fn bearer(key: PrivateKey, token_url: &str, scopes: &[&str]) -> Auth {
    let token_url = TokenUrl::parse(token_url).unwrap();
    Auth::Bearer(Bearer::new(SDK_ID, key, token_url, Scopes::new(scopes).unwrap()).unwrap())
}

#[tokio::test]
async fn a_hundred_requests_share_one_token() {
    let bench = Bench::new().await;
    assert_eq!(bench.client.token_expires_in(), None);
    for _ in 0..50 {
        bench.succeed().await;
        assert_eq!(bench.client.session_state(bench.session).await, Observation::Ongoing);
    }
    assert_eq!(bench.issued(), 1);
    assert_eq!(bench.asked_of_the_api(), 100);
    bench.clock.pass(MINUTE);
    assert_eq!(bench.client.token_expires_in(), Some(59 * MINUTE));
}

#[tokio::test]
async fn signed_requests_have_no_token() {
    let bench = Bench::with(None, |settings, _| {
        settings.auth = super::settings("https://localhost").auth;
    })
    .await;
    bench.ask().await;
    assert_eq!((bench.asked_for_tokens(), bench.client.token_expires_in()), (0, None));
}

#[tokio::test]
async fn requests_that_come_at_once_share_one_request_for_a_token() {
    let bench = Bench::new().await;
    for observation in bench.ask_at_once(50).await {
        assert!(matches!(observation, Observation::Configuration(_)), "{observation:?}");
    }
    assert_eq!((bench.asked_for_tokens(), bench.issued()), (1, 1));
}

#[tokio::test]
async fn a_failure_is_shared_and_holds_a_second_so_nobody_stampedes() {
    let bench = Bench::new().await;
    bench.sim.fault(Fault::new(Effect::status(503)).at(Endpoint::Token));
    for observation in bench.ask_at_once(50).await {
        assert!(matches!(observation, Observation::ServerError { .. }), "{observation:?}");
    }
    bench.ask().await;
    assert_eq!(bench.asked_for_tokens(), 1);
    bench.clock.pass(Duration::from_secs(1));
    bench.ask().await;
    assert_eq!(bench.asked_for_tokens(), 2);
    bench.sim.clear_faults();
    bench.clock.pass(Duration::from_secs(1));
    bench.succeed().await;
    assert_eq!((bench.asked_for_tokens(), bench.asked_of_the_api()), (3, 1));
}

#[tokio::test]
async fn the_endpoint_is_left_alone_for_as_long_as_it_asks() {
    let bench = Bench::new().await;
    bench.sim.fault(Fault::new(Effect::retry_after("30")).at(Endpoint::Token).times(1));
    for (passed, rest) in [(0, 30), (10, 20), (19, 1)] {
        bench.clock.pass(Duration::from_secs(passed));
        let Observation::RateLimited { retry_after, .. } = bench.ask().await else {
            panic!("not rate limited");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(rest)));
    }
    assert_eq!(bench.asked_for_tokens(), 1);
    bench.clock.pass(Duration::from_secs(1));
    bench.succeed().await;
}

#[tokio::test]
async fn a_request_that_is_given_up_does_not_waste_its_token() {
    let bench = Bench::new().await;
    bench.sim.fault(Fault::new(Effect::Delay { millis: 100 }).at(Endpoint::Token));
    let (client, session) = (Arc::clone(&bench.client), bench.session);
    let given_up = tokio::spawn(async move { client.configuration(session).await });
    bench.until(|world| world.totals().in_flight == 1).await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    bench.succeed().await;
    assert_eq!((bench.asked_for_tokens(), bench.issued()), (1, 1));
}

#[tokio::test]
async fn a_token_is_renewed_once_it_has_lived_four_fifths_of_its_life() {
    let bench = Bench::new().await;
    bench.succeed().await;
    bench.clock.pass((48 * MINUTE).saturating_sub(MOMENT));
    bench.succeed().await;
    assert_eq!(bench.asked_for_tokens(), 1);
    bench.clock.pass(MOMENT);
    bench.succeed().await;
    bench.until(|world| world.totals().answered(Endpoint::Token, 200) == 2).await;
    // Far past the life of the first, the second still holds.
    bench.clock.pass(30 * MINUTE);
    bench.succeed().await;
    assert_eq!((bench.issued(), bench.sim.tokens().max_live), (2, 2));
    assert_eq!(bench.sim.totals().answered(Endpoint::Configuration, 401), 0);
}

#[tokio::test]
async fn while_a_renewal_hangs_the_old_token_is_used() {
    let bench = Bench::new().await;
    bench.succeed().await;
    bench.sim.fault(Fault::new(Effect::Hang).at(Endpoint::Token));
    bench.clock.pass(50 * MINUTE);
    for _ in 0..10 {
        bench.succeed().await;
    }
    bench.until(|world| world.totals().in_flight == 1).await;
    assert_eq!(bench.asked_for_tokens(), 2);
}

#[tokio::test]
async fn a_token_about_to_expire_is_not_sent_on_its_way() {
    let bench = Bench::new().await;
    bench.succeed().await;
    bench.clock.pass(HOUR.saturating_sub(Duration::from_secs(10)));
    bench.sim.fault(Fault::new(Effect::status(503)).at(Endpoint::Token));
    let observation = bench.ask().await;
    assert!(matches!(observation, Observation::ServerError { .. }), "{observation:?}");
    assert_eq!(bench.asked_of_the_api(), 1);
    bench.sim.clear_faults();
    bench.clock.pass(HOUR);
    bench.succeed().await;
    assert_eq!(bench.sim.totals().answered(Endpoint::Configuration, 401), 0);
}

#[tokio::test]
async fn the_wall_clock_may_step_without_touching_the_token() {
    let bench = Bench::new().await;
    bench.succeed().await;
    for seconds in [7_200, -1_000_000, 1_000_000] {
        bench.clock.step(seconds);
        bench.succeed().await;
        assert_eq!(bench.client.token_expires_in(), Some(HOUR));
    }
    assert_eq!(bench.issued(), 1);
}

#[tokio::test]
async fn a_token_that_does_not_state_its_life_is_taken_to_live_a_quarter_of_an_hour() {
    let bench = Bench::with(None, |_, _| {}).await;
    bench.succeed().await;
    assert_eq!(bench.client.token_expires_in(), Some(15 * MINUTE));
    bench.clock.pass((12 * MINUTE).saturating_sub(MOMENT));
    bench.succeed().await;
    assert_eq!(bench.asked_for_tokens(), 1);
    bench.clock.pass(3 * MINUTE);
    bench.succeed().await;
    assert_eq!(bench.issued(), 2);
}

#[tokio::test]
async fn after_a_revocation_one_new_token_lets_everybody_in_again() {
    let bench = Bench::new().await;
    bench.succeed().await;
    bench.sim.revoke_tokens();
    bench.succeed().await;
    assert_eq!((bench.issued(), bench.asked_of_the_api()), (2, 3));
    bench.clock.pass(MINUTE);
    bench.sim.revoke_tokens();
    for observation in bench.ask_at_once(50).await {
        assert!(matches!(observation, Observation::Configuration(_)), "{observation:?}");
    }
    assert_eq!(bench.issued(), 3);
}

#[tokio::test]
async fn a_refusal_that_comes_late_is_met_with_the_token_that_others_have_by_then() {
    let bench = Bench::new().await;
    bench.succeed().await;
    bench.sim.revoke_tokens();
    let late = Fault::new(Effect::Delay { millis: 200 }).at(Endpoint::Configuration).times(1);
    bench.sim.fault(late);
    let (client, session) = (Arc::clone(&bench.client), bench.session);
    let refused_late = tokio::spawn(async move { client.configuration(session).await });
    bench.until(|world| world.session_totals(session).requests == 2).await;
    bench.succeed().await;
    let observation = refused_late.await.unwrap();
    assert!(matches!(observation, Observation::Configuration(_)), "{observation:?}");
    assert_eq!(bench.issued(), 2);
}

#[tokio::test]
async fn of_two_revocations_within_a_minute_the_second_is_waited_out() {
    let bench = Bench::new().await;
    bench.succeed().await;
    bench.sim.revoke_tokens();
    bench.succeed().await;
    bench.sim.revoke_tokens();
    bench.clock.pass(MINUTE.saturating_sub(MOMENT));
    let observation = bench.ask().await;
    assert!(matches!(observation, Observation::Unauthorized(_)), "{observation:?}");
    assert_eq!(bench.issued(), 2);
    bench.clock.pass(MOMENT);
    bench.succeed().await;
    assert_eq!(bench.issued(), 3);
}

#[tokio::test]
async fn an_api_that_refuses_every_token_gets_one_more_and_then_few() {
    let bench = Bench::new().await;
    bench.sim.fault(Fault::new(Effect::status(401)).at(Endpoint::Configuration));
    for _ in 0..20 {
        let observation = bench.ask().await;
        assert!(matches!(observation, Observation::Unauthorized(_)), "{observation:?}");
        let message = &problem(&observation).message;
        assert!(message.starts_with("the API refused the access token"), "{message}");
    }
    bench.ask_at_once(50).await;
    assert_eq!((bench.asked_for_tokens(), bench.asked_of_the_api()), (2, 71));
    bench.clock.pass((15 * MINUTE).saturating_sub(MOMENT));
    bench.ask().await;
    assert_eq!(bench.asked_for_tokens(), 2);
    bench.clock.pass(MOMENT);
    bench.ask_at_once(50).await;
    assert_eq!(bench.asked_for_tokens(), 3);
    bench.sim.clear_faults();
    bench.succeed().await;
    assert_eq!(bench.asked_for_tokens(), 3);
}

#[tokio::test]
async fn a_forbidden_request_is_not_put_down_to_the_token() {
    let bench = Bench::new().await;
    bench.sim.fault(Fault::new(Effect::status(403)).at(Endpoint::Configuration));
    let observation = bench.ask().await;
    assert!(matches!(observation, Observation::Unauthorized(_)), "{observation:?}");
    assert_eq!((bench.asked_for_tokens(), bench.asked_of_the_api()), (1, 1));
}

#[tokio::test]
async fn every_answer_of_the_token_endpoint_but_a_token_has_its_meaning() {
    let location = "http://127.0.0.1:1/".to_owned();
    let status = |status, body: &str| Effect::Status {
        status,
        headers: [].into(),
        body: Some(body.to_owned()),
    };
    for (effect, kind, words) in [
        (status(400, r#"{"error":"invalid_scope"}"#), ProblemKind::Unauthorized, "api.auth.scopes"),
        (
            status(401, r#"{"error":"invalid_client","error_description":"No such client"}"#),
            ProblemKind::Unauthorized,
            "token endpoint refused to give an access token: No such client; check api.sdk_id",
        ),
        (Effect::status(403), ProblemKind::Unauthorized, "permission"),
        (Effect::status(404), ProblemKind::Unauthorized, "api.auth.token_url"),
        (Effect::status(405), ProblemKind::Unauthorized, "api.auth.token_url"),
        (Effect::status(408), ProblemKind::Unreachable, "token endpoint timed out"),
        (Effect::status(429), ProblemKind::RateLimited, "token endpoint asks for fewer"),
        (Effect::status(500), ProblemKind::ServerError, "token endpoint failed"),
        (Effect::Html, ProblemKind::ServerError, "token endpoint failed"),
        (status(201, "{}"), ProblemKind::Unauthorized, "api.auth.token_url"),
        (status(200, ""), ProblemKind::Unauthorized, "no JSON object"),
        (status(200, "[]"), ProblemKind::Unauthorized, "no JSON object"),
        (status(200, "{}"), ProblemKind::Unauthorized, "holds no access_token"),
        (status(200, r#"{"access_token":7}"#), ProblemKind::Unauthorized, "holds no access_token"),
        (status(200, r#"{"access_token":null}"#), ProblemKind::Unauthorized, "no access_token"),
        (status(200, r#"{"access_token":""}"#), ProblemKind::Unauthorized, "fits no header"),
        (status(200, r#"{"access_token":"a\nb"}"#), ProblemKind::Unauthorized, "fits no header"),
        (
            status(200, r#"{"access_token":"a","token_type":"mac"}"#),
            ProblemKind::Unauthorized,
            "another type than Bearer",
        ),
        (Effect::Garbage { bytes: 100 }, ProblemKind::Unauthorized, "api.auth.token_url"),
        (Effect::Huge { bytes: 1 << 30 }, ProblemKind::Unauthorized, "larger than any token"),
        (Effect::Truncate { bytes: 10 }, ProblemKind::Unreachable, "broke before"),
        (Effect::Redirect { location }, ProblemKind::Unauthorized, "redirects"),
        (Effect::Reset, ProblemKind::Unreachable, "broke before"),
    ] {
        let bench = Bench::new().await;
        let name = format!("{effect:?}");
        bench.sim.fault(Fault::new(effect).at(Endpoint::Token));
        let observation = bench.ask().await;
        let problem = problem(&observation);
        assert_eq!(problem.kind, kind, "{name}: {problem}");
        assert!(problem.message.contains(words), "{name}: {problem}");
        assert_eq!(bench.asked_of_the_api(), 0, "{name}");
        assert_eq!(bench.client.session_state(bench.session).await, observation, "{name}");
    }
}

#[tokio::test]
async fn lives_and_types_are_read_in_every_form() {
    for (rest, life) in [
        (r#""expires_in":60"#, MINUTE),
        (r#""expires_in":"60","token_type":"bearer""#, MINUTE),
        (r#""expires_in":60.0,"token_type":null"#, MINUTE),
        (r#""expires_in":null,"scope":["odd"]"#, 15 * MINUTE),
        (r#""expires_in":0"#, 15 * MINUTE),
        (r#""expires_in":-5"#, 15 * MINUTE),
        (r#""expires_in":"soon""#, 15 * MINUTE),
        (r#""expires_in":1e30"#, Duration::MAX),
    ] {
        let server = Server::start(move |mut connection| async move {
            while let Some(request) = connection.request().await {
                let body = format!(r#"{{"access_token":"a",{rest}}}"#);
                let body = if request.method == "POST" { &body } else { r#"{"state":"ONGOING"}"# };
                connection.send(&answer(200, &[], body)).await;
            }
        })
        .await;
        let mut settings = settings(&server.base_url());
        settings.auth = bearer(published_key(), &server.base_url(), &["a"]);
        let client = super::client(settings);
        assert_eq!(client.session_state(super::id()).await, Observation::Ongoing, "{rest}");
        assert_eq!(client.token_expires_in(), Some(life), "{rest}");
    }
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_is_given_up_at_the_deadline() {
    let bench = Bench::with(None, |settings, _| settings.timeout = 2 * PATIENCE).await;
    bench.client.set_timeout(Duration::from_millis(200));
    bench.sim.fault(Fault::new(Effect::Hang).at(Endpoint::Token));
    let observation = tokio::time::timeout(PATIENCE, bench.ask()).await.unwrap();
    let problem = problem(&observation);
    assert_eq!(problem.kind, ProblemKind::Unreachable);
    assert!(problem.message.contains("within 200ms"), "{problem}");
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_named_with_its_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let bench = Bench::with(None, |settings, _| {
        settings.auth = bearer(published_key(), &format!("http://{address}/token"), &["a"]);
    })
    .await;
    let observation = bench.ask().await;
    let problem = problem(&observation);
    assert_eq!(problem.kind, ProblemKind::Unreachable);
    let words = format!("{address} refuses the connection; check api.auth.token_url");
    assert!(problem.message.contains(&words), "{problem}");
}

#[tokio::test]
async fn the_token_endpoint_is_trusted_by_the_same_ca_file() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (address, _versions) = ours.server(&["h2", "http/1.1"], |_| {}).await;
    let ask = async |ca_file| {
        let url = format!("https://localhost:{}", address.port());
        let mut settings = settings(&url);
        settings.auth = bearer(published_key(), &url, &["a"]);
        settings.ca_file = Some(ca_file);
        super::client(settings).session_state(super::id()).await
    };
    let (log, guard) = Log::of_this_thread();
    assert_eq!(ask(ours.ca_file()).await, Observation::Ongoing);
    drop(guard);
    let logged = log.text();
    assert!(logged.contains("the API answered"), "{logged}");
    assert!(!logged.contains(ACCESS_TOKEN) && !logged.contains("Bearer "), "{logged}");
    let observation = ask(theirs.ca_file()).await;
    let problem = problem(&observation);
    assert_eq!(problem.kind, ProblemKind::Unreachable);
    assert!(problem.message.contains("api.ca_file"), "{problem}");
}

#[tokio::test]
async fn clocks_may_be_a_minute_apart_and_beyond_that_the_clock_is_named() {
    for seconds in [0, 60, -60] {
        let bench = Bench::new().await;
        bench.sim.set_skew_millis(seconds * 1_000);
        bench.succeed().await;
    }
    // The server tells its time in whole seconds, and ours is not at the start of one.
    for (seconds, words) in [(600, "599 s behind the server's"), (-600, "600 s ahead of")] {
        let bench = Bench::new().await;
        bench.sim.set_skew_millis(seconds * 1_000);
        let observation = bench.ask().await;
        assert!(matches!(observation, Observation::Unauthorized(_)), "{observation:?}");
        let problem = problem(&observation);
        assert_eq!(problem.kind, ProblemKind::ClockSkew);
        assert!(problem.message.contains(words), "{problem}");
    }
}

#[tokio::test]
async fn a_key_or_scope_that_the_endpoint_refuses_is_told_with_its_code() {
    let (other_key, _) = PublicKey::generate().unwrap();
    let other_key = PrivateKey::from_pem(&Secret::new(other_key.into_bytes())).unwrap();
    for (key, scope, code, refusal) in [
        (other_key, "idv:sessions", "invalid_client", TokenRefusal::WrongAssertionSignature),
        (published_key(), "other", "invalid_scope", TokenRefusal::WrongScope),
    ] {
        let bench = Bench::with(None, |settings, sim| {
            settings.auth = bearer(key, &sim.token_url(), &[scope]);
        })
        .await;
        let observation = bench.ask().await;
        assert!(matches!(observation, Observation::Unauthorized(_)), "{observation:?}");
        assert_eq!(problem(&observation).code.as_deref(), Some(code));
        assert_eq!(bench.sim.exchanges()[0].refusal, Some(Refusal::Token(refusal)));
    }
}

#[tokio::test]
async fn even_at_the_finest_level_no_token_and_no_assertion_is_logged() {
    let (log, guard) = Log::of_this_thread();
    let bench = Bench::new().await;
    let mut observations = vec![bench.ask().await];
    bench.sim.revoke_tokens();
    observations.push(bench.ask().await);
    let echo = r#"{"error":"invalid_client","error_description":"bad eyJhbGciOiJQUzM4NCIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJzZGs6MGY1YzFkNmUtc2RrIiwic3ViIjoic2RrOjBmNWMxZDZlLXNkayJ9.c2ln"}"#;
    let effect = Effect::Status { status: 401, headers: [].into(), body: Some(echo.to_owned()) };
    bench.sim.fault(Fault::new(effect).at(Endpoint::Token));
    bench.clock.pass(2 * HOUR);
    observations.push(bench.ask().await);
    drop(guard);
    let logged = log.text();
    assert!(logged.contains("an access token was given"), "{logged}");
    let shown = format!("{logged} {observations:?} {:?}", bench.client);
    for secret in
        ["simulated-access-token", "eyJ", "client_assertion", "idv:sessions", "Bearer ", SDK_ID]
    {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}
