//! The store on disk: one SQLite database in WAL mode.
//!
//! SQLite, because a decision must be one atomic, durable commit, and an operator must be able to
//! back it up, look into it and move it with tools that exist. One thread writes
//! (`writer`); events are read over a connection of their own, which WAL lets run beside it.
//! A [`Reader`] opens the same file for the commands that only look.

mod archive;
mod file;
mod reader;
mod rows;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

use std::any::Any;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::{mem, thread};

use tokio::sync::watch;

pub use self::archive::{export, import};
pub use self::reader::Reader;
use self::writer::Database;
use super::journal::{Journal, Receipt, Write};
use super::ledger::{Kept, Ledger};
use super::writer::Place;
use super::{Context, EventFilter, EventPage, EventQuery, StoreError, WriteFailure};
use crate::domain::{Record, Session, SessionId};
use crate::failpoint::Failpoint;

/// Sessions that are handed on together at the start.
const PORTION: usize = 1_000;
/// How many portions may wait.
const PORTIONS: usize = 4;

/// Keeps everything in an SQLite database, which one process at a time may hold.
///
/// Dropping it waits for what is being written.
pub type SqliteStore = Ledger<SqliteJournal>;

impl SqliteStore {
    /// Opens the database, or makes it where there is none; reads all sessions.
    ///
    /// # Errors
    /// [`StoreError::Unusable`], with what to do: another instance holds it, a newer version wrote
    /// it, it is something else or damaged, it is not in WAL mode, or it can't be opened.
    pub fn open(path: &Path, context: &Context) -> Result<Self, StoreError> {
        let lock = file::lock(path)?;
        let connection = file::open(path)?;
        let reader = Reader::open(path)?;
        // Either reads the whole database, which takes seconds where there are many sessions.
        let (checked, loaded) = thread::scope(|scope| {
            let check = move || file::refuse_damaged(&connection, path).map(|()| connection);
            let check = scope.spawn(check);
            let loaded = kept(reader, context);
            (check.join(), loaded)
        });
        // What is wrong with the database is also why it can't be read.
        let (connection, (reader, kept)) = (checked.map_err(died)??, loaded?);
        Failpoint::Opened.reached();
        let committed = watch::Sender::new(reader.last_sequence()?);
        let database = Database {
            connection,
            path: path.to_owned(),
            source: context.source.clone(),
            clock: Arc::clone(&context.clock),
            _lock: lock,
        };
        let journal = SqliteJournal {
            committed: committed.subscribe(),
            writer: database.start(committed, context.metrics.clone())?,
            reader: Arc::new(Mutex::new(reader)),
            viewer: Arc::new(Mutex::new(Reader::open(path)?)),
        };
        Ok(Self::resume(context, kept, journal))
    }
}

/// Takes sessions up while the next are read.
fn kept(reader: Reader, context: &Context) -> Result<(Reader, Kept), StoreError> {
    let mut kept = Kept::nothing(context);
    let (portions, read) = mpsc::sync_channel(PORTIONS);
    let reader = thread::scope(|scope| {
        let read_all = move || {
            let mut portion = Vec::with_capacity(PORTION);
            // They are taken up to the last, whatever becomes of the reader.
            let send = |portion: &mut Vec<Session>| drop(portions.send(mem::take(portion)));
            reader.each_session(|session| {
                portion.push(session);
                if portion.len() == PORTION {
                    send(&mut portion);
                }
            })?;
            send(&mut portion);
            Ok::<_, StoreError>(reader)
        };
        let reading = scope.spawn(read_all);
        read.into_iter().flatten().for_each(|session| kept.take_up(session));
        reading.join()
    });
    let reader = reader.map_err(died)??;
    kept.cursors = reader.cursors()?;
    kept.unavailable = reader.unavailable()?;
    Ok((reader, kept))
}

fn died(_: Box<dyn Any + Send>) -> StoreError {
    StoreError::Failed("reading the database came to no end".to_owned())
}

#[derive(Debug)]
pub struct SqliteJournal {
    /// Closed before the writer, which as the last one to leave folds the WAL into the database.
    reader: Arc<Mutex<Reader>>,
    /// For those who look: a long search of theirs holds up no sink.
    viewer: Arc<Mutex<Reader>>,
    writer: writer::Handle,
    committed: watch::Receiver<u64>,
}

async fn read<T, F>(reader: &Arc<Mutex<Reader>>, read: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
{
    let reader = Arc::clone(reader);
    let read = move || read(&reader.lock().unwrap_or_else(PoisonError::into_inner));
    let failed = |error| StoreError::Failed(format!("a read came to no end: {error}"));
    tokio::task::spawn_blocking(read).await.map_err(failed)?
}

impl Journal for SqliteJournal {
    type Place = Place;

    async fn place(&self) -> Result<Place, StoreError> {
        self.writer.place().await
    }

    fn write(&self, place: Place, write: Write) -> Receipt {
        place.write(write)
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.committed.clone()
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        read(&self.reader, move |reader| reader.events(after, limit, EventFilter::default())).await
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        self.writer.failure()
    }

    fn size(&self) -> Option<u64> {
        Some(self.writer.size())
    }

    async fn find(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        read(&self.viewer, move |reader| reader.find(query)).await
    }

    async fn forgotten(&self, ids: Vec<SessionId>) -> Result<HashMap<SessionId, u64>, StoreError> {
        read(&self.reader, move |reader| reader.forgotten(&ids)).await
    }
}
