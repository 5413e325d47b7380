use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ibvwatch::domain::SessionId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{Event, Home, PATIENCE, STOP_WITHIN};

/// A running `ibvwatch run`. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    stdout: Captured,
    stderr: Captured,
}

/// A daemon that has ended: all that it printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// How far `stdout` had come, and when.
    arrivals: Vec<(usize, Instant)>,
    pub(crate) stderr: String,
    /// From the request to end until the end.
    pub(crate) took: Duration,
}

impl Daemon {
    pub(crate) fn start(home: &Home) -> Self {
        Self::spawn(home.command(&["run"]))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a daemon that starts");
        let stdout = child.stdout.take().expect("a pipe for standard output");
        let stderr = child.stderr.take().expect("a pipe for standard error");
        Self { child, stdout: Captured::of(stdout), stderr: Captured::of(stderr) }
    }

    pub(crate) fn pid(&self) -> Pid {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        id.and_then(Pid::from_raw).expect("a process that runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a process that takes signals");
    }

    /// The events printed so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        events(&self.stdout.bytes.borrow())
    }

    /// Waits for an event, past ones included.
    pub(crate) async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let found = |events: &[Event]| events.iter().find(|event| wanted(event)).cloned();
        self.until(|events| found(events).is_some()).await;
        found(&self.events()).expect("the event that was waited for")
    }

    /// Waits until the events printed so far are as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&[Event]) -> bool) {
        let mut lines = 0;
        let wanted = |bytes: &Vec<u8>| {
            // Only a whole line makes a difference.
            let now = whole_lines(bytes).len();
            let grown = std::mem::replace(&mut lines, now) < now;
            grown && wanted(&events(bytes))
        };
        if !self.stdout.until(wanted).await {
            let printed = String::from_utf8_lossy(&self.stdout.bytes.borrow()).into_owned();
            panic!("what is waited for is not among\n{printed}{}", self.log());
        }
    }

    /// Waits until the events printed so far are as wanted, or it has ended; whether they are.
    pub(crate) async fn until_or_ended(&mut self, wanted: impl Fn(&[Event]) -> bool) -> bool {
        let as_wanted = self.stdout.until(|bytes| wanted(&events(bytes))).await;
        let ended = as_wanted || timeout(PATIENCE, self.child.wait()).await.is_ok();
        assert!(ended, "it neither tells what is waited for nor ends\n{}", self.log());
        as_wanted
    }

    /// Waits until it has asked about the session so many times more.
    pub(crate) async fn polls(&self, home: &Home, id: SessionId, times: u64) {
        let asked = home.session_totals(id).requests;
        let polled = timeout(PATIENCE, home.asked(id, asked + times)).await;
        let last = home.exchanges_of(id).pop();
        assert!(
            polled.is_ok(),
            "{id} is not polled since {last:?}
{}",
            self.log()
        );
    }

    /// Waits until it has printed nothing for so long.
    pub(crate) async fn quiet_for(&mut self, time: Duration) {
        while let Ok(grown) = timeout(time, self.stdout.bytes.changed()).await {
            assert!(grown.is_ok(), "it ended by itself\n{}", self.log());
        }
    }

    /// Waits until it prints something, or for so long.
    pub(crate) async fn prints_within(&mut self, time: Duration) {
        // Either outcome is as good.
        let _ = timeout(time, self.stdout.bytes.changed()).await;
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.stderr.bytes.borrow()).into_owned()
    }

    /// Waits until it has logged that.
    pub(crate) async fn logs(&mut self, text: &str) {
        let wanted = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).contains(text);
        assert!(self.stderr.until(wanted).await, "{text:?} is not in\n{}", self.log());
    }

    /// Waits until it has logged that, or has ended; whether it has.
    pub(crate) async fn logs_or_ended(&mut self, text: &str) -> bool {
        let wanted = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).contains(text);
        self.stderr.until(wanted).await
    }

    /// Stops it as systemd does, which has to go well.
    pub(crate) async fn stop(self) -> Run {
        let run = self.end(Signal::TERM).await;
        assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
        assert!(run.took < STOP_WITHIN, "{:?}", run.took);
        run
    }

    pub(crate) async fn kill(self) -> Run {
        let run = self.end(Signal::KILL).await;
        assert_eq!(run.status.signal(), Some(9), "it ended before it was killed: {}", run.stderr);
        run
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a process to be asked about").is_some()
    }

    async fn end(self, signal: Signal) -> Run {
        self.signal(signal);
        self.ended().await
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Run {
        let asked = Instant::now();
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end\n{}", self.log()));
        let took = asked.elapsed();
        let (stdout, arrivals) = self.stdout.rest().await;
        let (stderr, _) = self.stderr.rest().await;
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Run { status: status.expect("an exit status"), stdout, arrivals, stderr, took }
    }
}

impl Run {
    /// Its events; it must have printed nothing else. Only a kill may tear the last line.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut stdout = self.stdout.as_slice();
        if self.status.signal() == Some(9) {
            stdout = whole_lines(stdout);
        }
        let text = std::str::from_utf8(stdout).expect("UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
        text.lines().map(|line| Event::parse(line).expect("nothing but events")).collect()
    }

    /// The same, each with when it came out.
    pub(crate) fn told(&self) -> impl Iterator<Item = (Instant, Event)> {
        let mut end = 0;
        self.events().into_iter().map(move |event| {
            end += event.line.len() + 1;
            let arrival = self.arrivals.partition_point(|(up_to, _)| *up_to < end);
            (self.arrivals[arrival].1, event)
        })
    }
}

fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    &bytes[..end]
}

/// Whole lines that are events; what else there is shows in [`Run::events`].
fn events(bytes: &[u8]) -> Vec<Event> {
    let text = String::from_utf8_lossy(whole_lines(bytes));
    text.lines().filter_map(|line| Event::parse(line).ok()).collect()
}

/// What comes out of a pipe, read as it comes, so that it never fills up.
struct Captured {
    bytes: watch::Receiver<Vec<u8>>,
    reading: JoinHandle<Vec<(usize, Instant)>>,
}

impl Captured {
    fn of(mut pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, bytes) = watch::channel(Vec::new());
        let reading = tokio::spawn(async move {
            let (mut buffer, mut arrivals) = (vec![0; 64 * 1024], Vec::new());
            while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
                sender.send_modify(|bytes| {
                    bytes.extend_from_slice(&buffer[..read]);
                    arrivals.push((bytes.len(), Instant::now()));
                });
            }
            arrivals
        });
        Self { bytes, reading }
    }

    /// Whether it came to be as wanted, in time and before the pipe was closed.
    async fn until(&mut self, wanted: impl FnMut(&Vec<u8>) -> bool) -> bool {
        matches!(timeout(PATIENCE, self.bytes.wait_for(wanted)).await, Ok(Ok(_)))
    }

    async fn rest(self) -> (Vec<u8>, Vec<(usize, Instant)>) {
        let arrivals = self.reading.await.expect("a pipe that is read to its end");
        (self.bytes.borrow().clone(), arrivals)
    }
}
