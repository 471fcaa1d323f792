//! What wakes a parked receiver: a page of parked words, and an event for each.
//!
//! A node has one [`BellPage`], which its peers map readable only, and one eventfd for each of its
//! endpoints that may sleep. Ringing is one write to that eventfd, once for each parking. The
//! protocol is in `park`; this is its memory and its system calls.
//!
//! Why no futex: a wake on a word that the waker may not write is lost when it comes between the
//! sleeper's last look and its wait. The eventfd's counter keeps it, costs the same, and serves
//! threads and async runtimes alike.

use core::fmt;
use core::sync::atomic::compiler_fence;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll};
use rustix::io::Errno;
use rustix::thread::MembarrierCommand;

use crate::error::ShmError;
use crate::layout::{Memory, Place, Words};
use crate::park::{ParkState, RingState};
use crate::segment::{PeerSegment, Segment, bytes_with_rounding};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Most words of a bell page: 256 KiB.
pub const BELL_WORDS_MAX: u32 = 4096;
const BELL_MAGIC: u64 = u64::from_le_bytes(*b"shmeshD1");
const HEAD_BYTES: usize = 64;

/// Head of a bell page.
#[repr(C, align(64))]
struct BellHead {
    magic: AtomicU64,
    count: AtomicU64,
}

/// A parked word on a line of its own: one parking receiver does not disturb another's senders.
#[repr(C, align(64))]
struct BellWord(AtomicU32);

// SAFETY: atomics only.
unsafe impl Words for BellHead {
    fn zeroed() -> Self {
        Self {
            magic: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }
}

// SAFETY: an atomic and padding.
unsafe impl Words for BellWord {
    fn zeroed() -> Self {
        Self(AtomicU32::new(0))
    }
}

/// Who orders a sender's message before its look at the parked word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// The receiver, with `membarrier` when it parks (a few microseconds).
    Membarrier,
    /// The sender, with a full fence for every message (some ten nanoseconds). For kernels without
    /// `membarrier`, and for isolated real-time cores that its interrupts would disturb.
    PerMessage,
}

/// Registers this process with `membarrier`, once, and says whether that worked. Every process
/// that sends must call it before its first message.
#[must_use]
pub fn register_membarrier() -> Fencing {
    static FENCING: OnceLock<Fencing> = OnceLock::new();
    *FENCING.get_or_init(|| {
        let registered = rustix::thread::membarrier(MembarrierCommand::RegisterGlobalExpedited);
        let usable = registered
            .and_then(|()| rustix::thread::membarrier(MembarrierCommand::GlobalExpedited))
            .and_then(|()| rustix::thread::membarrier(MembarrierCommand::RegisterPrivateExpedited));
        if usable.is_ok() {
            Fencing::Membarrier
        } else {
            Fencing::PerMessage
        }
    })
}

/// The parked words of one node.
pub struct BellPage {
    words: Memory<BellWord>,
    segment: Arc<Segment>,
    free: Mutex<Vec<u32>>,
}

impl BellPage {
    /// A page of `count` words.
    ///
    /// # Errors
    /// As [`Segment::create`], and [`ShmError::Limit`] beyond [`BELL_WORDS_MAX`].
    pub fn create(count: u32) -> Result<Arc<Self>, ShmError> {
        if count > BELL_WORDS_MAX {
            return Err(ShmError::Limit {
                what: "bell words",
                max: u64::from(BELL_WORDS_MAX),
            });
        }
        let segment = Arc::new(Segment::create("shmesh-bells", page_bytes(count))?);
        let owner: Arc<dyn Send + Sync> = Arc::clone(&segment) as _;
        let (head, words) = lay_out(segment.ptr(), segment.len(), count, owner)?;
        // Relaxed: the page is handed over through a socket, which orders it.
        head.count.store(u64::from(count), Ordering::Relaxed);
        head.magic.store(BELL_MAGIC, Ordering::Relaxed);
        Ok(Arc::new(Self {
            words,
            segment,
            free: Mutex::new((0..count).rev().collect()),
        }))
    }

    /// The descriptor to hand over.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// How many words it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.words.len()).unwrap_or(u32::MAX)
    }

    fn word(&self, index: u32) -> &AtomicU32 {
        &self.words.at(index as usize).0
    }
}

impl fmt::Debug for BellPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BellPage")
            .field("count", &self.words.len())
            .finish_non_exhaustive()
    }
}

/// The parked words of another node, readable only.
pub struct PeerBellPage {
    words: Memory<BellWord>,
}

