//! Runs `recado completions` and `recado man`: files for shells and man pages, made from the command line's definition.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::error::CliFailure;
use super::output;

/// Print a file that completes commands and flags in a shell.
#[derive(Debug, Args)]
pub struct CompletionsCommand {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsCommand {
    pub fn run(&self, mut program: Command) -> Result<(), CliFailure> {
        let name = program.get_name().to_owned();
        let mut file = Vec::new();
        clap_complete::generate(self.shell, &mut program, name, &mut file);
        output::line(String::from_utf8_lossy(&file).trim_end())
    }
}

/// Write a man page for each command.
#[derive(Debug, Args)]
pub struct ManCommand {
    /// Folder for the pages; it is made if it does not exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManCommand {
    pub fn run(&self, program: Command) -> Result<(), CliFailure> {
        let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
        let mut program = program.disable_help_subcommand(true);
        program.build();
        let written = std::fs::create_dir_all(&self.folder).and_then(|()| write_pages(program, &source, &self.folder));
        written.map_err(|error| CliFailure::other(format!("cannot write man pages to {}: {error}", self.folder.display())))
    }
}

/// Writes the pages of a command and of its subcommands. They have no date, so that two builds are equal.
fn write_pages(command: Command, source: &str, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned() {
        write_pages(subcommand, source, folder)?;
    }
    Man::new(command).source(source).manual("Recado").generate_to(folder).map(|_| ())
}
