//! The reading side of a network link: cuts what comes into frames and messages, and puts messages
//! into the rings of the subscribers they are for. Sans-IO.
//!
//! A sink is the writing end of a ring in this process, whose reading end a subscriber of ours has
//! like any other channel. Small payloads are copied out of what was read; of large ones only the
//! beginning is, and the rest is read straight into the chunk in which the subscriber finds them.
//! Memory grows with what has come, within a bound for each channel, whatever the peer announces.

mod fragments;
mod large;
mod packed;

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::Arc;

use rustix::io::Errno;
use shmesh_shm::{
    Arena, Block, Chunk, ChunkRef, Head, HeapBlock, HeapStore, INLINE_BYTES, Mode, Producer,
    PushError, Ringer, ShmError,
};

use self::fragments::Unfinished;
use self::large::Large;
use self::packed::Packed;
use crate::endpoint::{SubscriberEvent, SubscriberShared};
use crate::error::Error;
use crate::limits::{
    CHANNELS_PER_LINK_MAX, FRAGMENT_BYTES, FRAGMENTS_READ_BYTES, FRAME_BYTES_MAX,
    LINK_CREDITS_PER_S_MAX, LINK_FRAMES_PER_S_MAX, LINK_FRAMES_WAITING_MAX, SINK_BYTES_MAX,
};
use crate::link::session::{LinkFrame, Path, Session};
use crate::link::wire::{
    self, CREDIT_BYTES, Credit, FRAGMENT_HEADER_BYTES, Item, MESSAGE_HEADER_BYTES, MessageHeader,
    PACKED_HEADER_BYTES,
};
use crate::sample::ARRIVED;

/// Bytes asked for at once, in memory that all links of a thread share.
pub(super) const READ_BYTES: usize = 128 << 10;
/// Payloads from this size on are read into their chunk directly; smaller ones wait in the buffer
/// until they are whole.
const DIRECT_BYTES: usize = 16 << 10;

/// One channel from a publisher elsewhere.
#[derive(Debug)]
pub(crate) struct Sink {
    channel: u64,
    producer: Producer,
    mode: Mode,
    depth: u64,
    subscriber: Arc<SubscriberShared>,
    /// Wakes the subscriber.
    bell: Ringer,
    /// Made with the first payload that does not fit into a slot.
    arena: Option<Arena<HeapStore>>,
    /// Number of the next message, if none is lost.
    expected: Option<u64>,
    /// What the publisher had sent when the channel was granted: where nothing came before the end,
    /// it goes on there.
    granted_at: Option<u64>,
    /// Messages that came, those that found no room among them, and what the peer knows to be
    /// taken.
    received: u64,
    refused: u64,
    credited: u64,
    is_touched: bool,
    /// True if the publisher's clock is that of this host.
    has_times: bool,
    /// True if the subscriber merges it with others of its node, by their times.
    is_merged: bool,
    /// True when the subscriber has the reading end: only then it can be told of memory.
    is_known: bool,
    /// The message that comes in fragments.
    unfinished: Option<Unfinished>,
}

impl Sink {
    /// A sink that goes on at `expected` after an earlier link was lost.
    pub(crate) fn new(
        channel: u64,
        mut producer: Producer,
        subscriber: Arc<SubscriberShared>,
        bell: Ringer,
        expected: Option<u64>,
    ) -> Self {
        if let Some(expected) = expected {
            producer.begin(expected);
        }
        let is_merged = subscriber.is_merging();
        Self {
            channel,
            producer,
            mode: subscriber.ring.mode,
            depth: u64::from(subscriber.ring.depth),
            subscriber,
            bell,
            arena: None,
            expected,
            granted_at: None,
            received: 0,
            refused: 0,
            credited: 0,
            is_touched: false,
            has_times: true,
            is_merged,
            is_known: false,
            unfinished: None,
        }
    }

    /// The publisher is on another host: its clock says nothing here.
    pub(crate) fn forget_times(&mut self) {
        self.has_times = false;
    }

    #[inline]
    fn head_of(&self, header: &MessageHeader, arrived_ns: u64) -> Head {
        Head {
            sequence: header.sequence,
            sent_ns: if self.has_times {
                header.sent_ns
            } else if self.is_dating() {
                arrived_ns | ARRIVED
            } else {
                0
            },
        }
    }

    /// True if ages of its messages count from their arrival, or they are put in order by it: a
    /// link brings them in the order in which they were sent.
    fn is_dating(&self) -> bool {
        !self.has_times && (self.is_merged || self.subscriber.lifespan_ns.is_some())
    }

