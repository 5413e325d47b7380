//! How a node is let in, and what it may do then: by TLS and certificates, by an `NKey`, by a JWT, with
//! the accounts that are shipped.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::{Client, ConnectOptions, Event, ServerError};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use ibvwatch::domain::SessionId;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::server::Server;
use super::shipped::Shipped;
use crate::common::{Daemon, Home, PATIENCE, write_private};

/// A home whose daemons go to one server as it is shipped.
async fn shipped() -> (Home, Server, Shipped) {
    let shipped = Shipped::new();
    let (home, server) = at(&shipped).await;
    (home, server, shipped)
}

async fn at(shipped: &Shipped) -> (Home, Server) {
    let server = shipped.start();
    let mut home = Home::new().await;
    shipped.share(&mut home, &[&server]);
    (home, server)
}

/// All that is promised of a node works, and what `check --online` says.
async fn works(home: &Home) -> String {
    let id = home.track_new();
    let mut daemon = Daemon::start(home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.set_state(id, 0, "IN_PROGRESS").expect("a resource that is listed");
    daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    let listed = home.run(&["sessions"]).await.succeeded();
    assert!(listed.contains("1 session") && listed.contains("a ("), "{listed}");
    let shown = home.run(&["show", &id.to_string()]).await.succeeded();
    assert!(shown.contains("IN_PROGRESS"), "{shown}");
    let said = home.run(&["check", "--online"]).await.succeeded();
    let run = daemon.stop().await;
    assert_eq!(home.recorded().await, String::from_utf8_lossy(&run.stdout));
    assert!(!run.stderr.contains("ERROR"), "{}", run.stderr);
    said
}

/// What `check --online` complains of.
async fn refused(home: &Home) -> String {
    home.run(&["check", "--online"]).await.refused(78)
}

/// Whether a subject is one of a pattern's.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, subject.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

#[tokio::test]
async fn nats_the_shipped_accounts_give_a_node_what_it_needs_and_no_more() {
    let (mut home, server, shipped) = shipped().await;
    home.set("store.retention", "\"3s\"");
    let nothing = "{\"export\":{\"version\":1,\"last_sequence\":0}}\n{\"end\":{\"lines\":1}}\n";
    std::fs::write(home.path("nothing.ndjson"), nothing).expect("a file that can be written");
    home.run(&["import", "nothing.ndjson"]).await.succeeded();
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    let said = home.run(&["check", "--online"]).await.succeeded();
    assert!(said.contains("one copy, fsynced always"), "{said}");
    // The server forgets what its clients listened by.
    let port = server.port;
    drop(server);
    daemon.logs("NATS can't be used").await;
    let _server = shipped.start_at(Some(port));
    home.set_state(id, 0, "IN_PROGRESS").expect("a resource that is listed");
    daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    let purged = async {
        while home.recorded().await.contains("session.tracked") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, purged).await.expect("old events are removed");
    daemon.stop().await;
    home.run(&["export"]).await.succeeded();

    let log = shipped.log();
    assert!(!log.contains("Violation"), "{log}");
    let published = |line: &str| {
        let (_, message) = line.split_once("PUB ")?;
        message.split(' ').next().map(str::to_owned)
    };
    let published: Vec<String> = log.lines().filter_map(published).collect();
    assert!(Shipped::allowed().len() > 10, "{:?}", Shipped::allowed());
    for allowed in Shipped::allowed() {
        let is_used = published.iter().any(|subject| covers(allowed, subject));
        assert!(is_used, "{allowed} is allowed and never used");
    }
}

#[tokio::test]
async fn nats_three_servers_as_shipped_take_nodes_and_go_on_without_one() {
    let shipped = Shipped::new();
    let (mut servers, _directories) = shipped.start_three();
    let mut home = Home::new().await;
    shipped.share(&mut home, &servers.iter().collect::<Vec<_>>());
    let said = works(&home).await;
    assert!(said.contains("replicated to 3, fsynced always"), "{said}");
    servers.pop();
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    daemon.stop().await;
}

#[tokio::test]
async fn nats_whoever_is_not_trusted_is_told_what_is_wrong_and_how_to_mend_it() {
    let (mut home, server, shipped) = shipped().await;
    let others = Shipped::new();
    let path = |path: std::path::PathBuf| format!("{:?}", path.display().to_string());
    let (ours, theirs) = (|name| path(shipped.file(name)), |name| path(others.file(name)));
    std::fs::write(home.path("empty.pem"), "").expect("a file that can be written");
    let empty = path(home.path("empty.pem"));
    let missing = path(home.path("missing.pem"));
    let key = |key: &str| format!("store.jetstream.{key}");
    for (setting, wrong, said) in [
        (
            "ca_file",
            Some(theirs("ca.pem")),
            "a certificate that nobody trusted has signed: set store.jetstream.ca_file",
        ),
        ("ca_file", None, "set store.jetstream.ca_file (not set)"),
        ("ca_file", Some(missing.clone()), "missing.pem: No such file or directory"),
        ("ca_file", Some(empty.clone()), "empty.pem holds no certificate"),
        ("certificate_file", Some(missing), "store.jetstream.certificate_file: "),
        ("certificate_file", Some(empty.clone()), "empty.pem holds no certificate"),
        ("key_file", Some(empty), "empty.pem holds no private key"),
        ("key_file", Some(ours("reader-key.pem")), "key_file ("),
    ] {
        let right = match setting {
            "ca_file" => ours("ca.pem"),
            "key_file" => ours("ibvwatch-key.pem"),
            _ => ours("ibvwatch.pem"),
        };
        match wrong {
            Some(wrong) => home.set(&key(setting), &wrong),
            None => home.unset(&key(setting)),
        }
        let complaint = refused(&home).await;
        assert!(complaint.contains(said), "{said}: {complaint}");
        home.set(&key(setting), &right);
    }
    let with = |home: &mut Home, certificate: String, its_key: String| {
        home.set(&key("certificate_file"), &certificate);
        home.set(&key("key_file"), &its_key);
    };
    with(&mut home, theirs("ibvwatch.pem"), theirs("ibvwatch-key.pem"));
    let complaint = refused(&home).await;
    assert!(complaint.contains("doesn't accept store.jetstream.certificate_file ("), "{complaint}");
    with(&mut home, ours("reader.pem"), ours("reader-key.pem"));
    let run = Daemon::start(&home).ended().await;
    assert_eq!(run.status.code(), Some(78), "{}", run.stderr);
    let said = "Permissions Violation for Publish to \"$JS.API.STREAM.CREATE.ibvwatch\"";
    assert!(run.stderr.contains(said), "{}", run.stderr);
    home.unset(&key("certificate_file"));
    home.unset(&key("key_file"));
    let complaint = refused(&home).await;
    assert!(complaint.contains("set store.jetstream.certificate_file and key_file"), "{complaint}");
    with(&mut home, ours("ibvwatch.pem"), ours("ibvwatch-key.pem"));
    home.set(&key("servers"), &format!("[\"tls://127.0.0.1:{}\"]", server.port));
    let complaint = refused(&home).await;
    assert!(complaint.contains("a certificate for another name"), "{complaint}");
    home.set(&key("servers"), &format!("[\"tls://localhost:{}\"]", server.port));
    works(&home).await;
}

#[tokio::test]
async fn nats_a_certificate_that_is_no_user_is_refused() {
    let mut shipped = Shipped::new();
    shipped.allow("CN=ibvwatch", "CN=another");
    let (home, _server) = at(&shipped).await;
    let complaint = refused(&home).await;
    assert!(complaint.contains("refuses this node"), "{complaint}");
    assert!(complaint.contains("it shows store.jetstream.certificate_file ("), "{complaint}");
    let run = Daemon::start(&home).ended().await;
    assert_eq!(run.status.code(), Some(78), "{}", run.stderr);
}

#[tokio::test]
async fn nats_a_server_without_tls_is_told_from_one_that_refuses() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start(directory.path());
    let mut home = Home::new().await;
    Shipped::new().share(&mut home, &[&server]);
    let shipped = Shipped::new();
    for (key, file) in [
        ("ca_file", "ca.pem"),
        ("certificate_file", "ibvwatch.pem"),
        ("key_file", "ibvwatch-key.pem"),
    ] {
        let path = shipped.file(file).display().to_string();
        home.set(&format!("store.jetstream.{key}"), &format!("{path:?}"));
    }
    let complaint = refused(&home).await;
    assert!(complaint.contains("check that the servers have it"), "{complaint}");
}

