use std::sync::Arc;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Effect, Fault};
use rusqlite::Connection;
use rustix::process::{Pid, Signal};
use tokio::process::Command;

use crate::common::{Daemon, Deliveries, Event, Home, Run, Truth};

/// A short life of a daemon in which everything happens once, told on whatever becomes of it:
/// the first process is armed, and each that ends is followed by one that is not.
pub(super) struct Story {
    pub(super) home: Arc<Home>,
    pub(super) deliveries: Deliveries,
    daemon: Option<Daemon>,
    /// What ended before its time.
    pub(super) casualties: Vec<Run>,
}

impl Story {
    pub(super) async fn in_a_home() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(adjust: impl FnOnce(&mut Home)) -> Self {
        let mut home = Home::new().await;
        home.set("sessions.removal_grace", "\"50ms\"");
        adjust(&mut home);
        Self {
            home: Arc::new(home),
            deliveries: Deliveries::default(),
            daemon: None,
            casualties: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, arm: impl FnOnce(&Home, &mut Command)) {
        let mut command = self.home.command(&["run"]);
        arm(&self.home, &mut command);
        self.daemon = Some(Daemon::spawn(command));
    }

    pub(super) fn pid(&self) -> Pid {
        self.daemon.as_ref().expect("a daemon that runs").pid()
    }

    /// Two sessions are found, change, see the API fail and come back, and end, each in its way.
    pub(super) async fn unfold(&mut self) {
        let (one, two) = (self.home.track_new(), self.home.track_new());
        for id in [one, two] {
            self.until(|event| event.is("session.observed", id)).await;
        }
        self.home.set_state(one, 0, "IN_PROGRESS").expect("a resource that is listed");
        self.until(|event| event.tells(one, "IN_PROGRESS")).await;
        self.home.fault(Fault::new(Effect::status(401)));
        self.until(|event| event.kind() == "api.unavailable").await;
        self.home.clear_faults();
        self.until(|event| event.kind() == "api.available").await;
        self.home.set_state(two, 0, "COMPLETE").expect("a resource that is listed");
        self.until(|event| event.tells(two, "COMPLETE")).await;
        self.home.complete(two).expect("a session that goes on");
        self.until(|event| event.is("session.ended", two)).await;
        self.untrack(one).await;
    }

    pub(super) async fn untrack(&mut self, id: SessionId) {
        self.home.remove(&format!("{id}.json"));
        self.until(|event| event.is("session.ended", id)).await;
    }

    /// Waits until such an event has been told by any of the daemons.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Event) -> bool) {
        while !self.deliveries.any(&wanted) {
            let daemon = match self.daemon.as_mut() {
                Some(daemon) => daemon,
                None => self.daemon.insert(Daemon::start(&self.home)),
            };
            if daemon.until_or_ended(|events| events.iter().any(&wanted)).await {
                return;
            }
            self.fell().await;
        }
    }

    async fn fell(&mut self) {
        let daemon = self.daemon.take().expect("a daemon that ended");
        let run = daemon.ended().await;
        assert!(self.casualties.len() < 20, "it doesn't come back: {}", run.stderr);
        self.deliveries.add(&run);
        self.casualties.push(run);
    }

    /// Stops the daemon, and once more if it does not stop in good order; all is told by then.
    /// Returns what was logged by the run that stopped.
    pub(super) async fn stop(&mut self) -> String {
        loop {
            let daemon = match self.daemon.as_mut() {
                Some(daemon) => daemon,
                None => self.daemon.insert(Daemon::start(&self.home)),
            };
            if !daemon.logs_or_ended("ibvwatch is running").await {
                self.fell().await;
                continue;
            }
            daemon.signal(Signal::TERM);
            let run = self.daemon.take().expect("a daemon").ended().await;
            self.deliveries.add(&run);
            if run.status.code() == Some(0) {
                return run.stderr;
            }
            self.casualties.push(run);
        }
    }

    /// Holds what was told against what happened and what is recorded, and has the database
    /// checked.
    pub(super) async fn hold(&self) {
        Truth::of(self.home.simulator()).hold_against(&self.deliveries);
        assert_eq!(self.deliveries.text(), self.home.recorded().await);
        self.check_database();
    }

    pub(super) fn check_database(&self) {
        let database = Connection::open(self.home.path("ibvwatch.db")).expect("the database");
        let check = database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(check.expect("a check"), "ok");
    }
}
