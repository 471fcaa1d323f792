//! A receiver that reads a network itself: while it spins, and where it sleeps.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::Subscriber;
use crate::link::net::NetLink;
use crate::message::Payload;
use crate::wait::AsyncSocket;

/// A network that is watched for its messages by the one who waits for them.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) link: Arc<NetLink>,
    pub(super) socket: Watched,
}

/// Where a receiver sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Thread,
    Runtime,
}

#[derive(Debug)]
pub(super) enum Watched {
    Thread(OwnedFd),
    Runtime(AsyncSocket),
}

impl Watched {
    const fn place(&self) -> Place {
        match self {
            Self::Thread(_) => Place::Thread,
            Self::Runtime(_) => Place::Runtime,
        }
    }
}

/// Learns whether a receiver is served by reading the network itself.
///
/// It is where each waking brings it a message. Where one brings many, as of a stream, or none, as
/// of large ones that come in pieces, or where those of others come over the same link, the task is
/// better: it goes on reading while the receiver sleeps.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Messages received when it last went to sleep.
    received_at_park: u64,
    /// True if it has read since.
    has_read: bool,
    /// Left to the task until so many are received.
    left_until: u64,
}

impl Reading {
    pub(super) fn note_read(&mut self) {
        self.has_read = true;
    }

    /// To be asked before each sleep, with the messages received so far.
    fn is_worth_it(&mut self, received: u64) -> bool {
        let came = received - std::mem::replace(&mut self.received_at_park, received);
        let has_read = std::mem::take(&mut self.has_read);
        if has_read && came == 0 {
            self.left_until = received + LEFT_MESSAGES;
        }
        came < STREAM_BATCH && received >= self.left_until
    }
}

/// Messages between two sleeps that make a stream.
const STREAM_BATCH: u64 = 4;
/// Messages before it is tried again, after one that was read in vain: each trial costs a waking.
const LEFT_MESSAGES: u64 = 64;

impl<P: Payload> Subscriber<P> {
    /// Watches the network its messages come over, if it is one and nobody else watches it, in the
    /// place where it is about to sleep.
    pub(super) fn watch(&mut self, place: Place) {
        let is_worth_it = self.reading.is_worth_it(self.received);
        let link = match &self.channels[..] {
            [channel] if is_worth_it => channel
                .link
                .as_ref()
                .filter(|link| link.claim_watch(channel.channel)),
            _ => None,
        };
        let is_watched = match (link, &self.watch) {
            (Some(link), Some(watch)) => {
                Arc::ptr_eq(link, &watch.link) && watch.socket.place() == place
            }
            (link, watch) => link.is_none() && watch.is_none(),
        };
        if is_watched {
            return;
        }
        let link = link.cloned();
        if let Some(Watch {
            socket: Watched::Thread(socket),
            ..
        }) = self.watch.take()
        {
            self.parker.unwatch(socket.as_fd());
        }
        self.watch = link.and_then(|link| {
            let socket = link.try_clone_socket().ok()?;
            let socket = match place {
                Place::Runtime => Watched::Runtime(AsyncSocket::new(socket).ok()?),
                Place::Thread => {
                    self.parker.watch(socket.as_fd()).ok()?;
                    Watched::Thread(socket)
                }
            };
            Some(Watch { link, socket })
        });
    }

    /// False if [`try_recv`](Self::try_recv), which found nothing just now, would find nothing
    /// again. Who spins asks this in between: the less a look takes, the sooner is the next one.
    #[inline]
    pub(super) fn may_find(&self) -> bool {
        self.shared.inbox.is_raised()
            || self.merged.is_some()
            || self.channels.is_empty()
            || self
                .channels
                .iter()
                .any(|channel| channel.consumer.is_ready_prefetching())
    }

    /// Reads what comes over networks: who spins need not wait for the node's thread to do it.
    #[inline]
    pub(super) fn pump(&self) {
        if self.is_networked {
            let links = self
                .channels
                .iter()
                .filter_map(|channel| channel.link.as_ref());
            links.for_each(|link| link.pump_spinning());
        }
    }

    /// Leaves the networks to the node's thread again.
    pub(super) fn end_pumping(&self) {
        if self.is_networked {
            let links = self
                .channels
                .iter()
                .filter_map(|channel| channel.link.as_ref());
            links.for_each(|link| link.end_lease());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_woken_for_pieces_or_for_others_leaves_the_reading_to_the_task_for_a_while() {
        let mut reading = Reading::default();
        assert!(reading.is_worth_it(0));
        for received in 1..100 {
            reading.note_read();
            assert!(reading.is_worth_it(received), "a message each time");
        }
        reading.note_read();
        assert!(!reading.is_worth_it(99), "in vain");
        for received in 99..99 + LEFT_MESSAGES {
            assert!(!reading.is_worth_it(received));
        }
        assert!(reading.is_worth_it(99 + LEFT_MESSAGES), "tried again");
        assert!(!reading.is_worth_it(99 + LEFT_MESSAGES + STREAM_BATCH));
    }

    #[test]
    fn who_waits_in_vain_without_having_read_is_not_put_off() {
        let mut reading = Reading::default();
        for _ in 0..100 {
            assert!(reading.is_worth_it(0));
        }
    }
}
