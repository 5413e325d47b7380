//! The database file: who may hold it, and whether it is one that we can use.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::wal;
use crate::failpoint::Failpoint;
use crate::store::StoreError;

/// Marks the database as ours, for `file` and for us: "ibvw".
const APPLICATION_ID: i32 = 0x6962_7677;

/// Each takes the schema from the version before to the next; their number is the version.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001_initial.sql")];

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a small constant")]
const SCHEMA: i32 = MIGRATIONS.len() as i32;

/// Of any SQLite database, in bytes.
const SMALLEST_PAGE: u64 = 512;

/// How long to wait for another program that writes, such as a backup.
const BUSY: Duration = Duration::from_secs(5);

/// Takes the lock that one instance at a time may hold, for as long as the file is open.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = beside(path, ".lock");
    let cannot = |error: std::io::Error| unusable_directory(path, &lock_path, &error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut lock = options.open(&lock_path).map_err(cannot)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // An unreadable process id only makes the message shorter.
            let by = match lock.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!(", process {}", holder.trim()),
                Ok(_) | Err(_) => String::new(),
            };
            return Err(StoreError::Unusable(format!(
                "{} (store.path) is in use by another ibvwatch{by}; stop that one, or give this one another store.path",
                path.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    lock.set_len(0).map_err(cannot)?;
    writeln!(lock, "{}", std::process::id()).map_err(cannot)?;
    Ok(lock)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Bytes that the database and its WAL take. What can't be seen counts nothing: whoever opens
/// the file is told.
pub(super) fn size(path: &Path) -> u64 {
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    bytes(path) + bytes(&beside(path, "-wal"))
}

fn unusable_directory(path: &Path, file: &Path, error: &std::io::Error) -> StoreError {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new(".")).display();
    let file = file.display();
    if error.kind() == ErrorKind::NotFound {
        StoreError::Unusable(format!(
            "the directory {directory} of store.path does not exist; create it, owned by the user that ibvwatch runs as"
        ))
    } else if passes(error.kind()) {
        StoreError::Failed(format!(
            "{file} can't be written: {error}; make room or mend the disk, and start it again"
        ))
    } else {
        StoreError::Unusable(format!(
            "{file} can't be written: {error}; store.path names a file in a directory, {directory}, and the user that ibvwatch runs as must be able to write to both"
        ))
    }
}

/// Whether it has to do with the state of the machine, and not with how things are set up.
fn passes(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::Unsupported
    )
}

/// Opens the database for writing; makes it, or brings its schema up to date. Whether it is
/// damaged is for [`refuse_damaged`] to say, which reads all of it.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    // Made here and not by SQLite, which would let others read it.
    let mut options = OpenOptions::new();
    let created = options.write(true).create(true).truncate(false).mode(0o600).open(path);
    drop(created.map_err(|error| unusable_directory(path, path, &error))?);

    let wal = beside(path, "-wal");
    refuse_cut_off(path, &wal)?;
    refuse_damaged_wal(path, &wal)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let in_words = |error| explain_opening(path, &error);
    let mut connection = Connection::open_with_flags(path, flags).map_err(in_words)?;
    connection.busy_timeout(BUSY).map_err(in_words)?;
    let version = schema_version(&connection, path)?;
    if version == 0 {
        let set = "PRAGMA journal_mode = wal";
        connection.query_row(set, [], |_| Ok(())).map_err(in_words)?;
    }
    refuse_unless_wal(&connection, path)?;
    if version < SCHEMA {
        refuse_damaged(&connection, path)?;
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(in_words)?;
    migrate(&mut connection, version).map_err(in_words)?;
    Ok(connection)
}

/// Opens the database for reading alone; takes no lock.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    if let Err(error) = std::fs::metadata(path)
        && error.kind() == ErrorKind::NotFound
    {
        return Err(never_ran(path));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let in_words = |error| explain(path, &error);
    let connection = Connection::open_with_flags(path, flags).map_err(in_words)?;
    connection.busy_timeout(BUSY).map_err(in_words)?;
    match schema_version(&connection, path)? {
        0 => Err(never_ran(path)),
        SCHEMA => Ok(connection),
        older => Err(StoreError::Unusable(format!(
            "{} (store.path) was written by an older ibvwatch (schema {older}; this one reads {SCHEMA}); start this version's daemon once, which brings it up to date",
            path.display()
        ))),
    }
}

fn never_ran(path: &Path) -> StoreError {
    StoreError::Unusable(format!(
        "{} (store.path) does not exist or is empty: the daemon has not run with it yet; start it, or correct store.path",
        path.display()
    ))
}

/// The schema's version; 0 where there is nothing in the database yet. Refuses what is not
/// ours before it looks at the number, which would mean nothing then.
fn schema_version(connection: &Connection, path: &Path) -> Result<i32, StoreError> {
    let in_words = |error| explain_opening(path, &error);
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(in_words)?;
    let version = number("user_version").map_err(in_words)?;
    let count = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection.query_row(count, [], |row| row.get(0)).map_err(in_words)?;
    let empty = application == 0 && version == 0 && tables == 0;
    if application != APPLICATION_ID && !empty {
        return Err(StoreError::Unusable(format!(
            "{} (store.path) is the database of another program; give ibvwatch a file of its own",
            path.display()
        )));
    }
    if version < 1 && !empty {
        return Err(damaged(path, &format_args!("it is said to have schema {version}")));
    }
    if version > SCHEMA {
        return Err(StoreError::Unusable(format!(
            "{} (store.path) was written by a newer ibvwatch (schema {version}; this one knows {SCHEMA}); run that version or a later one",
            path.display()
        )));
    }
    Ok(version)
}

/// Without WAL a reader would hold up the writer.
fn refuse_unless_wal(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let mode: String = connection
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .map_err(|error| explain(path, &error))?;
    if mode == "wal" {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{path} (store.path) has journal_mode {mode} where wal is needed; stop ibvwatch and run: sqlite3 '{path}' 'PRAGMA journal_mode=wal'; if that doesn't print wal, its file system can't do it: move store.path to a local one",
        path = path.display()
    )))
}

