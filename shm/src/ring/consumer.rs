//! The reading end of a ring.

use core::fmt;
use core::ptr::NonNull;
use std::sync::Arc;

use super::{Corrupt, KIND_CHUNK, KIND_INLINE, Lender, Mode, RingConfig};
use super::{claimed, committed};
use crate::arena::{Block, HeapBlock};
use crate::doorbell::Ringer;
use crate::error::ShmError;
use crate::layout::{BorrowHalf, INLINE_BYTES, INLINE_WORDS, RingHalf, Slot};
use crate::sync::{Ordering, fence};

/// Pairs of payload words in a slot's first cache line.
const FIRST_LINE_PAIRS: u64 = 2;
/// How often a reader that is being lapped tries again before it says "nothing yet". The producer
/// that laps it rings the bell of whoever parks after that, so nothing is missed.
const LAPS_MAX: usize = 64;
/// Most arena segments a publisher may have had; numbers are not used twice.
pub const ARENA_SEGMENTS_MAX: u32 = 1 << 16;

/// A message taken from the ring.
#[derive(Debug)]
#[repr(C)]
pub struct Received {
    /// The payload.
    pub body: Body,
    /// The publisher's number of the message.
    pub sequence: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds when it was sent, or 0.
    pub sent_ns: u64,
    /// Messages lost between the one taken before and this one.
    pub lost: u64,
}

/// The payload of a message: up to [`INLINE_BYTES`] bytes in place, or where the larger one is.
///
/// One struct, the bytes first: samples are moved in units of 16 bytes from their start, and a move
/// that reads across two earlier stores waits until both have left the processor's store buffer.
/// Several such stalls (44 ns a message instead of 6) cost more than the message.
#[repr(C, align(16))]
pub struct Body {
    pairs: [Pair; INLINE_WORDS / 2],
    len: u64,
    place: BodyPlace,
}

/// Where the payload is.
#[derive(Debug)]
enum BodyPlace {
    /// In the body itself: a copy of what travelled in the slot.
    Inline,
    /// In the publisher's memory, until it is dropped.
    Chunk(Borrowed),
    /// In private memory: a copy of a larger payload.
    Private(PrivatePayload),
}

impl Body {
    #[inline]
    fn larger(place: BodyPlace) -> Self {
        Self {
            pairs: [pair(0, 0); INLINE_WORDS / 2],
            len: 0,
            place,
        }
    }

    /// The payload's bytes, aligned to 16. For a chunk they stay as they are for as long as it is
    /// borrowed, provided that the publisher keeps to the protocol.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.place {
            BodyPlace::Inline => {
                #[allow(clippy::cast_possible_truncation)] // at most INLINE_BYTES
                let len = self.len.min(INLINE_BYTES as u64) as usize;
                // SAFETY: the pairs are INLINE_BYTES initialised bytes without padding, borrowed
                // as long as `self`.
                unsafe { core::slice::from_raw_parts(self.pairs.as_ptr().cast(), len) }
            }
            BodyPlace::Chunk(chunk) => chunk.bytes(),
            BodyPlace::Private(payload) => payload.bytes(),
        }
    }

    /// True if it travelled in the slot.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        matches!(self.place, BodyPlace::Inline)
    }

    /// The same payload in memory that nobody else can write, and the chunk given back. Allocates
    /// if it was a chunk.
    ///
    /// # Errors
    /// [`ShmError::NoSpace`] if there is no memory for the copy.
    pub fn into_private(self) -> Result<Self, ShmError> {
        let BodyPlace::Chunk(chunk) = &self.place else {
            return Ok(self);
        };
        PrivatePayload::copy_of(chunk.bytes())
            .map(BodyPlace::Private)
            .map(Self::larger)
    }
}

impl Received {
    /// One without a message, to be filled.
    #[must_use]
    #[inline]
    pub fn empty() -> Self {
        let body = Body::larger(BodyPlace::Inline);
        Self {
            body,
            sequence: 0,
            sent_ns: 0,
            lost: 0,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("len", &self.bytes().len())
            .finish_non_exhaustive()
    }
}

/// A payload in private memory, aligned like a chunk.
#[derive(Debug)]
struct PrivatePayload {
    block: HeapBlock,
    len: usize,
}

impl PrivatePayload {
    /// A copy of `bytes`.
    fn copy_of(bytes: &[u8]) -> Result<Self, ShmError> {
        let block = HeapBlock::new(bytes.len())?;
        // SAFETY: the block is new, ours alone, and at least as long; the source is another object.
        unsafe {
            block
                .ptr()
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len())
        };
        Ok(Self {
            block,
            len: bytes.len(),
        })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes were written in `copy_of`, nobody writes them again, and they live
        // as long as the block.
        unsafe { core::slice::from_raw_parts(self.block.ptr().as_ptr(), self.len) }
    }
}

