//! What a recorder says at its end: what is in its files, and what is not.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::files::Files;
use super::input::names_text;
use super::units::size_text;
use crate::bag::{Channel, Count, Recorder};
use crate::name::escaped;

/// What came of a recording.
pub(super) struct Ending<'a> {
    pub(super) recorder: &'a Recorder<Files>,
    /// The files that there are.
    pub(super) files: &'a [PathBuf],
    pub(super) lost: u64,
    /// True if all that was taken should be in the files.
    pub(super) is_continuous: bool,
    /// Times that the last seconds could not be saved whole.
    pub(super) unsaved: u32,
}

impl Ending<'_> {
    pub(super) fn json(&self) -> Value {
        let total = self.recorder.total();
        let names = self.files.iter().map(|path| path.display().to_string());
        let topic = |(channel, count): (&Channel, Count)| {
            json!({
                "topic": channel.topic,
                "type": channel.ty.name,
                "node": channel.publisher.as_ref().map(|publisher| &publisher.node_name),
                "recorded": count.recorded,
                "lost": count.lost,
                "unwritten": self.unwritten(count),
            })
        };
        json!({
            "event": "end",
            "files": names.collect::<Vec<_>>(),
            "messages": total.recorded,
            "bytes": total.bytes,
            "lost": self.lost,
            "unwritten": self.unwritten(total),
            "unsaved": self.unsaved,
            "topics": self.recorder.counts().map(topic).collect::<Vec<_>>(),
        })
    }

    pub(super) fn text(&self) -> String {
        let total = self.recorder.total();
        let mut text = match total.recorded {
            0 => "no messages, no file".into(),
            recorded => format!(
                "recorded {recorded} messages, {}, {} lost, to {}",
                size_text(total.bytes),
                self.lost,
                names_text(self.files)
            ),
        };
        let unwritten = self.unwritten(total);
        if unwritten > 0 {
            text.push_str(&format!("; {unwritten} could not be written"));
        }
        for (channel, count) in self.recorder.counts().filter(|(_, count)| count.lost > 0) {
            let publisher = channel.publisher.as_ref();
            let node = publisher.map(|publisher| publisher.node_name.as_str());
            text.push_str(&format!(
                "\n  {} of {}: {} lost, {} recorded",
                escaped(&channel.topic),
                escaped(node.unwrap_or_default()),
                count.lost,
                count.recorded
            ));
        }
        text
    }

    fn unwritten(&self, count: Count) -> u64 {
        match self.is_continuous {
            true => count.taken - count.recorded,
            false => 0,
        }
    }
}
