//! What becomes of calls, told to the process's recorder as they end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Key, Label, Level, Metadata};

use super::METRICS;
use crate::node::Node;

/// Tells of the calls of one caller.
#[derive(Debug)]
pub(super) struct Recorder {
    labels: Vec<Label>,
    /// What the recorder gave, for a while: a program may install its recorder at any time.
    asked: Option<Instant>,
    seconds: Histogram,
    counts: HashMap<Outcome, Counter>,
}

impl Recorder {
    pub(super) fn new(node: &Node, service: &str) -> Self {
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

    /// A call was answered after that time.
    pub(super) fn measure(&mut self, age: Duration) {
        self.seconds.record(age.as_secs_f64());
    }

    /// A call ended so, or did not begin.
    pub(super) fn count(&mut self, outcome: Outcome) {
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now - asked >= ASK_AGAIN) {
            self.asked = Some(now);
            self.counts.clear();
            let key = Key::from_parts(SECONDS, self.labels.clone());
            self.seconds = metrics::with_recorder(|it| it.register_histogram(&key, &METADATA));
        }
        let counter = self.counts.entry(outcome).or_insert_with(|| {
            let mut labels = self.labels.clone();
            let metric = METRICS.iter().find(|metric| metric.counter == outcome);
            let label = metric.and_then(|metric| metric.label);
            labels.extend(label.map(|(name, value)| Label::new(name, value)));
            let key = Key::from_parts(CALLS, labels);
            metrics::with_recorder(|it| it.register_counter(&key, &METADATA))
        });
        counter.increment(1);
    }
}

/// How calls end, as the status page counts it.
type Outcome = shmesh_shm::Counter;

const CALLS: &str = "shmesh_calls_total";
pub(super) const SECONDS: &str = "shmesh_call_seconds";
const METADATA: Metadata<'static> = Metadata::new("shmesh", Level::INFO, Some(module_path!()));
const ASK_AGAIN: Duration = Duration::from_secs(1);