/// Two words of an inline payload, stored as one; see [`Body`].
#[cfg(target_arch = "x86_64")]
type Pair = core::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Pair = u128;

#[inline(always)]
fn pair(low: u64, high: u64) -> Pair {
    #[cfg(target_arch = "x86_64")]
    {
        let (low, high) = (low.cast_signed(), high.cast_signed());
        // SAFETY: SSE2 is part of x86-64.
        unsafe { core::arch::x86_64::_mm_set_epi64x(high, low) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&low.to_ne_bytes());
        bytes[8..].copy_from_slice(&high.to_ne_bytes());
        u128::from_ne_bytes(bytes)
    }
}

/// A chunk in the publisher's memory. Dropping it, on any thread, gives it back.
struct Borrowed {
    lender: Arc<Lender>,
    offset: usize,
    len: usize,
    entry: u32,
    position: u64,
}

impl Borrowed {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `Consumer::borrow_chunk` checked that offset and length lie inside the block, the
        // lender
        // keeps the block mapped, and while this borrow lasts the publisher does not write there:
        // it waits for the release of `position` in the borrow table. That the publisher keeps to
        // this is the documented trust in processes of the same user.
        let start = unsafe { self.lender.block.ptr().add(self.offset) };
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts(start.as_ptr(), self.len) }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.lender.give_back(self.entry, self.position);
    }
}

impl fmt::Debug for Borrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrowed")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Where a chunk message says its payload is, not yet checked.
struct Place {
    segment: u32,
    entry: u32,
    offset: u64,
    len: u32,
}

/// The reading end of a ring. One thread at a time; never blocks.
#[derive(Debug)]
pub struct Consumer {
    /// The producer's half; read only.
    ring: RingHalf,
    borrows: BorrowHalf,
    config: RingConfig,
    /// Position of the next message to read.
    next: u64,
    /// `next` modulo the capacity.
    slot: usize,
    /// Sequence the next message has if none is lost; unknown before the first message.
    expected: Option<u64>,
    /// Positions that were overwritten before they were read.
    overwritten: u64,
    /// By number of the arena segment.
    lenders: Vec<Option<Arc<Lender>>>,
    space: Option<Arc<Ringer>>,
}

impl Consumer {
    /// Takes the reading end of `ring`. `space` is rung whenever there is new room.
    ///
    /// # Errors
    /// [`ShmError::Incompatible`] if the halves have other sizes than `config` says.
    pub fn new(
        ring: RingHalf,
        borrows: BorrowHalf,
        config: RingConfig,
        space: Option<Arc<Ringer>>,
    ) -> Result<Self, ShmError> {
        let sizes_found = (ring.capacity(), borrows.entry_count());
        if sizes_found != (config.capacity(), config.entry_count()) {
            return Err(ShmError::Incompatible {
                what: "ring capacity",
                found: sizes_found.0 as u64,
                expected: config.capacity() as u64,
            });
        }
        Ok(Self {
            slot: config.first_slot(),
            ring,
            borrows,
            config,
            next: config.start,
            expected: None,
            overwritten: 0,
            lenders: Vec::new(),
            space,
        })
    }

    /// Makes arena segment `number` known. Messages that lie in a segment not yet known wait.
    ///
    /// # Errors
    /// [`ShmError::Limit`] if the number is beyond [`ARENA_SEGMENTS_MAX`].
    pub fn add_segment(&mut self, number: u32, block: Arc<dyn Block>) -> Result<(), ShmError> {
        if number >= ARENA_SEGMENTS_MAX {
            let max = u64::from(ARENA_SEGMENTS_MAX);
            return Err(ShmError::Limit {
                what: "arena segments",
                max,
            });
        }
        let idx = number as usize;
        if self.lenders.len() <= idx {
            self.lenders.resize_with(idx + 1, || None);
        }
        let (borrows, space) = (self.borrows.clone(), self.space.clone());
        self.lenders[idx] = Some(Arc::new(Lender {
            borrows,
            block,
            space,
        }));
        Ok(())
    }

    /// Forgets arena segment `number`; samples that lie in it keep it mapped.
    pub fn remove_segment(&mut self, number: u32) {
        if let Some(lender) = self.lenders.get_mut(number as usize) {
            *lender = None;
        }
    }

