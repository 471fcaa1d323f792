//! What two nodes say to each other over a link, and in which order. Sans-IO.
//!
//! After the handshake both sides may send any [`LinkFrame`]. The subscriber's node asks for a
//! channel (`Attach`) and brings its half; the publisher's node answers with its own (`Attached`);
//! the subscriber's node says when it has all it needs (`Ready`): what is sent from then on is
//! received, even if the publisher's process ends at once.
//! Descriptors travel beside the frame that names them: how many each must bring is fixed here.

use serde::{Deserialize, Serialize};

use super::handshake::{HELLO_BYTES, Hello, Side};
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
}

impl Attach {
    fn check(&self) -> Result<(), Error> {
        let is_fine = (1..=DEPTH_MAX).contains(&self.depth)
            && self.held_max <= HELD_MAX
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
            | Self::Closed { .. } => 0,
        }
    }
}

/// Most descriptors that come with a frame.
pub const DESCRIPTORS_MAX: usize = 2;

/// What to do after a packet came.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The handshake is done. Send `reply` first, if there is one.
    Up {
        /// The peer's hello.
        peer: Hello,
        /// Our answer.
        reply: Option<Vec<u8>>,
    },
    /// A message.
    Frame(LinkFrame),
}

#[derive(Debug)]
enum State {
    Greeting { is_initiator: bool },
    Up { has_bells: bool },
}

/// One side of a link.
#[derive(Debug)]
pub struct Session {
    ours: Hello,
    state: State,
}

impl Session {
    /// The side that dialled, and the packet it starts with.
    #[must_use]
    pub fn initiator(ours: Hello) -> (Self, Vec<u8>) {
        let packet = ours.encode().to_vec();
        (
            Self {
                ours,
                state: State::Greeting { is_initiator: true },
            },
            packet,
        )
    }

    /// The side that was dialled.
    #[must_use]
    pub fn responder(ours: Hello) -> Self {
        Self {
            ours,
            state: State::Greeting {
                is_initiator: false,
            },
        }
    }

    /// Our hello, for a responder that must say which version it has before it hangs up.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        self.ours.encode().to_vec()
    }

    /// Takes a packet that came with `descriptors` descriptors.
    ///
    /// # Errors
    /// Whatever ends the link: a handshake that does not fit, a frame that is none or out of turn.
    pub fn receive(&mut self, packet: &[u8], descriptors: usize) -> Result<Step, Error> {
        match &mut self.state {
            State::Greeting { is_initiator } => {
                let is_initiator = *is_initiator;
                let bytes: &[u8; HELLO_BYTES] = packet
                    .try_into()
                    .map_err(|_| Error::Protocol("not a hello"))?;
                let peer = Hello::decode(bytes)?;
                self.ours.check(&peer, Side::Node)?;
                self.state = State::Up { has_bells: false };
                let reply = (!is_initiator).then(|| self.hello());
                Ok(Step::Up { peer, reply })
            }
            State::Up { has_bells } => {
                let frame = wire::decode(packet)?.ok_or(Error::Protocol("cut frame"))?;
                if frame.len != packet.len() {
                    return Err(Error::Protocol("bytes behind a frame"));
                }
                let frame: LinkFrame = wire::body(&frame, Kind::Link)?;
                if frame.descriptor_count() != descriptors {
                    return Err(Error::Protocol("wrong number of descriptors"));
                }
                let is_bells = matches!(frame, LinkFrame::Bells { .. });
                if is_bells == *has_bells {
                    return Err(Error::Protocol("bells must come first, and once"));
                }
                *has_bells = true;
                if let LinkFrame::Attach(attach) = &frame {
                    attach.check()?;
                }
                Ok(Step::Frame(frame))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::topology::Encoding;

    fn hello(id: u128) -> Hello {
        Hello::ours(Side::Node, NodeId(id)).unwrap()
    }

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
        }
    }

    fn packet(frame: &LinkFrame) -> Vec<u8> {
        wire::encode(Kind::Link, frame).unwrap()
    }

    fn pair() -> (Session, Session) {
        let (mut dialling, first) = Session::initiator(hello(1));
        let mut dialled = Session::responder(hello(2));
        let Step::Up {
            peer,
            reply: Some(reply),
        } = dialled.receive(&first, 0).unwrap()
        else {
            panic!("the responder answers")
        };
        assert_eq!(peer.id, NodeId(1));
        let Step::Up { peer, reply: None } = dialling.receive(&reply, 0).unwrap() else {
            panic!("the initiator does not")
        };
        assert_eq!(peer.id, NodeId(2));
        (dialling, dialled)
    }

    #[test]
    fn both_sides_come_up_and_talk() {
        let (_, mut dialled) = pair();
        let bells = LinkFrame::Bells {
            count: 3,
            needs_fences: false,
        };
        assert_eq!(
            dialled.receive(&packet(&bells), 1).unwrap(),
            Step::Frame(bells)
        );
        let frame = LinkFrame::Attach(attach());
        assert_eq!(
            dialled.receive(&packet(&frame), 2).unwrap(),
            Step::Frame(frame)
        );
    }

    #[test]
    fn what_is_out_of_turn_or_bounds_ends_the_link() {
        let bells = packet(&LinkFrame::Bells {
            count: 3,
            needs_fences: false,
        });
        let attach_packet = packet(&LinkFrame::Attach(attach()));
        let (_, mut early) = pair();
        assert!(
            early.receive(&attach_packet, 2).is_err(),
            "before the bells"
        );
        let (_, mut twice) = pair();
        twice.receive(&bells, 1).unwrap();
        assert!(twice.receive(&bells, 1).is_err(), "bells twice");
        let (_, mut bare) = pair();
        assert!(bare.receive(&bells, 0).is_err(), "no descriptor");
        let (_, mut deep) = pair();
        deep.receive(&bells, 1).unwrap();
        for depth in [0, DEPTH_MAX + 1] {
            let attach = Attach { depth, ..attach() };
            assert!(
                deep.receive(&packet(&LinkFrame::Attach(attach)), 2)
                    .is_err(),
                "{depth}"
            );
        }
        for garbage in [&b""[..], b"sM", b"GET / HTTP", &[0; HELLO_BYTES]] {
            assert!(pair().0.receive(garbage, 0).is_err());
            assert!(Session::responder(hello(3)).receive(garbage, 0).is_err());
        }
    }
}
