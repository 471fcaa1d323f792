//! A peer that hands over what it should not.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use shmesh::link::handshake::{Hello, Purpose, Side};
use shmesh::link::session::{Attach, LinkFrame};
use shmesh::link::wire::{Kind, body, decode, encode};
use shmesh::topology::{Encoding, TopicType};
use shmesh::{NodeId, Publisher, Raw};
use shmesh_shm::{BellPage, BorrowHalf, Event, RingConfig, Segment};

use crate::support::{Mesh, PATIENCE, eventually, payload};

/// A link by hand.
pub(crate) struct Peer(OwnedFd);

impl Peer {
    pub(crate) fn dial(mesh: &Mesh) -> Self {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let entry = std::fs::read_dir(mesh.dir.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let path: PathBuf = entry.path();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        Self(socket)
    }

    /// Dials, greets, and takes in the greeting and the bells.
    fn connected(mesh: &Mesh) -> Self {
        let peer = Self::dial(mesh);
        let hello = hello(NodeId::random().unwrap());
        peer.send(&hello.encode(), &[]);
        assert!(peer.receive().is_some(), "the greeting");
        assert!(peer.receive().is_some(), "the bells");
        peer
    }

    pub(crate) fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let slices = [IoSlice::new(packet)];
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, &slices, &mut ancillary, flags).unwrap();
    }

    fn say(&self, frame: &LinkFrame, descriptors: &[BorrowedFd<'_>]) {
        self.send(&encode(Kind::Link, frame).unwrap(), descriptors);
    }

    /// The next packet; `None` when the node hangs up.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 65_536];
        match rustix::net::recv(&self.0, &mut packet[..], RecvFlags::empty()) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => None,
            Ok((count, _)) => {
                packet.truncate(count);
                Some(packet)
            }
            Err(errno) => panic!("{errno}"),
        }
    }

    fn hear(&self) -> Option<LinkFrame> {
        let packet = self.receive()?;
        Some(body(&decode(&packet).unwrap().unwrap(), Kind::Link).unwrap())
    }

    fn is_cut_off(&self) -> bool {
        while let Some(packet) = self.receive() {
            assert!(!packet.is_empty());
        }
        true
    }
}

fn hello(id: NodeId) -> Hello {
    Hello::ours(Side::Node, Purpose::HostLink, id).unwrap()
}

struct Setting {
    mesh: Mesh,
    _node: shmesh::Node,
    publisher: Publisher<Raw>,
}

impl Setting {
    fn new() -> Self {
        let mesh = Mesh::start();
        let node = mesh.node("victim");
        let publisher = node.publisher::<Raw>("t").build().unwrap();
        Self {
            mesh,
            _node: node,
            publisher,
        }
    }

    /// The node still does what it is for.
    fn must_be_well(mut self) {
        let mut friend = self.mesh.child("friend");
        let before = self.publisher.listener_count();
        assert_eq!(friend.ask("sub t keep 16 4"), "ok");
        eventually("it listens", || self.publisher.listener_count() > before);
        for size in [8, 10_000] {
            let number = self.publisher.stats().sent;
            self.publisher
                .publish_bytes(&payload(number, size))
                .unwrap();
            assert!(friend.ask("recv 1").contains("damaged 0"));
        }
    }
}

const CONFIG: RingConfig = RingConfig {
    depth: 4,
    mode: shmesh_shm::Mode::Overwrite,
    held_max: 2,
    start: 0,
};

fn attach(change: impl FnOnce(&mut Attach)) -> LinkFrame {
    let mut attach = Attach {
        channel: 1,
        publisher: 0,
        topic: "t".into(),
        ty: TopicType {
            encoding: Encoding::Raw,
            name: "bytes".into(),
            hash: 0,
        },
        depth: CONFIG.depth,
        held_max: CONFIG.held_max,
        overwrites: true,
        block_ns: None,
        bell: 0,
        history: 0,
        from: 0,
        lifespan_ns: None,
        merged_as: None,
    };
    change(&mut attach);
    LinkFrame::Attach(attach)
}

