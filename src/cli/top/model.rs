//! What is seen of a mesh, with rates: two readings of status pages and the time between them.
//!
//! Pages of other hosts are what their nodes said of them, read by the clock of that host. No input
//! or output, no clock. A count is compared only with an earlier one of the same endpoint
//! of the same run of its node; where an entry changed hands in between, there is no rate, rather
//! than a wrong one.

mod calls;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use shmesh_shm::{Counter, Histogram};

pub(crate) use self::calls::{Calls, outcomes};
use crate::cli::metrics::Page;
use crate::id::HostId;
use crate::metrics::{Counted, Kind, METRICS, Whose};
use crate::name::is_pattern;
use crate::service::REQUESTS;
use crate::topology::{NodeInfo, Role, Topology};

/// As many numbers as a status page has for each endpoint.
const COUNTERS: usize = Counter::ALL.len();

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    /// Its process was stopped, by a signal or a debugger.
    Stopped,
    /// It left its page behind.
    Dead,
    /// On this host, but without a page that we may read.
    Unseen,
    /// On another host.
    Far,
}

impl State {
    /// Of a node whose page cannot be read here.
    pub(crate) fn of_unread(info: &NodeInfo, our_host: HostId) -> Self {
        if info.host == our_host {
            Self::Unseen
        } else {
            Self::Far
        }
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
            Self::Unseen => "unseen",
            Self::Far => "far",
        }
    }
}

/// A publisher, a subscriber or a share of one; a caller or provider, whose topic is its service.
#[derive(Clone, Debug)]
pub(crate) struct EndpointSeen {
    pub(crate) number: u32,
    pub(crate) whose: Whose,
    pub(crate) topic: String,
    /// None where only the coordinator said something of the node.
    pub(crate) counts: Option<Counts>,
}

/// What is counted, and how fast it grows.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    values: [u64; COUNTERS],
    grown: Option<Grown>,
}

/// What came between two readings.
#[derive(Clone, Debug)]
struct Grown {
    per_second: [f64; COUNTERS],
    latency: Histogram,
}

impl Counts {
    pub(crate) const fn value(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// None at first sight.
    pub(crate) fn per_second(&self, counter: Counter) -> Option<f64> {
        let grown = self.grown.as_ref()?;
        Some(grown.per_second[counter as usize])
    }

    /// The times measured between the two readings, if there were any.
    pub(crate) fn latency(&self) -> Option<&Histogram> {
        let grown = self.grown.as_ref()?;
        Some(&grown.latency).filter(|latency| latency.count() > 0)
    }
}

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct NodeSeen {
    pub(crate) id: u128,
    pub(crate) name: String,
    pub(crate) pid: u64,
    pub(crate) state: State,
    pub(crate) endpoints: Vec<EndpointSeen>,
}

/// All that is seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) nodes: Vec<NodeSeen>,
}

/// Which numbers of a node are compared.
type Key = (Whose, u32, String);

/// Readings become what is seen.
#[derive(Debug, Default)]
pub(crate) struct Model {
    last: HashMap<u128, Reading>,
}

/// What was read of a node, and what came of it.
#[derive(Debug)]
struct Reading {
    at_ns: u64,
    counted: HashMap<Key, Counted>,
    endpoints: Vec<EndpointSeen>,
}

impl Model {
    /// Takes in a reading of all pages. Of one that was not read anew, the same is seen.
    pub(crate) fn read(&mut self, pages: Vec<(Page, State)>) -> Seen {
        let mut last = std::mem::take(&mut self.last);
        let nodes = pages.into_iter().map(|(page, state)| {
            let reading = match last.remove(&page.id) {
                Some(before) if before.at_ns == page.at_ns => before,
                before => Reading::of(page.entries, page.at_ns, before.as_ref()),
            };
            let endpoints = reading.endpoints.clone();
            self.last.insert(page.id, reading);
            NodeSeen {
                id: page.id,
                name: page.node,
                pid: page.pid,
                state,
                endpoints,
            }
        });
        let nodes = nodes.collect();
        Seen { nodes }
    }
}

impl Reading {
    fn of(entries: Vec<Counted>, at_ns: u64, before: Option<&Self>) -> Self {
        let mut reading = Self {
            at_ns,
            counted: HashMap::new(),
            endpoints: Vec::new(),
        };
        for counted in shares_joined(entries) {
            let key = (counted.whose, counted.endpoint, counted.topic.clone());
            let grown = before.and_then(|before| {
                let elapsed = Duration::from_nanos(at_ns.saturating_sub(before.at_ns));
                grown(before.counted.get(&key)?, &counted, elapsed)
            });
            let counts = Counts {
                values: counted.counts,
                grown,
            };
            reading.endpoints.push(EndpointSeen {
                number: counted.endpoint,
                whose: counted.whose,
                topic: counted.topic.clone(),
                counts: Some(counts),
            });
            reading.counted.insert(key, counted);
        }
        reading
    }
}

