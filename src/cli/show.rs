use std::io::Write;

use clap::Args;

use super::failure::SUCCESS;
use super::sessions::progress;
use super::table::{
    BOLD, Cell, DIM, RED, Table, phase_style, printable_json, state_style, terminal_width,
};
use super::{ConfigFiles, Failure};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Record, Session, SessionId, Timestamp};
use crate::refresh;
use crate::store::EventFilter;
use crate::store::sqlite::Reader;
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
        let _ = refresh::ask(&config.store.path);
        let reader = Reader::open(&config.store.path)?;
        let Some(session) = reader.session(self.id)? else {
            return Err(Failure::failed(format!(
                "session {} is not known here; `ibvwatch sessions` lists those that are",
                self.id
            )));
        };
        let filter = EventFilter { session: Some(self.id), kind: None };
        let mut timeline: Vec<Record> = Vec::new();
        loop {
            let after = timeline.last().map_or(0, |event| event.sequence);
            let page = reader.events(after, PAGE, filter)?;
            let last = page.len() < PAGE;
            timeline.extend(page);
            if last {
                break;
            }
        }
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
    facts.row(vec!["supplied".into(), progress(session.progress()).into()]);
    for (name, value) in session.entry().labels.iter() {
        facts.row(vec![Cell::styled(name, DIM), value.into()]);
    }
    if let Some(problem) = &session.schedule().last_problem {
        facts.row(vec!["last error".into(), Cell::styled(problem.to_string(), RED)]);
    }
    facts.write(out, terminal_width())?;

    writeln!(out, "\n{BOLD}Resources{BOLD:#}")?;
    let mut resources = Table::bare();
    for resource in session.resources() {
        let state = Cell::styled(resource.state.as_str(), state_style(&resource.state));
        resources.row(vec![state, resource.key.to_string().into()]);
    }
    resources.write(out, terminal_width())?;

    writeln!(out, "\n{BOLD}Timeline{BOLD:#}")?;
    let mut events = Table::bare();
    for event in timeline {
        let kind = event.kind.strip_prefix("ibvwatch.").unwrap_or(&event.kind);
        events.row(vec![
            Cell::styled(event.time.to_string(), DIM),
            kind.into(),
            said(event).into(),
        ]);
    }
    events.write(out, terminal_width())
}
