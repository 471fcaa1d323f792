//! Hands a node's counts to the process's recorder.
//!
//! By topic and not by endpoint: endpoints come and go (with a listener downstream, for one), and a
//! recorder keeps what it has ever seen. Counters therefore go on where an endpoint that went left
//! them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use metrics::{Key, KeyName, Label, Level, Metadata, Unit};
use shmesh_shm::{Counter, Counters};

use super::recorder::SECONDS;
use super::{Kind, METRICS, Metric, Whose, role_label};
use crate::endpoint::{SubscriberShared, lock};
use crate::node::NodeShared;
use crate::topology::Role;

type Counts = [u64; Counter::ALL.len()];

/// What an endpoint's counts are added to.
type Group = (Whose, String);

/// An endpoint that is there.
#[derive(Debug)]
struct Live {
    group: Group,
    counters: Arc<Counters>,
}

/// Looks at a node's counters.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    live: HashMap<u32, Live>,
    /// Counts of endpoints that went. Bounded by the topics this node ever had.
    past: BTreeMap<Group, Counts>,
}

impl Sampler {
    /// Hands over what is counted now.
    pub(crate) fn sample(&mut self, node: &NodeShared) {
        self.update(node);
        let mut sums = self.past.clone();
        for endpoint in self.live.values() {
            let sum = sums.entry(endpoint.group.clone()).or_default();
            add(sum, &endpoint.counters, |_| true);
        }
        let own = sums.entry((Whose::Node, String::new())).or_default();
        add(own, &node.counters, |_| true);
        let name = Label::new("node", node.info.name.clone());
        let id = Label::new("id", node.info.id.to_string());
        for ((whose, topic), counts) in sums {
            let mut labels = vec![name.clone(), id.clone()];
            if let Whose::Endpoint(role) = whose {
                labels.push(Label::new("role", role_label(role)));
                labels.push(Label::new("topic", topic));
            }
            for metric in METRICS.iter().filter(|metric| metric.is_of(whose)) {
                record(metric, labels.clone(), counts[metric.counter as usize]);
            }
        }
    }

    /// Follows what endpoints there are.
    fn update(&mut self, node: &NodeShared) {
        let registry = lock(&node.registry);
        let (publishers, subscribers) = (&registry.publishers, &registry.subscribers);
        self.live.retain(|id, endpoint| {
            let is_there = publishers.contains_key(id) || subscribers.contains_key(id);
            if !is_there {
                let past = self.past.entry(endpoint.group.clone()).or_default();
                add(past, &endpoint.counters, |metric| {
                    metric.kind == Kind::Counter
                });
            }
            is_there
        });
        for (id, publisher) in publishers {
            self.live.entry(*id).or_insert_with(|| Live {
                group: (
                    Whose::Endpoint(Role::Publisher),
                    publisher.endpoint.topic.clone(),
                ),
                counters: Arc::clone(&publisher.counters),
            });
        }
        // One of several topics is counted under its first.
        let is_first =
            |(id, subscriber): &(&u32, &Arc<SubscriberShared>)| **id == subscriber.endpoint.id;
        for (id, subscriber) in subscribers.iter().filter(is_first) {
            self.live.entry(*id).or_insert_with(|| Live {
                group: (
                    Whose::Endpoint(Role::Subscriber),
                    subscriber.endpoint.topic.clone(),
                ),
                counters: Arc::clone(&subscriber.counters),
            });
        }
    }
}

fn add(sums: &mut Counts, counters: &Counters, is_wanted: impl Fn(&Metric) -> bool) {
    for metric in METRICS.iter().filter(|metric| is_wanted(metric)) {
        let sum = &mut sums[metric.counter as usize];
        *sum = sum.wrapping_add(counters.value(metric.counter));
    }
}

/// Asks the recorder for the metric each time: a program may install its recorder at any time.
fn record(metric: &Metric, mut labels: Vec<Label>, value: u64) {
    if let Some((name, value)) = metric.label {
        labels.push(Label::new(name, value));
    }
    let key = Key::from_parts(metric.name, labels);
    let metadata = Metadata::new("shmesh", Level::INFO, Some(module_path!()));
    metrics::with_recorder(|recorder| match metric.kind {
        Kind::Counter => recorder.register_counter(&key, &metadata).absolute(value),
        #[allow(clippy::cast_precision_loss)] // exact up to 2^53: bytes of an arena
        Kind::Gauge => recorder.register_gauge(&key, &metadata).set(value as f64),
    });
}

/// Tells the process's recorder what the metrics mean. To be called after it is installed, by who
/// wants the texts in its output.
pub fn describe() {
    metrics::with_recorder(|recorder| {
        let told = METRICS
            .iter()
            .filter(|metric| !metric.is_of(Whose::Provider));
        for metric in told {
            let is_bytes = matches!(metric.counter, Counter::Bytes | Counter::ArenaBytes);
            let unit = Some(if is_bytes { Unit::Bytes } else { Unit::Count });
            let (name, help) = (KeyName::from_const_str(metric.name), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
            }
        }
        let help = "Time from the start of a call to its reply";
        let name = KeyName::from_const_str(SECONDS);
        recorder.describe_histogram(name, Some(Unit::Seconds), help.into());
    });
}
