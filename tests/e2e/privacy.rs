//! What a daemon leaves behind on disk and in its log, for whom, and by whose words.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::Signal;
use tokio::process::Command;

use crate::common::{Daemon, Home};

/// `run`, started as carelessly as it may be: files for everybody, and core dumps of any size.
fn carelessly(home: &Home) -> Daemon {
    let run = home.command(&["run"]);
    let script = "umask 0; ulimit -S -c unlimited 2>/dev/null; exec \"$@\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh"]).arg(run.as_std().get_program());
    command.args(run.as_std().get_args()).env_clear().current_dir(home.path(""));
    command.stdin(Stdio::null()).kill_on_drop(true);
    Daemon::spawn(command)
}

#[tokio::test]
async fn every_file_of_the_daemon_is_its_owners_alone_whatever_the_umask() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = carelessly(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    let mut found = Vec::new();
    for entry in fs::read_dir(home.path("")).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        if name.starts_with("ibvwatch.db") {
            let mode = entry.metadata().expect("a file").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
            found.push(name);
        }
    }
    found.sort();
    let names = ["", "-shm", "-wal", ".lock", ".sock"].map(|end| format!("ibvwatch.db{end}"));
    assert_eq!(found, names);
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_crashes_leaves_no_image_of_its_memory() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = carelessly(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    let before = home.files();
    daemon.signal(Signal::ABORT);
    let run = daemon.ended().await;
    assert_eq!(run.status.signal(), Some(6), "{run:?}");
    assert!(!run.status.core_dumped(), "its memory was written to disk");
    assert_eq!(home.files(), before);
}

#[tokio::test]
async fn the_names_and_words_of_session_files_forge_no_line_of_the_log() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    let forged = "2026-11-23T10:15:30Z ERROR the key was revoked";
    home.put(&format!("x\n{forged}\u{1b}[2J\u{9b}31m.json"), "[7]");
    home.put("y.json", &format!("[\"\\n{forged}\\u001b[2J\"]"));
    home.put("z.toml", &format!("[[sessions]]\n\"\\n{forged}\\u001B[2J\" = 1\n"));
    for name in ["[2J", "y.json", "z.toml"] {
        daemon.logs(name).await;
    }
    daemon.stop().await;
    let check = home.run(&["check"]).await.refused(78);
    let mut daemon = Daemon::start(&home);
    daemon.logs("z.toml").await;
    let log = daemon.stop().await.stderr;
    for text in [check, log] {
        assert!(text.contains("the key was revoked"), "nothing was said of it:\n{text}");
        assert!(!text.lines().any(|line| line.starts_with(forged)), "{text}");
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!text.chars().any(steers), "{text:?}");
    }
}
