//! What can be wrong with a schema, and with what is read or written by it.

use std::io;

use super::Format;
use crate::name::escaped;

/// Why a schema cannot be used, or something not be read or written by it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Beyond a bound of [`limits`](crate::limits).
    #[error("{what} are {found}, the most is {max}")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A schema that does not hold together.
    #[error("no valid schema: {0}")]
    Malformed(&'static str),
    /// Archives of another format than rkyv's default one.
    #[error(
        "cannot read archives of this format ({} endian, alignment {}, pointers of {} bytes): \
         build the program without rkyv's format features",
        if .found.is_big_endian { "big" } else { "little" },
        .found.align,
        .found.pointer_bytes
    )]
    Format {
        /// The format.
        found: Format,
    },
    /// Bytes that are no value of the type.
    #[error("no value of this type: {what} at byte {at}")]
    Archive {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A text that is no JSON.
    #[error("no JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// A JSON value that is none of the type.
    #[error("{}: expected {expected}, found {found}", place(.path))]
    Mismatch {
        /// Which value: `joints[3].angle`; empty for the whole.
        path: String,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A path that leads nowhere.
    #[error("there is no `{}`: {}", escaped(.path), escaped(.why))]
    NoSuchField {
        /// The path as far as it was followed, with the step that could not be taken.
        path: String,
        /// Why not.
        why: String,
    },
    /// What was read could not be put where it should go.
    #[error("cannot write what was read: {0}")]
    Io(#[from] io::Error),
}

fn place(path: &str) -> String {
    if path.is_empty() {
        return "the message".into();
    }
    escaped(path)
}

pub(super) fn within(what: &'static str, found: usize, max: usize) -> Result<(), SchemaError> {
    if found <= max {
        return Ok(());
    }
    Err(SchemaError::TooLarge {
        what,
        found: found as u64,
        max: max as u64,
    })
}
