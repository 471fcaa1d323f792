//! What nodes count, under the names that monitoring knows it by.
//!
//! The counts are those of the status page. Nothing here is on the path of a message: tools read
//! the pages (`mesh metrics`), and with the feature `metrics` each node hands them to the recorder
//! of its process ([`metrics`](https://docs.rs/metrics)) once a second.
//!
//! | metric | kind | labels beside `node`, `id`, `role` and `topic` |
//! |---|---|---|
//! | `shmesh_messages_total` | counter | |
//! | `shmesh_bytes_total` | counter, bytes | |
//! | `shmesh_lost_total` | counter | `cause`: `overwritten`, `dropped`, `invalid` or `expired` |
//! | `shmesh_skipped_total` | counter | |
//! | `shmesh_wake_ups_total` | counter | |
//! | `shmesh_parkings_total` | counter | |
//! | `shmesh_held` | gauge | |
//! | `shmesh_ring_unread` | gauge | |
//! | `shmesh_ring_room` | gauge | |
//! | `shmesh_peers` | gauge | |
//! | `shmesh_arena_bytes` | gauge, bytes | |
//!
//! The fill of a subscriber's rings is `shmesh_ring_unread / shmesh_ring_room`, in messages: the
//! sums over its publishers, looked at once a second, also while the subscriber hangs.
//!
//! | metric | kind | labels beside `node` and `id` |
//! |---|---|---|
//! | `shmesh_reconnects_total` | counter | `to`: `peer` (by link) or `coordinator` |
//! | `shmesh_calls_total` | counter | `service`, `outcome` |
//! | `shmesh_call_seconds` | histogram, seconds | `service`; answered calls, start to reply |
//!
//! Outcomes: `ok`, `failed`, `panicked`, `invalid`, `overloaded`, `closing`, `timeout`,
//! `provider_lost`, `no_provider`, `no_such_node`, `type_mismatch`, `too_many`, `cancelled`,
//! `closed`, `other`. Calls are counted where they are made, those that could not be started, too;
//! `tell` is not. Recorders are told of calls one by one; all else is read once a second.
//!
//! These are on status pages alone:
//!
//! | metric | kind | labels beside `node` and `id` |
//! |---|---|---|
//! | `shmesh_latency_seconds` | histogram, seconds | `role`, `topic`; from sending to receiving |
//! | `shmesh_requests_total` | counter | `service`, `outcome`; where they are served |
//! | `shmesh_request_seconds` | histogram, seconds | `service`; from taking to answering |
//!
//! Requests count as `ok` (those that want no reply, too), `failed`, `panicked`, `overloaded`,
//! `closing` or `cancelled`.
//!
//! Histograms of pages have the times of a sample: all while they come slowly, about a thousand a
//! second of those that come faster, but at least one in 256; of calls under way at once one. A
//! latency is known where publishers stamp and share the subscriber's clock: not over a network
//! from another host. A message of a history has its age.

use shmesh_shm::Counter;

mod calls;
#[cfg(feature = "metrics")]
mod recorder;
mod report;
#[cfg(feature = "metrics")]
mod sampler;
mod stride;
pub(crate) use calls::{CallMeter, RequestMeter};
pub(crate) use report::{Counted, Reports, Told};
pub use report::{Report, Tally};
#[cfg(feature = "metrics")]
pub(crate) use sampler::Sampler;
#[cfg(feature = "metrics")]
pub use sampler::describe;
pub(crate) use stride::Stride;

#[cfg(not(feature = "metrics"))]
use crate::node::NodeShared;
use crate::topology::Role;

/// Without the feature there is no recorder to hand anything to.
#[cfg(not(feature = "metrics"))]
#[derive(Debug, Default)]
pub(crate) struct Sampler(());

#[cfg(not(feature = "metrics"))]
impl Sampler {
    #[allow(clippy::unused_self)] // as the real one
    pub(crate) const fn sample(&mut self, _: &NodeShared) {}
}

