//! The schemas of this program's own types, made once for each.

use core::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use super::describe::Types;
use super::error::within;
use super::{Describe, Format, Parts, Schema, SchemaError, hash};
use crate::endpoint::lock;
use crate::limits::SCHEMA_BYTES_MAX;

/// Bounded by the types of the program.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Known {
    by_type: HashMap<TypeId, Described>,
    by_hash: HashMap<u64, Arc<Schema>>,
}

#[derive(Clone)]
struct Described {
    hash: u64,
    /// Nothing if it is beyond the limits.
    schema: Option<Arc<Schema>>,
}

/// The hash of a type's schema, which every type has.
pub(crate) fn hash_of<T: Describe>() -> u64 {
    described::<T>().hash
}

/// A schema that was made for one of this program's types.
pub(super) fn find(hash: u64) -> Option<Arc<Schema>> {
    lock(&KNOWN).by_hash.get(&hash).cloned()
}

pub(super) fn schema_of<T: Describe>() -> Result<Arc<Schema>, SchemaError> {
    match described::<T>().schema {
        Some(schema) => Ok(schema),
        // Seldom, so made again for its error.
        None => make(parts_of::<T>()).map(Arc::new),
    }
}

fn described<T: Describe>() -> Described {
    if let Some(described) = lock(&KNOWN).by_type.get(&TypeId::of::<T>()) {
        return described.clone();
    }
    // Not under the lock: descriptions are code of others.
    let parts = parts_of::<T>();
    let hash = hash::hash(&parts);
    let schema = make(parts).map(Arc::new);
    if let Err(error) = &schema {
        tracing::warn!(
            target: "shmesh::node",
            ty = core::any::type_name::<T>(), %error,
            "tools will not be able to read this type"
        );
    }
    let schema = schema.ok();
    let mut known = lock(&KNOWN);
    if let Some(schema) = &schema {
        let by_hash = known.by_hash.entry(hash);
        by_hash.or_insert_with(|| Arc::clone(schema));
    }
    let described = Described { hash, schema };
    let entry = known.by_type.entry(TypeId::of::<T>());
    entry.or_insert(described).clone()
}

fn parts_of<T: Describe>() -> Parts {
    let mut types = Types::default();
    let root = types.number::<T>();
    Parts {
        format: Format::ours(),
        root,
        types: types.into_list(),
    }
}

/// The schema, without its comments if it is too large with them.
fn make(mut parts: Parts) -> Result<Schema, SchemaError> {
    if parts.encode().is_err() {
        parts.types.iter_mut().for_each(super::Type::drop_comments);
    }
    within("bytes of a schema", parts.encode()?.len(), SCHEMA_BYTES_MAX)?;
    Schema::new(parts)
}
