//! The engine of a publisher: its channels, its arena, and the way of a message into them.
//!
//! A message goes to every channel first, and only then are the subscribers' parked words looked
//! at. Channels of `Block` subscriptions that have no room are left for last: nobody else waits
//! for them. On the steady path nothing is locked, allocated or asked of the system.

mod memory;
mod room;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use shmesh_shm::{
    Arena, Chunk, ChunkId, ChunkRef, Counter, Counters, Head, Parker, Producer, PushError, Segment,
    SegmentStore, monotonic_ns,
};

use self::room::Waiting;
use super::draft::Draft;
use super::history::History;
use crate::balance::{Channels, Groups};
use crate::endpoint::{ChannelKey, PublisherEvent, PublisherShared, TxChannel};
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{DEPARTED_MAX, MESSAGE_BYTES_MAX};
use crate::wait::AsyncBell;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The number of the message: 0 for the publisher's first.
    pub sequence: u64,
    /// Subscribers it was put before.
    pub listeners: u32,
    /// Subscribers that had no room (`DropNewest`, or `Block` past its deadline). They count it
    /// as lost.
    pub refused: u32,
}

/// A message on its way: where its payload is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    Inline(&'a [u8]),
    Chunk { place: ChunkRef, id: ChunkId },
}

impl Payload<'_> {
    #[inline(always)]
    const fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Chunk { place, .. } => place.len as usize,
        }
    }
}

/// Whom a message reached: two words that stay in registers. In memory they would be stored one
/// by one and moved as one, and such a move waits until all earlier stores are done, those of the
/// message to the subscriber's cache lines among them.
#[derive(Clone, Copy, Debug)]
struct Reach {
    listeners: u32,
    refused: u32,
}

impl Reach {
    #[inline(always)]
    fn sent(self, head: Head) -> Sent {
        Sent {
            sequence: head.sequence,
            listeners: self.listeners,
            refused: self.refused,
        }
    }
}

/// What messages say of when they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamping {
    Nothing,
    Time,
    /// The time, made one that no other message of the node has.
    Order,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) shared: Arc<PublisherShared>,
    pub(crate) counters: Arc<Counters>,
    channels: Vec<TxChannel>,
    /// Of subscribers that went while samples of theirs live.
    lingering: Vec<(ChannelKey, Producer)>,
    arena: Arena<SegmentStore>,
    /// For the next messages: as many as were being written at once.
    blanks: Vec<Draft>,
    sequence: u64,
    groups: Groups,
    /// How often channels came or went.
    changes: u64,
    /// Nodes of a group that went: with which number their next message would have gone on.
    departed: VecDeque<(NodeId, u64)>,
    stamping: Stamping,
    /// While nobody merges.
    stamping_alone: Stamping,
    /// True when the node is closed.
    is_over: bool,
    /// True if it has a history.
    is_keeping: bool,
    parker: Parker,
    bell: AsyncBell,
}

impl Outbox {
    pub(crate) fn new(
        shared: Arc<PublisherShared>,
        counters: Arc<Counters>,
        parker: Parker,
        arena_bytes_max: usize,
        is_stamping: bool,
        groups: Groups,
    ) -> Self {
        let arena = Arena::new(SegmentStore, arena_bytes_max);
        let bell = AsyncBell::default();
        let channels = Vec::new();
        let stamping = if is_stamping {
            Stamping::Time
        } else {
            Stamping::Nothing
        };
        let is_keeping = shared.history.is_some();
        if is_keeping {
            shared.inbox.pin();
        }
        Self {
            shared,
            counters,
            channels,
            lingering: Vec::new(),
            arena,
            blanks: Vec::new(),
            sequence: 0,
            groups,
            changes: 0,
            departed: VecDeque::new(),
            stamping,
            stamping_alone: stamping,
            is_over: false,
            is_keeping,
            parker,
            bell,
        }
    }

    /// True if anybody listens, or may ask for the message later.
    #[inline]
    pub(crate) fn has_listeners(&mut self) -> bool {
        self.take_news();
        self.is_keeping || !self.channels.is_empty()
    }

