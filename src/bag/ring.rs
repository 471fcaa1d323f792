//! The last seconds of a recording, in memory: whole chunks, the oldest of which go first.

use std::collections::VecDeque;

use super::chunk::{ChunkInfo, Sealed, Share};
use super::crc::Crc;

/// A chunk that is kept.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    /// Where its message indexes begin in them.
    tail_at: usize,
    info: ChunkInfo,
    crc: Crc,
    /// True if a file has it.
    is_saved: bool,
}

/// Chunks of the last seconds, and of no more than so many bytes.
#[derive(Debug)]
pub(super) struct Ring {
    chunks: VecDeque<Kept>,
    bytes: u64,
    span_ns: u64,
    bytes_max: u64,
    /// True if chunks had to go that were not too old.
    is_short: bool,
    /// Memory of a chunk that went, for the next.
    spare: Vec<u8>,
}

impl Ring {
    pub(super) fn new(span_ns: u64, bytes_max: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            span_ns,
            bytes_max,
            is_short: false,
            spare: Vec::new(),
        }
    }

    /// Keeps a chunk, and drops what is too old or too much beside it.
    pub(super) fn push(&mut self, chunk: &Sealed<'_>) {
        let len = (chunk.head.len() + chunk.data.len() + chunk.tail.len()) as u64;
        self.expire(chunk.info.end_ns);
        self.is_short = false;
        while self.bytes + len > self.bytes_max && self.drop_oldest() {
            self.is_short = true;
        }
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        // Not twice what is needed: the bound is on what is reserved.
        bytes.shrink_to(usize::try_from(len).unwrap_or(usize::MAX));
        for piece in [chunk.head, chunk.data, chunk.tail] {
            bytes.extend_from_slice(piece);
        }
        self.bytes += bytes.len() as u64;
        self.chunks.push_back(Kept {
            tail_at: chunk.head.len() + chunk.data.len(),
            bytes,
            info: chunk.info.clone(),
            crc: chunk.crc,
            is_saved: false,
        });
    }

    /// Drops chunks of which no message is of the last seconds.
    pub(super) fn expire(&mut self, now_ns: u64) {
        let from_ns = now_ns.saturating_sub(self.span_ns);
        while self
            .chunks
            .front()
            .is_some_and(|oldest| oldest.info.end_ns < from_ns)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.chunks.pop_front() else {
            return false;
        };
        self.bytes -= oldest.bytes.len() as u64;
        if oldest.bytes.capacity() > self.spare.capacity() {
            self.spare = oldest.bytes;
        }
        true
    }

    /// True if there was no memory for all of the last seconds.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// What is kept, the oldest first.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Sealed<'_>> {
        self.chunks.iter().map(|kept| Sealed {
            head: &kept.bytes[..kept.tail_at],
            data: &[],
            tail: &kept.bytes[kept.tail_at..],
            info: kept.info.clone(),
            crc: kept.crc,
        })
    }

    /// Takes note that a file has so many of the oldest; what no file had before.
    pub(super) fn note_saved(&mut self, count: usize) -> impl Iterator<Item = &Share> {
        let saved = self.chunks.iter_mut().take(count);
        let new = saved.filter_map(|kept| {
            let is_new = !std::mem::replace(&mut kept.is_saved, true);
            is_new.then_some(&kept.info.shares)
        });
        new.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bag::chunk::{ChunkBuilder, ChunkCompression};
    use crate::bag::format::MessageHead;

    fn push(ring: &mut Ring, log_ns: u64, len: usize) {
        let mut builder = ChunkBuilder::new(ChunkCompression::None);
        let head = MessageHead {
            channel: 1,
            sequence: 0,
            log_ns,
            publish_ns: log_ns,
        };
        builder.push(&head, 0, &vec![7; len]);
        ring.push(&builder.seal().unwrap());
    }

    fn times(ring: &Ring) -> Vec<u64> {
        ring.chunks().map(|chunk| chunk.info.start_ns).collect()
    }

    #[test]
    fn what_is_too_old_goes() {
        let mut ring = Ring::new(30, u64::MAX);
        for log_ns in [100, 110, 120, 130, 140] {
            push(&mut ring, log_ns, 10);
        }
        assert_eq!(times(&ring), [110, 120, 130, 140]);
        ring.expire(155);
        assert_eq!(times(&ring), [130, 140]);
        assert!(!ring.is_short());
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut ring = Ring::new(u64::MAX, 10_000);
        for log_ns in 0..1_000 {
            push(
                &mut ring,
                log_ns,
                10 + usize::try_from(log_ns * 37 % 900).unwrap(),
            );
            let reserved: usize = ring.chunks.iter().map(|kept| kept.bytes.capacity()).sum();
            assert!(ring.bytes <= 10_000 && reserved <= 20_000, "{reserved}");
        }
        assert!(ring.is_short());
        assert_eq!(times(&ring).last(), Some(&999));
    }
}
