//! Subscriptions with a handler: `node.listen(..)` and the builder behind it.
//!
//! A listening makes its subscription itself, so that it can give it up while nobody wants what it
//! makes of the messages (`depends_on`), and take it again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::{Error, RecvError};
use crate::flow::handler::{AsyncHandler, Handler, HandlerStats, Reports};
use crate::flow::life::{Control, Running, on_thread, runtime_here};
use crate::limits::{CONCURRENCY_MAX, HELD_PAUSE_MS, RECONNECT_MS_MAX};
use crate::membership::jittered;
use crate::message::Payload;
use crate::name;
use crate::node::Node;
use crate::publisher::Publisher;
use crate::sample::Sample;
use crate::subscriber::{Subscriber, SubscriberBuilder};

impl Node {
    /// Calls `handler` with each message of a topic, one after the other, in the current tokio
    /// runtime, until the [`Listening`] is dropped or the node closes. A handler that takes long
    /// belongs on a thread ([`ListenBuilder::listen_on_thread`]). What it returns as an error, and
    /// its panics, are logged (target `shmesh::handler`) and counted; the next message comes.
    ///
    /// ```
    /// # use shmesh::{Node, Raw};
    /// # let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let node = Node::builder("n").coordinator(port).embedded_coordinator().build().await?;
    /// let (tell, mut told) = tokio::sync::mpsc::channel(1);
    /// let listening = node.listen::<Raw>("words", move |word| tell.try_send(word.len()))?;
    ///
    /// let mut words = node.publisher::<Raw>("words").build()?;
    /// words.wait_for_listener().await?;
    /// words.publish_bytes(b"hello")?;
    /// assert_eq!(told.recv().await, Some(5));
    /// listening.stop().await;
    /// # Ok::<_, shmesh::Error>(()) })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`SubscriberBuilder::build`]; [`Error::Closed`] if the node is closing; [`Error::Io`]
    /// outside a runtime.
    pub fn listen<P: Payload>(
        &self,
        topic: &str,
        handler: impl Handler<Sample<P>>,
    ) -> Result<Listening, Error> {
        self.subscriber::<P>(topic).listen(handler)
    }

    /// The same with a handler that returns a future. The next message waits until it is done; for
    /// several at a time there is [`ListenBuilder::concurrency`].
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_async<P: Payload>(
        &self,
        topic: &str,
        handler: impl AsyncHandler<Sample<P>>,
    ) -> Result<Listening, Error> {
        self.subscriber::<P>(topic).listen_async(handler)
    }
}

/// Subscriptions with a handler.
impl<P: Payload> SubscriberBuilder<P> {
    /// As [`Node::listen`], with the settings of this subscription.
    ///
    /// # Errors
    /// As [`Node::listen`].
    pub fn listen(self, handler: impl Handler<Sample<P>>) -> Result<Listening, Error> {
        ListenBuilder::new(self).listen(handler)
    }

    /// As [`Node::listen_async`], with the settings of this subscription.
    ///
    /// # Errors
    /// As [`Node::listen`].
    pub fn listen_async(self, handler: impl AsyncHandler<Sample<P>>) -> Result<Listening, Error> {
        ListenBuilder::new(self).listen_async(handler)
    }

    /// As [`ListenBuilder::listen_on_thread`], with the settings of this subscription.
    ///
    /// # Errors
    /// As [`Node::listen`].
    pub fn listen_on_thread(self, handler: impl Handler<Sample<P>>) -> Result<Listening, Error> {
        ListenBuilder::new(self).listen_on_thread(handler)
    }

    /// As [`ListenBuilder::depends_on`].
    pub fn depends_on<Q: Payload>(self, downstream: &Publisher<Q>) -> ListenBuilder<P> {
        ListenBuilder::new(self).depends_on(downstream)
    }

    /// As [`ListenBuilder::concurrency`].
    pub fn concurrency(self, count: usize) -> ListenBuilder<P> {
        ListenBuilder::new(self).concurrency(count)
    }
}

/// Sets up a [`Listening`]; made by the methods of [`SubscriberBuilder`].
#[derive(Debug)]
#[must_use = "call listen(), listen_async() or listen_on_thread()"]
pub struct ListenBuilder<P> {
    subscription: SubscriberBuilder<P>,
    demand: Demand,
    concurrency: usize,
}

