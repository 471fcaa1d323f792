//! The reading end of a ring.

use core::hint::black_box;
use std::sync::Arc;

use super::lender::{CELLS, Origin, Pool};
use super::progress::Progress;
use super::received::Received;
use super::{Corrupt, Head, KIND_CHUNK, KIND_INLINE, Mode, RingConfig};
use super::{claimed, committed};
use crate::arena::Block;
use crate::doorbell::Ringer;
use crate::error::ShmError;
use crate::layout::{BorrowHalf, INLINE_BYTES, RingHalf, Slot};
use crate::sync::{Ordering, fence};

/// Payload words in a slot's first cache line.
const FIRST_LINE_WORDS: usize = 4;
/// How often a reader that is being lapped tries again before it says "nothing yet". Each time the
/// producer has written meanwhile, and it rings the bell of whoever parks after that, so nothing
/// is missed.
const LAPS_MAX: usize = 64;
/// Most arena segments a publisher may have had; numbers are not used twice.
pub const ARENA_SEGMENTS_MAX: u32 = 1 << 16;

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
    /// Of messages that travel in their slots.
    inline: Pool,
    /// Of those in chunks, by number of the arena segment.
    segments: Vec<Option<Pool>>,
    /// Chunks that went out, those given back since the last count among them.
    chunks_out: usize,
    space: Option<Arc<Ringer>>,
}

impl Consumer {
    /// Takes the reading end of `ring`, which `origin` writes. `space` is rung whenever there is
    /// new room.
    ///
    /// # Errors
    /// [`ShmError::Incompatible`] if the halves have other sizes than `config` says.
    pub fn new(
        ring: RingHalf,
        borrows: BorrowHalf,
        config: RingConfig,
        origin: Arc<Origin>,
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
        let inline = Pool::new(origin, borrows.clone(), None, None, CELLS);
        Ok(Self {
            slot: config.first_slot(),
            ring,
            borrows,
            config,
            next: config.start,
            expected: None,
            overwritten: 0,
            inline,
            segments: Vec::new(),
            chunks_out: 0,
            space,
        })
    }

