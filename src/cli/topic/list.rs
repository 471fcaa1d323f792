//! `mesh topic list`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::reach::ReachArgs;
use crate::cli::show::{Table, document, type_json, types_text};
use crate::cli::survey::{End, names, names_text, topics};
use crate::name::escaped;

/// List the topics that somebody sends to or wants, and then the patterns that are subscribed to.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh topic list
  mesh topic list -v          with the names of the nodes
  mesh topic list --json | jq -r '.topics[] | select(.publishers == []).name'

A subscriber to a pattern counts at each topic that it matches.
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
    let topics = topics(&topology);
    if args.json {
        let topics: Vec<Value> = topics
            .iter()
            .map(|((is_pattern, name), ends)| {
                json!({
                    "name": name,
                    "is_pattern": is_pattern,
                    "types": ends.types().map(type_json).collect::<Vec<_>>(),
                    "publishers": names(&ends.publishers),
                    "subscribers": names(&ends.subscribers),
                })
            })
            .collect();
        return document(&json!({ "topics": topics }));
    }
    let mut table = Table::new(["TOPIC", "TYPE", "PUBLISHERS", "SUBSCRIBERS"]);
    for ((_, name), ends) in &topics {
        let nodes = |ends: &[End<'_>]| match args.verbose {
            true => names_text(ends),
            false => ends.len().to_string(),
        };
        let (publishers, subscribers) = (nodes(&ends.publishers), nodes(&ends.subscribers));
        table.push([
            escaped(name),
            types_text(ends.types()),
            publishers,
            subscribers,
        ]);
    }
    table.print()
}
