//! The meeting points between a handle (on a user's thread) and the node's driver.
//!
//! A publisher or subscriber handle owns its channels outright, so that sending and receiving
//! touch no lock. The driver brings news (a channel more, a peer less, another arena segment)
//! through an inbox that the handle looks into when its flag is up: one load per message.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use shmesh_shm::{
    Block, Consumer, Counter, Counters, Event, Mode, Origin, Producer, RingConfig, Ringer, Segment,
};
use tokio::sync::watch;

use crate::events::{Loss, Promise, Watch};
use crate::id::NodeId;
use crate::limits::{WRITE_AFTER_BYTES, WRITE_AFTER_MESSAGES};
use crate::link::LinkHandle;
use crate::link::host::HostLink;
use crate::link::net::{FeedEvent, NetLink};
use crate::link::wire::MESSAGE_HEADER_BYTES;
use crate::name;
use crate::priority::Priority;
use crate::publisher::{History, Order, Wanted};
use crate::topology::Endpoint;

/// Names a channel: the subscriber's node and the number that node gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChannelKey {
    pub(crate) subscriber_node: NodeId,
    pub(crate) channel: u64,
}

impl ChannelKey {
    /// Of a channel to a subscriber of the peer.
    pub(crate) fn over(link: &LinkHandle, channel: u64) -> Self {
        Self {
            subscriber_node: link.peer(),
            channel,
        }
    }
}

/// How a subscription deals with messages it cannot take yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Keeps the last `n` messages; the oldest unread one gives way. The publisher never waits.
    KeepLast(u32),
    /// Keeps the first `n` unread messages; newer ones are dropped. The publisher never waits.
    DropNewest(u32),
    /// The publisher waits for room, at most until the deadline; then the message is dropped for
    /// this subscriber.
    Block {
        /// Most unread messages.
        depth: u32,
        /// How long a publisher waits for room.
        deadline: Duration,
    },
}

impl Overflow {
    /// Most unread messages.
    #[must_use]
    pub const fn depth(self) -> u32 {
        match self {
            Self::KeepLast(depth) | Self::DropNewest(depth) | Self::Block { depth, .. } => depth,
        }
    }

    pub(crate) const fn ring(self, held_max: u32) -> RingConfig {
        let mode = match self {
            Self::KeepLast(_) => Mode::Overwrite,
            Self::DropNewest(_) | Self::Block { .. } => Mode::Keep,
        };
        RingConfig {
            depth: self.depth(),
            mode,
            held_max,
            start: 0,
        }
    }

    pub(crate) const fn deadline(self) -> Option<Duration> {
        match self {
            Self::Block { deadline, .. } => Some(deadline),
            Self::KeepLast(_) | Self::DropNewest(_) => None,
        }
    }
}

/// A mailbox with a flag: pushing is rare, looking is a load.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    flags: AtomicU8,
    items: Mutex<Vec<T>>,
}

/// Items wait.
const FULL: u8 = 1;
/// The owner wants to be sent off the plain way at each message, for reasons of its own.
const PINNED: u8 = 2;

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            flags: AtomicU8::new(0),
            items: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn push(&self, item: T) {
        lock(&self.items).push(item);
        // Release: pairs with the Acquire in `is_full`; the items themselves are under the lock.
        self.flags.fetch_or(FULL, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        // Acquire: what was done before the push is visible to who takes it.
        self.flags.load(Ordering::Acquire) & FULL != 0
    }

    /// True if items wait, or the inbox is pinned: one look for both, so that what is pinned costs
    /// the others nothing.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        // Acquire: as in `is_full`.
        self.flags.load(Ordering::Acquire) != 0
    }

    /// Raises it for good.
    pub(crate) fn pin(&self) {
        // Relaxed: said and looked at by its owner.
        self.flags.fetch_or(PINNED, Ordering::Relaxed);
    }

    /// Takes out the first item that `is_it`.
    pub(crate) fn take_back(&self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let mut items = lock(&self.items);
        let idx = items.iter().position(is_it)?;
        Some(items.remove(idx))
    }

    pub(crate) fn take(&self) -> Vec<T> {
        // Lowered first: a push after the take raises it again.
        self.flags.fetch_and(!FULL, Ordering::Release);
        core::mem::take(&mut *lock(&self.items))
    }
}

