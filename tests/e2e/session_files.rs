//! The directory says which sessions are tracked, and no accident with a file says otherwise.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Requirement, Session};
use tokio::time::sleep;

use crate::common::{Daemon, Event, Home};

fn create(home: &Home) -> SessionId {
    home.create(Session::requiring(Requirement::three_documents()))
}

fn kinds_of(events: &[Event], id: SessionId) -> Vec<&str> {
    events.iter().filter(|event| event.session() == Some(id)).map(Event::kind).collect()
}

/// As `echo > file; sleep 1; echo >> file` does it.
async fn write_in_halves(home: &Home, name: &str, first: &str, second: &str) {
    let path = home.sessions().join(name);
    fs::write(&path, first).expect("a file that can be written");
    sleep(Duration::from_secs(1)).await;
    let mut file = OpenOptions::new().append(true).open(&path).expect("the file just written");
    file.write_all(second.as_bytes()).expect("a file that can be written");
}

/// The worst of it: each first half is a good file that names fewer sessions or no labels, and
/// there is no grace.
#[tokio::test]
async fn a_file_written_in_two_halves_untracks_nothing_and_tracks_nothing_by_halves() {
    let mut home = Home::new().await;
    home.set("sessions.removal_grace", "\"0s\"");
    let in_toml = [(); 3].map(|()| create(&home));
    let in_json = [(); 3].map(|()| create(&home));
    let all = [in_toml, in_json].concat();
    let entry =
        |id| format!("[[sessions]]\nsession_id = \"{id}\"\nlabels = {{ case = \"{id}\" }}\n");
    home.put("toml.toml", &[entry(in_toml[0]), entry(in_toml[1])].concat());
    let object = |id| format!("{{\"session_id\": \"{id}\", \"labels\": {{\"case\": \"{id}\"}}}}");
    home.put("json.json", &format!("[{},\n{}]\n", object(in_json[0]), object(in_json[1])));
    let mut daemon = Daemon::start(&home);
    for &id in in_toml[..2].iter().chain(&in_json[..2]) {
        daemon.event(|event| event.is("session.observed", id)).await;
    }

    for _ in 0..2 {
        // Half of the file names one session alone, and the next half begins within an entry.
        let whole = [entry(in_toml[0]), entry(in_toml[1]), entry(in_toml[2])].concat();
        let (first, second) = whole.split_at(entry(in_toml[0]).len());
        write_in_halves(&home, "toml.toml", first, second).await;
        daemon.polls(&home, in_toml[1], 5).await;
        let (first, second) = whole.split_at(whole.rfind("labels").unwrap());
        write_in_halves(&home, "toml.toml", first, second).await;
        daemon.polls(&home, in_toml[2], 5).await;
        // An empty file, and one cut short.
        let whole =
            format!("[{},\n{},\n{}]\n", object(in_json[0]), object(in_json[1]), object(in_json[2]));
        write_in_halves(&home, "json.json", "", &whole).await;
        daemon.polls(&home, in_json[2], 5).await;
        let (first, second) = whole.split_at(whole.len() / 2);
        write_in_halves(&home, "json.json", first, second).await;
        daemon.polls(&home, in_json[1], 5).await;
    }
    for &id in &all {
        home.set_state(id, 0, "IN_PROGRESS").unwrap();
        daemon.event(|event| event.tells(id, "IN_PROGRESS")).await;
    }
    let events = daemon.stop().await.events();
    for &id in &all {
        let kinds = kinds_of(&events, id);
        assert_eq!(kinds, ["session.tracked", "session.observed", "resource.state_changed"]);
    }
    for event in &events {
        let labels = &event.data()["labels"];
        let id = event.session().unwrap().to_string();
        assert_eq!(labels["case"], id, "{}", event.line);
    }
}

