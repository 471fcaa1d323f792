//! What is in a file. Where it has an index only that is read, however long the file is.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use mcap::MAGIC;
use mcap::records::{ChunkIndex, Footer, Record, Statistics, op};

use super::audit::Audit;
use super::channel::Channel;
use super::crc::Crc;
use super::format::split_record;
use super::parse::parse;
use super::reader::{BagReader, Definitions, Ending, damaged};
use super::{BagError, LOSSES};
use crate::limits::BAG_DEFINITIONS_BYTES_MAX;

/// What a file has of one channel, or all files of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSummary {
    /// Its number in the first file that has it.
    pub number: u16,
    /// What it is, and whose.
    pub channel: Channel,
    /// Messages in the file.
    pub messages: u64,
    /// Messages that were lost; unknown in files of other programs.
    pub lost: Option<u64>,
}

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Messages in all.
    pub messages: u64,
    /// When the first was recorded, in nanoseconds since 1970.
    pub start_ns: u64,
    /// When the last was.
    pub end_ns: u64,
    /// The channels.
    pub channels: Vec<ChannelSummary>,
    /// Chunks.
    pub chunks: u64,
    /// How they are compressed, if they are.
    pub compression: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// True if it has no end: whoever wrote it was killed, or writes it still.
    pub is_cut: bool,
    /// Parts that are damaged, and the first error. Known only if all of it was read.
    pub damages: Vec<String>,
}

impl Summary {
    /// Reads what is needed of a file of so many bytes: its index, or all of it if it has none or
    /// `is_thorough`.
    ///
    /// # Errors
    /// [`BagError::NotABag`]; what the system says. What is damaged is no error here.
    pub fn read<R: Read + Seek>(
        from: &mut R,
        len: u64,
        is_thorough: bool,
    ) -> Result<Self, BagError> {
        // Refuses what is no recording, also where it ends like one.
        BagReader::new(&mut *from, len)?;
        if !is_thorough && let Some(summary) = Index::read(from, len)? {
            return Ok(summary);
        }
        from.seek(SeekFrom::Start(0)).map_err(BagError::reading)?;
        let reader = match is_thorough {
            true => BagReader::with_audit(BufReader::new(&mut *from), len)?,
            false => BagReader::new(BufReader::new(&mut *from), len)?,
        };
        let (mut summary, audit) = Self::scan(reader, len)?;
        if let Some(audit) = audit {
            let section = Section::read(from, len)?;
            let faults = audit.faults(&section, &summary);
            let texts = faults
                .into_iter()
                .map(|fault| damaged(len, fault, false).to_string());
            summary.damages.extend(texts);
        }
        Ok(summary)
    }

    /// Takes in what another file of the same recording has.
    pub fn add(&mut self, other: Self) {
        if self.messages == 0 {
            (self.start_ns, self.end_ns) = (other.start_ns, other.end_ns);
        } else if other.messages > 0 {
            self.start_ns = self.start_ns.min(other.start_ns);
            self.end_ns = self.end_ns.max(other.end_ns);
        }
        self.messages = self.messages.saturating_add(other.messages);
        self.chunks = self.chunks.saturating_add(other.chunks);
        self.bytes += other.bytes;
        self.is_cut |= other.is_cut;
        self.damages.extend(other.damages);
        if self.compression.is_empty() {
            self.compression = other.compression;
        }
        for found in other.channels {
            let mut known = self.channels.iter_mut();
            match known.find(|known| known.channel == found.channel) {
                None => self.channels.push(found),
                Some(known) => {
                    known.messages = known.messages.saturating_add(found.messages);
                    known.lost = match (known.lost, found.lost) {
                        (Some(here), Some(there)) => Some(here.saturating_add(there)),
                        (here, there) => here.or(there),
                    };
                }
            }
        }
    }

    /// Reads all of it.
    fn scan<R: Read>(
        mut reader: BagReader<R>,
        len: u64,
    ) -> Result<(Self, Option<Audit>), BagError> {
        let mut summary = Self {
            start_ns: u64::MAX,
            bytes: len,
            ..Self::default()
        };
        let mut seen: BTreeMap<u16, Seen> = BTreeMap::new();
        loop {
            match reader.next_message() {
                Ok(Some(message)) => {
                    summary.messages += 1;
                    summary.start_ns = summary.start_ns.min(message.log_ns);
                    summary.end_ns = summary.end_ns.max(message.log_ns);
                    let seen = seen.entry(message.number).or_default();
                    seen.messages += 1;
                    seen.lost += message.lost_before;
                }
                Ok(None) => break,
                Err(error) => {
                    if matches!(error, BagError::Io { .. }) {
                        return Err(error);
                    }
                    if summary.damages.len() < DAMAGES_MAX {
                        summary.damages.push(error.to_string());
                    }
                    if error.is_fatal() {
                        break;
                    }
                }
            }
        }
        summary.is_cut = reader.ending() != Some(Ending::Whole);
        summary.chunks = reader.chunks();
        if summary.messages == 0 {
            summary.start_ns = 0;
        }
        let said = lost_of(reader.losses());
        let of = |(id, channel): (u16, &Channel)| {
            let seen = seen.get(&id).copied().unwrap_or_default();
            let said = said.get(&id).copied();
            ChannelSummary {
                number: id,
                channel: channel.clone(),
                messages: seen.messages,
                // What was said last may be older than the last messages.
                lost: (channel.publisher.is_some()).then(|| seen.lost.max(said.unwrap_or(0))),
            }
        };
        summary.channels = reader.channels().map(of).collect();
        Ok((summary, reader.into_audit()))
    }
}

/// What a channel's messages tell.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    messages: u64,
    lost: u64,
}

