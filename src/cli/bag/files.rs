//! The names of recordings.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::units::moment_name;
use crate::bag::{BagError, Target};
use crate::cli::Failure;

/// Which recording is read.
#[derive(Args, Clone, Debug)]
pub struct InputArgs {
    /// The recording [default: the most recent record_*.mcap in this directory]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The same
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    pub input: Option<PathBuf>,
}

impl InputArgs {
    /// Its path.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        match self.file.as_ref().or(self.input.as_ref()) {
            Some(path) => Ok(path.clone()),
            None => most_recent(Path::new(".")).ok_or_else(|| {
                Failure::usage("there is no record_*.mcap in this directory; name a recording")
            }),
        }
    }
}

/// The newest recording of a directory by its name, which has its time. Names that were given to
/// recordings have none.
fn most_recent(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let timed = names.filter_map(|name| Some((by_time(&name)?, name)));
    let (_, newest) = timed.max()?;
    Some(newest.into())
}

/// Time and number of a recording: `record_.._10` is after `record_.._9`.
fn by_time(name: &str) -> Option<(String, u32)> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (time, number) = match rest.split_once('_') {
        Some((time, number)) => (time, number.parse().ok()?),
        None => (rest, 0),
    };
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let is_time = time.chars().map(digits).eq("0000-00-00-00-00-00".chars());
    is_time.then(|| (time.to_owned(), number))
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
        let text = format!("cannot open {}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::NotFound => Failure::usage(text),
            _ => anyhow::anyhow!(text).into(),
        }
    })
}

/// An error, and of which file.
pub(super) fn of(path: &Path, error: BagError) -> Failure {
    match error {
        BagError::Option(text) => Failure::usage(text),
        error => anyhow::Error::new(error)
            .context(path.display().to_string())
            .into(),
    }
}

/// Files of one recording: `name.mcap`, `name_1.mcap`, `name_2.mcap`.
#[derive(Clone, Debug)]
pub(super) struct Files {
    stem: PathBuf,
    may_overwrite: bool,
}

impl Files {
    /// Of that name, with or without `.mcap`, or of one made of the time.
    pub(super) fn new(output: Option<&Path>, now_ns: u64, may_overwrite: bool) -> Self {
        let stem = match output {
            Some(path)
                if path
                    .extension()
                    .is_some_and(|extension| extension == "mcap") =>
            {
                path.with_extension("")
            }
            Some(path) => path.to_owned(),
            None => PathBuf::from(format!("{PREFIX}{}", moment_name(now_ns))),
        };
        Self {
            stem,
            may_overwrite,
        }
    }

    /// The name of a file.
    pub(super) fn path(&self, number: u32) -> PathBuf {
        let mut path = self.stem.clone().into_os_string();
        if number > 0 {
            path.push(format!("_{number}"));
        }
        path.push(SUFFIX);
        path.into()
    }
}

impl Target for Files {
    type Storage = File;

    fn open(&mut self, number: u32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true);
        match self.may_overwrite {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        options.open(self.path(number))
    }
}

const PREFIX: &str = "record_";
const SUFFIX: &str = ".mcap";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_name_that_was_asked_for_and_numbers() {
        for given in ["run", "run.mcap"] {
            let files = Files::new(Some(Path::new(given)), 0, false);
            assert_eq!(files.path(0), Path::new("run.mcap"));
            assert_eq!(files.path(12), Path::new("run_12.mcap"));
        }
        let files = Files::new(Some(Path::new("v1.2")), 0, false);
        assert_eq!(files.path(0), Path::new("v1.2.mcap"));
        let name = Files::new(None, 1_795_303_145_000_000_000, false).path(0);
        assert!(by_time(name.to_str().unwrap()).is_some(), "{name:?}");
    }

    #[test]
    fn the_most_recent_is_the_last_by_time_and_number() {
        let mut names = [
            "record_2026-11-21-23-19-05.mcap",
            "record_2026-11-21-23-19-05_10.mcap",
            "record_2026-11-21-23-19-05_9.mcap",
            "record_2025-11-21-23-19-05_99.mcap",
        ];
        names.sort_by_key(|name| by_time(name).unwrap());
        assert_eq!(names[3], "record_2026-11-21-23-19-05_10.mcap");
        assert_eq!(names[0], "record_2025-11-21-23-19-05_99.mcap");
        for other in [
            "record_of_a_crash.mcap",
            "record_2026-11-21-23-19-05_copy.mcap",
            "record_2026-11-21-23-19-05.bag",
            "record_2026-11-21.mcap",
        ] {
            assert_eq!(by_time(other), None, "{other}");
        }
    }
}
