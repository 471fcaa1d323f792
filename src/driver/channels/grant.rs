//! The publishers' side of channels over links: what peers ask for, and what they are granted.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shmesh_shm::segment::bytes_with_rounding;
use shmesh_shm::{
    BorrowHalf, Consumer, Event, Mode, PeerSegment, Producer, RingConfig, RingHalf, Ringer, Segment,
};

use super::Channels;
use crate::endpoint::{
    ChannelKey, LinkWake, Outlet, PublisherShared, RxChannel, TxChannel, Wake, lock,
};
use crate::error::Error;
use crate::limits::{CHANNELS_PER_LINK_MAX, SLOTS_PER_LINK_MAX};
use crate::link::LinkHandle;
use crate::link::host::{Handed, HostLink};
use crate::link::net::{FEED_HELD_MAX, Feed, FeedEvent, NetLink};
use crate::link::session::{Attach, LinkFrame};
use crate::name::escaped;
use crate::publisher::Wanted;
use crate::topology::Endpoint;

/// A channel of one of our publishers over a link.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) publisher: Arc<PublisherShared>,
    pub(super) link: LinkHandle,
    slots: usize,
}

impl Outgoing {
    /// The channel is over.
    pub(super) fn end(&self, key: ChannelKey) {
        match self.link {
            LinkHandle::Host(_) => self.publisher.leave(key),
            // What it holds is held by the link, in this process.
            LinkHandle::Net(_) => self.publisher.remove(key),
        }
    }
}

