//! The status page: a node's counters, in memory with a name, for tools to read.
//!
//! Tools read it without asking the node, so also when it hangs or is dead. The page is made with
//! the `shared_memory` crate, and this module adds what that lacks: the memory is reserved before
//! it is touched, a lock that the kernel holds for the owner says whether it lives (the lease),
//! the word READY is stored last, readers map it readable only, and a name is removed only by
//! who can prove that it is its own or that its owner is dead.
//!
//! Messages do not depend on it: a node that cannot have its page runs without.

use core::fmt;
use core::ptr::NonNull;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering as FlagOrdering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use rustix::mm::ProtFlags;
use shared_memory::{Shmem, ShmemConf, ShmemError};

use crate::error::ShmError;
use crate::layout::{Memory, Place, Words};
use crate::segment::Mapping;
use crate::sync::{AtomicU64, Ordering};

/// Where the system keeps named shared memory.
const DIRECTORY: &str = "/dev/shm";
const PREFIX: &str = "shmesh-";
const MAGIC: u64 = u64::from_le_bytes(*b"shmeshS1");
const READY: u64 = u64::from_le_bytes(*b"is ready");
/// Endpoints with counters of their own on the page; further ones count privately.
pub const ENTRIES: usize = 256;
const NAME_WORDS: usize = 8;
const TOPIC_WORDS: usize = 16;
/// A page without READY and without lease is garbage only after this time: it may be being made.
const BIRTH_MAX: Duration = Duration::from_secs(10);

/// What is counted for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Messages sent or received.
    Messages,
    /// Their bytes.
    Bytes,
    /// Lost: overwritten before they were read.
    LostOverwritten,
    /// Lost: no room.
    LostDropped,
    /// Lost: received, but invalid.
    LostInvalid,
    /// Samples in chunks that were held when it last went to sleep, or was refused more.
    Held,
    /// System calls made to wake somebody.
    WakeUps,
    /// Times it went to sleep.
    Parkings,
    /// Endpoints it is connected to.
    Peers,
    /// Bytes of its arena.
    ArenaBytes,
    /// Taken, but passed over for newer ones.
    Skipped,
    /// Lost: too old when it was taken.
    LostExpired,
    /// Messages that waited in its rings when last looked at.
    Unread,
    /// Messages that there is room for in its rings.
    Room,
    /// Peers that were found again after their link was lost. Of a node.
    PeersFoundAgain,
    /// Times its coordinator was found again. Of a node.
    CoordinatorFoundAgain,
}

impl Counter {
    /// All, in order.
    pub const ALL: [Self; 16] = [
        Self::Messages,
        Self::Bytes,
        Self::LostOverwritten,
        Self::LostDropped,
        Self::LostInvalid,
        Self::Held,
        Self::WakeUps,
        Self::Parkings,
        Self::Peers,
        Self::ArenaBytes,
        Self::Skipped,
        Self::LostExpired,
        Self::Unread,
        Self::Room,
        Self::PeersFoundAgain,
        Self::CoordinatorFoundAgain,
    ];
}

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
}

#[repr(C, align(128))]
struct Entry {
    /// 0 while free.
    is_used: AtomicU64,
    role: AtomicU64,
    endpoint: AtomicU64,
    topic: [AtomicU64; TOPIC_WORDS],
    counts: Counts,
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
        }
    }
}

// SAFETY: atomics and padding only.
unsafe impl Words for Entry {
    fn zeroed() -> Self {
        let [is_used, role, endpoint] = words();
        Self {
            is_used,
            role,
            endpoint,
            topic: words(),
            counts: Counts(words()),
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
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, PAGE_BYTES as u64)
            .map_err(errno("reserve the status page"))?;
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

    /// Counters for an endpoint, or `None` if the page is full. They start at zero.
    #[must_use]
    pub fn claim(self: &Arc<Self>, role: u32, endpoint: u32, topic: &str) -> Option<Counters> {
        let idx = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        let entry = self.entries.at(idx);
        entry
            .counts
            .0
            .iter()
            .for_each(|count| count.store(0, Ordering::Relaxed));
        entry.role.store(u64::from(role), Ordering::Relaxed);
        entry.endpoint.store(u64::from(endpoint), Ordering::Relaxed);
        store_text(&entry.topic, topic);
        // Release: a reader that sees the entry used sees whose it is.
        entry.is_used.store(1, Ordering::Release);
        let claim = Claim {
            page: Arc::clone(self),
            idx,
        };
        Some(Counters {
            entry: self.entries.place(idx),
            _claim: Some(claim),
        })
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
        self.page
            .entries
            .at(self.idx)
            .is_used
            .store(0, Ordering::Release);
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
    /// Opens the page of that name, as [`list`] gives it.
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
        let mapping = Mapping::new(file.as_fd(), PAGE_BYTES, ProtFlags::READ)?;
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
        (0..self.entries.len())
            .filter_map(|idx| self.endpoint(idx))
            .collect()
    }

    fn endpoint(&self, idx: usize) -> Option<EndpointStatus> {
        let entry = self.entries.at(idx);
        // Acquire: pairs with the Release store in `StatusPage::claim`.
        if entry.is_used.load(Ordering::Acquire) != 1 {
            return None;
        }
        Some(EndpointStatus {
            role: u32::try_from(entry.role.load(Ordering::Relaxed)).ok()?,
            endpoint: u32::try_from(entry.endpoint.load(Ordering::Relaxed)).ok()?,
            topic: load_text(&entry.topic),
            counts: core::array::from_fn(|idx| entry.counts.0[idx].load(Ordering::Relaxed)),
        })
    }
}

impl fmt::Debug for StatusReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusReader")
            .field("node", &self.node())
            .finish_non_exhaustive()
    }
}

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

fn ours() -> MutexGuard<'static, BTreeSet<String>> {
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
fn remove_if_same(path: &Path, file: &File) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    let is_same = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
    is_same && std::fs::remove_file(path).is_ok()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

fn open(path: &Path, writes: bool) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(writes)
        .custom_flags(flags)
        .open(path)
}

/// The file must be ours, for us alone, and a page by its size.
fn check_owner(name: &str, file: &File) -> Result<(), ShmError> {
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
