//! Configuration: what is written in TOML and the environment, made into what the parts take.
//!
//! Everything wrong is found in one reading and reported together, each with its place. A
//! command needs only some sections and isn't kept from its work by a mistake in another:
//! [`Loaded::require`] says which it needs.

mod auth;
mod reading;
mod shape;
mod sources;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::directory;
use crate::domain::Policy;
use crate::http;
use crate::store::jetstream;
use crate::yoti;
use crate::yoti::{
    BaseUrl, Bearer, ClientError, InvalidSdkId, KeyError, PrivateKey, SessionPath, Signer,
};

pub use auth::{Auth, AuthMethod};
use reading::read;
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

impl Limits {
    /// What each of so many nodes may ask for, so that together they keep the limits. The last is
    /// the cluster's own to keep.
    #[must_use]
    pub fn shared_by(self, nodes: usize) -> Self {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        Self { rate: self.rate / f64::from(nodes), burst: (self.burst / nodes).max(1), ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The cluster's store, in place of a database, if that is what is configured.
    pub jetstream: Option<jetstream::Settings>,
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
    let config = read(&mut sources, environment);
    Loaded { config, problems: sources.finish() }
}

/// The JSON Schema of a configuration file: what [`load`] asks for, and would take.
#[must_use]
pub fn schema() -> serde_json::Value {
    let nothing = Environment::new();
    let mut sources = Sources::read(&[], &nothing);
    read(&mut sources, &nothing);
    sources.schema()
}

#[cfg(test)]
mod tests;