impl PeerBellPage {
    /// Maps the page a peer handed over.
    ///
    /// # Errors
    /// As [`PeerSegment::map`], and [`ShmError::Incompatible`] for another magic or count.
    pub fn map(fd: OwnedFd, count: u32) -> Result<Arc<Self>, ShmError> {
        if count > BELL_WORDS_MAX {
            return Err(ShmError::Limit {
                what: "bell words",
                max: u64::from(BELL_WORDS_MAX),
            });
        }
        let segment = PeerSegment::map(fd, bytes_with_rounding(page_bytes(count)))?;
        let segment = Arc::new(segment);
        let owner: Arc<dyn Send + Sync> = Arc::clone(&segment) as _;
        let (head, words) = lay_out(segment.ptr(), segment.len(), count, owner)?;
        let found = head.magic.load(Ordering::Relaxed);
        if found != BELL_MAGIC {
            return Err(ShmError::Incompatible {
                what: "bell page",
                found,
                expected: BELL_MAGIC,
            });
        }
        let found = head.count.load(Ordering::Relaxed);
        if found != u64::from(count) {
            let expected = u64::from(count);
            return Err(ShmError::Incompatible {
                what: "bell count",
                found,
                expected,
            });
        }
        Ok(Arc::new(Self { words }))
    }
}

impl fmt::Debug for PeerBellPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerBellPage")
            .field("count", &self.words.len())
            .finish()
    }
}

const fn page_bytes(count: u32) -> usize {
    HEAD_BYTES + count as usize * size_of::<BellWord>()
}

fn lay_out(
    base: core::ptr::NonNull<u8>,
    bytes: usize,
    count: u32,
    owner: Arc<dyn Send + Sync>,
) -> Result<(Place<BellHead>, Memory<BellWord>), ShmError> {
    let head = Place::first_of(base, bytes, Arc::clone(&owner))?;
    Ok((
        head,
        Memory::in_mapping(base, bytes, HEAD_BYTES, count as usize, owner)?,
    ))
}

/// An eventfd: what a ring goes through.
#[derive(Debug)]
pub struct Event {
    fd: OwnedFd,
}

impl Event {
    /// A new one.
    ///
    /// # Errors
    /// [`ShmError::NoDescriptors`].
    pub fn new() -> Result<Self, ShmError> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self {
            fd: fd.map_err(|errno| ShmError::os("make an event", errno, 0))?,
        })
    }

    /// One that a peer handed over.
    ///
    /// # Errors
    /// [`ShmError::Corrupt`] if it is something else: ringing must not write into a file.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ShmError> {
        use std::os::fd::AsRawFd as _;
        let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        if target.is_err() || target.is_ok_and(|path| path.as_os_str() != "anon_inode:[eventfd]") {
            return Err(ShmError::Corrupt {
                what: "descriptor is no event",
            });
        }
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(|errno| ShmError::os("set up a peer's event", errno, 0))?;
        Ok(Self { fd })
    }

    /// Wakes whoever waits for it, now or next. One system call; never blocks.
    pub fn signal(&self) {
        // A full counter (EAGAIN) is a ring that nobody has heard yet. Nothing else can fail: the
        // descriptor is an event and ours.
        let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// The descriptor, to hand over or to watch edge-triggered.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A second handle.
    ///
    /// # Errors
    /// [`ShmError::NoDescriptors`].
    pub fn try_clone(&self) -> Result<Self, ShmError> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
            .map_err(|errno| ShmError::os("share an event", errno, 0))?;
        Ok(Self { fd })
    }
}

/// The sleeper's side of one parked word.
#[derive(Debug)]
pub struct Parker {
    page: Arc<BellPage>,
    index: u32,
    state: ParkState,
    event: Event,
    /// Watches the event for `wait`; made at the first call.
    epoll: OnceLock<OwnedFd>,
}

impl Parker {
    /// Takes a free word of `page` and makes its event.
    ///
    /// # Errors
    /// [`ShmError::Limit`] if the page has no free word, [`ShmError::NoDescriptors`].
    pub fn new(page: &Arc<BellPage>) -> Result<Self, ShmError> {
        let event = Event::new()?;
        let free = page
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let max = u64::from(page.count());
        let index = free.ok_or(ShmError::Limit {
            what: "sleeping endpoints of a node",
            max,
        })?;
        let page = Arc::clone(page);
        Ok(Self {
            page,
            index,
            state: ParkState::default(),
            event,
            epoll: OnceLock::new(),
        })
    }

