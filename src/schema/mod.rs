//! Messages that explain themselves: what the archive of a type looks like, as data, so that
//! tools can read and write messages whose type they were not compiled with.
//!
//! `#[derive(Message)]` describes a type; [`Schema::of`] gathers what it and all types in it say
//! of themselves. A schema is a table of types that refer to each other by index, so that a type
//! may be in itself. It travels as bytes ([`Schema::encode`]), and one that comes from a peer is
//! checked in full before it is used ([`Schema::decode`]). With it a [`Reader`] makes JSON of
//! archives, and a [`Writer`] archives of JSON.
//!
//! ```
//! use shmesh::rkyv::{Archive, Serialize, rancor, to_bytes};
//! use shmesh::schema::{Reader, Schema, Writer};
//! use shmesh::Message;
//!
//! /// Where a joint is.
//! #[derive(Archive, Serialize, Message)]
//! #[rkyv(crate = shmesh::rkyv)]
//! struct Joint {
//!     name: String,
//!     #[message(unit = "rad")]
//!     angle: f32,
//! }
//!
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let schema = Schema::of::<Joint>()?;
//! let archive = to_bytes::<rancor::Error>(&Joint { name: "elbow".into(), angle: 0.5 })?;
//!
//! let reader = Reader::new(schema.clone())?;
//! assert_eq!(reader.json_text(&archive)?, r#"{"name":"elbow","angle":0.5}"#);
//! assert_eq!(reader.read(&archive)?.at("angle")?.json_text()?, "0.5");
//!
//! let mut again = Writer::new(schema)?;
//! assert_eq!(again.write(r#"{"angle":0.5,"name":"elbow"}"#)?, &archive[..]);
//! # Ok(())
//! # }
//! # run().unwrap();
//! ```
//!
//! A field whose type nobody described does not compile, and the error says what to do:
//!
//! ```compile_fail
//! use shmesh::Message;
//! use shmesh::rkyv::{Archive, Serialize};
//!
//! #[derive(Archive, Serialize)]
//! #[rkyv(crate = shmesh::rkyv)]
//! struct Foreign(u32);
//!
//! #[derive(Archive, Serialize, Message)]
//! #[rkyv(crate = shmesh::rkyv)]
//! struct Mine {
//!     foreign: Foreign, // `Foreign` has no description: derive one or add `#[message(opaque)]`
//! }
//! ```
//!
//! Non-goals: no message passes through here on its way; who has the type reads it in place.

mod check;
mod decimal;
mod describe;
mod desk;
mod error;
mod hash;
mod ink;
mod json_schema;
mod known;
mod plan;
mod read;
mod strict;
mod table;
mod text;
mod tree;
mod value;
mod write;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::describe::{Describe, Label, Types, Variants};
pub use self::desk::SchemaBytes;
pub(crate) use self::desk::{Asked, Desk, Said};
pub use self::error::SchemaError;
pub(crate) use self::known::hash_of;
pub use self::read::Reader;
pub(crate) use self::strict::parse_json;
pub use self::value::Value;
pub use self::write::Writer;
pub(crate) use self::write::kind_of;
use crate::limits::SCHEMA_BYTES_MAX;

/// What the archive of a message type looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    parts: Parts,
    hash: u64,
}

/// What of a schema travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parts {
    format: Format,
    root: u32,
    types: Vec<Type>,
}

/// The features of rkyv's format: any dependency of a program can switch them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// True if numbers have their most significant byte first.
    pub is_big_endian: bool,
    /// Alignment of an archived `u64` in bytes.
    pub align: u8,
    /// Size of a relative pointer in bytes.
    pub pointer_bytes: u8,
}

/// A type in the table of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Type {
    /// Its name, without paths; empty for what needs none.
    pub name: String,
    /// Its doc comment, or the beginning of it.
    pub doc: String,
    /// Bytes of its archived form.
    pub size: u32,
    /// Alignment of its archived form in bytes.
    pub align: u32,
    /// What it is.
    pub kind: Kind,
}

