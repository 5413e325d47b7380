//! What is written, as SQL; and how a number is kept.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::domain::{ApiDetail, ApiEvent, Cause, Event, Record, Session, Timestamp};
use crate::store::archive::Api;
use crate::store::journal::{Decision, Write, fingerprint};

/// Writes inside the caller's transaction; returns how many events a purge dropped.
pub(super) fn apply(
    transaction: &Connection,
    write: &Write,
    source: &str,
) -> rusqlite::Result<u64> {
    match write {
        Write::Decisions(decisions) => decide(transaction, decisions, source).map(|()| 0),
        Write::Announce(event) => announce(transaction, event, source).map(|()| 0),
        Write::Cursor { sink, up_to } => advance(transaction, sink, *up_to).map(|()| 0),
        Write::Forget(sessions) => forget(transaction, sessions).map(|()| 0),
        Write::Purge { before, up_to } => purge(transaction, *before, *up_to),
    }
}

/// The sequence of the last event ever recorded; 0 before the first.
pub(super) fn last_sequence(connection: &Connection) -> rusqlite::Result<u64> {
    let select = "SELECT seq FROM sqlite_sequence WHERE name = 'event'";
    let last = connection.prepare_cached(select)?.query_row([], |row| unsigned(row, 0));
    Ok(last.optional()?.unwrap_or(0))
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// A sequence as SQLite has it; beyond its range there is nothing.
pub(super) fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn decide(transaction: &Connection, decisions: &[Decision], source: &str) -> rusqlite::Result<()> {
    for Decision { session, events } in decisions {
        for event in events {
            append(transaction, event, source)?;
        }
        save(transaction, session)?;
    }
    Ok(())
}

fn append(transaction: &Connection, event: &Event, source: &str) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO event (session, session_sequence, type, time, source, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    insert.execute(params![
        event.session_id.as_bytes(),
        signed(event.session_sequence),
        event.kind().as_str(),
        event.time.as_millis(),
        source,
        json(event)?,
    ])?;
    Ok(())
}

fn announce(transaction: &Connection, event: &ApiEvent, source: &str) -> rusqlite::Result<()> {
    let (cause, since) = match &event.detail {
        ApiDetail::Unavailable { .. } => (Some(json(&event.cause)?), Some(event.time.as_millis())),
        ApiDetail::Available { .. } => (None, None),
    };
    let mut count = transaction.prepare_cached(
        "UPDATE api SET announced = announced + 1, cause = ?1, since = ?2 RETURNING announced",
    )?;
    let n = count.query_row(params![cause, since], |row| unsigned(row, 0))?;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO event (session, session_sequence, type, time, source, data)
         VALUES (NULL, ?1, ?2, ?3, ?4, ?5)",
    )?;
    let kind = event.kind().as_str();
    insert.execute(params![signed(n), kind, event.time.as_millis(), source, json(event)?])?;
    Ok(())
}

/// Why the API was unavailable, and since when, if that was the last thing announced.
pub(super) fn unavailable(connection: &Connection) -> rusqlite::Result<Option<(Cause, Timestamp)>> {
    let select = "SELECT cause, since FROM api WHERE cause IS NOT NULL";
    let row = connection.query_row(select, [], |row| {
        let cause: String = row.get(0)?;
        let failed = |error| {
            rusqlite::Error::FromSqlConversionFailure(
                0,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        };
        let cause = serde_json::from_str(&cause).map_err(failed)?;
        Ok((cause, Timestamp::from_millis(row.get(1)?)))
    });
    row.optional()
}

pub(super) fn save(transaction: &Connection, session: &Session) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO session (id, record) VALUES (?1, ?2)
         ON CONFLICT (id) DO UPDATE SET record = excluded.record",
    )?;
    upsert.execute(params![session.id().as_bytes(), json(session)?])?;
    Ok(())
}

pub(super) fn advance(transaction: &Connection, sink: &str, up_to: u64) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO sink (name, cursor) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET cursor = max(cursor, excluded.cursor)",
    )?;
    upsert.execute(params![sink, signed(up_to)])?;
    Ok(())
}

fn forget(transaction: &Connection, sessions: &[Arc<Session>]) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM session WHERE id = ?1")?;
    for session in sessions {
        delete.execute(params![session.id().as_bytes()])?;
        remember(transaction, fingerprint(session.id()), session.sequence())?;
    }
    Ok(())
}

/// Keeps where a forgotten session's events would go on.
pub(super) fn remember(
    transaction: &Connection,
    fingerprint: [u8; 32],
    last_sequence: u64,
) -> rusqlite::Result<()> {
    let mut remember = transaction.prepare_cached(
        "INSERT INTO forgotten (session_hash, last_sequence) VALUES (?1, ?2)
         ON CONFLICT (session_hash) DO UPDATE SET last_sequence = excluded.last_sequence",
    )?;
    remember.execute(params![fingerprint, signed(last_sequence)])?;
    Ok(())
}

fn purge(transaction: &Connection, before: Timestamp, up_to: u64) -> rusqlite::Result<u64> {
    let mut delete = transaction.prepare_cached(
        "DELETE FROM event WHERE sequence IN (
             SELECT sequence FROM event INDEXED BY event_time
             WHERE time < ?1 AND sequence <= ?2 ORDER BY time LIMIT ?3
         )",
    )?;
    let dropped = delete.execute(params![
        before.as_millis(),
        signed(up_to),
        signed(Write::PURGED_AT_ONCE)
    ])?;
    Ok(dropped as u64)
}

/// Whether a daemon, or an import, has left anything.
pub(super) fn holds_anything(connection: &Connection) -> rusqlite::Result<bool> {
    let select = "SELECT EXISTS (SELECT 1 FROM session) OR EXISTS (SELECT 1 FROM sqlite_sequence)
                  OR EXISTS (SELECT 1 FROM sink) OR EXISTS (SELECT 1 FROM forgotten)";
    connection.query_row(select, [], |row| row.get(0))
}

/// Puts an event where it stood in the log that it comes from.
pub(super) fn restore_event(
    transaction: &Connection,
    event: &Record,
    ordinal: u64,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO event (sequence, session, session_sequence, type, time, source, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    insert.execute(params![
        signed(event.sequence),
        event.subject.map(|id| *id.as_bytes()),
        signed(ordinal),
        event.kind,
        event.time.as_millis(),
        event.source,
        event.data.get(),
    ])?;
    Ok(())
}

pub(super) fn restore_api(transaction: &Connection, api: &Api) -> rusqlite::Result<()> {
    let (cause, since) = match &api.unavailable {
        Some(it) => (Some(json(&it.cause)?), Some(it.since.as_millis())),
        None => (None, None),
    };
    let update = "UPDATE api SET announced = ?1, cause = ?2, since = ?3";
    transaction.execute(update, params![signed(api.announced), cause, since])?;
    Ok(())
}

/// Has the log go on behind that sequence, also where its last events are no longer kept.
pub(super) fn restore_last_sequence(transaction: &Connection, last: u64) -> rusqlite::Result<()> {
    let update = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'event'";
    if transaction.execute(update, params![signed(last)])? == 0 {
        let insert = "INSERT INTO sqlite_sequence (name, seq) VALUES ('event', ?1)";
        transaction.execute(insert, params![signed(last)])?;
    }
    Ok(())
}

fn json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    let failed = |error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    serde_json::to_string(value).map_err(failed)
}
