use std::io::Write;

use crate::app::AppError;
use crate::config::ConfigError;
use crate::store::StoreError;

/// Why a command failed: what to print, and the exit status.
#[derive(Debug)]
pub struct Failure {
    message: String,
    status: i32,
}

pub(super) const SUCCESS: i32 = 0;
const FAILURE: i32 = 1;
const USAGE: i32 = 2;
/// `EX_CONFIG` of sysexits.h: unusable configuration, key or state; a restart won't help.
const UNUSABLE: i32 = 78;

impl Failure {
    pub(super) fn failed(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), status: FAILURE }
    }

    /// Arguments that clap can't tell are wrong.
    pub(super) fn usage(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), status: USAGE }
    }

    pub(super) fn unusable(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), status: UNUSABLE }
    }

    /// Prints the message to standard error; returns the exit status.
    #[must_use]
    pub fn report(&self) -> i32 {
        if !self.message.is_empty() {
            // With standard error gone too, the exit status is all that is left to say.
            let _ = writeln!(std::io::stderr(), "{}", self.message);
        }
        self.status
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::unusable(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unusable(_) => Self::unusable(error),
            StoreError::Stale(_) | StoreError::Failed(_) => Self::failed(error),
        }
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Unusable(_) => Self::unusable(error),
            AppError::Store(_)
            | AppError::Poller(_)
            | AppError::Directory(_)
            | AppError::Output(_)
            | AppError::Listen(_)
            | AppError::Died { .. } => Self::failed(error),
        }
    }
}

/// Output of a command could not be written. A reader that has gone is no failure: `head` goes
/// when it has seen enough.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self { message: String::new(), status: SUCCESS }
        } else {
            Self::failed(format!("standard output can't be written: {error}"))
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