    /// Chunks that are borrowed now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lenders
            .iter()
            .flatten()
            .map(|lender| Arc::strong_count(lender) - 1)
            .sum()
    }

    /// True if the consumer holds as many chunks as it may; a chunk message waits then.
    #[must_use]
    pub fn is_at_held_max(&self) -> bool {
        self.held() >= self.config.held_max as usize
    }

    /// Messages that were overwritten before they were read, as far as the consumer has come.
    #[must_use]
    pub fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Messages that the producer never put into the ring, up to now.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        // Acquire: pairs with the Release store in `Producer::count_dropped`.
        self.ring.head.at(0).dropped.0.load(Ordering::Acquire)
    }

    /// Messages taken or lost so far, the dropped ones among the lost.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.next
            .wrapping_sub(self.config.start)
            .wrapping_add(self.dropped())
    }

    /// True if a message is ready, or was.
    #[must_use]
    #[inline]
    pub fn is_ready(&self) -> bool {
        let slot = self.ring.slots.at(self.slot);
        // Acquire: whoever acts on this sees what was there before the message.
        lead(slot.stamp.load(Ordering::Acquire), self.next) >= 0
    }

    /// Takes the next message, if it is there. Wait-free; `None` also while the message lies in
    /// a segment that is not known yet, or while the consumer holds as many chunks as it may.
    ///
    /// # Errors
    /// [`Corrupt`] if the ring holds what no producer writes.
    pub fn try_next(&mut self) -> Result<Option<Received>, Corrupt> {
        let mut received = Received::empty();
        Ok(self.next_into(&mut received)?.then_some(received))
    }

    /// The same, written straight to its place; true if there was a message. `out` must be empty,
    /// and is garbage if there was none.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    #[inline(always)]
    pub fn next_into(&mut self, out: &mut Received) -> Result<bool, Corrupt> {
        for _ in 0..LAPS_MAX {
            let slot = self.ring.slots.at(self.slot);
            // Acquire: pairs with the Release store in `Producer::commit`.
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp != committed(self.next) {
                let ahead = lead(stamp, self.next);
                if ahead < 0 {
                    return Ok(false);
                }
                self.jump(ahead)?;
                continue;
            }
            if self.is_outdated() {
                self.skip(1);
                continue;
            }
            out.sequence = slot.sequence.load(Ordering::Relaxed);
            out.sent_ns = slot.sent_ns.load(Ordering::Relaxed);
            let meta = slot.meta.load(Ordering::Relaxed);
            let is_taken = match meta >> 32 {
                KIND_INLINE => self.copy_inline(slot, meta, &mut out.body),
                KIND_CHUNK => match self.borrow_chunk(slot, meta)? {
                    Taken::Chunk(chunk) => {
                        out.body.place = BodyPlace::Chunk(chunk);
                        true
                    }
                    Taken::Overwritten => false,
                    Taken::NotNow => return Ok(false),
                },
                _ if !self.still(slot) => false,
                _ => return Err(Corrupt("unknown kind of payload")),
            };
            if !is_taken {
                continue;
            }
            let expected = self.expected.unwrap_or_else(|| self.first());
            out.lost = out.sequence.wrapping_sub(expected);
            if out.lost > u64::MAX / 2 {
                return Err(Corrupt("sequence goes back"));
            }
            self.expected = Some(out.sequence.wrapping_add(1));
            self.advance();
            return Ok(true);
        }
        Ok(false)
    }

    #[cold]
    fn first(&self) -> u64 {
        // Relaxed: stored before the stamp that was loaded with Acquire.
        self.ring.head.at(0).first.load(Ordering::Relaxed)
    }

    /// In a ring with more slots than its depth: true if the next message is older than that.
    #[inline]
    fn is_outdated(&self) -> bool {
        let depth = self.config.depth as usize;
        if depth >= self.ring.capacity() {
            return false;
        }
        let idx = (self.slot + depth) % self.ring.capacity();
        let newest = self.next.wrapping_add(depth as u64);
        // Acquire: as in `try_next`.
        lead(
            self.ring.slots.at(idx).stamp.load(Ordering::Acquire),
            newest,
        ) >= 0
    }

    /// True if the slot still holds the next message; what was read of it before is whole then.
    #[inline]
    fn still(&self, slot: &Slot) -> bool {
        if self.config.mode == Mode::Keep {
            return true;
        }
        // Acquire fence: the loads above come before the load below; pairs with the Release fence
        // in `Producer::open_slot`: had one of them seen a newer message, this sees its stamp.
        fence(Ordering::Acquire);
        slot.stamp.load(Ordering::Relaxed) == committed(self.next)
    }

    /// Copies the payload of an inline message; false if it was overwritten meanwhile.
    ///
    /// Copies the words of the first line, and those of the second if the message has any there:
    /// fixed counts, so that the words stay in registers on their way into the sample.
    #[inline(always)]
    fn copy_inline(&self, slot: &Slot, meta: u64, body: &mut Body) -> bool {
        // Bounded before it is used: a torn or hostile length names at most the slot.
        body.len = (meta & u64::from(u32::MAX)).min(INLINE_BYTES as u64);
        let load = |idx: usize| {
            let words = [2 * idx, 2 * idx + 1];
            let [low, high] = words.map(|idx| slot.payload[idx].load(Ordering::Relaxed));
            pair(low, high)
        };
        body.pairs[0] = load(0);
        body.pairs[1] = load(1);
        if body.len > FIRST_LINE_PAIRS * 16 {
            body.pairs[2] = load(2);
            body.pairs[3] = load(3);
            body.pairs[4] = load(4);
            body.pairs[5] = load(5);
        }
        self.still(slot)
    }

    fn borrow_chunk(&self, slot: &Slot, meta: u64) -> Result<Taken, Corrupt> {
        let place = slot.payload[0].load(Ordering::Relaxed);
        let offset = slot.payload[1].load(Ordering::Relaxed);
        if !self.still(slot) {
            return Ok(Taken::Overwritten);
        }
        #[allow(clippy::cast_possible_truncation)] // halves of a word
        let place = Place {
            segment: place as u32,
            entry: (place >> 32) as u32,
            offset,
            len: meta as u32,
        };
        let Some(lender) = self
            .lenders
            .get(place.segment as usize)
            .and_then(Option::as_ref)
        else {
            if place.segment >= ARENA_SEGMENTS_MAX {
                return Err(Corrupt("segment number"));
            }
            return Ok(Taken::NotNow);
        };
        if place.entry as usize >= self.borrows.entry_count() {
            return Err(Corrupt("borrow entry"));
        }
        let end = place.offset.checked_add(u64::from(place.len));
        if end.is_none_or(|end| end > lender.block.len() as u64) {
            return Err(Corrupt("chunk outside its segment"));
        }
        if self.is_at_held_max() {
            return Ok(Taken::NotNow);
        }
        let borrowed = Borrowed {
            lender: Arc::clone(lender),
            #[allow(clippy::cast_possible_truncation)] // inside the block
            offset: place.offset as usize,
            len: place.len as usize,
            entry: place.entry,
            position: self.next,
        };
        // On failure the drop of `borrowed` gives the claim up.
        Ok(if self.claim(slot, place.entry) {
            Taken::Chunk(borrowed)
        } else {
            Taken::Overwritten
        })
    }

    /// Claims the chunk of the next message; false if the producer took it back first.
    fn claim(&self, slot: &Slot, entry: u32) -> bool {
        if self.config.mode == Mode::Keep {
            // The cursor hands it over.
            return true;
        }
        self.borrows
            .entries
            .at(entry as usize)
            .store(claimed(self.next), Ordering::Relaxed);
        // SeqCst fence: store of the claim, then load of the stamp; pairs with the fence in
        // `Producer::evict`. It also orders the claim before the later reads of the chunk.
        fence(Ordering::SeqCst);
        slot.stamp.load(Ordering::Relaxed) == committed(self.next)
    }

    /// Goes to the oldest message that may still be there, `ahead` positions being those that the
    /// slot's newer message is ahead of the one expected.
    #[cold]
    fn jump(&mut self, ahead: i64) -> Result<(), Corrupt> {
        let capacity = self.ring.capacity() as u64;
        let ahead = ahead.unsigned_abs();
        if self.config.mode == Mode::Keep {
            return Err(Corrupt("overwritten though it may not be"));
        }
        if ahead < capacity || !ahead.is_multiple_of(capacity) {
            return Err(Corrupt("stamp of another slot"));
        }
        self.skip(ahead - capacity + 1);
        Ok(())
    }

    fn skip(&mut self, positions: u64) {
        self.overwritten = self.overwritten.wrapping_add(positions);
        self.next = self.next.wrapping_add(positions);
        let capacity = self.ring.capacity() as u64;
        #[allow(clippy::cast_possible_truncation)] // below the capacity
        let slot = ((self.slot as u64 + positions % capacity) % capacity) as usize;
        self.slot = slot;
    }

    #[inline]
    fn advance(&mut self) {
        self.next = self.next.wrapping_add(1);
        self.slot += 1;
        if self.slot == self.ring.capacity() {
            self.slot = 0;
        }
        let cursor = self.next.wrapping_sub(self.config.start);
        // Release: our reads of the slot come before the producer, which loads this with Acquire
        // in `Producer::unread`, writes it again.
        self.borrows
            .head
            .at(0)
            .cursor
            .0
            .store(cursor, Ordering::Release);
        if let Some(space) = &self.space {
            space.ring_if_parked();
        }
    }
}

/// What became of a chunk message.
enum Taken {
    Chunk(Borrowed),
    Overwritten,
    NotNow,
}

/// How many positions the message of `stamp` is ahead of `position`; negative if that one is not
/// there yet.
#[inline]
const fn lead(stamp: u64, position: u64) -> i64 {
    let difference = stamp.wrapping_sub(committed(position)).cast_signed();
    if difference < 0 {
        -1
    } else {
        (difference + 1) >> 1
    }
}
