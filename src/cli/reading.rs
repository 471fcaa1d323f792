//! Messages of any type as JSON.

use std::io::Write as _;

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::cli::show::type_text;
use crate::codec::check_msgpack;
use crate::limits::FORMS_MAX;
use crate::name::is_order;
use crate::node::Node;
use crate::schema::{Reader, SchemaError};
use crate::topology::{Encoding, TopicType};

/// What is wanted of messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// This part of them alone.
    pub(super) field: Option<String>,
    /// How long arrays are instead of what is in them.
    pub(super) without_arrays: bool,
    /// How long texts are instead of what is in them.
    pub(super) without_texts: bool,
    /// Nothing that a terminal may take for an order.
    pub(super) is_for_terminal: bool,
}

/// Why there is no JSON.
#[derive(Debug)]
pub(super) enum Unread {
    /// What was asked for is not in it.
    NoSuchField(String),
    /// It cannot be read.
    Message(String),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchField(text) | Self::Message(text) => f.write_str(text),
        }
    }
}

impl From<SchemaError> for Unread {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::NoSuchField { .. } => Self::NoSuchField(error.to_string()),
            other => Self::Message(other.to_string()),
        }
    }
}

/// How messages of a type are read.
enum Form {
    Archive(Box<Reader>),
    Json,
    MsgPack,
    /// As hexadecimal digits.
    Bytes,
    /// As hexadecimal digits, with the encoding: what they mean is not known.
    Unknown(String),
}

/// Makes JSON of messages. Types are looked up once each.
pub(super) struct Reading<'a> {
    node: &'a Node,
    wish: Wish,
    forms: Vec<(TopicType, Form)>,
}

impl<'a> Reading<'a> {
    pub(super) const fn new(node: &'a Node, wish: Wish) -> Self {
        let forms = Vec::new();
        Self { node, wish, forms }
    }

    /// Adds the message as JSON, on one line; nothing if there is none.
    pub(super) async fn add(
        &mut self,
        ty: &TopicType,
        bytes: &[u8],
        to: &mut Vec<u8>,
    ) -> Result<(), Unread> {
        let known = self.forms.iter().position(|(known, _)| known == ty);
        let idx = match known {
            Some(idx) => idx,
            None => {
                let form = form_of(self.node, ty).await;
                if self.forms.len() >= FORMS_MAX {
                    self.forms.clear();
                }
                self.forms.push((ty.clone(), form));
                self.forms.len() - 1
            }
        };
        let start = to.len();
        if let Err(error) = add(&self.forms[idx].1, &self.wish, bytes, to) {
            to.truncate(start);
            return Err(error);
        }
        if self.wish.is_for_terminal {
            escape_controls(to, start);
        }
        Ok(())
    }
}

async fn form_of(node: &Node, ty: &TopicType) -> Form {
    match &ty.encoding {
        Encoding::Json => Form::Json,
        Encoding::MsgPack => Form::MsgPack,
        Encoding::Raw => Form::Bytes,
        Encoding::Rkyv => {
            let name = type_text(ty);
            let why = match node.schema(ty).await.map(|schema| schema.map(Reader::new)) {
                Ok(Some(Ok(reader))) => return Form::Archive(Box::new(reader)),
                Ok(None) => format!("nobody says what {name} looks like"),
                Ok(Some(Err(error))) => format!("{name}: {error}"),
                Err(error) => format!("{name}: {error}"),
            };
            note!("mesh: {why}: its messages are shown as bytes");
            Form::Unknown("rkyv".into())
        }
        Encoding::Custom(name) => Form::Unknown(name.clone()),
        Encoding::Any => Form::Unknown("any".into()),
    }
}

fn add(form: &Form, wish: &Wish, bytes: &[u8], to: &mut Vec<u8>) -> Result<(), Unread> {
    let start = to.len();
    match (form, wish.field.as_deref()) {
        (Form::Archive(reader), None) => reader.json(bytes, to)?,
        (Form::Archive(reader), Some(path)) => reader.read(bytes)?.at(path)?.json(to)?,
        (Form::Json, None) => add_text(bytes, to)?,
        (Form::Json, Some(path)) => {
            let value = serde_json::from_slice(bytes).map_err(invalid)?;
            add_value(pick(&value, path)?, to)?;
        }
        (Form::MsgPack, path) => {
            check_msgpack(bytes).map_err(invalid)?;
            let value: Value = rmp_serde::from_slice(bytes).map_err(invalid)?;
            add_value(pick(&value, path.unwrap_or_default())?, to)?;
        }
        (Form::Bytes, None) => return add_bytes(bytes, wish, to),
        (Form::Unknown(encoding), None) => return add_unknown(encoding, bytes, wish, to),
        (Form::Bytes | Form::Unknown(_), Some(_)) => {
            return Err(Unread::NoSuchField("bytes have no fields".into()));
        }
    }
    if wish.without_arrays || wish.without_texts {
        let text = to.split_off(start);
        shorten(&text, wish, to);
    }
    Ok(())
}

