//! What happens to files, and what must come of it.

mod following;
mod restart;
mod scenarios;
mod storm;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::wanted::{Delta, Step};
use super::watch::{Eyes, Settings};
use crate::domain::{Entry, SessionId};

const GRACE: Duration = Duration::from_secs(10);

fn id(number: u32) -> SessionId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    SessionId::from_bytes(bytes)
}

fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<SessionId> {
    numbers.into_iter().map(id).collect()
}

/// A file that names these sessions.
fn json(numbers: impl IntoIterator<Item = u32>) -> String {
    let ids: Vec<String> = ids(numbers).iter().map(|id| format!("\"{id}\"")).collect();
    format!("[{}]", ids.join(",\n"))
}

fn toml(numbers: impl IntoIterator<Item = u32>) -> String {
    let ids = ids(numbers);
    let tables: Vec<String> =
        ids.iter().map(|id| format!("[[sessions]]\nsession_id = \"{id}\"\n")).collect();
    tables.concat()
}

fn labelled(number: u32, label: &str) -> String {
    format!("{{\"session_id\": \"{}\", \"labels\": {{\"case\": \"{label}\"}}}}", id(number))
}

fn settings(directories: Vec<PathBuf>) -> Settings {
    Settings { directories, rescan_interval: Duration::from_secs(60), removal_grace: GRACE }
}

/// Looks at a directory step by step, on a paused clock.
struct Bench {
    root: TempDir,
    directory: PathBuf,
    eyes: Eyes,
    last: Step,
    tracked: BTreeMap<SessionId, Entry>,
}

impl Bench {
    fn new() -> Self {
        Self::with_known([])
    }

    fn with_known(known: impl IntoIterator<Item = u32>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sessions.d");
        fs::create_dir(&directory).unwrap();
        let eyes = Eyes::new(&settings(vec![directory.clone()]), ids(known), None);
        Self { root, directory, eyes, last: Step::default(), tracked: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn look(&mut self) -> Delta {
        let (step, _) = self.eyes.look();
        let mut delta = Delta::default();
        for portion in step.news.deltas() {
            delta.wanted.extend(portion.wanted);
            delta.unwanted.extend(portion.unwanted);
        }
        for entry in &delta.wanted {
            self.tracked.insert(entry.session_id, entry.clone());
        }
        for id in &delta.unwanted {
            self.tracked.remove(id);
        }
        self.last = step;
        delta
    }

    async fn look_after(&mut self, seconds: u64) -> Delta {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        self.look()
    }

    #[track_caller]
    fn tracks(&self, numbers: impl IntoIterator<Item = u32>) {
        let tracked: Vec<SessionId> = self.tracked.keys().copied().collect();
        assert_eq!(tracked, ids(numbers));
    }

    /// What is wrong with the file now.
    fn problems(&self, name: &str) -> Vec<String> {
        messages(&self.last.problems, &self.path(name))
    }

    fn warnings(&self, name: &str) -> Vec<String> {
        messages(&self.last.warnings, &self.path(name))
    }
}

fn messages(problems: &BTreeSet<super::Problem>, path: &Path) -> Vec<String> {
    let problems = problems.iter().filter(|problem| problem.path == path);
    problems.map(|problem| problem.message.clone()).collect()
}
