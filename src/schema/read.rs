//! Archives to JSON, by their schema.
//!
//! The schema is made into a plan once: for each type what to write before each of its parts, and
//! where the part lies. Reading follows the plan over bytes that may be anything: whatever they
//! say is checked before it is followed, nesting is bounded, and so is the work, for pointers may
//! lead to the same bytes again and again. No panic, and no memory beside the stack.

use std::io::Write;
use std::sync::Arc;

use serde_json::ser::{CompactFormatter, Formatter};

use super::table::{self, Buckets};
use super::value::Value;
use super::{Entry, Fields, Kind, Place, Scalar, Schema, SchemaError, Shape, Type};
use crate::limits::{SCHEMA_VALUE_DEPTH_MAX, SCHEMA_VALUES_MIN, SCHEMA_VALUES_PER_BYTE_MAX};

/// Reads archives of one schema. Made once, used for any number of messages.
///
/// The JSON is what serde writes by default: structures are objects, tuples arrays, enums are
/// tagged by an outer object, `None` is `null`, bytes are arrays of numbers. Numbers that are not
/// finite, and what is opaque, are `null`. Maps are objects if their keys are texts, numbers,
/// characters or truth values, else arrays of pairs.
#[derive(Clone, Debug)]
pub struct Reader {
    schema: Arc<Schema>,
    /// For each type of the schema.
    plan: Arc<[Node]>,
}

/// How a type is read.
#[derive(Debug)]
enum Node {
    Scalar(Scalar),
    NonZero(Scalar),
    String,
    Str,
    Duration,
    Group(Group),
    Enum {
        groups: Vec<Group>,
        /// Which of them a tag stands for; beyond them if for none.
        by_tag: Box<[u16; 256]>,
    },
    Option(Place),
    List(u32),
    Array(u32, u32),
    Box(u32),
    Map {
        entry: Entry,
        is_object: bool,
    },
    Opaque,
}

/// Parts, with what to write before, between and after them.
#[derive(Debug)]
struct Group {
    parts: Vec<Part>,
    /// With the beginning, if there are no parts.
    end: Vec<u8>,
}

#[derive(Debug)]
struct Part {
    before: Vec<u8>,
    place: Place,
}

impl Reader {
    /// Prepares to read archives of this schema.
    ///
    /// # Errors
    /// [`SchemaError::Format`] for archives of another format than rkyv's default.
    pub fn new(schema: Arc<Schema>) -> Result<Self, SchemaError> {
        schema.format().check()?;
        let plan = schema.types().iter().map(|ty| Node::new(&schema, ty));
        let plan = plan.collect();
        Ok(Self { schema, plan })
    }

    /// The schema it reads by.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Writes the message as JSON on one line, in many small pieces: a file or socket needs a
    /// buffer around it. On an error, what is before it has been written.
    ///
    /// # Errors
    /// [`SchemaError::Archive`] if these bytes are no such message; [`SchemaError::Io`].
    pub fn json(&self, archive: &[u8], to: &mut impl Write) -> Result<(), SchemaError> {
        let root = self.read(archive)?;
        self.json_at(&root, to)
    }

    /// The same as a text.
    ///
    /// # Errors
    /// [`SchemaError::Archive`].
    pub fn json_text(&self, archive: &[u8]) -> Result<String, SchemaError> {
        self.read(archive)?.json_text()
    }

    /// The message as a value whose parts can be looked at by themselves. Only what is looked at
    /// is checked.
    ///
    /// # Errors
    /// [`SchemaError::Archive`] if there are too few bytes for one.
    pub fn read<'a>(&'a self, archive: &'a [u8]) -> Result<Value<'a>, SchemaError> {
        let size = self.schema.root().size as usize;
        let at = archive.len().checked_sub(size);
        let at = at.ok_or_else(|| wrong("too short", archive.len()))?;
        Ok(Value::new(self, archive, self.schema.root_number(), at))
    }

