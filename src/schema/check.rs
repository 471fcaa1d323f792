//! Whether a schema holds together: after this, whatever a peer sent as a schema can be followed
//! without a further look at its numbers.
//!
//! All types that are referred to are there; whatever lies in a type lies inside its size, where
//! its alignment allows, and not on its neighbours; no type lies in itself but behind a pointer;
//! names can be shown.

use super::error::within;
use super::{Entry, Fields, Kind, Parts, Place, SchemaError, Shape, Type};
use crate::limits::{
    MESSAGE_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_DOC_BYTES_MAX, SCHEMA_FIELDS_MAX,
    SCHEMA_NAME_BYTES_MAX, SCHEMA_TYPES_MAX,
};

pub(super) fn check(parts: &Parts) -> Result<(), SchemaError> {
    within("types of a schema", parts.types.len(), SCHEMA_TYPES_MAX)?;
    let fields = parts.types.iter().map(field_count).sum();
    within("fields of a schema", fields, SCHEMA_FIELDS_MAX)?;
    if parts.root as usize >= parts.types.len() {
        return Err(malformed("its message is not in its table"));
    }
    for ty in &parts.types {
        Checked { parts, ty }.check()?;
    }
    let mut depths = vec![None; parts.types.len()];
    for ty in 0..parts.types.len() {
        depth(parts, ty, &mut depths, 0)?;
    }
    Ok(())
}

/// How deep types lie in each other in place, which is looked at once for each.
fn depth(
    parts: &Parts,
    ty: usize,
    depths: &mut [Option<usize>],
    above: usize,
) -> Result<usize, SchemaError> {
    if let Some(known) = depths[ty] {
        return Ok(known);
    }
    // One that lies in itself gets here, too.
    if above >= SCHEMA_DEPTH_MAX {
        return Err(malformed("types lie too deep in each other"));
    }
    let mut deepest = 0;
    for place in parts.types[ty].places() {
        deepest = deepest.max(depth(parts, place.ty as usize, depths, above + 1)?);
    }
    within("levels of a type", deepest + 1, SCHEMA_DEPTH_MAX)?;
    depths[ty] = Some(deepest + 1);
    Ok(deepest + 1)
}

fn field_count(ty: &Type) -> usize {
    match &ty.kind {
        Kind::Struct(fields) => fields.list.len(),
        Kind::Enum(variants) => {
            let fields = variants.iter().map(|variant| variant.fields.list.len());
            variants.len() + fields.sum::<usize>()
        }
        _ => 0,
    }
}

struct Checked<'a> {
    parts: &'a Parts,
    ty: &'a Type,
}

