//! What a subscription asks for beside its overflow; the newest message of all; the order in which
//! a publisher's channels are read.

use std::time::Duration;

use shmesh_shm::{Counter, Origin, monotonic_ns};

use super::{Subscriber, SubscriberBuilder};
use crate::endpoint::RxChannel;
use crate::error::RecvError;
use crate::events::Events;
use crate::message::Payload;
use crate::sample::{ARRIVED, Sample};

/// How much a subscription wants of what was sent before it came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Before {
    #[default]
    Nothing,
    Last(u32),
    /// As much as it has room for.
    All,
}

impl Before {
    /// Most messages, for a subscription of that depth.
    pub(super) const fn count(self, depth: u32) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Last(count) => count,
            Self::All => depth,
        }
    }
}

impl<P: Payload> SubscriberBuilder<P> {
    /// The same settings, for another subscription.
    pub(crate) fn again(&self) -> Self {
        Self {
            node: self.node.clone(),
            setup: self.setup.clone(),
            validation: self.validation,
            before: self.before,
            carries: self.carries,
        }
    }

    /// Asks each publisher for its last messages, as many as this subscription has room for
    /// (`KeepLast(n)` and so on). Publishers built with
    /// [`history`](crate::PublisherBuilder::history) have some; they come first, in order, and
    /// none twice. What was sent before them does not count as lost.
    pub fn latched(mut self) -> Self {
        self.before = Before::All;
        self
    }

    /// The same, but at most `count` messages of each publisher; not more than there is room for.
    pub fn history(mut self, count: u32) -> Self {
        self.before = Before::Last(count);
        self
    }

    /// Messages that are older than that when they are taken are dropped, and count as
    /// [`lost_expired`](super::SubscriberStats::lost_expired). Costs a reading of the clock for
    /// each message, about 22 ns.
    ///
    /// On one host the age counts from the sending, so publishers must stamp: a message without a
    /// time is [`RecvError::Undated`]. Clocks of other hosts are other ones: there it counts from
    /// the arrival at this host. Over a network messages that have waited that long in the
    /// sender's queue are not sent any more; these count as `lost_dropped`.
    pub fn lifespan(mut self, lifespan: Duration) -> Self {
        self.setup.lifespan = Some(lifespan);
        self
    }

    /// Expects a message of each publisher at least that often; otherwise
    /// [`events`](Subscriber::events) say so. It counts from the sending on one host, where
    /// publishers stamp. Else it counts from when the node's thread saw a message, which comes by
    /// once in that time, and a missed deadline is told of by up to as much later.
    ///
    /// Messages cost no more by this.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.setup.deadline = Some(deadline);
        self
    }
}

impl<P: Payload> Subscriber<P> {
    /// What happens to its publishers, since it was made: they come, go, and miss the deadline.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::of(&self.shared.watch.queue)
    }

    /// The next message that is not too old. Those that are count as lost.
    #[inline(never)]
    pub(super) fn take_fresh(&mut self, lifespan_ns: u64) -> Result<Option<Sample<P>>, RecvError> {
        loop {
            if self.shared.inbox.is_full() {
                self.take_events();
            }
            let Some(sample) = self.take_next()? else {
                return Ok(None);
            };
            let since_ns = sample.received().sent_ns();
            let age_ns = monotonic_ns().saturating_sub(since_ns & !ARRIVED);
            if since_ns != 0 && age_ns <= lifespan_ns {
                return Ok(Some(sample));
            }
            self.received -= 1;
            self.past.expired += 1;
            let counters = &self.shared.counters;
            counters.set(Counter::Messages, self.received);
            counters.set(Counter::LostExpired, self.past.expired);
            if since_ns == 0 {
                return Err(RecvError::Undated {
                    topic: self.shared.endpoint.topic.clone(),
                    publisher: sample.publisher_name().to_owned(),
                    sequence: sample.sequence(),
                });
            }
        }
    }

    /// Takes all messages that are there, gives the newest, and drops the others: they count as
    /// [`skipped`](super::SubscriberStats::skipped). `None` if nothing came since the last time:
    /// keep the sample for as long as it is the value. Of several publishers it is the message
    /// sent last, as far as their times tell, else the one that was taken last.
    ///
    /// Never sleeps; takes at most the depth of messages from each publisher.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv), but that one more sample than the newest must be free to
    /// be held; what was taken before an error is dropped.
    pub fn latest(&mut self) -> Result<Option<Sample<P>>, RecvError> {
        let mut newest: Option<Sample<P>> = None;
        let mut left = None;
        loop {
            let found = match self.try_recv() {
                // Perhaps it is ours: the older one goes first.
                Err(RecvError::TooManyHeld { .. }) if newest.is_some() => {
                    newest = None;
                    self.skip();
                    self.try_recv()
                }
                found => found,
            };
            let sample = match found {
                Ok(Some(sample)) => sample,
                Ok(None) => return Ok(newest),
                Err(RecvError::Closed) if newest.is_some() => return Ok(newest),
                Err(error) => {
                    if newest.is_some() {
                        self.skip();
                    }
                    return Err(error);
                }
            };
            let is_newer = |known: &Sample<P>| match (known.sent_ns(), sample.sent_ns()) {
                (Some(known), Some(found)) => found >= known,
                _ => true,
            };
            if newest.is_some() {
                self.skip();
            }
            if newest.as_ref().is_none_or(is_newer) {
                newest = Some(sample);
            }
            let left = left.get_or_insert_with(|| {
                self.channels.len() as u64 * u64::from(self.shared.ring.depth)
            });
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Ok(newest);
            }
        }
    }

    /// Notes how long a message has been on its way.
    #[cold]
    pub(super) fn measure(&mut self, idx: usize, sent_ns: u64) {
        let now_ns = monotonic_ns();
        self.stride.measured(self.received, now_ns);
        let latency_ns = now_ns.saturating_sub(sent_ns);
        self.shared.counters.record(latency_ns);
        if let Some(share) = &self.channels[idx].share {
            share.record(latency_ns);
        }
    }

    /// A message that counted as received is passed over.
    fn skip(&mut self) {
        self.received -= 1;
        self.past.skipped += 1;
        let counters = &self.shared.counters;
        counters.set(Counter::Messages, self.received);
        counters.set(Counter::Skipped, self.past.skipped);
    }

    /// Takes in a channel. One that follows an older one of its publisher, whose link is gone,
    /// waits until that is read to its end: messages stay in order.
    pub(super) fn admit(&mut self, mut channel: RxChannel) {
        if self.merged.is_some() {
            let topic = &channel.consumer.origin().topic;
            let share = self.node.shared().share(self.shared.endpoint.id, topic);
            channel.share = share.map(Box::new);
        }
        let origin = channel.consumer.origin();
        let is_older = |known: &RxChannel| known.is_closed && known.consumer.origin() == origin;
        if self.channels.iter().any(is_older) {
            self.successors.push(channel);
        } else {
            self.changes.count += 1;
            self.channels.push(channel);
            self.merge_last();
        }
    }

    /// A channel of that publisher was read to its end.
    pub(super) fn succeed(&mut self, origin: &Origin) {
        let is_next = |channel: &RxChannel| channel.consumer.origin() == origin;
        if let Some(idx) = self.successors.iter().position(is_next) {
            self.changes.count += 1;
            self.channels.push(self.successors.remove(idx));
            self.merge_last();
            self.is_networked |= self.channels.iter().any(|channel| channel.link.is_some());
        }
    }
}