/// Bytes that may be anything are an array, written as hexadecimal digits.
fn add_bytes(bytes: &[u8], wish: &Wish, to: &mut Vec<u8>) -> Result<(), Unread> {
    if wish.without_arrays {
        return write!(to, "\"[{}]\"", bytes.len()).map_err(invalid);
    }
    to.push(b'"');
    for byte in bytes {
        write!(to, "{byte:02x}").map_err(invalid)?;
    }
    to.push(b'"');
    Ok(())
}

fn add_unknown(encoding: &str, bytes: &[u8], wish: &Wish, to: &mut Vec<u8>) -> Result<(), Unread> {
    to.extend_from_slice(b"{\"encoding\":");
    serde_json::to_writer(&mut *to, encoding).map_err(invalid)?;
    write!(to, ",\"len\":{},\"bytes\":", bytes.len()).map_err(invalid)?;
    add_bytes(bytes, wish, to)?;
    to.push(b'}');
    Ok(())
}

fn invalid(error: impl std::fmt::Display) -> Unread {
    Unread::Message(error.to_string())
}

fn add_value(value: &Value, to: &mut Vec<u8>) -> Result<(), Unread> {
    serde_json::to_writer(to, value).map_err(invalid)
}

/// A JSON text as it is, but on one line.
fn add_text(bytes: &[u8], to: &mut Vec<u8>) -> Result<(), Unread> {
    let text = std::str::from_utf8(bytes).map_err(invalid)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(invalid)?;
    let (mut is_quoted, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        if is_quoted || !byte.is_ascii_whitespace() {
            to.push(byte);
        }
        if byte == b'"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = is_quoted && byte == b'\\' && !is_escaped;
    }
    Ok(())
}

/// The part at a path such as `joints[3].name`; an empty one is the whole.
fn pick<'a>(value: &'a Value, path: &str) -> Result<&'a Value, Unread> {
    let missing = || Unread::NoSuchField(format!("there is no `{}`", crate::name::escaped(path)));
    let mut found = value;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, items) = part.split_at(part.find('[').unwrap_or(part.len()));
        if !name.is_empty() {
            found = found.get(name).ok_or_else(missing)?;
        }
        if !(items.is_empty() || items.ends_with(']')) {
            return Err(missing());
        }
        for item in items.split_terminator(']') {
            let number = item.strip_prefix('[').and_then(|item| item.parse().ok());
            let number: usize = number.ok_or_else(missing)?;
            found = found.get(number).ok_or_else(missing)?;
        }
    }
    Ok(found)
}

/// JSON on one line with `"[5]"` instead of arrays of five items, or `"<5>"` instead of texts of
/// five characters. Names of fields stay.
fn shorten(json: &[u8], wish: &Wish, to: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        let start = at;
        match byte {
            b'"' => {
                at = text_end(json, start);
                let text = &json[start..at];
                if wish.without_texts && json.get(at) != Some(&b':') {
                    to.extend_from_slice(format!("\"<{}>\"", char_count(text)).as_bytes());
                } else {
                    to.extend_from_slice(text);
                }
            }
            b'[' if wish.without_arrays => {
                let count;
                (count, at) = items_and_end(json, start);
                to.extend_from_slice(format!("\"[{count}]\"").as_bytes());
            }
            _ => {
                to.push(*byte);
                at += 1;
            }
        }
    }
}

/// Where the text ends that begins there, with its marks.
fn text_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

fn char_count(text: &[u8]) -> usize {
    let parsed: Result<String, _> = serde_json::from_slice(text);
    // What has halves of characters in it is no text to us; its bytes without the marks.
    parsed.map_or_else(
        |_| text.len().saturating_sub(2),
        |text| text.chars().count(),
    )
}

