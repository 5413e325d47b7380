//! Writes and removes the session files that the command line makes: one a session, named by it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::absolute;
use super::scanner::{Found, Listing, Scanner};
use crate::domain::{Entry, Labels, SessionId, Timestamp, Visible};

#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(
        "{path} can't be written: {source}; does its directory exist, and may you write there?"
    )]
    Unwritable { path: String, source: io::Error },
    #[error("{path} can't be removed: {source}; may you write to its directory?")]
    Unremovable { path: String, source: io::Error },
    #[error("session {id} is named by no session file that can be read{}", list(", and these can't be: ", .unread))]
    NotNamed { id: SessionId, unread: Vec<String> },
    #[error("session {id} stays tracked, since other files name it; remove it there by hand{}", list(": ", .places))]
    NamedElsewhere {
        id: SessionId,
        /// File and line.
        places: Vec<String>,
    },
}

fn list(lead: &str, items: &[String]) -> String {
    if items.is_empty() { String::new() } else { format!("{lead}{}", items.join(", ")) }
}

/// Writes `<id>.json` into the directory, in the place of one that is there. It appears whole
/// or not at all, and has reached the disk on return.
///
/// # Errors
/// The directory is missing or can't be written to.
pub fn track(directory: &Path, entry: &Entry) -> Result<PathBuf, EditError> {
    let path = directory.join(file_name(entry.session_id));
    match write(directory, &path, entry) {
        Ok(()) => Ok(path),
        Err(source) => Err(EditError::Unwritable { path: path.display().to_string(), source }),
    }
}

fn file_name(id: SessionId) -> String {
    format!("{id}.json")
}

/// What a session file says that names this entry alone.
pub(super) fn text(entry: &Entry) -> io::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Written<'a> {
        session_id: SessionId,
        #[serde(skip_serializing_if = "Labels::is_empty")]
        labels: &'a Labels,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        #[serde(skip_serializing_if = "Option::is_none")]
        interval: Option<String>,
    }

    let mut text = serde_json::to_vec_pretty(&Written {
        session_id: entry.session_id,
        labels: &entry.labels,
        expires_at: entry.expires_at,
        interval: entry.interval.map(|interval| humantime::format_duration(interval).to_string()),
    })?;
    text.push(b'\n');
    Ok(text)
}

