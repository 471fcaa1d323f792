//! The calling end of a service.

mod incoming;
mod named;

use std::time::{Duration, Instant};

pub use self::named::To;
use super::{CallError, HEAD_BYTES, Head, Kind, REPLIES, REQUESTS, RING_DEPTH_MIN};
use crate::balance::{Balance, Channels, Groups};
use crate::endpoint::Overflow;
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{CALLS_MAX, HELD_DEFAULT};
use crate::message::{Body, Enveloped, Payload};
use crate::metrics::CallMeter;
use crate::node::Node;
use crate::publisher::{ArchiveWriter, Draft, Publisher};
use crate::sample::Sample;
use crate::subscriber::Subscriber;
use crate::topology::TopicType;

/// How a caller calls.
pub(super) struct Settings {
    pub(super) timeout: Duration,
    pub(super) in_flight_max: u32,
    pub(super) balance: Balance,
    /// Of the requests, where `Q` does not say it.
    pub(super) ty: Option<TopicType>,
}

/// Names a call of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(u64);

/// A node that serves, reachable both ways.
#[derive(Debug)]
struct Known {
    node: NodeId,
    name: String,
    /// Our channel for its replies.
    reply_to: u64,
    is_chosen: bool,
    /// True when it said that it takes no more calls.
    is_closing: bool,
    under_way: u64,
}

/// A call that waits for its reply.
#[derive(Debug)]
pub(crate) struct Call {
    id: CallId,
    provider: NodeId,
    /// When it is given up.
    until: Instant,
    timeout: Duration,
}

impl CallId {
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

impl Call {
    pub(crate) const fn id(&self) -> CallId {
        self.id
    }

    /// How long it has been under way.
    #[cfg(feature = "metrics")]
    pub(crate) fn age(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        self.timeout.saturating_sub(left)
    }
}

/// The calling end of a service. One thread at a time; [`Client`](super::Client) is for
/// many tasks at once.
///
/// A single call is [`call`](Self::call), [`call_blocking`](Self::call_blocking) or
/// [`call_spin`](Self::call_spin). For several at once [`start`](Self::start) them and take the
/// replies as they come.
#[derive(Debug)]
pub struct Caller<Q: Body, R: Payload> {
    node: Node,
    service: String,
    requests: Publisher<Enveloped<Q>>,
    replies: Subscriber<Enveloped<R>>,
    providers: Vec<Known>,
    /// Those that went and still have calls under way.
    former: Vec<Known>,
    groups: Groups,
    /// How often channels had come or gone when `providers` was made.
    seen: (u64, u64),
    /// By place; the low half of a call's number is its place.
    calls: Vec<Option<Call>>,
    free: Vec<usize>,
    under_way: u32,
    /// High half of the next call's number.
    next: u64,
    timeout: Duration,
    in_flight_max: u32,
    guess: usize,
    meter: CallMeter,
    /// Calls whose end is to be told, with why.
    pub(super) ended: Vec<(CallId, CallError)>,
}

/// What became of a call.
pub type Reply<R> = (CallId, Result<Sample<R>, CallError>);

const PLACE_BITS: u32 = 16;
const _: () = assert!(CALLS_MAX <= 1 << PLACE_BITS);

impl<Q: Body, R: Payload> Caller<Q, R> {
    pub(super) fn new(node: Node, service: String, settings: Settings) -> Result<Self, Error> {
        let Settings {
            timeout,
            in_flight_max: max,
            balance,
            ty,
        } = settings;
        let topic = |first: &str| format!("{first}{}", service.trim_start_matches('/'));
        let replies = node.subscriber::<Enveloped<R>>(&topic(REPLIES));
        // Each call has its place, so that a reply always finds room; and a place more, so that no
        // reply waits for credit over a network.
        let replies = replies.overflow(Overflow::DropNewest((2 * max).max(RING_DEPTH_MIN)));
        let mut replies = replies.max_held(max + HELD_DEFAULT).build()?;
        replies.report_changes();
        let requests = node.publisher::<Enveloped<Q>>(&topic(REQUESTS));
        let requests = requests.without_timestamps().balance(Balance::Everybody);
        let requests = match ty {
            Some(ty) => requests.announcing(ty),
            None => requests,
        };
        let requests = requests.build()?;
        // Ids are random.
        #[allow(clippy::cast_possible_truncation)]
        let seed = node.id().0 as u64;
        Ok(Self {
            groups: Groups::new(balance, false, seed),
            meter: CallMeter::new(&node, replies.endpoint(), &service),
            node,
            service,
            requests,
            replies,
            providers: Vec::new(),
            former: Vec::new(),
            seen: (0, 0),
            calls: Vec::new(),
            free: Vec::new(),
            under_way: 0,
            next: 0,
            timeout,
            in_flight_max: max,
            guess: 0,
            ended: Vec::new(),
        })
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// How many providers it is connected to.
    pub fn provider_count(&mut self) -> usize {
        self.refresh();
        self.providers.len()
    }

    /// How many calls are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.under_way
    }

