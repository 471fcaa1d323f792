//! The channels of a node: how they are made, over a link or inside the process, and ended.

mod ask;
mod grant;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use shmesh_shm::ring::ARENA_SEGMENTS_MAX;
use shmesh_shm::segment::SEGMENT_BYTES_MAX;
use shmesh_shm::{
    BorrowHalf, Consumer, Counter, Fencing, Origin, PeerBellPage, PeerSegment, Producer, Progress,
    Ringer, Segment,
};

use self::grant::Outgoing;
use crate::endpoint::{
    ChannelKey, Outlet, PublisherShared, RxChannel, SubscriberEvent, SubscriberShared, TxChannel,
    Wake, lock,
};
use crate::error::Error;
use crate::events::Loss;
use crate::id::NodeId;
use crate::limits::CHANNELS_PER_LINK_MAX;
use crate::link::LinkHandle;
use crate::link::host::Handed;
use crate::link::session::LinkFrame;
use crate::name::escaped;
use crate::node::NodeShared;
use crate::publisher::Wanted;
use crate::topology::{Endpoint, NodeInfo, Topology};

/// A channel of one of our subscribers.
#[derive(Debug)]
struct Incoming {
    subscriber: Arc<SubscriberShared>,
    origin: Arc<Origin>,
    way: Way,
    /// Shows what waits in its ring, once there is one.
    progress: Option<Progress>,
}

#[derive(Debug)]
enum Way {
    /// Asked for; what we have of it waits for their word.
    Asked {
        link: LinkHandle,
        half: Half,
    },
    Linked {
        link: LinkHandle,
    },
    /// With one of this process, which is not kept beyond its end.
    Local {
        publisher: Weak<PublisherShared>,
    },
    /// Refused: kept so as not to ask again.
    Refused {
        link: LinkHandle,
    },
}

/// Our part of a channel that is asked for.
#[derive(Debug)]
enum Half {
    /// Over a host link: our half, and the arena segments there are.
    Memory {
        borrows: BorrowHalf,
        segments: Vec<(u32, Arc<PeerSegment>)>,
    },
    /// Over a network: the reading end, whose ring the link fills.
    Ring(Box<RxChannel>),
}

impl Way {
    fn link(&self) -> Option<&LinkHandle> {
        match self {
            Self::Asked { link, .. } | Self::Linked { link } | Self::Refused { link } => Some(link),
            Self::Local { .. } => None,
        }
    }
}

/// What a peer told about itself.
#[derive(Debug)]
struct Link {
    handle: LinkHandle,
    bells: Option<Arc<PeerBellPage>>,
    fencing: Fencing,
    name: String,
}

#[derive(Debug)]
pub(super) struct Channels<'a> {
    shared: &'a Arc<NodeShared>,
    links: HashMap<NodeId, Link>,
    incoming: HashMap<u64, Incoming>,
    /// Publisher and subscriber of each incoming channel.
    attached: HashSet<(NodeId, u32, u32)>,
    outgoing: HashMap<ChannelKey, Outgoing>,
    /// Channels that ended with their link, while both ends lived perhaps: with which message
    /// they would have gone on, if that is known.
    interrupted: HashMap<(NodeId, u32, u32), Option<u64>>,
}

/// Numbers of channels, unique in this process: inboxes name channels by them.
static NEXT_CHANNEL: AtomicU64 = AtomicU64::new(1);

impl<'a> Channels<'a> {
    pub(super) fn new(shared: &'a Arc<NodeShared>) -> Self {
        Self {
            shared,
            links: HashMap::new(),
            incoming: HashMap::new(),
            attached: HashSet::new(),
            outgoing: HashMap::new(),
            interrupted: HashMap::new(),
        }
    }

