//! How types say what their archives look like: the trait that `#[derive(Message)]` implements,
//! and its implementations for the types of the standard library.

use core::any::{TypeId, type_name};
use core::mem::{align_of, offset_of, size_of};
use core::num::NonZero;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};
use std::rc::{self, Rc};
use std::sync::{self, Arc};

use rkyv::collections::util;
use rkyv::{Archive, Archived};

use super::{Entry, Field, Fields, Kind, Place, Scalar, Shape, Type, Variant};
use crate::limits::{SCHEMA_DOC_BYTES_MAX, SCHEMA_NAME_BYTES_MAX};
use crate::message::short_name;

/// A type that says what its archives look like. `#[derive(Message)]` implements it.
///
/// ```
/// use shmesh::rkyv::{Archive, Serialize};
/// use shmesh::{Message, schema::Schema};
///
/// #[derive(Archive, Serialize, Message)]
/// #[rkyv(crate = shmesh::rkyv)]
/// enum Goal { Stop, Go { x: f64, y: f64 } }
///
/// let schema = Schema::of::<Goal>().unwrap();
/// assert_eq!(schema.root().name, "Goal");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no description, which tools read messages by",
    label = "not described",
    note = "add `#[derive(shmesh::Message)]` to `{Self}`",
    note = "or, if it is not yours, `#[message(opaque)]` to the field: tools pass it over then"
)]
pub trait Describe: Archive + 'static {
    /// What its archive looks like. Types in it are added to `types`.
    fn describe(types: &mut Types) -> Type;
}

/// The types that were described so far.
#[derive(Debug, Default)]
pub struct Types {
    numbers: HashMap<TypeId, u32>,
    list: Vec<Type>,
}

/// What is said of a field beside its type.
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// Its name.
    pub name: &'a str,
    /// What a number of it is; may be empty.
    pub unit: &'a str,
    /// Its comment; may be empty.
    pub doc: &'a str,
}

/// The variants of an enum, one after the other. Where rkyv lays their fields is not public, but
/// follows from what it says: the archived enum is `#[repr(u8)]`.
#[derive(Debug, Default)]
pub struct Variants {
    list: Vec<Variant>,
    /// Where the last field of the last variant ends.
    end: usize,
}

impl Types {
    /// The number of a type, which is described if it was not yet.
    pub fn number<T: Describe>(&mut self) -> u32 {
        if let Some(number) = self.numbers.get(&TypeId::of::<T>()) {
            return *number;
        }
        // Its place is taken before it is described, for it may be in itself.
        let number = self.push(Type::of_opaque::<T>(""));
        self.numbers.insert(TypeId::of::<T>(), number);
        self.list[number as usize] = T::describe(self);
        number
    }

    /// A field at `offset`.
    pub fn field<T: Describe>(&mut self, offset: usize, label: Label<'_>) -> Field {
        let ty = self.number::<T>();
        label.field(ty, offset)
    }

    /// A field at `offset` of which only the archived type `A` is known.
    pub fn opaque<A>(&mut self, offset: usize, label: Label<'_>) -> Field {
        let ty = self.push(Type::new::<A>(type_name::<A>(), "", Kind::Opaque));
        label.field(ty, offset)
    }

    pub(super) fn into_list(self) -> Vec<Type> {
        self.list
    }

    fn push(&mut self, ty: Type) -> u32 {
        let number = saturated(self.list.len());
        self.list.push(ty);
        number
    }
}

impl Label<'_> {
    fn field(self, ty: u32, offset: usize) -> Field {
        let offset = saturated(offset);
        Field {
            name: bounded(self.name, SCHEMA_NAME_BYTES_MAX),
            unit: bounded(self.unit, SCHEMA_NAME_BYTES_MAX),
            doc: bounded(self.doc, SCHEMA_DOC_BYTES_MAX),
            place: Place { ty, offset },
        }
    }

    /// The label of a field of which there is only a name.
    fn bare(name: &str) -> Label<'_> {
        let (unit, doc) = ("", "");
        Label { name, unit, doc }
    }
}

