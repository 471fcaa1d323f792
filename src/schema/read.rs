//! Archives to JSON, by their schema.
//!
//! The schema is made into a plan once. Reading follows the plan over bytes that may be anything:
//! whatever they say is checked before it is followed, nesting is bounded, and so is the work, for
//! pointers may lead to the same bytes again and again. No panic, and no memory beside the stack.

use std::io::Write;
use std::sync::Arc;

use serde_json::ser::{CompactFormatter, Formatter};

use super::decimal::Decimal;
use super::ink::{Ink, is_plain};
use super::plan::{Group, Listed, Node, What, plan};
use super::table::{self, Buckets, INFINITY, MINUS_INFINITY, NAN};
use super::tree::{InOrder, Layout};
use super::value::Value;
use super::{Entry, Kind, Scalar, Schema, SchemaError, Type};
use crate::limits::{SCHEMA_VALUE_DEPTH_MAX, SCHEMA_VALUES_MIN, SCHEMA_VALUES_PER_BYTE_MAX};

/// Reads archives of one schema. Made once, used for any number of messages.
///
/// The JSON is what serde writes by default: structures are objects, tuples arrays, enums are
/// tagged by an outer object, `None` and a `Weak` to nothing are `null`, bytes are arrays of
/// numbers. Maps are objects if their keys are texts, whole numbers, characters or truth values;
/// others are arrays of `[key, value]`. What is opaque is `null`.
///
/// For what JSON has no numbers, or few programs that read it, there are texts: `"NaN"`,
/// `"Infinity"` and `"-Infinity"` as in protobuf's JSON, and integers beyond 64 bits by their
/// digits. So nothing is lost on the way, and [`Writer`](super::Writer) takes it back.
#[derive(Clone, Debug)]
pub struct Reader {
    schema: Arc<Schema>,
    /// For each type of the schema.
    plan: Arc<[Node]>,
}

impl Reader {
    /// Prepares to read archives of this schema.
    ///
    /// # Errors
    /// [`SchemaError::Format`] for archives of another format than rkyv's default.
    pub fn new(schema: Arc<Schema>) -> Result<Self, SchemaError> {
        schema.format().check()?;
        let plan = plan(&schema).collect();
        Ok(Self { schema, plan })
    }

    /// The schema it reads by.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Writes the message as JSON on one line, in blocks of 2 KiB. On an error, some of what is
    /// before it has been written.
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
            ink: Ink::new(to),
            work: more.saturating_add(SCHEMA_VALUES_MIN),
        };
        walk.value(ty, at, 0)?;
        walk.ink.finish()
    }
}

