//! What becomes of calls and requests, on the status page; and told to the process's recorder as
//! they end, with the feature `metrics`.

use shmesh_shm::{Counter, Counters, monotonic_ns};

#[cfg(feature = "metrics")]
use super::recorder::Recorder;
use super::{Stride, Whose};
use crate::error::Error;
use crate::id::NodeId;
use crate::node::Node;
use crate::service::{Call, CallError, CallId};

/// Measures the time of some calls or requests, one at once. Which one it is stands here, not in
/// each of them: they are moved, and what they are larger by is paid at every call.
#[derive(Debug)]
struct Meter {
    counters: Counters,
    begun: u64,
    stride: Stride,
    /// Number of the one that is measured, and when it began.
    measured: Option<(u64, u64)>,
}

impl Meter {
    fn new(node: &Node, whose: Whose, endpoint: u32, service: &str) -> Self {
        Self {
            counters: node.shared().counters(whose, endpoint, service),
            begun: 0,
            stride: Stride::default(),
            measured: None,
        }
    }

    #[inline]
    fn begin(&mut self, number: u64) {
        self.begun += 1;
        if self.stride.is_due(self.begun) && self.measured.is_none() {
            let now_ns = monotonic_ns();
            self.stride.measured(self.begun, now_ns);
            self.measured = Some((number, now_ns));
        }
    }

    #[inline]
    fn end(&mut self, number: u64) {
        if let Some((its, since_ns)) = self.measured
            && its == number
        {
            self.measured = None;
            self.counters
                .record(monotonic_ns().saturating_sub(since_ns));
        }
    }

    /// One ended without an answer; perhaps it was that which is measured.
    fn give_up(&mut self) {
        self.measured = None;
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
    pub(crate) fn begin(&mut self, id: CallId) {
        self.page.begin(id.number());
    }

    /// A value came.
    #[inline]
    pub(crate) fn done(&mut self, call: &Call) {
        self.replied(Counter::CallsOk, call);
    }

    /// An error came instead.
    pub(crate) fn failed(&mut self, error: &CallError, call: &Call) {
        self.replied(outcome_of(error), call);
    }

    #[inline]
    fn replied(&mut self, outcome: Counter, call: &Call) {
        self.count(outcome);
        self.page.end(call.id().number());
        #[cfg(feature = "metrics")]
        self.recorder.measure(call.age());
    }

    /// A call ended without a reply, or did not begin.
    pub(crate) fn ended(&mut self, error: &CallError) {
        self.page.give_up();
        self.count(outcome_of(error));
    }

    /// A call was given up.
    pub(crate) fn cancelled(&mut self) {
        self.page.give_up();
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
    pub(crate) fn begin(&mut self, caller: NodeId, call: u64) {
        self.0.begin(number_of(caller, call));
    }

    /// It was answered so.
    #[inline]
    pub(crate) fn answered(&mut self, outcome: Counter, caller: NodeId, call: u64) {
        self.0.counters.add(outcome, 1);
        self.0.end(number_of(caller, call));
    }

    /// So many were given up.
    pub(crate) fn cancelled(&mut self, count: u64) {
        self.0.give_up();
        self.0.counters.add(Counter::CallsCancelled, count);
    }
}

/// A number for a call of that node. Ids are random: that two of them are one is a wrong time among
/// many at worst.
const fn number_of(caller: NodeId, call: u64) -> u64 {
    #[allow(clippy::cast_possible_truncation)] // as said
    let caller = caller.0 as u64;
    caller ^ call
}