    /// The first word on a new link.
    pub(super) fn greet(&mut self, link: &LinkHandle) {
        if let LinkHandle::Host(host) = link {
            let bells = &self.shared.bells;
            let needs_fences = self.shared.fencing == Fencing::PerMessage;
            let frame = LinkFrame::Bells {
                count: bells.count(),
                needs_fences,
            };
            host.send(&frame, vec![Handed::Bells(Arc::clone(bells))]);
        }
        let name_of = |topology: &Topology| Some(topology.node(link.peer())?.name.clone());
        let name = self.shared.view.with(name_of);
        let name = name.unwrap_or_else(|| link.peer().to_string());
        let (handle, fencing) = (link.clone(), self.shared.fencing);
        self.links.insert(
            link.peer(),
            Link {
                handle,
                bells: None,
                fencing,
                name,
            },
        );
    }

    /// Makes sure that our subscriber has a channel from that publisher, as far as it can be had
    /// now: inside the process at once, otherwise by asking over the link once that is up.
    pub(super) fn attach(
        &mut self,
        subscriber: u32,
        node: &NodeInfo,
        publisher: &Endpoint,
        neighbour: Option<&Arc<NodeShared>>,
    ) {
        let can_ask = self
            .links
            .get(&node.id)
            .is_some_and(|link| link.bells.is_some() || matches!(link.handle, LinkHandle::Net(_)));
        let known = (node.id, publisher.id, subscriber);
        if self.attached.contains(&known) || !(can_ask || neighbour.is_some()) {
            return;
        }
        let subscriber = lock(&self.shared.registry)
            .subscribers
            .get(&subscriber)
            .cloned();
        let Some(subscriber) = subscriber else { return };
        // One channel, however many of its names and patterns match.
        let ends = (node.id, publisher.id, subscriber.endpoint.id);
        if self.attached.contains(&ends) {
            return;
        }
        let attached = match neighbour {
            Some(neighbour) => self.attach_inside(&subscriber, neighbour, publisher.id),
            None => self.ask(&subscriber, node, publisher),
        };
        match attached {
            Ok(true) => {
                self.attached.insert(ends);
            }
            Ok(false) => {}
            Err(error) => {
                let (topic, node) = (&publisher.topic, &node.name);
                tracing::warn!(target: "shmesh::channel", topic, node, %error, "no channel");
            }
        }
    }

    /// A channel between two nodes of this process, on private memory. False if the publisher is
    /// gone.
    fn attach_inside(
        &mut self,
        subscriber: &Arc<SubscriberShared>,
        neighbour: &Arc<NodeShared>,
        publisher: u32,
    ) -> Result<bool, Error> {
        let publisher = lock(&neighbour.registry)
            .publishers
            .get(&publisher)
            .cloned();
        let Some(publisher) = publisher else {
            return Ok(false);
        };
        let channel = NEXT_CHANNEL.fetch_add(1, Ordering::Relaxed);
        let fencing = self.shared.fencing;
        let bell = subscriber.bell.try_clone()?;
        let bell = Ringer::local(&self.shared.bells, subscriber.bell_index, bell, fencing)?;
        let space = match subscriber.overflow.deadline() {
            Some(_) => {
                let event = publisher.bell.try_clone()?;
                Some(Ringer::local(
                    &neighbour.bells,
                    publisher.bell_index,
                    event,
                    fencing,
                )?)
            }
            None => None,
        };
        let (ring, borrows) = subscriber.ring.halves_on_heap();
        let producer = Producer::new(ring.clone(), borrows.clone(), subscriber.ring)?;
        let (origin, space) = (Arc::clone(&publisher.origin), space.map(Arc::new));
        let consumer = Consumer::new(ring, borrows, subscriber.ring, Arc::clone(&origin), space)?;
        let progress = consumer.progress();
        let mut rx = RxChannel::new(channel, consumer);
        let key = ChannelKey {
            subscriber_node: self.shared.info.id,
            channel,
        };
        let mut tx = TxChannel::new(
            key,
            self.shared.info.name.clone(),
            producer,
            Wake::Bell(bell),
            subscriber.overflow.deadline(),
            Wanted {
                count: subscriber.history,
                from: 0,
            },
        );
        tx.is_merged = subscriber.is_merging();
        let outlet = Outlet::Local {
            subscriber: Arc::clone(subscriber),
            channel,
        };
        let introduce = |segments: &[(u32, Arc<Segment>)], _| {
            for (number, segment) in segments {
                rx.add_segment(*number, Arc::clone(segment) as _);
            }
            subscriber.tell(SubscriberEvent::Add(Box::new(rx)));
        };
        if !publisher.add(tx, outlet, introduce) {
            return Ok(false);
        }
        publisher.ready(key);
        let publisher = Arc::downgrade(&publisher);
        let incoming = Incoming {
            subscriber: Arc::clone(subscriber),
            origin,
            way: Way::Local { publisher },
            progress: Some(progress),
        };
        self.incoming.insert(channel, incoming);
        Ok(true)
    }

