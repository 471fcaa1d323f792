//! The command-line tools: one file for each verb. Not part of the library's interface.
#![allow(clippy::print_stdout)] // this is what tools do

pub mod coordinator;
pub mod security;
pub mod speedtest;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

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
        Self {
            exit: Exit::Failure,
            error: error.into(),
        }
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
    eprintln!("{tool}: {}", full_text(&error));
    exit.code().into()
}

/// An error and its causes, but for those that its text has already.
pub(crate) fn full_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
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
        .with_ansi(std::io::stderr().is_terminal())
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
