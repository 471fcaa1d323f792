//! `mesh`: the tools of shmesh. Without a verb it runs a coordinator.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use shmesh::cli::{Failure, finish, log_to_stderr};
use shmesh::cli::{
    bag, completions, coordinator, doctor, launch, man, metrics, node, service, speedtest, top,
    topic,
};

/// Zero-copy messaging for robots: the tools. Without a command it runs a coordinator.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  mesh                        run a coordinator on 127.0.0.1:7679
  mesh coordinator --port 0   run one on a free port
  mesh node list              who is in the mesh
  mesh topic list             what they send and want
  mesh service list           what they serve
  mesh bag record --all       record all topics into an MCAP file
  mesh launch                 start the nodes of launch.yaml
  mesh doctor                 check this computer and the mesh
  mesh metrics                serve what nodes count, for Prometheus
  mesh speedtest local        measure this computer
  mesh top                    watch nodes, topics and services live

RUST_LOG=info, or shmesh=debug, says more on standard error than warnings.
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
    /// List nodes, look at them, have them leave
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// List topics, look at them, measure them
    #[command(subcommand)]
    Topic(topic::TopicVerb),
    /// List services, look at them
    #[command(subcommand)]
    Service(service::ServiceVerb),
    /// Record topics into MCAP files, and send them again
    #[command(subcommand)]
    Bag(bag::BagVerb),
    /// Start the nodes of a launch file together, and end them together
    Launch(launch::LaunchArgs),
    /// Check this computer and the mesh
    Doctor(doctor::DoctorArgs),
    /// Print what a shell needs to complete arguments
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(man::ManArgs),
    /// One process of a launch
    #[command(hide = true)]
    LaunchChild(launch::child::ChildArgs),
    /// Serve what nodes count, for Prometheus
    Metrics(metrics::MetricsArgs),
    /// Measure latency and throughput; the same as mesh-speedtest
    Speedtest(speedtest::SpeedtestArgs),
    /// Watch nodes, topics and services in the terminal
    Top(top::TopArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Whoever has the whole screen cannot have logs in it.
    if !matches!(&cli.verb, Some(Verb::Top(args)) if args.has_screen()) {
        log_to_stderr();
    }
    finish("mesh", run(&cli))
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.verb {
        None => coordinator::run(&cli.coordinator),
        Some(Verb::Coordinator(args)) => coordinator::run(args),
        Some(Verb::Node(verb)) => node::run(verb),
        Some(Verb::Topic(verb)) => topic::run(verb),
        Some(Verb::Service(verb)) => service::run(verb),
        Some(Verb::Bag(verb)) => bag::run(verb),
        Some(Verb::Launch(args)) => launch::run(args),
        Some(Verb::LaunchChild(args)) => launch::child::run(args),
        Some(Verb::Doctor(args)) => doctor::run(args),
        Some(Verb::Completions(args)) => completions::run(args, &Cli::command()),
        Some(Verb::Man(args)) => man::run(args, &Cli::command()),
        Some(Verb::Metrics(args)) => metrics::run(args),
        Some(Verb::Speedtest(args)) => speedtest::run(args),
        Some(Verb::Top(args)) => top::run(args),
    }
}
