//! `mesh-speedtest`: measures latency and throughput between two processes.

use std::process::ExitCode;

use clap::Parser;
use shmesh::cli::{finish, log_to_stderr, speedtest};

#[derive(Debug, Parser)]
#[command(name = "mesh-speedtest", version)]
struct Cli {
    #[command(flatten)]
    args: speedtest::SpeedtestArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    finish("mesh-speedtest", speedtest::run(&cli.args))
}
