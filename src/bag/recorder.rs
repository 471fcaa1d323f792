//! Which message goes into which file. Messages in, files out; no clock and no subscription here.

use std::collections::HashMap;
use std::io;

use super::channel::Channel;
use super::chunk::{ChunkBuilder, ChunkCompression, Sealed, Share};
use super::file::{BagFile, FileCount, Finished, Storage};
use super::format::MessageHead;
use super::ring::Ring;
use super::{BagError, LOSSES};
use crate::id::NodeId;
use crate::limits::{
    BAG_ALONE_BYTES, BAG_CHANNELS_MAX, BAG_CHUNK_BYTES_DEFAULT, BAG_CHUNK_BYTES_MAX,
    BAG_CHUNK_MS_MAX, BAG_LAST_BYTES_DEFAULT,
};

/// When another file is begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// When one would have more bytes. A single message may be larger.
    pub bytes: Option<u64>,
    /// When one would have messages of a longer time, in nanoseconds.
    pub ns: Option<u64>,
}

/// How a recording is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Compresses chunks.
    pub is_compressed: bool,
    /// Bytes that are written at once.
    pub chunk_bytes: usize,
    /// When another file is begun.
    pub split: Split,
    /// Keeps the messages of so many nanoseconds in memory, and writes them when told.
    pub last_ns: Option<u64>,
    /// In so much memory.
    pub last_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            is_compressed: false,
            chunk_bytes: BAG_CHUNK_BYTES_DEFAULT,
            split: Split::default(),
            last_ns: None,
            last_bytes_max: BAG_LAST_BYTES_DEFAULT,
        }
    }
}

/// Where the files of a recording come from.
pub trait Target {
    /// What a file is written to.
    type Storage: Storage;
    /// Makes an empty file: number 0 is the first of the recording.
    ///
    /// # Errors
    /// What the system says.
    fn open(&mut self, number: u32) -> io::Result<Self::Storage>;
    /// Takes back the file that was made last, for nothing is in it.
    fn discard(&mut self) {}
}

/// A message to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Whose: what [`Recorder::add`] gave.
    pub channel: u16,
    /// The number its publisher gave it.
    pub sequence: u64,
    /// When it is recorded, in nanoseconds since 1970.
    pub log_ns: u64,
    /// When it was sent, by the same clock.
    pub publish_ns: u64,
    /// Messages of this publisher that were lost just before it.
    pub lost_before: u64,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// What came of a publisher's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Messages that were taken.
    pub taken: u64,
    /// Bytes of their payloads.
    pub taken_bytes: u64,
    /// Messages that are in a file.
    pub recorded: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Messages that were lost.
    pub lost: u64,
}

impl Count {
    /// A file has these.
    const fn add(&mut self, share: &Share) {
        self.recorded += share.messages;
        self.bytes += share.bytes;
    }
}

/// A file of the last seconds that was written.
#[derive(Debug)]
pub struct Saved {
    /// Which file.
    pub number: u32,
    /// Messages in it.
    pub messages: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// True if there was no memory for all of the last seconds.
    pub is_short: bool,
    /// Why it has not all of them.
    pub failure: Option<BagError>,
}

#[derive(Debug)]
enum Out<S> {
    File {
        file: BagFile<S>,
        /// When its first message was recorded.
        start_ns: Option<u64>,
        /// Losses that its metadata have.
        losses_noted: u64,
    },
    Ring(Ring),
    /// Nothing is written any more.
    Over,
}

/// Records messages.
#[derive(Debug)]
pub struct Recorder<T: Target> {
    config: Config,
    target: T,
    out: Out<T::Storage>,
    files: u32,
    channels: Vec<Channel>,
    /// The schema of each, 0 for none.
    schema_ids: Vec<u16>,
    /// The first channel that has it, of each schema.
    schemas: Vec<u16>,
    by_publisher: HashMap<(NodeId, u32), u16>,
    counts: Vec<Count>,
    chunk: ChunkBuilder,
    /// Messages of each channel that were lost, which no chunk says.
    missing: Vec<u64>,
    /// Bytes of the files before this one.
    bytes_before: u64,
    /// When losses were noted last.
    looked_ns: u64,
}