impl<P: Payload> ListenBuilder<P> {
    fn new(subscription: SubscriberBuilder<P>) -> Self {
        Self {
            subscription,
            demand: Demand::default(),
            concurrency: 1,
        }
    }

    /// Listens only while somebody listens to `downstream`, of several to any of them. Meanwhile
    /// the subscription does not exist, so that a publisher upstream sees one listener less, and
    /// may itself do nothing. Event-driven. What is unread when the last listener goes is dropped.
    ///
    /// ```
    /// # use shmesh::{Node, Raw};
    /// # fn detect(image: &[u8]) -> &[u8] { &image[..1] }
    /// # async fn run(node: Node) -> Result<(), shmesh::Error> {
    /// let mut boxes = node.publisher::<Raw>("boxes").build()?;
    /// let images = node.subscriber::<Raw>("images").depends_on(&boxes);
    /// let detecting = images.listen(move |image| boxes.publish_bytes(detect(&image)))?;
    /// # Ok(()) }
    /// ```
    pub fn depends_on<Q: Payload>(mut self, downstream: &Publisher<Q>) -> Self {
        self.demand.is_conditional = true;
        self.demand.counts.push(downstream.watch_listeners());
        self
    }

    /// How many calls of an async handler may run at once; 1 unless set, at most 1024. With more
    /// than one they begin in the order of the messages, on any thread of the runtime, and end in
    /// any order. The subscription may hold as many large messages and one more.
    pub fn concurrency(mut self, count: usize) -> Self {
        self.concurrency = count;
        self
    }

    /// As [`Node::listen`].
    ///
    /// # Errors
    /// As [`Node::listen`]; [`Error::OutOfBounds`] with a [`concurrency`](Self::concurrency): a
    /// closure that may change what it holds is called by one at a time.
    pub fn listen(self, handler: impl Handler<Sample<P>>) -> Result<Listening, Error> {
        self.check_concurrency(1)?;
        self.spawn(InOrder(handler))
    }

    /// As [`Node::listen_async`].
    ///
    /// # Errors
    /// As [`Node::listen`].
    pub fn listen_async(
        mut self,
        handler: impl AsyncHandler<Sample<P>>,
    ) -> Result<Listening, Error> {
        self.check_concurrency(CONCURRENCY_MAX)?;
        let max = self.concurrency;
        if max == 1 {
            return self.spawn(AsyncInOrder(handler));
        }
        let held = u32::try_from(max + 1).unwrap_or(u32::MAX);
        let held_max = &mut self.subscription.setup.held_max;
        *held_max = held.max(*held_max);
        let calls = JoinSet::new();
        self.spawn(Concurrent {
            handler,
            max,
            calls,
        })
    }

    /// Calls `handler` with each message on a thread of its own, so that it may take long or block,
    /// and no runtime is needed.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_on_thread(self, handler: impl Handler<Sample<P>>) -> Result<Listening, Error> {
        self.check_concurrency(1)?;
        let (running, task) = self.start(InOrder(handler))?;
        let name = task.control.reports.name().to_owned();
        on_thread(&name, task.run())?;
        Ok(Listening { running })
    }

    fn check_concurrency(&self, max: usize) -> Result<(), Error> {
        if (1..=max).contains(&self.concurrency) {
            return Ok(());
        }
        Err(Error::OutOfBounds {
            what: "concurrency of a handler",
            found: self.concurrency as u64,
            min: 1,
            max: max as u64,
        })
    }

    fn spawn(self, serve: impl Serve<P>) -> Result<Listening, Error> {
        let runtime = runtime_here()?;
        let (running, task) = self.start(serve)?;
        runtime.spawn(task.run());
        Ok(Listening { running })
    }

    fn start<S: Serve<P>>(mut self, serve: S) -> Result<(Running, Task<P, S>), Error> {
        let topic = name::check_topics(&self.subscription.setup.topics)?.join(", ");
        let (running, control) = Running::start(self.subscription.node.shared(), topic)?;
        // Now, so that what is wrong with it is said to who asked for it.
        let subscriber = match self.demand.is_there() {
            true => Some(self.subscription.again().build()?),
            false => None,
        };
        let task = Task {
            listener: self,
            serve,
            control,
            subscriber,
        };
        Ok((running, task))
    }
}

