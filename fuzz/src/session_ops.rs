//! Any sequence of frames and descriptors on a link: taken if it is in turn, in bounds and of this
//! path, refused if not.

use shmesh::limits::{DEPTH_MAX, HELD_MAX};
use shmesh::link::session::{Attach, LinkFrame, Path, Session};
use shmesh::link::wire::{self, HEADER_BYTES, Kind};
use shmesh::topology::{Encoding, TopicType};

/// Numbers at the bounds of one field or another.
const NUMBERS: [u32; 10] = [
    0,
    1,
    2,
    HELD_MAX - 1,
    HELD_MAX,
    HELD_MAX + 1,
    DEPTH_MAX - 1,
    DEPTH_MAX,
    DEPTH_MAX + 1,
    u32::MAX,
];

/// Four bytes are a packet: which frame, how many descriptors and how it is damaged, numbers,
/// flags. Both paths get it.
pub fn run(input: &[u8]) {
    let mut links = [Path::Host, Path::Network].map(Link::new);
    for op in input.chunks_exact(4) {
        let (packet, descriptors) = (packet(op), usize::from(op[1] % 4));
        for link in &mut links {
            link.receive(&packet, descriptors);
        }
    }
}

struct Link {
    session: Session,
    path: Path,
    has_bells: bool,
}

impl Link {
    fn new(path: Path) -> Self {
        Self {
            session: Session::new(path),
            path,
            has_bells: false,
        }
    }

    /// What is refused changes nothing here, so that the sequence can go on.
    fn receive(&mut self, packet: &[u8], descriptors: usize) {
        let expected = read(packet).filter(|frame| self.is_expected(frame, descriptors));
        let found = self.session.receive(packet, descriptors);
        let context = (self.path, descriptors, packet);
        assert_eq!(found.ok(), expected, "{context:?}");
        self.has_bells |= matches!(expected, Some(LinkFrame::Bells { .. }));
    }

    fn is_expected(&self, frame: &LinkFrame, descriptors: usize) -> bool {
        // Descriptors on a host, or what the path has no place for.
        let (on_host, on_network) = match frame {
            LinkFrame::Bells { .. } | LinkFrame::Segment { .. } => (Some(1), false),
            LinkFrame::SegmentGone { .. } => (Some(0), false),
            LinkFrame::Attach(_) | LinkFrame::Attached { .. } => (Some(2), true),
            LinkFrame::Ready { .. }
            | LinkFrame::Refused { .. }
            | LinkFrame::Detach { .. }
            | LinkFrame::Closed { .. } => (Some(0), true),
            LinkFrame::Passed { .. } | LinkFrame::Heartbeat => (None, true),
        };
        let is_in_turn = match self.path {
            Path::Host => {
                let is_bells = matches!(frame, LinkFrame::Bells { .. });
                on_host == Some(descriptors) && is_bells != self.has_bells
            }
            Path::Network => on_network && descriptors == 0,
        };
        let is_in_bounds = match frame {
            LinkFrame::Attach(attach) => {
                let is_waiting = attach.block_ns.is_some();
                attach.depth != 0
                    && attach.depth <= DEPTH_MAX
                    && attach.held_max <= HELD_MAX
                    && attach.history <= attach.depth
                    && !(attach.overwrites && is_waiting)
            }
            _ => true,
        };
        is_in_turn && is_in_bounds
    }
}

/// The frame that a packet is, if it is nothing else.
fn read(packet: &[u8]) -> Option<LinkFrame> {
    let frame = wire::decode(packet).ok()??;
    (frame.len == packet.len()).then_some(())?;
    wire::body(&frame, Kind::Link).ok()
}

fn packet(op: &[u8]) -> Vec<u8> {
    let frame = frame(op[0], op[2], op[3]);
    let damage = op[1] >> 2;
    let kind = match damage {
        60 => Kind::FromNode,
        61 => Kind::FromCoordinator,
        _ => Kind::Link,
    };
    let mut packet = wire::encode(kind, &frame).expect("a small frame");
    match damage {
        // Most packets are as they should be.
        0..40 => {}
        40..44 => packet.truncate(packet.len().saturating_sub(1 + usize::from(op[3]))),
        44..48 => packet.resize(packet.len() + 1 + usize::from(op[3]), 0),
        48..60 => {
            // Never the length, which the wire looks at.
            let at = HEADER_BYTES + usize::from(op[3]) % (packet.len() - HEADER_BYTES);
            packet[at] ^= op[2];
        }
        _ => {}
    }
    packet
}

fn frame(what: u8, number: u8, flags: u8) -> LinkFrame {
    let channel = u64::from(flags >> 4);
    let small = NUMBERS[usize::from(number) % NUMBERS.len()];
    let large = u64::from(small) << 32;
    match what % 13 {
        0 => LinkFrame::Bells {
            count: small,
            needs_fences: flags % 2 == 1,
        },
        // Twice as often as the others, for it has the most to be wrong.
        1 | 2 => LinkFrame::Attach(attach(number, flags)),
        3 => LinkFrame::Attached {
            channel,
            bell: small,
            sequence: large,
        },
        4 => LinkFrame::Ready { channel },
        5 => LinkFrame::Refused {
            channel,
            reason: "no".repeat(usize::from(number)),
        },
        6 => LinkFrame::Segment {
            channel,
            number: small,
            bytes: large,
        },
        7 => LinkFrame::SegmentGone {
            channel,
            number: small,
        },
        8 => LinkFrame::Detach { channel },
        9 => LinkFrame::Closed { channel },
        10 | 11 => LinkFrame::Passed {
            channel,
            sequence: large,
        },
        _ => LinkFrame::Heartbeat,
    }
}

fn attach(number: u8, flags: u8) -> Attach {
    let number = usize::from(number);
    Attach {
        channel: u64::from(flags >> 4),
        publisher: 1,
        topic: "t".into(),
        ty: TopicType {
            encoding: Encoding::Raw,
            name: "bytes".into(),
            hash: 0,
        },
        depth: NUMBERS[number % NUMBERS.len()],
        held_max: NUMBERS[number / NUMBERS.len() % NUMBERS.len()],
        overwrites: flags % 2 == 1,
        block_ns: (flags & 2 != 0).then_some(1),
        bell: 0,
        history: u32::from(flags & 4),
        from: u64::from(flags & 8),
        lifespan_ns: None,
        merged_as: (flags & 4 != 0).then_some(7),
    }
}
