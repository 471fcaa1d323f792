//! What happens to publishers beside their messages: they come, go, and miss their deadlines.
//!
//! Events are made by the node's driver and wait in a queue of bounded length for whoever asks.
//! No message comes by here.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;
use shmesh_shm::{Counter, Counters, Origin, Progress, monotonic_ns};

use crate::deadline::{Check, Deadline, Deadlines};
use crate::endpoint::{SubscriberEvent, lock};
use crate::error::{Error, RecvError};
use crate::id::NodeId;
use crate::limits::EVENTS_MAX;
use crate::sample::ARRIVED;

/// Which publisher.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublisherId {
    /// Its node.
    pub node: NodeId,
    /// Its number in the node, as in [`Sample::publisher_id`](crate::Sample::publisher_id).
    pub endpoint: u32,
    /// The node's name.
    pub node_name: String,
}

impl PublisherId {
    fn of(origin: &Origin) -> Self {
        Self {
            node: NodeId(origin.node),
            endpoint: origin.endpoint,
            node_name: origin.node_name.clone(),
        }
    }
}

/// Why a publisher is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It was dropped, or its node or ours closed.
    Left,
    /// Its process ended, or cut the link, without a word.
    Died,
    /// Nothing came from its node for three heartbeats, or the network failed.
    Unreachable,
}

/// What happened to a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It is connected.
    PublisherUp {
        /// Which one.
        publisher: PublisherId,
    },
    /// It is connected no more; what it sent stays readable.
    PublisherLost {
        /// Which one.
        publisher: PublisherId,
        /// Why.
        reason: Loss,
    },
    /// It has sent nothing for longer than the deadline. Said after one deadline without a
    /// message, then after two, four and so on, until a message comes.
    DeadlineMissed {
        /// Which one.
        publisher: PublisherId,
        /// Deadlines that have passed since its last message.
        missed: u64,
    },
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    dropped: u64,
    wakers: Vec<Waker>,
    is_closed: bool,
}

