use std::cmp::Reverse;
use std::io::Write;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::failure::SUCCESS;
use super::records::Records;
use super::table::{Cell, DIM, RED, Table, phase_style, printable_json, terminal_width};
use super::{ConfigFiles, Failure, runtime};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Phase, PhaseName, Progress, Session, Timestamp};
use crate::refresh::Refreshed;
use crate::store::StoreError;
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
        let refreshed = Records::refreshed(&config.store);
        let (mut sessions, nodes) = runtime()?.block_on(async {
            let records = Records::open(&config.store).await?;
            Ok::<_, StoreError>((records.sessions().await?, records.nodes().await?))
        })?;
        let now = SystemClock.now().wall;
        sessions.retain(|s| self.phase.is_none_or(|phase| s.phase(now).name() == phase));
        let mut out = anstream::stdout().lock();
        if self.json {
            let views: Vec<_> = sessions.iter().map(|s| SessionView::of(s, now)).collect();
            let json = serde_json::to_string(&views).map_err(std::io::Error::from)?;
            writeln!(out, "{}", printable_json(json))?;
            return Ok(SUCCESS);
        }
        write(&mut out, &mut sessions, self.phase, now)?;
        if !nodes.is_empty() {
            let nodes: Vec<String> =
                nodes.iter().map(|(name, polls)| format!("{name} ({polls} polls)")).collect();
            writeln!(out, "{DIM}nodes, with the last minute's polls: {}{DIM:#}", nodes.join(", "))?;
        }
        if !sessions.is_empty() {
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

/// What needs a look comes first, then what happens soonest.
const ORDER: [PhaseName; 5] =
    [PhaseName::Failing, PhaseName::Active, PhaseName::Pending, PhaseName::Quiet, PhaseName::Ended];

fn write(
    out: &mut impl Write,
    sessions: &mut [Session],
    wanted: Option<PhaseName>,
    now: Timestamp,
) -> std::io::Result<()> {
    if sessions.is_empty() {
        return match wanted {
            None => writeln!(out, "No sessions. Track one: ibvwatch track ID"),
            Some(phase) => writeln!(out, "No session is {}.", phase.as_str()),
        };
    }
    let place =
        |session: &Session| ORDER.iter().position(|name| *name == session.phase(now).name());
    sessions.sort_by_key(|session| {
        let ended_last_first = session.ended().map(|(_, at)| Reverse(at));
        (place(session), ended_last_first, session.expires_at(), session.id())
    });
    let mut header = vec!["SESSION", "PHASE", "DONE", "EXPIRES", "LAST POLL", "NEXT POLL"];
    // A column of nothing would take its width from those that say something.
    let troubled = sessions.iter().any(|session| session.schedule().last_problem.is_some());
    if troubled {
        header.push("LAST ERROR");
    }
    let mut table = Table::new(&header);
    for session in &*sessions {
        let mut row = row(session, now);
        row.truncate(header.len());
        table.row(row);
    }
    table.write(out, terminal_width())?;
    let counts = ORDER.iter().filter_map(|name| {
        let count = sessions.iter().filter(|s| s.phase(now).name() == *name).count();
        (count > 0).then(|| format!("{count} {}", name.as_str()))
    });
    let (all, s) = (sessions.len(), if sessions.len() == 1 { "" } else { "s" });
    let counts = counts.collect::<Vec<_>>().join(", ");
    writeln!(out, "{DIM}{all} session{s}: {counts}{DIM:#}")
}

fn row(session: &Session, now: Timestamp) -> Vec<Cell> {
    let phase = session.phase(now);
    let schedule = session.schedule();
    let phase_text = match phase {
        Phase::Ended(reason) => format!("ended: {}", reason.as_str()),
        Phase::Pending | Phase::Quiet | Phase::Active | Phase::Failing => phase.as_str().to_owned(),
    };
    let last_poll = schedule.last_poll.map_or_else(|| "-".to_owned(), |at| relative(at, now));
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
        next_poll(session, now).into(),
        Cell::styled(error, RED),
    ]
}

pub(super) fn next_poll(session: &Session, now: Timestamp) -> String {
    match session.schedule().poll_at {
        _ if session.ended().is_some() => "-".to_owned(),
        at if at <= now => "due".to_owned(),
        at => relative(at, now),
    }
}

/// How many resources have been supplied, of how many.
pub(super) fn progress(progress: Progress) -> String {
    format!("{}/{}", progress.total - progress.required, progress.total)
}
