//! Reading beside the writer, whether or not there is one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use super::file;
use super::rows::{self, signed, unsigned};
use crate::domain::{Cause, Record, Session, SessionId, Timestamp};
use crate::store::StoreError;
use crate::store::journal::fingerprint;

/// Reads a database that a daemon may or may not be writing to; sees what is durable.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

/// Which events to read; an empty filter lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub session: Option<SessionId>,
    /// The CloudEvents `type` in full.
    pub kind: Option<String>,
}

impl Reader {
    /// # Errors
    /// [`StoreError::Unusable`], with what to do: there is no such database yet, another version of
    /// ibvwatch or another program wrote it, it is damaged, or it can't be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = file::open_to_read(path)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// All sessions in order of id, as they last changed or were last saved.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        let mut select = self.prepare("SELECT record FROM session ORDER BY id")?;
        self.collect(select.query_map([], session))
    }

    /// # Errors
    /// The database can't be read.
    pub fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let mut select = self.prepare("SELECT record FROM session WHERE id = ?1")?;
        self.explained(select.query_row(params![id.as_bytes()], session).optional())
    }

    /// Events behind the sequence `after` that pass the filter, in order, at most `limit`.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn events(
        &self,
        after: u64,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<Vec<Record>, StoreError> {
        let by_session = match filter.session {
            None => "?3 IS NULL AND sequence > ?1",
            // The plus keeps SQLite from walking the whole log in place of the session's index.
            Some(_) => "session = ?3 AND +sequence > ?1",
        };
        let mut select = self.prepare(&format!(
            "SELECT sequence, session, session_sequence, source, type, time, data FROM event
             WHERE {by_session} AND (?4 IS NULL OR type = ?4) ORDER BY sequence LIMIT ?2"
        ))?;
        let session = filter.session.map(|id| *id.as_bytes());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.collect(select.query_map(params![signed(after), limit, session, filter.kind], record))
    }

    /// The sequence of the last event ever recorded, even if it has been purged; 0 before the
    /// first.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn last_sequence(&self) -> Result<u64, StoreError> {
        self.explained(rows::last_sequence(&self.connection))
    }

    pub(super) fn cursors(&self) -> Result<HashMap<String, u64>, StoreError> {
        let mut select = self.prepare("SELECT name, cursor FROM sink")?;
        self.collect(select.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?))))
    }

    pub(super) fn unavailable(&self) -> Result<Option<(Cause, Timestamp)>, StoreError> {
        self.explained(rows::unavailable(&self.connection))
    }

    /// The last `session_sequence` of those of the sessions that have been forgotten.
    pub(super) fn forgotten(
        &self,
        ids: &[SessionId],
    ) -> Result<HashMap<SessionId, u64>, StoreError> {
        let mut select =
            self.prepare("SELECT last_sequence FROM forgotten WHERE session_hash = ?1")?;
        let mut last = HashMap::new();
        for &id in ids {
            let row = select.query_row(params![fingerprint(id)], |row| unsigned(row, 0));
            last.extend(self.explained(row.optional())?.map(|sequence| (id, sequence)));
        }
        Ok(last)
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn prepare(&self, sql: &str) -> Result<rusqlite::CachedStatement<'_>, StoreError> {
        self.explained(self.connection.prepare_cached(sql))
    }

    fn collect<T, C, R>(&self, rows: rusqlite::Result<R>) -> Result<C, StoreError>
    where
        R: Iterator<Item = rusqlite::Result<T>>,
        C: FromIterator<T>,
    {
        self.explained(rows.and_then(Iterator::collect))
    }

    fn explained<T>(&self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| file::explain(&self.path, &error))
    }
}

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    let json = row.get_ref(0)?.as_str()?;
    serde_json::from_str(json).map_err(|error| unreadable(0, error))
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let subject: Option<[u8; 16]> = row.get(1)?;
    let subject = subject.map(SessionId::from_bytes);
    let ordinal = unsigned(row, 2)?;
    Ok(Record {
        sequence: unsigned(row, 0)?,
        id: match subject {
            Some(session) => format!("{session}/{ordinal}"),
            None => format!("api/{ordinal}"),
        },
        source: row.get(3)?,
        kind: row.get(4)?,
        subject,
        time: Timestamp::from_millis(row.get(5)?),
        data: RawValue::from_string(row.get(6)?).map_err(|error| unreadable(6, error))?,
    })
}

fn unreadable(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
