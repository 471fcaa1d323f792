//! Payload memory of one publisher: chunks of a few size classes in segments added on demand.
//!
//! All bookkeeping is private to the publisher: no other process can corrupt it, and none is in
//! shared memory. A chunk is free, being written (a [`Chunk`] owns it) or published, and then it
//! counts the references that channels hold. It becomes free again with the last of them.
//!
//! Sizes are rounded up to four steps per power of two, so at most a quarter of a chunk is unused.
//! Freed chunks are reused last-in first-out: the hottest memory first.
//!
//! Non-goals: the arena does not know channels. Getting chunks back from subscribers, and choosing
//! whom to evict at the bound, is the publisher's (`shmesh::Publisher`).

use core::alloc::Layout;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::ShmError;
use crate::segment::{PeerSegment, Segment};

/// Smallest chunk in bytes, and the alignment of all.
const CHUNK_BYTES_MIN: usize = 128;
/// Alignment of every chunk in bytes.
pub const CHUNK_ALIGN: usize = 64;
/// Largest chunk in bytes.
pub const CHUNK_BYTES_MAX: usize = 1 << 30;
/// A segment holds four chunks, but at least this many bytes ...
const SEGMENT_BYTES_MIN: usize = 1 << 20;
/// ... and at most these, or one chunk: more would make the first message wait for page faults.
const SEGMENT_BYTES_MAX: usize = 32 << 20;
const STEPS: usize = 4;
const CLASS_COUNT: usize = (CHUNK_BYTES_MAX.ilog2() - CHUNK_BYTES_MIN.ilog2()) as usize * STEPS + 1;

/// Memory at a fixed address.
///
/// # Safety
/// `ptr` is valid for reads of `len` bytes for as long as the block lives, initialised, and always
/// the same; if the block was made by a [`Store`], also for writes.
pub unsafe trait Block: Send + Sync {
    /// First byte.
    fn ptr(&self) -> NonNull<u8>;
    /// Bytes.
    fn len(&self) -> usize;
    /// True for a block of no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// SAFETY: a segment is mapped, readable and writable, from creation to drop.
unsafe impl Block for Segment {
    #[inline]
    fn ptr(&self) -> NonNull<u8> {
        self.ptr()
    }
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }
}

// SAFETY: a peer's segment is mapped readable from creation to drop, and sealed against shrinking.
unsafe impl Block for PeerSegment {
    fn ptr(&self) -> NonNull<u8> {
        self.ptr()
    }
    fn len(&self) -> usize {
        self.len()
    }
}

/// Private memory. Large blocks are mapped: they take memory as they are touched, not before.
pub struct HeapBlock {
    ptr: NonNull<u8>,
    layout: Layout,
    is_mapped: bool,
}

/// Blocks from this size on are mapped.
const MAPPED_BYTES_MIN: usize = 1 << 20;

// SAFETY: plain memory without thread affinity.
unsafe impl Send for HeapBlock {}
// SAFETY: access goes through raw pointers under the arena's rules.
unsafe impl Sync for HeapBlock {}

// SAFETY: allocated zeroed or mapped fresh, freed on drop.
unsafe impl Block for HeapBlock {
    fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }
    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl HeapBlock {
    /// `bytes` zeroed bytes.
    ///
    /// # Errors
    /// [`ShmError::NoSpace`] if there is no memory.
    pub fn new(bytes: usize) -> Result<Self, ShmError> {
        let no_space = || ShmError::NoSpace {
            need: bytes as u64,
            free: None,
        };
        let layout = Layout::from_size_align(bytes.max(1), CHUNK_ALIGN).map_err(|_| no_space())?;
        let is_mapped = bytes >= MAPPED_BYTES_MIN && !cfg!(miri);
        let ptr = if is_mapped {
            map(bytes).ok_or_else(no_space)?
        } else {
            // SAFETY: the size is not zero.
            NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or_else(no_space)?
        };
        Ok(Self {
            ptr,
            layout,
            is_mapped,
        })
    }
}

