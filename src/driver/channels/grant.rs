//! The publishers' side of channels over links: what peers ask for, and what they are granted.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shmesh_shm::segment::bytes_with_rounding;
use shmesh_shm::{
    BorrowHalf, Event, Mode, PeerSegment, Producer, RingConfig, RingHalf, Ringer, Segment,
};

use super::Channels;
use crate::endpoint::{ChannelKey, Outlet, PublisherShared, TxChannel, lock};
use crate::error::Error;
use crate::limits::{CHANNELS_PER_LINK_MAX, SLOTS_PER_LINK_MAX};
use crate::link::host::{Handed, LinkHandle};
use crate::link::session::{Attach, LinkFrame};
use crate::name::escaped;
use crate::topology::Endpoint;

/// A channel of one of our publishers over a link.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) publisher: Arc<PublisherShared>,
    slots: usize,
}

impl Channels<'_> {
    /// A peer's subscriber wants a channel from our publisher.
    pub(super) fn on_attach(
        &mut self,
        link: &LinkHandle,
        attach: &Attach,
        half: OwnedFd,
        event: OwnedFd,
    ) -> Result<(), Error> {
        let channel = attach.channel;
        let key = ChannelKey::over(link, channel);
        if self.outgoing.contains_key(&key) {
            return Err(Error::Protocol("channel number used twice"));
        }
        match self.grant(link, key, attach, half, event) {
            Ok(true) => {}
            // The publisher went while the question was on its way.
            Ok(false) => link.send_closed(channel),
            Err(error) => {
                let (reason, topic) = (error.to_string(), escaped(&attach.topic));
                tracing::warn!(topic, reason, "channel refused");
                link.send(&LinkFrame::Refused { channel, reason }, Vec::new());
            }
        }
        Ok(())
    }

    /// False if there is no such publisher.
    fn grant(
        &mut self,
        link: &LinkHandle,
        key: ChannelKey,
        attach: &Attach,
        half: OwnedFd,
        event: OwnedFd,
    ) -> Result<bool, Error> {
        let peer = self.links.get(&link.peer()).ok_or(Error::Closed)?;
        let publisher = lock(&self.shared.registry)
            .publishers
            .get(&attach.publisher)
            .cloned();
        let Some(publisher) = publisher else {
            return Ok(false);
        };
        check_type(&publisher.endpoint, attach, &peer.name)?;
        let config = RingConfig {
            depth: attach.depth,
            mode: if attach.overwrites {
                Mode::Overwrite
            } else {
                Mode::Keep
            },
            held_max: attach.held_max,
            start: 0,
        };
        self.check_quota(link, config.capacity())?;
        let bytes = bytes_with_rounding(BorrowHalf::bytes(config.entry_count()));
        let borrows = BorrowHalf::open(PeerSegment::map(half, bytes)?, config.entry_count())?;
        let page = peer
            .bells
            .as_ref()
            .ok_or(Error::Protocol("attach before bells"))?;
        let bell = Ringer::remote(page, attach.bell, Event::from_fd(event)?, peer.fencing)?;
        let bytes = RingHalf::bytes(config.capacity());
        let segment = Arc::new(Segment::create("shmesh-ring", bytes)?);
        let ring = RingHalf::create_in(&segment, config.capacity())?;
        let producer = Producer::new(ring, borrows, config)?;
        let tx = TxChannel {
            key,
            subscriber_name: peer.name.clone(),
            producer,
            bell: Arc::new(bell),
            deadline: attach.block_ns.map(Duration::from_nanos),
            is_blocked: false,
        };
        let event = Handed::Event(publisher.bell.try_clone()?);
        let (channel, bell) = (key.channel, publisher.bell_index);
        let outlet = Outlet::Link {
            link: link.clone(),
            channel,
        };
        let introduce = |segments: &[(u32, Arc<Segment>)]| {
            for (number, segment) in segments {
                link.send_segment(channel, *number, segment);
            }
            let handed = vec![Handed::Segment(segment), event];
            let attached = LinkFrame::Attached {
                channel,
                bell,
                sequence: 0,
            };
            link.send(&attached, handed);
        };
        let is_added = publisher.add(tx, outlet, introduce);
        if is_added {
            let slots = config.capacity();
            self.outgoing.insert(key, Outgoing { publisher, slots });
        }
        Ok(is_added)
    }

    /// Bounds what a peer can make us allocate.
    fn check_quota(&self, link: &LinkHandle, slots: usize) -> Result<(), Error> {
        let of_peer = self
            .outgoing
            .iter()
            .filter(|(key, _)| key.subscriber_node == link.peer());
        let (count, used) = of_peer.fold((0, 0), |(count, used), (_, outgoing)| {
            (count + 1, used + outgoing.slots)
        });
        let quotas = [
            ("channels of a link", count + 1, CHANNELS_PER_LINK_MAX),
            ("unread slots of a link", used + slots, SLOTS_PER_LINK_MAX),
        ];
        match quotas.into_iter().find(|(_, found, max)| found > max) {
            None => Ok(()),
            Some((what, found, max)) => {
                let (found, max) = (found as u64, max as u64);
                Err(Error::OutOfBounds {
                    what,
                    found,
                    min: 0,
                    max,
                })
            }
        }
    }
}

fn check_type(ours: &Endpoint, attach: &Attach, node: &str) -> Result<(), Error> {
    if ours.topic == attach.topic && ours.ty == attach.ty {
        return Ok(());
    }
    Err(Error::TypeMismatch {
        topic: ours.topic.clone(),
        ours: ours.ty.to_string(),
        theirs: attach.ty.to_string(),
        node: escaped(node),
    })
}
