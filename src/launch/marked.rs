//! YAML and TOML as trees whose parts know their lines. Bounded: in size, in depth, and in what
//! aliases make of it.
//!
//! Scalars stay texts, as what they mean depends on whose they are: the key 0123 is no number, and
//! `yes` is a truth only where one is asked for, as in YAML 1.1.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use toml::de::{DeTable, DeValue};

use crate::limits::{LAUNCH_DEPTH_MAX, LAUNCH_VALUES_MAX};

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Counts from 1; 0 is the file as a whole.
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Wrong {
    pub(crate) fn at(line: usize, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { line, text }
    }
}

/// A value and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    /// A number or a truth, or a text without quotes.
    Plain(String),
    /// A text, whatever it looks like.
    Quoted(String),
    List(Vec<Marked>),
    /// In the order of the file.
    Map(Vec<(Key, Marked)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) line: usize,
    pub(crate) name: String,
}

/// Reads a YAML text: one document.
pub(crate) fn from_yaml(text: &str) -> Result<Marked, Wrong> {
    let mut reader = YamlReader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        count: 0,
    };
    let mut document = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) if document.is_some() => {
                let line = span.start.line();
                return Err(Wrong::at(line, "a second document: a file has one"));
            }
            Event::DocumentStart(_) => document = Some(reader.value(0)?),
            _ => {}
        }
    }
    Ok(document.unwrap_or(Marked {
        line: 1,
        value: Value::Null,
    }))
}

struct YamlReader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What has a name, and of how many values it is.
    anchors: HashMap<usize, (Marked, usize)>,
    /// Values so far, those of aliases included.
    count: usize,
}

impl<'a> YamlReader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Wrong> {
        let wrong = |error: ScanError| Wrong::at(error.marker().line(), error.info());
        let end = || Ok((Event::StreamEnd, Span::default()));
        self.parser.next_event().unwrap_or_else(end).map_err(wrong)
    }

    fn value(&mut self, depth: usize) -> Result<Marked, Wrong> {
        let (event, span) = self.next()?;
        self.value_of(event, span, depth)
    }

    fn value_of(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Marked, Wrong> {
        let line = span.start.line();
        let before = self.count;
        self.add(line, 1)?;
        if depth > LAUNCH_DEPTH_MAX {
            return Err(Wrong::at(
                line,
                format!("nested deeper than {LAUNCH_DEPTH_MAX} levels"),
            ));
        }
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, line),
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = check_tag(line, tag.as_deref())?;
                (scalar(&text, style, is_text), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(line, tag.as_deref())?;
                (self.list(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(line, tag.as_deref())?;
                (self.map(depth)?, anchor)
            }
            _ => return Err(Wrong::at(line, "a value is missing")),
        };
        let marked = Marked { line, value };
        if anchor != 0 {
            self.anchors
                .insert(anchor, (marked.clone(), self.count - before));
        }
        Ok(marked)
    }

    /// A few lines of aliases of aliases stand for billions of values: they are counted before they
    /// are made.
    fn alias(&mut self, anchor: usize, line: usize) -> Result<Marked, Wrong> {
        let Some((_, count)) = self.anchors.get(&anchor) else {
            return Err(Wrong::at(line, "an alias of what it is itself in"));
        };
        self.add(line, *count)?;
        let value = self.anchors[&anchor].0.value.clone();
        Ok(Marked { line, value })
    }

    fn add(&mut self, line: usize, count: usize) -> Result<(), Wrong> {
        self.count += count;
        if self.count > LAUNCH_VALUES_MAX {
            let text = format!("more than {LAUNCH_VALUES_MAX} values, with those of aliases");
            return Err(Wrong::at(line, text));
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Value, Wrong> {
        let mut list = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::List(list));
            }
            list.push(self.value_of(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Wrong> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.value_of(event, span, depth + 1)?;
            let value = self.value(depth + 1)?;
            let line = key.line;
            let name = match key.value {
                Value::Plain(name) if name == "<<" => {
                    merged.push(value);
                    continue;
                }
                Value::Plain(name) | Value::Quoted(name) => name,
                Value::Null => "null".to_owned(),
                Value::List(_) | Value::Map(_) => {
                    return Err(Wrong::at(line, "a key must be a text"));
                }
            };
            add_entry(&mut entries, Key { line, name }, value)?;
        }
        for value in merged {
            merge(&mut entries, value)?;
        }
        Ok(Value::Map(entries))
    }
}

fn add_entry(entries: &mut Vec<(Key, Marked)>, key: Key, value: Marked) -> Result<(), Wrong> {
    if let Some((there, _)) = entries.iter().find(|(there, _)| there.name == key.name) {
        let name = crate::name::escaped(&key.name);
        let text = format!("`{name}` is there already, in line {}", there.line);
        return Err(Wrong::at(key.line, text));
    }
    entries.push((key, value));
    Ok(())
}

/// `<<: *other`: what a map does not say itself is as in the others, of which the first counts.
fn merge(entries: &mut Vec<(Key, Marked)>, value: Marked) -> Result<(), Wrong> {
    match value.value {
        Value::Map(more) => {
            for (key, value) in more {
                if entries.iter().all(|(there, _)| there.name != key.name) {
                    entries.push((key, value));
                }
            }
            Ok(())
        }
        Value::List(list) => list.into_iter().try_for_each(|map| merge(entries, map)),
        _ => Err(Wrong::at(value.line, "`<<` takes a map, or a list of maps")),
    }
}

/// True for a tag that says "text".
fn check_tag(line: usize, tag: Option<&Tag>) -> Result<bool, Wrong> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() => Ok(tag.suffix == "str"),
        Some(_) => Err(Wrong::at(line, "tags are not understood here")),
    }
}