fn write(directory: &Path, path: &Path, entry: &Entry) -> io::Result<()> {
    let text = text(entry)?;
    let mut file = tempfile::Builder::new()
        .prefix(".ibvwatch-")
        .suffix(".tmp")
        // The daemon that is to read it may run as another user.
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync(directory)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes `<id>.json` of each session from whichever of the directories it is in, and returns
/// what came of each, in order: the files removed.
///
/// A file of that name which names other sessions as well is left alone.
#[must_use]
pub fn untrack(directories: &[PathBuf], ids: &[SessionId]) -> Vec<Result<Vec<PathBuf>, EditError>> {
    let listings = Scanner::once(absolute(directories)).scan().directories;
    ids.iter().map(|id| untrack_one(&listings, *id)).collect()
}

fn untrack_one(listings: &[Listing], id: SessionId) -> Result<Vec<PathBuf>, EditError> {
    let Named { own, places, unread } = named(listings, id);
    for path in &own {
        remove(path).map_err(|source| EditError::Unremovable {
            path: path.display().to_string(),
            source,
        })?;
    }
    if !places.is_empty() {
        Err(EditError::NamedElsewhere { id, places })
    } else if own.is_empty() {
        Err(EditError::NotNamed { id, unread })
    } else {
        Ok(own)
    }
}

/// Where a session is named.
#[derive(Default)]
struct Named {
    /// By its own file, which can go.
    own: Vec<PathBuf>,
    places: Vec<String>,
    /// Or here: nobody can tell.
    unread: Vec<String>,
}

fn named(listings: &[Listing], id: SessionId) -> Named {
    let mut found = Named::default();
    for listing in listings {
        let Ok(files) = &listing.files else {
            found.unread.push(listing.directory.display().to_string());
            continue;
        };
        for (path, file) in files {
            let is_own = path.file_name().is_some_and(|name| name == file_name(id).as_str());
            match file {
                Found::Good(content) => {
                    let mut named = content.each();
                    match named.find(|(_, named)| named.entry.session_id == id) {
                        Some(_) if is_own && content.each().count() == 1 => {
                            found.own.push(path.clone());
                        }
                        Some((_, named)) => {
                            found.places.push(format!(
                                "{}:{}",
                                Visible(path.display()),
                                named.line
                            ));
                        }
                        None => {}
                    }
                }
                Found::Bad(_) | Found::Unsettled if is_own => found.own.push(path.clone()),
                Found::Bad(_) | Found::Unsettled => {
                    found.unread.push(Visible(path.display()).to_string());
                }
            }
        }
    }
    found
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), sync)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::*;
    use crate::directory::survey;

    fn id(number: u8) -> SessionId {
        SessionId::from_bytes([number; 16])
    }

    fn entry(number: u8) -> Entry {
        let labels = Labels::new([("case".to_owned(), "A-17".to_owned())].into()).unwrap();
        Entry { session_id: id(number), labels, expires_at: None, interval: None }
    }

    fn names(directory: &Path) -> Vec<String> {
        let items = fs::read_dir(directory).unwrap();
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_track_writes_is_what_a_scan_reads() {
        let root = tempfile::tempdir().unwrap();
        let full = Entry {
            expires_at: Some(Timestamp::from_millis(1_796_000_000_123)),
            interval: Some(Duration::from_secs(31 * 86_400)),
            ..entry(1)
        };
        let path = track(root.path(), &full).unwrap();
        track(root.path(), &Entry { labels: Labels::default(), ..entry(2) }).unwrap();
        let survey = survey(&[root.path().to_owned()]);
        assert!(survey.problems.is_empty(), "{survey:?}");
        assert_eq!(survey.entries[0], full);
        assert_eq!(survey.entries[1].session_id, id(2));
        assert_eq!(path.file_name().unwrap(), format!("{}.json", id(1)).as_str());
        assert_ne!(path.metadata().unwrap().mode() & 0o044, 0, "the daemon's user may read it");
        assert_eq!(names(root.path()).len(), 2, "nothing else is left behind");
    }

    #[test]
    fn track_replaces_what_it_wrote_before() {
        let root = tempfile::tempdir().unwrap();
        let first = track(root.path(), &entry(1)).unwrap();
        let before = first.metadata().unwrap().ino();
        let keep = File::open(&first).unwrap();
        track(root.path(), &Entry { labels: Labels::default(), ..entry(1) }).unwrap();
        assert_ne!(first.metadata().unwrap().ino(), before, "renamed over, not written into");
        assert!(survey(&[root.path().to_owned()]).entries[0].labels.is_empty());
        drop(keep);
    }

    #[test]
    fn track_says_where_it_can_not_write() {
        let error = track(Path::new("/nowhere/at/all"), &entry(1)).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at/all/"), "{error}");
        assert!(error.contains("does its directory exist"), "{error}");
    }

    #[test]
    fn untrack_removes_the_file_from_whichever_directory_it_is_in() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = [first.path().to_owned(), second.path().to_owned()];
        let path = track(second.path(), &entry(1)).unwrap();
        let kept = track(first.path(), &entry(2)).unwrap();
        let removed = untrack(&directories, &[id(1)]).remove(0).unwrap();
        assert_eq!(removed, std::slice::from_ref(&path));
        assert!(!path.exists() && kept.exists());
    }

    #[test]
    fn untrack_removes_its_file_even_if_that_is_broken() {
        let root = tempfile::tempdir().unwrap();
        let path = track(root.path(), &entry(1)).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(untrack(&[root.path().to_owned()], &[id(1)]).remove(0).is_ok());
        assert!(!path.exists());
    }

    #[test]
    fn untrack_says_which_other_file_names_the_session_and_leaves_that_alone() {
        let root = tempfile::tempdir().unwrap();
        let own = track(root.path(), &entry(1)).unwrap();
        let other = root.path().join("all.json");
        fs::write(&other, format!("[\"{}\",\n\"{}\"]", id(2), id(1))).unwrap();
        let error = untrack(&[root.path().to_owned()], &[id(1)]).remove(0).unwrap_err();
        assert!(error.to_string().contains(&format!("{}:2", other.display())), "{error}");
        assert!(other.exists() && !own.exists());
    }

    #[test]
    fn untrack_leaves_a_file_of_the_right_name_that_names_others_too() {
        let root = tempfile::tempdir().unwrap();
        let shared = root.path().join(file_name(id(1)));
        fs::write(&shared, format!("[\"{}\", \"{}\"]", id(1), id(2))).unwrap();
        let error = untrack(&[root.path().to_owned()], &[id(1)]).remove(0).unwrap_err();
        assert!(matches!(error, EditError::NamedElsewhere { .. }), "{error}");
        assert!(shared.exists());
    }

    #[test]
    fn untrack_says_that_no_file_names_the_session_and_which_it_could_not_read() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("bad.json"), "{").unwrap();
        let directories = [root.path().to_owned(), root.path().join("missing")];
        let error = untrack(&directories, &[id(1)]).remove(0).unwrap_err().to_string();
        assert!(error.contains("named by no session file that can be read"), "{error}");
        assert!(error.contains("bad.json") && error.contains("missing"), "{error}");
    }
}
