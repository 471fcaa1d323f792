//! Names of nodes and topics: what is allowed, and how a foreign one is printed.

use crate::error::Error;
use crate::limits::{
    ENCODING_NAME_BYTES_MAX, MESH_NAME_BYTES_MAX, NODE_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
};

/// Checks a node's name: letters, digits, `_`, `-` and `.`, at most 64 bytes.
///
/// # Errors
/// [`Error::InvalidName`] says what is wrong.
pub fn check_node(name: &str) -> Result<(), Error> {
    check(name, NODE_NAME_BYTES_MAX, &[name])
}

/// Checks a mesh's name: as a node's, at most 32 bytes; or empty, for the mesh without a name.
///
/// # Errors
/// [`Error::InvalidName`] says what is wrong.
pub fn check_mesh(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Ok(());
    }
    check(name, MESH_NAME_BYTES_MAX, &[name])
}

/// Checks the name of an encoding: as a node's, at most 32 bytes.
///
/// # Errors
/// [`Error::InvalidName`] says what is wrong.
pub fn check_encoding(name: &str) -> Result<(), Error> {
    check(name, ENCODING_NAME_BYTES_MAX, &[name])
}

/// Checks a topic's name, a path like `arm/left/joint`, and drops its leading slash. Names that
/// begin with `@requests/` or `@replies/` are those of services.
///
/// # Errors
/// [`Error::InvalidName`] says what is wrong.
pub fn check_topic(name: &str) -> Result<&str, Error> {
    let path = name.strip_prefix('/').unwrap_or(name);
    // The two topics of a service.
    let prefixes = [crate::service::REQUESTS, crate::service::REPLIES];
    let service = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix));
    let segments: Vec<&str> = service.unwrap_or(path).split('/').collect();
    check(path, TOPIC_NAME_BYTES_MAX, &segments)?;
    Ok(path)
}

fn check(name: &str, bytes_max: usize, segments: &[&str]) -> Result<(), Error> {
    let invalid = |reason: String| Error::InvalidName {
        name: escaped(name),
        reason,
    };
    if name.len() > bytes_max {
        return Err(invalid(format!("longer than {bytes_max} bytes")));
    }
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(invalid("empty, or with an empty part".into()));
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match segments
        .iter()
        .flat_map(|segment| segment.chars())
        .find(|c| !is_allowed(*c))
    {
        None => Ok(()),
        Some('*') => Err(invalid("`*` is reserved for patterns".into())),
        Some(c) => {
            let c = c.escape_default();
            Err(invalid(format!(
                "contains `{c}`; allowed are letters, digits, `_`, `-`, `.`"
            )))
        }
    }
}

/// A text from elsewhere, safe to print on a terminal and not too long.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe: String = text
        .chars()
        .take(TOPIC_NAME_BYTES_MAX)
        .flat_map(|c| {
            let is_plain = c.is_ascii_graphic() || c == ' ';
            let escape = (!is_plain).then(|| c.escape_default());
            is_plain
                .then_some(c)
                .into_iter()
                .chain(escape.into_iter().flatten())
        })
        .collect();
    if text.chars().count() > TOPIC_NAME_BYTES_MAX {
        safe.push_str("...");
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass_and_lose_their_leading_slash() {
        assert_eq!(
            check_topic("/arm/left/joint_1").unwrap(),
            "arm/left/joint_1"
        );
        assert_eq!(
            check_topic(&"x".repeat(TOPIC_NAME_BYTES_MAX))
                .unwrap()
                .len(),
            128
        );
        check_node("camera-0.front").unwrap();
    }

    #[test]
    fn bad_names_are_refused_with_a_reason() {
        for name in [
            "",
            "/",
            "a//b",
            "a/",
            "a b",
            "a\x1b]52;c",
            "ä",
            "a/*",
            "**",
            "a\nb",
        ] {
            let error = check_topic(name).unwrap_err().to_string();
            assert!(error.is_ascii() && !error.contains('\x1b'), "{error}");
        }
        assert!(check_topic(&"x".repeat(TOPIC_NAME_BYTES_MAX + 1)).is_err());
        assert!(check_mesh(&"x".repeat(MESH_NAME_BYTES_MAX + 1)).is_err());
        assert!(check_mesh("a b").is_err() && check_mesh("").is_ok());
        assert!(check_node("a/b").is_err());
        assert!(check_node(&"x".repeat(NODE_NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(escaped("a\x1b]52;\u{202e}"), "a\\u{1b}]52;\\u{202e}");
        assert!(escaped(&"x".repeat(1000)).len() < 140);
    }
}
