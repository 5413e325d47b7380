//! What only a store on disk can promise.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::{Reader, SqliteStore};
use crate::domain::{EndReason, Entry, EventKind, Labels, Observation, Session};
use crate::store::conformance::{
    OnDisk, World, answer, entry, id, ids, kinds, lines, patiently, poll_once,
};
use crate::store::{EventFilter, EventQuery, Gauges, Position, Store, StoreError};

type Disk = World<OnDisk>;

impl Disk {
    fn path(&self) -> PathBuf {
        self.home.0.path().join("ibvwatch.db")
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.path()).unwrap()
    }

    fn reopened(self) -> Self {
        let context = self.context();
        let Self { clock, policy, home, store } = self;
        drop(store);
        let store = SqliteStore::open(&home.0.path().join("ibvwatch.db"), &context).unwrap();
        Self { clock, policy, home, store }
    }

    /// What the disk holds at this moment, as if the machine had stopped.
    fn crashed(&self) -> Self {
        let home = OnDisk::default();
        for name in ["ibvwatch.db", "ibvwatch.db-wal"] {
            fs::copy(self.home.0.path().join(name), home.0.path().join(name)).unwrap();
        }
        let store = SqliteStore::open(&home.0.path().join("ibvwatch.db"), &self.context()).unwrap();
        Self { clock: self.clock.clone(), policy: self.policy.clone(), home, store }
    }
}

fn refusal(path: &Path, w: &Disk) -> String {
    match SqliteStore::open(path, &w.context()) {
        Err(StoreError::Unusable(text)) => text,
        Err(StoreError::Stale(_) | StoreError::Failed(_)) | Ok(_) => panic!("was not refused"),
    }
}

