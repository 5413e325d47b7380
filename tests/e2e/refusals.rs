//! What it refuses to start with: status 78, and words that say what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use crate::common::{Daemon, Home};

async fn refused(home: &Home) -> String {
    home.run(&["run"]).await.refused(78)
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[tokio::test]
async fn a_second_instance_on_the_same_database_is_told_who_holds_it() {
    let home = Home::new().await;
    let mut daemon = Daemon::start(&home);
    daemon.logs("ibvwatch is running").await;
    let pid = daemon.pid().as_raw_nonzero().to_string();
    let message = refused(&home).await;
    let path = home.path("ibvwatch.db").display().to_string();
    says(&message, &[&path, "store.path", &format!("process {pid}"), "stop that one"]);
    daemon.stop().await;
}

async fn used_home() -> Home {
    let home = Home::new().await;
    let mut daemon = Daemon::start(&home);
    daemon.logs("ibvwatch is running").await;
    daemon.stop().await;
    home
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let home = used_home().await;
    let database = Connection::open(home.path("ibvwatch.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let before = fs::read(home.path("ibvwatch.db")).unwrap();
    says(&refused(&home).await, &["newer ibvwatch", "schema 99", "store.path"]);
    assert_eq!(fs::read(home.path("ibvwatch.db")).unwrap(), before);
    says(&home.run(&["sessions"]).await.refused(78), &["newer ibvwatch"]);
}

#[tokio::test]
async fn a_database_that_is_not_in_wal_mode_is_refused() {
    let home = used_home().await;
    let database = Connection::open(home.path("ibvwatch.db")).unwrap();
    let set = "PRAGMA journal_mode = delete";
    let mode: String = database.query_row(set, [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    drop(database);
    says(&refused(&home).await, &["journal_mode delete", "PRAGMA journal_mode=wal"]);
}

#[tokio::test]
async fn a_database_of_another_program_and_one_that_is_none_are_refused() {
    let home = Home::new().await;
    Connection::open(home.path("ibvwatch.db")).unwrap().execute("CREATE TABLE t (x)", []).unwrap();
    says(&refused(&home).await, &["another program", "store.path"]);
    fs::write(home.path("ibvwatch.db"), "not a database at all, however long it may be").unwrap();
    says(&refused(&home).await, &["store.path", "damaged or no SQLite database"]);
}

#[tokio::test]
async fn a_directory_for_the_database_that_is_not_there_is_named() {
    let mut home = Home::new().await;
    home.set("store.path", &format!("{:?}", home.path("missing/ibvwatch.db")));
    let directory = home.path("missing").display().to_string();
    says(&refused(&home).await, &[&directory, "does not exist", "create it"]);
}

#[tokio::test]
async fn a_key_that_is_missing_exposed_or_none_is_refused_and_named() {
    let home = Home::new().await;
    let key = home.path("yoti.pem");
    let path = key.display().to_string();
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let message = refused(&home).await;
    says(&message, &["api.auth.private_key_file", &path, "0640", "chmod 600"]);
    fs::set_permissions(&key, Permissions::from_mode(0o604)).unwrap();
    says(&refused(&home).await, &["0604", "chmod 600"]);
    fs::write(&key, "no key").unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    says(&refused(&home).await, &[&path, "not a PEM file"]);
    fs::remove_file(&key).unwrap();
    says(&refused(&home).await, &["api.auth.private_key_file", &path, "No such file"]);
}

#[tokio::test]
async fn a_weak_key_that_openssl_made_is_refused() {
    let home = Home::new().await;
    let made = tokio::process::Command::new("openssl")
        .args(["genrsa", "-out"])
        .arg(home.path("yoti.pem"))
        .arg("1024")
        .output()
        .await
        .expect("these tests need the openssl command");
    assert!(made.status.success(), "{made:?}");
    fs::set_permissions(home.path("yoti.pem"), Permissions::from_mode(0o600)).unwrap();
    says(&refused(&home).await, &["fewer than 2048 bits", "too weak"]);
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    let mut home = Home::new().await;
    home.set("poll.rate_limits", "3");
    let place = format!("{}:{}", home.config().display(), home.line_of("poll.rate_limits"));
    says(&refused(&home).await, &[&place, "poll.rate_limits", "did you mean poll.rate_limit?"]);
}

#[tokio::test]
async fn values_that_make_no_sense_are_named_together_each_with_its_line_and_a_way_out() {
    let mut home = Home::new().await;
    home.unset("api.sdk_id");
    for (key, value) in [
        ("api.base_url", "\"http://example.com\""),
        ("poll.interval", "\"soon\""),
        ("poll.jitter", "1.5"),
        ("log.format", "\"xml\""),
        ("sessions.directories", "[]"),
    ] {
        home.set(key, value);
    }
    let message = refused(&home).await;
    for (key, advice) in [
        ("api.base_url", "https"),
        ("poll.interval", "\"30s\""),
        ("poll.jitter", "less than 1"),
        ("log.format", "\"json\""),
        ("sessions.directories", "at least one"),
    ] {
        let place = format!("{}:{}: {key}: ", home.config().display(), home.line_of(key));
        let line = message.lines().find(|line| line.starts_with(&place));
        says(line.unwrap_or_else(|| panic!("{place} is not in {message}")), &[advice]);
    }
    says(&message, &["api.sdk_id: required"]);
    assert_eq!(message.lines().count(), 6, "{message}");
}

#[tokio::test]
async fn a_bad_value_in_the_environment_is_named_by_its_variable() {
    let home = Home::new().await;
    let mut command = home.command(&["run"]);
    command.env("IBVWATCH__POLL__INTERVAL", "soon");
    let message = crate::common::Printed::of(command).await.refused(78);
    says(&message, &["IBVWATCH__POLL__INTERVAL", "poll.interval"]);
}

#[tokio::test]
async fn a_configuration_that_is_not_there_or_no_toml_is_named() {
    let home = Home::new().await;
    let path = home.config().display().to_string();
    fs::write(home.config(), "[api]\nsdk_id = \n").unwrap();
    says(&refused(&home).await, &[&format!("{path}:2")]);
    fs::remove_file(home.config()).unwrap();
    says(&refused(&home).await, &[&path, "can't be read"]);
}

#[tokio::test]
async fn bad_usage_has_status_two() {
    let home = Home::new().await;
    for arguments in [
        &["run", "--frobnicate"][..],
        &["walk"],
        &["show"],
        &["show", "not-an-id"],
        &["events", "--type", "no.such_type"],
        &["track"],
        &["track", "3fa85f64-5717-4562-b3fc-2c963f66afa6", "--label", "nothing"],
    ] {
        let message = home.run(arguments).await.refused(2);
        assert!(message.contains("error:"), "{message}");
    }
}
