//! Topics under other names.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::BagError;
use crate::name;

/// Names of a recording's topics, and under which they are sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remap(BTreeMap<String, String>);

/// One of them: `old:=new`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    old: String,
    new: String,
}

impl FromStr for Rename {
    type Err = BagError;

    fn from_str(text: &str) -> Result<Self, BagError> {
        let wrong =
            |reason: String| BagError::Option(format!("`{}`: {reason}", name::escaped(text)));
        let (old, new) = text
            .split_once(":=")
            .ok_or_else(|| wrong("expected old:=new, as in camera/left:=camera".into()))?;
        let topic = name::check_topic(new).map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            old: plain(old).to_owned(),
            new: topic.to_owned(),
        })
    }
}

impl Remap {
    /// All of these.
    ///
    /// # Errors
    /// [`BagError::Option`] if a topic has two new names.
    pub fn new(renames: impl IntoIterator<Item = Rename>) -> Result<Self, BagError> {
        let mut names = BTreeMap::new();
        for Rename { old, new } in renames {
            let shown = name::escaped(&old);
            if let Some(other) = names.insert(old, new.clone()).filter(|other| *other != new) {
                return Err(BagError::Option(format!(
                    "{shown} is to be sent as {other} and as {new}; choose one"
                )));
            }
        }
        Ok(Self(names))
    }

    /// Under which name a topic is sent again. Names of other programs may have a slash in front.
    #[must_use]
    pub fn name<'a>(&'a self, topic: &'a str) -> &'a str {
        let topic = plain(topic);
        self.0.get(topic).map_or(topic, String::as_str)
    }

    /// Names that no topic of these has.
    pub fn unused<'a>(&'a self, topics: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let is_there = |old: &str| topics.iter().any(|topic| plain(topic) == old);
        let olds = self.0.keys().map(String::as_str);
        olds.filter(move |old| !is_there(old))
    }
}

fn plain(topic: &str) -> &str {
    topic.strip_prefix('/').unwrap_or(topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_renamed_with_and_without_a_slash() {
        let renames = ["/arm/left:=arm", "b:=/c/d"].map(|text| text.parse::<Rename>().unwrap());
        let remap = Remap::new(renames).unwrap();
        for (old, new) in [
            ("arm/left", "arm"),
            ("/arm/left", "arm"),
            ("b", "c/d"),
            ("/x", "x"),
        ] {
            assert_eq!(remap.name(old), new);
        }
        assert_eq!(remap.unused(&["/b", "x"]).collect::<Vec<_>>(), ["arm/left"]);
        let twice = ["a:=b", "/a:=c"].map(|text| text.parse::<Rename>().unwrap());
        let error = Remap::new(twice).unwrap_err().to_string();
        assert!(error.contains("as b and as c"), "{error}");
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_form_that_is_expected() {
        let error = "a=b".parse::<Rename>().unwrap_err().to_string();
        assert!(error.contains("old:=new"), "{error}");
        let error = "a:=b c".parse::<Rename>().unwrap_err().to_string();
        assert!(error.contains("b c"), "{error}");
    }
}