    /// True when the node is closed. Who sends need not ask.
    pub(crate) fn is_over(&mut self) -> bool {
        self.take_news();
        self.is_over
    }

    /// Touches what the first message will touch, so that it is in this core's cache by then.
    pub(crate) fn warm(&mut self) {
        self.take_news();
        let blank = self.take_blank();
        self.blanks.push(blank);
        self.arena.warm();
        for channel in &self.channels {
            channel.wake.wake(0);
        }
        for counter in [Counter::Messages, Counter::Bytes] {
            self.counters.add(counter, 0);
        }
    }

    /// Sends to everybody, waiting on this thread where a subscription asked for it.
    #[inline]
    pub(crate) fn send(&mut self, mut draft: Draft) -> Result<Sent, Error> {
        let (sent, chunk) = match draft.take_chunk() {
            None => {
                let Some(head) = self.begin(Payload::Inline(draft.inline())) else {
                    return Err(self.refuse(draft, None));
                };
                (self.send_words(head, draft.inline()), None)
            }
            Some((chunk, len)) => {
                let (payload, id) = self.publish(chunk, len);
                let Some(head) = self.begin(payload) else {
                    return Err(self.refuse(draft, Some(id)));
                };
                let (mut reach, is_blocked) = self.offer(head, payload);
                if is_blocked {
                    reach = self.wait_for_room(head, payload, reach);
                }
                (reach.sent(head), Some(id))
            }
        };
        self.finish(draft, chunk);
        Ok(sent)
    }

    /// The node is closed: nothing is sent.
    #[cold]
    fn refuse(&mut self, draft: Draft, chunk: Option<ChunkId>) -> Error {
        self.finish(draft, chunk);
        Error::Closed
    }

    /// Sends to the channels of which `is_for` says so, without waiting.
    #[inline]
    pub(crate) fn send_to(
        &mut self,
        is_for: impl Fn(&ChannelKey) -> bool,
        mut draft: Draft,
    ) -> Sent {
        self.take_news();
        let head = self.next_head();
        for channel in &mut self.channels {
            channel.is_passed_over = !is_for(&channel.key);
        }
        let (payload, chunk) = match draft.take_chunk() {
            None => (Payload::Inline(draft.inline()), None),
            Some((chunk, len)) => {
                let (payload, id) = self.publish(chunk, len);
                (payload, Some(id))
            }
        };
        let (reach, _) = self.offer(head, payload);
        self.finish(draft, chunk);
        reach.sent(head)
    }

    /// The same with `bytes`, which fit inline.
    pub(crate) fn send_inline_to(&mut self, is_for: impl Fn(&ChannelKey) -> bool, bytes: &[u8]) {
        self.take_news();
        let head = self.next_head();
        for channel in &mut self.channels {
            channel.is_passed_over = !is_for(&channel.key);
        }
        self.offer(head, Payload::Inline(bytes));
    }

