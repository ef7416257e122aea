//! `sidehook rules`: what helps to write rules.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;

use super::{exit, print};
use crate::rules::definition_files;

/// Arguments of `sidehook rules`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  sidehook rules definitions .rhai")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes definition files of the host functions and the event, for the Rhai language server.
    #[command(after_help = "Example:\n  sidehook rules definitions .rhai\n\n\
        The files are functions.d.rhai and event.d.rhai. Name the folder in the `source.include` of a Rhai.toml beside your\n\
        rules, with the rules themselves.")]
    Definitions {
        /// Folder to write them to; made when it is not there.
        dir: PathBuf,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let Command::Definitions { dir } = &args.command;
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    for (name, text) in definition_files() {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(exit::OK)
}
