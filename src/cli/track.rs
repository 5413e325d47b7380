use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::failure::SUCCESS;
use super::{ConfigFiles, Failure};
use crate::directory;
use crate::domain::{Entry, Labels, SessionId};

#[derive(Debug, Args)]
pub(super) struct Track {
    #[command(flatten)]
    config: ConfigFiles,
    /// Ids of the sessions, as Yoti returned them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<SessionId>,
    /// A label for each of them, given back in every event; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Where to write the files [default: the first of sessions.directories]
    #[arg(long, value_name = "D")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Untrack {
    #[command(flatten)]
    config: ConfigFiles,
    /// Ids of the sessions
    #[arg(required = true, value_name = "ID")]
    ids: Vec<SessionId>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not a label; write it like case=A-17"))
}

impl Track {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let labels: BTreeMap<String, String> = self.labels.into_iter().collect();
        let labels = Labels::new(labels).map_err(Failure::usage)?;
        let directory = if let Some(directory) = self.dir {
            directory
        } else {
            let config = self.config.load()?.require(&["sessions"])?;
            config.sessions.directories.into_iter().next().unwrap_or_default()
        };
        let mut out = anstream::stdout().lock();
        for session_id in self.ids {
            let entry =
                Entry { session_id, labels: labels.clone(), expires_at: None, interval: None };
            let path = directory::track(&directory, &entry).map_err(Failure::failed)?;
            writeln!(out, "{}", path.display())?;
        }
        Ok(SUCCESS)
    }
}

impl Untrack {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["sessions"])?;
        let mut out = anstream::stdout().lock();
        let mut failed = Vec::new();
        for outcome in directory::untrack(&config.sessions.directories, &self.ids) {
            match outcome {
                Ok(paths) => {
                    for path in paths {
                        writeln!(out, "removed {}", path.display())?;
                    }
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        if failed.is_empty() { Ok(SUCCESS) } else { Err(Failure::failed(failed.join("\n"))) }
    }
}
