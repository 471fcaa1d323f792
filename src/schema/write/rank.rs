//! What the `Hash` and `Ord` that Rust derives make of a value that is told as JSON: a hash table
//! of rkyv's has its entries where the hashes of the Rust values say, a B-tree in their order.
//!
//! Whoever implements them by hand for a type of keys has others; a schema does not say so.

use std::hash::{Hash as _, Hasher as _};

use rkyv::hash::FxHasher64;
use serde_json::Value as Json;

use super::super::{Fields, Kind, Scalar, Schema, Shape, Variant};
use super::json::scalar;
use crate::limits::SCHEMA_VALUE_DEPTH_MAX;

/// A value among others of its type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// With the sign's bit turned over, so that it is in the order of the numbers.
    Number(u128),
    Text(String),
    List(Vec<Self>),
}

/// Why a value is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No value of its type is.
    Type,
    /// It is none of its type.
    Value,
}

/// The hash and the order of a value; no hash where two Rust types look like one, but hash
/// differently.
pub(super) fn rank(schema: &Schema, ty: u32, json: &Json) -> Result<(Option<u64>, Order), NoKey> {
    let mut ranked = Ranked {
        schema,
        hasher: Some(FxHasher64::default()),
        depth: 0,
    };
    let order = ranked.value(ty, json)?;
    Ok((ranked.hasher.map(|hasher| hasher.finish()), order))
}

struct Ranked<'a> {
    schema: &'a Schema,
    hasher: Option<FxHasher64>,
    depth: usize,
}

