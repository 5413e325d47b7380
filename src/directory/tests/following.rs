use std::os::unix::fs::symlink;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

use super::*;
use crate::clock::TokioClock;
use crate::directory::scanner::SETTLING;
use crate::directory::watch::{Report, WatchError, follow};
use crate::domain::Timestamp;

const HOUR: Duration = Duration::from_secs(3_600);
const PATIENCE: Duration = Duration::from_secs(120);

/// A running watch and the directory it watches.
struct Running {
    root: TempDir,
    directory: PathBuf,
    deltas: mpsc::Receiver<Delta>,
    report: watch::Receiver<Report>,
    task: JoinHandle<WatchError>,
}

impl Running {
    /// With rescans so rare that only an event can bring a change.
    fn by_events() -> Self {
        Self::start(|settings, known, clock, deltas, report| {
            let settings = Settings { rescan_interval: HOUR, ..settings };
            tokio::spawn(async move {
                let Err(error) = super::super::watch(settings, known, clock, deltas, report).await;
                error
            })
        })
    }

    /// As on a network file system, which sends no events.
    fn by_rescans() -> Self {
        Self::start(|settings, known, clock, deltas, report| {
            let eyes = Eyes::new(&settings, known, None);
            tokio::spawn(async move {
                let hint = Notify::new();
                let interval = settings.rescan_interval;
                let Err(error) = follow(eyes, &hint, interval, &clock, &deltas, &report).await;
                error
            })
        })
    }