struct Walk<'a, W> {
    types: &'a [Type],
    plan: &'a [Node],
    bytes: &'a [u8],
    ink: Ink<'a, W>,
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
                self.ink.add(b"{\"secs\":")?;
                CompactFormatter.write_u64(&mut self.ink, seconds)?;
                self.ink.add(b",\"nanos\":")?;
                CompactFormatter.write_u32(&mut self.ink, nanos)?;
                self.ink.add(b"}")
            }
            Node::Group(group) => self.group(group, at, depth),
            Node::Enum { groups, by_tag } => {
                let [tag] = table::array_at(self.bytes, at)?;
                let group = groups.get(usize::from(by_tag[usize::from(tag)]));
                let group = group.ok_or_else(|| wrong("a tag that stands for nothing", at))?;
                self.group(group, at, depth)
            }
            Node::Option(some) => match table::array_at(self.bytes, at)? {
                [0] => self.ink.add(b"null"),
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
            // Only what it points to is another's, too.
            Node::Shared(inner) => self.value(*inner, at, depth + 1),
            Node::Weak(_) if table::is_nowhere(self.bytes, at)? => self.ink.add(b"null"),
            Node::Weak(inner) => self.value(*inner, at, depth + 1),
            Node::Table(entry, listed) => self.table(entry, *listed, at, depth),
            Node::Tree(layout, listed) => self.tree(layout, *listed, at, depth),
            Node::Opaque => self.ink.add(b"null"),
        }
    }

    fn group(&mut self, group: &Group, at: usize, depth: usize) -> Result<(), SchemaError> {
        self.charge(group.values, at)?;
        for part in &group.parts {
            self.ink.literal(&part.before)?;
            let at = at + part.offset as usize;
            match part.what {
                What::Scalar(scalar) => self.scalar(scalar, at)?,
                What::String => self.text(table::string(self.bytes, at)?, at)?,
                What::Value(ty) => self.value(ty, at, depth + 1)?,
            }
        }
        Ok(self.ink.literal(&group.end)?)
    }

    fn items(&mut self, ty: u32, at: usize, len: usize, depth: usize) -> Result<(), SchemaError> {
        self.ink.add(b"[")?;
        if let Node::Scalar(scalar) = self.plan[ty as usize] {
            self.charge(len, at)?;
            let size = scalar.size() as usize;
            for idx in 0..len {
                if idx > 0 {
                    self.ink.add(b",")?;
                }
                self.scalar(scalar, at + idx * size)?;
            }
        } else {
            let size = self.types[ty as usize].size as usize;
            for idx in 0..len {
                if idx > 0 {
                    self.ink.add(b",")?;
                }
                self.value(ty, at + idx * size, depth + 1)?;
            }
        }
        self.ink.add(b"]")
    }

    fn table(
        &mut self,
        entry: &Entry,
        listed: Listed,
        at: usize,
        depth: usize,
    ) -> Result<(), SchemaError> {
        let bytes = self.bytes;
        let buckets = Buckets::find(bytes, at, entry)?;
        self.charge(buckets.capacity(), at)?;
        self.entries(buckets.entries(bytes, entry)?, listed, depth)
    }

    /// Never inlined: values without a tree are nested without its place on the stack.
    #[inline(never)]
    fn tree(
        &mut self,
        layout: &Layout,
        listed: Listed,
        at: usize,
        depth: usize,
    ) -> Result<(), SchemaError> {
        let entries = InOrder::find(self.bytes, at, layout)?;
        self.charge(entries.len(), at)?;
        self.entries(entries, listed, depth)
    }

    /// Entries, each where its key and its value are.
    fn entries(
        &mut self,
        entries: impl Iterator<Item = Result<(usize, usize), SchemaError>>,
        listed: Listed,
        depth: usize,
    ) -> Result<(), SchemaError> {
        let [open, middle, between, close] = match listed {
            Listed { value: None, .. } => ["[", "", ",", "]"],
            Listed {
                is_object: true, ..
            } => ["{", ":", ",", "}"],
            _ => ["[[", ",", "],[", "]]"],
        };
        let mut before = open;
        for entry in entries {
            let (key_at, value_at) = entry?;
            self.ink.add(before.as_bytes())?;
            before = between;
            if listed.is_object {
                self.key(listed.key, key_at)?;
            } else {
                self.value(listed.key, key_at, depth + 1)?;
            }
            self.ink.add(middle.as_bytes())?;
            if let Some(value) = listed.value {
                self.value(value, value_at, depth + 1)?;
            }
        }
        match before == open {
            true if listed.is_object => self.ink.add(b"{}"),
            true => self.ink.add(b"[]"),
            false => self.ink.add(close.as_bytes()),
        }
    }

    /// Keys of objects are texts, whatever they are.
    fn key(&mut self, ty: u32, at: usize) -> Result<(), SchemaError> {
        let is_bare = match &self.types[ty as usize].kind {
            Kind::Scalar(Scalar::Char) => false,
            Kind::Scalar(scalar) | Kind::NonZero(scalar) => !self.is_wide(*scalar, at)?,
            _ => false,
        };
        if is_bare {
            self.ink.add(b"\"")?;
        }
        self.value(ty, at, 0)?;
        if is_bare {
            self.ink.add(b"\"")?;
        }
        Ok(())
    }

    fn text(&mut self, text: &[u8], at: usize) -> Result<(), SchemaError> {
        self.charge(text.len(), at)?;
        if is_plain(text) {
            return self.ink.plain(text);
        }
        let text = str::from_utf8(text).map_err(|_| wrong("a text that is not UTF-8", at))?;
        self.ink.quoted(text)
    }

    #[inline]
    fn scalar(&mut self, scalar: Scalar, at: usize) -> Result<(), SchemaError> {
        let (bytes, to) = (self.bytes, &mut self.ink);
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
                return self.ink.quoted(char.encode_utf8(&mut [0; 4]));
            }
            Scalar::U8 => json.write_u8(to, u8::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U16 => json.write_u16(to, u16::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U32 => json.write_u32(to, u32::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U64 => json.write_u64(to, u64::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::U128 | Scalar::I128 => return self.huge(scalar, at),
            Scalar::I8 => json.write_i8(to, i8::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::I16 => json.write_i16(to, i16::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::I32 | Scalar::Isize => {
                json.write_i32(to, i32::from_le_bytes(table::array_at(bytes, at)?))?
            }
            Scalar::I64 => json.write_i64(to, i64::from_le_bytes(table::array_at(bytes, at)?))?,
            Scalar::F32 => {
                let number = f32::from_le_bytes(table::array_at(bytes, at)?);
                match Decimal::of_f32(number) {
                    Some(decimal) => decimal.write(to)?,
                    None if number.is_finite() => json.write_f32(to, number)?,
                    None => return self.not_finite(number.into()),
                }
            }
            Scalar::F64 => {
                let number = f64::from_le_bytes(table::array_at(bytes, at)?);
                match Decimal::of_f64(number) {
                    Some(decimal) => decimal.write(to)?,
                    None if number.is_finite() => json.write_f64(to, number)?,
                    None => return self.not_finite(number),
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn not_finite(&mut self, number: f64) -> Result<(), SchemaError> {
        let name = match number {
            f64::INFINITY => INFINITY,
            f64::NEG_INFINITY => MINUS_INFINITY,
            _ => NAN,
        };
        self.ink.plain(name.as_bytes())
    }

    fn huge(&mut self, scalar: Scalar, at: usize) -> Result<(), SchemaError> {
        let quote = if self.is_wide(scalar, at)? { "\"" } else { "" };
        self.ink.add(quote.as_bytes())?;
        let number = table::array_at(self.bytes, at)?;
        match scalar {
            Scalar::U128 => CompactFormatter.write_u128(&mut self.ink, u128::from_le_bytes(number)),
            _ => CompactFormatter.write_i128(&mut self.ink, i128::from_le_bytes(number)),
        }?;
        self.ink.add(quote.as_bytes())
    }

    /// True for a number that most programs would round: it is written as a text.
    fn is_wide(&self, scalar: Scalar, at: usize) -> Result<bool, SchemaError> {
        let number = |at| table::array_at(self.bytes, at);
        Ok(match scalar {
            Scalar::U128 => u128::from_le_bytes(number(at)?) > u64::MAX.into(),
            Scalar::I128 => {
                let most = i64::MIN.into()..=u64::MAX.into();
                !most.contains(&i128::from_le_bytes(number(at)?))
            }
            _ => false,
        })
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
