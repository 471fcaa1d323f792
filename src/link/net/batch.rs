//! What is on its way into the socket: frames and small payloads in one buffer, payloads of chunks
//! where they lie, all handed to the kernel as slices. Sans-IO.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use shmesh_shm::Received;

use super::cut::Cut;
use crate::compression::{Compression, Packer};
use crate::link::wire::{MessageHeader, PackedHeader};

/// Bytes that are gathered for one write, if there are so many.
pub(super) const BATCH_BYTES: usize = 512 << 10;
/// Slices of one write: Linux takes 1,024.
pub(super) const SLICES_MAX: usize = 1024;
/// So many are kept on the stack.
const SLICES_FEW: usize = 16;

#[derive(Debug)]
enum Part {
    /// Of the buffer.
    Bytes(Range<usize>),
    /// A message's payload, held until it is written.
    Payload(Received),
    /// A part of the payload of the message that is cut.
    Fragment(Range<usize>),
}

/// An inline payload has to be copied out of its slot whatever comes then, and is copied behind its
/// header; one in a chunk is written from there, unless it is compressed: then it is behind its
/// header as well.
#[derive(Debug, Default)]
pub(super) struct Batch {
    buffer: Vec<u8>,
    parts: VecDeque<Part>,
    /// Bytes of the first part that are written.
    written: usize,
    /// Bytes that are not written yet.
    len: usize,
    /// Where payloads are compressed.
    packer: Option<Box<Packer>>,
    /// Bytes that this saved of what was gathered since the batch was empty.
    saved: usize,
    /// The message of which fragments were put in: the last thing in here, so that what is more
    /// urgent waits for no others.
    cut: Option<Cut>,
    /// True if large messages are cut now.
    pub(super) is_cutting: bool,
    /// Fragments of one that may go at once now.
    pub(super) fragments_max: usize,
    /// Bytes in fragments so far, as they were.
    pub(super) fragment_bytes: u64,
}

impl Batch {
    pub(super) fn new(compression: Option<Compression>) -> Self {
        Self {
            packer: compression.map(|compression| Box::new(Packer::new(compression))),
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// True if more may be put in. What compression saved counts as if it were there: it took the
    /// longer.
    pub(super) fn has_room(&self) -> bool {
        self.len + self.saved < BATCH_BYTES
            && self.parts.len() + 2 <= SLICES_MAX
            && self.cut.is_none()
    }

    /// See [`has_room`](Self::has_room).
    pub(super) fn saved(&self) -> usize {
        self.saved
    }

    pub(super) fn push_frame(&mut self, frame: &[u8]) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(frame);
        self.note_bytes(start);
    }

    /// Puts a message in, whole.
    #[inline]
    pub(super) fn push_message(&mut self, channel: u64, message: Received) {
        let start = self.buffer.len();
        let header = MessageHeader {
            channel,
            sequence: message.sequence(),
            sent_ns: message.sent_ns(),
            len: message.len(),
        };
        if self.packer.is_some() && !message.is_inline() && self.push_packed(header, &message) {
            return;
        }
        self.buffer.extend_from_slice(&header.encode());
        if message.is_inline() {
            self.buffer.extend_from_slice(message.bytes());
            self.note_bytes(start);
        } else {
            self.note_bytes(start);
            self.len += message.len();
            self.parts.push_back(Part::Payload(message));
        }
    }

    /// Puts a message in whose payload is compressed, if that helps.
    #[inline(never)]
    fn push_packed(&mut self, message: MessageHeader, payload: &Received) -> bool {
        let start = self.buffer.len();
        let packer = self.packer.as_mut();
        let Some(packed) = packer.and_then(|packer| packer.pack(payload.bytes())) else {
            return false;
        };
        let packed_len = packed.len();
        self.saved += message.len - packed_len;
        let header = PackedHeader {
            message,
            packed_len,
        };
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(packed);
        self.note_bytes(start);
        true
    }

    /// Puts the next fragments of a message in, as many as may go at once now; there is no room
    /// behind them.
    #[inline(never)]
    pub(super) fn push_fragments(&mut self, mut cut: Cut) {
        debug_assert!(self.cut.is_none());
        for _ in 0..self.fragments_max {
            let (start, at) = (self.buffer.len(), cut.at());
            let range = cut.push_fragment(&mut self.buffer, self.packer.as_deref_mut());
            self.note_bytes(start);
            match range {
                Ok(range) => {
                    self.len += range.len();
                    self.parts.push_back(Part::Fragment(range));
                }
                Err(saved) => self.saved += saved,
            }
            let len = (cut.at() - at) as u64;
            self.fragment_bytes = self.fragment_bytes.wrapping_add(len);
            if cut.is_done() {
                break;
            }
        }
        self.cut = Some(cut);
    }

    /// The message of which there are more fragments to come, once the last is written.
    pub(super) fn take_cut(&mut self) -> Option<Cut> {
        debug_assert!(self.is_empty());
        self.cut.take()
    }

    #[inline]
    fn note_bytes(&mut self, start: usize) {
        let end = self.buffer.len();
        self.len += end - start;
        match self.parts.back_mut() {
            Some(Part::Bytes(last)) if last.end == start => last.end = end,
            _ => self.parts.push_back(Part::Bytes(start..end)),
        }
    }

    /// Hands on what is to be written, first things first. Allocates where that is many slices.
    #[inline]
    pub(super) fn with_slices<T>(&self, act: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let count = self.parts.len();
        if count > SLICES_FEW {
            return act(&self.slices().collect::<Vec<_>>());
        }
        let mut few = [IoSlice::new(&[]); SLICES_FEW];
        for (place, slice) in few.iter_mut().zip(self.slices()) {
            *place = slice;
        }
        act(&few[..count])
    }

    fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let mut skipped = self.written;
        let parts = self.parts.iter().take(SLICES_MAX);
        parts.map(move |part| {
            let bytes = match part {
                Part::Bytes(range) => &self.buffer[range.clone()],
                Part::Payload(message) => message.bytes(),
                Part::Fragment(range) => self.cut.as_ref().map_or(&[][..], |cut| cut.bytes(range)),
            };
            IoSlice::new(&bytes[std::mem::take(&mut skipped)..])
        })
    }