/// Locks, also after a panic elsewhere: what these locks guard is valid after every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same, unless somebody else has it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// The sending end of a channel.
#[derive(Debug)]
pub(crate) struct TxChannel {
    pub(crate) key: ChannelKey,
    pub(crate) subscriber_name: String,
    pub(crate) producer: Producer,
    /// Tells the subscriber's side of a message.
    pub(crate) wake: Wake,
    /// How long to wait for room.
    pub(crate) deadline: Option<Duration>,
    /// True while a message waits for room here.
    pub(crate) is_blocked: bool,
    /// True if the subscriber merges it with others of our node, by their stamps.
    pub(crate) is_merged: bool,
    /// What its subscriber wants of what was sent before.
    pub(crate) history: Wanted,
    /// True if the driver has put that into the ring.
    pub(crate) is_begun: bool,
    /// True if the next message is for another node of its name.
    pub(crate) is_passed_over: bool,
    /// Messages that others of its name got. They do not count here: to its subscriber this
    /// channel's messages are numbered without them.
    pub(crate) passed_over: u64,
}

impl TxChannel {
    pub(crate) fn new(
        key: ChannelKey,
        subscriber_name: String,
        producer: Producer,
        wake: Wake,
        deadline: Option<Duration>,
        history: Wanted,
    ) -> Self {
        Self {
            key,
            subscriber_name,
            producer,
            wake,
            deadline,
            is_blocked: false,
            is_merged: false,
            history,
            is_begun: false,
            is_passed_over: false,
            passed_over: 0,
        }
    }
}

/// How the other side of a channel learns of a message.
#[derive(Debug)]
pub(crate) enum Wake {
    /// It looks into the ring itself, and sleeps at times.
    Bell(Ringer),
    /// The ring is one that a link empties.
    Link(LinkWake),
}

/// Has a link look at one of its rings.
#[derive(Debug)]
pub(crate) struct LinkWake {
    link: Arc<NetLink>,
    /// Messages and bytes since this publisher last wrote itself.
    unwritten: Cell<(usize, usize)>,
}

impl LinkWake {
    pub(crate) fn new(link: Arc<NetLink>) -> Self {
        let unwritten = Cell::default();
        Self { link, unwritten }
    }

    #[inline]
    fn wake(&self, len: usize) -> bool {
        let (messages, bytes) = self.unwritten.get();
        let (messages, bytes) = (messages + 1, bytes + len + MESSAGE_HEADER_BYTES);
        if bytes < WRITE_AFTER_BYTES || messages < WRITE_AFTER_MESSAGES {
            self.unwritten.set((messages, bytes));
            return self.link.kick(len);
        }
        self.unwritten.set((0, 0));
        self.link.write_along(len)
    }
}

impl Wake {
    /// After a message of `len` bytes is stored. True if it took a system call to wake somebody.
    #[inline]
    pub(crate) fn wake(&self, len: usize) -> bool {
        match self {
            Self::Bell(bell) => bell.ring_if_parked(),
            Self::Link(link) => link.wake(len),
        }
    }

    /// Makes room in the ring, if that is ours to do.
    #[inline]
    pub(crate) fn relieve(&self) {
        if let Self::Link(wake) = self {
            wake.link.relieve();
        }
    }
}

/// News for a publisher.
#[derive(Debug)]
pub(crate) enum PublisherEvent {
    Add(Box<TxChannel>),
    /// Its subscriber takes no more; samples of it may live on.
    Remove(ChannelKey),
    /// The process of that node is gone, and with it all samples.
    Died(NodeId),
    /// The publisher is closed.
    Over,
}

/// Where a publisher's new arena segments must go before a chunk in them is published.
#[derive(Debug)]
pub(crate) enum Outlet {
    Host {
        link: HostLink,
        channel: u64,
    },
    Net {
        link: Arc<NetLink>,
        channel: u64,
    },
    Local {
        subscriber: Arc<SubscriberShared>,
        channel: u64,
    },
}

impl Outlet {
    pub(crate) fn segment(&self, number: u32, segment: &Arc<Segment>) {
        match self {
            Self::Host { link, channel } => link.send_segment(*channel, number, segment),
            Self::Net { link, channel } => link.tell(FeedEvent::Segment {
                channel: *channel,
                number,
                block: Arc::clone(segment) as Arc<dyn Block>,
            }),
            Self::Local {
                subscriber,
                channel,
            } => subscriber.tell(SubscriberEvent::Segment {
                channel: *channel,
                number,
                block: Arc::clone(segment) as Arc<dyn Block>,
            }),
        }
    }

    pub(crate) fn segment_gone(&self, number: u32) {
        match self {
            Self::Host { link, channel } => link.send_segment_gone(*channel, number),
            Self::Net { link, channel } => {
                let channel = *channel;
                link.tell(FeedEvent::SegmentGone { channel, number });
            }
            Self::Local {
                subscriber,
                channel,
            } => {
                subscriber.tell(SubscriberEvent::SegmentGone {
                    channel: *channel,
                    number,
                });
            }
        }
    }

    pub(crate) fn closed(&self) {
        match self {
            Self::Host { link, channel } => link.send_closed(*channel),
            Self::Net { link, channel } => link.tell(FeedEvent::Closed { channel: *channel }),
            Self::Local {
                subscriber,
                channel,
            } => {
                subscriber.tell(SubscriberEvent::Closed {
                    channel: *channel,
                    reason: Loss::Left,
                });
            }
        }
    }
}

