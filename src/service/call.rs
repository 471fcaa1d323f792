//! Calls from many tasks at once.
//!
//! They share one caller. Whoever waits and finds nobody else doing so watches for all: replies of
//! others are put by for them. When it has its own it wakes another one to go on watching. So no
//! task of its own stands between a reply and the one who waits for it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::time::{Sleep, sleep_until};

use super::caller::{Reply, To};
use super::{CallError, CallId, Caller};
use crate::endpoint::lock;
use crate::error::Error;
use crate::message::{Body, Payload};
use crate::sample::Sample;

/// Calls a service from any number of tasks: cheap to clone. Made by
/// [`Node::client`](crate::Node::client).
#[derive(Debug)]
pub struct Client<Q: Body, R: Payload> {
    shared: Arc<Mutex<Shared<Q, R>>>,
}

impl<Q: Body, R: Payload> Clone for Client<Q, R> {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { shared }
    }
}

#[derive(Debug)]
struct Shared<Q: Body, R: Payload> {
    caller: Caller<Q, R>,
    waiting: HashMap<CallId, Waiting<R>>,
    /// Who watches for replies.
    watcher: Option<CallId>,
}

#[derive(Debug, Default)]
enum Waiting<R: Payload> {
    #[default]
    New,
    Asleep(Waker),
    Come(Result<Sample<R>, CallError>),
}

impl<Q: Body, R: Payload> Client<Q, R> {
    pub(crate) fn new(caller: Caller<Q, R>) -> Self {
        let shared = Shared {
            caller,
            waiting: HashMap::new(),
            watcher: None,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Calls, and sleeps in tokio until the reply comes. A future that is dropped gives the call
    /// up, and its provider is told.
    ///
    /// # Errors
    /// [`CallError`] says why there is no reply.
    pub async fn call(&self, request: &Q::In) -> Result<Sample<R>, CallError> {
        self.start(request)?.await
    }

    /// Sends a request now; the reply comes from what this gives.
    ///
    /// # Errors
    /// As [`Caller::start`].
    pub fn start(&self, request: &Q::In) -> Result<Calling<Q, R>, CallError> {
        let mut shared = lock(&self.shared);
        let id = shared.caller.start(request)?;
        Ok(self.calling(&mut shared, id))
    }

    /// Sends a request to every provider there is: each reply comes from its own call.
    ///
    /// # Errors
    /// As [`Caller::start_all`].
    pub fn start_all(&self, request: &Q::In) -> Result<Vec<Calling<Q, R>>, CallError> {
        let mut shared = lock(&self.shared);
        let ids = shared.caller.start_all(request)?;
        let calling = |id| self.calling(&mut shared, id);
        Ok(ids.into_iter().map(calling).collect())
    }

    /// Sends a request that has no reply.
    ///
    /// # Errors
    /// As [`Caller::tell`].
    pub fn tell(&self, request: &Q::In) -> Result<(), CallError> {
        lock(&self.shared).caller.tell(request)
    }

    /// Sends a request to one node, by its name or id; the reply comes from what this gives.
    ///
    /// # Errors
    /// As [`Caller::start_to`].
    pub fn start_to<'a>(
        &self,
        node: impl Into<To<'a>>,
        request: &Q::In,
    ) -> Result<Calling<Q, R>, CallError> {
        let mut shared = lock(&self.shared);
        let id = shared.caller.start_to(node, request)?;
        Ok(self.calling(&mut shared, id))
    }

    /// Sends a request that has no reply to one node, by its name or id.
    ///
    /// # Errors
    /// As [`Caller::tell_to`].
    pub fn tell_to<'a>(&self, node: impl Into<To<'a>>, request: &Q::In) -> Result<(), CallError> {
        lock(&self.shared).caller.tell_to(node, request)
    }

    /// Ready when a provider comes or goes after this was called.
    pub(super) fn changed(&self) -> impl Future<Output = Result<(), Error>> + use<Q, R> {
        lock(&self.shared).caller.changed()
    }

    fn calling(&self, shared: &mut Shared<Q, R>, id: CallId) -> Calling<Q, R> {
        shared.waiting.insert(id, Waiting::New);
        Calling {
            shared: Arc::clone(&self.shared),
            id,
            timer: None,
        }
    }

