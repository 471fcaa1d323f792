//! The thread that the drivers of this process run on: one for all nodes, so that a node costs
//! none. The first node starts it, and it ends with the last.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::endpoint::lock;
use crate::error::Error;

/// A driver that runs, as its node's handles know it.
#[derive(Debug)]
pub(crate) struct Running {
    /// Says nothing; cut off when the driver has ended, however.
    ended: Receiver<Infallible>,
    _thread: Arc<DriverThread>,
}

impl Running {
    /// Has the process's thread run `driver`.
    pub(crate) fn start(driver: impl Future<Output = ()> + Send + 'static) -> Result<Self, Error> {
        let thread = DriverThread::shared()?;
        let (ends, ended) = channel();
        thread.spawn(async move {
            driver.await;
            drop(ends);
        });
        Ok(Self {
            ended,
            _thread: thread,
        })
    }

    /// Waits on this thread until the driver has ended, and after the last one for the thread, too.
    /// Not to be called by a driver.
    pub(crate) fn join(self) {
        let Err(_) = self.ended.recv();
    }
}

/// A thread that runs what it is given, one at a time. Dropped, it ends with what it is at.
#[derive(Debug)]
pub(super) struct RuntimeThread {
    runtime: Handle,
    /// Dropped, it ends the thread.
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl RuntimeThread {
    /// Starts it; `what` says in an error what could not be done.
    pub(super) fn start(name: String, what: &'static str) -> Result<Self, Error> {
        let failed = |source| Error::Io { what, source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let handle = runtime.handle().clone();
        let run = move || {
            let Err(_) = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name(name);
        Ok(Self {
            runtime: handle,
            stop,
            thread: thread.spawn(run).map_err(failed)?,
        })
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Ends it, and waits for that.
    fn join(self) {
        drop(self.stop);
        // One that panicked has said so.
        let _ = self.thread.join();
    }
}

/// The drivers' thread, which is waited for when it is needed no more.
#[derive(Debug)]
struct DriverThread(Option<RuntimeThread>);

static SHARED: Mutex<Weak<DriverThread>> = Mutex::new(Weak::new());

impl DriverThread {
    /// The one there is, or else a new one.
    fn shared() -> Result<Arc<Self>, Error> {
        let mut shared = lock(&SHARED);
        if let Some(there) = shared.upgrade() {
            return Ok(there);
        }
        let thread = RuntimeThread::start("shmesh".into(), "start the nodes' thread")?;
        let started = Arc::new(Self(Some(thread)));
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(thread) = &self.0 {
            thread.spawn(task);
        }
    }
}

impl Drop for DriverThread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.join();
        }
    }
}
