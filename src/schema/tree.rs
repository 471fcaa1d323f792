//! What rkyv's B-trees look like, as its version 0.8 lays them out: nodes of a byte that says which
//! they are, five keys, five values, and then how many of these there are (a leaf) or pointers to
//! six nodes (an inner one, which is always full). A pointer to nowhere says 1.

use super::read::wrong;
use super::table::{array_at, is_nowhere, target};
use super::{SchemaError, Type};

/// Where things are in the nodes of one tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    keys: Items,
    values: Items,
    /// Where the number of a leaf's entries is, or an inner node's pointers.
    pub(super) behind: usize,
    pub(super) leaf_bytes: usize,
    pub(super) inner_bytes: usize,
    pub(super) align: usize,
}

/// Items that lie side by side.
#[derive(Clone, Copy, Debug)]
struct Items {
    offset: usize,
    size: usize,
}

impl Layout {
    /// Without a value for sets.
    pub(super) fn new(key: &Type, value: Option<&Type>) -> Self {
        // Sizes and alignments are checked to be those of messages, so sums of few stay small.
        let shape =
            |ty: Option<&Type>| ty.map_or((0, 1), |ty| (ty.size as usize, ty.align as usize));
        let (key_size, key_align) = shape(Some(key));
        let (value_size, value_align) = shape(value);
        let keys = Items {
            offset: 1_usize.next_multiple_of(key_align),
            size: key_size,
        };
        let values = Items {
            offset: keys.at(ENTRIES).next_multiple_of(value_align),
            size: value_size,
        };
        let node_align = key_align.max(value_align);
        let node_bytes = values.at(ENTRIES).next_multiple_of(node_align);
        let behind = node_bytes.next_multiple_of(POINTER);
        let align = node_align.max(POINTER);
        Self {
            keys,
            values,
            behind,
            leaf_bytes: (behind + POINTER).next_multiple_of(align),
            inner_bytes: (behind + POINTER * (ENTRIES + 1)).next_multiple_of(align),
            align,
        }
    }

    /// Where a key and a value are in a node.
    pub(super) fn entry(&self, idx: usize) -> (usize, usize) {
        (self.keys.at(idx), self.values.at(idx))
    }
}

impl Items {
    fn at(self, idx: usize) -> usize {
        self.offset + idx * self.size
    }
}

/// The entries of a tree, in the order of their keys: where the key is, and the value.
#[derive(Debug)]
pub(super) struct InOrder<'a> {
    bytes: &'a [u8],
    layout: &'a Layout,
    /// The nodes that are being looked at, and what is next in each.
    nodes: [Visit; LEVELS_MAX],
    level: usize,
    /// Entries that are still to come.
    left: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Visit {
    at: usize,
    is_inner: bool,
    len: usize,
    /// What is next: of an inner node the node before an entry, then the entry.
    next: usize,
    is_below_done: bool,
}

impl<'a> InOrder<'a> {
    /// Those of the tree at `at`.
    pub(super) fn find(
        bytes: &'a [u8],
        at: usize,
        layout: &'a Layout,
    ) -> Result<Self, SchemaError> {
        let left = u32::from_le_bytes(array_at(bytes, at + 4)?) as usize;
        // Each leaf has bytes of its own, more than entries, whatever these take.
        if left > bytes.len() {
            return Err(wrong("a tree with more than there is room for", at));
        }
        let mut found = Self {
            bytes,
            layout,
            nodes: [Visit::default(); LEVELS_MAX],
            level: 0,
            left,
        };
        if left > 0 {
            found.descend(at)?;
        }
        Ok(found)
    }

    pub(super) fn len(&self) -> usize {
        self.left
    }

    /// Goes to the node that the pointer at `at` leads to.
    fn descend(&mut self, at: usize) -> Result<(), SchemaError> {
        let node = target(self.bytes, at, self.layout.leaf_bytes)?;
        let (is_inner, len) = match array_at(self.bytes, node)? {
            [0] => {
                let len = u32::from_le_bytes(array_at(self.bytes, node + self.layout.behind)?);
                (false, len as usize)
            }
            [1] => {
                target(self.bytes, at, self.layout.inner_bytes)?;
                (true, ENTRIES)
            }
            _ => return Err(wrong("a node of a tree that is none", node)),
        };
        if len > ENTRIES {
            return Err(wrong("a leaf with more than it has room for", node));
        }
        let visit = Visit {
            at: node,
            is_inner,
            len,
            ..Visit::default()
        };
        let level = self.nodes.get_mut(self.level);
        *level.ok_or_else(|| wrong("a tree that is too high", node))? = visit;
        self.level += 1;
        Ok(())
    }

    /// The next entry, as long as there is one.
    fn step(&mut self) -> Result<Option<(usize, usize)>, SchemaError> {
        while let Some(above) = self.level.checked_sub(1) {
            let visit = &mut self.nodes[above];
            if visit.is_inner && !visit.is_below_done {
                visit.is_below_done = true;
                let pointer = visit.at + self.layout.behind + POINTER * visit.next;
                if !is_nowhere(self.bytes, pointer)? {
                    self.descend(pointer)?;
                }
                continue;
            }
            if visit.next == visit.len {
                self.level = above;
                continue;
            }
            let (key, value) = self.layout.entry(visit.next);
            let entry = (visit.at + key, visit.at + value);
            visit.next += 1;
            visit.is_below_done = false;
            return Ok(Some(entry));
        }
        Ok(None)
    }
}

impl Iterator for InOrder<'_> {
    type Item = Result<(usize, usize), SchemaError>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.step(), self.left.checked_sub(1)) {
            (Ok(None), None) => None,
            (Ok(Some(entry)), Some(left)) => {
                self.left = left;
                Some(Ok(entry))
            }
            (Err(error), _) => Some(Err(error)),
            _ => {
                let root = self.nodes[0].at;
                Some(Err(wrong("a tree that miscounts its entries", root)))
            }
        }
    }
}

/// Entries of a full node.
pub(super) const ENTRIES: usize = 5;
/// Bytes of a pointer or a number.
const POINTER: usize = 4;
/// Levels of the highest tree of less than 2^32 entries are fewer.
const LEVELS_MAX: usize = 16;
