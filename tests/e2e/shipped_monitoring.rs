//! Alerts and dashboard: they speak of what the daemon really shows, and fire when they should.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Duration, Instant, timeout};

use crate::common::{Daemon, Home, PATIENCE};

const RULES: &str = include_str!("../../deploy/prometheus/ibvwatch.rules.yml");
const RULES_TEST: &str = include_str!("../../deploy/prometheus/ibvwatch.rules.test.yml");
const PROMETHEUS: &str = include_str!("../../deploy/prometheus/prometheus.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/ibvwatch.json");
const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

/// It computes for seconds on a machine that has nothing else to do.
const PROMTOOL_PATIENCE: Duration = Duration::from_secs(180);
/// Of others: Prometheus itself, and its exporter for machines.
const FOREIGN: [&str; 3] = ["up", "node_filesystem_avail_bytes", "node_filesystem_size_bytes"];

/// An alert of the rules: its name, and its text up to the next one.
struct Alert {
    name: &'static str,
    text: &'static str,
}

fn alerts() -> Vec<Alert> {
    let blocks = RULES.split("      - alert: ").skip(1);
    let alerts: Vec<Alert> =
        blocks.map(|text| Alert { name: text.lines().next().unwrap_or_default(), text }).collect();
    assert!(alerts.len() > 20, "the alerts are not found any more");
    alerts
}

impl Alert {
    /// What comes before its expression, the expression, and what comes after it.
    fn around_expression(&self) -> (&'static str, &'static str, &'static str) {
        let (before, rest) = self.text.split_once("        expr:").expect("an expression");
        let end = ["\n        for:", "\n        labels:"]
            .iter()
            .filter_map(|key| rest.find(key))
            .min()
            .expect("a key behind it");
        (before, rest[..end].trim_start_matches(" |"), &rest[end..])
    }
}

/// The dashboard's queries, with every variable filled in.
fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                let expression = fields.get("expr").and_then(Value::as_str);
                found.extend(expression.map(str::to_owned));
                fields.values().for_each(|field| collect(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let dashboard = serde_json::from_str(DASHBOARD).expect("a dashboard in JSON");
    let mut found = Vec::new();
    collect(&dashboard, &mut found);
    assert!(found.len() > 40, "the queries are not found any more");
    let filled = |query: String| query.replace("$__rate_interval", "1m").replace("$instance", ".*");
    found.into_iter().map(filled).collect()
}

/// Runs promtool in a directory with these files; what it said, and whether it was content.
async fn promtool(arguments: &[&str], files: &[(&str, &str)]) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("a file that can be written");
    }
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(directory.path()).kill_on_drop(true);
    let output = timeout(PROMTOOL_PATIENCE, command.output()).await.expect("promtool that ends");
    let output = output.expect("a promtool that starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

async fn test_rules(rules: &str) -> (bool, String) {
    let files = [("ibvwatch.rules.yml", rules), ("ibvwatch.rules.test.yml", RULES_TEST)];
    promtool(&["test", "rules", "ibvwatch.rules.test.yml"], &files).await
}

#[tokio::test]
async fn promtool_accepts_the_alerts_and_their_tests_pass() {
    let files = [("ibvwatch.rules.yml", RULES), ("prometheus.yml", PROMETHEUS)];
    let (good, said) = promtool(&["check", "config", "prometheus.yml"], &files).await;
    assert!(good && !said.contains("FAILED"), "{said}");
    let (good, said) = test_rules(RULES).await;
    assert!(good, "{said}");
}

/// The tests of the alerts are worth something: each is seen to fire, and seen not to.
#[tokio::test]
async fn promtool_would_see_an_alert_that_never_fires_and_one_that_always_does() {
    for (expression, seen) in [("vector(0) > 1", "exp:"), ("vector(1)", "got:")] {
        let mut rules = RULES.to_owned();
        for alert in alerts() {
            let (before, _, after) = alert.around_expression();
            rules =
                rules.replace(alert.text, &format!("{before}        expr: {expression}{after}"));
        }
        let (good, said) = test_rules(&rules).await;
        assert!(!good, "{said}");
        for alert in alerts() {
            let named = format!("alertname=\"{}\"", alert.name);
            let told = said.lines().any(|line| line.contains(seen) && line.contains(&named));
            assert!(told, "no test of {} fails if it is {expression}", alert.name);
        }
    }
}

#[tokio::test]
async fn promtool_understands_every_query_of_the_dashboard() {
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, query) in queries().iter().enumerate() {
        let rule = format!("      - record: query:{number}\n        expr: {query:?}\n");
        rules.push_str(&rule);
    }
    let (good, said) =
        promtool(&["check", "rules", "queries.yml"], &[("queries.yml", &rules)]).await;
    assert!(good && said.contains(&format!("{} rules found", queries().len())), "{said}");
}

