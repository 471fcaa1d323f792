//! A measuring aid: two processes that pass one bare cache line back and forth.
//!
//! What a message costs is stated against what the hardware takes for this. Nothing else uses it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::error::ShmError;
use crate::layout::{Apart, Memory, Place};
use crate::segment::{PeerSegment, Segment, bytes_with_rounding};
use crate::sync::Ordering;

/// A word of ours that another process can read.
#[derive(Debug)]
pub struct Line {
    word: Place<Apart>,
    segment: Arc<Segment>,
}

impl Line {
    /// A new word, zero.
    ///
    /// # Errors
    /// As [`Segment::create`].
    pub fn create() -> Result<Self, ShmError> {
        Self::over(
            &Arc::new(Segment::create("shmesh-line", size_of::<Apart>())?),
            0,
        )
    }

    /// A word of a segment of ours, at an offset that is a multiple of 128 bytes.
    ///
    /// # Errors
    /// [`ShmError::Corrupt`] if there is no such word.
    pub fn over(segment: &Arc<Segment>, offset: usize) -> Result<Self, ShmError> {
        let owner = Arc::clone(segment) as Arc<dyn Send + Sync>;
        let words = Memory::in_mapping(segment.ptr(), segment.len(), offset, 1, owner)?;
        Ok(Self {
            word: words.place(0),
            segment: Arc::clone(segment),
        })
    }

    /// The descriptor to hand over.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Stores a value.
    #[inline]
    pub fn store(&self, value: u64) {
        // Release, like the stamp of a slot.
        self.word.0.store(value, Ordering::Release);
    }
}

/// A word of another process.
#[derive(Debug)]
pub struct PeerLine {
    word: Place<Apart>,
}

impl PeerLine {
    /// Maps what a peer handed over.
    ///
    /// # Errors
    /// As [`PeerSegment::map`].
    pub fn map(fd: OwnedFd) -> Result<Self, ShmError> {
        let segment = PeerSegment::map(fd, bytes_with_rounding(size_of::<Apart>()))?;
        let segment = Arc::new(segment);
        let owner = Arc::clone(&segment) as Arc<dyn Send + Sync>;
        Ok(Self {
            word: Place::first_of(segment.ptr(), segment.len(), owner)?,
        })
    }

    /// Loads the value.
    #[inline]
    #[must_use]
    pub fn load(&self) -> u64 {
        // Acquire, like the stamp of a slot.
        self.word.0.load(Ordering::Acquire)
    }
}
