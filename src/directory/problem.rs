use std::fmt;
use std::path::PathBuf;

use crate::domain::Visible;

/// Something a person should mend: where it is, what is wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// A session file, or a watched directory.
    pub path: PathBuf,
    /// Counted from 1, where known.
    pub line: Option<usize>,
    /// Goes on where the path leaves off: "is empty; ...".
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever may write the directory chose the name, and half of the words.
        let (path, message) = (Visible(self.path.display()), Visible(&self.message));
        match self.line {
            Some(line) => write!(f, "{path}:{line}: {message}"),
            None => write!(f, "{path}: {message}"),
        }
    }
}