    /// Who writes the ring.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.inline.origin
    }

    /// A look from the side at how far the producer has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::new(self.ring.clone(), self.borrows.clone(), self.config)
    }

    /// Touches what the first messages will touch.
    pub fn warm(&mut self) {
        self.inline.warm();
        for pool in self.segments.iter_mut().flatten() {
            pool.warm();
        }
        // Relaxed, here and below: what is there does not matter yet. An exchange, because it
        // brings the line for writing and changes nothing.
        self.borrows.head.cursor.0.fetch_or(0, Ordering::Relaxed);
        for entry in 0..self.borrows.entry_count().min(CELLS) {
            self.borrows
                .entries
                .at(entry)
                .fetch_or(0, Ordering::Relaxed);
        }
        self.ring.head.first.load(Ordering::Relaxed);
        self.ring.head.dropped.0.load(Ordering::Relaxed);
        if let Some(space) = &self.space {
            space.ring_if_parked();
        }
        for idx in 0..self.ring.capacity().min(CELLS) {
            self.ring.slots.at(idx).stamp.load(Ordering::Relaxed);
        }
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
        if self.segments.len() <= idx {
            self.segments.resize_with(idx + 1, || None);
        }
        let origin = Arc::clone(&self.inline.origin);
        let (borrows, space) = (self.borrows.clone(), self.space.clone());
        self.remove_segment(number);
        self.segments[idx] = Some(Pool::new(origin, borrows, Some(block), space, CELLS));
        Ok(())
    }

    /// Forgets arena segment `number`; samples that lie in it keep it mapped.
    pub fn remove_segment(&mut self, number: u32) {
        if let Some(segment) = self.segments.get_mut(number as usize) {
            *segment = None;
            self.count_chunks();
        }
    }

    /// Chunks that are borrowed now.
    #[must_use]
    pub fn held(&self) -> usize {
        let segments = self.segments.iter().flatten();
        segments.map(Pool::outstanding).sum()
    }

    /// True if the consumer holds as many chunks as it may; a chunk message waits then.
    #[must_use]
    pub fn is_at_held_max(&mut self) -> bool {
        let max = self.config.held_max as usize;
        if self.chunks_out >= max {
            self.count_chunks();
        }
        self.chunks_out >= max
    }

    #[cold]
    fn count_chunks(&mut self) {
        let segments = self.segments.iter_mut().flatten();
        self.chunks_out = segments.map(Pool::count).sum();
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
        self.ring.head.dropped.0.load(Ordering::Acquire)
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

    /// As [`is_ready`](Self::is_ready), for who asks again and again until it is: what of the
    /// message lies in the slot's second line comes along with the first, not after it.
    #[must_use]
    #[inline]
    pub fn is_ready_prefetching(&self) -> bool {
        let slot = self.ring.slots.at(self.slot);
        // Relaxed: brings the line; what is in it is loaded again.
        black_box(slot.payload[FIRST_LINE_WORDS].load(Ordering::Relaxed));
        self.is_ready()
    }

    /// Takes the next message, if it is there. Wait-free; `None` also while the message lies in
    /// a segment that is not known yet, or while the consumer holds as many chunks as it may.
    ///
    /// # Errors
    /// [`Corrupt`] if the ring holds what no producer writes.
    #[inline(always)]
    pub fn try_next(&mut self) -> Result<Option<Received>, Corrupt> {
        self.next_until(u64::MAX)
    }

    /// As [`try_next`](Self::try_next), unless the message was sent later than `sent_ns_max`, as
    /// one may be that has taken the place of what was [peeked](Self::peek) at.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    #[inline(always)]
    pub fn next_until(&mut self, sent_ns_max: u64) -> Result<Option<Received>, Corrupt> {
        for _ in 0..LAPS_MAX {
            let slot = self.ring.slots.at(self.slot);
            // Acquire: pairs with the Release store in `Producer::commit`.
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp != committed(self.next) {
                let ahead = lead(stamp, self.next);
                if ahead < 0 {
                    return Ok(None);
                }
                self.jump(ahead)?;
                continue;
            }
            if self.is_outdated() {
                self.skip(1);
                continue;
            }
            let head = Head {
                sequence: slot.sequence.load(Ordering::Relaxed),
                sent_ns: slot.sent_ns.load(Ordering::Relaxed),
            };
            if head.sent_ns > sent_ns_max {
                return Ok(None);
            }
            let meta = slot.meta.load(Ordering::Relaxed);
            let taken = match meta >> 32 {
                KIND_INLINE => self.copy_inline(meta),
                KIND_CHUNK => self.borrow_chunk(meta)?,
                _ if !self.still(slot) => Taken::Overwritten,
                _ => return Err(Corrupt("unknown kind of payload")),
            };
            let segment = match taken {
                Taken::From(segment) => segment,
                Taken::Overwritten => continue,
                Taken::NotNow => return Ok(None),
            };
            let expected = self.expected.unwrap_or_else(|| self.first());
            let lost = head.sequence.wrapping_sub(expected);
            if lost > u64::MAX / 2 {
                return Err(Corrupt("sequence goes back"));
            }
            self.expected = Some(head.sequence.wrapping_add(1));
            self.advance();
            let pool = match segment {
                None => &mut self.inline,
                Some(number) => {
                    self.chunks_out += 1;
                    self.segment_mut(number)
                }
            };
            return Ok(Some(pool.issue(head, lost)));
        }
        Ok(None)
    }

    /// Looks at the next message without taking it. In an overwriting ring it may have given way to
    /// a later one by the time it is taken. Wait-free.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    #[inline]
    pub fn peek(&mut self) -> Result<Peeked, Corrupt> {
        for _ in 0..LAPS_MAX {
            let slot = self.ring.slots.at(self.slot);
            // Acquire: pairs with the Release store in `Producer::commit`; what was there before
            // the message is visible to who peeked at it.
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp != committed(self.next) {
                let ahead = lead(stamp, self.next);
                if ahead < 0 {
                    return Ok(Peeked::Nothing);
                }
                self.jump(ahead)?;
                continue;
            }
            if self.is_outdated() {
                self.skip(1);
                continue;
            }
            let sent_ns = slot.sent_ns.load(Ordering::Relaxed);
            if self.still(slot) {
                return Ok(Peeked::Sent(sent_ns));
            }
        }
        Ok(Peeked::Lapped)
    }

    /// Gives up the next message, which counts as overwritten: it lies where nobody will say.
    pub fn skip_next(&mut self) {
        self.skip(1);
    }

    /// Takes the next message of a producer that is gone. One that lies in a segment that is not
    /// known will never be known: it is given up, and counts as overwritten. Not to be called while
    /// the consumer holds as many chunks as it may: what has to wait then would be given up, too.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub fn next_or_skip(&mut self) -> Result<Option<Received>, Corrupt> {
        for _ in 0..self.ring.capacity() {
            let next = self.try_next()?;
            if next.is_some() || !self.is_ready() {
                return Ok(next);
            }
            self.skip_next();
        }
        Ok(None)
    }

    /// The sequence with which the ring begins, once a message is in it or was dropped.
    #[must_use]
    #[cold]
    pub fn first(&self) -> u64 {
        // Relaxed: stored before the stamp that was loaded with Acquire.
        self.ring.head.first.load(Ordering::Relaxed)
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

    /// Copies the payload of an inline message into a blank cell: the words of the first line, and
    /// those of the second if the message has any there.
    #[inline(always)]
    fn copy_inline(&mut self, meta: u64) -> Taken {
        let slot = self.ring.slots.at(self.slot);
        // Bounded before it is used: a torn or hostile length names at most the slot.
        #[allow(clippy::cast_possible_truncation)] // half of a word
        let len = (meta as u32).min(INLINE_BYTES as u32);
        let words = self.inline.blank().inline(len);
        let (first, second) = words.split_at_mut(FIRST_LINE_WORDS);
        for (word, from) in first.iter_mut().zip(&slot.payload) {
            *word = from.load(Ordering::Relaxed);
        }
        if len as usize > FIRST_LINE_WORDS * 8 {
            for (word, from) in second.iter_mut().zip(&slot.payload[FIRST_LINE_WORDS..]) {
                *word = from.load(Ordering::Relaxed);
            }
        }
        if self.still(slot) {
            Taken::From(None)
        } else {
            Taken::Overwritten
        }
    }

    #[inline(always)]
    fn borrow_chunk(&mut self, meta: u64) -> Result<Taken, Corrupt> {
        let slot = self.ring.slots.at(self.slot);
        let place = slot.payload[0].load(Ordering::Relaxed);
        let offset = slot.payload[1].load(Ordering::Relaxed);
        if !self.still(slot) {
            return Ok(Taken::Overwritten);
        }
        #[allow(clippy::cast_possible_truncation)] // halves of words
        let (number, entry, len) = (place as u32, (place >> 32) as u32, meta as u32);
        let Some(Some(pool)) = self.segments.get(number as usize) else {
            if number >= ARENA_SEGMENTS_MAX {
                return Err(Corrupt("segment number"));
            }
            return Ok(Taken::NotNow);
        };
        if entry as usize >= self.borrows.entry_count() {
            return Err(Corrupt("borrow entry"));
        }
        let Some(start) = pool.chunk(offset, len) else {
            return Err(Corrupt("chunk outside its segment"));
        };
        if self.is_at_held_max() {
            return Ok(Taken::NotNow);
        }
        let position = self.next;
        let is_claimed = self.claim(entry);
        let pool = self.segment_mut(number);
        if !is_claimed {
            pool.give_back(entry, position);
            return Ok(Taken::Overwritten);
        }
        pool.blank().lend(start, len, entry, position);
        Ok(Taken::From(Some(number)))
    }

    #[inline(always)]
    fn segment_mut(&mut self, number: u32) -> &mut Pool {
        let segment = self.segments.get_mut(number as usize);
        segment
            .and_then(Option::as_mut)
            .expect("invariant: the segment is known")
    }

    /// Claims the chunk of the next message; false if the producer took it back first.
    fn claim(&self, entry: u32) -> bool {
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
        let slot = self.ring.slots.at(self.slot);
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
        // Slots are overwritten in turn, so the border lies between the message that this slot's
        // newer one has overwritten, and that newer one. To go there slot by slot would take as
        // many looks as the ring has slots.
        let (mut overwritten, mut oldest) = (ahead - capacity, ahead);
        while oldest - overwritten > 1 {
            let middle = overwritten.midpoint(oldest);
            #[allow(clippy::cast_possible_truncation)] // below the capacity
            let idx = ((self.slot as u64 + middle % capacity) % capacity) as usize;
            // Acquire: as in `try_next`.
            let stamp = self.ring.slots.at(idx).stamp.load(Ordering::Acquire);
            if lead(stamp, self.next.wrapping_add(middle)) > 0 {
                overwritten = middle;
            } else {
                oldest = middle;
            }
        }
        self.skip(oldest);
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
        self.borrows.head.cursor.0.store(cursor, Ordering::Release);
        if let Some(space) = &self.space {
            space.ring_if_parked();
        }
    }
}

/// What a [look](Consumer::peek) at the next message found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// No message is there.
    Nothing,
    /// One, and when it was sent.
    Sent(u64),
    /// Messages are there, but each gave way to a later one while it was looked at. The producer
    /// rings the bell of whoever parks after that.
    Lapped,
}

/// What became of the next message.
enum Taken {
    /// It is in a blank cell, of the pool of that segment or of the inline pool.
    From(Option<u32>),
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
