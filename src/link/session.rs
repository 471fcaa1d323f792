//! What two nodes say to each other over a link, and in which order. Sans-IO, and the same for host
//! links and network links.
//!
//! After the handshake both sides may send any [`LinkFrame`] of the path. The subscriber's node
//! asks for a channel (`Attach`) and brings its half; the publisher's node answers (`Attached`)
//! with its own; the subscriber's node says when it has all it needs (`Ready`): what is sent from
//! then on is received, even if the publisher's process ends at once.
//! On a host link descriptors travel beside the frame that names them: how many each must bring is
//! fixed here.

use serde::{Deserialize, Serialize};

use super::wire::{self, Kind};
use crate::error::Error;
use crate::limits::{DEPTH_MAX, HELD_MAX};
use crate::topology::TopicType;

/// One message of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkFrame {
    /// "These are our parked words." Comes first. Brings the bell page.
    Bells {
        /// How many words.
        count: u32,
        /// True if this side cannot order a sender's stores when it parks, so that senders must
        /// fence every message.
        needs_fences: bool,
    },
    /// "Give our subscriber a channel from your publisher." Brings the borrow half and the event
    /// of the subscriber.
    Attach(Attach),
    /// "Here is your channel." Brings the ring half and the event of the publisher.
    Attached {
        /// The number the subscriber's side gave it.
        channel: u64,
        /// Parked word of the publisher.
        bell: u32,
        /// Messages that the publisher had sent by then.
        sequence: u64,
    },
    /// "We have what you sent us."
    Ready {
        /// The channel.
        channel: u64,
    },
    /// "You get no channel."
    Refused {
        /// The number the subscriber's side gave it.
        channel: u64,
        /// Why, for a log.
        reason: String,
    },
    /// "The channel's payloads may lie here from now on." Brings the segment.
    Segment {
        /// The channel.
        channel: u64,
        /// Number of the segment.
        number: u32,
        /// Its bytes.
        bytes: u64,
    },
    /// "Nothing lies there any more."
    SegmentGone {
        /// The channel.
        channel: u64,
        /// Number of the segment.
        number: u32,
    },
    /// "Our subscriber is gone."
    Detach {
        /// The channel.
        channel: u64,
    },
    /// "Our publisher is gone; what it sent is in the ring."
    Closed {
        /// The channel.
        channel: u64,
    },
    /// "All messages before this one were sent to you, or are lost."
    Passed {
        /// The channel.
        channel: u64,
        /// Number of the next message.
        sequence: u64,
    },
    /// "I live." Said when nothing else was for a while.
    Heartbeat,
}

/// The wish for a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The number the subscriber's side gives it.
    pub channel: u64,
    /// Which publisher.
    pub publisher: u32,
    /// The topic.
    pub topic: String,
    /// What the subscriber takes it to carry.
    pub ty: TopicType,
    /// Most unread messages.
    pub depth: u32,
    /// Most chunks held besides.
    pub held_max: u32,
    /// True if the oldest unread message gives way.
    pub overwrites: bool,
    /// How long the publisher waits for room, in nanoseconds.
    pub block_ns: Option<u64>,
    /// Parked word of the subscriber.
    pub bell: u32,
    /// Most messages it wants of those sent before.
    pub history: u32,
    /// None of them before this one.
    pub from: u64,
    /// Age in nanoseconds beyond which it does not want a message.
    pub lifespan_ns: Option<u64>,
    /// The subscription, if it is one to several topics, which it gets in the order of the node.
    pub merged_as: Option<u32>,
}

impl Attach {
    fn check(&self) -> Result<(), Error> {
        let is_fine = (1..=DEPTH_MAX).contains(&self.depth)
            && self.held_max <= HELD_MAX
            && self.history <= self.depth
            && !(self.overwrites && self.block_ns.is_some());
        if is_fine {
            Ok(())
        } else {
            Err(Error::Protocol("channel out of bounds"))
        }
    }
}

impl LinkFrame {
    /// How many descriptors come with it.
    #[must_use]
    pub const fn descriptor_count(&self) -> usize {
        match self {
            Self::Attach(_) | Self::Attached { .. } => 2,
            Self::Bells { .. } | Self::Segment { .. } => 1,
            Self::Ready { .. }
            | Self::Refused { .. }
            | Self::SegmentGone { .. }
            | Self::Detach { .. }
            | Self::Closed { .. }
            | Self::Passed { .. }
            | Self::Heartbeat => 0,
        }
    }
}

/// Most descriptors that come with a frame.
pub const DESCRIPTORS_MAX: usize = 2;

/// What a link goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A socket of one host, and shared memory.
    Host,
    /// A network; messages follow the frames on the same connection.
    Network,
}

impl LinkFrame {
    /// True for what can be said on that path.
    const fn fits(&self, path: Path) -> bool {
        match self {
            Self::Bells { .. } | Self::Segment { .. } | Self::SegmentGone { .. } => {
                matches!(path, Path::Host)
            }
            Self::Passed { .. } | Self::Heartbeat => matches!(path, Path::Network),
            Self::Attach(_)
            | Self::Attached { .. }
            | Self::Ready { .. }
            | Self::Refused { .. }
            | Self::Detach { .. }
            | Self::Closed { .. } => true,
        }
    }
}