#[tokio::test]
async fn nats_a_right_that_is_missing_is_named() {
    for missing in [
        "$JS.API.STREAM.INFO.ibvwatch",
        "$JS.API.STREAM.MSG.GET.ibvwatch",
        "$JS.API.CONSUMER.CREATE.ibvwatch.>",
        "ibvwatch.>",
    ] {
        let mut shipped = Shipped::new();
        shipped.allow(&format!("\"{missing}\""), "");
        let (home, _server) = at(&shipped).await;
        let run = Daemon::start(&home).ended().await;
        assert_eq!(run.status.code(), Some(78), "{missing}: {}", run.stderr);
        let (subject, _) = missing.split_once(".>").unwrap_or((missing, ""));
        let said = format!("Permissions Violation for Publish to \"{subject}");
        assert!(run.stderr.contains(&said), "{said}: {}", run.stderr);
        assert!(run.stderr.contains("deploy/nats/accounts.conf"), "{}", run.stderr);
    }
    let mut shipped = Shipped::new();
    shipped.allow("\"$JS.API.DIRECT.GET.ibvwatch\"", "");
    let (home, _server) = at(&shipped).await;
    home.track_new();
    // What is missed only later is no reason to end: somebody may give it.
    let mut daemon = Daemon::start(&home);
    daemon.logs("Permissions Violation for Publish to \"$JS.API.DIRECT.GET.ibvwatch\"").await;
    daemon.logs("NATS can't be used, trying again until it can: NATS denies").await;
}

