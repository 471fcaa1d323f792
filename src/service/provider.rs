//! The serving end of a service.

use std::borrow::Borrow;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use shmesh_shm::Counter;

use super::serving::{Serving, Settings};
use super::{Head, Kind, REPLIES, REQUESTS, RING_DEPTH_MIN};
use crate::endpoint::{ChannelKey, Overflow};
use crate::error::{Error, RecvError};
use crate::id::NodeId;
use crate::limits::{CALLS_MAX, FAILURE_BYTES_MAX, HANDLERS_DEFAULT, PENDING_DEFAULT};
use crate::message::{Body, Enveloped, InvalidPayload, Payload, Validation};
use crate::metrics::RequestMeter;
use crate::node::Node;
use crate::publisher::{ArchiveWriter, Draft, Publisher};
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// Sets up a [`Provider`]; made by [`Node::provider`](crate::Node::provider).
#[derive(Debug)]
#[must_use = "call build() or serve() to provide the service"]
pub struct ProviderBuilder<Q, R> {
    node: Node,
    service: String,
    settings: Settings,
    carries: PhantomData<fn(Q) -> R>,
}

impl<Q: Payload, R: Body> ProviderBuilder<Q, R> {
    pub(crate) fn new(node: Node, service: &str) -> Self {
        Self {
            node,
            service: service.into(),
            settings: Settings {
                handlers_max: HANDLERS_DEFAULT,
                pending_max: PENDING_DEFAULT,
            },
            carries: PhantomData,
        }
    }

    /// Most handlers that run at once with [`serve`](Provider::serve); 64 unless set.
    pub fn concurrency(mut self, handlers: u32) -> Self {
        self.settings.handlers_max = handlers;
        self
    }

    /// Most requests that wait for a handler; 64 unless set. Whoever calls beyond that is told
    /// that the provider is overloaded.
    pub fn pending(mut self, requests: u32) -> Self {
        self.settings.pending_max = requests;
        self
    }

    /// Makes the provider. Callers are found on their own.
    ///
    /// # Errors
    /// A name or bound out of its limits; callers with other types; no memory or descriptors.
    pub fn build(self) -> Result<Provider<Q, R>, Error> {
        let Settings {
            handlers_max,
            pending_max,
        } = self.settings;
        let bounds = [
            ("concurrency", handlers_max, 1),
            ("pending", pending_max, 0),
        ];
        for (what, found, min) in bounds {
            if !(min..=CALLS_MAX / 4).contains(&found) {
                let [found, min, max] = [found, min, CALLS_MAX / 4].map(u64::from);
                return Err(Error::OutOfBounds {
                    what,
                    found,
                    min,
                    max,
                });
            }
        }
        let topic = |first: &str| format!("{first}{}", self.service.trim_start_matches('/'));
        // Replies first: a caller that finds the other way open may be answered.
        let replies = self.node.publisher::<Enveloped<R>>(&topic(REPLIES));
        let replies = replies.without_timestamps().build()?;
        let unread = (2 * (handlers_max + pending_max)).max(RING_DEPTH_MIN);
        let requests = self.node.subscriber::<Enveloped<Q>>(&topic(REQUESTS));
        let requests = requests.overflow(Overflow::DropNewest(unread));
        let held_max = handlers_max + pending_max + 1;
        let mut requests = requests.max_held(held_max).build()?;
        requests.report_changes();
        Ok(Provider {
            meter: RequestMeter::new(&self.node, requests.endpoint(), &self.service),
            node: self.node,
            service: self.service,
            requests,
            replies,
            settings: self.settings,
            guess: 0,
            stats: ProviderStats::default(),
        })
    }

    /// Makes the provider and serves with it: see [`Provider::serve`].
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn serve<H, F, V, E>(self, handler: H) -> Result<Serving, Error>
    where
        H: Fn(Request<Q>) -> F + Send + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
        V: Borrow<R::In> + Send + 'static,
        E: Display + Send + 'static,
        R::In: 'static,
    {
        Ok(self.build()?.serve(handler))
    }
}

/// Counts of a provider since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProviderStats {
    /// Requests taken.
    pub requests: u64,
    /// Of these, answered with a value.
    pub done: u64,
    /// Of these, answered with an error, panics and invalid requests among them.
    pub failed: u64,
    /// Of these, turned away because too many waited.
    pub overloaded: u64,
    /// Of these, turned away because it was about to end.
    pub refused: u64,
    /// Of these, given up because their caller gave up or was gone, or the node closed.
    pub cancelled: u64,
}

/// A request, with what is needed to answer it. It derefs to the value, as a sample does.
pub struct Request<Q: Payload> {
    sample: Sample<Q>,
    pub(super) head: Head,
}

impl<Q: Payload> Request<Q> {
    /// The message, to be kept.
    #[must_use]
    pub fn into_sample(self) -> Sample<Q> {
        self.sample
    }

    /// The name of the node that calls.
    #[must_use]
    pub fn caller_name(&self) -> &str {
        self.sample.publisher_name()
    }

