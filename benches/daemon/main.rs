//! What the whole daemon takes: the release binary as a process of its own, before an API that
//! answers at once, beside what it can't do without and what others take.
//!
//! `cargo bench --bench daemon` measures all but the longest; `-- PART...` only these parts.
//! docs/PERFORMANCE.md says what each is and what came of it.

#![expect(clippy::print_stdout, reason = "what is measured is printed")]

mod allocations;
mod api;
mod bare;
mod cluster;
#[path = "../common/fixtures.rs"]
mod fixtures;
mod peers;
#[path = "../../tests/nats/server.rs"]
mod server;
#[path = "../common/stage.rs"]
mod stage;
mod store;
mod usage;

use std::time::{Duration, Instant};

use ibvwatch::domain::{Policy, SessionId};

use self::api::Api;
use self::fixtures::session_id;
use self::peers::{Prometheus, Python};
use self::stage::{Daemon, Home, SQLITE, pause};
use self::usage::{TIMES, Used, at_best, best, number, sum};

const SECOND: Duration = Duration::from_secs(1);

const LIMITS: &str = "poll.rate_limit = 100000\npoll.burst = 100000\n\
                      poll.active_interval = \"1s\"\npoll.active_for = \"0s\"\n";

struct Part {
    name: &'static str,
    run: fn(&Scale),
}

/// In the order in which they are measured.
const PARTS: [Part; 9] = [
    Part { name: "polls", run: polls },
    Part { name: "allocations", run: allocations::count },
    Part { name: "peers", run: compare },
    Part { name: "commits", run: commits },
    Part { name: "syncs", run: syncs },
    Part { name: "lateness", run: lateness },
    Part { name: "idle", run: idle },
    Part { name: "memory", run: memory },
    Part { name: "cluster", run: cluster::scale },
];

/// How much is measured: next to nothing where it is only seen whether it works.
struct Scale {
    time: Duration,
    sessions: u64,
    memory: &'static [u64],
    /// How often those are polled.
    interval: Duration,
    peers: bool,
    /// How many nodes there are.
    nodes: &'static [usize],
    /// How long lateness is watched for.
    long: Duration,
}

