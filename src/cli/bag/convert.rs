//! `mesh bag convert`.

use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Failure;
use super::files::{self, Files, InputArgs};
use super::info::CUT;
use super::units::{Size, Time};
use crate::bag::{BagReader, Config, Converted, Ending, Recorder, Split, To, convert};
use crate::name::escaped;

/// Write a recording anew: whole again after a crash, without damaged parts, compressed, split, or
/// with JSON messages, which Foxglove shows without knowing our types.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh bag convert cut.mcap -o whole.mcap          repair
  mesh bag convert run.mcap -o small.mcap --compress
  mesh bag convert run.mcap -o run-json.mcap --to json
  mesh bag convert run.mcap -o part --split-size 1GB

Exit codes: 0 written, 1 failed, 2 wrong usage.")]
pub struct ConvertArgs {
    /// Which recording
    #[command(flatten)]
    pub input: InputArgs,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Write over files that are there
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
    let path = args.input.path()?;
    let (file, len) = files::open(&path)?;
    let file = BufReader::with_capacity(READ_BYTES, file);
    let mut reader = BagReader::new(file, len).map_err(|error| files::of(&path, error))?;
    let output = Files::new(Some(&args.output), 0, args.overwrite);
    let real = |path: &Path| path.canonicalize().ok();
    let is_itself = real(&path).is_some_and(|path| real(&output.path(0)) == Some(path));
    if is_itself {
        return Err(Failure::usage(
            "--output is the recording itself; name another file",
        ));
    }
    if !args.overwrite && output.path(0).exists() {
        return Err(Failure::usage(format!(
            "{} is there already; name another with --output, or allow --overwrite",
            output.path(0).display()
        )));
    }
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
    let written = |error| files::of(&output.path(0), error);
    let mut recorder = Recorder::new(config, output.clone()).map_err(written)?;
    let converted = convert(&mut reader, &mut recorder, to).map_err(written)?;
    if reader.ending() == Some(Ending::Cut) {
        eprintln!("note: {CUT}");
    }
    say(args, &output.path(0), &recorder, &converted)
}

fn say(
    args: &ConvertArgs,
    path: &Path,
    recorder: &Recorder<Files>,
    converted: &Converted,
) -> Result<(), Failure> {
    for damage in &converted.damages {
        eprintln!("warning: left out: {damage}");
    }
    if let Some(first) = &converted.first_invalid {
        let invalid = converted.invalid;
        eprintln!("warning: {invalid} messages left out, no values of their type; first {first}");
    }
    for topic in &converted.unchanged {
        let topic = escaped(topic);
        eprintln!("warning: {topic} keeps its bytes: the recording does not say what is in them");
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let word = json!({
            "file": path.display().to_string(),
            "files": recorder.files(),
            "messages": converted.messages,
            "invalid": converted.invalid,
            "damages": converted.damages,
            "unchanged": converted.unchanged,
        });
        writeln!(out, "{word}")?;
    } else {
        writeln!(
            out,
            "wrote {} messages to {}",
            converted.messages,
            path.display()
        )?;
    }
    Ok(out.flush()?)
}

/// Records are read through a buffer of so many bytes.
const READ_BYTES: usize = 256 << 10;
