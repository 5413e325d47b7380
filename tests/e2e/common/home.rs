use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{PublicKey, Requirement, Session, Settings, Simulator};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use super::PATIENCE;

pub(crate) const SDK_ID: &str = "5f3d0d0a-6a51-4f0a-9a55-3d1e0f6f2b10";
/// The key of RFC 7515, appendix A.2, which everybody knows.
pub(crate) const PRIVATE_KEY: &str = include_str!("../../data/yoti/rfc7515_a2.pem");

/// A configuration, a key, session files and a database in a directory of their own, and the
/// API that the configuration names.
pub(crate) struct Home {
    directory: TempDir,
    simulator: Simulator,
    keys: BTreeMap<String, String>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A home whose API is set up otherwise.
    pub(crate) async fn with(adjust: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(SDK_ID);
        let public_key = PublicKey::parse(PRIVATE_KEY.as_bytes()).expect("a key that is one");
        settings.public_key = Some(public_key);
        adjust(&mut settings);
        let simulator = Simulator::start(settings).await.expect("a free port");
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("sessions.d")).expect("a directory for sessions");
        write_private(&directory.path().join("yoti.pem"), PRIVATE_KEY);
        let mut home = Self { directory, simulator, keys: BTreeMap::new() };
        let at = |name: &str| format!("{:?}", home.path(name).display().to_string());
        let keys = [
            ("api.base_url", format!("{:?}", home.simulator.base_url())),
            ("api.sdk_id", format!("{SDK_ID:?}")),
            ("api.auth.private_key_file", at("yoti.pem")),
            ("sessions.directories", format!("[{}]", at("sessions.d"))),
            ("sessions.removal_grace", "\"500ms\"".to_owned()),
            ("store.path", at("ibvwatch.db")),
            // Minutes become fractions of a second.
            ("poll.interval", "\"200ms\"".to_owned()),
            ("poll.active_interval", "\"100ms\"".to_owned()),
            ("poll.active_for", "\"1s\"".to_owned()),
            ("poll.backoff_initial", "\"50ms\"".to_owned()),
            ("poll.backoff_max", "\"200ms\"".to_owned()),
            ("poll.final_poll_before_expiry", "\"500ms\"".to_owned()),
            ("poll.expiring_before", "\"0s\"".to_owned()),
            ("poll.rate_limit", "10000".to_owned()),
            ("poll.burst", "1000".to_owned()),
            ("poll.max_in_flight", "32".to_owned()),
            // Off, unless a test asks for it.
            ("http.listen", "\"\"".to_owned()),
        ];
        home.keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        home.write_config();
        home
    }

    /// Writes a key of the configuration, its value as TOML.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.keys.insert(key.to_owned(), value.to_owned());
        self.write_config();
    }

    pub(crate) fn unset(&mut self, key: &str) {
        self.keys.remove(key);
        self.write_config();
    }

    fn write_config(&self) {
        let lines: Vec<String> =
            self.keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        fs::write(self.config(), lines.concat()).expect("a configuration that can be written");
    }

    /// The line of the configuration file that a key stands in.
    pub(crate) fn line_of(&self, key: &str) -> usize {
        self.keys.keys().position(|k| k == key).expect("a key that is set") + 1
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// A session that asks for three documents, and a file that names it.
    pub(crate) fn track_new(&self) -> SessionId {
        let id = self.simulator.create(Session::requiring(Requirement::three_documents()));
        self.track(id);
        id
    }

    /// Puts a session file in place in one piece.
    pub(crate) fn track(&self, id: SessionId) {
        self.put(&format!("{id}.json"), &format!("{{\"session_id\": \"{id}\"}}\n"));
    }

    /// Puts a file into the sessions directory in one piece.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let prepared = self.path("prepared");
        fs::write(&prepared, text).expect("a file that can be written");
        fs::rename(&prepared, self.sessions().join(name)).expect("a file that can be moved");
    }

    /// The names of all that lies in it, in order.
    pub(crate) fn files(&self) -> Vec<OsString> {
        let entries = fs::read_dir(self.path("")).expect("a directory");
        let mut names: Vec<OsString> =
            entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        self.path("sessions.d")
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.sessions().join(name)).expect("a session file to remove");
    }

    /// The binary, with this home's configuration for the commands that take one, and nothing
    /// of the environment of whoever runs the tests.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_as(Path::new(env!("CARGO_BIN_EXE_ibvwatch")), arguments)
    }

    /// The same with another binary.
    pub(crate) fn command_as(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .env_clear()
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Printed {
        Printed::of(self.command(arguments)).await
    }

    /// Everything that is recorded, as the `events` command prints it.
    pub(crate) async fn recorded(&self) -> String {
        self.run(&["events"]).await.succeeded()
    }
}

impl Deref for Home {
    type Target = Simulator;

    fn deref(&self) -> &Simulator {
        &self.simulator
    }
}

impl Printed {
    pub(crate) async fn of(mut command: Command) -> Self {
        let output = timeout(PATIENCE, command.output())
            .await
            .expect("a command that ends")
            .expect("a program that starts");
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
        }
    }

    /// What it printed, having succeeded and complained of nothing.
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        assert_eq!(self.stderr, "");
        self.stdout
    }

    /// What it complained of, having ended with that status and printed nothing.
    pub(crate) fn refused(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.stdout, "");
        self.stderr
    }
}

/// Writes a file that its owner alone may read.
pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("a file that can be written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a mode that can be set");
}
