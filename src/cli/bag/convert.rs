//! `mesh bag convert`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Failure;
use super::files::{Files, Series};
use super::identity::Identity;
use super::input::{self, InputArgs, names_text};
use super::units::{Size, Time};
use crate::bag::{BagError, Config, Converted, Converter, Ending, Recorder, Split, To};
use crate::name::{escaped, escaped_path};

/// Write a recording anew: whole again after a crash, without damaged parts, compressed, split, or
/// with JSON messages, which Foxglove shows without knowing our types.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh bag convert cut.mcap -o whole.mcap          repair
  mesh bag convert run.mcap -o small.mcap --compress
  mesh bag convert run.mcap -o run-json.mcap --to json
  mesh bag convert run.mcap -o part --split-size 1GB   part.mcap, part_1.mcap, ...
  mesh bag convert run.mcap run_*.mcap -o one          the files of one that was split

Exit codes: 0 all of it was written, 1 failed, or something was left out (what can be read is
written), 2 wrong usage.")]
pub struct ConvertArgs {
    /// Which recording
    #[command(flatten)]
    pub input: InputArgs,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Write over a file that is there, and remove what would look like its parts: an older
    /// FILE_1.mcap, ...
    #[arg(long)]
    pub overwrite: bool,
    /// What becomes of messages
    #[arg(long, value_enum, default_value_t = ToArg::Same)]
    pub to: ToArg,
    /// Compress with LZ4
    #[arg(short, long)]
    pub compress: bool,
    /// Begin another file before one is larger
    #[arg(long, value_name = "SIZE")]
    pub split_size: Option<Size>,
    /// Begin another file after so much time
    #[arg(long, value_name = "TIME")]
    pub split_duration: Option<Time>,
    /// Say what came of it as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// What becomes of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ToArg {
    /// They keep their bytes
    Same,
    /// They become JSON where their form is known; maps whose keys cannot be names of fields are
    /// arrays of `[key, value]`
    Json,
}

/// Reads one and writes the other.
///
/// # Errors
/// If one of them cannot be read or written.
pub(super) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let paths = args.input.paths()?;
    for path in &paths {
        input::reader(path)?;
    }
    let output = Files::new(Some(&args.output), 0, Series::Parts, args.overwrite);
    let identity = |path: &PathBuf| Identity::opened(path);
    let inputs: BTreeSet<Identity> = paths.iter().filter_map(identity).collect();
    let endangered = output.endangered();
    let mut endangered = endangered.iter().filter_map(identity);
    if endangered.any(|file| inputs.contains(&file)) {
        return Err(Failure::usage(
            "--output is the recording itself, or one of its parts; name another file",
        ));
    }
    output.check()?;
    let config = Config {
        is_compressed: args.compress,
        split: Split {
            bytes: args.split_size.map(|size| size.0),
            ns: args.split_duration.map(Time::ns),
        },
        ..Config::default()
    };
    let to = match args.to {
        ToArg::Same => To::Same,
        ToArg::Json => To::Json,
    };
    let at = output.at().to_owned();
    let mut recorder = Recorder::new(config, output).map_err(|error| input::of(&at, error))?;
    let converted = convert(&paths, &mut recorder, to);
    // Whatever came of it: what was read becomes a whole file.
    let finished = recorder.finish();
    let finished = finished.map_err(|error| input::of(recorder.target().at(), error));
    let files = recorder.target().written();
    let whole = converted.inspect_err(|_| match recorder.total().recorded {
        0 => recorder.target().remove(),
        recorded => note!("note: {recorded} messages are in {}", names_text(&files)),
    })?;
    finished?;
    say(args, &files, &whole)?;
    match left_out(&whole) {
        None => Ok(()),
        Some(text) => Err(anyhow::anyhow!("{text}; the rest is written").into()),
    }
}

fn convert(
    paths: &[PathBuf],
    recorder: &mut Recorder<Files>,
    to: To,
) -> Result<Converted, Failure> {
    let mut converter = Converter::new(to);
    let mut whole = Converted::default();
    for path in paths {
        let mut reader = input::reader(path)?;
        let converted = converter.add(&mut reader, recorder);
        let converted = converted.map_err(|error| match &error {
            BagError::Io { what: "read", .. } => input::of(path, error),
            _ => input::of(recorder.target().at(), error),
        })?;
        let path = escaped_path(path);
        if reader.ending() == Some(Ending::Cut) {
            note!(
                "note: {path} has no end: its recorder was killed, or writes it still. All before \
                 the cut is written"
            );
        }
        for damage in &converted.damages {
            note!("warning: {path}: left out: {damage}");
        }
        for topic in &converted.unchanged {
            let topic = escaped(topic);
            note!("warning: {topic} keeps its bytes: the recording does not say what is in them");
        }
        whole.messages += converted.messages;
        whole.invalid += converted.invalid;
        whole.first_invalid = whole.first_invalid.or(converted.first_invalid);
        whole.damages.extend(converted.damages);
        whole.unchanged.extend(converted.unchanged);
    }
    Ok(whole)
}

/// What was left out, if anything.
fn left_out(converted: &Converted) -> Option<String> {
    let damages = match converted.damages.len() {
        0 => None,
        1 => Some("a damaged part was left out".to_owned()),
        count => Some(format!("{count} damaged parts were left out")),
    };
    let invalid = converted.first_invalid.as_ref().map(|first| {
        let invalid = converted.invalid;
        format!("{invalid} messages were left out, no values of their type; first {first}")
    });
    let texts: Vec<String> = damages.into_iter().chain(invalid).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn say(args: &ConvertArgs, files: &[PathBuf], converted: &Converted) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if args.json {
        let names = files.iter().map(|path| path.display().to_string());
        let word = json!({
            "file": files.first().map(|path| path.display().to_string()),
            "files": names.collect::<Vec<_>>(),
            "messages": converted.messages,
            "invalid": converted.invalid,
            "damages": converted.damages,
            "unchanged": converted.unchanged,
        });
        writeln!(out, "{word}")?;
    } else {
        let messages = converted.messages;
        writeln!(out, "wrote {messages} messages to {}", names_text(files))?;
    }
    Ok(out.flush()?)
}
