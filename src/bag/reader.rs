//! The messages of a file, from its beginning: of any MCAP tool, whole or cut off.
//!
//! The `mcap` crate finds the records. What is inside a chunk is found here, after its checksum was
//! compared: the crate's own way subtracts an unchecked length, and gives messages out before it
//! has seen the checksum, when they would have been sent already.

use std::io::Read;

use lz4_flex::frame::FrameDecoder;
use mcap::McapError;
use mcap::records::{ChunkHeader, Record, op};
use mcap::sans_io::{LinearReadEvent, LinearReader, LinearReaderOptions};

use super::audit::Audit;
use super::channel::{Channel, SchemaRecord};
use super::format::{MessageHead, RECORD_HEAD_BYTES, split_record};
use super::parse::parse;
use super::{BagError, LOSSES};
use crate::limits::{BAG_CHANNELS_MAX, BAG_DEFINITIONS_BYTES_MAX, BAG_RECORD_BYTES_MAX};

/// A message of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// The number of its channel in the file.
    pub number: u16,
    /// What it is, and whose.
    pub channel: &'a Channel,
    /// The number its publisher gave it, or what is left of it in 32 bits.
    pub sequence: u32,
    /// When it was recorded, in nanoseconds since 1970.
    pub log_ns: u64,
    /// When it was sent, by the same clock.
    pub publish_ns: u64,
    /// Messages of its publisher that are missing before it, as its sequence tells; 0 for the
    /// first, and in files of other programs.
    pub lost_before: u64,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Whole,
    /// It was cut off: whoever wrote it was killed, or writes it still. All before is there.
    Cut,
}

/// Reads the messages of a file in the order they were written.
pub struct BagReader<R> {
    from: R,
    /// Bytes of the file that were not read yet: nothing longer is believed.
    left: u64,
    taken: u64,
    /// Where the record at hand begins.
    record_at: u64,
    linear: LinearReader,
    /// Messages of the chunk at hand.
    body: Vec<u8>,
    at: usize,
    definitions: Definitions,
    /// The sequence that would be next, of each channel.
    next: Vec<Option<u32>>,
    losses: Vec<(String, String)>,
    chunks: u64,
    ending: Option<Ending>,
    /// Where all is to be looked at, not the messages alone.
    audit: Option<Audit>,
}

/// What a file said of its channels.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    schemas: Vec<Option<SchemaRecord>>,
    channels: Vec<Option<Channel>>,
    bytes: usize,
}

