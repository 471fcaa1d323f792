//! Which recording is read, and its files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;

use super::files::{PREFIX, SUFFIX};
use super::identity::Identity;
use crate::bag::{BagError, BagReader};
use crate::cli::Failure;
use crate::name::escaped_path;

/// Which recording is read.
#[derive(Args, Clone, Debug)]
pub struct InputArgs {
    /// The recording; of one that was split all its files, which are taken as one [default: the
    /// most recent record_*.mcap in this directory, with its parts record_*_1.mcap, ...]
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The same
    #[arg(short, long, value_name = "FILE", conflicts_with = "files")]
    pub input: Vec<PathBuf>,
}

impl InputArgs {
    /// Its files, in the order of their times.
    pub(super) fn paths(&self) -> Result<Vec<PathBuf>, Failure> {
        let named = match self.files.is_empty() {
            true => &self.input,
            false => &self.files,
        };
        let mut known = BTreeSet::new();
        let mut is_known =
            |path: &&PathBuf| Identity::opened(path).is_some_and(|file| !known.insert(file));
        if let Some(again) = named.iter().find(&mut is_known) {
            let again = escaped_path(again);
            return Err(Failure::usage(format!("{again} is named twice")));
        }
        let paths = match named.is_empty() {
            true => most_recent(Path::new(".")),
            false => named.clone(),
        };
        match paths.as_slice() {
            [] => Err(Failure::usage(
                "there is no record_*.mcap in this directory; name a recording",
            )),
            [_] => Ok(paths),
            _ => in_order(paths),
        }
    }
}

/// Shells put `run_10.mcap` before `run_2.mcap`.
fn in_order(paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let timed = paths.into_iter().map(|path| Ok((first_ns(&path)?, path)));
    let mut timed = timed.collect::<Result<Vec<_>, Failure>>()?;
    timed.sort_by_key(|(first_ns, _)| *first_ns);
    Ok(timed.into_iter().map(|(_, path)| path).collect())
}

/// When the first message of a file was recorded. Those without any are the last.
fn first_ns(path: &Path) -> Result<u64, Failure> {
    let mut reader = reader(path)?;
    loop {
        match reader.next_message() {
            Ok(Some(message)) => return Ok(message.log_ns),
            Ok(None) => return Ok(u64::MAX),
            Err(error @ BagError::Io { .. }) => return Err(of(path, error)),
            Err(error) if error.is_fatal() => return Ok(u64::MAX),
            Err(_) => {}
        }
    }
}

/// What the files are called together.
pub(super) fn names_text(paths: &[PathBuf]) -> String {
    match paths {
        [] => "no file".into(),
        [only] => escaped_path(only).to_string(),
        [first, _] => format!("{} and 1 more file", escaped_path(first)),
        [first, rest @ ..] => format!("{} and {} more files", escaped_path(first), rest.len()),
    }
}

/// The files of the newest recording of a directory by its name, which has its time. Names that
/// were given to recordings have none; files that have nothing are no recordings.
fn most_recent(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let timed = Timed::of(&name)?;
        let metadata = std::fs::metadata(entry.path()).ok()?;
        (metadata.is_file() && metadata.len() > 0).then_some((timed, name))
    });
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let Some((newest, _)) = names.last().cloned() else {
        return Vec::new();
    };
    let files = names.into_iter().filter(|(name, _)| {
        let Timed { time, number, .. } = name;
        (time, number) == (&newest.time, &newest.number)
    });
    files.map(|(_, name)| name.into()).collect()
}

/// The name of a recording without a name of its own: `record_TIME`, the second of that time
/// `record_TIME-2`, and their parts `record_TIME_1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timed {
    time: String,
    number: u32,
    part: u32,
}

impl Timed {
    fn of(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let (time, rest) = rest.split_at_checked(TIME.len())?;
        let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
        let is_time = time.chars().map(digits).eq(TIME.chars());
        let (number, part) = rest
            .split_once('_')
            .map_or((rest, None), |(number, part)| (number, Some(part)));
        let number = match number {
            "" => Some(1),
            number => count(number.strip_prefix('-')?),
        };
        let part = part.map_or(Some(0), count);
        let time = is_time.then(|| time.to_owned())?;
        Some(Self {
            time,
            number: number?,
            part: part?,
        })
    }
}

fn count(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Opens a recording; its length.
pub(super) fn open(path: &Path) -> Result<(File, u64), Failure> {
    let opened = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok((file, metadata.len()))
    });
    opened.map_err(|error| {
        let text = format!("cannot open {}: {error}", escaped_path(path));
        match error.kind() {
            io::ErrorKind::NotFound => Failure::usage(text),
            _ => anyhow::anyhow!(text).into(),
        }
    })
}

/// Reads a recording from its beginning.
pub(super) fn reader(path: &Path) -> Result<BagReader<BufReader<File>>, Failure> {
    let (file, len) = open(path)?;
    let file = BufReader::with_capacity(READ_BYTES, file);
    BagReader::new(file, len).map_err(|error| of(path, error))
}

/// An error, and of which file.
pub(super) fn of(path: &Path, error: BagError) -> Failure {
    match error {
        BagError::Option(text) => Failure::usage(text),
        error => anyhow::Error::new(error).context(escaped_path(path)).into(),
    }
}

/// The form of a time in a name.
const TIME: &str = "0000-00-00-00-00-00";
/// Records are read through a buffer of so many bytes.
const READ_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_recent_is_the_last_by_time_and_number() {
        let mut names = [
            "record_2026-11-21-23-19-05.mcap",
            "record_2026-11-21-23-19-05_10.mcap",
            "record_2026-11-21-23-19-05_9.mcap",
            "record_2026-11-21-23-19-05-2.mcap",
            "record_2026-11-21-23-19-05-2_1.mcap",
            "record_2025-11-21-23-19-05_99.mcap",
        ];
        let sorted = [5, 0, 2, 1, 3, 4].map(|idx| names[idx]);
        names.sort_by_key(|name| Timed::of(name).unwrap());
        assert_eq!(names, sorted);
        for other in [
            "record_of_a_crash.mcap",
            "record_2026-11-21-23-19-05_copy.mcap",
            "record_2026-11-21-23-19-05-copy.mcap",
            "record_2026-11-21-23-19-05_+1.mcap",
            "record_2026-11-21-23-19-05.bag",
            "record_2026-11-21.mcap",
        ] {
            assert_eq!(Timed::of(other), None, "{other}");
        }
    }
}
