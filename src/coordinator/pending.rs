//! What the watchers do not know yet, as a difference: what came and went leaves no trace.
//!
//! Bounded by the mesh, not by what is said of it: an endpoint that comes and goes a million times
//! between two flushes takes one entry, or none. No I/O and no clock here.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::id::NodeId;
use crate::topology::{Change, Endpoint, Topology};

/// The difference between a topology and what the watchers know of it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    nodes: BTreeMap<NodeId, Difference>,
}

#[derive(Debug)]
enum Difference {
    /// The watchers do not know the node.
    Came,
    /// They know a node of this id that is gone; it may have come again since.
    Went,
    /// They know the node. Here are those of its endpoints that are not as they know them, with
    /// what they know.
    Changed(BTreeMap<u32, Option<Endpoint>>),
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Applies a change to the topology and takes down how that differs from what is known.
    pub(super) fn apply(&mut self, topology: &mut Topology, change: &Change) -> Result<(), Error> {
        let node = change.node();
        match change {
            Change::NodeUp(_) => {
                let was_there = topology.node(node).is_some();
                if topology.apply(change)? {
                    self.node_came(node, was_there);
                }
            }
            Change::NodeDown(_) => {
                if topology.apply(change)? {
                    self.node_went(node);
                }
            }
            Change::EndpointUp {
                endpoint: Endpoint { id, .. },
                ..
            }
            | Change::EndpointDown { endpoint: id, .. } => {
                let before = topology.endpoint(node, *id).cloned();
                if topology.apply(change)? {
                    self.endpoint_changed(node, *id, before, topology.endpoint(node, *id));
                }
            }
        }
        Ok(())
    }

    fn node_came(&mut self, node: NodeId, was_there: bool) {
        match self.nodes.get_mut(&node) {
            None if was_there => {
                self.nodes.insert(node, Difference::Went);
            }
            None => {
                self.nodes.insert(node, Difference::Came);
            }
            Some(difference @ Difference::Changed(_)) => *difference = Difference::Went,
            Some(Difference::Came | Difference::Went) => {}
        }
    }

    fn node_went(&mut self, node: NodeId) {
        match self.nodes.remove(&node) {
            // Nobody knew it.
            Some(Difference::Came) => {}
            Some(Difference::Went | Difference::Changed(_)) | None => {
                self.nodes.insert(node, Difference::Went);
            }
        }
    }

