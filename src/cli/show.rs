use std::io::Write;

use clap::Args;

use super::failure::SUCCESS;
use super::records::Records;
use super::sessions::{next_poll, progress};
use super::table::{
    BOLD, Cell, DIM, RED, Table, phase_style, printable_json, state_style, terminal_width,
};
use super::{ConfigFiles, Failure, runtime};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Record, ResourceState, Session, SessionId, Timestamp};
use crate::store::{EventFilter, StoreError};
use crate::view::{SessionView, relative, said};

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigFiles,
    /// The session's id
    id: SessionId,
    /// Print a JSON object with the session and its events
    #[arg(long)]
    json: bool,
}

/// Events read at once; a session's timeline is rarely longer.
const PAGE: usize = 1_000;

impl Show {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["store"])?;
        // An old schedule is better than none.
        let _ = Records::refreshed(&config.store);
        let found = runtime()?.block_on(async {
            let records = Records::open(&config.store).await?;
            let Some(session) = records.session(self.id).await? else { return Ok(None) };
            Ok::<_, StoreError>(Some((session, self.timeline(&records).await?)))
        });
        let Some((session, timeline)) = found? else {
            return Err(Failure::failed(format!(
                "session {} is not known here; `ibvwatch sessions` lists those that are",
                self.id
            )));
        };
        let now = SystemClock.now().wall;
        let mut out = anstream::stdout().lock();
        if self.json {
            let view = serde_json::json!({
                "session": SessionView::of(&session, now),
                "events": timeline,
            });
            writeln!(out, "{}", printable_json(view.to_string()))?;
        } else {
            write(&mut out, &session, &timeline, now)?;
        }
        Ok(SUCCESS)
    }

    async fn timeline(&self, records: &Records) -> Result<Vec<Record>, StoreError> {
        let filter = EventFilter { session: Some(self.id), kind: None };
        let mut timeline: Vec<Record> = Vec::new();
        loop {
            let after = timeline.last().map_or(0, |event| event.sequence);
            let page = records.events(after, PAGE, filter).await?;
            let last = page.len() < PAGE;
            timeline.extend(page);
            if last {
                return Ok(timeline);
            }
        }
    }
}

fn write(
    out: &mut impl Write,
    session: &Session,
    timeline: &[Record],
    now: Timestamp,
) -> std::io::Result<()> {
    let phase = session.phase(now);
    let style = phase_style(phase);
    writeln!(out, "{BOLD}{}{BOLD:#}  {style}{}{style:#}", session.id(), phase.as_str())?;
    let mut facts = Table::bare();
    if let Some((reason, at)) = session.ended() {
        facts.row(vec![
            "ended".into(),
            format!("{}, {}", reason.as_str(), relative(at, now)).into(),
        ]);
    } else {
        let expires = session.expires_at();
        facts.row(vec!["expires".into(), format!("{expires} ({})", relative(expires, now)).into()]);
    }
    let counts = session.progress();
    let supplied = progress(counts);
    let supplied = match counts.required {
        0 => supplied,
        required => format!("{supplied}, {required} still required"),
    };
    facts.row(vec!["supplied".into(), supplied.into()]);
    facts.row(vec!["tracked".into(), relative(session.tracked_at(), now).into()]);
    if let Some(at) = session.schedule().last_poll {
        facts.row(vec!["last poll".into(), relative(at, now).into()]);
    }
    if session.ended().is_none() {
        facts.row(vec!["next poll".into(), next_poll(session, now).into()]);
    }
    for (name, value) in session.entry().labels.iter() {
        facts.row(vec![Cell::styled(name, DIM), value.into()]);
    }
    if let Some(problem) = &session.schedule().last_problem {
        facts.row(vec!["last error".into(), Cell::styled(problem.to_string(), RED)]);
    }
    // Whoever looks at one session wants an error to its end; a terminal breaks the line.
    facts.write(out, None)?;

    writeln!(out, "\n{BOLD}Resources{BOLD:#}")?;
    if session.resources().is_empty() {
        writeln!(out, "{DIM}none listed{DIM:#}")?;
    }
    let mut resources = Table::bare();
    let mut by_state: Vec<_> = session.resources().iter().collect();
    by_state.sort_by_key(|resource| state_order(&resource.state));
    for resource in by_state {
        let (kind, rest) = (&*resource.key.kind, resource.key.to_string());
        let id = rest.strip_prefix(kind).unwrap_or(&rest).trim_start().to_owned();
        let state = Cell::styled(resource.state.as_str(), state_style(&resource.state));
        resources.row(vec![state, kind.into(), Cell::styled(id, DIM)]);
    }
    resources.write(out, terminal_width())?;

    writeln!(out, "\n{BOLD}Timeline{BOLD:#}")?;
    let mut events = Table::bare();
    for event in timeline {
        let kind = event.kind.strip_prefix("ibvwatch.").unwrap_or(&event.kind);
        events.row(vec![
            Cell::styled(event.time.floor_seconds().to_string(), DIM),
            Cell::styled(relative(event.time, now), DIM),
            kind.into(),
            said(event).into(),
        ]);
    }
    events.write(out, terminal_width())
}

/// What is still to do comes first.
const fn state_order(state: &ResourceState) -> u8 {
    match state {
        ResourceState::Required => 0,
        ResourceState::InProgress => 1,
        ResourceState::Other(_) => 2,
        ResourceState::Complete => 3,
    }
}