    /// Number of its word in the page.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// True between [`begin_park`](Self::begin_park) and [`end_park`](Self::end_park).
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.state.is_parked()
    }

    /// Says "parked" to all senders. After it, look once more for what you wait for; what comes
    /// later rings. Costs a `membarrier`, which interrupts other processors that run senders.
    pub fn begin_park(&mut self) {
        self.begin_park_for(MembarrierCommand::GlobalExpedited);
    }

    /// The same where all senders are threads of this process: no other one is interrupted.
    pub fn begin_park_inside(&mut self) {
        self.begin_park_for(MembarrierCommand::PrivateExpedited);
    }

    fn begin_park_for(&mut self, barrier: MembarrierCommand) {
        if self.state.is_parked() {
            return;
        }
        self.state.begin(self.page.word(self.index));
        // SeqCst fence: the barrier of the protocol on this side, and all of it for senders that
        // fence every message.
        fence(Ordering::SeqCst);
        if register_membarrier() == Fencing::Membarrier {
            // The barrier of the protocol on the senders' side. It worked when we registered, and
            // fails for no other reason.
            let _ = rustix::thread::membarrier(barrier);
        }
    }

    /// Says "awake". Without effect if it is.
    #[inline]
    pub fn end_park(&mut self) {
        if self.state.is_parked() {
            self.state.end(self.page.word(self.index));
        }
    }

    /// Sleeps until the event is rung, at most for `timeout`; false if that passed. One system
    /// call. May also return true without a ring.
    ///
    /// # Errors
    /// [`ShmError::NoDescriptors`] at the first call.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, ShmError> {
        let epoll = self.epoll()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| left.try_into().ok());
            let mut events = [epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: NO_DATA,
            }];
            match epoll::wait(epoll, &mut events[..], left.as_ref()) {
                Ok(count) => return Ok(count > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ShmError::os("wait for an event", errno, 0)),
            }
        }
    }

    /// Has [`wait`](Self::wait) end also when something comes on `socket`, until
    /// [`unwatch`](Self::unwatch).
    ///
    /// # Errors
    /// [`ShmError::NoDescriptors`] and the like.
    pub fn watch(&self, socket: BorrowedFd<'_>) -> Result<(), ShmError> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(self.epoll()?, socket, NO_DATA, flags)
            .map_err(|errno| ShmError::os("watch a socket", errno, 0))
    }

    /// Takes back [`watch`](Self::watch). To be called before `socket` is closed: where it is
    /// shared, the kernel would go on watching it.
    pub fn unwatch(&self, socket: BorrowedFd<'_>) {
        if let Some(epoll) = self.epoll.get() {
            // Fails only if it is not watched.
            let _ = epoll::delete(epoll, socket);
        }
    }

    /// Watches the event edge-triggered: every write to it is an edge, so it is never read.
    fn epoll(&self) -> Result<&OwnedFd, ShmError> {
        if let Some(epoll) = self.epoll.get() {
            return Ok(epoll);
        }
        let fail = |errno| ShmError::os("watch an event", errno, 0);
        let made = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(fail)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&made, &self.event.fd, NO_DATA, flags).map_err(fail)?;
        Ok(self.epoll.get_or_init(|| made))
    }
}

impl Drop for Parker {
    fn drop(&mut self) {
        self.end_park();
        self.page
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.index);
    }
}

const NO_DATA: epoll::EventData = epoll::EventData::new_u64(0);

/// The sender's side of one parked word.
#[derive(Debug)]
pub struct Ringer {
    word: Place<BellWord>,
    state: RingState,
    event: Event,
    fencing: Fencing,
}

impl Ringer {
    /// For a receiver of this process.
    ///
    /// # Errors
    /// [`ShmError::Corrupt`] if the page has no such word.
    pub fn local(
        page: &BellPage,
        index: u32,
        event: Event,
        fencing: Fencing,
    ) -> Result<Self, ShmError> {
        Self::new(&page.words, index, event, fencing)
    }

    /// For a receiver of another process.
    ///
    /// # Errors
    /// [`ShmError::Corrupt`] if the page has no such word.
    pub fn remote(
        page: &PeerBellPage,
        index: u32,
        event: Event,
        fencing: Fencing,
    ) -> Result<Self, ShmError> {
        Self::new(&page.words, index, event, fencing)
    }

    fn new(
        words: &Memory<BellWord>,
        index: u32,
        event: Event,
        fencing: Fencing,
    ) -> Result<Self, ShmError> {
        if index as usize >= words.len() {
            return Err(ShmError::Corrupt {
                what: "bell word outside the page",
            });
        }
        Ok(Self {
            word: words.place(index as usize),
            state: RingState::new(),
            event,
            fencing,
        })
    }

