//! What the two halves of a channel look like in memory, and typed access to them.
//!
//! A channel has two halves, each written by one process only and readable by the other:
//!
//! | half | writer | holds |
//! |---|---|---|
//! | ring half | publisher | `RingHead`, then `capacity` `Slot`s |
//! | borrow half | subscriber | `BorrowHead`, then `entries` borrow words |
//!
//! Every word is an atomic, and every bit pattern of it is valid, so a reader can never see
//! anything worse than a wrong number. Numbers from the other side are checked where they are read.
//!
//! Non-goals: this module knows no protocol; see `ring` for what the words mean.

use core::fmt;
use core::mem::size_of;
use core::ops::Deref;
use core::ptr::NonNull;
use std::sync::Arc;

use crate::error::ShmError;
use crate::segment::{PeerSegment, Segment};
use crate::sync::AtomicU64;

/// Bytes of one slot: two cache lines, so that the neighbouring-line prefetch brings the whole
/// message and 96 bytes of payload travel with the stamp.
pub const SLOT_BYTES: usize = 128;
/// Words of payload in a slot.
pub const INLINE_WORDS: usize = 12;
/// Largest payload that travels inside a slot; larger ones travel as a chunk.
pub const INLINE_BYTES: usize = INLINE_WORDS * 8;
/// Deepest ring: 2^20 slots are 128 MiB.
pub const RING_SLOTS_MAX: usize = 1 << 20;
/// Most borrow entries of a channel: depth plus held samples, plus two in passing.
pub const BORROW_ENTRIES_MAX: usize = RING_SLOTS_MAX + 4096;

/// First word of a ring half ("shmesh R").
const RING_MAGIC: u64 = u64::from_le_bytes(*b"shmeshR1");
/// First word of a borrow half.
const BORROW_MAGIC: u64 = u64::from_le_bytes(*b"shmeshB1");
/// Raised with every change of these layouts or of the meaning of a word in them.
const LAYOUT_VERSION: u64 = 1;

/// A number that is equal only where the layouts are equal: version, sizes and byte order.
///
/// Exchanged in the handshake of a link, so that two builds that would misread each other refuse.
#[must_use]
pub const fn layout_hash() -> u64 {
    let parts = [
        LAYOUT_VERSION,
        SLOT_BYTES as u64,
        INLINE_BYTES as u64,
        size_of::<RingHead>() as u64,
        size_of::<BorrowHead>() as u64,
        u64::from_ne_bytes(*b"byteordr"),
    ];
    // FNV-1a over the words.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut idx = 0;
    while idx < parts.len() {
        hash = (hash ^ parts[idx]).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
        idx += 1;
    }
    hash
}

/// Head of a ring half; written by the publisher.
#[repr(C, align(128))]
pub(crate) struct RingHead {
    magic: AtomicU64,
    layout: AtomicU64,
    capacity: AtomicU64,
    /// Sequence of the first message put into the ring or dropped; stored before either.
    pub(crate) first: AtomicU64,
    /// Messages that were never put into the ring, so far. Its own line: written on loss only.
    pub(crate) dropped: Apart,
}

/// Head of a borrow half; written by the subscriber.
#[repr(C, align(128))]
pub(crate) struct BorrowHead {
    magic: AtomicU64,
    layout: AtomicU64,
    entries: AtomicU64,
    /// Position of the next message the subscriber will read.
    pub(crate) cursor: Apart,
}

/// A word on a pair of cache lines of its own.
#[repr(C, align(128))]
pub(crate) struct Apart(pub(crate) AtomicU64);

/// One cell of a ring; written by the publisher.
#[repr(C, align(128))]
pub(crate) struct Slot {
    /// See `ring::committed`; stored last.
    pub(crate) stamp: AtomicU64,
    /// The publisher's number of this message.
    pub(crate) sequence: AtomicU64,
    /// `CLOCK_MONOTONIC` in nanoseconds, or 0 if the publisher does not stamp.
    pub(crate) sent_ns: AtomicU64,
    /// Length in bytes in the low half, kind in the high half.
    pub(crate) meta: AtomicU64,
    /// The payload itself, or where its chunk is.
    pub(crate) payload: [AtomicU64; INLINE_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Slot>() == SLOT_BYTES);
    assert!(size_of::<RingHead>() == 256);
    assert!(size_of::<BorrowHead>() == 256);
    assert!(align_of::<Slot>() == 128);
    assert!(align_of::<RingHead>() == 128);
};

