//! The command line: one file a command.

mod check;
mod completions;
mod demo;
mod events;
mod export;
mod failure;
mod logging;
mod man;
mod plan;
mod poll;
mod privacy;
mod records;
mod run;
mod schema;
mod sessions;
mod show;
mod simulate;
mod table;
mod track;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

pub use failure::Failure;

use crate::config::{self, Environment, Loaded};

/// Watches Yoti in-branch verification sessions and emits an event for every change.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: events go to standard output, diagnostics to standard error
    Run(run::Run),
    /// Validate configuration, key and session files
    Check(check::Check),
    /// Track sessions: write a session file for each into the watched directory
    Track(track::Track),
    /// Stop tracking sessions: remove their session files
    Untrack(track::Untrack),
    /// List the tracked sessions
    Sessions(sessions::Sessions),
    /// Show one session: its resources and the timeline of its events
    Show(show::Show),
    /// Print recorded events, exactly as the daemon prints them
    Events(events::Events),
    /// Print all that the store holds, to be imported into another
    Export(export::Export),
    /// Take over what was exported, into a store that holds nothing yet
    Import(export::Import),
    /// Ask the API about one session now; changes nothing
    Poll(poll::Poll),
    /// What the cadence asks of the API, how soon news comes, and what to change if it doesn't fit
    Plan(plan::Plan),
    /// Print the JSON Schema of events, of session files or of the configuration
    Schema(schema::Schema),
    /// See it work: a simulated Yoti API, the real daemon, and applicants in fast-forward
    Demo(demo::Demo),
    /// Run only the simulated Yoti API, for developing against
    Simulate(simulate::Simulate),
    /// Print a script that completes ibvwatch's arguments in a shell
    Completions(completions::Completions),
    /// Print the manual page
    Man(man::Man),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigFiles {
    /// Configuration file; may be repeated, later ones win
    /// [default: /etc/ibvwatch/config.toml, then /etc/ibvwatch/config.d/*.toml]
    #[arg(long = "config", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl ConfigFiles {
    fn load(&self) -> Result<Loaded, Failure> {
        let files = if self.files.is_empty() {
            config::default_files().map_err(|error| {
                Failure::unusable(format!(
                    "{}: can't be listed: {error}",
                    config::DEFAULT_DIRECTORY
                ))
            })?
        } else {
            self.files.clone()
        };
        Ok(config::load(&files, &environment()))
    }
}

/// The environment; a variable that is not UTF-8 can't name any key of ours.
fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect::<BTreeMap<_, _>>()
}

/// Runs the command; returns the exit status.
///
/// # Errors
/// The command failed; see [`Failure::report`].
pub fn execute(arguments: Arguments) -> Result<i32, Failure> {
    privacy::forbid_core_dumps()?;
    match arguments.command {
        Command::Run(command) => command.execute(),
        Command::Check(command) => command.execute(),
        Command::Track(command) => command.execute(),
        Command::Untrack(command) => command.execute(),
        Command::Sessions(command) => command.execute(),
        Command::Show(command) => command.execute(),
        Command::Events(command) => command.execute(),
        Command::Export(command) => command.execute(),
        Command::Import(command) => command.execute(),
        Command::Poll(command) => command.execute(),
        Command::Plan(command) => command.execute(),
        Command::Schema(command) => command.execute(),
        Command::Demo(command) => command.execute(),
        Command::Simulate(command) => command.execute(),
        Command::Completions(command) => command.execute(),
        Command::Man(command) => command.execute(),
    }
}

/// Waits for SIGINT or SIGTERM.
async fn told_to_stop() -> Result<(), Failure> {
    let on = |kind| {
        signal(kind).map_err(|error| Failure::failed(format!("signals can't be taken: {error}")))
    };
    let (mut interrupt, mut terminate) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// A runtime for the commands that need one.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the runtime could not be started: {error}")))
}
