//! Looks at what is in the watched directories now; a file that hasn't changed is not read again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::content::Kept;
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
    Good(Arc<Kept>),
    Bad(Arc<[Problem]>),
    /// It may still be written, and what it says so far can't be believed.
    Unsettled,
}

#[derive(Debug)]
pub(super) struct Scanner {
    directories: Vec<PathBuf>,
    /// The file system that each directory was on when it last held a session file.
    devices: HashMap<PathBuf, u64>,
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
        Self { patience: Patience::FirstScan, ..Self::once(directories) }
    }

    /// For a single scan, which believes also what may still be written.
    pub(super) fn once(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            devices: HashMap::new(),
            seen: HashMap::new(),
            patience: Patience::None,
        }
    }

    pub(super) fn scan(&mut self) -> Scan {
        let started = Instant::now();
        let before = std::mem::take(&mut self.seen);
        let (devices, patience) = (&mut self.devices, self.patience);
        let mut look = Look { devices, before, seen: HashMap::new(), patience };
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
struct Look<'a> {
    devices: &'a mut HashMap<PathBuf, u64>,
    before: HashMap<PathBuf, Seen>,
    seen: HashMap<PathBuf, Seen>,
    patience: Patience,
}

impl Look<'_> {
    fn list(&mut self, directory: &Path) -> Result<Vec<(PathBuf, Found)>, Problem> {
        let unlistable = |error| unlistable(directory, &error);
        let device = fs::metadata(directory).map_err(unlistable)?.dev();
        let files = session_files(directory).map_err(unlistable)?;
        if !files.is_empty() {
            self.devices.insert(directory.to_owned(), device);
        } else if self.devices.get(directory).is_some_and(|before| *before != device) {
            return Err(unmounted(directory));
        }
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
                Found::Good(Arc::new(Kept::of(content)))
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

fn unmounted(directory: &Path) -> Problem {
    let message = "is empty and no longer on the file system it was on; mount that again, or \
                   restart the daemon if the directory is meant to be empty";
    Problem { path: directory.to_owned(), line: None, message: message.to_owned() }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn content(scan: &Scan) -> Arc<Kept> {
        match scan.directories[0].files.as_deref() {
            Ok([(_, Found::Good(content))]) => Arc::clone(content),
            other => panic!("{other:?}"),
        }
    }

    /// A write within one tick of the file system's clock leaves every fingerprint as it was.
    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_until_it_has_settled_and_then_no_more() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.json"), "[]").unwrap();
        let mut scanner = Scanner::new(vec![directory.path().to_owned()]);
        let scan = scanner.scan();
        assert_eq!(scan.settles_at, Some(scan.finished + SETTLING));
        tokio::time::advance(SETTLING / 2).await;
        let fresh = content(&scanner.scan());
        assert!(!Arc::ptr_eq(&content(&scan), &fresh));
        tokio::time::advance(SETTLING / 2).await;
        let scan = scanner.scan();
        assert_eq!(scan.settles_at, None);
        assert!(!Arc::ptr_eq(&content(&scan), &fresh));
        tokio::time::advance(SETTLING).await;
        assert!(Arc::ptr_eq(&content(&scan), &content(&scanner.scan())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_there_long_before_the_first_scan_has_settled_and_later_finds_have_not() {
        let old = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let directory = tempfile::tempdir().unwrap();
        symlink(old, directory.path().join("a.toml")).unwrap();
        let mut scanner = Scanner::new(vec![directory.path().to_owned()]);
        let mut files = scanner.scan().directories.remove(0).files.unwrap();
        assert!(matches!(files.remove(0).1, Found::Bad(_)), "it is no session file");
        symlink(old, directory.path().join("b.toml")).unwrap();
        let files = scanner.scan().directories.remove(0).files.unwrap();
        assert!(files.iter().any(|(_, found)| matches!(found, Found::Unsettled)));
    }

    #[test]
    fn a_single_scan_waits_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.toml"), "sessions = []").unwrap();
        let scan = Scanner::once(vec![directory.path().to_owned()]).scan();
        assert_eq!(content(&scan).each().count(), 0);
    }
}
