//! `mesh bag info`.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::input::{self, InputArgs, names_text};
use super::units::{moment_text, size_text};
use crate::bag::{ChannelSummary, Summary};
use crate::name::{escaped, escaped_path};

/// Say what is in a recording: topics, messages, times, and what the recorder missed.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh bag info                      the most recent record_*.mcap here, with its parts
  mesh bag info run.mcap run_*.mcap  all files of one that was split
  mesh bag info run1.mcap --json     for scripts
  mesh bag info run1.mcap --check    read all of it, and compare all checksums

Exit codes: 0 told, 1 damaged, unreadable or no recording, 2 no such file.")]
pub struct InfoArgs {
    /// Which recording
    #[command(flatten)]
    pub input: InputArgs,
    /// Read all of it: is everything as it was written?
    #[arg(long)]
    pub check: bool,
    /// As one document of JSON
    #[arg(long)]
    pub json: bool,
}

/// Reads and prints.
///
/// # Errors
/// If it cannot be read, or is damaged.
pub(super) fn run(args: &InfoArgs) -> Result<(), Failure> {
    let paths = args.input.paths()?;
    let mut summary = Summary::default();
    for path in &paths {
        let (mut file, len) = input::open(path)?;
        let of_file = Summary::read(&mut file, len, args.check);
        let mut of_file = of_file.map_err(|error| input::of(path, error))?;
        if of_file.is_cut {
            eprintln!("note: {}: {CUT}; {REPAIR}", escaped_path(path));
        }
        for damage in &mut of_file.damages {
            *damage = format!("{}: {damage}", escaped_path(path));
        }
        summary.add(of_file);
    }
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", document(&paths, &summary))?,
        false => out.write_all(text(&paths, &summary).as_bytes())?,
    }
    out.flush()?;
    match summary.damages.first() {
        None => Ok(()),
        Some(first) => Err(anyhow::anyhow!("{first}; {REPAIR}").into()),
    }
}

/// What is to be known of a file without an end.
pub(super) const CUT: &str = "the recording has no end: its recorder was killed, or writes it \
    still. All before the cut is there";

/// What to do about it.
pub(super) const REPAIR: &str = "`mesh bag convert` saves what can be read";

fn document(paths: &[PathBuf], summary: &Summary) -> Value {
    let seconds = (summary.end_ns - summary.start_ns.min(summary.end_ns)) as f64 / 1e9;
    json!({
        "file": paths.first().map(|path| path.display().to_string()),
        "files": paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "bytes": summary.bytes,
        "messages": summary.messages,
        "lost": lost(summary),
        "start_ns": summary.start_ns,
        "end_ns": summary.end_ns,
        "duration_s": seconds,
        "chunks": summary.chunks,
        "compression": summary.compression,
        "is_cut": summary.is_cut,
        "damages": summary.damages,
        "topics": summary.channels.iter().map(channel_json).collect::<Vec<_>>(),
    })
}

fn channel_json(summary: &ChannelSummary) -> Value {
    let channel = &summary.channel;
    let publisher = channel.publisher.as_ref();
    json!({
        "topic": channel.topic,
        "type": channel.ty.name,
        "encoding": channel.message_encoding(),
        "schema": channel.schema.as_ref().map(|schema| &schema.encoding),
        "node": publisher.map(|publisher| &publisher.node_name),
        "node_id": publisher.map(|publisher| publisher.node.to_string()),
        "messages": summary.messages,
        "lost": summary.lost,
    })
}

/// Of all publishers, if anything is known.
fn lost(summary: &Summary) -> Option<u64> {
    let known = summary.channels.iter().filter_map(|channel| channel.lost);
    known.reduce(u64::saturating_add)
}

fn text(paths: &[PathBuf], summary: &Summary) -> String {
    #[allow(clippy::cast_precision_loss)] // for people
    let seconds = (summary.end_ns - summary.start_ns.min(summary.end_ns)) as f64 / 1e9;
    let lost = lost(summary).map_or_else(|| "unknown".into(), |lost| lost.to_string());
    let compression = match summary.compression.as_str() {
        "" => String::new(),
        name => format!(", {}", escaped(name)),
    };
    let cut = if summary.is_cut { ", cut off" } else { "" };
    let mut text = format!(
        "file:      {}{cut}\nsize:      {}\nduration:  {seconds:.3} s\n",
        names_text(paths),
        size_text(summary.bytes),
    );
    if summary.messages > 0 {
        text.push_str(&format!(
            "start:     {}\nend:       {}\n",
            moment_text(summary.start_ns),
            moment_text(summary.end_ns)
        ));
    }
    text.push_str(&format!(
        "messages:  {}\nlost:      {lost}\nchunks:    {}{compression}\n",
        summary.messages, summary.chunks
    ));
    for damage in &summary.damages {
        text.push_str(&format!("damage:    {damage}\n"));
    }
    text.push_str(&table(summary));
    text
}

fn table(summary: &Summary) -> String {
    let titles = ["TOPIC", "TYPE", "ENCODING", "MESSAGES", "LOST", "NODE"].map(str::to_owned);
    let row = |summary: &ChannelSummary| {
        let channel = &summary.channel;
        let node = channel
            .publisher
            .as_ref()
            .map(|publisher| &publisher.node_name);
        [
            escaped(&channel.topic),
            escaped(&channel.ty.name),
            escaped(channel.message_encoding()),
            summary.messages.to_string(),
            summary
                .lost
                .map_or_else(|| "?".into(), |lost| lost.to_string()),
            node.map_or_else(|| "?".into(), |name| escaped(name)),
        ]
    };
    let mut rows = vec![titles];
    rows.extend(summary.channels.iter().map(row));
    rows[1..].sort();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