    pub(super) fn json_at(
        &self,
        value: &Value<'_>,
        to: &mut impl Write,
    ) -> Result<(), SchemaError> {
        let bytes = value.archive();
        let (ty, at) = value.place();
        let more = bytes.len().saturating_mul(SCHEMA_VALUES_PER_BYTE_MAX);
        let mut walk = Walk {
            types: self.schema.types(),
            plan: &self.plan,
            bytes,
            to,
            work: more.saturating_add(SCHEMA_VALUES_MIN),
        };
        walk.value(ty, at, 0)
    }
}

impl Node {
    fn new(schema: &Schema, ty: &Type) -> Self {
        match &ty.kind {
            Kind::Scalar(scalar) => Self::Scalar(*scalar),
            Kind::NonZero(scalar) => Self::NonZero(*scalar),
            Kind::String => Self::String,
            Kind::Str => Self::Str,
            Kind::Duration => Self::Duration,
            Kind::Struct(fields) => Self::Group(Group::new(None, fields)),
            Kind::Enum(variants) => {
                let mut by_tag = Box::new([u16::MAX; 256]);
                for (idx, variant) in (0..).zip(variants) {
                    by_tag[usize::from(variant.tag)] = idx;
                }
                let group =
                    |variant: &super::Variant| Group::new(Some(&variant.name), &variant.fields);
                let groups = variants.iter().map(group).collect();
                Self::Enum { groups, by_tag }
            }
            Kind::Option(place) => Self::Option(*place),
            Kind::List(item) => Self::List(*item),
            Kind::Array { item, len } => Self::Array(*item, *len),
            Kind::Box(inner) => Self::Box(*inner),
            Kind::Map(entry) => {
                let key = schema.ty(entry.key.ty);
                let is_object = key.is_some_and(table::is_name);
                let entry = *entry;
                Self::Map { entry, is_object }
            }
            Kind::Opaque => Self::Opaque,
        }
    }
}

impl Group {
    /// `tag` is the name of the variant that it belongs to.
    fn new(tag: Option<&str>, fields: &Fields) -> Self {
        let mut before = Vec::new();
        let mut end = Vec::new();
        match (tag, fields.shape) {
            (None, Shape::Unit) => before.extend(b"null"),
            (Some(tag), Shape::Unit) => before.extend(quoted(tag)),
            (Some(tag), _) => {
                before.push(b'{');
                before.extend(quoted(tag));
                before.push(b':');
            }
            (None, _) => {}
        }
        match fields.shape {
            Shape::Unit | Shape::Newtype => {}
            Shape::Tuple => {
                before.push(b'[');
                end.push(b']');
            }
            Shape::Named => {
                before.push(b'{');
                end.push(b'}');
            }
        }
        if tag.is_some() && fields.shape != Shape::Unit {
            end.push(b'}');
        }
        let mut parts = Vec::new();
        for field in &fields.list {
            if !parts.is_empty() {
                before.push(b',');
            }
            if fields.shape == Shape::Named {
                before.extend(quoted(&field.name));
                before.push(b':');
            }
            let before = std::mem::take(&mut before);
            let place = field.place;
            parts.push(Part { before, place });
        }
        before.extend(end);
        Self { parts, end: before }
    }
}

fn quoted(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).unwrap_or_default()
}

struct Walk<'a, W> {
    types: &'a [Type],
    plan: &'a [Node],
    bytes: &'a [u8],
    to: &'a mut W,
    /// How much more may be done.
    work: usize,
}

