//! The kernel drops file events, or gives none: what the files say is found all the same.

use std::fs;

use rustix::process::Signal;
use tokio::process::Command;

use crate::common::{Daemon, Home, leave_out};

/// All that happens in the directory's parent goes through the same queue, and is no reason to look.
/// So when the queue overflows with that, only the overflow itself tells that something was lost.
#[tokio::test]
async fn an_overflow_of_the_queue_of_events_is_a_reason_to_look() {
    let mut home = Home::new().await;
    home.set("sessions.rescan_interval", "\"1h\"");
    let first = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", first)).await;
    // Beyond the scans that the first file brings until it has settled.
    daemon.polls(&home, first, 20).await;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a limit");
    let limit: usize = limit.trim().parse().expect("a number");
    daemon.signal(Signal::STOP);
    // Two names in turn, since the kernel joins events that are equal.
    for n in 0..limit {
        let [from, to] = if n % 2 == 0 { ["x", "y"] } else { ["y", "x"] };
        if n == 0 {
            fs::write(home.path(from), "").expect("a file that can be written");
        }
        fs::rename(home.path(from), home.path(to)).expect("a file that can be moved");
    }
    let second = home.track_new();
    daemon.signal(Signal::CONT);
    daemon.event(|event| event.is("session.observed", second)).await;
    daemon.stop().await;
}

#[tokio::test]
async fn without_watches_rescans_find_what_changes_until_there_are_some() {
    for limit in ["watches", "instances"] {
        let mut home = Home::new().await;
        home.set("sessions.rescan_interval", "\"500ms\"");
        let first = home.track_new();
        let daemon = home.command(&["run"]);
        let program = daemon.as_std().get_program();
        // The limits of a user namespace are its own.
        let script = format!(
            "set -e; limit=/proc/sys/user/max_inotify_{limit}; echo 0 > $limit
             (while ! [ -e raise ]; do sleep 0.1; done; echo 100 > $limit) >&2 &
             exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", &script, "sh"]);
        command.arg(program).args(daemon.as_std().get_args());
        command.current_dir(home.path("")).env_clear().env("PATH", "/usr/bin:/bin");
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let allowed = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "true"])
            .status();
        if !allowed.is_ok_and(|status| status.success()) {
            leave_out("exhausted inotify limits, which need a user namespace");
            return;
        }
        let mut daemon = Daemon::spawn(command);
        daemon.logs("found by rescans alone").await;
        daemon.event(|event| event.is("session.observed", first)).await;
        let second = home.track_new();
        daemon.event(|event| event.is("session.observed", second)).await;
        home.remove(&format!("{second}.json"));
        daemon.event(|event| event.is("session.ended", second)).await;
        fs::write(home.path("raise"), "").expect("a file that can be written");
        daemon.logs("session directories are watched again").await;
        let log = daemon.stop().await.stderr;
        assert_eq!(log.matches("found by rescans alone").count(), 1, "{log}");
    }
}
