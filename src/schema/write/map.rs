//! JSON objects and arrays to hash tables, whose entries lie where their hashes say: those of rkyv.

use serde_json::Value as Json;

use super::super::table::{GROUP, control_len};
use super::super::{Entry, SchemaError};
use super::key::{Item, Key};
use super::{Block, Step, Writer, len32};
use crate::limits::MESSAGE_BYTES_MAX;

impl Writer {
    /// A map, or a set if there are no values.
    pub(super) fn table(
        &mut self,
        entry: &Entry,
        is_set: bool,
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        let items = self.items_by_key(entry.key.ty, is_set, json)?;
        if items.is_empty() {
            block.point_nowhere(at);
            return Ok(());
        }
        let count = items.len();
        let capacity = capacity(count);
        let mut control = vec![EMPTY; control_len(capacity)];
        let mut ordered: Vec<Option<Item<'_>>> = Vec::new();
        ordered.resize_with(capacity, || None);
        for item in items {
            let hash = item.key.hash.ok_or_else(|| self.no_key(&item.key.json))?;
            let place = place(&mut control, capacity, hash);
            ordered[place] = Some(item);
        }
        let target = self.entries(entry, &ordered)?;
        super::within(
            "bytes of a message",
            target + control.len(),
            MESSAGE_BYTES_MAX,
        )?;
        self.out.extend_from_slice(&control);
        block.point(at, target);
        block.write(at + 4, &len32(count).to_le_bytes());
        block.write(at + 8, &len32(capacity).to_le_bytes());
        Ok(())
    }

    /// Writes the entries, the first of them last; where they end.
    fn entries(
        &mut self,
        entry: &Entry,
        ordered: &[Option<Item<'_>>],
    ) -> Result<usize, SchemaError> {
        let size = entry.size as usize;
        let mut block = Block::new(self.room(ordered.len(), entry.size)?);
        self.hop()?;
        for (idx, found) in ordered.iter().enumerate() {
            let Some(Item { key, value }) = found else {
                continue;
            };
            let at = (ordered.len() - 1 - idx) * size;
            let value = value.map(|value| (entry.value.ty, value));
            let places = [entry.key.offset, entry.value.offset].map(|offset| at + offset as usize);
            self.entry(entry.key.ty, key, value, &mut block, places)?;
        }
        self.hops -= 1;
        self.put(&block, entry.align)?;
        Ok(self.out.len())
    }

    /// Writes a key, and a value with its type, at their places.
    pub(super) fn entry(
        &mut self,
        ty: u32,
        key: &Key<'_>,
        value: Option<(u32, &Json)>,
        block: &mut Block,
        [key_at, value_at]: [usize; 2],
    ) -> Result<(), SchemaError> {
        self.path.push(key.step.clone());
        let depth = self.path.len();
        self.path.extend(key.is_paired.then_some(Step::Item(0)));
        self.value(ty, &key.json, block, key_at)?;
        self.path.truncate(depth);
        if let Some((ty, value)) = value {
            self.path.extend(key.is_paired.then_some(Step::Item(1)));
            self.value(ty, value, block, value_at)?;
        }
        self.path.truncate(depth - 1);
        Ok(())
    }
}

/// Places for so many entries: at most 7 of 8 are full.
fn capacity(len: usize) -> usize {
    (len * 8 / 7).max(len + 1)
}

/// Takes the first free place from where the hash leads.
fn place(control: &mut [u8], capacity: usize, hash: u64) -> usize {
    let probed = capacity.next_multiple_of(GROUP);
    let mask = control.len().next_power_of_two() - 1;
    let start = hash % capacity as u64;
    let mut at = usize::try_from(start).unwrap_or(0);
    let mut stride = 0;
    loop {
        let group = &control[at..at + GROUP];
        if let Some(free) = group.iter().position(|byte| byte & 0x80 != 0) {
            let idx = (at + free) % capacity;
            let mark = (hash >> 57).to_le_bytes()[0];
            control[idx] = mark;
            if idx < control.len() - capacity {
                control[capacity + idx] = mark;
            }
            return idx;
        }
        loop {
            stride += GROUP;
            at = (at + stride) & mask;
            if at < probed {
                break;
            }
        }
    }
}

/// The mark of a place where there is nothing.
const EMPTY: u8 = 0xff;
