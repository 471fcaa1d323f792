//! The ring of a channel: one producer, one consumer, each writing only its own half.
//!
//! **Stamps.** Messages have positions 0, 1, 2, ... and message `p` lives in slot `p % capacity`. A
//! slot's stamp is `2p + 1` when message `p` is whole in it and `2p` while the producer writes it,
//! so for the consumer that waits for `p`: an equal stamp is the message, a smaller one means
//! "not yet", a larger one "lapped". The stamp is stored last and sits in the line that brings the
//! message, so a spinning consumer touches nothing else.
//!
//! **Overwriting rings** (`Overflow::KeepLast`) are sequence locks: the consumer copies the slot by
//! atomic words and checks the stamp again. A chunk is handed over by a claim: the consumer writes
//! its claim into the borrow entry and then checks the stamp, the producer invalidates the stamp
//! and then looks at the borrow entry, each with a full fence between, so at least one of them
//! sees the other and a chunk is held or given back, never both.
//!
//! **Keeping rings** (`DropNewest`, `Block`) never overwrite what is unread: the producer reads the
//! consumer's cursor, and keeps the last value it saw as long as that leaves room.
//!
//! **Borrow words.** `4 * p + state` for the message at position `p`: claimed or released. Only the
//! consumer writes them. The producer reuses an entry after it saw `released` for its own tag.
//!
//! Positions wrap: all comparisons are of differences. Nothing read from the other half is trusted
//! further than a difference or a checked index.

mod consumer;
mod lender;
mod producer;
mod progress;
mod received;

pub use consumer::{ARENA_SEGMENTS_MAX, Consumer, Peeked};
use core::fmt;
pub use lender::Origin;
pub use producer::{Producer, PushError, Swept};
pub use progress::Progress;
pub use received::Received;

use crate::layout::{BorrowHalf, INLINE_BYTES, RingHalf};

/// What happens when the consumer does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The oldest unread message gives way.
    Overwrite,
    /// The producer finds no room.
    Keep,
}

/// How a ring is used; both ends must be given the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Most unread messages; at least 1.
    pub depth: u32,
    /// What happens beyond that.
    pub mode: Mode,
    /// Most chunks the consumer may hold besides the unread ones.
    pub held_max: u32,
    /// First position. Zero but in tests of wrapping.
    pub start: u64,
}

impl RingConfig {
    /// Slots of the ring.
    ///
    /// An overwriting ring of one slot would have no readable message while the producer writes,
    /// so it has two and the consumer skips the older one.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        match self.mode {
            Mode::Overwrite if self.depth < 2 => 2,
            _ => self.depth as usize,
        }
    }

    /// Slot of the first message.
    #[allow(clippy::cast_possible_truncation)] // below the capacity
    const fn first_slot(&self) -> usize {
        (self.start % self.capacity() as u64) as usize
    }

    /// Entries of the borrow table: one for every unread and every held chunk, and two for claims
    /// that are being given up.
    #[must_use]
    pub const fn entry_count(&self) -> usize {
        self.capacity() + self.held_max as usize + 2
    }

    /// Both halves on private memory.
    #[must_use]
    pub fn halves_on_heap(&self) -> (RingHalf, BorrowHalf) {
        (
            RingHalf::on_heap(self.capacity()),
            BorrowHalf::on_heap(self.entry_count()),
        )
    }
}

/// Says that the other side's half holds what no correct peer writes; the channel must be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt(pub &'static str);

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer's half of the channel is corrupt: {}", self.0)
    }
}

impl core::error::Error for Corrupt {}

/// What a message carries besides its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The publisher's number of the message.
    pub sequence: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds, or 0.
    pub sent_ns: u64,
}

/// Where the payload of a message is, for the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Number of the arena segment.
    pub segment: u32,
    /// Byte offset in it.
    pub offset: u64,
    /// Bytes of payload.
    pub len: u32,
}

/// The stamp of a slot that holds message `position`.
#[inline]
const fn committed(position: u64) -> u64 {
    (position << 1) | 1
}

/// The stamp of a slot that is being written with message `position`.
#[inline]
const fn writing(position: u64) -> u64 {
    position << 1
}

/// The borrow word that says the consumer holds the chunk of message `position`.
const fn claimed(position: u64) -> u64 {
    (position << 2) | 1
}

/// The borrow word that says the consumer is done with the chunk of message `position`.
const fn released(position: u64) -> u64 {
    (position << 2) | 2
}

/// Kinds of payload, in the high half of a slot's meta word.
const KIND_INLINE: u64 = 0;
const KIND_CHUNK: u64 = 1;

const fn meta_word(len: u32, kind: u64) -> u64 {
    len as u64 | kind << 32
}

const _: () = assert!(INLINE_BYTES <= u8::MAX as usize);

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;
