//! Looks at what is in the watched directories now; a file that hasn't changed is not read again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::content::Content;
use super::file::{self, Fingerprint, Reading, Target};
use super::problem::Problem;
use super::syntax::Syntax;

/// A file that nobody has changed for so long is taken to be written to its end. Also longer
/// than a tick of the coarsest file system's clock, so that a fingerprint this old is unique.
pub(super) const SETTLING: Duration = Duration::from_secs(2);

/// All that one look found.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) directories: Vec<Listing>,
    pub(super) started: Instant,
    pub(super) finished: Instant,
    /// When the first of the files that may still be written will have settled.
    pub(super) settles_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Listing {
    pub(super) directory: PathBuf,
    /// Every session file in it, unless it can't be listed.
    pub(super) files: Result<Vec<(PathBuf, Found)>, Problem>,
}

/// What a file says now.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Good(Arc<Content>),
    Bad(Arc<[Problem]>),
    /// It may still be written, and what it says so far can't be believed.
    Unsettled,
}

#[derive(Debug)]
pub(super) struct Scanner {
    directories: Vec<PathBuf>,
    seen: HashMap<PathBuf, Seen>,
    patience: Patience,
}

/// Whether a file is waited for that may still be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// There is one scan only, so that it takes files as they are.
    None,
    /// What was there before us and looks old has settled.
    FirstScan,
    /// A file has settled once it was seen unchanged for long enough by our own clock: the
    /// file server's may be off by hours.
    Full,
}

#[derive(Debug)]
struct Seen {
    fingerprint: Fingerprint,
    /// When it was first seen like this.
    since: Instant,
    /// Whether it was read when nobody had written to it for [`SETTLING`].
    settled: bool,
    found: Found,
}

impl Scanner {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, seen: HashMap::new(), patience: Patience::FirstScan }
    }

    /// For a single scan, which believes also what may still be written.
    pub(super) fn once(directories: Vec<PathBuf>) -> Self {
        Self { directories, seen: HashMap::new(), patience: Patience::None }
    }

    pub(super) fn scan(&mut self) -> Scan {
        let started = Instant::now();
        let before = std::mem::take(&mut self.seen);
        let mut look = Look { before, seen: HashMap::new(), patience: self.patience };
        let directories = self
            .directories
            .iter()
            .map(|directory| Listing { directory: directory.clone(), files: look.list(directory) })
            .collect();
        self.seen = look.seen;
        self.patience = Patience::Full;
        let unsettled = self.seen.values().filter(|seen| !seen.settled);
        let settles_at = unsettled.map(|seen| seen.since + SETTLING).min();
        Scan { directories, started, finished: Instant::now(), settles_at }
    }
}

/// One scan under way.
struct Look {
    before: HashMap<PathBuf, Seen>,
    seen: HashMap<PathBuf, Seen>,
    patience: Patience,
}

impl Look {
    fn list(&mut self, directory: &Path) -> Result<Vec<(PathBuf, Found)>, Problem> {
        let files = session_files(directory).map_err(|error| unlistable(directory, &error))?;
        Ok(files
            .into_iter()
            .filter_map(|(path, syntax)| {
                let found = match self.file(&path, syntax) {
                    Ok(Some(found)) => found,
                    Ok(None) => return None,
                    Err(problem) => Found::Bad([problem].into()),
                };
                Some((path, found))
            })
            .collect())
    }

    fn file(&mut self, path: &Path, syntax: Syntax) -> Result<Option<Found>, Problem> {
        let now = Instant::now();
        let fingerprint = match file::look(path)? {
            Target::File(fingerprint) => fingerprint,
            Target::Gone => return Ok(None),
        };
        let before = self.before.remove(path).filter(|seen| seen.fingerprint == fingerprint);
        let seen = match before {
            Some(seen) if seen.settled => seen,
            before => self.read(path, syntax, fingerprint, before.map(|seen| (seen.since, now)))?,
        };
        let found = seen.found.clone();
        self.seen.insert(path.to_owned(), seen);
        Ok(Some(found))
    }

    /// `unchanged` is since and until when the file is known to have been as it is.
    fn read(
        &self,
        path: &Path,
        syntax: Syntax,
        fingerprint: Fingerprint,
        unchanged: Option<(Instant, Instant)>,
    ) -> Result<Seen, Problem> {
        let settled = match (self.patience, unchanged) {
            (Patience::None, _) => true,
            (Patience::FirstScan, _) => fingerprint.is_older_than(SETTLING),
            (Patience::Full, None) => false,
            (Patience::Full, Some((since, now))) => now.duration_since(since) >= SETTLING,
        };
        let found = match file::read(path, syntax, &fingerprint)? {
            Reading::Whole(Ok(content)) if settled || syntax.shows_its_end() => {
                Found::Good(Arc::new(content))
            }
            Reading::Whole(Err(problems)) if settled => Found::Bad(problems.into()),
            Reading::Whole(_) => Found::Unsettled,
            Reading::Torn if self.patience == Patience::None => Found::Bad([torn(path)].into()),
            Reading::Torn => {
                let since = Instant::now();
                return Ok(Seen { fingerprint, since, settled: false, found: Found::Unsettled });
            }
        };
        let since = unchanged.map_or_else(Instant::now, |(since, _)| since);
        Ok(Seen { fingerprint, since, settled, found })
    }
}

/// Every file in the directory that is to be read, in no order.
fn session_files(directory: &Path) -> io::Result<Vec<(PathBuf, Syntax)>> {
    let mut files = Vec::new();
    for item in fs::read_dir(directory)? {
        let name = item?.file_name();
        // Editors and `track` prepare a file under a name with a dot, or with another extension.
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = directory.join(name);
        match path.extension().map(OsStr::as_encoded_bytes) {
            Some(b"json") => files.push((path, Syntax::Json)),
            Some(b"toml") => files.push((path, Syntax::Toml)),
            _ => {}
        }
    }
    Ok(files)
}

fn torn(path: &Path) -> Problem {
    let message = "is being written just now; look again when it is done".to_owned();
    Problem { path: path.to_owned(), line: None, message }
}

fn unlistable(directory: &Path, error: &io::Error) -> Problem {
    let advice = if error.kind() == io::ErrorKind::PermissionDenied {
        "let the daemon's user list it"
    } else {
        "create or mend it, or correct sessions.directories"
    };
    let message = format!("can't be listed: {error}; {advice}");
    Problem { path: directory.to_owned(), line: None, message }
}