    /// Number of the next message; of one that begins it is `sequence`.
    #[inline]
    fn expected_from(&mut self, sequence: u64) -> u64 {
        if self.expected.is_none() {
            self.producer.begin(sequence);
        }
        self.expected.unwrap_or(sequence)
    }

    /// All messages before `sequence` came, or are lost.
    fn pass(&mut self, sequence: u64) {
        let expected = self.expected_from(sequence);
        let lost = sequence.wrapping_sub(expected);
        // Behind what came already: said before it, and heard after it.
        if lost > u64::MAX / 2 {
            return;
        }
        if lost > 0 {
            self.producer.count_dropped_by(lost);
            self.is_touched = true;
        }
        self.expected = Some(sequence);
    }

    /// Takes note of a message's number.
    #[inline]
    fn begin(&mut self, header: &MessageHeader) -> Result<(), Error> {
        let expected = self.expected_from(header.sequence);
        if header.sequence != expected {
            if header.sequence.wrapping_sub(expected) > u64::MAX / 2 {
                return Err(Error::Protocol("sequence goes back"));
            }
            self.pass(header.sequence);
        }
        self.expected = Some(header.sequence.wrapping_add(1));
        Ok(())
    }

    #[inline]
    fn push_inline(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let arena = &mut self.arena;
        let pushed = self.producer.push_inline(head, payload, |id| {
            if let Some(arena) = arena {
                arena.release(id);
            }
        });
        self.pushed(pushed)
    }

    fn push_chunk(&mut self, head: Head, chunk: Chunk<HeapBlock>, len: usize) -> Result<(), Error> {
        let Some(arena) = &mut self.arena else {
            return Err(Error::Protocol("a chunk without an arena"));
        };
        #[allow(clippy::cast_possible_truncation)] // a message is below 4 GiB: see `limits`
        let place = ChunkRef {
            segment: chunk.id().segment,
            offset: chunk.offset() as u64,
            len: len as u32,
        };
        let id = arena.publish(chunk);
        let pushed = self
            .producer
            .push_chunk(head, place, id, |back| arena.release(back));
        // The reference of who wrote it becomes that of the channel.
        if pushed.is_err() {
            arena.release(id);
        }
        self.pushed(pushed)
    }

    #[inline]
    fn pushed(&mut self, pushed: Result<(), PushError>) -> Result<(), Error> {
        match pushed {
            Ok(()) => {
                self.is_touched = true;
                self.received = self.received.wrapping_add(1);
                Ok(())
            }
            Err(PushError::Full) => {
                self.refuse();
                Ok(())
            }
            // Our own subscriber's half.
            Err(PushError::Corrupt(corrupt)) => Err(Error::Protocol(corrupt.0)),
        }
    }

    /// A message that came finds no room.
    fn refuse(&mut self) {
        self.is_touched = true;
        self.received = self.received.wrapping_add(1);
        self.refused = self.refused.wrapping_add(1);
        self.producer.count_dropped();
    }

    /// Memory for a payload; `None` if this channel has as much as it may: the message is lost.
    fn take_chunk(&mut self, len: usize) -> Option<Chunk<HeapBlock>> {
        let arena = self
            .arena
            .get_or_insert_with(|| Arena::new(HeapStore, SINK_BYTES_MAX));
        let (producer, subscriber, channel) = (&mut self.producer, &self.subscriber, self.channel);
        if producer.lent_count() >= COLLECT_AT {
            producer.collect(|id| arena.release(id));
        }
        if let Some(chunk) = arena.take(len) {
            return Some(chunk);
        }
        let swept = producer.sweep(|id| arena.release(id));
        let is_known = self.is_known;
        let grow = |arena: &mut Arena<HeapStore>| {
            let (number, block) = arena.grow(len)?;
            // Else it is told with all others when it can be.
            if is_known {
                subscriber.tell(SubscriberEvent::Segment {
                    channel,
                    number,
                    block,
                });
            }
            Ok::<_, ShmError>(())
        };
        if let Some(chunk) = arena.take(len) {
            // As a publisher does it: see `Outbox::take_chunk`.
            if swept.is_poor() && arena.bytes() < arena.bytes_max() / 2 {
                let _ = grow(arena);
            }
            return Some(chunk);
        }
        while let Err(error) = grow(arena) {
            let has_evicted = producer.evict_oldest(|id| arena.release(id));
            if !has_evicted && !retire_idle(arena, subscriber, channel) {
                tracing::debug!(%error, "no memory for a message");
                return None;
            }
            if let Some(chunk) = arena.take(len) {
                return Some(chunk);
            }
        }
        arena.take(len)
    }

