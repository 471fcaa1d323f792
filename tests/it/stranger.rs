//! A node by hand: says over real connections what it likes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmesh::link::handshake::{HELLO_BYTES, Hello, Purpose, Side};
use shmesh::link::session::{Attach, LinkFrame};
use shmesh::link::wire::{Kind, MessageHeader, body, decode, encode};
use shmesh::membership::FromNode;
use shmesh::topology::{Change, Encoding, Endpoint, NodeInfo, Role, TopicType};
use shmesh::{HostId, NodeId};

use crate::support::PATIENCE;

/// An address of this computer that no node of a test has: its failures are its own.
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Connects from an address of this computer.
pub(crate) fn dial_from(source: IpAddr, address: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// True if the other side hangs up, whatever it says before.
pub(crate) fn is_cut_off(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// A connection that is past its handshake.
#[derive(Debug)]
pub(crate) struct Stranger {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Stranger {
    pub(crate) fn join(address: &str, purpose: Purpose, id: NodeId) -> Self {
        Self::greet(address, &Hello::ours(Side::Node, purpose, id).unwrap())
    }

    fn greet(address: &str, hello: &Hello) -> Self {
        let mut stream = dial_from(ELSEWHERE, address);
        stream.write_all(&hello.encode()).unwrap();
        let mut answer = [0; HELLO_BYTES];
        stream.read_exact(&mut answer).unwrap();
        Hello::decode(&answer).unwrap();
        let unread = Vec::new();
        Self { stream, unread }
    }

    /// A link to the node behind that door.
    pub(crate) fn link(door: &str) -> Self {
        Self::join(door, Purpose::NetworkLink, NodeId::random().unwrap())
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn say(&mut self, frame: &LinkFrame) {
        self.send(&encode(Kind::Link, frame).unwrap());
    }

    /// Says the same over and over until it is cut off; false if that does not come.
    pub(crate) fn repeat_until_cut_off(mut self, words: &[u8]) -> bool {
        let many = words.repeat(65_536 / words.len().max(1));
        let started = std::time::Instant::now();
        while started.elapsed() < PATIENCE {
            if self.stream.write_all(&many).is_err() {
                return true;
            }
        }
        false
    }

    /// True if the node hangs up after these words, though the link is not silent.
    pub(crate) fn is_cut_off_by(&mut self, words: &[u8]) -> bool {
        self.send(words);
        let mut stream = self.stream.try_clone().unwrap();
        let beat = encode(Kind::Link, &LinkFrame::Heartbeat).unwrap();
        std::thread::spawn(move || {
            while stream.write_all(&beat).is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        self.hear().is_none()
    }

    /// The next frame that is no heartbeat; `None` if the other side hangs up.
    pub(crate) fn hear(&mut self) -> Option<LinkFrame> {
        loop {
            if let Some(frame) = decode(&self.unread).unwrap() {
                let said = body(&frame, Kind::Link).unwrap();
                let len = frame.len;
                self.unread.drain(..len);
                if said == LinkFrame::Heartbeat {
                    continue;
                }
                return Some(said);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither a frame nor the end: {error}"),
            }
        }
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        is_cut_off(&self.stream)
    }
}

pub(crate) fn raw_type() -> TopicType {
    TopicType {
        encoding: Encoding::Raw,
        name: "bytes".into(),
        hash: 0,
    }
}

/// The wish for a channel from the node's first publisher, on topic `t`.
pub(crate) fn attach(channel: u64, overwrites: bool) -> LinkFrame {
    LinkFrame::Attach(Attach {
        channel,
        publisher: 0,
        topic: "t".into(),
        ty: raw_type(),
        depth: 16,
        held_max: 4,
        overwrites,
        block_ns: None,
        bell: 0,
        history: 0,
        from: 0,
        lifespan_ns: None,
        merged_as: None,
    })
}

/// A message as it goes over a link.
pub(crate) fn message(channel: u64, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let header = MessageHeader {
        channel,
        sequence,
        sent_ns: 0,
        len: payload.len(),
    };
    [&header.encode()[..], payload].concat()
}

/// The header of a message that is announced to be of `len` bytes.
pub(crate) fn announced(channel: u64, len: u32) -> Vec<u8> {
    let mut header = message(channel, 0, b"");
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header
}

/// A publisher of topic `t` by hand, in the mesh until it is dropped.
#[derive(Debug)]
pub(crate) struct FakePublisher {
    id: NodeId,
    is_over: Arc<AtomicBool>,
    beating: Option<std::thread::JoinHandle<()>>,
}

impl FakePublisher {
    /// Registers a node with so small an id that it is the one to dial.
    pub(crate) fn join(coordinator: &str, number: u128) -> Self {
        Self::join_from(HostId::of_this_host().unwrap(), coordinator, number)
    }

    /// The same on another host, as far as it says.
    pub(crate) fn join_from(host: HostId, coordinator: &str, number: u128) -> Self {
        let id = NodeId(number + 1);
        let mut member = Stranger::join(coordinator, Purpose::Membership, id);
        let info = NodeInfo {
            id,
            name: format!("fake-{number}"),
            host,
            uid: 0,
            pid: 0,
            socket: String::new(),
            addresses: Vec::new(),
        };
        let endpoint = Endpoint {
            id: 0,
            role: Role::Publisher,
            topic: "t".into(),
            ty: raw_type(),
        };
        let up = Change::EndpointUp { node: id, endpoint };
        for word in [FromNode::Register(info), FromNode::Update(vec![up])] {
            member.send(&encode(Kind::FromNode, &word).unwrap());
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&is_over);
        let beat = encode(Kind::FromNode, &FromNode::Heartbeat).unwrap();
        let beating = std::thread::spawn(move || {
            while !tell.load(Ordering::Acquire) && member.stream.write_all(&beat).is_ok() {
                std::thread::park_timeout(Duration::from_millis(500));
            }
            let _ = member.stream.shutdown(Shutdown::Both);
        });
        Self {
            id,
            is_over,
            beating: Some(beating),
        }
    }

    /// A link to the node behind `door`, whose subscriber gets a channel that goes on at
    /// `sequence`; its number.
    pub(crate) fn link(&self, door: &str, sequence: u64) -> (Stranger, u64) {
        self.link_that_packs(door, sequence, false)
    }

    /// The same, and whether it offers to compress payloads.
    pub(crate) fn link_that_packs(
        &self,
        door: &str,
        sequence: u64,
        packs: bool,
    ) -> (Stranger, u64) {
        let mut hello = Hello::ours(Side::Node, Purpose::NetworkLink, self.id).unwrap();
        hello.packs = packs;
        let mut link = Stranger::greet(door, &hello);
        let Some(LinkFrame::Attach(Attach { channel, .. })) = link.hear() else {
            panic!("it subscribes")
        };
        let bell = 0;
        link.say(&LinkFrame::Attached {
            channel,
            bell,
            sequence,
        });
        assert_eq!(link.hear(), Some(LinkFrame::Ready { channel }));
        (link, channel)
    }
}

impl Drop for FakePublisher {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(beating) = self.beating.take() {
            beating.thread().unpark();
            let _ = beating.join();
        }
    }
}
