//! The names of recordings that are written.
//!
//! `name.mcap` is a recording, `name_1.mcap`, `name_2.mcap` are its further parts. `name-2.mcap` is
//! another recording, where one without a name of its own found `name.mcap` taken, and where a
//! black box was written again. What is there is never written over. Where `name.mcap` may be
//! replaced, it is removed first, with the parts of an older recording, which would look like parts
//! of the new one; all other names that are taken are passed over.
//!
//! Names may come to mean other files meanwhile: those that others made there are let alone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::identity::Identity;
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
    /// True until it is done.
    may_overwrite: bool,
    /// What the next file is numbered with, if that is free.
    next: u32,
    /// The last that was begun, or was to be.
    at: PathBuf,
    begun: Vec<Begun>,
}

/// A file that was begun.
#[derive(Debug)]
struct Begun {
    path: PathBuf,
    identity: Identity,
}

impl Begun {
    /// False if it was removed, or another has its name now.
    fn is_there(&self) -> bool {
        Identity::named(&self.path).is_some_and(|found| found == self.identity)
    }

    /// There is nothing in it.
    fn remove(&self) {
        if self.is_there() {
            drop(std::fs::remove_file(&self.path));
        }
    }
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

    /// Those that were begun and are still there.
    pub(super) fn written(&self) -> Vec<PathBuf> {
        let there = self.begun.iter().filter(|begun| begun.is_there());
        there.map(|begun| begun.path.clone()).collect()
    }

    /// Removes them: there is nothing in them.
    pub(super) fn remove(&self) {
        self.begun.iter().for_each(Begun::remove);
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
        if self.series == Series::Recordings && !self.may_overwrite {
            return Ok(());
        }
        if !self.may_overwrite && self.at.exists() {
            return Err(taken(&self.at));
        }
        match (self.may_overwrite, parts(&self.stem).first()) {
            (true, _) => self.removable().map(drop).map_err(Failure::usage),
            (false, None) => Ok(()),
            (false, Some(part)) => Err(Failure::usage(format!(
                "{} is there already, and would look like a part of the recording; name another \
                 with --output, or allow --overwrite, which removes it",
                escaped_path(part)
            ))),
        }
    }

    /// The parts of an older recording of that name, if a recorder wrote them all. Else what is in
    /// the way.
    fn removable(&self) -> Result<Vec<PathBuf>, String> {
        let part = |path: PathBuf| {
            if is_recording_of_ours(&path) {
                return Ok(path);
            }
            Err(format!(
                "{} would look like a part of the recording, and is none that may be removed: \
                 `mesh` did not write it; name another with --output",
                escaped_path(&path)
            ))
        };
        parts(&self.stem).into_iter().map(part).collect()
    }

    /// Removes what may be written over, if all of that may.
    fn clear(&self) -> io::Result<()> {
        for part in self.removable().map_err(io::Error::other)? {
            let shown = escaped_path(&part);
            std::fs::remove_file(&part).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot remove {shown}: {error}"))
            })?;
            note!("note: removed {shown}, a part of the older recording");
        }
        match std::fs::remove_file(&self.at) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Files that are written over or removed.
    pub(super) fn endangered(&self) -> Vec<PathBuf> {
        let parts = parts(&self.stem).into_iter();
        parts.chain([self.at.clone()]).collect()
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
        if number == 0 && self.may_overwrite {
            self.clear()?;
            self.may_overwrite = false;
        }
        loop {
            self.at = match is_part {
                true => numbered(&self.stem, '_', self.next),
                false => numbered(&self.base, '-', self.next),
            };
            let stem = self.at.with_extension("");
            let looks_split = !is_part && self.may_skip(number) && !parts(&stem).is_empty();
            let opened = match looks_split {
                true => Err(io::ErrorKind::AlreadyExists.into()),
                false => File::create_new(&self.at),
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
                    self.begun.push(Begun {
                        path: self.at.clone(),
                        identity: Identity::of(&file.metadata()?),
                    });
                    return Ok(file);
                }
            }
        }
    }

    fn discard(&mut self) {
        if let Some(begun) = self.begun.pop() {
            begun.remove();
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

/// What is there under the names of further parts of a recording: those that are numbered from 1 on
/// without a gap. `name_20261122.mcap` is somebody's archive.
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
    let part = |found: OsString| {
        let rest = found.as_bytes().strip_prefix(name.as_bytes())?;
        let number = rest.strip_prefix(b"_")?.strip_suffix(SUFFIX.as_bytes())?;
        let number: u32 = std::str::from_utf8(number).ok()?.parse().ok()?;
        // Not `name_007.mcap`: a recording of that name, whose parts are `name_007_1.mcap`, ...
        let path = numbered(stem, '_', number);
        (number > 0 && path.file_name() == Some(&found)).then_some((number, path))
    };
    let mut parts: Vec<_> = names.filter_map(part).collect();
    parts.sort_unstable();
    let in_turn = parts.into_iter().zip(1..);
    let in_turn = in_turn.take_while(|((number, _), expected)| number == expected);
    in_turn.map(|((_, path), _)| path).collect()
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