/// Whose counts they are: what an entry of the status page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Whose {
    Endpoint(Role),
    Node,
    /// Its topic is the service.
    Caller,
    Provider,
    /// What a subscription to several topics took of one of them; all of it counts for the
    /// subscription, too.
    Share,
}

impl Whose {
    /// As the number on the status page.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Endpoint(role) => role as u32,
            Self::Node => 2,
            Self::Caller => 3,
            Self::Provider => 4,
            Self::Share => 5,
        }
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Endpoint(role) => role_label(role),
            Self::Node => "node",
            Self::Caller => "caller",
            Self::Provider => "provider",
            Self::Share => "subscriber",
        }
    }

    /// None for a number that a newer version may have written.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let all = [
            Self::Endpoint(Role::Publisher),
            Self::Endpoint(Role::Subscriber),
            Self::Node,
            Self::Caller,
            Self::Provider,
            Self::Share,
        ];
        all.into_iter().find(|whose| whose.number() == number)
    }
}

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// A counter of the status page as a metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    /// A label of its own, and what it says.
    pub(crate) label: Option<(&'static str, &'static str)>,
    pub(crate) counter: Counter,
    /// Whose it is; both endpoints' if it is nobody's alone.
    whose: Option<Whose>,
}

impl Metric {
    const fn counter(name: &'static str, counter: Counter, help: &'static str) -> Self {
        Self {
            name,
            help,
            kind: Kind::Counter,
            label: None,
            counter,
            whose: None,
        }
    }

    const fn gauge(name: &'static str, counter: Counter, help: &'static str) -> Self {
        let kind = Kind::Gauge;
        Self {
            kind,
            ..Self::counter(name, counter, help)
        }
    }

    const fn lost(cause: &'static str, counter: Counter) -> Self {
        let help =
            "Messages lost, by cause; a publisher counts those that somebody had no room for";
        Self {
            label: Some(("cause", cause)),
            ..Self::counter("shmesh_lost_total", counter, help)
        }
    }

    const fn of(self, role: Role) -> Self {
        Self {
            whose: Some(Whose::Endpoint(role)),
            ..self
        }
    }

    const fn reconnects(to: &'static str, counter: Counter) -> Self {
        let help = "Peers and coordinators that were found again";
        Self {
            label: Some(("to", to)),
            whose: Some(Whose::Node),
            ..Self::counter("shmesh_reconnects_total", counter, help)
        }
    }

    const fn calls(outcome: &'static str, counter: Counter) -> Self {
        Self {
            label: Some(("outcome", outcome)),
            whose: Some(Whose::Caller),
            ..Self::counter("shmesh_calls_total", counter, "Calls made, by outcome")
        }
    }

    const fn requests(outcome: &'static str, counter: Counter) -> Self {
        Self {
            label: Some(("outcome", outcome)),
            whose: Some(Whose::Provider),
            ..Self::counter(
                "shmesh_requests_total",
                counter,
                "Requests served, by outcome",
            )
        }
    }

    /// True if those have it.
    pub(crate) fn is_of(&self, whose: Whose) -> bool {
        match self.whose {
            Some(its) => its == whose,
            None => matches!(whose, Whose::Endpoint(_)),
        }
    }
}