/// The segments of a publisher and who must know of them: under one lock, so that a channel that
/// comes and a segment that comes never miss each other.
#[derive(Debug, Default)]
pub(crate) struct Outlets {
    pub(crate) is_closed: bool,
    pub(crate) segments: Vec<(u32, Arc<Segment>)>,
    pub(crate) listeners: Vec<Listener>,
    /// Nodes of other processes whose subscribers went; they may hold samples until they die.
    left: Vec<NodeId>,
}

/// A subscriber as its publisher's node knows it.
#[derive(Debug)]
pub(crate) struct Listener {
    key: ChannelKey,
    pub(crate) outlet: Outlet,
    /// True when it has said that it can receive.
    is_ready: bool,
}

impl Outlets {
    fn ready_count(&self) -> usize {
        self.listeners
            .iter()
            .filter(|listener| listener.is_ready)
            .count()
    }
}

/// What the driver sees of a publisher.
#[derive(Debug)]
pub(crate) struct PublisherShared {
    pub(crate) endpoint: Endpoint,
    pub(crate) origin: Arc<Origin>,
    /// The node's, for all its publishers.
    pub(crate) order: Arc<Order>,
    pub(crate) inbox: Inbox<PublisherEvent>,
    pub(crate) outlets: Mutex<Outlets>,
    pub(crate) listeners: watch::Sender<usize>,
    /// Rung by subscribers that make room, and by the driver.
    pub(crate) bell: Event,
    pub(crate) bell_index: u32,
    pub(crate) counters: Arc<Counters>,
    /// What it keeps for subscribers that come later.
    pub(crate) history: Option<History>,
    /// How often it promised to send.
    pub(crate) promise: Arc<Promise>,
    /// How urgent its messages are on network links.
    pub(crate) priority: Priority,
}

impl PublisherShared {
    /// Messages sent so far: those before this number were offered to whoever listened by then.
    pub(crate) fn sent(&self) -> u64 {
        self.counters.value(Counter::Messages)
    }

    /// Adds a channel, with what its subscriber wants of the history. `introduce` tells the
    /// subscriber's side of it, of the segments there are, so that no message lies in one that it
    /// does not know, and of the number of the first message: as far as can be said, if nothing is
    /// in the channel yet. False if the publisher is closed.
    pub(crate) fn add(
        &self,
        mut channel: TxChannel,
        outlet: Outlet,
        introduce: impl FnOnce(&[(u32, Arc<Segment>)], u64),
    ) -> bool {
        let mut outlets = lock(&self.outlets);
        if outlets.is_closed {
            return false;
        }
        let key = channel.key;
        outlets.listeners.push(Listener {
            key,
            outlet,
            is_ready: false,
        });
        let kept = self.history.as_ref().map(History::lock);
        let replayed = kept
            .as_ref()
            .and_then(|kept| kept.replay(channel.history, &mut channel.producer));
        channel.is_begun = replayed.is_some();
        // First: who is introduced may be answered by this publisher at once, as callers are.
        self.inbox.push(PublisherEvent::Add(Box::new(channel)));
        drop(kept);
        introduce(&outlets.segments, replayed.unwrap_or_else(|| self.sent()));
        true
    }

    /// The subscriber of a channel can receive: it counts as a listener from now on.
    pub(crate) fn ready(&self, key: ChannelKey) {
        let mut outlets = lock(&self.outlets);
        let listener = outlets
            .listeners
            .iter_mut()
            .find(|listener| listener.key == key);
        if let Some(listener) = listener {
            listener.is_ready = true;
        }
        let count = outlets.ready_count();
        drop(outlets);
        self.listeners.send_replace(count);
    }

    /// Takes a channel away: its subscriber is gone.
    pub(crate) fn remove(&self, key: ChannelKey) {
        let mut outlets = lock(&self.outlets);
        outlets.listeners.retain(|listener| listener.key != key);
        let count = outlets.ready_count();
        // A publisher that does not send takes no news: what it never saw it need not forget, and
        // is not kept until then.
        let is_its = |event: &PublisherEvent| match event {
            PublisherEvent::Add(channel) => channel.key == key,
            PublisherEvent::Remove(_) | PublisherEvent::Died(_) | PublisherEvent::Over => false,
        };
        if self.inbox.take_back(is_its).is_none() {
            self.inbox.push(PublisherEvent::Remove(key));
        }
        drop(outlets);
        self.listeners.send_replace(count);
        // Wakes a publisher that waits for room in this channel.
        self.bell.signal();
    }

