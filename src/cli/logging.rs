//! Diagnostics: tracing, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::Failure;
use crate::config::{Log, LogFormat};

/// Changes the filter of a running process.
#[derive(Debug, Clone)]
pub(super) struct LogFilter(reload::Handle<EnvFilter, Registry>);

/// Starts logging as configured.
pub(super) fn start(log: &Log) -> Result<LogFilter, Failure> {
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = match log.format {
        LogFormat::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false).boxed()
        }
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| Failure::failed(format!("logging could not be started: {error}")))?;
    Ok(LogFilter(handle))
}

fn filter(log: &Log) -> Result<EnvFilter, Failure> {
    log.level.parse().map_err(|error| Failure::unusable(format!("log.level: {error}")))
}

impl LogFilter {
    pub(super) fn change(&self, log: &Log) -> Result<(), Failure> {
        self.0.reload(filter(log)?).map_err(Failure::failed)
    }
}