/// Fresh pages, which are zeroed, and aligned beyond every chunk's alignment.
fn map(bytes: usize) -> Option<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping wherever the kernel puts it; nobody else's memory is touched.
    let mapped = unsafe { mmap_anonymous(core::ptr::null_mut(), bytes, access, MapFlags::PRIVATE) };
    NonNull::new(mapped.ok()?.cast())
}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        if self.is_mapped {
            // SAFETY: mapped in `new` with this length, and used no more.
            let unmapped = unsafe { rustix::mm::munmap(self.ptr.as_ptr().cast(), self.len()) };
            debug_assert!(unmapped.is_ok());
            return;
        }
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

impl fmt::Debug for HeapBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapBlock")
            .field("bytes", &self.layout.size())
            .finish()
    }
}

/// Where an arena gets its segments.
pub trait Store {
    /// What it gets.
    type Block: Block + 'static;
    /// A new zeroed block of at least `bytes` bytes, readable and writable.
    ///
    /// # Errors
    /// Whatever keeps the memory from being had.
    fn create(&mut self, bytes: usize) -> Result<Self::Block, ShmError>;
}

/// Makes [`Segment`]s: what a publisher uses.
#[derive(Debug, Default)]
pub struct SegmentStore;

impl Store for SegmentStore {
    type Block = Segment;
    fn create(&mut self, bytes: usize) -> Result<Segment, ShmError> {
        Segment::create("shmesh-arena", bytes)
    }
}

/// Makes [`HeapBlock`]s.
#[derive(Debug, Default)]
pub struct HeapStore;

impl Store for HeapStore {
    type Block = HeapBlock;
    fn create(&mut self, bytes: usize) -> Result<HeapBlock, ShmError> {
        HeapBlock::new(bytes)
    }
}

/// Names a chunk inside its arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChunkId {
    /// Number of the segment; never used twice.
    pub segment: u32,
    /// Number of the chunk in it.
    pub index: u32,
}

/// Chunks whose writers dropped them; any thread adds, the arena takes.
#[derive(Debug, Default)]
struct Returns {
    waiting: AtomicBool,
    chunks: Mutex<Vec<ChunkId>>,
}

/// What the chunks of a segment need wherever they are: their memory, and the way back.
#[derive(Debug)]
struct Home<B> {
    block: Arc<B>,
    /// Number of the segment.
    segment: u32,
    chunk_bytes: usize,
    returns: Arc<Returns>,
}

/// A chunk that is being written. Dropping it, on any thread, gives it back. Two words, which are
/// handed on in registers.
#[must_use = "a chunk that is dropped is given back unpublished"]
pub struct Chunk<B: Block> {
    /// Taken out once: by the drop, or by `Arena::publish` instead of it.
    home: ManuallyDrop<Arc<Home<B>>>,
    index: u32,
}

impl<B: Block> Chunk<B> {
    /// The whole chunk, which is at least as long as was asked for. Contents are what was there
    /// before, zeroes at first.
    #[must_use]
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: these bytes lie inside the block, which `home` keeps mapped and which its store
        // made writable; they are initialised. The arena gives a chunk out once until it is back,
        // and no channel refers to it before `Arena::publish`, so nobody else of this process has
        // these bytes, and other processes have no reason to look.
        unsafe { core::slice::from_raw_parts_mut(self.start(), self.home.chunk_bytes) }
    }

    /// The whole chunk.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`; a shared borrow of the only handle.
        unsafe { core::slice::from_raw_parts(self.start(), self.home.chunk_bytes) }
    }

    #[inline]
    fn start(&self) -> *mut u8 {
        // SAFETY: all chunks of a segment lie inside its block; see `Arena::grow`.
        unsafe { self.home.block.ptr().add(self.offset()) }.as_ptr()
    }

    /// Byte offset of the chunk in its segment.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> usize {
        self.index as usize * self.home.chunk_bytes
    }

    /// The chunk's name.
    #[must_use]
    #[inline]
    pub fn id(&self) -> ChunkId {
        ChunkId {
            segment: self.home.segment,
            index: self.index,
        }
    }

    /// Its home, instead of a drop.
    #[inline]
    fn into_home(self) -> Arc<Home<B>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: the chunk, which nobody drops any more, is not used after this.
        unsafe { ManuallyDrop::take(&mut this.home) }
    }
}

impl<B: Block> Drop for Chunk<B> {
    fn drop(&mut self) {
        let id = self.id();
        // SAFETY: the chunk is being dropped; its home is not used after this.
        let home = unsafe { ManuallyDrop::take(&mut self.home) };
        let returns = &home.returns;
        // A poisoned list is still a list.
        let mut chunks = returns
            .chunks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        chunks.push(id);
        // Relaxed: the list itself is under the lock.
        returns.waiting.store(true, Ordering::Relaxed);
    }
}

