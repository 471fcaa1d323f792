//! How a publisher waits for room: on its thread or asynchronously, for the channels of `Block`
//! subscriptions only, and for each at most until its deadline.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use shmesh_shm::{ChunkId, Counter, Head, PushError};

use super::{Outbox, Payload, Reach, give_up, push};
use crate::error::Error;

/// A message that still waits for room somewhere.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) head: Head,
    pub(super) started: Instant,
    pub(super) reach: Reach,
}

impl Outbox {
    fn is_blocked(&self) -> bool {
        self.channels.iter().any(|channel| channel.is_blocked)
    }

    /// Tries the channels that had no room again, and gives up those whose deadline has passed.
    fn retry(&mut self, waiting: &mut Waiting, payload: Payload<'_>, now: Instant) {
        let waited = now.saturating_duration_since(waiting.started);
        for channel in self
            .channels
            .iter_mut()
            .filter(|channel| channel.is_blocked)
        {
            channel.wake.relieve();
            match push(&mut self.arena, channel, waiting.head, payload) {
                Ok(()) => {
                    channel.is_blocked = false;
                    waiting.reach.listeners += 1;
                    channel.wake.wake(payload.len());
                }
                Err(PushError::Full) if channel.deadline.is_some_and(|max| waited < max) => {}
                Err(PushError::Full) => {
                    channel.is_blocked = false;
                    channel.producer.count_dropped();
                    channel.wake.wake(payload.len());
                    waiting.reach.refused += 1;
                    self.counters.add(Counter::LostDropped, 1);
                }
                Err(PushError::Corrupt(corrupt)) => give_up(&self.shared, channel, &corrupt),
            }
        }
    }

    /// Waits on this thread for the channels that had no room.
    #[cold]
    #[inline(never)]
    pub(super) fn wait_for_room(
        &mut self,
        head: Head,
        payload: Payload<'_>,
        reach: Reach,
    ) -> Reach {
        let started = Instant::now();
        let mut waiting = Waiting {
            head,
            started,
            reach,
        };
        // A subscriber that is reading makes room within a few messages: look again a while, more
        // and more seldom so as not to take its cursor's line away from it, before sleeping.
        for round in 0..SPIN_ROUNDS {
            for _ in 0..SPINS_PER_ROUND.min(1 << (round / 4).min(16)) {
                std::hint::spin_loop();
            }
            self.retry(&mut waiting, payload, started);
            if !self.is_blocked() {
                return waiting.reach;
            }
        }
        while self.is_blocked() {
            self.parker.begin_park();
            self.retry(&mut waiting, payload, Instant::now());
            if self.is_blocked() {
                let latest = self.latest_deadline(started);
                let left = latest.saturating_duration_since(Instant::now());
                if let Err(error) = self.parker.wait(Some(left.min(PARK_MAX))) {
                    tracing::warn!(
                        target: "shmesh::channel", %error, "cannot sleep while waiting for room"
                    );
                    std::thread::yield_now();
                }
            }
            self.parker.end_park();
            self.take_news();
        }
        waiting.reach
    }

    /// Waits asynchronously for the channels that had no room.
    pub(super) async fn wait_asleep(
        &mut self,
        mut waiting: Waiting,
        payload: Payload<'_>,
        chunk: Option<ChunkId>,
    ) -> Result<Reach, Error> {
        let latest = self.latest_deadline(waiting.started);
        let mut guard = Abandon {
            outbox: self,
            chunk,
        };
        let poll = |cx: &mut Context<'_>| guard.outbox.poll_room(cx, &mut waiting, payload);
        let waited = tokio::time::timeout_at(latest.into(), std::future::poll_fn(poll)).await;
        if let Ok(Err(error)) = waited {
            return Err(error);
        }
        guard.outbox.retry(&mut waiting, payload, Instant::now());
        // Sent, as far as it could be: the chunk is released as that of any message.
        guard.chunk = None;
        Ok(waiting.reach)
    }

    fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        waiting: &mut Waiting,
        payload: Payload<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            self.take_news();
            self.parker.begin_park();
            self.retry(waiting, payload, Instant::now());
            if !self.is_blocked() {
                self.parker.end_park();
                return Poll::Ready(Ok(()));
            }
            std::task::ready!(self.bell.poll_rung(cx, &self.parker))?;
            self.parker.end_park();
        }
    }

    /// When the last of the waited-for channels is given up.
    fn latest_deadline(&self, started: Instant) -> Instant {
        let blocked = self.channels.iter().filter(|channel| channel.is_blocked);
        let longest = blocked
            .filter_map(|channel| channel.deadline)
            .max()
            .unwrap_or_default();
        started + longest
    }
}

/// What a cancelled send leaves behind is cleared up here.
struct Abandon<'a> {
    outbox: &'a mut Outbox,
    chunk: Option<ChunkId>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        let Outbox {
            channels,
            arena,
            parker,
            counters,
            ..
        } = &mut *self.outbox;
        for channel in channels.iter_mut().filter(|channel| channel.is_blocked) {
            channel.is_blocked = false;
            channel.producer.count_dropped();
            counters.add(Counter::LostDropped, 1);
        }
        if let Some(id) = self.chunk {
            arena.release(id);
        }
        parker.end_park();
    }
}

/// Looks for room before a publisher sleeps: some microseconds.
const SPIN_ROUNDS: u32 = 200;
/// Pauses between two looks, at most.
const SPINS_PER_ROUND: u32 = 64;
/// Longest sleep before it looks for itself. Not needed for waking up, which models prove; it
/// bounds the damage of a kernel or peer that breaks its word.
const PARK_MAX: Duration = Duration::from_secs(1);
