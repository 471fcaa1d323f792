//! A message that was taken from a ring.

use core::fmt;
use core::ptr::NonNull;
use std::sync::Arc;

use super::Head;
use super::lender::{Lender, Origin};
use crate::arena::{Block as _, HeapBlock};
use crate::error::ShmError;
use crate::layout::{INLINE_BYTES, INLINE_WORDS};

/// A message taken from a ring. Its payload lies in memory of its own, or in the publisher's until
/// it is dropped, on whatever thread. A pointer: it moves at no cost.
pub struct Received(NonNull<Cell>);

// SAFETY: the cell is the sample's alone, plain data, and points to a lender, which is Send and
// Sync, and to memory that nobody writes while the sample lives.
unsafe impl Send for Received {}
// SAFETY: as above; a shared sample only reads.
unsafe impl Sync for Received {}

/// What is known of a message: one cache line, and the payload behind it if it is short.
#[repr(C, align(64))]
pub(super) struct Cell {
    place: Place,
    len: u32,
    /// What to say to the lender at the end; `NO_ENTRY` where nothing is to be said.
    entry: u32,
    head: Head,
    lost: u64,
    lender: NonNull<Lender>,
    /// While the cell is on a list.
    pub(super) next: *mut Self,
    /// Payload of a message that travelled in its slot.
    words: [u64; INLINE_WORDS],
}

const _: () = assert!(core::mem::offset_of!(Cell, words) == 64);

/// Where the payload is.
#[derive(Clone, Copy)]
enum Place {
    /// In the cell's words, behind that many bytes that were taken off its front. They stay where
    /// they are: words that were just stored one by one are not yet to be had in larger pieces, and
    /// to move them would wait until they are.
    Words { front: usize },
    /// In the lender's memory, to be given back under that position.
    Lent { start: NonNull<u8>, position: u64 },
}

const NO_ENTRY: u32 = u32::MAX;

/// Words that [`Received::take_front`] takes.
const FRONT_WORDS: usize = 4;
/// The same in bytes: a multiple of what payloads are aligned to.
const FRONT_BYTES: usize = FRONT_WORDS * 8;
const FRONT_BYTES_U32: u32 = 32;
const _: () = assert!(FRONT_BYTES == FRONT_BYTES_U32 as usize);
const _: () = assert!(FRONT_BYTES.is_multiple_of(16));

impl Cell {
    pub(super) fn new(lender: NonNull<Lender>, next: *mut Self) -> Self {
        Self {
            place: Place::Words { front: 0 },
            len: 0,
            entry: NO_ENTRY,
            head: Head {
                sequence: 0,
                sent_ns: 0,
            },
            lost: 0,
            lender,
            next,
            words: [0; INLINE_WORDS],
        }
    }

    /// Room for a payload that travelled in its slot, of `len` bytes.
    #[inline(always)]
    pub(super) fn inline(&mut self, len: u32) -> &mut [u64; INLINE_WORDS] {
        debug_assert!(len as usize <= INLINE_BYTES);
        self.place = Place::Words { front: 0 };
        self.len = len;
        self.entry = NO_ENTRY;
        &mut self.words
    }

    /// Sets the payload to the `len` bytes at `start`, to be given back under `entry` and
    /// `position`. They must be memory of the cell's lender.
    #[inline(always)]
    pub(super) fn lend(&mut self, start: NonNull<u8>, len: u32, entry: u32, position: u64) {
        self.place = Place::Lent { start, position };
        self.len = len;
        self.entry = entry;
    }

    #[inline(always)]
    pub(super) fn describe(&mut self, head: Head, lost: u64) {
        self.head = head;
        self.lost = lost;
    }
}

impl Received {
    /// The message in `cell`.
    ///
    /// # Safety
    /// The cell is out, and nobody else's.
    #[inline(always)]
    pub(super) unsafe fn new(cell: NonNull<Cell>) -> Self {
        Self(cell)
    }

