//! `mesh node kill`: nodes are asked to leave, and it is watched whether they do.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::info::named;
use crate::cli::reach::ReachArgs;
use crate::cli::show::{document, node_json};
use crate::cli::time::Time;
use crate::cli::{Failure, runtime};
use crate::name::escaped;
use crate::topology::NodeInfo;
use crate::visit::Visit;

/// Ask nodes to leave the mesh.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh node kill camera            all nodes of that name; asks first
  mesh node kill camera lidar --yes
  mesh node kill --all --yes

A node that is asked lets its handlers finish, and closes. Its program goes on, unless it ends when
`forever()` returns, as most do.
Exit codes: 0 they left, 1 no coordinator, some did not leave in time, or the answer was no, 2 no
such node, no terminal to ask at and no --yes, or wrong usage.")]
pub struct KillArgs {
    /// Names or ids of the nodes
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub nodes: Vec<String>,
    /// All nodes there are
    #[arg(long, conflicts_with = "nodes")]
    pub all: bool,
    /// Do not ask first; without a terminal to ask at nobody is told to leave unless it is given
    #[arg(long, short)]
    pub yes: bool,
    /// How long to wait for them to leave
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        allow_negative_numbers = true
    )]
    pub timeout: Time,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &KillArgs) -> Result<(), Failure> {
    let chosen = choose(args)?;
    if chosen.is_empty() {
        return report(args, &chosen, &[]);
    }
    if !args.yes && !is_agreed(&chosen)? {
        return Err(anyhow::anyhow!("nobody was told to leave").into());
    }
    let remaining = runtime()?.block_on(async {
        // A new one: the question may have taken long.
        let mut visit = args.reach.visit().await?;
        let ids: Vec<_> = chosen.iter().map(|node| node.id).collect();
        visit.dismiss(&ids).await?;
        wait(&mut visit, &chosen, args.timeout.0).await
    })?;
    report(args, &chosen, &remaining)
}

fn choose(args: &KillArgs) -> Result<Vec<NodeInfo>, Failure> {
    let topology = args.reach.look()?;
    if args.all {
        return Ok(topology.nodes().cloned().collect());
    }
    let mut chosen: Vec<NodeInfo> = Vec::new();
    for name in &args.nodes {
        for node in named(&topology, name)? {
            if !chosen.iter().any(|known| known.id == node.id) {
                chosen.push(node.clone());
            }
        }
    }
    Ok(chosen)
}

/// Asks whoever sits there.
fn is_agreed(chosen: &[NodeInfo]) -> Result<bool, Failure> {
    let names: Vec<String> = chosen.iter().map(|node| escaped(&node.name)).collect();
    let names = names.join(", ");
    if !std::io::stdin().is_terminal() {
        let text = format!(
            "nobody was told to leave: there is no terminal to ask at about {names}; \
            --yes does without"
        );
        return Err(Failure::usage(text));
    }
    let mut err = std::io::stderr().lock();
    let count = match chosen.len() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    write!(err, "Ask {count} to leave the mesh: {names}? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Until they are gone, or patience is: those that are not.
async fn wait(
    visit: &mut Visit,
    chosen: &[NodeInfo],
    patience: Duration,
) -> Result<Vec<NodeInfo>, Failure> {
    let asked = Instant::now();
    loop {
        let topology = visit.look().await?;
        let is_there = |node: &&NodeInfo| topology.node(node.id).is_some();
        let remaining: Vec<NodeInfo> = chosen.iter().filter(is_there).cloned().collect();
        if remaining.is_empty() || asked.elapsed() >= patience {
            return Ok(remaining);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Between two looks; a visitor may look that often.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

fn report(args: &KillArgs, chosen: &[NodeInfo], remaining: &[NodeInfo]) -> Result<(), Failure> {
    let is_left = |node: &&NodeInfo| !remaining.iter().any(|other| other.id == node.id);
    let left = chosen.iter().filter(is_left);
    if args.json {
        let left: Vec<Value> = left.map(node_json).collect();
        let remaining: Vec<Value> = remaining.iter().map(node_json).collect();
        document(&json!({ "left": left, "remaining": remaining }))?;
    } else {
        let mut out = std::io::stdout().lock();
        for node in left {
            writeln!(out, "{} left (process {})", escaped(&node.name), node.pid)?;
        }
        out.flush()?;
    }
    if remaining.is_empty() {
        return Ok(());
    }
    let of = |node: &NodeInfo| format!("{} (process {})", escaped(&node.name), node.pid);
    let names: Vec<String> = remaining.iter().map(of).collect();
    let (names, timeout) = (names.join(", "), args.timeout);
    let error = anyhow::anyhow!(
        "did not leave within {timeout} s: {names}; it hangs, or is stopped: end its process"
    );
    Err(error.into())
}
