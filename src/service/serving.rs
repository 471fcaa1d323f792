//! Handlers that serve requests, in a task.

use std::any::Any;
use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet};

use super::Kind;
use super::provider::{Address, Provider, ProviderStats, Request, Taken};
use crate::endpoint::lock;
use crate::error::RecvError;
use crate::flow::life::{Control, Running};
use crate::limits::CALLS_MAX;
use crate::message::{Body, Payload};

/// How much a provider takes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) handlers_max: u32,
    pub(super) pending_max: u32,
}

/// What a handler that is through said; the error is the text of its panic.
type Ended<V, E> = Result<Result<V, E>, String>;

/// How a serving task ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was told to, or its node closed.
    Stopped,
    /// Its node was gone already, or receiving failed.
    Failed(RecvError),
}

/// Requests are served for as long as this lives; dropped, it ends the service at once, and
/// handlers that run are dropped.
#[derive(Debug)]
#[must_use = "the service ends when this is dropped"]
pub struct Serving {
    task: Option<JoinHandle<Outcome>>,
    /// None if the node was closing already.
    running: Option<Running>,
    stats: Arc<Mutex<ProviderStats>>,
}

impl Serving {
    pub(super) fn spawn<Q, R, H, F, V, E>(provider: Provider<Q, R>, handler: H) -> Self
    where
        Q: Payload,
        R: Body,
        H: Fn(Request<Q>) -> F + Send + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
        V: Borrow<R::In> + Send + 'static,
        E: Display + Send + 'static,
        R::In: 'static,
    {
        let started = Running::start(provider.node.shared(), provider.service().to_owned());
        let (running, control) = started.ok().unzip();
        let stats = Arc::new(Mutex::new(ProviderStats::default()));
        let server = Server {
            provider,
            handler,
            running: JoinSet::new(),
            known: HashMap::new(),
            pending: VecDeque::new(),
            stats: Arc::clone(&stats),
        };
        let task = tokio::spawn(async move {
            match control {
                Some(control) => server.run(control).await,
                None => Outcome::Failed(RecvError::Closed),
            }
        });
        Self {
            task: Some(task),
            running,
            stats,
        }
    }

    /// Counts since it began, as of the last request or reply.
    #[must_use]
    pub fn stats(&self) -> ProviderStats {
        *lock(&self.stats)
    }

    /// Turns new requests away ([`CallError::Closing`](super::CallError::Closing)), and ends when
    /// those that were taken are served, or after `grace`. A node that closes does so with all it
    /// serves.
    pub async fn drain(mut self, grace: Duration) -> Outcome {
        if let Some(running) = &self.running {
            running.begin_to_stop();
        }
        let Some(mut task) = self.task.take() else {
            return Outcome::Stopped;
        };
        match tokio::time::timeout(grace, &mut task).await {
            Ok(ended) => ended.unwrap_or(Outcome::Stopped),
            Err(_) => {
                task.abort();
                Outcome::Stopped
            }
        }
    }