/// Types made of atomics only: valid for every bit pattern, shared writes allowed.
///
/// # Safety
/// Every byte of the type is part of an atomic word or padding.
pub(crate) unsafe trait Words: Send + Sync + 'static {
    /// A zeroed value on the heap (loom's atomics have no all-zero form).
    fn zeroed() -> Self;
}

fn word() -> AtomicU64 {
    AtomicU64::new(0)
}

// SAFETY: atomics only.
unsafe impl Words for RingHead {
    fn zeroed() -> Self {
        Self {
            magic: word(),
            layout: word(),
            capacity: word(),
            first: word(),
            dropped: Apart(word()),
        }
    }
}

// SAFETY: atomics only.
unsafe impl Words for BorrowHead {
    fn zeroed() -> Self {
        Self {
            magic: word(),
            layout: word(),
            entries: word(),
            cursor: Apart(word()),
        }
    }
}

// SAFETY: atomics only.
unsafe impl Words for Slot {
    fn zeroed() -> Self {
        Self {
            stamp: word(),
            sequence: word(),
            sent_ns: word(),
            meta: word(),
            payload: core::array::from_fn(|_| word()),
        }
    }
}

// SAFETY: an atomic and padding.
unsafe impl Words for Apart {
    fn zeroed() -> Self {
        Self(word())
    }
}

// SAFETY: an atomic.
unsafe impl Words for AtomicU64 {
    fn zeroed() -> Self {
        word()
    }
}

/// `len` values of `T` at a fixed address, kept mapped by whoever owns the memory.
///
/// The memory may be private (heap), this process's own segment, or another process's segment
/// mapped readable only; in the last case nothing may be stored, which the callers see to.
pub(crate) struct Memory<T> {
    ptr: NonNull<T>,
    len: usize,
    owner: Arc<dyn Send + Sync>,
}

impl<T> Clone for Memory<T> {
    fn clone(&self) -> Self {
        Self {
            ptr: self.ptr,
            len: self.len,
            owner: Arc::clone(&self.owner),
        }
    }
}

// SAFETY: `T: Words` is Sync, and the owner keeps the memory mapped wherever the handle goes.
unsafe impl<T: Words> Send for Memory<T> {}
// SAFETY: as for Send; all access is by shared reference to atomics.
unsafe impl<T: Words> Sync for Memory<T> {}

impl<T: Words> Memory<T> {
    /// Zeroed private memory.
    pub(crate) fn on_heap(len: usize) -> Self {
        let cells: Arc<[T]> = (0..len).map(|_| T::zeroed()).collect();
        let ptr = NonNull::from(&cells[..]).cast();
        Self {
            ptr,
            len,
            owner: Arc::new(cells),
        }
    }

    /// `len` values at `offset` of a mapping of `bytes` bytes that `owner` keeps.
    pub(crate) fn in_mapping(
        base: NonNull<u8>,
        bytes: usize,
        offset: usize,
        len: usize,
        owner: Arc<dyn Send + Sync>,
    ) -> Result<Self, ShmError> {
        let end = len
            .checked_mul(size_of::<T>())
            .and_then(|size| size.checked_add(offset));
        if end.is_none_or(|end| end > bytes) {
            return Err(ShmError::Corrupt {
                what: "memory is shorter than its layout",
            });
        }
        // SAFETY: `offset <= end <= bytes`, so the result is inside the mapping.
        let ptr = unsafe { base.add(offset) }.cast::<T>();
        if !ptr.is_aligned() {
            return Err(ShmError::Corrupt {
                what: "misaligned layout",
            });
        }
        Ok(Self { ptr, len, owner })
    }

    /// The value at `idx`.
    #[inline]
    pub(crate) fn at(&self, idx: usize) -> &T {
        assert!(idx < self.len, "invariant: index {idx} inside {}", self.len);
        // SAFETY: `idx < len`, the constructors checked that `len` values lie inside the memory,
        // the owner keeps it mapped, and `T: Words` is valid for every bit pattern.
        unsafe { self.ptr.add(idx).as_ref() }
    }