/// A queue of bounded length.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl EventQueue {
    fn push(&self, event: Event) {
        let mut waiting = lock(&self.waiting);
        if waiting.events.len() >= EVENTS_MAX {
            waiting.events.pop_front();
            waiting.dropped += 1;
        }
        waiting.events.push_back(event);
        self.wake(waiting);
    }

    /// Its publisher or subscriber is gone.
    pub(crate) fn close(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.is_closed = true;
        self.wake(waiting);
    }

    fn wake(&self, mut waiting: std::sync::MutexGuard<'_, Waiting>) {
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        self.arrived.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The events of a publisher or subscriber, the oldest first. All handles of one share its events:
/// each event goes to one of them.
///
/// At most [`EVENTS_MAX`](crate::limits::EVENTS_MAX) wait; then the oldest is dropped and counted.
#[derive(Debug)]
pub struct Events(Arc<EventQueue>);

impl Events {
    pub(crate) fn of(queue: &Arc<EventQueue>) -> Self {
        Self(Arc::clone(queue))
    }

    /// Takes the next event if there is one. Never sleeps.
    pub fn try_recv(&mut self) -> Option<Event> {
        lock(&self.0.waiting).events.pop_front()
    }

    /// Takes the next event, sleeping on this thread until it comes.
    ///
    /// # Errors
    /// [`RecvError::Timeout`] after `timeout`; [`Error::Closed`] in [`RecvError::Wait`] when all
    /// were taken and the publisher or subscriber is gone.
    pub fn recv_blocking(&mut self, timeout: Duration) -> Result<Event, RecvError> {
        let start = Instant::now();
        let mut waiting = lock(&self.0.waiting);
        loop {
            if let Some(event) = waiting.events.pop_front() {
                return Ok(event);
            }
            if waiting.is_closed {
                return Err(Error::Closed.into());
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(RecvError::Timeout { timeout });
            }
            let woken = self.0.arrived.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the next event, sleeping in any runtime until it comes. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Closed`] in [`RecvError::Wait`] when all were taken and the publisher or
    /// subscriber is gone.
    pub async fn recv(&mut self) -> Result<Event, RecvError> {
        let next = std::future::poll_fn(|cx| self.poll_recv(cx)).await;
        next.ok_or_else(|| Error::Closed.into())
    }

    /// Events that were dropped because nobody took them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        lock(&self.0.waiting).dropped
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut waiting = lock(&self.0.waiting);
        if let Some(event) = waiting.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if waiting.is_closed {
            return Poll::Ready(None);
        }
        if !waiting
            .wakers
            .iter()
            .any(|known| known.will_wake(cx.waker()))
        {
            waiting.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Ends when the publisher or subscriber is gone and all events were taken.
impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll_recv(cx)
    }
}

/// A publisher that a subscriber is connected to.
#[derive(Debug)]
struct Watched {
    channel: u64,
    publisher: PublisherId,
    deadline: Option<(Deadline, Progress)>,
}

/// The publishers of a subscriber, watched.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) queue: Arc<EventQueue>,
    /// Most time between two messages of a publisher.
    period_ns: Option<u64>,
    deadlines: Arc<Deadlines>,
    publishers: Mutex<Vec<Watched>>,
}

impl Watch {
    pub(crate) fn new(period_ns: Option<u64>, deadlines: &Arc<Deadlines>) -> Arc<Self> {
        let watch = Arc::new(Self {
            queue: Arc::default(),
            period_ns,
            deadlines: Arc::clone(deadlines),
            publishers: Mutex::default(),
        });
        if period_ns.is_some() {
            deadlines.add(&watch);
        }
        watch
    }

    /// Takes note of what the subscriber is told, by the node's driver if it is a new channel.
    pub(crate) fn note(&self, event: &SubscriberEvent) {
        match event {
            SubscriberEvent::Add(added) => {
                let deadline = self.period_ns.map(|period_ns| {
                    let deadline = Deadline::new(period_ns, monotonic_ns());
                    self.deadlines.expect(deadline.due_ns());
                    (deadline, added.consumer.progress())
                });
                let publisher = PublisherId::of(added.consumer.origin());
                lock(&self.publishers).push(Watched {
                    channel: added.channel,
                    publisher: publisher.clone(),
                    deadline,
                });
                self.queue.push(Event::PublisherUp { publisher });
            }
            SubscriberEvent::Closed { channel, reason } => {
                if let Some(publisher) = self.forget(*channel) {
                    let reason = *reason;
                    self.queue.push(Event::PublisherLost { publisher, reason });
                }
            }
            // Nothing happens to it any more.
            SubscriberEvent::Over => self.queue.close(),
            SubscriberEvent::Segment { .. } | SubscriberEvent::SegmentGone { .. } => {}
        }
    }

    /// A channel is no more.
    pub(crate) fn forget(&self, channel: u64) -> Option<PublisherId> {
        let mut publishers = lock(&self.publishers);
        let idx = publishers
            .iter()
            .position(|known| known.channel == channel)?;
        Some(publishers.swap_remove(idx).publisher)
    }
}

impl Check for Watch {
    fn check(&self, now_ns: u64) -> u64 {
        let mut due_ns = u64::MAX;
        for watched in lock(&self.publishers).iter_mut() {
            let Some((deadline, progress)) = &mut watched.deadline else {
                continue;
            };
            if let Some(sent_ns) = progress.look() {
                deadline.moved(sent_ns & !ARRIVED, now_ns);
            }
            if let Some(missed) = deadline.missed(now_ns) {
                let publisher = watched.publisher.clone();
                self.queue.push(Event::DeadlineMissed { publisher, missed });
            }
            due_ns = due_ns.min(deadline.due_ns());
        }
        due_ns
    }
}

/// What a publisher promises: to send at least so often.
#[derive(Debug)]
pub(crate) struct Promise {
    pub(crate) queue: Arc<EventQueue>,
    publisher: PublisherId,
    counters: Arc<Counters>,
    /// And messages when last looked.
    deadline: Mutex<Option<(Deadline, u64)>>,
}

impl Promise {
    pub(crate) fn new(
        period_ns: Option<u64>,
        origin: &Origin,
        counters: &Arc<Counters>,
        deadlines: &Deadlines,
    ) -> Arc<Self> {
        let deadline = period_ns.map(|period_ns| Deadline::new(period_ns, monotonic_ns()));
        let due_ns = deadline.as_ref().map(Deadline::due_ns);
        let promise = Arc::new(Self {
            queue: Arc::default(),
            publisher: PublisherId::of(origin),
            counters: Arc::clone(counters),
            deadline: Mutex::new(deadline.map(|deadline| (deadline, 0))),
        });
        if let Some(due_ns) = due_ns {
            deadlines.add(&promise);
            deadlines.expect(due_ns);
        }
        promise
    }
}

impl Check for Promise {
    fn check(&self, now_ns: u64) -> u64 {
        let mut promised = lock(&self.deadline);
        let Some((deadline, seen)) = &mut *promised else {
            return u64::MAX;
        };
        let sent = self.counters.value(Counter::Messages);
        if std::mem::replace(seen, sent) != sent {
            deadline.moved(0, now_ns);
        }
        if let Some(missed) = deadline.missed(now_ns) {
            let publisher = self.publisher.clone();
            self.queue.push(Event::DeadlineMissed { publisher, missed });
        }
        deadline.due_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(endpoint: u32) -> Event {
        let publisher = PublisherId {
            node: NodeId(1),
            endpoint,
            node_name: "n".into(),
        };
        Event::PublisherUp { publisher }
    }

    #[test]
    fn what_nobody_takes_is_dropped_from_the_oldest_and_counted() {
        let queue = Arc::new(EventQueue::default());
        let mut events = Events::of(&queue);
        (0..300).for_each(|number| queue.push(up(number)));
        assert_eq!(events.dropped(), 300 - EVENTS_MAX as u64);
        assert_eq!(events.try_recv(), Some(up(300 - 256)));
        queue.close();
        let mut left = 0;
        while events.recv_blocking(Duration::ZERO).is_ok() {
            left += 1;
        }
        assert_eq!(left, EVENTS_MAX - 1);
        let over = events.recv_blocking(Duration::from_secs(30));
        assert!(matches!(over, Err(RecvError::Wait(Error::Closed))));
    }
}