    /// Puts on the status page how full the rings of our subscribers are.
    pub(super) fn measure(&mut self) {
        let mut sums: HashMap<u32, [u64; 2]> = HashMap::new();
        for incoming in self.incoming.values_mut() {
            if let Some(progress) = &mut incoming.progress {
                let [unread, room] = sums.entry(incoming.subscriber.endpoint.id).or_default();
                *unread += progress.unread();
                *room += progress.depth();
            }
        }
        for subscriber in lock(&self.shared.registry).subscribers.values() {
            let [unread, room] = sums
                .get(&subscriber.endpoint.id)
                .copied()
                .unwrap_or_default();
            subscriber.counters.set(Counter::Unread, unread);
            subscriber.counters.set(Counter::Room, room);
        }
    }

    /// Takes in what a peer said.
    ///
    /// # Errors
    /// What no correct peer does; the link must be ended.
    pub(super) fn on_frame(
        &mut self,
        link: &LinkHandle,
        frame: LinkFrame,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || {
            descriptors
                .next()
                .ok_or(Error::Protocol("descriptor missing"))
        };
        match frame {
            LinkFrame::Bells {
                count,
                needs_fences,
            } => {
                let page = PeerBellPage::map(next()?, count)?;
                if let Some(known) = self.links.get_mut(&link.peer()) {
                    known.bells = Some(page);
                    if needs_fences {
                        known.fencing = Fencing::PerMessage;
                    }
                }
            }
            LinkFrame::Attach(attach) => self.on_attach(link, &attach, descriptors)?,
            LinkFrame::Attached {
                channel,
                bell,
                sequence,
            } => match link {
                LinkHandle::Host(_) => self.on_memory(link, channel, bell, next()?, next()?)?,
                LinkHandle::Net(net) => self.on_feed(link, net, channel, sequence)?,
            },
            LinkFrame::Ready { channel } => {
                let key = ChannelKey::over(link, channel);
                if let Some(outgoing) = self.outgoing.get(&key) {
                    outgoing.publisher.ready(key);
                }
            }
            LinkFrame::Refused { channel, reason } => self.on_refused(link, channel, &reason),
            LinkFrame::Segment {
                channel,
                number,
                bytes,
            } => {
                self.on_segment(link, channel, number, bytes, next()?)?;
            }
            LinkFrame::SegmentGone { channel, number } => {
                if let Some(incoming) = self.incoming_over(link, channel) {
                    let gone = SubscriberEvent::SegmentGone { channel, number };
                    incoming.subscriber.tell(gone);
                }
            }
            LinkFrame::Detach { channel } => {
                let key = ChannelKey::over(link, channel);
                if let Some(outgoing) = self.outgoing.remove(&key) {
                    outgoing.end(key);
                }
                if let LinkHandle::Net(net) = link {
                    net.remove_feed(channel);
                }
            }
            LinkFrame::Closed { channel } => {
                if self.incoming_over(link, channel).is_some() {
                    self.end_incoming(channel, Loss::Left);
                }
            }
            // Dealt with where they arrive.
            LinkFrame::Passed { .. } | LinkFrame::Heartbeat => {}
        }
        Ok(())
    }

