//! The task of a network link: reads, writes what publishers did not write themselves, notices when
//! the peer is gone. Runs on the node's network thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use shmesh_shm::{BellPage, Fencing, Parker, Ringer, monotonic_ns};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use super::reader::Reader;
use super::writer::Writer;
use super::{Flushed, Haste, NetLink, Pumped, TaskBell};
use crate::compression::Compression;
use crate::endpoint::{Inbox, lock};
use crate::error::Error;
use crate::limits::{LEASE_MS, LEAVE_MS_MAX, SPIN_LEASE_MS};
use crate::link::handshake::Hello;
use crate::link::session::LinkFrame;
use crate::link::stream::Secured;
use crate::link::{LinkEvent, LinkHandle};
#[cfg(feature = "tls")]
use crate::tls::Channel;
use crate::wait::{AsyncBell, watched};

/// What the task of a link needs of its node.
#[derive(Clone, Debug)]
pub(crate) struct NetConfig {
    pub(crate) bells: Arc<BellPage>,
    pub(crate) fencing: Fencing,
    pub(crate) events: mpsc::Sender<LinkEvent>,
    pub(crate) compression: Option<Compression>,
}

/// Bytes written in one turn, so that reading has its turn, too.
const TURN_BYTES: usize = 1 << 20;
/// Looks without anything to write before the task sleeps. It gives its processor away between
/// them, so that a publisher on the same one can go on: what it sends meanwhile goes out together.
const IDLE_LOOKS: u32 = 2;

/// Serves a link that is past its handshake to its end. `dialled` says who dialled it.
pub(crate) async fn serve(config: NetConfig, stream: Secured, peer: Hello, is_dialled: bool) {
    let served = async {
        let (link, mut task) = Task::set_up(&config, stream, &peer)?;
        let handle = LinkHandle::Net(Arc::clone(&link));
        let up = LinkEvent::Up {
            link: handle.clone(),
            is_dialled,
        };
        if config.events.send(up).await.is_err() {
            return Ok(());
        }
        let error = task.run(&config.events).await;
        // Subscribers may keep the link until they look: the peer need not wait for that.
        let _ = rustix::net::shutdown(&link.socket, rustix::net::Shutdown::Both);
        let down = LinkEvent::Down {
            link: handle,
            error,
        };
        let _ = config.events.send(down).await;
        Ok::<_, Error>(())
    };
    if let Err(error) = served.await {
        let peer = peer.id;
        let _ = config.events.send(LinkEvent::Failed { peer, error }).await;
    }
}

struct Task {
    link: Arc<NetLink>,
    /// Given up while a spinning receiver reads.
    readable: Option<AsyncFd<OwnedFd>>,
    /// How often it was woken in vain since then, because a receiver reads.
    leased_wakes: u32,
    /// Made when the socket was full for the first time.
    writable: Option<AsyncFd<OwnedFd>>,
    /// True if something may be there to be written.
    has_news: bool,
    /// True if the socket may have more to read.
    has_more: bool,
    /// For what is to be written.
    parker: Parker,
    bell: AsyncBell,
    /// For room in subscribers' rings.
    room: Parker,
    room_bell: AsyncBell,
    /// Bytes written at the last beat.
    written: u64,
}