fn main() {
    if bare::was_wanted() {
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measures = arguments.iter().any(|argument| argument == "--bench");
    let long = arguments.iter().any(|argument| argument == "long");
    let scale = if measures {
        Scale {
            time: Duration::from_secs(20),
            sessions: 100_000,
            memory: &[1_000, 100_000, 1_000_000],
            interval: Duration::from_secs(300),
            peers: true,
            nodes: &[1, 2, 4],
            long: Duration::from_secs(if long { 600 } else { 60 }),
        }
    } else {
        Scale {
            time: Duration::from_secs(1),
            sessions: 100,
            memory: &[100],
            interval: Duration::from_secs(1),
            peers: false,
            nodes: &[2],
            long: Duration::from_secs(1),
        }
    };
    let named = |part: &&Part| arguments.iter().any(|argument| argument == part.name);
    let chosen: Vec<&Part> = PARTS.iter().filter(named).collect();
    let chosen = if chosen.is_empty() { PARTS.iter().collect() } else { chosen };
    for Part { name, run } in chosen {
        println!("\n# {name}");
        run(&scale);
    }
}

fn to_usize(sessions: u64) -> usize {
    usize::try_from(sessions).expect("as many as fit into memory")
}

fn left_out(what: &str, package: &str) {
    println!("*** LEFT OUT: {what} (install {package})");
}

fn home(sessions: u64) -> Home {
    Home::new(&(0..sessions).map(session_id).collect::<Vec<SessionId>>())
}

fn configure(home: &Home, api: &Api, bearer: bool, interval: Duration) {
    let keys = format!(
        "{}{SQLITE}{LIMITS}poll.max_in_flight = 32\npoll.interval = \"{}\"\n",
        api.keys(bearer),
        humantime::format_duration(interval)
    );
    home.configure(&api.base_url, &keys);
}

/// A daemon that is polling, and the API that it asks. Its polls are spread over the interval, as
/// they are of sessions that come one by one.
fn polling(tls: bool, bearer: bool, sessions: u64, interval: Duration) -> (Home, Api, Daemon) {
    polling_below(&[], tls, bearer, sessions, interval)
}

/// The same, started by another program if one is given.
fn polling_below(
    program: &[&str],
    tls: bool,
    bearer: bool,
    sessions: u64,
    interval: Duration,
) -> (Home, Api, Daemon) {
    let home = home(sessions);
    let api = Api::start(&home.path("."), tls);
    store::fill(&home, sessions, &Policy { interval, ..Policy::default() });
    configure(&home, &api, bearer, interval);
    let mut daemon = home.start(program);
    daemon.tracks(to_usize(sessions));
    while api.requests() < 3 * sessions / 2 {
        pause(Duration::from_millis(50));
    }
    (home, api, daemon)
}

/// How many sessions are more than it can poll every second.
const fn saturating(bearer: bool) -> u64 {
    if bearer { 100_000 } else { 20_000 }
}

fn kind(tls: bool, bearer: bool) -> String {
    let (transport, auth) =
        (if tls { "TLS" } else { "HTTP" }, if bearer { "bearer" } else { "signed" });
    format!("{transport} {auth}")
}

/// CPU and switches a poll, at some 333 polls a second and at as many as it can make; and the same
/// of a bare client.
fn polls(scale: &Scale) {
    match peers::openssl_signatures() {
        Some(a_second) => println!("signature by openssl speed: {:.0} µs", 1e6 / a_second),
        None => left_out("the signature by OpenSSL", "openssl"),
    }
    println!("signature by aws-lc-rs: {:.0} µs", at_best(bare::signature, |&cpu| cpu) * 1e6);
    println!(
        "{:<24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8}",
        "", "polls/s", "CPU µs", "user", "system", "switches", "bytes", "limit µs", "ratio"
    );
    for tls in [false, true] {
        for is_saturated in [false, true] {
            let (tasks, rate) = if is_saturated { (32, None) } else { (4, Some(333.0)) };
            for bearer in [true, false] {
                let (load, sessions, interval) = if is_saturated {
                    ("saturated", saturating(bearer), SECOND)
                } else {
                    ("333 a second", 1_000, 3 * SECOND)
                };
                let sessions = sessions.min(scale.sessions);
                let (_home, api, mut daemon) = polling(tls, bearer, sessions, interval);
                let ask = || bare::get(&api, !bearer, tasks, rate, scale.time / 2 / TIMES);
                // In turns, since a minute later this machine may take half the time, or twice.
                let turns = (0..TIMES).map(|_| {
                    let limit = if is_saturated { daemon.paused(ask) } else { ask() };
                    (limit, daemon.watch(scale.time / TIMES))
                });
                let (costs, parts): (Vec<f64>, Vec<Used>) = turns.unzip();
                let limit = best(costs, |&seconds| seconds) * 1e6;
                let took = best(parts, Used::cpu_each);
                let each = |seconds: f64| seconds / took.polls * 1e6;
                let (cpu, user, system) = (each(took.cpu()), each(took.user), each(took.system));
                let name = format!("{}, {load}", kind(tls, bearer));
                println!(
                    "{name:<24} {:>8.0} {cpu:>8.0} {user:>8.0} {system:>8.0} {:>8.1} {:>9} {limit:>8.0} {:>8.2}",
                    took.polls_per_second(),
                    took.switches / took.polls,
                    took.written / took.polls,
                    cpu / limit,
                );
            }
        }
    }
}

fn compare(scale: &Scale) {
    if scale.peers {
        beside_prometheus(scale.time);
        beside_python(scale.time / TIMES);
    }
}

/// Both at once, so that each has of the machine's cores what the other has.
fn beside_prometheus(time: Duration) {
    let Some(prometheus) = Prometheus::start(5_000) else {
        return left_out("Prometheus", "prometheus");
    };
    let (_home, _api, mut daemon) = polling(false, true, 5_000, 15 * SECOND);
    let before = prometheus.usage();
    let ours = daemon.watch(time * TIMES);
    let theirs = prometheus.usage().since(before);
    println!("5,000 every 15 s, bearer over HTTP:");
    let of = |name, used: &Used, memory| {
        let (cpu, rate) = (used.cpu_each() * 1e6, used.polls_per_second());
        println!("{name:<12} {cpu:>6.0} µs of CPU each, {rate:.0} a second, {memory:.0} MB");
    };
    of("ibvwatch", &ours, daemon.memory().0);
    of("Prometheus", &theirs, prometheus.memory());
    println!("ratio {:.2}", ours.cpu_each() / theirs.cpu_each());
}

/// In turns.
fn beside_python(time: Duration) {
    let Some(python) = Python::install() else {
        return left_out("the poller in Python", "python3-venv, and let pip reach PyPI");
    };
    let (_home, api, mut daemon) = polling(false, true, 20_000, SECOND);
    // Twice as often as elsewhere: of all that is compared these two are the least alike, and what
    // else the machine does tells most.
    let times = (0..2 * TIMES).map(|_| {
        let theirs = daemon.paused(|| python.poll(&api, false, time));
        (daemon.watch(time).cpu_each(), theirs)
    });
    let (ours, theirs): (Vec<f64>, Vec<f64>) = times.unzip();
    let least = |costs| best(costs, |&cost| cost) * 1e6;
    let (ours, theirs) = (least(ours), least(theirs));
    println!(
        "unsigned: ibvwatch, 20,000 sessions every second, {ours:.1} µs of CPU a poll; a poller in Python, as fast as it can, {theirs:.0}; {:.1} times",
        theirs / ours
    );
    let signed = daemon.paused(|| at_best(|| python.poll(&api, true, time), |&cost| cost)) * 1e6;
    println!(
        "signed, in Python: {signed:.0} µs, of which signing is {:.0} %",
        (1.0 - theirs / signed) * 100.0
    );
}

/// How many changes a second become durable.
fn commits(scale: &Scale) {
    let changes = scale.sessions / 4;
    println!("{:>8} {:>10} {:>10} {:>6}", "at once", "ibvwatch/s", "SQLite/s", "ratio");
    for at_once in [32, 200] {
        // In turns, each with a database of its own.
        let times = (0..TIMES).map(|_| {
            let home = Home::new(&[]);
            let ours = store::commits(&home.path("ours.db"), changes, at_once);
            (ours, store::bare_commits(&home.path("bare.db"), changes, at_once))
        });
        let (ours, bare): (Vec<f64>, Vec<f64>) = times.unzip();
        let most = |rates| best(rates, |&rate: &f64| -rate);
        let (ours, bare) = (most(ours), most(bare));
        println!("{at_once:>8} {ours:>10.0} {bare:>10.0} {:>6.2}", ours / bare);
    }
}

/// File system syncs while every session changes once.
fn syncs(scale: &Scale) {
    let sessions = scale.sessions / 10;
    let home = home(sessions);
    let log = home.path("strace.log").display().to_string();
    let Some(program) = peers::strace(&log) else {
        return left_out("file system syncs", "strace");
    };
    let api = Api::start(&home.path("."), false);
    configure(&home, &api, true, 10 * SECOND);
    let mut daemon = home.start(&program);
    daemon.tracks(to_usize(sessions));
    let changes = |daemon: &mut Daemon| {
        sum(&daemon.metrics(), "ibvwatch_events_total{type=\"ibvwatch.resource.state_changed\"}")
    };
    let syncs = || std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());
    while sum(&daemon.metrics(), "ibvwatch_polls_total") < 2.0 * number(sessions) {
        pause(Duration::from_millis(100));
    }
    let before = syncs();
    let first = changes(&mut daemon);
    api.change();
    let until = Instant::now() + Duration::from_secs(300);
    while changes(&mut daemon) - first < number(sessions) {
        pause(Duration::from_millis(100));
        assert!(Instant::now() < until, "not every session is seen to have changed");
    }
    let counted = syncs() - before;
    let counted = number(u64::try_from(counted).unwrap_or(0));
    println!("{:.0} syncs a thousand changes", counted / number(sessions) * 1e3);
}