    /// Waits until it ends by itself: because the node is closed.
    pub async fn ended(mut self) -> Outcome {
        match self.task.take() {
            Some(task) => task.await.unwrap_or(Outcome::Stopped),
            None => Outcome::Stopped,
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Server<Q: Payload, R: Body, H, V, E> {
    provider: Provider<Q, R>,
    handler: H,
    running: JoinSet<Ended<V, E>>,
    known: HashMap<Id, (Address, AbortHandle)>,
    pending: VecDeque<Request<Q>>,
    stats: Arc<Mutex<ProviderStats>>,
}

impl<Q, R, H, F, V, E> Server<Q, R, H, V, E>
where
    Q: Payload,
    R: Body,
    H: Fn(Request<Q>) -> F + Send + 'static,
    F: Future<Output = Result<V, E>> + Send + 'static,
    V: Borrow<R::In> + Send + 'static,
    E: Display + Send + 'static,
{
    async fn run(mut self, control: Control) -> Outcome {
        let (mut over, mut overdue) = (pin!(control.over()), pin!(control.overdue_by_node()));
        loop {
            let is_draining = control.is_over();
            if is_draining && self.running.is_empty() && self.pending.is_empty() {
                self.turn_away_the_last();
                return Outcome::Stopped;
            }
            tokio::select! {
                biased;
                Some(ended) = self.running.join_next_with_id() => self.finish(ended),
                () = &mut overdue, if is_draining => {
                    let left = self.running.len() + self.pending.len();
                    control.reports.note_cut_off(left);
                    self.provider.note_cancelled(left as u64);
                    self.turn_away_the_last();
                    return Outcome::Stopped;
                }
                taken = self.provider.take() => match taken {
                    Ok(Taken::Request(request)) if is_draining => self.turn_away(request),
                    Ok(Taken::Request(request)) => self.accept(request),
                    Ok(Taken::Cancelled { caller, call }) => self.cancel(|address| {
                        (address.caller, address.head.call) == (caller, call)
                    }),
                    Ok(Taken::Changed) => self.forget_gone(),
                    // It waits for handlers to let go of the samples they hold.
                    Err(RecvError::TooManyHeld { .. }) if !self.running.is_empty() => {
                        if let Some(ended) = self.running.join_next_with_id().await {
                            self.finish(ended);
                        }
                    }
                    Err(error @ (RecvError::Invalid { .. } | RecvError::Corrupt { .. })) => {
                        let service = self.provider.service();
                        tracing::warn!(
                            target: "shmesh::service",
                            service, %error, "request left out"
                        );
                    }
                    Err(error) => return Outcome::Failed(error),
                },
                // Last: while requests come it is looked at above, which costs less.
                () = &mut over, if !is_draining => {}
            }
            *lock(&self.stats) = self.provider.stats;
        }
    }

    /// Starts a handler for a request, or keeps the request, or turns it away.
    fn accept(&mut self, request: Request<Q>) {
        let settings = self.provider.settings;
        if self.running.len() < settings.handlers_max as usize {
            self.start(request);
        } else if self.pending.len() < settings.pending_max as usize {
            self.pending.push_back(request);
        } else {
            let address = request.return_address();
            drop(request);
            self.provider.answer_failed(address, Kind::Overloaded, "");
        }
    }

    fn turn_away(&mut self, request: Request<Q>) {
        let address = request.return_address();
        drop(request);
        self.provider.answer_failed(address, Kind::Closing, "");
    }

    /// What has come by now is answered, too, but not for ever.
    fn turn_away_the_last(&mut self) {
        for _ in 0..CALLS_MAX {
            match self.provider.try_recv() {
                Ok(Some(request)) => self.turn_away(request),
                Ok(None) | Err(_) => break,
            }
        }
        *lock(&self.stats) = self.provider.stats;
    }

    fn start(&mut self, request: Request<Q>) {
        let address = request.return_address();
        let handler = &self.handler;
        // The handler itself may panic, before it gives a future.
        let future = match caught(|| handler(request)) {
            Ok(future) => future,
            Err(message) => return self.end(address, Err(message)),
        };
        let mut future = Box::pin(Guarded(Box::pin(future)));
        // Most handlers are ready at once, and need no task.
        let mut cx = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(ended) => self.end(address, ended),
            Poll::Pending => {
                let task = self.running.spawn(future);
                self.known.insert(task.id(), (address, task));
            }
        }
    }

    fn finish(&mut self, ended: Result<(Id, Ended<V, E>), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, ended),
            // Aborted.
            Err(error) => {
                self.known.remove(&error.id());
                self.provider.note_cancelled(1);
                return self.start_pending();
            }
        };
        if let Some((address, _)) = self.known.remove(&id) {
            self.end(address, ended);
        }
        self.start_pending();
    }

    fn start_pending(&mut self) {
        while self.running.len() < self.provider.settings.handlers_max as usize {
            let Some(request) = self.pending.pop_front() else {
                return;
            };
            self.start(request);
        }
    }

    fn end(&mut self, address: Address, ended: Ended<V, E>) {
        match ended {
            Ok(Ok(value)) => {
                if let Err(error) = self.provider.answer(address, value.borrow()) {
                    let service = self.provider.service();
                    tracing::warn!(
                        target: "shmesh::service",
                        service, %error, "a reply could not be sent"
                    );
                }
            }
            Ok(Err(error)) => {
                let message = error.to_string();
                self.provider.answer_failed(address, Kind::Failed, &message);
            }
            Err(message) => {
                let service = self.provider.service();
                tracing::error!(
                    target: "shmesh::service",
                    service, message, "a handler panicked"
                );
                self.provider
                    .answer_failed(address, Kind::Panicked, &message);
            }
        }
    }

    /// Drops the handlers and requests of calls that nobody waits for.
    fn cancel(&mut self, is_it: impl Fn(&Address) -> bool) {
        for (address, task) in self.known.values() {
            if is_it(address) {
                task.abort();
            }
        }
        let before = self.pending.len();
        self.pending
            .retain(|request| !is_it(&request.return_address()));
        let given_up = before - self.pending.len();
        self.provider.note_cancelled(given_up as u64);
    }

    /// Callers came or went.
    fn forget_gone(&mut self) {
        let running = self.known.values().map(|(address, _)| address.caller);
        let waiting = self.pending.iter().map(Request::caller);
        let mut callers: Vec<_> = running.chain(waiting).collect();
        callers.sort_unstable();
        callers.dedup();
        callers.retain(|caller| !self.provider.has_caller(*caller));
        if !callers.is_empty() {
            self.cancel(|address| callers.contains(&address.caller));
        }
    }
}

/// A future whose panic is its result.
struct Guarded<F>(Pin<Box<F>>);

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match caught(|| self.0.as_mut().poll(cx)) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(message) => Poll::Ready(Err(message)),
        }
    }
}

/// The result, or the text of the panic. What the closure had is not used after a panic.
fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| text_of(&*panic))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panic without a text".to_owned())
}
