//! JSON values as numbers of a type.

use serde_json::Value as Json;

use super::super::Scalar;
use super::super::table::{INFINITY, MINUS_INFINITY, NAN};
use super::Misfit;
use crate::name::escaped;

/// The bytes of a number, with zeros behind them.
pub(super) fn scalar(kind: Scalar, json: &Json) -> Result<[u8; 16], Misfit> {
    let bytes = match (kind, json) {
        (Scalar::Bool, Json::Bool(is)) => Some(wide(u8::from(*is))),
        (Scalar::Char, Json::String(text)) => one_char(text).map(|c| wide(u32::from(c))),
        (Scalar::F32, Json::Number(number)) => number
            .as_f64()
            .and_then(|_| number.to_string().parse::<f32>().ok())
            .filter(|number| number.is_finite())
            .map(|number| wide(number.to_bits())),
        (Scalar::F64, Json::Number(number)) => number.as_f64().map(|number| wide(number.to_bits())),
        (Scalar::F32, Json::String(text)) => match text.as_str() {
            NAN => Some(wide(f32::NAN.to_bits())),
            INFINITY => Some(wide(f32::INFINITY.to_bits())),
            MINUS_INFINITY => Some(wide(f32::NEG_INFINITY.to_bits())),
            _ => None,
        },
        (Scalar::F64, Json::String(text)) => match text.as_str() {
            NAN => Some(wide(f64::NAN.to_bits())),
            INFINITY => Some(wide(f64::INFINITY.to_bits())),
            MINUS_INFINITY => Some(wide(f64::NEG_INFINITY.to_bits())),
            _ => None,
        },
        (Scalar::U128 | Scalar::I128, Json::String(text)) => whole(kind, text),
        (Scalar::Bool | Scalar::Char | Scalar::F32 | Scalar::F64, _) => None,
        (kind, Json::Number(number)) if !number.is_f64() => whole(kind, &number.to_string()),
        _ => None,
    };
    bytes.ok_or_else(|| Misfit(kind.name().into(), kind_of(json)))
}

/// A whole number from its digits.
pub(super) fn whole(kind: Scalar, digits: &str) -> Option<[u8; 16]> {
    match kind {
        Scalar::U8 => digits.parse::<u8>().ok().map(wide),
        Scalar::U16 => digits.parse::<u16>().ok().map(wide),
        Scalar::U32 => digits.parse::<u32>().ok().map(wide),
        Scalar::U64 => digits.parse::<u64>().ok().map(wide),
        Scalar::U128 => digits.parse::<u128>().ok().map(wide),
        Scalar::I8 => digits.parse::<i8>().ok().map(|n| wide(n.cast_unsigned())),
        Scalar::I16 => digits.parse::<i16>().ok().map(|n| wide(n.cast_unsigned())),
        Scalar::I32 | Scalar::Isize => digits.parse::<i32>().ok().map(|n| wide(n.cast_unsigned())),
        Scalar::I64 => digits.parse::<i64>().ok().map(|n| wide(n.cast_unsigned())),
        Scalar::I128 => digits.parse::<i128>().ok().map(|n| wide(n.cast_unsigned())),
        Scalar::Bool | Scalar::Char | Scalar::F32 | Scalar::F64 => None,
    }
}

pub(super) fn wide(number: impl Into<u128>) -> [u8; 16] {
    number.into().to_le_bytes()
}

pub(super) fn one_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// A JSON value for people: itself if it is short, else what it is.
pub(crate) fn kind_of(json: &Json) -> String {
    match json {
        Json::Array(list) => format!("an array of {}", list.len()),
        Json::Object(object) => format!("an object of {}", object.len()),
        Json::String(text) if text.len() > SHOWN_BYTES => {
            format!("a text of {} bytes", text.len())
        }
        json => escaped(&json.to_string()),
    }
}

/// Longest text in bytes that an error repeats.
const SHOWN_BYTES: usize = 64;
