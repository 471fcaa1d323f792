//! A map of known keys, read key by key.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::launch::marked::{Key, Marked, Value, Wrong};
use crate::limits::LAUNCH_DELAY_S_MAX;
use crate::name::escaped;

/// A map in a launch file. A key without a value counts as left out.
pub(super) struct Section<'a> {
    name: String,
    entries: &'a [(Key, Marked)],
}

impl<'a> Section<'a> {
    /// # Errors
    /// If it is no map, or has a key that is not among the allowed ones; those that begin with `x-`
    /// are the user's own, for what aliases refer to.
    pub(super) fn open(name: &str, marked: &'a Marked, allowed: &[&str]) -> Result<Self, Wrong> {
        let entries = match &marked.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => return Err(Wrong::at(marked.line, format!("{name}: a map is expected"))),
        };
        for (key, _) in entries {
            if !allowed.contains(&key.name.as_str()) && !key.name.starts_with("x-") {
                let meant = closest(&key.name, allowed);
                let meant = meant.map_or_else(String::new, |it| format!(" (is it `{it}`?)"));
                let (key_name, allowed) = (escaped(&key.name), allowed.join(", "));
                let text = format!("{name}: no key `{key_name}`{meant}; allowed: {allowed}");
                return Err(Wrong::at(key.line, text));
            }
        }
        let name = name.to_owned();
        Ok(Self { name, entries })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn entry(&self, key: &str) -> Option<(&'a Key, &'a Marked)> {
        let found = self.entries.iter().find(|(there, _)| there.name == key);
        let found = found.map(|(key, value)| (key, value));
        found.filter(|(_, value)| value.value != Value::Null)
    }

    /// What is wrong with the value of `key`.
    pub(super) fn wrong(&self, key: &str, text: &str) -> Wrong {
        let line = self.entry(key).map_or(0, |(_, value)| value.line);
        Wrong::at(line, format!("{}.{key}: {text}", self.name))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Wrong> {
        match self.entry(key).map(|(_, marked)| &marked.value) {
            None => Ok(None),
            Some(Value::Plain(text) | Value::Quoted(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, "a text is expected")),
        }
    }

    /// A text, or a list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, Wrong> {
        let Some((_, marked)) = self.entry(key) else {
            return Ok(Vec::new());
        };
        let Value::List(items) = &marked.value else {
            return Ok(self.text(key)?.into_iter().collect());
        };
        let texts = items.iter().map(|item| match &item.value {
            Value::Plain(text) | Value::Quoted(text) => Ok(text.clone()),
            _ => Err(self.wrong(key, "a text, or a list of texts, is expected")),
        });
        texts.collect()
    }

    fn plain(&self, key: &str, expected: &str) -> Result<Option<&'a str>, Wrong> {
        match self.entry(key).map(|(_, marked)| &marked.value) {
            None => Ok(None),
            Some(Value::Plain(text)) => Ok(Some(text)),
            Some(Value::Quoted(text)) => {
                let text = format!("{expected}, not the text \"{}\"", escaped(text));
                Err(self.wrong(key, &text))
            }
            Some(_) => Err(self.wrong(key, expected)),
        }
    }

    pub(super) fn whole(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, Wrong> {
        let expected = format!("a whole number of {} to {}", range.start(), range.end());
        let Some(text) = self.plain(key, &expected)? else {
            return Ok(None);
        };
        let number = text.replace('_', "").parse().ok();
        let number = number.filter(|number| range.contains(number));
        let wrong = || self.wrong(key, &format!("{expected}, not {}", escaped(text)));
        number.map(Some).ok_or_else(wrong)
    }

    pub(super) fn seconds(&self, key: &str) -> Result<Option<Duration>, Wrong> {
        let expected = format!("seconds, of 0 to {LAUNCH_DELAY_S_MAX}");
        let Some(text) = self.plain(key, &expected)? else {
            return Ok(None);
        };
        let seconds = text.parse::<f64>().ok();
        let delay = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let delay = delay.filter(|delay| *delay <= Duration::from_secs(LAUNCH_DELAY_S_MAX));
        let wrong = || self.wrong(key, &format!("{expected}, not {}", escaped(text)));
        delay.map(Some).ok_or_else(wrong)
    }

    /// With the words of YAML 1.1, in which rosy's files are written.
    pub(super) fn truth(&self, key: &str) -> Result<Option<bool>, Wrong> {
        const TRUE: [&str; 4] = ["true", "yes", "on", "1"];
        const FALSE: [&str; 4] = ["false", "no", "off", "0"];
        let expected = "true or false";
        let Some(text) = self.plain(key, expected)? else {
            return Ok(None);
        };
        let word = text.to_ascii_lowercase();
        if TRUE.contains(&word.as_str()) || FALSE.contains(&word.as_str()) {
            return Ok(Some(TRUE.contains(&word.as_str())));
        }
        Err(self.wrong(key, &format!("{expected}, not {}", escaped(text))))
    }

    pub(super) fn word(
        &self,
        key: &str,
        allowed: &[&'static str],
    ) -> Result<Option<&'static str>, Wrong> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let found = allowed.iter().find(|word| **word == text);
        let wrong = || {
            let meant = closest(&text, allowed);
            let meant = meant.map_or_else(String::new, |word| format!(" (is it `{word}`?)"));
            let text = format!(
                "`{}`{meant}; allowed: {}",
                escaped(&text),
                allowed.join(", ")
            );
            self.wrong(key, &text)
        };
        found.copied().map(Some).ok_or_else(wrong)
    }
}

/// The allowed word that may be meant: at most two letters differ.
fn closest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let near = allowed.iter().map(|other| (distance(word, other), *other));
    let near = near.filter(|(far, _)| *far <= 2);
    near.min_by_key(|(far, _)| *far).map(|(_, other)| other)
}

/// Letters to add, take away or change.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    // Longer ones are no slips of the pen.
    for (idx, letter) in one.chars().take(32).enumerate() {
        let mut before = row[0];
        row[0] = idx + 1;
        for (at, there) in other.iter().enumerate() {
            let changed = before + usize::from(letter != *there);
            before = row[at + 1];
            row[at + 1] = changed.min(before + 1).min(row[at] + 1);
        }
    }
    row[other.len()]
}
