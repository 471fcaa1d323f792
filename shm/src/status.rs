//! The status page: a node's counters, in memory with a name, for tools to read.
//!
//! Tools read it without asking the node, so also when it hangs or is dead. The page is made with
//! the `shared_memory` crate, and this module adds what that lacks: the memory is reserved before
//! it is touched (that of an entry when it is first used), a lock that the kernel holds for the
//! owner says whether it lives (the lease), the word READY is stored last, readers map it readable
//! only, and a name is removed only by who can prove that it is its own or that its owner is dead.
//!
//! Messages do not depend on it: a node that cannot have its page runs without.

mod counter;
mod names;
mod reader;

use core::fmt;
use core::ptr::NonNull;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering as FlagOrdering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
use shared_memory::{Shmem, ShmemConf, ShmemError};

pub use self::counter::Counter;
use self::names::{PREFIX, check_owner, open, ours, path_of, remove_if_same};
pub use self::names::{list, sweep};
pub use self::reader::{EndpointStatus, StatusReader};
use crate::error::ShmError;
use crate::histogram::{Histogram, LiveHistogram};
use crate::layout::{Memory, Place, Words};
use crate::sync::{AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"shmeshS2");
const READY: u64 = u64::from_le_bytes(*b"is ready");
/// Endpoints with counters of their own on the page; further ones count privately.
pub const ENTRIES: usize = 256;
const NAME_WORDS: usize = 8;
const TOPIC_WORDS: usize = 16;

#[repr(C, align(128))]
struct PageHead {
    magic: AtomicU64,
    bytes: AtomicU64,
    node: [AtomicU64; 2],
    pid: AtomicU64,
    started_ns: AtomicU64,
    name: [AtomicU64; NAME_WORDS],
    /// Stored last.
    ready: AtomicU64,
    /// 1 for each entry in use. Others may have no memory yet: nobody touches them.
    used: [AtomicU64; ENTRIES],
}

#[repr(C, align(128))]
struct Entry {
    role: AtomicU64,
    endpoint: AtomicU64,
    topic: [AtomicU64; TOPIC_WORDS],
    counts: Counts,
    latency: LiveHistogram,
}

/// The counters of one endpoint, on lines of their own; each is written by one thread.
#[repr(C, align(128))]
struct Counts([AtomicU64; Counter::ALL.len()]);

fn words<const N: usize>() -> [AtomicU64; N] {
    core::array::from_fn(|_| AtomicU64::new(0))
}

// SAFETY: atomics and padding only.
unsafe impl Words for PageHead {
    fn zeroed() -> Self {
        let [magic, bytes, pid, started_ns, ready] = words();
        Self {
            magic,
            bytes,
            node: words(),
            pid,
            started_ns,
            name: words(),
            ready,
            used: words(),
        }
    }
}

// SAFETY: atomics and padding only.
unsafe impl Words for Entry {
    fn zeroed() -> Self {
        let [role, endpoint] = words();
        Self {
            role,
            endpoint,
            topic: words(),
            counts: Counts(words()),
            latency: LiveHistogram::zeroed(),
        }
    }
}

const PAGE_BYTES: usize = size_of::<PageHead>() + ENTRIES * size_of::<Entry>();

/// The crate's mapping, kept as owner of the memory.
struct Mapped(Shmem);

// SAFETY: the handle is only kept and dropped; the memory is reached through atomics.
unsafe impl Send for Mapped {}
// SAFETY: as for Send.
unsafe impl Sync for Mapped {}

/// The status page of a node of this process. Its name goes with it.
pub struct StatusPage {
    name: String,
    head: Place<PageHead>,
    entries: Memory<Entry>,
    free: Mutex<Vec<usize>>,
    /// Holds the lease.
    file: File,
    pid: u32,
    is_removed: AtomicBool,
}

