//! The pages' names: which there are, whose they are, and which may go.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};

use super::{PAGE_BYTES, StatusReader};
use crate::error::ShmError;

/// Where the system keeps named shared memory.
const DIRECTORY: &str = "/dev/shm";
pub(super) const PREFIX: &str = "shmesh-";
/// A page without READY and without lease is garbage only after this time: it may be being made.
const BIRTH_MAX: Duration = Duration::from_secs(10);

/// Names of the status pages of this user's nodes, dead ones too.
#[must_use]
pub fn list() -> Vec<String> {
    let uid = rustix::process::geteuid().as_raw();
    let prefix = format!("{PREFIX}{uid}-");
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Pages of this process, whose nodes live: a sweep need not look at them, of which there may be a
/// thousand.
static OURS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub(super) fn ours() -> MutexGuard<'static, BTreeSet<String>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the pages of dead nodes of this user; gives their names.
pub fn sweep() -> Vec<String> {
    let mut removed = list();
    removed.retain(|name| !ours().contains(name));
    removed.retain(|name| {
        let path = path_of(name);
        let Ok(file) = open(&path, false) else {
            return false;
        };
        let has_lease = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        !has_lease && !is_being_made(name, &file) && remove_if_same(&path, &file)
    });
    removed
}

/// A page between its creation and its lease: young and not ready.
fn is_being_made(name: &str, file: &File) -> bool {
    let is_ready = !matches!(
        StatusReader::open(name),
        Err(ShmError::NotReady | ShmError::Size { .. })
    );
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let age = modified
        .ok()
        .and_then(|modified| modified.elapsed().ok())
        .unwrap_or_default();
    !is_ready && age < BIRTH_MAX
}

/// Removes `path` if it names the file that is open, and not a successor of it.
pub(super) fn remove_if_same(path: &Path, file: &File) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    let is_same = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
    is_same && std::fs::remove_file(path).is_ok()
}

pub(super) fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

pub(super) fn open(path: &Path, writes: bool) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(writes)
        .custom_flags(flags)
        .open(path)
}

/// The file must be ours, for us alone, and a page by its size.
pub(super) fn check_owner(name: &str, file: &File) -> Result<(), ShmError> {
    let metadata = file.metadata().map_err(|source| ShmError::Os {
        what: "look at the status page",
        source,
    })?;
    let expected = rustix::process::geteuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != expected || mode != 0o600 {
        let (name, uid) = (name.to_owned(), metadata.uid());
        return Err(ShmError::Foreign {
            name,
            uid,
            mode,
            expected,
        });
    }
    let bytes = PAGE_BYTES as u64;
    if !metadata.is_file() || metadata.len() != bytes {
        return Err(ShmError::Size {
            found: metadata.len(),
            min: bytes,
            max: bytes,
        });
    }
    Ok(())
}
