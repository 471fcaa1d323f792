//! `mesh service info`.

use std::io::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::reach::ReachArgs;
use crate::cli::show::{document, node_json, output, type_json, types_text};
use crate::cli::survey::{End, services};
use crate::name::escaped;

/// Say who provides a service, who calls it, and with which types.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh service info add
  mesh service info add --json | jq '.providers[].name'

Exit codes: 0 success, 1 no coordinator, 2 no such service, or wrong usage.")]
pub struct InfoArgs {
    /// Name of the service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &InfoArgs) -> Result<(), Failure> {
    let topology = args.reach.look()?;
    let name = args.service.trim_start_matches('/');
    let services = services(&topology);
    let Some(ends) = services.get(name) else {
        let name = escaped(name);
        let text = format!("no service {name}: `mesh service list` says which there are");
        return Err(Failure::usage(text));
    };
    if args.json {
        let nodes = |ends: &[End<'_>]| -> Value {
            let nodes = ends.iter();
            let nodes = nodes.map(|end| {
                let mut value = node_json(end.node);
                value["type"] = type_json(&end.endpoint.ty);
                value
            });
            nodes.collect()
        };
        return document(&json!({
            "name": name,
            "requests": ends.requests().map(type_json).collect::<Vec<_>>(),
            "replies": ends.replies.iter().map(|ty| type_json(ty)).collect::<Vec<_>>(),
            "providers": nodes(&ends.providers),
            "callers": nodes(&ends.callers),
        }));
    }
    let mut out = output();
    writeln!(out, "{}", escaped(name))?;
    writeln!(out, "  request    {}", types_text(ends.requests()))?;
    writeln!(
        out,
        "  reply      {}",
        types_text(ends.replies.iter().copied())
    )?;
    for (title, ends) in [("provider", &ends.providers), ("caller", &ends.callers)] {
        for End { node, .. } in ends {
            let (name, pid) = (escaped(&node.name), node.pid);
            writeln!(out, "  {title:10} {name} (process {pid})")?;
        }
    }
    Ok(out.flush()?)
}