impl<W: Write> Walk<'_, W> {
    /// Writes the value of type `ty` at `at`. Nothing is taken for granted of `at`.
    fn value(&mut self, ty: u32, at: usize, depth: usize) -> Result<(), SchemaError> {
        self.charge(1, at)?;
        if depth >= SCHEMA_VALUE_DEPTH_MAX {
            return Err(wrong("values lie too deep in each other", at));
        }
        // As long as the walk, so that what is of it can be changed beside.
        let plan = self.plan;
        match &plan[ty as usize] {
            Node::Scalar(scalar) => self.scalar(*scalar, at),
            Node::NonZero(scalar) => {
                let number = table::bytes_at(self.bytes, at, scalar.size() as usize)?;
                if number.iter().all(|byte| *byte == 0) {
                    return Err(wrong("zero, where it cannot be", at));
                }
                self.scalar(*scalar, at)
            }
            Node::String => {
                let text = table::string(self.bytes, at)?;
                self.text(text, at)
            }
            Node::Str => {
                let text = table::str(self.bytes, at)?;
                self.text(text, at)
            }
            Node::Duration => {
                let (seconds, nanos) = table::duration(self.bytes, at)?;
                write!(self.to, "{{\"secs\":{seconds},\"nanos\":{nanos}}}")?;
                Ok(())
            }
            Node::Group(group) => self.group(group, at, depth),
            Node::Enum { groups, by_tag } => {
                let [tag] = table::array_at(self.bytes, at)?;
                let group = groups.get(usize::from(by_tag[usize::from(tag)]));
                let group = group.ok_or_else(|| wrong("a tag that stands for nothing", at))?;
                self.group(group, at, depth)
            }
            Node::Option(some) => match table::array_at(self.bytes, at)? {
                [0] => Ok(self.to.write_all(b"null")?),
                [1] => self.value(some.ty, at + some.offset as usize, depth + 1),
                _ => Err(wrong("a tag that stands for nothing", at)),
            },
            Node::List(item) => {
                let size = self.types[*item as usize].size;
                let (target, len) = table::list(self.bytes, at, size)?;
                self.items(*item, target, len, depth)
            }
            Node::Array(item, len) => self.items(*item, at, *len as usize, depth),
            Node::Box(inner) => {
                let size = self.types[*inner as usize].size as usize;
                let target = table::target(self.bytes, at, size)?;
                self.value(*inner, target, depth + 1)
            }
            Node::Map { entry, is_object } => self.map(entry, *is_object, at, depth),
            Node::Opaque => Ok(self.to.write_all(b"null")?),
        }
    }

    fn group(&mut self, group: &Group, at: usize, depth: usize) -> Result<(), SchemaError> {
        for part in &group.parts {
            self.to.write_all(&part.before)?;
            let at = at + part.place.offset as usize;
            // Most parts are numbers, which need not be asked for by type twice.
            match &self.plan[part.place.ty as usize] {
                Node::Scalar(scalar) => {
                    self.charge(1, at)?;
                    self.scalar(*scalar, at)?;
                }
                _ => self.value(part.place.ty, at, depth + 1)?,
            }
        }
        Ok(self.to.write_all(&group.end)?)
    }

    fn items(&mut self, ty: u32, at: usize, len: usize, depth: usize) -> Result<(), SchemaError> {
        self.to.write_all(b"[")?;
        if let Node::Scalar(scalar) = self.plan[ty as usize] {
            self.charge(len, at)?;
            let size = scalar.size() as usize;
            for idx in 0..len {
                if idx > 0 {
                    self.to.write_all(b",")?;
                }
                self.scalar(scalar, at + idx * size)?;
            }
        } else {
            let size = self.types[ty as usize].size as usize;
            for idx in 0..len {
                if idx > 0 {
                    self.to.write_all(b",")?;
                }
                self.value(ty, at + idx * size, depth + 1)?;
            }
        }
        Ok(self.to.write_all(b"]")?)
    }

    fn map(
        &mut self,
        entry: &Entry,
        is_object: bool,
        at: usize,
        depth: usize,
    ) -> Result<(), SchemaError> {
        let buckets = Buckets::find(self.bytes, at, entry)?;
        self.charge(buckets.capacity(), at)?;
        let [open, middle, between, close] = if is_object {
            [&b"{"[..], b":", b",", b"}"]
        } else {
            [&b"[["[..], b",", b"],[", b"]]"]
        };
        if buckets.is_empty() {
            let empty = if is_object { b"{}" } else { b"[]" };
            return Ok(self.to.write_all(empty)?);
        }
        let mut before = open;
        for entry_at in buckets.full(self.bytes)? {
            self.to.write_all(before)?;
            before = between;
            let key_at = entry_at + entry.key.offset as usize;
            if is_object {
                self.key(entry.key.ty, key_at)?;
            } else {
                self.value(entry.key.ty, key_at, depth + 1)?;
            }
            self.to.write_all(middle)?;
            let value_at = entry_at + entry.value.offset as usize;
            self.value(entry.value.ty, value_at, depth + 1)?;
        }
        Ok(self.to.write_all(close)?)
    }

    /// Keys of objects are texts, whatever they are.
    fn key(&mut self, ty: u32, at: usize) -> Result<(), SchemaError> {
        let is_bare = match &self.types[ty as usize].kind {
            Kind::Scalar(scalar) => *scalar != Scalar::Char,
            Kind::NonZero(_) => true,
            _ => false,
        };
        if is_bare {
            self.to.write_all(b"\"")?;
        }
        self.value(ty, at, 0)?;
        if is_bare {
            self.to.write_all(b"\"")?;
        }
        Ok(())
    }

    fn text(&mut self, text: &[u8], at: usize) -> Result<(), SchemaError> {
        self.charge(text.len(), at)?;
        let text = str::from_utf8(text).map_err(|_| wrong("a text that is not UTF-8", at))?;
        self.quoted(text)
    }

    fn quoted(&mut self, text: &str) -> Result<(), SchemaError> {
        let written = serde_json::to_writer(&mut *self.to, text);
        Ok(written.map_err(std::io::Error::from)?)
    }

    #[inline]
    fn scalar(&mut self, scalar: Scalar, at: usize) -> Result<(), SchemaError> {
        let (bytes, to) = (self.bytes, &mut *self.to);
        let mut json = CompactFormatter;
        match scalar {
            Scalar::Bool => match table::array_at(bytes, at)? {
                [0] => json.write_bool(to, false)?,
                [1] => json.write_bool(to, true)?,
                _ => return Err(wrong("neither true nor false", at)),
            },
            Scalar::Char => {
                let char = char::from_u32(u32::from_le_bytes(table::array_at(bytes, at)?));
                let char = char.ok_or_else(|| wrong("a number that is no character", at))?;
                return self.quoted(char.encode_utf8(&mut [0; 4]));
            }
            Scalar::U8 => json.write_u8(to, u8::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U16 => json.write_u16(to, u16::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U32 => json.write_u32(to, u32::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U64 => json.write_u64(to, u64::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U128 => {
                json.write_u128(to, u128::from_le_bytes(table::array_at(bytes, at)?))?
            }
            Scalar::I8 => json.write_i8(to, i8::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::I16 => json.write_i16(to, i16::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::I32 => json.write_i32(to, i32::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::I64 => json.write_i64(to, i64::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::I128 => {
                json.write_i128(to, i128::from_le_bytes(table::array_at(bytes, at)?))?
            }
            Scalar::F32 => match f32::from_le_bytes(table::array_at(bytes, at)?) {
                finite if finite.is_finite() => json.write_f32(to, finite)?,
                _ => json.write_null(to)?,
            },
            Scalar::F64 => match f64::from_le_bytes(table::array_at(bytes, at)?) {
                finite if finite.is_finite() => json.write_f64(to, finite)?,
                _ => json.write_null(to)?,
            },
        }
        Ok(())
    }

    #[inline]
    fn charge(&mut self, work: usize, at: usize) -> Result<(), SchemaError> {
        match self.work.checked_sub(work) {
            Some(left) => {
                self.work = left;
                Ok(())
            }
            None => Err(wrong("it says the same bytes again and again", at)),
        }
    }
}

pub(super) fn wrong(what: &'static str, at: usize) -> SchemaError {
    SchemaError::Archive { what, at }
}
