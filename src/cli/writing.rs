//! JSON as messages of any type.

use serde_json::Value;

use crate::cli::Failure;
use crate::cli::show::type_text;
use crate::node::Node;
use crate::schema::{Writer, kind_of};
use crate::topology::{Encoding, TopicType};

/// A text that must be JSON: wrong usage if it is none.
pub(super) fn parse(json: &str) -> Result<Value, Failure> {
    crate::schema::parse_json(json).map_err(|error| Failure::usage(error.to_string()))
}

/// The bytes of a message of that type that says what `json` does; `value` is the same, parsed.
///
/// # Errors
/// Wrong usage for a value that is none of the type; failure where nobody says what the type is.
pub(super) async fn bytes_of(
    node: &Node,
    ty: &TopicType,
    json: &str,
    value: &Value,
) -> Result<Vec<u8>, Failure> {
    let name = type_text(ty);
    match &ty.encoding {
        Encoding::Json => Ok(json.trim().as_bytes().to_vec()),
        Encoding::MsgPack => Ok(rmp_serde::to_vec_named(value)?),
        Encoding::Raw => raw(value),
        Encoding::Rkyv => {
            let schema = node.schema(ty).await?;
            let schema = schema.ok_or_else(|| {
                anyhow::anyhow!("nobody says what {name} looks like: start a node that uses it")
            })?;
            let mut writer = Writer::new(schema)?;
            let written = writer.write_value(value);
            let written = written.map_err(|error| Failure::usage(format!("{name}: {error}")))?;
            Ok(written.to_vec())
        }
        Encoding::Custom(_) | Encoding::Any => {
            let text = format!("cannot write {name}: an encoding of its users' own");
            Err(anyhow::anyhow!(text).into())
        }
    }
}

/// A text, or a list of bytes.
fn raw(value: &Value) -> Result<Vec<u8>, Failure> {
    match value {
        Value::String(text) => Ok(text.clone().into_bytes()),
        Value::Array(items) => {
            let bytes = items.iter().enumerate().map(|(idx, item)| {
                let byte = item.as_u64().and_then(|number| u8::try_from(number).ok());
                byte.ok_or_else(|| {
                    let found = kind_of(item);
                    let text = format!("raw bytes: [{idx}]: expected 0 to 255, found {found}");
                    Failure::usage(text)
                })
            });
            bytes.collect()
        }
        other => {
            let found = kind_of(other);
            let text = format!("raw bytes: expected a text or an array of bytes, found {found}");
            Err(Failure::usage(text))
        }
    }
}
