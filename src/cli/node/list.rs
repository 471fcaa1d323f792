//! `mesh node list`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::reach::ReachArgs;
use crate::cli::show::{Table, document, node_json};
use crate::cli::survey::{Doings, doings};
use crate::name::escaped;

/// List the nodes of the mesh, and how much they have to do with topics and services.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh node list
  mesh node list -v           with ids, hosts, sockets and addresses
  mesh node list --json | jq -r '.nodes[].name'

Exit codes: 0 success, 1 no coordinator, 2 wrong usage.")]
pub struct ListArgs {
    /// Say ids, hosts, sockets and addresses, too
    #[arg(long, short)]
    pub verbose: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &ListArgs) -> Result<(), Failure> {
    let topology = args.reach.look()?;
    let mut nodes: Vec<_> = topology.nodes().collect();
    nodes.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
    let counted = nodes.into_iter().map(|node| {
        let Doings {
            publishes,
            subscribes,
            provides,
            calls,
        } = doings(&topology, node);
        let counts = [&publishes, &subscribes, &provides, &calls].map(Vec::len);
        (node, counts)
    });
    if args.json {
        let nodes: Vec<Value> = counted
            .map(|(node, [publishers, subscribers, provided, called])| {
                let mut value = node_json(node);
                value["publisher_count"] = json!(publishers);
                value["subscriber_count"] = json!(subscribers);
                value["provider_count"] = json!(provided);
                value["caller_count"] = json!(called);
                value
            })
            .collect();
        return document(&json!({ "nodes": nodes }));
    }
    if args.verbose {
        let titles = ["NODE", "PID", "UID", "ID", "HOST", "SOCKET", "ADDRESSES"];
        let mut table = Table::new(titles);
        for (node, _) in counted {
            let addresses: Vec<String> = node.addresses.iter().map(|text| escaped(text)).collect();
            table.push([
                escaped(&node.name),
                node.pid.to_string(),
                node.uid.to_string(),
                node.id.to_string(),
                node.host.to_string(),
                escaped(&node.socket),
                addresses.join(" "),
            ]);
        }
        return table.print();
    }
    let mut table = Table::new(["NODE", "PID", "PUBLISHES", "SUBSCRIBES", "SERVES", "CALLS"]);
    for (node, counts) in counted {
        let [publishes, subscribes, serves, calls] = counts.map(|count| count.to_string());
        let (name, pid) = (escaped(&node.name), node.pid.to_string());
        table.push([name, pid, publishes, subscribes, serves, calls]);
    }
    table.print()
}