    fn endpoint_changed(
        &mut self,
        node: NodeId,
        id: u32,
        before: Option<Endpoint>,
        now: Option<&Endpoint>,
    ) {
        let unchanged = || Difference::Changed(BTreeMap::new());
        let difference = self.nodes.entry(node).or_insert_with(unchanged);
        // Of a node that came, all endpoints go out.
        let Difference::Changed(endpoints) = difference else {
            return;
        };
        let known = endpoints.entry(id).or_insert(before);
        if known.as_ref() == now {
            endpoints.remove(&id);
            if endpoints.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }

    /// The changes from what is known to what is; known they are from now on.
    pub(super) fn take(&mut self, topology: &Topology) -> Vec<Change> {
        let nodes = std::mem::take(&mut self.nodes);
        // What goes, goes first, so that a full mesh or node is never beyond its bound on the way.
        let gone = nodes.iter().filter_map(|(node, difference)| {
            matches!(difference, Difference::Went).then_some(Change::NodeDown(*node))
        });
        let mut changes: Vec<Change> = gone.collect();
        for (node, difference) in nodes {
            match difference {
                Difference::Came | Difference::Went => changes.extend(topology.snapshot_of(node)),
                Difference::Changed(endpoints) => {
                    changes.extend(endpoint_changes(node, &endpoints, topology));
                }
            }
        }
        changes
    }
}

fn endpoint_changes(
    node: NodeId,
    known: &BTreeMap<u32, Option<Endpoint>>,
    topology: &Topology,
) -> impl Iterator<Item = Change> {
    let gone = known.iter().filter(|(_, known)| known.is_some());
    let gone = gone.map(move |(id, _)| Change::EndpointDown {
        node,
        endpoint: *id,
    });
    let new = known.keys().filter_map(move |id| {
        let endpoint = topology.endpoint(node, *id)?.clone();
        Some(Change::EndpointUp { node, endpoint })
    });
    gone.chain(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coordinator::tests::support::{endpoint, endpoint_up, info};
    use crate::limits::ENDPOINTS_PER_NODE_MAX;

    fn endpoint_down(node: u128, endpoint: u32) -> Change {
        let node = NodeId(node);
        Change::EndpointDown { node, endpoint }
    }

    /// A topology, what is pending of it, and somebody who follows.
    #[derive(Default)]
    struct Followed {
        topology: Topology,
        pending: Pending,
        known: Topology,
    }

    impl Followed {
        fn apply(&mut self, change: &Change) {
            // Changes that cannot be are refused, and leave no trace.
            let _ = self.pending.apply(&mut self.topology, change);
        }

        fn flush(&mut self) -> usize {
            let changes = self.pending.take(&self.topology);
            for change in &changes {
                assert!(self.known.apply(change).unwrap(), "news: {change:?}");
            }
            assert_eq!(self.known, self.topology);
            changes.len()
        }
    }

    #[test]
    fn a_full_node_that_changes_everything_stays_within_its_bound_on_the_way() {
        let mut followed = Followed::default();
        followed.apply(&Change::NodeUp(info(1)));
        let all = 0..ENDPOINTS_PER_NODE_MAX;
        for id in all.clone() {
            followed.apply(&endpoint_up(1, endpoint(id, "old")));
        }
        followed.flush();
        for id in all {
            followed.apply(&endpoint_down(1, id));
            followed.apply(&endpoint_up(1, endpoint(id + (1 << 20), "new")));
        }
        assert_eq!(followed.flush(), 2 * ENDPOINTS_PER_NODE_MAX as usize);
    }

    #[test]
    fn a_node_that_comes_back_starts_over_for_those_who_know_it() {
        let mut followed = Followed::default();
        followed.apply(&Change::NodeUp(info(1)));
        followed.apply(&endpoint_up(1, endpoint(0, "a")));
        followed.flush();
        followed.apply(&Change::NodeDown(NodeId(1)));
        followed.apply(&Change::NodeUp(info(1)));
        followed.apply(&endpoint_up(1, endpoint(1, "b")));
        assert_eq!(followed.flush(), 3, "down, up, and its endpoint");
        assert_eq!(followed.flush(), 0);
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let topics = prop_oneof![Just("a"), Just("b/c"), Just("/wrong")];
        let nodes = || 1..4_u128;
        prop_oneof![
            1 => nodes().prop_map(|id| Change::NodeUp(info(id))),
            1 => (nodes(), 0..2_u32).prop_map(|(id, pid)| {
                Change::NodeUp(crate::topology::NodeInfo { pid, ..info(id) })
            }),
            1 => nodes().prop_map(|id| Change::NodeDown(NodeId(id))),
            4 => (nodes(), 0..3_u32, topics).prop_map(|(id, number, topic)| {
                endpoint_up(id, endpoint(number, topic))
            }),
            3 => (nodes(), 0..3_u32).prop_map(|(id, number)| endpoint_down(id, number)),
        ]
    }

    proptest! {
        #[test]
        fn who_follows_knows_the_same_after_every_flush(
            rounds in prop::collection::vec(prop::collection::vec(any_change(), 0..12), 0..12),
        ) {
            let mut followed = Followed::default();
            for changes in rounds {
                changes.iter().for_each(|change| followed.apply(change));
                let is_same = followed.known == followed.topology;
                let is_empty = followed.pending.is_empty();
                prop_assert!(is_same || !is_empty, "what differs is pending");
                followed.flush();
                prop_assert!(followed.pending.is_empty());
            }
        }
    }
}
