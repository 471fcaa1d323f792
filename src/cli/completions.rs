//! `mesh completions`: what a shell needs to complete the tool's arguments.

use std::io::Write as _;

use clap::{Args, Command};
use clap_complete::Shell;

use super::Failure;
use super::speedtest::SpeedtestArgs;

/// Print what a shell needs to complete the arguments of mesh.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh completions bash > ~/.local/share/bash-completion/completions/mesh
                        and of mesh-speedtest, if a link beside it has that name
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
    // Other shells take one program from a file.
    if args.shell == Shell::Bash {
        let speedtest = SpeedtestArgs::augment_args(Command::new(SPEEDTEST));
        clap_complete::generate(args.shell, &mut visible(&speedtest), SPEEDTEST, &mut text);
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    Ok(out.flush()?)
}

/// A command without what is not for people, at any depth.
pub(super) fn visible(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned())
        .subcommand_required(command.is_subcommand_required_set())
        .arg_required_else_help(command.is_arg_required_else_help_set())
        .args_conflicts_with_subcommands(command.is_args_conflicts_with_subcommands_set());
    if command.get_version().is_some() {
        shown = shown.version(env!("CARGO_PKG_VERSION"));
    }
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        shown = shown.long_about(about.clone());
    }
    if let Some(after) = command.get_after_help() {
        shown = shown.after_help(after.clone());
    }
    let aliases = command.get_visible_aliases().map(str::to_owned);
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    shown
        .visible_aliases(aliases.collect::<Vec<_>>())
        .args(args.cloned())
        .subcommands(verbs.map(visible))
}

const SPEEDTEST: &str = "mesh-speedtest";
