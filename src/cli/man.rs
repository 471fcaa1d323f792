//! `mesh man`: manual pages.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;

use super::Failure;
use super::completions::visible;
use crate::name::escaped_path;

/// Print the manual page of mesh, or write those of all its commands.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh man | man -l -                          read it
  mesh man --dir ~/.local/share/man/man1       and then: man mesh-launch

Exit codes: 0 success, 1 it cannot be written, 2 wrong usage.")]
pub struct ManArgs {
    /// Write a page for each command into this directory instead
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints or writes them.
///
/// # Errors
/// If that fails.
pub fn run(args: &ManArgs, tool: &Command) -> Result<(), Failure> {
    let mut tool = visible(tool).disable_help_subcommand(true);
    tool.build();
    let Some(dir) = &args.dir else {
        let page = page(&tool)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&page)?;
        return Ok(out.flush()?);
    };
    std::fs::create_dir_all(dir)
        .map_err(|error| anyhow::anyhow!("--dir {}: {error}", escaped_path(dir)))?;
    write(dir, &tool, "mesh")
}

/// A command that was built knows its whole name.
fn page(tool: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let source = concat!("mesh ", env!("CARGO_PKG_VERSION"));
    Man::new(tool.clone()).source(source).render(&mut page)?;
    Ok(page)
}

/// A command's page, and those of its own commands.
fn write(dir: &Path, tool: &Command, name: &str) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(tool)?)
        .map_err(|error| anyhow::anyhow!("{}: {error}", escaped_path(&path)))?;
    for verb in tool.get_subcommands() {
        write(dir, verb, &format!("{name}-{}", verb.get_name()))?;
    }
    Ok(())
}
