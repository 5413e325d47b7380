//! The power fails after each step that the daemon takes on its database.
//!
//! One run is written down step by step, with what it told in between. From that follows what a
//! disk may hold when the power fails after any step: of what was written since the last sync of a
//! file, nothing, all, or any sectors. Each such disk has to be usable, to hold every event that
//! was told, to the byte, and no cursor beyond what was told.
//!
//! `POWER_FAILURES=50` tries so many random disks for each step; usual are two.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rusqlite::Connection;

use super::disk::lengthen_wal;
use super::shim::{self, Fault};
use super::story::Story;
use super::{asked, recorded_in};

/// What a disk writes in one piece, or not.
const SECTOR: usize = 512;

/// The files that matter; what else there is, is made anew at every start.
const FILES: [&str; 3] = ["ibvwatch.db", "ibvwatch.db-wal", "ibvwatch.db-journal"];

#[derive(Debug, Clone)]
enum Step {
    Create { file: usize },
    Write { file: usize, at: usize, data: Vec<u8> },
    Truncate { file: usize, to: usize },
    Sync { file: usize },
    FailedSync { file: usize },
    Remove { file: usize },
    SyncDirectory,
    Tell(Vec<u8>),
}

fn parse(mut trace: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some((head, rest)) = trace.split_at_checked(14) {
        let at = u64::from_ne_bytes(head[2..10].try_into().expect("8 bytes"));
        let at = usize::try_from(at).expect("an offset in a small file");
        let length = u32::from_ne_bytes(head[10..14].try_into().expect("4 bytes")) as usize;
        let (data, rest) = rest.split_at(length);
        let file = usize::from(head[1]).wrapping_sub(1);
        steps.push(match head[0] {
            b'O' => Step::Create { file },
            b'W' => Step::Write { file, at, data: data.to_vec() },
            b'T' => Step::Truncate { file, to: at },
            b'S' => Step::Sync { file },
            b'L' => Step::FailedSync { file },
            b'U' => Step::Remove { file },
            b'D' => Step::SyncDirectory,
            b'E' => Step::Tell(data.to_vec()),
            other => panic!("no step is called {other}"),
        });
        trace = rest;
    }
    steps
}

