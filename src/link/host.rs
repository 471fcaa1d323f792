//! The host link: a Unix socket between two nodes of one host, over which they hand each other
//! the memory they share. One packet is one frame; descriptors travel beside it.
//!
//! The kernel closes the socket when a process dies, whatever killed it: that is how death is
//! noticed. The socket file is in the runtime directory, is made under a passing name and renamed
//! when it listens, and the next start of any node removes those nobody listens on.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use shmesh_shm::{BellPage, Event, Segment};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};

use super::auth::{BINDING_BYTES, Prover};
use super::handshake::{Handshake, Hello, Purpose, Side};
use super::session::{self, DESCRIPTORS_MAX, LinkFrame, Session};
use super::stream::{Words, shake_hands};
use super::wire::{self, Kind};
use super::{LinkConfig, LinkEvent, LinkHandle};
use crate::endpoint::lock;
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{FRAME_BYTES_MAX, LINK_QUEUE_FRAMES_MAX};
use crate::node::is_in_process;
use crate::wait::watched;

/// Something whose descriptor goes with a frame; kept until it is sent.
#[derive(Debug)]
pub(crate) enum Handed {
    Segment(Arc<Segment>),
    Bells(Arc<BellPage>),
    Event(Event),
}

impl Handed {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Segment(segment) => segment.fd(),
            Self::Bells(page) => page.fd(),
            Self::Event(event) => event.fd(),
        }
    }
}

#[derive(Debug)]
struct Outgoing {
    packet: Vec<u8>,
    handed: Vec<Handed>,
}

impl Outgoing {
    fn try_send(&self, socket: &OwnedFd) -> Result<(), Errno> {
        let descriptors: Vec<_> = self.handed.iter().map(Handed::fd).collect();
        try_send(socket.as_fd(), &self.packet, &descriptors)
    }
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Outgoing>,
    is_closed: bool,
}

#[derive(Debug)]
struct LinkShared {
    peer: NodeId,
    socket: Arc<OwnedFd>,
    /// Nothing is sent but under its lock, so that packets stay in order.
    queue: Mutex<Queue>,
    filled: Notify,
}

/// The sending side of a link, for any thread. Never blocks: a peer that does not read until the
/// queue is full is cut off. What the kernel takes at once is out of this process, which may end.
#[derive(Clone, Debug)]
pub(crate) struct HostLink {
    shared: Arc<LinkShared>,
}

impl HostLink {
    fn new(peer: NodeId, socket: Arc<OwnedFd>) -> Self {
        let (queue, filled) = (Mutex::default(), Notify::new());
        Self {
            shared: Arc::new(LinkShared {
                peer,
                socket,
                queue,
                filled,
            }),
        }
    }

    pub(crate) fn send(&self, frame: &LinkFrame, handed: Vec<Handed>) {
        debug_assert_eq!(frame.descriptor_count(), handed.len());
        let packet = match wire::encode(Kind::Link, frame) {
            Ok(packet) => packet,
            Err(error) => {
                tracing::error!(%error, "frame left out");
                return;
            }
        };
        let next = Outgoing { packet, handed };
        let mut queue = lock(&self.shared.queue);
        let is_first = queue.packets.is_empty() && !queue.is_closed;
        if is_first && next.try_send(&self.shared.socket).is_ok() {
            return;
        }
        if queue.packets.len() >= LINK_QUEUE_FRAMES_MAX {
            tracing::warn!(peer = %self.shared.peer, "the peer does not read its link: cut off");
            queue.is_closed = true;
            queue.packets.clear();
        }
        if !queue.is_closed {
            queue.packets.push_back(next);
        }
        drop(queue);
        self.shared.filled.notify_one();
    }

    pub(crate) fn send_segment(&self, channel: u64, number: u32, segment: &Arc<Segment>) {
        let frame = LinkFrame::Segment {
            channel,
            number,
            bytes: segment.len() as u64,
        };
        self.send(&frame, vec![Handed::Segment(Arc::clone(segment))]);
    }

    pub(crate) fn send_segment_gone(&self, channel: u64, number: u32) {
        self.send(&LinkFrame::SegmentGone { channel, number }, Vec::new());
    }

    pub(crate) fn send_closed(&self, channel: u64) {
        self.send(&LinkFrame::Closed { channel }, Vec::new());
    }

