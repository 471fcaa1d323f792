//! JSON texts to values, strictly: a name that is there twice is a mistake, and what is wrong is
//! said with its path.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Map, Number, Value};

use super::SchemaError;
use super::write::Step;
use crate::name::escaped;

/// The value of a text.
///
/// # Errors
/// [`SchemaError::Json`]: what is no JSON, a number beyond those of 64 bits, or a name that an
/// object has twice.
pub(crate) fn parse_json(text: &str) -> Result<Value, SchemaError> {
    parse(text).map_err(SchemaError::Json)
}

fn parse(text: &str) -> Result<Value, Error> {
    let mut path = Vec::new();
    let mut from = serde_json::Deserializer::from_str(text);
    let parsed = Strict(&mut path).deserialize(&mut from);
    let parsed = parsed.and_then(|value| from.end().map(|()| value));
    parsed.map_err(|error| match path[..] {
        [] => error,
        _ => Error::custom(format!("at {}: {error}", escaped(&Step::text(&path)))),
    })
}

impl Step {
    /// A path as people write it: `joints[3].angle`.
    pub(super) fn text(path: &[Self]) -> String {
        let mut text = String::new();
        for step in path {
            match step {
                Self::Name(name) if text.is_empty() => text.push_str(name),
                Self::Name(name) => text.extend([".", name]),
                Self::Item(idx) => text.push_str(&format!("[{idx}]")),
            }
        }
        text
    }
}

/// A value whose path is left as it is where reading ends with an error.
struct Strict<'a>(&'a mut Vec<Step>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, is: bool) -> Result<Value, E> {
        Ok(Value::Bool(is))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.0.push(Step::Item(list.len()));
            let item = items.next_element_seed(Strict(self.0))?;
            self.0.pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            self.0.push(Step::Name(name.clone()));
            if object.contains_key(&name) {
                return Err(A::Error::custom("this field is there twice"));
            }
            let value = entries.next_value_seed(Strict(self.0))?;
            self.0.pop();
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_texts_are_read_as_by_serde() {
        let text = r#" {"a":[null,true,-1,18446744073709551615,1.5e3,"\u00e4",{}],"b":{"a":[]}} "#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_path() {
        for (text, place, what) in [
            (
                r#"{"a":{"b":[1,{"c":1e400}]}}"#,
                "at a.b[1].c: ",
                "out of range",
            ),
            (r#"{"a":1,"b":[{"x":1,"x":2}]}"#, "at b[0].x: ", "twice"),
            ("[1,2,", "at [2]: ", "EOF"),
            ("1e400", "", "out of range"),
            ("1 2", "", "trailing"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.starts_with(place) && said.contains(what), "{said}");
            assert!(said.contains("line 1 column"), "{said}");
        }
    }
}
