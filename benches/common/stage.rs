//! The binary as a process of its own, with all that it needs.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ibvwatch::domain::SessionId;
use tempfile::TempDir;

pub(crate) const SDK_ID: &str = "5f3d0d0a-6a51-4f0a-9a55-3d1e0f6f2b10";
pub(crate) const PRIVATE_KEY: &str = include_str!("../../tests/data/yoti/rfc7515_a2.pem");
/// Of another version that is to be measured in place of this one.
const OTHER_BINARY: &str = "IBVWATCH_BENCH_BINARY";
/// Sessions in one file.
const FILE: usize = 10_000;
/// Keys of a store in a file of one's own.
pub(crate) const SQLITE: &str = "store.path = \"ibvwatch.db\"\n";
const PATIENCE: Duration = Duration::from_secs(900);

/// A configuration, a key, session files and a database.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new(sessions: &[SessionId]) -> Self {
        let this = Self(tempfile::tempdir().expect("a temporary directory"));
        fs::create_dir(this.path("sessions.d")).expect("a directory");
        this.write("yoti.pem", PRIVATE_KEY);
        for (part, ids) in sessions.chunks(FILE).enumerate() {
            let entry = |(n, id): (usize, &SessionId)| {
                let n = part * FILE + n;
                let branch = n % 500;
                format!(
                    r#"{{"session_id":"{id}","labels":{{"case":"A-{n}","branch":"branch {branch}"}}}}"#
                )
            };
            let entries: Vec<String> = ids.iter().enumerate().map(entry).collect();
            this.write(
                &format!("sessions.d/{part:04}.json"),
                &format!("[{}]", entries.join(",\n")),
            );
        }
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600);
        let file = file.open(self.path(name));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    }

    /// `keys` are lines of the configuration beside the usual ones, with a store's among them.
    pub(crate) fn configure(&self, base_url: &str, keys: &str) {
        let mut config = format!(
            "api.base_url = \"{base_url}\"\n\
             api.sdk_id = \"{SDK_ID}\"\n\
             api.auth.private_key_file = \"yoti.pem\"\n\
             sessions.directories = [\"sessions.d\"]\n\
             http.listen = \"127.0.0.1:0\"\n"
        );
        config.write_str(keys).expect("a string takes everything");
        self.write("config.toml", &config);
    }

    /// Starts the daemon, below another program if one is given.
    pub(crate) fn start(&self, below: &[&str]) -> Daemon {
        self.start_one(below, None)
    }

    /// Starts one of several, for which `NAME.toml` says more than the configuration.
    pub(crate) fn start_one(&self, below: &[&str], name: Option<&str>) -> Daemon {
        let other = std::env::var(OTHER_BINARY);
        let binary = other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_ibvwatch"));
        let log = self.path(&format!("{}.log", name.unwrap_or("ibvwatch")));
        let fragment = name.map(|name| format!("{name}.toml"));
        let more = fragment.iter().flat_map(|fragment| ["--config", fragment]);
        let run = [binary, "run", "--config", "config.toml"];
        let words: Vec<&str> = below.iter().copied().chain(run).chain(more).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .current_dir(self.0.path())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a file"))
            .spawn()
            .expect("a daemon that starts");
        Daemon { child, log }
    }
}

/// A daemon at work. Dropped, it is killed.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Daemon {
    /// What the log says behind that text up to the next space, once it says it.
    pub(crate) fn logged(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let logged = read(&self.log);
            if let Some((_, rest)) = logged.split_once(text)
                && rest.contains('\n')
            {
                return rest.split_whitespace().next().unwrap_or_default().to_owned();
            }
            let ended = self.child.try_wait().expect("a state");
            assert!(ended.is_none(), "the daemon ended: {logged}");
            pause(Duration::from_millis(20));
        }
        panic!("{text:?} is not in {}", read(&self.log));
    }

    /// Where it serves its status page.
    pub(crate) fn address(&mut self) -> String {
        self.logged("are served address=")
    }

    /// Waits until the session files have been taken over.
    pub(crate) fn tracks(&mut self, sessions: usize) {
        self.logged(&format!("tracked={sessions}"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(log: &Path) -> String {
    fs::read_to_string(log).expect("a log")
}

/// A bench has no runtime whose timers it could use.
pub(crate) fn pause(time: Duration) {
    std::thread::park_timeout(time);
}
