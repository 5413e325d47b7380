//! Session files for the simulation: what is read of them and what that means is the real thing,
//! the files are simulated, since a real file's times would be real time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::content;
use super::problem::Problem;
use super::scanner::{Found, Listing, Scan};
use super::syntax::Syntax;
use super::wanted::{Delta, Wanted};
use crate::domain::SessionId;

/// What is there at a moment: by directory the text of each file, unless it can't be listed.
pub(crate) type Files = BTreeMap<PathBuf, Option<BTreeMap<String, Text>>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    Whole(String),
    /// Caught while it is written.
    Torn,
    /// The disk can't read it.
    Unreadable,
}

/// A daemon's view of them.
#[derive(Debug)]
pub(crate) struct Eyes(Wanted);

impl Eyes {
    pub(crate) fn new(grace: Duration, known: Vec<SessionId>) -> Self {
        Self(Wanted::new(grace, known))
    }

    /// What changed since the last look, and when to look again if nothing happens.
    pub(crate) fn look(&mut self, files: &Files) -> (Delta, Option<Instant>) {
        let now = Instant::now();
        let directories = files.iter().map(|(directory, files)| Listing {
            directory: directory.clone(),
            files: match files {
                Some(files) => Ok(files
                    .iter()
                    .map(|(name, text)| {
                        let path = directory.join(name);
                        let found = found(&path, text);
                        (path, found)
                    })
                    .collect()),
                None => Err(problem(directory, "can't be listed")),
            },
        });
        let scan = Scan {
            directories: directories.collect(),
            started: now,
            finished: now,
            settles_at: None,
        };
        let step = self.0.apply(scan);
        (step.delta, step.wake_at)
    }
}

fn found(path: &Path, text: &Text) -> Found {
    match text {
        Text::Whole(text) => match content::parse(path, text.as_bytes(), Syntax::Json) {
            Ok(content) => Found::Good(Arc::new(content)),
            Err(problems) => Found::Bad(problems.into()),
        },
        Text::Torn => Found::Unsettled,
        Text::Unreadable => Found::Bad([problem(path, "can't be read")].into()),
    }
}

fn problem(path: &Path, message: &str) -> Problem {
    Problem { path: path.to_owned(), line: None, message: message.to_owned() }
}
