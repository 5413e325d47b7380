//! What a store holds, out of it and into another.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;

use super::failure::SUCCESS;
use super::{ConfigFiles, Failure, runtime};
use crate::store::{Carried, ExportError, ImportError, jetstream, sqlite};

#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    config: ConfigFiles,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    #[command(flatten)]
    config: ConfigFiles,
    /// What `ibvwatch export` printed; - for standard input
    file: PathBuf,
}

impl Export {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["store"])?;
        let out = BufWriter::new(io::stdout().lock());
        match &config.store.jetstream {
            None => sqlite::export(&config.store.path, out)?,
            Some(settings) => runtime()?.block_on(jetstream::export(settings, out))?,
        };
        Ok(SUCCESS)
    }
}

impl Import {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["store"])?;
        let file = self.file.display();
        let input: Box<dyn BufRead> = if self.file.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            let opened = File::open(&self.file);
            let cannot = |error| Failure::failed(format!("{file}: it can't be opened: {error}"));
            Box::new(BufReader::new(opened.map_err(cannot)?))
        };
        let (carried, into) = match &config.store.jetstream {
            None => {
                let path = &config.store.path;
                (sqlite::import(path, input), path.display().to_string())
            }
            Some(settings) => {
                let import = jetstream::import(settings, &config.policy, input);
                (runtime()?.block_on(import), format!("stream {}", settings.name))
            }
        };
        let carried = carried.map_err(|error| match error {
            ImportError::Store(error) => error.into(),
            ImportError::Input(_) | ImportError::Line { .. } => {
                Failure::failed(format!("{file}: {error}"))
            }
        })?;
        writeln!(anstream::stdout(), "{} imported into {into}", told(carried))?;
        Ok(SUCCESS)
    }
}

fn told(carried: Carried) -> String {
    let counted = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    format!("{} and {}", counted(carried.sessions, "session"), counted(carried.events, "event"))
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Store(error) => error.into(),
            ExportError::Output(error) => error.into(),
        }
    }
}
