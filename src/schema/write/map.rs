//! JSON objects to hash tables, whose entries lie where their hashes say: those of rkyv.

use rkyv::hash::{FxHasher64, hash_value};
use serde_json::Value as Json;

use super::super::table::{GROUP, control_len, is_name};
use super::super::{Entry, Kind, Scalar, SchemaError, Type};
use super::json::{one_char, whole};
use super::{Block, Step, Writer, len32};
use crate::limits::MESSAGE_BYTES_MAX;

impl Writer {
    pub(super) fn map(
        &mut self,
        entry: &Entry,
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        let key = self.ty(entry.key.ty).clone();
        if !is_name(&key) {
            let expected = "nothing: maps with keys of this type cannot be written";
            return Err(self.expected(expected, json));
        }
        let Json::Object(object) = json else {
            return Err(self.expected("an object", json));
        };
        if object.is_empty() {
            // A pointer to nowhere, as rkyv's own.
            block.write(at, &1_i32.to_le_bytes());
            return Ok(());
        }
        let capacity = capacity(object.len());
        let mut control = vec![EMPTY; control_len(capacity)];
        let mut ordered = vec![None; capacity];
        for (name, value) in object {
            let found = key_of(&key, name);
            let Some((hash, name)) = found else {
                self.path.push(Step::Name(name.clone()));
                let expected = self.name_of(entry.key.ty);
                let text = Json::String(name.clone());
                return Err(self.expected(&format!("a key of type {expected}"), &text));
            };
            ordered[place(&mut control, capacity, hash)] = Some((name, value));
        }
        let target = self.entries(entry, &ordered)?;
        super::within(
            "bytes of a message",
            target + control.len(),
            MESSAGE_BYTES_MAX,
        )?;
        self.out.extend_from_slice(&control);
        block.point(at, target);
        block.write(at + 4, &len32(object.len()).to_le_bytes());
        block.write(at + 8, &len32(capacity).to_le_bytes());
        Ok(())
    }

    /// Writes the entries, the first of them last; where they end.
    fn entries(
        &mut self,
        entry: &Entry,
        ordered: &[Option<(Json, &Json)>],
    ) -> Result<usize, SchemaError> {
        let size = entry.size as usize;
        let mut block = Block::new(self.room(ordered.len(), entry.size)?);
        self.hop()?;
        for (idx, found) in ordered.iter().enumerate() {
            let Some((key, value)) = found else { continue };
            let at = (ordered.len() - 1 - idx) * size;
            let name = key.as_str().map_or_else(|| key.to_string(), String::from);
            self.path.push(Step::Name(name));
            self.value(
                entry.key.ty,
                key,
                &mut block,
                at + entry.key.offset as usize,
            )?;
            self.value(
                entry.value.ty,
                value,
                &mut block,
                at + entry.value.offset as usize,
            )?;
            self.path.pop();
        }
        self.hops -= 1;
        self.put(&block, entry.align)?;
        Ok(self.out.len())
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

/// What a field's name is as a key, and its hash: as the Rust type hashes itself.
fn key_of(ty: &Type, name: &str) -> Option<(u64, Json)> {
    let text = || Json::String(name.into());
    let hash_text = |text: &str| hash_value::<str, FxHasher64>(text);
    match ty.kind {
        Kind::String | Kind::Str => Some((hash_text(name), text())),
        Kind::Scalar(Scalar::Bool) => {
            let is = name.parse::<bool>().ok()?;
            Some((hash_value::<bool, FxHasher64>(&is), Json::Bool(is)))
        }
        Kind::Scalar(Scalar::Char) => {
            let char = one_char(name)?;
            Some((hash_value::<char, FxHasher64>(&char), text()))
        }
        Kind::Scalar(kind) | Kind::NonZero(kind) => {
            let number = whole(kind, name)?;
            // Two spellings of a key would be two entries.
            let digits = name.strip_prefix('-').unwrap_or(name);
            if digits.starts_with(['+', '0']) && name != "0" {
                return None;
            }
            let json = match kind {
                Scalar::U128 | Scalar::I128 => text(),
                _ => serde_json::from_str(name).ok()?,
            };
            Some((hash_number(kind, number)?, json))
        }
        _ => None,
    }
}

fn hash_number(kind: Scalar, bytes: [u8; 16]) -> Option<u64> {
    let wide = u128::from_le_bytes(bytes);
    Some(match kind {
        Scalar::U8 | Scalar::I8 => hash_value::<u8, FxHasher64>(&u8::try_from(wide).ok()?),
        Scalar::U16 | Scalar::I16 => hash_value::<u16, FxHasher64>(&u16::try_from(wide).ok()?),
        Scalar::U32 | Scalar::I32 => hash_value::<u32, FxHasher64>(&u32::try_from(wide).ok()?),
        Scalar::U64 | Scalar::I64 => hash_value::<u64, FxHasher64>(&u64::try_from(wide).ok()?),
        Scalar::U128 | Scalar::I128 => hash_value::<u128, FxHasher64>(&wide),
        _ => return None,
    })
}

/// The mark of a place where there is nothing.
const EMPTY: u8 = 0xff;
