//! The manual: what clap knows of the commands, and what it can't know.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};

use super::failure::SUCCESS;
use super::{Arguments, Failure};

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write a page for each command into this directory, instead of one to standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Files, environment, signals, exit statuses and what to read next.
const SURROUNDINGS: &str = include_str!("man/surroundings.roff");

impl Man {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let mut command = Arguments::command()
            .disable_help_subcommand(true)
            .mut_subcommands(|command| command.disable_help_flag(true));
        command.build();
        let Some(dir) = self.dir else {
            io::stdout().write_all(&whole(&command)?)?;
            return Ok(SUCCESS);
        };
        let mut out = anstream::stdout().lock();
        let own = ("ibvwatch.1".to_owned(), whole(&command)?);
        let pages = command.get_subcommands().map(|command| Ok(page(command)?));
        for page in std::iter::once(Ok::<_, Failure>(own)).chain(pages) {
            let (name, text) = page?;
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|error| {
                Failure::failed(format!("{}: can't be written: {error}", path.display()))
            })?;
            writeln!(out, "{}", path.display())?;
        }
        Ok(SUCCESS)
    }
}

fn manual(command: &Command) -> clap_mangen::Man {
    clap_mangen::Man::new(command.clone())
}

/// Written here, since an empty date would make the version the date.
fn title(name: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH \"{name}\" 1 \"\" \"ibvwatch {version}\" \"ibvwatch manual\"\n")
}

/// One page about everything.
fn whole(command: &Command) -> io::Result<Vec<u8>> {
    let man = manual(command);
    let mut page = title("ibvwatch").into_bytes();
    for section in
        [clap_mangen::Man::render_name_section, clap_mangen::Man::render_synopsis_section]
    {
        section(&man, &mut page)?;
    }
    man.render_options_section(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    for command in command.get_subcommands() {
        let man = manual(command);
        writeln!(page, ".SS \"{}\"", command.get_name())?;
        page.extend(body(|out| man.render_synopsis_section(out))?);
        page.extend_from_slice(b".PP\n");
        page.extend(body(|out| man.render_description_section(out))?);
        page.extend(body(|out| man.render_options_section(out))?);
    }
    page.extend_from_slice(SURROUNDINGS.as_bytes());
    Ok(page)
}

/// The page about one command, and its file name.
fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let man = manual(command);
    let name = man.get_filename();
    let mut page = title(name.trim_end_matches(".1")).into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(b".SH \"SEE ALSO\"\n.BR ibvwatch (1)\n");
    Ok((name, page))
}

/// A section without what stands before its text: a preamble, and its title.
fn body(section: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    section(&mut text)?;
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    // A section that has nothing to say has no title either.
    let _ = lines.find(|line| line.starts_with(b".SH"));
    Ok(lines.flatten().copied().collect())
}
