//! `mesh-speedtest`: how fast messages are on this computer, and how late the latest come.
//!
//! The sender drives: it tells the receiver each run over a topic of its own, and gets what the
//! receiver measured over another. So two terminals need nothing but a coordinator, and the
//! receiver serves any number of runs.

mod bare_tcp;
mod call;
mod cores;
mod local;
mod peer;
mod receiver;
mod reference;
mod report;
mod sender;
mod spec;

use std::path::PathBuf;
use std::process::Command;

use clap::{Args, Subcommand};

use self::spec::{Pattern, Payload, Transport, Wait, parse_size};
use super::Failure;
use super::reach::parse_address;
use super::security::SecurityArgs;

/// Measure latency and throughput between two processes.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh-speedtest local                                   everything, in one table
  mesh-speedtest local --pattern ping --message-size 64  one measurement
  mesh-speedtest local --pattern paced --rate 200 --message-size 1MB --wait async --json
  mesh-speedtest local --pattern call --in-flight 64     calls a second
  mesh-speedtest local --pattern call --rate 1000 --wait async  ... with both ends asleep between
  mesh-speedtest recv                                    on one terminal, and ...
  mesh-speedtest send                                    ... on another (with `mesh` running)
  mesh-speedtest local --transport tcp                   the network path, on this computer
  mesh coordinator --host 0.0.0.0 --authkey-file key     on host a; then, with the same key file,
  mesh-speedtest recv --coordinator a --authkey-file key on host a, and `send` likewise on host b

Latencies are one-way: of ping, half of a round trip; of paced, from the time each message was due,
by the clock that the processes of one host share. Those of call are whole round trips, and so is
the bare reference beside them.
Exit codes: 0 success, 1 failure, 2 wrong usage.")]
pub struct SpeedtestArgs {
    #[command(subcommand)]
    side: Side,
}

#[derive(Clone, Debug, Subcommand)]
enum Side {
    /// Start a coordinator, a receiver and a sender, measure, and clean up
    Local(RunArgs),
    /// Send to a receiver, and say what came of it
    Send(RunArgs),
    /// Receive, for any number of senders, until Ctrl-C
    Recv(RecvArgs),
    /// The other end of the bare reference measurement
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
}

/// What both ends take.
#[derive(Args, Clone, Debug)]
struct CommonArgs {
    /// First part of the names of the topics used
    #[arg(long, default_value = "speedtest")]
    topic: String,
    /// Address of the coordinator [default: $SHMESH_COORDINATOR or 127.0.0.1:7679]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_address)]
    coordinator: Option<String>,
    #[command(flatten)]
    security: SecurityArgs,
    /// Address to listen at for the other host [default: $SHMESH_LISTEN or a free port of the
    /// address from which the coordinator is reached]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Further address under which the other host reaches this one [default: $SHMESH_ADVERTISE]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// Core to run on [default: the sender on the first, the receiver on the second]
    #[arg(long)]
    core: Option<usize>,
    /// Exit when standard input ends
    #[arg(long, hide = true)]
    until_eof: bool,
}

#[derive(Args, Clone, Debug)]
struct RecvArgs {
    #[command(flatten)]
    common: CommonArgs,
    // The sender chooses all but the transport; taken so that both ends can be called alike, as
    // with rosy.
    #[command(flatten)]
    choices: ChoiceArgs,
}

#[derive(Args, Clone, Debug)]
struct RunArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    choices: ChoiceArgs,
}

/// What is measured. The sender chooses for both.
#[derive(Args, Clone, Debug)]
struct ChoiceArgs {
    /// Bytes of a message: 64, 1k, 1kB, 1KiB, 1MiB [default: 0, 64, 1kB and 1MB in turn]
    #[arg(long, value_parser = parse_size)]
    message_size: Option<usize>,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How to wait for messages
    #[arg(long, value_enum, default_value_t = Wait::Spin)]
    wait: Wait,
    /// How messages travel
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    transport: Transport,
    /// What to measure [default: all in turn]
    #[arg(long, value_enum)]
    pattern: Option<Pattern>,
    /// Messages a second: of `paced`, 1000 unless set; of `call`, where calls otherwise follow each
    /// other and nobody sleeps between them
    #[arg(long)]
    rate: Option<f64>,
    /// Calls under way at once, for `call`
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::limits::CALLS_MAX)))]
    in_flight: u32,
    /// What the sender writes [default: `write` for stream, else `loan`]
    #[arg(long, value_enum)]
    payload: Option<Payload>,
    /// Print one line of JSON for each measurement, and nothing else
    #[arg(long)]
    json: bool,
    /// Write the latencies to this file, in HdrHistogram's percentile format
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
}

/// Runs the tool.
///
/// # Errors
/// What kept it from measuring.
pub fn run(args: &SpeedtestArgs) -> Result<(), Failure> {
    match &args.side {
        Side::Local(run) => {
            check(&run.choices)?;
            if run.common.coordinator.is_some() {
                return Err(Failure::usage(
                    "`local` has a coordinator of its own; with `--coordinator` start `recv`, and \
                     then `send`",
                ));
            }
            local::run(run)
        }
        Side::Send(run) => {
            check(&run.choices)?;
            sender::run(run)
        }
        Side::Recv(recv) => receiver::run(recv),
        Side::Reference(args) => reference::serve(args),
    }
}

/// This program once more, to do another part of the tool's work.
fn once_more(part: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(verb()).arg(part);
    command
}

/// The word before the part when this runs as `mesh speedtest`.
fn verb() -> Option<String> {
    std::env::args().nth(1).filter(|first| first == "speedtest")
}

fn check(choices: &ChoiceArgs) -> Result<(), Failure> {
    for (what, value, max) in [
        ("seconds", Some(choices.seconds), 86_400.0),
        ("rate", choices.rate, 1e6),
    ] {
        let Some(value) = value else { continue };
        if !(value > 0.0 && value <= max) {
            return Err(Failure::usage(format!(
                "--{what} must be above 0 and at most {max}"
            )));
        }
    }
    Ok(())
}