impl Definitions {
    /// Takes note of a schema or a channel.
    pub(super) fn learn(&mut self, opcode: u8, body: &[u8]) -> Result<(), String> {
        let record = parse(opcode, body)?;
        let id = match &record {
            Record::Schema { header, .. } => header.id,
            Record::Channel(channel) => channel.id,
            _ => return Ok(()),
        };
        let known = match &record {
            Record::Schema { .. } => slot(&mut self.schemas, id).is_some(),
            _ => slot(&mut self.channels, id).is_some(),
        };
        // The same again, as it must be.
        if known {
            return Ok(());
        }
        // A channel has its own copy of its schema.
        let schema_bytes = match &record {
            Record::Channel(channel) => {
                let schema = slot(&mut self.schemas, channel.schema_id).as_ref();
                schema.map_or(0, |schema| schema.data.len())
            }
            _ => 0,
        };
        self.bytes += body.len() + schema_bytes;
        if self.bytes > BAG_DEFINITIONS_BYTES_MAX {
            return Err(format!(
                "more than {BAG_DEFINITIONS_BYTES_MAX} bytes of descriptions"
            ));
        }
        match record {
            Record::Schema { header, data } => {
                *slot(&mut self.schemas, id) = Some(SchemaRecord {
                    name: header.name,
                    encoding: header.encoding,
                    data: data.into_owned(),
                });
            }
            Record::Channel(channel) => {
                let schema = slot(&mut self.schemas, channel.schema_id).as_ref();
                let channel = Channel::from_mcap(channel, schema);
                *slot(&mut self.channels, id) = Some(channel);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn channel(&self, id: u16) -> Option<&Channel> {
        self.channels.get(usize::from(id))?.as_ref()
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = (u16, &Channel)> {
        let numbered = (0_u16..=u16::MAX).zip(&self.channels);
        numbered.filter_map(|(id, channel)| Some((id, channel.as_ref()?)))
    }
}

pub(super) fn slot<T>(all: &mut Vec<Option<T>>, id: u16) -> &mut Option<T> {
    let idx = usize::from(id);
    if all.len() <= idx {
        all.resize_with(idx + 1, || None);
    }
    &mut all[idx]
}

/// Numbers between the one that was expected and this one.
pub(super) fn gap(next: &mut Option<u32>, sequence: u32) -> u64 {
    let gap = next.map_or(0, |next| sequence.wrapping_sub(next));
    *next = Some(sequence.wrapping_add(1));
    // Half of all numbers: behind, not ahead.
    if gap < 1 << 31 { u64::from(gap) } else { 0 }
}

/// A record that is not inside a chunk.
enum Found {
    /// Its messages are in `body`.
    Messages,
    Other,
    End,
}

impl<R: Read> BagReader<R> {
    /// Reads from the beginning of a file of so many bytes.
    ///
    /// # Errors
    /// [`BagError::NotABag`]; what the system says.
    pub fn new(mut from: R, len: u64) -> Result<Self, BagError> {
        let mut magic = [0; mcap::MAGIC.len()];
        if len < magic.len() as u64 {
            return Err(BagError::NotABag);
        }
        from.read_exact(&mut magic).map_err(BagError::reading)?;
        if magic != mcap::MAGIC {
            return Err(BagError::NotABag);
        }
        let options = LinearReaderOptions::default()
            .with_skip_start_magic(true)
            .with_skip_end_magic(true)
            .with_emit_chunks(true)
            .with_record_length_limit(BAG_RECORD_BYTES_MAX);
        Ok(Self {
            from,
            left: len - magic.len() as u64,
            taken: magic.len() as u64,
            record_at: 0,
            linear: LinearReader::new_with_options(options),
            body: Vec::new(),
            at: 0,
            definitions: Definitions::default(),
            next: Vec::new(),
            losses: Vec::new(),
            chunks: 0,
            ending: None,
            audit: None,
        })
    }

    /// The same, and looks at all that is there.
    pub(super) fn with_audit(from: R, len: u64) -> Result<Self, BagError> {
        let audit = Some(Audit::new());
        Ok(Self {
            audit,
            ..Self::new(from, len)?
        })
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// [`BagError::Damaged`] for what is not as it was written; unless it is fatal the next call
    /// goes on behind it. [`BagError::Compression`], likewise. What the system says.
    pub fn next_message(&mut self) -> Result<Option<Recorded<'_>>, BagError> {
        loop {
            if let Some((at, head, len)) = self.next_in_chunk()? {
                let damaged = self.damaged("a message of a channel that was not described");
                let channel = self.definitions.channel(head.channel).ok_or(damaged)?;
                let lost_before = match channel.publisher {
                    Some(_) => gap(slot(&mut self.next, head.channel), head.sequence),
                    None => 0,
                };
                return Ok(Some(Recorded {
                    number: head.channel,
                    channel,
                    sequence: head.sequence,
                    log_ns: head.log_ns,
                    publish_ns: head.publish_ns,
                    lost_before,
                    payload: &self.body[at..at + len],
                }));
            }
            if self.ending.is_some() {
                return Ok(None);
            }
            if let Found::End = self.next_record()? {
                return Ok(None);
            }
        }
    }

    /// Of the chunk at hand: where the next message's payload is, its head and length.
    fn next_in_chunk(&mut self) -> Result<Option<(usize, MessageHead, usize)>, BagError> {
        while self.at < self.body.len() {
            let rest = &self.body[self.at..];
            let Some((opcode, body, after)) = split_record(rest) else {
                self.at = self.body.len();
                return Err(self.damaged("a chunk ends inside a record"));
            };
            let body_at = self.body.len() - after.len() - body.len();
            let learned = match opcode {
                op::MESSAGE => match MessageHead::read(body) {
                    Some((head, payload)) => {
                        let at = body_at + body.len() - payload.len();
                        let len = payload.len();
                        self.at = at + len;
                        return Ok(Some((at, head, len)));
                    }
                    None => Err("a message without its times".into()),
                },
                op::SCHEMA | op::CHANNEL => self.definitions.learn(opcode, body),
                _ => Ok(()),
            };
            self.at = body_at + body.len();
            learned.map_err(|reason| self.damaged(&reason))?;
        }
        Ok(None)
    }

    /// The next record outside of chunks.
    fn next_record(&mut self) -> Result<Found, BagError> {
        loop {
            let event = match self.linear.next_event() {
                None => return Ok(self.end(Ending::Whole)),
                Some(Err(McapError::UnexpectedEof)) => return Ok(self.end(Ending::Cut)),
                Some(Err(error)) => {
                    self.end(Ending::Cut);
                    return Err(damaged(self.taken, &error.to_string(), true));
                }
                Some(Ok(event)) => event,
            };
            match event {
                LinearReadEvent::ReadRequest(want) => {
                    // What is longer than the file is its end, and not to be reserved.
                    if want as u64 > self.left {
                        return Ok(self.end(Ending::Cut));
                    }
                    let into = &mut self.linear.insert(want)[..want];
                    if let Err(error) = self.from.read_exact(into) {
                        self.end(Ending::Cut);
                        return Err(BagError::reading(error));
                    }
                    self.linear.notify_read(want);
                    self.left -= want as u64;
                    self.taken += want as u64;
                }
                LinearReadEvent::Record { opcode, data } => {
                    let start = self.taken - (RECORD_HEAD_BYTES + data.len()) as u64;
                    self.record_at = start;
                    self.body.clear();
                    self.at = 0;
                    let audited = match &mut self.audit {
                        Some(audit) => audit.see(start, opcode, data),
                        None => Ok(()),
                    };
                    let outcome = match opcode {
                        op::CHUNK => {
                            self.chunks += 1;
                            let unpacked = unpack(data, &mut self.body);
                            unpacked.map(|()| Found::Messages)
                        }
                        op::MESSAGE | op::SCHEMA | op::CHANNEL => {
                            super::format::head(&mut self.body, opcode, data.len() as u64);
                            self.body.extend_from_slice(data);
                            Ok(Found::Messages)
                        }
                        op::METADATA => note_losses(data, &mut self.losses).map(|()| Found::Other),
                        // Behind it there is nothing that was not said before.
                        op::DATA_END => {
                            let end = self.end(Ending::Whole);
                            let wrong = |reason| damaged(start, reason, false);
                            return audited.map_err(wrong).map(|()| end);
                        }
                        _ => Ok(Found::Other),
                    };
                    return outcome.map_err(|spoiled| {
                        self.body.clear();
                        spoiled.into_error(start)
                    });
                }
            }
        }
    }

    fn end(&mut self, ending: Ending) -> Found {
        self.ending = Some(ending);
        Found::End
    }

    fn damaged(&self, reason: &str) -> BagError {
        damaged(self.record_at, reason, false)
    }

    /// How the file ends; `None` before all was read.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Chunks that were read.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Channels that were described by now, with their numbers.
    pub fn channels(&self) -> impl Iterator<Item = (u16, &Channel)> {
        self.definitions.channels()
    }

    /// What was seen by the way.
    pub(super) fn into_audit(self) -> Option<Audit> {
        self.audit
    }

    /// What was said last of losses: numbers of channels, and JSON.
    pub(super) fn losses(&self) -> &[(String, String)] {
        &self.losses
    }
}

impl<R> std::fmt::Debug for BagReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BagReader")
            .field("taken", &self.taken)
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

/// Why a record is of no use.
enum Spoiled {
    Damaged(String),
    Compression(String),
}

impl Spoiled {
    fn into_error(self, at: u64) -> BagError {
        match self {
            Self::Damaged(reason) => damaged(at, &reason, false),
            Self::Compression(name) => BagError::Compression(crate::name::escaped(&name)),
        }
    }
}

pub(super) fn damaged(at: u64, reason: &str, is_fatal: bool) -> BagError {
    BagError::Damaged {
        at,
        reason: crate::name::escaped(reason),
        is_fatal,
    }
}

/// The records of a chunk, checked.
fn unpack(data: &[u8], body: &mut Vec<u8>) -> Result<(), Spoiled> {
    let spoiled = |reason: &str| Spoiled::Damaged(reason.to_owned());
    let parsed = parse(op::CHUNK, data).map_err(Spoiled::Damaged)?;
    let Record::Chunk { header, data } = parsed else {
        return Err(spoiled("a chunk that is none"));
    };
    match header.compression.as_str() {
        "" => body.extend_from_slice(&data),
        "lz4" => inflate(&header, &data, body)?,
        other => return Err(Spoiled::Compression(other.to_owned())),
    }
    if body.len() as u64 != header.uncompressed_size {
        return Err(spoiled("a chunk of another length than it says"));
    }
    if header.uncompressed_crc != 0 && crc32fast::hash(body) != header.uncompressed_crc {
        return Err(spoiled("the checksum of a chunk is wrong"));
    }
    Ok(())
}

fn inflate(header: &ChunkHeader, data: &[u8], body: &mut Vec<u8>) -> Result<(), Spoiled> {
    // What a chunk says of its length is believed as far as the limit only, and memory grows with
    // what really comes.
    let max = header.uncompressed_size.min(BAG_RECORD_BYTES_MAX as u64);
    let read = FrameDecoder::new(data).take(max + 1).read_to_end(body);
    read.map(|_| ())
        .map_err(|error| Spoiled::Damaged(format!("a chunk cannot be uncompressed: {error}")))
}

/// What is said of losses replaces what was said before.
fn note_losses(data: &[u8], losses: &mut Vec<(String, String)>) -> Result<(), Spoiled> {
    let parsed = parse(op::METADATA, data).map_err(Spoiled::Damaged)?;
    if let Record::Metadata(metadata) = parsed
        && metadata.name == LOSSES
        && metadata.metadata.len() <= BAG_CHANNELS_MAX
    {
        *losses = metadata.metadata.into_iter().collect();
    }
    Ok(())
}
