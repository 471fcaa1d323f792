//! The receiving end of a topic, or of several (see `merged`).
//!
//! One subscriber, three ways to wait: `try_recv` and `recv_spin` never sleep, `recv_blocking`
//! sleeps in the kernel and needs no runtime, `recv` and the `Stream` sleep in tokio. All of them
//! take from the same rings, so they may be mixed.

mod changes;
mod delivery;
mod merged;
mod watch;

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_core::Stream;
use shmesh_shm::{Counter, Parker, Received};

use self::changes::Changes;
use self::delivery::Before;
use self::merged::Merged;
use self::watch::{Place, Reading, Watch, Watched};
use crate::endpoint::{Overflow, RxChannel, SubscriberEvent, SubscriberShared};
use crate::error::{Error, RecvError};
use crate::id::NodeId;
use crate::message::{InvalidPayload, Payload, Validation};
use crate::metrics::Stride;
use crate::node::{Node, SubscriberSetup};
use crate::sample::{Sample, is_sent};
use crate::wait::{AsyncBell, Pace, Rhythm};

/// Sets up a [`Subscriber`]; made by [`Node::subscriber`](crate::Node::subscriber).
#[derive(Debug)]
#[must_use = "call build() to subscribe"]
pub struct SubscriberBuilder<P> {
    pub(crate) node: Node,
    pub(crate) setup: SubscriberSetup,
    validation: Validation,
    before: Before,
    carries: PhantomData<fn() -> P>,
}

impl<P: Payload> SubscriberBuilder<P> {
    pub(crate) fn new(node: Node, topic: &str) -> Self {
        let setup = SubscriberSetup {
            topics: vec![topic.into()],
            overflow: Overflow::KeepLast(crate::limits::DEPTH_DEFAULT),
            held_max: crate::limits::HELD_DEFAULT,
            history: 0,
            lifespan: None,
            deadline: None,
        };
        Self {
            node,
            setup,
            validation: Validation::default(),
            before: Before::default(),
            carries: PhantomData,
        }
    }

    /// What happens when this subscriber does not keep up, and how many unread messages it may
    /// have, from 1 to 65,536. `KeepLast(16)` unless set.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.setup.overflow = overflow;
        self
    }

    /// How many large messages it may hold at once, per publisher; 8 unless set.
    pub fn max_held(mut self, count: u32) -> Self {
        self.setup.held_max = count;
        self
    }

    /// How received bytes are checked; in place unless set.
    pub fn validation(mut self, validation: Validation) -> Self {
        self.validation = validation;
        self
    }

    /// Subscribes. Publishers that exist already, and those that come later, are found on their
    /// own. Does not wait for any.
    ///
    /// # Errors
    /// A topic name, depth or history out of bounds; no memory or descriptors; a closed node.
    pub fn build(mut self) -> Result<Subscriber<P>, Error> {
        self.setup.history = self.before.count(self.setup.overflow.depth());
        let (shared, parker) = self.node.add_subscriber(self.setup, P::topic_type())?;
        if shared.lifespan_ns.is_some() {
            shared.inbox.pin();
        }
        Ok(Subscriber {
            node: self.node,
            merged: shared.is_merging().then(Box::default),
            shared,
            channels: Vec::new(),
            successors: Vec::new(),
            turn: 0,
            is_networked: false,
            is_over: false,
            parker,
            bell: AsyncBell::default(),
            watch: None,
            rhythm: Rhythm::default(),
            pace: Pace::default(),
            validation: self.validation,
            past: Past::default(),
            received: 0,
            stride: Stride::default(),
            reading: Reading::default(),
            changes: Changes::default(),
            carries: PhantomData,
        })
    }
}

/// What was lost on channels that are no more.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    overwritten: u64,
    dropped: u64,
    invalid: u64,
    expired: u64,
    skipped: u64,
}

/// Counts of a subscriber since it was made. `received + skipped + lost` is what its publishers
/// sent to it, as far as it has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberStats {
    /// Messages delivered.
    pub received: u64,
    /// Messages that came, but were passed over for newer ones by [`Subscriber::latest`].
    pub skipped: u64,
    /// Messages lost, for whatever reason.
    pub lost: u64,
    /// Of these, overwritten before they were read (`KeepLast`).
    pub lost_overwritten: u64,
    /// Of these, refused because there was no room (`DropNewest`, `Block` past its deadline).
    pub lost_dropped: u64,
    /// Of these, delivered by the ring but no valid value of the type.
    pub lost_invalid: u64,
    /// Of these, older than the lifespan when they were taken, or without a time to tell.
    pub lost_expired: u64,
    /// Large messages held now.
    pub held: usize,
    /// Publishers it is connected to now.
    pub publishers: usize,
}