impl Ranked<'_> {
    fn value(&mut self, ty: u32, json: &Json) -> Result<Order, NoKey> {
        self.depth += 1;
        if self.depth > SCHEMA_VALUE_DEPTH_MAX {
            return Err(NoKey::Value);
        }
        let order = self.kind(ty, json)?;
        self.depth -= 1;
        Ok(order)
    }

    fn kind(&mut self, ty: u32, json: &Json) -> Result<Order, NoKey> {
        let ty = &self.schema.types()[ty as usize];
        match &ty.kind {
            Kind::Scalar(kind) | Kind::NonZero(kind) => self.number(*kind, json),
            Kind::String | Kind::Str => {
                let text = json.as_str().ok_or(NoKey::Value)?;
                if let Some(hasher) = &mut self.hasher {
                    text.hash(hasher);
                }
                Ok(Order::Text(text.into()))
            }
            Kind::Duration => {
                let part = |name| json.get(name).ok_or(NoKey::Value);
                let seconds = self.number(Scalar::U64, part("secs")?)?;
                Ok(Order::List(vec![
                    seconds,
                    self.number(Scalar::U32, part("nanos")?)?,
                ]))
            }
            Kind::Struct(fields) => {
                // Hashed is also whether it was iterated over to its end, which no archive tells.
                if ty.name.starts_with("RangeInclusive<") {
                    self.hasher = None;
                }
                self.fields(fields, json).map(Order::List)
            }
            Kind::Enum(variants) => self.variant(variants, json),
            Kind::Option(_) if json.is_null() => Ok(Order::List(vec![self.tag(0)])),
            Kind::Option(some) => {
                let tag = self.tag(1);
                Ok(Order::List(vec![tag, self.value(some.ty, json)?]))
            }
            Kind::List(item) => {
                // A `Vec` of numbers is hashed at once, a `VecDeque` number by number.
                if self.is_whole(*item) {
                    self.hasher = None;
                }
                self.items(*item, json)
            }
            Kind::Array { item, .. } if self.is_whole(*item) => self.numbers(*item, json),
            Kind::Array { item, .. } => self.items(*item, json),
            Kind::Box(inner) | Kind::Shared(inner) => self.value(*inner, json),
            _ => Err(NoKey::Type),
        }
    }

    fn number(&mut self, kind: Scalar, json: &Json) -> Result<Order, NoKey> {
        if matches!(kind, Scalar::F32 | Scalar::F64) {
            return Err(NoKey::Type);
        }
        let bytes = scalar(kind, json).map_err(|_| NoKey::Value)?;
        let wide = u128::from_le_bytes(bytes);
        let low = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
        if let Some(hasher) = &mut self.hasher {
            match kind {
                Scalar::U128 | Scalar::I128 => hasher.write_u128(wide),
                // Of 64 bits, with its sign.
                #[allow(clippy::cast_possible_truncation)] // it has 32 bits
                Scalar::Isize => hasher.write_i64((low as u32).cast_signed().into()),
                // All other widths are hashed as if they had 64 bits.
                _ => hasher.write_u64(low),
            }
        }
        let sign = match kind {
            Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64 | Scalar::I128 | Scalar::Isize => {
                1 << (8 * kind.size() - 1)
            }
            _ => 0,
        };
        Ok(Order::Number(wide ^ sign))
    }

    fn tag(&mut self, tag: u8) -> Order {
        if let Some(hasher) = &mut self.hasher {
            hasher.write_u8(tag);
        }
        Order::Number(tag.into())
    }

    fn variant(&mut self, variants: &[Variant], json: &Json) -> Result<Order, NoKey> {
        let (name, inner) = match json {
            Json::String(name) => (name, &Json::Null),
            Json::Object(object) if object.len() == 1 => {
                object.iter().next().ok_or(NoKey::Value)?
            }
            _ => return Err(NoKey::Value),
        };
        let found = variants.iter().find(|variant| variant.name == *name);
        let found = found.ok_or(NoKey::Value)?;
        // One that cannot be another is not told apart.
        let tag = (variants.len() > 1).then(|| self.tag(found.tag));
        let mut order: Vec<_> = tag.into_iter().collect();
        order.extend(self.fields(&found.fields, inner)?);
        Ok(Order::List(order))
    }

    fn fields(&mut self, fields: &Fields, json: &Json) -> Result<Vec<Order>, NoKey> {
        let is_tuple = fields.shape == Shape::Tuple;
        if is_tuple && json.as_array().map(Vec::len) != Some(fields.list.len()) {
            return Err(NoKey::Value);
        }
        let list = fields.list.iter().enumerate();
        let ordered = list.map(|(idx, field)| {
            let inner = match fields.shape {
                Shape::Unit | Shape::Newtype => Some(json),
                Shape::Tuple => json.get(idx),
                // An option may be left out.
                Shape::Named if json.is_object() => {
                    Some(json.get(&field.name).unwrap_or(&Json::Null))
                }
                Shape::Named => None,
            };
            self.value(field.place.ty, inner.ok_or(NoKey::Value)?)
        });
        ordered.collect()
    }

    fn items(&mut self, item: u32, json: &Json) -> Result<Order, NoKey> {
        let list = json.as_array().ok_or(NoKey::Value)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.write_usize(list.len());
        }
        let ordered = list.iter().map(|json| self.value(item, json));
        ordered.collect::<Result<_, _>>().map(Order::List)
    }

    /// An array of whole numbers, whose bytes are hashed at once.
    fn numbers(&mut self, item: u32, json: &Json) -> Result<Order, NoKey> {
        let (Kind::Scalar(kind), Some(list)) =
            (&self.schema.types()[item as usize].kind, json.as_array())
        else {
            return Err(NoKey::Value);
        };
        // `usize` and `isize` have more bytes than their archives.
        let hasher = self.hasher.take();
        let is_known = !matches!(kind, Scalar::U32 | Scalar::Isize);
        let mut bytes = Vec::with_capacity(list.len() * kind.size() as usize);
        let mut ordered = Vec::with_capacity(list.len());
        for json in list {
            let number = scalar(*kind, json).map_err(|_| NoKey::Value)?;
            bytes.extend_from_slice(&number[..kind.size() as usize]);
            ordered.push(self.number(*kind, json)?);
        }
        self.hasher = hasher.filter(|_| is_known).map(|mut hasher| {
            hasher.write_usize(list.len());
            hasher.write(&bytes);
            hasher
        });
        Ok(Order::List(ordered))
    }

    /// True for numbers that are hashed at once where many lie side by side.
    fn is_whole(&self, ty: u32) -> bool {
        let kind = &self.schema.types()[ty as usize].kind;
        let is_other = |scalar: &Scalar| {
            matches!(
                scalar,
                Scalar::Bool | Scalar::Char | Scalar::F32 | Scalar::F64
            )
        };
        matches!(kind, Kind::Scalar(scalar) if !is_other(scalar))
    }
}