/// Somebody with a certificate, and what the servers say that it may not do.
struct User {
    client: Client,
    denied: mpsc::UnboundedReceiver<String>,
}

impl User {
    async fn of(shipped: &Shipped, server: &Server, name: &str) -> Self {
        let (sender, denied) = mpsc::unbounded_channel();
        let options = ConnectOptions::new()
            .add_root_certificates(shipped.file("ca.pem"))
            .add_client_certificate(
                shipped.file(&format!("{name}.pem")),
                shipped.file(&format!("{name}-key.pem")),
            )
            .event_callback(move |event| {
                if let Event::ServerError(ServerError::Other(said)) = event {
                    // Nobody asks any more at the end of a test.
                    let _ = sender.send(said);
                }
                std::future::ready(())
            });
        let url = format!("tls://localhost:{}", server.port);
        Self { client: options.connect(url).await.expect("a server that lets it in"), denied }
    }

    async fn may_not_publish(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "x".into()).await.expect("a connection");
        self.is_denied("Publish", subject).await;
    }

    async fn may_not_listen(&mut self, subject: &str) {
        let _heard = self.client.subscribe(subject.to_owned()).await.expect("a connection");
        self.is_denied("Subscription", subject).await;
    }

    async fn is_denied(&mut self, what: &str, subject: &str) {
        let wanted = format!("Permissions Violation for {what} to \"{subject}\"");
        let said = timeout(Duration::from_secs(10), self.denied.recv()).await;
        let said = said.unwrap_or_else(|_| panic!("{what} to {subject} is allowed"));
        assert_eq!(said, Some(wanted));
    }
}

