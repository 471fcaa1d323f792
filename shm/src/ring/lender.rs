//! Where samples come from: the memory they lie in, how they give it back, and the cells they are
//! kept in.
//!
//! A sample is a pointer to a cell, which only it may touch until it is dropped. Cells are made in
//! advance, go out with messages, and come back through a stack: whoever drops a sample, on
//! whatever thread, pushes its cell with one atomic exchange, and the consumer takes the whole
//! stack when it has no cell left. So a message costs no allocation, and handing it on no copy.

use core::any::Any;
use core::fmt;
use core::hint::black_box;
use core::ops::Deref;
use core::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::received::{Cell, Received};
use super::{Head, released};
use crate::arena::Block;
use crate::doorbell::Ringer;
use crate::layout::BorrowHalf;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};

/// Who writes a ring; every sample of it can say so.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Id of the node.
    pub node: u128,
    /// Name of the node.
    pub node_name: String,
    /// Number of the publisher in its node.
    pub endpoint: u32,
    /// What it sends to.
    pub topic: String,
    /// What else its users want to know of it, kept once for all its samples.
    pub about: Option<Arc<dyn Any + Send + Sync>>,
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        (self.node, self.endpoint) == (other.node, other.endpoint)
    }
}

impl Eq for Origin {}

/// What the samples of one source keep alive: their origin, and for those that lie in chunks the
/// memory of the chunks, the borrow table, and the bell of a producer that waits for room.
pub(super) struct Lender {
    pub(super) origin: Arc<Origin>,
    borrows: BorrowHalf,
    /// None for messages that travel in their slots.
    block: Option<Arc<dyn Block>>,
    /// Where that is, and its bytes: asked once, for it never moves.
    start: NonNull<u8>,
    bytes: usize,
    space: Option<Arc<Ringer>>,
    /// Cells that came back, linked by `next`; or `closed()`, when the pool is gone.
    returned: AtomicPtr<Cell>,
    /// Cells that are still out after the pool is gone: counted down by each, and up by the pool
    /// with their number, in whatever order, so that it is 0 once, in the end.
    orphans: AtomicU64,
}

/// Stands in for the stack of returned cells when nobody takes it any more.
fn closed() -> *mut Cell {
    core::ptr::dangling_mut()
}

impl Lender {
    pub(super) fn give_back(&self, entry: u32, tag: u64) {
        // Release: the holder's reads of the chunk come before the producer's Acquire load of this
        // word in `Producer::look_at`, after which the chunk may be written again.
        self.borrows
            .entries
            .at(entry as usize)
            .store(released(tag), Ordering::Release);
        if let Some(space) = &self.space {
            space.ring_if_parked();
        }
    }

    /// A pool over another block that says the same of the sender.
    pub(super) fn with_block(&self, block: Arc<dyn Block>) -> Pool {
        let (origin, borrows) = (Arc::clone(&self.origin), self.borrows.clone());
        Pool::new(origin, borrows, Some(block), None, 1)
    }