impl Type {
    /// A structure with these fields.
    #[must_use]
    pub fn of_struct<T: Archive>(doc: &str, shape: Shape, list: Vec<Field>) -> Self {
        let kind = Kind::Struct(Fields { shape, list });
        Self::new::<T::Archived>(type_name::<T>(), doc, kind)
    }

    /// A type of which tools know nothing else.
    #[must_use]
    pub fn of_opaque<T: Archive>(doc: &str) -> Self {
        Self::new::<T::Archived>(type_name::<T>(), doc, Kind::Opaque)
    }

    /// A type without a name of its own.
    fn plain<T: Archive>(kind: Kind) -> Self {
        Self::new::<T::Archived>("", "", kind)
    }

    fn new<A>(name: &str, doc: &str, kind: Kind) -> Self {
        Self {
            name: bounded(&short_name(name), SCHEMA_NAME_BYTES_MAX),
            doc: bounded(doc, SCHEMA_DOC_BYTES_MAX),
            size: saturated(size_of::<A>()),
            align: saturated(align_of::<A>()),
            kind,
        }
    }
}

impl Variants {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next variant, whose fields come next. Its tag is one more than the last one's unless
    /// it was given.
    pub fn begin(&mut self, name: &str, tag: Option<u8>, shape: Shape, doc: &str) {
        let last = self.list.last();
        let next = last.map_or(0, |variant| variant.tag.wrapping_add(1));
        let fields = Fields {
            shape,
            list: Vec::new(),
        };
        self.list.push(Variant {
            name: bounded(name, SCHEMA_NAME_BYTES_MAX),
            doc: bounded(doc, SCHEMA_DOC_BYTES_MAX),
            tag: tag.unwrap_or(next),
            fields,
        });
        // The tag is before the fields.
        self.end = 1;
    }

    /// The next field of the last variant.
    pub fn field<T: Describe>(&mut self, types: &mut Types, label: Label<'_>) {
        let offset = self.place::<T::Archived>();
        self.push(types.field::<T>(offset, label));
    }

    /// The same, of which only the archived type `A` is known.
    pub fn opaque<A>(&mut self, types: &mut Types, label: Label<'_>) {
        let offset = self.place::<A>();
        self.push(types.opaque::<A>(offset, label));
    }

    /// The enum.
    #[must_use]
    pub fn finish<T: Archive>(self, doc: &str) -> Type {
        Type::new::<T::Archived>(type_name::<T>(), doc, Kind::Enum(self.list))
    }

    /// A `#[repr(u8)]` enum lies in memory like a union of `#[repr(C)]` structures, one for each
    /// variant, which begin with the tag: so each field has the first place that suits it.
    fn place<A>(&mut self) -> usize {
        let offset = self.end.next_multiple_of(align_of::<A>());
        self.end = offset + size_of::<A>();
        offset
    }

    fn push(&mut self, field: Field) {
        if let Some(variant) = self.list.last_mut() {
            variant.fields.list.push(field);
        }
    }
}

/// The beginning of a text, without what no terminal should see.
fn bounded(text: &str, max: usize) -> String {
    let end = text.floor_char_boundary(max);
    let is_bad = |c: char| c.is_control() && c != '\n';
    text[..end].replace(is_bad, " ")
}

/// What does not fit makes a schema that the check refuses.
fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

macro_rules! describe_scalars {
    ($($ty:ty: $scalar:ident),* $(,)?) => {$(
        impl Describe for $ty {
            fn describe(_: &mut Types) -> Type {
                Type::plain::<Self>(Kind::Scalar(Scalar::$scalar))
            }
        }
    )*};
}

describe_scalars!(bool: Bool, char: Char, f32: F32, f64: F64);

macro_rules! describe_integers {
    ($($ty:ty: $scalar:ident),* $(,)?) => {$(
        describe_scalars!($ty: $scalar);

        impl Describe for NonZero<$ty> {
            fn describe(_: &mut Types) -> Type {
                Type::plain::<Self>(Kind::NonZero(Scalar::$scalar))
            }
        }
    )*};
}

