//! Keys of maps and items of sets: what their hashes are, and their order, as of the Rust types.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::super::table::is_name;
use super::super::{Kind, Scalar, SchemaError, Type};
use super::json::{one_char, whole};
use super::rank::{NoKey, Order, rank};
use super::{Misfit, Step, Writer, wanted};

/// An entry, or an item of a set, which has no value.
pub(super) struct Item<'a> {
    pub(super) key: Key<'a>,
    pub(super) value: Option<&'a Json>,
}

pub(super) struct Key<'a> {
    pub(super) step: Step,
    /// True if the key is the first of two in an array, and its value the second.
    pub(super) is_paired: bool,
    pub(super) json: Cow<'a, Json>,
    /// Nothing if that cannot be known.
    pub(super) hash: Option<u64>,
    pub(super) order: Order,
}

impl Writer {
    /// The entries of an object or of an array of pairs, or the items of an array that is a set.
    pub(super) fn items_by_key<'a>(
        &mut self,
        ty: u32,
        is_set: bool,
        json: &'a Json,
    ) -> Result<Vec<Item<'a>>, SchemaError> {
        match (json, is_name(self.ty(ty))) {
            (Json::Array(list), _) if is_set => {
                let items = list.iter().map(|item| (item, None));
                self.items_by_order(ty, items, false)
            }
            (json, _) if is_set => Err(self.expected(wanted::SET, json)),
            (Json::Object(object), true) => {
                let entries = object.iter().map(|(name, value)| {
                    let key = self.named_key(ty, name)?;
                    let value = Some(value);
                    Ok(Item { key, value })
                });
                entries.collect()
            }
            (Json::Array(list), false) => {
                let mut pairs = Vec::with_capacity(list.len());
                for (idx, json) in list.iter().enumerate() {
                    let Some([key, value]) = json.as_array().map(Vec::as_slice) else {
                        self.path.push(Step::Item(idx));
                        return Err(self.expected("an array of a key and a value", json));
                    };
                    pairs.push((key, Some(value)));
                }
                self.items_by_order(ty, pairs.into_iter(), true)
            }
            (json, is_named) => Err(self.expected(wanted::map_of(is_named), json)),
        }
    }

    /// In the order of their keys, so that the same is the same archive, however it was listed.
    fn items_by_order<'a>(
        &mut self,
        ty: u32,
        list: impl ExactSizeIterator<Item = (&'a Json, Option<&'a Json>)>,
        is_paired: bool,
    ) -> Result<Vec<Item<'a>>, SchemaError> {
        let mut items = Vec::with_capacity(list.len());
        let mut met = BTreeSet::new();
        for (idx, (json, value)) in list.enumerate() {
            self.path.push(Step::Item(idx));
            if is_paired {
                self.path.push(Step::Item(0));
            }
            let (hash, order) = self.rank(ty, json)?;
            if !met.insert(order.clone()) {
                let what = if is_paired { "a key" } else { "an item" };
                return Err(self.expected(&format!("{what} that is not there before"), json));
            }
            self.path
                .truncate(self.path.len() - 1 - usize::from(is_paired));
            let key = Key {
                step: Step::Item(idx),
                is_paired,
                json: Cow::Borrowed(json),
                hash,
                order,
            };
            items.push(Item { key, value });
        }
        items.sort_unstable_by(|a, b| a.key.order.cmp(&b.key.order));
        Ok(items)
    }

    /// The key that a name stands for.
    fn named_key<'a>(&mut self, ty: u32, name: &str) -> Result<Key<'a>, SchemaError> {
        let Some(json) = json_of(self.ty(ty), name) else {
            self.path.push(Step::Name(name.into()));
            let found = Json::String(name.into()).to_string();
            let expected = format!("a key of type {}", self.name_of(ty));
            return Err(self.misfit(Misfit(expected, crate::name::escaped(&found))));
        };
        let (hash, order) = self.rank(ty, &json)?;
        Ok(Key {
            step: Step::Name(name.into()),
            is_paired: false,
            json: Cow::Owned(json),
            hash,
            order,
        })
    }

    fn rank(&self, ty: u32, json: &Json) -> Result<(Option<u64>, Order), SchemaError> {
        rank(&self.schema, ty, json).map_err(|why| match why {
            NoKey::Type => self.no_key(json),
            NoKey::Value => self.expected(&self.name_of(ty), json),
        })
    }

    pub(super) fn no_key(&self, json: &Json) -> SchemaError {
        let expected = "nothing: maps and sets with keys of this type cannot be written";
        self.expected(expected, json)
    }
}

/// What a name is as a key.
fn json_of(ty: &Type, name: &str) -> Option<Json> {
    match ty.kind {
        Kind::Scalar(Scalar::Bool) => name.parse().ok().map(Json::Bool),
        Kind::Scalar(Scalar::Char) => one_char(name).map(|_| name.into()),
        Kind::Scalar(kind) | Kind::NonZero(kind) => {
            whole(kind, name)?;
            // Two spellings of a key would be two entries.
            let digits = name.strip_prefix('-').unwrap_or(name);
            if digits.starts_with(['+', '0']) && name != "0" {
                return None;
            }
            match kind {
                Scalar::U128 | Scalar::I128 => Some(name.into()),
                _ => serde_json::from_str(name).ok(),
            }
        }
        _ => Some(name.into()),
    }
}
