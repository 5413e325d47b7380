use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::failure::SUCCESS;
use super::{Arguments, Failure};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell to complete for
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        // Into memory first: the generator panics where a write fails.
        let mut script = Vec::new();
        generate(self.shell, &mut Arguments::command(), "ibvwatch", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(SUCCESS)
    }
}
