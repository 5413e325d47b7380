use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::failure::SUCCESS;
use super::records::Records;
use super::table::{BOLD, Cell, GREEN, RED, Table, terminal_width};
use super::{ConfigFiles, Failure, runtime};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::directory;
use crate::domain::{Advice, Capacity, Demand, Latency, Plan as Figures, Policy, Timestamp};
use crate::view::span;

#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(flatten)]
    config: ConfigFiles,
    /// Plan for so many sessions instead of those that are tracked
    #[arg(long, value_name = "N")]
    sessions: Option<u32>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["poll", "sessions", "store"])?;
        let (demand, source) = match self.sessions {
            Some(sessions) => (Demand::of_number(sessions), "as given".to_owned()),
            None => tracked(&config)?,
        };
        let capacity = Capacity {
            rate: config.limits.rate,
            burst: config.limits.burst,
            max_in_flight: config.limits.max_in_flight,
            timeout: config.api.timeout,
        };
        let report = Report {
            sessions: demand.sessions,
            confirming: demand.confirming,
            source,
            figures: Figures::new(&demand, &capacity, &config.policy),
            capacity,
            policy: &config.policy,
        };
        let mut out = anstream::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &View::of(&report)).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            report.write(&mut out, SystemClock.now().wall, terminal_width())?;
        }
        Ok(SUCCESS)
    }
}

/// What is tracked: by the store, or by the session files before the daemon's first start.
fn tracked(config: &Config) -> Result<(Demand, String), Failure> {
    let path = &config.store.path;
    let place = match &config.store.jetstream {
        Some(settings) => Some(format!("stream {}", settings.name)),
        None => path.exists().then(|| path.display().to_string()),
    };
    if let Some(place) = place {
        let sessions =
            runtime()?.block_on(async { Records::open(&config.store).await?.sessions().await })?;
        let demand = Demand::of_sessions(&sessions, &config.policy);
        return Ok((demand, format!("tracked in {place}")));
    }
    let survey = directory::survey(&config.sessions.directories);
    let mut source = "named in the session files".to_owned();
    if !survey.problems.is_empty() {
        source += ", without files that ibvwatch check complains of";
    }
    Ok((Demand::of_entries(&survey.entries, &config.policy), source))
}

struct Report<'a> {
    sessions: u32,
    confirming: u32,
    source: String,
    figures: Figures,
    capacity: Capacity,
    policy: &'a Policy,
}

