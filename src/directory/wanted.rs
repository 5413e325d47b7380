//! What a scan means, given what was seen before: which sessions are wanted, and which no more.
//!
//! Nothing is ever untracked because of an error, so two things outlive what a scan found. A
//! file keeps its last good content while it is bad, unsettled, or out of sight with its
//! directory, and also while it is gone for no longer than the grace: an editor that deletes a
//! file and writes it again may be caught with half of it. And a session known from before the
//! start, whose file may be one that could not be read since, is wanted until all could be.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::content::{Content, Named, others};
use super::problem::Problem;
use super::scanner::{Found, Scan};
use crate::domain::{Entry, SessionId};

/// A file that never settles for so long is one that its writer should replace by renaming.
const RESTLESS: Duration = Duration::from_secs(30);

/// What changed since the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// New, or with another entry than before.
    pub wanted: Vec<Entry>,
    /// Gone from all files for longer than the grace.
    pub unwanted: Vec<SessionId>,
}

impl Delta {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.unwanted.is_empty()
    }
}

/// What a scan led to.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) delta: Delta,
    pub(super) files: usize,
    pub(super) sessions: usize,
    pub(super) problems: BTreeSet<Problem>,
    pub(super) warnings: BTreeSet<Problem>,
    /// When the next grace is over.
    pub(super) wake_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Wanted {
    grace: Duration,
    /// Every session wanted so far, with the entry last told; none where it is known from
    /// before the start and no file has named it since.
    told: HashMap<SessionId, Option<Entry>>,
    /// Those of them that no file names, and since when.
    leaving: HashMap<SessionId, Instant>,
    /// The directories that could be listed once.
    listed: HashSet<PathBuf>,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Debug, Default)]
struct File {
    /// What it said when it was last good.
    content: Option<Arc<Content>>,
    problems: Arc<[Problem]>,
    unsettled_since: Option<Instant>,
    /// Whether it was there when its directory was first listed.
    from_start: bool,
    gone_since: Option<Instant>,
}