#[tokio::test]
async fn nats_a_node_and_a_reader_may_not_do_what_is_not_theirs() {
    let (home, server, shipped) = shipped().await;
    works(&home).await;
    let mut node = User::of(&shipped, &server, "ibvwatch").await;
    for subject in [
        "elsewhere",
        "$JS.API.STREAM.DELETE.ibvwatch",
        "$JS.API.STREAM.UPDATE.ibvwatch",
        "$JS.API.STREAM.CREATE.another",
        "$JS.API.STREAM.SNAPSHOT.ibvwatch",
        "$JS.API.STREAM.LEADER.STEPDOWN.ibvwatch",
        "$JS.API.ACCOUNT.PURGE.IBVWATCH",
        "$SYS.REQ.SERVER.PING.CONNZ",
        "$SYS.REQ.SERVER.RELOAD",
    ] {
        node.may_not_publish(subject).await;
    }
    for subject in [">", "$SYS.>", "ibvwatch.state.>"] {
        node.may_not_listen(subject).await;
    }

    let mut reader = User::of(&shipped, &server, "reader").await;
    let id = SessionId::from_bytes([7; 16]);
    for subject in [
        &format!("ibvwatch.event.{id}.1"),
        "ibvwatch.schedule.x",
        "$JS.API.DIRECT.GET.ibvwatch",
        "$JS.API.STREAM.MSG.GET.ibvwatch",
        "$JS.API.STREAM.PURGE.ibvwatch",
        "$JS.API.CONSUMER.CREATE.ibvwatch.reader.ibvwatch.state.>",
        "$JS.API.CONSUMER.CREATE.ibvwatch.reader",
        "$JS.API.CONSUMER.CREATE.ibvwatch.sink-stdout.ibvwatch.event.>",
        "$JS.API.CONSUMER.MSG.NEXT.ibvwatch.sink-stdout",
        "$JS.API.CONSUMER.DELETE.ibvwatch.polls",
        "$JS.ACK.ibvwatch.sink-stdout.1.1.1.1.1",
    ] {
        reader.may_not_publish(subject).await;
    }
    for subject in ["ibvwatch.event.>", "$JS.>"] {
        reader.may_not_listen(subject).await;
    }
    let read = read_all(&reader.client).await;
    assert_eq!(read.len(), home.recorded().await.lines().count());
    assert!(reader.denied.try_recv().is_err(), "what it needs is denied");
}

/// Servers that know users by keys, and show a certificate without asking for one.
fn without_certificates_of_users() -> Shipped {
    let mut shipped = Shipped::new();
    shipped.configure("verify_and_map: true", "");
    shipped
}

fn shows(home: &mut Home, key: &str, text: &str) {
    home.unset("store.jetstream.certificate_file");
    home.unset("store.jetstream.key_file");
    let path = home.path(key);
    write_private(&path, text);
    home.set(&format!("store.jetstream.{key}"), &format!("{:?}", path.display().to_string()));
}

#[tokio::test]
async fn nats_a_node_is_let_in_by_its_nkey_and_by_no_other() {
    let (known, unknown) = (KeyPair::new_user(), KeyPair::new_user());
    let mut shipped = without_certificates_of_users();
    shipped.allow("user: \"CN=ibvwatch\"", &format!("nkey: {:?}", known.public_key()));
    let (mut home, _server) = at(&shipped).await;
    shows(&mut home, "nkey_file", &format!("{}\n", known.seed().expect("a seed")));
    let said = works(&home).await;
    assert!(said.contains("one copy, fsynced always"), "{said}");

    shows(&mut home, "nkey_file", &unknown.seed().expect("a seed"));
    let complaint = refused(&home).await;
    assert!(complaint.contains("refuses this node"), "{complaint}");
    assert!(complaint.contains("it shows store.jetstream.nkey_file ("), "{complaint}");
    shows(&mut home, "nkey_file", &known.public_key());
    let complaint = refused(&home).await;
    assert!(complaint.contains("nkey_file holds no seed of an NKey"), "{complaint}");
    std::fs::remove_file(home.path("nkey_file")).expect("a file to remove");
    let complaint = refused(&home).await;
    assert!(complaint.contains("store.jetstream.nkey_file: "), "{complaint}");
    home.unset("store.jetstream.nkey_file");
    let complaint = refused(&home).await;
    assert!(complaint.contains("it shows nothing: set store.jetstream."), "{complaint}");
}

