use std::path::PathBuf;

use tokio::time::advance;

use super::*;
use crate::clock::TokioClock;
use crate::domain::ProblemKind;

pub(crate) const NOON: Timestamp = Timestamp::from_millis(1_795_000_000_000);

/// A store whose figures are given.
struct Figures {
    census: Census,
    undelivered: u64,
    write_failure: Option<WriteFailure>,
}

impl Gauges for Mutex<Figures> {
    fn census(&self) -> Census {
        self.lock().unwrap().census
    }

    fn undelivered(&self, _: &str) -> u64 {
        self.lock().unwrap().undelivered
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        self.lock().unwrap().write_failure.clone()
    }

    fn size(&self) -> Option<u64> {
        Some(4_096)
    }
}

pub(crate) struct World {
    pub(crate) status: Status,
    store: Arc<Mutex<Figures>>,
    pub(crate) poller: watch::Sender<poller::Report>,
    directory: watch::Sender<directory::Report>,
    sink: watch::Sender<sinks::Report>,
}

impl World {
    pub(crate) fn new() -> Self {
        let census = Census { quiet: 3, ..Census::default() };
        let figures = Figures { census, undelivered: 0, write_failure: None };
        let store = Arc::new(Mutex::new(figures));
        let poller = watch::Sender::default();
        let directory = watch::Sender::default();
        let sink = watch::Sender::default();
        let status = Status::new(Sources {
            clock: Arc::new(TokioClock::starting_at(NOON)),
            store: Arc::downgrade(&(Arc::clone(&store) as Arc<dyn Gauges>)),
            poller: poller.subscribe(),
            directory: directory.subscribe(),
            sinks: vec![("stdout", sink.subscribe())],
            api: Box::new(Api::default),
        });
        Self { status, store, poller, directory, sink }
    }

    pub(crate) fn beat(&self) {
        self.poller.send_modify(|report| report.heartbeat = tokio::time::Instant::now());
    }

    /// The only trouble there is.
    fn trouble(&self) -> Trouble {
        let troubles = self.status.condition().troubles;
        let [trouble] = troubles.as_slice() else { panic!("{troubles:?}") };
        trouble.clone()
    }
}

fn problem(message: &str) -> Problem {
    Problem {
        kind: ProblemKind::Unauthorized,
        status: Some(401),
        code: None,
        request_id: None,
        message: message.to_owned(),
    }
}

