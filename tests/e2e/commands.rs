//! The commands beside `run`, while the daemon runs and while it does not.

use std::fs;
use std::process::Stdio;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{PublicKey, Requirement, Session};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::{
    Daemon, Event, Home, PATIENCE, Printed, leave_out, lines, redacted, write_private,
};

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

/// Three sessions, as different as they come: something supplied, ended, and failing.
async fn three_sessions() -> (Home, Daemon) {
    let home = Home::new().await;
    for n in 1..=3 {
        home.create(Session::requiring(Requirement::three_documents()).with_id(id(n)));
    }
    let labels = r#"{"session_id": "ID", "labels": {"case": "A-17", "branch": "Camden"}}"#;
    home.put("1.json", &labels.replace("ID", &id(1).to_string()));
    home.track(id(2));
    home.track(id(3));
    home.serve_body(id(3), "<html>").expect("the session just created");
    let mut daemon = Daemon::start(&home);
    for n in 1..=2 {
        daemon.event(|event| event.is("session.observed", id(n))).await;
    }
    home.set_state(id(1), 0, "IN_PROGRESS").expect("a resource that is listed");
    daemon.event(|event| event.tells(id(1), "IN_PROGRESS")).await;
    home.complete(id(2)).expect("the session just created");
    daemon.event(|event| event.is("session.ended", id(2))).await;
    daemon.event(|event| event.is("session.poll_failing", id(3))).await;
    (home, daemon)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test]
async fn the_sessions_are_listed_whether_or_not_the_daemon_runs() {
    let (home, daemon) = three_sessions().await;
    let running = home.run(&["sessions", "--json"]).await.succeeded();
    assert_eq!(json(&running).as_array().map(Vec::len), Some(3));
    daemon.stop().await;

    let list = json(&home.run(&["sessions", "--json"]).await.succeeded());
    let ids: Vec<&str> =
        list.as_array().unwrap().iter().filter_map(|s| s["session_id"].as_str()).collect();
    assert_eq!(ids, [id(1), id(2), id(3)].map(|id| id.to_string()));
    assert_eq!(list[1]["phase"], "ended");
    assert_eq!(list[1]["ended"]["reason"], "completed");
    assert_eq!(list[2]["phase"], "failing");
    assert_eq!(list[2]["last_error"]["kind"], "malformed");
    assert_eq!(list[0]["progress"]["in_progress"], 1);
    for (phase, count) in [("ended", 1), ("failing", 1), ("pending", 0)] {
        let list = json(&home.run(&["sessions", "--json", "--phase", phase]).await.succeeded());
        assert_eq!(list.as_array().map(Vec::len), Some(count), "{phase}");
    }
    let table = home.run(&["sessions"]).await.succeeded();
    let table = redacted(&table).replace("active", "quiet").replace("  due", "  <span>");
    insta::assert_snapshot!("sessions", table);
}