/// Pages that are not as they were written show here, and not when they are needed.
pub(super) fn refuse_damaged(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let check = "PRAGMA quick_check(1)";
    let found = connection.query_row(check, [], |row| row.get::<_, String>(0));
    match found.map_err(|error| explain_opening(path, &error))? {
        ok if ok == "ok" => Ok(()),
        found => Err(damaged(path, &found)),
    }
}

/// SQLite takes what is shorter than its smallest page for nothing at all, writes over it, and
/// deletes its WAL; but a database is synced before it has a WAL. The rest of a page that is cut
/// off it takes for zeros, which is right only while the WAL or the journal can fill it in.
fn refuse_cut_off(path: &Path, wal: &Path) -> Result<(), StoreError> {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match length(path) {
        0 if length(wal) > 0 => Err(damaged(path, &"it is empty, and its -wal file is not")),
        0 => Ok(()),
        1..SMALLEST_PAGE => Err(damaged(path, &"it is cut off")),
        all if length(wal) == 0 && length(&beside(path, "-journal")) == 0 => {
            let page = page_size(path).map_err(|error| unusable_directory(path, path, &error))?;
            if page > 0 && all % page > 0 {
                return Err(damaged(path, &"it is cut off in the middle of a page"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// In bytes, as the header of the database has it.
fn page_size(path: &Path) -> std::io::Result<u64> {
    let mut header = [0; 18];
    File::open(path)?.read_exact(&mut header)?;
    let size = u16::from_be_bytes([header[16], header[17]]);
    // What doesn't fit is written as 1.
    Ok(if size == 1 { 65_536 } else { size.into() })
}

fn refuse_damaged_wal(path: &Path, wal: &Path) -> Result<(), StoreError> {
    let damage = wal::damage(wal).map_err(|error| unusable_directory(path, wal, &error))?;
    let Some(offset) = damage else { return Ok(()) };
    Err(StoreError::Unusable(format!(
        "{wal} (of store.path) is damaged at byte {offset}, and events that were told lie behind that; restore {path} and this file from one backup, or move this file away to go on from what is in the former: ids told since may then be told again of other events",
        wal = wal.display(),
        path = path.display()
    )))
}

fn damaged(path: &Path, found: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unusable(format!(
        "{} (store.path) is damaged or no SQLite database ({found}); restore it from a backup, or move it away with its -wal file to start with nothing",
        path.display()
    ))
}

fn migrate(connection: &mut Connection, from: i32) -> rusqlite::Result<()> {
    for (version, sql) in (1..).zip(MIGRATIONS).filter(|&(version, _)| version > from) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version)?;
        Failpoint::Migrating.reached();
        transaction.commit()?;
    }
    Ok(())
}

/// What keeps the file from being opened for as long as nobody sets it up otherwise. SQLite
/// reports a disk that fails for a moment in the same words.
fn set_up_wrongly(path: &Path) -> bool {
    ["", "-wal", "-shm"].into_iter().any(|suffix| {
        let opened = OpenOptions::new().read(true).write(true).open(beside(path, suffix));
        opened.is_err_and(|error| error.kind() != ErrorKind::NotFound && !passes(error.kind()))
    })
}

/// The same where nothing but the content of the file can be wrong with what was asked.
fn explain_opening(path: &Path, error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::Unknown) => damaged(path, error),
        _ => explain(path, error),
    }
}

/// What SQLite reports, in words that say what to do.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> StoreError {
    if is_damage(error) {
        return damaged(path, error);
    }
    let wrong = set_up_wrongly(path);
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly)
            if wrong =>
        {
            StoreError::Unusable(format!(
                "{path} (store.path) can't be opened ({error}); run this as the user that ibvwatch runs as, who must own the file and its directory"
            ))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => StoreError::Failed(format!(
            "{path} (store.path) can't be written ({error}): its disk failed, or it was moved away; see to that and start ibvwatch again"
        )),
        _ => StoreError::Failed(format!("{path} (store.path): {error}")),
    }
}

/// Also where a row does not hold what was put into it.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
    };
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
        || matches!(
            error,
            FromSqlConversionFailure(..)
                | IntegralValueOutOfRange(..)
                | InvalidColumnType(..)
                | Utf8Error(..)
        )
}

#[cfg(test)]
mod tests {
    /// Earlier ones can corrupt a WAL database that several connections checkpoint.
    #[test]
    fn the_bundled_sqlite_is_new_enough() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }
}