/// The items of the array that begins there, and where it ends.
fn items_and_end(json: &[u8], start: usize) -> (usize, usize) {
    let (mut at, mut depth, mut commas, mut is_empty) = (start + 1, 1_usize, 0, true);
    while let Some(byte) = json.get(at) {
        match byte {
            b']' | b'}' => depth -= 1,
            b'[' | b'{' => depth += 1,
            b',' if depth == 1 => commas += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        is_empty = false;
        at = if *byte == b'"' {
            text_end(json, at)
        } else {
            at + 1
        };
    }
    let count = if is_empty { 0 } else { commas + 1 };
    (count, at + 1)
}

/// Escapes what terminals take for orders and JSON lets through, which is in texts only.
fn escape_controls(json: &mut Vec<u8>, start: usize) {
    // Those of ASCII are escaped already, but for DEL.
    let is_suspect = |byte: &u8| *byte == 0x7f || !byte.is_ascii();
    if !json[start..].iter().any(is_suspect) {
        return;
    }
    // Bytes of a text that was one stay one.
    let text = String::from_utf8_lossy(&json.split_off(start)).into_owned();
    for c in text.chars() {
        match is_order(c) {
            true => json.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            false => json.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: &Form, field: Option<&str>, bytes: &[u8]) -> Result<String, String> {
        let mut to = Vec::new();
        let wish = Wish {
            field: field.map(str::to_owned),
            ..Wish::default()
        };
        let added = add(form, &wish, bytes, &mut to);
        added.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(to).unwrap())
    }

    #[test]
    fn json_comes_on_one_line_and_is_checked() {
        let text = "{ \"a b\" :\n [1, 2.50, \"\\\"x \\\\\" ],\t\"c\": null }\n".as_bytes();
        let line = "{\"a b\":[1,2.50,\"\\\"x \\\\\"],\"c\":null}";
        assert_eq!(read(&Form::Json, None, text).unwrap(), line);
        for bad in [&b"{"[..], b"\"\x1b\"", b"[1] 2", b"\"\xff\"", b""] {
            assert!(read(&Form::Json, None, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parts_are_found_by_their_paths() {
        let text = br#"{"joints":[{"name":"a"},{"name":"b","at":[[1,2],[3]]}],"x":1}"#;
        for (path, found) in [
            ("x", "1"),
            ("joints[1].name", "\"b\""),
            ("joints[1].at[0][1]", "2"),
            ("joints[1].at[1]", "[3]"),
        ] {
            assert_eq!(read(&Form::Json, Some(path), text).unwrap(), found);
        }
        for path in ["y", "x.y", "joints[2]", "joints[x]", "joints[0", "x[0]"] {
            assert!(read(&Form::Json, Some(path), text).is_err(), "{path}");
        }
        let packed = rmp_serde::to_vec_named(&serde_json::json!({ "x": [1, 2] })).unwrap();
        assert_eq!(read(&Form::MsgPack, Some("x[1]"), &packed).unwrap(), "2");
        assert_eq!(read(&Form::Bytes, None, b"\x00\xff").unwrap(), "\"00ff\"");
    }

    fn short(json: &str, [without_arrays, without_texts]: [bool; 2]) -> String {
        let mut to = Vec::new();
        let wish = Wish {
            without_arrays,
            without_texts,
            ..Wish::default()
        };
        add(&Form::Json, &wish, json.as_bytes(), &mut to).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn arrays_may_be_said_by_their_lengths() {
        for (json, expected) in [
            ("[]", "\"[0]\""),
            ("[1]", "\"[1]\""),
            ("[[]]", "\"[1]\""),
            ("[[1,2],[],{\"a\":[1,2],\"b\":1}]", "\"[3]\""),
            (
                "{\"a\":[\"],[\",\"\\\"[\"],\"b\":\"[1,2]\",\"c\":[[]]}",
                "{\"a\":\"[2]\",\"b\":\"[1,2]\",\"c\":\"[1]\"}",
            ),
        ] {
            assert_eq!(short(json, [true, false]), expected);
        }
    }

    #[test]
    fn texts_may_be_said_by_their_lengths_but_not_names() {
        let json = r#"{"a":"","b\\":"x\"y\u00e9é","c":["one",["\\"],{"d":"\ud83d\ude00"}],"e":1}"#;
        assert_eq!(
            short(json, [false, true]),
            r#"{"a":"<0>","b\\":"<5>","c":["<3>",["<1>"],{"d":"<1>"}],"e":1}"#
        );
        let both = r#"{"a":"<0>","b\\":"<5>","c":"[3]","e":1}"#;
        assert_eq!(short(json, [true, true]), both);
        assert_eq!(short(r#""\ud800""#, [false, true]), "\"<6>\"");
        assert_eq!(short("\"x\"", [true, true]), "\"<1>\"");
    }

    #[test]
    fn raw_bytes_are_an_array_and_no_text() {
        let short = |form: &Form, [without_arrays, without_texts]: [bool; 2]| {
            let mut to = Vec::new();
            let wish = Wish {
                without_arrays,
                without_texts,
                ..Wish::default()
            };
            add(form, &wish, b"\x00\xff", &mut to).unwrap();
            String::from_utf8(to).unwrap()
        };
        let unknown = Form::Unknown("cdr".into());
        let said = |bytes| format!("{{\"encoding\":\"cdr\",\"len\":2,\"bytes\":{bytes}}}");
        for (wish, bytes) in [
            ([false, false], "\"00ff\""),
            ([false, true], "\"00ff\""),
            ([true, false], "\"[2]\""),
            ([true, true], "\"[2]\""),
        ] {
            assert_eq!(short(&Form::Bytes, wish), bytes);
            assert_eq!(short(&unknown, wish), said(bytes));
        }
    }

    #[test]
    fn terminals_get_no_orders() {
        let text = "x\"\u{9b}31m\u{7f}\u{e9}\u{202e}\u{2066}\u{2069}\u{80}\u{1f600}\"";
        let mut json = text.as_bytes().to_vec();
        escape_controls(&mut json, 1);
        let expected = "x\"\\u009b31m\\u007f\u{e9}\\u202e\\u2066\\u2069\\u0080\u{1f600}\"";
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }
}