/// A poll that finds nothing new is not recorded, and yet it shows.
#[tokio::test]
async fn the_list_shows_polls_as_they_are_now() {
    let home = Home::new().await;
    let session = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", session)).await;
    let mut last_poll = String::new();
    for _ in 0..3 {
        let asked = home.session_totals(session).requests;
        timeout(PATIENCE, home.asked(session, asked + 2)).await.unwrap();
        let list = json(&home.run(&["sessions", "--json"]).await.succeeded());
        let now = list[0]["last_poll"].as_str().unwrap().to_owned();
        assert!(now > last_poll, "{now} after {last_poll}");
        last_poll = now;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn one_session_is_shown_with_its_timeline() {
    let (home, daemon) = three_sessions().await;
    daemon.stop().await;
    for (n, name) in [(1, "show_quiet"), (2, "show_ended"), (3, "show_failing")] {
        let shown = home.run(&["show", &id(n).to_string()]).await.succeeded();
        // Backoff draws how often it was tried; the last error has an id of its own.
        let shown = redacted(&shown).replace("  active", "  quiet").replace("  due", "  <span>");
        insta::assert_snapshot!(name, shown);
    }
    let shown = json(&home.run(&["show", &id(1).to_string(), "--json"]).await.succeeded());
    assert_eq!(shown["session"]["labels"]["case"], "A-17");
    let events = home.run(&["events", "--session", &id(1).to_string()]).await.succeeded();
    let lines: Vec<Value> = events.lines().map(json).collect();
    assert_eq!(shown["events"], Value::from(lines));
    let unknown = home.run(&["show", &id(9).to_string()]).await.refused(1);
    assert!(unknown.contains("is not known here"), "{unknown}");
}

#[tokio::test]
async fn recorded_events_are_printed_byte_for_byte_as_the_daemon_printed_them() {
    let (home, daemon) = three_sessions().await;
    let while_running = home.recorded().await;
    let run = daemon.stop().await;
    let printed = String::from_utf8(run.stdout.clone()).unwrap();
    assert!(printed.starts_with(&while_running));
    assert_eq!(home.recorded().await, printed);

    let select = |keep: &dyn Fn(&Event) -> bool| -> String {
        let events = run.events();
        lines(events.iter().filter(|event| keep(event)))
    };
    let one = id(1).to_string();
    let of_one = home.run(&["events", "--session", &one]).await.succeeded();
    assert_eq!(of_one, select(&|event| event.session() == Some(id(1))));
    let after = home.run(&["events", "--after", "4"]).await.succeeded();
    assert_eq!(after, select(&|event| event.sequence() > 4));
    for name in ["session.tracked", "ibvwatch.session.tracked"] {
        let tracked = home.run(&["events", "--type", name]).await.succeeded();
        assert_eq!(tracked, select(&|event| event.kind() == "session.tracked"));
    }
    let all = ["events", "--session", &one, "--type", "session.observed", "--after", "1"];
    assert_eq!(
        home.run(&all).await.succeeded(),
        select(&|event| event.is("session.observed", id(1)) && event.sequence() > 1)
    );
}

#[tokio::test]
async fn the_log_is_followed_across_the_end_and_the_start_of_the_daemon() {
    let home = Home::new().await;
    let session = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", session)).await;
    let mut follow = home.command(&["events", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut followed = String::new();
    let mut next = async || {
        let line = timeout(PATIENCE, printed.next_line()).await.unwrap().unwrap().unwrap();
        followed.push_str(&line);
        followed.push('\n');
        Event::parse(&line).unwrap()
    };
    assert_eq!(next().await.kind(), "session.tracked");
    assert_eq!(next().await.kind(), "session.observed");
    home.set_state(session, 0, "IN_PROGRESS").unwrap();
    assert!(next().await.tells(session, "IN_PROGRESS"));
    daemon.stop().await;
    home.set_state(session, 0, "COMPLETE").unwrap();
    let daemon = Daemon::start(&home);
    assert!(next().await.tells(session, "COMPLETE"));
    daemon.stop().await;
    assert_eq!(followed, home.recorded().await);
}

#[tokio::test]
async fn following_ends_with_its_reader_even_when_nothing_happens() {
    let (home, daemon) = three_sessions().await;
    daemon.stop().await;
    let mut follow = home.command(&["events", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(follow.stdout.take().unwrap()).lines();
    timeout(PATIENCE, printed.next_line()).await.unwrap().unwrap().unwrap();
    drop(printed);
    let status = timeout(PATIENCE, follow.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_api_is_asked_on_the_spot_and_nothing_is_written() {
    let (home, daemon) = three_sessions().await;
    let one = id(1).to_string();
    daemon.stop().await;
    let before = fs::read(home.path("ibvwatch.db")).unwrap();
    let files = home.files();
    home.set_state(id(1), 1, "COMPLETE").unwrap();
    let polled = home.run(&["poll", &one]).await.succeeded();
    insta::assert_snapshot!("poll", redacted(&polled));
    let polled = json(&home.run(&["poll", &one, "--json"]).await.succeeded());
    assert_eq!(polled["session_id"], one);
    assert_eq!(polled["resources"][1]["state"], "COMPLETE");
    let missing = home.run(&["poll", &id(9).to_string()]).await.refused(1);
    assert!(missing.contains("knows no such session"), "{missing}");
    assert_eq!(fs::read(home.path("ibvwatch.db")).unwrap(), before);
    assert_eq!(home.files(), files);
}

#[tokio::test]
async fn sessions_are_tracked_and_untracked_by_files_of_their_own() {
    let home = Home::new().await;
    for n in 1..=2 {
        home.create(Session::requiring([Requirement::passport()]).with_id(id(n)));
    }
    let [one, two] = [1, 2].map(|n| id(n).to_string());
    let mut daemon = Daemon::start(&home);
    let track = ["track", &one, &two, "--label", "case=A-17", "--label", "branch=Camden=1"];
    let printed = home.run(&track).await.succeeded();
    let paths = [&one, &two].map(|id| home.sessions().join(format!("{id}.json")));
    let written: Vec<&str> = printed.lines().collect();
    assert_eq!(written, paths.each_ref().map(|path| path.to_str().unwrap()));
    for n in 1..=2 {
        let event = daemon.event(|event| event.is("session.observed", id(n))).await;
        let labels = serde_json::json!({"case": "A-17", "branch": "Camden=1"});
        assert_eq!(event.data()["labels"], labels);
    }
    let printed = home.run(&["untrack", &one]).await.succeeded();
    assert_eq!(printed, format!("removed {}\n", paths[0].display()));
    let ended = daemon.event(|event| event.is("session.ended", id(1))).await;
    assert_eq!(ended.text("reason"), "untracked");
    let message = home.run(&["untrack", &one]).await.refused(1);
    assert!(message.contains(&one) && message.contains("named by no session file"), "{message}");

    home.put("many.json", &format!("[{two:?}, {one:?}]"));
    let kept = home.run(&["untrack", &two]).await;
    assert_eq!(kept.status, Some(1), "{kept:?}");
    assert!(kept.stderr.contains("many.json:1"), "{kept:?}");
    daemon.stop().await;

    let elsewhere = home.path("elsewhere");
    let refused = home.run(&["track", &one, "--dir", &elsewhere.display().to_string()]).await;
    assert!(refused.refused(1).contains("does its directory exist"));
    fs::create_dir(&elsewhere).unwrap();
    home.run(&["track", &one, "--dir", &elsewhere.display().to_string()]).await.succeeded();
    assert!(elsewhere.join(format!("{one}.json")).exists());
}

#[tokio::test]
async fn a_good_setup_is_checked_and_every_problem_of_a_bad_one_is_told_at_once() {
    let mut home = Home::new().await;
    home.put("good.json", &format!("[\"{}\", \"{}\"]", id(1), id(2)));
    insta::assert_snapshot!("check_ok", home.run(&["check"]).await.succeeded());

    home.put("bad.json", "{\n  \"session_id\": \"nobody\",\n  \"label\": {}\n}");
    home.put("bad.toml", "[[sessions]]\nsession_id = \n");
    home.set("poll.intervall", "\"5m\"");
    home.set("poll.jitter", "2");
    std::fs::write(home.path("yoti.pem"), "no key").unwrap();
    let problems = home.run(&["check"]).await.refused(78);
    let here = home.path("").display().to_string();
    insta::assert_snapshot!("check_bad", problems.replace(&here, "/home/"));
    for key in ["poll.intervall", "poll.jitter"] {
        home.unset(key);
    }
    let problems = home.run(&["check", "--online"]).await.refused(78);
    assert!(problems.contains("--online: not asked"), "{problems}");
    assert!(problems.contains("yoti.pem") && problems.contains("bad.toml:2"), "{problems}");
}

#[tokio::test]
async fn the_api_accepts_the_right_key_and_refuses_another() {
    let home = Home::new().await;
    let printed = home.run(&["check", "--online"]).await.succeeded();
    assert!(printed.contains("the API accepts the key"), "{printed}");
    let asked = format!("online: GET {}/sessions/", home.simulator().base_url());
    assert!(printed.starts_with(&asked), "{printed}");
    assert_eq!(home.totals().requests, 1);
    home.track_new();
    let printed = home.run(&["check", "--online"]).await.succeeded();
    assert!(printed.contains("the API accepts the key\n"), "{printed}");

    let (other, _) = PublicKey::generate().unwrap();
    write_private(&home.path("yoti.pem"), &other);
    let refused = home.run(&["check", "--online"]).await.refused(78);
    assert!(refused.contains("HTTP 401") && refused.contains("private_key_file"), "{refused}");
}

#[tokio::test]
async fn commands_that_read_say_so_when_the_daemon_never_ran() {
    let home = Home::new().await;
    let one = id(1).to_string();
    for arguments in [&["sessions"][..], &["show", &one], &["events"]] {
        let message = home.run(arguments).await.refused(78);
        assert!(message.contains("the daemon has not run with it yet"), "{message}");
    }
    assert!(!home.path("ibvwatch.db").exists());
}

#[tokio::test]
async fn help_fits_on_a_screen() {
    let home = Home::new().await;
    let mut command = home.command(&[]);
    command = {
        let mut help = Command::new(command.as_std().get_program());
        help.arg("--help").env_clear();
        help
    };
    insta::assert_snapshot!("help", Printed::of(command).await.succeeded());
}

/// Runs a command on a terminal of its own.
async fn on_a_terminal(home: &Home, arguments: &[&str], no_colour: bool) -> Option<String> {
    let command = home.command(arguments);
    let words = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned());
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let line: Vec<String> = std::iter::once(program).chain(words).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).env_clear().env("TERM", "xterm");
    script.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    if no_colour {
        script.env("NO_COLOR", "1");
    }
    match script.output().await {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            leave_out(&format!("colours on a terminal, for want of `script`: {error}"));
            None
        }
    }
}

#[tokio::test]
async fn colours_are_for_terminals_and_not_for_those_who_want_none() {
    let (home, daemon) = three_sessions().await;
    daemon.stop().await;
    let one = id(1).to_string();
    for arguments in [&["sessions"][..], &["show", &one], &["poll", &one]] {
        let piped = home.run(arguments).await.succeeded();
        assert!(!piped.contains('\u{1b}'), "{piped}");
        let Some(coloured) = on_a_terminal(&home, arguments, false).await else { return };
        assert!(coloured.contains('\u{1b}'), "{coloured}");
        let plain = on_a_terminal(&home, arguments, true).await.unwrap_or_default();
        assert!(plain.contains(&one) && !plain.contains('\u{1b}'), "{plain}");
    }
}