#[test]
fn every_alert_has_a_section_of_the_operations_guide_and_every_section_an_alert() {
    let headings: BTreeSet<&str> = OPERATIONS
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|heading| heading.starts_with("Ibvwatch"))
        .collect();
    assert_eq!(headings, alerts().iter().map(|alert| alert.name).collect());
    for alert in alerts() {
        let link = format!("runbook: docs/OPERATIONS.md#{}\n", alert.name.to_lowercase());
        assert!(alert.text.contains(&link), "{} doesn't link to {link}", alert.name);
        for key in ["severity:", "summary:", "description:"] {
            assert!(alert.text.contains(key), "{} has no {key}", alert.name);
        }
    }
}

/// The metrics that an expression names, each with the labels by which it is selected.
fn selected(expression: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let labels = behind.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let ours = ["ibvwatch_", "process_", "node_"].iter().any(|prefix| name.starts_with(prefix));
        if ours || labels.is_some() {
            let labels = labels.map_or("", |(inside, _)| inside);
            found.push((
                name,
                labels.split(", ").filter_map(|l| l.split_once(['=', '!'])).collect(),
            ));
        }
        // Words within braces are labels.
        rest = labels.map_or(behind, |(_, behind)| behind);
    }
    found
}

/// What a daemon shows: each sample's name, with the values of each of its labels.
fn shown(exposition: &str) -> BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> {
    let mut shown: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).expect("a name and a value");
        let labels = shown.entry(&line[..end]).or_default();
        let inside = line[end..].strip_prefix('{').and_then(|inside| inside.split_once('}'));
        for label in inside.map_or("", |(inside, _)| inside).split("\",") {
            if let Some((name, value)) = label.split_once("=\"") {
                labels.entry(name).or_default().insert(value.trim_end_matches('"'));
            }
        }
    }
    shown
}

#[tokio::test]
async fn alerts_and_dashboard_name_only_what_the_daemon_shows() {
    let mut home = Home::new().await;
    home.serve_http();
    home.set("api.auth.method", "\"bearer\"");
    let token_url = format!("{:?}", home.simulator().token_url());
    home.set("api.auth.token_url", &token_url);
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.polls(&home, id, 2).await;
    let site = daemon.site().await;

    let expressions: Vec<String> = alerts()
        .iter()
        .map(|alert| alert.around_expression().1.to_owned())
        .chain(queries())
        .collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let exposition = site.get("/metrics").await.body;
        let shown = shown(&exposition);
        let missing: BTreeSet<String> = expressions
            .iter()
            .flat_map(|expression| selected(expression))
            .filter(|(metric, _)| !FOREIGN.contains(metric))
            .flat_map(|(metric, labels)| missing(metric, &labels, &shown))
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "not shown: {missing:#?}\n{exposition}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    daemon.stop().await;
}

/// What of a selection the daemon doesn't show.
fn missing(
    metric: &str,
    labels: &[(&str, &str)],
    shown: &BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>>,
) -> Vec<String> {
    let Some(known) = shown.get(metric) else { return vec![metric.to_owned()] };
    let mut missing = Vec::new();
    // Prometheus puts these on, and mountpoint is node_exporter's.
    for (label, wanted) in labels.iter().filter(|(label, _)| !["job", "instance"].contains(label)) {
        let Some(values) = known.get(label) else {
            missing.push(format!("{metric}{{{label}}}"));
            continue;
        };
        let (_, wanted) = wanted.split_once('"').expect("a quoted value");
        for wanted in wanted.trim_end_matches('"').split('|') {
            if !values.contains(wanted) {
                missing.push(format!("{metric}{{{label}=\"{wanted}\"}}"));
            }
        }
    }
    missing
}

#[test]
fn what_is_selected_is_read_out_of_an_expression() {
    let expression = "sum by (job) (rate(ibvwatch_polls_total{job=\"ibvwatch\", outcome=~\"a|b\"}[5m])) \
                      / on (job) process_open_fds > 0";
    let found = selected(expression);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].0, "ibvwatch_polls_total");
    assert_eq!(found[0].1[1], ("outcome", "~\"a|b\""));
    assert_eq!(found[1].0, "process_open_fds");
    let shown = shown("# HELP x y\nibvwatch_polls_total{outcome=\"a\"} 1\n");
    let missing = missing(found[0].0, &found[0].1, &shown);
    assert_eq!(missing, ["ibvwatch_polls_total{outcome=\"b\"}"]);
}

#[test]
fn the_dashboard_is_one_that_grafana_can_keep() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<i64> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "ids of panels are not unique");
    assert_eq!(dashboard["uid"], "ibvwatch");
    assert!(dashboard["id"].is_null(), "an id belongs to one Grafana");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        let place = &panel["gridPos"];
        assert!(place["x"].as_i64().zip(place["w"].as_i64()).is_some_and(|(x, w)| x + w <= 24));
    }
}