/// All, those of one name together.
pub(crate) const METRICS: [Metric; 37] = [
    Metric::counter(
        "shmesh_messages_total",
        Counter::Messages,
        "Messages sent or received",
    ),
    Metric::counter("shmesh_bytes_total", Counter::Bytes, "Their bytes"),
    Metric::lost("overwritten", Counter::LostOverwritten).of(Role::Subscriber),
    Metric::lost("dropped", Counter::LostDropped),
    Metric::lost("invalid", Counter::LostInvalid).of(Role::Subscriber),
    Metric::lost("expired", Counter::LostExpired).of(Role::Subscriber),
    Metric::counter(
        "shmesh_skipped_total",
        Counter::Skipped,
        "Messages passed over for newer ones",
    )
    .of(Role::Subscriber),
    Metric::counter(
        "shmesh_wake_ups_total",
        Counter::WakeUps,
        "System calls made to wake subscribers",
    )
    .of(Role::Publisher),
    Metric::counter(
        "shmesh_parkings_total",
        Counter::Parkings,
        "Times a subscriber went to sleep",
    )
    .of(Role::Subscriber),
    Metric::gauge(
        "shmesh_held",
        Counter::Held,
        "Large messages held when it last went to sleep",
    )
    .of(Role::Subscriber),
    Metric::gauge(
        "shmesh_peers",
        Counter::Peers,
        "Publishers or subscribers it is connected to",
    ),
    Metric::gauge(
        "shmesh_arena_bytes",
        Counter::ArenaBytes,
        "Payload memory of a publisher",
    )
    .of(Role::Publisher),
    Metric::gauge(
        "shmesh_ring_unread",
        Counter::Unread,
        "Messages that wait in the rings of a subscriber",
    )
    .of(Role::Subscriber),
    Metric::gauge(
        "shmesh_ring_room",
        Counter::Room,
        "Messages that there is room for in these rings",
    )
    .of(Role::Subscriber),
    Metric::reconnects("peer", Counter::PeersFoundAgain),
    Metric::reconnects("coordinator", Counter::CoordinatorFoundAgain),
    Metric::calls("ok", Counter::CallsOk),
    Metric::calls("failed", Counter::CallsFailed),
    Metric::calls("panicked", Counter::CallsPanicked),
    Metric::calls("invalid", Counter::CallsInvalid),
    Metric::calls("overloaded", Counter::CallsOverloaded),
    Metric::calls("closing", Counter::CallsClosing),
    Metric::calls("timeout", Counter::CallsTimeout),
    Metric::calls("provider_lost", Counter::CallsProviderLost),
    Metric::calls("no_provider", Counter::CallsNoProvider),
    Metric::calls("no_such_node", Counter::CallsNoSuchNode),
    Metric::calls("type_mismatch", Counter::CallsTypeMismatch),
    Metric::calls("too_many", Counter::CallsTooMany),
    Metric::calls("cancelled", Counter::CallsCancelled),
    Metric::calls("closed", Counter::CallsClosed),
    Metric::calls("other", Counter::CallsOther),
    Metric::requests("ok", Counter::CallsOk),
    Metric::requests("failed", Counter::CallsFailed),
    Metric::requests("panicked", Counter::CallsPanicked),
    Metric::requests("overloaded", Counter::CallsOverloaded),
    Metric::requests("closing", Counter::CallsClosing),
    Metric::requests("cancelled", Counter::CallsCancelled),
];

/// The histograms of status pages: whose they are, and what they say.
pub(crate) const HISTOGRAMS: [(&str, Whose, &str); 3] = [
    (
        "shmesh_latency_seconds",
        Whose::Endpoint(Role::Subscriber),
        "Time from sending to receiving a message, of a sample of them",
    ),
    (
        "shmesh_call_seconds",
        Whose::Caller,
        "Time from the start of a call to its reply, of a sample of them",
    ),
    (
        "shmesh_request_seconds",
        Whose::Provider,
        "Time from taking a request to answering it, of a sample of them",
    ),
];

/// A role as a label.
pub(crate) const fn role_label(role: Role) -> &'static str {
    match role {
        Role::Publisher => "publisher",
        Role::Subscriber => "subscriber",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_metric_and_those_of_one_name_are_together() {
        for counter in Counter::ALL {
            let of_callers = |metric: &&Metric| metric.whose != Some(Whose::Provider);
            let all = METRICS.iter().filter(of_callers);
            let has_it = all.filter(|metric| metric.counter == counter);
            assert_eq!(has_it.count(), 1, "{counter:?}");
        }
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.dedup();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for metric in METRICS {
            let is_total = metric.name.ends_with("_total");
            assert_eq!(is_total, metric.kind == Kind::Counter, "{}", metric.name);
        }
    }
}