/// A JWT as NATS has it, issued and signed by a key.
fn jwt(issuer: &KeyPair, subject: &str, nats: &Value, expires: Option<i64>) -> String {
    let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let mut claims = json!({
        "jti": subject,
        "iat": 1,
        "iss": issuer.public_key(),
        "name": "name",
        "sub": subject,
        "nats": nats,
    });
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    let text =
        format!("{}.{}", encoded(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encoded(&claims));
    let signature = issuer.sign(text.as_bytes()).expect("a key that signs");
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// What nsc makes for a user with a node's rights.
fn credentials(account: &KeyPair, user: &KeyPair, expires: Option<i64>) -> String {
    let rights = json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "pub": { "allow": Shipped::allowed() }, "sub": { "allow": ["_INBOX.>"] },
    });
    let jwt = jwt(account, &user.public_key(), &rights, expires);
    let seed = user.seed().expect("a seed");
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[tokio::test]
async fn nats_a_node_is_let_in_by_its_credentials_and_by_no_others() {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let of_an_account = |storage: i64| {
        json!({ "type": "account", "version": 2, "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "disk_storage": storage, "streams": 1, "consumer": 64,
        }})
    };
    let mut shipped = without_certificates_of_users();
    let (system, own) = (system.public_key(), account.public_key());
    shipped.accounts(&format!(
        "operator: {}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n  {system}: {}\n  \
         {own}: {}\n}}\n",
        jwt(&operator, &operator.public_key(), &json!({ "type": "operator", "version": 2 }), None),
        jwt(&operator, &system, &of_an_account(0), None),
        jwt(&operator, &own, &of_an_account(1 << 30), None),
    ));
    let (mut home, _server) = at(&shipped).await;
    shows(&mut home, "credentials_file", &credentials(&account, &user, None));
    let said = works(&home).await;
    // Nobody has told this account how often the servers sync.
    assert!(said.contains("one copy, fsynced nobody here knows how often"), "{said}");

    for wrong in [
        credentials(&KeyPair::new_account(), &user, None),
        credentials(&account, &user, Some(1_000_000_000)),
    ] {
        shows(&mut home, "credentials_file", &wrong);
        let complaint = refused(&home).await;
        assert!(complaint.contains("refuses this node"), "{complaint}");
        assert!(complaint.contains("it shows store.jetstream.credentials_file ("), "{complaint}");
    }
    shows(&mut home, "credentials_file", "nothing\n");
    let complaint = refused(&home).await;
    assert!(complaint.contains("credentials_file: cannot parse user JWT"), "{complaint}");
}

/// As docs/CLUSTER.md has it.
async fn read_all(client: &Client) -> Vec<String> {
    let context = async_nats::jetstream::new(client.clone());
    let stream = context.get_stream("ibvwatch").await.expect("a stream");
    let config = pull::Config {
        durable_name: Some("reader".to_owned()),
        filter_subject: "ibvwatch.event.>".to_owned(),
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer("reader", config).await.expect("a consumer");
    let mut read = Vec::new();
    let mut messages = consumer.fetch().messages().await.expect("messages");
    while let Some(message) = messages.next().await {
        let message = message.expect("a message");
        message.double_ack().await.expect("an acknowledgement");
        read.push(message.subject.to_string());
    }
    stream.delete_consumer("reader").await.expect("its own consumer");
    read
}
