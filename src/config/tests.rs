use super::*;

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    (home, file)
}

const REQUIRED: &str = "[api]\nsdk_id = \"id\"\nauth.private_key_file = \"key.pem\"\n";

fn variables(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What is wrong with the text, the file's path left out.
fn problems(text: &str) -> Vec<String> {
    let (_home, file) = written(text);
    let path = format!("{}:", file.display());
    let loaded = load(&[file], &Environment::new());
    loaded.problems().iter().map(|problem| problem.to_string().replace(&path, "")).collect()
}

#[test]
fn what_is_not_written_has_its_default() {
    let (_home, file) = written(REQUIRED);
    let config = load(&[file], &Environment::new()).complete().unwrap();
    assert_eq!(config.policy, Policy::default());
    assert_eq!(config.limits, Limits { rate: 10.0, burst: 20, max_in_flight: 8 });
    assert_eq!(config.api.base_url.to_string(), "https://api.yoti.com/idverify/v1");
    assert_eq!(config.store.path, Path::new("/var/lib/ibvwatch/ibvwatch.db"));
    assert_eq!(config.sessions.directories, [Path::new("/etc/ibvwatch/sessions.d")]);
}

#[test]
fn later_files_win_over_earlier_ones_and_the_environment_over_them_all() {
    let (_one, first) = written(&format!("{REQUIRED}[poll]\ninterval = \"1m\"\njitter = 0.2\n"));
    let (_two, second) = written("[poll]\ninterval = \"2m\"\nburst = 5\n");
    let environment = variables(&[
        ("IBVWATCH__POLL__BURST", "7"),
        ("IBVWATCH__SESSIONS__DIRECTORIES", "/a,/b"),
        ("IBVWATCH__API__SDK_ID", "42"),
        ("IBVWATCH__SINKS__STDOUT__ENABLED", "false"),
        ("IBVWATCH_UNRELATED", "x"),
        ("ibvwatch__poll__jitter", "0.5"),
    ]);
    let config = load(&[first, second], &environment).complete().unwrap();
    assert_eq!(config.policy.interval, Duration::from_secs(120));
    assert!((config.policy.jitter - 0.2).abs() < f64::EPSILON);
    assert_eq!(config.limits.burst, 7);
    assert_eq!(config.sessions.directories, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(config.api.sdk_id, "42");
    assert!(!config.events.stdout);
}

#[test]
fn systemd_says_where_state_and_credentials_are() {
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("yoti.pem"), "").unwrap();
    let (_home, file) = written("[api]\nsdk_id = \"id\"\n");
    let environment = variables(&[
        ("STATE_DIRECTORY", "/var/lib/private/ibvwatch"),
        ("CREDENTIALS_DIRECTORY", &credentials.path().display().to_string()),
    ]);
    let config = load(&[file], &environment).complete().unwrap();
    assert_eq!(config.store.path, Path::new("/var/lib/private/ibvwatch/ibvwatch.db"));
    assert_eq!(config.api.auth.private_key_file, credentials.path().join("yoti.pem"));
}

#[test]
fn every_problem_is_named_at_once_with_its_line_and_the_mend() {
    let text = "[api]\nbase_ur = \"x\"\nsession_path = \"/nowhere\"\nmax_response_size = \"1\"\n\
                [poll]\nintervall = \"5m\"\njitter = 2\ninterval = \"5\"\nactive_for = 5\nburst = 0\n\
                [log]\nformat = \"xml\"\n";
    assert_eq!(
        problems(text),
        [
            "api.auth.private_key_file: required: the path of the PEM file with your application's private key",
            "api.sdk_id: required: the SDK id that the Yoti Hub shows beside your key",
            "2: api.base_ur: unknown key; did you mean api.base_url?",
            "3: api.session_path: \"/nowhere\" does not say where {session_id} goes; write it like \"/sessions/{session_id}/configuration\"",
            "4: api.max_response_size: 1 B is out of range; write at least \"1KiB\"",
            "6: poll.intervall: unknown key; did you mean poll.interval?",
            "7: poll.jitter: 2 is out of range; write at least 0 and less than 1",
            "8: poll.interval: \"5\" is not a duration; write a number and a unit, like \"30s\" or \"5m\"",
            "9: poll.active_for: \"5\" is not a duration; write a number and a unit, like \"30s\" or \"5m\"",
            "10: poll.burst: write a whole number, 1 to 1000000",
            "12: log.format: \"xml\" is unknown; write \"text\" or \"json\"",
        ]
    );
}

#[test]
fn an_active_interval_longer_than_the_interval_is_wrong_only_if_somebody_wrote_it() {
    assert_eq!(problems(&format!("{REQUIRED}[poll]\ninterval = \"10s\"\n")), [""; 0]);
    let both = format!("{REQUIRED}[poll]\ninterval = \"10s\"\nactive_interval = \"20s\"\n");
    assert!(problems(&both)[0].starts_with("6: poll.active_interval: is longer"));
}

#[test]
fn an_unknown_variable_is_named_as_one() {
    let (_home, file) = written(REQUIRED);
    let loaded = load(&[file], &variables(&[("IBVWATCH__POLL__INTERVALL", "5m")]));
    assert_eq!(
        loaded.problems()[0].to_string(),
        "environment variable IBVWATCH__POLL__INTERVALL: poll.intervall: unknown key; did you mean poll.interval?"
    );
}

#[test]
fn two_variables_for_one_key_are_told_and_not_left_to_chance() {
    let (_home, file) = written(REQUIRED);
    let both = [("IBVWATCH__POLL__INTERVAL", "5m"), ("IBVWATCH__POLL__INTErVAL", "7m")];
    for _ in 0..20 {
        let loaded = load(std::slice::from_ref(&file), &variables(&both));
        assert_eq!(
            loaded.problems().iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "environment variable IBVWATCH__POLL__INTErVAL: poll.interval: IBVWATCH__POLL__INTERVAL names the same key; keep one of the two"
            ]
        );
        assert_eq!(loaded.config().policy.interval, Duration::from_secs(300));
    }
}

#[test]
fn what_is_told_of_variables_that_exclude_each_other_is_not_left_to_chance() {
    let (_home, file) = written(REQUIRED);
    let key_and_table = [
        ("IBVWATCH__POLL__INTERVAL", "5m"),
        ("IBVWATCH__POLL__INTERVAL__INTERVAL", "7m"),
        ("IBVWATCH__POLL[0]", "9m"),
    ];
    let told = || load(std::slice::from_ref(&file), &variables(&key_and_table)).problems().to_vec();
    let first = told();
    for (name, _) in &key_and_table[1..] {
        let place = Some(Place::Variable((*name).to_owned()));
        assert!(first.iter().any(|problem| problem.place == place), "{name}: {first:?}");
    }
    for _ in 0..20 {
        assert_eq!(told(), first);
    }
}

#[test]
fn a_file_that_is_no_toml_is_named_with_the_line() {
    let problems = problems("[api]\nsdk_id = \"a\n");
    assert!(problems.iter().any(|problem| problem.starts_with("2: ")), "{problems:?}");
}

#[test]
fn a_command_is_not_kept_from_its_work_by_another_section() {
    let (_home, file) = written("[store]\npath = \"x.db\"\n[poll]\njitter = 7\n");
    let load = || super::load(std::slice::from_ref(&file), &Environment::new());
    assert_eq!(load().require(&["store"]).unwrap().store.path, Path::new("x.db"));
    assert!(load().require(&["poll"]).is_err());
    assert!(load().complete().is_err());
}
