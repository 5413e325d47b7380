//! The files that are shipped: complete, true, and accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ibvwatch::config::{Config, Environment, load};
use ibvwatch::directory::survey;

const SHIPPED: &str = include_str!("../../config/ibvwatch.toml");

/// The contract's keys and defaults, as TOML; nothing where the key has none or depends on the
/// system.
const CONTRACT: &[(&str, &str)] = &[
    ("api.base_url", "\"https://api.yoti.com/idverify/v1\""),
    ("api.configuration_path", "\"/sessions/{session_id}/configuration\""),
    ("api.session_path", "\"/sessions/{session_id}\""),
    ("api.sdk_id", ""),
    ("api.timeout", "\"10s\""),
    ("api.connect_timeout", "\"5s\""),
    ("api.max_response_size", "\"1MiB\""),
    ("api.ca_file", ""),
    ("api.auth.method", "\"signed_request\""),
    ("api.auth.private_key_file", ""),
    ("api.auth.token_url", "\"https://auth.api.yoti.com/v1/oauth/token\""),
    ("api.auth.scopes", "[\"idv:sessions\"]"),
    ("sessions.directories", "[\"/etc/ibvwatch/sessions.d\"]"),
    ("sessions.rescan_interval", "\"60s\""),
    ("sessions.removal_grace", "\"10s\""),
    ("poll.interval", "\"5m\""),
    ("poll.active_interval", "\"30s\""),
    ("poll.active_for", "\"15m\""),
    ("poll.jitter", "0.1"),
    ("poll.rate_limit", "10"),
    ("poll.burst", "20"),
    ("poll.max_in_flight", "8"),
    ("poll.final_poll_before_expiry", "\"30s\""),
    ("poll.stop_on_completed", "true"),
    ("poll.unknown_ttl", "\"31d\""),
    ("poll.backoff_initial", "\"1s\""),
    ("poll.backoff_max", "\"5m\""),
    ("poll.failing_after", "3"),
    ("poll.expiring_before", "\"24h\""),
    ("store.kind", "\"sqlite\""),
    ("store.path", "\"/var/lib/ibvwatch/ibvwatch.db\""),
    ("store.retention", "\"30d\""),
    ("store.jetstream.servers", "[\"nats://127.0.0.1:4222\"]"),
    ("store.jetstream.credentials_file", ""),
    ("store.jetstream.nkey_file", ""),
    ("store.jetstream.ca_file", ""),
    ("store.jetstream.certificate_file", ""),
    ("store.jetstream.key_file", ""),
    ("store.jetstream.name", "\"ibvwatch\""),
    ("store.jetstream.replicas", "1"),
    ("store.jetstream.node", ""),
    ("store.jetstream.owner", ""),
    ("events.source", "\"ibvwatch\""),
    ("sinks.stdout.enabled", "true"),
    ("http.listen", "\"127.0.0.1:9478\""),
    ("http.allowed_hosts", "[\"localhost\", \"127.0.0.1\", \"[::1]\"]"),
    ("log.level", "\"info\""),
    ("log.format", "\"text\""),
];

/// The key of a line that is one, commented out or not, and its value.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")?;
    let is_key = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
    (!key.is_empty() && key.chars().all(is_key)).then_some((key, value))
}

/// Every key in the shipped file, in full, with its value.
fn documented() -> BTreeMap<String, String> {
    let mut section = "";
    let mut documented = BTreeMap::new();
    for line in SHIPPED.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, value)) = setting(line) {
            let before = documented.insert(format!("{section}.{key}"), value.to_owned());
            assert_eq!(before, None, "{section}.{key} is documented twice");
        }
    }
    documented
}

fn loaded(text: &str) -> Config {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.toml");
    fs::write(&file, text).expect("a file that can be written");
    let loaded = load(&[file], &Environment::new());
    loaded.complete().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_shipped_configuration_is_accepted_and_its_comments_state_the_defaults() {
    let shipped = loaded(SHIPPED);
    let uncommented: Vec<&str> = SHIPPED
        .lines()
        .map(|line| match setting(line) {
            // The one example that is no default.
            Some(("ca_file", _)) | None => line,
            Some(_) => line.strip_prefix('#').unwrap_or(line),
        })
        .collect();
    let spelt_out = loaded(&uncommented.join("\n"));
    assert_eq!(spelt_out.api, shipped.api);
    assert_eq!(spelt_out.sessions, shipped.sessions);
    assert_eq!(spelt_out.policy, shipped.policy);
    assert_eq!(spelt_out.limits, shipped.limits);
    assert_eq!(spelt_out.store, shipped.store);
    assert_eq!(spelt_out.events, shipped.events);
    assert_eq!(spelt_out.http, shipped.http);
    assert_eq!(spelt_out.log, shipped.log);
    assert!(uncommented.len() > 100 && documented().len() > 30);
}

#[test]
fn the_shipped_configuration_has_the_keys_and_defaults_of_the_contract() {
    let documented = documented();
    let keys: BTreeSet<&str> = documented.keys().map(String::as_str).collect();
    assert_eq!(keys, CONTRACT.iter().map(|(key, _)| *key).collect());
    for (key, default) in CONTRACT.iter().filter(|(_, default)| !default.is_empty()) {
        assert_eq!(documented[*key], *default, "{key}");
    }
}

#[test]
fn the_examples_of_session_files_are_good() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sessions.d");
    let survey = survey(&[PathBuf::from(&directory)]);
    assert!(survey.problems.is_empty(), "{:?}", survey.problems);
    assert!(survey.warnings.is_empty(), "{:?}", survey.warnings);
    assert!(survey.files >= 3 && survey.entries.len() >= 5, "{survey:?}");
    let with = |has: fn(&ibvwatch::domain::Entry) -> bool| survey.entries.iter().any(has);
    assert!(with(|entry| !entry.labels.is_empty()));
    assert!(with(|entry| entry.expires_at.is_some()));
    assert!(with(|entry| entry.interval.is_some()));
}
