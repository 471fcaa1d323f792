//! Keys of maps and items of sets: what their hashes are, and their order, as of the Rust types.

use std::collections::BTreeSet;

use rkyv::hash::{FxHasher64, hash_value};
use serde_json::Value as Json;

use super::super::table::is_name;
use super::super::{Kind, Scalar, SchemaError, Type};
use super::json::{one_char, whole};
use super::{Misfit, Step, Writer};

/// An entry, or an item of a set, which has no value.
pub(super) struct Item<'a> {
    pub(super) key: Key,
    pub(super) value: Option<&'a Json>,
}

pub(super) struct Key {
    pub(super) name: String,
    pub(super) json: Json,
    pub(super) hash: u64,
    /// Of two keys the one whose bytes are less comes first.
    pub(super) order: Vec<u8>,
}

impl Writer {
    /// The entries of an object, or the items of an array that is a set.
    pub(super) fn items_by_key<'a>(
        &mut self,
        ty: u32,
        is_set: bool,
        json: &'a Json,
    ) -> Result<Vec<Item<'a>>, SchemaError> {
        if !is_name(self.ty(ty)) {
            let expected = "nothing: maps and sets with keys of this type cannot be written";
            return Err(self.expected(expected, json));
        }
        match json {
            Json::Object(object) if !is_set => {
                let entries = object.iter().map(|(name, value)| {
                    let key = self.key(ty, name, None)?;
                    let value = Some(value);
                    Ok(Item { key, value })
                });
                entries.collect()
            }
            Json::Array(list) if is_set => self.items_of_set(ty, list),
            json if is_set => Err(self.expected("an array", json)),
            json => Err(self.expected("an object", json)),
        }
    }

    fn items_of_set(&mut self, ty: u32, list: &[Json]) -> Result<Vec<Item<'static>>, SchemaError> {
        let mut items = Vec::with_capacity(list.len());
        let mut met = BTreeSet::new();
        for (idx, json) in list.iter().enumerate() {
            self.path.push(Step::Item(idx));
            let name = json.as_str().map_or_else(|| json.to_string(), String::from);
            let key = self.key(ty, &name, Some(json))?;
            if !met.insert(key.order.clone()) {
                return Err(self.expected("an item that is not there before", json));
            }
            self.path.pop();
            items.push(Item { key, value: None });
        }
        // So that the same set is the same archive, whatever its order.
        items.sort_unstable_by(|a, b| a.key.order.cmp(&b.key.order));
        Ok(items)
    }

    /// The key that a name stands for, or the item of a set with it.
    fn key(&mut self, ty: u32, name: &str, item: Option<&Json>) -> Result<Key, SchemaError> {
        let Some((hash, order, json)) = key_of(self.ty(ty), name) else {
            let expected = self.name_of(ty);
            if let Some(item) = item {
                return Err(self.expected(&expected, item));
            }
            self.path.push(Step::Name(name.into()));
            let found = Json::String(name.into()).to_string();
            let expected = format!("a key of type {expected}");
            return Err(self.misfit(Misfit(expected, crate::name::escaped(&found))));
        };
        Ok(Key {
            name: name.into(),
            json: item.cloned().unwrap_or(json),
            hash,
            order,
        })
    }
}

/// What a name is as a key: its hash, its order, and its JSON.
fn key_of(ty: &Type, name: &str) -> Option<(u64, Vec<u8>, Json)> {
    let text = || Json::String(name.into());
    match ty.kind {
        Kind::String | Kind::Str => {
            let hash = hash_value::<str, FxHasher64>(name);
            Some((hash, name.into(), text()))
        }
        Kind::Scalar(Scalar::Bool) => {
            let is = name.parse::<bool>().ok()?;
            let hash = hash_value::<bool, FxHasher64>(&is);
            Some((hash, vec![is.into()], Json::Bool(is)))
        }
        Kind::Scalar(Scalar::Char) => {
            let char = one_char(name)?;
            let hash = hash_value::<char, FxHasher64>(&char);
            Some((hash, u32::from(char).to_be_bytes().into(), text()))
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
            let wide = u128::from_le_bytes(number);
            Some((hash_of(kind, wide)?, order_of(kind, wide), json))
        }
        _ => None,
    }
}

/// The hash of a number of this type, whose bytes have zeros above them.
fn hash_of(kind: Scalar, wide: u128) -> Option<u64> {
    Some(match kind {
        Scalar::U8 | Scalar::I8 => hash_value::<u8, FxHasher64>(&u8::try_from(wide).ok()?),
        Scalar::U16 | Scalar::I16 => hash_value::<u16, FxHasher64>(&u16::try_from(wide).ok()?),
        Scalar::U32 | Scalar::I32 => hash_value::<u32, FxHasher64>(&u32::try_from(wide).ok()?),
        Scalar::U64 | Scalar::I64 => hash_value::<u64, FxHasher64>(&u64::try_from(wide).ok()?),
        Scalar::Isize => {
            let number = u32::try_from(wide).ok()?.cast_signed();
            hash_value::<i64, FxHasher64>(&number.into())
        }
        Scalar::U128 | Scalar::I128 => hash_value::<u128, FxHasher64>(&wide),
        _ => return None,
    })
}

/// With the sign's bit turned over, so that bytes are in the order of the numbers.
fn order_of(kind: Scalar, wide: u128) -> Vec<u8> {
    let sign = match kind {
        Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64 | Scalar::I128 | Scalar::Isize => {
            1 << (8 * kind.size() - 1)
        }
        _ => 0,
    };
    (wide ^ sign).to_be_bytes().into()
}
