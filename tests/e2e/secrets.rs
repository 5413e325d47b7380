//! What no output may hold, looked for in all of it.

use std::collections::BTreeSet;
use std::time::Duration;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{
    Action, Effect, Endpoint, Fault, PublicKey, Requirement, SECRETS, Script, Session, World,
};
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::common::{Daemon, Home, PATIENCE, PRIVATE_KEY, Proxy, Run, SDK_ID, write_private};

/// All that was printed anywhere, and by whom.
#[derive(Default)]
struct Printed(Vec<(String, String)>);

impl Printed {
    fn add(&mut self, who: &str, text: impl Into<String>) {
        self.0.push((who.to_owned(), text.into()));
    }

    fn run(&mut self, who: &str, run: &Run) {
        self.add(who, String::from_utf8_lossy(&run.stdout));
        self.add(who, &run.stderr);
    }

    async fn command(&mut self, home: &Home, arguments: &[&str]) {
        let printed = home.run(arguments).await;
        self.add(arguments[0], printed.stdout);
        self.add(arguments[0], printed.stderr);
    }

    #[track_caller]
    fn never_holds(&self, what: &str, secret: &str) {
        assert!(secret.len() > 5, "{secret:?} would be found anywhere");
        for (who, text) in &self.0 {
            if let Some(line) = text.lines().find(|line| line.contains(secret)) {
                panic!("{what} was printed by {who}: {line}");
            }
        }
    }
}

const APPLICANT: &str = "Jane Elizabeth Applicant";
const TOKEN: &str = "the-client-session-token";

/// A configuration with more in it than the documentation shows.
fn talkative(id: SessionId) -> String {
    format!(
        "{{\"client_session_token\": \"{TOKEN}\", \"session_id\": \"{id}\",
          \"applicant_profile\": {{\"full_name\": \"{APPLICANT}\"}},
          \"capture\": {{\"required_resources\": [{{\"type\": \"ID_DOCUMENT\", \"id\": \"a\",
            \"state\": \"REQUIRED\", \"document_fields\": {{\"full_name\": \"{APPLICANT}\"}}}}]}}}}"
    )
}

#[tokio::test]
async fn no_secret_is_ever_printed_whatever_goes_wrong() {
    let mut home = Home::new().await;
    let proxy = Proxy::before(home.address()).await;
    home.set("api.base_url", &format!("{:?}", proxy.base_url()));
    home.set("log.level", "\"trace\"");
    let mut printed = Printed::default();

    let good = home.track_new();
    let done = home.create(
        Session::requiring([Requirement::passport()])
            .with_script(Script::new().at(Duration::ZERO, Action::Complete)),
    );
    home.track(done);
    let chatty = home.track_new();
    home.serve_body(chatty, talkative(chatty)).unwrap();
    let garbled = home.track_new();
    home.serve_body(garbled, talkative(garbled).replace("\"capture\"", "capture")).unwrap();
    let misplaced = home.track_new();
    let odd = talkative(misplaced).replace(&misplaced.to_string(), APPLICANT);
    home.serve_body(misplaced, odd).unwrap();
    let missing = home.track_new();
    home.delete(missing).unwrap();

    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.ended", done)).await;
    for id in [good, chatty] {
        daemon.event(|event| event.is("session.observed", id)).await;
    }
    for id in [garbled, misplaced] {
        daemon.event(|event| event.is("session.poll_failing", id)).await;
    }
    timeout(PATIENCE, home.asked(missing, 2)).await.unwrap();
    for effect in [
        Effect::status(401),
        Effect::status(500),
        Effect::status(400),
        Effect::Reset,
        Effect::Html,
        Effect::Garbage { bytes: 300 },
        Effect::Truncate { bytes: 40 },
        Effect::Redirect { location: "http://127.0.0.1:1/elsewhere".to_owned() },
        Effect::WrongSession,
    ] {
        let fault = home.fault(Fault::new(effect).on(good).times(3));
        timeout(PATIENCE, home.until(|world| world.faults().is_empty())).await.unwrap();
        home.clear_fault(fault);
    }
    daemon.signal(Signal::HUP);
    daemon.logs("configuration reloaded").await;
    printed.run("run", &daemon.stop().await);

    let id = good.to_string();
    for arguments in [
        &["sessions"][..],
        &["sessions", "--json"],
        &["show", &id],
        &["show", &id, "--json"],
        &["show", &garbled.to_string()],
        &["poll", &id],
        &["poll", &id, "--json"],
        &["poll", &chatty.to_string(), "--json"],
        &["poll", &garbled.to_string()],
        &["poll", &missing.to_string()],
        &["events"],
        &["check"],
        &["check", "--online"],
    ] {
        printed.command(&home, arguments).await;
    }

    elsewhere(&mut home, &proxy, &mut printed).await;
    let other_key = other_keys(&mut home, &proxy, &mut printed).await;
    let all = printed.0.iter().map(|(_, text)| text.len()).sum::<usize>();
    assert!(all > 100_000, "only {all} bytes were looked through");
    for key in [PRIVATE_KEY, &other_key] {
        let body = key.lines().filter(|line| !line.contains("-----"));
        body.for_each(|line| printed.never_holds("a line of a private key", line));
    }
    nothing_of(&proxy.requests(), &printed);
    for secret in SECRETS.into_iter().chain([APPLICANT, TOKEN, "Authorization", "authorization"]) {
        printed.never_holds("what is private", secret);
    }
}

