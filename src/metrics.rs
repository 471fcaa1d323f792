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
//!
//! These are for recorders alone:
//!
//! | metric | kind | labels beside `node` and `id` |
//! |---|---|---|
//! | `shmesh_calls_total` | counter | `service`, `outcome` |
//! | `shmesh_call_seconds` | histogram, seconds | `service`; answered calls, start to reply |
//!
//! Outcomes: `ok`, `failed`, `panicked`, `invalid`, `overloaded`, `closing`, `timeout`,
//! `provider_lost`, `no_provider`, `no_such_node`, `type_mismatch`, `too_many`, `cancelled`,
//! `closed`, `other`. Calls are counted where they are made, those that could not be started, too;
//! `tell` is not. They are told to the recorder one by one; all else is read once a second.

use shmesh_shm::Counter;

#[cfg(feature = "metrics")]
mod calls;
#[cfg(feature = "metrics")]
mod sampler;
#[cfg(feature = "metrics")]
pub(crate) use calls::CallMeter;
#[cfg(feature = "metrics")]
pub(crate) use sampler::Sampler;
#[cfg(feature = "metrics")]
pub use sampler::describe;

#[cfg(not(feature = "metrics"))]
use crate::node::{Node, NodeShared};
#[cfg(not(feature = "metrics"))]
use crate::service::{Call, CallError};
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

/// Nor are calls measured.
#[cfg(not(feature = "metrics"))]
#[derive(Debug)]
pub(crate) struct CallMeter(());

#[cfg(not(feature = "metrics"))]
#[allow(clippy::unused_self)] // as the real one
impl CallMeter {
    pub(crate) const fn new(_: &Node, _: &str) -> Self {
        Self(())
    }
    pub(crate) const fn replied<T>(&mut self, _: &Result<T, CallError>, _: &Call) {}
    pub(crate) const fn ended(&mut self, _: &CallError) {}
    pub(crate) const fn cancelled(&mut self) {}
}

/// Whose counts they are: what an entry of the status page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Whose {
    Endpoint(Role),
    Node,
}

impl Whose {
    /// As the number on the status page.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Endpoint(role) => role as u32,
            Self::Node => 2,
        }
    }

    /// None for a number that a newer version may have written.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let all = [
            Self::Endpoint(Role::Publisher),
            Self::Endpoint(Role::Subscriber),
            Self::Node,
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
    /// Whose it is; both roles' if it is nobody's alone.
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

    /// True if those have it.
    pub(crate) fn is_of(&self, whose: Whose) -> bool {
        self.whose.map_or(whose != Whose::Node, |its| its == whose)
    }
}

/// All, those of one name together.
pub(crate) const METRICS: [Metric; Counter::ALL.len()] = [
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
            let has_it = METRICS.iter().filter(|metric| metric.counter == counter);
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