impl<T: Target> Recorder<T> {
    /// Begins a recording: makes its first file, unless it keeps the last seconds in memory.
    ///
    /// # Errors
    /// [`BagError::Option`] for what cannot be meant; what the system says.
    pub fn new(config: Config, mut target: T) -> Result<Self, BagError> {
        if !(1..=BAG_CHUNK_BYTES_MAX).contains(&config.chunk_bytes) {
            return Err(BagError::Option(format!(
                "chunks of {} bytes; allowed are 1 to {BAG_CHUNK_BYTES_MAX}",
                config.chunk_bytes
            )));
        }
        let out = match config.last_ns {
            Some(last_ns) => Out::Ring(Ring::new(last_ns, config.last_bytes_max)),
            None => open(&mut target, 0)?,
        };
        Ok(Self {
            chunk: ChunkBuilder::new(match config.is_compressed {
                true => ChunkCompression::Lz4,
                false => ChunkCompression::None,
            }),
            files: u32::from(config.last_ns.is_none()),
            config,
            target,
            out,
            channels: Vec::new(),
            schema_ids: Vec::new(),
            schemas: Vec::new(),
            by_publisher: HashMap::new(),
            counts: Vec::new(),
            missing: Vec::new(),
            bytes_before: 0,
            looked_ns: 0,
        })
    }

    /// The channel of a publisher, if it was added.
    #[must_use]
    pub fn channel(&self, publisher: (NodeId, u32)) -> Option<u16> {
        self.by_publisher.get(&publisher).copied()
    }

    /// Adds a channel.
    ///
    /// # Errors
    /// [`BagError::TooManyChannels`].
    pub fn add(&mut self, channel: Channel) -> Result<u16, BagError> {
        let max = BAG_CHANNELS_MAX;
        // Numbered from 1, as tools are used to.
        let id = u16::try_from(self.channels.len() + 1);
        let id = id.map_err(|_| BagError::TooManyChannels { max })?;
        if let Some(publisher) = &channel.publisher {
            let key = (publisher.node, publisher.endpoint);
            self.by_publisher.insert(key, id);
        }
        let schema_id = channel.schema.as_ref().map_or(0, |schema| {
            let is_same = |first: &u16| self.of(*first).schema.as_ref() == Some(schema);
            let known = self.schemas.iter().position(is_same);
            let idx = known.unwrap_or_else(|| {
                self.schemas.push(id);
                self.schemas.len() - 1
            });
            // No more than there are channels.
            u16::try_from(idx + 1).unwrap_or(u16::MAX)
        });
        self.channels.push(channel);
        self.schema_ids.push(schema_id);
        self.counts.push(Count::default());
        self.missing.push(0);
        Ok(id)
    }

    fn of(&self, id: u16) -> &Channel {
        &self.channels[usize::from(id) - 1]
    }

