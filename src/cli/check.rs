use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::failure::SUCCESS;
use super::{ConfigFiles, Failure, runtime};
use crate::clock::SystemClock;
use crate::config::{Api, AuthMethod, Loaded, Place};
use crate::directory;
use crate::domain::{Observation, SessionId};
use crate::store::jetstream::{self, Preflight};
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
        let mut findings = Findings::default();
        for problem in loaded.problems() {
            let file = match &problem.place {
                Some(Place::File { path, .. }) => Some(path.as_path()),
                Some(Place::Variable(_)) | None => None,
            };
            findings.problem(file, problem.to_string());
        }
        let api = &loaded.config().api;
        let client = client(&loaded, &mut findings);
        let scan = directory::survey(&loaded.config().sessions.directories);
        for problem in &scan.problems {
            findings.problem(Some(&problem.path), problem.to_string());
        }
        for warning in &scan.warnings {
            findings.warning(&warning.path, warning);
        }
        let mut online = None;
        match (self.online, &client) {
            (false, _) => {}
            (true, None) => findings.problem(
                None,
                "--online: not asked, since the API's part of the configuration is to be mended first",
            ),
            (true, Some(client)) => {
                let known = scan.entries.first().map(|entry| entry.session_id);
                match runtime()?.block_on(ask(client, api, known)) {
                    Ok(said) => online = Some(said),
                    Err(said) => findings.problem(None, said),
                }
            }
        }
        let mut acknowledged = None;
        if let (true, Some(settings)) = (self.online, &loaded.config().store.jetstream) {
            match runtime()?.block_on(jetstream::Reader::preflight(settings)) {
                Ok(Preflight { version, durability }) => {
                    acknowledged = Some(format!(
                        "online: stream {} on nats-server {version}: {durability}",
                        settings.name
                    ));
                }
                Err(error) => findings.problem(None, error.to_string()),
            }
        }
        if findings.problems > 0 {
            return Err(Failure::unusable(findings));
        }
        let mut out = anstream::stdout().lock();
        findings.lines().try_for_each(|line| writeln!(out, "{line}"))?;
        for said in online.into_iter().chain(acknowledged) {
            writeln!(out, "{said}")?;
        }
        writeln!(out, "ok: configuration, key and {} session entries", scan.entries.len())?;
        Ok(SUCCESS)
    }
}

/// All there is to say, by the file that it is about; what is about none comes first.
#[derive(Debug, Default)]
struct Findings {
    by_file: BTreeMap<Option<PathBuf>, Vec<String>>,
    problems: usize,
}

impl Findings {
    fn problem(&mut self, file: Option<&Path>, text: impl Into<String>) {
        self.problems += 1;
        self.by_file.entry(file.map(Path::to_owned)).or_default().push(text.into());
    }

    fn warning(&mut self, file: &Path, text: &impl fmt::Display) {
        let lines = self.by_file.entry(Some(file.to_owned())).or_default();
        lines.push(format!("warning: {text}"));
    }

    /// With an empty line between files.
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.by_file.values().enumerate().flat_map(|(place, lines)| {
            let gap = (place > 0).then_some("");
            gap.into_iter().chain(lines.iter().map(String::as_str))
        })
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "\n{} to mend", self.problems)
    }
}

/// A client, which shows whether the key and the certificates can be used.
fn client(loaded: &Loaded, findings: &mut Findings) -> Option<Client> {
    let api = |key: &str| key.starts_with("api.");
    if loaded.problems().iter().any(|p| p.key.as_deref().is_none_or(api)) {
        return None;
    }
    loaded
        .config()
        .api
        .client(Arc::new(SystemClock))
        .map_err(|error| findings.problem(None, error.to_string()))
        .ok()
}

/// One request, and what came of it. Without a session to ask about, one that cannot exist will
/// do: the API checks who asks before it looks.
async fn ask(client: &Client, api: &Api, known: Option<SessionId>) -> Result<String, String> {
    let nobody = SessionId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
    let id = known.unwrap_or(nobody);
    let (base, path) = (&api.base_url, api.configuration_path.of(id));
    let by = match api.auth.method {
        AuthMethod::SignedRequest => "signed with your key",
        AuthMethod::Bearer { .. } => "with an access token",
    };
    let whose =
        if known.is_some() { "a session of your files" } else { "a session that nobody has" };
    let asked = format!("online: GET {base}{path}, {by}, {whose}");
    match client.configuration(id).await {
        Observation::Configuration(_) => Ok(format!("{asked}: the API accepts the key")),
        Observation::NotReady(_) | Observation::NotFound(_) => Ok(format!(
            "{asked}: the API accepts the key (and has no configuration for the session asked)"
        )),
        Observation::RateLimited { problem, .. }
        | Observation::ServerError { problem, .. }
        | Observation::Unauthorized(problem)
        | Observation::Unreachable(problem)
        | Observation::Malformed(problem) => Err(format!("{asked}: {problem}")),
        Observation::Ongoing | Observation::Completed | Observation::Expired => {
            Err(format!("{asked}: the API answered for the session instead of its configuration"))
        }
    }
}
