//! JSON to archives, by their schema: the bytes are those that rkyv itself would write.
//!
//! What a value points to is written before it, in the order of its fields, and each value on the
//! place that its alignment asks for; rkyv's own checks demand that order.

mod json;
mod key;
mod map;
mod rank;
mod tree;
mod wanted;

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::error::within;
use super::table::{self, INLINE, NANOS, NOWHERE, STRING_BYTES_MAX};
use super::{Fields, Kind, Schema, SchemaError, Shape, Type, Variant};
use crate::limits::{ARCHIVE_DEPTH_MAX, MESSAGE_BYTES_MAX, SCHEMA_VALUE_DEPTH_MAX};

pub(crate) use self::json::kind_of;
use self::json::scalar;

/// Writes archives of one schema. Made once, used for any number of messages.
///
/// Read is what [`Reader`](super::Reader) writes, but nothing is guessed: each field must be there,
/// except an `Option` or a `Weak`, which is `None` or leads nowhere without, and none that the type
/// has not. Integers of 128 bits may be texts, and beyond 64 bits they must be. A set has no item
/// twice, and a map no key. Values with an opaque part cannot be written.
///
/// Keys that are structures or the like are taken to have the `Hash` and `Ord` that Rust derives.
/// With floating-point numbers or maps in them they cannot be written, nor those of hash tables
/// with a `Vec` of integers, an array of `u32` or `isize`, or a `RangeInclusive` in them: what such
/// a key hashes to is not known from its archive.
#[derive(Clone, Debug)]
pub struct Writer {
    schema: Arc<Schema>,
    /// What is finished.
    out: Vec<u8>,
    /// Where in the value we are.
    path: Vec<Step>,
    /// Pointers above the value that is written.
    hops: usize,
    /// Values that it is in.
    depth: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Name(String),
    Item(usize),
}

/// A value that is not on its place yet, so that its pointers cannot be said yet.
struct Block {
    bytes: Vec<u8>,
    /// Where in it a pointer belongs, and where it leads.
    pointers: Vec<(usize, usize)>,
}

/// What cannot be: what was expected, and what was found.
struct Misfit(String, String);

impl Writer {
    /// Prepares to write archives of this schema.
    ///
    /// # Errors
    /// [`SchemaError::Format`] for archives of another format than rkyv's default.
    pub fn new(schema: Arc<Schema>) -> Result<Self, SchemaError> {
        schema.format().check()?;
        Ok(Self {
            schema,
            out: Vec::new(),
            path: Vec::new(),
            hops: 0,
            depth: 0,
        })
    }

    /// The archive of a JSON text. It lies in the writer's own memory, until the next one.
    ///
    /// # Errors
    /// [`SchemaError::Json`], [`SchemaError::Mismatch`] with the path of the value that does not
    /// fit, or [`SchemaError::TooLarge`].
    pub fn write(&mut self, json: &str) -> Result<&[u8], SchemaError> {
        let value = super::parse_json(json)?;
        self.write_value(&value)
    }

    /// The same of a JSON value.
    ///
    /// # Errors
    /// [`SchemaError::Mismatch`] or [`SchemaError::TooLarge`].
    pub fn write_value(&mut self, json: &Json) -> Result<&[u8], SchemaError> {
        self.out.clear();
        self.path.clear();
        self.hops = 0;
        self.depth = 0;
        self.pointee(self.schema.root_number(), json)?;
        Ok(&self.out)
    }

    /// Writes a value and all it points to; where it is then.
    fn pointee(&mut self, ty: u32, json: &Json) -> Result<usize, SchemaError> {
        self.items(ty, std::slice::from_ref(json), false)
    }