    /// Whose subscribers it has channels to.
    pub(crate) fn listeners(&mut self) -> impl Iterator<Item = NodeId> + '_ {
        self.take_news();
        self.channels
            .iter()
            .map(|channel| channel.key.subscriber_node)
    }

    /// How often channels came or went; takes in what is new.
    #[inline]
    pub(crate) fn changes(&mut self) -> u64 {
        self.take_news();
        self.changes
    }

    /// Sends `bytes`, which fit inline, to everybody. The shortest way.
    #[inline]
    pub(crate) fn send_inline(&mut self, bytes: &[u8]) -> Result<Sent, Error> {
        let Some(head) = self.begin(Payload::Inline(bytes)) else {
            return Err(Error::Closed);
        };
        Ok(self.send_words(head, bytes))
    }

    #[inline(always)]
    fn send_words(&mut self, head: Head, bytes: &[u8]) -> Sent {
        let (mut reach, is_blocked) = self.offer(head, Payload::Inline(bytes));
        if is_blocked {
            reach = self.wait_with_words(head, bytes, reach);
        }
        reach.sent(head)
    }

    /// Apart from `wait_for_room`, so that a message that need not wait has no payload in memory.
    #[cold]
    #[inline(never)]
    fn wait_with_words(&mut self, head: Head, bytes: &[u8], reach: Reach) -> Reach {
        self.wait_for_room(head, Payload::Inline(bytes), reach)
    }

    /// Sends to everybody, waiting asynchronously. Dropping the future while it waits counts the
    /// message as dropped for those that had no room.
    pub(crate) async fn send_async(&mut self, mut draft: Draft) -> Result<Sent, Error> {
        let (payload, chunk) = match draft.take_chunk() {
            None => (Payload::Inline(draft.inline()), None),
            Some((chunk, len)) => {
                let (payload, id) = self.publish(chunk, len);
                (payload, Some(id))
            }
        };
        let Some(head) = self.begin(payload) else {
            return Err(self.refuse(draft, chunk));
        };
        let (mut reach, is_blocked) = self.offer(head, payload);
        if is_blocked {
            let waiting = Waiting {
                head,
                started: Instant::now(),
                reach,
            };
            reach = self.wait_asleep(waiting, payload, chunk).await?;
        }
        self.finish(draft, chunk);
        Ok(reach.sent(head))
    }

    /// After the message is on its way.
    #[inline]
    fn finish(&mut self, draft: Draft, chunk: Option<ChunkId>) {
        self.blanks.push(draft);
        if let Some(id) = chunk {
            self.arena.release(id);
            self.collect();
            self.arena.claim_next(id);
        }
    }

    #[inline]
    fn publish<'a>(&mut self, chunk: Chunk<Segment>, len: usize) -> (Payload<'a>, ChunkId) {
        let offset = chunk.offset() as u64;
        // Truncation is excluded by MESSAGE_BYTES_MAX.
        #[allow(clippy::cast_possible_truncation)]
        let len = len as u32;
        let id = self.arena.publish(chunk);
        let place = ChunkRef {
            segment: id.segment,
            offset,
            len,
        };
        (Payload::Chunk { place, id }, id)
    }

    /// Takes the news and gives the next message its head; none when the node is closed. That is
    /// news that stays, so it costs an open one nothing.
    #[inline(always)]
    fn begin(&mut self, payload: Payload<'_>) -> Option<Head> {
        if self.shared.inbox.is_raised() {
            // In words: handed on whole, it would be stored in memory at every message.
            return match payload {
                Payload::Inline(bytes) => self.begin_inline(bytes),
                Payload::Chunk { place, id } => self.begin_chunk(id, place.offset, place.len),
            };
        }
        Some(self.next_head())
    }

    #[cold]
    #[inline(never)]
    fn begin_inline(&mut self, bytes: &[u8]) -> Option<Head> {
        self.begin_with_news(Payload::Inline(bytes))
    }

    #[cold]
    #[inline(never)]
    fn begin_chunk(&mut self, id: ChunkId, offset: u64, len: u32) -> Option<Head> {
        let place = ChunkRef {
            segment: id.segment,
            offset,
            len,
        };
        self.begin_with_news(Payload::Chunk { place, id })
    }

    fn begin_with_news(&mut self, payload: Payload<'_>) -> Option<Head> {
        if self.is_keeping {
            return self.keep(payload);
        }
        self.take_news();
        (!self.is_over).then(|| self.next_head())
    }

    /// The same, and keeps the message for those who come later.
    fn keep(&mut self, payload: Payload<'_>) -> Option<Head> {
        let shared = Arc::clone(&self.shared);
        let mut kept = shared.history.as_ref().map(History::lock);
        // Under the lock, as `History` demands.
        self.take_news();
        if self.is_over {
            return None;
        }
        let head = self.next_head();
        if let Some(kept) = &mut kept {
            if let Payload::Chunk { id, .. } = payload {
                self.arena.retain(id);
            }
            if let Some(forgotten) = kept.push(head, payload) {
                self.arena.release(forgotten);
            }
        }
        Some(head)
    }

    #[inline]
    fn next_head(&mut self) -> Head {
        let sequence = self.sequence;
        self.sequence += 1;
        Head {
            sequence,
            sent_ns: match self.stamping {
                Stamping::Nothing => 0,
                Stamping::Time => monotonic_ns(),
                Stamping::Order => self.shared.order.stamp(monotonic_ns()),
            },
        }
    }

    /// Puts the message into every ring with room, then rings. Marks the channels to wait for, and
    /// says if there are any.
    #[inline(always)]
    fn offer(&mut self, head: Head, payload: Payload<'_>) -> (Reach, bool) {
        let (mut listeners, mut refused, mut is_blocked) = (0, 0, false);
        if !self.groups.is_empty() {
            self.groups.choose(&mut ToChoose(&mut self.channels));
        }
        for channel in &mut self.channels {
            if channel.is_passed_over {
                channel.passed_over += 1;
                continue;
            }
            match push(&mut self.arena, channel, head, payload) {
                Ok(()) => listeners += 1,
                Err(PushError::Full) if channel.deadline.is_some() => {
                    channel.is_blocked = true;
                    is_blocked = true;
                }
                Err(PushError::Full) => {
                    channel.producer.count_dropped();
                    refused += 1;
                }
                Err(PushError::Corrupt(corrupt)) => give_up(&self.shared, channel, &corrupt),
            }
        }
        let len = payload.len();
        for channel in &self.channels {
            if !channel.is_passed_over && channel.wake.wake(len) {
                self.counters.add(Counter::WakeUps, 1);
            }
        }
        self.counters.add(Counter::Messages, 1);
        self.counters.add(Counter::Bytes, len as u64);
        if refused > 0 {
            self.counters.add(Counter::LostDropped, u64::from(refused));
        }
        (Reach { listeners, refused }, is_blocked)
    }

    /// Takes back what subscribers gave back, after the message is on its way and a few at a
    /// time: looking means waiting for the cache line in which they said so.
    #[inline]
    fn collect(&mut self) {
        let Self {
            channels, arena, ..
        } = self;
        for channel in channels.iter_mut() {
            if channel.producer.lent_count() >= COLLECT_AT {
                channel.producer.collect(|id| arena.release(id));
            }
        }
    }

    /// Messages with another key may go to another member of a group, where that is asked for.
    pub(crate) fn set_key(&mut self, key: u64) {
        self.groups.key = key;
    }

    #[inline]
    fn take_news(&mut self) {
        if self.shared.inbox.is_full() {
            self.take_events();
        }
    }

    #[cold]
    fn take_events(&mut self) {
        self.changes += 1;
        for event in self.shared.inbox.take() {
            match event {
                PublisherEvent::Add(channel) => self.add_channel(*channel),
                PublisherEvent::Remove(key) => self.remove_channel(key),
                PublisherEvent::Died(node) => self.forget_samples_of(node),
                PublisherEvent::Over => self.end(),
            }
        }
        self.stamping = if self.channels.iter().any(|channel| channel.is_merged) {
            Stamping::Order
        } else {
            self.stamping_alone
        };
        for channel in &mut self.channels {
            channel.is_passed_over = false;
        }
        let members = self.channels.iter().map(|channel| {
            let name = channel.subscriber_name.as_str();
            (channel.key.subscriber_node, name)
        });
        self.groups.regroup(members);
        self.counters
            .set(Counter::Peers, self.channels.len() as u64);
    }

    /// The node is closed. What is in the rings stays readable.
    fn end(&mut self) {
        self.is_over = true;
        // Each message comes by where that is looked at from now on.
        self.shared.inbox.pin();
        for channel in self
            .channels
            .iter_mut()
            .filter(|channel| channel.is_blocked)
        {
            channel.producer.count_dropped();
            self.counters.add(Counter::LostDropped, 1);
        }
        self.channels.clear();
    }

    fn add_channel(&mut self, mut channel: TxChannel) {
        let node = channel.key.subscriber_node;
        let departed = self.departed.iter().find(|(known, _)| *known == node);
        if let Some((_, next)) = departed {
            // What was sent meanwhile was not for it.
            channel.passed_over = self.sequence - next;
        }
        if channel.is_begun {
            // What the driver lent of the history, under the publisher's own numbers.
            channel.passed_over = 0;
            let lent = channel.producer.lent();
            lent.for_each(|id| self.arena.retain(id));
        } else {
            let first = self.sequence.wrapping_sub(channel.passed_over);
            channel.producer.begin(first);
        }
        channel.producer.warm();
        self.channels.push(channel);
    }

    fn remove_channel(&mut self, key: ChannelKey) {
        let Some(idx) = self.channels.iter().position(|channel| channel.key == key) else {
            return;
        };
        let mut channel = self.channels.swap_remove(idx);
        if channel.passed_over > 0 {
            let node = key.subscriber_node;
            self.departed.retain(|(known, _)| *known != node);
            if self.departed.len() >= DEPARTED_MAX {
                self.departed.pop_front();
            }
            let next = self.sequence - channel.passed_over;
            self.departed.push_back((node, next));
            // What it has not read is lost, for the others do not get it any more.
            let unread = channel.producer.unread().unwrap_or_default();
            self.counters.add(Counter::LostDropped, unread);
        }
        // Samples outlive their subscriber: what it holds is not written over before it is dropped.
        if channel.producer.retire(|id| self.arena.release(id)) {
            self.lingering.push((key, channel.producer));
        }
    }

    fn forget_samples_of(&mut self, node: NodeId) {
        let arena = &mut self.arena;
        self.lingering.retain_mut(|(key, producer)| {
            let is_theirs = key.subscriber_node == node;
            if is_theirs {
                producer.reclaim_all(|id| arena.release(id));
            }
            !is_theirs
        });
    }

    /// Node and endpoint.
    #[inline]
    pub(crate) fn publisher(&self) -> (u128, u32) {
        let origin = &self.shared.origin;
        (origin.node, origin.endpoint)
    }

    /// An empty draft.
    #[inline]
    pub(crate) fn take_blank(&mut self) -> Draft {
        let publisher = self.publisher();
        self.blanks.pop().unwrap_or_else(|| Draft::new(publisher))
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// The channels of a publisher, for the choice among members of a group.
struct ToChoose<'a>(&'a mut [TxChannel]);

