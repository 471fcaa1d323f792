//! What a node waits for before it leaves: handlers that run, those of services too.
//!
//! A node is open, then draining (nothing new is taken in, what runs may finish), then closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::Error;
use crate::flow::handler::{HandlerStats, Reports};
use crate::limits::GRACE_MS_MORE;
use crate::node::{NodeShared, block_on};

/// How far a node is on its way out.
#[derive(Debug)]
pub(crate) struct Life {
    is_draining: watch::Sender<bool>,
    /// Subscriptions, timers and providers with a handler.
    active: watch::Sender<usize>,
    grace: Duration,
    /// That ends it, or 0.
    signal: AtomicI32,
    is_dismissed: AtomicBool,
}

impl Life {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            is_draining: watch::Sender::new(false),
            active: watch::Sender::new(0),
            grace,
            signal: AtomicI32::new(0),
            is_dismissed: AtomicBool::new(false),
        }
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.is_draining.subscribe()
    }

    /// Has handlers finish, and gives up waiting for them in time.
    pub(crate) async fn drain(&self) {
        self.is_draining.send_replace(true);
        let mut active = self.active.subscribe();
        let all_ended = active.wait_for(|count| *count == 0);
        // A little more than they have themselves, so that they end by their own.
        let patience = self.grace + Duration::from_millis(GRACE_MS_MORE);
        if tokio::time::timeout(patience, all_ended).await.is_err() {
            let count = *self.active.borrow();
            tracing::warn!(target: "shmesh::handler", count, "handlers still run: not waited for");
        }
    }

    /// The signal that ends the node, or 0.
    pub(crate) fn signal(&self) -> i32 {
        // Acquire: pairs with the Release below.
        self.signal.load(Ordering::Acquire)
    }

    /// True if it was asked to leave.
    pub(crate) fn is_dismissed(&self) -> bool {
        // Acquire: pairs with the Release below.
        self.is_dismissed.load(Ordering::Acquire)
    }

    /// True if nobody asked it before.
    pub(crate) fn note_dismissed(&self) -> bool {
        // Release: as in `note_signal`.
        !self.is_dismissed.swap(true, Ordering::Release)
    }

    pub(crate) fn note_signal(&self, signal: i32) {
        // Release: who is told that the node is closed, later, sees why.
        self.signal.store(signal, Ordering::Release);
    }
}

/// One that must end before its node leaves.
#[derive(Debug)]
struct Active {
    node: Arc<NodeShared>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.node.life.active.send_modify(|count| *count -= 1);
    }
}

/// The side of who runs handlers: when to stop.
#[derive(Debug)]
pub(crate) struct Control {
    stop: watch::Receiver<bool>,
    draining: watch::Receiver<bool>,
    grace: Duration,
    pub(crate) reports: Arc<Reports>,
    _active: Active,
}

impl Control {
    /// Whether to stop. Two loads.
    pub(crate) fn is_over(&self) -> bool {
        // A sender that is gone is as good as its word.
        self.stop.has_changed().unwrap_or(true) || self.draining.has_changed().unwrap_or(true)
    }

    /// Waits until it is to stop.
    pub(crate) async fn over(&self) {
        let (mut stop, mut draining) = (self.stop.clone(), self.draining.clone());
        tokio::select! {
            _ = stop.wait_for(|is_over| *is_over) => {}
            _ = draining.wait_for(|is_over| *is_over) => {}
        }
    }

    /// A pause that the end cuts short.
    pub(crate) async fn rest(&self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.over()).await;
    }

    /// Waits until what runs must have ended because the node closes.
    pub(crate) async fn overdue_by_node(&self) {
        let mut draining = self.draining.clone();
        let _ = draining.wait_for(|is_over| *is_over).await;
        tokio::time::sleep(self.grace).await;
    }

    /// Waits until what runs must have ended.
    pub(crate) async fn overdue(&self) {
        self.over().await;
        tokio::time::sleep(self.grace).await;
    }
}

/// The program's side: ends with it.
#[derive(Debug)]
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    reports: Arc<Reports>,
}

impl Running {
    /// The two sides of handlers of that name.
    pub(crate) fn start(node: &Arc<NodeShared>, name: String) -> Result<(Self, Control), Error> {
        let life = &node.life;
        life.active.send_modify(|count| *count += 1);
        let active = Active {
            node: Arc::clone(node),
        };
        // Looked at last: who drains either sees us or is seen.
        let draining = life.is_draining.subscribe();
        if *draining.borrow() {
            return Err(Error::Closed);
        }
        let (stop, stopped) = watch::channel(false);
        let reports = Arc::new(Reports::new(name));
        let control = Control {
            stop: stopped,
            draining,
            grace: life.grace,
            reports: Arc::clone(&reports),
            _active: active,
        };
        Ok((Self { stop, reports }, control))
    }

    pub(crate) fn stats(&self) -> HandlerStats {
        self.reports.stats()
    }

    /// True when the other side is no more.
    pub(crate) fn has_ended(&self) -> bool {
        self.stop.is_closed()
    }

    pub(crate) async fn ended(&self) {
        self.stop.closed().await;
    }

    /// Says so, and does not wait.
    pub(crate) fn begin_to_stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) async fn stop(&self) {
        self.begin_to_stop();
        self.stop.closed().await;
    }

    pub(crate) fn stop_blocking(&self) {
        self.stop.send_replace(true);
        // Handlers give up in time, so this ends; without a runtime nobody is left to wait for.
        let _ = block_on(Duration::MAX, self.stop.closed());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// The runtime to call handlers in.
pub(crate) fn runtime_here() -> Result<Handle, Error> {
    Handle::try_current().map_err(|_| Error::Io {
        what: "call a handler",
        source: std::io::Error::other("no tokio runtime here; have it called on a thread"),
    })
}

/// Runs handlers on a thread of their own.
pub(crate) fn on_thread(
    name: &str,
    task: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let what = "start a thread for a handler";
    let io = |source| Error::Io { what, source };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().map_err(io)?;
    let thread = std::thread::Builder::new().name(format!("shmesh:{name:.8}"));
    let run = move || runtime.block_on(task);
    thread.spawn(run).map(drop).map_err(io)
}
