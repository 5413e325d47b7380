//! What a store holds, out of it and into another.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;

use super::failure::SUCCESS;
use super::{ConfigFiles, Failure};
use crate::store::sqlite;
use crate::store::{Carried, ExportError, ImportError};

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
        sqlite::export(&config.store.path, out)?;
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
        let store = &config.store.path;
        let carried = sqlite::import(store, input).map_err(|error| match error {
            ImportError::Store(error) => error.into(),
            ImportError::Input(_) | ImportError::Line { .. } => {
                Failure::failed(format!("{file}: {error}"))
            }
        })?;
        writeln!(anstream::stdout(), "{} imported into {}", told(carried), store.display())?;
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
