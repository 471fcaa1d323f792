//! A part of a message, found by its path.

use std::io::Write;

use super::read::{Reader, wrong};
use super::table::{self, Buckets};
use super::tree::{InOrder, Layout};
use super::{Fields, Kind, Scalar, SchemaError, Shape, Type};
use crate::limits::SCHEMA_VALUE_DEPTH_MAX;

/// A message or a part of it, where it lies in the archive.
///
/// ```
/// # use shmesh::rkyv::{Archive, Serialize, rancor, to_bytes};
/// # use shmesh::{Message, schema::{Reader, Schema}};
/// #[derive(Archive, Serialize, Message)]
/// #[rkyv(crate = shmesh::rkyv)]
/// struct Arm { joints: Vec<(String, f32)> }
///
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let arm = Arm { joints: vec![("elbow".into(), 0.5)] };
/// let archive = to_bytes::<rancor::Error>(&arm)?;
/// let reader = Reader::new(Schema::of::<Arm>()?)?;
/// let angle = reader.read(&archive)?.at("joints[0].1")?;
/// assert_eq!(angle.as_f64(), Some(0.5));
/// # Ok(())
/// # }
/// # run().unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    reader: &'a Reader,
    archive: &'a [u8],
    ty: u32,
    at: usize,
}

impl<'a> Value<'a> {
    pub(super) fn new(reader: &'a Reader, archive: &'a [u8], ty: u32, at: usize) -> Self {
        Self {
            reader,
            archive,
            ty,
            at,
        }
    }

    /// The part at `path`: names of fields, of variants and of entries, each after a dot, and
    /// numbers of items in brackets: `joints[3].name`. What is behind a `Box`, in an `Option`
    /// or alone in a structure without a name is stepped into. An empty path is the value itself.
    ///
    /// # Errors
    /// [`SchemaError::NoSuchField`], or [`SchemaError::Archive`].
    pub fn at(self, path: &str) -> Result<Self, SchemaError> {
        let mut found = self;
        let mut rest = path;
        while let Some((step, next)) = next_step(rest) {
            let why = match found.step(step)? {
                Ok(inner) => {
                    (found, rest) = (inner, next);
                    continue;
                }
                Err(why) => why,
            };
            let path = path[..path.len() - next.len()].into();
            return Err(SchemaError::NoSuchField { path, why });
        }
        Ok(found)
    }