// As they are archived, `usize` and `isize` have the width of a relative pointer.
describe_integers!(
    u8: U8, u16: U16, u32: U32, u64: U64, u128: U128, usize: U32,
    i8: I8, i16: I16, i32: I32, i64: I64, i128: I128, isize: Isize,
);

macro_rules! describe_tuples {
    ($($($part:ident $idx:tt),*;)*) => {$(
        impl<$($part: Describe),*> Describe for ($($part,)*) {
            fn describe(types: &mut Types) -> Type {
                let fields = vec![$(types.field::<$part>(
                    offset_of!(Archived<Self>, $idx),
                    Label::bare(stringify!($idx)),
                )),*];
                let shape = Shape::Tuple;
                Type::plain::<Self>(Kind::Struct(Fields { shape, list: fields }))
            }
        }
    )*};
}

describe_tuples!(
    A 0;
    A 0, B 1;
    A 0, B 1, C 2;
    A 0, B 1, C 2, D 3;
    A 0, B 1, C 2, D 3, E 4;
    A 0, B 1, C 2, D 3, E 4, F 5;
    A 0, B 1, C 2, D 3, E 4, F 5, G 6;
    A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7;
);

impl Describe for () {
    fn describe(_: &mut Types) -> Type {
        Type::plain::<Self>(NOTHING)
    }
}

impl<T: ?Sized + 'static> Describe for PhantomData<T> {
    fn describe(_: &mut Types) -> Type {
        Type::plain::<Self>(NOTHING)
    }
}

impl Describe for String {
    fn describe(_: &mut Types) -> Type {
        Type::plain::<Self>(Kind::String)
    }
}

impl Describe for Box<str> {
    fn describe(_: &mut Types) -> Type {
        Type::plain::<Self>(Kind::Str)
    }
}

