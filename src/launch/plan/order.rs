//! Which node may need which, as far as the launch file says: who needs others ends before them.

use super::super::config::Dependency;
use super::NodePlan;

/// What the launch file says of the order.
#[derive(Debug)]
pub(super) struct Order {
    places: Vec<Place>,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In the row, behind so many delays: that is rosy's way to say that one needs another.
    Row(usize),
    /// Beside it, needing these nodes.
    Beside(Vec<usize>),
    /// Beside it, needing whoever publishes a topic, provides a service or has a name in the mesh:
    /// the file does not know who that is.
    Anywhere,
}

impl Order {
    pub(super) fn new(nodes: &[NodePlan]) -> Self {
        let mut delays = 0;
        let mut places = Vec::new();
        for node in nodes {
            if node.depends_on.is_empty() {
                delays += usize::from(!node.pre_delay.is_zero());
                places.push(Place::Row(delays));
                delays += usize::from(!node.post_delay.is_zero());
                continue;
            }
            let idx = |one: &Dependency| match one {
                Dependency::Node(name) => nodes.iter().position(|node| node.name == *name),
                _ => None,
            };
            let needed: Option<Vec<usize>> = node.depends_on.iter().map(idx).collect();
            places.push(needed.map_or(Place::Anywhere, Place::Beside));
        }
        Self { places }
    }

    /// True if `later` may need `earlier`, which was begun before it.
    pub(super) fn may_need(&self, later: usize, earlier: usize) -> bool {
        match (&self.places[later], &self.places[earlier]) {
            (Place::Row(later), Place::Row(earlier)) => later > earlier,
            (Place::Row(_), _) => false,
            (Place::Beside(needed), _) => needed.contains(&earlier),
            (Place::Anywhere, _) => true,
        }
    }
}
