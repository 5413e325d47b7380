//! What systemd is told, read from the other end of its socket.

use std::time::Duration;

use ibvwatch::sim::{Effect, Fault};
use rustix::process::Signal;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::common::{Daemon, Home, PATIENCE};

/// systemd's end.
struct Systemd(UnixDatagram);

impl Systemd {
    fn start(home: &Home) -> (Self, Daemon) {
        let path = home.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in the home");
        let mut command = home.command(&["run"]);
        // A feed every tenth of a second.
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
        (Self(socket), Daemon::spawn(command))
    }

    async fn message(&self) -> Vec<String> {
        let mut buffer = [0; 4_096];
        let read = self.0.recv(&mut buffer).await.expect("a message");
        let text = std::str::from_utf8(&buffer[..read]).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }

    /// The messages up to and with the first that has such a line.
    async fn until(&self, line: &str) -> Vec<Vec<String>> {
        let mut messages: Vec<Vec<String>> = Vec::new();
        let wanted = async {
            while !messages.last().is_some_and(|last| last.iter().any(|l| l.starts_with(line))) {
                messages.push(self.message().await);
            }
        };
        let came = timeout(PATIENCE, wanted).await;
        assert!(came.is_ok(), "{line:?} is not among {messages:?}");
        messages
    }
}

fn says(messages: &[Vec<String>], line: &str) -> bool {
    messages.iter().flatten().any(|said| said == line)
}

#[tokio::test]
async fn it_is_ready_once_the_session_files_are_read_and_the_watchdog_is_fed_from_then_on() {
    let home = Home::new().await;
    home.track_new();
    let (systemd, mut daemon) = Systemd::start(&home);
    let before = systemd.until("READY=1").await;
    assert!(says(&before, "STATUS=Reading session files"), "{before:?}");
    daemon.logs("session files taken over").await;
    for _ in 0..10 {
        systemd.until("WATCHDOG=1").await;
    }
    daemon.signal(Signal::TERM);
    let stop = systemd.until("STOPPING=1").await;
    assert!(!says(&stop, "READY=1"), "{stop:?}");
    daemon.ended().await;
}

#[tokio::test]
async fn the_words_tell_of_sessions_and_of_an_api_that_can_not_be_used() {
    let home = Home::new().await;
    let id = home.track_new();
    let (systemd, mut daemon) = Systemd::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    systemd.until("STATUS=Sessions: 1 quiet").await;
    home.fault(Fault::new(Effect::status(401)));
    systemd.until("STATUS=the API can't be used").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_reload_is_told_from_its_beginning_to_its_end_however_it_goes() {
    let mut home = Home::new().await;
    let (systemd, mut daemon) = Systemd::start(&home);
    systemd.until("READY=1").await;
    for (interval, log) in
        [("\"1s\"", "configuration reloaded"), ("\"1 parsec\"", "stays as it was")]
    {
        home.set("poll.interval", interval);
        daemon.signal(Signal::HUP);
        let began = systemd.until("RELOADING=1").await;
        assert!(!says(&began, "READY=1"), "{began:?}");
        let when = began.last().unwrap().iter().find_map(|l| l.strip_prefix("MONOTONIC_USEC="));
        let when = Duration::from_micros(when.expect("the time of it").parse().unwrap());
        assert!(when > Duration::ZERO);
        systemd.until("READY=1").await;
        daemon.logs(log).await;
    }
    daemon.stop().await;
}
