//! What a coordinator knows and whom it tells, as a state: words in, frames out to sinks.
//!
//! No socket, clock, task or lock here; whoever drives it says when to [`flush`](State::flush).
//! Invariant: a watcher that follows was offered the snapshot of a version and every delta since.
//! Snapshots are made only of versions that the deltas reach, so who joins forces nobody to be told
//! early, and all who join between two flushes get one and the same snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pending::Pending;
use super::schemas::Schemas;
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{CHANGES_PER_FRAME_MAX, FRAME_BYTES_MAX};
use crate::link::wire::{self, Kind};
use crate::membership::FromCoordinator;
use crate::metrics::Report;
use crate::schema::SchemaBytes;
use crate::topology::{Change, Topology};

/// Frames in order, shared by all who get them: blocks of up to [`FRAME_BYTES_MAX`] bytes, each of
/// which holds one or more whole frames.
pub type Frames = Arc<[Vec<u8>]>;

/// Where frames for one node go.
pub trait Sink {
    /// Takes frames; false if there is no room for them, or nobody to take them.
    fn offer(&mut self, frames: &Frames) -> bool;
}

/// The mesh and its watchers.
#[derive(Debug)]
pub struct State<S> {
    topology: Topology,
    pending: Pending,
    /// What the watchers know is the topology without what is pending, and has this number.
    version: u64,
    /// The snapshot of this version, if anybody asked for it.
    snapshot: Option<Frames>,
    watchers: BTreeMap<NodeId, Watcher<S>>,
    schemas: Schemas,
    /// Those who look at the mesh without being in it, by the numbers of their connections.
    visitors: BTreeMap<u64, S>,
    connection_count: u64,
}

#[derive(Debug)]
struct Watcher<S> {
    /// Which connection; a later one of the same node replaces it.
    connection: u64,
    sink: S,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It gets the next snapshot; its sink has room.
    Waiting,
    /// It gets the deltas.
    Following,
    /// Frames were left out. It gets a snapshot when it has read what it has.
    Behind,
}

impl<S> Default for State<S> {
    fn default() -> Self {
        Self {
            topology: Topology::default(),
            pending: Pending::default(),
            version: 0,
            snapshot: None,
            watchers: BTreeMap::new(),
            schemas: Schemas::default(),
            visitors: BTreeMap::new(),
            connection_count: 0,
        }
    }
}

impl<S: Sink> State<S> {
    /// Lets a node in, which is told of the mesh from the next flush on; gives the number of its
    /// connection.
    ///
    /// # Errors
    /// What [`Topology::apply`] says of the node; nothing is changed then.
    pub fn register(&mut self, node_up: &Change, sink: S) -> Result<u64, Error> {
        let node = node_up.node();
        // Looked at before anything is taken from a node of that id which may be in already.
        Topology::default().apply(node_up)?;
        // A node that comes back on a new connection starts over.
        self.apply(&Change::NodeDown(node))?;
        self.schemas.forget(node);
        self.apply(node_up)?;
        self.connection_count += 1;
        let connection = self.connection_count;
        let watcher = Watcher {
            connection,
            sink,
            standing: Standing::Waiting,
        };
        self.watchers.insert(node, watcher);
        Ok(connection)
    }