    /// The value at `idx`, looked up in advance.
    pub(crate) fn place(&self, idx: usize) -> Place<T> {
        Place {
            ptr: NonNull::from(self.at(idx)),
            owner: Arc::clone(&self.owner),
        }
    }

    /// How many values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<T> fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// One value of a [`Memory`], found in advance: reaching it cannot fail.
pub(crate) struct Place<T> {
    ptr: NonNull<T>,
    owner: Arc<dyn Send + Sync>,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        Self {
            ptr: self.ptr,
            owner: Arc::clone(&self.owner),
        }
    }
}

// SAFETY: as for `Memory`.
unsafe impl<T: Words> Send for Place<T> {}
// SAFETY: as for `Memory`.
unsafe impl<T: Words> Sync for Place<T> {}

impl<T: Words> Place<T> {
    /// The only value of a mapping that starts with it.
    pub(crate) fn first_of(
        base: NonNull<u8>,
        bytes: usize,
        owner: Arc<dyn Send + Sync>,
    ) -> Result<Self, ShmError> {
        Ok(Memory::in_mapping(base, bytes, 0, 1, owner)?.place(0))
    }

    /// Zeroed private memory.
    pub(crate) fn on_heap() -> Self {
        Memory::on_heap(1).place(0)
    }
}

impl<T: Words> Deref for Place<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `Memory::at` gave the reference, and the owner keeps the memory mapped.
        unsafe { self.ptr.as_ref() }
    }
}

impl<T> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// A ring half, as its publisher or its subscriber sees it.
#[derive(Clone)]
pub struct RingHalf {
    pub(crate) head: Place<RingHead>,
    pub(crate) slots: Memory<Slot>,
}

impl fmt::Debug for RingHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingHalf")
            .field("capacity", &self.slots.len())
            .finish()
    }
}

impl RingHalf {
    /// Bytes a segment needs for `capacity` slots.
    #[must_use]
    pub const fn bytes(capacity: usize) -> usize {
        size_of::<RingHead>() + capacity * size_of::<Slot>()
    }

    /// A ring half on private memory, for two ends in one process.
    #[must_use]
    pub fn on_heap(capacity: usize) -> Self {
        Self {
            head: Place::on_heap(),
            slots: Memory::on_heap(capacity),
        }
        .written(capacity)
    }

    /// A fresh ring half in a segment of this process.
    ///
    /// # Errors
    /// [`ShmError::Corrupt`] if the segment is smaller than [`bytes`](Self::bytes).
    pub fn create_in(segment: &Arc<Segment>, capacity: usize) -> Result<Self, ShmError> {
        let owner: Arc<dyn Send + Sync> = Arc::clone(segment) as _;
        Self::in_mapping(segment.ptr(), segment.len(), capacity, owner)
            .map(|half| half.written(capacity))
    }

    /// The ring half another process made, mapped readable only.
    ///
    /// # Errors
    /// [`ShmError::Incompatible`] for another magic, layout or capacity; [`ShmError::Corrupt`] if
    /// the memory is too small for what its head says.
    pub fn open(segment: PeerSegment, capacity: usize) -> Result<Self, ShmError> {
        let segment = Arc::new(segment);
        let owner: Arc<dyn Send + Sync> = Arc::clone(&segment) as _;
        let half = Self::in_mapping(segment.ptr(), segment.len(), capacity, owner)?;
        let head = &half.head;
        check_head("ring", &head.magic, RING_MAGIC)?;
        check_head("ring layout", &head.layout, layout_hash())?;
        check_head("ring capacity", &head.capacity, capacity as u64)?;
        Ok(half)
    }

