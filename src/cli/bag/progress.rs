//! The line that says how it goes. On a terminal only.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::units::{count_text, size_text};
use crate::bag::Count;

/// A line on the terminal, if standard error is one.
#[derive(Debug)]
pub(super) struct Progress {
    line: ProgressBar,
    start: Instant,
    said: Instant,
    before: Count,
}

impl Progress {
    pub(super) fn new(is_wanted: bool) -> Self {
        let line = match is_wanted {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            line.set_style(style);
        }
        let start = Instant::now();
        Self {
            line,
            start,
            said: start,
            before: Count::default(),
        }
    }

    /// True if it is time to say something again.
    pub(super) fn is_due(&self) -> bool {
        !self.line.is_hidden() && self.said.elapsed() >= PERIOD
    }

    /// Says how much there is, and how fast it grows.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // for people
    pub(super) fn say(&mut self, total: Count, more: &str) {
        let seconds = self.said.elapsed().as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| ((now - before) as f64 / seconds) as u64;
        let messages = rate(total.taken, self.before.taken);
        let bytes = rate(total.taken_bytes, self.before.taken_bytes);
        self.line.set_message(format!(
            "{:.1} s  {} messages  {}/s  {}/s  {} lost  {more}",
            self.start.elapsed().as_secs_f64(),
            count_text(total.taken),
            count_text(messages),
            size_text(bytes),
            total.lost,
        ));
        self.before = total;
        self.said = Instant::now();
    }

    /// Says something else.
    pub(super) fn text(&mut self, text: String) {
        self.line.set_message(text);
        self.said = Instant::now();
    }

    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }
}

const PERIOD: Duration = Duration::from_millis(250);
