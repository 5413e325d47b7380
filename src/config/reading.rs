//! The sections of the configuration, key by key: what each may be, and what it is if nobody
//! writes it.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shape::{Shape, written};
use super::sources::{Environment, Sources};
use super::{Api, Config, Events, Limits, Log, LogFormat, Store, auth};
use crate::domain::Policy;
use crate::store::jetstream;
use crate::yoti::{BaseUrl, SessionPath};
use crate::{directory, http};

pub(super) fn read(sources: &mut Sources, environment: &Environment) -> Config {
    let api = api(sources, environment);
    Config {
        sessions: sessions(sources),
        policy: policy(sources, api.session_path.is_some()),
        api,
        limits: limits(sources),
        store: store(sources, environment),
        events: events(sources),
        http: http(sources),
        log: log(sources),
    }
}

fn api(sources: &mut Sources, environment: &Environment) -> Api {
    let sdk_id = sources.text("api.sdk_id", Shape::filled_text()).unwrap_or_default();
    if sdk_id.trim().is_empty() {
        sources
            .problem("api.sdk_id", "required: the SDK id that the Yoti Hub shows beside your key");
    }
    Api {
        base_url: sources.parsed("api.base_url", BaseUrl::default()),
        configuration_path: sources.parsed("api.configuration_path", SessionPath::configuration()),
        session_path: session_path(sources),
        sdk_id,
        timeout: duration(sources, "api.timeout", secs(10), MILLISECOND..=HOUR),
        connect_timeout: duration(sources, "api.connect_timeout", secs(5), MILLISECOND..=HOUR),
        max_response_size: response_size(sources),
        ca_file: sources.text("api.ca_file", Shape::filled_text()).map(PathBuf::from),
        auth: auth::auth(sources, environment),
    }
}

/// Nothing if it is turned off, by an empty text.
fn session_path(sources: &mut Sources) -> Option<SessionPath> {
    let default = SessionPath::session();
    let parse = |value: config::Value| {
        let text = value.into_string().map_err(|_| "write a text".to_owned())?;
        if text.is_empty() {
            return Ok(None);
        }
        SessionPath::parse(&text).map(Some).map_err(|error| error.to_string())
    };
    sources.take("api.session_path", Shape::text().shown(&default), parse).unwrap_or(Some(default))
}

fn response_size(sources: &mut Sources) -> u64 {
    let least = bytesize::ByteSize::kib(1);
    let shape = Shape::filled_text().default("1MiB").bounded("At least 1KiB.");
    let parse = |value: config::Value| {
        let text = value.into_string().map_err(|_| "write a text".to_owned())?;
        match text.parse::<bytesize::ByteSize>()? {
            size if size < least => Err(format!("{size} is out of range; write at least \"1KiB\"")),
            size => Ok(size),
        }
    };
    let size = sources.take("api.max_response_size", shape, parse);
    size.unwrap_or(bytesize::ByteSize::mib(1)).as_u64()
}

fn sessions(sources: &mut Sources) -> directory::Settings {
    let default = ["/etc/ibvwatch/sessions.d"];
    let parse = |paths: Vec<String>| {
        if paths.is_empty() {
            return Err("is empty; name at least one directory".to_owned());
        }
        Ok(paths.into_iter().map(PathBuf::from).collect())
    };
    let shape = Shape::list().not_empty().default(default);
    let directories: Option<Vec<_>> = sources.texts("sessions.directories", shape, "paths", parse);
    directory::Settings {
        directories: directories.unwrap_or_else(|| default.map(PathBuf::from).into()),
        rescan_interval: duration(
            sources,
            "sessions.rescan_interval",
            secs(60),
            100 * MILLISECOND..=DAY,
        ),
        removal_grace: duration(sources, "sessions.removal_grace", secs(10), Duration::ZERO..=DAY),
    }
}

