//! What launched nodes print, line by line, on one terminal.
//!
//! A thread of its own writes: a terminal that is held (Ctrl-S), or slow, holds up neither the
//! launcher nor a node. Lines that find no room are dropped, and counted.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde_json::json;

use crate::cli::is_colourless;
use crate::limits::LINES_WAITING_MAX;

/// How lines look.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    pub(super) is_json: bool,
    pub(super) has_colour: bool,
    /// Columns for names; longer ones are cut.
    pub(super) width: usize,
}

impl Style {
    /// For where standard output goes. Names take a third of a terminal at most.
    pub(super) fn for_stdout(is_json: bool, names: &[String]) -> Self {
        let out = std::io::stdout();
        let columns = rustix::termios::tcgetwinsize(&out).map(|size| usize::from(size.ws_col));
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            is_json,
            has_colour: out.is_terminal() && !is_colourless() && !is_dumb,
            width: width(columns.unwrap_or(0), names),
        }
    }

    /// `[name] text`, the name in the colour of its node.
    fn text(&self, colour: usize, name: &str, text: &str) -> String {
        let name = fit(name, self.width);
        if !self.has_colour {
            return format!("[{name}] {text}\n");
        }
        let colour = COLOURS[colour % COLOURS.len()];
        // A node that colours its own lines may forget to stop.
        let end = if text.contains('\x1b') { "\x1b[0m" } else { "" };
        format!("\x1b[{colour}m[{name}]\x1b[0m {text}{end}\n")
    }
}

const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

fn width(columns: usize, names: &[String]) -> usize {
    let longest = names.iter().map(String::len).max().unwrap_or(0);
    // `launch` speaks, too.
    let longest = longest.max("launch".len());
    if columns == 0 {
        return longest;
    }
    longest.min((columns / 3).saturating_sub(3).max(3))
}

/// As wide as asked. Names are ASCII.
fn fit(name: &str, width: usize) -> String {
    if name.len() <= width {
        return format!("{name:width$}");
    }
    let kept: String = name.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}~")
}

/// A line that waits.
struct Line {
    text: String,
    is_error: bool,
}

/// Where lines go.
pub(super) struct Printer {
    style: Style,
    lines: Option<SyncSender<Line>>,
    is_done: Receiver<()>,
    /// What must not be lost, and found no room yet.
    notes: VecDeque<Line>,
    dropped: u64,
}

impl Printer {
    pub(super) fn start(style: Style) -> Self {
        let (lines, taken) = sync_channel::<Line>(LINES_WAITING_MAX);
        let (done, is_done) = sync_channel(1);
        std::thread::spawn(move || {
            for line in taken {
                // Nobody may read any more. Nodes go on all the same.
                let _ = if line.is_error {
                    std::io::stderr().write_all(line.text.as_bytes())
                } else {
                    let mut out = std::io::stdout().lock();
                    let written = out.write_all(line.text.as_bytes());
                    written.and_then(|()| out.flush())
                };
            }
            let _ = done.send(());
        });
        Self {
            style,
            lines: Some(lines),
            is_done,
            notes: VecDeque::new(),
            dropped: 0,
        }
    }

    /// A line of a node, which is the `colour`th.
    pub(super) fn line(&mut self, colour: usize, name: &str, bytes: &[u8], is_error: bool) {
        let text = String::from_utf8_lossy(bytes);
        let stream = if is_error { "stderr" } else { "stdout" };
        let line = if self.style.is_json {
            let word = json!({"event": "output", "node": name, "stream": stream, "line": text});
            self.json(&word)
        } else {
            Line {
                text: self.style.text(colour, name, &text),
                is_error,
            }
        };
        self.flush();
        if self.dropped > 0 {
            let count = self.dropped;
            let text = format!("{count} lines of nodes were dropped: nobody took them in time");
            let told = self.note_line(&json!({"event": "dropped", "lines": count}), &text);
            if !self.offer(told) {
                self.dropped += 1;
                return;
            }
            self.dropped = 0;
        }
        if !self.offer(line) {
            self.dropped += 1;
        }
    }

