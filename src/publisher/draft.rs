//! A message being written: inline while it is small, in a chunk from then on.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use rkyv::rancor::{self, Fallible, Source as _};
use rkyv::ser::{Positional, Writer};
use shmesh_shm::{Chunk, INLINE_BYTES, Segment};

use super::outbox::Outbox;
use crate::error::Error;
use crate::limits::MESSAGE_BYTES_MAX;

/// Up to [`INLINE_BYTES`] bytes, aligned like every payload.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub(crate) struct InlineDraft {
    bytes: [u8; INLINE_BYTES],
    len: usize,
}

impl InlineDraft {
    pub(crate) fn new(len: usize) -> Self {
        Self {
            bytes: [0; INLINE_BYTES],
            len,
        }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A message that is written or being written.
#[derive(Debug)]
pub(crate) enum Draft {
    Inline(InlineDraft),
    /// The chunk and the bytes used of it.
    Chunk(Chunk<Segment>, u32),
}

impl Draft {
    /// Room for exactly `len` bytes.
    pub(crate) fn with_len(outbox: &mut Outbox, len: usize) -> Result<Self, Error> {
        if len <= INLINE_BYTES {
            return Ok(Self::Inline(InlineDraft::new(len)));
        }
        let used = checked_len(len)?;
        Ok(Self::Chunk(outbox.take_chunk(len)?, used))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(inline) => inline.bytes(),
            Self::Chunk(chunk, len) => &chunk.bytes()[..*len as usize],
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Inline(inline) => &mut inline.bytes[..inline.len],
            Self::Chunk(chunk, len) => &mut chunk.bytes_mut()[..*len as usize],
        }
    }
}

fn checked_len(len: usize) -> Result<u32, Error> {
    let too_large = Error::TooLarge {
        len: len as u64,
        max: MESSAGE_BYTES_MAX as u64,
    };
    u32::try_from(len)
        .ok()
        .filter(|_| len <= MESSAGE_BYTES_MAX)
        .ok_or(too_large)
}

/// Where rkyv writes an archive: straight into the message. A message that outgrows its room
/// moves to a larger chunk, once per doubling.
#[derive(Debug)]
pub struct ArchiveWriter<'a> {
    outbox: &'a mut Outbox,
    draft: Draft,
    error: Option<Error>,
}

impl<'a> ArchiveWriter<'a> {
    /// Starts a message that is expected to have `guess` bytes.
    pub(crate) fn new(outbox: &'a mut Outbox, guess: usize) -> Result<Self, Error> {
        let mut draft = Draft::with_len(outbox, guess.min(MESSAGE_BYTES_MAX))?;
        match &mut draft {
            Draft::Inline(inline) => inline.len = 0,
            Draft::Chunk(_, len) => *len = 0,
        }
        Ok(Self {
            outbox,
            draft,
            error: None,
        })
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

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let start = self.pos();
        let end = start + bytes.len();
        if end > self.capacity() {
            self.move_to_larger(end)?;
        }
        let room = match &mut self.draft {
            Draft::Inline(inline) => {
                inline.len = end;
                &mut inline.bytes[start..end]
            }
            Draft::Chunk(chunk, len) => {
                *len = checked_len(end)?;
                &mut chunk.bytes_mut()[start..end]
            }
        };
        room.copy_from_slice(bytes);
        Ok(())
    }

    fn capacity(&self) -> usize {
        match &self.draft {
            Draft::Inline(_) => INLINE_BYTES,
            Draft::Chunk(chunk, _) => chunk.bytes().len(),
        }
    }

    #[cold]
    fn move_to_larger(&mut self, need: usize) -> Result<(), Error> {
        let used = checked_len(self.pos())?;
        checked_len(need)?;
        let mut larger = self
            .outbox
            .take_chunk(need.max(2 * self.capacity()).min(MESSAGE_BYTES_MAX))?;
        larger.bytes_mut()[..used as usize].copy_from_slice(self.draft.bytes());
        self.draft = Draft::Chunk(larger, used);
        Ok(())
    }
}

impl Positional for ArchiveWriter<'_> {
    fn pos(&self) -> usize {
        match &self.draft {
            Draft::Inline(inline) => inline.len,
            Draft::Chunk(_, len) => *len as usize,
        }
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

/// Stands in for the real error, which waits in the writer.
#[derive(Debug, thiserror::Error)]
#[error("no room for the message")]
struct Unwritable;

/// A message that is written in place, before it is sent. Dropping it gives its memory back.
///
/// For [`Raw`](crate::Raw) topics it derefs to its bytes. For typed topics write the value with
/// [`write`](Loan::write), or the archived form through [`bytes_mut`](Loan::bytes_mut).
#[derive(Debug)]
#[must_use = "a loan that is dropped is given back unsent"]
pub struct Loan<P> {
    pub(crate) draft: Draft,
    /// Node and endpoint.
    pub(crate) publisher: (u128, u32),
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

impl Deref for Loan<crate::Raw> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.draft.bytes()
    }
}

impl DerefMut for Loan<crate::Raw> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.draft.bytes_mut()
    }
}
