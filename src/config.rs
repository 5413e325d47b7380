//! Configuration: what is written in TOML and the environment, made into what the parts take.
//!
//! Everything wrong is found in one reading and reported together, each with its place. A
//! command needs only some sections and isn't kept from its work by a mistake in another:
//! [`Loaded::require`] says which it needs.

mod auth;
mod sources;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::directory;
use crate::domain::Policy;
use crate::http;
use crate::yoti;
use crate::yoti::{
    BaseUrl, Bearer, ClientError, InvalidSdkId, KeyError, PrivateKey, SessionPath, Signer,
};

pub use auth::{Auth, AuthMethod};
use sources::Sources;
pub use sources::{Environment, Place, Problem};

/// Where configuration is read from when no file is named.
pub const DEFAULT_FILE: &str = "/etc/ibvwatch/config.toml";
/// Files `*.toml` in here are read after [`DEFAULT_FILE`], in order of name.
pub const DEFAULT_DIRECTORY: &str = "/etc/ibvwatch/config.d";

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub api: Api,
    pub sessions: directory::Settings,
    pub policy: Policy,
    pub limits: Limits,
    pub store: Store,
    pub events: Events,
    pub http: http::Settings,
    pub log: Log,
}

/// Where the API is and how to be let in. The key is read when a client is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    pub base_url: BaseUrl,
    pub configuration_path: SessionPath,
    pub session_path: Option<SessionPath>,
    pub sdk_id: String,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// In bytes.
    pub max_response_size: u64,
    pub ca_file: Option<PathBuf>,
    pub auth: Auth,
}

/// Why no client can be made from the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("api.auth.private_key_file: {0}")]
    Key(#[from] KeyError),
    #[error("api.sdk_id: {0}")]
    SdkId(#[from] InvalidSdkId),
    #[error("{0}")]
    Client(#[from] ClientError),
}

impl Api {
    /// A client for this API.
    ///
    /// # Errors
    /// The key or the certificates can't be used.
    pub fn client(&self, clock: Arc<dyn Clock>) -> Result<yoti::Client, ApiError> {
        let Auth { method, private_key_file, credentials_directory } = &self.auth;
        let key = PrivateKey::load(private_key_file, credentials_directory.as_deref())?;
        let auth = match method {
            AuthMethod::SignedRequest => yoti::Auth::SignedRequest(Signer::new(&self.sdk_id, key)?),
            AuthMethod::Bearer { token_url, scopes } => yoti::Auth::Bearer(Bearer::new(
                &self.sdk_id,
                key,
                token_url.clone(),
                scopes.clone(),
            )?),
        };
        let settings = yoti::Settings {
            base_url: self.base_url.clone(),
            configuration_path: self.configuration_path.clone(),
            session_path: self.session_path.clone(),
            auth,
            timeout: self.timeout,
            connect_timeout: self.connect_timeout,
            max_response_size: self.max_response_size,
            ca_file: self.ca_file.clone(),
        };
        Ok(yoti::Client::new(settings, clock)?)
    }
}

/// How hard the API may be asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests per second, on average.
    pub rate: f64,
    /// Requests that may be made at once after a pause.
    pub burst: u32,
    pub max_in_flight: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub path: PathBuf,
    pub retention: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// The CloudEvents `source`.
    pub source: String,
    pub stdout: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// An `EnvFilter` directive list, known to parse.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A configuration with all that is wrong with it.
#[derive(Debug)]
pub struct Loaded {
    config: Config,
    problems: Vec<Problem>,
}

/// What keeps a command from its work; prints one line a problem.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Problem>);

impl Loaded {
    /// The configuration, if nothing is wrong with these sections.
    ///
    /// # Errors
    /// What is wrong with them, and what is wrong without belonging to a section.
    pub fn require(self, sections: &[&str]) -> Result<Config, ConfigError> {
        let concerns = |problem: &Problem| {
            let section = problem.key.as_deref().map(|key| key.split('.').next().unwrap_or(key));
            section.is_none_or(|section| sections.contains(&section))
        };
        let problems: Vec<Problem> = self.problems.into_iter().filter(concerns).collect();
        if problems.is_empty() { Ok(self.config) } else { Err(ConfigError(problems)) }
    }

    /// The configuration, if nothing at all is wrong with it.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn complete(self) -> Result<Config, ConfigError> {
        if self.problems.is_empty() { Ok(self.config) } else { Err(ConfigError(self.problems)) }
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }
}

/// The files to read when the command line names none.
///
/// # Errors
/// The directory of fragments is there and can't be listed.
pub fn default_files() -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        Some(PathBuf::from(DEFAULT_FILE)).into_iter().filter(|file| file.exists()).collect();
    let directory = Path::new(DEFAULT_DIRECTORY);
    if directory.is_dir() {
        let listed = std::fs::read_dir(directory)?;
        let mut fragments =
            listed.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        fragments.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        fragments.sort();
        files.extend(fragments);
    }
    Ok(files)
}