/// How late polls go out at half of what it can do, early and late in a long time.
fn lateness(scale: &Scale) {
    let sessions = saturating(true).min(scale.sessions);
    let saturated = {
        let (_home, _api, mut daemon) = polling(false, true, sessions, SECOND);
        daemon.watch(scale.time).polls_per_second()
    };
    let interval = Duration::from_secs_f64(number(sessions) / (saturated / 2.0)).max(SECOND);
    let (_home, _api, mut daemon) = polling(false, true, sessions, interval);
    // What has become due by the start is polled at once, as fast as can be, and is due together
    // again until some twenty intervals of chance have spread it.
    pause(scale.time * 6);
    println!("{:>8} {:>8} {:>8} {:>8} {:>8}", "polls/s", "p50 ms", "p99 ms", "max ms", "≤ 50 ms");
    for _ in 0..3 {
        let (before, used) = (daemon.metrics(), daemon.watch(scale.long / 3));
        let late = Late::between(&before, &daemon.metrics());
        println!(
            "{:>8.0} {:>8.1} {:>8.1} {:>8} {:>7.2}%",
            used.polls_per_second(),
            late.quantile(0.5) * 1e3,
            late.quantile(0.99) * 1e3,
            format!("< {}", late.most() * 1e3),
            late.share_within(0.05) * 100.0
        );
    }
}

/// Cumulative counts by upper bound in seconds.
struct Late(Vec<(f64, f64)>);

