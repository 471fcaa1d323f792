//! Which file it is, whatever its name: names are given to other files meanwhile, and files have
//! several.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// What tells a file from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    /// Numbers of inodes are given again. Not every file system knows it.
    born: Option<SystemTime>,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            born: metadata.created().ok(),
        }
    }

    /// Of what has that name itself, if anything; it may be a link.
    pub(super) fn named(path: &Path) -> Option<Self> {
        let metadata = std::fs::symlink_metadata(path);
        metadata.ok().as_ref().map(Self::of)
    }

    /// Of the file that is opened by that name.
    pub(super) fn opened(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }
}
