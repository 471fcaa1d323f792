//! What a value of a type is in JSON, in words: the same whether another is there or none.

use super::super::table::is_name;
use super::super::{Kind, Scalar, Shape};
use super::Writer;
use crate::limits::SCHEMA_VALUE_DEPTH_MAX;

impl Writer {
    /// What a value of the type is.
    pub(super) fn wanted(&self, mut number: u32) -> String {
        // Pointers may lead in a circle, in a schema of somebody else's.
        for _ in 0..SCHEMA_VALUE_DEPTH_MAX {
            let ty = self.ty(number);
            match &ty.kind {
                Kind::Box(inner) | Kind::Shared(inner) | Kind::Weak(inner) => number = *inner,
                Kind::Struct(fields) => match (fields.shape, fields.list.first()) {
                    (Shape::Unit, _) => return NULL.into(),
                    (Shape::Newtype, Some(field)) => number = field.place.ty,
                    (Shape::Newtype | Shape::Tuple, _) => return array_of(fields.list.len()),
                    (Shape::Named, _) => return object_of(&ty.name),
                },
                Kind::String | Kind::Str => return "a text".into(),
                Kind::List(_) => return "an array".into(),
                Kind::Array { len, .. } => return array_of(*len as usize),
                Kind::Enum(_) => return variant_of(&ty.name),
                Kind::Duration => return DURATION.into(),
                Kind::Set(_) | Kind::TreeSet(_) => return SET.into(),
                Kind::Map(entry) => return map_of(is_name(self.ty(entry.key.ty))).into(),
                Kind::TreeMap { key, .. } => return map_of(is_name(self.ty(*key))).into(),
                Kind::NonZero(kind) => return kind.name().into(),
                Kind::Scalar(_) | Kind::Option(_) | Kind::Opaque => break,
            }
        }
        self.name_of(number)
    }
}

pub(super) const NULL: &str = "null";
pub(super) const SET: &str = "an array";
pub(super) const DURATION: &str = "{\"secs\": u64, \"nanos\": below 1000000000}";

pub(super) fn array_of(len: usize) -> String {
    format!("an array of {len}")
}

pub(super) fn object_of(name: &str) -> String {
    format!("an object ({name})")
}

pub(super) fn variant_of(name: &str) -> String {
    format!("a variant of {name}")
}

/// Whether its keys may be names of fields.
pub(super) const fn map_of(is_named: bool) -> &'static str {
    match is_named {
        true => "an object",
        false => "an array of keys with values",
    }
}

pub(super) fn not_zero(kind: Scalar) -> String {
    format!("a {} above or below 0", kind.name())
}