fn with_bells(setting: &Setting) -> Peer {
    let peer = Peer::connected(&setting.mesh);
    let bells = BellPage::create(4).unwrap();
    peer.say(
        &LinkFrame::Bells {
            count: 4,
            needs_fences: false,
        },
        &[bells.fd()],
    );
    peer
}

fn half() -> std::sync::Arc<Segment> {
    let bytes = BorrowHalf::bytes(CONFIG.entry_count());
    let segment = std::sync::Arc::new(Segment::create("half", bytes).unwrap());
    BorrowHalf::create_in(&segment, CONFIG.entry_count()).unwrap();
    segment
}

fn unsealed(bytes: u64) -> OwnedFd {
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("unsealed", flags).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    fd
}

#[test]
fn greetings_that_do_not_fit_end_the_link() {
    let setting = Setting::new();
    for packet in [&[7_u8; 128][..], b"x", &[0; 4096]] {
        let peer = Peer::dial(&setting.mesh);
        peer.send(packet, &[]);
        assert!(peer.is_cut_off());
    }
    let peer = Peer::dial(&setting.mesh);
    let mut old = hello(NodeId(1)).encode();
    old[8] = 200;
    peer.send(&old, &[]);
    let answer: [u8; 128] = peer.receive().unwrap().try_into().unwrap();
    assert!(
        Hello::decode(&answer).is_ok(),
        "the old one learns our version"
    );
    assert!(peer.is_cut_off());
    let peer = Peer::dial(&setting.mesh);
    let other = Hello {
        layout: 5,
        ..hello(NodeId(1))
    };
    peer.send(&other.encode(), &[]);
    assert!(peer.is_cut_off(), "another memory layout");
    setting.must_be_well();
}

#[test]
fn memory_that_is_unsealed_short_or_garbage_is_refused() {
    let setting = Setting::new();
    let event = Event::new().unwrap();
    let short = Segment::create("short", 16).unwrap();
    let garbage = Segment::create("garbage", BorrowHalf::bytes(CONFIG.entry_count())).unwrap();
    let file: OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
    let unsealed = unsealed(4096);
    let hostile = [unsealed.as_fd(), garbage.fd(), file.as_fd(), event.fd()];
    for (number, memory) in hostile.into_iter().enumerate() {
        let peer = with_bells(&setting);
        peer.say(&attach(|_| {}), &[memory, event.fd()]);
        let Some(LinkFrame::Refused { reason, .. }) = peer.hear() else {
            panic!("case {number}")
        };
        assert!(!reason.is_empty());
    }
    // One page is the least there is; a deep ring needs more.
    let peer = with_bells(&setting);
    let deep = attach(|attach| attach.depth = 60_000);
    peer.say(&deep, &[short.fd(), event.fd()]);
    assert!(matches!(peer.hear(), Some(LinkFrame::Refused { .. })));
    let peer = with_bells(&setting);
    peer.say(&attach(|_| {}), &[half().fd(), file.as_fd()]);
    assert!(
        matches!(peer.hear(), Some(LinkFrame::Refused { .. })),
        "no event"
    );
    setting.must_be_well();
}

#[test]
fn wishes_out_of_bounds_are_refused_or_end_the_link() {
    let setting = Setting::new();
    let event = Event::new().unwrap();
    let half = half();
    let peer = with_bells(&setting);
    let lost = attach(|attach| attach.publisher = 99);
    peer.say(&lost, &[half.fd(), event.fd()]);
    assert!(matches!(peer.hear(), Some(LinkFrame::Closed { .. })));
    let refused: [fn(&mut Attach); 3] = [
        |attach| attach.topic = "other".into(),
        |attach| attach.ty.hash = 1,
        |attach| attach.bell = 77,
    ];
    for change in refused {
        let peer = with_bells(&setting);
        peer.say(&attach(change), &[half.fd(), event.fd()]);
        assert!(matches!(peer.hear(), Some(LinkFrame::Refused { .. })));
    }
    let ending: [fn(&mut Attach); 3] = [
        |attach| attach.depth = 0,
        |attach| attach.depth = u32::MAX,
        |attach| attach.held_max = u32::MAX,
    ];
    for change in ending {
        let peer = with_bells(&setting);
        peer.say(&attach(change), &[half.fd(), event.fd()]);
        assert!(peer.is_cut_off());
    }
    let peer = with_bells(&setting);
    peer.say(&attach(|_| {}), &[half.fd()]);
    assert!(peer.is_cut_off(), "a descriptor is missing");
    setting.must_be_well();
}