    /// True if the caller waits for a reply.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.head.kind == Kind::Call
    }

    /// The node that calls.
    pub(super) fn caller(&self) -> NodeId {
        NodeId(self.sample.received().origin().node)
    }

    /// Whom to answer, when the request itself is with its handler.
    pub(super) fn return_address(&self) -> Address {
        Address {
            head: self.head,
            caller: self.caller(),
        }
    }
}

impl<Q: Payload> Deref for Request<Q> {
    type Target = Q::View;
    fn deref(&self) -> &Q::View {
        &self.sample
    }
}

impl<Q: Payload> fmt::Debug for Request<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("caller", &self.caller_name())
            .field("call", &self.head.call)
            .finish_non_exhaustive()
    }
}

/// Whom a reply goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) head: Head,
    pub(super) caller: NodeId,
}

/// What a provider takes from its ring.
pub(super) enum Taken<Q: Payload> {
    Request(Request<Q>),
    /// The caller gave that call up.
    Cancelled {
        caller: NodeId,
        call: u64,
    },
    /// Callers came or went.
    Changed,
}

/// The serving end of a service, request by request; [`serve`](Self::serve) runs handlers for
/// them. One thread at a time.
#[derive(Debug)]
pub struct Provider<Q: Payload, R: Body> {
    pub(super) node: Node,
    service: String,
    requests: Subscriber<Enveloped<Q>>,
    replies: Publisher<Enveloped<R>>,
    pub(super) settings: Settings,
    guess: usize,
    pub(super) stats: ProviderStats,
    meter: RequestMeter,
}

impl<Q: Payload, R: Body> Provider<Q, R> {
    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Counts since it was made.
    #[must_use]
    pub fn stats(&self) -> ProviderStats {
        self.stats
    }

    /// Runs `handler` for each request, on the tokio runtime of the caller of this function, until
    /// what it gives is dropped. Handlers run at once as far as the concurrency allows; one that is
    /// ready at its first poll, as those without an `await` are, costs no task. A handler whose
    /// caller is gone, or gave up, is dropped at its next `await`. One that panics ends its call
    /// alone.
    ///
    /// When the node [closes](Node::close), requests that were taken are served within the
    /// [grace period](crate::NodeBuilder::grace), and new ones turned away:
    /// [`CallError::Closing`](super::CallError::Closing).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve<H, F, V, E>(self, handler: H) -> Serving
    where
        H: Fn(Request<Q>) -> F + Send + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
        V: Borrow<R::In> + Send + 'static,
        E: Display + Send + 'static,
        R::In: 'static,
    {
        Serving::spawn(self, handler)
    }

