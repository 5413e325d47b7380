use std::io::Write;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::failure::SUCCESS;
use super::table::{Cell, DIM, RED, Table, phase_style, printable_json, terminal_width};
use super::{ConfigFiles, Failure};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Phase, PhaseName, Progress, Session, Timestamp};
use crate::refresh::{self, Refreshed};
use crate::store::sqlite::Reader;
use crate::view::{SessionView, relative};

#[derive(Debug, Args)]
pub(super) struct Sessions {
    #[command(flatten)]
    config: ConfigFiles,
    /// Only sessions in this phase
    #[arg(long, value_parser = phase_names())]
    phase: Option<PhaseName>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

fn phase_names() -> impl TypedValueParser<Value = PhaseName> {
    PossibleValuesParser::new(PhaseName::ALL.map(PhaseName::as_str))
        .try_map(|name| PhaseName::parse(&name).ok_or("no phase of that name"))
}

impl Sessions {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["store"])?;
        let refreshed = refresh::ask(&config.store.path);
        let reader = Reader::open(&config.store.path)?;
        let now = SystemClock.now().wall;
        let mut sessions = reader.sessions()?;
        sessions.retain(|s| self.phase.is_none_or(|phase| s.phase(now).name() == phase));
        let mut out = anstream::stdout().lock();
        if self.json {
            let views: Vec<_> = sessions.iter().map(|s| SessionView::of(s, now)).collect();
            let json = serde_json::to_string(&views).map_err(std::io::Error::from)?;
            writeln!(out, "{}", printable_json(json))?;
            return Ok(SUCCESS);
        }
        let mut table = Table::new(&[
            "SESSION",
            "PHASE",
            "DONE",
            "EXPIRES",
            "LAST POLL",
            "NEXT POLL",
            "LAST ERROR",
        ]);
        for session in &sessions {
            table.row(row(session, now));
        }
        table.write(&mut out, terminal_width())?;
        if sessions.is_empty() {
            writeln!(out, "No sessions. Track one: ibvwatch track ID")?;
        } else {
            let note = match refreshed {
                Refreshed::Yes => return Ok(SUCCESS),
                Refreshed::NobodyThere => "The daemon is not running; this is how it left things.",
                Refreshed::NotInTime => "The daemon is busy; poll times are as last written.",
            };
            writeln!(out, "{DIM}{note}{DIM:#}")?;
        }
        Ok(SUCCESS)
    }
}

fn row(session: &Session, now: Timestamp) -> Vec<Cell> {
    let phase = session.phase(now);
    let schedule = session.schedule();
    let phase_text = match phase {
        Phase::Ended(reason) => format!("ended: {}", reason.as_str()),
        Phase::Pending | Phase::Quiet | Phase::Active | Phase::Failing => phase.as_str().to_owned(),
    };
    let last_poll = schedule.last_poll.map_or_else(|| "-".to_owned(), |at| relative(at, now));
    let next_poll = match session.ended() {
        Some(_) => "-".to_owned(),
        None if schedule.poll_at <= now => "due".to_owned(),
        None => relative(schedule.poll_at, now),
    };
    let expires = match session.ended() {
        Some((_, at)) => relative(at, now),
        None => relative(session.expires_at(), now),
    };
    let error = schedule.last_problem.as_ref().map_or_else(String::new, ToString::to_string);
    vec![
        session.id().to_string().into(),
        Cell::styled(phase_text, phase_style(phase)),
        progress(session.progress()).into(),
        expires.into(),
        last_poll.into(),
        next_poll.into(),
        Cell::styled(error, RED),
    ]
}

/// How many resources have been supplied, of how many.
pub(super) fn progress(progress: Progress) -> String {
    format!("{}/{}", progress.total - progress.required, progress.total)
}