/// A handler that is called with messages, until this is dropped.
///
/// When it ends, a call that runs may finish within the node's grace period (see
/// [`NodeBuilder::grace`](crate::NodeBuilder::grace)); dropping does not wait for that,
/// [`stop`](Self::stop) does. A handler that waits for its own end waits for the grace period.
#[derive(Debug)]
#[must_use = "dropping it ends the listening"]
pub struct Listening {
    running: Running,
}

impl Listening {
    /// Ends it, and waits for the calls that run.
    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// The same, waiting on this thread. Not to be called from async code.
    pub fn stop_blocking(self) {
        self.running.stop_blocking();
    }

    /// Waits until it ends because the node closes, or the publishers it depends on are no more.
    pub async fn ended(&self) {
        self.running.ended().await;
    }

    /// True when it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.running.has_ended()
    }

    /// Counts of the handler's calls.
    #[must_use]
    pub fn stats(&self) -> HandlerStats {
        self.running.stats()
    }
}

/// Those who want what comes of the messages.
#[derive(Debug, Default)]
struct Demand {
    /// False if it is always there.
    is_conditional: bool,
    /// Listeners of each publisher downstream.
    counts: Vec<watch::Receiver<usize>>,
}

impl Demand {
    fn is_there(&mut self) -> bool {
        // A publisher that is no more has no listeners, whatever it said last.
        self.counts.retain(|count| count.has_changed().is_ok());
        let counts = self.counts.iter_mut();
        // Each is marked as seen, so that `changed` waits for another change of any.
        let sum: usize = counts.map(|count| *count.borrow_and_update()).sum();
        !self.is_conditional || sum > 0
    }

    /// Waits until there is demand. False if there will be none any more.
    async fn wait(&mut self) -> bool {
        while !self.is_there() {
            if self.counts.is_empty() {
                return false;
            }
            self.changed().await;
        }
        true
    }

    /// Waits until there is none.
    async fn gone(&mut self) {
        if !self.is_conditional {
            std::future::pending::<()>().await;
        }
        while self.is_there() {
            self.changed().await;
        }
    }

