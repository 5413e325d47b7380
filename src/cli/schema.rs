use std::io::Write;

use clap::{Args, ValueEnum};

use super::Failure;
use super::failure::SUCCESS;
use crate::{config, directory, schema};

#[derive(Debug, Args)]
pub(super) struct Schema {
    /// What it is the schema of
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// One line of the event stream
    Event,
    /// A session file, JSON or TOML
    SessionsFile,
    /// A configuration file
    Config,
}

impl Schema {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let schema = match self.of {
            Of::Event => schema::event(),
            Of::SessionsFile => directory::schema(),
            Of::Config => config::schema(),
        };
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &schema).map_err(std::io::Error::from)?;
        writeln!(out)?;
        Ok(SUCCESS)
    }
}