    /// True if the receiver is parked and was not rung for this parking: as
    /// [`ring_if_parked`](Self::ring_if_parked), which this leaves to the caller.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.order();
        self.state.is_wanted(&self.word.0)
    }

    #[inline]
    fn order(&self) {
        match self.fencing {
            // Keeps the compiler from moving the load up; the processor is the parker's matter.
            Fencing::Membarrier => compiler_fence(Ordering::SeqCst),
            // SeqCst fence: store of the message, then load of the word; pairs with the one in
            // `Parker::begin_park`.
            Fencing::PerMessage => fence(Ordering::SeqCst),
        }
    }

    /// Rings if the receiver is parked and was not rung for this parking. To be called after the
    /// message is stored. A load, and a system call only when somebody sleeps.
    #[inline]
    pub fn ring_if_parked(&self) -> bool {
        self.order();
        if !self.state.should_ring(&self.word.0) {
            return false;
        }
        self.event.signal();
        true
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64 as Turn;

    #[allow(clippy::unwrap_used)]
    fn pair(page: &Arc<BellPage>) -> (Parker, Ringer) {
        let parker = Parker::new(page).unwrap();
        let event = Event::from_fd(parker.event().try_clone().unwrap().fd).unwrap();
        let ringer = Ringer::local(page, parker.index(), event, register_membarrier()).unwrap();
        (parker, ringer)
    }

    /// Two sleepers wake each other in turn; a lost wake-up would leave both asleep.
    #[test]
    fn ping_pong_never_stalls() {
        let rounds = 20_000;
        let page = BellPage::create(2).unwrap();
        let (mut ping, ring_ping) = pair(&page);
        let (mut pong, ring_pong) = pair(&page);
        let turn = Arc::new(Turn::new(0));
        let play = move |parker: &mut Parker, ringer: &Ringer, turn: &Turn, mine: u64| {
            for round in 0..rounds {
                let wanted = 2 * round + mine;
                while turn.load(Ordering::Acquire) != wanted {
                    parker.begin_park();
                    if turn.load(Ordering::Acquire) != wanted {
                        assert!(
                            parker.wait(Some(Duration::from_secs(20))).unwrap(),
                            "stalled"
                        );
                    }
                    parker.end_park();
                }
                turn.store(wanted + 1, Ordering::Release);
                ringer.ring_if_parked();
            }
        };
        let theirs = Arc::clone(&turn);
        let other = std::thread::spawn(move || play(&mut pong, &ring_ping, &theirs, 1));
        play(&mut ping, &ring_pong, &turn, 0);
        other.join().unwrap();
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_a_ring_before_it_is_kept() {
        let page = BellPage::create(1).unwrap();
        let (mut parker, ringer) = pair(&page);
        assert!(!parker.wait(Some(Duration::from_millis(1))).unwrap());
        assert!(!ringer.ring_if_parked(), "nobody sleeps");
        parker.begin_park();
        assert!(ringer.ring_if_parked());
        assert!(!ringer.ring_if_parked(), "once for each parking");
        assert!(parker.wait(None).unwrap(), "the ring came before the wait");
        parker.end_park();
        assert!(
            !parker.wait(Some(Duration::ZERO)).unwrap(),
            "and is heard once"
        );
    }

    #[test]
    fn words_run_out_and_come_back() {
        let page = BellPage::create(1).unwrap();
        let parker = Parker::new(&page).unwrap();
        assert!(matches!(Parker::new(&page), Err(ShmError::Limit { .. })));
        drop(parker);
        assert!(Parker::new(&page).is_ok());
        assert!(matches!(
            BellPage::create(BELL_WORDS_MAX + 1),
            Err(ShmError::Limit { .. })
        ));
    }

    #[test]
    fn a_peers_page_and_event_are_checked() {
        let page = BellPage::create(3).unwrap();
        let handed = || page.fd().try_clone_to_owned().unwrap();
        assert!(PeerBellPage::map(handed(), 3).is_ok());
        assert!(matches!(
            PeerBellPage::map(handed(), 2),
            Err(ShmError::Incompatible { .. })
        ));
        let garbage = Segment::create("garbage", page_bytes(3)).unwrap();
        let garbage = garbage.fd().try_clone_to_owned().unwrap();
        assert!(matches!(
            PeerBellPage::map(garbage, 3),
            Err(ShmError::Incompatible { .. })
        ));
        let peer = PeerBellPage::map(handed(), 3).unwrap();
        let event = || Event::new().unwrap();
        let outside = Ringer::remote(&peer, 3, event(), Fencing::PerMessage);
        assert!(matches!(outside, Err(ShmError::Corrupt { .. })));
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        assert!(matches!(
            Event::from_fd(file),
            Err(ShmError::Corrupt { .. })
        ));
    }
}