/// Losses by channel, as a recording's metadata have them.
pub(super) fn lost_of(entries: &[(String, String)]) -> BTreeMap<u16, u64> {
    let lost = |(id, value): &(String, String)| {
        let value: serde_json::Value = serde_json::from_str(value).ok()?;
        Some((id.parse().ok()?, value.get("lost")?.as_u64()?))
    };
    entries.iter().filter_map(lost).collect()
}

/// The end of a file, as it is read.
#[derive(Default)]
struct Index {
    definitions: Definitions,
    statistics: Option<Statistics>,
    compression: String,
    /// The last metadata record with losses: place and length.
    losses: Option<(u64, u64)>,
}

impl Index {
    /// `None` if there is none, or none that can be used.
    fn read<R: Read + Seek>(from: &mut R, len: u64) -> Result<Option<Summary>, BagError> {
        let Section::Found { bytes, .. } = Section::read(from, len)? else {
            return Ok(None);
        };
        let mut index = Self::default();
        let mut rest = bytes.as_slice();
        while let Some((opcode, body, after)) = split_record(rest) {
            if index.take(opcode, body).is_err() {
                return Ok(None);
            }
            rest = after;
        }
        let Some(statistics) = &index.statistics else {
            return Ok(None);
        };
        let said = match index.losses {
            Some(place) => read_losses(from, len, place)?,
            None => Vec::new(),
        };
        let said = lost_of(&said);
        let of = |(id, channel): (u16, &Channel)| {
            let messages = statistics.channel_message_counts.get(&id).copied();
            ChannelSummary {
                number: id,
                channel: channel.clone(),
                messages: messages.unwrap_or(0),
                lost: said.get(&id).copied(),
            }
        };
        Ok(Some(Summary {
            messages: statistics.message_count,
            start_ns: statistics.message_start_time,
            end_ns: statistics.message_end_time,
            channels: index.definitions.channels().map(of).collect(),
            chunks: u64::from(statistics.chunk_count),
            compression: index.compression,
            bytes: len,
            is_cut: false,
            damages: Vec::new(),
        }))
    }

    fn take(&mut self, opcode: u8, body: &[u8]) -> Result<(), BagError> {
        let wrong = |reason: String| damaged(0, &reason, true);
        if matches!(opcode, op::SCHEMA | op::CHANNEL) {
            return self.definitions.learn(opcode, body).map_err(wrong);
        }
        match parse(opcode, body).map_err(wrong)? {
            Record::Statistics(statistics) => self.statistics = Some(statistics),
            Record::ChunkIndex(ChunkIndex { compression, .. }) => self.compression = compression,
            Record::MetadataIndex(found) if found.name == LOSSES => {
                self.losses = Some((found.offset, found.length));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What is between the data and the footer.
#[derive(Debug)]
pub(super) enum Section {
    /// There is no footer.
    Missing,
    /// The footer says that there is nothing.
    None,
    /// It is not where or what the footer says.
    Spoiled,
    /// As it was written, as far as its checksum tells.
    Found {
        /// Where it begins.
        at: u64,
        bytes: Vec<u8>,
    },
}

impl Section {
    fn read<R: Read + Seek>(from: &mut R, len: u64) -> Result<Self, BagError> {
        let Some(footer_at) = len.checked_sub((FOOTER_BYTES + MAGIC.len()) as u64) else {
            return Ok(Self::Missing);
        };
        let end = read_at(from, footer_at, FOOTER_BYTES + MAGIC.len())?;
        let Some((op::FOOTER, body, MAGIC)) = split_record(&end) else {
            return Ok(Self::Missing);
        };
        let Ok(Record::Footer(footer)) = parse(op::FOOTER, body) else {
            return Ok(Self::Missing);
        };
        let Footer {
            summary_start: at,
            summary_crc,
            ..
        } = footer;
        if at == 0 {
            return Ok(Self::None);
        }
        let section_len = footer_at.checked_sub(at).map(usize::try_from);
        let section_len = section_len.and_then(Result::ok);
        let Some(section_len) = section_len.filter(|len| *len <= BAG_DEFINITIONS_BYTES_MAX) else {
            return Ok(Self::Spoiled);
        };
        let bytes = read_at(from, at, section_len)?;
        let crc = Crc::of(&bytes).and(&end[..FOOTER_BYTES - 4]).value;
        match summary_crc == 0 || crc == summary_crc {
            true => Ok(Self::Found { at, bytes }),
            false => Ok(Self::Spoiled),
        }
    }
}

fn read_losses<R: Read + Seek>(
    from: &mut R,
    len: u64,
    (offset, record_len): (u64, u64),
) -> Result<Vec<(String, String)>, BagError> {
    let is_inside = offset.checked_add(record_len).is_some_and(|end| end <= len);
    let record_len = usize::try_from(record_len).unwrap_or(usize::MAX);
    if !is_inside || record_len > BAG_DEFINITIONS_BYTES_MAX {
        return Ok(Vec::new());
    }
    let bytes = read_at(from, offset, record_len)?;
    let Some((op::METADATA, body, _)) = split_record(&bytes) else {
        return Ok(Vec::new());
    };
    match parse(op::METADATA, body) {
        Ok(Record::Metadata(found)) => Ok(found.metadata.into_iter().collect()),
        _ => Ok(Vec::new()),
    }
}

/// So many bytes from there; they are inside the file.
fn read_at<R: Read + Seek>(from: &mut R, at: u64, len: usize) -> Result<Vec<u8>, BagError> {
    from.seek(SeekFrom::Start(at)).map_err(BagError::reading)?;
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).map_err(BagError::reading)?;
    Ok(bytes)
}

/// A footer record.
const FOOTER_BYTES: usize = 1 + 8 + 8 + 8 + 4;
/// Errors that are kept: more say no more.
pub(super) const DAMAGES_MAX: usize = 100;