    /// Ends the link after what is queued.
    pub(crate) fn close(&self) {
        lock(&self.shared.queue).is_closed = true;
        self.shared.filled.notify_one();
    }

    pub(crate) fn peer(&self) -> NodeId {
        self.shared.peer
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// Dials a peer and serves the link to its end.
pub(crate) async fn dial(config: LinkConfig, peer: NodeId, path: String) {
    let outcome = async {
        let socket = connect(Path::new(&path))?;
        serve(&config, socket, Prover::Initiator, Some(peer)).await
    };
    if let Err(error) = outcome.await {
        let _ = config.events.send(LinkEvent::Failed { peer, error }).await;
    }
}

/// Serves a link that a peer dialled to its end.
pub(crate) async fn answer(config: LinkConfig, socket: OwnedFd) {
    match serve(&config, socket, Prover::Responder, None).await {
        Ok(()) => {}
        // Of two that dial each other one hangs up; others were killed, or looked who answers.
        Err(error) if is_hang_up(&error) => tracing::debug!(%error, "a peer hung up"),
        Err(error) => tracing::warn!(%error, "a peer's link came to nothing"),
    }
}

fn is_hang_up(error: &Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let kind = match error {
        Error::Io { source, .. } => source.kind(),
        _ => return false,
    };
    matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// A link from the first word on. Fails only before it is up; later its end is an event.
async fn serve(
    config: &LinkConfig,
    socket: OwnedFd,
    role: Prover,
    expected: Option<NodeId>,
) -> Result<(), Error> {
    check_credentials(&socket, &config.users)?;
    let watch = |source| Error::Io {
        what: "watch the link",
        source,
    };
    let interest = Interest::READABLE | Interest::WRITABLE;
    let mut socket = watched(Arc::new(socket), interest).map_err(watch)?;
    let ours = Hello::ours(Side::Node, Purpose::HostLink, config.ours)?;
    let credentials = &config.credentials;
    let handshake = Handshake::new(role, ours, Side::Node, credentials, [0; BINDING_BYTES]);
    let peer = shake_hands(&mut socket, handshake).await?;
    if expected.is_some_and(|expected| expected != peer.id) {
        return Err(Error::Protocol("another node answers at this address"));
    }
    let link = HostLink::new(peer.id, Arc::clone(socket.get_ref()));
    let sent = config
        .events
        .send(LinkEvent::Up {
            link: LinkHandle::Host(link.clone()),
            is_dialled: role == Prover::Initiator,
        })
        .await;
    if sent.is_err() {
        return Ok(());
    }
    let error = run(&socket, &link, &config.events).await;
    lock(&link.shared.queue).is_closed = true;
    let link = LinkHandle::Host(link);
    let _ = config.events.send(LinkEvent::Down { link, error }).await;
    Ok(())
}

/// Carries words both ways until the link ends; says by what.
async fn run(
    socket: &AsyncFd<Arc<OwnedFd>>,
    link: &HostLink,
    events: &mpsc::Sender<LinkEvent>,
) -> Error {
    let mut reading = pin!(read_all(socket, link, events));
    let error = tokio::select! {
        error = &mut reading => return error,
        error = write_all(socket, link) => error,
    };
    if is_hang_up(&error) {
        // The last it said may be that it leaves: that is still to be read.
        return reading.await;
    }
    error
}

impl Words for AsyncFd<Arc<OwnedFd>> {
    async fn send(&mut self, word: &[u8]) -> Result<(), Error> {
        send_packet(self, word).await
    }

    async fn receive(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        let (packet, descriptors) = receive_packet(self).await?;
        if packet.len() != len || !descriptors.is_empty() {
            return Err(Error::Protocol("not a greeting"));
        }
        Ok(packet)
    }
}

async fn read_all(
    socket: &AsyncFd<Arc<OwnedFd>>,
    link: &HostLink,
    events: &mpsc::Sender<LinkEvent>,
) -> Error {
    let mut session = Session::new(session::Path::Host);
    loop {
        let (packet, descriptors) = match receive_packet(socket).await {
            Ok(received) => received,
            Err(error) => return error,
        };
        let frame = match session.receive(&packet, descriptors.len()) {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        let link = LinkHandle::Host(link.clone());
        if events
            .send(LinkEvent::Frame {
                link,
                frame,
                descriptors,
            })
            .await
            .is_err()
        {
            return Error::Closed;
        }
    }
}

async fn write_all(socket: &AsyncFd<Arc<OwnedFd>>, link: &HostLink) -> Error {
    let what = "send over the host link";
    loop {
        let is_empty = {
            let queue = lock(&link.shared.queue);
            if queue.packets.is_empty() && queue.is_closed {
                return Error::Closed;
            }
            queue.packets.is_empty()
        };
        if is_empty {
            link.shared.filled.notified().await;
            continue;
        }
        let mut ready = match socket.ready(Interest::WRITABLE).await {
            Ok(ready) => ready,
            Err(source) => return Error::Io { what, source },
        };
        let mut queue = lock(&link.shared.queue);
        while let Some(next) = queue.packets.front() {
            match next.try_send(socket.get_ref()) {
                Ok(()) => drop(queue.packets.pop_front()),
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let source = errno.into();
                    return Error::Io { what, source };
                }
            }
        }
    }
}

async fn send_packet(socket: &AsyncFd<Arc<OwnedFd>>, packet: &[u8]) -> Result<(), Error> {
    let what = "send over the host link";
    loop {
        let ready = socket.ready(Interest::WRITABLE).await;
        let mut ready = ready.map_err(|source| Error::Io { what, source })?;
        match try_send(socket.get_ref().as_fd(), packet, &[]) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::Io {
                    what,
                    source: errno.into(),
                });
            }
        }
    }
}