    /// How many messages the subscriber has taken, where it is time to say so: when that is half of
    /// what it has room for, or a quarter if the peer may be out of credit.
    fn credit_due(&mut self) -> Result<Option<u64>, Error> {
        let outstanding = self.received.wrapping_sub(self.credited);
        let share = if self.is_out_of_credit() { 4 } else { 2 };
        let step = (self.depth / share).max(1);
        // Without a look at the subscriber's cursor where too little came.
        if self.mode == Mode::Overwrite || outstanding < step {
            return Ok(None);
        }
        let taken = self.producer.taken();
        let taken = taken.map_err(|corrupt| Error::Protocol(corrupt.0))?;
        let taken = taken.wrapping_add(self.refused);
        let is_due = taken.wrapping_sub(self.credited) >= step;
        if is_due {
            self.credited = taken;
        }
        Ok(is_due.then_some(taken))
    }

    fn is_out_of_credit(&self) -> bool {
        self.mode == Mode::Keep && self.received.wrapping_sub(self.credited) >= self.depth
    }
}

fn retire_idle(arena: &mut Arena<HeapStore>, subscriber: &SubscriberShared, channel: u64) -> bool {
    let retired = arena.retire_idle();
    for number in &retired {
        subscriber.tell(SubscriberEvent::SegmentGone {
            channel,
            number: *number,
        });
    }
    !retired.is_empty()
}

/// Lent chunks of a channel from which on those that came back are looked for.
const COLLECT_AT: usize = 8;

/// Bytes asked for behind a fragment that is read into its chunk: the header of the next, and of a
/// small message or two between them.
const BEHIND_FRAGMENT_BYTES: usize = 4 << 10;

/// Room that an idle link keeps.
const PARTIAL_BYTES_KEPT: usize = 4096;

/// How a look at the socket ended.
#[derive(Debug)]
pub(crate) enum Pumped {
    /// Nothing more is there; `true` if something was.
    Drained(bool),
    /// There may be more.
    More,
    /// The driver has to take its frames first.
    Full,
    Failed(Error),
}

#[derive(Debug)]
pub(super) struct Reader {
    sinks: Vec<Sink>,
    /// The sink that was found last.
    last: usize,
    /// The beginning of a frame or message.
    partial: Vec<u8>,
    large: Option<Large>,
    packed: Option<Packed>,
    /// True if compressed payloads were agreed on.
    takes_packed: bool,
    /// Bytes of a payload that nobody wants.
    unwanted: usize,
    /// Bytes of fragments that were read, or are being read, and what the peer knows of that.
    fragment_bytes: u64,
    fragment_bytes_said: u64,
    session: Session,
    /// For the driver.
    frames: VecDeque<LinkFrame>,
    /// Frames since the last tick, and those that say what was taken or passed.
    frame_count: u32,
    credit_count: u32,
    /// For the writer: how much our peer's subscribers took.
    pub(super) credits: Vec<Credit>,
    /// True if some sink's messages are dated at arrival: then who pumps says the time before.
    pub(super) is_dating: bool,
    pub(super) now_ns: u64,
    /// When the last message arrived.
    arrived_ns: u64,
}

impl Reader {
    pub(super) fn new(takes_packed: bool) -> Self {
        Self {
            sinks: Vec::new(),
            last: 0,
            partial: Vec::new(),
            large: None,
            packed: None,
            takes_packed,
            unwanted: 0,
            fragment_bytes: 0,
            fragment_bytes_said: 0,
            session: Session::new(Path::Network),
            frames: VecDeque::new(),
            frame_count: 0,
            credit_count: 0,
            credits: Vec::new(),
            is_dating: false,
            now_ns: 0,
            arrived_ns: 0,
        }
    }

    pub(super) fn add_sink(&mut self, sink: Sink) {
        self.is_dating |= sink.is_dating();
        self.sinks.push(sink);
    }

    /// Takes a sink away; with which message it would have gone on.
    pub(super) fn remove_sink(&mut self, channel: u64) -> Option<u64> {
        let idx = self.sinks.iter().position(|sink| sink.channel == channel)?;
        let sink = self.sinks.swap_remove(idx);
        sink.expected.or(sink.granted_at)
    }

