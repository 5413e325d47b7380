//! What a scan means, given what was seen before: which sessions are wanted, and which no more.
//!
//! Nothing is ever untracked because of an error, so two things outlive what a scan found. A
//! file keeps its last good content while it is bad, unsettled, or out of sight with its
//! directory, and also while it is gone for no longer than the grace: an editor that deletes a
//! file and writes it again may be caught with half of it. And a session known from before the
//! start, whose file may be one that could not be read since, is wanted until all could be.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::content::{At, Kept, Named, others};
use super::problem::Problem;
use super::scanner::{Found, Scan};
use crate::domain::{Entry, SessionId};

/// A file that never settles for so long is one that its writer should replace by renaming.
const RESTLESS: Duration = Duration::from_secs(30);

/// Sessions told of at once: as many as are tracked in one write.
const PORTION: usize = 10_000;

/// What changed since the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// New, or with another entry than before.
    pub wanted: Vec<Entry>,
    /// Gone from all files for longer than the grace.
    pub unwanted: Vec<SessionId>,
    /// Whether the next one tells of the same scan.
    pub more: bool,
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
    pub(super) news: News,
    pub(super) files: usize,
    pub(super) sessions: usize,
    pub(super) problems: BTreeSet<Problem>,
    pub(super) warnings: BTreeSet<Problem>,
    /// When the next grace is over.
    pub(super) wake_at: Option<Instant>,
}

/// The changes of one scan, which may be a million. Entries stay where they are until it is their
/// turn.
#[derive(Debug, Default)]
pub(super) struct News {
    files: Vec<Arc<Kept>>,
    /// In order of id: in which of the files, and where there.
    wanted: Vec<(FileNumber, At)>,
    unwanted: Vec<SessionId>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.unwanted.is_empty()
    }

    /// At least one; nothing is in it where nothing has changed.
    pub(super) fn deltas(&self) -> impl Iterator<Item = Delta> {
        let most = self.wanted.len().max(self.unwanted.len());
        (0..most.max(1)).step_by(PORTION).map(move |from| Delta {
            wanted: portion(&self.wanted, from).iter().filter_map(|&at| self.entry(at)).collect(),
            unwanted: portion(&self.unwanted, from).to_vec(),
            more: from + PORTION < most,
        })
    }

    /// In order of id.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Entry> {
        self.wanted.iter().filter_map(|&at| self.entry(at))
    }

    fn entry(&self, (file, at): (FileNumber, At)) -> Option<Entry> {
        self.files[file as usize].at(at).map(|named| named.entry)
    }
}

fn portion<T>(all: &[T], from: usize) -> &[T] {
    let rest = all.get(from..).unwrap_or_default();
    &rest[..rest.len().min(PORTION)]
}

#[derive(Debug)]
pub(super) struct Wanted {
    grace: Duration,
    /// Every session wanted so far, in order of id.
    told: Vec<Told>,
    /// Whether all that may name a session from before the start has been read once.
    caught_up: bool,
    digests: RandomState,
    /// Those of them that no file names, and since when.
    leaving: HashMap<SessionId, Instant>,
    /// The directories that could be listed once.
    listed: HashSet<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    /// What files said together, where the next scan leads to the same unless it finds one that
    /// says something else.
    standing: Option<Standing>,
}

#[derive(Debug)]
struct Told {
    id: SessionId,
    /// Of the entry last told; none where it is known from before the start and no file has named
    /// it since. The lowest bit says whether it is known from before the start.
    digest: Option<NonZeroU64>,
}

impl Told {
    const FROM_BEFORE: u64 = 0b01;
    const NAMED: u64 = 0b10;

    fn new(id: SessionId, digest: u64) -> Self {
        let mut told = Self { id, digest: NonZeroU64::new(Self::NAMED) };
        told.names(digest);
        told
    }

    fn is_from_before(&self) -> bool {
        self.digest.is_none_or(|digest| digest.get() & Self::FROM_BEFORE != 0)
    }

    /// Returns whether this is another entry than the last one.
    fn names(&mut self, digest: u64) -> bool {
        let from_before = if self.is_from_before() { Self::FROM_BEFORE } else { 0 };
        let digest = digest & !Self::FROM_BEFORE | Self::NAMED | from_before;
        let before = std::mem::replace(&mut self.digest, NonZeroU64::new(digest));
        before != self.digest
    }
}

#[derive(Debug)]
struct Standing {
    sessions: usize,
    warnings: BTreeSet<Problem>,
}

#[derive(Debug, Default)]
struct File {
    /// What it said when it was last good.
    content: Option<Arc<Kept>>,
    problems: Arc<[Problem]>,
    unsettled_since: Option<Instant>,
    /// Whether it was there when its directory was first listed.
    from_start: bool,
    gone_since: Option<Instant>,
}

/// Counts the files that are there, by path.
type FileNumber = u32;

/// What the files that are there say together.
struct Merged<'a> {
    files: Vec<(&'a Path, &'a Arc<Kept>)>,
    /// Each session once, in order of id, with the entry that counts.
    named: Vec<(SessionId, FileNumber, At)>,
    warnings: BTreeSet<Problem>,
}

