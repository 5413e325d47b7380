//! Diagnostics: tracing, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::Failure;
use crate::config::{Log, LogFormat};

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// Changes what a running process logs, and how.
#[derive(Clone)]
pub(super) struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: reload::Handle<Lines, Filtered>,
}

/// Starts logging as configured.
pub(super) fn start(log: &Log) -> Result<Logging, Failure> {
    let (filter, filter_handle) = reload::Layer::new(filter(log)?);
    let (lines, lines_handle) = reload::Layer::new(lines(log.format));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| Failure::failed(format!("logging could not be started: {error}")))?;
    Ok(Logging { filter: filter_handle, lines: lines_handle })
}

fn filter(log: &Log) -> Result<EnvFilter, Failure> {
    // The NATS client tells of each try to connect; what comes of them is told by the store.
    let level = format!("async_nats=warn,{}", log.level);
    level.parse().map_err(|error| Failure::unusable(format!("log.level: {error}")))
}

fn lines(format: LogFormat) -> Lines {
    match format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false).boxed()
        }
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            .boxed(),
    }
}

impl Logging {
    pub(super) fn change(&self, log: &Log) -> Result<(), Failure> {
        self.filter.reload(filter(log)?).map_err(Failure::failed)?;
        self.lines.reload(lines(log.format)).map_err(Failure::failed)
    }
}
