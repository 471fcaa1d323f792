//! Channels that came or went, for receivers that must know of it: the two ends of a service.

use tokio::sync::watch;

use super::Subscriber;
use crate::error::RecvError;
use crate::id::NodeId;
use crate::message::Payload;

/// What is known of channels that came or went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    pub(super) count: u64,
    /// As of the last report.
    reported: u64,
    /// True if they are to be reported, by an error, when no message is there.
    is_reporting: bool,
}

impl Changes {
    /// What to say when no message is there.
    #[inline]
    pub(super) fn report<T>(&mut self) -> Result<Option<T>, RecvError> {
        if self.is_reporting && self.count != self.reported {
            self.reported = self.count;
            return Err(RecvError::Changed);
        }
        Ok(None)
    }
}

impl<P: Payload> Subscriber<P> {
    /// Has every way to receive end with [`RecvError::Changed`] once after channels came or went,
    /// when all there was of them is read.
    pub(crate) fn report_changes(&mut self) {
        self.changes.is_reporting = true;
    }

    /// How often channels came or went; takes in what is new.
    #[inline]
    pub(crate) fn changes(&mut self) -> u64 {
        if self.shared.inbox.is_full() {
            self.take_events();
        }
        self.changes.count
    }

    /// The channels that are there: node, its name, and our number of the channel.
    pub(crate) fn publishers(&self) -> impl Iterator<Item = (NodeId, &str, u64)> {
        self.channels.iter().map(|channel| {
            let origin = channel.consumer.origin();
            let name = origin.node_name.as_str();
            (NodeId(origin.node), name, channel.channel)
        })
    }

    /// True if as many messages of a publisher wait as half of those that may: who has something
    /// else to do should hurry.
    pub(crate) fn is_half_full(&mut self) -> bool {
        if self.shared.inbox.is_full() {
            self.take_events();
        }
        let mut channels = self.channels.iter().chain(&self.successors);
        channels.any(|channel| {
            let mut progress = channel.consumer.progress();
            2 * progress.unread() >= progress.depth()
        })
    }

    /// Tells of changes of [`publisher_count`](Self::publisher_count).
    pub(crate) fn publishers_watch(&self) -> watch::Receiver<usize> {
        self.shared.publishers.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Node, Overflow, Raw};

    #[test]
    fn a_subscription_says_when_half_of_the_places_of_a_publisher_are_taken() {
        let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap().to_string();
        drop(bound);
        let node = Node::builder("n").coordinator(&address);
        let node = node.embedded_coordinator().build_blocking().unwrap();
        let [mut one, mut other] =
            ["t/one", "t/other"].map(|topic| node.publisher::<Raw>(topic).build().unwrap());
        let both = node.subscriber::<Raw>("t/*");
        let mut both = both.overflow(Overflow::KeepLast(8)).build().unwrap();
        for publisher in [&mut one, &mut other] {
            let patience = Duration::from_secs(30);
            publisher.wait_for_listener_blocking(patience).unwrap();
            for _ in 0..3 {
                publisher.publish_bytes(b"x").unwrap();
            }
        }
        assert!(!both.is_half_full(), "six of sixteen, three of eight");
        other.publish_bytes(b"x").unwrap();
        assert!(both.is_half_full());
        while both.try_recv().unwrap().is_some() {}
        assert!(!both.is_half_full());
    }
}
