//! Waiting: the asynchronous side of a bell, and when spinning pays.
//!
//! A sleeper parks first (`Parker::begin_park`), looks once more, and then waits for its event.
//! The event is never read: it is watched edge-triggered, and every ring is a new edge.

use std::borrow::Borrow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use shmesh_shm::{Parker, monotonic_ns};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::Error;

/// Registers a descriptor with the current runtime.
///
/// tokio marks this constructor as deprecated because a descriptor that is not owned could be
/// closed meanwhile. An `OwnedFd` cannot, and the replacement is an unsafe function, which this
/// crate has none of.
#[allow(deprecated)]
pub(crate) fn watched<F>(fd: F, interest: Interest) -> std::io::Result<AsyncFd<F>>
where
    F: AsRawFd + Borrow<OwnedFd>,
{
    AsyncFd::with_interest(fd, interest)
}

/// The parker's event, registered with the tokio runtime that is polled from.
#[derive(Debug, Default)]
pub(crate) struct AsyncBell {
    watched: Option<AsyncFd<OwnedFd>>,
}

impl AsyncBell {
    /// Ready once the bell was rung since the last time. Registers with the current runtime at
    /// the first call, and again if that runtime is gone.
    ///
    /// # Panics
    /// If polled outside a tokio runtime with I/O enabled, as all of tokio's I/O does.
    pub(crate) fn poll_rung(
        &mut self,
        cx: &mut Context<'_>,
        parker: &Parker,
    ) -> Poll<Result<(), Error>> {
        for _ in 0..2 {
            let watched = match self.watched.take() {
                Some(watched) => watched,
                None => {
                    let watch = |source| Error::Io {
                        what: "watch the bell",
                        source,
                    };
                    let event = parker.event().fd().try_clone_to_owned().map_err(watch)?;
                    watched(event, Interest::READABLE).map_err(watch)?
                }
            };
            // Kept unless it fails: a failure means that its runtime has shut down.
            let polled = self.watched.insert(watched).poll_read_ready(cx);
            match ready!(polled) {
                Ok(mut guard) => {
                    guard.clear_ready();
                    return Poll::Ready(Ok(()));
                }
                Err(_) => self.watched = None,
            }
        }
        let source = std::io::Error::other("the runtime has shut down");
        Poll::Ready(Err(Error::Io {
            what: "watch the bell",
            source,
        }))
    }
}

/// A socket that is watched for something to read, in the tokio runtime that it is polled from.
#[derive(Debug)]
pub(crate) struct AsyncSocket(AsyncFd<OwnedFd>);

impl AsyncSocket {
    /// Registers with the current runtime.
    pub(crate) fn new(socket: OwnedFd) -> std::io::Result<Self> {
        watched(socket, Interest::READABLE).map(Self)
    }

    /// Ready when something came since the last time; false if its runtime is gone.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match ready!(self.0.poll_read_ready(cx)) {
            Ok(mut guard) => {
                guard.clear_ready();
                Poll::Ready(true)
            }
            Err(_) => Poll::Ready(false),
        }
    }
}

/// Learns from past waits whether the next message is worth spinning for.
#[derive(Debug, Default)]
pub(crate) struct Rhythm {
    /// Moving average of the waits, in nanoseconds.
    wait_ns: u64,
}

/// About two wake-ups of a sleeping process: 20 to 25 us each on a virtual machine.
const SPIN_NS_MAX: u64 = 50_000;

impl Rhythm {
    /// How long to spin before parking: zero unless messages lately came within that time.
    pub(crate) fn spin(&self) -> Duration {
        if self.wait_ns == 0 || self.wait_ns >= SPIN_NS_MAX || is_single_core() {
            return Duration::ZERO;
        }
        Duration::from_nanos(SPIN_NS_MAX)
    }

    /// Takes note of a wait that ended with a message.
    pub(crate) fn waited(&mut self, wait: Duration) {
        let wait_ns = u64::try_from(wait.as_nanos())
            .unwrap_or(u64::MAX)
            .clamp(1, 10 * SPIN_NS_MAX);
        self.wait_ns = if self.wait_ns == 0 {
            wait_ns
        } else {
            (3 * self.wait_ns + wait_ns) / 4
        };
    }
}

/// Keeps a receiver of a stream from running at the sender's heels.
///
/// One that looks again at once takes the lines of the next messages away while they are written,
/// and both then wait for cache lines with every message. So a receiver that has taken several
/// messages in a row and found no more gives the ring a moment to fill. At the heels messages come
/// one by one, as in ping-pong; what it is, is found out by giving such a moment now and then,
/// more and more seldom while it does not help.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Messages taken since it last found none.
    batch: u32,
    /// Batches until the next trial.
    until_trial: u32,
    /// Batches between the last trial and the next.
    trial_every: u32,
}

/// From so many messages in a row on they are a stream.
const BATCH_MIN: u32 = 4;
/// Batches between trials, at least and at most.
const TRIAL_EVERY_MIN: u32 = 64;
const TRIAL_EVERY_MAX: u32 = 1 << 16;

/// The moment: some dozens of small messages.
const GAP_NS: u64 = 1_000;

impl Default for Pace {
    fn default() -> Self {
        Self {
            batch: 0,
            until_trial: TRIAL_EVERY_MIN,
            trial_every: TRIAL_EVERY_MIN,
        }
    }
}

impl Pace {
    #[inline]
    pub(crate) fn found(&mut self) {
        self.batch = self.batch.saturating_add(1);
    }

    #[inline]
    pub(crate) fn found_nothing(&mut self) {
        if self.batch > 0 {
            self.ran_dry();
        }
    }

    fn ran_dry(&mut self) {
        let is_stream = std::mem::take(&mut self.batch) >= BATCH_MIN;
        if is_stream {
            self.trial_every = TRIAL_EVERY_MIN;
            self.until_trial = TRIAL_EVERY_MIN;
        } else if self.until_trial > 0 {
            self.until_trial -= 1;
            return;
        } else {
            self.trial_every = (2 * self.trial_every).min(TRIAL_EVERY_MAX);
            self.until_trial = self.trial_every;
        }
        let until = monotonic_ns() + GAP_NS;
        while monotonic_ns() < until {
            std::hint::spin_loop();
        }
    }
}

fn is_single_core() -> bool {
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from)) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_only_where_messages_come_quickly() {
        let mut rhythm = Rhythm::default();
        assert_eq!(rhythm.spin(), Duration::ZERO, "nothing known: park at once");
        (0..10).for_each(|_| rhythm.waited(Duration::from_millis(1)));
        assert_eq!(rhythm.spin(), Duration::ZERO, "1 kHz: park at once");
        (0..20).for_each(|_| rhythm.waited(Duration::from_micros(2)));
        assert!(
            is_single_core() || rhythm.spin() > Duration::ZERO,
            "2 us: spin"
        );
        (0..10).for_each(|_| rhythm.waited(Duration::from_secs(1000)));
        assert_eq!(rhythm.spin(), Duration::ZERO);
    }
}
