//! What becomes of calls and requests, on the status page; and told to the process's recorder as
//! they end, with the feature `metrics`.

use shmesh_shm::{Counter, Counters, monotonic_ns};

#[cfg(feature = "metrics")]
use super::recorder::Recorder;
use super::{Stride, Whose};
use crate::error::Error;
use crate::node::Node;
use crate::service::{Call, CallError};

/// When something began whose time is measured; 0 if it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Began(u64);

/// Measures the time of some calls or requests.
#[derive(Debug)]
struct Meter {
    counters: Counters,
    begun: u64,
    stride: Stride,
}

impl Meter {
    fn new(node: &Node, whose: Whose, endpoint: u32, service: &str) -> Self {
        Self {
            counters: node.shared().counters(whose, endpoint, service),
            begun: 0,
            stride: Stride::default(),
        }
    }

    #[inline]
    fn begin(&mut self) -> Began {
        self.begun += 1;
        if !self.stride.is_due(self.begun) {
            return Began::default();
        }
        let now_ns = monotonic_ns();
        self.stride.measured(self.begun, now_ns);
        Began(now_ns)
    }

    #[inline]
    fn end(&self, Began(since_ns): Began) {
        if since_ns != 0 {
            self.counters
                .record(monotonic_ns().saturating_sub(since_ns));
        }
    }
}

/// Counts and measures the calls of one caller.
#[derive(Debug)]
pub(crate) struct CallMeter {
    page: Meter,
    #[cfg(feature = "metrics")]
    recorder: Recorder,
}

impl CallMeter {
    /// Of the caller whose replies come to that endpoint.
    pub(crate) fn new(node: &Node, endpoint: u32, service: &str) -> Self {
        Self {
            page: Meter::new(node, Whose::Caller, endpoint, service),
            #[cfg(feature = "metrics")]
            recorder: Recorder::new(node, service),
        }
    }

    /// A call is about to be started.
    #[inline]
    pub(crate) fn begin(&mut self) -> Began {
        self.page.begin()
    }

    /// A reply came.
    #[inline]
    pub(crate) fn replied<T>(&mut self, reply: &Result<T, CallError>, call: &Call) {
        let outcome = reply.as_ref().err().map_or(Counter::CallsOk, outcome_of);
        self.count(outcome);
        self.page.end(call.began);
        #[cfg(feature = "metrics")]
        self.recorder.measure(call.age());
    }

    /// A call ended without a reply, or did not begin.
    pub(crate) fn ended(&mut self, error: &CallError) {
        self.count(outcome_of(error));
    }

    /// A call was given up.
    pub(crate) fn cancelled(&mut self) {
        self.count(Counter::CallsCancelled);
    }

    #[inline]
    fn count(&mut self, outcome: Counter) {
        self.page.counters.add(outcome, 1);
        #[cfg(feature = "metrics")]
        self.recorder.count(outcome);
    }
}

const fn outcome_of(error: &CallError) -> Counter {
    match error {
        CallError::NoProvider { .. } => Counter::CallsNoProvider,
        CallError::NoSuchNode { .. } => Counter::CallsNoSuchNode,
        CallError::TypeMismatch(_) => Counter::CallsTypeMismatch,
        CallError::Timeout { .. } => Counter::CallsTimeout,
        CallError::ProviderLost { .. } => Counter::CallsProviderLost,
        CallError::Failed { .. } => Counter::CallsFailed,
        CallError::Panicked { .. } => Counter::CallsPanicked,
        CallError::Overloaded { .. } => Counter::CallsOverloaded,
        CallError::Closing { .. } => Counter::CallsClosing,
        CallError::TooManyCalls { .. } => Counter::CallsTooMany,
        CallError::Invalid { .. } => Counter::CallsInvalid,
        CallError::Other(Error::Closed) => Counter::CallsClosed,
        CallError::Receive(_) | CallError::Other(_) => Counter::CallsOther,
    }
}

/// Counts and measures the requests of one provider.
#[derive(Debug)]
pub(crate) struct RequestMeter(Meter);

impl RequestMeter {
    /// Of the provider whose requests come to that endpoint.
    pub(crate) fn new(node: &Node, endpoint: u32, service: &str) -> Self {
        Self(Meter::new(node, Whose::Provider, endpoint, service))
    }

    /// A request was taken.
    #[inline]
    pub(crate) fn begin(&mut self) -> Began {
        self.0.begin()
    }

    /// It was answered so.
    #[inline]
    pub(crate) fn answered(&self, outcome: Counter, began: Began) {
        self.0.counters.add(outcome, 1);
        self.0.end(began);
    }

    /// So many were given up.
    pub(crate) fn cancelled(&self, count: u64) {
        self.0.counters.add(Counter::CallsCancelled, count);
    }
}