fn try_send(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let pushed = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(pushed);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, flags)?;
    Ok(())
}

/// Bytes and the descriptors that came beside them.
type Packet = (Vec<u8>, Vec<OwnedFd>);

async fn receive_packet(socket: &AsyncFd<Arc<OwnedFd>>) -> Result<Packet, Error> {
    let what = "receive from the host link";
    loop {
        let ready = socket.ready(Interest::READABLE).await;
        let mut ready = ready.map_err(|source| Error::Io { what, source })?;
        match try_receive(socket.get_ref().as_fd()) {
            Ok(Some(received)) => return Ok(received),
            Ok(None) => return Err(Error::Protocol("packet or descriptors cut off")),
            Err(Errno::AGAIN) => ready.clear_ready(),
            // A peer that went without reading all we said. What it said is still to be read.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(errno) => {
                return Err(Error::Io {
                    what,
                    source: errno.into(),
                });
            }
        }
    }
}

/// `None` for what did not fit: too long, or more descriptors than any frame has.
fn try_receive(socket: BorrowedFd<'_>) -> Result<Option<Packet>, Errno> {
    let mut packet = vec![0; FRAME_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut slices = [IoSliceMut::new(&mut packet)];
    let received = rustix::net::recvmsg(socket, &mut slices, &mut ancillary, flags)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(Errno::PIPE);
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Ok(None);
    }
    packet.truncate(received.bytes);
    Ok(Some((packet, descriptors)))
}

