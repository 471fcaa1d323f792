//! What is known of a mesh, once for all nodes of this process that are in it.
//!
//! Each of them hears the same changes from the coordinator, and they are numbered: the node that
//! hears of a version first takes it in for all. So what a node costs in memory does not grow with
//! the mesh, as long as another node of its process is in it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use crate::endpoint::lock;
use crate::topology::{Change, Topology};

/// A mesh as of some version, or later than a node has heard.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// None before the first snapshot.
    version: Option<u64>,
    topology: Topology,
}

/// Of one run of a coordinator: where it is found, and its epoch.
type Run = (String, u64);

static KNOWN: LazyLock<Mutex<HashMap<Run, Weak<Mutex<Known>>>>> = LazyLock::new(Mutex::default);

impl Known {
    /// What is known under this run of the coordinator at `address`.
    fn of(address: &str, epoch: u64) -> Arc<Mutex<Self>> {
        let mut all = lock(&KNOWN);
        all.retain(|_, known| known.strong_count() > 0);
        let place = all.entry((address.to_owned(), epoch)).or_default();
        place.upgrade().unwrap_or_else(|| {
            let known = Arc::default();
            *place = Arc::downgrade(&known);
            known
        })
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The whole as of a version, unless a later one is known.
    fn replace(&mut self, version: u64, whole: Topology) {
        if self.version.is_none_or(|known| known < version) {
            *self = Self {
                version: Some(version),
                topology: whole,
            };
        }
    }

    /// What changed with a version, unless that is known.
    fn advance(&mut self, version: u64, changes: &[Change]) {
        if self.version.is_none_or(|known| known < version) {
            self.version = Some(version);
            apply(&mut self.topology, changes);
        }
    }
}

/// What a node sees of its mesh.
#[derive(Debug, Default)]
pub(crate) struct View(Mutex<Arc<Mutex<Known>>>);

impl View {
    /// To be looked at under its lock, shortly: it is that of other nodes, too.
    pub(crate) fn known(&self) -> Arc<Mutex<Known>> {
        Arc::clone(&lock(&self.0))
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&Topology) -> T) -> T {
        look(lock(&self.known()).topology())
    }

    /// Takes what another node of this process was told by the run `epoch` of the coordinator at
    /// `address`, until our own snapshot comes. False if there is none.
    pub(crate) fn share(&self, address: &str, epoch: u64) -> bool {
        let known = Known::of(address, epoch);
        let is_known = lock(&known).version.is_some();
        if is_known {
            *lock(&self.0) = known;
        }
        is_known
    }

    /// A snapshot from the run `epoch` of the coordinator at `address` takes the place of what was
    /// known.
    pub(crate) fn begin(&self, address: &str, epoch: u64, version: u64, whole: Topology) {
        let known = Known::of(address, epoch);
        lock(&known).replace(version, whole);
        *lock(&self.0) = known;
    }

    /// What changed with the version after the last that this node heard of.
    pub(crate) fn advance(&self, version: u64, changes: &[Change]) {
        lock(&self.known()).advance(version, changes);
    }
}

/// Applies what a coordinator said. One that breaks its word is not worth more than a line.
pub(crate) fn apply(topology: &mut Topology, changes: &[Change]) {
    for change in changes {
        if let Err(error) = topology.apply(change) {
            tracing::warn!(
                target: "shmesh::topology", %error, "the coordinator sent a change that cannot be"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::topology::NodeInfo;

    fn up(id: u128) -> Change {
        Change::NodeUp(NodeInfo {
            id: NodeId(id),
            name: format!("n{id}"),
            host: crate::id::HostId(1),
            uid: 0,
            pid: 1,
            socket: String::new(),
            addresses: Vec::new(),
        })
    }

    fn whole(ids: &[u128]) -> Topology {
        let mut topology = Topology::default();
        apply(
            &mut topology,
            &ids.iter().copied().map(up).collect::<Vec<_>>(),
        );
        topology
    }

    fn ids(view: &View) -> Vec<u128> {
        view.with(|topology| topology.nodes().map(|node| node.id.0).collect())
    }

    #[test]
    fn whoever_hears_first_takes_it_in_for_all_and_nobody_goes_back() {
        let [one, two] = [View::default(), View::default()];
        one.begin("here:1", 7, 1, whole(&[1]));
        two.begin("here:1", 7, 2, whole(&[1, 2]));
        assert!(Arc::ptr_eq(&one.known(), &two.known()));
        assert_eq!((ids(&one), ids(&two)), (vec![1, 2], vec![1, 2]));
        // The other hears of it now: it is known, and so is what the first one hears first.
        one.advance(2, &[up(2)]);
        one.advance(3, &[Change::NodeDown(NodeId(1))]);
        two.advance(3, &[Change::NodeDown(NodeId(1))]);
        two.begin("here:1", 7, 3, whole(&[2]));
        one.advance(4, &[up(4)]);
        two.begin("here:1", 7, 3, whole(&[2]));
        assert_eq!((ids(&one), ids(&two)), (vec![2, 4], vec![2, 4]));
    }

    #[test]
    fn other_runs_and_other_coordinators_are_other_meshes() {
        let [one, two, three] = [View::default(), View::default(), View::default()];
        one.begin("here:2", 7, 5, whole(&[1]));
        two.begin("here:2", 8, 1, whole(&[2]));
        three.begin("there:2", 7, 1, whole(&[3]));
        assert_eq!([&one, &two, &three].map(ids), [[1], [2], [3]]);
        // It moves to the new run, and the old one is forgotten with its last node.
        one.begin("here:2", 8, 1, whole(&[2]));
        assert!(Arc::ptr_eq(&one.known(), &two.known()));
        drop([one, two]);
        let late = View::default();
        late.begin("here:2", 8, 1, whole(&[9]));
        assert_eq!(ids(&late), [9]);
    }
}