fn policy(sources: &mut Sources, confirm: bool) -> Policy {
    let default = Policy::default();
    let policy = Policy {
        interval: duration(sources, "poll.interval", default.interval, CADENCE),
        active_interval: duration(
            sources,
            "poll.active_interval",
            default.active_interval,
            CADENCE,
        ),
        active_for: duration(sources, "poll.active_for", default.active_for, Duration::ZERO..=DAY),
        jitter: jitter(sources, default.jitter),
        final_poll_before_expiry: duration(
            sources,
            "poll.final_poll_before_expiry",
            default.final_poll_before_expiry,
            MILLISECOND..=DAY,
        ),
        stop_on_completed: sources.flag("poll.stop_on_completed", default.stop_on_completed),
        unknown_ttl: duration(
            sources,
            "poll.unknown_ttl",
            default.unknown_ttl,
            secs(60)..=3_660 * DAY,
        ),
        backoff_initial: duration(
            sources,
            "poll.backoff_initial",
            default.backoff_initial,
            MILLISECOND..=HOUR,
        ),
        backoff_max: duration(sources, "poll.backoff_max", default.backoff_max, MILLISECOND..=DAY),
        failing_after: integer(sources, "poll.failing_after", default.failing_after, 1..=1_000_000),
        expiring_before: duration(
            sources,
            "poll.expiring_before",
            default.expiring_before,
            Duration::ZERO..=3_660 * DAY,
        ),
        confirm,
    };
    if policy.backoff_max < policy.backoff_initial {
        sources
            .problem("poll.backoff_max", "is less than poll.backoff_initial; write a longer one");
    }
    // A default that is longer than a short interval is no mistake of anybody's.
    if sources.is_written("poll.active_interval") && policy.active_interval > policy.interval {
        sources.problem(
            "poll.active_interval",
            "is longer than poll.interval; an active session is polled more often, not less",
        );
    }
    policy
}

fn jitter(sources: &mut Sources, default: f64) -> f64 {
    number(sources, "poll.jitter", default, 0.0..1.0, "at least 0 and less than 1")
}

fn limits(sources: &mut Sources) -> Limits {
    let words = "requests per second, 0.001 to 1000000";
    let rate = number(sources, "poll.rate_limit", 10.0, 0.001..=1_000_000.0, words);
    let max_in_flight = integer(sources, "poll.max_in_flight", 8, 1..=10_000);
    Limits {
        rate,
        burst: integer(sources, "poll.burst", 20, 1..=1_000_000),
        max_in_flight: usize::try_from(max_in_flight).unwrap_or(usize::MAX),
    }
}

fn store(sources: &mut Sources, environment: &Environment) -> Store {
    let in_cluster = sources.choice("store.kind", [("sqlite", false), ("jetstream", true)]);
    let jetstream = jetstream(sources);
    let state = environment.get("STATE_DIRECTORY").map_or("/var/lib/ibvwatch", String::as_str);
    let path = Path::new(state).join("ibvwatch.db");
    let shape = Shape::filled_text().default(&path);
    Store {
        jetstream: in_cluster.unwrap_or(false).then_some(jetstream),
        path: sources.text("store.path", shape).map_or(path, PathBuf::from),
        retention: duration(sources, "store.retention", 30 * DAY, secs(1)..=3_660 * DAY),
    }
}

fn jetstream(sources: &mut Sources) -> jetstream::Settings {
    let local = ["nats://127.0.0.1:4222"];
    let parse = |servers: Vec<String>| {
        let is_address =
            |server: &String| ["nats://", "tls://"].iter().any(|scheme| server.starts_with(scheme));
        match servers.iter().find(|server| !is_address(server)) {
            Some(server) => Err(format!("{server:?} is no address; write nats://HOST:PORT")),
            None if servers.is_empty() => Err("is empty; name at least one server".to_owned()),
            None => Ok(servers),
        }
    };
    let shape = Shape::list().not_empty().default(local);
    let servers = sources.texts("store.jetstream.servers", shape, "addresses", parse);
    let mut file = |key| sources.text(key, Shape::filled_text()).map(PathBuf::from);
    let credentials_file = file("store.jetstream.credentials_file");
    let nkey_file = file("store.jetstream.nkey_file");
    let ca_file = file("store.jetstream.ca_file");
    let certificate_file = file("store.jetstream.certificate_file");
    let key_file = file("store.jetstream.key_file");
    if certificate_file.is_some() != key_file.is_some() {
        let (key, other) = match key_file {
            None => ("store.jetstream.certificate_file", "store.jetstream.key_file"),
            Some(_) => ("store.jetstream.key_file", "store.jetstream.certificate_file"),
        };
        sources.problem(key, format!("is of no use without {other}; write both"));
    }
    let node = name(sources, "store.jetstream.node", Shape::filled_text(), host_name);
    jetstream::Settings {
        servers: servers.unwrap_or_else(|| local.map(str::to_owned).into()),
        credentials_file,
        nkey_file,
        ca_file,
        certificate_file,
        key_file,
        name: {
            let default = "ibvwatch";
            let shape = Shape::filled_text().default(default);
            name(sources, "store.jetstream.name", shape, || default.to_owned())
        },
        replicas: {
            let replicas = integer(sources, "store.jetstream.replicas", 1, 1..=5);
            usize::try_from(replicas).unwrap_or(1)
        },
        owner: name(sources, "store.jetstream.owner", Shape::filled_text(), || node.clone()),
        node,
        sweep: jetstream::Sweep::default(),
    }
}