    /// Waits until it is connected to a provider. Event-driven, no polling.
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is closed meanwhile.
    pub async fn wait_for_provider(&mut self) -> Result<(), Error> {
        loop {
            let changed = self.changed();
            if self.provider_count() > 0 {
                return Ok(());
            }
            changed.await?;
        }
    }

    /// Ready when a provider comes or goes after this was called.
    pub(super) fn changed(&self) -> impl Future<Output = Result<(), Error>> + use<Q, R> {
        let mut requests = self.requests.watch_listeners();
        let mut replies = self.replies.publishers_watch();
        let node = self.node.clone();
        async move {
            let changed = async {
                tokio::select! {
                    changed = requests.changed() => changed,
                    changed = replies.changed() => changed,
                }
            };
            node.or_closed(changed).await
        }
    }

    /// The same on this thread, without a runtime. Not to be called from async code.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `timeout`, [`Error::Closed`] if the node is closed meanwhile.
    pub fn wait_for_provider_blocking(&mut self, timeout: Duration) -> Result<(), Error> {
        crate::node::block_on(timeout, self.wait_for_provider())?
    }

    /// Calls, and sleeps in tokio until the reply comes.
    ///
    /// # Errors
    /// [`CallError`] says why there is none. Replies to calls that were [started](Self::start)
    /// earlier and come meanwhile are dropped: take those first.
    pub async fn call(&mut self, request: &Q::In) -> Result<Sample<R>, CallError> {
        let id = self.start(request)?;
        let mut guard = Abandon {
            caller: self,
            id: Some(id),
        };
        loop {
            let (of, reply) = guard.caller.reply().await?;
            if of == id {
                guard.id = None;
                return reply;
            }
        }
    }

    /// Calls, and sleeps on this thread until the reply comes. Needs no runtime.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_blocking(&mut self, request: &Q::In) -> Result<Sample<R>, CallError> {
        let id = self.start(request)?;
        self.wait_for(id, Subscriber::recv_blocking)
    }

