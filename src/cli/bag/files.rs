//! The names of recordings.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::units::moment;
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

/// The newest recording of a directory by its name, which has its time.
fn most_recent(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names
        .filter(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
        .max_by(|a, b| by_number(a).cmp(&by_number(b)))?;
    Some(Path::new(newest.as_str()).to_owned())
}

/// `record_.._10` is after `record_.._9`.
fn by_number(name: &str) -> (&str, u32) {
    let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
    let numbered = stem
        .rsplit_once('_')
        .filter(|(head, _)| head.len() >= PREFIX.len());
    let number = numbered.and_then(|(head, number)| Some((head, number.parse().ok()?)));
    number.unwrap_or((stem, 0))
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
            None => {
                let ([year, month, day, hour, minute, second], _) = moment(now_ns);
                PathBuf::from(format!(
                    "{PREFIX}{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}"
                ))
            }
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
        let files = Files::new(None, 1_795_303_145_000_000_000, false);
        assert_eq!(files.path(0), Path::new("record_2026-11-21-23-19-05.mcap"));
    }

    #[test]
    fn the_most_recent_is_the_last_by_time_and_number() {
        let mut names = [
            "record_2026-11-21-23-19-05.mcap",
            "record_2026-11-21-23-19-05_10.mcap",
            "record_2026-11-21-23-19-05_9.mcap",
            "record_2025-11-21-23-19-05_99.mcap",
        ];
        names.sort_by(|a, b| by_number(a).cmp(&by_number(b)));
        assert_eq!(names[3], "record_2026-11-21-23-19-05_10.mcap");
        assert_eq!(names[0], "record_2025-11-21-23-19-05_99.mcap");
    }
}
