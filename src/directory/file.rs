//! Reads one session file, and tells whether anybody may still be writing it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::content::{self, Content};
use super::problem::Problem;
use super::syntax::Syntax;

/// Hundreds of thousands of sessions. What is read may take some thirty times as much memory for
/// a moment, if it is made for that.
const LARGEST: u64 = 16 << 20;

/// Equal for two looks at a file only if nobody wrote to it in between, as far as the
/// resolution of the file system's clock can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether both of the file's times lie at least `age` in the past of the wall clock.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        let latest = self.modified.max(self.changed);
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(latest.0), u32::try_from(latest.1)) else {
            // Before 1970.
            return true;
        };
        UNIX_EPOCH
            .checked_add(Duration::new(seconds, nanos))
            .and_then(|latest| SystemTime::now().duration_since(latest).ok())
            .is_some_and(|passed| passed >= age)
    }
}

/// What a path in a watched directory leads to.
pub(super) enum Target {
    File(Fingerprint),
    /// Removed since the directory was listed.
    Gone,
}

pub(super) fn look(path: &Path) -> Result<Target, Problem> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Target::File(Fingerprint::of(&metadata))),
        Ok(metadata) => {
            let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            Err(problem(path, format!("is {kind}; rename it, or put a session file there")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Following a link fails in the same way whether the link or its target is missing.
            match std::fs::symlink_metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Target::Gone),
                Ok(_) | Err(_) => Err(problem(
                    path,
                    "links to a file that does not exist; mend or remove the link".to_owned(),
                )),
            }
        }
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// What reading a file came to.
pub(super) enum Reading {
    Whole(Result<Content, Vec<Problem>>),
    /// Somebody wrote to it meanwhile, or put another in its place.
    Torn,
}

/// # Errors
/// The file can't be opened or read.
pub(super) fn read(
    path: &Path,
    syntax: Syntax,
    expected: &Fingerprint,
) -> Result<Reading, Problem> {
    if expected.size > LARGEST {
        let message = format!(
            "is {} bytes; split it into files of at most {LARGEST} bytes each",
            expected.size
        );
        return Ok(Reading::Whole(Err(vec![problem(path, message)])));
    }
    let bytes = read_unchanged(path, expected).map_err(|error| unreadable(path, &error))?;
    Ok(match bytes {
        Some(bytes) => Reading::Whole(content::parse(path, &bytes, syntax)),
        None => Reading::Torn,
    })
}

fn read_unchanged(path: &Path, expected: &Fingerprint) -> io::Result<Option<Vec<u8>>> {
    let mut file = open(path)?;
    let mut bytes = Vec::new();
    (&mut file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    let same = Fingerprint::of(&file.metadata()?) == *expected;
    Ok((same && bytes.len() as u64 == expected.size).then_some(bytes))
}

/// Without waiting for a writer, should a pipe have taken the file's place.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let advice = if error.kind() == io::ErrorKind::PermissionDenied {
        "let the daemon's user read it"
    } else {
        "mend or remove it"
    };
    problem(path, format!("can't be read: {error}; {advice}"))
}

fn problem(path: &Path, message: String) -> Problem {
    Problem { path: path.to_owned(), line: None, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aged(seconds: i64) -> Fingerprint {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let time = (now.cast_signed() - seconds, 0);
        Fingerprint { device: 0, inode: 0, size: 0, modified: (0, 0), changed: time }
    }

    #[test]
    fn the_later_of_both_times_tells_the_age_and_the_future_is_not_old() {
        let age = Duration::from_secs(2);
        assert!(aged(10).is_older_than(age));
        assert!(!aged(1).is_older_than(age));
        assert!(!aged(-3_600).is_older_than(age));
        let restored = Fingerprint { modified: aged(10).changed, ..aged(0) };
        assert!(!restored.is_older_than(age), "{restored:?}");
    }

    #[test]
    fn a_file_other_than_the_one_looked_at_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        std::fs::write(&path, "[]").unwrap();
        let Ok(Target::File(before)) = look(&path) else { panic!("{path:?} is a file") };
        std::fs::write(&path, "[ ]").unwrap();
        assert!(matches!(read(&path, Syntax::Json, &before), Ok(Reading::Torn)));
        let Ok(Target::File(now)) = look(&path) else { panic!("{path:?} is a file") };
        assert!(matches!(read(&path, Syntax::Json, &now), Ok(Reading::Whole(Ok(_)))));
    }
}
