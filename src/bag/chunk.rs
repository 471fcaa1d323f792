//! Messages that are written at once, as one chunk record and the index behind it.
//!
//! The records are written here and not by the `mcap` crate: it compresses with C libraries only,
//! writes a chunk's head before it knows what is in it and comes back to it later, so that a crash
//! leaves a length of 2^64 - 1, and copies each payload. Here a chunk goes out in one call, and a
//! large payload from where it lies.

use std::io::Write as _;

use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use mcap::records::op;

use super::crc::Crc;
use super::format::{self, CHUNK_HEAD_BYTES, MessageHead, RECORD_HEAD_BYTES};

/// How chunks are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ChunkCompression {
    /// Not at all: the fastest.
    #[default]
    None,
    /// With LZ4, which takes about two nanoseconds for a byte.
    Lz4,
}

/// What a chunk has of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) channel: u16,
    pub(super) messages: u64,
    /// Bytes of their payloads.
    pub(super) bytes: u64,
    /// Messages that were lost just before these.
    pub(super) lost: u64,
    /// Where its message index begins, in bytes from the chunk's end.
    pub(super) index_at: u64,
}

/// What the file's index says of a chunk, but for its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChunkInfo {
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) uncompressed_bytes: u64,
    pub(super) compressed_bytes: u64,
    pub(super) compression: ChunkCompression,
    pub(super) shares: Vec<Share>,
    /// Of the chunk record.
    pub(super) chunk_bytes: u64,
    /// Of all message indexes.
    pub(super) index_bytes: u64,
}

impl ChunkCompression {
    /// MCAP's name of it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Lz4 => "lz4",
        }
    }
}

/// A chunk that is complete: three pieces to be written one behind the other.
#[derive(Debug)]
pub(super) struct Sealed<'a> {
    pub(super) head: &'a [u8],
    pub(super) data: &'a [u8],
    pub(super) tail: &'a [u8],
    pub(super) info: ChunkInfo,
    /// Of the three.
    pub(super) crc: Crc,
}

/// Takes messages until there are enough for a chunk. Its buffers are used again.
#[derive(Debug, Default)]
pub(super) struct ChunkBuilder {
    compression: ChunkCompression,
    body: Vec<u8>,
    /// The message index of each channel: times and offsets, as they will be written.
    indexes: Vec<Vec<u8>>,
    /// Bytes of the payloads of each, and messages that were lost.
    sums: Vec<Sums>,
    /// Channels with an index that is not empty.
    used: Vec<u16>,
    bounds: Option<(u64, u64)>,
    head: Vec<u8>,
    packed: Vec<u8>,
    tail: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    bytes: u64,
    lost: u64,
}

impl ChunkBuilder {
    pub(super) fn new(compression: ChunkCompression) -> Self {
        Self {
            compression,
            ..Self::default()
        }
    }

    /// Bytes that it has by now.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// With its index, if it is not compressed.
    pub(super) fn whole_len(&self) -> usize {
        let index = |channel: &u16| INDEX_HEAD_BYTES + self.indexes[usize::from(*channel)].len();
        CHUNK_HEAD_BYTES + self.body.len() + self.used.iter().map(index).sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// When its first message was recorded.
    pub(super) fn start_ns(&self) -> Option<u64> {
        self.bounds.map(|(start_ns, _)| start_ns)
    }

    /// Takes a message.
    #[inline]
    pub(super) fn push(&mut self, head: &MessageHead, lost_before: u64, payload: &[u8]) {
        self.note(head, lost_before, self.body.len() as u64, payload.len());
        head.write(&mut self.body, payload.len());
        self.body.extend_from_slice(payload);
    }

    #[inline]
    fn note(&mut self, head: &MessageHead, lost_before: u64, offset: u64, len: usize) {
        let idx = usize::from(head.channel);
        if self.indexes.len() <= idx {
            self.indexes.resize_with(idx + 1, Vec::new);
            self.sums.resize(idx + 1, Sums::default());
        }
        self.sums[idx].lost += lost_before;
        self.sums[idx].bytes += len as u64;
        let index = &mut self.indexes[idx];
        if index.is_empty() {
            self.used.push(head.channel);
        }
        index.extend_from_slice(&head.log_ns.to_le_bytes());
        index.extend_from_slice(&offset.to_le_bytes());
        let (start_ns, end_ns) = self.bounds.unwrap_or((head.log_ns, head.log_ns));
        self.bounds = Some((start_ns.min(head.log_ns), end_ns.max(head.log_ns)));
    }

    /// Completes the chunk; it can be written until the next message is taken.
    pub(super) fn seal(&mut self) -> std::io::Result<Sealed<'_>> {
        let body_crc = Crc::of(&self.body);
        let len = self.body.len() as u64;
        let info = match self.compression {
            ChunkCompression::None => self.frame(ChunkCompression::None, body_crc, (len, len)),
            ChunkCompression::Lz4 => {
                self.packed.clear();
                let info = FrameInfo::new().block_size(BlockSize::Max256KB);
                let mut encoder = FrameEncoder::with_frame_info(info, &mut self.packed);
                encoder.write_all(&self.body)?;
                encoder.finish()?;
                let packed = self.packed.len() as u64;
                self.frame(ChunkCompression::Lz4, body_crc, (len, packed))
            }
        };
        let (data, data_crc) = match info.compression {
            ChunkCompression::None => (&self.body, body_crc),
            ChunkCompression::Lz4 => (&self.packed, Crc::of(&self.packed)),
        };
        Ok(Sealed {
            head: &self.head,
            data,
            tail: &self.tail,
            info,
            crc: Crc::of(&self.head).then(data_crc).and(&self.tail),
        })
    }