    #[inline(always)]
    fn cell(&self) -> &Cell {
        // SAFETY: the cell is this sample's until it is dropped.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    fn lender(&self) -> &Lender {
        // SAFETY: the lender lives while a cell of it is out.
        unsafe { self.cell().lender.as_ref() }
    }

    /// The publisher's number of the message.
    #[must_use]
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.cell().head.sequence
    }

    /// `CLOCK_MONOTONIC` in nanoseconds when it was sent, or 0.
    #[must_use]
    #[inline]
    pub fn sent_ns(&self) -> u64 {
        self.cell().head.sent_ns
    }

    /// Messages lost between the one taken before and this one.
    #[must_use]
    #[inline]
    pub fn lost(&self) -> u64 {
        self.cell().lost
    }

    /// Who sent it.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.lender().origin
    }

    /// The payload's bytes, aligned to 16. In a chunk they stay as they are for as long as it is
    /// borrowed, provided that the publisher keeps to the protocol.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let cell = self.cell();
        let start = match cell.place {
            Place::Words { front } => cell.words.as_ptr().cast::<u8>().wrapping_add(front),
            Place::Lent { start, .. } => start.as_ptr().cast_const(),
        };
        // SAFETY: of the words `Cell::inline` bounded the length by theirs, and what is taken off
        // the front is taken off the length. Of lent bytes `Lender::chunk` found that they are
        // inside the lender's memory, which is mapped while the cell is out, and while the borrow
        // lasts the publisher does not write there: it waits for the release of the position in
        // the borrow table. That the publisher keeps to this is the documented trust in processes
        // of the same user.
        unsafe { core::slice::from_raw_parts(start, cell.len as usize) }
    }

    /// How many bytes the payload has.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.cell().len as usize
    }

    /// True if the payload has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if it travelled in the slot.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        matches!(self.cell().place, Place::Words { .. })
    }

    /// Takes 32 bytes off the front of the payload, as little-endian words; what is left is aligned
    /// as before. `None` if there are not so many.
    #[inline]
    pub fn take_front(&mut self) -> Option<[u64; FRONT_WORDS]> {
        let front = self.bytes().first_chunk::<FRONT_BYTES>()?;
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|idx| front[at * 8 + idx]));
        let words = core::array::from_fn(word);
        // SAFETY: the cell is this sample's alone, and borrowed exclusively.
        let cell = unsafe { self.0.as_mut() };
        match &mut cell.place {
            Place::Words { front } => *front += FRONT_BYTES,
            // SAFETY: the payload has so many bytes from there on.
            Place::Lent { start, .. } => *start = unsafe { start.add(FRONT_BYTES) },
        }
        cell.len -= FRONT_BYTES_U32;
        Some(words)
    }

    /// The same message in memory that nobody else can write, and the chunk given back. Allocates
    /// if it was in a chunk.
    ///
    /// # Errors
    /// [`ShmError::NoSpace`] if there is no memory for the copy.
    pub fn into_private(self) -> Result<Self, ShmError> {
        if self.is_inline() {
            return Ok(self);
        }
        let block = HeapBlock::new(self.len())?;
        let start = block.ptr();
        let bytes = self.bytes();
        // SAFETY: the block is new, ours alone, and as long; the source is another object.
        unsafe { start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        let mut pool = self.lender().with_block(Arc::new(block));
        pool.blank().lend(start, self.cell().len, NO_ENTRY, 0);
        Ok(pool.issue(self.cell().head, self.lost()))
    }
}

impl Drop for Received {
    #[inline]
    fn drop(&mut self) {
        let (place, entry, lender) = {
            let cell = self.cell();
            (cell.place, cell.entry, cell.lender)
        };
        if let Place::Lent { position, .. } = place
            && entry != NO_ENTRY
        {
            self.lender().give_back(entry, position);
        }
        // SAFETY: the cell is out, of this lender, ours alone, and not used after this.
        unsafe { Lender::take_back(lender, self.0) };
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("sequence", &self.sequence())
            .field("bytes", &self.len())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}