#[tokio::test]
async fn no_access_token_and_no_assertion_is_ever_printed() {
    let mut home = Home::new().await;
    let proxy = Proxy::before(home.address()).await;
    home.set("api.base_url", &format!("{:?}", proxy.base_url()));
    home.set("api.auth.method", "\"bearer\"");
    home.set("api.auth.token_url", &format!("\"http://{}/v1/oauth/token\"", proxy.address));
    home.set("log.level", "\"trace\"");
    let mut printed = Printed::default();
    let id = home.track_new();
    for (endpoint, effect) in [
        (Endpoint::Token, Effect::status(401)),
        (Endpoint::Token, Effect::Garbage { bytes: 200 }),
        (Endpoint::Token, Effect::Truncate { bytes: 60 }),
        (Endpoint::Configuration, Effect::status(403)),
    ] {
        // A daemon asks for few tokens, so each of these has one of its own.
        home.fault(Fault::new(effect).at(endpoint).times(1));
        let answers = home.totals().answered(Endpoint::Configuration, 200);
        let answered =
            |world: &World| world.totals().answered(Endpoint::Configuration, 200) > answers + 1;
        let daemon = Daemon::start(&home);
        timeout(PATIENCE, home.until(answered)).await.unwrap();
        assert!(home.faults().is_empty());
        home.revoke_tokens();
        daemon.polls(&home, id, 1).await;
        printed.run("run", &daemon.stop().await);
    }
    printed.command(&home, &["poll", &id.to_string()]).await;
    printed.command(&home, &["check", "--online"]).await;
    printed.command(&home, &["show", &id.to_string(), "--json"]).await;

    let sent = proxy.requests().join("\r\n");
    let tokens: BTreeSet<&str> =
        sent.lines().filter_map(|line| line.strip_prefix("authorization: Bearer ")).collect();
    assert!(tokens.len() > 3, "{tokens:?}");
    let of_a_jwt = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let assertions: BTreeSet<&str> = sent
        .split("client_assertion=")
        .skip(1)
        .map(|rest| &rest[..rest.find(|c| !of_a_jwt(c)).unwrap_or(rest.len())])
        .collect();
    assert!(assertions.len() > 3, "{assertions:?}");
    for token in tokens {
        printed.never_holds("an access token", token);
    }
    for assertion in assertions {
        printed.never_holds("an assertion", &assertion[..40]);
        let signature = assertion.rsplit('.').next().unwrap();
        printed.never_holds("the signature of an assertion", &signature[..40]);
    }
    for part in ["simulated-access-token-", "Bearer ", "Authorization", "client_assertion="] {
        printed.never_holds("part of an authorized request", part);
    }
    let body = PRIVATE_KEY.lines().filter(|line| !line.contains("-----"));
    body.for_each(|line| printed.never_holds("a line of the private key", line));
}

/// Where nobody listens, and where somebody doesn't speak TLS.
async fn elsewhere(home: &mut Home, proxy: &Proxy, printed: &mut Printed) {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = nobody.local_addr().expect("its address");
    drop(nobody);
    for url in [format!("http://{address}"), format!("https://{}", proxy.address)] {
        home.set("api.base_url", &format!("{url:?}"));
        home.track_new();
        let mut daemon = Daemon::start(home);
        daemon.logs("failed").await;
        let id = SessionId::from_bytes([7; 16]).to_string();
        printed.command(home, &["poll", &id]).await;
        printed.command(home, &["check", "--online"]).await;
        printed.run(&url, &daemon.stop().await);
    }
}

/// Keys that the API refuses and that can't be used; returns one that might.
async fn other_keys(home: &mut Home, proxy: &Proxy, printed: &mut Printed) -> String {
    let (other_key, _) = PublicKey::generate().expect("a key");
    home.set("api.base_url", &format!("{:?}", proxy.base_url()));
    write_private(&home.path("yoti.pem"), &other_key);
    printed.command(home, &["check", "--online"]).await;
    write_private(&home.path("yoti.pem"), &PRIVATE_KEY.replace("MII", "AAA"));
    printed.command(home, &["check"]).await;
    printed.command(home, &["run"]).await;
    other_key
}

/// Nothing that signs a request was printed.
fn nothing_of(requests: &[String], printed: &Printed) {
    let mut digests = 0;
    for line in requests.iter().flat_map(|request| request.lines()) {
        if let Some(digest) = line.strip_prefix("x-yoti-auth-digest: ") {
            digests += 1;
            printed.never_holds("part of a digest", &digest[..40]);
        }
        let nonce = line.split("nonce=").nth(1).and_then(|rest| rest.split('&').next());
        if let Some(nonce) = nonce {
            printed.never_holds("a nonce", nonce);
        }
    }
    assert!(digests > 30, "{digests} digests among {:?}", requests.first());
    for part in ["sdkId=", "nonce=", "timestamp=", SDK_ID] {
        printed.never_holds("part of a signed URL", part);
    }
}
