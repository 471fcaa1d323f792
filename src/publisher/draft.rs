//! A message being written: inline while it is small, in a chunk from then on.

use core::marker::PhantomData;
use std::io;

use rkyv::rancor::{self, Fallible, Source as _};
use rkyv::ser::{Positional, Writer};
use shmesh_shm::{Chunk, INLINE_BYTES, Segment};

use super::outbox::Outbox;
use crate::codec::CodecError;
use crate::error::Error;
use crate::limits::MESSAGE_BYTES_MAX;

/// A message that is written or being written: a pointer to a sheet. Handed on itself, what is
/// written in small pieces would be moved in large ones, and such a move waits until all earlier
/// stores are done, those to the subscribers' cache lines among them (1 MiB loaned, sent, received
/// in one thread: 140 ns so, 75 ns with this).
#[derive(Debug)]
pub struct Draft(Box<Sheet>);

/// Where a message is until it is sent. Sheets are used again and again.
#[derive(Debug)]
#[repr(C, align(16))]
struct Sheet {
    /// The message, as long as it has no chunk; first, so that it is aligned like every payload.
    inline: [u8; INLINE_BYTES],
    chunk: Option<Chunk<Segment>>,
    /// Bytes of it.
    len: usize,
    /// Node and endpoint whose sheet this is.
    publisher: (u128, u32),
}

impl Sheet {
    /// All the room that the message has where it is.
    #[inline]
    fn room(&mut self) -> &mut [u8] {
        match &mut self.chunk {
            None => &mut self.inline,
            Some(chunk) => chunk.bytes_mut(),
        }
    }
}

impl Draft {
    /// An empty one.
    pub(crate) fn new(publisher: (u128, u32)) -> Self {
        Self(Box::new(Sheet {
            inline: [0; INLINE_BYTES],
            chunk: None,
            len: 0,
            publisher,
        }))
    }

    /// Room for exactly `len` bytes.
    #[inline]
    pub(crate) fn with_len(outbox: &mut Outbox, len: usize) -> Result<Self, Error> {
        let chunk = if len <= INLINE_BYTES {
            None
        } else {
            check_len(len)?;
            Some(outbox.take_chunk(len)?)
        };
        let mut draft = outbox.take_blank();
        draft.0.chunk = chunk;
        draft.0.len = len;
        Ok(draft)
    }

    /// An empty one that is expected to grow to `guess` bytes.
    pub(crate) fn with_guess(outbox: &mut Outbox, guess: usize) -> Result<Self, Error> {
        let mut draft = Self::with_len(outbox, guess.min(MESSAGE_BYTES_MAX))?;
        draft.0.len = 0;
        Ok(draft)
    }

    /// Node and endpoint whose draft this is.
    #[inline]
    pub(crate) fn publisher(&self) -> (u128, u32) {
        self.0.publisher
    }

    /// The message, if it has no chunk.
    #[inline]
    pub(crate) fn inline(&self) -> &[u8] {
        &self.0.inline[..self.0.len]
    }

    /// The message's chunk, to be published, and its bytes.
    #[inline]
    pub(crate) fn take_chunk(&mut self) -> Option<(Chunk<Segment>, usize)> {
        let len = self.0.len;
        self.0.chunk.take().map(|chunk| (chunk, len))
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0.chunk {
            None => self.inline(),
            Some(chunk) => &chunk.bytes()[..self.0.len],
        }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.0.len;
        &mut self.0.room()[..len]
    }

    /// Adds bytes. A message that outgrows its room moves to a larger chunk, once per doubling.
    #[inline]
    pub(crate) fn append(&mut self, outbox: &mut Outbox, bytes: &[u8]) -> Result<(), Error> {
        let start = self.0.len;
        let end = start + bytes.len();
        if end > self.0.room().len() {
            self.move_to_larger(outbox, end)?;
        }
        let sheet = &mut *self.0;
        sheet.len = end;
        sheet.room()[start..end].copy_from_slice(bytes);
        Ok(())
    }