    /// How many slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn in_mapping(
        base: NonNull<u8>,
        bytes: usize,
        capacity: usize,
        owner: Arc<dyn Send + Sync>,
    ) -> Result<Self, ShmError> {
        if capacity == 0 || capacity > RING_SLOTS_MAX {
            return Err(ShmError::Limit {
                what: "ring slots",
                max: RING_SLOTS_MAX as u64,
            });
        }
        let head = Place::first_of(base, bytes, Arc::clone(&owner))?;
        let slots = Memory::in_mapping(base, bytes, size_of::<RingHead>(), capacity, owner)?;
        Ok(Self { head, slots })
    }

    fn written(self, capacity: usize) -> Self {
        let head = &self.head;
        // Relaxed: the half reaches the other side through a socket or a lock, which orders it.
        head.layout
            .store(layout_hash(), crate::sync::Ordering::Relaxed);
        head.capacity
            .store(capacity as u64, crate::sync::Ordering::Relaxed);
        head.magic.store(RING_MAGIC, crate::sync::Ordering::Relaxed);
        self
    }
}

/// A borrow half, as its subscriber or its publisher sees it.
#[derive(Clone)]
pub struct BorrowHalf {
    pub(crate) head: Place<BorrowHead>,
    pub(crate) entries: Memory<AtomicU64>,
}

impl fmt::Debug for BorrowHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BorrowHalf")
            .field("entries", &self.entries.len())
            .finish()
    }
}

impl BorrowHalf {
    /// Bytes a segment needs for `entries` borrow words.
    #[must_use]
    pub const fn bytes(entries: usize) -> usize {
        size_of::<BorrowHead>() + entries * size_of::<AtomicU64>()
    }

    /// A borrow half on private memory, for two ends in one process.
    #[must_use]
    pub fn on_heap(entries: usize) -> Self {
        Self {
            head: Place::on_heap(),
            entries: Memory::on_heap(entries),
        }
        .written(entries)
    }

    /// A fresh borrow half in a segment of this process.
    ///
    /// # Errors
    /// [`ShmError::Corrupt`] if the segment is smaller than [`bytes`](Self::bytes).
    pub fn create_in(segment: &Arc<Segment>, entries: usize) -> Result<Self, ShmError> {
        let owner: Arc<dyn Send + Sync> = Arc::clone(segment) as _;
        Self::in_mapping(segment.ptr(), segment.len(), entries, owner)
            .map(|half| half.written(entries))
    }

    /// The borrow half another process made, mapped readable only.
    ///
    /// # Errors
    /// [`ShmError::Incompatible`] for another magic, layout or size; [`ShmError::Corrupt`] if the
    /// memory is too small for what its head says.
    pub fn open(segment: PeerSegment, entries: usize) -> Result<Self, ShmError> {
        let segment = Arc::new(segment);
        let owner: Arc<dyn Send + Sync> = Arc::clone(&segment) as _;
        let half = Self::in_mapping(segment.ptr(), segment.len(), entries, owner)?;
        let head = &half.head;
        check_head("borrow table", &head.magic, BORROW_MAGIC)?;
        check_head("borrow table layout", &head.layout, layout_hash())?;
        check_head("borrow table size", &head.entries, entries as u64)?;
        Ok(half)
    }

    /// How many borrow words.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    fn in_mapping(
        base: NonNull<u8>,
        bytes: usize,
        entries: usize,
        owner: Arc<dyn Send + Sync>,
    ) -> Result<Self, ShmError> {
        if entries == 0 || entries > BORROW_ENTRIES_MAX {
            return Err(ShmError::Limit {
                what: "borrow entries",
                max: BORROW_ENTRIES_MAX as u64,
            });
        }
        let head = Place::first_of(base, bytes, Arc::clone(&owner))?;
        let offset = size_of::<BorrowHead>();
        let entries = Memory::in_mapping(base, bytes, offset, entries, owner)?;
        Ok(Self { head, entries })
    }

    fn written(self, entries: usize) -> Self {
        let head = &self.head;
        // Relaxed: as in `RingHalf::written`.
        head.layout
            .store(layout_hash(), crate::sync::Ordering::Relaxed);
        head.entries
            .store(entries as u64, crate::sync::Ordering::Relaxed);
        head.magic
            .store(BORROW_MAGIC, crate::sync::Ordering::Relaxed);
        self
    }
}

fn check_head(what: &'static str, found: &AtomicU64, expected: u64) -> Result<(), ShmError> {
    // Relaxed: the creator wrote it before it handed the memory over.
    let found = found.load(crate::sync::Ordering::Relaxed);
    if found == expected {
        return Ok(());
    }
    Err(ShmError::Incompatible {
        what,
        found,
        expected,
    })
}
