//! Until the end of a node: by `close`, or by a signal.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;
use crate::node::{Node, NodeShared, block_on};

/// Why a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It was closed.
    Closed,
    /// By Ctrl-C or SIGTERM: the signal's number.
    Signal(i32),
    /// It was asked to leave by `mesh node kill`.
    Dismissed,
}

impl Node {
    /// Waits until the node has left the mesh: at Ctrl-C or SIGTERM, because it was closed, or by
    /// `mesh node kill`, after which handlers that run may finish, too.
    ///
    /// At a signal the node stops taking in messages, handlers that run may finish within the grace
    /// period, what was published goes out, and the node leaves. While somebody waits here a signal
    /// does not end the process: the program goes on behind this call, and ends itself. All nodes
    /// of the process leave, and each of their `forever` returns. A second signal cuts the grace
    /// period short, and one after that ends the process at once.
    ///
    /// A node built [`without_signal_handling`](crate::NodeBuilder::without_signal_handling) sees
    /// no signals.
    pub async fn forever(&self) -> End {
        let shared = self.shared();
        let awaited = Awaited::begin();
        let mut is_closed = shared.is_closed.subscribe();
        // Fails never: the sender is in the node.
        let _ = is_closed.wait_for(|is_closed| *is_closed).await;
        match shared.life.signal() {
            0 if shared.life.is_dismissed() => End::Dismissed,
            0 => End::Closed,
            signal => {
                awaited.for_good();
                End::Signal(signal)
            }
        }
    }

    /// The same, waiting on this thread. Not to be called from async code.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no runtime to be had, for want of descriptors.
    pub fn forever_blocking(&self) -> Result<End, Error> {
        block_on(Duration::MAX, self.forever())
    }
}

/// Those who wait for the end of a node, and go on after a signal.
static AWAITING: AtomicUsize = AtomicUsize::new(0);

struct Awaited;

impl Awaited {
    fn begin() -> Self {
        // SeqCst is not needed: the driver looks after a signal, and a wait that begins during that
        // may miss it as if it had begun later.
        AWAITING.fetch_add(1, Ordering::Relaxed);
        Self
    }

    /// The signal is the program's now, also for nodes that leave after this one.
    fn for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        AWAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// True if the program ends itself after a signal.
pub(crate) fn is_awaited() -> bool {
    AWAITING.load(Ordering::Relaxed) > 0
}

/// True once a signal was dealt with: the next one has its usual effect.
static IS_DEALT_WITH: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let is_dealt_with = Arc::new(AtomicBool::new(false));
    for signal in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (signal, condition) = (signal.as_raw_value(), Arc::clone(&is_dealt_with));
        // Fails for signals that cannot be handled; these can.
        let _ = signal_hook::flag::register_conditional_default(signal, condition);
    }
    is_dealt_with
});

/// A node has left at a signal.
pub(crate) fn dealt_with() {
    IS_DEALT_WITH.store(true, Ordering::Relaxed);
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        IS_DEALT_WITH.store(false, Ordering::Relaxed);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn recv(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

/// Somebody who may ask for it wants the node to leave: as at a signal, but for this node alone.
pub(crate) async fn dismissed(shared: Arc<NodeShared>) {
    if shared.life.note_dismissed() {
        tracing::info!(target: "shmesh::node", node = shared.info.name, "asked to leave");
        shared.life.drain().await;
        shared.shutdown.send_replace(true);
    }
}

/// The signal that ends this node, if that is ours to see, after handlers have had their time.
pub(crate) async fn ended_by_signal(shared: &NodeShared, are_handled: bool) -> i32 {
    let Some(Ok(mut signals)) = are_handled.then(Signals::new) else {
        return std::future::pending().await;
    };
    let signal = signals.recv().await;
    shared.life.note_signal(signal);
    tokio::select! {
        biased;
        _ = signals.recv() => tracing::warn!(target: "shmesh::node", "a second signal: no grace"),
        _ = shared.life.drain() => {}
    }
    signal
}