    /// What the launcher itself has to say, for programs or for people.
    pub(super) fn note(&mut self, event: &serde_json::Value, text: &str) {
        let line = self.note_line(event, text);
        self.notes.push_back(line);
        self.notes.truncate(LINES_WAITING_MAX);
        self.flush();
    }

    fn note_line(&self, event: &serde_json::Value, text: &str) -> Line {
        if self.style.is_json {
            return self.json(event);
        }
        let mut line = String::new();
        for part in text.lines() {
            let part = Style {
                has_colour: false,
                ..self.style.clone()
            }
            .text(0, "launch", part);
            let _ = line.write_str(&part);
        }
        Line {
            text: line,
            is_error: true,
        }
    }

    fn json(&self, word: &serde_json::Value) -> Line {
        Line {
            text: format!("{word}\n"),
            is_error: false,
        }
    }

    fn flush(&mut self) {
        while let Some(note) = self.notes.pop_front() {
            if let Some(Err(TrySendError::Full(note))) =
                self.lines.as_ref().map(|lines| lines.try_send(note))
            {
                self.notes.push_front(note);
                return;
            }
        }
    }

    fn offer(&self, line: Line) -> bool {
        let sent = self.lines.as_ref().map(|lines| lines.try_send(line));
        matches!(sent, Some(Ok(())))
    }

    /// Waits until all is written, but for nobody who does not read.
    pub(super) fn finish(&mut self, patience: Duration) {
        self.flush();
        self.lines = None;
        let _ = self.is_done.recv_timeout(patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_take_a_third_of_a_narrow_terminal_at_most() {
        let long = names(&["arm", "a_camera_with_a_long_name"]);
        assert_eq!(width(0, &long), 25, "no terminal, no bound");
        assert_eq!(width(200, &long), 25);
        assert_eq!(width(20, &long), 3);
        assert_eq!(width(1, &long), 3);
        assert_eq!(width(80, &names(&["a"])), 6);
        assert_eq!(
            (fit("arm", 6), fit("camera", 3)),
            ("arm   ".into(), "ca~".into())
        );
    }

    #[test]
    fn colour_is_for_terminals_and_ends_with_its_name() {
        let mut style = Style {
            width: 3,
            ..Style::default()
        };
        assert_eq!(style.text(1, "arm", "x"), "[arm] x\n");
        style.has_colour = true;
        assert_eq!(style.text(1, "arm", "x"), "\x1b[33m[arm]\x1b[0m x\n");
        assert_eq!(
            style.text(0, "arm", "\x1b[1mx"),
            "\x1b[36m[arm]\x1b[0m \x1b[1mx\x1b[0m\n"
        );
    }

    #[test]
    fn without_a_reader_lines_are_dropped_and_counted_and_notes_wait() {
        let (lines, taken) = sync_channel(2);
        let mut printer = Printer {
            style: Style {
                width: 1,
                ..Style::default()
            },
            lines: Some(lines),
            is_done: sync_channel(1).1,
            notes: VecDeque::new(),
            dropped: 0,
        };
        for text in ["1", "2", "3", "4"] {
            printer.line(0, "a", text.as_bytes(), false);
        }
        printer.note(&json!({}), "over");
        let mut seen: Vec<String> = taken.try_iter().map(|line| line.text).collect();
        printer.line(0, "a", b"5", false);
        seen.extend(taken.try_iter().map(|line| line.text));
        printer.line(0, "a", b"6", false);
        seen.extend(taken.try_iter().map(|line| line.text));
        printer.line(0, "a", b"7", false);
        seen.extend(taken.try_iter().map(|line| line.text));
        let seen = seen.join("");
        assert!(seen.starts_with("[a] 1\n[a] 2\n[~] over\n"), "{seen}");
        // The one that told of it took the room of the next.
        assert!(seen.contains("2 lines of nodes were dropped"), "{seen}");
        assert!(seen.contains("1 lines of nodes were dropped"), "{seen}");
        assert!(seen.ends_with("[a] 6\n[a] 7\n"), "{seen}");
    }
}
