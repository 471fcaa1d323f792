//! `mesh completions`: what a shell needs to complete the tool's arguments.

use std::io::Write as _;

use clap::{Args, Command};
use clap_complete::Shell;

use super::Failure;

/// Print what a shell needs to complete the arguments of mesh.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh completions bash > ~/.local/share/bash-completion/completions/mesh
  mesh completions zsh > ~/.zfunc/_mesh        with ~/.zfunc in fpath
  mesh completions fish > ~/.config/fish/completions/mesh.fish

Exit codes: 0 success, 1 failure, 2 wrong usage.")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Prints them.
///
/// # Errors
/// If that fails.
pub fn run(args: &CompletionsArgs, tool: &Command) -> Result<(), Failure> {
    // The generator panics when nobody reads, so it writes here.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut visible(tool), "mesh", &mut text);
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    Ok(out.flush()?)
}

/// The tool without what is not for people.
pub(super) fn visible(tool: &Command) -> Command {
    let mut shown = Command::new("mesh").version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = tool.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(after) = tool.get_after_help() {
        shown = shown.after_help(after.clone());
    }
    let verbs = tool.get_subcommands().filter(|verb| !verb.is_hide_set());
    shown
        .args(tool.get_arguments().cloned())
        .subcommands(verbs.cloned())
}