impl Channels<'_> {
    /// A peer's subscriber wants a channel from our publisher. Over a host link it brings its half
    /// and its event.
    pub(super) fn on_attach(
        &mut self,
        link: &LinkHandle,
        attach: &Attach,
        mut descriptors: impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Error> {
        let channel = attach.channel;
        let key = ChannelKey::over(link, channel);
        if self.outgoing.contains_key(&key) {
            return Err(Error::Protocol("channel number used twice"));
        }
        let wish = Wish {
            key,
            attach,
            config: config_of(attach),
        };
        let granted = match link {
            LinkHandle::Host(host) => {
                let missing = || Error::Protocol("descriptor missing");
                let half = descriptors.next().ok_or_else(missing)?;
                let event = descriptors.next().ok_or_else(missing)?;
                self.grant_memory(link, host, &wish, half, event)
            }
            LinkHandle::Net(net) => self.grant_feed(link, net, &wish),
        };
        match granted {
            Ok(true) => {}
            // The publisher went while the question was on its way.
            Ok(false) => link.send(&LinkFrame::Closed { channel }),
            Err(error) => {
                let (reason, topic) = (error.to_string(), escaped(&attach.topic));
                tracing::warn!(target: "shmesh::channel", topic, reason, "channel refused");
                link.send(&LinkFrame::Refused { channel, reason });
            }
        }
        Ok(())
    }

    /// The publisher that is asked for, if it is there, is of that type, and may be had.
    fn wanted(
        &self,
        link: &LinkHandle,
        wish: &Wish<'_>,
    ) -> Result<Option<Arc<PublisherShared>>, Error> {
        let peer = self.links.get(&link.peer()).ok_or(Error::Closed)?;
        let publisher = lock(&self.shared.registry)
            .publishers
            .get(&wish.attach.publisher)
            .cloned();
        if let Some(publisher) = &publisher {
            check_type(&publisher.endpoint, wish.attach, &peer.name)?;
            self.check_quota(link, wish.config.capacity())?;
        }
        Ok(publisher)
    }

    /// Memory that the peer maps. False if there is no such publisher.
    fn grant_memory(
        &mut self,
        link: &LinkHandle,
        host: &HostLink,
        wish: &Wish<'_>,
        half: OwnedFd,
        event: OwnedFd,
    ) -> Result<bool, Error> {
        let Some(publisher) = self.wanted(link, wish)? else {
            return Ok(false);
        };
        let (key, config) = (wish.key, wish.config);
        let peer = self.links.get(&link.peer()).ok_or(Error::Closed)?;
        let bytes = bytes_with_rounding(BorrowHalf::bytes(config.entry_count()));
        let borrows = BorrowHalf::open(PeerSegment::map(half, bytes)?, config.entry_count())?;
        let page = peer
            .bells
            .as_ref()
            .ok_or(Error::Protocol("attach before bells"))?;
        let event = Event::from_fd(event)?;
        let bell = Ringer::remote(page, wish.attach.bell, event, peer.fencing)?;
        let bytes = RingHalf::bytes(config.capacity());
        let segment = Arc::new(Segment::create("shmesh-ring", bytes)?);
        let ring = RingHalf::create_in(&segment, config.capacity())?;
        let producer = Producer::new(ring, borrows, config)?;
        let tx = wish.sending_end(&peer.name, producer, Wake::Bell(bell));
        let event = Handed::Event(publisher.bell.try_clone()?);
        let channel = key.channel;
        let bell = publisher.bell_index;
        let outlet = Outlet::Host {
            link: host.clone(),
            channel,
        };
        let introduce = |segments: &[(u32, Arc<Segment>)], sequence| {
            for (number, segment) in segments {
                host.send_segment(channel, *number, segment);
            }
            let attached = LinkFrame::Attached {
                channel,
                bell,
                sequence,
            };
            host.send(&attached, vec![Handed::Segment(segment), event]);
        };
        let is_added = publisher.add(tx, outlet, introduce);
        self.note_granted(is_added, link, wish, publisher);
        Ok(is_added)
    }

    /// A ring that the link empties. False if there is no such publisher.
    fn grant_feed(
        &mut self,
        link: &LinkHandle,
        net: &Arc<NetLink>,
        wish: &Wish<'_>,
    ) -> Result<bool, Error> {
        let Some(publisher) = self.wanted(link, wish)? else {
            return Ok(false);
        };
        let channel = wish.key.channel;
        // The link holds what it writes, the subscriber what it got.
        let config = RingConfig {
            held_max: FEED_HELD_MAX,
            ..wish.config
        };
        let space = match wish.attach.block_ns {
            Some(_) => {
                let (page, event) = (&self.shared.bells, publisher.bell.try_clone()?);
                let fencing = self.shared.fencing;
                let space = Ringer::local(page, publisher.bell_index, event, fencing)?;
                Some(Arc::new(space))
            }
            None => None,
        };
        let (ring, borrows) = config.halves_on_heap();
        let producer = Producer::new(ring.clone(), borrows.clone(), config)?;
        let origin = Arc::clone(&publisher.origin);
        let consumer = Consumer::new(ring, borrows, config, origin, space)?;
        let credit = (config.mode == Mode::Keep).then_some(config.depth);
        let mut rx = RxChannel::new(channel, consumer);
        let merged_as = wish.attach.merged_as;
        let peer = self.links.get(&link.peer()).ok_or(Error::Closed)?;
        let tx = wish.sending_end(
            &peer.name,
            producer,
            Wake::Link(LinkWake::new(Arc::clone(net))),
        );
        let outlet = Outlet::Net {
            link: Arc::clone(net),
            channel,
        };
        let introduce = |segments: &[(u32, Arc<Segment>)], sequence| {
            for (number, segment) in segments {
                rx.add_segment(*number, Arc::clone(segment) as _);
            }
            let bell = 0;
            net.send(&LinkFrame::Attached {
                channel,
                bell,
                sequence,
            });
            let mut feed = Box::new(Feed::new(rx, credit, merged_as));
            feed.lifespan_ns = wish.attach.lifespan_ns;
            feed.priority = publisher.priority;
            net.tell(FeedEvent::Add(feed));
        };
        let is_added = publisher.add(tx, outlet, introduce);
        self.note_granted(is_added, link, wish, publisher);
        Ok(is_added)
    }

    fn note_granted(
        &mut self,
        is_added: bool,
        link: &LinkHandle,
        wish: &Wish<'_>,
        publisher: Arc<PublisherShared>,
    ) {
        if is_added {
            let (link, slots) = (link.clone(), wish.config.capacity());
            let outgoing = Outgoing {
                publisher,
                link,
                slots,
            };
            self.outgoing.insert(wish.key, outgoing);
        }
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

/// A channel that a peer asks for.
struct Wish<'a> {
    key: ChannelKey,
    attach: &'a Attach,
    config: RingConfig,
}

impl Wish<'_> {
    fn sending_end(&self, subscriber_name: &str, producer: Producer, wake: Wake) -> TxChannel {
        let deadline = self.attach.block_ns.map(Duration::from_nanos);
        let mut tx = TxChannel::new(
            self.key,
            subscriber_name.to_owned(),
            producer,
            wake,
            deadline,
            Wanted {
                count: self.attach.history,
                from: self.attach.from,
            },
        );
        tx.is_merged = self.attach.merged_as.is_some();
        tx
    }
}

fn config_of(attach: &Attach) -> RingConfig {
    RingConfig {
        depth: attach.depth,
        mode: if attach.overwrites {
            Mode::Overwrite
        } else {
            Mode::Keep
        },
        held_max: attach.held_max,
        start: 0,
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