impl Wanted {
    pub(super) fn new(grace: Duration, known: impl IntoIterator<Item = SessionId>) -> Self {
        let mut told: Vec<Told> = known.into_iter().map(|id| Told { id, digest: None }).collect();
        told.sort_unstable_by_key(|told| told.id);
        Self {
            grace,
            told,
            caught_up: false,
            digests: RandomState::new(),
            leaving: HashMap::new(),
            listed: HashSet::new(),
            files: BTreeMap::new(),
            standing: None,
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
        if let Some(Standing { sessions, warnings }) = &self.standing {
            step.sessions = *sessions;
            step.warnings.clone_from(warnings);
            return step;
        }
        let Merged { files, named, warnings } = merge(&self.files);
        step.sessions = named.len();
        step.news.files = files.into_iter().map(|(_, content)| Arc::clone(content)).collect();
        let held = self.compare(&named, started, finished, !blind.is_empty(), &mut step);
        if !held && self.leaving.is_empty() {
            let warnings = warnings.clone();
            self.standing = Some(Standing { sessions: step.sessions, warnings });
        }
        step.warnings = warnings;
        if held {
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
        let mut changed = false;
        for listing in scan.directories {
            match listing.files {
                Ok(files) => {
                    let from_start = self.listed.insert(listing.directory);
                    for (path, found) in files {
                        let new = || File { from_start, ..File::default() };
                        let file = self.files.entry(path.clone()).or_insert_with(new);
                        changed |= file.see(&path, found, finished);
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
            changed |= file.gone_since.is_none();
            let since = file.miss(finished);
            started.duration_since(since) < self.grace
        });
        if changed {
            self.standing = None;
        }
        unlisted.into_iter().filter(|directory| !self.listed.contains(directory)).collect()
    }

    /// Finds out what is new or differs from what was told, and lets go of what no file has named
    /// for the grace. While `blind`, some file or directory may name a session that was known from
    /// before the start; returns whether one is wanted for this alone.
    fn compare(
        &mut self,
        named: &[(SessionId, FileNumber, At)],
        started: Instant,
        finished: Instant,
        blind: bool,
        step: &mut Step,
    ) -> bool {
        let Self { grace, told, caught_up, digests, leaving, .. } = self;
        *caught_up |= !blind;
        let some_leave = !leaving.is_empty();
        let mut known = told.iter_mut().peekable();
        let mut new = Vec::new();
        let mut held = false;
        let mut stays = |told: &Told, step: &mut Step| {
            if blind && (told.digest.is_none() || told.is_from_before() && !*caught_up) {
                held = true;
                leaving.remove(&told.id);
                return;
            }
            let since = *leaving.entry(told.id).or_insert(finished);
            if started.duration_since(since) >= *grace {
                step.news.unwanted.push(told.id);
            } else {
                let over = since.checked_add(*grace);
                step.wake_at = step.wake_at.into_iter().chain(over).min();
            }
        };
        let mut back = Vec::new();
        for &(id, file, at) in named {
            while let Some(other) = known.next_if(|told| told.id < id) {
                stays(other, step);
            }
            let Some(entry) = step.news.entry((file, at)) else { continue };
            let digest = digests.hash_one(&entry);
            match known.next_if(|told| told.id == id) {
                Some(told) => {
                    if some_leave {
                        back.push(id);
                    }
                    if !told.names(digest) {
                        continue;
                    }
                }
                None => new.push(Told::new(id, digest)),
            }
            step.news.wanted.push((file, at));
        }
        for other in known {
            stays(other, step);
        }
        for id in back.iter().chain(&step.news.unwanted) {
            leaving.remove(id);
        }
        let unwanted = &step.news.unwanted;
        if !unwanted.is_empty() {
            told.retain(|told| unwanted.binary_search(&told.id).is_err());
        }
        if !new.is_empty() {
            told.reserve_exact(new.len());
            told.append(&mut new);
            told.sort_unstable_by_key(|told| told.id);
        }
        held
    }
}

/// Of an id in several files, the first by path counts.
fn merge(files: &BTreeMap<PathBuf, File>) -> Merged<'_> {
    let there = files.iter().filter(|(_, file)| file.gone_since.is_none());
    let files: Vec<(&Path, &Arc<Kept>)> =
        there.filter_map(|(path, file)| Some((path.as_path(), file.content.as_ref()?))).collect();
    let mut named = Vec::new();
    for (number, (_, content)) in (0..).zip(&files) {
        named.extend(content.each().map(|(at, named)| (named.entry.session_id, number, at)));
    }
    named.sort_unstable();
    let mut warnings: BTreeSet<Problem> =
        files.iter().filter_map(|(_, content)| content.warning.clone()).collect();
    // By file, and the file whose entries count: how many, and the first of them.
    let mut doubles: BTreeMap<(FileNumber, FileNumber), (usize, At)> = BTreeMap::new();
    named.dedup_by(|(id, file, at), (first, counting, _)| {
        if id == first {
            let (count, first) = doubles.entry((*file, *counting)).or_insert((0, *at));
            *count += 1;
            *first = (*first).min(*at);
        }
        id == first
    });
    warnings.extend(doubles.into_iter().filter_map(|((file, other), (count, first))| {
        let (path, content) = files[file as usize];
        Some(double(path, files[other as usize].0, count, &content.at(first)?))
    }));
    Merged { files, named, warnings }
}

impl File {
    /// Returns whether it has another content than before.
    fn see(&mut self, path: &Path, found: Found, now: Instant) -> bool {
        let was_gone = self.gone_since.take().is_some();
        match found {
            Found::Good(content) => {
                let same = |before: &Arc<Kept>| Arc::ptr_eq(before, &content);
                let changed = !self.content.as_ref().is_some_and(same);
                self.content = Some(content);
                self.problems = Arc::default();
                self.unsettled_since = None;
                return changed || was_gone;
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
        was_gone
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
    let message = "could not be read since the start, so no session from before is untracked; \
                   mend or remove it";
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