    /// The first `count` bytes of the slices are written.
    pub(super) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len);
        self.len -= count;
        self.written += count;
        while let Some(part) = self.parts.front() {
            let len = match part {
                Part::Bytes(range) | Part::Fragment(range) => range.len(),
                Part::Payload(message) => message.len(),
            };
            if self.written < len {
                return;
            }
            self.written -= len;
            self.parts.pop_front();
        }
        self.buffer.clear();
        self.saved = 0;
        // Given back at once where it is all out.
        self.cut = self.cut.take().filter(|cut| !cut.is_done());
    }

    /// Gives back the room that nothing is in, but for a little.
    pub(super) fn shrink(&mut self) {
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.parts.shrink_to(BUFFER_BYTES_KEPT / size_of::<Part>());
        if let Some(packer) = &mut self.packer {
            packer.shrink();
        }
    }
}

/// Room that an idle link keeps.
const BUFFER_BYTES_KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shmesh_shm::{Arena, ChunkRef, Consumer, Head, HeapStore, Mode, Producer, RingConfig};

    use super::*;
    use crate::link::wire::{MESSAGE_HEADER_BYTES, PACKED_HEADER_BYTES};

    /// Messages of these sizes, inline ones and some in chunks, and what they are on the wire.
    fn filled(sizes: &[usize]) -> (Batch, Vec<u8>) {
        filled_with(sizes, None)
    }

    fn filled_with(sizes: &[usize], compression: Option<Compression>) -> (Batch, Vec<u8>) {
        let config = RingConfig {
            depth: 64,
            mode: Mode::Keep,
            held_max: 64,
            start: 0,
        };
        let (ring, borrows) = config.halves_on_heap();
        let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let mut consumer = Consumer::new(ring, borrows, config, Arc::default(), None).unwrap();
        let mut arena = Arena::new(HeapStore, 1 << 20);
        let (number, block) = arena.grow(4000).unwrap();
        consumer.add_segment(number, block).unwrap();
        let (mut batch, mut expected) = (Batch::new(compression), Vec::new());
        for (sequence, size) in (0..).zip(sizes) {
            let head = Head {
                sequence,
                sent_ns: 5,
            };
            let payload: Vec<u8> = (0..*size).map(|idx| idx.to_le_bytes()[0]).collect();
            if *size <= shmesh_shm::INLINE_BYTES {
                producer.push_inline(head, &payload, |_| {}).unwrap();
            } else {
                let mut chunk = arena.take(4000).unwrap();
                chunk.bytes_mut()[..*size].copy_from_slice(&payload);
                let (offset, len) = (chunk.offset() as u64, u32::try_from(*size).unwrap());
                let id = arena.publish(chunk);
                let place = ChunkRef {
                    segment: id.segment,
                    offset,
                    len,
                };
                producer.push_chunk(head, place, id, |_| {}).unwrap();
            }
            let header = MessageHeader {
                channel: 9,
                sequence,
                sent_ns: 5,
                len: *size,
            };
            expected.extend_from_slice(&header.encode());
            expected.extend_from_slice(&payload);
            batch.push_message(9, consumer.try_next().unwrap().unwrap());
        }
        batch.push_frame(b"the end");
        expected.extend_from_slice(b"the end");
        (batch, expected)
    }

    fn written(batch: &mut Batch, mut step: impl FnMut() -> usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !batch.is_empty() {
            let all: Vec<u8> = batch.slices().flat_map(|s| s.to_vec()).collect();
            let count = step().min(all.len());
            out.extend_from_slice(&all[..count]);
            batch.advance(count);
        }
        out
    }

    #[test]
    fn whatever_the_kernel_takes_at_once_the_stream_is_the_same() {
        let sizes = [0, 1, 96, 97, 3000, 5, 128, 0];
        let whole = filled(&sizes).1;
        for step in 1..=whole.len() {
            let (mut batch, expected) = filled(&sizes);
            assert_eq!(written(&mut batch, || step), expected, "steps of {step}");
            assert_eq!((batch.len, batch.written, batch.buffer.len()), (0, 0, 0));
        }
        // At every boundary between slices, nothing at all in between.
        let (mut batch, expected) = filled(&sizes);
        let mut turn = 0;
        let lengths: Vec<usize> = batch.slices().map(|slice| slice.len()).collect();
        let steps = lengths.into_iter().flat_map(|len| [0, len]);
        let mut steps = steps.collect::<VecDeque<_>>();
        let out = written(&mut batch, || {
            turn += 1;
            steps.pop_front().unwrap_or(1)
        });
        assert_eq!(out, expected);
    }

    #[test]
    fn what_compression_saves_counts_as_gathered_until_all_is_written() {
        let compression = Some(Compression::Lz4 { above_bytes: 1000 });
        let sizes = [3000, 96, 1000, 2000];
        let (mut batch, _) = filled_with(&sizes, compression);
        let plain = filled(&sizes).0;
        let packed_headers = 2 * (PACKED_HEADER_BYTES - MESSAGE_HEADER_BYTES);
        assert!(batch.len < 2500 && batch.saved > 3000);
        assert_eq!(batch.len + batch.saved, plain.len + packed_headers);
        assert_eq!(
            batch.slices().count(),
            3,
            "only what is not packed is a slice of its own"
        );
        batch.saved = BATCH_BYTES;
        assert!(!batch.has_room());
        written(&mut batch, || 100);
        assert!(batch.saved == 0 && batch.has_room());
    }

    #[test]
    fn payloads_in_chunks_are_slices_of_their_own_and_small_ones_are_not() {
        let (batch, _) = filled(&[8, 8, 8]);
        assert_eq!(batch.slices().count(), 1);
        let (batch, _) = filled(&[3000, 8, 2000]);
        let lengths: Vec<usize> = batch.slices().map(|slice| slice.len()).collect();
        let header = MESSAGE_HEADER_BYTES;
        let between = 2 * header + 8;
        assert_eq!(lengths, [header, 3000, between, 2000, b"the end".len()]);
    }
}
