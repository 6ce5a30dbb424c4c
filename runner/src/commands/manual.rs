//! `runner manual`: the manual pages of the commands.

use std::path::PathBuf;

use clap::{Args, Command};

use crate::exit::{Exit, Failure, failure};

/// Write the manual pages, one for each command, into a folder.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner manual --out ~/.local/share/man/man1")]
pub struct ManualArgs {
    /// The folder, which is made if it does not exist.
    #[arg(long)]
    pub out: PathBuf,
}

/// Writes the pages of `command` and prints the path of the first.
pub fn manual(args: &ManualArgs, command: Command) -> Result<(), Failure> {
    let out = &args.out;
    let failed =
        |e: std::io::Error| failure(Exit::Unexpected, format_args!("{}: {e}", out.display()));
    std::fs::create_dir_all(out).map_err(failed)?;
    let page = out.join(format!("{}.1", command.get_name()));
    clap_mangen::generate_to(command, out).map_err(failed)?;
    println!("{}", page.display());
    Ok(())
}