/// A closed database, and a world to open it in.
async fn written() -> (Disk, PathBuf, TempDir) {
    let source = Disk::new();
    source.track(&[1]).await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ibvwatch.db");
    let World { home, store, .. } = source;
    drop(store);
    fs::copy(home.0.path().join("ibvwatch.db"), &path).unwrap();
    (Disk::new(), path, directory)
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_committed() {
    let w = Disk::new();
    w.track(&[1, 2]).await;
    w.poll(answer("REQUIRED")).await;
    w.poll(answer("IN_PROGRESS")).await;
    w.store.ack_events("sink", 1).await.unwrap();
    let (events, sessions) = (lines(&w.read("sink").await), w.store.sessions().await.unwrap());

    let after = w.crashed();
    assert_eq!(lines(&after.read("sink").await), events);
    assert_eq!(after.store.sessions().await.unwrap(), sessions);
    after.track(&[3]).await;
    assert_eq!(after.read("sink").await.last().unwrap().sequence, 5);
}

#[tokio::test]
async fn every_session_is_taken_up_wherever_it_stands() {
    for many in [0, 1, 2, 3, 2_345] {
        let w = Disk::new();
        w.track(&(0..many).collect::<Vec<_>>()).await;
        // Leaves gaps, and the first row is one of them.
        let gone = (0..many / 3).map(|n| id(3 * n)).collect();
        w.store.untrack(gone).await.unwrap();
        w.clock.advance(Duration::from_secs(31 * 86_400));
        w.store.ack_events("sink", w.reader().last_sequence().unwrap()).await.unwrap();
        w.store.purge(Duration::from_secs(30 * 86_400), &["sink"]).await.unwrap();
        let ids = |sessions: Vec<Session>| sessions.iter().map(Session::id).collect::<Vec<_>>();
        let before = ids(w.store.sessions().await.unwrap());
        assert_eq!(before.len(), usize::from(many - many / 3));
        assert_eq!(ids(w.reopened().store.sessions().await.unwrap()), before);
    }
}

#[tokio::test]
async fn a_redelivery_after_a_restart_is_the_same_to_the_byte() {
    let w = Disk::new();
    let labels = Labels::new([("case".to_owned(), "Ä\"17\u{2028}".to_owned())].into()).unwrap();
    w.store.track(vec![Entry { labels, ..entry(1) }]).await.unwrap();
    w.poll(answer("A state nobody has heard of")).await;
    let before = lines(&w.read("sink").await);
    w.store.ack_events("sink", 1).await.unwrap();
    let w = w.reopened();
    assert_eq!(lines(&w.read("sink").await), before[1..], "the cursor is where it was");
    assert_eq!(lines(&w.read("newcomer").await), before);
}

#[tokio::test]
async fn an_ended_session_stays_ended_across_a_restart_and_counts_on_afterwards() {
    let w = Disk::new();
    w.track(&[1]).await;
    w.poll(Observation::Completed).await;
    let w = w.reopened();
    w.track(&[1]).await;
    assert_eq!(w.ended(1).await, Some(EndReason::Completed));
    assert!(w.due().await.is_none());
    w.untrack(1).await;
    w.clock.advance(Duration::from_secs(31 * 86_400));
    w.store.ack_events("sink", 3).await.unwrap();
    w.store.purge(Duration::from_secs(30 * 86_400), &["sink"]).await.unwrap();
    let w = w.reopened();
    assert!(w.store.sessions().await.unwrap().is_empty());
    w.track(&[1]).await;
    let told = w.read("sink").await;
    assert_eq!((ids(&told), told[0].sequence), (vec![format!("{}/4", id(1))], 4));
}

#[tokio::test]
async fn a_forgotten_session_leaves_no_id_behind() {
    let w = Disk::new();
    w.track(&[1]).await;
    w.untrack(1).await;
    w.store.ack_events("sink", 2).await.unwrap();
    w.clock.advance(Duration::from_secs(31 * 86_400));
    w.store.purge(Duration::from_secs(30 * 86_400), &["sink"]).await.unwrap();
    let counts = w.reader().connection().query_row(
        "SELECT (SELECT count(*) FROM session), (SELECT count(*) FROM event),
                (SELECT count(*) FROM forgotten WHERE session_hash != ?1)",
        [id(1).as_bytes()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    );
    assert_eq!(counts, Ok((0, 0, 1)));
}

#[tokio::test]
async fn a_steady_poll_writes_nothing() {
    let w = Disk::new();
    w.track(&[1]).await;
    w.poll(answer("REQUIRED")).await;
    let reader = w.reader();
    let version = || -> i64 {
        let connection = reader.connection();
        connection.pragma_query_value(None, "data_version", |row| row.get(0)).unwrap()
    };
    let before = version();
    for _ in 0..10 {
        w.clock.advance(Duration::from_secs(300));
        w.poll(answer("REQUIRED")).await;
    }
    assert_eq!(version(), before);
    w.clock.advance(Duration::from_secs(300));
    w.poll(answer("COMPLETE")).await;
    assert_ne!(version(), before);
}

#[tokio::test]
async fn a_checkpoint_keeps_the_schedule_across_a_restart() {
    let w = Disk::new();
    w.track(&[1]).await;
    w.poll(answer("REQUIRED")).await;
    w.clock.advance(Duration::from_secs(300));
    w.poll(answer("REQUIRED")).await;
    let before = w.store.sessions().await.unwrap();
    assert_ne!(w.reader().sessions().unwrap(), before);
    w.store.checkpoint().await.unwrap();
    assert_eq!(w.reader().sessions().unwrap(), before);
    let w = w.reopened();
    assert_eq!(w.store.sessions().await.unwrap(), before);
}

#[tokio::test]
async fn a_second_instance_is_refused_and_told_who_is_the_first() {
    let w = Disk::new();
    let text = refusal(&w.path(), &w);
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains(&w.path().display().to_string()), "{text}");
    assert!(text.contains("store.path"), "{text}");
    let _ = w.reopened();
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_to_writers_and_readers() {
    let (w, path, _directory) = written().await;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let text = refusal(&path, &w);
    assert!(text.contains("newer ibvwatch (schema 7; this one knows 1)"), "{text}");
    assert_eq!(Reader::open(&path).unwrap_err(), StoreError::Unusable(text));
}

#[tokio::test]
async fn a_database_that_is_not_in_wal_mode_is_refused_with_the_cure() {
    let (w, path, _directory) = written().await;
    let set_mode = |mode: &str| {
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", mode).unwrap();
    };
    set_mode("delete");
    let text = refusal(&path, &w);
    let cure = format!("sqlite3 '{}' 'PRAGMA journal_mode=wal'", path.display());
    assert!(text.contains(&cure), "{text}");
    set_mode("wal");
    SqliteStore::open(&path, &w.context()).unwrap();
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_refused() {
    let w = Disk::new();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("other.db");
    fs::write(&path, "session_id,case\n".repeat(1_000)).unwrap();
    let text = refusal(&path, &w);
    assert!(text.contains("damaged or no SQLite database"), "{text}");
    assert!(text.contains("restore it from a backup, or move it away"), "{text}");

    let path = directory.path().join("foreign.db");
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("PRAGMA user_version = 9; CREATE TABLE cookie (name)").unwrap();
    let text = refusal(&path, &w);
    assert!(text.contains("another program"), "{text}");
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let (w, path, _directory) = written().await;
    let mut bytes = fs::read(&path).unwrap();
    bytes[200..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let text = refusal(&path, &w);
    assert!(text.contains("restore it from a backup"), "{text}");
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let w = Disk::new();
    let text = refusal(Path::new("/nowhere/at all/ibvwatch.db"), &w);
    assert!(text.contains("directory /nowhere/at all of store.path does not exist"), "{text}");
}

#[tokio::test]
async fn nobody_else_may_read_the_database() {
    use std::os::unix::fs::PermissionsExt;
    let w = Disk::new();
    w.track(&[1]).await;
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let path = format!("{}{suffix}", w.path().display());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
}

#[tokio::test]
async fn writing_waits_out_a_full_disk_and_loses_nothing() {
    let w = Disk::new();
    w.track(&[1]).await;
    w.store.journal().writer.limit_pages(1);
    {
        let entries: Vec<Entry> = (2..200).map(entry).collect();
        let mut tracking = std::pin::pin!(w.store.track(entries));
        let tried = w.store.journal().writer.failed_once();
        tokio::select! {
            _ = &mut tracking => panic!("written to a full disk"),
            () = patiently(tried) => {}
        }
        assert!(poll_once(tracking.as_mut()).await.is_pending());
        assert_eq!(w.read("sink").await.len(), 1, "told before it was durable");
        let failure = w.store.write_failure().unwrap();
        assert_eq!((failure.path, failure.since), (w.path(), w.now()));
        assert!(failure.error.contains("full"), "{}", failure.error);
        w.store.journal().writer.limit_pages(0);
        patiently(tracking).await.unwrap();
    }
    assert_eq!(w.store.write_failure(), None);
    let told = w.read("sink").await;
    assert!(told.iter().map(|event| event.sequence).eq(1..=199));
    assert_eq!(w.crashed().read("sink").await.len(), 199);
}

#[tokio::test]
async fn the_size_is_that_of_the_files_and_grows_with_them() {
    let w = Disk::new();
    let on_disk = || -> u64 {
        let bytes = |suffix: &str| fs::metadata(format!("{}{suffix}", w.path().display()));
        ["", "-wal"].map(|suffix| bytes(suffix).unwrap().len()).iter().sum()
    };
    let before = w.store.size().unwrap();
    w.store.track((0..1_000).map(entry).collect()).await.unwrap();
    assert!(w.store.size().unwrap() > before);
    assert_eq!(w.store.size().unwrap(), on_disk());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_full_disk() {
    let w = Disk::new();
    w.track(&[1]).await;
    w.store.journal().writer.limit_pages(1);
    {
        let entries: Vec<Entry> = (2..200).map(entry).collect();
        let mut tracking = std::pin::pin!(w.store.track(entries));
        assert!(poll_once(tracking.as_mut()).await.is_pending());
    }
    let w = w.reopened();
    assert_eq!(w.read("sink").await.len(), 1);
}

#[tokio::test]
async fn a_failure_that_will_not_pass_is_told_to_all_from_then_on() {
    let w = Disk::new();
    w.track(&[1]).await;
    let other = Connection::open(w.path()).unwrap();
    other.execute_batch("DROP TABLE event").unwrap();
    for n in 2..4 {
        let failed = patiently(w.store.track(vec![entry(n)])).await;
        let Err(StoreError::Failed(text)) = failed else { panic!("{failed:?}") };
        assert!(text.contains("no such table: event"), "{text}");
    }
}

#[tokio::test]
async fn a_reader_sees_what_is_durable_beside_the_daemon_and_after_it() {
    let w = Disk::new();
    w.track(&[1, 2]).await;
    let reader = w.reader();
    assert_eq!(
        reader.sessions().unwrap().iter().map(Session::id).collect::<Vec<_>>(),
        [id(1), id(2)]
    );
    w.poll(answer("REQUIRED")).await;
    assert_eq!(reader.last_sequence().unwrap(), 3);
    assert_eq!(reader.session(id(1)).unwrap(), w.session(1).await);
    assert_eq!(reader.session(id(9)).unwrap(), None);
    let events = lines(&w.read("sink").await);
    let (path, home) = (w.path(), w.home);
    drop(w.store);
    for reader in [reader, Reader::open(&path).unwrap()] {
        let all = reader.events(0, 100, EventFilter::default()).unwrap();
        assert_eq!(lines(&all), events);
    }
    drop(home);
}

#[tokio::test]
async fn a_reader_filters_by_session_by_type_and_by_sequence() {
    let w = Disk::new();
    w.track(&[1, 2]).await;
    w.poll(answer("REQUIRED")).await;
    w.poll(answer("REQUIRED")).await;
    let reader = w.reader();
    let read = |after, limit, session: Option<u16>, kind: Option<EventKind>| {
        let filter = EventFilter { session: session.map(id), kind };
        let events = reader.events(after, limit, filter).unwrap();
        events.iter().map(|event| event.sequence).collect::<Vec<_>>()
    };
    let tracked = Some(EventKind::SessionTracked);
    assert_eq!(read(0, 100, None, None), [1, 2, 3, 4]);
    assert_eq!(read(1, 2, None, None), [2, 3]);
    assert_eq!(read(0, 100, Some(2), None), [2, 4]);
    assert_eq!(read(2, 100, Some(2), None), [4]);
    assert_eq!(read(0, 100, None, tracked), [1, 2]);
    assert_eq!(read(0, 100, Some(1), tracked), [1]);
    assert_eq!(read(0, 100, Some(3), None), [0; 0]);
    assert_eq!(read(u64::MAX, 100, None, None), [0; 0]);
    let of_one = EventFilter { session: Some(id(1)), kind: None };
    assert_eq!(kinds(&reader.events(0, 9, of_one).unwrap())[0], "session.tracked");
}

#[tokio::test]
async fn a_search_for_what_is_rare_comes_to_its_end_in_steps() {
    let w = Disk::new();
    w.track(&(1..=12_000).collect::<Vec<_>>()).await;
    w.untrack(7).await;
    let step = async |from| {
        let filter = EventFilter { session: None, kind: Some(EventKind::SessionEnded) };
        w.store.find_events(EventQuery { from, limit: 10, filter }).await.unwrap()
    };
    let first = step(Position::After(0)).await;
    assert_eq!((first.events.len(), first.next), (0, Some(10_000)));
    let second = step(Position::After(10_000)).await;
    assert_eq!((kinds(&second.events), second.next), (vec!["session.ended"], None));
    let backwards = step(Position::Before(u64::MAX)).await;
    assert_eq!((kinds(&backwards.events), backwards.next), (vec!["session.ended"], Some(2_002)));
    let rest = step(Position::Before(2_002)).await;
    assert_eq!((rest.events.len(), rest.next), (0, None));
}

#[tokio::test]
async fn a_reader_says_that_the_daemon_has_not_run() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ibvwatch.db");
    let text = Reader::open(&path).unwrap_err().to_string();
    assert!(text.contains("store.path") && text.contains("has not run"), "{text}");
    assert!(!path.exists());
    fs::write(&path, "").unwrap();
    assert_eq!(Reader::open(&path).unwrap_err().to_string(), text);
}
