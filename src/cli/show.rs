//! What tools print: tables for people, JSON for scripts.

use std::io::{IsTerminal as _, StdoutLock, Write as _};

use serde_json::{Value, json};

use super::Failure;
use super::is_colourless;
use crate::name::escaped;
use crate::topology::{Encoding, NodeInfo, TopicType};

/// Prints one document.
pub(super) fn document(value: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value:#}")?;
    Ok(out.flush()?)
}

/// Prints one of several things as a line. Documents are indented; lines come as things happen.
pub(super) fn line(value: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

/// A table for people. On a terminal that is too narrow for it each row is a paragraph.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    titles: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) const fn new(titles: [&'static str; N]) -> Self {
        let rows = Vec::new();
        Self { titles, rows }
    }

    pub(super) fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(super) fn print(&self) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        self.write(&mut out, columns(), is_coloured())?;
        Ok(out.flush()?)
    }

    fn write(
        &self,
        out: &mut impl std::io::Write,
        columns: Option<usize>,
        is_bold: bool,
    ) -> std::io::Result<()> {
        let longest = |idx: usize| {
            let cells = self.rows.iter().map(|row| row[idx].len());
            cells.fold(self.titles[idx].len(), usize::max)
        };
        let widths: [usize; N] = std::array::from_fn(longest);
        let width = widths.iter().sum::<usize>() + 2 * N.saturating_sub(1);
        let (bold, plain) = if is_bold {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        if columns.is_some_and(|columns| columns < width) {
            for row in &self.rows {
                for (title, cell) in self.titles.iter().zip(row) {
                    writeln!(out, "{bold}{title}{plain} {cell}")?;
                }
                writeln!(out)?;
            }
            return Ok(());
        }
        let line = |cells: [&str; N]| {
            let padded = cells.iter().zip(widths);
            let padded = padded.map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        writeln!(out, "{bold}{}{plain}", line(self.titles))?;
        for row in &self.rows {
            writeln!(out, "{}", line(row.each_ref().map(String::as_str)))?;
        }
        Ok(())
    }
}

/// How wide the terminal is, if it is one.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// True on a terminal whose user does not mind.
fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && !is_colourless()
}

/// What goes out in large pieces while there is more, and at once when there is not.
pub(super) fn output() -> std::io::BufWriter<StdoutLock<'static>> {
    std::io::BufWriter::with_capacity(OUTPUT_BYTES, std::io::stdout().lock())
}

/// What a pipe takes at once.
const OUTPUT_BYTES: usize = 64 << 10;

/// A type, for people.
pub(super) fn type_text(ty: &TopicType) -> String {
    match &ty.encoding {
        Encoding::Any => "any".into(),
        encoding => format!("{} ({})", escaped(&ty.name), encoding_word(encoding)),
    }
}

/// Types, for people; the untyped say nothing beside others.
pub(super) fn types_text<'a>(types: impl IntoIterator<Item = &'a TopicType>) -> String {
    let mut texts: Vec<String> = types
        .into_iter()
        .filter(|ty| ty.encoding != Encoding::Any)
        .map(type_text)
        .collect();
    texts.sort_unstable();
    texts.dedup();
    if texts.is_empty() {
        return "any".into();
    }
    texts.join(", ")
}

fn encoding_word(encoding: &Encoding) -> String {
    match encoding {
        Encoding::Raw => "raw".into(),
        Encoding::Rkyv => "rkyv".into(),
        Encoding::Json => "json".into(),
        Encoding::MsgPack => "msgpack".into(),
        Encoding::Any => "any".into(),
        Encoding::Custom(name) => escaped(name),
    }
}

/// A type, for scripts.
pub(super) fn type_json(ty: &TopicType) -> Value {
    json!({
        "name": ty.name,
        "encoding": encoding_word(&ty.encoding),
        "hash": format!("{:016x}", ty.hash),
    })
}

/// A node, for scripts.
pub(super) fn node_json(node: &NodeInfo) -> Value {
    json!({
        "name": node.name,
        "id": node.id.to_string(),
        "host": node.host.to_string(),
        "pid": node.pid,
        "uid": node.uid,
        "socket": node.socket,
        "addresses": node.addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<2> {
        let mut table = Table::new(["NAME", "PID"]);
        table.push(["camera".into(), "7".into()]);
        table.push(["arm".into(), "1234".into()]);
        table
    }

    fn written(columns: Option<usize>, is_bold: bool) -> String {
        let mut out = Vec::new();
        table().write(&mut out, columns, is_bold).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let expected = "NAME    PID\ncamera  7\narm     1234\n";
        assert_eq!(written(None, false), expected);
        assert_eq!(written(Some(12), false), expected);
        assert!(written(None, true).starts_with("\x1b[1mNAME    PID\x1b[0m\n"));
    }

    #[test]
    fn a_narrow_terminal_gets_paragraphs() {
        let expected = "NAME camera\nPID 7\n\nNAME arm\nPID 1234\n\n";
        assert_eq!(written(Some(11), false), expected);
    }
}
