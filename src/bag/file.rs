//! One file: chunks one behind the other, and at the end the summary that makes it quick to open.
//!
//! After each call the file is whole but for its summary: what could be written in part only is cut
//! off again. So a process that is killed leaves all chunks that were written, and a full disk a
//! file with a summary: chunks at the end make room for it, and are lost messages.

use std::fs::File;
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;

use mcap::records::op;

use super::LOSSES;
use super::channel::Channel;
use super::chunk::{ChunkInfo, Sealed};
use super::crc::Crc;
use super::format::{self, ChannelRecord};
use crate::limits::{BAG_CHUNKS_PER_FILE_MAX, NODE_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX};

/// Where a recording is written to.
pub trait Storage {
    /// Appends these pieces.
    ///
    /// # Errors
    /// What the system says; some of it may have been appended then.
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()>;
    /// Takes away what is behind `len` bytes.
    ///
    /// # Errors
    /// What the system says.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// True if what is written here will be found by nobody.
    fn is_gone(&self) -> bool {
        false
    }
}

impl Storage for File {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let count = pieces.len().min(PIECES_MAX);
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
        }
        let mut left = &mut slices[..count];
        // Pieces of nothing would be taken for the end of the file.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(|_| ())
    }

    fn is_gone(&self) -> bool {
        self.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

impl Storage for Vec<u8> {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        pieces
            .iter()
            .for_each(|piece| self.extend_from_slice(piece));
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation)] // no longer than it is
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.truncate(len as usize);
        Ok(())
    }
}

/// A chunk of the file.
#[derive(Debug)]
struct Chunk {
    info: ChunkInfo,
    offset: u64,
    /// Of the file before the chunk and the definitions that were written with it.
    crc_before: Crc,
    len_before: u64,
}

/// What a file has of a channel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FileCount {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
}