/// Reads the files, later ones over earlier ones, and the environment over them all.
#[must_use]
pub fn load(files: &[PathBuf], environment: &Environment) -> Loaded {
    let mut sources = Sources::read(files, environment);
    let config = Config {
        api: api(&mut sources, environment),
        sessions: sessions(&mut sources),
        policy: policy(&mut sources),
        limits: limits(&mut sources),
        store: store(&mut sources, environment),
        events: events(&mut sources),
        http: http(&mut sources),
        log: log(&mut sources),
    };
    Loaded { config, problems: sources.finish() }
}

fn api(sources: &mut Sources, environment: &Environment) -> Api {
    let sdk_id = sources.text("api.sdk_id").unwrap_or_default();
    if sdk_id.trim().is_empty() {
        sources
            .problem("api.sdk_id", "required: the SDK id that the Yoti Hub shows beside your key");
    }
    Api {
        base_url: sources.parsed("api.base_url").unwrap_or_default(),
        configuration_path: sources
            .parsed("api.configuration_path")
            .unwrap_or_else(SessionPath::configuration),
        session_path: match sources.text("api.session_path") {
            None => Some(SessionPath::session()),
            Some(empty) if empty.is_empty() => None,
            Some(_) => sources.parsed("api.session_path"),
        },
        sdk_id,
        timeout: duration(sources, "api.timeout", secs(10), MILLISECOND..=HOUR),
        connect_timeout: duration(sources, "api.connect_timeout", secs(5), MILLISECOND..=HOUR),
        max_response_size: response_size(sources),
        ca_file: sources.text("api.ca_file").map(PathBuf::from),
        auth: auth::auth(sources, environment),
    }
}

fn response_size(sources: &mut Sources) -> u64 {
    let key = "api.max_response_size";
    let size = sources.parsed::<bytesize::ByteSize>(key).unwrap_or(bytesize::ByteSize::mib(1));
    if size < bytesize::ByteSize::kib(1) {
        sources.problem(key, format!("{size} is out of range; write at least \"1KiB\""));
    }
    size.as_u64()
}

fn sessions(sources: &mut Sources) -> directory::Settings {
    let key = "sessions.directories";
    let directories = sources.texts(key, "paths");
    let directories = directories.unwrap_or_else(|| vec!["/etc/ibvwatch/sessions.d".to_owned()]);
    if directories.is_empty() {
        sources.problem(key, "is empty; name at least one directory");
    }
    directory::Settings {
        directories: directories.into_iter().map(PathBuf::from).collect(),
        rescan_interval: duration(
            sources,
            "sessions.rescan_interval",
            secs(60),
            100 * MILLISECOND..=DAY,
        ),
        removal_grace: duration(sources, "sessions.removal_grace", secs(10), Duration::ZERO..=DAY),
    }
}

fn policy(sources: &mut Sources) -> Policy {
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
        stop_on_completed: sources
            .flag("poll.stop_on_completed")
            .unwrap_or(default.stop_on_completed),
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
        confirm: sources.text("api.session_path").is_none_or(|path| !path.is_empty()),
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
    let key = "poll.jitter";
    let number = |value: config::Value| value.into_float().map_err(|_| "write a number".to_owned());
    let jitter = sources.take(key, number).unwrap_or(default);
    if (0.0..1.0).contains(&jitter) {
        jitter
    } else {
        sources.problem(key, format!("{jitter} is out of range; write at least 0 and less than 1"));
        default
    }
}

