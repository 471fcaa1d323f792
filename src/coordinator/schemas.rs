//! The schemas that nodes announced: bytes in, bytes out. Nobody is told of them; who wants one
//! asks, perhaps after the last node that announced it has left: a publisher may live no longer
//! than its one message. So those are kept, too, until there is no room for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::NodeId;
use crate::limits::{SCHEMAS_BYTES_MAX, SCHEMAS_LEFT_MAX, SCHEMAS_PER_NODE_MAX};
use crate::schema::SchemaBytes;

/// Schemas by hash, and who announced them.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    kept: BTreeMap<u64, Kept>,
    announced: BTreeMap<NodeId, BTreeSet<u64>>,
    /// Those that nobody who is there announced, the longest so first.
    left: VecDeque<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// Of who announced it first.
    schema: SchemaBytes,
    /// How many announced it.
    node_count: usize,
}

impl Schemas {
    /// Keeps a schema for a node; false if there is no room.
    pub(super) fn announce(&mut self, node: NodeId, hash: u64, schema: SchemaBytes) -> bool {
        let announced = self.announced.get(&node);
        if announced.is_some_and(|announced| announced.contains(&hash)) {
            return true;
        }
        if announced.map_or(0, BTreeSet::len) >= SCHEMAS_PER_NODE_MAX {
            return false;
        }
        // Whose author left is believed no longer than until somebody else says it.
        if let Some(idx) = self.left.iter().position(|left| *left == hash) {
            self.drop_left(idx);
        }
        let is_new = !self.kept.contains_key(&hash);
        if is_new && !self.make_room(schema.0.len()) {
            return false;
        }
        if is_new {
            self.bytes += schema.0.len();
        }
        let kept = self.kept.entry(hash).or_insert(Kept {
            schema,
            node_count: 0,
        });
        kept.node_count += 1;
        self.announced.entry(node).or_default().insert(hash);
        true
    }

    /// A node is gone, and what only it announced gives way to what others announce.
    pub(super) fn forget(&mut self, node: NodeId) {
        for hash in self.announced.remove(&node).unwrap_or_default() {
            let Some(kept) = self.kept.get_mut(&hash) else {
                continue;
            };
            kept.node_count -= 1;
            if kept.node_count == 0 {
                self.left.push_back(hash);
            }
        }
        while self.left.len() > SCHEMAS_LEFT_MAX {
            self.drop_left(0);
        }
    }

    pub(super) fn find(&self, hash: u64) -> Option<SchemaBytes> {
        self.kept.get(&hash).map(|kept| kept.schema.clone())
    }

    /// Drops what nobody announces any more until there is room for so many bytes; false if that
    /// is not enough.
    fn make_room(&mut self, bytes: usize) -> bool {
        while self.bytes + bytes > SCHEMAS_BYTES_MAX && !self.left.is_empty() {
            self.drop_left(0);
        }
        self.bytes + bytes <= SCHEMAS_BYTES_MAX
    }

    fn drop_left(&mut self, idx: usize) {
        let dropped = self
            .left
            .remove(idx)
            .and_then(|hash| self.kept.remove(&hash));
        self.bytes -= dropped.map_or(0, |kept| kept.schema.0.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> SchemaBytes {
        SchemaBytes(text.into())
    }

    #[test]
    fn a_schema_outlives_those_who_announced_it() {
        let mut schemas = Schemas::default();
        assert!(schemas.announce(NodeId(1), 7, bytes("seven")));
        assert!(schemas.announce(NodeId(1), 7, bytes("again")));
        assert!(schemas.announce(NodeId(2), 7, bytes("other")));
        assert!(schemas.announce(NodeId(2), 8, bytes("eight")));
        assert_eq!(schemas.find(7), Some(bytes("seven")));
        schemas.forget(NodeId(1));
        assert_eq!(schemas.find(7), Some(bytes("seven")));
        schemas.forget(NodeId(2));
        schemas.forget(NodeId(2));
        assert_eq!(schemas.find(7), Some(bytes("seven")));
        assert_eq!(schemas.find(8), Some(bytes("eight")));
        assert!(schemas.announced.is_empty());
        // But what it was is said by who is there.
        assert!(schemas.announce(NodeId(3), 7, bytes("new")));
        assert_eq!(schemas.find(7), Some(bytes("new")));
        assert_eq!((schemas.bytes, schemas.left.len()), (8, 1));
    }

    #[test]
    fn of_those_whose_nodes_left_the_latest_are_kept() {
        let mut schemas = Schemas::default();
        let most = SCHEMAS_LEFT_MAX as u64;
        for hash in 0..most + 2 {
            assert!(schemas.announce(NodeId(1), hash, bytes("x")));
            schemas.forget(NodeId(1));
        }
        let found = |hash| schemas.find(hash).is_some();
        assert_eq!([0, 1, 2, most + 1].map(found), [false, false, true, true]);
        assert_eq!(schemas.bytes, SCHEMAS_LEFT_MAX);
    }

    #[test]
    fn neither_one_node_nor_all_together_can_fill_the_memory() {
        let mut schemas = Schemas::default();
        let most = u64::try_from(SCHEMAS_PER_NODE_MAX).unwrap();
        let large = || SchemaBytes(vec![0; SCHEMAS_BYTES_MAX / 300]);
        for hash in 0..most {
            assert!(schemas.announce(NodeId(1), hash, large()));
        }
        assert!(!schemas.announce(NodeId(1), most, SchemaBytes(vec![])));
        for hash in most..300 {
            assert!(schemas.announce(NodeId(2), hash, large()));
        }
        assert!(!schemas.announce(NodeId(2), 300, large()));
        // What is there already takes no more.
        assert!(schemas.announce(NodeId(3), 0, large()));
        // What nobody announces any more gives way, the first of it first.
        schemas.forget(NodeId(1));
        assert!(schemas.announce(NodeId(2), 300, large()));
        let found = |hash| schemas.find(hash).is_some();
        assert_eq!([0, 1, 2, 300].map(found), [true, false, true, true]);
    }
}