    /// Lets a node go, unless a later connection of it is in.
    pub fn unregister(&mut self, node: NodeId, connection: u64) {
        let watcher = self.watchers.get(&node);
        if watcher.is_some_and(|watcher| watcher.connection == connection) {
            self.watchers.remove(&node);
            self.schemas.forget(node);
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

    /// Keeps what a node says of its types; false if there is no room for it.
    pub fn keep_schema(&mut self, node: NodeId, hash: u64, schema: SchemaBytes) -> bool {
        // A connection that was replaced may say some last words.
        !self.watchers.contains_key(&node) || self.schemas.announce(node, hash, schema)
    }

    /// Tells a node a schema, or that nobody announced it. If it does not read, it is not told: it
    /// asks again if it still wants to know.
    ///
    /// # Errors
    /// [`Error::Wire`] if it cannot be encoded, which the limits rule out.
    pub fn tell_schema(&mut self, node: NodeId, hash: u64) -> Result<(), Error> {
        let frames = self.schema(hash)?;
        if let Some(watcher) = self.watchers.get_mut(&node) {
            let _ = watcher.sink.offer(&frames);
        }
        Ok(())
    }

    /// What somebody announced, or that nobody did.
    ///
    /// # Errors
    /// [`Error::Wire`] if it cannot be encoded, which the limits rule out.
    pub fn schema(&self, hash: u64) -> Result<Frames, Error> {
        let schema = self.schemas.find(hash);
        frames_with(&FromCoordinator::Schema { hash, schema })
    }

    /// A node has read all it was offered: if frames were left out, it gets a snapshot, now or
    /// with the next flush.
    ///
    /// # Errors
    /// [`Error::Wire`] if the snapshot cannot be encoded, which the limits rule out.
    pub fn catch_up(&mut self, node: NodeId) -> Result<(), Error> {
        let Some(watcher) = self.watchers.get_mut(&node) else {
            return Ok(());
        };
        if watcher.standing != Standing::Behind {
            return Ok(());
        }
        watcher.standing = Standing::Waiting;
        if self.pending.is_empty() {
            let snapshot = self.snapshot()?;
            if let Some(watcher) = self.watchers.get_mut(&node) {
                watcher.begin(&snapshot);
            }
        }
        Ok(())
    }

    /// Tells the watchers what is pending, encoded once, and those who wait the whole.
    ///
    /// # Errors
    /// [`Error::Wire`] if a frame cannot be encoded, which the limits rule out. Nobody is told less
    /// than the deltas say: all get a snapshot then.
    pub fn flush(&mut self) -> Result<(), Error> {
        let changes = self.pending.take(&self.topology);
        if !changes.is_empty() {
            self.snapshot = None;
            self.tell(changes)?;
        }
        let is_waiting = |watcher: &Watcher<S>| watcher.standing == Standing::Waiting;
        if self.watchers.values().any(is_waiting) {
            let snapshot = self.snapshot()?;
            let waiting = self.watchers.values_mut().filter(|w| is_waiting(w));
            waiting.for_each(|watcher| watcher.begin(&snapshot));
        }
        Ok(())
    }

    fn tell(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        let mut watchers = self.watchers.values();
        if !watchers.any(|watcher| watcher.standing == Standing::Following) {
            self.version += 1;
            return Ok(());
        }
        let mut blocks = Blocks::default();
        let mut changes = changes.into_iter();
        while changes.len() > 0 {
            self.version += 1;
            let delta = FromCoordinator::Delta {
                version: self.version,
                changes: changes.by_ref().take(CHANGES_PER_FRAME_MAX).collect(),
            };
            if let Err(error) = blocks.push(&delta) {
                // The versions go on without it, so who follows must not.
                let watchers = self.watchers.values_mut();
                watchers.for_each(|watcher| watcher.standing = Standing::Behind);
                return Err(error);
            }
        }
        // One at a time, so that what may wait for a watcher is bounded in bytes.
        for block in blocks.full {
            let frames = Frames::from([block]);
            for watcher in self.watchers.values_mut() {
                if watcher.standing == Standing::Following && !watcher.sink.offer(&frames) {
                    watcher.standing = Standing::Behind;
                }
            }
        }
        Ok(())
    }

    /// The whole, as of this version; made once for all who join it.
    fn snapshot(&mut self) -> Result<Frames, Error> {
        debug_assert!(self.pending.is_empty(), "it would come again as a delta");
        if let Some(snapshot) = &self.snapshot {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = frames_of(&self.topology, self.version)?;
        self.snapshot = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// The mesh as it is now, for a visitor, who does not follow its versions.
    ///
    /// # Errors
    /// [`Error::Wire`] if it cannot be encoded, which the limits rule out.
    pub fn look(&mut self) -> Result<Frames, Error> {
        if self.pending.is_empty() {
            return self.snapshot();
        }
        frames_of(&self.topology, self.version)
    }

    /// Lets a visitor in, who is told what nodes say to him; gives the number of his connection.
    pub fn visit(&mut self, sink: S) -> u64 {
        self.connection_count += 1;
        self.visitors.insert(self.connection_count, sink);
        self.connection_count
    }

    /// A visitor is gone.
    pub fn end_visit(&mut self, visitor: u64) {
        self.visitors.remove(&visitor);
    }

    /// Asks nodes what they count, for a visitor. What is given is for him: which of them cannot be
    /// asked, because they are not there or have no room for a word more.
    ///
    /// # Errors
    /// [`Error::Wire`] if it cannot be encoded, which the limits rule out.
    pub fn ask_counts(&mut self, visitor: u64, nodes: &[NodeId]) -> Result<Frames, Error> {
        let question = frames_with(&FromCoordinator::WantCounts { visitor })?;
        let mut unasked = Blocks::default();
        // Who is named twice is asked once.
        for node in nodes.iter().collect::<BTreeSet<_>>() {
            let watcher = self.watchers.get_mut(node);
            if !watcher.is_some_and(|watcher| watcher.sink.offer(&question)) {
                let (node, report) = (*node, None);
                unasked.push(&FromCoordinator::Counts { node, report })?;
            }
        }
        Ok(Frames::from(unasked.full))
    }

    /// Tells a visitor what a node counts, if he is there and has room.
    ///
    /// # Errors
    /// [`Error::Wire`] if it cannot be encoded.
    pub fn tell_counts(&mut self, node: NodeId, visitor: u64, report: Report) -> Result<(), Error> {
        if let Some(sink) = self.visitors.get_mut(&visitor) {
            let report = Some(report);
            let _ = sink.offer(&frames_with(&FromCoordinator::Counts { node, report })?);
        }
        Ok(())
    }

    /// Tells nodes to leave; how many of them have room for a word more.
    ///
    /// # Errors
    /// [`Error::Wire`] if that cannot be encoded, which the limits rule out.
    pub fn dismiss(&mut self, nodes: &[NodeId]) -> Result<usize, Error> {
        let leave = frames_with(&FromCoordinator::Leave)?;
        let mut tell = |node: &&NodeId| {
            let watcher = self.watchers.get_mut(node);
            watcher.is_some_and(|watcher| watcher.sink.offer(&leave))
        };
        Ok(nodes.iter().filter(|node| tell(node)).count())
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        self.pending.apply(&mut self.topology, change)
    }
}

impl<S: Sink> Watcher<S> {
    fn begin(&mut self, snapshot: &Frames) {
        self.standing = if self.sink.offer(snapshot) {
            Standing::Following
        } else {
            Standing::Behind
        };
    }
}

/// One word.
fn frames_with(word: &FromCoordinator) -> Result<Frames, Error> {
    Ok(Frames::from([wire::encode(Kind::FromCoordinator, word)?]))
}

/// All that makes this topology.
fn frames_of(topology: &Topology, version: u64) -> Result<Frames, Error> {
    let mut blocks = Blocks::default();
    let mut changes = topology.changes().peekable();
    let mut is_first = true;
    while is_first || changes.peek().is_some() {
        let part = changes.by_ref().take(CHANGES_PER_FRAME_MAX).collect();
        blocks.push(&FromCoordinator::Snapshot {
            version,
            is_first,
            is_last: changes.peek().is_none(),
            changes: part,
        })?;
        is_first = false;
    }
    Ok(Frames::from(blocks.full))
}

/// Frames, packed: a write and a place in a queue for each block instead of each frame.
#[derive(Default)]
struct Blocks {
    full: Vec<Vec<u8>>,
}

impl Blocks {
    fn push(&mut self, word: &FromCoordinator) -> Result<(), Error> {
        let frame = wire::encode(Kind::FromCoordinator, word)?;
        match self.full.last_mut() {
            Some(block) if block.len() + frame.len() <= FRAME_BYTES_MAX => {
                block.extend_from_slice(&frame);
            }
            _ => self.full.push(frame),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