impl Channels for ToChoose<'_> {
    fn has_room(&mut self, idx: usize) -> bool {
        self.0[idx].producer.room().is_ok_and(|room| room > 0)
    }

    fn unread(&mut self, idx: usize) -> u64 {
        self.0[idx].producer.unread().unwrap_or(u64::MAX)
    }

    fn mark(&mut self, idx: usize, is_chosen: bool) {
        self.0[idx].is_passed_over = !is_chosen;
    }
}

#[inline(always)]
fn push(
    arena: &mut Arena<SegmentStore>,
    channel: &mut TxChannel,
    mut head: Head,
    payload: Payload<'_>,
) -> Result<(), PushError> {
    head.sequence = head.sequence.wrapping_sub(channel.passed_over);
    match payload {
        Payload::Inline(bytes) => channel
            .producer
            .push_inline(head, bytes, |id| arena.release(id)),
        Payload::Chunk { place, id } => {
            channel
                .producer
                .push_chunk(head, place, id, |back| arena.release(back))?;
            arena.retain(id);
            Ok(())
        }
    }
}

/// Ends a channel whose subscriber breaks the protocol.
#[cold]
fn give_up(shared: &Arc<PublisherShared>, channel: &mut TxChannel, corrupt: &shmesh_shm::Corrupt) {
    let (topic, subscriber) = (&shared.endpoint.topic, &channel.subscriber_name);
    tracing::warn!(target: "shmesh::channel", topic, subscriber, %corrupt, "channel ended");
    channel.is_blocked = false;
    shared.remove(channel.key);
}

const _: () = assert!(MESSAGE_BYTES_MAX < u32::MAX as usize);

/// Lent chunks of a channel from which on those that came back are looked for.
const COLLECT_AT: usize = 8;
