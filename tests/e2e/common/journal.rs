use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Home, PATIENCE, Printed};

/// systemd's own journald, with a `/run` of its own, so that the machine's journal is left alone.
pub(crate) struct Journal {
    /// Keeps the mounts.
    holder: Child,
    journald: Option<Child>,
}

const PREPARE: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal \
                       && echo prepared && exec sleep infinity";
/// systemd tells a service so; systemd-cat doesn't.
const NAME_STREAM: &str =
    r#"export JOURNAL_STREAM="$(stat -L -c %d:%i /proc/$$/fd/1)"; exec "$0" "$@""#;
const JOURNALD: [&str; 2] = ["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

impl Journal {
    pub(crate) async fn start() -> Self {
        let mut holder = command("unshare");
        holder.args(["--mount", "--propagation", "private", "sh", "-c", PREPARE]);
        let mut holder = holder.stdout(Stdio::piped()).spawn().expect("unshare, of util-linux");
        let mut said = BufReader::new(holder.stdout.take().expect("a pipe")).lines();
        let said = timeout(PATIENCE, said.next_line()).await.expect("mounts in time");
        assert_eq!(said.expect("text").as_deref(), Some("prepared"), "root may mount");
        let mut journal = Self { holder, journald: None };
        journal.begin().await;
        journal
    }

    /// Starts journald, or starts it anew.
    pub(crate) async fn begin(&mut self) {
        let program = JOURNALD.iter().find(|path| Path::new(path).exists());
        let mut journald = self.inside(program.expect("the package systemd"));
        journald.stdout(Stdio::null()).stderr(Stdio::null());
        self.journald = Some(journald.spawn().expect("a journald that starts"));
        let probe = ["-c", "until systemd-cat true; do sleep 0.05; done 2>/dev/null"];
        let mut listening = self.inside("sh");
        listening.args(probe);
        let status = timeout(PATIENCE, listening.status()).await.expect("journald listens");
        assert!(status.expect("a shell").success());
    }

    /// Ends journald, and waits for its end.
    pub(crate) async fn end(&mut self) {
        let journald = self.journald.as_mut().expect("a journald that runs");
        journald.kill().await.expect("a process that can be killed");
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = self.journald.as_ref().and_then(Child::id).map(u32::cast_signed);
        let pid = id.and_then(rustix::process::Pid::from_raw).expect("a journald that runs");
        rustix::process::kill_process(pid, signal).expect("a process that takes signals");
    }

    /// The daemon, its output and its errors with the journal, as systemd starts a service.
    pub(crate) fn daemon(&self, home: &Home) -> Command {
        let daemon = home.command(&["run"]);
        let mut command = self.inside("systemd-cat");
        command.args(["--identifier", "ibvwatch", "sh", "-c", NAME_STREAM]);
        command.arg(daemon.as_std().get_program()).args(daemon.as_std().get_args());
        command
    }

    /// What `journalctl` prints.
    pub(crate) async fn read(&self, arguments: &[&str]) -> String {
        let mut journalctl = self.inside("journalctl");
        journalctl.args(["--quiet", "--no-pager"]).args(arguments);
        Printed::of(journalctl).await.stdout
    }

    /// Entries in full, each as an object of its fields.
    pub(crate) async fn entries(&self, arguments: &[&str]) -> Vec<Value> {
        let json = self.read(&[&["--all", "-o", "json"], arguments].concat()).await;
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Waits until the event stream in the journal is as wanted; returns it.
    pub(crate) async fn until(&self, wanted: impl Fn(&str) -> bool) -> String {
        let stream = async {
            loop {
                let stream = self.read(&["-t", "ibvwatch-events", "-o", "cat"]).await;
                if wanted(&stream) {
                    return stream;
                }
                // journalctl tells nobody when it has more to say.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, stream).await.expect("events in the journal")
    }

    fn inside(&self, program: &str) -> Command {
        let holder = self.holder.id().expect("a holder that runs");
        let mut command = command("nsenter");
        command.arg(format!("--mount=/proc/{holder}/ns/mnt")).arg("--").arg(program);
        command
    }
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).stdin(Stdio::null()).kill_on_drop(true);
    command
}