    async fn changed(&mut self) {
        let counts = self.counts.iter_mut();
        let mut changes: Vec<_> = counts.map(|count| Box::pin(count.changed())).collect();
        let any = poll_fn(|cx| {
            let mut changes = changes.iter_mut();
            match changes.any(|change| change.as_mut().poll(cx).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        any.await;
    }
}

/// How a handler is called.
trait Serve<P: Payload>: Send + 'static {
    /// Calls it with a message, or begins to. Ends when the next may come.
    fn serve(
        &mut self,
        sample: Sample<P>,
        reports: &Arc<Reports>,
    ) -> impl Future<Output = ()> + Send;

    /// Waits for the calls that run.
    fn finish(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Calls that run beside `serve`.
    fn in_flight(&self) -> usize {
        0
    }
}

struct InOrder<F>(F);

impl<P: Payload, F: Handler<Sample<P>>> Serve<P> for InOrder<F> {
    fn serve(
        &mut self,
        sample: Sample<P>,
        reports: &Arc<Reports>,
    ) -> impl Future<Output = ()> + Send {
        reports.call(|| (self.0)(sample));
        std::future::ready(())
    }
}

struct AsyncInOrder<F>(F);

impl<P: Payload, F: AsyncHandler<Sample<P>>> Serve<P> for AsyncInOrder<F> {
    async fn serve(&mut self, sample: Sample<P>, reports: &Arc<Reports>) {
        reports.call_async(|| (self.0)(sample)).await;
    }
}

struct Concurrent<F> {
    handler: F,
    max: usize,
    calls: JoinSet<()>,
}

impl<P: Payload, F: AsyncHandler<Sample<P>>> Serve<P> for Concurrent<F> {
    async fn serve(&mut self, sample: Sample<P>, reports: &Arc<Reports>) {
        while self.calls.try_join_next().is_some() {}
        // The handler makes its future here, in order, and the future runs elsewhere.
        if let Some(future) = reports.begin(|| (self.handler)(sample)) {
            let reports = Arc::clone(reports);
            self.calls
                .spawn(async move { reports.see_through(future).await });
        }
        // Room for the next one.
        while self.calls.len() >= self.max {
            self.calls.join_next().await;
        }
    }

    async fn finish(&mut self) {
        while self.calls.join_next().await.is_some() {}
    }

    fn in_flight(&self) -> usize {
        self.calls.len()
    }
}

/// Why no more messages are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// Nobody wants what comes of them.
    Unwanted,
    /// The subscription failed, and another may do better.
    Failed,
    /// For good.
    Over,
}

/// What runs.
struct Task<P: Payload, S> {
    listener: ListenBuilder<P>,
    serve: S,
    control: Control,
    subscriber: Option<Subscriber<P>>,
}

impl<P: Payload, S: Serve<P>> Task<P, S> {
    async fn run(mut self) {
        let name = self.control.reports.name().to_owned();
        loop {
            let subscriber = match self.subscriber.take() {
                Some(subscriber) => subscriber,
                None => match self.subscribe(&name).await {
                    Some(subscriber) => subscriber,
                    None => break,
                },
            };
            tracing::debug!(target: "shmesh::handler", name, "listening");
            let pause = self.take_messages(subscriber, &name).await;
            tracing::debug!(target: "shmesh::handler", name, ?pause, "not listening");
            if pause == Pause::Over {
                break;
            }
        }
        let mut left = self.serve.in_flight();
        tokio::select! {
            biased;
            () = self.serve.finish() => left = 0,
            () = self.control.overdue() => {}
        }
        left = left.min(self.serve.in_flight());
        if left > 0 {
            self.control.reports.note_cut_off(left);
        }
    }

    /// Waits for demand, and subscribes. `None` if it is over before.
    async fn subscribe(&mut self, name: &str) -> Option<Subscriber<P>> {
        loop {
            let is_wanted = tokio::select! {
                biased;
                () = self.control.over() => false,
                is_wanted = self.listener.demand.wait() => is_wanted,
            };
            if !is_wanted {
                return None;
            }
            match self.listener.subscription.again().build() {
                Ok(subscriber) => return Some(subscriber),
                Err(Error::Closed) => return None,
                Err(error) => {
                    tracing::warn!(target: "shmesh::handler", name, %error, "cannot listen");
                    self.control.rest(jittered(RECONNECT_MS_MAX)).await;
                }
            }
        }
    }

    async fn take_messages(&mut self, mut subscriber: Subscriber<P>, name: &str) -> Pause {
        loop {
            // A stream never waits: others of this runtime get their turn here.
            tokio::task::coop::consume_budget().await;
            if self.control.is_over() {
                return Pause::Over;
            }
            let received = tokio::select! {
                biased;
                received = subscriber.recv() => received,
                () = self.control.over() => return Pause::Over,
                () = self.listener.demand.gone() => return Pause::Unwanted,
            };
            match received {
                Ok(sample) => {
                    let reports = &self.control.reports;
                    reports.note_lost(sample.lost_before());
                    tokio::select! {
                        biased;
                        () = self.serve.serve(sample, reports) => {}
                        () = self.control.overdue() => {
                            reports.note_cut_off(1);
                            return Pause::Over;
                        }
                    }
                }
                Err(RecvError::Closed) => return Pause::Over,
                Err(error) => {
                    tracing::warn!(target: "shmesh::handler", name, %error, "no message");
                    match error {
                        RecvError::Invalid { .. } => self.control.reports.note_lost(1),
                        // Whoever keeps the samples: nothing tells when they are dropped.
                        RecvError::TooManyHeld { .. } => self.control.rest(HELD_PAUSE).await,
                        RecvError::Corrupt { .. } => {}
                        _ => {
                            self.control.rest(jittered(RECONNECT_MS_MAX)).await;
                            return Pause::Failed;
                        }
                    }
                }
            }
        }
    }
}

const HELD_PAUSE: Duration = Duration::from_millis(HELD_PAUSE_MS);
