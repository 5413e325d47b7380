//! The one thread that writes.
//!
//! A group is one transaction. One that fails for want of space, or because the disk does, is
//! tried until it succeeds. Whoever waits for it goes on waiting, which is what slows polling down
//! to the disk, and order is kept, since nothing overtakes. Only what another try can't mend
//! ends it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use super::{file, rows};
use crate::clock::Clock;
use crate::failpoint::Failpoint;
use crate::metrics::Writes;
use crate::store::journal::ended;
use crate::store::writer::{self, Command, Medium, PLACES, Place};
use crate::store::{StoreError, WriteFailure};

/// Between two tries of a transaction that failed.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Database {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) source: String,
    pub(super) clock: Arc<dyn Clock>,
    /// Held until the last write is done.
    pub(super) _lock: File,
}

/// Ends the thread when dropped, and waits for it.
#[derive(Debug)]
pub(super) struct Handle {
    /// Taken when dropped, which is how the thread learns of it.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    control: Arc<Control>,
}

/// What reaches the thread while it is not taking commands, and what it tells of itself.
#[derive(Debug, Default)]
struct Control {
    closing: AtomicBool,
    failure: Mutex<Option<WriteFailure>>,
    /// Of the database and its WAL, in bytes.
    size: AtomicU64,
    /// The database may not grow beyond this many pages; 0 for no limit.
    #[cfg(test)]
    max_pages: std::sync::atomic::AtomicU32,
    #[cfg(test)]
    tried: tokio::sync::Notify,
}

impl Handle {
    pub(super) async fn place(&self) -> Result<Place, StoreError> {
        let commands = self.commands.clone().ok_or_else(ended)?;
        Place::among(commands).await
    }

    pub(super) fn failure(&self) -> Option<WriteFailure> {
        self.control.failure().clone()
    }

    /// Bytes that the database takes, with what has yet to be folded into it.
    pub(super) fn size(&self) -> u64 {
        self.control.size.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.control.max_pages.store(pages, Ordering::SeqCst);
        self.thread.as_ref().inspect(|thread| thread.thread().unpark());
    }

    #[cfg(test)]
    pub(super) async fn failed_once(&self) {
        self.control.tried.notified().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.control.closing.store(true, Ordering::SeqCst);
        self.commands = None;
        let Some(thread) = self.thread.take() else { return };
        Thread::unpark(thread.thread());
        if thread.join().is_err() {
            tracing::error!(
                "the store's writer panicked, which is a mistake in ibvwatch; please report it"
            );
        }
    }
}

impl Database {
    pub(super) fn start(
        self,
        committed: watch::Sender<u64>,
        metrics: Writes,
    ) -> Result<Handle, StoreError> {
        let (sender, commands) = mpsc::channel(PLACES);
        let control = Arc::new(Control::default());
        control.size.store(file::size(&self.path), Ordering::Relaxed);
        let failed = |error| StoreError::Failed(format!("its writer can't be started: {error}"));
        let runtime = Builder::new_current_thread().build().map_err(failed)?;
        let disk = Disk { database: self, control: Arc::clone(&control) };
        let writing = writer::run(disk, commands, committed, metrics);
        let thread = thread::Builder::new().name("store-writer".to_owned());
        let thread = thread.spawn(move || runtime.block_on(writing)).map_err(failed)?;
        Ok(Handle { commands: Some(sender), thread: Some(thread), control })
    }

    /// Tries until the group is durable, or it is certain that it never will be.
    fn persist(
        &mut self,
        group: &[Command],
        control: &Control,
    ) -> Result<(Vec<u64>, u64), StoreError> {
        let path = self.path.display().to_string();
        loop {
            #[cfg(test)]
            control.limit(&self.connection);
            let error = match self.transact(group) {
                Ok(done) => {
                    if control.failure().take().is_some() {
                        tracing::info!("{path} (store.path) can be written again");
                    }
                    control.size.store(file::size(&self.path), Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error) => error,
            };
            if !may_pass(&error) {
                return Err(file::explain(&self.path, &error));
            }
            let message = error.to_string();
            if control.closing.load(Ordering::SeqCst) {
                return Err(StoreError::Failed(format!(
                    "{path} (store.path) could not be written before the stop: {message}; what was not written is polled again"
                )));
            }
            if control.failed(&self.path, &message, &*self.clock) {
                tracing::error!(
                    "{path} (store.path) can't be written: {message}; make room or mend the disk: it is tried again every {PAUSE:?}, nothing is lost, and polling waits for it"
                );
            }
            #[cfg(test)]
            control.tried.notify_one();
            thread::park_timeout(PAUSE);
        }
    }

    fn transact(&mut self, group: &[Command]) -> rusqlite::Result<(Vec<u64>, u64)> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        Failpoint::Begun.reached();
        let apply = |command: &Command| rows::apply(&transaction, &command.write, &self.source);
        let answers = group.iter().map(apply).collect::<rusqlite::Result<_>>()?;
        let last_sequence = rows::last_sequence(&transaction)?;
        Failpoint::Applied.reached();
        transaction.commit()?;
        Ok((answers, last_sequence))
    }
}

/// The database, as the thread writes to it.
struct Disk {
    database: Database,
    control: Arc<Control>,
}

impl Medium for Disk {
    async fn persist(&mut self, group: &[Command]) -> Result<(Vec<u64>, u64), StoreError> {
        self.database.persist(group, &self.control)
    }
}

impl Control {
    fn failure(&self) -> MutexGuard<'_, Option<WriteFailure>> {
        // What is kept in it is whole at every moment.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether this is news.
    fn failed(&self, path: &Path, error: &str, clock: &dyn Clock) -> bool {
        let mut failure = self.failure();
        let since = failure.as_ref().map_or_else(|| clock.now().wall, |failure| failure.since);
        let new = WriteFailure {
            path: path.to_owned(),
            error: error.to_owned(),
            remedy: "make room or mend the disk; it is tried again every second, and nothing is \
                     lost",
            since,
        };
        let is_news = failure.as_ref() != Some(&new);
        *failure = Some(new);
        is_news
    }
}

#[cfg(test)]
impl Control {
    fn limit(&self, connection: &Connection) {
        let pages = match self.max_pages.load(Ordering::SeqCst) {
            0 => u32::MAX - 1,
            pages => pages,
        };
        connection.pragma_update(None, "max_page_count", pages).unwrap();
    }
}

/// Whether another try may succeed: the disk is full, slow, or failing; not: the database is
/// damaged, or what is to be written can't be. Nor where the connection can only read, which it
/// goes on to do once the disk failed while it was opened, or when the file was moved away.
fn may_pass(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}