    /// Calls, and looks for the reply without sleeping: the lowest latency, for a whole core.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_spin(&mut self, request: &Q::In) -> Result<Sample<R>, CallError> {
        let id = self.start(request)?;
        self.wait_for(id, Subscriber::recv_spin)
    }

    /// Sends a request to one of the providers; its reply is one of those that
    /// [`reply`](Self::reply) and its like give. Never waits.
    ///
    /// # Errors
    /// [`CallError::NoProvider`], [`CallError::Overloaded`], [`CallError::TooManyCalls`],
    /// [`CallError::TypeMismatch`]; memory and the like as with
    /// [`Publisher::publish`](crate::Publisher).
    pub fn start(&mut self, request: &Q::In) -> Result<CallId, CallError> {
        let chosen = self.choose().map_err(|error| self.unstarted(error))?;
        let started = self.start_at(chosen, request);
        started.map_err(|error| self.unstarted(error))
    }

    /// Takes note of a call that did not begin.
    #[cold]
    fn unstarted(&mut self, error: CallError) -> CallError {
        self.meter.ended(&error);
        error
    }

    /// Sends a request to every provider there is: as many replies come.
    ///
    /// # Errors
    /// As [`start`](Self::start), where not even one could be sent.
    pub fn start_all(&mut self, request: &Q::In) -> Result<Vec<CallId>, CallError> {
        self.choose()?;
        let mut started = Vec::new();
        let mut failed = None;
        for idx in 0..self.providers.len() {
            match self.start_at(idx, request) {
                Ok(id) => started.push(id),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if started.is_empty() => Err(error),
            _ => Ok(started),
        }
    }

    /// Sends a request that has no reply to one of the providers. One that is about to end may not
    /// carry it out, and nobody says so.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn tell(&mut self, request: &Q::In) -> Result<(), CallError> {
        let chosen = self.choose()?;
        let head = Head {
            call: 0,
            reply_to: 0,
            kind: Kind::Tell,
        };
        self.send(chosen, head, request)
    }

    /// The provider whose turn it is.
    fn choose(&mut self) -> Result<usize, CallError> {
        self.refresh();
        if self.providers.is_empty() {
            return Err(self.nobody());
        }
        if self.groups.is_empty() {
            return Ok(0);
        }
        self.groups.choose(&mut ToChoose(&mut self.providers));
        let chosen = self.providers.iter().position(|known| known.is_chosen);
        Ok(chosen.unwrap_or_default())
    }

    #[cold]
    fn nobody(&mut self) -> CallError {
        if self.requests.outbox.is_over() {
            return Error::Closed.into();
        }
        let service = self.service.clone();
        match self.requests.check_type() {
            Err(mismatch @ Error::TypeMismatch { .. }) => CallError::TypeMismatch(mismatch),
            _ => CallError::NoProvider { service },
        }
    }

    fn start_at(&mut self, idx: usize, request: &Q::In) -> Result<CallId, CallError> {
        if self.under_way >= self.in_flight_max {
            let max = self.in_flight_max;
            return Err(CallError::TooManyCalls { max });
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.calls.push(None);
            self.calls.len() - 1
        });
        let id = CallId(self.next << PLACE_BITS | place as u64);
        self.next += 1;
        let provider = &self.providers[idx];
        let (head, node) = (
            Head {
                call: id.0,
                reply_to: provider.reply_to,
                kind: Kind::Call,
            },
            provider.node,
        );
        self.meter.begin(id);
        if let Err(error) = self.send(idx, head, request) {
            self.free.push(place);
            return Err(error);
        }
        self.providers[idx].under_way += 1;
        self.under_way += 1;
        self.calls[place] = Some(Call {
            id,
            provider: node,
            until: Instant::now() + self.timeout,
            timeout: self.timeout,
        });
        Ok(id)
    }

    #[inline]
    fn send(&mut self, idx: usize, head: Head, request: &Q::In) -> Result<(), CallError> {
        let node = self.providers[idx].node;
        let outbox = &mut self.requests.outbox;
        let mut draft = Draft::with_guess(outbox, self.guess)?;
        draft.append(outbox, &head.encode())?;
        let draft = Q::write(ArchiveWriter::new(outbox, draft), request)?;
        self.guess = draft.bytes().len();
        let sent = outbox.send_to(|key| key.subscriber_node == node, draft);
        match (sent.listeners, sent.refused) {
            (0, 0) => Err(CallError::ProviderLost {
                provider: self.providers[idx].name.clone(),
            }),
            (0, _) => Err(CallError::Overloaded {
                service: self.service.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// When a call is given up, if it is under way.
    pub(super) fn until(&self, id: CallId) -> Option<Instant> {
        let mut calls = self.calls.iter().flatten();
        calls.find(|call| call.id == id).map(|call| call.until)
    }

    /// Gives up a call: its reply, if it comes, is dropped, and its provider told.
    pub fn cancel(&mut self, id: CallId) {
        let Some(call) = self.end(id) else { return };
        self.meter.cancelled();
        self.tell_cancelled(&call);
    }

    fn tell_cancelled(&mut self, call: &Call) {
        let node = call.provider;
        let Some(known) = self.providers.iter().find(|known| known.node == node) else {
            return;
        };
        let head = Head {
            call: call.id.0,
            reply_to: known.reply_to,
            kind: Kind::Cancel,
        };
        let outbox = &mut self.requests.outbox;
        outbox.send_inline_to(|key| key.subscriber_node == node, &head.encode());
    }

    fn end(&mut self, id: CallId) -> Option<Call> {
        let place = usize::try_from(id.0 & ((1 << PLACE_BITS) - 1)).ok()?;
        let call = self.calls.get_mut(place)?.take_if(|call| call.id == id)?;
        self.free.push(place);
        self.under_way -= 1;
        let node = call.provider;
        if let Some(known) = self.providers.iter_mut().find(|known| known.node == node) {
            known.under_way = known.under_way.saturating_sub(1);
        }
        Some(call)
    }

    /// Gives up the calls whose time is over.
    #[cold]
    pub(super) fn end_late(&mut self) {
        let now = Instant::now();
        let late = self.calls.iter().flatten().filter(|call| call.until <= now);
        let late: Vec<CallId> = late.map(|call| call.id).collect();
        for id in late {
            let Some(call) = self.end(id) else { continue };
            self.tell_cancelled(&call);
            let (service, timeout) = (self.service.clone(), call.timeout);
            self.note_end(id, CallError::Timeout { service, timeout });
        }
    }

    /// Ends the calls whose provider is gone: nothing of it is left to be read.
    #[cold]
    fn end_lost(&mut self) {
        self.refresh();
        let publishers: Vec<NodeId> = self.replies.publishers().map(|(node, ..)| node).collect();
        let lost = self.calls.iter().flatten();
        let lost = lost.filter(|call| !publishers.contains(&call.provider));
        let lost: Vec<CallId> = lost.map(|call| call.id).collect();
        for id in lost {
            let Some(call) = self.end(id) else { continue };
            if self.requests.outbox.is_over() {
                self.note_end(id, Error::Closed.into());
                continue;
            }
            let provider = self.provider_of(&call);
            self.note_end(id, CallError::ProviderLost { provider });
        }
    }

    /// The name of the node that was called.
    fn provider_of(&self, call: &Call) -> String {
        let mut known = self.former.iter().chain(&self.providers);
        let known = known.find(|known| known.node == call.provider);
        known.map_or_else(String::new, |known| known.name.clone())
    }

    fn note_end(&mut self, id: CallId, error: CallError) {
        self.meter.ended(&error);
        self.ended.push((id, error));
    }

    /// Looks who serves now, if that may have changed.
    #[inline]
    fn refresh(&mut self) {
        let now = (self.requests.outbox.changes(), self.replies.changes());
        if now != self.seen {
            self.seen = now;
            self.find_providers();
        }
    }

    #[cold]
    fn find_providers(&mut self) {
        let known = std::mem::take(&mut self.providers);
        let waited_for = |node: NodeId| {
            let mut calls = self.calls.iter().flatten();
            calls.any(|call| call.provider == node)
        };
        self.former.retain(|known| waited_for(known.node));
        for (node, name, channel) in self.replies.publishers() {
            let mut listeners = self.requests.outbox.listeners();
            if !listeners.any(|listener| listener == node) {
                continue;
            }
            let before = known.iter().find(|known| known.node == node);
            self.providers.push(Known {
                node,
                name: name.to_owned(),
                reply_to: channel,
                is_chosen: false,
                is_closing: before.is_some_and(|it| it.is_closing && it.reply_to == channel),
                under_way: before.map_or(0, |known| known.under_way),
            });
        }
        for gone in known {
            let is_it = |provider: &Known| provider.node == gone.node;
            if waited_for(gone.node) && !self.providers.iter().any(is_it) {
                self.former.push(gone);
            }
        }
        let nodes = self.providers.iter();
        self.groups
            .regroup(nodes.map(|known| (known.node, known.name.as_str())));
    }
}

struct ToChoose<'a>(&'a mut [Known]);

impl Channels for ToChoose<'_> {
    fn has_room(&mut self, idx: usize) -> bool {
        !self.0[idx].is_closing
    }
    fn unread(&mut self, idx: usize) -> u64 {
        self.0[idx].under_way
    }
    fn mark(&mut self, idx: usize, is_chosen: bool) {
        self.0[idx].is_chosen = is_chosen;
    }
}

/// Gives up a call whose future is dropped.
struct Abandon<'a, Q: Body, R: Payload> {
    caller: &'a mut Caller<Q, R>,
    id: Option<CallId>,
}

impl<Q: Body, R: Payload> Drop for Abandon<'_, Q, R> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.caller.cancel(id);
        }
    }
}

const _: () = assert!(HEAD_BYTES == 32);
