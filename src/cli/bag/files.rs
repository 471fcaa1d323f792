//! The names of recordings that are written.
//!
//! `name.mcap` is a recording, `name_1.mcap`, `name_2.mcap` are its further parts. `name-2.mcap` is
//! another recording, where one without a name of its own found `name.mcap` taken, and where a
//! black box was written again. What is there is never written over unless that is allowed, and
//! then no part of an older recording stays that would look like one of the new.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::units::moment_name;
use crate::bag::{Target, is_ours};
use crate::cli::Failure;
use crate::name::escaped_path;

/// What the files of a recorder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Series {
    /// One recording.
    Parts,
    /// A recording each.
    Recordings,
}

/// Files that are written.
#[derive(Debug)]
pub(super) struct Files {
    /// What was asked for, if anything.
    given: Option<PathBuf>,
    /// The same without `.mcap`, or a name made of the time: then any that is free will do.
    base: PathBuf,
    /// The name whose parts are written.
    stem: PathBuf,
    series: Series,
    may_overwrite: bool,
    /// What the next file is numbered with, if that is free.
    next: u32,
    /// The last that was begun, or was to be.
    at: PathBuf,
    begun: Vec<PathBuf>,
}

impl Files {
    /// Of that name, with or without `.mcap`, or of one made of the time.
    pub(super) fn new(
        output: Option<&Path>,
        now_ns: u64,
        series: Series,
        may_overwrite: bool,
    ) -> Self {
        let is_mcap = |path: &Path| {
            path.extension()
                .is_some_and(|extension| extension == "mcap")
        };
        let base = match output {
            Some(path) if is_mcap(path) => path.with_extension(""),
            Some(path) => path.to_owned(),
            None => PathBuf::from(format!("{PREFIX}{}", moment_name(now_ns))),
        };
        Self {
            stem: base.clone(),
            series,
            given: output.map(Path::to_owned),
            // Another recorder may have begun in the same second.
            may_overwrite: may_overwrite && output.is_some(),
            next: 1,
            at: numbered(&base, '-', 1),
            base,
            begun: Vec::new(),
        }
    }

    /// The file that is being written, or was to be begun.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// Those that were begun.
    pub(super) fn begun(&self) -> &[PathBuf] {
        &self.begun
    }

    /// Refuses a name that cannot be meant, and one where something is that must stay.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Some(given) = self.given.as_deref() else {
            return Ok(());
        };
        let shown = escaped_path(given);
        if given.as_os_str() == "-" {
            return Err(Failure::usage(
                "--output -: a recording needs a file, for what is in it is known at its end; name \
                 one",
            ));
        }
        if given.is_dir() || given.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Failure::usage(format!(
                "--output {shown} is a directory; name a file in it, as in {}",
                escaped_path(&given.join("run"))
            )));
        }
        for path in [given, self.at()] {
            if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
                let shown = escaped_path(path);
                return Err(Failure::usage(format!(
                    "--output {shown} is no regular file; name another"
                )));
            }
        }
        if self.series == Series::Recordings {
            return Ok(());
        }
        if !self.may_overwrite && self.at.exists() {
            return Err(taken(&self.at));
        }
        let parts = parts(&self.stem);
        let mut in_the_way = parts.iter();
        match in_the_way.find(|path| !self.may_overwrite || !is_recording_of_ours(path)) {
            None => Ok(()),
            Some(part) if self.may_overwrite => Err(Failure::usage(format!(
                "{} would look like a part of the recording, and is none that may be removed: \
                 `mesh` did not write it; name another with --output",
                escaped_path(part)
            ))),
            Some(part) => Err(Failure::usage(format!(
                "{} is there already, and would look like a part of the recording; name another \
                 with --output, or allow --overwrite, which removes it",
                escaped_path(part)
            ))),
        }
    }

    /// Removes the parts of an older recording of that name, where they may be written over.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        if !self.may_overwrite || self.series == Series::Recordings {
            return Ok(());
        }
        for part in parts(&self.stem) {
            std::fs::remove_file(&part).map_err(|error| {
                anyhow::anyhow!("cannot remove {}: {error}", escaped_path(&part))
            })?;
        }
        Ok(())
    }

    /// Files that are written over or removed.
    pub(super) fn endangered(&self) -> Vec<PathBuf> {
        let mut all = parts(&self.stem);
        all.push(self.at.clone());
        all
    }

    /// True if another name may be taken for one that is not free.
    const fn may_skip(&self, number: u32) -> bool {
        self.given.is_none() || number > 0 || matches!(self.series, Series::Recordings)
    }
}