/// One side of a link, after the handshake: judges what the peer says.
#[derive(Debug)]
pub struct Session {
    path: Path,
    has_bells: bool,
}

impl Session {
    /// A link that has just come up.
    #[must_use]
    pub const fn new(path: Path) -> Self {
        let has_bells = false;
        Self { path, has_bells }
    }

    /// Takes a packet, which is one frame, that came with `descriptors` descriptors.
    ///
    /// # Errors
    /// Whatever ends the link: no frame, or one that is out of turn or bounds.
    pub fn receive(&mut self, packet: &[u8], descriptors: usize) -> Result<LinkFrame, Error> {
        let frame = wire::decode(packet)?.ok_or(Error::Protocol("cut frame"))?;
        if frame.len != packet.len() {
            return Err(Error::Protocol("bytes behind a frame"));
        }
        self.take(&frame, descriptors)
    }

    /// Takes a frame that came with `descriptors` descriptors.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn take(
        &mut self,
        frame: &wire::Frame<'_>,
        descriptors: usize,
    ) -> Result<LinkFrame, Error> {
        let frame: LinkFrame = wire::body(frame, Kind::Link)?;
        let expected = match self.path {
            Path::Host => frame.descriptor_count(),
            Path::Network => 0,
        };
        if expected != descriptors {
            return Err(Error::Protocol("wrong number of descriptors"));
        }
        if !frame.fits(self.path) {
            return Err(Error::Protocol("not to be said on this path"));
        }
        if self.path == Path::Host {
            let is_bells = matches!(frame, LinkFrame::Bells { .. });
            if is_bells == self.has_bells {
                return Err(Error::Protocol("bells must come first, and once"));
            }
            self.has_bells = true;
        }
        if let LinkFrame::Attach(attach) = &frame {
            attach.check()?;
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Encoding;

    fn attach() -> Attach {
        Attach {
            channel: 1,
            publisher: 2,
            topic: "t".into(),
            ty: TopicType {
                encoding: Encoding::Raw,
                name: "bytes".into(),
                hash: 0,
            },
            depth: 4,
            held_max: 2,
            overwrites: true,
            block_ns: None,
            bell: 0,
            history: 4,
            from: 0,
            lifespan_ns: Some(1),
            merged_as: None,
        }
    }

    fn packet(frame: &LinkFrame) -> Vec<u8> {
        wire::encode(Kind::Link, frame).unwrap()
    }

    fn bells() -> LinkFrame {
        LinkFrame::Bells {
            count: 3,
            needs_fences: false,
        }
    }

    #[test]
    fn both_sides_talk() {
        let mut host = Session::new(Path::Host);
        assert_eq!(host.receive(&packet(&bells()), 1).unwrap(), bells());
        let frame = LinkFrame::Attach(attach());
        assert_eq!(host.receive(&packet(&frame), 2).unwrap(), frame);
        let mut network = Session::new(Path::Network);
        assert_eq!(network.receive(&packet(&frame), 0).unwrap(), frame);
        let beat = LinkFrame::Heartbeat;
        assert_eq!(network.receive(&packet(&beat), 0).unwrap(), beat);
    }

    #[test]
    fn what_is_out_of_turn_or_bounds_ends_the_link() {
        let attach_packet = packet(&LinkFrame::Attach(attach()));
        let refused = |sequence: &[(&[u8], usize)]| {
            let mut session = Session::new(Path::Host);
            let (last, before) = sequence.split_last().unwrap();
            for (bytes, descriptors) in before {
                session.receive(bytes, *descriptors).unwrap();
            }
            session.receive(last.0, last.1).is_err()
        };
        let bells = packet(&bells());
        assert!(refused(&[(&attach_packet, 2)]), "before the bells");
        assert!(refused(&[(&bells, 1), (&bells, 1)]), "bells twice");
        assert!(refused(&[(&bells, 0)]), "no descriptor");
        let beat = packet(&LinkFrame::Heartbeat);
        assert!(refused(&[(&bells, 1), (&beat, 0)]), "of another path");
        for depth in [0, DEPTH_MAX + 1] {
            let attach = packet(&LinkFrame::Attach(Attach { depth, ..attach() }));
            assert!(refused(&[(&bells, 1), (&attach, 2)]), "{depth}");
        }
        let attach = packet(&LinkFrame::Attach(Attach {
            history: 5,
            ..attach()
        }));
        assert!(refused(&[(&bells, 1), (&attach, 2)]), "beyond the ring");
        for garbage in [&b""[..], b"sM", b"GET / HTTP", &[0; 128]] {
            assert!(refused(&[(garbage, 0)]));
        }
        for of_host in [
            LinkFrame::SegmentGone {
                channel: 1,
                number: 1,
            },
            self::bells(),
        ] {
            let refused = Session::new(Path::Network).receive(&packet(&of_host), 0);
            assert!(refused.is_err(), "{of_host:?}");
        }
    }
}
