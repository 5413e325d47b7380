//! Bits of the database that are not as they were written.
//!
//! `CORRUPTION=1` flips every bit that is looked at; usual is every 13th.

use std::fs;

use ibvwatch::store::StoreError;
use tempfile::TempDir;

use super::{asked, recorded_in};
use crate::common::{Daemon, Home};

const PAGE: usize = 4_096;
/// Of a frame in the WAL, its page included.
const FRAME: usize = 24 + PAGE;
const WAL_HEADER: usize = 32;

/// A home whose daemon is gone: its database, and the WAL if it was killed.
async fn left_behind(killed: bool) -> (Home, Vec<u8>, Vec<u8>) {
    let home = Home::new().await;
    let ids: Vec<_> = (0..20).map(|_| home.track_new()).collect();
    let mut daemon = Daemon::start(&home);
    for &id in &ids {
        daemon.event(|event| event.is("session.observed", id)).await;
    }
    for &id in &ids {
        home.set_state(id, 0, "IN_PROGRESS").expect("a resource that is listed");
        daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    }
    if killed {
        daemon.kill().await
    } else {
        daemon.stop().await
    };
    let database = fs::read(home.path("ibvwatch.db")).expect("a database");
    let wal = fs::read(home.path("ibvwatch.db-wal")).unwrap_or_default();
    assert_eq!(!wal.is_empty(), killed);
    (home, database, wal)
}

/// Opens them as the daemon does; the events that are recorded, as lines.
fn opened(database: &[u8], wal: &[u8]) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new());
    let directory = directory.expect("a temporary directory");
    let path = directory.path().join("ibvwatch.db");
    fs::write(&path, database).expect("room for a small database");
    if !wal.is_empty() {
        fs::write(directory.path().join("ibvwatch.db-wal"), wal).expect("room for a WAL");
    }
    recorded_in(&path).map_err(|error| {
        let refused = matches!(error, StoreError::Unusable(_));
        assert!(refused, "taken for a failure that may pass: {error}");
        let text = error.to_string();
        assert!(text.contains("ibvwatch.db"), "{text}");
        text
    })
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

fn stride() -> usize {
    asked("CORRUPTION").unwrap_or(13)
}

#[tokio::test]
async fn a_flipped_bit_in_the_structure_of_the_database_is_refused_or_makes_no_difference() {
    let (_home, database, _) = left_behind(false).await;
    let whole = opened(&database, &[]).expect("a database that is well");
    // The header of the file, then of each page with the first of its pointers.
    let pages = (1..database.len() / PAGE).map(|page| page * PAGE..page * PAGE + 16);
    let bits =
        std::iter::once(0..112).chain(pages).flat_map(|bytes| bytes.start * 8..bytes.end * 8);
    let (mut refused, mut same) = (0, 0);
    for bit in bits.step_by(stride()) {
        match opened(&flipped(&database, bit), &[]) {
            Err(_) => refused += 1,
            Ok(events) => {
                assert!(events == whole, "bit {bit} changed what is recorded, and nobody knows");
                same += 1;
            }
        }
    }
    println!("{refused} bits refused, {same} made no difference");
    assert!(refused > same, "{refused} {same}");
}

#[tokio::test]
async fn a_flipped_bit_in_the_wal_is_refused_unless_it_may_be_a_torn_write() {
    let (_home, database, wal) = left_behind(true).await;
    let whole = opened(&database, &wal).expect("a database that is well");
    let frames = (wal.len() - WAL_HEADER) / FRAME;
    let size_after = |frame: usize| {
        let at = WAL_HEADER + frame * FRAME + 4;
        u32::from_be_bytes(wal[at..at + 4].try_into().expect("4 bytes"))
    };
    let commits: Vec<usize> = (0..frames).filter(|&frame| size_after(frame) != 0).collect();
    assert!(commits.len() > 10, "{commits:?}");
    // Behind these frames stand two transactions at least.
    let certain = WAL_HEADER + (commits[commits.len() - 3] + 1) * FRAME;
    let mut refused = 0;
    for bit in (0..wal.len() * 8).step_by(stride() * 397) {
        match opened(&database, &flipped(&wal, bit)) {
            Err(text) => {
                assert!(text.contains("ibvwatch.db-wal") && text.contains("restore"), "{text}");
                refused += 1;
            }
            Ok(events) => {
                assert!(
                    bit / 8 >= certain,
                    "bit {bit} made {} events of {}",
                    events.len(),
                    whole.len()
                );
                assert!(whole.starts_with(&events));
            }
        }
    }
    println!("{refused} bits refused in {frames} frames, {} transactions", commits.len());
    for bit in 0..WAL_HEADER * 8 {
        opened(&database, &flipped(&wal, bit)).expect_err("a header that nobody wrote");
    }
}

#[tokio::test]
async fn what_is_cut_off_is_missed() {
    let (_home, database, _) = left_behind(false).await;
    for length in [1, 50, 100, 512, PAGE, 3 * PAGE, database.len() / 2, database.len() - 1] {
        let opened = opened(&database[..length], &[]);
        assert!(opened.is_err(), "{length} bytes of {} are taken for all", database.len());
    }
    let (_home, _, wal) = left_behind(true).await;
    opened(&[], &wal).expect_err("a database that is gone, of which there is a WAL");
}

#[tokio::test]
async fn the_daemon_says_what_is_damaged_and_how_to_restore_it() {
    let (home, database, wal) = left_behind(true).await;
    let put = |database: &[u8], wal: &[u8]| {
        fs::write(home.path("ibvwatch.db"), database).expect("a database");
        fs::write(home.path("ibvwatch.db-wal"), wal).expect("a WAL");
    };
    for (database, wal, named) in [
        (&flipped(&database, 3), &Vec::new(), "ibvwatch.db (store.path) is damaged"),
        (
            &database,
            &flipped(&wal, 8 * (WAL_HEADER + 2 * FRAME + 99)),
            "ibvwatch.db-wal (of store.path) is damaged",
        ),
        (&Vec::new(), &wal, "ibvwatch.db (store.path) is damaged"),
    ] {
        put(database, wal);
        let refused = home.run(&["run"]).await.refused(78);
        assert!(refused.contains(named) && refused.contains("from"), "{refused}");
        assert!(refused.contains("restore") && refused.contains("backup"), "{refused}");
    }
    put(&database, &wal);
    Daemon::start(&home).logs("ibvwatch is running").await;
}