    #[cold]
    fn move_to_larger(&mut self, outbox: &mut Outbox, need: usize) -> Result<(), Error> {
        check_len(need)?;
        let wanted = need.max(2 * self.0.room().len());
        match outbox.take_chunk(wanted.min(MESSAGE_BYTES_MAX)) {
            Ok(mut larger) => {
                let written = self.bytes();
                larger.bytes_mut()[..written.len()].copy_from_slice(written);
                self.0.chunk = Some(larger);
                Ok(())
            }
            Err(Error::ArenaFull { .. }) => self.move_aside_and_back(outbox, need),
            Err(error) => Err(error),
        }
    }

    /// At the arena's bound the chunk itself may be in the way, with a segment of its own.
    fn move_aside_and_back(&mut self, outbox: &mut Outbox, need: usize) -> Result<(), Error> {
        let written = self.bytes().to_vec();
        let sheet = &mut *self.0;
        (sheet.chunk, sheet.len) = (None, 0);
        let chunk = sheet.chunk.insert(outbox.take_chunk(need)?);
        chunk.bytes_mut()[..written.len()].copy_from_slice(&written);
        sheet.len = written.len();
        Ok(())
    }
}

fn check_len(len: usize) -> Result<(), Error> {
    if len <= MESSAGE_BYTES_MAX {
        return Ok(());
    }
    Err(Error::TooLarge {
        len: len as u64,
        max: MESSAGE_BYTES_MAX as u64,
    })
}

/// Where rkyv writes an archive, and codecs what they encode: straight into the message.
#[derive(Debug)]
pub struct ArchiveWriter<'a> {
    outbox: &'a mut Outbox,
    draft: Draft,
    error: Option<Error>,
}

impl<'a> ArchiveWriter<'a> {
    /// Goes on with `draft`. To be handed on as it is made: with its room for an error it is moved
    /// in pieces that are larger than what was just stored in it, and that waits (10 ns).
    #[inline]
    pub(crate) fn new(outbox: &'a mut Outbox, draft: Draft) -> Self {
        Self {
            outbox,
            draft,
            error: None,
        }
    }

    /// The finished message.
    pub(crate) fn into_draft(self) -> Draft {
        self.draft
    }

    /// Why the message could not be written.
    pub(crate) fn into_error(self, error: &rancor::Error) -> Error {
        self.error
            .unwrap_or_else(|| Error::Archive(error.to_string()))
    }

    /// The finished message, unless some of it could not be written, whatever its codec made of
    /// that: what is not whole is not sent.
    pub(crate) fn finish(self, encoded: Result<(), CodecError>) -> Result<Draft, Error> {
        match (self.error, encoded) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(Error::Encode(error.to_string())),
            (None, Ok(())) => Ok(self.draft),
        }
    }

    /// Adds bytes.
    #[inline]
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.draft.append(self.outbox, bytes)
    }
}

impl Positional for ArchiveWriter<'_> {
    fn pos(&self) -> usize {
        self.draft.0.len
    }
}

impl Fallible for ArchiveWriter<'_> {
    type Error = rancor::Error;
}

impl Writer<rancor::Error> for ArchiveWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), rancor::Error> {
        self.append(bytes).map_err(|error| {
            let reported = rancor::Error::new(Unwritable);
            self.error = Some(error);
            reported
        })
    }
}

impl io::Write for ArchiveWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // After an error all is in vain, and need not look for memory each time.
        if self.error.is_none() {
            match self.append(bytes) {
                Ok(()) => return Ok(bytes.len()),
                Err(error) => self.error = Some(error),
            }
        }
        Err(io::Error::other(Unwritable))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stands in for the real error, which waits in the writer.
#[derive(Debug, thiserror::Error)]
#[error("no room for the message")]
struct Unwritable;

/// A message that is written in place, before it is sent. Dropping it gives its memory back.
///
/// For topics of [`Bytes`](crate::Bytes) it derefs to these. For typed topics write the value with
/// [`write`](Loan::write), or the archived form through [`bytes_mut`](Loan::bytes_mut).
#[derive(Debug)]
#[must_use = "a loan that is dropped is given back unsent"]
pub struct Loan<P> {
    pub(crate) draft: Draft,
    pub(crate) carries: PhantomData<fn() -> P>,
}

impl<P> Loan<P> {
    /// The bytes as they are now: zeroes in new memory, remains of older messages in reused memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.draft.bytes()
    }

    /// The bytes, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.draft.bytes_mut()
    }
}

const _: () = assert!(core::mem::offset_of!(Sheet, inline).is_multiple_of(16));