    /// How many providers it is connected to.
    #[must_use]
    pub fn provider_count(&self) -> usize {
        lock(&self.shared).caller.provider_count()
    }

    /// Waits until it is connected to a provider. Event-driven, no polling.
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is closed meanwhile.
    pub async fn wait_for_provider(&self) -> Result<(), Error> {
        loop {
            let changed = {
                let mut shared = lock(&self.shared);
                let changed = shared.caller.changed();
                if shared.caller.provider_count() > 0 {
                    return Ok(());
                }
                changed
            };
            changed.await?;
        }
    }
}

/// A call under way. Dropped, it is given up.
#[derive(Debug)]
#[must_use = "a call that is dropped is given up"]
pub struct Calling<Q: Body, R: Payload> {
    shared: Arc<Mutex<Shared<Q, R>>>,
    id: CallId,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<Q: Body, R: Payload> Calling<Q, R> {
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sample<R>, CallError>> {
        let shared = Arc::clone(&self.shared);
        let mut shared = lock(&shared);
        loop {
            if let Poll::Ready(reply) = shared.poll(self.id, cx) {
                return Poll::Ready(reply);
            }
            if self.timer.is_none() {
                let until = shared.caller.until(self.id);
                self.timer = until.map(|until| Box::pin(sleep_until(until.into())));
            }
            let is_late = |timer: &mut Pin<Box<Sleep>>| timer.as_mut().poll(cx).is_ready();
            if !self.timer.as_mut().is_some_and(is_late) {
                return Poll::Pending;
            }
            shared.end_late();
            self.timer = None;
        }
    }
}

impl<Q: Body, R: Payload> Future for Calling<Q, R> {
    type Output = Result<Sample<R>, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_reply(cx)
    }
}

impl<Q: Body, R: Payload> Shared<Q, R> {
    fn poll(&mut self, id: CallId, cx: &mut Context<'_>) -> Poll<Result<Sample<R>, CallError>> {
        if let Some(Waiting::Come(_)) = self.waiting.get(&id)
            && let Some(Waiting::Come(reply)) = self.waiting.remove(&id)
        {
            self.pass_on(id);
            return Poll::Ready(reply);
        }
        if self.watcher.is_none_or(|watcher| watcher == id) {
            self.watcher = Some(id);
            while let Poll::Ready(reply) = self.caller.poll_reply(cx) {
                let (of, reply): Reply<R> = match reply {
                    Ok(reply) => reply,
                    Err(error) => {
                        self.waiting.remove(&id);
                        self.pass_on(id);
                        return Poll::Ready(Err(error));
                    }
                };
                if of == id {
                    self.waiting.remove(&id);
                    self.pass_on(id);
                    return Poll::Ready(reply);
                }
                self.put_by(of, reply);
            }
        }
        self.waiting.insert(id, Waiting::Asleep(cx.waker().clone()));
        Poll::Pending
    }

    fn end_late(&mut self) {
        self.caller.end_late();
        for (of, error) in std::mem::take(&mut self.caller.ended) {
            self.put_by(of, Err(error));
        }
    }

    fn put_by(&mut self, of: CallId, reply: Result<Sample<R>, CallError>) {
        if let Some(waiting) = self.waiting.get_mut(&of)
            && let Waiting::Asleep(waker) = std::mem::replace(waiting, Waiting::Come(reply))
        {
            waker.wake();
        }
    }

    /// Has another one watch, if it was that one.
    fn pass_on(&mut self, id: CallId) {
        if self.watcher != Some(id) {
            return;
        }
        self.watcher = None;
        let asleep = self.waiting.values().find_map(|waiting| match waiting {
            Waiting::Asleep(waker) => Some(waker),
            Waiting::New | Waiting::Come(_) => None,
        });
        if let Some(waker) = asleep {
            waker.wake_by_ref();
        }
    }
}

impl<Q: Body, R: Payload> Drop for Calling<Q, R> {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        if shared.waiting.remove(&self.id).is_some() {
            let id = self.id;
            shared.caller.cancel(id);
            shared.pass_on(id);
        }
    }
}
