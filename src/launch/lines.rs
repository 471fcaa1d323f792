//! Whole lines out of bytes as they come, none longer than a bound.

use crate::limits::LINE_BYTES_MAX;

/// What has come of a line that has not ended.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes in what came, and gives out each line that is whole now, without its end. One that is
    /// longer than [`LINE_BYTES_MAX`] comes in parts, so nothing is lost and memory is bounded.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut give: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.partial.len();
            let reach = &bytes[..bytes.len().min(room + 1)];
            let end = reach.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or_else(|| reach.len().min(room));
            self.partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || !bytes.is_empty() {
                self.give(&mut give);
            }
        }
    }

    /// The last line, if it had no end.
    pub(crate) fn finish(&mut self, mut give: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            self.give(&mut give);
        }
    }

    fn give(&mut self, give: &mut impl FnMut(&[u8])) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        give(line);
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut given = Vec::new();
        for part in parts {
            lines.push(part, |line| given.push(line.to_vec()));
        }
        lines.finish(|line| given.push(line.to_vec()));
        given
    }

    #[test]
    fn lines_come_whole_however_their_bytes_come() {
        let text = b"one\n\ntwo\r\nthree";
        let expected: [&[u8]; 4] = [b"one", b"", b"two", b"three"];
        for size in 1..=text.len() {
            let parts: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(lines(&parts), expected, "in parts of {size}");
        }
    }

    #[test]
    fn a_long_line_comes_in_parts_and_whole() {
        for bytes in [LINE_BYTES_MAX, LINE_BYTES_MAX + 1, 3 * LINE_BYTES_MAX + 5] {
            let text = [vec![b'x'; bytes], b"\nend\n".to_vec()].concat();
            for size in [1, 1000, text.len()] {
                let parts: Vec<&[u8]> = text.chunks(size).collect();
                let given = lines(&parts);
                assert!(given.iter().all(|line| line.len() <= LINE_BYTES_MAX));
                assert_eq!(given.len(), bytes.div_ceil(LINE_BYTES_MAX) + 1);
                assert_eq!(given.last().unwrap(), b"end");
                let sum: usize = given.iter().map(Vec::len).sum();
                assert_eq!(sum, bytes + 3);
            }
        }
    }
}
