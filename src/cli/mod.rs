//! The command-line tools: one file for each verb. Not part of the library's interface.
#![allow(clippy::print_stdout)] // this is what tools do

/// Says something to the user on standard error, as `eprintln!` does. That nobody can hear it, as
/// where a terminal was closed, ends nothing.
macro_rules! note {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

pub mod bag;
pub mod completions;
pub mod coordinator;
pub mod doctor;
pub mod launch;
pub mod man;
pub mod metrics;
pub mod node;
mod output;
mod pace;
pub mod reach;
mod reading;
pub mod security;
pub mod service;
mod show;
mod signals;
pub mod speedtest;
mod survey;
mod time;
pub mod top;
pub mod topic;
mod writing;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::error::Error;

/// How a tool ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked, or nobody reads its output any more.
    Success,
    /// It failed.
    Failure,
    /// It was asked wrongly, or for what is not there.
    Usage,
}

impl Exit {
    /// As the number for the shell.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
        }
    }
}

/// An error of a tool: what to print, and how to end.
#[derive(Debug)]
pub struct Failure {
    /// How to end.
    pub exit: Exit,
    /// What to print, if anything.
    pub error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        // A key or a name that cannot be used was given so, whichever verb it was given to.
        let exit = match error.downcast_ref() {
            Some(Error::Key(_) | Error::InvalidName { .. }) => Exit::Usage,
            _ => Exit::Failure,
        };
        Self { exit, error }
    }
}

impl Failure {
    /// For what cannot be asked.
    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            error: anyhow::anyhow!(text.into()),
        }
    }
}

/// A runtime on this thread, for what a tool waits for.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let what = "make a runtime";
    runtime.map_err(|source| Error::Io { what, source })
}

/// True if the user wants no colours (<https://no-color.org>).
pub(crate) fn is_colourless() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Prints a tool's error and turns its outcome into an exit code. Output that nobody reads any
/// more (`| head -1`) is success.
#[must_use]
pub fn finish(tool: &str, outcome: Result<(), Failure>) -> ExitCode {
    let Err(Failure { exit, error }) = outcome else {
        return Exit::Success.code().into();
    };
    let is_broken_pipe = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if is_broken_pipe {
        return Exit::Success.code().into();
    }
    note!("{tool}: {}", full_text(&error));
    exit.code().into()
}

/// What to do where no coordinator is: a library's advice would be for programs.
pub(crate) const NO_COORDINATOR: &str = "start one with `mesh coordinator`, or say where it is \
    with --coordinator or $SHMESH_COORDINATOR";

/// An error and its causes, but for those that its text has already.
pub(crate) fn full_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = match cause.downcast_ref() {
            Some(Error::CoordinatorUnreachable { address, source }) => {
                let address = crate::name::escaped(address);
                format!("no coordinator at {address}: {source}; {NO_COORDINATOR}")
            }
            _ => cause.to_string(),
        };
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(separator);
            text.push_str(&cause);
        }
    }
    text
}

/// Logs go to standard error; `RUST_LOG` chooses which, warnings unless set.
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Plain on a terminal, too: colours are a feature that we are built without.
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_what_scripts_rely_on() {
        assert_eq!(
            [Exit::Success, Exit::Failure, Exit::Usage].map(Exit::code),
            [0, 1, 2]
        );
    }
}