/// A file as it is for certain, and what may have happened to it since.
#[derive(Debug, Clone, Default)]
struct Platter {
    /// None while there is no such file.
    content: Option<Vec<u8>>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Truncate { to: usize },
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, data } => {
                let end = at + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(data);
            }
            Self::Truncate { to } => content.resize(*to, 0),
        }
    }

    /// The same, each part for itself.
    fn sectors(&self) -> Vec<Self> {
        match self {
            Self::Truncate { .. } => vec![self.clone()],
            Self::Write { at, data } => {
                let mut sectors = Vec::new();
                let mut from = 0;
                while from < data.len() {
                    let to = data.len().min((at + from) / SECTOR * SECTOR + SECTOR - at);
                    sectors.push(Self::Write { at: at + from, data: data[from..to].to_vec() });
                    from = to;
                }
                sectors
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Disk {
    /// What stands in the directory for certain.
    files: [Platter; 3],
    /// What is created or removed for now.
    entries: BTreeMap<usize, Platter>,
    told: Vec<u8>,
}

impl Disk {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Create { file } => {
                self.entries.insert(*file, Platter { content: Some(Vec::new()), pending: vec![] });
            }
            Step::Remove { file } => {
                self.entries.insert(*file, Platter::default());
            }
            Step::Write { file, at, data } => {
                self.file(*file).pending.push(Change::Write { at: *at, data: data.clone() });
            }
            Step::Truncate { file, to } => {
                self.file(*file).pending.push(Change::Truncate { to: *to });
            }
            Step::Sync { file } => {
                let file = self.file(*file);
                if let Some(content) = &mut file.content {
                    file.pending.drain(..).for_each(|change| change.apply(content));
                }
            }
            // The kernel takes what it could not write for written, and says so the next time.
            Step::FailedSync { file } => self.file(*file).pending.clear(),
            Step::SyncDirectory => {
                for (file, platter) in std::mem::take(&mut self.entries) {
                    self.files[file] = platter;
                }
            }
            Step::Tell(data) => self.told.extend_from_slice(data),
        }
    }

    fn file(&mut self, file: usize) -> &mut Platter {
        self.entries.get_mut(&file).unwrap_or(&mut self.files[file])
    }

    /// What is found after the power failed: each sector and each entry kept as `keeps` says.
    fn after_the_failure(&self, mut keeps: impl FnMut() -> bool) -> [Option<Vec<u8>>; 3] {
        std::array::from_fn(|file| {
            let platter = match self.entries.get(&file) {
                Some(entry) if keeps() => entry,
                Some(_) | None => &self.files[file],
            };
            let mut content = platter.content.clone()?;
            for change in platter.pending.iter().flat_map(Change::sectors) {
                if keeps() {
                    change.apply(&mut content);
                }
            }
            Some(content)
        })
    }
}

/// The steps as they would have been with `synchronous = NORMAL`: the WAL is synced only before
/// it is folded into the database.
fn with_normal(steps: &[Step]) -> Vec<Step> {
    let folds = |rest: &[Step]| {
        let next = rest.iter().find(|step| !matches!(step, Step::Tell(_) | Step::SyncDirectory));
        matches!(next, Some(Step::Write { file: 0, .. }))
    };
    let kept = |(place, step): &(usize, &Step)| {
        !matches!(step, Step::Sync { file: 1 }) || folds(&steps[place + 1..])
    };
    steps.iter().enumerate().filter(kept).map(|(_, step)| step.clone()).collect()
}

fn lines(told: &[u8]) -> BTreeSet<&str> {
    let text = std::str::from_utf8(told).expect("UTF-8");
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect()
}

/// What is wrong with such a disk, if anything is.
fn judge(directory: &Path, found: &[Option<Vec<u8>>; 3], told: &[u8]) -> Result<(), String> {
    let told = lines(told);
    for name in ["ibvwatch.db-shm", "ibvwatch.db.lock"] {
        // Left by the disk before, if at all.
        let _ = fs::remove_file(directory.join(name));
    }
    for (name, content) in FILES.iter().zip(found) {
        let path = directory.join(name);
        match content {
            Some(content) => fs::write(path, content).expect("room for a small database"),
            None => drop(fs::remove_file(path)),
        }
    }
    let path = directory.join(FILES[0]);
    let recorded = recorded_in(&path).map_err(|error| format!("refused: {error}"))?;
    let recorded: BTreeSet<&str> = recorded.iter().map(String::as_str).collect();
    let database = Connection::open(&path).map_err(|error| error.to_string())?;
    let check = database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    match check {
        Ok(ok) if ok == "ok" => {}
        other => return Err(format!("not whole: {other:?}")),
    }
    let cursor: Result<i64, _> =
        database.query_row("SELECT cursor FROM sink", [], |row| row.get(0));
    if let Some(lost) = told.iter().find(|line| !recorded.contains(*line)) {
        return Err(format!("told and lost: {lost}"));
    }
    let delivered = cursor.map_or(0, |cursor| usize::try_from(cursor).expect("a small number"));
    if delivered > told.len() {
        return Err(format!("{delivered} events are marked as delivered, {} were", told.len()));
    }
    Ok(())
}

/// How many disks were judged, and what was wrong with those that were not well.
fn fail_after_each(
    steps: &[Step],
    from: &Disk,
    random: usize,
    rng: &mut StdRng,
) -> (usize, Vec<String>) {
    // In memory, if there is room for files: that these are synced is of no use.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let directory = directory.expect("a temporary directory");
    let mut disk = from.clone();
    let mut judged = 0;
    let mut wrong = Vec::new();
    for (place, step) in steps.iter().enumerate() {
        disk.take(step);
        for variant in 0..2 + random {
            let found = match variant {
                0 => disk.after_the_failure(|| false),
                1 => disk.after_the_failure(|| true),
                _ => {
                    let often = rng.random_range(0.1..0.9);
                    disk.after_the_failure(|| rng.random_bool(often))
                }
            };
            judged += 1;
            if let Err(what) = judge(directory.path(), &found, &disk.told) {
                wrong.push(format!("step {place} of {}, disk {variant}: {what}", steps.len()));
            }
        }
    }
    (judged, wrong)
}

/// A life, written down; and the disk that it began with.
async fn written_down(old: bool, failing: Option<Fault>) -> (Vec<Step>, Disk) {
    let mut story = Story::in_a_home().await;
    let mut disk = Disk::default();
    if old {
        story.begin(|_, _| {});
        story.stop().await;
        lengthen_wal(&story.home);
        for (platter, name) in disk.files.iter_mut().zip(FILES) {
            platter.content = fs::read(story.home.path(name)).ok();
        }
    }
    story.begin(|home, command| {
        shim::trace(home, command, "trace");
        if let Some(fault) = failing {
            shim::arm(home, command, fault);
        }
    });
    story.unfold().await;
    story.stop().await;
    story.hold().await;
    let steps = parse(&fs::read(story.home.path("trace")).expect("what was written down"));
    (steps, disk)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_power_may_fail_after_every_step() {
    let random = asked("POWER_FAILURES").unwrap_or(2);
    let seed = asked("POWER_SEED").unwrap_or(1);
    println!("POWER_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for old in [false, true] {
        let (steps, disk) = written_down(old, None).await;
        let (judged, wrong) = fail_after_each(&steps, &disk, random, &mut rng);
        println!("{} steps, {judged} disks, {} wrong", steps.len(), wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));

        // The same life with `synchronous = NORMAL` is caught: it tells what can still be lost.
        let (judged, wrong) = fail_after_each(&with_normal(&steps), &disk, 0, &mut rng);
        println!("with NORMAL: {judged} disks, {} wrong", wrong.len());
        let lost = wrong.iter().filter(|what| what.contains("told and lost")).count();
        assert!(lost > 10 && lost == wrong.len(), "{}", wrong.join("\n"));
    }
}

/// Once a sync has failed, another that succeeds means nothing of what was written before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_power_may_fail_after_a_sync_that_failed() {
    let mut rng = StdRng::seed_from_u64(asked("POWER_SEED").unwrap_or(1));
    for nth in [6, 14] {
        let fault = Fault { kind: "sync", error: "EIO", nth, lasting: false };
        let (steps, disk) = written_down(true, Some(fault)).await;
        let failed = steps.iter().filter(|step| matches!(step, Step::FailedSync { .. })).count();
        assert_eq!(failed, 1);
        let (judged, wrong) = fail_after_each(&steps, &disk, 0, &mut rng);
        println!("a failed sync in {} steps, {judged} disks, {} wrong", steps.len(), wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