#[tokio::test]
async fn a_session_gone_from_all_files_for_longer_than_the_grace_ends_as_untracked() {
    let home = Home::new().await;
    let (id, other) = (home.track_new(), home.track_new());
    home.put("second.json", &format!("[\"{id}\"]"));
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.remove(&format!("{id}.json"));
    daemon.logs("session files taken over").await;
    daemon.polls(&home, id, 5).await;
    home.remove("second.json");
    let ended = daemon.event(|event| event.is("session.ended", id)).await;
    assert_eq!(ended.text("reason"), "untracked");
    assert_eq!(ended.data()["unresolved"].as_array().map(Vec::len), Some(3));
    let asked = home.session_totals(id).requests;
    daemon.polls(&home, other, 5).await;
    assert_eq!(home.session_totals(id).requests, asked, "polled after its end");
    let events = daemon.stop().await.events();
    assert_eq!(kinds_of(&events, id), ["session.tracked", "session.observed", "session.ended"]);
}

#[tokio::test]
async fn a_file_that_comes_back_within_the_grace_was_never_gone() {
    let mut home = Home::new().await;
    home.set("sessions.removal_grace", "\"30s\"");
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.remove(&format!("{id}.json"));
    // A new session shows that the directory was read without the file.
    let witness = home.track_new();
    daemon.event(|event| event.is("session.observed", witness)).await;
    home.track(id);
    let witness = home.track_new();
    daemon.event(|event| event.is("session.observed", witness)).await;
    daemon.polls(&home, id, 5).await;
    let events = daemon.stop().await.events();
    assert_eq!(kinds_of(&events, id), ["session.tracked", "session.observed"]);
}

#[tokio::test]
async fn what_has_ended_stays_ended_while_its_file_remains_and_begins_anew_after() {
    let home = Home::new().await;
    let (id, other) = (home.track_new(), home.track_new());
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    home.complete(id).unwrap();
    let ended = daemon.event(|event| event.is("session.ended", id)).await;
    assert_eq!(ended.text("reason"), "completed");
    daemon.stop().await;

    for killed in [false, true] {
        let asked = home.session_totals(id).requests;
        let daemon = Daemon::start(&home);
        daemon.polls(&home, other, 5).await;
        let run = if killed { daemon.kill().await } else { daemon.stop().await };
        assert_eq!(home.session_totals(id).requests, asked);
        assert_eq!(kinds_of(&run.events(), id), Vec::<&str>::new());
    }

    let mut daemon = Daemon::start(&home);
    daemon.logs("ibvwatch is running").await;
    home.remove(&format!("{id}.json"));
    daemon.logs("removed=1").await;
    home.track(id);
    let tracked = daemon.event(|event| event.is("session.tracked", id)).await;
    assert_eq!(tracked.ordinal(), ended.ordinal() + 1);
    let again = |event: &Event| event.is("session.ended", id) && event.ordinal() > ended.ordinal();
    assert_eq!(daemon.event(again).await.text("reason"), "completed");
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_or_a_directory_that_is_gone_untracks_nothing() {
    let home = Home::new().await;
    let id = home.track_new();
    let mut daemon = Daemon::start(&home);
    daemon.event(|event| event.is("session.observed", id)).await;
    let name = format!("{id}.json");
    let path = home.sessions().join(&name);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    daemon.logs(&name).await;
    daemon.polls(&home, id, 5).await;
    fs::rename(home.sessions(), home.path("elsewhere")).unwrap();
    daemon.logs("can't be listed").await;
    // Twice the grace, which would have been enough.
    sleep(Duration::from_secs(1)).await;
    fs::create_dir(home.sessions()).unwrap();
    home.track(id);
    let witness = home.track_new();
    daemon.event(|event| event.is("session.observed", witness)).await;
    home.set_state(id, 0, "COMPLETE").unwrap();
    daemon.event(|event| event.tells(id, "COMPLETE")).await;
    let run = daemon.stop().await;
    let kinds = ["session.tracked", "session.observed", "resource.state_changed"];
    assert_eq!(kinds_of(&run.events(), id), kinds, "{}", run.stderr);
}