/// The receiving end of a topic. One thread at a time; samples may go anywhere.
#[derive(Debug)]
pub struct Subscriber<P: Payload> {
    node: Node,
    shared: Arc<SubscriberShared>,
    channels: Vec<RxChannel>,
    /// Channels whose publisher has an older one that is closed but not read to its end.
    successors: Vec<RxChannel>,
    /// Where the next look starts, so that no publisher is starved by another.
    turn: usize,
    /// How they are merged, if it may have several topics.
    merged: Option<Box<Merged>>,
    /// True if some of them come over a network.
    is_networked: bool,
    /// True when the node is closed.
    is_over: bool,
    parker: Parker,
    bell: AsyncBell,
    watch: Option<Watch>,
    rhythm: Rhythm,
    pace: Pace,
    validation: Validation,
    past: Past,
    received: u64,
    /// Whose latency is measured.
    stride: Stride,
    reading: Reading,
    changes: Changes,
    carries: PhantomData<fn() -> P>,
}

impl<P: Payload> Subscriber<P> {
    /// The topic's name; of several the first, which may be a pattern.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.shared.endpoint.topic
    }

    /// Takes the next message if there is one. Never sleeps, makes no system call, and does not
    /// allocate (but with [`Validation::Copied`], while more samples are held than ever before, and
    /// for what is decoded, see [`Coded`](crate::Coded)). After four or more messages in a row it
    /// takes a microsecond to say that there is none: a stream's publisher then is not disturbed
    /// at each message.
    ///
    /// # Errors
    /// [`RecvError::TooManyHeld`] if a large message waits and this subscriber holds as many as it
    /// may; [`RecvError::Invalid`] if the message is no value of the type, [`RecvError::Undated`]
    /// if it has no time and the subscription a lifespan: it counts as lost.
    /// [`RecvError::Closed`] once the node is closed and all that had come is read.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Sample<P>>, RecvError> {
        if self.shared.inbox.is_raised() {
            if let Some(lifespan_ns) = self.shared.lifespan_ns {
                return self.take_fresh(lifespan_ns);
            }
            self.take_events();
        }
        self.take_next()
    }

    #[inline(always)]
    fn take_next(&mut self) -> Result<Option<Sample<P>>, RecvError> {
        if self.merged.is_some() {
            return self.try_merged();
        }
        let count = self.channels.len();
        for step in 0..count {
            let mut idx = self.turn + step;
            if idx >= count {
                idx -= count;
            }
            let consumer = &mut self.channels[idx].consumer;
            if !consumer.is_ready() {
                continue;
            }
            match consumer.try_next() {
                Ok(Some(received)) => {
                    self.pace.found();
                    self.turn = if idx + 1 == count { 0 } else { idx + 1 };
                    return self.finish(idx, received).map(Some);
                }
                Ok(None) => {}
                Err(corrupt) => return Err(self.give_up(idx, corrupt)),
            }
        }
        if count > 0 {
            self.pace.found_nothing();
            if let Some(sample) = self.nothing_there()? {
                return Ok(Some(sample));
            }
        } else if self.is_over {
            self.changes.report::<()>()?;
            return Err(RecvError::Closed);
        }
        self.changes.report()
    }

    /// Takes the next message, looking for it without sleeping: the lowest latency, for a whole
    /// core. Over a network it reads the socket itself, one system call for each look.
    ///
    /// # Errors
    /// [`RecvError::Timeout`] after `timeout`, else as [`try_recv`](Self::try_recv).
    pub fn recv_spin(&mut self, timeout: Duration) -> Result<Sample<P>, RecvError> {
        if let Some(sample) = self.try_recv()? {
            return Ok(sample);
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.may_find()
                    && let Some(sample) = self.try_recv()?
                {
                    return Ok(sample);
                }
                self.pump();
                std::hint::spin_loop();
            }
            if start.elapsed() >= timeout {
                self.end_pumping();
                return Err(RecvError::Timeout { timeout });
            }
        }
    }

    /// Takes the next message, sleeping on this thread until it comes. Needs no runtime. Spins
    /// for some microseconds first where messages lately came that quickly.
    ///
    /// # Errors
    /// [`RecvError::Timeout`] after `timeout`, else as [`try_recv`](Self::try_recv).
    pub fn recv_blocking(&mut self, timeout: Duration) -> Result<Sample<P>, RecvError> {
        if let Some(sample) = self.try_recv()? {
            return Ok(sample);
        }
        let start = Instant::now();
        if let Some(sample) = self.spin(start)? {
            return Ok(sample);
        }
        loop {
            // Looks again before sleeping: who publishes after this sees the parked word.
            self.watch(Place::Thread);
            self.park();
            let outcome = self
                .try_recv()
                .map(|found| found.map(Ok))
                .unwrap_or_else(|e| Some(Err(e)));
            if let Some(outcome) = outcome {
                self.parker.end_park();
                self.rhythm.waited(start.elapsed());
                return outcome;
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                self.parker.end_park();
                return Err(RecvError::Timeout { timeout });
            }
            let woken = self.parker.wait(Some(left));
            self.parker.end_park();
            if let Some(watch) = &self.watch {
                watch.link.pump_woken();
                self.reading.note_read();
            }
            woken.map_err(|error| RecvError::Wait(error.into()))?;
            if let Some(sample) = self.try_recv()? {
                self.rhythm.waited(start.elapsed());
                return Ok(sample);
            }
        }
    }

    /// Takes the next message, sleeping in tokio until it comes. Cancel-safe: a future that is
    /// dropped takes nothing with it.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub async fn recv(&mut self) -> Result<Sample<P>, RecvError> {
        let mut start = None;
        std::future::poll_fn(|cx| self.poll_recv(cx, &mut start)).await
    }

    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        start: &mut Option<Instant>,
    ) -> Poll<Result<Sample<P>, RecvError>> {
        loop {
            if let Some(sample) = self.try_recv()? {
                self.parker.end_park();
                if let Some(start) = start {
                    self.rhythm.waited(start.elapsed());
                }
                return Poll::Ready(Ok(sample));
            }
            if !self.parker.is_parked() {
                let began = *start.get_or_insert_with(Instant::now);
                if let Some(sample) = self.spin(began)? {
                    return Poll::Ready(Ok(sample));
                }
                // Looks again before sleeping: who publishes after this sees the parked word.
                self.watch(Place::Runtime);
                self.park();
                continue;
            }
            ready!(self.poll_woken(cx)).map_err(RecvError::from)?;
            self.parker.end_park();
        }
    }

    /// Ready when the bell was rung, or something came from the network that it watches itself.
    fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(Watch {
            link,
            socket: Watched::Runtime(socket),
        }) = &mut self.watch
            && let Poll::Ready(is_alive) = socket.poll_ready(cx)
        {
            // Awake: what it reads now need not ring for itself.
            self.parker.end_park();
            link.pump_woken();
            self.reading.note_read();
            if !is_alive {
                self.watch = None;
            }
            return Poll::Ready(Ok(()));
        }
        self.bell.poll_rung(cx, &self.parker)
    }

    fn park(&mut self) {
        match &self.watch {
            Some(watch) => watch.link.end_spin(),
            None => self.end_pumping(),
        }
        if self.is_networked {
            let links = self
                .channels
                .iter()
                .filter_map(|channel| channel.link.as_ref());
            links.for_each(|link| link.replenish());
        }
        // The rings of networks are filled by threads of this process. A channel that comes
        // meanwhile wakes whoever sleeps.
        if self.channels.iter().all(|channel| channel.link.is_some()) {
            self.parker.begin_park_inside();
        } else {
            self.parker.begin_park();
        }
        self.shared.counters.add(Counter::Parkings, 1);
        self.note_held();
    }

    fn note_held(&self) -> usize {
        let held = self
            .channels
            .iter()
            .map(|channel| channel.consumer.held())
            .sum();
        self.shared.counters.set(Counter::Held, held as u64);
        held
    }

    /// Spins for the next message if it is likely to come soon.
    fn spin(&mut self, start: Instant) -> Result<Option<Sample<P>>, RecvError> {
        let spin = self.rhythm.spin();
        if spin.is_zero() {
            return Ok(None);
        }
        let began = Instant::now();
        while began.elapsed() < spin {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.may_find()
                    && let Some(sample) = self.try_recv()?
                {
                    self.rhythm.waited(start.elapsed());
                    return Ok(Some(sample));
                }
                self.pump();
                std::hint::spin_loop();
            }
        }
        Ok(None)
    }

    /// The number of its first endpoint in its node.
    pub(crate) fn endpoint(&self) -> u32 {
        self.shared.endpoint.id
    }

    /// A publisher it is connected to, and whether over a network.
    pub(crate) fn any_publisher(&mut self) -> Option<(NodeId, bool)> {
        if self.shared.inbox.is_full() {
            self.take_events();
        }
        let channel = self.channels.first()?;
        let node = NodeId(channel.consumer.origin().node);
        Some((node, channel.link.is_some()))
    }

    /// True if messages wait, though perhaps none that can be taken now: where one lies may not be
    /// told yet, and those behind it wait with it.
    pub(crate) fn has_unread(&self) -> bool {
        let mut channels = self.channels.iter().chain(&self.successors);
        self.shared.inbox.is_full() || channels.any(|channel| channel.consumer.is_ready())
    }

    /// How many publishers it is connected to.
    #[must_use]
    pub fn publisher_count(&self) -> usize {
        *self.shared.publishers.borrow()
    }

    /// Waits until it is connected to a publisher, and readies what the first message will touch.
    /// Event-driven, no polling.
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is closed meanwhile.
    pub async fn wait_for_publisher(&mut self) -> Result<(), Error> {
        let mut publishers = self.shared.publishers.subscribe();
        let found = publishers.wait_for(|count| *count > 0);
        self.node.or_closed(found).await?;
        if self.shared.inbox.is_full() {
            self.take_events();
        }
        Ok(())
    }

    /// The same on this thread, without a runtime. Not to be called from async code.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `timeout`, [`Error::Closed`] if the node is closed meanwhile.
    pub fn wait_for_publisher_blocking(&mut self, timeout: Duration) -> Result<(), Error> {
        crate::node::block_on(timeout, self.wait_for_publisher())?
    }

    /// Counts since it was made.
    #[must_use]
    pub fn stats(&self) -> SubscriberStats {
        let lost = self.note_lost();
        SubscriberStats {
            received: self.received,
            skipped: lost.skipped,
            lost: lost.overwritten + lost.dropped + lost.invalid + lost.expired,
            lost_overwritten: lost.overwritten,
            lost_dropped: lost.dropped,
            lost_invalid: lost.invalid,
            lost_expired: lost.expired,
            held: self.note_held(),
            publishers: self.publisher_count(),
        }
    }

    /// What was lost on all channels, those that are no more too.
    #[inline(never)]
    fn note_lost(&self) -> Past {
        let mut lost = self.past;
        for channel in &self.channels {
            let (overwritten, dropped) =
                (channel.consumer.overwritten(), channel.consumer.dropped());
            lost.overwritten += overwritten;
            lost.dropped += dropped;
            if let Some(share) = &channel.share {
                share.set(Counter::LostOverwritten, overwritten);
                share.set(Counter::LostDropped, dropped);
            }
        }
        let counters = &self.shared.counters;
        counters.set(Counter::LostOverwritten, lost.overwritten);
        counters.set(Counter::LostDropped, lost.dropped);
        lost
    }

    /// Counts what was received, and finds its value.
    #[inline(always)]
    fn finish(&mut self, idx: usize, received: Received) -> Result<Sample<P>, RecvError> {
        if received.lost() > 0 {
            self.note_lost();
        }
        if self.stride.is_due(self.received) && is_sent(received.sent_ns()) {
            self.measure(idx, received.sent_ns());
        }
        let counters = &self.shared.counters;
        counters.add(Counter::Bytes, received.len() as u64);
        let sequence = received.sequence();
        match P::find(received, self.validation) {
            Ok(held) => {
                self.received += 1;
                counters.set(Counter::Messages, self.received);
                Ok(Sample { held })
            }
            Err(invalid) => Err(self.refuse(idx, sequence, invalid)),
        }
    }

    #[cold]
    fn refuse(&mut self, idx: usize, sequence: u64, invalid: InvalidPayload) -> RecvError {
        self.past.invalid += 1;
        self.shared.counters.add(Counter::LostInvalid, 1);
        let origin = self.channels[idx].consumer.origin();
        RecvError::Invalid {
            topic: origin.topic.clone(),
            publisher: origin.node_name.clone(),
            sequence,
            reason: invalid.0,
        }
    }

    /// No ring gave a message: says so, unless one could not because of samples that are held,
    /// or is closed and empty and can go.
    #[inline]
    fn nothing_there(&mut self) -> Result<Option<Sample<P>>, RecvError> {
        let is_final = |channel: &RxChannel| channel.is_closed || channel.consumer.is_ready();
        if self.channels.iter().any(is_final) {
            self.settle()
        } else {
            Ok(None)
        }
    }

    #[cold]
    fn settle(&mut self) -> Result<Option<Sample<P>>, RecvError> {
        let mut idx = 0;
        while idx < self.channels.len() {
            let channel = &mut self.channels[idx];
            if channel.consumer.is_ready() {
                if channel.consumer.is_at_held_max() {
                    let held = channel.consumer.held();
                    self.note_held();
                    return Err(RecvError::TooManyHeld {
                        held,
                        max: self.shared.ring.held_max,
                    });
                }
                if !channel.is_closed {
                    // A message came just now, or its segment is still on the way.
                    idx += 1;
                    continue;
                }
                match channel.consumer.next_or_skip() {
                    Ok(Some(received)) => return self.finish(idx, received).map(Some),
                    Ok(None) => self.retire(idx),
                    Err(corrupt) => return Err(self.give_up(idx, corrupt)),
                }
            } else if channel.is_closed {
                self.retire(idx);
            } else {
                idx += 1;
            }
        }
        Ok(None)
    }

    fn retire(&mut self, idx: usize) {
        let channel = self.channels.swap_remove(idx);
        self.changes.count += 1;
        self.past.overwritten += channel.consumer.overwritten();
        self.past.dropped += channel.consumer.dropped();
        self.turn = 0;
        self.unmerge(idx);
        self.succeed(channel.consumer.origin());
        self.shared
            .counters
            .set(Counter::Peers, self.channels.len() as u64);
    }

    #[cold]
    fn give_up(&mut self, idx: usize, corrupt: shmesh_shm::Corrupt) -> RecvError {
        let channel = &self.channels[idx];
        let publisher = channel.consumer.origin().node_name.clone();
        let number = channel.channel;
        self.retire(idx);
        self.node.detach(number);
        RecvError::Corrupt {
            publisher,
            reason: corrupt.0,
        }
    }

    #[cold]
    fn take_events(&mut self) {
        for event in self.shared.inbox.take() {
            match event {
                SubscriberEvent::Add(mut channel) => {
                    channel.consumer.warm();
                    self.admit(*channel);
                }
                SubscriberEvent::Segment {
                    channel,
                    number,
                    block,
                } => {
                    if let Some(found) = self.find(channel) {
                        found.add_segment(number, block);
                    }
                }
                SubscriberEvent::SegmentGone { channel, number } => {
                    if let Some(found) = self.find(channel) {
                        found.consumer.remove_segment(number);
                    }
                }
                SubscriberEvent::Closed { channel, .. } => {
                    if let Some(found) = self.find(channel) {
                        found.is_closed = true;
                    }
                }
                SubscriberEvent::Over => self.is_over = true,
            }
        }
        self.is_networked = self.channels.iter().any(|channel| channel.link.is_some());
        self.shared
            .counters
            .set(Counter::Peers, self.channels.len() as u64);
    }

    fn find(&mut self, channel: u64) -> Option<&mut RxChannel> {
        let all = self.channels.iter_mut().chain(&mut self.successors);
        all.into_iter().find(|found| found.channel == channel)
    }
}

/// Messages as a stream. It does not end; take from it as long as you like.
impl<P: Payload> Stream for Subscriber<P> {
    type Item = Result<Sample<P>, RecvError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(cx, &mut None).map(Some)
    }
}

impl<P: Payload> Drop for Subscriber<P> {
    fn drop(&mut self) {
        self.node.remove_subscriber(&self.shared);
    }
}

/// How often a spinning receiver looks between two readings of the clock.
const LOOKS_PER_CLOCK: u32 = 64;
