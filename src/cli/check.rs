use std::io::Write;
use std::sync::Arc;

use clap::Args;

use super::failure::SUCCESS;
use super::{ConfigFiles, Failure, runtime};
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::directory;
use crate::domain::{Observation, SessionId};
use crate::yoti::{Client, SessionApi};

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFiles,
    /// Make one signed request as well, to see whether the API accepts the key
    #[arg(long)]
    online: bool,
}

impl Check {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let loaded = self.config.load()?;
        let mut problems: Vec<String> = loaded.problems().iter().map(ToString::to_string).collect();
        let client = client(&loaded, &mut problems);
        let scan = directory::survey(&loaded.config().sessions.directories);
        problems.extend(scan.problems.iter().map(ToString::to_string));

        let mut out = anstream::stdout().lock();
        for warning in &scan.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        if let (true, Some(client)) = (self.online, &client) {
            let known = scan.entries.first().map(|entry| entry.session_id);
            match runtime()?.block_on(ask(client, known)) {
                Ok(said) => writeln!(out, "{said}")?,
                Err(said) => problems.push(said),
            }
        }
        if problems.is_empty() {
            writeln!(out, "ok: configuration, key and {} session entries", scan.entries.len())?;
            return Ok(SUCCESS);
        }
        let count = problems.len();
        let lines = problems.join("\n");
        Err(Failure::unusable(format!("{lines}\n{count} to mend")))
    }
}

/// A client, which shows whether the key and the certificates can be used.
fn client(loaded: &Loaded, problems: &mut Vec<String>) -> Option<Client> {
    let api = |key: &str| key.starts_with("api.");
    if loaded.problems().iter().any(|p| p.key.as_deref().is_none_or(api)) {
        return None;
    }
    loaded
        .config()
        .api
        .client(Arc::new(SystemClock))
        .map_err(|error| problems.push(error.to_string()))
        .ok()
}

/// One signed request. Without a session to ask about, one that cannot exist will do: the API
/// checks the signature before it looks.
async fn ask(client: &Client, known: Option<SessionId>) -> Result<String, String> {
    let nobody = SessionId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
    match client.configuration(known.unwrap_or(nobody)).await {
        Observation::Configuration(_) => Ok("online: the API accepts the key".to_owned()),
        Observation::NotReady(_) | Observation::NotFound(_) => {
            Ok("online: the API accepts the key (and has no configuration for the session asked)"
                .to_owned())
        }
        Observation::RateLimited { problem, .. }
        | Observation::ServerError { problem, .. }
        | Observation::Unauthorized(problem)
        | Observation::Unreachable(problem)
        | Observation::Malformed(problem) => Err(format!("online: {problem}")),
        Observation::Ongoing | Observation::Completed | Observation::Expired => {
            Err("online: the API answered for the session instead of its configuration".to_owned())
        }
    }
}
