//! What a publisher keeps for subscribers that come later.
//!
//! The history is shared with the node's driver, which serves them also while the publisher sends
//! nothing. Two invariants, both by its lock:
//! - The publisher takes its news and keeps a message under one lock; the driver puts what is kept
//!   into a new channel and leaves the channel as news under one lock. So a message comes into a
//!   channel once: out of the history, or because the publisher knew the channel when it sent.
//! - The history has a reference to each of its chunks. The publisher gives it back only after it
//!   has taken its news, and so counted the references of new channels.
//!
//! What is kept are the newest messages without a gap; only publishers with a history come here.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use shmesh_shm::{ChunkId, ChunkRef, Head, INLINE_BYTES, Producer};

use super::outbox::Payload;
use crate::endpoint::lock;

/// What a subscriber wants of what was sent before it came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// Most messages; 0 for those that want none.
    pub(crate) count: u32,
    /// None before this one: it had them.
    pub(crate) from: u64,
}

/// The last messages of a publisher.
#[derive(Debug)]
pub(crate) struct History(Mutex<Kept>);

impl History {
    /// One of the last `max` messages. Allocates all it needs.
    pub(crate) fn new(max: u32) -> Self {
        let max = max as usize;
        let messages = VecDeque::with_capacity(max);
        Self(Mutex::new(Kept { messages, max }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }
}

#[derive(Debug)]
pub(crate) struct Kept {
    /// Oldest first.
    messages: VecDeque<Message>,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    head: Head,
    body: Body,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Inline {
        bytes: [u8; INLINE_BYTES],
        len: usize,
    },
    Chunk {
        place: ChunkRef,
        id: ChunkId,
    },
}

impl Kept {
    /// Keeps a message, of whose chunk the caller gives a reference; gives the chunk whose
    /// reference is to be released for it. Does not allocate.
    pub(super) fn push(&mut self, head: Head, payload: Payload<'_>) -> Option<ChunkId> {
        let is_full = self.messages.len() >= self.max;
        let forgotten = if is_full { self.forget() } else { None };
        let body = match payload {
            Payload::Chunk { place, id } => Body::Chunk { place, id },
            Payload::Inline(from) => {
                let mut bytes = [0; INLINE_BYTES];
                let len = from.len();
                bytes[..len].copy_from_slice(from);
                Body::Inline { bytes, len }
            }
        };
        self.messages.push_back(Message { head, body });
        forgotten
    }

    /// Forgets the oldest messages up to the first that has a chunk; gives that, to be released.
    /// `None` if no message has one: then all stay.
    pub(super) fn give_way(&mut self) -> Option<ChunkId> {
        let has_chunk = |message: &Message| matches!(message.body, Body::Chunk { .. });
        let idx = self.messages.iter().position(has_chunk)?;
        self.messages.drain(..idx);
        self.forget()
    }

    fn forget(&mut self) -> Option<ChunkId> {
        match self.messages.pop_front()?.body {
            Body::Chunk { id, .. } => Some(id),
            Body::Inline { .. } => None,
        }
    }

    /// Puts the last messages that are wanted into a channel that has none yet, whose ring has
    /// room for as many as may be wanted. Gives the number of the first; `None` if there is none,
    /// and nothing was done.
    pub(crate) fn replay(&self, wanted: Wanted, producer: &mut Producer) -> Option<u64> {
        let is_late = |message: &&Message| message.head.sequence >= wanted.from;
        let count = self.messages.iter().rev().take_while(is_late).count();
        let count = count.min(wanted.count as usize);
        let mut last = self
            .messages
            .range(self.messages.len() - count..)
            .peekable();
        let first = last.peek()?.head.sequence;
        producer.begin(first);
        for Message { head, body } in last {
            // Nothing was lent yet, so nothing comes back.
            let pushed = match body {
                Body::Inline { bytes, len } => producer.push_inline(*head, &bytes[..*len], |_| ()),
                Body::Chunk { place, id } => producer.push_chunk(*head, *place, *id, |_| ()),
            };
            if pushed.is_err() {
                debug_assert!(false, "a new ring has room for its depth");
                producer.count_dropped();
            }
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shmesh_shm::{Consumer, Mode, RingConfig};
    use std::sync::Arc;

    fn head(sequence: u64) -> Head {
        Head {
            sequence,
            sent_ns: 0,
        }
    }

    fn chunk(index: u32) -> Payload<'static> {
        let place = ChunkRef {
            segment: 0,
            offset: 0,
            len: 1,
        };
        let id = ChunkId { segment: 0, index };
        Payload::Chunk { place, id }
    }

    /// The numbers that a new subscriber gets.
    fn replayed(kept: &Kept, count: u32, from: u64) -> Vec<u64> {
        for mode in [Mode::Keep, Mode::Overwrite] {
            let config = RingConfig {
                depth: count.max(1),
                mode,
                held_max: 1,
                start: 0,
            };
            let (ring, borrows) = config.halves_on_heap();
            let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
            let mut consumer = Consumer::new(ring, borrows, config, Arc::default(), None).unwrap();
            let first = kept.replay(Wanted { count, from }, &mut producer);
            let mut found = Vec::new();
            while let Some(received) = consumer.try_next().unwrap() {
                assert_eq!(received.lost(), 0);
                assert_eq!(received.bytes(), received.sequence().to_le_bytes());
                found.push(received.sequence());
            }
            assert_eq!(first, found.first().copied());
            if mode == Mode::Overwrite {
                return found;
            }
        }
        unreachable!()
    }

    #[test]
    fn the_last_ones_that_are_wanted_come_in_order() {
        let history = History::new(3);
        let mut kept = history.lock();
        assert!(replayed(&kept, 2, 0).is_empty());
        for sequence in 0..5_u64 {
            let bytes = sequence.to_le_bytes();
            let forgotten = kept.push(head(sequence), Payload::Inline(&bytes));
            assert_eq!(forgotten, None);
        }
        assert_eq!(replayed(&kept, 9, 0), [2, 3, 4]);
        assert_eq!(replayed(&kept, 2, 0), [3, 4]);
        assert_eq!(replayed(&kept, 2, 4), [4]);
        assert_eq!(replayed(&kept, 9, 3), [3, 4]);
        assert!(replayed(&kept, 9, 5).is_empty());
        assert!(replayed(&kept, 0, 0).is_empty());
    }

    #[test]
    fn each_chunk_is_given_back_once() {
        let history = History::new(2);
        let mut kept = history.lock();
        assert_eq!(kept.push(head(0), chunk(7)), None);
        assert_eq!(kept.push(head(1), Payload::Inline(&[])), None);
        let index = |id: Option<ChunkId>| id.map(|id| id.index);
        assert_eq!(index(kept.push(head(2), chunk(8))), Some(7));
        // The one without a chunk goes with it: what is kept has no gap.
        assert_eq!(index(kept.give_way()), Some(8));
        assert!(kept.messages.is_empty());
        kept.push(head(3), Payload::Inline(&[]));
        assert_eq!(kept.give_way(), None);
        assert_eq!(kept.messages.len(), 1, "nothing is won by forgetting it");
    }
}
