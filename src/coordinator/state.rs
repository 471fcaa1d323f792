//! What a coordinator knows and whom it tells, as a state: words in, frames out to sinks.
//!
//! No socket, clock, task or lock here; whoever drives it says when to [`flush`](State::flush).
//! Invariant: a watcher that is not behind was offered every version since its snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Error;
use crate::id::NodeId;
use crate::limits::CHANGES_PER_FRAME_MAX;
use crate::link::wire::{self, Kind};
use crate::membership::FromCoordinator;
use crate::topology::{Change, Topology};

/// A frame, shared by all who get it.
pub type Frame = Arc<Vec<u8>>;

/// Where frames for one node go.
pub trait Sink {
    /// Takes a frame; false if there is no room for it.
    fn offer(&mut self, frame: &Frame) -> bool;
}

/// The mesh and its watchers.
#[derive(Debug)]
pub struct State<S> {
    topology: Topology,
    version: u64,
    /// Applied, but not yet sent to the watchers.
    pending: Vec<Change>,
    watchers: BTreeMap<NodeId, Watcher<S>>,
    connection_count: u64,
}

#[derive(Debug)]
struct Watcher<S> {
    /// Which connection; a later one of the same node replaces it.
    connection: u64,
    sink: S,
    /// True if frames were left out: it needs a snapshot.
    is_behind: bool,
}

impl<S> Default for State<S> {
    fn default() -> Self {
        Self {
            topology: Topology::default(),
            version: 0,
            pending: Vec::new(),
            watchers: BTreeMap::new(),
            connection_count: 0,
        }
    }
}

impl<S: Sink> State<S> {
    /// Lets a node in that is told of the mesh through `sink`; gives the number of its connection.
    ///
    /// # Errors
    /// What [`Topology::apply`] says of the node; nothing is changed then.
    pub fn register(&mut self, node_up: &Change, sink: S) -> Result<u64, Error> {
        let node = node_up.node();
        // Looked at before anything is taken from a node of that id which may be in already.
        Topology::default().apply(node_up)?;
        // A node that comes back on a new connection starts over.
        self.apply(&Change::NodeDown(node))?;
        self.apply(node_up)?;
        self.connection_count += 1;
        let connection = self.connection_count;
        // Behind from the start: the snapshot comes first.
        let watcher = Watcher {
            connection,
            sink,
            is_behind: true,
        };
        self.watchers.insert(node, watcher);
        Ok(connection)
    }

    /// Lets a node go, unless a later connection of it is in.
    pub fn unregister(&mut self, node: NodeId, connection: u64) {
        let watcher = self.watchers.get(&node);
        if watcher.is_some_and(|watcher| watcher.connection == connection) {
            self.watchers.remove(&node);
            let applied = self.apply(&Change::NodeDown(node));
            debug_assert!(applied.is_ok());
        }
    }

    /// Takes in what a node says of its own endpoints.
    ///
    /// # Errors
    /// If it speaks of anything else, or what [`Topology::apply`] says; changes before the wrong
    /// one stay.
    pub fn update(&mut self, node: NodeId, changes: &[Change]) -> Result<(), Error> {
        for change in changes {
            let is_own = change.node() == node
                && matches!(
                    change,
                    Change::EndpointUp { .. } | Change::EndpointDown { .. }
                );
            if !is_own {
                return Err(Error::Protocol("a node may change its own endpoints only"));
            }
            self.apply(change)?;
        }
        Ok(())
    }

    /// The whole, for a watcher that missed something, which then follows the deltas again.
    pub fn snapshot_if_behind(&mut self, node: NodeId) -> Option<(u64, Vec<Change>)> {
        if !self.watchers.get(&node)?.is_behind {
            return None;
        }
        // What is in the snapshot must not come again as a delta of a later version.
        self.flush();
        self.watchers.get_mut(&node)?.is_behind = false;
        Some((self.version, self.topology.snapshot()))
    }

    /// Sends what is pending to all watchers, encoded once.
    pub fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for part in pending.chunks(CHANGES_PER_FRAME_MAX) {
            self.version += 1;
            let delta = FromCoordinator::Delta {
                version: self.version,
                changes: part.to_vec(),
            };
            match wire::encode(Kind::FromCoordinator, &delta) {
                Ok(frame) => self.send_all(&Arc::new(frame)),
                Err(error) => {
                    tracing::error!(%error, "delta left out; all watchers get a snapshot");
                    self.watchers
                        .values_mut()
                        .for_each(|watcher| watcher.is_behind = true);
                }
            }
        }
    }

    fn send_all(&mut self, frame: &Frame) {
        let following = self.watchers.values_mut().filter(|w| !w.is_behind);
        for watcher in following {
            watcher.is_behind = !watcher.sink.offer(frame);
        }
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        if self.topology.apply(change)? {
            self.pending.push(change.clone());
        }
        Ok(())
    }
}