impl StatusPage {
    /// Makes the page of node `node`, and removes the pages of dead nodes of this user.
    ///
    /// # Errors
    /// [`ShmError::NoSpace`] if /dev/shm is full, [`ShmError::InUse`] if somebody has the name;
    /// nothing is left behind then.
    pub fn create(node: u128, node_name: &str) -> Result<Arc<Self>, ShmError> {
        sweep();
        let uid = rustix::process::geteuid().as_raw();
        let name = format!("{PREFIX}{uid}-{node:032x}");
        let conf = ShmemConf::new().size(PAGE_BYTES).os_id(format!("/{name}"));
        let mut mapped = conf.create().map_err(|error| create_error(&name, &error))?;
        // The crate removes by name whatever has that name then; we remove only what is ours.
        mapped.set_owner(false);
        let made = Self::finish(&name, mapped, node, node_name);
        if made.is_ok() {
            ours().insert(name);
        } else {
            let _ = std::fs::remove_file(path_of(&name));
        }
        made.map(Arc::new)
    }

    fn finish(name: &str, mapped: Shmem, node: u128, node_name: &str) -> Result<Self, ShmError> {
        let os = |what| move |source| ShmError::Os { what, source };
        let errno = |what| move |errno| ShmError::os(what, errno, PAGE_BYTES);
        let path = path_of(name);
        let file = open(&path, true).map_err(os("open the status page"))?;
        check_owner(name, &file)?;
        reserve(&file, 0, size_of::<PageHead>()).map_err(errno("reserve the status page"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(errno("take the lease of the status page"))?;
        let base = NonNull::new(mapped.as_ptr()).ok_or(ShmError::Corrupt {
            what: "mapping at address zero",
        })?;
        let owner = Arc::new(Mapped(mapped));
        let bytes = owner.0.len();
        let head = Place::<PageHead>::first_of(base, bytes, Arc::clone(&owner) as _)?;
        let entries = Memory::in_mapping(base, bytes, size_of::<PageHead>(), ENTRIES, owner)?;
        head.magic.store(MAGIC, Ordering::Relaxed);
        head.bytes.store(PAGE_BYTES as u64, Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)] // halves of a number
        let halves = [node as u64, (node >> 64) as u64];
        head.node
            .iter()
            .zip(halves)
            .for_each(|(w, half)| w.store(half, Ordering::Relaxed));
        head.pid
            .store(u64::from(std::process::id()), Ordering::Relaxed);
        head.started_ns
            .store(crate::monotonic_ns(), Ordering::Relaxed);
        store_text(&head.name, node_name);
        // Release: who loads READY with Acquire sees all of the above.
        head.ready.store(READY, Ordering::Release);
        Ok(Self {
            name: name.to_owned(),
            head,
            entries,
            free: Mutex::new((0..ENTRIES).rev().collect()),
            file,
            pid: std::process::id(),
            is_removed: AtomicBool::new(false),
        })
    }

    /// The page's name under /dev/shm.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counters for an endpoint, or `None` if the page is full or there is no memory for more of
    /// it. They start at zero.
    #[must_use]
    pub fn claim(self: &Arc<Self>, role: u32, endpoint: u32, topic: &str) -> Option<Counters> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let idx = *free.last()?;
        let bytes = size_of::<Entry>();
        reserve(&self.file, size_of::<PageHead>() + idx * bytes, bytes).ok()?;
        free.pop();
        drop(free);
        let entry = self.entries.at(idx);
        entry
            .counts
            .0
            .iter()
            .for_each(|count| count.store(0, Ordering::Relaxed));
        entry.latency.clear();
        entry.role.store(u64::from(role), Ordering::Relaxed);
        entry.endpoint.store(u64::from(endpoint), Ordering::Relaxed);
        store_text(&entry.topic, topic);
        // Release: a reader that sees the entry used sees whose it is.
        self.head.used[idx].store(1, Ordering::Release);
        let claim = Claim {
            page: Arc::clone(self),
            idx,
        };
        Some(Counters {
            entry: self.entries.place(idx),
            _claim: Some(claim),
        })
    }