    /// Its type.
    #[must_use]
    pub fn ty(&self) -> &'a Type {
        &self.reader.schema().types()[self.ty as usize]
    }

    /// Writes it as JSON, as [`Reader::json`] does.
    ///
    /// # Errors
    /// [`SchemaError::Archive`]; [`SchemaError::Io`].
    pub fn json(&self, to: &mut impl Write) -> Result<(), SchemaError> {
        self.reader.json_at(self, to)
    }

    /// The same as a text.
    ///
    /// # Errors
    /// [`SchemaError::Archive`].
    pub fn json_text(&self) -> Result<String, SchemaError> {
        let mut text = Vec::new();
        self.json(&mut text)?;
        String::from_utf8(text).map_err(|_| wrong("a text that is not UTF-8", self.at))
    }

    /// The number that it is, as near as a `f64` comes; 0 or 1 for a truth value.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "as documented")]
    pub fn as_f64(&self) -> Option<f64> {
        let found = self.inside().ok()??;
        let (Kind::Scalar(scalar) | Kind::NonZero(scalar)) = found.ty().kind else {
            return None;
        };
        let bytes = table::bytes_at(found.archive, found.at, scalar.size() as usize).ok()?;
        let mut wide = [0; 16];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u128::from_le_bytes(wide);
        // The sign is where the number ends.
        let unused = 128 - 8 * scalar.size();
        let signed = unsigned.cast_signed() << unused >> unused;
        match scalar {
            Scalar::Char => None,
            Scalar::F32 => Some(f32::from_bits(u32::try_from(unsigned).ok()?).into()),
            Scalar::F64 => Some(f64::from_bits(u64::try_from(unsigned).ok()?)),
            Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64 | Scalar::I128 | Scalar::Isize => {
                Some(signed as f64)
            }
            _ => Some(unsigned as f64),
        }
    }

    /// The text that it is.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        let found = self.inside().ok()??;
        let text = match found.ty().kind {
            Kind::String => table::string(found.archive, found.at),
            Kind::Str => table::str(found.archive, found.at),
            _ => return None,
        };
        str::from_utf8(text.ok()?).ok()
    }

    pub(super) fn archive(&self) -> &'a [u8] {
        self.archive
    }

    pub(super) fn place(&self) -> (u32, usize) {
        (self.ty, self.at)
    }

    /// One step further, or why it cannot be taken.
    fn step(self, step: &str) -> Result<Result<Self, String>, SchemaError> {
        let Some(found) = self.inside()? else {
            return Ok(Err("there is nothing in the option".into()));
        };
        match &found.ty().kind {
            Kind::Struct(fields) => Ok(found.field(fields, step)),
            Kind::Enum(variants) => {
                let [tag] = table::array_at(found.archive, found.at)?;
                let variant = variants.iter().find(|variant| variant.tag == tag);
                let variant =
                    variant.ok_or_else(|| wrong("a tag that stands for nothing", found.at))?;
                if variant.name == step && variant.fields.shape == Shape::Newtype {
                    return Ok(found.field(&variant.fields, "0"));
                }
                if variant.name == step {
                    // Its fields are found from the enum.
                    return Ok(Ok(found));
                }
                let inner = found.field(&variant.fields, step);
                Ok(inner.map_err(|why| format!("it is {}, and {why}", variant.name)))
            }
            Kind::List(item) => {
                let size = found.reader.schema().types()[*item as usize].size;
                let (target, len) = table::list(found.archive, found.at, size)?;
                Ok(found.item(*item, target, len, step))
            }
            Kind::Array { item, len } => Ok(found.item(*item, found.at, *len as usize, step)),
            Kind::Map(entry) => {
                let buckets = Buckets::find(found.archive, found.at, entry)?;
                let entries = buckets.entries(found.archive, entry)?;
                found.entry(entries, entry.key.ty, entry.value.ty, step)
            }
            Kind::TreeMap { key, value } => {
                let types = found.reader.schema().types();
                let layout = Layout::new(&types[*key as usize], Some(&types[*value as usize]));
                let entries = InOrder::find(found.archive, found.at, &layout)?;
                found.entry(entries, *key, *value, step)
            }
            _ => Ok(Err("nothing is in it".into())),
        }
    }

    /// The value behind boxes, in options and alone in structures; nothing for an empty option.
    fn inside(self) -> Result<Option<Self>, SchemaError> {
        let mut found = self;
        for _ in 0..SCHEMA_VALUE_DEPTH_MAX {
            match &found.ty().kind {
                Kind::Box(inner) => {
                    let size = found.reader.schema().types()[*inner as usize].size as usize;
                    found.at = table::target(found.archive, found.at, size)?;
                    found.ty = *inner;
                }
                Kind::Weak(_) if table::is_nowhere(found.archive, found.at)? => return Ok(None),
                Kind::Shared(inner) | Kind::Weak(inner) => found = found.moved(*inner, 0),
                Kind::Option(some) => match table::array_at(found.archive, found.at)? {
                    [0] => return Ok(None),
                    [1] => found = found.moved(some.ty, some.offset),
                    _ => return Err(wrong("a tag that stands for nothing", found.at)),
                },
                Kind::Struct(fields) if fields.shape == Shape::Newtype => {
                    let place = fields.list[0].place;
                    found = found.moved(place.ty, place.offset);
                }
                _ => return Ok(Some(found)),
            }
        }
        Err(wrong("values lie too deep in each other", self.at))
    }

    fn moved(self, ty: u32, offset: u32) -> Self {
        let at = self.at + offset as usize;
        Self { ty, at, ..self }
    }

    fn field(self, fields: &Fields, step: &str) -> Result<Self, String> {
        let place = fields.list.iter().find(|field| field.name == step);
        match place.map(|field| field.place) {
            Some(place) => Ok(self.moved(place.ty, place.offset)),
            None if fields.list.is_empty() => Err("it has no fields".into()),
            None => {
                let names: Vec<_> = fields.list.iter().map(|field| &*field.name).collect();
                Err(format!("it has {}", names.join(", ")))
            }
        }
    }

    fn item(self, ty: u32, first: usize, len: usize, step: &str) -> Result<Self, String> {
        let size = self.reader.schema().types()[ty as usize].size as usize;
        let idx = step.parse::<usize>();
        match idx {
            Ok(idx) if idx < len => Ok(Self {
                ty,
                at: first + idx * size,
                ..self
            }),
            Ok(_) => Err(format!("it has {len} items")),
            Err(_) => Err("it has items: `[0]` is the first".into()),
        }
    }

    /// The value whose key is `step`.
    fn entry(
        self,
        entries: impl Iterator<Item = Result<(usize, usize), SchemaError>>,
        key: u32,
        value: u32,
        step: &str,
    ) -> Result<Result<Self, String>, SchemaError> {
        for entry in entries {
            let (key_at, value_at) = entry?;
            let found = |ty, at| Self { ty, at, ..self };
            let key = found(key, key_at).json_text()?;
            let is_it = match key.strip_prefix('"') {
                Some(_) => serde_json::from_str(&key).is_ok_and(|key: String| key == step),
                None => key == step,
            };
            if is_it {
                return Ok(Ok(found(value, value_at)));
            }
        }
        Ok(Err("it has no such entry".into()))
    }
}

/// The first step of a path and what is behind it.
fn next_step(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some(inner) = path.strip_prefix('[') {
        return Some(inner.split_once(']').unwrap_or((inner, "")));
    }
    if path.is_empty() {
        return None;
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    Some(path.split_at(end))
}