impl Late {
    fn between(before: &str, after: &str) -> Self {
        let buckets = |metrics: &str| -> Vec<(f64, f64)> {
            let lines = metrics.lines();
            let bucket = |line: &str| {
                let rest = line.strip_prefix("ibvwatch_poll_lateness_seconds_bucket{le=\"")?;
                let (bound, count) = rest.split_once("\"} ")?;
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
                Some((bound, count.parse().ok()?))
            };
            lines.filter_map(bucket).collect()
        };
        let (before, after) = (buckets(before), buckets(after));
        Self(before.iter().zip(after).map(|(b, (bound, count))| (bound, count - b.1)).collect())
    }

    fn all(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// As Prometheus reckons it: evenly within a bucket.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.all();
        let mut from = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= wanted && count > from.1 {
                return from.0 + (bound - from.0) * (wanted - from.1) / (count - from.1);
            }
            from = (bound, count);
        }
        f64::INFINITY
    }

    /// An upper bound of all.
    fn most(&self) -> f64 {
        self.0.iter().find(|(_, count)| *count >= self.all()).map_or(0.0, |(bound, _)| *bound)
    }

    fn share_within(&self, seconds: f64) -> f64 {
        let within = self.0.iter().find(|(bound, _)| *bound >= seconds);
        within.map_or(0.0, |(_, count)| count / self.all())
    }
}

/// CPU of many sessions beside their polls.
fn idle(scale: &Scale) {
    let time = scale.time * 3;
    let watched = |sessions: u64, interval: Duration| -> Used {
        let home = home(sessions);
        let api = Api::start(&home.path("."), false);
        store::fill(&home, sessions, &Policy { interval, ..Policy::default() });
        configure(&home, &api, true, interval);
        let mut daemon = home.start(&[]);
        daemon.logged("ibvwatch is running");
        pause(time / 3);
        let used = daemon.watch(time);
        let told = sum(&daemon.metrics(), "ibvwatch_events_total");
        assert!(told < 1.0, "{told} events are told of sessions that stay as they are");
        used
    };
    let many = watched(scale.sessions, Duration::from_secs(300));
    let few = watched(scale.sessions / 100, Duration::from_secs(3));
    let each = few.cpu_each();
    println!(
        "{} sessions every 5 min: {:.2} % CPU for {:.0} polls/s; as many polls of {} sessions take {:.2} %; beside them {:.2} %",
        scale.sessions,
        many.share(many.cpu()),
        many.polls_per_second(),
        scale.sessions / 100,
        many.share(each * many.polls),
        many.share(many.cpu() - each * many.polls)
    );
    let still = watched(scale.sessions, 30 * Duration::from_secs(86_400));
    println!(
        "{} sessions of which hardly any is due: {:.2} % CPU for {:.1} polls/s",
        scale.sessions,
        still.share(still.cpu()),
        still.polls_per_second()
    );
}

/// Memory, and how soon after a start the first poll goes out, with that many in the store.
fn memory(scale: &Scale) {
    println!(
        "{:>9} {:>10} {:>10} {:>9} {:>12} {:>9} {:>10}",
        "sessions", "at once MB", "polling MB", "peak MB", "first poll s", "taken over", "store MB"
    );
    for &sessions in scale.memory {
        let home = home(sessions);
        let policy = Policy { interval: scale.interval, ..Policy::default() };
        store::fill(&home, sessions, &policy);
        let size = std::fs::metadata(home.path("ibvwatch.db")).map_or(0, |file| file.len());
        let start = || {
            let api = Api::start(&home.path("."), false);
            configure(&home, &api, true, scale.interval);
            let started = Instant::now();
            let daemon = home.start(&[]);
            let first = loop {
                if let Some(at) = api.first_request() {
                    break at.duration_since(started);
                }
                pause(Duration::from_millis(2));
            };
            (daemon, api, started, first)
        };
        let earlier: Vec<Duration> = (1..TIMES).map(|_| start().3).collect();
        let (mut daemon, _api, started, first) = start();
        let firsts = earlier.into_iter().chain([first]).map(|first| first.as_secs_f64());
        let (soonest, latest) = firsts.fold((f64::INFINITY, 0.0_f64), |(least, most), first| {
            (least.min(first), most.max(first))
        });
        let at_once = daemon.memory().0;
        daemon.tracks(to_usize(sessions));
        let taken_over = started.elapsed();
        let until = Instant::now() + scale.time * 3;
        let mut most = 0.0_f64;
        while Instant::now() < until {
            pause(Duration::from_millis(500));
            most = most.max(daemon.memory().0);
        }
        let (_, peak) = daemon.memory();
        println!(
            "{sessions:>9} {at_once:>10.0} {most:>10.0} {:>9.0} {:>12} {:>9.1}s {:>10.0}",
            // The kernel reckons its own peak a little behind.
            peak.max(most),
            format!("{soonest:.2}-{latest:.2}"),
            taken_over.as_secs_f64(),
            number(size) / 1e6
        );
    }
}