    /// What it says of the node's endpoints now; a tool reads the same.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        reader::endpoints(&self.head, &self.entries)
    }

    /// True while at least half of its entries are free.
    #[must_use]
    pub fn is_half_free(&self) -> bool {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.len() * 2 >= ENTRIES
    }

    /// Removes the name, if it still is ours. The page stays readable for who has it open.
    pub fn remove(&self) {
        // A child of fork() is not the owner.
        if self.pid != std::process::id() || self.is_removed.swap(true, FlagOrdering::Relaxed) {
            return;
        }
        self.head.ready.store(0, Ordering::Relaxed);
        remove_if_same(&path_of(&self.name), &self.file);
    }
}

impl Drop for StatusPage {
    fn drop(&mut self) {
        ours().remove(&self.name);
        self.remove();
    }
}

impl fmt::Debug for StatusPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusPage")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Gives the entry back.
struct Claim {
    page: Arc<StatusPage>,
    idx: usize,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.page.head.used[self.idx].store(0, Ordering::Release);
        self.page
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.idx);
    }
}

/// The counters of one endpoint, on the status page or, without one, private. Each has one thread
/// that writes it.
pub struct Counters {
    entry: Place<Entry>,
    _claim: Option<Claim>,
}

impl Counters {
    /// Counters that no tool sees.
    #[must_use]
    pub fn detached() -> Self {
        Self {
            entry: Place::on_heap(),
            _claim: None,
        }
    }

    /// Adds to a counter. A load and a store: there is one writer.
    #[inline]
    pub fn add(&self, counter: Counter, more: u64) {
        let count = self.count(counter);
        count.store(
            count.load(Ordering::Relaxed).wrapping_add(more),
            Ordering::Relaxed,
        );
    }

    /// Sets a counter.
    #[inline]
    pub fn set(&self, counter: Counter, value: u64) {
        self.count(counter).store(value, Ordering::Relaxed);
    }

    /// What a counter says.
    #[must_use]
    pub fn value(&self, counter: Counter) -> u64 {
        self.count(counter).load(Ordering::Relaxed)
    }

    /// Adds a time to the latencies of the endpoint.
    #[inline]
    pub fn record(&self, ns: u64) {
        self.entry.latency.record(ns);
    }

    /// The latencies recorded so far.
    #[must_use]
    pub fn latency(&self) -> Histogram {
        self.entry.latency.read()
    }

    #[inline]
    fn count(&self, counter: Counter) -> &AtomicU64 {
        &self.entry.counts.0[counter as usize]
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Counter::ALL.map(|counter| (counter, self.value(counter)));
        f.debug_map().entries(counts).finish()
    }
}

/// Takes memory for a part of the page, so that touching it cannot fail.
fn reserve(file: &File, offset: usize, bytes: usize) -> Result<(), Errno> {
    let [offset, bytes] = [offset, bytes].map(|number| number as u64);
    rustix::fs::fallocate(file, FallocateFlags::empty(), offset, bytes)
}

fn create_error(name: &str, error: &ShmemError) -> ShmError {
    let errno = match error {
        ShmemError::MappingIdExists => {
            return ShmError::InUse {
                name: name.to_owned(),
            };
        }
        ShmemError::MapCreateFailed(errno) | ShmemError::UnknownOsError(errno) => *errno,
        _ => 0,
    };
    let errno = Errno::from_raw_os_error(i32::try_from(errno).unwrap_or_default());
    ShmError::os("create the status page", errno, PAGE_BYTES)
}

fn store_text(place: &[AtomicU64], text: &str) {
    let mut bytes = text.bytes();
    for word in place {
        let chunk = core::array::from_fn(|_| bytes.next().unwrap_or_default());
        word.store(u64::from_le_bytes(chunk), Ordering::Relaxed);
    }
}

fn load_text(place: &[AtomicU64]) -> String {
    let bytes = place
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests;
