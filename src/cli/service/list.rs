//! `mesh service list`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::reach::ReachArgs;
use crate::cli::show::{Table, document, type_json, types_text};
use crate::cli::survey::{names, names_text, services};
use crate::name::escaped;

/// List the services of the mesh, also those that are called and nobody provides.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh service list
  mesh service list -v        with the names of the nodes
  mesh service list --json | jq -r '.services[] | select(.providers == []).name'

Exit codes: 0 success, 1 no coordinator, 2 wrong usage.")]
pub struct ListArgs {
    /// Name the nodes instead of counting them
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
    let services = services(&topology);
    if args.json {
        let services: Vec<Value> = services
            .iter()
            .map(|(name, ends)| {
                json!({
                    "name": name,
                    "requests": ends.requests().map(type_json).collect::<Vec<_>>(),
                    "replies": ends.replies.iter().map(|ty| type_json(ty)).collect::<Vec<_>>(),
                    "providers": names(&ends.providers),
                    "callers": names(&ends.callers),
                })
            })
            .collect();
        return document(&json!({ "services": services }));
    }
    let mut table = Table::new(["SERVICE", "REQUEST", "REPLY", "PROVIDERS", "CALLERS"]);
    for (name, ends) in &services {
        let [providers, callers] =
            [&ends.providers, &ends.callers].map(|ends| match args.verbose {
                true => names_text(ends),
                false => ends.len().to_string(),
            });
        table.push([
            escaped(name),
            types_text(ends.requests()),
            types_text(ends.replies.iter().copied()),
            providers,
            callers,
        ]);
    }
    table.print()
}