    /// The channels, each with what came of its messages. The first is number 1.
    pub fn counts(&self) -> impl Iterator<Item = (&Channel, Count)> {
        self.channels.iter().zip(self.counts.iter().copied())
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> Count {
        self.counts
            .iter()
            .fold(Count::default(), |sum, count| Count {
                taken: sum.taken + count.taken,
                taken_bytes: sum.taken_bytes + count.taken_bytes,
                recorded: sum.recorded + count.recorded,
                bytes: sum.bytes + count.bytes,
                lost: sum.lost.saturating_add(count.lost),
            })
    }

    /// Where its files come from.
    #[must_use]
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Files that were begun.
    #[must_use]
    pub fn files(&self) -> u32 {
        self.files
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let current = match &self.out {
            Out::File { file, .. } => file.len(),
            Out::Ring(_) | Out::Over => 0,
        };
        self.bytes_before + current
    }

    /// Records a message. Allocates nothing, but when buffers grow.
    ///
    /// # Errors
    /// If it, or those before it, cannot be written: the recording is over then, and its files are
    /// whole as far as they go. [`finish`](Self::finish) it.
    #[inline]
    pub fn record(&mut self, message: &Message<'_>) -> Result<(), BagError> {
        let count = &mut self.counts[usize::from(message.channel) - 1];
        count.taken += 1;
        count.taken_bytes += message.payload.len() as u64;
        // What a file says that is converted may be anything.
        count.lost = count.lost.saturating_add(message.lost_before);
        #[allow(clippy::cast_possible_truncation)] // MCAP has 32 bits; readers count gaps with them
        let head = MessageHead {
            channel: message.channel,
            sequence: message.sequence as u32,
            log_ns: message.log_ns,
            publish_ns: message.publish_ns,
        };
        let is_alone = message.payload.len() >= BAG_ALONE_BYTES && !self.config.is_compressed;
        let is_split = self.is_split_due(message);
        if is_split || is_alone {
            // If those before it cannot be written, it is lost, too.
            let with_it = 1 + message.lost_before;
            let idx = usize::from(message.channel) - 1;
            self.missing[idx] = self.missing[idx].saturating_add(with_it);
            self.flush()?;
            self.missing[idx] -= with_it;
        }
        if is_split {
            self.split()?;
        }
        if is_alone {
            return self.write(Some((&head, message.lost_before, message.payload)));
        }
        self.chunk.push(&head, message.lost_before, message.payload);
        if self.chunk.len() >= self.config.chunk_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// Takes note of messages of a channel that were lost behind the last one. Not for the last
    /// seconds of a ring.
    pub fn note_lost(&mut self, channel: u16, messages: u64) {
        let idx = usize::from(channel) - 1;
        for sum in [&mut self.counts[idx].lost, &mut self.missing[idx]] {
            *sum = sum.saturating_add(messages);
        }
    }

    #[inline]
    fn is_split_due(&self, message: &Message<'_>) -> bool {
        let Out::File { file, start_ns, .. } = &self.out else {
            return false;
        };
        let first_ns = start_ns.or_else(|| self.chunk.start_ns());
        let Some(first_ns) = first_ns else {
            return false;
        };
        let Split { bytes, ns } = self.config.split;
        let with_it = || {
            let waiting = self.chunk.whole_len() + message.payload.len() + MESSAGE_BYTES_MORE;
            file.len() + file.summary_bytes() + waiting as u64
        };
        bytes.is_some_and(|bytes| with_it() > bytes)
            || ns.is_some_and(|ns| message.log_ns.saturating_sub(first_ns) >= ns)
            || file.is_full()
    }

    /// Ends this file and begins another.
    fn split(&mut self) -> Result<(), BagError> {
        self.end_file()?;
        let opened = open(&mut self.target, self.files);
        self.out = opened?;
        self.files += 1;
        Ok(())
    }

    /// Says that time goes on: what has waited long enough is written, losses are noted. To be
    /// called some times a second.
    ///
    /// # Errors
    /// As [`record`](Self::record); [`BagError::Vanished`].
    pub fn tick(&mut self, now_ns: u64) -> Result<(), BagError> {
        let wait_ns = match self.config.last_ns {
            Some(last_ns) => (BAG_CHUNK_MS_MAX * 1_000_000).min(last_ns / 10),
            None => BAG_CHUNK_MS_MAX * 1_000_000,
        };
        let start_ns = self.chunk.start_ns();
        if start_ns.is_some_and(|start_ns| now_ns.saturating_sub(start_ns) >= wait_ns) {
            self.flush()?;
        }
        if now_ns.saturating_sub(self.looked_ns) >= wait_ns {
            self.looked_ns = now_ns;
            self.note_losses()?;
            if let Out::File { file, .. } = &self.out
                && file.is_gone()
            {
                return self.end_file();
            }
        }
        if let Out::Ring(ring) = &mut self.out {
            ring.expire(now_ns);
        }
        Ok(())
    }

    /// Writes what was taken.
    fn flush(&mut self) -> Result<(), BagError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.write(None)
    }

    /// Writes the chunk that was gathered, or this message as one.
    fn write(&mut self, alone: Option<(&MessageHead, u64, &[u8])>) -> Result<(), BagError> {
        let sealed = match alone {
            Some((head, lost_before, payload)) => self.chunk.seal_alone(head, lost_before, payload),
            None => self.chunk.seal().map_err(BagError::writing)?,
        };
        let written = match &mut self.out {
            Out::File { file, start_ns, .. } => {
                define(file, &sealed, &self.channels, &self.schema_ids);
                start_ns.get_or_insert(sealed.info.start_ns);
                file.write_chunk(&sealed)
            }
            Out::Ring(ring) => {
                ring.push(&sealed);
                Ok(())
            }
            Out::Over => Err(io::ErrorKind::StorageFull.into()),
        };
        for share in &sealed.info.shares {
            let idx = usize::from(share.channel) - 1;
            match (&written, &self.out) {
                (Ok(()), Out::File { .. }) => self.counts[idx].add(share),
                (Ok(()), _) => {}
                (Err(_), _) => {
                    let lost = share.messages + share.lost;
                    self.missing[idx] = self.missing[idx].saturating_add(lost);
                }
            }
        }
        self.chunk.clear(self.config.chunk_bytes);
        written.map_err(|error| {
            // What there is becomes a whole file; the error that comes first is the one that tells.
            let _ = self.end_file();
            BagError::writing(error)
        })
    }

    /// Writes how many messages were lost, if more were.
    fn note_losses(&mut self) -> Result<(), BagError> {
        let lost = self.total().lost;
        let Out::File {
            file, losses_noted, ..
        } = &mut self.out
        else {
            return Ok(());
        };
        if std::mem::replace(losses_noted, lost) == lost {
            return Ok(());
        }
        let entries = losses(file, &self.channels);
        file.write_metadata(LOSSES, &entries)
            .map_err(BagError::writing)
    }

    /// Writes the losses and the summary.
    fn end_file(&mut self) -> Result<(), BagError> {
        let Out::File { mut file, .. } = std::mem::replace(&mut self.out, Out::Over) else {
            return Ok(());
        };
        if file.is_gone() {
            for (id, count) in file.counts() {
                let total = &mut self.counts[usize::from(id) - 1];
                total.recorded -= count.messages;
                total.bytes -= count.bytes;
            }
            return Err(BagError::Vanished);
        }
        for ((channel, id), missing) in self
            .channels
            .iter()
            .zip(1..=u16::MAX)
            .zip(&mut self.missing)
        {
            let missing = std::mem::take(missing);
            if missing > 0 {
                file.define(id, channel, self.schema_ids[usize::from(id) - 1]);
                file.note_lost(id, missing);
            }
        }
        let Finished {
            storage,
            len,
            dropped,
        } = file.finish(|file| losses(file, &self.channels));
        self.bytes_before += len;
        for share in dropped.iter().flat_map(|chunk| &chunk.shares) {
            let total = &mut self.counts[usize::from(share.channel) - 1];
            total.recorded -= share.messages;
            total.bytes -= share.bytes;
        }
        storage.map_err(BagError::writing)?;
        if !dropped.is_empty() {
            return Err(BagError::Full);
        }
        Ok(())
    }

    /// Writes the last seconds into a file of their own, or as much of them as there is room for.
    /// `None` if there was nothing to write.
    ///
    /// # Errors
    /// If there is no file. The recording goes on.
    pub fn save(&mut self, now_ns: u64) -> Result<Option<Saved>, BagError> {
        self.flush()?;
        let Out::Ring(ring) = &mut self.out else {
            return Ok(None);
        };
        ring.expire(now_ns);
        if ring.chunks().next().is_none() {
            return Ok(None);
        }
        let number = self.files;
        let opened = begin(&mut self.target, number);
        let mut file = opened.map_err(BagError::writing)?;
        let mut written = 0;
        let mut failure = None;
        for chunk in ring.chunks() {
            define(&mut file, &chunk, &self.channels, &self.schema_ids);
            if failure.is_none() {
                match file.write_chunk(&chunk) {
                    Ok(()) => written += 1,
                    Err(error) => failure = Some(error),
                }
            }
            if failure.is_some() {
                let shares = &chunk.info.shares;
                shares
                    .iter()
                    .for_each(|share| file.note_lost(share.channel, share.messages));
            }
        }
        let Finished {
            storage,
            len: bytes,
            dropped,
        } = file.finish(|file| losses(file, &self.channels));
        let failure = failure.or_else(|| storage.err()).map(BagError::writing);
        let is_full = !dropped.is_empty();
        let failure = failure.or_else(|| is_full.then_some(BagError::Full));
        let kept = written - dropped.len();
        let shares = ring.chunks().take(kept).flat_map(|chunk| chunk.info.shares);
        let messages = shares.map(|share| share.messages).sum();
        for share in ring.note_saved(kept) {
            self.counts[usize::from(share.channel) - 1].add(share);
        }
        match messages {
            0 => self.target.discard(),
            _ => {
                self.files += 1;
                self.bytes_before += bytes;
            }
        }
        Ok(Some(Saved {
            number,
            messages,
            bytes,
            is_short: ring.is_short(),
            failure,
        }))
    }

    /// Writes what was taken and ends the file. Those of a ring are to be [saved](Self::save).
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn finish(&mut self) -> Result<(), BagError> {
        match self.out {
            Out::Ring(_) | Out::Over => Ok(()),
            Out::File { .. } => {
                self.flush()?;
                self.end_file()
            }
        }
    }
}

/// What a message needs beside its payload: its head, and its place in two indexes.
const MESSAGE_BYTES_MORE: usize = 200;

fn open<T: Target>(target: &mut T, number: u32) -> Result<Out<T::Storage>, BagError> {
    let what = "begin";
    let begun = begin(target, number);
    Ok(Out::File {
        file: begun.map_err(|source| BagError::Io { what, source })?,
        start_ns: None,
        losses_noted: 0,
    })
}

/// A file with its header, or none.
fn begin<T: Target>(target: &mut T, number: u32) -> io::Result<BagFile<T::Storage>> {
    let storage = target.open(number)?;
    BagFile::new(storage).inspect_err(|_| target.discard())
}

/// Says what the channels of a chunk are, to a file that does not know.
fn define<S: Storage>(
    file: &mut BagFile<S>,
    chunk: &Sealed<'_>,
    channels: &[Channel],
    schema_ids: &[u16],
) {
    for share in &chunk.info.shares {
        let idx = usize::from(share.channel) - 1;
        file.define(share.channel, &channels[idx], schema_ids[idx]);
    }
}

/// What became of each publisher's messages, as far as this file shows it.
fn losses<S: Storage>(file: &BagFile<S>, channels: &[Channel]) -> Vec<(String, String)> {
    let of = |(id, count): (u16, FileCount)| {
        let channel = &channels[usize::from(id) - 1];
        let publisher = channel.publisher.as_ref();
        let value = serde_json::json!({
            "topic": channel.topic,
            "node": publisher.map(|publisher| publisher.node_name.as_str()),
            "recorded": count.messages,
            "lost": count.lost,
        });
        (id.to_string(), value.to_string())
    };
    file.counts().map(of).collect()
}
