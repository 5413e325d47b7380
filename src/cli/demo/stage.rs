//! How the demo is told: on a terminal in words; into a pipe the events themselves, for `jq`,
//! and the words beside them on standard error.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::cast::Cast;
use crate::cli::Failure;
use crate::cli::table::{BOLD, CYAN, DIM, GREEN, RED, YELLOW};
use crate::domain::{EventKind, Progress, ResourceKey, ResourceState, SessionId, Timestamp};
use crate::sim::{Happening, World};

#[derive(Debug)]
pub(super) struct Stage {
    json: bool,
    world: Arc<World>,
    cast: Cast,
    start: Instant,
    ids: BTreeSet<String>,
    deliveries: usize,
    ended: usize,
    latencies: Vec<Duration>,
}

/// As much of an event as is told.
#[derive(Debug, Deserialize)]
struct Told {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    time: Timestamp,
    subject: SessionId,
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    progress: Progress,
    resource: Option<ResourceKey>,
    from: Option<ResourceState>,
    to: Option<ResourceState>,
    reason: Option<String>,
    #[serde(default)]
    unresolved: Vec<serde_json::Value>,
    #[serde(default)]
    required: Vec<serde_json::Value>,
}

impl Stage {
    pub(super) fn open(world: Arc<World>, cast: Cast) -> Self {
        Self {
            json: !io::stdout().is_terminal(),
            world,
            cast,
            start: Instant::now(),
            ids: BTreeSet::new(),
            deliveries: 0,
            ended: 0,
            latencies: Vec::new(),
        }
    }

    pub(super) const fn cast(&self) -> &Cast {
        &self.cast
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended == self.cast.len()
    }

    pub(super) fn prologue(
        &self,
        base_url: &str,
        page: SocketAddr,
        speed: NonZeroU32,
    ) -> io::Result<()> {
        self.print(&format!(
            "{BOLD}ibvwatch{BOLD:#} follows {people} applicants to the Post Office, {speed} times faster than life.\n\
             {DIM}The API at {base_url} is simulated and checks every signature; the daemon is real.\n\
             A quiet session is polled every 2 s, one whose applicant is at the counter every 0.5 s.{DIM:#}\n\
             Watch along in a browser at {BOLD}http://{page}/{BOLD:#}\n",
            people = self.cast.len(),
        ))
    }

    /// Tells one line of the daemon's output.
    pub(super) fn event(&mut self, line: &str) -> Result<(), Failure> {
        let told: Told = serde_json::from_str(line)
            .map_err(|error| Failure::failed(format!("not an event: {error}: {line}")))?;
        if self.json {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()?;
        }
        self.deliveries += 1;
        if !self.ids.insert(told.id.clone()) {
            return Ok(());
        }
        let latency = self.latency(&told);
        self.latencies.extend(latency);
        let kind = EventKind::parse(&told.kind);
        if kind == Some(EventKind::SessionEnded) {
            self.ended += 1;
        }
        let after = latency.map_or_else(String::new, |latency| {
            format!("  {DIM}{:.1} s after it happened{DIM:#}", latency.as_secs_f64())
        });
        let what = describe(kind, &told);
        self.says(&format!("{BOLD}{:<6}{BOLD:#} {what}{after}", self.cast.name(told.subject)))?;
        Ok(())
    }

    /// A line with the time since the beginning.
    pub(super) fn says(&self, what: &str) -> io::Result<()> {
        self.print(&format!("{DIM}{:5.1}s{DIM:#}  {what}", self.start.elapsed().as_secs_f64()))
    }

    /// Holds what was told against what happened.
    pub(super) fn epilogue(&mut self) -> io::Result<()> {
        let mut happened = 0;
        for entry in self.cast.entries() {
            let history = self.world.history(entry.session_id).unwrap_or_default();
            let is_change = |what: &Happening| matches!(what, Happening::StateChanged { .. });
            happened += history.iter().filter(|change| is_change(&change.what)).count();
        }
        let told = self.latencies.len();
        self.latencies.sort_unstable();
        let median = self.latencies.get(told / 2).copied().unwrap_or_default();
        let colour = if told == happened { GREEN } else { YELLOW };
        self.print(&format!(
            "\n{happened} documents changed state at the counters, {colour}{told} of these changes were told{colour:#}, \
             half of them within {:.1} s.\n\
             {} events, each under one id; {} delivered a second time.",
            median.as_secs_f64(),
            self.ids.len(),
            self.deliveries - self.ids.len(),
        ))?;
        if told < happened {
            self.print(
                "What is missing came undone before the next poll, or came after the end of the demo.",
            )?;
        }
        self.print(&format!(
            "\n{DIM}The events themselves: ibvwatch demo 2>/dev/null | jq\n\
             With your own sessions: README.md, \"Your first session\".{DIM:#}"
        ))
    }

    /// How long after the change it is told, by the simulator's own record.
    fn latency(&self, told: &Told) -> Option<Duration> {
        let (resource, to) = (told.data.resource.as_ref()?, told.data.to.as_ref()?);
        let history = self.world.history(told.subject).ok()?;
        let change = history.iter().rev().find(|change| {
            let same = matches!(&change.what, Happening::StateChanged { resource: r, to: t, .. }
                if r == resource && t == to);
            same && change.at <= told.time
        })?;
        Some(told.time.since(change.at))
    }

    fn print(&self, text: &str) -> io::Result<()> {
        if self.json {
            writeln!(anstream::stderr(), "{text}")
        } else {
            writeln!(anstream::stdout(), "{text}")
        }
    }
}

fn describe(kind: Option<EventKind>, told: &Told) -> String {
    let Data { progress, resource, from, to, reason, unresolved, required } = &told.data;
    let supplied = progress.total - progress.required;
    let Some(kind) = kind else { return told.kind.clone() };
    match kind {
        EventKind::ResourceStateChanged => {
            let name = resource.as_ref().map_or("", |resource| &*resource.kind);
            let [from, to] = [from, to].map(|s| s.as_ref().map_or("", ResourceState::as_str));
            let colour = match to {
                "COMPLETE" => GREEN,
                "REQUIRED" => RED,
                _ => CYAN,
            };
            format!(
                "{name}: {from} \u{2192} {colour}{to}{colour:#}, {supplied} of {} supplied",
                progress.total
            )
        }
        EventKind::SessionTracked => {
            "is tracked, since a session file names the session".to_owned()
        }
        EventKind::SessionObserved => format!("has to supply {} documents", progress.required),
        EventKind::SessionNothingRequired => format!("{GREEN}has nothing left to supply{GREEN:#}"),
        EventKind::SessionCompleted => format!("{GREEN}is done: the session is COMPLETED{GREEN:#}"),
        EventKind::SessionExpiring => {
            format!("{YELLOW}runs out of time with {} still required{YELLOW:#}", required.len())
        }
        EventKind::SessionEnded => {
            let reason = reason.as_deref().unwrap_or_default();
            match unresolved.len() {
                0 => format!("is followed no more: {reason}"),
                open => {
                    format!("is followed no more: {RED}{reason}{RED:#}, {open} documents missing")
                }
            }
        }
        EventKind::ResourceAdded
        | EventKind::ResourceRemoved
        | EventKind::SessionPollFailing
        | EventKind::SessionPollRecovered
        | EventKind::ApiUnavailable
        | EventKind::ApiAvailable => kind.as_str().to_owned(),
    }
}