    /// The subscriber has the reading end now. All messages before `sequence` were sent on an
    /// earlier link, if there was one, or are lost.
    pub(super) fn start(&mut self, channel: u64, sequence: u64) {
        if let Some(sink) = self.sink(channel) {
            sink.is_known = true;
            sink.granted_at = Some(sequence);
            for (number, block) in sink.arena.iter().flat_map(Arena::segments) {
                let block = Arc::clone(block) as Arc<dyn Block>;
                sink.subscriber.tell(SubscriberEvent::Segment {
                    channel,
                    number,
                    block,
                });
            }
            if sink.expected.is_some() {
                sink.pass(sequence);
            }
        }
        self.ring();
    }

    pub(super) fn take_frame(&mut self) -> Option<LinkFrame> {
        self.frames.pop_front()
    }

    pub(super) fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Another second.
    pub(super) fn tick(&mut self) {
        self.frame_count = 0;
        self.credit_count = 0;
    }

    /// True if a subscriber must take messages before its publisher can send more.
    pub(super) fn is_out_of_credit(&self) -> bool {
        self.sinks.iter().any(Sink::is_out_of_credit)
    }

    /// Says how much our subscribers took, and we of fragments, where it is time to.
    pub(super) fn grant(&mut self, mut say: impl FnMut(Credit)) -> Result<(), Error> {
        if self.fragment_bytes.wrapping_sub(self.fragment_bytes_said) >= FRAGMENTS_READ_BYTES {
            self.fragment_bytes_said = self.fragment_bytes;
            let (channel, taken) = (Credit::OF_FRAGMENTS, self.fragment_bytes);
            say(Credit { channel, taken });
        }
        for sink in &mut self.sinks {
            let channel = sink.channel;
            if let Some(taken) = sink.credit_due()? {
                say(Credit { channel, taken });
            }
        }
        Ok(())
    }

