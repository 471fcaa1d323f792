//! A received message.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use shmesh_shm::{Received, monotonic_ns};

use crate::id::NodeId;
use crate::message::{Enveloped, Payload};
use crate::topology::TopicType;

/// A received message. It derefs to the value: `&Archived<T>` for typed topics, `&[u8]` for
/// [`Raw`](crate::Raw) and [`Untyped`](crate::Untyped) ones, `&T` for [`Coded`](crate::Coded) ones.
///
/// A large message lies in its publisher's memory until the sample is dropped, on any thread; it
/// may outlive its publisher. How many a subscriber may hold at once is set with
/// [`SubscriberBuilder::max_held`](crate::SubscriberBuilder::max_held).
pub struct Sample<P: Payload> {
    pub(crate) held: P::Held,
}

impl<P: Payload> Sample<P> {
    #[inline]
    pub(crate) fn received(&self) -> &Received {
        P::received(&self.held)
    }

    /// The message's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.received().bytes()
    }

    /// The number its publisher gave it: 0 for the publisher's first.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.received().sequence()
    }

    /// When it was sent: nanoseconds of `CLOCK_MONOTONIC`, which the processes of one host share.
    /// `None` if its publisher does not stamp, or is on another host. No two messages of a node
    /// have the same while a subscription to several topics listens.
    #[must_use]
    pub fn sent_ns(&self) -> Option<u64> {
        Some(self.received().sent_ns()).filter(|ns| is_sent(*ns))
    }

    /// How long ago it was sent. Reads the clock.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let sent_ns = self.sent_ns()?;
        Some(Duration::from_nanos(monotonic_ns().saturating_sub(sent_ns)))
    }

    /// Messages of this publisher that were lost between the one received before and this one.
    #[must_use]
    pub fn lost_before(&self) -> u64 {
        self.received().lost()
    }

    /// The topic it was sent to.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.received().origin().topic
    }

    /// What its publisher says that it is. Known once for all messages of the publisher, so it
    /// costs them nothing.
    ///
    /// # Panics
    /// Never: each channel is made with its type.
    #[must_use]
    pub fn topic_type(&self) -> &TopicType {
        let about = self.received().origin().about.as_deref();
        let ty = about.and_then(|about| about.downcast_ref());
        ty.expect("invariant: `NodeShared` and `Channels::ask` make origins with a type")
    }

    /// The name of the node that sent it.
    #[must_use]
    pub fn publisher_name(&self) -> &str {
        &self.received().origin().node_name
    }

    /// Which publisher sent it: its node, and its number inside that node.
    #[must_use]
    pub fn publisher_id(&self) -> (NodeId, u32) {
        let origin = self.received().origin();
        (NodeId(origin.node), origin.endpoint)
    }
}

impl<P: Payload> Sample<Enveloped<P>> {
    pub(crate) fn into_received(self) -> Received {
        self.held.into_received()
    }
}

/// Marks a time in nanoseconds as that of arrival: the publisher's clock is another one.
pub(crate) const ARRIVED: u64 = 1 << 63;

/// True if a time is that of sending, by a clock that this host shares.
#[inline(always)]
pub(crate) const fn is_sent(ns: u64) -> bool {
    // 0, without a time, comes to be the largest.
    ns.wrapping_sub(1) < ARRIVED - 1
}

impl<P: Payload> Deref for Sample<P> {
    type Target = P::View;
    #[inline]
    fn deref(&self) -> &P::View {
        P::value(&self.held)
    }
}

impl<P: Payload> fmt::Debug for Sample<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("publisher", &self.received().origin().node_name)
            .field("sequence", &self.sequence())
            .field("bytes", &self.bytes().len())
            .field("lost_before", &self.lost_before())
            .finish_non_exhaustive()
    }
}
