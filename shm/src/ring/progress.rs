//! A look at a ring from the side: how far its producer has come.

use super::RingConfig;
use crate::layout::{BorrowHalf, RingHalf};
use crate::sync::Ordering;

/// Watches a ring for new messages without taking part in it: its two ends do not know. Looks at
/// one line that they have no use for yet, or at some more where something came.
#[derive(Debug)]
pub struct Progress {
    ring: RingHalf,
    borrows: BorrowHalf,
    config: RingConfig,
    /// Position of the first message that was not there when last looked.
    next: u64,
    dropped: u64,
}

impl Progress {
    pub(super) fn new(ring: RingHalf, borrows: BorrowHalf, config: RingConfig) -> Self {
        Self {
            ring,
            borrows,
            config,
            next: config.start,
            dropped: 0,
        }
    }

    /// If messages came since the last look, or were dropped for want of room: when the newest was
    /// sent, in nanoseconds, or 0. What a broken producer writes gives a wrong answer, no more.
    pub fn look(&mut self) -> Option<u64> {
        // Relaxed, here and below: an answer that is late is as good as a look that was early.
        let dropped = self.ring.head.dropped.0.load(Ordering::Relaxed);
        let has_dropped = core::mem::replace(&mut self.dropped, dropped) != dropped;
        let ahead = self.lead(self.next);
        if ahead < 0 {
            return has_dropped.then_some(0);
        }
        // The newest is within one lap behind what that slot holds: messages before it are there,
        // or were, and those behind it are not.
        let base = self.next.wrapping_add(ahead.cast_unsigned());
        let (mut there, mut not_there) = (0, self.ring.slots.len() as u64);
        while not_there - there > 1 {
            let middle = u64::midpoint(there, not_there);
            if self.lead(base.wrapping_add(middle)) >= 0 {
                there = middle;
            } else {
                not_there = middle;
            }
        }
        let newest = base.wrapping_add(there);
        self.next = newest.wrapping_add(1);
        let slot = self.ring.slots.at(self.slot_of(newest));
        Some(slot.sent_ns.load(Ordering::Relaxed))
    }

    /// How many messages wait to be read, of at most [`depth`](Self::depth): as it was during the
    /// look, which is one for [`look`](Self::look), too.
    pub fn unread(&mut self) -> u64 {
        // Relaxed: as above. First, so that what is read meanwhile does not count as waiting twice.
        let cursor = self.borrows.head.cursor.0.load(Ordering::Relaxed);
        let _ = self.look();
        let read = cursor.wrapping_add(self.config.start);
        self.next.wrapping_sub(read).min(self.depth())
    }

    /// Most messages that can wait.
    #[must_use]
    pub fn depth(&self) -> u64 {
        u64::from(self.config.depth)
    }

    /// How many positions the last whole message of a slot is ahead of the one at `position`.
    fn lead(&self, position: u64) -> i64 {
        let slot = self.ring.slots.at(self.slot_of(position));
        let stamp = slot.stamp.load(Ordering::Relaxed);
        let is_whole = stamp & 1 == 1;
        // One that is being written, or was evicted, had another whole one before.
        let lap = if is_whole {
            0
        } else {
            self.ring.slots.len() as u64
        };
        // The mark takes a bit: differences are of 63 bits.
        let found = (stamp >> 1).wrapping_sub(lap);
        let difference = found.wrapping_sub(position) << 1;
        difference.cast_signed() >> 1
    }

    #[allow(clippy::cast_possible_truncation)] // below the capacity
    fn slot_of(&self, position: u64) -> usize {
        (position % self.ring.slots.len() as u64) as usize
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{ChunkRef, Consumer, Head, Mode, Producer};
    use super::*;
    use crate::arena::ChunkId;
    use std::sync::Arc;

    fn head(sequence: u64) -> Head {
        let sent_ns = 1000 + sequence;
        Head { sequence, sent_ns }
    }

    #[test]
    fn every_number_of_messages_between_two_looks_is_seen() {
        for depth in [1, 2, 3, 8, 13] {
            for step in 1..40 {
                let config = RingConfig {
                    depth,
                    mode: Mode::Overwrite,
                    held_max: 1,
                    start: 0,
                };
                let (ring, borrows) = config.halves_on_heap();
                let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
                let mut progress = Progress::new(ring, borrows, config);
                assert_eq!(progress.look(), None);
                let mut sent = 0;
                for _ in 0..10 {
                    for _ in 0..step {
                        producer.push_inline(head(sent), b"", |_| ()).unwrap();
                        sent += 1;
                    }
                    assert_eq!(progress.look(), Some(1000 + sent - 1), "{depth} {step}");
                    assert_eq!(progress.look(), None);
                }
            }
        }
    }

    #[test]
    fn what_waits_is_counted_up_to_the_depth() {
        for mode in [Mode::Overwrite, Mode::Keep] {
            for depth in [1, 2, 5] {
                let config = RingConfig {
                    depth,
                    mode,
                    held_max: 1,
                    start: 7,
                };
                let (ring, borrows) = config.halves_on_heap();
                let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
                let mut consumer =
                    Consumer::new(ring, borrows, config, Arc::default(), None).unwrap();
                let mut progress = consumer.progress();
                let depth = u64::from(depth);
                let mut waiting = 0;
                for step in 0..30 {
                    assert_eq!(progress.unread(), waiting, "{mode:?} {depth} {step}");
                    if step % 7 < 4 {
                        let _ = producer.push_inline(head(step), b"", |_| ());
                        waiting = depth.min(waiting + 1);
                    } else if consumer.try_next().unwrap().is_some() {
                        waiting -= 1;
                    }
                }
                assert_eq!(progress.depth(), depth);
            }
        }
    }

    #[test]
    fn what_is_dropped_shows_and_what_is_evicted_does_not() {
        let config = RingConfig {
            depth: 4,
            mode: Mode::Overwrite,
            held_max: 1,
            start: 0,
        };
        let (ring, borrows) = config.halves_on_heap();
        let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let consumer = Consumer::new(ring, borrows, config, Arc::default(), None).unwrap();
        let mut progress = consumer.progress();
        let place = ChunkRef {
            segment: 0,
            offset: 0,
            len: 0,
        };
        for sequence in 0..3 {
            let id = ChunkId::default();
            let pushed = producer.push_chunk(head(sequence), place, id, |_| ());
            pushed.unwrap();
        }
        assert_eq!(progress.look(), Some(1002));
        while producer.evict_oldest(|_| ()) {}
        assert_eq!(progress.look(), None);
        producer.count_dropped();
        assert_eq!(progress.look(), Some(0));
        producer.push_inline(head(4), b"", |_| ()).unwrap();
        assert_eq!(progress.look(), Some(1004));
        assert_eq!(progress.look(), None);
    }
}
