//! The real daemon, as a process of its own in a temporary directory.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::cli::Failure;

pub(super) const SDK_ID: &str = "00000000-0000-4000-8000-000000000000";
/// What the contract allows a stop to take.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// All that a daemon needs to run.
#[derive(Debug)]
pub(super) struct Setting {
    config: PathBuf,
    pub(super) sessions: PathBuf,
    /// Where the status page is served.
    pub(super) page: SocketAddr,
}

impl Setting {
    pub(super) fn prepare(home: &Path, base_url: &str, private_key: &str) -> io::Result<Self> {
        let sessions = home.join("sessions.d");
        std::fs::create_dir(&sessions)?;
        let key = home.join("yoti.pem");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&key)?;
        file.write_all(private_key.as_bytes())?;
        let config = home.join("config.toml");
        // The daemon is to have the same port after its restart, so that the page finds it again.
        let page = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
        let text = format!(
            r#"# Fast-forward: intervals are a fraction of the defaults.
[api]
base_url = "{base_url}"
sdk_id = "{SDK_ID}"
auth.private_key_file = {key}

[sessions]
directories = [{sessions}]

[poll]
interval = "2s"
active_interval = "500ms"
active_for = "15s"
final_poll_before_expiry = "1s"
expiring_before = "15s"

[store]
path = {store}

[http]
listen = "{page}"

[log]
level = "error"
"#,
            key = quoted(&key),
            sessions = quoted(&sessions),
            page = page,
            store = quoted(&home.join("ibvwatch.db")),
        );
        std::fs::write(&config, text)?;
        Ok(Self { config, sessions, page })
    }

    pub(super) fn start(&self) -> Result<Daemon, Failure> {
        let failed = |error| Failure::failed(format!("the daemon can't be started: {error}"));
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for the demo, which then stops the daemon in its own time.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| Failure::failed("the daemon has no standard output"))?;
        Ok(Daemon { child, lines: BufReader::new(stdout).lines() })
    }
}

#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Daemon {
    /// The next line of standard output.
    pub(super) async fn line(&mut self) -> io::Result<Option<String>> {
        self.lines.next_line().await
    }

    /// Kills it as nothing should be; returns what it had already said.
    pub(super) async fn kill(mut self) -> Result<Vec<String>, Failure> {
        self.child.start_kill().map_err(Failure::failed)?;
        self.rest().await
    }

    /// Stops it as systemd would; returns what it still had to say.
    pub(super) async fn stop(mut self) -> Result<Vec<String>, Failure> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(Failure::failed)?;
        }
        tokio::time::timeout(STOP_WITHIN, self.rest())
            .await
            .map_err(|_| Failure::failed("the daemon did not stop within 10 s"))?
    }

    async fn rest(&mut self) -> Result<Vec<String>, Failure> {
        let mut rest = Vec::new();
        while let Some(line) = self.lines.next_line().await? {
            rest.push(line);
        }
        self.child.wait().await?;
        Ok(rest)
    }
}
