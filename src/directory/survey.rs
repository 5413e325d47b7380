use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::absolute;
use super::problem::Problem;
use super::scanner::Scanner;
use super::wanted::Wanted;
use crate::domain::Entry;

/// What session files say at this moment, without regard to what they said before.
#[derive(Debug, Default)]
pub struct Survey {
    /// In order of id. Nothing of a file with a problem is among them.
    pub entries: Vec<Entry>,
    pub files: usize,
    pub problems: BTreeSet<Problem>,
    pub warnings: BTreeSet<Problem>,
}

/// Reads all session files once. Blocks.
#[must_use]
pub fn survey(directories: &[PathBuf]) -> Survey {
    let scan = Scanner::once(absolute(directories)).scan();
    let step = Wanted::new(Duration::ZERO, []).apply(scan);
    Survey {
        entries: step.news.wanted().collect(),
        files: step.files,
        problems: step.problems,
        warnings: step.warnings,
    }
}
