//! What a program hands over to be called, and what becomes of its failures: they are reported and
//! counted, and end nothing.

use std::any::Any;
use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

/// Whatever error a handler has.
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// What a handler may return: nothing, or a result. Of a result the error is reported, the value is
/// dropped.
pub trait Outcome {
    /// What there is to report.
    ///
    /// # Errors
    /// The handler's own.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<T, E: Into<HandlerError>> Outcome for Result<T, E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map(drop).map_err(Into::into)
    }
}

/// A closure or function that is called with each message or tick. Implemented for all that fit.
pub trait Handler<In>: FnMut(In) -> <Self as Handler<In>>::Returned + Send + 'static {
    /// What it returns.
    type Returned: Outcome;
}

impl<In, F, R> Handler<In> for F
where
    F: FnMut(In) -> R + Send + 'static,
    R: Outcome,
{
    type Returned = R;
}

/// The same, that returns a future. Implemented for all closures and functions that fit.
pub trait AsyncHandler<In>:
    FnMut(In) -> <Self as AsyncHandler<In>>::Returned + Send + 'static
{
    /// What it returns.
    type Returned: Future<Output: Outcome> + Send + 'static;
}

impl<In, F, R> AsyncHandler<In> for F
where
    F: FnMut(In) -> R + Send + 'static,
    R: Future<Output: Outcome> + Send + 'static,
{
    type Returned = R;
}

/// How handlers fared; and whose they are, for the log.
#[derive(Debug)]
pub(crate) struct Reports {
    name: String,
    handled: AtomicU64,
    failed: AtomicU64,
    panicked: AtomicU64,
    cut_off: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// Counts of the calls of a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerStats {
    /// Calls that ended, however they did.
    pub handled: u64,
    /// Of these, calls that returned an error.
    pub failed: u64,
    /// Of these, calls that panicked.
    pub panicked: u64,
    /// Calls that did not end within the grace period, and were given up.
    pub cut_off: u64,
    /// Messages that were lost before they reached the handler, or ticks that were missed.
    pub lost: u64,
}

impl Reports {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            cut_off: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    // All counts are relaxed: each is read for itself, and orders nothing.

    pub(crate) fn stats(&self) -> HandlerStats {
        HandlerStats {
            handled: self.handled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            panicked: self.panicked.load(Ordering::Relaxed),
            cut_off: self.cut_off.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn note_lost(&self, count: u64) {
        if count > 0 {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_cut_off(&self, count: usize) {
        self.cut_off.fetch_add(count as u64, Ordering::Relaxed);
        let name = &self.name;
        tracing::warn!(target: "shmesh::handler", name, count, "given up: over the grace period");
    }

    /// Calls a handler once.
    pub(crate) fn call<R: Outcome>(&self, handler: impl FnOnce() -> R) {
        // A handler that panicked is called again, with whatever state the panic left it: as a
        // mutex's data after a panic, that is the program's to know.
        let caught = catch_unwind(AssertUnwindSafe(|| handler().into_result()));
        self.note(caught);
    }

    /// Calls a handler once, and sees its future through.
    pub(crate) async fn call_async<R>(&self, handler: impl FnOnce() -> R + Send)
    where
        R: Future<Output: Outcome> + Send,
    {
        if let Some(future) = self.begin(handler) {
            self.see_through(future).await;
        }
    }

    /// Calls a handler for its future; none if it panicked.
    pub(crate) fn begin<R>(&self, handler: impl FnOnce() -> R) -> Option<R> {
        let made = catch_unwind(AssertUnwindSafe(handler));
        made.map_err(|panic| self.note(Err(panic))).ok()
    }

    /// Sees a handler's future through.
    pub(crate) async fn see_through<R: Future<Output: Outcome>>(&self, future: R) {
        let mut future = pin!(future);
        let caught = std::future::poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome.into_result())),
                Err(panic) => Poll::Ready(Err(panic)),
            }
        });
        let caught = caught.await;
        self.note(caught);
    }

    fn note(&self, caught: Result<Result<(), HandlerError>, Box<dyn Any + Send>>) {
        let name = &self.name;
        match caught {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(target: "shmesh::handler", name, %error, "the handler failed");
            }
            Err(panic) => {
                self.panicked.fetch_add(1, Ordering::Relaxed);
                let panic = text_of(&*panic);
                tracing::error!(target: "shmesh::handler", name, panic, "the handler panicked");
            }
        }
        // Last: who sees this count sees the others.
        self.handled.fetch_add(1, Ordering::Release);
    }
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_panics_are_counted_and_end_nothing() {
        let reports = Reports::new("test".into());
        reports.call(|| {});
        reports.call(|| Err::<(), _>("no"));
        reports.call(|| -> () { panic!("on purpose") });
        reports.call(|| Ok::<_, std::io::Error>(5));
        let stats = reports.stats();
        assert_eq!((stats.handled, stats.failed, stats.panicked), (4, 1, 1));
    }

    #[test]
    fn so_are_those_of_futures_wherever_they_happen() {
        let reports = Reports::new("test".into());
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            reports.call_async(|| async {}).await;
            reports.call_async(|| async { Err::<(), _>("no") }).await;
            let late = || async {
                tokio::task::yield_now().await;
                assert_eq!(1, 2, "on purpose, after a while");
            };
            reports.call_async(late).await;
            let early = || -> std::future::Ready<()> { panic!("before there is a future") };
            reports.call_async(early).await;
        });
        let stats = reports.stats();
        assert_eq!((stats.handled, stats.failed, stats.panicked), (4, 1, 2));
    }

    #[test]
    fn what_a_panic_said_is_found() {
        let said = |panic: Box<dyn Any + Send>| text_of(&*panic).to_owned();
        assert_eq!(said(Box::new("plain")), "plain");
        assert_eq!(said(Box::new(String::from("made"))), "made");
        assert_eq!(said(Box::new(5)), "no text");
    }
}