    /// The `len` bytes at `offset`, if the lender's memory has them.
    pub(super) fn chunk(&self, offset: u64, len: u32) -> Option<NonNull<u8>> {
        let end = offset.checked_add(u64::from(len))?;
        if self.block.is_none() || end > self.bytes as u64 {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: `offset + len` is at most the length of the block.
        Some(unsafe { self.start.add(offset) })
    }

    /// Takes the cell of a sample that is dropped.
    ///
    /// # Safety
    /// The cell is out, of this lender, and the caller's alone; the caller uses neither any more.
    #[inline]
    pub(super) unsafe fn take_back(this: NonNull<Self>, cell: NonNull<Cell>) {
        // SAFETY: the lender lives while a cell is out, and until the exchange below this one is.
        let returned = unsafe { &this.as_ref().returned };
        // Acquire, here and where the exchange fails: who sees it closed sees all the pool did.
        let mut first = returned.load(Ordering::Acquire);
        while first != closed() {
            // SAFETY: the caller's alone, until the exchange.
            unsafe { (*cell.as_ptr()).next = first };
            // Release: what the holder did with the cell comes before the pool's Acquire.
            match returned.compare_exchange_weak(
                first,
                cell.as_ptr(),
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
        // SAFETY: as promised to this function; made by `Pool::grow`, and nobody's but ours.
        unsafe {
            drop(Box::from_raw(cell.as_ptr()));
            Self::count_orphans(this, 1_u64.wrapping_neg());
        }
    }

    /// Adds to the count of orphans, and ends the lender when that makes 0.
    ///
    /// # Safety
    /// Once by the pool with the number of cells out, once with -1 for each of those; the caller
    /// uses the lender no more.
    #[cold]
    unsafe fn count_orphans(this: NonNull<Self>, change: u64) {
        // SAFETY: alive, as this change is still to come.
        let orphans = unsafe { &this.as_ref().orphans };
        // AcqRel: what each did with the lender comes before its end.
        if orphans
            .fetch_add(change, Ordering::AcqRel)
            .wrapping_add(change)
            == 0
        {
            // SAFETY: made by `Box::leak` in `Pool::new`; all changes are made.
            drop(unsafe { Box::from_raw(this.as_ptr()) });
        }
    }
}

impl fmt::Debug for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lender")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Cells that are made at a time.
pub(super) const CELLS: usize = 16;

/// The consumer's side of a lender: its free cells.
pub(super) struct Pool {
    lender: NonNull<Lender>,
    /// Linked by `next`.
    free: *mut Cell,
    /// Cells there are: free, out, or on the stack of those that came back.
    made: usize,
    /// False if no cell was out when it was last counted, and none has gone out since: most pools
    /// of a ring with many segments.
    is_used: bool,
}

// SAFETY: a lender is Send and Sync (atomics, and handles that are both); the free cells are the
// pool's alone, and plain data.
unsafe impl Send for Pool {}
// SAFETY: as above; a shared pool only reads.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool that starts with `cells` cells.
    pub(super) fn new(
        origin: Arc<Origin>,
        borrows: BorrowHalf,
        block: Option<Arc<dyn Block>>,
        space: Option<Arc<Ringer>>,
        cells: usize,
    ) -> Self {
        let memory = block.as_deref().map(|block| (block.ptr(), block.len()));
        let (start, bytes) = memory.unwrap_or((NonNull::dangling(), 0));
        let lender = Lender {
            origin,
            borrows,
            block,
            start,
            bytes,
            space,
            returned: AtomicPtr::new(null_mut()),
            orphans: AtomicU64::new(0),
        };
        let mut pool = Self {
            lender: NonNull::from(Box::leak(Box::new(lender))),
            free: null_mut(),
            made: 0,
            is_used: false,
        };
        pool.grow(cells);
        pool
    }

    /// A free cell, to be filled. It goes out with [`issue`](Self::issue).
    #[inline(always)]
    pub(super) fn blank(&mut self) -> &mut Cell {
        if self.free.is_null() {
            self.refill();
        }
        // SAFETY: not null after `refill`, and the pool's alone while it is free.
        unsafe { &mut *self.free }
    }

    /// Sends out the cell that `blank` gave, filled.
    #[inline(always)]
    pub(super) fn issue(&mut self, head: Head, lost: u64) -> Received {
        let blank = self.blank();
        blank.describe(head, lost);
        let next = blank.next;
        let cell = NonNull::from(blank);
        self.free = next;
        self.is_used = true;
        // SAFETY: out from now on, and nobody else's.
        unsafe { Received::new(cell) }
    }

    /// Brings what samples will touch into this core's cache.
    pub(super) fn warm(&mut self) {
        let mut cell = self.free;
        while !cell.is_null() {
            // SAFETY: free cells are the pool's alone.
            cell = unsafe {
                (*cell).describe(Head::default(), 0);
                (*cell).next
            };
        }
        black_box(self.chunk(0, 0));
        // Relaxed: changes nothing, but brings the line for writing.
        let _ = self.returned.compare_exchange(
            null_mut(),
            null_mut(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Takes all cells that came back; they are not looked at one by one. The last one is the
    /// first to go out again: it is the likeliest to be in the cache.
    #[cold]
    #[inline(never)]
    fn refill(&mut self) {
        // Acquire: pairs with the Release exchange in `Lender::take_back`.
        self.free = self.returned.swap(null_mut(), Ordering::Acquire);
        if self.free.is_null() {
            self.grow(CELLS);
        }
    }

    fn grow(&mut self, count: usize) {
        for _ in 0..count {
            let cell = Cell::new(self.lender, self.free);
            self.free = Box::into_raw(Box::new(cell));
        }
        self.made += count;
    }

    /// How many samples are alive. Walks over all cells that are not, unless the pool is not used.
    pub(super) fn outstanding(&self) -> usize {
        if !self.is_used {
            return 0;
        }
        // Acquire: pairs with the Release exchange in `Lender::take_back`.
        let returned = self.returned.load(Ordering::Acquire);
        // SAFETY: the free ones are the pool's alone, and so are those on the stack from the one
        // loaded on: only the pool takes them, and that with exclusive access.
        self.made - unsafe { count_all(self.free) + count_all(returned) }
    }

    /// The same, and remembers if there are none.
    pub(super) fn count(&mut self) -> usize {
        let count = self.outstanding();
        self.is_used = count > 0;
        count
    }
}

impl Deref for Pool {
    type Target = Lender;
    #[inline]
    fn deref(&self) -> &Lender {
        // SAFETY: the lender lives at least until the pool is dropped.
        unsafe { self.lender.as_ref() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // AcqRel: takes the cells that came back, and shows the others all that was done before.
        let returned = self.returned.swap(closed(), Ordering::AcqRel);
        // SAFETY: both lists are the pool's alone now.
        let out = self.made - unsafe { free_all(returned) + free_all(self.free) };
        // SAFETY: the number of cells out.
        unsafe { Lender::count_orphans(self.lender, out as u64) };
    }
}

/// The length of a list of cells.
///
/// # Safety
/// None of them leaves the list, or changes its `next`, meanwhile.
unsafe fn count_all(mut first: *mut Cell) -> usize {
    let mut count = 0;
    while !first.is_null() {
        // SAFETY: as promised.
        first = unsafe { (*first).next };
        count += 1;
    }
    count
}

/// Frees a list of cells, and says how many they were.
///
/// # Safety
/// They are the caller's alone, and made by `Pool::grow`.
unsafe fn free_all(mut first: *mut Cell) -> usize {
    let mut count = 0;
    while !first.is_null() {
        // SAFETY: as promised.
        first = unsafe { Box::from_raw(first) }.next;
        count += 1;
    }
    count
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
