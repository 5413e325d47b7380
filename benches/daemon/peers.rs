//! What others take for the same: Prometheus, and a poller as one writes it in Python.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::api::Api;
use crate::fixtures::session_id;
use crate::stage::{Home, SDK_ID, pause};
use crate::usage::{Usage, memory_of, number, usage_of};

/// RSA-2048 signatures a second and core, by OpenSSL.
pub(crate) fn openssl_signatures() -> Option<f64> {
    if !has("openssl") {
        return None;
    }
    let speed = Command::new("openssl").args(["speed", "-seconds", "2", "rsa2048"]).output();
    let text = String::from_utf8(speed.ok()?.stdout).ok()?;
    let line = text.lines().find(|line| line.starts_with("rsa 2048"))?;
    line.split_whitespace().nth(5)?.parse().ok()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's Prometheus, and what it scrapes.
pub(crate) struct Prometheus {
    child: Killed,
    api: Api,
    _home: Home,
}

impl Prometheus {
    /// Finds that many targets in a file and scrapes each every 15 s; has done so twice by now.
    pub(crate) fn start(targets: u64) -> Option<Self> {
        if !has("prometheus") {
            return None;
        }
        let home = Home::new(&[]);
        let api = Api::start(&home.path("."), false);
        let address = api.base_url.trim_start_matches("http://").split('/').next()?.to_owned();
        let mut found = String::from("[");
        for n in 0..targets {
            let comma = if n == 0 { "" } else { "," };
            let path = format!("/metrics/{}", session_id(n));
            let labels = format!(r#"{{"__metrics_path__":"{path}","case":"A-{n}"}}"#);
            write!(found, r#"{comma}{{"targets":["{address}"],"labels":{labels}}}"#).ok()?;
        }
        found.push(']');
        home.write("targets.json", &found);
        home.write(
            "prometheus.yml",
            "global: { scrape_interval: 15s, scrape_timeout: 10s }\n\
             scrape_configs:\n\
             - job_name: sessions\n  file_sd_configs: [ { files: [ targets.json ] } ]\n\
             \x20 relabel_configs: [ { source_labels: [ case ], target_label: instance } ]\n",
        );
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(home.path("."))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let child = Killed(child);
        let started = Instant::now();
        while api.requests() < 2 * targets {
            pause(Duration::from_millis(100));
            assert!(started.elapsed() < Duration::from_secs(120), "Prometheus scrapes nothing");
        }
        Some(Self { child, api, _home: home })
    }

    /// Its scrapes are the polls.
    pub(crate) fn usage(&self) -> Usage {
        Usage { polls: number(self.api.requests()), ..usage_of(self.child.0.id()) }
    }

    /// Resident megabytes.
    pub(crate) fn memory(&self) -> f64 {
        memory_of(self.child.0.id()).0
    }
}

/// Polls one session after the other over a connection that is kept, compares states with those
/// seen before, and prints the CPU that a poll took.
const POLLER: &str = r#"
import json, sys, time
import requests
from yoti_python_sdk.http import SignedRequest

base_url, sdk_id, key, seconds, signed = sys.argv[1:6]
ids = sys.argv[6].split(",")
http = requests.Session()
known = {}

def poll(session_id):
    path = f"/sessions/{session_id}/configuration"
    if signed == "signed":
        request = (SignedRequest.builder().with_pem_file(key).with_base_url(base_url)
                   .with_endpoint(path).with_param("sdkId", sdk_id).with_get().build())
        answer = http.get(request.url, headers=request.headers, timeout=10)
    else:
        answer = http.get(base_url + path, headers={"Authorization": "Bearer local"}, timeout=10)
    answer.raise_for_status()
    body = answer.json()
    states = [(r["type"], r["id"], r["state"]) for r in body["capture"]["required_resources"]]
    if known.get(session_id) != states:
        known[session_id] = states

for session_id in ids:
    poll(session_id)
polls, until, cpu = 0, time.monotonic() + float(seconds), time.process_time()
while time.monotonic() < until:
    poll(ids[polls % len(ids)])
    polls += 1
print((time.process_time() - cpu) / polls)
"#;

/// A poller on the official SDK's request signing and `requests`, from `PyPI`.
pub(crate) struct Python(Home);

impl Python {
    pub(crate) fn install() -> Option<Self> {
        let home = Home::new(&[]);
        home.write("poller.py", POLLER);
        let venv = home.path("venv");
        let quietly = |program: &Path, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).stdout(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let installed = quietly("python3".as_ref(), &["-m", "venv", venv.to_str()?])
            && quietly(
                &venv.join("bin/pip"),
                &["install", "--quiet", "yoti", "requests", "future"],
            );
        installed.then_some(Self(home))
    }

    /// Seconds of CPU for one of the polls that it makes in that time.
    pub(crate) fn poll(&self, api: &Api, signed: bool, time: Duration) -> f64 {
        let ids: Vec<String> = (0..100).map(|n| session_id(n).to_string()).collect();
        let output = Command::new(self.0.path("venv/bin/python"))
            .arg(self.0.path("poller.py"))
            .args([&api.base_url, SDK_ID])
            .arg(self.0.path("yoti.pem"))
            .arg(time.as_secs_f64().to_string())
            .arg(if signed { "signed" } else { "unsigned" })
            .arg(ids.join(","))
            .stderr(Stdio::inherit())
            .output()
            .expect("the poller in Python");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().unwrap_or_else(|_| panic!("the poller in Python said {text:?}"))
    }
}

/// File system syncs of a program, counted by strace, which stands beside it (`-D`): so it is the
/// program itself that is killed in the end.
pub(crate) fn strace(log: &str) -> Option<Vec<&str>> {
    let traced = ["strace", "-D", "-f", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-o", log];
    has("strace").then(|| traced.to_vec())
}

/// Whether there is such a program.
fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}