impl Describe for Duration {
    fn describe(_: &mut Types) -> Type {
        Type::plain::<Self>(Kind::Duration)
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn describe(types: &mut Types) -> Type {
        Type::plain::<Self>(Kind::List(types.number::<T>()))
    }
}

impl<T: Describe> Describe for VecDeque<T> {
    fn describe(types: &mut Types) -> Type {
        Type::plain::<Self>(Kind::List(types.number::<T>()))
    }
}

impl<T: Describe> Describe for Box<[T]> {
    fn describe(types: &mut Types) -> Type {
        Type::plain::<Self>(Kind::List(types.number::<T>()))
    }
}

impl<T: Describe> Describe for Box<T> {
    fn describe(types: &mut Types) -> Type {
        Type::plain::<Self>(Kind::Box(types.number::<T>()))
    }
}

impl<T: Describe, const N: usize> Describe for [T; N] {
    fn describe(types: &mut Types) -> Type {
        let item = types.number::<T>();
        let len = saturated(N);
        Type::plain::<Self>(Kind::Array { item, len })
    }
}

impl<T: Describe> Describe for Option<T> {
    fn describe(types: &mut Types) -> Type {
        let mut some = Variants {
            list: Vec::new(),
            end: 1,
        };
        let offset = saturated(some.place::<T::Archived>());
        let ty = types.number::<T>();
        Type::plain::<Self>(Kind::Option(Place { ty, offset }))
    }
}

impl<T: Describe, E: Describe> Describe for Result<T, E> {
    fn describe(types: &mut Types) -> Type {
        let mut variants = Variants::new();
        variants.begin("Ok", None, Shape::Newtype, "");
        variants.field::<T>(types, Label::bare("0"));
        variants.begin("Err", None, Shape::Newtype, "");
        variants.field::<E>(types, Label::bare("0"));
        variants.finish::<Self>("")
    }
}

impl<T: Describe> Describe for Bound<T> {
    fn describe(types: &mut Types) -> Type {
        let mut variants = Variants::new();
        for name in ["Included", "Excluded"] {
            variants.begin(name, None, Shape::Newtype, "");
            variants.field::<T>(types, Label::bare("0"));
        }
        variants.begin("Unbounded", None, Shape::Unit, "");
        variants.finish::<Self>("")
    }
}

impl<K, V, S> Describe for HashMap<K, V, S>
where
    K: Describe + Hash + Eq,
    K::Archived: Hash + Eq,
    V: Describe,
    S: BuildHasher + 'static,
{
    fn describe(types: &mut Types) -> Type {
        Type::plain::<Self>(Kind::Map(entry::<K, V>(types)))
    }
}

impl<K, S> Describe for HashSet<K, S>
where
    K: Describe + Hash + Eq,
    K::Archived: Hash + Eq,
    S: BuildHasher + 'static,
{
    fn describe(types: &mut Types) -> Type {
        Type::plain::<Self>(Kind::Set(entry::<K, ()>(types)))
    }
}

fn entry<K: Describe, V: Describe>(types: &mut Types) -> Entry {
    let place = |ty, offset| Place {
        ty,
        offset: saturated(offset),
    };
    let key = offset_of!(util::Entry<K::Archived, V::Archived>, key);
    let value = offset_of!(util::Entry<K::Archived, V::Archived>, value);
    Entry {
        size: saturated(size_of::<util::Entry<K::Archived, V::Archived>>()),
        align: saturated(align_of::<util::Entry<K::Archived, V::Archived>>()),
        key: place(types.number::<K>(), key),
        value: place(types.number::<V>(), value),
    }
}

impl<K, V> Describe for BTreeMap<K, V>
where
    K: Describe + Ord,
    K::Archived: Ord,
    V: Describe,
{
    fn describe(types: &mut Types) -> Type {
        let (key, value) = (types.number::<K>(), types.number::<V>());
        Type::plain::<Self>(Kind::TreeMap { key, value })
    }
}

impl<K> Describe for BTreeSet<K>
where
    K: Describe + Ord,
    K::Archived: Ord,
{
    fn describe(types: &mut Types) -> Type {
        Type::plain::<Self>(Kind::TreeSet(types.number::<K>()))
    }
}

macro_rules! describe_shared {
    ($($pointer:ty: $kind:ident $inner:ty $(, $item:ident)?;)*) => {$(
        impl$(<$item: Describe>)? Describe for $pointer {
            fn describe(types: &mut Types) -> Type {
                Type::plain::<Self>(Kind::$kind(types.number::<$inner>()))
            }
        }
    )*};
}

describe_shared!(
    Rc<T>: Shared Box<T>, T;
    Rc<[T]>: Shared Box<[T]>, T;
    Rc<str>: Shared Box<str>;
    Arc<T>: Shared Box<T>, T;
    Arc<[T]>: Shared Box<[T]>, T;
    Arc<str>: Shared Box<str>;
    rc::Weak<T>: Weak Box<T>, T;
    rc::Weak<[T]>: Weak Box<[T]>, T;
    rc::Weak<str>: Weak Box<str>;
    sync::Weak<T>: Weak Box<T>, T;
    sync::Weak<[T]>: Weak Box<[T]>, T;
    sync::Weak<str>: Weak Box<str>;
);

macro_rules! describe_ranges {
    ($($range:ident $($part:ident)*),*) => {$(
        impl<T: Describe> Describe for $range<T> {
            fn describe(types: &mut Types) -> Type {
                let list = vec![$(types.field::<T>(
                    offset_of!(Archived<Self>, $part),
                    Label::bare(stringify!($part)),
                )),*];
                Type::of_struct::<Self>("", Shape::Named, list)
            }
        }
    )*};
}

describe_ranges!(
    Range start end, RangeInclusive start end, RangeFrom start, RangeTo end, RangeToInclusive end
);

impl Describe for RangeFull {
    fn describe(_: &mut Types) -> Type {
        Type::plain::<Self>(NOTHING)
    }
}

const NOTHING: Kind = Kind::Struct(Fields {
    shape: Shape::Unit,
    list: Vec::new(),
});
