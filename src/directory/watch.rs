//! The loop: wait for a hint or a time, scan, tell what changed.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use super::absolute;
use super::hints::Hints;
use super::journal::Journal;
use super::problem::Problem;
use super::scanner::Scanner;
use super::wanted::{Delta, Step, Wanted};
use crate::clock::Clock;
use crate::domain::{SessionId, Timestamp};

/// The validated form of `sessions.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub directories: Vec<PathBuf>,
    /// The longest time between two scans; taken as a day if it is longer.
    pub rescan_interval: Duration,
    /// How long a session must be gone from all files before it is unwanted.
    pub removal_grace: Duration,
}

/// How the watched directories were found to be at the last scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Session files, good or bad.
    pub files: usize,
    /// Sessions that files name.
    pub sessions: usize,
    /// What keeps a file or directory from being believed. Its last good content counts.
    pub problems: Vec<Problem>,
    /// What is odd and does no harm.
    pub warnings: Vec<Problem>,
    /// How many problems there were since the start; one that stays counts once.
    pub problems_total: u64,
    pub last_scan: Option<Timestamp>,
    /// The last one without a problem.
    pub last_good_scan: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("nobody takes the changes of the session files any more; restart the daemon")]
    ReceiverGone,
    #[error("a scan of the session files broke off: {0}; restart the daemon")]
    ScanFailed(#[from] JoinError),
}

/// A burst of events leads to one scan, this long after the last of them,
const QUIET: Duration = Duration::from_millis(100);
/// and this long after the first, if they don't stop.
const LONGEST_BURST: Duration = Duration::from_secs(1);

const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);

/// Watches the directories and sends every change of the wanted set, from the empty one on; those
/// of one scan in portions. The first scan is sent even if nothing changes by it, so that whoever
/// takes it knows that it is done. `known` are the sessions that were wanted before the start: named by no file, they become
/// unwanted like any other. The report goes on from what it is.
///
/// Goes on until it is dropped. However slowly the receiver takes the changes, none is lost:
/// the next one then covers all that happened meanwhile.
///
/// # Errors
/// The receiver is gone, or a scan panicked.
pub async fn watch(
    settings: Settings,
    known: Vec<SessionId>,
    clock: impl Clock,
    deltas: mpsc::Sender<Delta>,
    report: watch::Sender<Report>,
) -> Result<Infallible, WatchError> {
    let settings = Settings { directories: absolute(&settings.directories), ..settings };
    let hint = Arc::new(Notify::new());
    let hints = Hints::new(&settings.directories, Arc::clone(&hint));
    let mut eyes = Eyes::new(&settings, known, Some(hints));
    eyes.journal = Journal::after(&report.borrow());
    let rescan_interval = settings.rescan_interval.clamp(QUIET, LONGEST_INTERVAL);
    follow(eyes, &hint, rescan_interval, &clock, &deltas, &report).await
}

pub(super) async fn follow(
    mut eyes: Eyes,
    hint: &Notify,
    rescan_interval: Duration,
    clock: &impl Clock,
    deltas: &mpsc::Sender<Delta>,
    report: &watch::Sender<Report>,
) -> Result<Infallible, WatchError> {
    let mut is_first = true;
    loop {
        let look = tokio::task::spawn_blocking(move || {
            let seen = eyes.look();
            (eyes, seen)
        });
        let (step, wake_at);
        (eyes, (step, wake_at)) = look.await?;
        report.send_modify(|report| eyes.journal.note(&step, clock.now().wall, report));
        if std::mem::take(&mut is_first) || !step.news.is_empty() {
            for delta in step.news.deltas() {
                deltas.send(delta).await.map_err(|_| WatchError::ReceiverGone)?;
            }
        }
        drop(step);
        let now = Instant::now();
        let rescan_at = now + rescan_interval;
        let wake_at = wake_at.map_or(rescan_at, |wake_at| wake_at.clamp(now + QUIET, rescan_at));
        tokio::select! {
            () = deltas.closed() => return Err(WatchError::ReceiverGone),
            () = sleep_until(wake_at) => {}
            () = hint.notified() => until_quiet(hint).await,
        }
    }
}

pub(super) async fn until_quiet(hint: &Notify) {
    let quiet = async { while timeout(QUIET, hint.notified()).await.is_ok() {} };
    // Quiet or not, it is time to look then.
    let _ = timeout(LONGEST_BURST, quiet).await;
}

/// All that a scan needs and changes; handed to a thread that may block, and back.
pub(super) struct Eyes {
    scanner: Scanner,
    wanted: Wanted,
    /// None where rescans alone are to find changes.
    hints: Option<Hints>,
    journal: Journal,
}

impl Eyes {
    pub(super) fn new(settings: &Settings, known: Vec<SessionId>, hints: Option<Hints>) -> Self {
        Self {
            scanner: Scanner::new(settings.directories.clone()),
            wanted: Wanted::new(settings.removal_grace, known),
            hints,
            journal: Journal::default(),
        }
    }

    /// Also returns when to look again if nothing happens.
    pub(super) fn look(&mut self) -> (Step, Option<Instant>) {
        if let Some(hints) = &mut self.hints {
            self.journal.note_watching(hints.arm());
        }
        let scan = self.scanner.scan();
        let settles_at = scan.settles_at;
        let step = self.wanted.apply(scan);
        let wake_at = settles_at.into_iter().chain(step.wake_at).min();
        (step, wake_at)
    }
}