/// Memory is shared with processes of these users only.
fn check_credentials(socket: &OwnedFd, users: &[u32]) -> Result<(), Error> {
    let credentials = rustix::net::sockopt::socket_peercred(socket).map_err(|errno| Error::Io {
        what: "ask who the peer is",
        source: errno.into(),
    })?;
    let found = credentials.uid.as_raw();
    if users.contains(&found) {
        return Ok(());
    }
    let reason = format!(
        "it runs as user {found}, which is not allowed: run both as one user, or name it with \
         NodeBuilder::allow_user on both sides"
    );
    Err(Error::Refused {
        by: "the check of the peer's user".into(),
        reason,
    })
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn connect(path: &Path) -> Result<OwnedFd, Error> {
    let connected = || {
        let socket = new_socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    connected().map_err(|errno: Errno| Error::Io {
        what: "reach the peer's socket",
        source: errno.into(),
    })
}

/// Where a node's peers dial it. Removed on drop.
#[derive(Debug)]
pub(crate) struct HostListener {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
}

const SUFFIX: &str = "sock";
const PASSING_SUFFIX: &str = "new";
const BACKLOG: i32 = 128;

impl HostListener {
    /// Listens in `dir`, which is made if needed, under the node's id; with `is_shared` other users
    /// can reach the socket, who are then asked for their names. Needs a tokio runtime.
    pub(crate) fn bind(dir: &Path, node: NodeId, is_shared: bool) -> Result<Self, Error> {
        make_private(dir)?;
        let what = "listen in the runtime directory";
        if is_shared {
            let passable = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(dir, passable).map_err(|source| Error::Io { what, source })?;
        }
        sweep(dir);
        let path = dir.join(format!("{node}.{SUFFIX}"));
        let passing = dir.join(format!("{node}.{PASSING_SUFFIX}"));
        let bound = || {
            let socket = new_socket()?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(&passing)?)?;
            if is_shared {
                rustix::fs::chmod(&passing, rustix::fs::Mode::from_raw_mode(0o666))?;
            }
            rustix::net::listen(&socket, BACKLOG)?;
            // From here on it can be found, and it answers.
            rustix::fs::rename(&passing, &path)?;
            Ok(socket)
        };
        let socket = bound().map_err(|errno: Errno| {
            let _ = std::fs::remove_file(&passing);
            Error::Io {
                what,
                source: errno.into(),
            }
        })?;
        let socket =
            watched(socket, Interest::READABLE).map_err(|source| Error::Io { what, source })?;
        Ok(Self { socket, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next peer that dials.
    pub(crate) async fn accept(&self) -> Result<OwnedFd, Error> {
        let what = "accept a peer";
        loop {
            let ready = self.socket.readable().await;
            let mut ready = ready.map_err(|source| Error::Io { what, source })?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(self.socket.get_ref(), flags) {
                Ok(socket) => return Ok(socket),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => {
                    return Err(Error::Io {
                        what,
                        source: errno.into(),
                    });
                }
            }
        }
    }
}

impl Drop for HostListener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes the runtime directory for this user alone, or checks that it is.
fn make_private(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    let unmade = |source| Error::RuntimeDir {
        dir: dir.to_owned(),
        source,
    };
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(unmade)?;
    let metadata = std::fs::symlink_metadata(dir).map_err(unmade)?;
    let uid = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
        let reason = format!(
            "{} must be a directory of user {uid} that others cannot write; choose another with \
             SHMESH_RUNTIME_DIR",
            dir.display()
        );
        return Err(Error::Refused {
            by: "the runtime directory".into(),
            reason,
        });
    }
    Ok(())
}

/// Removes sockets that nobody listens on: their nodes are dead. Passing names are left alone for
/// ten seconds: their nodes are just being born. Nodes of this process, of which there may be a
/// thousand, are not asked.
fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let others = entries.flatten().map(|entry| entry.path());
    for path in others.filter(|path| !is_ours(path)) {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_dead = match extension {
            Some(SUFFIX) => is_refused(&path),
            Some(PASSING_SUFFIX) => is_old(&path) && is_refused(&path),
            _ => false,
        };
        if is_dead {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_ours(path: &Path) -> bool {
    let digits = path.file_stem().and_then(|stem| stem.to_str());
    let id = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
    id.is_some_and(|id| is_in_process(NodeId(id)))
}

fn is_refused(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else {
        return false;
    };
    let Ok(socket) = new_socket() else {
        return false;
    };
    rustix::net::connect(&socket, &address) == Err(Errno::CONNREFUSED)
}

fn is_old(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_peer_said_before_it_hung_up_is_read_although_nothing_can_be_written() {
        // Which of the two is found first is left to chance.
        for _ in 0..32 {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            let (ours, theirs) = rustix::net::socketpair(family, kind, flags, None).unwrap();
            let bells = LinkFrame::Bells {
                count: 1,
                needs_fences: false,
            };
            let said = [bells, LinkFrame::Closed { channel: 5 }];
            let page = std::fs::File::open("/dev/null").unwrap();
            for (frame, descriptors) in said.iter().zip([&[page.as_fd()][..], &[]]) {
                let word = wire::encode(Kind::Link, frame).unwrap();
                try_send(theirs.as_fd(), &word, descriptors).unwrap();
            }
            drop(theirs);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let socket = watched(Arc::new(ours), interest).unwrap();
            let link = HostLink::new(NodeId(1), Arc::clone(socket.get_ref()));
            link.send_closed(7);
            let (events, mut heard) = mpsc::channel(8);
            let error = run(&socket, &link, &events).await;
            assert!(is_hang_up(&error), "{error}");
            for expected in said {
                let event = heard.try_recv();
                let Ok(LinkEvent::Frame { frame, .. }) = event else {
                    panic!("{event:?}");
                };
                assert_eq!(frame, expected);
            }
        }
    }
}