/// The entries of endpoints; the shares of several publishers of a topic become one.
fn shares_joined(entries: Vec<Counted>) -> Vec<Counted> {
    let mut joined: Vec<Counted> = Vec::new();
    for counted in entries {
        let is_its = |known: &&mut Counted| {
            let of = |it: &Counted| (it.whose, it.endpoint);
            of(known) == of(&counted) && known.topic == counted.topic
        };
        match counted.whose {
            Whose::Node => {}
            Whose::Share => match joined.iter_mut().find(is_its) {
                Some(known) => {
                    for (sum, more) in known.counts.iter_mut().zip(counted.counts) {
                        *sum = sum.saturating_add(more);
                    }
                    known.latency.merge(&counted.latency);
                }
                None => joined.push(counted),
            },
            _ => joined.push(counted),
        }
    }
    joined
}

/// None if a count went back, so that they are not of the same endpoint, or no time went by.
fn grown(before: &Counted, after: &Counted, elapsed: Duration) -> Option<Grown> {
    let seconds = elapsed.as_secs_f64();
    if went_back(before, after) || seconds <= 0.0 {
        return None;
    }
    let per_second = core::array::from_fn(|idx| {
        let more = after.counts[idx].saturating_sub(before.counts[idx]);
        #[allow(clippy::cast_precision_loss)] // for people
        let more = more as f64;
        more / seconds
    });
    Some(Grown {
        per_second,
        latency: after.latency.since(&before.latency)?,
    })
}

fn went_back(before: &Counted, after: &Counted) -> bool {
    let growing = METRICS.iter().filter(|metric| metric.kind == Kind::Counter);
    let mut growing = growing.map(|metric| metric.counter as usize);
    growing.any(|idx| after.counts[idx] < before.counts[idx])
}

impl Seen {
    /// Adds those that the coordinator knows and no page is known of.
    pub(crate) fn add_far(&mut self, topology: &Topology, our_host: HostId) {
        for info in topology.nodes() {
            let is_known = self.nodes.iter().any(|node| node.id == info.id.0);
            if is_known {
                continue;
            }
            let endpoints = topology.endpoints(info.id).flat_map(|endpoint| {
                let of = |whose, topic: &str| EndpointSeen {
                    number: endpoint.id,
                    whose,
                    topic: topic.to_owned(),
                    counts: None,
                };
                let requests = endpoint.topic.strip_prefix(REQUESTS);
                let end = requests.map(|service| match endpoint.role {
                    Role::Publisher => of(Whose::Caller, service),
                    Role::Subscriber => of(Whose::Provider, service),
                });
                [of(Whose::Endpoint(endpoint.role), &endpoint.topic)]
                    .into_iter()
                    .chain(end)
            });
            self.nodes.push(NodeSeen {
                id: info.id.0,
                name: info.name.clone(),
                pid: info.pid.into(),
                state: State::of_unread(info, our_host),
                endpoints: endpoints.collect(),
            });
        }
    }

    /// The endpoints of each topic, with their nodes. What a subscription to several topics took is
    /// with each of them; the subscription itself is only with its pattern.
    pub(crate) fn topics(&self) -> BTreeMap<&str, Vec<(&NodeSeen, &EndpointSeen)>> {
        self.by_name(|node, endpoint| match endpoint.whose {
            Whose::Share => true,
            Whose::Endpoint(Role::Publisher) => true,
            Whose::Endpoint(Role::Subscriber) => {
                is_pattern(&endpoint.topic) || !node.has_shares(endpoint.number)
            }
            Whose::Node | Whose::Caller | Whose::Provider => false,
        })
    }

    /// The callers and providers of each service, with their nodes.
    pub(crate) fn services(&self) -> BTreeMap<&str, Vec<(&NodeSeen, &EndpointSeen)>> {
        self.by_name(|_, endpoint| endpoint.is_of_service())
    }

    fn by_name(
        &self,
        is_wanted: impl Fn(&NodeSeen, &EndpointSeen) -> bool,
    ) -> BTreeMap<&str, Vec<(&NodeSeen, &EndpointSeen)>> {
        let mut found: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for node in &self.nodes {
            for endpoint in &node.endpoints {
                if is_wanted(node, endpoint) {
                    let place = found.entry(&endpoint.topic).or_default();
                    place.push((node, endpoint));
                }
            }
        }
        found
    }
}

impl NodeSeen {
    /// Without the shares, which are in their subscriptions.
    pub(crate) fn own_endpoints(&self) -> impl Iterator<Item = &EndpointSeen> {
        let all = self.endpoints.iter();
        all.filter(|endpoint| endpoint.whose != Whose::Share)
    }

    /// True if that subscription has shares, which say of its topics what it does not.
    fn has_shares(&self, number: u32) -> bool {
        let is_its = |it: &EndpointSeen| it.whose == Whose::Share && it.number == number;
        self.endpoints.iter().any(is_its)
    }
}

impl EndpointSeen {
    const fn subscribes(&self) -> bool {
        matches!(self.whose, Whose::Endpoint(Role::Subscriber) | Whose::Share)
    }

    pub(crate) const fn is_of_service(&self) -> bool {
        matches!(self.whose, Whose::Caller | Whose::Provider)
    }
}