#[test]
fn a_subscriber_counts_as_a_listener_once_it_says_that_it_can_receive() {
    let mut setting = Setting::new();
    let event = Event::new().unwrap();
    let (first, second) = (half(), half());
    let peer = with_bells(&setting);
    peer.say(&attach(|_| {}), &[first.fd(), event.fd()]);
    let Some(LinkFrame::Attached { channel, .. }) = peer.hear() else {
        panic!("a channel")
    };
    // An answer to the second means that all of the first is done.
    let again = attach(|attach| attach.channel += 1);
    peer.say(&again, &[second.fd(), event.fd()]);
    assert!(matches!(peer.hear(), Some(LinkFrame::Attached { .. })));
    assert_eq!(setting.publisher.listener_count(), 0);
    peer.say(&LinkFrame::Ready { channel }, &[]);
    setting
        .publisher
        .wait_for_listener_blocking(PATIENCE)
        .unwrap();
    assert_eq!(setting.publisher.listener_count(), 1);
}

#[test]
fn a_peer_that_lies_in_its_half_loses_its_channel_only() {
    let mut setting = Setting::new();
    let event = Event::new().unwrap();
    let segment = half();
    let peer = with_bells(&setting);
    let keeping = attach(|attach| attach.overwrites = false);
    peer.say(&keeping, &[segment.fd(), event.fd()]);
    let Some(LinkFrame::Attached { channel, .. }) = peer.hear() else {
        panic!("a channel")
    };
    peer.say(&LinkFrame::Ready { channel }, &[]);
    setting
        .publisher
        .wait_for_listener_blocking(PATIENCE)
        .unwrap();
    // The cursor is at the start of the half's third line pair; ours to write, so ours to spoil.
    let line = shmesh_shm::reference::Line::over(&segment, 128).unwrap();
    line.store(u64::MAX / 3);
    for number in 0..10 {
        setting
            .publisher
            .publish_bytes(&payload(number, 8))
            .unwrap();
    }
    assert_eq!(
        setting.publisher.listener_count(),
        0,
        "the channel is ended"
    );
    setting.must_be_well();
}

#[test]
fn what_a_peer_is_handed_cannot_be_written_or_shrunk() {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage};
    let setting = Setting::new();
    let event = Event::new().unwrap();
    let segment = half();
    let peer = with_bells(&setting);
    peer.say(&attach(|_| {}), &[segment.fd(), event.fd()]);
    let mut packet = vec![0; 65_536];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [std::io::IoSliceMut::new(&mut packet)];
    rustix::net::recvmsg(&peer.0, &mut slices, &mut ancillary, RecvFlags::empty()).unwrap();
    let mut handed = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            handed.extend(rights);
        }
    }
    let ring = &handed[0];
    assert_eq!(rustix::fs::ftruncate(ring, 0), Err(rustix::io::Errno::PERM));
    assert_eq!(rustix::io::write(ring, b"x"), Err(rustix::io::Errno::PERM));
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", ring.as_raw_fd());
    if let Ok(reopened) = std::fs::File::options().read(true).write(true).open(path) {
        assert!(reopened.set_len(0).is_err());
        assert!(std::io::Write::write(&mut &reopened, b"x").is_err());
    }
    setting.must_be_well();
}
