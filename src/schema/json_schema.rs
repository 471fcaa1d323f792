//! A schema as a JSON Schema, for tools that show recordings.

use serde_json::{Map, Value as Json, json};

use super::{Fields, Kind, Scalar, Schema, Shape, Type, Variant};
use crate::limits::SCHEMA_DEPTH_MAX;

impl Schema {
    /// A JSON Schema of what [`Reader`](super::Reader) writes, as a JSON text.
    ///
    /// It is made for tools such as Foxglove, which follow no references and know one type for each
    /// value: types are told where they are used; where one is in itself, or the text would get too
    /// long, it is any object. What may be `null` is told as what it is else, and is not required.
    /// Maps whose keys cannot be names are told as arrays of `[key, value]`.
    #[must_use]
    pub fn json_schema(&self) -> String {
        let mut teller = Teller {
            schema: self,
            above: Vec::new(),
            left: TOLD_MAX,
        };
        let mut told = teller.ty(self.root_number());
        if let Json::Object(told) = &mut told {
            let draft = "https://json-schema.org/draft/2020-12/schema";
            told.insert("$schema".into(), draft.into());
            let mut title = self.name_of(self.root_number());
            title.truncate(title.floor_char_boundary(TITLE_BYTES_MAX));
            told.insert("title".into(), title.into());
        }
        told.to_string()
    }
}

struct Teller<'a> {
    schema: &'a Schema,
    /// The types that are being told.
    above: Vec<u32>,
    /// How many more may be told.
    left: usize,
}

impl Teller<'_> {
    fn ty(&mut self, number: u32) -> Json {
        let is_told = self.left > 0 && self.above.len() < SCHEMA_DEPTH_MAX;
        let is_told = is_told && !self.above.contains(&number);
        let Some(ty) = self.schema.ty(number).filter(|_| is_told) else {
            return json!({ "type": "object" });
        };
        self.left -= 1;
        self.above.push(number);
        let mut told = self.kind(ty);
        self.above.pop();
        describe(&mut told, &ty.doc, "");
        told
    }

    fn kind(&mut self, ty: &Type) -> Json {
        match &ty.kind {
            Kind::Scalar(scalar) => told(*scalar),
            Kind::NonZero(scalar) => {
                let mut told = told(*scalar);
                if told.get("minimum").is_some() {
                    told["minimum"] = 1.into();
                }
                told
            }
            Kind::String | Kind::Str => json!({ "type": "string" }),
            Kind::Duration => json!({
                "type": "object",
                "properties": {
                    "secs": { "type": "integer", "minimum": 0 },
                    "nanos": { "type": "integer", "minimum": 0, "maximum": 999_999_999 },
                },
                "required": ["secs", "nanos"],
            }),
            Kind::Struct(fields) => self.fields(fields),
            Kind::Enum(variants) => self.variants(variants),
            Kind::Option(some) => self.ty(some.ty),
            Kind::List(item) => json!({ "type": "array", "items": self.ty(*item) }),
            Kind::Array { item, len } => json!({
                "type": "array", "items": self.ty(*item), "minItems": len, "maxItems": len,
            }),
            Kind::Box(inner) | Kind::Shared(inner) | Kind::Weak(inner) => self.ty(*inner),
            Kind::Map(entry) => self.map(entry.key.ty, entry.value.ty),
            Kind::TreeMap { key, value } => self.map(*key, *value),
            Kind::Set(entry) => self.set(entry.key.ty),
            Kind::TreeSet(item) => self.set(*item),
            Kind::Opaque => json!({ "type": "null" }),
        }
    }

    fn map(&mut self, key: u32, value: u32) -> Json {
        if self.schema.ty(key).is_some_and(super::table::is_name) {
            return json!({ "type": "object", "additionalProperties": self.ty(value) });
        }
        let pair = vec![self.ty(key), self.ty(value)];
        json!({ "type": "array", "items": tuple(pair) })
    }

    fn set(&mut self, item: u32) -> Json {
        json!({ "type": "array", "items": self.ty(item), "uniqueItems": true })
    }

    fn fields(&mut self, fields: &Fields) -> Json {
        match fields.shape {
            Shape::Unit => json!({ "type": "null" }),
            Shape::Newtype => {
                let field = &fields.list[0];
                let mut told = self.ty(field.place.ty);
                describe(&mut told, &field.doc, &field.unit);
                told
            }
            Shape::Tuple => {
                let items = fields.list.iter().map(|field| self.ty(field.place.ty));
                tuple(items.collect())
            }
            Shape::Named => {
                let mut properties = Map::new();
                let mut required = Vec::new();
                for field in &fields.list {
                    let mut told = self.ty(field.place.ty);
                    describe(&mut told, &field.doc, &field.unit);
                    properties.insert(field.name.clone(), told);
                    let ty = self.schema.ty(field.place.ty);
                    if ty.is_none_or(|ty| !ty.may_be_null()) {
                        required.push(field.name.clone());
                    }
                }
                json!({ "type": "object", "properties": properties, "required": required })
            }
        }
    }

    fn variants(&mut self, variants: &[Variant]) -> Json {
        let is_plain = |variant: &&Variant| variant.fields.shape == Shape::Unit;
        if variants.iter().all(|variant| is_plain(&variant)) {
            let names: Vec<_> = variants.iter().map(|variant| &*variant.name).collect();
            return json!({ "type": "string", "enum": names });
        }
        let mut properties = Map::new();
        for variant in variants.iter().filter(|variant| !is_plain(variant)) {
            let mut told = self.fields(&variant.fields);
            describe(&mut told, &variant.doc, "");
            properties.insert(variant.name.clone(), told);
        }
        json!({ "type": "object", "properties": properties })
    }
}

/// An array of these.
fn tuple(items: Vec<Json>) -> Json {
    let len = items.len();
    let is_alike = items.windows(2).all(|pair| pair[0] == pair[1]);
    let mut told = json!({ "type": "array", "minItems": len, "maxItems": len });
    match items.first() {
        Some(first) if is_alike => told["items"] = first.clone(),
        _ => told["prefixItems"] = items.into(),
    }
    told
}

/// What is said nearest to a value is said of it.
fn describe(told: &mut Json, doc: &str, unit: &str) {
    let text = match (doc, unit) {
        ("", "") => return,
        (doc, "") => doc.to_owned(),
        ("", unit) => format!("[{unit}]"),
        (doc, unit) => format!("{doc} [{unit}]"),
    };
    told["description"] = text.into();
}

fn told(scalar: Scalar) -> Json {
    match scalar {
        Scalar::Bool => json!({ "type": "boolean" }),
        Scalar::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        Scalar::F32 | Scalar::F64 => json!({ "type": "number" }),
        Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64 | Scalar::I128 | Scalar::Isize => {
            json!({ "type": "integer" })
        }
        Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 | Scalar::U128 => {
            json!({ "type": "integer", "minimum": 0 })
        }
    }
}

/// Types that are told in one text, each as often as it is used.
const TOLD_MAX: usize = 4096;
/// Longest title in bytes.
const TITLE_BYTES_MAX: usize = 128;