impl Report<'_> {
    fn write(
        &self,
        out: &mut impl Write,
        now: Timestamp,
        width: Option<usize>,
    ) -> std::io::Result<()> {
        let Self { figures, sessions, source, .. } = self;
        writeln!(out, "{BOLD}{sessions} sessions{BOLD:#}, {source}")?;
        let share = percent(Figures::ACTIVE_SHARE);
        if figures.fits() {
            writeln!(out, "{GREEN}It fits{GREEN:#}: every poll comes when it is due.")?;
        } else {
            writeln!(
                out,
                "{RED}It does not fit{RED:#}: with {share} of them active, {:.1} times as many requests are due as can be made. Active sessions go first.",
                figures.stretch
            )?;
        }
        writeln!(out)?;
        let mut requests = Table::new(&["REQUESTS", "ASKED", "ALLOWED", "USED"]);
        let active = format!("{share} active");
        for (name, rate) in [("all quiet", figures.quiet_rate), (&active, figures.busy_rate)] {
            let used = rate / figures.allowed_rate;
            let style = if used > 1.0 { RED } else { GREEN };
            requests.row(vec![
                name.into(),
                per_second(rate).into(),
                per_second(figures.allowed_rate).into(),
                Cell::styled(percent(used), style),
            ]);
        }
        requests.write(out, width)?;
        writeln!(out)?;
        let mut latencies = Table::new(&["FROM CHANGE TO EVENT", "MEAN", "P50", "P99", "WORST"]);
        for (name, latency) in
            [("quiet session", figures.quiet), ("active session", figures.active)]
        {
            let Latency { mean, p50, p99, worst } = latency;
            let times = [mean, p50, p99, worst].map(|time| Cell::from(nearly(time)));
            latencies.row([Cell::from(name)].into_iter().chain(times).collect());
        }
        latencies.write(out, width)?;
        writeln!(out)?;
        self.write_notes(out, now, width)?;
        self.write_advice(out)
    }

    fn write_notes(
        &self,
        out: &mut impl Write,
        now: Timestamp,
        width: Option<usize>,
    ) -> std::io::Result<()> {
        let Self { figures, capacity, .. } = self;
        let mut notes = Table::bare();
        let mut note = |name: &str, text: String| notes.row(vec![name.into(), text.into()]);
        note(
            "first polls",
            format!("of {} new sessions within {}", self.sessions, nearly(figures.first_polls)),
        );
        note("final polls", format!("of {} sessions that expire together", figures.cohort));
        if let Some((most, at)) = figures.largest_cohort.filter(|(most, _)| *most > 1) {
            let when = if at > now { format!(" ({})", span(at.since(now))) } else { String::new() };
            note("", format!("{most} do at {at}{when}"));
        }
        note(
            "in flight",
            format!(
                "{} requests at {} each are {}; at api.timeout ({}) each, {}",
                capacity.max_in_flight,
                humantime::format_duration(Figures::ANSWER_TIME),
                per_second(figures.in_flight_rate),
                humantime::format_duration(capacity.timeout),
                per_second(figures.slowest_rate),
            ),
        );
        if self.policy.confirm {
            let known = match self.confirming {
                0 => String::new(),
                count => format!("; {count} now, which are counted"),
            };
            note(
                "confirmations",
                format!(
                    "a second request at each poll of a session that lists only COMPLETE{known}"
                ),
            );
        }
        notes.write(out, width)
    }

    fn write_advice(&self, out: &mut impl Write) -> std::io::Result<()> {
        let advice = &self.figures.advice;
        if advice.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{BOLD}What would help{BOLD:#}")?;
        let mut table = Table::bare();
        for advice in advice {
            let (setting, why) = self.explained(advice);
            table.row(vec![setting.into(), why.into()]);
        }
        table.write(out, None)
    }

    fn explained(&self, advice: &Advice) -> (String, String) {
        let Self { capacity, policy, .. } = self;
        let (key, value) = setting(advice);
        let time = humantime::format_duration;
        let why = match advice {
            Advice::RateLimit(_) => {
                format!("now {}; if the API bears it", capacity.rate)
            }
            Advice::Interval(_) => format!("now {}; news comes later", time(policy.interval)),
            Advice::MaxInFlight(_) => format!("now {}", capacity.max_in_flight),
            Advice::FinalPollBeforeExpiry(_) => format!(
                "now {}; for the final polls of all that expire together",
                time(policy.final_poll_before_expiry)
            ),
        };
        (format!("{key} = {value}"), why)
    }
}

