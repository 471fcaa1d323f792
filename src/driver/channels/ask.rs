//! The subscribers' side of channels over links: what we ask for, and what is given.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shmesh_shm::segment::bytes_with_rounding;
use shmesh_shm::{
    BorrowHalf, Consumer, Event, Mode, Origin, PeerSegment, Producer, RingHalf, Ringer, Segment,
};

use super::{Channels, Half, Incoming, NEXT_CHANNEL, Way};
use crate::endpoint::{RxChannel, SubscriberEvent, SubscriberShared};
use crate::error::Error;
use crate::link::LinkHandle;
use crate::link::host::{Handed, HostLink};
use crate::link::net::{NetLink, Sink};
use crate::link::session::{Attach, LinkFrame};
use crate::topology::{Endpoint, NodeInfo};

impl Channels<'_> {
    /// Asks the publisher's node for a channel.
    pub(super) fn ask(
        &mut self,
        subscriber: &Arc<SubscriberShared>,
        node: &NodeInfo,
        publisher: &Endpoint,
    ) -> Result<bool, Error> {
        let Some(link) = self.links.get(&node.id).map(|link| link.handle.clone()) else {
            return Ok(false);
        };
        let channel = NEXT_CHANNEL.fetch_add(1, Ordering::Relaxed);
        let ring = subscriber.ring;
        let deadline = subscriber.overflow.deadline();
        let ends = (node.id, publisher.id, subscriber.endpoint.id);
        let resumed = self.interrupted.remove(&ends);
        let attach = Attach {
            channel,
            publisher: publisher.id,
            topic: publisher.topic.clone(),
            // As it was announced: ours is the same, or any.
            ty: publisher.ty.clone(),
            depth: ring.depth,
            held_max: ring.held_max,
            overwrites: ring.mode == Mode::Overwrite,
            block_ns: deadline.map(|max| u64::try_from(max.as_nanos()).unwrap_or(u64::MAX)),
            bell: subscriber.bell_index,
            history: subscriber.history,
            // What came before the interruption is not known exactly with memory: then nothing of
            // the history comes, and nothing twice.
            from: resumed.map_or(0, |expected| expected.unwrap_or(u64::MAX)),
            lifespan_ns: subscriber.lifespan_ns,
            merged_as: subscriber.is_merging().then_some(subscriber.endpoint.id),
        };
        let origin = Arc::new(Origin {
            node: node.id.0,
            endpoint: publisher.id,
            node_name: node.name.clone(),
            topic: publisher.topic.clone(),
            about: Some(Arc::new(publisher.ty.clone())),
        });
        let attach = LinkFrame::Attach(attach);
        let half = match &link {
            LinkHandle::Host(host) => ask_for_memory(host, subscriber, &attach)?,
            LinkHandle::Net(net) => {
                let is_same_clock = node.host == self.shared.info.host;
                let place = Place {
                    channel,
                    expected: resumed.flatten(),
                    is_same_clock,
                };
                let half = self.prepare_sink(net, subscriber, &origin, place)?;
                net.send(&attach);
                half
            }
        };
        let subscriber = Arc::clone(subscriber);
        let way = Way::Asked { link, half };
        self.incoming.insert(
            channel,
            Incoming {
                subscriber,
                origin,
                way,
                progress: None,
            },
        );
        Ok(true)
    }

    /// The ring that a network link fills for our subscriber; its reading end.
    fn prepare_sink(
        &self,
        net: &Arc<NetLink>,
        subscriber: &Arc<SubscriberShared>,
        origin: &Arc<Origin>,
        place: Place,
    ) -> Result<Half, Error> {
        let Place {
            channel,
            expected,
            is_same_clock,
        } = place;
        let (page, fencing) = (&self.shared.bells, self.shared.fencing);
        let space = match subscriber.ring.mode {
            Mode::Keep => Some(net.room_ringer(page, fencing)?),
            Mode::Overwrite => None,
        };
        let event = subscriber.bell.try_clone()?;
        let bell = Ringer::local(page, subscriber.bell_index, event, fencing)?;
        let (ring, borrows) = subscriber.ring.halves_on_heap();
        let producer = Producer::new(ring.clone(), borrows.clone(), subscriber.ring)?;
        let consumer = Consumer::new(ring, borrows, subscriber.ring, Arc::clone(origin), space)?;
        let mut sink = Sink::new(channel, producer, Arc::clone(subscriber), bell, expected);
        if !is_same_clock {
            sink.forget_times();
        }
        net.add_sink(sink);
        let mut rx = RxChannel::new(channel, consumer);
        rx.link = Some(Arc::clone(net));
        Ok(Half::Ring(Box::new(rx)))
    }

    /// A peer sends our subscriber what it asked for, over a network.
    pub(super) fn on_feed(
        &mut self,
        link: &LinkHandle,
        net: &Arc<NetLink>,
        channel: u64,
        sequence: u64,
    ) -> Result<(), Error> {
        let Some(incoming) = self.incoming_over(link, channel) else {
            return Ok(());
        };
        let linked = Way::Linked { link: link.clone() };
        let Way::Asked {
            half: Half::Ring(rx),
            ..
        } = std::mem::replace(&mut incoming.way, linked)
        else {
            return Err(Error::Protocol("channel given twice"));
        };
        incoming.progress = Some(rx.consumer.progress());
        incoming.subscriber.tell(SubscriberEvent::Add(rx));
        net.start(channel, sequence);
        net.send(&LinkFrame::Ready { channel });
        Ok(())
    }

    /// A peer gives our subscriber the channel it asked for, as memory.
    pub(super) fn on_memory(
        &mut self,
        link: &LinkHandle,
        channel: u64,
        bell: u32,
        half: OwnedFd,
        event: OwnedFd,
    ) -> Result<(), Error> {
        // The subscriber may be gone meanwhile; its Detach is on the way.
        let Some(incoming) = self.incoming_over(link, channel) else {
            return Ok(());
        };
        let linked = Way::Linked { link: link.clone() };
        let asked = std::mem::replace(&mut incoming.way, linked);
        let Way::Asked {
            half: Half::Memory { borrows, segments },
            ..
        } = asked
        else {
            return Err(Error::Protocol("channel given twice"));
        };
        let (subscriber, origin) = (
            Arc::clone(&incoming.subscriber),
            Arc::clone(&incoming.origin),
        );
        let peer = self.links.get(&link.peer()).ok_or(Error::Closed)?;
        let page = peer
            .bells
            .as_ref()
            .ok_or(Error::Protocol("attached before bells"))?;
        let event = Event::from_fd(event)?;
        let space = match subscriber.overflow.deadline() {
            Some(_) => Some(Arc::new(Ringer::remote(page, bell, event, peer.fencing)?)),
            None => None,
        };
        let capacity = subscriber.ring.capacity();
        let bytes = bytes_with_rounding(RingHalf::bytes(capacity));
        let ring = RingHalf::open(PeerSegment::map(half, bytes)?, capacity)?;
        let consumer = Consumer::new(ring, borrows, subscriber.ring, origin, space)?;
        let progress = consumer.progress();
        if let Some(incoming) = self.incoming_over(link, channel) {
            incoming.progress = Some(progress);
        }
        let mut rx = RxChannel::new(channel, consumer);
        for (number, segment) in segments {
            rx.add_segment(number, segment);
        }
        subscriber.tell(SubscriberEvent::Add(Box::new(rx)));
        link.send(&LinkFrame::Ready { channel });
        Ok(())
    }
}

/// Where a sink takes its place.
struct Place {
    channel: u64,
    /// With which message an earlier one would have gone on.
    expected: Option<u64>,
    is_same_clock: bool,
}

/// Asks the publisher's node for memory, and hands over ours.
fn ask_for_memory(
    host: &HostLink,
    subscriber: &SubscriberShared,
    attach: &LinkFrame,
) -> Result<Half, Error> {
    let entry_count = subscriber.ring.entry_count();
    let bytes = BorrowHalf::bytes(entry_count);
    let segment = Arc::new(Segment::create("shmesh-borrows", bytes)?);
    let borrows = BorrowHalf::create_in(&segment, entry_count)?;
    let event = subscriber.bell.try_clone()?;
    let handed = vec![Handed::Segment(segment), Handed::Event(event)];
    host.send(attach, handed);
    Ok(Half::Memory {
        borrows,
        segments: Vec::new(),
    })
}
