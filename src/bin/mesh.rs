//! `mesh`: the tools of shmesh. Without a verb it runs a coordinator.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shmesh::cli::{Failure, coordinator, finish, log_to_stderr, speedtest};

/// Zero-copy messaging for robots: the tools. Without a command it runs a coordinator.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  mesh                        run a coordinator on 127.0.0.1:7679
  mesh coordinator --port 0   run one on a free port
  mesh speedtest local        measure this computer

Exit codes: 0 success, 1 failure, 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    coordinator: coordinator::CoordinatorArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell nodes about each other
    Coordinator(coordinator::CoordinatorArgs),
    /// Measure latency and throughput; the same as mesh-speedtest
    Speedtest(speedtest::SpeedtestArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    finish("mesh", run(&cli))
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.verb {
        None => coordinator::run(&cli.coordinator),
        Some(Verb::Coordinator(args)) => coordinator::run(args),
        Some(Verb::Speedtest(args)) => speedtest::run(args),
    }
}
