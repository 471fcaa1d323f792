//! `mesh node info`.

use std::io::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::reach::ReachArgs;
use crate::cli::show::{document, node_json, output, type_json, type_text};
use crate::cli::survey::{Doings, doings};
use crate::name::escaped;
use crate::topology::{NodeInfo, TopicType, Topology};

/// Say what a node sends, receives, serves and calls, with types; of several nodes of that name,
/// each.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh node info camera
  mesh node info camera --json | jq '.nodes[0].publishes'

Exit codes: 0 success, 1 no coordinator, 2 no such node, or wrong usage.")]
pub struct InfoArgs {
    /// Name or id of the node
    #[arg(value_name = "NAME")]
    pub node: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &InfoArgs) -> Result<(), Failure> {
    let topology = args.reach.look()?;
    let nodes = named(&topology, &args.node)?;
    if args.json {
        let nodes: Vec<Value> = nodes
            .into_iter()
            .map(|node| info_json(&topology, node))
            .collect();
        return document(&json!({ "nodes": nodes }));
    }
    let mut out = output();
    for node in nodes {
        writeln!(out, "{}", escaped(&node.name))?;
        writeln!(out, "  id         {}", node.id)?;
        writeln!(out, "  process    {} of user {}", node.pid, node.uid)?;
        writeln!(out, "  host       {}", node.host)?;
        if !node.socket.is_empty() {
            writeln!(out, "  socket     {}", escaped(&node.socket))?;
        }
        for address in &node.addresses {
            writeln!(out, "  address    {}", escaped(address))?;
        }
        let doings = doings(&topology, node);
        for (title, list) in titled(&doings) {
            for (name, ty) in list {
                let (name, ty) = (escaped(name), type_text(ty));
                writeln!(out, "  {title:10} {name}: {ty}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// The nodes of that name or id.
pub(super) fn named<'a>(topology: &'a Topology, name: &str) -> Result<Vec<&'a NodeInfo>, Failure> {
    let is_named = |node: &&NodeInfo| node.name == name || node.id.to_string() == name;
    let nodes: Vec<_> = topology.nodes().filter(is_named).collect();
    if nodes.is_empty() {
        let name = escaped(name);
        let text = format!("no node {name}: `mesh node list` says which there are");
        return Err(Failure::usage(text));
    }
    Ok(nodes)
}

type List<'a> = [(&'a str, &'a TopicType)];

fn titled<'a>(doings: &'a Doings<'a>) -> [(&'static str, &'a List<'a>); 4] {
    [
        ("publishes", &doings.publishes),
        ("subscribes", &doings.subscribes),
        ("serves", &doings.provides),
        ("calls", &doings.calls),
    ]
}

fn info_json(topology: &Topology, node: &NodeInfo) -> Value {
    let mut value = node_json(node);
    for (title, list) in titled(&doings(topology, node)) {
        let list = list.iter();
        let list = list.map(|(name, ty)| json!({ "name": name, "type": type_json(ty) }));
        value[title] = list.collect();
    }
    value
}