fn scalar(text: &str, style: ScalarStyle, is_text: bool) -> Value {
    let is_plain = matches!(style, ScalarStyle::Plain) && !is_text;
    match text {
        "" | "~" | "null" | "Null" | "NULL" if is_plain => Value::Null,
        text if is_plain => Value::Plain(text.to_owned()),
        text => Value::Quoted(text.to_owned()),
    }
}

/// Reads a TOML text.
pub(crate) fn from_toml(text: &str) -> Result<Marked, Wrong> {
    let reader = TomlReader { text };
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(0, |span| reader.line(&span));
        Wrong::at(line, error.message())
    })?;
    Ok(Marked {
        line: 1,
        value: reader.table(table.get_ref()),
    })
}

struct TomlReader<'a> {
    text: &'a str,
}

impl TomlReader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(span.start);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn table(&self, table: &DeTable<'_>) -> Value {
        let mut entries: Vec<_> = table.iter().collect();
        // The order of the file is the order of starting.
        entries.sort_by_key(|(key, _)| key.span().start);
        let entries = entries.into_iter().map(|(key, value)| {
            let line = self.line(&key.span());
            let name = key.get_ref().clone().into_owned();
            let marked = Marked {
                line: self.line(&value.span()),
                value: self.value(value.get_ref()),
            };
            (Key { line, name }, marked)
        });
        Value::Map(entries.collect())
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Quoted(text.clone().into_owned()),
            DeValue::Integer(number) => Value::Plain(number.to_string()),
            DeValue::Float(number) => Value::Plain(number.to_string()),
            DeValue::Boolean(truth) => Value::Plain(truth.to_string()),
            DeValue::Datetime(time) => Value::Plain(time.to_string()),
            DeValue::Array(list) => Value::List(
                list.iter()
                    .map(|item| Marked {
                        line: self.line(&item.span()),
                        value: self.value(item.get_ref()),
                    })
                    .collect(),
            ),
            DeValue::Table(table) => self.table(table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Value {
        Value::Plain(text.to_owned())
    }

    fn entry<'a>(marked: &'a Marked, name: &str) -> &'a Marked {
        let Value::Map(entries) = &marked.value else {
            panic!("a map: {marked:?}")
        };
        let entry = entries.iter().find(|(key, _)| key.name == name);
        &entry.unwrap_or_else(|| panic!("{name} in {marked:?}")).1
    }

    #[test]
    fn both_languages_make_the_same_tree_with_lines() {
        let yaml = from_yaml("a: 1\nb:\n  c: 'x'\n  d: [1, true]\n").unwrap();
        let toml = from_toml("a = 1\n[b]\nc = 'x'\nd = [1, true]\n").unwrap();
        for tree in [&yaml, &toml] {
            let b = entry(tree, "b");
            assert_eq!(entry(tree, "a").value, plain("1"));
            assert_eq!(entry(b, "c").value, Value::Quoted("x".into()));
            let Value::List(list) = &entry(b, "d").value else {
                panic!("a list")
            };
            assert_eq!(
                (&list[0].value, &list[1].value),
                (&plain("1"), &plain("true"))
            );
            assert_eq!((entry(b, "c").line, entry(b, "d").line), (3, 4));
        }
    }

    #[test]
    fn toml_tables_keep_the_order_of_the_file() {
        let tree = from_toml("[zebra]\nx = 1\n[ant]\nx = 1\n").unwrap();
        let Value::Map(entries) = tree.value else {
            panic!("a map")
        };
        let names: Vec<&str> = entries.iter().map(|(key, _)| key.name.as_str()).collect();
        assert_eq!(names, ["zebra", "ant"]);
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        let text = "x-base: &base {a: 1, b: 2}\nnode:\n  <<: *base\n  b: 3\nagain: *base\n";
        let tree = from_yaml(text).unwrap();
        let node = entry(&tree, "node");
        assert_eq!(entry(node, "a").value, plain("1"));
        assert_eq!(entry(node, "b").value, plain("3"));
        assert_eq!(entry(entry(&tree, "again"), "b").value, plain("2"));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused_before_it_goes_off() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            let row = [below.as_str(); 10].join(",");
            text += &format!("a{level}: &a{level} [{row}]\n");
        }
        let wrong = from_yaml(&text).unwrap_err();
        assert!(wrong.text.contains("values"), "{wrong:?}");
        assert!(wrong.line > 1);
    }

    #[test]
    fn what_is_wrong_says_its_line() {
        let deep = format!("a: {}", "[".repeat(LAUNCH_DEPTH_MAX + 8));
        let cases = [
            ("a: 1\nb: [1\nc: 2\n", 3, ""),
            ("a: 1\na: 2\n", 2, "already, in line 1"),
            ("a: &a [*a]\n", 1, "itself"),
            ("a: 1\n---\nb: 1\n", 2, "second document"),
            ("a: !thing x\n", 1, "tags"),
            ("? [a]\n: 1\n", 1, "key must be a text"),
            (&deep, 1, "nested deeper"),
        ];
        for (text, line, part) in cases {
            let wrong = from_yaml(text).unwrap_err();
            assert!(wrong.text.contains(part), "{text}: {wrong:?}");
            assert_eq!(wrong.line, line, "{text}: {wrong:?}");
        }
        let wrong = from_toml("a = 1\nb = [1\nc = 2\n").unwrap_err();
        assert!(wrong.line >= 2, "{wrong:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a:\\[\\]{}&*!|>'\"\n #,?<~=.0-9]{0,120}") {
            let _ = from_yaml(&text);
            let _ = from_toml(&text);
        }
    }
}
