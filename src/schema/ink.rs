//! JSON on its way out: small pieces are put into a block, and the block is handed on when it is
//! full. So a piece costs a few instructions, whatever it is written to.

use std::io::{self, Write};

use super::SchemaError;

pub(super) struct Ink<'a, W> {
    block: [u8; BLOCK],
    /// Bytes of the block that are to be handed on.
    len: usize,
    to: &'a mut W,
}

/// A text that is written often.
#[derive(Debug)]
pub(super) struct Literal {
    text: Box<[u8]>,
    /// Its beginning, with zeros behind it.
    start: [u8; SHORT],
}

impl<'a, W: Write> Ink<'a, W> {
    pub(super) fn new(to: &'a mut W) -> Self {
        Self {
            block: [0; BLOCK],
            len: 0,
            to,
        }
    }

    /// Adds a literal.
    #[inline]
    pub(super) fn literal(&mut self, literal: &Literal) -> io::Result<()> {
        match literal.text.len() {
            len if len <= SHORT => self.short(literal.start, len),
            _ => self.write_all(&literal.text),
        }
    }

    /// Adds the first `len` of a few bytes. A copy of a fixed number of bytes needs no call.
    #[inline]
    pub(super) fn short<const N: usize>(&mut self, text: [u8; N], len: usize) -> io::Result<()> {
        let room = self.block.get_mut(self.len..);
        let Some(room) = room.and_then(|room| room.first_chunk_mut()) else {
            return self.add_beyond(text.get(..len).unwrap_or(&text));
        };
        *room = text;
        self.len += len;
        Ok(())
    }

    /// Adds a text that is JSON.
    #[inline]
    pub(super) fn add(&mut self, text: &[u8]) -> Result<(), SchemaError> {
        Ok(self.write_all(text)?)
    }

    /// Adds a text as a JSON string that is one without escapes: see [`is_plain`].
    #[inline]
    pub(super) fn plain(&mut self, text: &[u8]) -> Result<(), SchemaError> {
        let end = self.len + text.len() + 2;
        let Some([first, room @ .., last]) = self.block.get_mut(self.len..end) else {
            self.add(b"\"")?;
            self.add(text)?;
            return self.add(b"\"");
        };
        (*first, *last) = (b'"', b'"');
        room.copy_from_slice(text);
        self.len = end;
        Ok(())
    }

    /// Adds any text as a JSON string.
    pub(super) fn quoted(&mut self, text: &str) -> Result<(), SchemaError> {
        serde_json::to_writer(self, text).map_err(|error| io::Error::from(error).into())
    }

    /// Hands on what is left.
    pub(super) fn finish(&mut self) -> Result<(), SchemaError> {
        Ok(self.hand_on()?)
    }

    #[cold]
    fn add_beyond(&mut self, text: &[u8]) -> io::Result<()> {
        self.hand_on()?;
        match self.block.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text);
                self.len = text.len();
                Ok(())
            }
            None => self.to.write_all(text),
        }
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let ready = std::mem::take(&mut self.len);
        self.to.write_all(&self.block[..ready])
    }
}

impl Literal {
    pub(super) fn new(text: &[u8]) -> Self {
        let mut start = [0; SHORT];
        let len = text.len().min(SHORT);
        start[..len].copy_from_slice(&text[..len]);
        Self {
            text: text.into(),
            start,
        }
    }
}

impl<W: Write> Write for Ink<'_, W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.write_all(text)?;
        Ok(text.len())
    }

    #[inline]
    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        let end = self.len + text.len();
        let Some(room) = self.block.get_mut(self.len..end) else {
            return self.add_beyond(text);
        };
        room.copy_from_slice(text);
        self.len = end;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_on()
    }
}

/// True for ASCII texts without anything that JSON escapes. A part is looked at in full, which
/// compilers make wide instructions of.
#[inline]
pub(super) fn is_plain(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\');
    let mut parts = text.chunks(SHORT);
    parts.all(|part| part.iter().fold(true, |is, byte| is & is_plain(byte)))
}

/// Bytes of a block: many pieces, and little to clear for a small message.
const BLOCK: usize = 2 << 10;
/// Longest literal that is copied without a call.
const SHORT: usize = 32;
