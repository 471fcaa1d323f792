//! `mesh topic info`.

use std::collections::BTreeSet;
use std::io::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::reach::ReachArgs;
use crate::cli::show::{document, node_json, output, type_json, type_text, types_text};
use crate::cli::survey::{End, TopicEnds, topic_ends};
use crate::cli::{Failure, runtime};
use crate::name::{check_pattern, escaped};
use crate::schema::Schema;
use crate::topology::{Encoding, TopicType, Topology};

/// Say who sends to a topic, who receives, which types they say it has, and what these look like.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh topic info camera/left
  mesh topic info 'camera/*'   all that match
  mesh topic info camera/left --json | jq '.publishers[].name'

Exit codes: 0 success, 1 no coordinator, 2 nobody has to do with that topic, or wrong usage.")]
pub struct InfoArgs {
    /// Name of the topic, or a pattern
    #[arg(value_name = "TOPIC")]
    pub topic: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &InfoArgs) -> Result<(), Failure> {
    let topic = check_pattern(&args.topic)?;
    let (topology, schemas) = look(&args.reach, topic)?;
    let ends = ends_of(&topology, topic)?;
    if args.json {
        let described = |ends: &[End<'_>]| -> Value {
            let ends = ends.iter();
            let described = ends.map(|end| {
                let mut value = node_json(end.node);
                value["topic"] = json!(end.endpoint.topic);
                value["type"] = type_json(&end.endpoint.ty);
                value
            });
            described.collect()
        };
        return document(&json!({
            "name": topic,
            "types": ends.types().map(type_json).collect::<Vec<_>>(),
            "schemas": schemas.iter().map(schema_json).collect::<Vec<_>>(),
            "publishers": described(&ends.publishers),
            "subscribers": described(&ends.subscribers),
        }));
    }
    let mut out = output();
    writeln!(out, "{topic}")?;
    writeln!(out, "  type        {}", types_text(ends.types()))?;
    for (title, ends) in [
        ("publisher", &ends.publishers),
        ("subscriber", &ends.subscribers),
    ] {
        for End { node, endpoint } in ends {
            let (name, pid, ty) = (escaped(&node.name), node.pid, type_text(&endpoint.ty));
            write!(out, "  {title:11} {name} (process {pid}): {ty}")?;
            if endpoint.topic != topic {
                write!(out, ", {}", escaped(&endpoint.topic))?;
            }
            writeln!(out)?;
        }
    }
    for schema in schemas {
        write!(out, "\n{schema}")?;
    }
    Ok(out.flush()?)
}

/// `mesh topic type`: the types alone.
pub(super) fn run_type(args: &InfoArgs) -> Result<(), Failure> {
    let topic = check_pattern(&args.topic)?;
    let topology = args.reach.look()?;
    let ends = ends_of(&topology, topic)?;
    let mut types: Vec<&TopicType> = Vec::new();
    for ty in ends.types() {
        if !types.contains(&ty) {
            types.push(ty);
        }
    }
    if args.json {
        let types: Vec<Value> = types.into_iter().map(type_json).collect();
        return document(&json!({ "name": topic, "types": types }));
    }
    let mut out = output();
    for ty in types {
        writeln!(out, "{}", type_text(ty))?;
    }
    Ok(out.flush()?)
}

/// The ends of the topic, if it has any.
fn ends_of<'a>(topology: &'a Topology, topic: &'a str) -> Result<TopicEnds<'a>, Failure> {
    let ends = topic_ends(topology, topic);
    if ends.publishers.is_empty() && ends.subscribers.is_empty() {
        let text = format!("nobody sends to {topic} or wants it: see `mesh topic list`");
        return Err(Failure::usage(text));
    }
    Ok(ends)
}

/// Who is there, and what the archives of the topic look like, of which somebody says it.
fn look(reach: &ReachArgs, topic: &str) -> Result<(Topology, Vec<Schema>), Failure> {
    runtime()?.block_on(async {
        let mut visit = reach.visit().await?;
        let topology = visit.look().await?;
        let ends = topic_ends(&topology, topic);
        let archives = ends.types().filter(|ty| ty.encoding == Encoding::Rkyv);
        let hashes: BTreeSet<u64> = archives.map(|ty| ty.hash).collect();
        let mut schemas = Vec::new();
        for hash in hashes.into_iter().take(SCHEMAS_SHOWN_MAX) {
            schemas.extend(visit.schema(hash).await?);
        }
        Ok((topology, schemas))
    })
}

/// Of one topic; a visitor may not ask for any number of them.
const SCHEMAS_SHOWN_MAX: usize = 8;

fn schema_json(schema: &Schema) -> Value {
    let parsed = serde_json::from_str(&schema.json_schema());
    parsed.unwrap_or_default()
}
