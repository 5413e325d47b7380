//! All of a database out to an export, and an export into a database that holds nothing yet.

use std::io::{BufRead, Write};
use std::path::Path;

use rusqlite::{Row, TransactionBehavior};

use super::file;
use super::reader::{Reader, record, session};
use super::rows::{self, unsigned};
use crate::store::archive::{self, Api, Forgotten, Line, Sink, Unavailable};
use crate::store::{Carried, ExportError, ImportError, StoreError};

/// Writes down all that the database holds. No daemon may be running on it, or what it does
/// meanwhile would be told both here and wherever the export is taken to.
///
/// # Errors
/// The database can't be read, a daemon holds it, or `out` can't be written.
pub fn export<W: Write>(path: &Path, out: W) -> Result<Carried, ExportError> {
    let reader = Reader::open(path)?;
    let _lock = file::lock(path)?;
    let mut writer = archive::Writer::begin(out, reader.last_sequence()?)?;
    let unavailable = reader.unavailable()?.map(|(cause, since)| Unavailable { cause, since });
    writer.put(&Line::Api(Api { announced: reader.announced()?, unavailable }))?;
    let mut sinks: Vec<_> = reader.cursors()?.into_iter().collect();
    sinks.sort();
    for (name, delivered) in sinks {
        writer.put(&Line::Sink(Sink { name, delivered }))?;
    }
    let events = "SELECT sequence, session, session_sequence, source, type, time, data FROM event
                  ORDER BY sequence";
    reader.each(events, record, |event| writer.put(&Line::Event(event)))?;
    let sessions = "SELECT record FROM session ORDER BY id";
    reader.each(sessions, session, |session| writer.put(&Line::Session(Box::new(session))))?;
    let hashes = "SELECT session_hash, last_sequence FROM forgotten ORDER BY session_hash";
    reader.each(hashes, forgotten, |forgotten| writer.put(&Line::Forgotten(forgotten)))?;
    writer.end()
}

fn forgotten(row: &Row<'_>) -> rusqlite::Result<Forgotten> {
    Ok(Forgotten::new(row.get(0)?, unsigned(row, 1)?))
}

/// Takes an export over, whole or not at all, into a database that holds nothing yet; makes it
/// where there is none.
///
/// # Errors
/// What is read is no whole export, the database holds something already, a daemon holds it, or it
/// can't be written.
pub fn import<R: BufRead>(path: &Path, input: R) -> Result<Carried, ImportError> {
    let mut lines = archive::Reader::begin(input)?;
    let _lock = file::lock(path)?;
    let mut connection = file::open(path)?;
    let failed = |error| ImportError::Store(file::explain(path, &error));
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    if rows::holds_anything(&transaction).map_err(failed)? {
        return Err(StoreError::Unusable(format!(
            "{} (store.path) holds sessions or events already, and an import takes an empty one; move it away with its -wal file, or name another",
            path.display()
        ))
        .into());
    }
    let (last_sequence, carried) = loop {
        match lines.next()? {
            Line::Export(_) => return Err(lines.second_header()),
            Line::Api(api) => rows::restore_api(&transaction, &api),
            Line::Sink(sink) => rows::advance(&transaction, &sink.name, sink.delivered),
            Line::Event(event) => rows::restore_event(&transaction, &event, lines.ordinal(&event)?),
            Line::Session(session) => rows::save(&transaction, &session),
            Line::Forgotten(forgotten) => {
                let fingerprint = lines.fingerprint(&forgotten)?;
                rows::remember(&transaction, fingerprint, forgotten.last_sequence)
            }
            Line::End(end) => break lines.finish(&end)?,
        }
        .map_err(failed)?;
    };
    rows::restore_last_sequence(&transaction, last_sequence).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(carried)
}

#[cfg(test)]
mod tests;