    /// A chunk of one message, whose payload is not copied. The builder must be empty.
    pub(super) fn seal_alone<'a>(
        &'a mut self,
        head: &MessageHead,
        lost_before: u64,
        payload: &'a [u8],
    ) -> Sealed<'a> {
        self.note(head, lost_before, 0, payload.len());
        let mut before = std::mem::take(&mut self.body);
        before.clear();
        head.write(&mut before, payload.len());
        let payload_crc = Crc::of(payload);
        let len = (before.len() + payload.len()) as u64;
        let body_crc = Crc::of(&before).then(payload_crc);
        let info = self.frame(ChunkCompression::None, body_crc, (len, len));
        self.head.extend_from_slice(&before);
        before.clear();
        self.body = before;
        Sealed {
            head: &self.head,
            data: payload,
            tail: &self.tail,
            info,
            crc: Crc::of(&self.head).then(payload_crc).and(&self.tail),
        }
    }

    /// Writes what is before and behind the messages, which are so many bytes, and so many as they
    /// are stored.
    fn frame(
        &mut self,
        compression: ChunkCompression,
        body_crc: Crc,
        (uncompressed_bytes, compressed_bytes): (u64, u64),
    ) -> ChunkInfo {
        let (start_ns, end_ns) = self.bounds.take().unwrap_or_default();
        let name = compression.name();
        let body_bytes = (CHUNK_HEAD_BYTES + name.len()) as u64 + compressed_bytes;
        let out = &mut self.head;
        out.clear();
        format::head(out, op::CHUNK, body_bytes);
        out.extend_from_slice(&start_ns.to_le_bytes());
        out.extend_from_slice(&end_ns.to_le_bytes());
        out.extend_from_slice(&uncompressed_bytes.to_le_bytes());
        out.extend_from_slice(&body_crc.value.to_le_bytes());
        format::text(out, name);
        out.extend_from_slice(&compressed_bytes.to_le_bytes());

        self.tail.clear();
        let mut shares = Vec::with_capacity(self.used.len());
        for channel in self.used.drain(..) {
            let index = &mut self.indexes[usize::from(channel)];
            let Sums { bytes, lost } = std::mem::take(&mut self.sums[usize::from(channel)]);
            shares.push(Share {
                channel,
                messages: index.len() as u64 / INDEX_ENTRY_BYTES,
                bytes,
                lost,
                index_at: self.tail.len() as u64,
            });
            format::record(&mut self.tail, op::MESSAGE_INDEX, |out| {
                out.extend_from_slice(&channel.to_le_bytes());
                format::map(out, |out| out.append(index));
            });
        }
        ChunkInfo {
            start_ns,
            end_ns,
            uncompressed_bytes,
            compressed_bytes,
            compression,
            shares,
            chunk_bytes: RECORD_HEAD_BYTES as u64 + body_bytes,
            index_bytes: self.tail.len() as u64,
        }
    }

    /// Forgets the messages that were sealed. Memory for more than `keep_bytes` is given back.
    pub(super) fn clear(&mut self, keep_bytes: usize) {
        for buffer in [&mut self.body, &mut self.packed] {
            buffer.clear();
            if buffer.capacity() > 2 * keep_bytes {
                buffer.shrink_to(keep_bytes);
            }
        }
    }
}

/// What is before the entries of a message index: kind, length, channel, length.
const INDEX_HEAD_BYTES: usize = RECORD_HEAD_BYTES + 2 + 4;
/// A time and an offset.
const INDEX_ENTRY_BYTES: u64 = 8 + 8;
