use std::io::Write;
use std::sync::Arc;

use clap::Args;

use super::failure::SUCCESS;
use super::table::{Cell, Table, printable_json, state_style, terminal_width};
use super::{ConfigFiles, Failure, runtime};
use crate::clock::SystemClock;
use crate::domain::{Listed, Observation, SessionId, Snapshot};
use crate::view::span;
use crate::yoti::SessionApi;

#[derive(Debug, Args)]
pub(super) struct Poll {
    #[command(flatten)]
    config: ConfigFiles,
    /// The session's id; it need not be tracked
    id: SessionId,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Poll {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["api"])?;
        let client = config.api.client(Arc::new(SystemClock)).map_err(Failure::unusable)?;
        let observation = runtime()?.block_on(client.configuration(self.id));
        let Observation::Configuration(snapshot) = observation else {
            return Err(Failure::failed(match observation.problem() {
                Some(problem) => format!("session {}: {problem}", self.id),
                None => format!("session {}: the API gave no configuration", self.id),
            }));
        };
        let mut out = anstream::stdout().lock();
        if self.json {
            writeln!(out, "{}", printable_json(json(self.id, &snapshot).to_string()))?;
        } else {
            write(&mut out, self.id, &snapshot)?;
        }
        Ok(SUCCESS)
    }
}

/// Nothing is known of the session that would leave anything unread.
fn listed(snapshot: &Snapshot) -> &[Listed] {
    snapshot.listing.resources().unwrap_or_default()
}

fn json(id: SessionId, snapshot: &Snapshot) -> serde_json::Value {
    let resources: Vec<_> = listed(snapshot)
        .iter()
        .map(|r| serde_json::json!({ "type": r.kind, "id": r.id, "state": r.state }))
        .collect();
    let ttl_seconds = snapshot.ttl.map(|ttl| ttl.as_secs());
    serde_json::json!({ "session_id": id, "ttl_seconds": ttl_seconds, "resources": resources })
}

fn write(out: &mut impl Write, id: SessionId, snapshot: &Snapshot) -> std::io::Result<()> {
    match snapshot.ttl {
        Some(ttl) => writeln!(out, "{id} expires in {}", span(ttl))?,
        None => writeln!(out, "{id} (the API does not say when it expires)")?,
    }
    let mut table = Table::new(&["STATE", "TYPE", "ID"]);
    for listed in listed(snapshot) {
        table.row(vec![
            Cell::styled(listed.state.as_str(), state_style(&listed.state)),
            (&*listed.kind).into(),
            (&*listed.id).into(),
        ]);
    }
    table.write(out, terminal_width())
}