fn bad_file(line: Option<usize>) -> directory::Problem {
    let path = PathBuf::from("/etc/ibvwatch/sessions.d/a.json");
    directory::Problem { path, line, message: "is empty; write its sessions".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_between_the_first_scan_and_the_stop() {
    let world = World::new();
    assert!(world.status.live() && !world.status.ready());
    world.status.enter(Stage::Running);
    assert!(world.status.ready() && world.status.condition().is_healthy());
    world.status.enter(Stage::Draining);
    assert!(world.status.live() && !world.status.ready());
    // The first scan may be done while the stop is under way.
    world.status.enter(Stage::Running);
    assert_eq!(world.status.stage(), Stage::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_stands_still_is_stuck_and_asks_nothing_of_the_registry() {
    let world = World::new();
    world.status.enter(Stage::Running);
    assert_eq!(world.status.condition().census.quiet, 3);
    advance(Duration::from_secs(14)).await;
    assert!(world.status.live() && world.status.ready());
    advance(Duration::from_secs(1)).await;
    assert!(!world.status.live() && !world.status.ready());
    world.store.lock().unwrap().census.quiet = 9;
    let condition = world.status.condition();
    assert!(condition.stuck);
    assert_eq!(condition.census.quiet, 3, "of before it was stuck");
    let trouble = world.trouble();
    assert_eq!(trouble.severity, Severity::Critical);
    assert!(trouble.what.contains("stood still for 15 seconds"), "{trouble:?}");
    assert_eq!(trouble.since, Some(NOON));
    world.beat();
    assert!(world.status.ready() && world.status.condition().is_healthy());
}

#[tokio::test(start_paused = true)]
async fn a_pause_says_why_and_what_to_do() {
    let world = World::new();
    let pause = |cause, error: Option<Problem>| {
        world.poller.send_modify(|report| {
            report.unavailable = Some((cause, NOON));
            report.error = error;
        });
    };
    pause(Cause::Unauthorized, Some(problem("the key is unknown")));
    let trouble = world.trouble();
    assert_eq!((trouble.severity, trouble.since), (Severity::Critical, Some(NOON)));
    assert!(trouble.what.contains("refuses the key: the key is unknown (HTTP 401)"), "{trouble:?}");
    assert!(trouble.remedy.contains("api.auth.private_key_file"), "{trouble:?}");
    pause(Cause::RateLimited, None);
    assert_eq!(world.trouble().severity, Severity::Warning);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_is_named_with_its_line_and_of_many_there_is_an_end() {
    let world = World::new();
    world.directory.send_modify(|report| report.problems = vec![bad_file(Some(3))]);
    let trouble = world.trouble();
    assert_eq!(trouble.place.unwrap(), "/etc/ibvwatch/sessions.d/a.json:3");
    assert_eq!(trouble.what, "a.json is empty; write its sessions");
    world.directory.send_modify(|report| report.problems = vec![bad_file(None); 1_000]);
    let troubles = world.status.condition().troubles;
    assert_eq!(troubles.len(), Status::FILES_TOLD + 1);
    assert_eq!(troubles.last().unwrap().what, "980 more problems with session files");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_or_falls_behind_is_told_of() {
    let world = World::new();
    world.store.lock().unwrap().undelivered = 7;
    world.sink.send_modify(|report| report.oldest = Some(NOON));
    advance(Duration::from_secs(59)).await;
    world.beat();
    assert!(world.status.condition().is_healthy());
    advance(Duration::from_secs(1)).await;
    let trouble = world.trouble();
    assert_eq!((trouble.severity, trouble.place.as_deref()), (Severity::Warning, Some("stdout")));
    assert!(trouble.what.contains("7 events wait, the oldest for 60 seconds"), "{trouble:?}");
    world.sink.send_modify(|report| report.failing = Some((NOON, "no space".to_owned())));
    let trouble = world.trouble();
    assert_eq!(trouble.severity, Severity::Critical);
    assert_eq!(trouble.what, "events can't be delivered to stdout: no space");
}

#[tokio::test(start_paused = true)]
async fn a_stretch_is_told_of_while_polls_are_overdue_and_nothing_else_explains_it() {
    let world = World::new();
    world.poller.send_modify(|report| report.stretch = 2.5);
    assert!(world.status.condition().is_healthy(), "nothing is overdue");
    world.store.lock().unwrap().census.overdue = 40;
    let trouble = world.trouble();
    assert!(trouble.what.contains("2.5 times as far apart"), "{trouble:?}");
    assert!(trouble.place.unwrap().contains("poll.rate_limit"));
    world.poller.send_modify(|report| report.unavailable = Some((Cause::Unreachable, NOON)));
    assert!(world.trouble().what.contains("can't be reached"));
}

#[tokio::test(start_paused = true)]
async fn the_critical_comes_first() {
    let world = World::new();
    world.directory.send_modify(|report| report.problems = vec![bad_file(None)]);
    world.store.lock().unwrap().write_failure = Some(WriteFailure {
        path: "/var/lib/ibvwatch/ibvwatch.db".into(),
        error: "database or disk is full".to_owned(),
        remedy: "make room or mend the disk",
        since: NOON,
    });
    let troubles = world.status.condition().troubles;
    assert_eq!(troubles.len(), 2);
    assert!(troubles[0].what.ends_with("waits for it: database or disk is full"), "{troubles:?}");
    assert_eq!(troubles[0].place.as_deref(), Some("/var/lib/ibvwatch/ibvwatch.db"));
}