impl Wanted {
    pub(super) fn new(grace: Duration, known: impl IntoIterator<Item = SessionId>) -> Self {
        Self {
            grace,
            told: known.into_iter().map(|id| (id, None)).collect(),
            leaving: HashMap::new(),
            listed: HashSet::new(),
            files: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, scan: Scan) -> Step {
        let mut step = Step::default();
        let (started, finished) = (scan.started, scan.finished);
        let mut blind = self.take_in(scan, &mut step.problems);
        for (path, file) in &self.files {
            step.files += usize::from(file.gone_since.is_none());
            step.problems.extend(file.problems.iter().cloned());
            if file.is_blind() {
                blind.push(path.clone());
            }
        }
        let named = self.merge(&mut step.warnings);
        step.sessions = named.len();
        self.take_leave(&named, started, finished, !blind.is_empty(), &mut step);
        self.welcome(named, &mut step.delta);
        if self.told.values().any(Option::is_none) {
            // One that is still being written passes by itself.
            let bad: HashSet<&Path> = step.problems.iter().map(|bad| bad.path.as_path()).collect();
            let blind = blind.into_iter().filter(|path| bad.contains(path.as_path()));
            step.warnings.extend(blind.map(unread));
        }
        step
    }

    /// Brings directories and files up to date, and returns the directories never listed.
    fn take_in(&mut self, scan: Scan, problems: &mut BTreeSet<Problem>) -> Vec<PathBuf> {
        let (started, finished) = (scan.started, scan.finished);
        let mut there = HashSet::new();
        let mut unlisted = HashSet::new();
        for listing in scan.directories {
            match listing.files {
                Ok(files) => {
                    let from_start = self.listed.insert(listing.directory);
                    for (path, found) in files {
                        let new = || File { from_start, ..File::default() };
                        let file = self.files.entry(path.clone()).or_insert_with(new);
                        file.see(&path, found, finished);
                        there.insert(path);
                    }
                }
                Err(problem) => {
                    problems.insert(problem);
                    unlisted.insert(listing.directory);
                }
            }
        }
        self.files.retain(|path, file| {
            if there.contains(path) || path.parent().is_some_and(|dir| unlisted.contains(dir)) {
                return true;
            }
            let since = file.miss(finished);
            started.duration_since(since) < self.grace
        });
        unlisted.into_iter().filter(|directory| !self.listed.contains(directory)).collect()
    }

    /// What all files say together: of an id in several, the first by path counts.
    fn merge(&self, warnings: &mut BTreeSet<Problem>) -> HashMap<SessionId, Entry> {
        let mut first: HashMap<SessionId, (&Path, &Entry)> = HashMap::new();
        for (path, file) in &self.files {
            let Some(content) = file.content.as_ref().filter(|_| file.gone_since.is_none()) else {
                continue;
            };
            warnings.extend(content.warning.clone());
            let mut doubles: BTreeMap<&Path, (usize, &Named)> = BTreeMap::new();
            for named in &content.named {
                match first.entry(named.entry.session_id) {
                    Slot::Vacant(slot) => {
                        slot.insert((path, &named.entry));
                    }
                    Slot::Occupied(slot) => {
                        doubles.entry(slot.get().0).or_insert((0, named)).0 += 1;
                    }
                }
            }
            warnings.extend(
                doubles
                    .into_iter()
                    .map(|(other, (count, named))| double(path, other, count, named)),
            );
        }
        first.into_iter().map(|(id, (_, entry))| (id, entry.clone())).collect()
    }

    /// Lets go of what no file has named for the grace. While `blind`, some file or directory
    /// may name a session that was known from before the start.
    fn take_leave(
        &mut self,
        named: &HashMap<SessionId, Entry>,
        started: Instant,
        finished: Instant,
        blind: bool,
        step: &mut Step,
    ) {
        for (id, entry) in &self.told {
            if named.contains_key(id) || blind && entry.is_none() {
                self.leaving.remove(id);
                continue;
            }
            let since = *self.leaving.entry(*id).or_insert(finished);
            if started.duration_since(since) >= self.grace {
                step.delta.unwanted.push(*id);
            } else {
                let over = since.checked_add(self.grace);
                step.wake_at = step.wake_at.into_iter().chain(over).min();
            }
        }
        step.delta.unwanted.sort_unstable();
        for id in &step.delta.unwanted {
            self.told.remove(id);
            self.leaving.remove(id);
        }
    }

    /// Tells what is new or differs.
    fn welcome(&mut self, named: HashMap<SessionId, Entry>, delta: &mut Delta) {
        for (id, entry) in named {
            let told = self.told.entry(id).or_default();
            if told.as_ref() != Some(&entry) {
                delta.wanted.push(entry.clone());
                *told = Some(entry);
            }
        }
        delta.wanted.sort_unstable_by_key(|entry| entry.session_id);
    }
}

impl File {
    fn see(&mut self, path: &Path, found: Found, now: Instant) {
        self.gone_since = None;
        match found {
            Found::Good(content) => {
                self.content = Some(content);
                self.problems = Arc::default();
                self.unsettled_since = None;
            }
            Found::Bad(problems) => {
                self.problems = problems;
                self.unsettled_since = None;
            }
            Found::Unsettled => {
                let since = *self.unsettled_since.get_or_insert(now);
                if now.duration_since(since) >= RESTLESS {
                    self.problems = [restless(path)].into();
                }
            }
        }
    }

    /// Returns since when it is gone.
    fn miss(&mut self, now: Instant) -> Instant {
        self.problems = Arc::default();
        self.unsettled_since = None;
        *self.gone_since.get_or_insert(now)
    }

    /// Whether it may name sessions that nobody has read of since the start. One that came
    /// later and is still being written has nothing to do with those from before.
    fn is_blind(&self) -> bool {
        self.gone_since.is_none()
            && self.content.is_none()
            && (self.from_start || !self.problems.is_empty())
    }
}

fn restless(path: &Path) -> Problem {
    let message = "is written to all the time, so what it says can't be believed; \
                   write it under a name with a dot in front and rename it";
    Problem { path: path.to_owned(), line: None, message: message.to_owned() }
}

fn unread(path: PathBuf) -> Problem {
    let message = "could not be read since the start, so no session from before is untracked \
                   unless a file named it since; mend or remove it";
    Problem { path, line: None, message: message.to_owned() }
}

fn double(path: &Path, other: &Path, count: usize, named: &Named) -> Problem {
    Problem {
        path: path.to_owned(),
        line: Some(named.line),
        message: format!(
            "session {} is named by {} too, and that entry counts{}; remove one of them",
            named.entry.session_id,
            other.display(),
            others(count)
        ),
    }
}
