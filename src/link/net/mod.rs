//! The network link: one TCP connection between two nodes, on which frames and messages take turns.
//!
//! Whoever has something to do does it, under a lock that nobody waits for: a publisher's thread
//! writes its message itself while nothing else is going on; a receiver that spins reads the socket
//! itself; for all others the link's task (see `task`) reads, and writes what is left over. A
//! publisher that sends faster than it could write leaves the writing to the task, which gathers
//! what has come meanwhile: so small messages batch by themselves under load, and leave at once
//! without.

mod batch;
mod cut;
mod group;
mod reader;
pub(crate) mod task;
mod turns;
mod writer;

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use shmesh_shm::{BellPage, Event, Fencing, Ringer, monotonic_ns};
use tokio::sync::Notify;

pub(crate) use self::reader::{Pumped, Sink};
use self::reader::{READ_BYTES, Reader};
use self::writer::Writer;
pub(crate) use self::writer::{FEED_HELD_MAX, Feed, FeedEvent, Flushed};
use super::session::LinkFrame;
use super::wire::{self, Credit, Kind};
use crate::endpoint::{Inbox, lock, try_lock};
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{DIRECT_WRITE_BYTES_MAX, LINK_QUEUE_FRAMES_MAX, SPIN_LEASE_MS};
#[cfg(feature = "tls")]
use crate::tls::Channel;

/// A bell of the link's task, for whoever rings it.
#[derive(Debug)]
struct TaskBell {
    index: u32,
    event: Event,
}

#[derive(Debug)]
pub(crate) struct NetLink {
    peer: NodeId,
    socket: OwnedFd,
    /// What the socket carries, where it is not the frames themselves.
    #[cfg(feature = "tls")]
    channel: Option<Channel>,
    writer: Mutex<Writer>,
    reader: Mutex<Reader>,
    /// For the writer.
    news: Inbox<FeedEvent>,
    /// Frames among them.
    frames_waiting: AtomicUsize,
    /// Wakes the task for what is to be written.
    bell: Ringer,
    /// Wakes the task for room in a subscriber's ring.
    room: TaskBell,
    /// Frames for the driver wait in the reader.
    frames_there: AtomicBool,
    has_frames: Notify,
    /// Another second has passed. Said by the driver: a timer of the task's own would be set anew
    /// at each sleep, which costs as much as reading a message does.
    beat: Notify,
    /// Until when a receiver reads the socket itself, and until when it also writes what is left
    /// over, because it spins, by the monotonic clock.
    leased_until_ns: AtomicU64,
    spinning_until_ns: AtomicU64,
    /// True if the task has left the socket to that receiver, and looks again when its time is
    /// over.
    is_yielded: AtomicBool,
    /// The channel whose subscriber watches the socket itself while it sleeps, and when it last
    /// went to sleep. One at most: of several, each message would wake all.
    watcher: AtomicU64,
    watched_ns: AtomicU64,
    /// The task reads the socket again.
    unleased: Notify,
    /// When a receiver that spins last tried a full socket.
    spun_ns: AtomicU64,
    /// When something came from the peer.
    heard_ns: AtomicU64,
    /// True if the socket takes no more, until the kernel says that a good part of it is free: bit
    /// by bit, each write would be a few bytes.
    is_full: AtomicBool,
    /// True if something was left for the task to write: who spins may do it as well.
    is_left_over: AtomicBool,
    /// True if a peer may have no credit left for one of our subscribers.
    is_starved: AtomicBool,
    /// How publishers' own writes follow each other.
    haste: Mutex<Haste>,
}

/// Tells a message now and then from a stream: publishers write the first themselves.
#[derive(Debug, Default)]
struct Haste {
    ended_ns: u64,
    took_ns: u64,
    streak: u32,
}

/// A subscriber that has not gone to sleep for so long watches no more if another one would.
const WATCH_NS_MAX: u64 = 100_000_000;
/// How often a receiver that spins tries a full socket: more often, each write is a few bytes.
const FULL_RETRY_NS: u64 = 20_000;
/// Most bytes that a publisher writes while it waits for room.
const RELIEF_BYTES_MAX: usize = 1 << 20;
/// What a write of a small message takes; more is somebody else's time on this processor.
const WRITE_NS_MAX: u64 = 4_000;
/// Writes that may follow each other closely: an image and what belongs to it.
const STREAK_MAX: u32 = 3;

impl Haste {
    /// True if a write now would follow the one before by less time than that took.
    fn is_stream(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.ended_ns) > self.took_ns {
            self.streak = 0;
        } else {
            self.streak = (self.streak + 1).min(STREAK_MAX);
        }
        self.streak >= STREAK_MAX
    }
}