/// A line of TOML, in two.
fn setting(advice: &Advice) -> (&'static str, String) {
    let quoted = |time: &Duration| format!("\"{}\"", humantime::format_duration(*time));
    match advice {
        Advice::RateLimit(rate) => ("poll.rate_limit", rate.to_string()),
        Advice::Interval(interval) => ("poll.interval", quoted(interval)),
        Advice::MaxInFlight(count) => ("poll.max_in_flight", count.to_string()),
        Advice::FinalPollBeforeExpiry(time) => ("poll.final_poll_before_expiry", quoted(time)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn per_second(rate: f64) -> String {
    let digits = if rate < 10.0 { 2 } else { 0 };
    format!("{rate:.digits$}/s")
}

/// To the next whole second; a plan knows no better.
fn nearly(time: Duration) -> String {
    span(time.saturating_add(Duration::from_millis(500)))
}

/// The plan as it is printed with `--json`. Times are in seconds, rates in requests a second.
#[derive(Debug, Serialize)]
struct View<'a> {
    sessions: u32,
    source: &'a str,
    fits: bool,
    stretch: f64,
    requests: Requests,
    latency_seconds: Latencies,
    final_polls_together: u32,
    largest_cohort: Option<Cohort>,
    first_polls_seconds: f64,
    confirming: u32,
    advice: Vec<Setting>,
}

#[derive(Debug, Serialize)]
struct Requests {
    all_quiet: f64,
    busy: f64,
    active_share: f64,
    allowed: f64,
    rate_limit: f64,
    in_flight_at_usual_answers: f64,
    in_flight_at_timeout: f64,
}

#[derive(Debug, Serialize)]
struct Latencies {
    quiet: LatencyView,
    active: LatencyView,
}

/// In seconds.
#[derive(Debug, Serialize)]
struct LatencyView {
    mean: f64,
    p50: f64,
    p99: f64,
    worst: f64,
}

#[derive(Debug, Serialize)]
struct Cohort {
    sessions: u32,
    expires_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct Setting {
    key: &'static str,
    value: String,
}

impl<'a> View<'a> {
    fn of(report: &'a Report<'_>) -> Self {
        let figures = &report.figures;
        let cohort = |(sessions, expires_at)| Cohort { sessions, expires_at };
        let advice = figures.advice.iter().map(|advice| {
            let (key, value) = setting(advice);
            Setting { key, value: value.trim_matches('"').to_owned() }
        });
        Self {
            sessions: report.sessions,
            source: &report.source,
            fits: figures.fits(),
            stretch: rounded(figures.stretch),
            requests: Requests {
                all_quiet: rounded(figures.quiet_rate),
                busy: rounded(figures.busy_rate),
                active_share: Figures::ACTIVE_SHARE,
                allowed: rounded(figures.allowed_rate),
                rate_limit: report.capacity.rate,
                in_flight_at_usual_answers: rounded(figures.in_flight_rate),
                in_flight_at_timeout: rounded(figures.slowest_rate),
            },
            latency_seconds: Latencies {
                quiet: LatencyView::of(figures.quiet),
                active: LatencyView::of(figures.active),
            },
            final_polls_together: figures.cohort,
            largest_cohort: figures.largest_cohort.map(cohort),
            first_polls_seconds: rounded(figures.first_polls.as_secs_f64()),
            confirming: report.confirming,
            advice: advice.collect(),
        }
    }
}

impl LatencyView {
    fn of(latency: Latency) -> Self {
        let seconds = |time: Duration| rounded(time.as_secs_f64());
        Self {
            mean: seconds(latency.mean),
            p50: seconds(latency.p50),
            p99: seconds(latency.p99),
            worst: seconds(latency.worst),
        }
    }
}

/// To thousandths: a plan is no more exact, and is read by people too.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity =
        Capacity { rate: 10.0, burst: 20, max_in_flight: 8, timeout: Duration::from_secs(10) };

    fn report(demand: &Demand, policy: &Policy) -> (String, String) {
        let report = Report {
            sessions: demand.sessions,
            confirming: demand.confirming,
            source: "as given".to_owned(),
            figures: Figures::new(demand, &CAPACITY, policy),
            capacity: CAPACITY,
            policy,
        };
        let mut out = anstream::StripStream::new(Vec::new());
        report.write(&mut out, Timestamp::from_millis(0), None).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        (text, serde_json::to_string_pretty(&View::of(&report)).unwrap())
    }

    #[test]
    fn a_national_programme_fits_the_defaults() {
        let (text, json) = report(&Demand::of_number(1_200), &Policy::default());
        insta::assert_snapshot!(text);
        insta::assert_snapshot!(json);
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_to_change() {
        let (text, json) = report(&Demand::of_number(10_000), &Policy::default());
        insta::assert_snapshot!(text);
        insta::assert_snapshot!(json);
    }

    #[test]
    fn a_crowd_that_expires_together_is_told_of() {
        let at = "1970-01-02T22:00:00Z".parse().unwrap();
        let entries: Vec<_> = (0..=255)
            .flat_map(|a| (0..4).map(move |b| (a, b)))
            .map(|(a, b)| crate::domain::Entry {
                session_id: crate::domain::SessionId::from_bytes([
                    a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ]),
                labels: crate::domain::Labels::default(),
                expires_at: Some(at),
                interval: Some(Duration::from_secs(900)),
            })
            .collect();
        let (text, _) =
            report(&Demand::of_entries(&entries, &Policy::default()), &Policy::default());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn nothing_to_poll_is_no_trouble() {
        let (text, _) = report(&Demand::of_number(0), &Policy::default());
        insta::assert_snapshot!(text);
    }
}
