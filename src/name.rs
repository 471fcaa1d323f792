//! Names of nodes and topics, and patterns of the latter: what is allowed, what matches, and how a
//! foreign one is printed.

use std::path::Path;

use crate::error::Error;
use crate::limits::{
    ENCODING_NAME_BYTES_MAX, MESH_NAME_BYTES_MAX, NODE_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
    TOPICS_PER_SUBSCRIBER_MAX,
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

/// True if a name is a pattern: it has a `*`.
#[must_use]
pub fn is_pattern(name: &str) -> bool {
    name.contains('*')
}

/// Checks a topic's name or a pattern of such names, and drops its leading slash. In a pattern `*`
/// stands for one part of a path and `**` for any number of them, none included.
///
/// # Errors
/// [`Error::InvalidName`] says what is wrong.
pub fn check_pattern(name: &str) -> Result<&str, Error> {
    if !is_pattern(name) {
        return check_topic(name);
    }
    let path = name.strip_prefix('/').unwrap_or(name);
    let plain = |segment| match segment {
        ONE | ANY => "x",
        other => other,
    };
    let segments: Vec<&str> = path.split('/').map(plain).collect();
    check(path, TOPIC_NAME_BYTES_MAX, &segments)?;
    Ok(path)
}

/// The names and patterns of a subscription, each once.
pub(crate) fn check_topics(given: &[String]) -> Result<Vec<&str>, Error> {
    if given.len() > TOPICS_PER_SUBSCRIBER_MAX {
        return Err(Error::OutOfBounds {
            what: "topics of a subscriber",
            found: given.len() as u64,
            min: 1,
            max: TOPICS_PER_SUBSCRIBER_MAX as u64,
        });
    }
    let mut topics = Vec::with_capacity(given.len());
    for topic in given {
        let topic = check_pattern(topic)?;
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    Ok(topics)
}

/// True if a pattern, or name, matches a topic's name; no pattern matches those of services. Takes
/// at most as many steps as the one has parts times those of the other, however many `**` it has.
#[must_use]
pub fn matches(pattern: &str, topic: &str) -> bool {
    if topic.starts_with('@') {
        return pattern == topic;
    }
    let (mut pattern, mut topic) = (pattern.split('/'), topic.split('/'));
    // What follows the last `**`, and the parts that it has not taken yet. An earlier one need
    // not be tried again: whatever it could take more, the later one can take instead.
    let mut last_any = None;
    loop {
        let (before, wanted, found) = (topic.clone(), pattern.next(), topic.next());
        match (wanted, found) {
            (Some(ANY), _) => {
                topic = before.clone();
                last_any = Some((pattern.clone(), before));
            }
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == ONE || wanted == found => {}
            (_, None) => return false,
            (_, Some(_)) => {
                let Some((after, rest)) = &mut last_any else {
                    return false;
                };
                rest.next();
                (pattern, topic) = (after.clone(), rest.clone());
            }
        }
    }
}

/// The names that a pattern can match begin with this.
#[must_use]
pub fn fixed_part(pattern: &str) -> &str {
    let end = pattern.find('*').unwrap_or(pattern.len());
    // `a/**` matches `a`, too.
    pattern[..end].trim_end_matches('/')
}

/// Stands for one part of a path.
const ONE: &str = "*";
/// Stands for any number of them.
const ANY: &str = "**";

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
        Some('*') => Err(invalid(
            "`*` and `**` stand for whole parts of a path, in patterns, and only subscribers \
             have those"
                .into(),
        )),
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

/// A path, safe to print on a terminal; else as it is.
pub(crate) fn escaped_path(path: &Path) -> String {
    let mut safe = String::new();
    for c in path.to_string_lossy().chars() {
        match is_order(c) {
            true => safe.extend(c.escape_default()),
            false => safe.push(c),
        }
    }
    safe
}

/// True for what terminals take for orders: controls, and what turns the direction of text.
pub(crate) fn is_order(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn patterns_are_names_with_stars_for_whole_parts() {
        for (given, found) in [
            ("/arm/*/joint", "arm/*/joint"),
            ("**", "**"),
            ("*", "*"),
            ("a/**/*/b", "a/**/*/b"),
            ("a/b", "a/b"),
        ] {
            assert_eq!(check_pattern(given).unwrap(), found);
            assert_eq!(is_pattern(found), found.contains('*'));
        }
        for name in [
            "", "/", "a//*", "*/", "a*", "*a", "***", "a/**b", "* ", "ä/*", "a\x1b/*",
        ] {
            let error = check_pattern(name).unwrap_err().to_string();
            assert!(error.is_ascii() && !error.contains('\x1b'), "{error}");
        }
        let longest = format!("{}**", "x/".repeat(TOPIC_NAME_BYTES_MAX / 2 - 1));
        assert_eq!(check_pattern(&longest).unwrap().len(), TOPIC_NAME_BYTES_MAX);
        assert!(check_pattern(&format!("{longest}x")).is_err());
        let error = check_topic("a/*").unwrap_err().to_string();
        assert!(error.contains("only subscribers"), "{error}");
    }

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, yes, no) in [
            (
                "a/*/c",
                vec!["a/b/c"],
                vec!["a/c", "a/b/b/c", "a/b", "b/b/c"],
            ),
            ("a/**", vec!["a", "a/b", "a/b/c"], vec!["ab", "b/a"]),
            ("**", vec!["a", "a/b/c"], vec!["@requests/a"]),
            ("**/c", vec!["c", "a/c", "a/b/c", "c/c"], vec!["c/a", "ac"]),
            ("**/a/*", vec!["a/b", "a/a/b", "b/a/a"], vec!["a", "a/b/c"]),
            ("a/b", vec!["a/b"], vec!["a", "a/b/c"]),
            ("@replies/a", vec!["@replies/a"], vec!["@replies/b", "a"]),
        ] {
            assert!(yes.iter().all(|topic| matches(pattern, topic)), "{pattern}");
            assert!(!no.iter().any(|topic| matches(pattern, topic)), "{pattern}");
            let fixed = fixed_part(pattern);
            assert!(yes.iter().all(|topic| topic.starts_with(fixed)));
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_their_number_times_the_parts() {
        // Tried one by one, the ways to share the parts out would be more than 10^15.
        let topic = ["a"; 64].join("/");
        let pattern = format!("{}b", "**/a/".repeat(20));
        assert!(pattern.len() <= TOPIC_NAME_BYTES_MAX && !matches(&pattern, &topic));
        assert!(matches(&["**/a"; 25].join("/"), &topic));
    }

    /// By the definition.
    fn matches_naively(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], _) => topic.is_empty(),
            ([ANY, rest @ ..], _) => {
                (0..=topic.len()).any(|taken| matches_naively(rest, &topic[taken..]))
            }
            ([wanted, pattern @ ..], [found, topic @ ..]) => {
                (*wanted == ONE || wanted == found) && matches_naively(pattern, topic)
            }
            (_, []) => false,
        }
    }

    fn parts(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(of), 1..8)
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(
            pattern in parts(&["a", "b", ONE, ANY, ANY]),
            topic in parts(&["a", "a", "b"]),
        ) {
            let (whole, name) = (pattern.join("/"), topic.join("/"));
            let is_match = matches_naively(&pattern, &topic);
            prop_assert_eq!(matches(&whole, &name), is_match, "{} {}", whole, name);
            prop_assert!(!is_match || name.starts_with(fixed_part(&whole)));
            prop_assert_eq!(check_pattern(&whole).unwrap(), &whole);
            prop_assert_eq!(check_topic(&whole).is_ok(), !is_pattern(&whole));
        }

        #[test]
        fn any_text_is_a_pattern_or_refused(text in ".{0,140}", topic in "[a-c/]{0,20}") {
            let _ = matches(&text, &topic);
            let _ = fixed_part(&text);
            if let Ok(pattern) = check_pattern(&text) {
                prop_assert!(pattern.len() <= TOPIC_NAME_BYTES_MAX && pattern.is_ascii());
            }
        }
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(escaped("a\x1b]52;\u{202e}"), "a\\u{1b}]52;\\u{202e}");
        assert!(escaped(&"x".repeat(1000)).len() < 140);
        let path = Path::new("läufe/a\x1b]0;x\u{7}\u{9b}\u{202e}\n.mcap");
        assert_eq!(
            escaped_path(path),
            "läufe/a\\u{1b}]0;x\\u{7}\\u{9b}\\u{202e}\\n.mcap"
        );
    }
}