impl Task {
    fn set_up(
        config: &NetConfig,
        stream: Secured,
        peer: &Hello,
    ) -> Result<(Arc<NetLink>, Self), Error> {
        #[cfg(feature = "tls")]
        let (stream, channel) = match stream {
            Secured::Plain(stream) => (stream, None),
            Secured::Tls(stream) => {
                let (stream, channel) = Channel::of(*stream);
                (stream, Some(channel))
            }
        };
        #[cfg(not(feature = "tls"))]
        let Secured::Plain(stream) = stream;
        let socket = prepare(stream)?;
        let (parker, room) = (Parker::new(&config.bells)?, Parker::new(&config.bells)?);
        let ringer = Ringer::local(
            &config.bells,
            parker.index(),
            parker.event().try_clone()?,
            config.fencing,
        )?;
        // Only if both ends have said that they do.
        let compression = config.compression.filter(|_| peer.packs);
        let link = Arc::new(NetLink {
            peer: peer.id,
            socket,
            #[cfg(feature = "tls")]
            channel,
            writer: Mutex::new(Writer::new(compression)),
            reader: Mutex::new(Reader::new(compression.is_some())),
            news: Inbox::new(),
            frames_waiting: AtomicUsize::new(0),
            bell: ringer,
            room: TaskBell {
                index: room.index(),
                event: room.event().try_clone()?,
            },
            is_full: AtomicBool::new(false),
            is_left_over: AtomicBool::new(false),
            frames_there: AtomicBool::new(false),
            has_frames: Notify::new(),
            beat: Notify::new(),
            leased_until_ns: AtomicU64::new(0),
            spinning_until_ns: AtomicU64::new(0),
            is_yielded: AtomicBool::new(false),
            watcher: AtomicU64::new(0),
            watched_ns: AtomicU64::new(0),
            unleased: Notify::new(),
            is_starved: AtomicBool::new(false),
            spun_ns: AtomicU64::new(0),
            heard_ns: AtomicU64::new(monotonic_ns()),
            haste: Mutex::new(Haste::default()),
        });
        let task = Self {
            link: Arc::clone(&link),
            readable: None,
            leased_wakes: 0,
            writable: None,
            has_news: true,
            has_more: false,
            parker,
            bell: AsyncBell::default(),
            room,
            room_bell: AsyncBell::default(),
            written: 0,
        };
        Ok((link, task))
    }

    /// Runs to the end of the link; says what it was.
    async fn run(&mut self, events: &mpsc::Sender<LinkEvent>) -> Error {
        loop {
            match self.turn(events).await {
                Ok(true) => {}
                Ok(false) => return self.finish().await,
                Err(error) => {
                    self.read_out(events).await;
                    return error;
                }
            }
        }
    }

    /// Reads what had come before the end: it may have been found by a write, and the last that the
    /// peer said may be that it leaves.
    async fn read_out(&mut self, events: &mpsc::Sender<LinkEvent>) {
        for _ in 0..LAST_TURNS {
            let is_all = self.pump().unwrap_or(true);
            if self.pass_frames(events).await.is_err() || is_all {
                return;
            }
        }
    }

    /// Writes, reads, and then sleeps until there is something to do; false if the link is to be
    /// closed and all is written.
    async fn turn(&mut self, events: &mpsc::Sender<LinkEvent>) -> Result<bool, Error> {
        if std::mem::take(&mut self.has_news) && !self.flush_all()? {
            return Ok(false);
        }
        self.pass_frames(events).await?;
        if self.has_more && !self.link.is_leased() {
            self.has_more = !self.pump()?;
            return Ok(true);
        }
        let is_full = self.link.is_full.load(Ordering::Relaxed);
        if is_full {
            // The socket wakes us. Parked, every publisher would try it in vain.
            self.parker.end_park();
        } else if !self.parker.is_parked() {
            // Stays parked over readings and until it is rung: publishers write for themselves.
            self.parker.begin_park_inside();
            // Looks once more before it sleeps: who publishes after this sees the parked word.
            self.has_news = true;
            return Ok(true);
        }
        self.watch_room()?;
        self.sleep().await?;
        Ok(true)
    }