thread_local! {
    /// What a thread reads into, whatever link it reads.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl NetLink {
    /// Ringer for the subscribers of sinks: it wakes the task when they make room.
    pub(crate) fn room_ringer(
        &self,
        page: &BellPage,
        fencing: Fencing,
    ) -> Result<Arc<Ringer>, Error> {
        let event = self.room.event.try_clone()?;
        Ok(Arc::new(Ringer::local(
            page,
            self.room.index,
            event,
            fencing,
        )?))
    }

    pub(crate) fn peer(&self) -> NodeId {
        self.peer
    }

    /// To be called every [`HEARTBEAT_MS`](crate::limits::HEARTBEAT_MS).
    pub(crate) fn beat(&self) {
        self.beat.notify_one();
    }

    pub(crate) fn add_sink(&self, sink: Sink) {
        lock(&self.reader).add_sink(sink);
    }

    /// Takes a sink away; with which message it would have gone on.
    pub(crate) fn remove_sink(&self, channel: u64) -> Option<u64> {
        lock(&self.reader).remove_sink(channel)
    }

    /// See [`Reader::start`].
    pub(crate) fn start(&self, channel: u64, sequence: u64) {
        lock(&self.reader).start(channel, sequence);
    }

    /// Sends a frame, from any thread. A peer that does not read is cut off.
    pub(crate) fn send(&self, frame: &LinkFrame) {
        match wire::encode(Kind::Link, frame) {
            Ok(frame) => self.send_bytes(frame),
            Err(error) => tracing::error!(%error, "frame left out"),
        }
    }

    pub(crate) fn send_credit(&self, credit: Credit) {
        self.send_bytes(credit.encode().to_vec());
    }

    fn send_bytes(&self, frame: Vec<u8>) {
        // Relaxed, here and below: a bound, and a coarse one.
        let waiting = self.frames_waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= LINK_QUEUE_FRAMES_MAX {
            tracing::warn!(peer = %self.peer, "the peer does not read its link: cut off");
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
            return;
        }
        self.tell(FeedEvent::Frame(frame));
    }

    /// Gives the writer news, and has it look.
    pub(crate) fn tell(&self, event: FeedEvent) {
        self.news.push(event);
        self.kick(0);
    }

    /// Ends a feed. One that the writer has not taken in yet is not kept until it does: a peer that
    /// does not read could have us make one after the other.
    pub(crate) fn remove_feed(&self, channel: u64) {
        let is_its = |event: &FeedEvent| match event {
            FeedEvent::Add(feed) => feed.channel() == channel,
            _ => false,
        };
        if self.news.take_back(is_its).is_none() {
            self.tell(FeedEvent::Remove { channel });
        }
    }

    /// Something is to be written: a message of `len` bytes, or news. True if that took the waking
    /// of the task. Never blocks.
    pub(crate) fn kick(&self, len: usize) -> bool {
        // Awake, it looks again before it sleeps; and it waits for a full socket.
        if !self.bell.is_wanted() || self.is_full.load(Ordering::Relaxed) {
            // Unless it sleeps without a look at the socket, because a receiver spins.
            if self.is_yielded.load(Ordering::Relaxed) {
                self.is_left_over.store(true, Ordering::Release);
            }
            return false;
        }
        if len > DIRECT_WRITE_BYTES_MAX {
            return self.leave_to_task();
        }
        let started_ns = monotonic_ns();
        if try_lock(&self.haste).is_none_or(|mut haste| haste.is_stream(started_ns)) {
            return self.leave_to_task();
        }
        let flushed = self.try_flush(DIRECT_WRITE_BYTES_MAX);
        let ended_ns = monotonic_ns();
        if let Some(mut haste) = try_lock(&self.haste) {
            haste.ended_ns = ended_ns;
            haste.took_ns = (ended_ns - started_ns).min(WRITE_NS_MAX);
        }
        match flushed {
            Some(Flushed::Idle) => false,
            // Somebody else was at it, or it was not all: the task sees to the rest.
            _ => self.leave_to_task(),
        }
    }

    /// Writes what is there, for a publisher that has to wait until it is written: the task may be
    /// waiting for this very processor.
    pub(crate) fn relieve(&self) {
        // Credit may have come.
        self.try_pump();
        if self.is_full.load(Ordering::Relaxed) {
            return;
        }
        if let Some(Flushed::Blocked) = self.try_flush(RELIEF_BYTES_MAX) {
            self.bell.ring_if_parked();
        }
    }

    /// As [`kick`](Self::kick), for a publisher that has sent much since it last wrote itself.
    pub(crate) fn write_along(&self, len: usize) -> bool {
        if len <= DIRECT_WRITE_BYTES_MAX
            && !self.is_full.load(Ordering::Relaxed)
            && let Some(Flushed::Idle) = self.try_flush(RELIEF_BYTES_MAX)
        {
            return false;
        }
        self.kick(len)
    }

    fn leave_to_task(&self) -> bool {
        // Release: pairs with the Acquire in `flush`, which sees what was left.
        self.is_left_over.store(true, Ordering::Release);
        if self.is_yielded.load(Ordering::Relaxed) && self.is_spun() {
            // Woken, the task would wait for the processor of the one that spins.
            return false;
        }
        self.bell.ring_if_parked()
    }

    /// Writes what is there unless somebody else does.
    fn try_flush(&self, bytes_max: usize) -> Option<Flushed> {
        let mut writer = try_lock(&self.writer)?;
        Some(self.flush(&mut writer, bytes_max))
    }

    fn flush(&self, writer: &mut Writer, bytes_max: usize) -> Flushed {
        if self.news.is_full() {
            let news = self.news.take();
            let is_frame = |event: &&FeedEvent| matches!(event, FeedEvent::Frame(_));
            let count = news.iter().filter(is_frame).count();
            self.frames_waiting.fetch_sub(count, Ordering::Relaxed);
            writer.take_news(news);
        }
        if self.is_left_over.load(Ordering::Relaxed) {
            // Before it is gathered, so that it stays said of what comes meanwhile. Acquire: pairs
            // with the Release stores of those who leave something.
            self.is_left_over.swap(false, Ordering::Acquire);
        }
        if writer.is_ageing() {
            writer.now_ns = monotonic_ns();
        }
        let flushed = writer.flush(
            |slices| self.write(slices),
            || self.news.is_full(),
            bytes_max,
        );
        #[cfg(feature = "tls")]
        let flushed = match (flushed, &self.channel) {
            // What it has taken, but the socket has not.
            (Flushed::Idle, Some(channel)) => match channel.flush(&self.socket) {
                Ok(()) => Flushed::Idle,
                Err(Errno::AGAIN) => Flushed::Blocked,
                Err(errno) => writer::failed(errno),
            },
            (flushed, _) => flushed,
        };
        if matches!(flushed, Flushed::Enough) {
            self.is_left_over.store(true, Ordering::Release);
        }
        // Relaxed: under the lock; those who read it without do so for a hint.
        let is_full = matches!(flushed, Flushed::Blocked);
        self.is_full.store(is_full, Ordering::Relaxed);
        flushed
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
        #[cfg(feature = "tls")]
        if let Some(channel) = &self.channel {
            return channel.write(&self.socket, slices);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let none = &mut SendAncillaryBuffer::default();
        rustix::net::sendmsg(&self.socket, slices, none, flags)
    }

    /// Reads what is there, for a receiver that spins, and writes what others left over: the task
    /// leaves the socket to it meanwhile.
    /// At once back if somebody else reads.
    pub(crate) fn pump_spinning(&self) {
        let now_ns = monotonic_ns();
        let until_ns = now_ns + SPIN_LEASE_MS * 1_000_000;
        // Relaxed: hints. The task looks at them when it is woken in vain.
        self.leased_until_ns.store(until_ns, Ordering::Relaxed);
        self.spinning_until_ns.store(until_ns, Ordering::Relaxed);
        self.try_pump();
        // The task may be waiting for this very processor, also to hear that a full socket takes
        // more.
        let is_full = self.is_full.load(Ordering::Relaxed);
        if is_full || self.is_left_over.load(Ordering::Relaxed) {
            let last_ns = self.spun_ns.load(Ordering::Relaxed);
            if !is_full || now_ns.saturating_sub(last_ns) > FULL_RETRY_NS {
                self.spun_ns.store(now_ns, Ordering::Relaxed);
                self.try_flush(RELIEF_BYTES_MAX);
            }
        }
    }

    /// Reads what is there, for a receiver that watches the socket: the task leaves the reading to
    /// it while messages come often.
    pub(crate) fn pump_woken(&self) {
        let until_ns = monotonic_ns() + SPIN_LEASE_MS * 1_000_000;
        // Relaxed: as above.
        self.leased_until_ns.store(until_ns, Ordering::Relaxed);
        self.try_pump();
    }

    /// A receiver that spun goes to sleep: what is left over is the task's again.
    pub(crate) fn end_spin(&self) {
        // Relaxed: the notification orders it.
        if self.spinning_until_ns.load(Ordering::Relaxed) != 0 {
            self.spinning_until_ns.store(0, Ordering::Relaxed);
            self.unleased.notify_one();
        }
    }

    /// A subscriber goes to sleep in a runtime: true if it may watch the socket there, besides its
    /// bell, and read it as one that spins does. While messages come often they wake it without
    /// the task between them.
    pub(crate) fn claim_watch(&self, channel: u64) -> bool {
        let now_ns = monotonic_ns();
        // Relaxed, all of it: who watches is a matter of speed alone.
        let watcher = self.watcher.load(Ordering::Relaxed);
        let is_idle = now_ns.saturating_sub(self.watched_ns.load(Ordering::Relaxed)) > WATCH_NS_MAX;
        let is_ours = watcher == channel || watcher == 0 || is_idle;
        if is_ours {
            self.watcher.store(channel, Ordering::Relaxed);
            self.watched_ns.store(now_ns, Ordering::Relaxed);
        }
        is_ours
    }

    /// A second descriptor of the socket, to be watched.
    pub(crate) fn try_clone_socket(&self) -> std::io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// A receiver that has read the socket itself does so no more: the task takes over at once.
    pub(crate) fn end_lease(&self) {
        // Relaxed: the notification orders it.
        if self.leased_until_ns.load(Ordering::Relaxed) != 0 {
            self.leased_until_ns.store(0, Ordering::Relaxed);
            self.spinning_until_ns.store(0, Ordering::Relaxed);
            self.unleased.notify_one();
        }
    }

    /// Reads once unless somebody else does. An end of the link is the task's to see: it reads in
    /// its turn.
    fn try_pump(&self) {
        if let Some(mut reader) = try_lock(&self.reader) {
            self.pump(&mut reader);
        }
    }

    /// Reads once and passes on what came.
    fn pump(&self, reader: &mut Reader) -> Pumped {
        if reader.is_dating {
            reader.now_ns = monotonic_ns();
        }
        let pumped = SCRATCH.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                scratch.resize(READ_BYTES, 0);
            }
            reader.pump(scratch, |slices| self.read(slices))
        });
        // A channel gives a record at a time: a short read says nothing of the socket.
        #[cfg(feature = "tls")]
        let pumped = match pumped {
            Pumped::Drained(true) if self.channel.is_some() => Pumped::More,
            other => other,
        };
        if matches!(pumped, Pumped::Drained(true) | Pumped::More) {
            // Relaxed: a time, to be compared with another some seconds later.
            self.heard_ns.store(monotonic_ns(), Ordering::Relaxed);
        }
        if !reader.credits.is_empty() {
            self.take_credits(&mut reader.credits);
        }
        if reader.has_frames() {
            // Release: pairs with the Acquire in `Task::pass_frames`.
            self.frames_there.store(true, Ordering::Release);
            self.has_frames.notify_one();
        }
        match self.grant(reader) {
            Ok(()) => pumped,
            Err(error) => Pumped::Failed(error),
        }
    }

    /// Gives the credit that is due.
    fn grant(&self, reader: &mut Reader) -> Result<(), Error> {
        let granted = reader.grant(|credit| self.send_credit(credit));
        // Release: pairs with the Acquire in `replenish`.
        let is_starved = reader.is_out_of_credit();
        self.is_starved.store(is_starved, Ordering::Release);
        granted
    }

    /// A receiver that may read the socket itself has taken what there was and goes to sleep: what
    /// it took is credit that nobody gives before something else comes, which may need it.
    pub(crate) fn replenish(&self) {
        // Acquire: what was said of messages that were taken since.
        if !self.is_starved.load(Ordering::Acquire) {
            return;
        }
        match try_lock(&self.reader) {
            // An error is seen by who reads next.
            Some(mut reader) => drop(self.grant(&mut reader)),
            // Whoever reads may have looked at the ring before.
            None => self.room.event.signal(),
        }
    }

    /// Gives the writer credit; it looks for messages only if one of its feeds had none left.
    fn take_credits(&self, credits: &mut Vec<Credit>) {
        let Some(mut writer) = try_lock(&self.writer) else {
            for credit in credits.drain(..) {
                self.tell(FeedEvent::Credit(credit));
            }
            return;
        };
        let mut has_waited = false;
        for credit in credits.drain(..) {
            has_waited |= writer.credit(credit);
        }
        drop(writer);
        if has_waited {
            self.kick(0);
        }
    }

    fn read(&self, slices: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        #[cfg(feature = "tls")]
        if let Some(channel) = &self.channel {
            return channel.read(&self.socket, slices);
        }
        rustix::io::readv(&self.socket, slices)
    }

    fn is_spun(&self) -> bool {
        monotonic_ns() < self.spinning_until_ns.load(Ordering::Relaxed)
    }

    fn is_leased(&self) -> bool {
        monotonic_ns() < self.leased_until_ns.load(Ordering::Relaxed)
    }
}
