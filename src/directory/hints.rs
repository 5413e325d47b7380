//! Events of the file system, taken as no more than a hint to scan again.
//!
//! Which file an event names doesn't matter, so an event lost, doubled or misattributed costs
//! at most the time to the next scan. That is also why every scan sets all watches anew before
//! it lists: whatever happened to a directory (removed and made again, replaced, mounted over,
//! its link pointed elsewhere) the watch is on what its path leads to now, and what happened
//! before that the listing shows.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

pub(super) struct Hints {
    directories: Arc<BTreeSet<PathBuf>>,
    /// Where a directory would reappear.
    parents: BTreeSet<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    hint: Arc<Notify>,
}

impl Hints {
    pub(super) fn new(directories: &[PathBuf], hint: Arc<Notify>) -> Self {
        let directories: BTreeSet<_> = directories.iter().cloned().collect();
        let parents = directories.iter().filter_map(|path| path.parent());
        let parents = parents.filter(|parent| !directories.contains(*parent));
        Self {
            parents: parents.map(Path::to_owned).collect(),
            directories: Arc::new(directories),
            watcher: None,
            hint,
        }
    }

    /// Sets a watch on every directory as it is now.
    ///
    /// # Errors
    /// Some directory can't be watched. Its changes are found by rescans alone then.
    pub(super) fn arm(&mut self) -> Result<(), notify::Error> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(watcher(Arc::clone(&self.directories), Arc::clone(&self.hint))?),
        };
        let mut outcome = Ok(());
        for path in self.directories.iter().chain(&self.parents) {
            // Lets go of what the path led to before; fails where nothing is watched, which is
            // as good.
            let _ = watcher.unwatch(path);
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // Listing it says so, if anybody needs it.
                Err(error) if is_missing(&error) => {}
                // A parent that nobody may read: its children are found by rescans.
                Err(_) if self.parents.contains(path) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}

fn watcher(
    directories: Arc<BTreeSet<PathBuf>>,
    hint: Arc<Notify>,
) -> Result<RecommendedWatcher, notify::Error> {
    notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error means that events were lost: a reason to look.
        if event.as_ref().map_or(true, |event| concerns(event, &directories)) {
            hint.notify_one();
        }
    })
}

/// Our own reading makes events, too, and so do the neighbours of a watched directory.
fn concerns(event: &Event, directories: &BTreeSet<PathBuf>) -> bool {
    if event.need_rescan() {
        return true;
    }
    if let EventKind::Access(access) = event.kind
        && access != AccessKind::Close(AccessMode::Write)
    {
        return false;
    }
    event.paths.iter().any(|path| {
        directories.contains(path)
            || path.parent().is_some_and(|parent| directories.contains(parent))
    })
}

fn is_missing(error: &notify::Error) -> bool {
    matches!(error.kind, notify::ErrorKind::PathNotFound)
        || matches!(&error.kind, notify::ErrorKind::Io(error) if error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, Flag, ModifyKind, RenameMode};

    use super::*;

    fn concerns_us(kind: EventKind, path: &str) -> bool {
        concerns(&Event::new(kind).add_path(path.into()), &["/a/watched".into()].into())
    }

    #[test]
    fn what_happens_in_or_to_a_watched_directory_is_a_hint_and_its_neighbours_are_none() {
        let create = EventKind::Create(CreateKind::Any);
        let rename = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(concerns_us(create, "/a/watched/x.json"));
        assert!(concerns_us(rename, "/a/watched/..data"));
        assert!(concerns_us(rename, "/a/watched"));
        assert!(!concerns_us(create, "/a/other"));
        assert!(!concerns_us(create, "/a/watched/below/x.json"));
    }

    #[test]
    fn reading_is_no_hint_and_the_end_of_writing_is_one() {
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(!concerns_us(open, "/a/watched/x.json"));
        assert!(concerns_us(written, "/a/watched/x.json"));
    }

    #[test]
    fn an_overflown_queue_is_a_hint() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(concerns(&overflow, &BTreeSet::new()));
    }

    #[test]
    fn a_missing_directory_is_no_trouble_with_watching() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing");
        Hints::new(&[missing], Arc::default()).arm().unwrap();
    }
}
