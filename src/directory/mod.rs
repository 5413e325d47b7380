//! Session files: the wanted set of sessions, read from watched directories.
//!
//! The directories are declarative: what is wanted is what the files say now, and how they came
//! to say it doesn't matter. So there is one way to find out, a scan of everything; events of
//! the file system only hasten the next one. `scanner` looks at what is there, `wanted` decides
//! what that means after all that was seen before, `watch` is the loop around the two.
//!
//! What must never happen is that a session is untracked, or tracked with half of its labels,
//! because a file was caught at a bad moment. Whatever can't be read or isn't well formed
//! leaves things as they were.

mod content;
mod edit;
mod entry;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hints;
mod journal;
mod problem;
mod scanner;
mod schema;
#[cfg(test)]
pub(crate) mod simulated;
mod survey;
mod syntax;
#[cfg(test)]
mod tests;
mod wanted;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use edit::{EditError, track, untrack};
pub use problem::Problem;
pub use schema::schema;
pub use survey::{Survey, survey};
pub use wanted::Delta;
pub use watch::{Report, Settings, WatchError, watch};

/// Each directory once, by a path that compares equal however it was written.
fn absolute(directories: &[PathBuf]) -> Vec<PathBuf> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let each: BTreeSet<PathBuf> = directories.iter().map(absolute).collect();
    each.into_iter().collect()
}
