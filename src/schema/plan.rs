//! A schema as it is followed: for each type what to write before each of its parts, and where the
//! part lies. What lies in a structure in place is part of the structure's own list, so a list of
//! numbers is left of most messages, and the text between them.

use super::ink::Literal;
use super::tree::Layout;
use super::{Entry, Fields, Kind, Place, Scalar, Schema, Shape, Type, table};
use crate::limits::SCHEMA_FIELDS_MAX;

/// How a type is read.
#[derive(Debug)]
pub(super) enum Node {
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
    Shared(u32),
    Weak(u32),
    Table(Entry, Listed),
    Tree(Layout, Listed),
    Opaque,
}

/// How entries of a map or items of a set are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) key: u32,
    /// Nothing in sets.
    pub(super) value: Option<u32>,
    /// True if keys can be names of fields.
    pub(super) is_object: bool,
}

/// Parts, with what to write before, between and after them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) parts: Vec<Part>,
    /// With the beginning, if there are no parts.
    pub(super) end: Literal,
    /// Values in it, but for those of other types that are parts: these count themselves.
    pub(super) values: usize,
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) before: Literal,
    pub(super) offset: u32,
    pub(super) what: What,
}

/// Most parts are numbers, which need not be asked for by type.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Scalar(Scalar),
    String,
    Value(u32),
}

/// The plan of a schema: how each of its types is read.
pub(super) fn plan(schema: &Schema) -> impl Iterator<Item = Node> {
    let mut spare = SCHEMA_FIELDS_MAX;
    let types = schema.types().iter();
    types.map(move |ty| node(schema, ty, &mut spare))
}

fn node(schema: &Schema, ty: &Type, spare: &mut usize) -> Node {
    match &ty.kind {
        Kind::Scalar(scalar) => Node::Scalar(*scalar),
        Kind::NonZero(scalar) => Node::NonZero(*scalar),
        Kind::String => Node::String,
        Kind::Str => Node::Str,
        Kind::Duration => Node::Duration,
        Kind::Struct(fields) => Node::Group(Gathered::group(schema, None, fields, spare)),
        Kind::Enum(variants) => {
            let mut by_tag = Box::new([u16::MAX; 256]);
            for (idx, variant) in (0..).zip(variants) {
                by_tag[usize::from(variant.tag)] = idx;
            }
            let groups = variants.iter().map(|variant| {
                Gathered::group(schema, Some(&variant.name), &variant.fields, spare)
            });
            let groups = groups.collect();
            Node::Enum { groups, by_tag }
        }
        Kind::Option(place) => Node::Option(*place),
        Kind::List(item) => Node::List(*item),
        Kind::Array { item, len } => Node::Array(*item, *len),
        Kind::Box(inner) => Node::Box(*inner),
        Kind::Shared(inner) => Node::Shared(*inner),
        Kind::Weak(inner) => Node::Weak(*inner),
        Kind::Map(entry) => {
            let listed = Listed::new(schema, entry.key.ty, Some(entry.value.ty));
            Node::Table(*entry, listed)
        }
        Kind::Set(entry) => Node::Table(*entry, Listed::new(schema, entry.key.ty, None)),
        Kind::TreeMap { key, value } => tree(schema, *key, Some(*value)),
        Kind::TreeSet(item) => tree(schema, *item, None),
        Kind::Opaque => Node::Opaque,
    }
}

fn tree(schema: &Schema, key: u32, value: Option<u32>) -> Node {
    let types = schema.types();
    let layout = Layout::new(&types[key as usize], value.map(|ty| &types[ty as usize]));
    Node::Tree(layout, Listed::new(schema, key, value))
}

impl Listed {
    fn new(schema: &Schema, key: u32, value: Option<u32>) -> Self {
        let is_name = schema.ty(key).is_some_and(table::is_name);
        Self {
            key,
            value,
            is_object: value.is_some() && is_name,
        }
    }
}

/// A group in the making.
struct Gathered<'a> {
    schema: &'a Schema,
    parts: Vec<Part>,
    /// What is to be written before the next part.
    before: Vec<u8>,
    values: usize,
    /// Fields of other types that may still be taken in, of all groups together: types in types
    /// would be very many otherwise.
    spare: &'a mut usize,
}

impl<'a> Gathered<'a> {
    /// `tag` is the name of the variant that the fields belong to.
    fn group(
        schema: &'a Schema,
        tag: Option<&str>,
        fields: &Fields,
        spare: &'a mut usize,
    ) -> Group {
        let mut found = Self {
            schema,
            parts: Vec::new(),
            before: Vec::new(),
            values: 0,
            spare,
        };
        match (tag, fields.shape) {
            (None, _) => found.fields(fields, 0),
            (Some(tag), Shape::Unit) => found.before = quoted(tag),
            (Some(tag), _) => {
                found.before.push(b'{');
                found.before.extend(quoted(tag));
                found.before.push(b':');
                found.fields(fields, 0);
                found.before.push(b'}');
            }
        }
        Group {
            parts: found.parts,
            end: Literal::new(&found.before),
            values: found.values,
        }
    }

    /// The fields of what lies at `offset`.
    fn fields(&mut self, fields: &Fields, offset: u32) {
        let [open, close] = match fields.shape {
            Shape::Unit => return self.before.extend(b"null"),
            Shape::Newtype => ["", ""],
            Shape::Tuple => ["[", "]"],
            Shape::Named => ["{", "}"],
        };
        self.before.extend(open.bytes());
        for (idx, field) in fields.list.iter().enumerate() {
            if idx > 0 {
                self.before.push(b',');
            }
            if fields.shape == Shape::Named {
                self.before.extend(quoted(&field.name));
                self.before.push(b':');
            }
            self.value(field.place.ty, offset + field.place.offset);
        }
        self.before.extend(close.bytes());
    }

    fn value(&mut self, ty: u32, offset: u32) {
        self.values += 1;
        let what = match &self.schema.types()[ty as usize].kind {
            Kind::Scalar(scalar) => What::Scalar(*scalar),
            Kind::String => What::String,
            Kind::Struct(fields) if self.takes(fields.list.len()) => {
                return self.fields(fields, offset);
            }
            Kind::Array { item, len } if *len <= UNROLLED && self.takes(*len as usize) => {
                let size = self.schema.types()[*item as usize].size;
                return self.items(*item, size, *len, offset);
            }
            _ => {
                self.values -= 1;
                What::Value(ty)
            }
        };
        let before = Literal::new(&std::mem::take(&mut self.before));
        self.parts.push(Part {
            before,
            offset,
            what,
        });
    }

    fn items(&mut self, item: u32, size: u32, len: u32, offset: u32) {
        self.before.push(b'[');
        for idx in 0..len {
            if idx > 0 {
                self.before.push(b',');
            }
            self.value(item, offset + idx * size);
        }
        self.before.push(b']');
    }

    /// True if so many more may be taken in, which then are.
    fn takes(&mut self, count: usize) -> bool {
        let left = self.spare.checked_sub(count + 1);
        left.map(|left| *self.spare = left).is_some()
    }
}

fn quoted(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).unwrap_or_default()
}

/// Longest array whose items are parts of what it lies in: vectors, quaternions, small matrices.
const UNROLLED: u32 = 9;
