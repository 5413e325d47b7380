//! What is shipped for containers: accepted, and true to what it is used with.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Stdio;

use ibvwatch::config::{Environment, load};
use ibvwatch::directory::survey;
use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::{Home, PATIENCE, PRIVATE_KEY, Printed, write_private};

const DEPLOYMENT: &str = include_str!("../../deploy/kubernetes/deployment.yaml");
const SESSIONS: &str = include_str!("../../deploy/kubernetes/sessions.yaml");
const COMPOSE: &str = include_str!("../../deploy/compose/compose.yaml");
/// The user of the image, and the group that owns what Kubernetes mounts.
const USER: u32 = 65532;

fn shipped(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// The value of an environment variable in the Deployment.
fn variable(name: &str) -> &'static str {
    let (_, behind) = DEPLOYMENT.split_once(&format!("- name: {name}\n")).expect("the variable");
    let line = behind.lines().next().expect("a line behind it");
    line.trim().strip_prefix("value: ").expect("a value")
}

/// A Secret as Kubernetes mounts it: the file behind two links, readable by a group.
fn mount_secret(directory: &Path) {
    let version = directory.join("..2026_11_23_10_15_30.123456789");
    fs::create_dir_all(&version).expect("a directory");
    let key = version.join("yoti.pem");
    fs::write(&key, PRIVATE_KEY).expect("a file that can be written");
    fs::set_permissions(&key, Permissions::from_mode(0o440)).expect("a mode that can be set");
    symlink(version.file_name().expect("a name"), directory.join("..data")).expect("a link");
    symlink("..data/yoti.pem", directory.join("yoti.pem")).expect("a link");
}

#[tokio::test]
async fn kubernetes_gets_the_key_out_of_a_secret() {
    let home = Home::new().await;
    let secret = home.path("secret");
    mount_secret(&secret);
    // Wherever they were built, the user can get at them here.
    let (program, config) = (home.path("ibvwatch"), home.path("shipped.toml"));
    fs::copy(env!("CARGO_BIN_EXE_ibvwatch"), &program).expect("a file that can be copied");
    fs::copy(shipped("kubernetes/config.toml"), &config).expect("a file that can be copied");
    let check = |credentials: Option<&Path>| {
        let mut command = Command::new(&program);
        command
            .args(["check", "--config"])
            .arg(&config)
            .env_clear()
            .env("IBVWATCH__SESSIONS__DIRECTORIES", home.sessions())
            .env(
                "IBVWATCH__HTTP__ALLOWED_HOSTS",
                variable("IBVWATCH__HTTP__ALLOWED_HOSTS").replace("$(POD_IP)", "fd00::7"),
            )
            .kill_on_drop(true);
        match credentials {
            Some(directory) => command.env("CREDENTIALS_DIRECTORY", directory),
            None => command.env("IBVWATCH__API__AUTH__PRIVATE_KEY_FILE", secret.join("yoti.pem")),
        };
        // The files belong to root there, and the user is in their group alone.
        if geteuid().is_root() {
            fs::set_permissions(home.path(""), Permissions::from_mode(0o755))
                .expect("a mode that can be set");
            chown(secret.join("yoti.pem"), Some(0), Some(USER)).expect("a group that can be set");
            command.uid(USER).gid(USER);
        }
        command
    };
    assert!(variable("CREDENTIALS_DIRECTORY").starts_with('/'));
    Printed::of(check(Some(&secret))).await.succeeded();
    // The same file is refused where it is no credential: that is why the variable is set.
    let refused = Printed::of(check(None)).await;
    assert_eq!(refused.status, Some(78), "{refused:?}");
    assert!(
        refused.stderr.contains("chmod 600") || refused.stdout.contains("chmod 600"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn kubernetes_sessions_are_good_as_they_are_shipped() {
    let (_, file) = SESSIONS.split_once("  sessions.json: |\n").expect("a session file");
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("sessions.json"), file).expect("a file that can be written");
    let survey = survey(&[directory.path().to_owned()]);
    assert!(survey.problems.is_empty() && survey.warnings.is_empty(), "{survey:?}");
    assert_eq!(survey.files, 1);
}

#[test]
fn compose_gets_a_configuration_that_is_accepted() {
    let loaded = load(&[shipped("compose/config.toml")], &Environment::new());
    loaded.complete().unwrap_or_else(|error| panic!("{error}"));
}

/// The sessions that Compose's simulator makes are those that its daemon is told to watch.
#[tokio::test]
async fn compose_watches_the_sessions_that_its_simulator_makes() {
    let home = Home::new().await;
    let (_, behind) = COMPOSE.split_once("command: [\n      \"simulate\",").expect("the simulator");
    let (arguments, _) = behind.split_once(']').expect("the end of its arguments");
    let arguments: Vec<String> =
        serde_json::from_str(&format!("[{arguments}]")).expect("arguments as in JSON");
    let key = home.path("simulator.pem");
    write_private(&key, PRIVATE_KEY);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibvwatch"));
    command.arg("simulate").env_clear().stdout(Stdio::piped()).kill_on_drop(true);
    for argument in &arguments {
        match argument.as_str() {
            "/key/yoti.pem" => command.arg(&key),
            address if address.parse::<SocketAddr>().is_ok() => command.arg("127.0.0.1:0"),
            other => command.arg(other),
        };
    }
    let mut simulator = command.spawn().expect("a simulator that starts");
    let mut lines = BufReader::new(simulator.stdout.take().expect("a pipe")).lines();
    let survey = survey(&[shipped("compose/sessions.d")]);
    assert!(survey.problems.is_empty(), "{survey:?}");
    let mut watched: Vec<String> =
        survey.entries.iter().map(|entry| entry.session_id.to_string()).collect();
    while !watched.is_empty() {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time");
        let line = line.expect("a line that can be read");
        let line = line.unwrap_or_else(|| panic!("these are not made: {watched:?}"));
        if let Some(id) = line.strip_prefix("session ") {
            let known = watched.iter().position(|watched| watched == id);
            watched.remove(known.unwrap_or_else(|| panic!("{id} is made and not watched")));
        }
    }
    simulator.kill().await.expect("a simulator that can be ended");
}
