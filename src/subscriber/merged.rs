//! A subscriber to several topics: the messages of each node in the order in which it sent them,
//! the nodes in turn.

use shmesh_shm::{Counter, Received};

use super::{Subscriber, SubscriberBuilder};
use crate::endpoint::RxChannel;
use crate::error::RecvError;
use crate::merge::{Found, Merge};
use crate::message::Payload;
use crate::sample::Sample;

/// The channels of a subscriber by the nodes that they come from.
#[derive(Debug, Default)]
pub(super) struct Merged {
    nodes: Vec<(u128, Merge)>,
    /// Where the next look starts, so that no node is starved by another.
    turn: usize,
}

/// Why there is nothing.
enum Nothing {
    There,
    /// A message waits, but too many are held from that channel.
    Held(usize),
}

impl<P: Payload> SubscriberBuilder<P> {
    /// Subscribes to another topic or pattern, too: `.also("b").also("arm/*/joint")`. Messages of
    /// one node come in the order in which it sent them, across its topics; a message that more
    /// than one name or pattern matches comes once.
    pub fn also(mut self, topic: &str) -> Self {
        self.setup.topics.push(topic.into());
        self
    }
}

impl<P: Payload> Subscriber<P> {
    /// The names and patterns it subscribes to.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        let endpoints = self.shared.endpoints();
        endpoints.map(|endpoint| endpoint.topic.as_str())
    }

    /// As `try_recv`, of merged channels.
    #[inline]
    pub(super) fn try_merged(&mut self) -> Result<Option<Sample<P>>, RecvError> {
        match self.next_merged()? {
            Ok((idx, received)) => {
                self.pace.found();
                if let Some(share) = &self.channels[idx].share {
                    share.add(Counter::Messages, 1);
                    share.add(Counter::Bytes, received.len() as u64);
                }
                self.finish(idx, received).map(Some)
            }
            Err(Nothing::There) => {
                self.pace.found_nothing();
                if self.channels.is_empty() && self.is_over {
                    self.changes.report::<()>()?;
                    return Err(RecvError::Closed);
                }
                self.changes.report()
            }
            Err(Nothing::Held(idx)) => {
                let held = self.channels[idx].consumer.held();
                self.note_held();
                let max = self.shared.ring.held_max;
                Err(RecvError::TooManyHeld { held, max })
            }
        }
    }

    #[inline]
    fn next_merged(&mut self) -> Result<Result<(usize, Received), Nothing>, RecvError> {
        if !self.successors.is_empty() {
            // Before more is taken of others: what follows in theirs may have been sent earlier.
            self.retire_merged();
        }
        let Some(merged) = &mut self.merged else {
            return Ok(Err(Nothing::There));
        };
        let inbox = &self.shared.inbox;
        let (count, mut step, mut nothing) = (merged.nodes.len(), 0, Nothing::There);
        while step < count {
            let mut idx = merged.turn + step;
            if idx >= count {
                idx -= count;
            }
            let merge = &mut merged.nodes[idx].1;
            match merge.next(&mut self.channels, || inbox.is_full()) {
                Ok(Found::Message(lane, received)) => {
                    merged.turn = if idx + 1 == count { 0 } else { idx + 1 };
                    return Ok(Ok((lane, received)));
                }
                Ok(Found::Nothing) => step += 1,
                // The other nodes go on without it.
                Ok(Found::Waiting(lane)) => match why_waiting(&mut self.channels[lane]) {
                    Waiting::Held => {
                        nothing = Nothing::Held(lane);
                        step += 1;
                    }
                    Waiting::Coming => step += 1,
                    Waiting::Skipped => {}
                },
                Err((lane, corrupt)) => return Err(self.give_up(lane, corrupt)),
            }
        }
        if self.channels.iter().any(|channel| channel.is_closed) {
            self.retire_merged();
        }
        Ok(Err(nothing))
    }

    /// Lets go of channels that are closed and empty.
    #[cold]
    fn retire_merged(&mut self) {
        let mut lane = 0;
        while let (Some(channel), Some(merged)) = (self.channels.get(lane), &self.merged) {
            let is_in_hand = |(_, merge): &(u128, Merge)| merge.is_in_hand(lane);
            let is_over = channel.is_closed && !channel.consumer.is_ready();
            if is_over && !merged.nodes.iter().any(is_in_hand) {
                self.retire(lane);
            } else {
                lane += 1;
            }
        }
    }

    /// The last channel is new.
    pub(super) fn merge_last(&mut self) {
        let (Some(merged), Some(channel)) = (&mut self.merged, self.channels.last()) else {
            return;
        };
        let (lane, node) = (self.channels.len() - 1, channel.consumer.origin().node);
        let nodes = &mut merged.nodes;
        match nodes.iter_mut().find(|(known, _)| *known == node) {
            Some((_, merge)) => merge.add(lane),
            None => {
                let mut merge = Merge::default();
                merge.add(lane);
                nodes.push((node, merge));
            }
        }
    }

    /// The last channel has taken the place of another one, which is gone.
    pub(super) fn unmerge(&mut self, gone: usize) {
        let moved = self.channels.len();
        if let Some(merged) = &mut self.merged {
            merged
                .nodes
                .retain_mut(|(_, merge)| merge.remove(gone, moved));
            merged.turn = 0;
        }
    }
}

/// Why a message cannot be taken now.
enum Waiting {
    /// Too many are held.
    Held,
    /// Its segment is on the way.
    Coming,
    /// It could not any more, and was given up.
    Skipped,
}

#[cold]
fn why_waiting(channel: &mut RxChannel) -> Waiting {
    if channel.consumer.is_at_held_max() {
        Waiting::Held
    } else if channel.is_closed {
        // It lies in a segment that nobody will tell of any more.
        channel.consumer.skip_next();
        Waiting::Skipped
    } else {
        Waiting::Coming
    }
}
