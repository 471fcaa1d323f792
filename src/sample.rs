//! A received message.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use shmesh_shm::{Received, monotonic_ns};

use crate::id::NodeId;
use crate::message::{Enveloped, Payload};

/// A received message. It derefs to the value: `&Archived<T>` for typed topics, `&[u8]` for
/// [`Raw`](crate::Raw) ones, `&T` for [`Coded`](crate::Coded) ones.
///
/// A large message lies in its publisher's memory until the sample is dropped, on any thread; it
/// may outlive its publisher. How many a subscriber may hold at once is set with
/// [`SubscriberBuilder::max_held`](crate::SubscriberBuilder::max_held).
pub struct Sample<P: Payload> {
    pub(crate) held: P::Held,
}

impl<P: Payload> Sample<P> {
    #[inline]
    fn received(&self) -> &Received {
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
    /// `None` if its publisher does not stamp, or is on another host.
    #[must_use]
    pub fn sent_ns(&self) -> Option<u64> {
        Some(self.received().sent_ns()).filter(|sent_ns| *sent_ns != 0)
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