/// What a type is. Numbers of types are places in the schema's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// A number, truth value or character.
    Scalar(Scalar),
    /// A number that is not zero.
    NonZero(Scalar),
    /// A `String`: short ones lie in place.
    String,
    /// A `Box<str>`: never in place.
    Str,
    /// A span of time: seconds as `u64`, then nanoseconds as `u32`.
    Duration,
    /// A structure or tuple.
    Struct(Fields),
    /// One of several: a byte says which.
    Enum(Vec<Variant>),
    /// A byte that is 1 if there is a value, and where it lies then.
    Option(Place),
    /// A pointer to items, and their number.
    List(u32),
    /// So many items in place.
    Array {
        /// The type of an item.
        item: u32,
        /// How many.
        len: u32,
    },
    /// A pointer to a value.
    Box(u32),
    /// A pointer like that of this type, to what others may point to, too.
    Shared(u32),
    /// The same, or one to nowhere.
    Weak(u32),
    /// A hash table of entries.
    Map(Entry),
    /// A hash table of items: entries whose values have no size.
    Set(Entry),
    /// A B-tree of entries, in the order of their keys.
    TreeMap {
        /// The type of a key.
        key: u32,
        /// The type of a value.
        value: u32,
    },
    /// A B-tree of items, in their order.
    TreeSet(u32),
    /// Nothing is known but its size and alignment.
    Opaque,
}

/// A type of numbers, or what is archived like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Scalar {
    Bool,
    Char,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    /// Archived like an `i32`, but hashed like an `i64`.
    Isize,
    F32,
    F64,
}

/// The fields of a structure, tuple or variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields {
    /// How they are written.
    pub shape: Shape,
    /// In the order they were declared.
    pub list: Vec<Field>,
}

/// How fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// `Name`.
    Unit,
    /// `Name(T)`: in JSON the field alone.
    Newtype,
    /// `Name(A, B)`, and all tuples.
    Tuple,
    /// `Name { a: A }`.
    Named,
}

/// A field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name, or its number in a tuple.
    pub name: String,
    /// What a number of it is, as `m/s`; empty if nothing was said.
    pub unit: String,
    /// Its doc comment, or the beginning of it.
    pub doc: String,
    /// Where it lies.
    pub place: Place,
}

/// A value in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Its type.
    pub ty: u32,
    /// Bytes before it.
    pub offset: u32,
}

/// One of the values of an enum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its doc comment, or the beginning of it.
    pub doc: String,
    /// The byte that says it is this one.
    pub tag: u8,
    /// What it has.
    pub fields: Fields,
}

/// The entries of a hash table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Bytes of an entry.
    pub size: u32,
    /// Its alignment in bytes.
    pub align: u32,
    /// The key.
    pub key: Place,
    /// The value.
    pub value: Place,
}

impl Schema {
    /// The schema of a type. It is made once and kept, as long as the program runs.
    ///
    /// # Errors
    /// [`SchemaError::TooLarge`] if it is beyond what may be handed around, without its comments
    /// even.
    pub fn of<T: Describe>() -> Result<Arc<Self>, SchemaError> {
        known::schema_of::<T>()
    }

    /// Reads a schema from the bytes of [`encode`](Self::encode), which may be anything.
    ///
    /// # Errors
    /// [`SchemaError::TooLarge`] or [`SchemaError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SchemaError> {
        error::within("bytes of a schema", bytes.len(), SCHEMA_BYTES_MAX)?;
        let mut rest = bytes;
        let mut decoder = rmp_serde::Deserializer::new(&mut rest);
        decoder.set_max_depth(DECODE_DEPTH_MAX);
        let parts = Parts::deserialize(&mut decoder)
            .map_err(|_| SchemaError::Malformed("these bytes are none"))?;
        if !rest.is_empty() {
            return Err(SchemaError::Malformed("there is something behind it"));
        }
        Self::new(parts)
    }

    /// The schema as bytes: MessagePack.
    ///
    /// # Errors
    /// [`SchemaError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, SchemaError> {
        self.parts.encode()
    }

    /// Equal for types of the same names and archived layouts, whatever their comments and units
    /// are, and wherever and whenever they were compiled.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The types, by number.
    #[must_use]
    pub fn types(&self) -> &[Type] {
        &self.parts.types
    }

    /// A type of the table, which its other types may name.
    #[must_use]
    pub fn ty(&self, number: u32) -> Option<&Type> {
        self.parts.types.get(number as usize)
    }

    /// The type of the message.
    #[must_use]
    pub fn root(&self) -> &Type {
        &self.parts.types[self.parts.root as usize]
    }

    /// The number of that type.
    #[must_use]
    pub fn root_number(&self) -> u32 {
        self.parts.root
    }

    /// The format of the archives it describes.
    #[must_use]
    pub fn format(&self) -> Format {
        self.parts.format
    }

    fn new(parts: Parts) -> Result<Self, SchemaError> {
        check::check(&parts)?;
        let hash = hash::hash(&parts);
        Ok(Self { parts, hash })
    }
}

