//! Somebody's page, as tools see it.

use core::fmt;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::fs::FlockOperation;
use rustix::mm::ProtFlags;

use super::names::{PREFIX, check_owner, open, path_of};
use super::{Counter, ENTRIES, Entry, MAGIC, PAGE_BYTES, PageHead, READY, load_text};
use crate::error::ShmError;
use crate::histogram::Histogram;
use crate::layout::{Memory, Place};
use crate::segment::Mapping;
use crate::sync::Ordering;

/// What a page says of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// 0 for a publisher, 1 for a subscriber, 2 for the node itself.
    pub role: u32,
    /// Its number in the node.
    pub endpoint: u32,
    /// Its topic; whatever bytes were there, so escape it before printing.
    pub topic: String,
    counts: [u64; Counter::ALL.len()],
    /// The times it measured: of a subscriber, from sending to receiving.
    pub latency: Histogram,
}

impl EndpointStatus {
    /// What a counter said.
    #[must_use]
    pub fn value(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }
}

/// Somebody's status page, readable only.
pub struct StatusReader {
    head: Place<PageHead>,
    entries: Memory<Entry>,
    file: File,
}

impl StatusReader {
    /// Opens the page of that name, as [`list`](super::list) gives it.
    ///
    /// # Errors
    /// [`ShmError::Foreign`] if it is another user's, [`ShmError::NotReady`] if it is being made or
    /// removed, [`ShmError::Incompatible`] and [`ShmError::Size`] for another version or garbage.
    pub fn open(name: &str) -> Result<Self, ShmError> {
        let is_plain = name.starts_with(PREFIX) && !name.contains('/');
        let path = path_of(if is_plain { name } else { "" });
        let file = open(&path, false).map_err(|source| ShmError::Os {
            what: "open the status page",
            source,
        })?;
        check_owner(name, &file)?;
        let mapping = Mapping::sparse(file.as_fd(), PAGE_BYTES, ProtFlags::READ)?;
        let (base, bytes, owner) = (mapping.ptr, mapping.len, Arc::new(mapping));
        let head = Place::<PageHead>::first_of(base, bytes, Arc::clone(&owner) as _)?;
        let entries = Memory::in_mapping(base, bytes, size_of::<PageHead>(), ENTRIES, owner)?;
        // Acquire: pairs with the Release store in `StatusPage::finish`.
        if head.ready.load(Ordering::Acquire) != READY {
            return Err(ShmError::NotReady);
        }
        let found = head.magic.load(Ordering::Relaxed);
        if found != MAGIC {
            return Err(ShmError::Incompatible {
                what: "status page",
                found,
                expected: MAGIC,
            });
        }
        Ok(Self {
            head,
            entries,
            file,
        })
    }

    /// True while its owner lives, stopped or hung as it may be.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
                false
            }
            Err(_) => true,
        }
    }

    /// The node's id and name. Escape the name before printing.
    #[must_use]
    pub fn node(&self) -> (u128, String) {
        let head = &self.head;
        let [low, high] = [0, 1].map(|idx| u128::from(head.node[idx].load(Ordering::Relaxed)));
        (low | high << 64, load_text(&head.name))
    }

    /// Its process, for people.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.head.pid.load(Ordering::Relaxed)
    }

    /// What it says of its endpoints now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        endpoints(&self.head, &self.entries)
    }
}

/// What a page says of its endpoints now.
pub(super) fn endpoints(head: &PageHead, entries: &Memory<Entry>) -> Vec<EndpointStatus> {
    // Acquire: pairs with the Release store in `StatusPage::claim`.
    let is_used = |idx: &usize| head.used[*idx].load(Ordering::Acquire) == 1;
    let used = (0..entries.len()).filter(is_used);
    used.filter_map(|idx| endpoint(entries.at(idx))).collect()
}

fn endpoint(entry: &Entry) -> Option<EndpointStatus> {
    Some(EndpointStatus {
        role: u32::try_from(entry.role.load(Ordering::Relaxed)).ok()?,
        endpoint: u32::try_from(entry.endpoint.load(Ordering::Relaxed)).ok()?,
        topic: load_text(&entry.topic),
        counts: core::array::from_fn(|idx| entry.counts.0[idx].load(Ordering::Relaxed)),
        latency: entry.latency.read(),
    })
}

impl fmt::Debug for StatusReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusReader")
            .field("node", &self.node())
            .finish_non_exhaustive()
    }
}
