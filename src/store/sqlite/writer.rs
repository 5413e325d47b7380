//! The one thread that writes.
//!
//! It commits in groups: what has gathered while the disk was busy with one transaction is the
//! next. A transaction that fails for want of space, or because the disk does, is tried until it
//! succeeds. Whoever waits for it goes on waiting, which is what slows polling down to the
//! disk, and order is kept, since nothing overtakes. Only what another try can't mend ends it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::{file, rows};
use crate::clock::Clock;
use crate::failpoint::Failpoint;
use crate::metrics::Writes;
use crate::store::journal::{Answer, Receipt, Write, ended};
use crate::store::{StoreError, WriteFailure};

/// More than there are polls in flight and sinks, so that none of them waits for a place while
/// the disk is well; and no more, since when it is not, waiting is right.
const PLACES: usize = 256;

/// Ends a group: a transaction of this many rows gains nothing by more of them, and each of
/// its callers waits for the last.
const GROUP_ROWS: usize = 10_000;

/// Between two tries of a transaction that failed.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) source: String,
    pub(super) committed: watch::Sender<u64>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Writes,
    /// Held until the last write is done.
    pub(super) _lock: File,
}

#[derive(Debug)]
struct Command {
    write: Write,
    answer: oneshot::Sender<Answer>,
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

/// The right to one write.
#[derive(Debug)]
pub struct Place(mpsc::OwnedPermit<Command>);

impl Place {
    pub(super) fn write(self, write: Write) -> Receipt {
        let (answer, receipt) = Receipt::new();
        drop(self.0.send(Command { write, answer }));
        receipt
    }
}

impl Handle {
    pub(super) async fn place(&self) -> Result<Place, StoreError> {
        let commands = self.commands.clone().ok_or_else(ended)?;
        commands.reserve_owned().await.map(Place).map_err(|_| ended())
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

impl Writer {
    pub(super) fn start(self) -> Result<Handle, StoreError> {
        let (sender, commands) = mpsc::channel(PLACES);
        let control = Arc::new(Control::default());
        control.size.store(file::size(&self.path), Ordering::Relaxed);
        let thread = {
            let control = Arc::clone(&control);
            let builder = thread::Builder::new().name("store-writer".to_owned());
            builder.spawn(move || self.run(commands, &control))
        };
        let failed = |error| StoreError::Failed(format!("its writer can't be started: {error}"));
        Ok(Handle { commands: Some(sender), thread: Some(thread.map_err(failed)?), control })
    }

    fn run(mut self, mut commands: mpsc::Receiver<Command>, control: &Control) {
        while let Some(first) = commands.blocking_recv() {
            let group = gather(first, &mut commands);
            let began = Instant::now();
            match self.persist(&group, control) {
                Ok((answers, last_sequence)) => {
                    Failpoint::Committed.reached();
                    self.metrics.committed(began.elapsed());
                    for kind in group.iter().flat_map(|command| command.write.events()) {
                        self.metrics.event(kind);
                    }
                    control.size.store(file::size(&self.path), Ordering::Relaxed);
                    self.publish(last_sequence);
                    Failpoint::Published.reached();
                    for (command, answer) in group.into_iter().zip(answers) {
                        // Whoever doesn't wait any more need not be told.
                        let _ = command.answer.send(Ok(answer));
                    }
                }
                Err(error) => {
                    tracing::error!("the store has failed for good: {error}");
                    refuse(group, &mut commands, &error);
                    return;
                }
            }
        }
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

    fn publish(&self, last_sequence: u64) {
        self.committed.send_if_modified(|committed| {
            let grown = last_sequence > *committed;
            *committed = last_sequence;
            grown
        });
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

fn gather(first: Command, commands: &mut mpsc::Receiver<Command>) -> Vec<Command> {
    let mut rows = first.write.rows();
    let mut group = vec![first];
    while rows < GROUP_ROWS
        && let Ok(command) = commands.try_recv()
    {
        rows += command.write.rows();
        group.push(command);
    }
    group
}

/// Memory is ahead of the disk from here on, so nothing may be written over what is missing.
fn refuse(group: Vec<Command>, commands: &mut mpsc::Receiver<Command>, error: &StoreError) {
    let rest = std::iter::from_fn(|| commands.blocking_recv());
    for command in group.into_iter().chain(rest) {
        // As above.
        let _ = command.answer.send(Err(error.clone()));
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