impl<B: Block> fmt::Debug for Chunk<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("id", &self.id())
            .field("bytes", &self.home.chunk_bytes)
            .finish()
    }
}

#[derive(Debug)]
struct ArenaSegment<B> {
    home: Arc<Home<B>>,
    chunk_bytes: usize,
    class: usize,
    /// References per chunk; 0 is free.
    refs: Box<[u32]>,
    free_count: usize,
    /// Handles for chunks to be taken: made once and passed on, because counting them up and down
    /// again for every message costs more than all else an arena does.
    homes: Vec<Arc<Home<B>>>,
}

/// Payload memory of one publisher.
#[derive(Debug)]
pub struct Arena<S: Store> {
    store: S,
    segments: Vec<Option<ArenaSegment<S::Block>>>,
    free: Vec<Vec<ChunkId>>,
    bytes: usize,
    bytes_max: usize,
    returns: Arc<Returns>,
}

impl<S: Store> Arena<S> {
    /// An empty arena that grows to at most `bytes_max` bytes.
    pub fn new(store: S, bytes_max: usize) -> Self {
        Self {
            store,
            segments: Vec::new(),
            free: (0..CLASS_COUNT).map(|_| Vec::new()).collect(),
            bytes: 0,
            bytes_max,
            returns: Arc::default(),
        }
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Most bytes it may have.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of one chunk.
    #[must_use]
    pub fn chunk_bytes(&self, id: ChunkId) -> usize {
        self.segment(id).chunk_bytes
    }

    /// A free chunk of at least `len` bytes, or `None` if the segments that are there have none:
    /// then [`grow`](Self::grow). Does not allocate.
    #[inline]
    pub fn take(&mut self, len: usize) -> Option<Chunk<S::Block>> {
        // Relaxed: see `Chunk::drop`; a chunk missed now is found at the next call.
        if self.returns.waiting.load(Ordering::Relaxed) {
            self.take_returns();
        }
        let class = class_of(len)?;
        // Up to twice the size: cheaper than new memory.
        let last = (class + STEPS).min(CLASS_COUNT - 1);
        let id = (class..=last).find_map(|class| self.free[class].pop())?;
        let segment = self.segments[id.segment as usize].as_mut()?;
        segment.refs[id.index as usize] = 1;
        segment.free_count -= 1;
        let home = segment.homes.pop();
        Some(Chunk {
            home: ManuallyDrop::new(home.expect("invariant: a home for each free chunk")),
            index: id.index,
        })
    }

    /// Ends writing. The chunk now has one reference, the caller's, to be given to
    /// [`release`](Self::release) after the channels took theirs.
    ///
    /// # Panics
    /// If the chunk is of another arena.
    #[inline]
    pub fn publish(&mut self, chunk: Chunk<S::Block>) -> ChunkId {
        let id = chunk.id();
        let home = chunk.into_home();
        let segment = self.segment_mut(id);
        assert!(
            Arc::ptr_eq(&home, &segment.home),
            "a chunk of another arena"
        );
        segment.homes.push(home);
        id
    }

    /// Adds a segment for chunks of at least `len` bytes and gives its number and memory, which
    /// subscribers must be given before a chunk in it is published. Makes system calls.
    ///
    /// # Errors
    /// [`ShmError::ArenaFull`] at the configured bound, [`ShmError::Limit`] for a message longer
    /// than [`CHUNK_BYTES_MAX`], and whatever the store says.
    pub fn grow(&mut self, len: usize) -> Result<(u32, Arc<S::Block>), ShmError> {
        let class = class_of(len).ok_or(ShmError::Limit {
            what: "message bytes",
            max: CHUNK_BYTES_MAX as u64,
        })?;
        let chunk_bytes = class_bytes(class);
        let left = self.bytes_max.saturating_sub(self.bytes);
        let wanted = (4 * chunk_bytes)
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            .min(left);
        let count = (wanted / chunk_bytes).max(1);
        let bytes = count * chunk_bytes;
        if bytes > left {
            let (need, max) = (chunk_bytes as u64, self.bytes_max as u64);
            return Err(ShmError::ArenaFull {
                need,
                used: self.bytes as u64,
                max,
            });
        }
        let number = u32::try_from(self.segments.len())
            .ok()
            .filter(|number| *number < crate::ring::ARENA_SEGMENTS_MAX)
            .ok_or_else(|| ShmError::Limit {
                what: "arena segments",
                max: u64::from(crate::ring::ARENA_SEGMENTS_MAX),
            })?;
        let block = Arc::new(self.store.create(bytes)?);
        assert!(
            block.len() >= bytes,
            "invariant: a store gives what was asked for"
        );
        let home = Arc::new(Home {
            block: Arc::clone(&block),
            segment: number,
            chunk_bytes,
            returns: Arc::clone(&self.returns),
        });
        self.segments.push(Some(ArenaSegment {
            homes: vec![Arc::clone(&home); count],
            home,
            chunk_bytes,
            class,
            refs: vec![0; count].into_boxed_slice(),
            free_count: count,
        }));
        self.bytes += bytes;
        let indices = (0..u32::MAX).take(count).rev();
        self.free[class].extend(indices.map(|index| ChunkId {
            segment: number,
            index,
        }));
        Ok((number, block))
    }

    /// Touches what the next messages of each size will touch.
    pub fn warm(&mut self) {
        self.take_returns();
        for class in 0..CLASS_COUNT {
            if self.free[class].is_empty() {
                continue;
            }
            let bytes = class_bytes(class);
            let chunks = [self.take(bytes), self.take(bytes)];
            for chunk in chunks.into_iter().rev().flatten() {
                let id = self.publish(chunk);
                self.release(id);
                self.claim_next(id);
            }
        }
    }

    /// Adds a reference to a published chunk.
    #[inline]
    pub fn retain(&mut self, id: ChunkId) {
        self.segment_mut(id).refs[id.index as usize] += 1;
    }

    /// Takes a reference away; the last one frees the chunk.
    #[inline]
    pub fn release(&mut self, id: ChunkId) {
        let segment = self.segment_mut(id);
        let refs = &mut segment.refs[id.index as usize];
        *refs -= 1;
        if *refs == 0 {
            segment.free_count += 1;
            let class = segment.class;
            self.free[class].push(id);
        }
    }

    /// Claims the first line of the chunk that comes next after the one of `id`, by a store into
    /// it: its last reader has a copy of the line, and the first store to it waits for that to go.
    /// So do all stores behind it, those that publish the message among them.
    #[inline]
    pub fn claim_next(&self, id: ChunkId) {
        let Some(&next) = self.free[self.segment(id).class].last() else {
            return;
        };
        let segment = self.segment(next);
        let start = segment.home.block.ptr();
        // SAFETY: the chunk is inside its block, begins at a multiple of 64, and is free: nobody
        // reads it.
        unsafe {
            let first = start.add(next.index as usize * segment.chunk_bytes);
            first.cast::<u64>().write_volatile(0);
        }
    }

    /// Drops the segments that hold nothing, and gives their numbers.
    pub fn retire_idle(&mut self) -> Vec<u32> {
        self.take_returns();
        let mut retired = Vec::new();
        for (number, place) in (0..u32::MAX).zip(&mut self.segments) {
            if let Some(segment) = place
                && segment.free_count == segment.refs.len()
            {
                self.free[segment.class].retain(|id| id.segment != number);
                self.bytes -= segment.refs.len() * segment.chunk_bytes;
                *place = None;
                retired.push(number);
            }
        }
        retired
    }

    /// The segments that are there, for a subscriber that comes later.
    pub fn segments(&self) -> impl Iterator<Item = (u32, &Arc<S::Block>)> {
        (0..u32::MAX)
            .zip(&self.segments)
            .filter_map(|(number, segment)| Some((number, &segment.as_ref()?.home.block)))
    }

    /// Chunks that are not free.
    #[must_use]
    pub fn used_count(&self) -> usize {
        let used = |segment: &ArenaSegment<_>| segment.refs.len() - segment.free_count;
        self.segments.iter().flatten().map(used).sum()
    }

    #[cold]
    fn take_returns(&mut self) {
        let returns = Arc::clone(&self.returns);
        // Relaxed: under the lock.
        let mut chunks = returns
            .chunks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        returns.waiting.store(false, Ordering::Relaxed);
        for id in chunks.drain(..) {
            let segment = self.segment_mut(id);
            segment.homes.push(Arc::clone(&segment.home));
            self.release(id);
        }
    }

    fn segment(&self, id: ChunkId) -> &ArenaSegment<S::Block> {
        let segment = self.segments[id.segment as usize].as_ref();
        segment.expect("invariant: a segment with chunks in use is not retired")
    }

    #[inline]
    fn segment_mut(&mut self, id: ChunkId) -> &mut ArenaSegment<S::Block> {
        let segment = self.segments[id.segment as usize].as_mut();
        segment.expect("invariant: a segment with chunks in use is not retired")
    }
}

/// The class of chunks for `len` bytes.
#[inline]
fn class_of(len: usize) -> Option<usize> {
    if len > CHUNK_BYTES_MAX {
        return None;
    }
    let len = len.max(CHUNK_BYTES_MIN);
    let power = len.ilog2();
    let floor = 1_usize << power;
    // Powers of two, by shifts: this stands in the way of every message.
    let step_power = (power - STEPS.ilog2()).max(CHUNK_ALIGN.ilog2());
    let above = ((len - floor + (1 << step_power) - 1) >> step_power) << step_power;
    Some((power - CHUNK_BYTES_MIN.ilog2()) as usize * STEPS + ((above * STEPS) >> power))
}

/// Bytes of a chunk of `class`.
fn class_bytes(class: usize) -> usize {
    let floor = CHUNK_BYTES_MIN << (class / STEPS);
    floor + floor / STEPS * (class % STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_tight_and_aligned() {
        for len in (0..20_000).chain((0..200).map(|n| (1 << 20) + n * 12_345)) {
            let bytes = class_bytes(class_of(len).unwrap());
            assert!(
                bytes >= len && bytes.is_multiple_of(CHUNK_ALIGN),
                "{len} -> {bytes}"
            );
            assert!(len < 512 || bytes <= len + len / 4 + 1, "{len} -> {bytes}");
        }
        assert_eq!(
            class_bytes(class_of(CHUNK_BYTES_MAX).unwrap()),
            CHUNK_BYTES_MAX
        );
        assert_eq!(class_of(CHUNK_BYTES_MAX + 1), None);
    }

    #[test]
    fn a_chunk_comes_back_with_its_last_reference() {
        let mut arena = Arena::new(HeapStore, 1 << 20);
        assert!(arena.take(1000).is_none());
        arena.grow(1000).unwrap();
        let mut chunk = arena.take(1000).unwrap();
        chunk.bytes_mut().fill(7);
        let id = arena.publish(chunk);
        arena.retain(id);
        arena.retain(id);
        for _ in 0..3 {
            assert_eq!(arena.used_count(), 1);
            arena.release(id);
        }
        assert_eq!(arena.used_count(), 0);
        assert_eq!(
            arena.take(1000).unwrap().id(),
            id,
            "the hottest chunk is reused first"
        );
    }

    #[test]
    fn a_dropped_chunk_is_free_again() {
        let mut arena = Arena::new(HeapStore, 1 << 20);
        arena.grow(100).unwrap();
        let chunk = arena.take(100).unwrap();
        let id = chunk.id();
        std::thread::spawn(move || drop(chunk)).join().unwrap();
        assert_eq!(arena.take(100).unwrap().id(), id);
    }

    #[test]
    fn the_bound_is_an_error_and_idle_segments_make_room() {
        let mut arena = Arena::new(HeapStore, 4 << 20);
        arena.grow(1 << 20).unwrap();
        assert!(matches!(
            arena.grow(1 << 21),
            Err(ShmError::ArenaFull { .. })
        ));
        let held = arena.take(1 << 20).unwrap();
        assert_eq!(arena.retire_idle(), Vec::<u32>::new());
        drop(held);
        assert_eq!(arena.retire_idle(), [0]);
        assert_eq!(arena.bytes(), 0);
        arena.grow(1 << 22).unwrap();
        assert!(matches!(arena.grow(1), Err(ShmError::ArenaFull { .. })));
        assert!(matches!(
            arena.grow(CHUNK_BYTES_MAX + 1),
            Err(ShmError::Limit { .. })
        ));
    }
}