/// The causes of loss, and their names.
pub(crate) const CAUSES: [(&str, Counter); 4] = [
    ("overwritten", Counter::LostOverwritten),
    ("dropped", Counter::LostDropped),
    ("invalid", Counter::LostInvalid),
    ("expired", Counter::LostExpired),
];

/// The numbers of several endpoints as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sum {
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_rate: Option<f64>,
    pub(crate) received_rate: Option<f64>,
    pub(crate) sent_bytes_rate: Option<f64>,
    pub(crate) received_bytes_rate: Option<f64>,
    /// By cause, as [`CAUSES`].
    pub(crate) lost: [u64; CAUSES.len()],
    pub(crate) lost_rate: Option<f64>,
    /// Of the fullest subscriber: unread messages by those there is room for.
    pub(crate) fill: Option<f64>,
    pub(crate) arena_bytes: u64,
    pub(crate) held: u64,
    pub(crate) wake_rate: Option<f64>,
    pub(crate) park_rate: Option<f64>,
    /// From sending to receiving, of all subscribers.
    pub(crate) latency: Option<Histogram>,
    /// False if nothing of it is counted here.
    pub(crate) is_counted: bool,
}

impl Sum {
    /// All of a node. Shares are in their subscriptions.
    pub(crate) fn of_node(node: &NodeSeen) -> Self {
        Self::of(node.own_endpoints())
    }

    /// Of one endpoint, or several.
    pub(crate) fn of<'a>(endpoints: impl IntoIterator<Item = &'a EndpointSeen>) -> Self {
        let mut sum = Self::default();
        for endpoint in endpoints {
            sum.add(endpoint, true);
        }
        sum
    }

    /// Of a topic. What a publisher found no room for is lost once, where it is missed: so its
    /// word counts only where no subscriber is seen.
    pub(crate) fn of_topic(endpoints: &[(&NodeSeen, &EndpointSeen)]) -> Self {
        let is_seen = |(_, endpoint): &(&NodeSeen, &EndpointSeen)| {
            endpoint.subscribes() && endpoint.counts.is_some()
        };
        let has_subscriber = endpoints.iter().any(is_seen);
        let mut sum = Self::default();
        for (_, endpoint) in endpoints {
            let is_missed_here = endpoint.subscribes() || !has_subscriber;
            sum.add(endpoint, is_missed_here);
        }
        sum
    }

    fn add(&mut self, endpoint: &EndpointSeen, with_losses: bool) {
        let role = match endpoint.whose {
            Whose::Endpoint(role) => role,
            Whose::Share => Role::Subscriber,
            Whose::Node | Whose::Caller | Whose::Provider => return,
        };
        match role {
            Role::Publisher => self.publishers += 1,
            Role::Subscriber => self.subscribers += 1,
        }
        let Some(counts) = &endpoint.counts else {
            return;
        };
        self.is_counted = true;
        let (value, rate) = (|c| counts.value(c), |c| counts.per_second(c));
        let (messages, bytes) = (Counter::Messages, Counter::Bytes);
        match role {
            Role::Publisher => {
                self.sent = self.sent.saturating_add(value(messages));
                self.sent_bytes = self.sent_bytes.saturating_add(value(bytes));
                more(&mut self.sent_rate, rate(messages));
                more(&mut self.sent_bytes_rate, rate(bytes));
                more(&mut self.wake_rate, rate(Counter::WakeUps));
                self.arena_bytes = self.arena_bytes.saturating_add(value(Counter::ArenaBytes));
            }
            Role::Subscriber => {
                self.received = self.received.saturating_add(value(messages));
                self.received_bytes = self.received_bytes.saturating_add(value(bytes));
                more(&mut self.received_rate, rate(messages));
                more(&mut self.received_bytes_rate, rate(bytes));
                more(&mut self.park_rate, rate(Counter::Parkings));
                self.held = self.held.saturating_add(value(Counter::Held));
                let fill = fill(value(Counter::Unread), value(Counter::Room));
                self.fill = self.fill.into_iter().chain(fill).reduce(f64::max);
                merge(&mut self.latency, counts.latency());
            }
        }
        if with_losses {
            for (sum, (_, counter)) in self.lost.iter_mut().zip(CAUSES) {
                *sum = sum.saturating_add(value(counter));
                more(&mut self.lost_rate, rate(counter));
            }
        }
    }

    pub(crate) fn lost_total(&self) -> u64 {
        self.lost
            .iter()
            .fold(0, |sum, lost| sum.saturating_add(*lost))
    }
}

/// A sum of what is known.
fn more(sum: &mut Option<f64>, rate: Option<f64>) {
    if let Some(rate) = rate {
        *sum = Some(sum.unwrap_or(0.0) + rate);
    }
}

/// All times of both.
fn merge(sum: &mut Option<Histogram>, more: Option<&Histogram>) {
    if let Some(more) = more {
        sum.get_or_insert_default().merge(more);
    }
}

/// None without rings.
#[allow(clippy::cast_precision_loss)] // for people
fn fill(unread: u64, room: u64) -> Option<f64> {
    (room > 0).then(|| unread as f64 / room as f64)
}

#[cfg(test)]
mod tests;