    /// As [`remove`](Self::remove), of a subscriber in another process of this host: what it holds
    /// comes back at the latest when [that dies](Self::died).
    pub(crate) fn leave(&self, key: ChannelKey) {
        let mut outlets = lock(&self.outlets);
        if !outlets.left.contains(&key.subscriber_node) {
            outlets.left.push(key.subscriber_node);
        }
        drop(outlets);
        self.remove(key);
    }

    /// The process of a node on this host is gone.
    pub(crate) fn died(&self, node: NodeId) {
        let mut outlets = lock(&self.outlets);
        let count = outlets.left.len();
        outlets.left.retain(|left| *left != node);
        if outlets.left.len() != count {
            self.inbox.push(PublisherEvent::Died(node));
        }
    }

    /// Tells every subscriber that nothing more comes, and the publisher that nothing more goes.
    pub(crate) fn close(&self) {
        let mut outlets = lock(&self.outlets);
        outlets.is_closed = true;
        for listener in outlets.listeners.drain(..) {
            listener.outlet.closed();
        }
        self.inbox.push(PublisherEvent::Over);
        drop(outlets);
        self.listeners.send_replace(0);
        // Wakes a publisher that waits for room.
        self.bell.signal();
    }
}

/// The receiving end of a channel.
#[derive(Debug)]
pub(crate) struct RxChannel {
    pub(crate) channel: u64,
    pub(crate) consumer: Consumer,
    /// True when nothing more comes than what is in the ring.
    pub(crate) is_closed: bool,
    /// What fills the ring, over a network.
    pub(crate) link: Option<Arc<NetLink>>,
    /// Its counts alone, of a subscription to several topics.
    pub(crate) share: Option<Box<Counters>>,
}

impl RxChannel {
    pub(crate) fn new(channel: u64, consumer: Consumer) -> Self {
        Self {
            channel,
            consumer,
            is_closed: false,
            link: None,
            share: None,
        }
    }

    pub(crate) fn add_segment(&mut self, number: u32, block: Arc<dyn Block>) {
        if let Err(error) = self.consumer.add_segment(number, block) {
            tracing::warn!(target: "shmesh::channel", %error, "segment refused");
        }
    }
}

/// News for a subscriber.
pub(crate) enum SubscriberEvent {
    Add(Box<RxChannel>),
    Segment {
        channel: u64,
        number: u32,
        block: Arc<dyn Block>,
    },
    SegmentGone {
        channel: u64,
        number: u32,
    },
    Closed {
        channel: u64,
        reason: Loss,
    },
    /// The node is closed.
    Over,
}

impl std::fmt::Debug for SubscriberEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, channel) = match self {
            Self::Add(added) => ("Add", added.channel),
            Self::Segment { channel, .. } => ("Segment", *channel),
            Self::SegmentGone { channel, .. } => ("SegmentGone", *channel),
            Self::Closed { channel, .. } => ("Closed", *channel),
            Self::Over => return write!(f, "Over"),
        };
        write!(f, "{what}({channel})")
    }
}

/// What the driver sees of a subscriber.
#[derive(Debug)]
pub(crate) struct SubscriberShared {
    pub(crate) endpoint: Endpoint,
    /// Further names and patterns, each an endpoint of its own.
    pub(crate) also: Vec<Endpoint>,
    pub(crate) overflow: Overflow,
    pub(crate) ring: RingConfig,
    /// Most messages it wants of those sent before it came.
    pub(crate) history: u32,
    /// Age in nanoseconds beyond which it does not want a message.
    pub(crate) lifespan_ns: Option<u64>,
    /// Its publishers, watched.
    pub(crate) watch: Arc<Watch>,
    pub(crate) inbox: Inbox<SubscriberEvent>,
    pub(crate) publishers: watch::Sender<usize>,
    pub(crate) bell: Event,
    pub(crate) bell_index: u32,
    pub(crate) counters: Arc<Counters>,
}

impl SubscriberShared {
    /// All that it subscribes to.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        std::iter::once(&self.endpoint).chain(&self.also)
    }

    /// True if it may have several topics, whose messages it gets in the order of their node.
    pub(crate) fn is_merging(&self) -> bool {
        !self.also.is_empty() || name::is_pattern(&self.endpoint.topic)
    }

    /// Leaves news and wakes the subscriber, whether it is parked or not: news are rare.
    pub(crate) fn tell(&self, event: SubscriberEvent) {
        let step = match &event {
            SubscriberEvent::Add(_) => 1,
            SubscriberEvent::Closed { .. } => -1,
            SubscriberEvent::Segment { .. }
            | SubscriberEvent::SegmentGone { .. }
            | SubscriberEvent::Over => 0,
        };
        self.watch.note(&event);
        self.inbox.push(event);
        self.bell.signal();
        // Last: who waits for a publisher may take this core from us at once, and must find it.
        self.publishers.send_if_modified(|count| {
            *count = count.saturating_add_signed(step);
            step != 0
        });
    }
}
