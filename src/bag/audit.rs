//! Is all of a file as it was written: its checksums, and what its index says of it?

use mcap::records::{Record, op};

use super::crc::Crc;
use super::format::{self, RECORD_HEAD_BYTES, split_record};
use super::parse::parse;
use super::summary::{Section, Summary};

/// What was seen of a file that is read to its end.
#[derive(Debug)]
pub(super) struct Audit {
    /// Of the data up to here.
    crc: Crc,
    /// Chunks, in their order.
    chunks: Vec<Place>,
    /// Where the data end.
    end: Option<u64>,
}

/// What an index says of a chunk, but for its message indexes, which the checksum is of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    offset: u64,
    len: u64,
    start_ns: u64,
    end_ns: u64,
    compressed_bytes: u64,
    uncompressed_bytes: u64,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self {
            crc: Crc::of(mcap::MAGIC),
            chunks: Vec::new(),
            end: None,
        }
    }

    /// Looks at a record that begins there.
    ///
    /// # Errors
    /// What is wrong, at the end of the data.
    pub(super) fn see(&mut self, offset: u64, opcode: u8, body: &[u8]) -> Result<(), &'static str> {
        let len = (RECORD_HEAD_BYTES + body.len()) as u64;
        if opcode == op::DATA_END {
            self.end = Some(offset + len);
            let said = body
                .first_chunk()
                .map_or(0, |said| u32::from_le_bytes(*said));
            return match said == 0 || said == self.crc.value {
                true => Ok(()),
                false => Err("the checksum of all data is wrong"),
            };
        }
        let mut head = Vec::with_capacity(RECORD_HEAD_BYTES);
        format::head(&mut head, opcode, body.len() as u64);
        self.crc = self.crc.and(&head).and(body);
        if opcode == op::CHUNK
            && let Ok(Record::Chunk { header, .. }) = parse(opcode, body)
        {
            self.chunks.push(Place {
                offset,
                len,
                start_ns: header.message_start_time,
                end_ns: header.message_end_time,
                compressed_bytes: header.compressed_size,
                uncompressed_bytes: header.uncompressed_size,
            });
        }
        Ok(())
    }

    /// What is wrong behind the data, which have what the summary says.
    pub(super) fn faults(&self, section: &Section, summary: &Summary) -> Vec<&'static str> {
        let mut faults = Vec::new();
        let mut fault = |text| {
            if !faults.contains(&text) {
                faults.push(text);
            }
        };
        match section {
            // Whoever was killed wrote no end of the data, and nothing behind it.
            Section::Missing if summary.is_cut => {}
            Section::Missing => fault("it does not end as a recording does"),
            _ if self.end.is_none() => fault("the end of its data is missing"),
            Section::None => {}
            Section::Spoiled => fault("the checksum or the place of its index is wrong"),
            Section::Found { at, .. } if self.end != Some(*at) => {
                fault("its index is not where its data end");
            }
            Section::Found { bytes, .. } => self.compare(bytes, summary, &mut fault),
        }
        faults
    }

    fn compare(&self, index: &[u8], summary: &Summary, fault: &mut impl FnMut(&'static str)) {
        let mut rest = index;
        let mut chunks = 0;
        while let Some((opcode, body, after)) = split_record(rest) {
            rest = after;
            match parse(opcode, body) {
                Ok(Record::ChunkIndex(said)) => {
                    chunks += 1;
                    let said = Place {
                        offset: said.chunk_start_offset,
                        len: said.chunk_length,
                        start_ns: said.message_start_time,
                        end_ns: said.message_end_time,
                        compressed_bytes: said.compressed_size,
                        uncompressed_bytes: said.uncompressed_size,
                    };
                    let found = self
                        .chunks
                        .binary_search_by_key(&said.offset, |seen| seen.offset);
                    if found.ok().and_then(|idx| self.chunks.get(idx)) != Some(&said) {
                        fault("its index is of other chunks");
                    }
                }
                // What is damaged has fewer messages than it had.
                Ok(Record::Statistics(said)) if summary.damages.is_empty() => {
                    let times = (said.message_start_time, said.message_end_time);
                    let counted = |number| said.channel_message_counts.get(&number).copied();
                    let mut channels = summary.channels.iter();
                    let is_right = said.message_count == summary.messages
                        && times == (summary.start_ns, summary.end_ns)
                        && u64::from(said.chunk_count) == summary.chunks
                        && channels
                            .all(|found| counted(found.number).unwrap_or(0) == found.messages);
                    if !is_right {
                        fault("its statistics are of other messages");
                    }
                }
                Ok(_) => {}
                Err(_) => fault("its index cannot be read"),
            }
        }
        if chunks > 0 && chunks != self.chunks.len() {
            fault("its index is of other chunks");
        }
    }
}
