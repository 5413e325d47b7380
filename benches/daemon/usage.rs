//! What the kernel and the daemon itself know of what it uses.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{Daemon, pause};

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage<At = Instant> {
    pub(crate) at: At,
    /// In seconds.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Of the threads that are left.
    pub(crate) switches: f64,
    /// Bytes that it had written to files.
    pub(crate) written: f64,
    /// Polls that have come back.
    pub(crate) polls: f64,
}

/// What a process used in a time.
pub(crate) type Used = Usage<Duration>;

impl Usage {
    pub(crate) fn since(self, earlier: Self) -> Used {
        Usage {
            at: self.at.duration_since(earlier.at),
            user: self.user - earlier.user,
            system: self.system - earlier.system,
            switches: self.switches - earlier.switches,
            written: self.written - earlier.written,
            polls: self.polls - earlier.polls,
        }
    }
}

impl<At> Usage<At> {
    pub(crate) const fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

impl Used {
    pub(crate) fn polls_per_second(&self) -> f64 {
        self.polls / self.at.as_secs_f64()
    }

    /// In seconds, of one poll; without end where there was none.
    pub(crate) fn cpu_each(&self) -> f64 {
        if self.polls > 0.0 { self.cpu() / self.polls } else { f64::INFINITY }
    }

    /// Of one core, in percent.
    pub(crate) fn share(&self, cpu: f64) -> f64 {
        cpu / self.at.as_secs_f64() * 100.0
    }
}

pub(crate) const TIMES: u32 = 4;

/// What came out least of several times: what a virtual machine has of its cores differs from
/// second to second, and what others take of them is nobody's here.
pub(crate) fn at_best<T>(mut measure: impl FnMut() -> T, cost: impl Fn(&T) -> f64) -> T {
    best((0..TIMES).map(|_| measure()), cost)
}

pub(crate) fn best<T>(measured: impl IntoIterator<Item = T>, cost: impl Fn(&T) -> f64) -> T {
    measured.into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("several times")
}

pub(crate) fn usage_of(pid: u32) -> Usage {
    let process = Process::new(pid.cast_signed()).expect("a process");
    let stat = process.stat().expect("its times");
    let seconds = |ticks: u64| number(ticks) / number(procfs::ticks_per_second());
    let switches = process.tasks().expect("its threads").flatten().filter_map(|task| {
        let status = task.status().ok()?;
        Some(status.voluntary_ctxt_switches? + status.nonvoluntary_ctxt_switches?)
    });
    Usage {
        at: Instant::now(),
        user: seconds(stat.utime),
        system: seconds(stat.stime),
        switches: number(switches.sum()),
        written: number(process.io().map_or(0, |io| io.write_bytes)),
        polls: 0.0,
    }
}

/// Resident memory now and at its peak, in megabytes.
pub(crate) fn memory_of(pid: u32) -> (f64, f64) {
    let status = Process::new(pid.cast_signed()).and_then(|process| process.status());
    let status = status.expect("a process");
    let megabytes = |kib: Option<u64>| number(kib.unwrap_or(0)) * 1024.0 / 1e6;
    (megabytes(status.vmrss), megabytes(status.vmhwm))
}

#[expect(clippy::cast_precision_loss, reason = "what is counted here is far below 2^52")]
pub(crate) const fn number(count: u64) -> f64 {
    count as f64
}

impl Daemon {
    pub(crate) fn metrics(&mut self) -> String {
        let mut stream = TcpStream::connect(self.address()).expect("a connection");
        let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    pub(crate) fn usage(&mut self) -> Usage {
        let polls = sum(&self.metrics(), "ibvwatch_polls_total");
        Usage { polls, ..usage_of(self.child.id()) }
    }

    /// What it uses in that time.
    pub(crate) fn watch(&mut self, time: Duration) -> Used {
        let before = self.usage();
        pause(time);
        self.usage().since(before)
    }

    /// Does something while it stands still. What falls due meanwhile is due at once afterwards.
    pub(crate) fn paused<T>(&self, other: impl FnOnce() -> T) -> T {
        self.signal(Signal::STOP);
        let done = other();
        self.signal(Signal::CONT);
        done
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a process");
    }

    pub(crate) fn memory(&self) -> (f64, f64) {
        memory_of(self.child.id())
    }

    /// Stops it as a service manager does; gives what it has logged until its end.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("a status");
        let logged = std::fs::read_to_string(&self.log).expect("a log");
        assert!(status.success(), "{status}: {logged}");
        logged
    }
}

/// Of all series that begin so.
pub(crate) fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
