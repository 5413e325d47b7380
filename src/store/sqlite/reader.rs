//! Reading beside the writer, whether or not there is one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use super::file;
use super::rows::{self, signed, unsigned};
use crate::domain::{Cause, EventKind, Record, Session, SessionId, Timestamp};
use crate::store::journal::fingerprint;
use crate::store::{EventFilter, EventPage, EventQuery, Position, StoreError};

/// Events that one search looks through at most: rare types are found in several steps, each of
/// which takes milliseconds.
const LOOKED_THROUGH: i64 = 10_000;

/// Reads a database that a daemon may or may not be writing to; sees what is durable.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
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

    /// The same one by one, as they stand in the file, which is read fastest so.
    pub(super) fn each_session(&self, mut take: impl FnMut(Session)) -> Result<(), StoreError> {
        self.each("SELECT record FROM session", session, |session| {
            take(session);
            Ok(())
        })
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
        filter: EventFilter,
    ) -> Result<Vec<Record>, StoreError> {
        self.select(EventQuery { from: Position::After(after), limit, filter }, None)
    }

    /// A page of events; what it reads is bounded, however few pass the filter.
    pub(super) fn find(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        // A session has few events, and where every event passes, the first ones do.
        let searches = query.filter.kind.is_some() && query.filter.session.is_none();
        let end = if searches { self.end_of_search(query.from)? } else { None };
        let most = EventQuery { limit: query.limit.saturating_add(1), ..query };
        let mut page = EventPage::cut(self.select(most, end)?, query.limit);
        page.next = page.next.or(end);
        Ok(page)
    }

    /// The last event that a search is to look at, if there may be more behind it.
    fn end_of_search(&self, from: Position) -> Result<Option<u64>, StoreError> {
        let (low, high, order) = range(from, None);
        let mut select = self.prepare(&format!(
            "SELECT sequence FROM event WHERE sequence BETWEEN ?1 AND ?2
             ORDER BY sequence {order} LIMIT 1 OFFSET ?3"
        ))?;
        let row = select.query_row(params![low, high, LOOKED_THROUGH - 1], |row| unsigned(row, 0));
        self.explained(row.optional())
    }

    /// Events from there on that pass the filter, up to and with `end`.
    fn select(&self, query: EventQuery, end: Option<u64>) -> Result<Vec<Record>, StoreError> {
        let EventQuery { from, limit, filter } = query;
        let (low, high, order) = range(from, end);
        let within = match filter.session {
            None => "?5 IS NULL AND sequence BETWEEN ?1 AND ?2",
            // The plus keeps SQLite from walking the whole log in place of the session's index.
            Some(_) => "session = ?5 AND +sequence BETWEEN ?1 AND ?2",
        };
        // Within a session, its own sequence gives the same order, and has the index.
        let by = if filter.session.is_some() { "session_sequence" } else { "sequence" };
        let mut select = self.prepare(&format!(
            "SELECT sequence, session, session_sequence, source, type, time, data FROM event
             WHERE {within} AND (?4 IS NULL OR type = ?4) ORDER BY {by} {order} LIMIT ?3"
        ))?;
        let session = filter.session.map(|id| *id.as_bytes());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let kind = filter.kind.map(EventKind::as_str);
        self.collect(select.query_map(params![low, high, limit, kind, session], record))
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

    /// How many events of the API there were.
    pub(super) fn announced(&self) -> Result<u64, StoreError> {
        let select = "SELECT announced FROM api";
        self.explained(self.connection.query_row(select, [], |row| unsigned(row, 0)))
    }

    /// Hands over one row after the other, however many there are.
    pub(super) fn each<T, E: From<StoreError>>(
        &self,
        select: &str,
        of: fn(&Row<'_>) -> rusqlite::Result<T>,
        mut take: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut select = self.prepare(select)?;
        for row in self.explained(select.query_map([], of))? {
            take(self.explained(row)?)?;
        }
        Ok(())
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

/// The sequences from a position up to and with `end`, and the order in which to take them.
fn range(from: Position, end: Option<u64>) -> (i64, i64, &'static str) {
    match from {
        Position::After(after) => {
            (signed(after.saturating_add(1)), end.map_or(i64::MAX, signed), "ASC")
        }
        Position::Before(before) => {
            (end.map_or(0, signed), signed(before).saturating_sub(1), "DESC")
        }
    }
}

pub(super) fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    let json = row.get_ref(0)?.as_str()?;
    serde_json::from_str(json).map_err(|error| unreadable(0, error))
}

pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
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