    /// Writes values side by side; where the first is.
    fn items(&mut self, ty: u32, list: &[Json], is_list: bool) -> Result<usize, SchemaError> {
        let Type { size, align, .. } = *self.ty(ty);
        let mut block = Block::new(self.room(list.len(), size)?);
        self.hop()?;
        for (idx, json) in list.iter().enumerate() {
            if is_list {
                self.path.push(Step::Item(idx));
            }
            self.value(ty, json, &mut block, idx * size as usize)?;
            if is_list {
                self.path.pop();
            }
        }
        self.hops -= 1;
        self.put(&block, align)
    }

    /// One more pointer above what is written: readers follow no more than these.
    fn hop(&mut self) -> Result<(), SchemaError> {
        self.hops += 1;
        // The message itself counts as one; rkyv refuses the last.
        within("levels of an archive", self.hops, ARCHIVE_DEPTH_MAX - 1)
    }

    /// Bytes of so many values, if there is room for them.
    fn room(&self, count: usize, size: u32) -> Result<usize, SchemaError> {
        let bytes = count.saturating_mul(size as usize);
        let all = bytes.saturating_add(self.out.len());
        within("bytes of a message", all, MESSAGE_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Puts a block behind what is finished.
    fn put(&mut self, block: &Block, align: u32) -> Result<usize, SchemaError> {
        let start = self.out.len().next_multiple_of(align as usize);
        self.out.resize(start, 0);
        self.room(block.bytes.len(), 1)?;
        self.out.extend_from_slice(&block.bytes);
        for (at, target) in &block.pointers {
            let from = start + at;
            // Inside a message, so less than half of what 32 bits have room for; what is ahead
            // (an empty table's pointer) is not a pointer here.
            let away = len32(from - target).wrapping_neg();
            self.out[from..from + 4].copy_from_slice(&away.to_le_bytes());
        }
        Ok(start)
    }

    /// Writes a value at its place in the block.
    fn value(
        &mut self,
        ty: u32,
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        self.depth += 1;
        within("levels of a value", self.depth, SCHEMA_VALUE_DEPTH_MAX)?;
        self.kind(ty, json, block, at)?;
        self.depth -= 1;
        Ok(())
    }

    fn kind(
        &mut self,
        number: u32,
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        let schema = Arc::clone(&self.schema);
        let ty = &schema.types()[number as usize];
        match (&ty.kind, json) {
            (Kind::Scalar(kind), json) => {
                let number = scalar(*kind, json).map_err(|misfit| self.misfit(misfit))?;
                block.write(at, &number[..kind.size() as usize]);
            }
            (Kind::NonZero(kind), json) => {
                let number = scalar(*kind, json).map_err(|misfit| self.misfit(misfit))?;
                if number == [0; 16] {
                    return Err(self.expected(&wanted::not_zero(*kind), json));
                }
                block.write(at, &number[..kind.size() as usize]);
            }
            (Kind::String, Json::String(text)) => self.string(text, block, at)?,
            (Kind::Str, Json::String(text)) => {
                let target = self.text(text)?;
                block.point(at, target);
                block.write(at + 4, &len32(text.len()).to_le_bytes());
            }
            (Kind::Duration, json) => self.duration(json, block, at)?,
            (Kind::Struct(fields), json) => self.fields(&ty.name, fields, json, block, at)?,
            (Kind::Enum(variants), json) => self.one_of(ty, variants, json, block, at)?,
            (Kind::Option(_), Json::Null) => {}
            (Kind::Option(some), json) => {
                block.write(at, &[1]);
                self.value(some.ty, json, block, at + some.offset as usize)?;
            }
            (Kind::List(item), Json::Array(list)) => {
                let target = self.items(*item, list, true)?;
                block.point(at, target);
                block.write(at + 4, &len32(list.len()).to_le_bytes());
            }
            (Kind::Array { item, len }, Json::Array(list)) if list.len() == *len as usize => {
                self.in_place(*item, list, block, at)?;
            }
            (Kind::Box(inner), json) => {
                let target = self.pointee(*inner, json)?;
                block.point(at, target);
            }
            (Kind::Weak(_), Json::Null) => block.point_nowhere(at),
            (Kind::Shared(inner) | Kind::Weak(inner), json) => {
                self.shared(*inner, json, block, at)?;
            }
            (Kind::Map(entry), json) => self.table(entry, false, json, block, at)?,
            (Kind::Set(entry), json) => self.table(entry, true, json, block, at)?,
            (Kind::TreeMap { key, value }, json) => {
                self.tree(*key, Some(*value), json, block, at)?;
            }
            (Kind::TreeSet(item), json) => self.tree(*item, None, json, block, at)?,
            (Kind::Opaque, _) => {
                let expected = "nothing: this type is opaque, and cannot be written";
                return Err(self.expected(expected, json));
            }
            (Kind::String | Kind::Str | Kind::List(_) | Kind::Array { .. }, json) => {
                return Err(self.expected(&self.wanted(number), json));
            }
        }
        Ok(())
    }

    /// A pointer and what it leads to. Two that are shared never lead to the same place, even if
    /// nothing is there.
    fn shared(
        &mut self,
        inner: u32,
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        self.value(inner, json, block, at)?;
        if block
            .pointers
            .last()
            .is_some_and(|(_, target)| *target == self.out.len())
        {
            self.room(1, 1)?;
            self.out.push(0);
        }
        Ok(())
    }

    fn in_place(
        &mut self,
        item: u32,
        list: &[Json],
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        let size = self.ty(item).size as usize;
        for (idx, json) in list.iter().enumerate() {
            self.path.push(Step::Item(idx));
            self.value(item, json, block, at + idx * size)?;
            self.path.pop();
        }
        Ok(())
    }

    fn fields(
        &mut self,
        name: &str,
        fields: &Fields,
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        match (fields.shape, json) {
            (Shape::Unit, Json::Null) => Ok(()),
            (Shape::Unit, json) => Err(self.expected(wanted::NULL, json)),
            (Shape::Newtype, json) => {
                let place = fields.list[0].place;
                self.value(place.ty, json, block, at + place.offset as usize)
            }
            (Shape::Tuple, Json::Array(list)) if list.len() == fields.list.len() => {
                for (idx, (field, json)) in fields.list.iter().zip(list).enumerate() {
                    self.path.push(Step::Item(idx));
                    let place = field.place;
                    self.value(place.ty, json, block, at + place.offset as usize)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Shape::Tuple, json) => {
                let expected = wanted::array_of(fields.list.len());
                Err(self.expected(&expected, json))
            }
            (Shape::Named, Json::Object(object)) => self.named(fields, object, block, at),
            (Shape::Named, json) => Err(self.expected(&wanted::object_of(name), json)),
        }
    }

    fn named(
        &mut self,
        fields: &Fields,
        object: &Map<String, Json>,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        let mut found = 0;
        for field in &fields.list {
            let json = object.get(&field.name);
            found += usize::from(json.is_some());
            let may_miss = self.ty(field.place.ty).may_be_null();
            self.path.push(Step::Name(field.name.clone()));
            match json {
                Some(json) => {
                    let at = at + field.place.offset as usize;
                    self.value(field.place.ty, json, block, at)?;
                }
                None if may_miss => {
                    let at = at + field.place.offset as usize;
                    self.value(field.place.ty, &Json::Null, block, at)?;
                }
                None => {
                    let expected = self.wanted(field.place.ty);
                    return Err(self.misfit(Misfit(expected, "nothing".into())));
                }
            }
            self.path.pop();
        }
        if found == object.len() {
            return Ok(());
        }
        let is_known = |name: &&String| fields.list.iter().any(|field| field.name == **name);
        let other = object.keys().find(|name| !is_known(name));
        let names: Vec<_> = fields.list.iter().map(|field| &*field.name).collect();
        let expected = format!("no field but {}", names.join(", "));
        self.path.extend(other.cloned().map(Step::Name));
        Err(self.misfit(Misfit(expected, "one of this name".into())))
    }

    /// A variant without fields is its name, others are an object with the name for its only field.
    fn one_of(
        &mut self,
        ty: &Type,
        variants: &[Variant],
        json: &Json,
        block: &mut Block,
        at: usize,
    ) -> Result<(), SchemaError> {
        let (name, inner) = match json {
            Json::String(name) => (name, None),
            Json::Object(object) if object.len() == 1 => match object.iter().next() {
                Some((name, inner)) => (name, Some(inner)),
                None => return Err(self.expected(&ty.name, json)),
            },
            json => return Err(self.expected(&wanted::variant_of(&ty.name), json)),
        };
        let Some(variant) = variants.iter().find(|variant| variant.name == *name) else {
            let names: Vec<_> = variants.iter().map(|variant| &*variant.name).collect();
            let expected = format!("a variant of {} ({})", ty.name, names.join(", "));
            return Err(self.misfit(Misfit(expected, format!("{name:?}"))));
        };
        self.path.push(Step::Name(name.clone()));
        block.write(at, &[variant.tag]);
        match (variant.fields.shape, inner) {
            (Shape::Unit, None | Some(Json::Null)) => {}
            (_, Some(inner)) => self.fields(name, &variant.fields, inner, block, at)?,
            (_, None) => {
                let expected = format!("an object: this variant of {} has fields", ty.name);
                return Err(self.expected(&expected, json));
            }
        }
        self.path.pop();
        Ok(())
    }

    fn duration(&mut self, json: &Json, block: &mut Block, at: usize) -> Result<(), SchemaError> {
        let number = |name| json.get(name).and_then(Json::as_u64);
        let nanos = number("nanos").filter(|nanos| *nanos < u64::from(NANOS));
        let is_whole = json.as_object().is_some_and(|object| object.len() == 2);
        match (number("secs"), nanos) {
            (Some(seconds), Some(nanos)) if is_whole => {
                block.write(at, &seconds.to_le_bytes());
                block.write(
                    at + 8,
                    &len32(usize::try_from(nanos).unwrap_or(0)).to_le_bytes(),
                );
                Ok(())
            }
            _ => Err(self.expected(wanted::DURATION, json)),
        }
    }

    fn string(&mut self, text: &str, block: &mut Block, at: usize) -> Result<(), SchemaError> {
        if text.len() <= INLINE {
            block.write(at, &[0xff; INLINE]);
            block.write(at, text.as_bytes());
            return Ok(());
        }
        within("bytes of a text", text.len(), STRING_BYTES_MAX)?;
        let target = self.text(text)?;
        block.write(at, &table::string_word(len32(text.len())).to_le_bytes());
        // From the beginning of the text's place, not of the pointer.
        block.pointers.push((at + 4, target + 4));
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<usize, SchemaError> {
        self.room(text.len(), 1)?;
        self.hop()?;
        self.hops -= 1;
        let start = self.out.len();
        self.out.extend_from_slice(text.as_bytes());
        Ok(start)
    }

    fn ty(&self, ty: u32) -> &Type {
        &self.schema.types()[ty as usize]
    }

    fn name_of(&self, ty: u32) -> String {
        self.schema.name_of(ty)
    }

    fn expected(&self, expected: &str, found: &Json) -> SchemaError {
        self.misfit(Misfit(expected.into(), kind_of(found)))
    }

    fn misfit(&self, Misfit(expected, found): Misfit) -> SchemaError {
        SchemaError::Mismatch {
            path: Step::text(&self.path),
            expected,
            found,
        }
    }
}

impl Block {
    fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len],
            pointers: Vec::new(),
        }
    }

    /// Writes at a place inside, which the schema's check made sure of.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn point(&mut self, at: usize, target: usize) {
        self.pointers.push((at, target));
    }

    /// As rkyv's own pointers where nothing is.
    fn point_nowhere(&mut self, at: usize) {
        self.write(at, &NOWHERE.to_le_bytes());
    }
}

/// Of what is in a message, so it fits.
fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