impl Checked<'_> {
    fn check(&self) -> Result<(), SchemaError> {
        let Type { size, align, .. } = *self.ty;
        check_name(&self.ty.name)?;
        check_doc(&self.ty.doc)?;
        within("bytes of a type", size as usize, MESSAGE_BYTES_MAX)?;
        within("bytes of an alignment", align as usize, ALIGN_MAX)?;
        if !align.is_power_of_two() || !size.is_multiple_of(align) {
            return Err(malformed("a type has no possible alignment"));
        }
        for place in self.ty.places() {
            self.place(place, size, align)?;
        }
        for pointed in self.ty.pointed_to() {
            self.known(pointed)?;
        }
        self.kind()
    }

    fn kind(&self) -> Result<(), SchemaError> {
        match &self.ty.kind {
            Kind::Scalar(scalar) => self.fixed(scalar.size(), scalar.size()),
            Kind::NonZero(scalar) => match scalar {
                super::Scalar::Bool
                | super::Scalar::Char
                | super::Scalar::F32
                | super::Scalar::F64 => Err(malformed("a number that is never zero is whole")),
                whole => self.fixed(whole.size(), whole.size()),
            },
            Kind::String | Kind::Str | Kind::List(_) => self.fixed(8, 4),
            Kind::Duration => self.fixed(16, 8),
            Kind::Box(_) => self.fixed(4, 4),
            Kind::Struct(fields) => self.fields(fields),
            Kind::Enum(variants) => {
                let mut is_taken = [false; 256];
                for variant in variants {
                    check_name(&variant.name)?;
                    check_doc(&variant.doc)?;
                    self.fields(&variant.fields)?;
                    if std::mem::replace(&mut is_taken[usize::from(variant.tag)], true) {
                        return Err(malformed("two variants have the same tag"));
                    }
                    let first = variant.fields.list.iter().map(|field| field.place.offset);
                    self.behind_tag(first.min())?;
                }
                self.behind_tag(None)
            }
            Kind::Option(place) => self.behind_tag(Some(place.offset)),
            Kind::Array { item, len } => {
                let item = self.known(*item)?;
                match item.size.checked_mul(*len) {
                    Some(size) if size == self.ty.size => Ok(()),
                    _ => Err(malformed("an array is not as long as its items")),
                }
            }
            Kind::Shared(inner) | Kind::Weak(inner) => match self.known(*inner)?.kind {
                Kind::Box(_) | Kind::Str | Kind::List(_) => {
                    let Type { size, align, .. } = *self.known(*inner)?;
                    self.fixed(size, align)
                }
                _ => Err(malformed("only what is pointed to is shared")),
            },
            Kind::Map(entry) => self.map(*entry),
            Kind::Set(entry) => match self.known(entry.value.ty)?.size {
                0 => self.map(*entry),
                _ => Err(malformed("items of a set have no values")),
            },
            Kind::TreeMap { .. } | Kind::TreeSet(_) => self.fixed(8, 4),
            Kind::Opaque => Ok(()),
        }
    }

    fn map(&self, entry: Entry) -> Result<(), SchemaError> {
        let Entry {
            size,
            align,
            key,
            value,
        } = entry;
        within("bytes of an entry", size as usize, MESSAGE_BYTES_MAX)?;
        within("bytes of an alignment", align as usize, ALIGN_MAX)?;
        if !align.is_power_of_two() || !size.is_multiple_of(align) {
            return Err(malformed("an entry has no possible alignment"));
        }
        self.place(key, size, align)?;
        self.place(value, size, align)?;
        self.apart(&[key, value])?;
        self.fixed(12, 4)
    }

    fn fields(&self, fields: &Fields) -> Result<(), SchemaError> {
        check_fields(fields)?;
        let places: Vec<_> = fields.list.iter().map(|field| field.place).collect();
        self.apart(&places)
    }

    /// No two fields lie on each other: writing one would change the other.
    fn apart(&self, places: &[Place]) -> Result<(), SchemaError> {
        let mut spans = Vec::with_capacity(places.len());
        for place in places {
            let size = self.known(place.ty)?.size;
            if size > 0 {
                spans.push((place.offset, place.offset + size));
            }
        }
        spans.sort_unstable();
        if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(malformed("two fields lie on each other"));
        }
        Ok(())
    }

    fn place(&self, place: Place, size: u32, align: u32) -> Result<(), SchemaError> {
        let inner = self.known(place.ty)?;
        let end = place.offset.checked_add(inner.size);
        if end.is_none_or(|end| end > size) {
            return Err(malformed("a field lies outside its type"));
        }
        if inner.align > align || place.offset.checked_rem(inner.align) != Some(0) {
            return Err(malformed("a field lies where its alignment forbids it"));
        }
        Ok(())
    }

    /// Types whose layout rkyv fixes.
    fn fixed(&self, size: u32, align: u32) -> Result<(), SchemaError> {
        // Types of rkyv's other formats have other sizes; those are not read anyway.
        let is_default = self.parts.format == super::Format::DEFAULT;
        if is_default && (self.ty.size, self.ty.align) != (size, align) {
            return Err(malformed("a type has not the size that it has"));
        }
        Ok(())
    }

    fn behind_tag(&self, first: Option<u32>) -> Result<(), SchemaError> {
        // An enum without variants has no values, and no size.
        let is_empty = matches!(&self.ty.kind, Kind::Enum(variants) if variants.is_empty());
        if first == Some(0) || (self.ty.size == 0 && !is_empty) {
            return Err(malformed("there is no room for a tag"));
        }
        Ok(())
    }

    fn known(&self, ty: u32) -> Result<&Type, SchemaError> {
        let found = self.parts.types.get(ty as usize);
        found.ok_or_else(|| malformed("a type is not in its table"))
    }
}

fn check_fields(fields: &Fields) -> Result<(), SchemaError> {
    let is_right = match fields.shape {
        Shape::Unit => fields.list.is_empty(),
        Shape::Newtype => fields.list.len() == 1,
        Shape::Tuple | Shape::Named => true,
    };
    if !is_right {
        return Err(malformed("a type has not as many fields as it should"));
    }
    for field in &fields.list {
        check_name(&field.name)?;
        check_name(&field.unit)?;
        check_doc(&field.doc)?;
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), SchemaError> {
    within("bytes of a name", name.len(), SCHEMA_NAME_BYTES_MAX)?;
    if name.chars().any(char::is_control) {
        return Err(malformed("a name has control characters"));
    }
    Ok(())
}

fn check_doc(doc: &str) -> Result<(), SchemaError> {
    within("bytes of a comment", doc.len(), SCHEMA_DOC_BYTES_MAX)?;
    if doc.chars().any(|c| c.is_control() && c != '\n') {
        return Err(malformed("a comment has control characters"));
    }
    Ok(())
}

fn malformed(what: &'static str) -> SchemaError {
    SchemaError::Malformed(what)
}

/// Largest alignment in bytes: a page.
const ALIGN_MAX: usize = 4096;