impl Parts {
    fn encode(&self) -> Result<Vec<u8>, SchemaError> {
        let bytes = rmp_serde::to_vec(self);
        let bytes = bytes.map_err(|_| SchemaError::Malformed("it cannot be encoded"))?;
        error::within("bytes of a schema", bytes.len(), SCHEMA_BYTES_MAX)?;
        Ok(bytes)
    }
}

impl Format {
    /// rkyv's default, which all programs use that do not ask for another.
    pub const DEFAULT: Self = Self {
        is_big_endian: false,
        align: 8,
        pointer_bytes: 4,
    };

    /// The one of this program.
    #[must_use]
    pub fn ours() -> Self {
        let one = rkyv::to_bytes::<rkyv::rancor::Error>(&1_u16);
        let byte = |size: usize| u8::try_from(size).unwrap_or(u8::MAX);
        Self {
            is_big_endian: one.is_ok_and(|bytes| bytes.first() == Some(&0)),
            align: byte(align_of::<rkyv::Archived<u64>>()),
            pointer_bytes: byte(size_of::<rkyv::Archived<usize>>()),
        }
    }

    fn check(self) -> Result<(), SchemaError> {
        if self == Self::DEFAULT {
            return Ok(());
        }
        Err(SchemaError::Format { found: self })
    }
}

impl Scalar {
    /// Bytes of its archived form.
    #[must_use]
    pub fn size(self) -> u32 {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::Char | Self::U32 | Self::I32 | Self::Isize | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::U128 | Self::I128 => 16,
        }
    }

    /// Its name in Rust.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Char => "char",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::U128 => "u128",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I128 => "i128",
            Self::Isize => "isize",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }
}

impl Type {
    fn drop_comments(&mut self) {
        self.doc.clear();
        let fields = match &mut self.kind {
            Kind::Struct(fields) => std::slice::from_mut(fields).iter_mut().collect(),
            Kind::Enum(variants) => {
                let variants = variants.iter_mut();
                variants
                    .map(|variant| {
                        variant.doc.clear();
                        &mut variant.fields
                    })
                    .collect()
            }
            _ => Vec::new(),
        };
        let fields = fields.into_iter().flat_map(|fields| &mut fields.list);
        fields.for_each(|field| field.doc.clear());
    }

    /// The places in it where values of other types lie, all together.
    fn places(&self) -> Vec<Place> {
        match &self.kind {
            Kind::Struct(fields) => fields.list.iter().map(|field| field.place).collect(),
            Kind::Enum(variants) => {
                let fields = variants.iter().flat_map(|variant| &variant.fields.list);
                fields.map(|field| field.place).collect()
            }
            Kind::Option(place) => vec![*place],
            Kind::Shared(inner) | Kind::Weak(inner) => vec![Place {
                ty: *inner,
                offset: 0,
            }],
            Kind::Array { item, len: 1.. } => vec![Place {
                ty: *item,
                offset: 0,
            }],
            _ => Vec::new(),
        }
    }

    /// True if its JSON may be `null` where it is something else, too.
    fn may_be_null(&self) -> bool {
        matches!(self.kind, Kind::Option(_) | Kind::Weak(_))
    }

    /// The types that it refers to beside those: its pointers lead there.
    fn pointed_to(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Array { item, len: 0 } => vec![*item],
            Kind::List(item) | Kind::Box(item) => vec![*item],
            Kind::Map(entry) | Kind::Set(entry) => vec![entry.key.ty, entry.value.ty],
            Kind::TreeMap { key, value } => vec![*key, *value],
            Kind::TreeSet(item) => vec![*item],
            _ => Vec::new(),
        }
    }
}

/// Levels of MessagePack in a schema, with a few to spare: the table is flat.
const DECODE_DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests;
