//! A real nats-server, for the tests that are about one.
//!
//! `tests/run` gets the binary. A server ends with the process that started it, however that ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where `tests/run` puts it; `NATS_SERVER` names another.
pub(crate) fn binary() -> PathBuf {
    let named = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nats/nats-server"))
}

/// A running server and where it listens. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    /// Kills the server when its standard input ends, which it does with this process at the
    /// latest.
    guard: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Starts a server on a free port, with its files in `directory`, where it may have run before.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, None, &["-p", "-1", "-js"])
    }

    /// Starts a server with these arguments, and waits until it listens on `port`, or on one that
    /// it chose.
    pub(crate) fn start_with(directory: &Path, port: Option<u16>, arguments: &[&str]) -> Self {
        Self::start_as(&binary(), directory, port, arguments)
    }

    /// The same with another nats-server than the usual one.
    pub(crate) fn start_as(
        program: &Path,
        directory: &Path,
        port: Option<u16>,
        arguments: &[&str],
    ) -> Self {
        assert!(
            program.exists(),
            "{} is not there: tests/run gets it, or name one by NATS_SERVER, or leave these tests \
             out by --skip nats",
            program.display()
        );
        let ports = directory.join("ports");
        // What an earlier run left there would be taken for this one's.
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir_all(&ports).expect("a directory");
        let script = "\"$@\" & cat >/dev/null; kill -9 $! 2>/dev/null";
        let guard = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(program)
            .arg("-sd")
            .arg(directory)
            .arg("--ports_file_dir")
            .arg(&ports)
            .arg("-l")
            .arg(directory.join("log"))
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let deadline = Instant::now() + Duration::from_secs(30);
        let chosen = loop {
            if let Some(port) = listening(&ports) {
                break port;
            }
            assert!(
                Instant::now() < deadline,
                "nats-server does not start:\n{}",
                std::fs::read_to_string(directory.join("log")).unwrap_or_default()
            );
            std::thread::yield_now();
        };
        Self { guard, port: port.unwrap_or(chosen) }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // The shell ends once it has killed the server.
        let _ = self.guard.wait();
    }
}

/// The port that the server says it listens on, once it does.
fn listening(ports: &Path) -> Option<u16> {
    let file = std::fs::read_dir(ports).ok()?.next()?.ok()?.path();
    let text = std::fs::read_to_string(file).ok()?;
    let told: serde_json::Value = serde_json::from_str(&text).ok()?;
    told["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}
