//! What becomes of calls, told to the process's recorder as they end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Key, Label, Level, Metadata};

use crate::error::Error;
use crate::node::Node;
use crate::service::{Call, CallError};

/// Counts and measures the calls of one caller.
#[derive(Debug)]
pub(crate) struct CallMeter {
    labels: Vec<Label>,
    /// What the recorder gave, for a while: a program may install its recorder at any time.
    asked: Option<Instant>,
    seconds: Histogram,
    counts: HashMap<&'static str, Counter>,
}

impl CallMeter {
    pub(crate) fn new(node: &Node, service: &str) -> Self {
        Self {
            labels: vec![
                Label::new("node", node.name().to_owned()),
                Label::new("id", node.id().to_string()),
                Label::new("service", service.to_owned()),
            ],
            asked: None,
            seconds: Histogram::noop(),
            counts: HashMap::new(),
        }
    }

    /// A reply came.
    pub(crate) fn replied<T>(&mut self, reply: &Result<T, CallError>, call: &Call) {
        self.count(reply.as_ref().err().map_or("ok", outcome_of));
        self.seconds.record(call.age().as_secs_f64());
    }

    /// A call ended without a reply, or did not begin.
    pub(crate) fn ended(&mut self, error: &CallError) {
        self.count(outcome_of(error));
    }

    /// A call was given up.
    pub(crate) fn cancelled(&mut self) {
        self.count("cancelled");
    }

    fn count(&mut self, outcome: &'static str) {
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now - asked >= ASK_AGAIN) {
            self.asked = Some(now);
            self.counts.clear();
            let key = Key::from_parts(SECONDS, self.labels.clone());
            self.seconds = metrics::with_recorder(|it| it.register_histogram(&key, &METADATA));
        }
        let counter = self.counts.entry(outcome).or_insert_with(|| {
            let mut labels = self.labels.clone();
            labels.push(Label::new("outcome", outcome));
            let key = Key::from_parts(CALLS, labels);
            metrics::with_recorder(|it| it.register_counter(&key, &METADATA))
        });
        counter.increment(1);
    }
}

const fn outcome_of(error: &CallError) -> &'static str {
    match error {
        CallError::NoProvider { .. } => "no_provider",
        CallError::NoSuchNode { .. } => "no_such_node",
        CallError::TypeMismatch(_) => "type_mismatch",
        CallError::Timeout { .. } => "timeout",
        CallError::ProviderLost { .. } => "provider_lost",
        CallError::Failed { .. } => "failed",
        CallError::Panicked { .. } => "panicked",
        CallError::Overloaded { .. } => "overloaded",
        CallError::Closing { .. } => "closing",
        CallError::TooManyCalls { .. } => "too_many",
        CallError::Invalid { .. } => "invalid",
        CallError::Other(Error::Closed) => "closed",
        CallError::Receive(_) | CallError::Other(_) => "other",
    }
}

pub(super) const CALLS: &str = "shmesh_calls_total";
pub(super) const SECONDS: &str = "shmesh_call_seconds";
const METADATA: Metadata<'static> = Metadata::new("shmesh", Level::INFO, Some(module_path!()));
const ASK_AGAIN: Duration = Duration::from_secs(1);