/// What came of ending a file.
#[derive(Debug)]
pub(super) struct Finished<S> {
    pub(super) storage: io::Result<S>,
    /// Bytes of all of it.
    pub(super) len: u64,
    /// Chunks that made room for the summary.
    pub(super) dropped: Vec<ChunkInfo>,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct BagFile<S> {
    storage: S,
    /// Bytes that are whole.
    len: u64,
    /// Of all that was written.
    crc: Crc,
    schemas: Definitions,
    channels: Definitions,
    chunks: Vec<Chunk>,
    /// Channels of all chunks together.
    share_count: usize,
    /// Of each channel.
    counts: Vec<FileCount>,
    /// Name and place of each metadata record.
    metadata: Vec<(&'static str, (u64, u64))>,
    /// Definitions that go before the next chunk.
    pending: Vec<u8>,
}

/// What the messages need to be understood: written once, and again in the summary.
#[derive(Debug, Default)]
struct Definitions {
    known: Vec<bool>,
    records: Vec<u8>,
    count: u32,
}

impl Definitions {
    /// True if it was not known.
    fn learn(&mut self, id: u16) -> bool {
        let idx = usize::from(id);
        if self.known.len() <= idx {
            self.known.resize(idx + 1, false);
        }
        let is_new = !std::mem::replace(&mut self.known[idx], true);
        self.count += u32::from(is_new);
        is_new
    }
}

impl<S: Storage> BagFile<S> {
    /// Begins a file.
    pub(super) fn new(mut storage: S) -> io::Result<Self> {
        let mut bytes = Vec::new();
        format::header(&mut bytes);
        storage.append(&[&bytes])?;
        Ok(Self {
            storage,
            len: bytes.len() as u64,
            crc: Crc::of(&bytes),
            schemas: Definitions::default(),
            channels: Definitions::default(),
            chunks: Vec::new(),
            share_count: 0,
            counts: Vec::new(),
            metadata: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// Bytes that were written.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What the summary will have, and the record of losses; more rather than less.
    pub(super) fn summary_bytes(&self) -> u64 {
        let definitions = self.schemas.records.len() + self.channels.records.len();
        let chunks = CHUNK_INDEX_BYTES_MAX * self.chunks.len() + SHARE_BYTES * self.share_count;
        let channels = CHANNEL_BYTES_MAX * self.counts.len();
        (FRAME_BYTES_MAX + definitions + self.pending.len() + chunks + channels) as u64
    }

    pub(super) fn is_gone(&self) -> bool {
        self.storage.is_gone()
    }

    /// True if its index has no room for more: another file must be begun.
    pub(super) fn is_full(&self) -> bool {
        self.chunks.len() >= BAG_CHUNKS_PER_FILE_MAX
    }

    /// Says what a channel is, unless the file says so already. Schemas are numbered from 1.
    pub(super) fn define(&mut self, id: u16, channel: &Channel, schema_id: u16) {
        if !self.channels.learn(id) {
            return;
        }
        if let Some(schema) = &channel.schema
            && self.schemas.learn(schema_id)
        {
            let start = self.pending.len();
            let out = &mut self.pending;
            format::schema(out, schema_id, &schema.name, &schema.encoding, &schema.data);
            self.schemas.records.extend_from_slice(&out[start..]);
        }
        let start = self.pending.len();
        let record = ChannelRecord {
            id,
            schema: schema_id,
            topic: &channel.topic,
            encoding: channel.message_encoding(),
        };
        let metadata = channel.metadata();
        let texts = metadata.iter().map(|(key, value)| (*key, value.as_str()));
        format::channel(&mut self.pending, &record, texts);
        self.channels
            .records
            .extend_from_slice(&self.pending[start..]);
    }

    /// Appends a chunk, whose channels are defined.
    pub(super) fn write_chunk(&mut self, chunk: &Sealed<'_>) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let (crc_before, len_before) = (self.crc, self.len);
        let crc = Crc::of(&pending).then(chunk.crc);
        let written = self.append(&[&pending, chunk.head, chunk.data, chunk.tail], crc);
        self.pending = pending;
        let offset = written? + self.pending.len() as u64;
        self.pending.clear();
        for share in &chunk.info.shares {
            let count = self.count(share.channel);
            count.messages += share.messages;
            count.bytes += share.bytes;
            count.lost += share.lost;
        }
        self.share_count += chunk.info.shares.len();
        self.chunks.push(Chunk {
            info: chunk.info.clone(),
            offset,
            crc_before,
            len_before,
        });
        Ok(())
    }

    fn count(&mut self, channel: u16) -> &mut FileCount {
        let idx = usize::from(channel);
        if self.counts.len() <= idx {
            self.counts.resize(idx + 1, FileCount::default());
        }
        &mut self.counts[idx]
    }

    /// Takes note of messages that will not be in the file. Their channel is defined.
    pub(super) fn note_lost(&mut self, channel: u16, messages: u64) {
        let lost = &mut self.count(channel).lost;
        *lost = lost.saturating_add(messages);
    }

    /// Channels with messages here, or lost ones.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u16, FileCount)> {
        let numbered = (0..=u16::MAX).zip(self.counts.iter().copied());
        numbered.filter(|(_, count)| count.messages + count.lost > 0)
    }

    /// Appends texts under a name.
    pub(super) fn write_metadata(
        &mut self,
        name: &'static str,
        entries: &[(String, String)],
    ) -> io::Result<()> {
        let mut record = Vec::new();
        let entries = entries
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        format::metadata(&mut record, name, entries);
        let offset = self.append(&[&record], Crc::of(&record))?;
        self.metadata.push((name, (offset, record.len() as u64)));
        Ok(())
    }

    /// Appends all of it, which has that checksum, or nothing; where it begins.
    fn append(&mut self, pieces: &[&[u8]], crc: Crc) -> io::Result<u64> {
        let offset = self.len;
        if let Err(error) = self.storage.append(pieces) {
            // Else the rubble is at the end, where readers expect it of a recording cut off.
            let _ = self.storage.cut(offset);
            return Err(error);
        }
        self.len += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.crc = self.crc.then(crc);
        Ok(offset)
    }

    /// Writes what `losses` says and the summary. Chunks at the end give way if there is no room.
    pub(super) fn finish(mut self, losses: impl Fn(&Self) -> Vec<(String, String)>) -> Finished<S> {
        let mut dropped = Vec::new();
        let ended = loop {
            let end = self.end(Some(&losses(&self)));
            let Err(error) = self.append(&[&end], Crc::default()) else {
                break Ok(());
            };
            if !matches!(
                super::BagError::writing(copy(&error)),
                super::BagError::Full
            ) {
                break Err(error);
            }
            let Some(last) = self.chunks.pop() else {
                // There may be room for a summary of nothing.
                self.pending.clear();
                let end = self.end(None);
                let ended = self.append(&[&end], Crc::default());
                break ended.map(drop);
            };
            if let Err(error) = self.storage.cut(last.len_before) {
                break Err(error);
            }
            (self.len, self.crc) = (last.len_before, last.crc_before);
            self.metadata
                .retain(|(_, (offset, _))| *offset < last.len_before);
            // What described its channels may have gone with it.
            self.pending = [&*self.schemas.records, &self.channels.records].concat();
            for share in &last.info.shares {
                let count = self.count(share.channel);
                count.messages -= share.messages;
                count.bytes -= share.bytes;
                count.lost = count.lost.saturating_add(share.messages);
            }
            dropped.push(last.info);
        };
        Finished {
            storage: ended.map(|()| self.storage),
            len: self.len,
            dropped,
        }
    }

    /// The end of the data and all that is behind it.
    fn end(&self, losses: Option<&[(String, String)]>) -> Vec<u8> {
        let mut out = self.pending.clone();
        let mut metadata = self.metadata.clone();
        if let Some(losses) = losses {
            let at = out.len();
            let losses = losses.iter();
            let texts = losses.map(|(key, value)| (key.as_str(), value.as_str()));
            format::metadata(&mut out, LOSSES, texts);
            let place = (self.len + at as u64, (out.len() - at) as u64);
            metadata.push((LOSSES, place));
        }
        let crc = self.crc.and(&out).value;
        format::record(&mut out, op::DATA_END, |out| {
            out.extend_from_slice(&crc.to_le_bytes());
        });
        let start = out.len();
        let mut groups: Vec<(u8, usize, usize)> = Vec::new();
        let mut group = |out: &mut Vec<u8>, opcode: u8, write: &dyn Fn(&mut Vec<u8>)| {
            let from = out.len();
            write(out);
            if out.len() > from {
                groups.push((opcode, from, out.len() - from));
            }
        };
        group(&mut out, op::SCHEMA, &|out| {
            out.extend_from_slice(&self.schemas.records)
        });
        group(&mut out, op::CHANNEL, &|out| {
            out.extend_from_slice(&self.channels.records)
        });
        group(&mut out, op::STATISTICS, &|out| {
            self.statistics(out, metadata.len());
        });
        group(&mut out, op::CHUNK_INDEX, &|out| {
            self.chunks.iter().for_each(|chunk| chunk_index(out, chunk));
        });
        group(&mut out, op::METADATA_INDEX, &|out| {
            for (name, place) in &metadata {
                format::metadata_index(out, name, *place);
            }
        });
        let offsets_start = out.len();
        for (opcode, from, len) in groups {
            format::record(&mut out, op::SUMMARY_OFFSET, |out| {
                out.push(opcode);
                out.extend_from_slice(&(self.len + from as u64).to_le_bytes());
                out.extend_from_slice(&(len as u64).to_le_bytes());
            });
        }
        format::head(&mut out, op::FOOTER, 8 + 8 + 4);
        out.extend_from_slice(&(self.len + start as u64).to_le_bytes());
        out.extend_from_slice(&(self.len + offsets_start as u64).to_le_bytes());
        let crc = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(mcap::MAGIC);
        out
    }

    fn statistics(&self, out: &mut Vec<u8>, metadata_count: usize) {
        let start_ns = self.chunks.iter().map(|chunk| chunk.info.start_ns).min();
        let end_ns = self.chunks.iter().map(|chunk| chunk.info.end_ns).max();
        #[allow(clippy::cast_possible_truncation)] // bounded by the limits
        format::record(out, op::STATISTICS, |out| {
            let messages = self.counts().map(|(_, count)| count.messages).sum::<u64>();
            out.extend_from_slice(&messages.to_le_bytes());
            out.extend_from_slice(&(self.schemas.count as u16).to_le_bytes());
            out.extend_from_slice(&self.channels.count.to_le_bytes());
            out.extend_from_slice(&0_u32.to_le_bytes());
            out.extend_from_slice(&(metadata_count as u32).to_le_bytes());
            out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
            out.extend_from_slice(&start_ns.unwrap_or(0).to_le_bytes());
            out.extend_from_slice(&end_ns.unwrap_or(0).to_le_bytes());
            format::map(out, |out| {
                for (channel, count) in self.counts() {
                    out.extend_from_slice(&channel.to_le_bytes());
                    out.extend_from_slice(&count.messages.to_le_bytes());
                }
            });
        });
    }
}

fn chunk_index(out: &mut Vec<u8>, chunk: &Chunk) {
    let info = &chunk.info;
    let chunk_end = chunk.offset + info.chunk_bytes;
    format::record(out, op::CHUNK_INDEX, |out| {
        for number in [info.start_ns, info.end_ns, chunk.offset, info.chunk_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        format::map(out, |out| {
            for share in &info.shares {
                out.extend_from_slice(&share.channel.to_le_bytes());
                out.extend_from_slice(&(chunk_end + share.index_at).to_le_bytes());
            }
        });
        out.extend_from_slice(&info.index_bytes.to_le_bytes());
        format::text(out, info.compression.name());
        out.extend_from_slice(&info.compressed_bytes.to_le_bytes());
        out.extend_from_slice(&info.uncompressed_bytes.to_le_bytes());
    });
}

/// The same error, for another look at it.
fn copy(error: &io::Error) -> io::Error {
    error.kind().into()
}

/// Of the summary: what it has in any case.
const FRAME_BYTES_MAX: usize = 400;
/// For each chunk.
const CHUNK_INDEX_BYTES_MAX: usize = 100;
/// For each channel of a chunk.
const SHARE_BYTES: usize = 2 + 8;
/// For each channel: its number of messages, and what is said of its losses.
const CHANNEL_BYTES_MAX: usize = 2 + 8 + 100 + TOPIC_NAME_BYTES_MAX + NODE_NAME_BYTES_MAX;
/// What is appended at once, at most: definitions, and the three pieces of a chunk.
const PIECES_MAX: usize = 4;