    /// Reads once, and deals with what came. `scratch` is [`READ_BYTES`] long.
    pub(super) fn pump(
        &mut self,
        scratch: &mut [u8],
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, Errno>,
    ) -> Pumped {
        if self.frames.len() >= LINK_FRAMES_WAITING_MAX {
            return Pumped::Full;
        }
        let kept = self.partial.len();
        scratch[..kept].copy_from_slice(&self.partial);
        let mut nothing = [];
        let mut room = scratch.len();
        let rest = match &mut self.large {
            Some(large) => {
                if large.goes_on() {
                    // Else most of the next one would be copied out of there.
                    room = BEHIND_FRAGMENT_BYTES;
                }
                &mut large.chunk.bytes_mut()[large.filled..large.until]
            }
            None => &mut nothing[..],
        };
        let scratch = &mut scratch[..room];
        let rest_len = rest.len();
        let asked = rest_len + scratch.len() - kept;
        let slices = &mut [IoSliceMut::new(rest), IoSliceMut::new(&mut scratch[kept..])];
        let count = match read(slices) {
            Ok(0) => return failed(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(Errno::AGAIN) => return Pumped::Drained(false),
            Err(Errno::INTR) => return Pumped::More,
            Err(errno) => return failed(errno.into()),
        };
        let into_large = count.min(rest_len);
        let came = kept + count - into_large;
        let done = self
            .fill_large(into_large)
            .and_then(|()| self.take_in(&scratch[..came]));
        self.ring();
        match done {
            Err(error) => Pumped::Failed(error),
            // A read that got less than it asked for has emptied the socket.
            Ok(()) if count < asked => Pumped::Drained(true),
            Ok(()) => Pumped::More,
        }
    }

    /// Takes in whole frames and messages, and keeps what is left.
    fn take_in(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut at = self.fill_packed(bytes)?;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if self.unwanted > 0 {
                let count = self.unwanted.min(rest.len());
                self.unwanted -= count;
                at += count;
                continue;
            }
            match wire::decode_item(rest)? {
                None => break,
                Some(Item::Frame(frame)) => {
                    at += frame.len;
                    self.take_frame_in(&frame)?;
                }
                Some(Item::Credit(credit)) => {
                    at += CREDIT_BYTES;
                    self.take_credit_in(credit)?;
                }
                Some(Item::Message(header)) => {
                    let payload = &rest[MESSAGE_HEADER_BYTES..];
                    if let Some(payload) = payload.get(..header.len) {
                        at += MESSAGE_HEADER_BYTES + header.len;
                        self.deliver(&header, payload)?;
                    } else if header.len >= DIRECT_BYTES {
                        at = bytes.len();
                        self.begin_large(header, payload);
                    } else {
                        break;
                    }
                }
                Some(Item::Packed(header)) => {
                    let rest = &rest[PACKED_HEADER_BYTES..];
                    at += PACKED_HEADER_BYTES + self.begin_packed(header, rest)?;
                }
                Some(Item::Beginning(header)) => {
                    at += MESSAGE_HEADER_BYTES;
                    self.begin_fragments(header)?;
                }
                Some(Item::Fragment(header)) => {
                    let rest = &rest[FRAGMENT_HEADER_BYTES..];
                    let Some(count) = self.take_fragment(&header, rest)? else {
                        break;
                    };
                    at += FRAGMENT_HEADER_BYTES + count;
                    let len = header.len as u64;
                    self.fragment_bytes = self.fragment_bytes.wrapping_add(len);
                }
            }
        }
        self.partial.clear();
        if at == bytes.len() && self.partial.capacity() > PARTIAL_BYTES_KEPT {
            self.partial.shrink_to(0);
        }
        self.partial.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    fn take_frame_in(&mut self, frame: &wire::Frame<'_>) -> Result<(), Error> {
        let frame = self.session.take(frame, 0)?;
        match frame {
            LinkFrame::Passed { .. } => count(&mut self.credit_count, LINK_CREDITS_PER_S_MAX)?,
            _ => count(&mut self.frame_count, LINK_FRAMES_PER_S_MAX)?,
        }
        match frame {
            LinkFrame::Passed { channel, sequence } => {
                if let Some(sink) = self.sink(channel) {
                    sink.pass(sequence);
                }
            }
            LinkFrame::Heartbeat => {}
            other => self.frames.push_back(other),
        }
        Ok(())
    }

    fn take_credit_in(&mut self, credit: Credit) -> Result<(), Error> {
        count(&mut self.credit_count, LINK_CREDITS_PER_S_MAX)?;
        self.credits.retain(|known| known.channel != credit.channel);
        if self.credits.len() < CHANNELS_PER_LINK_MAX {
            self.credits.push(credit);
        }
        Ok(())
    }

    #[inline]
    fn sink(&mut self, channel: u64) -> Option<&mut Sink> {
        let is_it = |sink: &Sink| sink.channel == channel;
        if !self.sinks.get(self.last).is_some_and(is_it) {
            // None is one that was detached while its messages were on their way.
            self.last = self.sinks.iter().position(is_it)?;
        }
        self.sinks.get_mut(self.last)
    }

    /// When the message at hand arrived, which is after the one before it.
    #[inline]
    fn arrived_ns(&mut self) -> u64 {
        self.arrived_ns = self.now_ns.max(self.arrived_ns + 1);
        self.arrived_ns
    }

    #[inline]
    fn deliver(&mut self, header: &MessageHeader, payload: &[u8]) -> Result<(), Error> {
        let arrived_ns = self.arrived_ns();
        let Some(sink) = self.sink(header.channel) else {
            return Ok(());
        };
        sink.begin(header)?;
        let head = sink.head_of(header, arrived_ns);
        if payload.len() <= INLINE_BYTES {
            return sink.push_inline(head, payload);
        }
        let Some(mut chunk) = sink.take_chunk(payload.len()) else {
            sink.refuse();
            return Ok(());
        };
        chunk.bytes_mut()[..payload.len()].copy_from_slice(payload);
        sink.push_chunk(head, chunk, payload.len())
    }

    /// Wakes the subscribers that have news.
    fn ring(&mut self) {
        for sink in &mut self.sinks {
            if std::mem::take(&mut sink.is_touched) {
                sink.bell.ring_if_parked();
            }
        }
    }
}

fn count(count: &mut u32, max: u32) -> Result<(), Error> {
    *count += 1;
    if *count > max {
        return Err(Error::Protocol("more frames in a second than any use has"));
    }
    Ok(())
}

fn failed(source: std::io::Error) -> Pumped {
    let what = "receive from the peer";
    Pumped::Failed(Error::Io { what, source })
}

const _: () = assert!(DIRECT_BYTES + MESSAGE_HEADER_BYTES < READ_BYTES);
const _: () = assert!(FRAME_BYTES_MAX < READ_BYTES);
const _: () = assert!(FRAGMENT_BYTES + FRAGMENT_HEADER_BYTES < READ_BYTES);
