//! The schemas that nodes announced: bytes in, bytes out, for as long as one of the nodes is
//! there. Nobody is told of them; who wants one asks.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;
use crate::limits::{SCHEMAS_BYTES_MAX, SCHEMAS_PER_NODE_MAX};
use crate::schema::SchemaBytes;

/// Schemas by hash, and who announced them.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    kept: BTreeMap<u64, Kept>,
    announced: BTreeMap<NodeId, BTreeSet<u64>>,
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
        let count = self.announced.get(&node).map_or(0, BTreeSet::len);
        let is_new = !self.kept.contains_key(&hash);
        let bytes = if is_new { schema.0.len() } else { 0 };
        if count >= SCHEMAS_PER_NODE_MAX || self.bytes + bytes > SCHEMAS_BYTES_MAX {
            return false;
        }
        if !self.announced.entry(node).or_default().insert(hash) {
            return true;
        }
        self.bytes += bytes;
        let kept = self.kept.entry(hash).or_insert(Kept {
            schema,
            node_count: 0,
        });
        kept.node_count += 1;
        true
    }

    /// A node is gone, and with it what only it announced.
    pub(super) fn forget(&mut self, node: NodeId) {
        for hash in self.announced.remove(&node).unwrap_or_default() {
            let Some(kept) = self.kept.get_mut(&hash) else {
                continue;
            };
            kept.node_count -= 1;
            if kept.node_count == 0 {
                self.bytes -= kept.schema.0.len();
                self.kept.remove(&hash);
            }
        }
    }

    pub(super) fn find(&self, hash: u64) -> Option<SchemaBytes> {
        self.kept.get(&hash).map(|kept| kept.schema.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_kept_as_long_as_somebody_who_announced_it() {
        let mut schemas = Schemas::default();
        let bytes = |text: &str| SchemaBytes(text.into());
        assert!(schemas.announce(NodeId(1), 7, bytes("seven")));
        assert!(schemas.announce(NodeId(1), 7, bytes("again")));
        assert!(schemas.announce(NodeId(2), 7, bytes("other")));
        assert!(schemas.announce(NodeId(2), 8, bytes("eight")));
        assert_eq!(schemas.find(7), Some(bytes("seven")));
        schemas.forget(NodeId(1));
        assert_eq!(schemas.find(7), Some(bytes("seven")));
        schemas.forget(NodeId(2));
        schemas.forget(NodeId(2));
        assert_eq!((schemas.find(7), schemas.find(8)), (None, None));
        assert_eq!(schemas.bytes, 0);
        assert!(schemas.announced.is_empty());
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
        schemas.forget(NodeId(1));
        assert!(schemas.announce(NodeId(2), 300, large()));
    }
}
