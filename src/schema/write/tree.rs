//! JSON objects and arrays to B-trees, whose nodes are filled and follow each other as rkyv's.

use serde_json::Value as Json;

use super::super::SchemaError;
use super::super::tree::{ENTRIES, Layout};
use super::key::Item;
use super::{Block, Writer, len32};

/// A tree in the making.
struct Tree {
    key: u32,
    value: Option<u32>,
    layout: Layout,
    height: usize,
}

/// A node in the making: entries, each with where the node is that comes before it.
type Open<'a> = Vec<(Item<'a>, Option<usize>)>;

impl Writer {
    /// A map, or a set if there is no type of values.
    pub(super) fn tree(
        &mut self,
        key: u32,
        value: Option<u32>,
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        let mut items = self.items_by_key(key, value.is_none(), json)?;
        items.sort_unstable_by(|a, b| a.key.order.cmp(&b.key.order));
        let count = items.len();
        let height = height(count);
        let layout = Layout::new(self.ty(key), value.map(|value| self.ty(value)));
        let tree = Tree {
            key,
            value,
            layout,
            height,
        };
        match self.nodes(&tree, items)? {
            Some(root) => block.point(at, root),
            None => block.point_nowhere(at),
        }
        block.write(at + 4, &len32(count).to_le_bytes());
        Ok(())
    }

    /// Writes nodes as soon as they are full; where the last one is, the root. The leaves of the
    /// lowest level come first: as many entries as the levels above have no room for.
    fn nodes(&mut self, tree: &Tree, items: Vec<Item<'_>>) -> Result<Option<usize>, SchemaError> {
        let above = (ENTRIES + 1).pow(len32(tree.height.saturating_sub(1))) - 1;
        let lowest = items.len() - above.min(items.len());
        let mut inners: Vec<Open<'_>> = Vec::new();
        inners.resize_with(tree.height.saturating_sub(1), Vec::new);
        let mut leaf = Open::new();
        // The node that was written last, until another one points to it.
        let mut below = None;
        let mut in_leaves = 0;
        let mut items = items.into_iter();
        while let Some(item) = items.next() {
            leaf.push((item, None));
            in_leaves += 1;
            if in_leaves != lowest && leaf.len() < ENTRIES {
                continue;
            }
            below = Some(self.leaf(tree, &std::mem::take(&mut leaf))?);
            if in_leaves == lowest
                && let Some(mut inner) = inners.pop()
            {
                let more = items.by_ref().take(ENTRIES - inner.len());
                inner.extend(more.map(|item| (item, below.take())));
                below = Some(self.inner(tree, &inner, below)?);
            }
            let mut closed = 0;
            while let Some(inner) = inners.pop_if(|inner| inner.len() == ENTRIES) {
                below = Some(self.inner(tree, &inner, below)?);
                closed += 1;
            }
            if let Some(inner) = inners.last_mut() {
                inner.extend(items.next().map(|item| (item, below.take())));
                inners.resize_with(inners.len() + closed, Vec::new);
            }
        }
        if !leaf.is_empty() {
            below = Some(self.leaf(tree, &leaf)?);
        }
        while let Some(inner) = inners.pop() {
            below = Some(self.inner(tree, &inner, below)?);
        }
        Ok(below)
    }

    fn leaf(&mut self, tree: &Tree, entries: &Open<'_>) -> Result<usize, SchemaError> {
        let mut block = Block::new(self.room(1, len32(tree.layout.leaf_bytes))?);
        block.write(tree.layout.behind, &len32(entries.len()).to_le_bytes());
        self.node(tree, entries, block)
    }

    fn inner(
        &mut self,
        tree: &Tree,
        entries: &Open<'_>,
        last: Option<usize>,
    ) -> Result<usize, SchemaError> {
        let mut block = Block::new(self.room(1, len32(tree.layout.inner_bytes))?);
        block.write(0, &[1]);
        let before = entries.iter().map(|(_, before)| *before);
        for (idx, node) in before.chain([last]).enumerate() {
            let at = tree.layout.behind + 4 * idx;
            match node {
                Some(node) => block.point(at, node),
                None => block.point_nowhere(at),
            }
        }
        self.node(tree, entries, block)
    }

    fn node(
        &mut self,
        tree: &Tree,
        entries: &Open<'_>,
        mut block: Block,
    ) -> Result<usize, SchemaError> {
        // Counted as if it were the lowest: few values are as deep as that they could not be.
        self.hops += tree.height - 1;
        self.hop()?;
        for (idx, (Item { key, value }, _)) in entries.iter().enumerate() {
            let (key_at, value_at) = tree.layout.entry(idx);
            let value = tree.value.zip(*value);
            self.entry(tree.key, key, value, &mut block, [key_at, value_at])?;
        }
        self.hops -= tree.height;
        self.put(&block, len32(tree.layout.align))
    }
}

/// Levels of a tree of so many entries.
fn height(count: usize) -> usize {
    count
        .checked_ilog(ENTRIES + 1)
        .map_or(0, |levels| levels as usize + 1)
}