fn limits(sources: &mut Sources) -> Limits {
    let key = "poll.rate_limit";
    let number = |value: config::Value| value.into_float().map_err(|_| "write a number".to_owned());
    let mut rate = sources.take(key, number).unwrap_or(10.0);
    if !(0.001..=1_000_000.0).contains(&rate) {
        sources.problem(
            key,
            format!("{rate} is out of range; write requests per second, 0.001 to 1000000"),
        );
        rate = 10.0;
    }
    let max_in_flight = integer(sources, "poll.max_in_flight", 8, 1..=10_000);
    Limits {
        rate,
        burst: integer(sources, "poll.burst", 20, 1..=1_000_000),
        max_in_flight: usize::try_from(max_in_flight).unwrap_or(usize::MAX),
    }
}

fn store(sources: &mut Sources, environment: &Environment) -> Store {
    if let Some(kind) = sources.text("store.kind")
        && kind != "sqlite"
    {
        sources.problem("store.kind", format!("{kind:?} is unknown; write \"sqlite\""));
    }
    let state = environment.get("STATE_DIRECTORY").map_or("/var/lib/ibvwatch", String::as_str);
    Store {
        path: sources
            .text("store.path")
            .map_or_else(|| Path::new(state).join("ibvwatch.db"), PathBuf::from),
        retention: duration(sources, "store.retention", 30 * DAY, secs(1)..=3_660 * DAY),
    }
}

fn events(sources: &mut Sources) -> Events {
    let source = sources.text("events.source").unwrap_or_else(|| "ibvwatch".to_owned());
    if source.is_empty() {
        sources.problem("events.source", "is empty; CloudEvents need a source");
    }
    Events { source, stdout: sources.flag("sinks.stdout.enabled").unwrap_or(true) }
}

fn http(sources: &mut Sources) -> http::Settings {
    let listen = match sources.text("http.listen") {
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9478))),
        Some(empty) if empty.is_empty() => None,
        Some(text) => text.parse().ok().or_else(|| {
            let message = format!(
                "{text:?} is no address to listen on; write an IP address and a port, like \"127.0.0.1:9478\", or \"\" for no server"
            );
            sources.problem("http.listen", message);
            None
        }),
    };
    let key = "http.allowed_hosts";
    let parse =
        |host: &String| host.parse().map_err(|error: http::InvalidHostName| error.to_string());
    let named = sources.texts(key, "host names");
    let named =
        named.unwrap_or_else(|| ["localhost", "127.0.0.1", "[::1]"].map(String::from).into());
    let allowed_hosts: Result<Vec<_>, _> = named.iter().map(parse).collect();
    http::Settings {
        listen,
        allowed_hosts: allowed_hosts.unwrap_or_else(|message| {
            sources.problem(key, message);
            Vec::new()
        }),
    }
}

fn log(sources: &mut Sources) -> Log {
    let key = "log.level";
    let mut level = sources.text(key).unwrap_or_else(|| "info".to_owned());
    if let Err(error) = level.parse::<tracing_subscriber::EnvFilter>() {
        sources.problem(key, format!("{error}; write like \"info\" or \"warn,ibvwatch=debug\""));
        "info".clone_into(&mut level);
    }
    let format = match sources.text("log.format").as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            let message = format!("{other:?} is unknown; write \"text\" or \"json\"");
            sources.problem("log.format", message);
            LogFormat::Text
        }
    };
    Log { level, format }
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
        let [least, most] = [range.start(), range.end()].map(|&d| humantime::format_duration(d));
        Err(format!("{text} is out of range; write {least} to {most}"))
    };
    sources.take(key, parse).unwrap_or(default)
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
    sources.take(key, parse).unwrap_or(default)
}

#[cfg(test)]
mod tests;