impl Target for Files {
    type Storage = File;

    fn open(&mut self, number: u32) -> io::Result<File> {
        let is_part = number > 0 && self.series == Series::Parts;
        let mut options = OpenOptions::new();
        options.write(true);
        match self.may_overwrite {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        loop {
            self.at = match is_part {
                true => numbered(&self.stem, '_', self.next),
                false => numbered(&self.base, '-', self.next),
            };
            let stem = self.at.with_extension("");
            let looks_split = self.given.is_none() && !is_part && !parts(&stem).is_empty();
            let opened = match looks_split {
                true => Err(io::ErrorKind::AlreadyExists.into()),
                false => options.open(&self.at),
            };
            match opened {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && self.may_skip(number) =>
                {
                    self.next += 1;
                }
                Err(error) => return Err(error),
                Ok(file) => {
                    self.next += 1;
                    if !is_part && self.series == Series::Parts {
                        (self.stem, self.next) = (stem, 1);
                    }
                    self.begun.push(self.at.clone());
                    return Ok(file);
                }
            }
        }
    }
}

/// For a name that is taken.
pub(super) fn taken(path: &Path) -> Failure {
    Failure::usage(format!(
        "{} is there already; name another with --output, or allow --overwrite",
        escaped_path(path)
    ))
}

/// `name.mcap` for number 1, else with the number behind the mark.
fn numbered(stem: &Path, mark: char, number: u32) -> PathBuf {
    let mut path = stem.to_owned().into_os_string();
    if mark == '_' || number > 1 {
        path.push(format!("{mark}{number}"));
    }
    path.push(SUFFIX);
    path.into()
}

/// What is there under the names of further parts of a recording.
fn parts(stem: &Path) -> Vec<PathBuf> {
    let Some(name) = stem.file_name() else {
        return Vec::new();
    };
    let dir = stem.parent().filter(|dir| !dir.as_os_str().is_empty());
    let entries = std::fs::read_dir(dir.unwrap_or_else(|| Path::new(".")));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    let is_part = |found: &OsString| {
        let rest = found.as_bytes().strip_prefix(name.as_bytes());
        let rest = rest.and_then(|rest| rest.strip_prefix(b"_"));
        let number = rest.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    };
    names
        .filter(is_part)
        .map(|name| stem.with_file_name(name))
        .collect()
}

fn is_recording_of_ours(path: &Path) -> bool {
    if !std::fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return false;
    }
    let mut beginning = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut beginning));
    read.is_ok() && is_ours(&beginning)
}

/// Of recordings without a name of their own.
pub(super) const PREFIX: &str = "record_";
/// Of all recordings.
pub(super) const SUFFIX: &str = ".mcap";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_name_that_was_asked_for_and_numbers() {
        for given in ["run", "run.mcap"] {
            let files = Files::new(Some(Path::new(given)), 0, Series::Parts, false);
            assert_eq!(files.at(), Path::new("run.mcap"));
            let part = numbered(&files.stem, '_', 12);
            assert_eq!(part, Path::new("run_12.mcap"));
        }
        let files = Files::new(Some(Path::new("v1.2")), 0, Series::Parts, false);
        assert_eq!(files.at(), Path::new("v1.2.mcap"));
        assert_eq!(numbered(&files.base, '-', 2), Path::new("v1.2-2.mcap"));
    }
}