    fn start(
        spawn: impl FnOnce(
            Settings,
            Vec<SessionId>,
            TokioClock,
            mpsc::Sender<Delta>,
            watch::Sender<Report>,
        ) -> JoinHandle<WatchError>,
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sessions.d");
        fs::create_dir(&directory).unwrap();
        let (send, deltas) = mpsc::channel(1);
        let (tell, report) = watch::channel(Report::default());
        let clock = TokioClock::starting_at(Timestamp::from_millis(0));
        let task = spawn(settings(vec![directory.clone()]), Vec::new(), clock, send, tell);
        Self { root, directory, deltas, report, task }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.directory.join(name), text).unwrap();
    }

    async fn scanned(&mut self) {
        let scanned = self.report.wait_for(|report| report.last_scan.is_some());
        timeout(PATIENCE, scanned).await.unwrap().unwrap();
    }

    /// Waits for a scan to be reported so.
    async fn sees(&mut self, condition: impl FnMut(&Report) -> bool) {
        let seen = self.report.wait_for(condition);
        timeout(PATIENCE, seen).await.unwrap().unwrap();
    }

    async fn make_and_see(&mut self, name: &str) {
        let path = self.directory.join(name);
        fs::create_dir(&path).unwrap();
        self.sees(|report| report.problems.iter().any(|problem| problem.path == path)).await;
    }

    /// The next change; the first scan is told even if it is none.
    async fn next(&mut self) -> Delta {
        let change = async {
            loop {
                let delta = self.deltas.recv().await.unwrap();
                if !delta.is_empty() {
                    return delta;
                }
            }
        };
        timeout(PATIENCE, change).await.unwrap()
    }

    /// Collects changes until these are the tracked sessions.
    async fn tracks(
        &mut self,
        tracked: &mut BTreeSet<SessionId>,
        numbers: impl IntoIterator<Item = u32>,
    ) {
        let wanted: BTreeSet<SessionId> = ids(numbers).into_iter().collect();
        let waiting = async {
            while *tracked != wanted {
                let delta = self.deltas.recv().await.unwrap();
                tracked.extend(delta.wanted.iter().map(|entry| entry.session_id));
                tracked.retain(|id| !delta.unwanted.contains(id));
            }
        };
        timeout(PATIENCE, waiting).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_rescan_alone_finds_every_change() {
    let mut running = Running::by_rescans();
    running.write("a.json", json([1, 2]));
    assert_eq!(running.next().await.wanted.len(), 2);
    running.write("a.json", json([2]));
    running.write("b.toml", toml([3]));
    assert_eq!(running.next().await.wanted.len(), 1);
    assert_eq!(running.next().await.unwanted, ids([1]));
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_told_when_the_grace_is_over_and_not_at_the_next_rescan() {
    let mut running = Running::by_rescans();
    running.write("a.json", json([1]));
    running.next().await;
    // Found gone by the scan that sees the file settled.
    fs::remove_file(running.directory.join("a.json")).unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(running.next().await.unwanted, ids([1]));
    let took = began.elapsed();
    assert!(took < SETTLING + GRACE + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_to_a_receiver_that_lags() {
    let mut running = Running::by_rescans();
    running.write("a.json", json([0]));
    running.scanned().await;
    for number in 1..10 {
        running.write("a.json", json(0..=number));
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    let mut tracked = BTreeSet::new();
    running.tracks(&mut tracked, 0..10).await;
}

#[tokio::test(start_paused = true)]
async fn the_watch_ends_when_nobody_takes_its_changes() {
    let mut running = Running::by_rescans();
    running.scanned().await;
    drop(running.deltas);
    let error = timeout(Duration::from_secs(1), running.task).await.unwrap().unwrap();
    assert!(matches!(error, WatchError::ReceiverGone));
}

#[tokio::test(start_paused = true)]
async fn the_report_tells_of_files_sessions_and_problems() {
    let mut running = Running::by_rescans();
    running.write("a.json", json([1, 2]));
    running.next().await;
    let good = running.report.borrow().clone();
    assert_eq!((good.files, good.sessions, good.problems.len()), (1, 2, 0));
    assert_eq!(good.last_good_scan, good.last_scan);
    running.write("b.json", "[");
    running.write("c.json", json([2]));
    let report = &mut running.report;
    report.wait_for(|report| !report.problems.is_empty()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let bad = running.report.borrow().clone();
    assert_eq!((bad.files, bad.sessions, bad.problems.len()), (3, 2, 1));
    assert_eq!(bad.warnings.len(), 1);
    assert_eq!(bad.problems_total, 1, "one that stays counts once");
    assert!(bad.last_good_scan < bad.last_scan);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_hints_postpones_a_scan_for_a_second_at_most() {
    let hint = Arc::new(Notify::new());
    let storm = tokio::spawn({
        let hint = Arc::clone(&hint);
        async move {
            loop {
                hint.notify_one();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let began = tokio::time::Instant::now();
    crate::directory::watch::until_quiet(&hint).await;
    assert!(began.elapsed() <= Duration::from_millis(1_050), "{:?}", began.elapsed());
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    storm.abort();
}

#[tokio::test]
async fn an_event_brings_each_kind_of_change_at_once() {
    let mut running = Running::by_events();
    let mut tracked = BTreeSet::new();
    running.scanned().await;
    running.write("a.json", json([1]));
    running.tracks(&mut tracked, [1]).await;
    running.write(".b.json.new", json([2]));
    fs::rename(running.directory.join(".b.json.new"), running.directory.join("b.json")).unwrap();
    running.tracks(&mut tracked, [1, 2]).await;
    running.write("c.toml", toml([3]));
    running.tracks(&mut tracked, [1, 2, 3]).await;
}

#[tokio::test]
async fn an_event_tells_of_a_swapped_link() {
    let mut running = Running::by_events();
    let mut tracked = BTreeSet::new();
    running.scanned().await;
    for version in 1..4 {
        let name = format!("..v{version}");
        fs::create_dir(running.directory.join(&name)).unwrap();
        fs::write(running.directory.join(&name).join("a.json"), json(1..=version)).unwrap();
        symlink(&name, running.directory.join("..data_tmp")).unwrap();
        fs::rename(running.directory.join("..data_tmp"), running.directory.join("..data")).unwrap();
        if version == 1 {
            symlink("..data/a.json", running.directory.join("a.json")).unwrap();
        }
        running.tracks(&mut tracked, 1..=version).await;
    }
}

/// Directories named like session files are what shows here that a scan was made: a file
/// would bring one more, once it had settled, and that might find what no event told of.
#[tokio::test]
async fn a_directory_removed_made_again_and_replaced_is_watched_throughout() {
    let mut running = Running::by_events();
    let directory = running.directory.clone();
    running.scanned().await;
    running.make_and_see("1.json").await;

    fs::remove_dir_all(&directory).unwrap();
    running.sees(|report| report.problems.iter().any(|problem| problem.path == directory)).await;
    fs::create_dir(&directory).unwrap();
    running.sees(|report| report.problems.is_empty()).await;
    running.make_and_see("2.json").await;

    let other = running.root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::rename(&directory, running.root.path().join("old")).unwrap();
    symlink(&other, &directory).unwrap();
    running.sees(|report| report.problems.is_empty()).await;
    running.make_and_see("3.json").await;
}

#[tokio::test]
async fn reading_the_directory_is_no_event_that_leads_to_the_next_scan() {
    let mut running = Running::by_events();
    running.write("a.json", json([1]));
    running.next().await;
    // A late event may bring one more.
    let mut scans = 0;
    let end = tokio::time::Instant::now() + Duration::from_secs(1);
    while timeout_at(end, running.report.changed()).await.is_ok() {
        scans += 1;
    }
    assert!(scans <= 2, "{scans} scans");
}

#[tokio::test]
async fn without_a_directory_to_watch_its_parent_tells_when_it_appears() {
    let mut running = Running::by_events();
    fs::remove_dir(&running.directory).unwrap();
    running.scanned().await;
    running.sees(|report| !report.problems.is_empty()).await;
    let ready = running.root.path().join("ready");
    fs::create_dir(&ready).unwrap();
    fs::write(ready.join("a.json"), json([1])).unwrap();
    fs::rename(&ready, &running.directory).unwrap();
    running.tracks(&mut BTreeSet::new(), [1]).await;
}