    fn on_refused(&mut self, link: &LinkHandle, channel: u64, reason: &str) {
        if let Some(incoming) = self.incoming.get_mut(&channel)
            && incoming.way.link().is_some_and(|way| way.is_same(link))
        {
            let (topic, node) = (
                &incoming.subscriber.endpoint.topic,
                &incoming.origin.node_name,
            );
            let reason = escaped(reason);
            tracing::warn!(
                target: "shmesh::channel", topic, node, reason, "channel refused by the peer"
            );
            incoming.way = Way::Refused { link: link.clone() };
        }
    }

    fn on_segment(
        &mut self,
        link: &LinkHandle,
        channel: u64,
        number: u32,
        bytes: u64,
        fd: OwnedFd,
    ) -> Result<(), Error> {
        let Some(incoming) = self.incoming_over(link, channel) else {
            return Ok(());
        };
        let bytes = usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= SEGMENT_BYTES_MAX);
        let bytes = bytes.ok_or(Error::Protocol("segment too large"))?;
        let block = Arc::new(PeerSegment::map(fd, bytes..=bytes)?);
        match &mut incoming.way {
            Way::Asked {
                half: Half::Memory { segments, .. },
                ..
            } if segments.len() < ARENA_SEGMENTS_MAX as usize => {
                segments.push((number, block));
            }
            Way::Asked { .. } => return Err(Error::Protocol("more segments than there can be")),
            _ => incoming.subscriber.tell(SubscriberEvent::Segment {
                channel,
                number,
                block,
            }),
        }
        Ok(())
    }

    fn incoming_over(&mut self, link: &LinkHandle, channel: u64) -> Option<&mut Incoming> {
        let incoming = self.incoming.get_mut(&channel)?;
        incoming
            .way
            .link()
            .is_some_and(|way| way.is_same(link))
            .then_some(incoming)
    }

    /// Ends a channel of ours: nothing more comes, what is in the ring stays.
    fn end_incoming(&mut self, channel: u64, reason: Loss) {
        let Some(incoming) = self.incoming.remove(&channel) else {
            return;
        };
        self.forget(&incoming);
        incoming.remove_sink(channel);
        if matches!(incoming.way, Way::Linked { .. }) {
            incoming
                .subscriber
                .tell(SubscriberEvent::Closed { channel, reason });
        }
    }

    fn forget(&mut self, incoming: &Incoming) {
        let Origin { node, endpoint, .. } = *incoming.origin;
        let subscriber = incoming.subscriber.endpoint.id;
        self.attached.remove(&(NodeId(node), endpoint, subscriber));
    }

    /// A link is gone, and with it all its channels.
    pub(super) fn drop_link(&mut self, link: &LinkHandle, reason: Loss) {
        let is_current = |known: &Link| known.handle.is_same(link);
        if self.links.get(&link.peer()).is_some_and(is_current) {
            self.links.remove(&link.peer());
        }
        let over = |incoming: &Incoming| incoming.way.link().is_some_and(|way| way.is_same(link));
        let ended: Vec<u64> = self
            .incoming
            .iter()
            .filter(|(_, incoming)| over(incoming))
            .map(|(channel, _)| *channel)
            .collect();
        for channel in ended {
            self.note_interrupted(channel);
            self.end_incoming(channel, reason);
        }
        self.outgoing.retain(|key, outgoing| {
            let is_over = outgoing.link.is_same(link);
            if is_over {
                outgoing.end(*key);
            }
            !is_over
        });
        // What a network still has to write is in this process.
        if let LinkHandle::Host(_) = link {
            for publisher in lock(&self.shared.registry).publishers.values() {
                publisher.died(link.peer());
            }
        }
    }

    /// A channel ends with its link: when there is another one, what was lost is counted, and
    /// nothing of a history comes twice.
    fn note_interrupted(&mut self, channel: u64) {
        let Some(incoming) = self.incoming.get(&channel) else {
            return;
        };
        let expected = incoming.remove_sink(channel);
        if expected.is_some() || incoming.has_history() {
            let Origin { node, endpoint, .. } = *incoming.origin;
            let ends = (NodeId(node), endpoint, incoming.subscriber.endpoint.id);
            if self.interrupted.len() >= CHANNELS_PER_LINK_MAX {
                // Those that the coordinator knows no more are the least likely to come back.
                let interrupted = &mut self.interrupted;
                self.shared.view.with(|topology| {
                    interrupted.retain(|(node, ..), _| topology.node(*node).is_some());
                });
            }
            if self.interrupted.len() < CHANNELS_PER_LINK_MAX {
                self.interrupted.insert(ends, expected);
            }
        }
    }

    /// Our subscriber ended one of its channels.
    pub(super) fn detach(&mut self, channel: u64) {
        let Some(incoming) = self.incoming.remove(&channel) else {
            return;
        };
        incoming.subscriber.watch.forget(channel);
        // Stays among the attached: a publisher that breaks the protocol is not asked again.
        incoming.publisher_side(self.shared.info.id, channel);
        incoming
            .subscriber
            .publishers
            .send_modify(|count| *count = count.saturating_sub(1));
    }

    /// Our subscriber is gone.
    pub(super) fn drop_subscriber(&mut self, subscriber: u32) {
        let is_its = |incoming: &Incoming| incoming.subscriber.endpoint.id == subscriber;
        let ended: Vec<_> = self
            .incoming
            .extract_if(|_, incoming| is_its(incoming))
            .collect();
        for (channel, incoming) in ended {
            self.forget(&incoming);
            incoming.publisher_side(self.shared.info.id, channel);
        }
    }

    /// Forgets channels of publishers in this process that are gone: they told our subscribers.
    pub(super) fn forget_ended(&mut self) {
        let is_gone = |incoming: &Incoming| match &incoming.way {
            Way::Local { publisher } => publisher.strong_count() == 0,
            _ => false,
        };
        let ended: Vec<_> = self
            .incoming
            .extract_if(|_, incoming| is_gone(incoming))
            .collect();
        for (_, incoming) in ended {
            self.forget(&incoming);
        }
    }

    /// Our publisher is gone; it told its subscribers.
    pub(super) fn drop_publisher(&mut self, publisher: u32) {
        self.outgoing
            .retain(|_, outgoing| outgoing.publisher.endpoint.id != publisher);
    }

    /// The node leaves.
    pub(super) fn close_all(&mut self) {
        for (channel, incoming) in self.incoming.drain() {
            incoming.publisher_side(self.shared.info.id, channel);
            let reason = Loss::Left;
            incoming
                .subscriber
                .tell(SubscriberEvent::Closed { channel, reason });
        }
        for link in self.links.values() {
            link.handle.close();
        }
    }
}

impl Incoming {
    /// True if it is memory in which messages of a history were.
    fn has_history(&self) -> bool {
        matches!(&self.way, Way::Linked { link } if matches!(link, LinkHandle::Host(_)))
            && self.subscriber.history > 0
    }

    /// Takes away what a network link fills; with which message it would have gone on.
    fn remove_sink(&self, channel: u64) -> Option<u64> {
        match self.way.link() {
            Some(LinkHandle::Net(net)) => net.remove_sink(channel),
            _ => None,
        }
    }

    /// Tells the publisher's side that the channel is over.
    fn publisher_side(&self, ours: NodeId, channel: u64) {
        self.remove_sink(channel);
        match &self.way {
            Way::Asked { link, .. } | Way::Linked { link } => {
                link.send(&LinkFrame::Detach { channel });
            }
            Way::Local { publisher } => {
                if let Some(publisher) = publisher.upgrade() {
                    publisher.remove(ChannelKey {
                        subscriber_node: ours,
                        channel,
                    });
                }
            }
            Way::Refused { .. } => {}
        }
    }
}