    /// Writes until nothing is left, or the socket is full. False if that was all, for ever.
    fn flush_all(&mut self) -> Result<bool, Error> {
        let mut idle_looks = 0;
        // Rung, it is one more than a few messages: gives those that follow the time to come.
        let looks = if self.parker.is_parked() {
            1
        } else {
            IDLE_LOOKS
        };
        loop {
            let (flushed, written, is_closing) = {
                let mut writer = lock(&self.link.writer);
                let before = writer.written;
                let flushed = self.link.flush(&mut writer, TURN_BYTES);
                (flushed, writer.written != before, writer.is_closing)
            };
            match flushed {
                Flushed::Failed(error) => return Err(error),
                Flushed::Blocked => return Ok(true),
                Flushed::Idle if is_closing => return Ok(false),
                Flushed::Idle | Flushed::Enough => {}
            }
            idle_looks = if written { 0 } else { idle_looks + 1 };
            if idle_looks >= looks {
                return Ok(true);
            }
            std::thread::yield_now();
            if self.readable.is_some() && !self.link.is_leased() {
                self.has_more |= !self.pump()?;
            }
        }
    }

    /// Reads a few times; true if the socket was emptied.
    fn pump(&self) -> Result<bool, Error> {
        let mut reader = lock(&self.link.reader);
        for _ in 0..READS_PER_TURN {
            match self.link.pump(&mut reader) {
                Pumped::Drained(_) => return Ok(true),
                Pumped::More => {}
                Pumped::Full => return Ok(false),
                Pumped::Failed(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Hands the driver what is for it.
    async fn pass_frames(&self, events: &mpsc::Sender<LinkEvent>) -> Result<(), Error> {
        while self.link.frames_there.load(Ordering::Acquire) {
            let next = {
                let mut reader = lock(&self.link.reader);
                let next = reader.take_frame();
                self.link
                    .frames_there
                    .store(reader.has_frames(), Ordering::Release);
                next
            };
            let Some(frame) = next else { break };
            let event = LinkEvent::Frame {
                link: LinkHandle::Net(Arc::clone(&self.link)),
                frame,
                descriptors: Vec::new(),
            };
            if events.send(event).await.is_err() {
                return Err(Error::Closed);
            }
        }
        Ok(())
    }

    /// Sees to it that subscribers that make room wake us while their publishers cannot send.
    fn watch_room(&mut self) -> Result<(), Error> {
        if self.link.is_spun() {
            // Who spins gives credit as it reads.
            return Ok(());
        }
        let mut reader = lock(&self.link.reader);
        if !reader.is_out_of_credit() {
            self.room.end_park();
            return Ok(());
        }
        self.room.begin_park_inside();
        // What was taken before they saw that we are parked.
        self.link.grant(&mut reader)
    }

    async fn sleep(&mut self) -> Result<(), Error> {
        if self.readable.is_none() && !self.link.is_leased() {
            self.readable = Some(self.watch(Interest::READABLE)?);
        }
        let is_yielded = self.readable.is_none();
        self.link.is_yielded.store(is_yielded, Ordering::Relaxed);
        let is_full = self.link.is_full.load(Ordering::Relaxed);
        // Who spins tries a full socket itself.
        let is_full = is_full && !(is_yielded && self.link.is_spun());
        if is_full && self.writable.is_none() {
            self.writable = Some(self.watch(Interest::WRITABLE)?);
        }
        let Self {
            link,
            readable,
            leased_wakes,
            writable,
            parker,
            bell,
            room,
            room_bell,
            ..
        } = self;
        let lease = Duration::from_millis(SPIN_LEASE_MS);
        tokio::select! {
            biased;
            ready = readiness(readable.as_ref(), true) => {
                // Before the reading: what comes after this makes it ready again.
                ready?.clear_ready();
                if !link.is_leased() {
                    *leased_wakes = 0;
                    self.has_more = true;
                } else if *leased_wakes < LEASED_WAKES_MAX {
                    *leased_wakes += 1;
                } else {
                    // Somebody else reads; woken for each message, we would only take the
                    // processor away.
                    *readable = None;
                }
            }
            ready = readiness(writable.as_ref(), is_full) => {
                ready?.clear_ready();
                self.has_news = true;
            }
            rung = std::future::poll_fn(|cx| bell.poll_rung(cx, parker)) => {
                rung?;
                parker.end_park();
                self.has_news = true;
            }
            rung = std::future::poll_fn(|cx| room_bell.poll_rung(cx, room)),
                if room.is_parked() =>
            {
                rung?;
                room.end_park();
            }
            () = link.has_frames.notified() => {}
            () = tokio::time::sleep(lease), if is_yielded || *leased_wakes > 0 => {
                *leased_wakes = 0;
                self.has_more = true;
                self.has_news = true;
            }
            () = link.unleased.notified() => {
                *leased_wakes = 0;
                self.has_more = true;
                self.has_news = true;
            }
            () = link.beat.notified() => self.on_beat()?,
        }
        Ok(())
    }

    fn watch(&self, interest: Interest) -> Result<AsyncFd<OwnedFd>, Error> {
        let socket = self.link.socket.try_clone().map_err(watching)?;
        watched(socket, interest).map_err(watching)
    }

    fn on_beat(&mut self) -> Result<(), Error> {
        // Relaxed: see where it is stored.
        let heard_ns = self.link.heard_ns.load(Ordering::Relaxed);
        let silence = Duration::from_nanos(monotonic_ns().saturating_sub(heard_ns));
        if silence > Duration::from_millis(LEASE_MS) {
            return Err(Error::Timeout(silence));
        }
        lock(&self.link.reader).tick();
        let mut writer = lock(&self.link.writer);
        let is_idle = writer.written == self.written && !self.link.is_full.load(Ordering::Relaxed);
        if is_idle {
            writer.shrink();
        }
        drop(writer);
        if is_idle {
            self.link.send(&LinkFrame::Heartbeat);
        }
        self.written = lock(&self.link.writer).written;
        Ok(())
    }

    /// All is written: says so, and hears the peer out, so that nothing on its way is torn down.
    async fn finish(&mut self) -> Error {
        let _ = rustix::net::shutdown(&self.link.socket, rustix::net::Shutdown::Write);
        let heard_out = async {
            let watched = self.watch(Interest::READABLE)?;
            loop {
                let mut ready = watched.readable().await.map_err(watching)?;
                ready.clear_ready();
                while !self.pump()? {}
            }
        };
        let limit = Duration::from_millis(LEAVE_MS_MAX);
        match tokio::time::timeout(limit, heard_out).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => Error::Closed,
        }
    }
}

/// Wake-ups in vain before the socket is given up: to take it back costs as much as some of them.
const LEASED_WAKES_MAX: u32 = 16;
/// Reads in one turn, so that writing has its turn, too.
const READS_PER_TURN: usize = 16;

/// And so many turns at the end of the link: more than the kernel keeps.
const LAST_TURNS: usize = 64;

/// Ready when the descriptor is; never without one, or if it is not asked for.
async fn readiness(
    watched: Option<&AsyncFd<OwnedFd>>,
    is_wanted: bool,
) -> Result<AsyncFdReadyGuard<'_, OwnedFd>, Error> {
    match watched.filter(|_| is_wanted) {
        // Each is registered for one of the two only.
        Some(watched) => {
            let interest = Interest::READABLE | Interest::WRITABLE;
            watched.ready(interest).await.map_err(watching)
        }
        None => std::future::pending().await,
    }
}

/// The socket, set up for many small messages now and large ones then.
fn prepare(stream: TcpStream) -> Result<OwnedFd, Error> {
    let stream = stream.into_std().map_err(setting_up)?;
    let socket = socket2::SockRef::from(&stream);
    socket.set_tcp_nodelay(true).map_err(setting_up)?;
    let lease = Duration::from_millis(LEASE_MS);
    socket
        .set_tcp_user_timeout(Some(lease))
        .map_err(setting_up)?;
    Ok(stream.into())
}

fn setting_up(source: std::io::Error) -> Error {
    let what = "set up the connection";
    Error::Io { what, source }
}

fn watching(source: std::io::Error) -> Error {
    let what = "watch the link";
    Error::Io { what, source }
}