    /// Takes the next request if there is one. Never sleeps.
    ///
    /// # Errors
    /// As [`Subscriber::try_recv`](crate::Subscriber::try_recv).
    pub fn try_recv(&mut self) -> Result<Option<Request<Q>>, RecvError> {
        loop {
            match self.requests.try_recv() {
                Ok(Some(sample)) => {
                    if let Some(Taken::Request(request)) = self.take_in(sample) {
                        return Ok(Some(request));
                    }
                }
                Ok(None) => return Ok(None),
                Err(RecvError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next request, looking for it without sleeping.
    ///
    /// # Errors
    /// As [`Subscriber::recv_spin`](crate::Subscriber::recv_spin).
    pub fn recv_spin(&mut self, timeout: Duration) -> Result<Request<Q>, RecvError> {
        loop {
            match self.requests.recv_spin(timeout) {
                Ok(sample) => {
                    if let Some(Taken::Request(request)) = self.take_in(sample) {
                        return Ok(request);
                    }
                }
                Err(RecvError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next request, sleeping on this thread until it comes. The time starts anew with
    /// callers that come or go.
    ///
    /// # Errors
    /// As [`Subscriber::recv_blocking`](crate::Subscriber::recv_blocking).
    pub fn recv_blocking(&mut self, timeout: Duration) -> Result<Request<Q>, RecvError> {
        loop {
            match self.requests.recv_blocking(timeout) {
                Ok(sample) => {
                    if let Some(Taken::Request(request)) = self.take_in(sample) {
                        return Ok(request);
                    }
                }
                Err(RecvError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next request, sleeping in tokio until it comes. Cancel-safe.
    ///
    /// # Errors
    /// As [`Subscriber::recv`](crate::Subscriber::recv).
    pub async fn recv(&mut self) -> Result<Request<Q>, RecvError> {
        loop {
            if let Taken::Request(request) = self.take().await? {
                return Ok(request);
            }
        }
    }

    /// The next thing that comes. Cancel-safe.
    pub(super) async fn take(&mut self) -> Result<Taken<Q>, RecvError> {
        loop {
            match self.requests.recv().await {
                Ok(sample) => {
                    if let Some(taken) = self.take_in(sample) {
                        return Ok(taken);
                    }
                }
                Err(RecvError::Changed) => return Ok(Taken::Changed),
                Err(error) => return Err(error),
            }
        }
    }

    /// What was sent; `None` for what is no request, which is answered if it can be.
    #[inline]
    fn take_in(&mut self, sample: Sample<Enveloped<Q>>) -> Option<Taken<Q>> {
        let mut received = sample.into_received();
        let head = Head::decode(received.take_front()?)?;
        let caller = NodeId(received.origin().node);
        if head.kind == Kind::Cancel {
            let call = head.call;
            return Some(Taken::Cancelled { caller, call });
        }
        self.stats.requests += 1;
        self.meter.begin(caller, head.call);
        match Q::find(received, Validation::InPlace) {
            Ok(held) => Some(Taken::Request(Request {
                sample: Sample { held },
                head,
            })),
            Err(invalid) => {
                self.refuse(Address { head, caller }, &invalid);
                None
            }
        }
    }

    #[cold]
    fn refuse(&mut self, to: Address, InvalidPayload(reason): &InvalidPayload) {
        let message = format!("invalid request: {reason}");
        self.answer_failed(to, Kind::Failed, &message);
    }

    /// Answers a request with a value. A request that wants no reply gets none; one whose caller
    /// is gone, neither.
    ///
    /// # Errors
    /// If the value cannot be sent: the caller is then told so.
    pub fn reply(&mut self, request: &Request<Q>, value: &R::In) -> Result<(), Error> {
        self.answer(request.return_address(), value)
    }

    /// Answers a request with the text of an error, of at most 4 KiB.
    pub fn fail(&mut self, request: &Request<Q>, message: &str) {
        self.answer_failed(request.return_address(), Kind::Failed, message);
    }

    pub(super) fn answer(&mut self, to: Address, value: &R::In) -> Result<(), Error> {
        if to.head.kind != Kind::Call {
            self.note_done(to);
            return Ok(());
        }
        let draft = match self.write(to.head_of(Kind::Done), value) {
            Ok(draft) => draft,
            Err(error) => {
                let message = format!("the reply cannot be sent: {error}");
                self.answer_failed(to, Kind::Failed, &message);
                return Err(error);
            }
        };
        self.guess = draft.bytes().len();
        let outbox = &mut self.replies.outbox;
        outbox.send_to(|key| *key == to.key(), draft);
        self.note_done(to);
        Ok(())
    }

    #[inline]
    fn write(&mut self, head: Head, value: &R::In) -> Result<Draft, Error> {
        let outbox = &mut self.replies.outbox;
        let mut draft = Draft::with_guess(outbox, self.guess)?;
        draft.append(outbox, &head.encode())?;
        R::write(ArchiveWriter::new(outbox, draft), value)
    }

    #[inline]
    fn note_done(&mut self, to: Address) {
        self.stats.done += 1;
        self.meter
            .answered(Counter::CallsOk, to.caller, to.head.call);
    }

    /// So many requests were given up, because nobody waits or the node closes.
    pub(super) fn note_cancelled(&mut self, count: u64) {
        self.stats.cancelled += count;
        self.meter.cancelled(count);
    }

    pub(super) fn answer_failed(&mut self, to: Address, kind: Kind, message: &str) {
        let (stat, outcome) = match kind {
            Kind::Overloaded => (&mut self.stats.overloaded, Counter::CallsOverloaded),
            Kind::Closing => (&mut self.stats.refused, Counter::CallsClosing),
            Kind::Panicked => (&mut self.stats.failed, Counter::CallsPanicked),
            _ => (&mut self.stats.failed, Counter::CallsFailed),
        };
        *stat += 1;
        self.meter.answered(outcome, to.caller, to.head.call);
        if to.head.kind != Kind::Call {
            return;
        }
        let end = message.floor_char_boundary(FAILURE_BYTES_MAX);
        match self.write_failure(to.head_of(kind), &message.as_bytes()[..end]) {
            Ok(draft) => {
                let outbox = &mut self.replies.outbox;
                outbox.send_to(|key| *key == to.key(), draft);
            }
            Err(error) => {
                let service = &self.service;
                tracing::warn!(
                    target: "shmesh::service",
                    service, %error, "a caller cannot be told of a failure"
                );
            }
        }
    }

    fn write_failure(&mut self, head: Head, message: &[u8]) -> Result<Draft, Error> {
        let outbox = &mut self.replies.outbox;
        let mut draft = Draft::with_guess(outbox, 0)?;
        draft.append(outbox, &head.encode())?;
        draft.append(outbox, message)?;
        Ok(draft)
    }

    /// True if that node calls us. Asked of the requests' channels, for it is their end that is
    /// reported.
    pub(super) fn has_caller(&self, node: NodeId) -> bool {
        let mut callers = self.requests.publishers();
        callers.any(|(caller, ..)| caller == node)
    }
}

impl Address {
    fn key(&self) -> ChannelKey {
        ChannelKey {
            subscriber_node: self.caller,
            channel: self.head.reply_to,
        }
    }

    fn head_of(&self, kind: Kind) -> Head {
        Head {
            call: self.head.call,
            reply_to: 0,
            kind,
        }
    }
}