/// A name that NATS takes.
fn name(
    sources: &mut Sources,
    key: &'static str,
    shape: Shape,
    default: impl FnOnce() -> String,
) -> String {
    let parse = |value: config::Value| {
        let text = value.into_string().map_err(|_| "write a text".to_owned())?;
        if jetstream::Settings::is_name(&text) {
            return Ok(text);
        }
        Err(format!("{text:?} is no name; write 1 to 64 letters, digits, - and _"))
    };
    sources.take(key, shape, parse).unwrap_or_else(default)
}

/// The machine's name, made one that NATS takes.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = name.chars().map(fits).take(64).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

fn events(sources: &mut Sources) -> Events {
    let default = "ibvwatch";
    let source = sources.text("events.source", Shape::filled_text().default(default));
    let source = source.unwrap_or_else(|| default.to_owned());
    if source.is_empty() {
        sources.problem("events.source", "is empty; CloudEvents need a source");
    }
    Events { source, stdout: sources.flag("sinks.stdout.enabled", true) }
}

fn http(sources: &mut Sources) -> http::Settings {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9478));
    let parse = |value: config::Value| {
        let text = value.into_string().map_err(|_| "write a text".to_owned())?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            format!(
                "{text:?} is no address to listen on; write an IP address and a port, like \"127.0.0.1:9478\", or \"\" for no server"
            )
        })
    };
    let listen =
        sources.take("http.listen", Shape::text().shown(listen), parse).unwrap_or(Some(listen));
    let hosts = |named: &[String]| {
        let parse =
            |host: &String| host.parse().map_err(|error: http::InvalidHostName| error.to_string());
        named.iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    let default = ["localhost", "127.0.0.1", "[::1]"].map(String::from);
    let shape = Shape::list().default(&default);
    let allowed_hosts =
        sources.texts("http.allowed_hosts", shape, "host names", |named| hosts(&named));
    http::Settings {
        listen,
        allowed_hosts: allowed_hosts.unwrap_or_else(|| hosts(&default).unwrap_or_default()),
    }
}

fn log(sources: &mut Sources) -> Log {
    let default = "info";
    let parse = |value: config::Value| {
        let level = value.into_string().map_err(|_| "write a text".to_owned())?;
        match level.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(level),
            Err(error) => Err(format!("{error}; write like \"info\" or \"warn,ibvwatch=debug\"")),
        }
    };
    let level = sources.take("log.level", Shape::text().default(default), parse);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: level.unwrap_or_else(|| default.to_owned()),
        format: sources.choice("log.format", formats).unwrap_or(LogFormat::Text),
    }
}

type Range = std::ops::RangeInclusive<Duration>;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = secs(3_600);
const DAY: Duration = secs(86_400);
const CADENCE: Range = Duration::from_millis(10)..=secs(31 * 86_400);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn duration(sources: &mut Sources, key: &'static str, default: Duration, range: Range) -> Duration {
    let parse = |value: config::Value| {
        let text = value.into_string().unwrap_or_default();
        let duration = humantime::parse_duration(&text).map_err(|_| {
            format!("{text:?} is not a duration; write a number and a unit, like \"30s\" or \"5m\"")
        })?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [least, most] = [range.start(), range.end()].map(|&bound| written(bound));
        Err(format!("{text} is out of range; write {least} to {most}"))
    };
    let shape = Shape::duration(&range).default(written(default));
    sources.take(key, shape, parse).unwrap_or(default)
}

fn number(
    sources: &mut Sources,
    key: &'static str,
    default: f64,
    range: impl RangeBounds<f64>,
    words: &str,
) -> f64 {
    let parse = |value: config::Value| {
        let number = value.into_float().map_err(|_| "write a number".to_owned())?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(format!("{number} is out of range; write {words}"))
    };
    let shape = Shape::number(&range).default(default);
    sources.take(key, shape, parse).unwrap_or(default)
}

fn integer(
    sources: &mut Sources,
    key: &'static str,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
) -> u32 {
    let parse = |value: config::Value| {
        let number = value.into_uint().ok().and_then(|number| u32::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("write a whole number, {} to {}", range.start(), range.end()))
    };
    let shape = Shape::integer(&range).default(default);
    sources.take(key, shape, parse).unwrap_or(default)
}
