//! `/metrics`, as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;
use ibvwatch::clock::{Clock, SystemClock};
use ibvwatch::sim::{Effect, Fault};
use rustix::process::Signal;

use crate::common::{Daemon, Home, PATIENCE, Site};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// The figures of one moment.
#[derive(Debug)]
struct Figures(String);

/// What is said of a family of series.
#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    help: String,
    unit: String,
    /// Names of the labels, with all values that were seen.
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Figures {
    async fn of(site: &Site) -> Self {
        let answer = site.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        Self(answer.body)
    }

    async fn in_open_metrics(site: &Site) -> Self {
        let answer = site.ask(Method::GET, "/metrics", &[("accept", OPEN_METRICS)]).await;
        let content_type = &answer.headers["content-type"];
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Self(answer.body)
    }

    /// Waits until they are as wanted.
    async fn until(site: &Site, wanted: impl Fn(&Self) -> bool) -> Self {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let figures = Self::of(site).await;
            if wanted(&figures) {
                return figures;
            }
            assert!(tokio::time::Instant::now() < deadline, "{}", figures.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Each series with its value.
    fn samples(&self) -> impl Iterator<Item = (&str, f64)> {
        let samples = self.0.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            (series, value.parse().expect("a number"))
        })
    }

    fn series(&self) -> BTreeSet<&str> {
        self.samples().map(|(series, _)| series).collect()
    }

    /// What one series shows.
    fn value(&self, series: &str) -> f64 {
        let mut matching = self.samples().filter(|(known, _)| *known == series);
        matching.next().unwrap_or_else(|| panic!("no {series} in\n{}", self.0)).1
    }

    fn shows(&self, series: &str, value: f64) -> bool {
        (self.value(series) - value).abs() < f64::EPSILON
    }

    fn families(&self) -> BTreeMap<String, Family> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        for line in self.0.lines() {
            if let Some(comment) = line.strip_prefix("# ")
                && comment != "EOF"
            {
                let mut words = comment.splitn(3, ' ').map(str::to_owned);
                let mut next = || words.next().expect("another word");
                let (what, name, value) = (next(), next(), next());
                let family = families.entry(name).or_default();
                match what.as_str() {
                    "TYPE" => family.kind = value,
                    "HELP" => family.help = value,
                    "UNIT" => family.unit = value,
                    other => panic!("{other}"),
                }
            }
        }
        for series in self.series() {
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let suffixes = ["", "_total", "_info", "_bucket", "_sum", "_count"];
            let mut names = suffixes.iter().filter_map(|suffix| name.strip_suffix(suffix));
            let name = names.find(|name| families.contains_key(*name));
            let name = name.unwrap_or_else(|| panic!("{series} is of no family"));
            let family = families.get_mut(name).expect("a family that was found");
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').expect("a label and its value");
                let values = family.labels.entry(label.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
        families
    }
}

/// What promtool has to say against the figures.
fn promtool(figures: &Figures) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    let mut input = promtool.stdin.take().expect("its standard input");
    input.write_all(figures.0.as_bytes()).expect("an input that is read");
    drop(input);
    let output = promtool.wait_with_output().expect("its end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A daemon that has done a bit of everything that figures tell of.
async fn busy() -> (Home, Daemon, Site) {
    let mut home = Home::new().await;
    home.serve_http();
    home.set("api.auth.method", "\"bearer\"");
    home.set("api.auth.token_url", &format!("{:?}", home.token_url()));
    home.set("poll.active_for", "\"1h\"");
    home.put("bad.json", "{");
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    let id = home.track_new();
    daemon.event(|event| event.kind() == "session.observed").await;
    home.set_state(id, 0, "IN_PROGRESS").expect("a resource that is there");
    daemon.event(|event| event.kind() == "resource.state_changed").await;
    (home, daemon, site)
}

#[tokio::test]
async fn promtool_finds_nothing_wrong() {
    let (_home, daemon, site) = busy().await;
    let complaints = promtool(&Figures::of(&site).await);
    assert_eq!(complaints, "");
    daemon.stop().await;
}

/// By the rules of OpenMetrics 1.0.0 that its text form can break.
#[tokio::test]
async fn open_metrics_is_what_it_says() {
    let (_home, daemon, site) = busy().await;
    let figures = Figures::in_open_metrics(&site).await;
    assert!(figures.0.ends_with("\n# EOF\n") && figures.0.matches("# EOF").count() == 1);
    let mut family = String::new();
    let mut seen = BTreeSet::new();
    for line in figures.0.lines().filter(|line| *line != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let name = comment.split(' ').nth(1).expect("a name");
            if name != family {
                assert!(seen.insert(name.to_owned()), "{name} is not in one piece");
                name.clone_into(&mut family);
            }
        } else {
            assert!(line.starts_with(&family), "{line} does not belong to {family}");
        }
    }
    for (name, family) in figures.families() {
        let of_family = |series: &&str| {
            let name = format!("{name}{}", if family.kind == "counter" { "_total" } else { "" });
            series.split('{').next() == Some(&name)
        };
        match family.kind.as_str() {
            "counter" | "gauge" => assert!(figures.series().iter().any(of_family), "{name}"),
            "histogram" => assert!(figures.0.contains(&format!("{name}_bucket{{le=\"+Inf\"}}"))),
            "info" => assert!(figures.0.contains(&format!("{name}_info{{"))),
            other => panic!("{name} is a {other}"),
        }
        assert!(!name.ends_with("_total"), "{name}");
        assert!(family.unit.is_empty() || name.ends_with(&format!("_{}", family.unit)), "{name}");
        assert!(family.help.ends_with('.'), "{name}: {}", family.help);
    }
    daemon.stop().await;
}

#[tokio::test]
async fn the_figures_say_what_has_happened() {
    let (home, daemon, site) = busy().await;
    let figures = Figures::until(&site, |figures| {
        figures.shows("ibvwatch_sink_undelivered_events{sink=\"stdout\"}", 0.0)
            && figures.shows("ibvwatch_directory_problems", 1.0)
            && figures.value("ibvwatch_polls_total{outcome=\"ok\"}") >= 3.0
    })
    .await;
    let expected = [
        ("ibvwatch_sessions{phase=\"active\"}", 1.0),
        ("ibvwatch_sessions{phase=\"ended\"}", 0.0),
        ("ibvwatch_resources{state=\"required\"}", 2.0),
        ("ibvwatch_resources{state=\"in_progress\"}", 1.0),
        ("ibvwatch_events_total{type=\"ibvwatch.session.observed\"}", 1.0),
        ("ibvwatch_events_total{type=\"ibvwatch.resource.state_changed\"}", 1.0),
        ("ibvwatch_api_unavailable{cause=\"unauthorized\"}", 0.0),
        ("ibvwatch_sink_failures_total{sink=\"stdout\"}", 0.0),
        ("ibvwatch_directory_files", 2.0),
        ("ibvwatch_directory_sessions", 1.0),
        ("ibvwatch_directory_errors_total", 1.0),
        ("ibvwatch_store_write_failing", 0.0),
    ];
    for (series, value) in expected {
        assert!(figures.shows(series, value), "{series} in {}", figures.0);
    }
    let polls = figures.value("ibvwatch_poll_duration_seconds_count");
    assert!(figures.value("ibvwatch_poll_lateness_seconds_count") >= polls);
    assert!(figures.value("ibvwatch_store_commit_duration_seconds_count") >= 3.0);
    let on_disk = |name: &str| std::fs::metadata(home.path(name)).expect("a file").len();
    let bytes = on_disk("ibvwatch.db") + on_disk("ibvwatch.db-wal");
    assert_eq!(format!("{bytes}"), format!("{}", figures.value("ibvwatch_store_size_bytes")));
    let now = SystemClock.now().wall.as_seconds();
    let expiry = figures.value("ibvwatch_token_expiry_timestamp_seconds");
    assert!((now..now + 86_400.0).contains(&expiry), "{expiry} at {now}");
    let recent = [
        "ibvwatch_poll_loop_heartbeat_timestamp_seconds",
        "ibvwatch_directory_last_scan_timestamp_seconds",
        "process_start_time_seconds",
    ];
    for series in recent {
        assert!((now - 60.0..now + 1.0).contains(&figures.value(series)), "{series} at {now}");
    }
    home.remove("bad.json");
    Figures::until(&site, |figures| {
        figures.shows("ibvwatch_directory_problems", 0.0)
            && figures.shows("ibvwatch_directory_errors_total", 1.0)
            && figures.0.contains("ibvwatch_directory_last_good_scan_timestamp_seconds ")
    })
    .await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_reload_neither_forgets_errors_nor_counts_them_twice() {
    let (mut home, mut daemon, site) = busy().await;
    let counted = |figures: &Figures| {
        figures.shows("ibvwatch_directory_problems", 1.0)
            && figures.shows("ibvwatch_directory_errors_total", 1.0)
    };
    Figures::until(&site, counted).await;
    home.set("sessions.rescan_interval", "\"59s\"");
    let before = SystemClock.now().wall.as_seconds();
    daemon.signal(Signal::HUP);
    daemon.logs("configuration reloaded").await;
    let scanned = "ibvwatch_directory_last_scan_timestamp_seconds";
    let figures = Figures::until(&site, |figures| figures.value(scanned) > before).await;
    assert!(counted(&figures), "{}", figures.0);
    assert_eq!(daemon.log().matches("bad.json").count(), 1, "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn whatever_the_api_says_no_series_is_added() {
    let (home, daemon, site) = busy().await;
    home.remove("bad.json");
    let before = Figures::until(&site, |figures| {
        figures.0.contains("ibvwatch_directory_last_good_scan_timestamp_seconds ")
    })
    .await;
    let id = home.track_new();
    for n in 0..30 {
        let state = format!("STATE_{n}\",outcome=\"{n}\"}} 1\nibvwatch_invented_{n}");
        home.set_state(id, 0, &state).expect("a resource that is there");
        daemon.polls(&home, id, 2).await;
    }
    let after =
        Figures::until(&site, |figures| figures.shows("ibvwatch_resources{state=\"other\"}", 1.0))
            .await;
    assert_eq!(before.series(), after.series());
    for status in [400, 418, 500, 599] {
        let body = format!("{{\"code\": \"CODE_{status}\", \"message\": \"no\"}}");
        let effect = Effect::Status { status, headers: BTreeMap::new(), body: Some(body) };
        home.fault(Fault::new(effect).on(id).times(2));
        daemon.polls(&home, id, 4).await;
    }
    let after = Figures::of(&site).await;
    assert_eq!(before.series(), after.series());
    daemon.stop().await;
}

#[tokio::test]
async fn every_metric_is_documented_as_it_is() {
    let (home, daemon, site) = busy().await;
    home.remove("bad.json");
    let there = |figures: &Figures| {
        figures.0.contains("ibvwatch_directory_last_good_scan_timestamp_seconds ")
    };
    let text = Figures::until(&site, there).await;
    let units = Figures::in_open_metrics(&site).await.families();
    let unit = |name: &str| {
        let family = ["_total", "_info"].iter().find_map(|suffix| name.strip_suffix(suffix));
        units.get(family.unwrap_or(name)).map(|family| family.unit.clone()).unwrap_or_default()
    };
    let mut rows = BTreeSet::new();
    for (name, family) in text.families() {
        let labels: Vec<String> = family
            .labels
            .iter()
            .filter_map(|(label, values)| {
                let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
                match label.as_str() {
                    "le" => None,
                    "sink" | "version" => Some(format!("`{label}`")),
                    label => Some(format!("`{label}`: {}", values.join(" "))),
                }
            })
            .collect();
        let Family { kind, help, .. } = family;
        rows.insert(format!(
            "| `{name}` | {kind} | {} | {} | {help} |",
            labels.join("; "),
            unit(&name)
        ));
    }
    // What a cluster shows beside, its own tests look at.
    let (documented, _) =
        include_str!("../../docs/METRICS.md").split_once("## In a cluster").expect("that section");
    let documented = documented.lines();
    let documented: BTreeSet<String> =
        documented.filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
    let missing: Vec<&String> = rows.difference(&documented).collect();
    let gone: Vec<&String> = documented.difference(&rows).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/METRICS.md has not\n{missing:#?}\nand has\n{gone:#?}"
    );
    daemon.stop().await;
}
