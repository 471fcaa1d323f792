//! Payloads that are read straight into their chunk: only their beginning goes through the buffer.

use shmesh_shm::{Chunk, HeapBlock};

use super::Reader;
use crate::error::Error;
use crate::link::wire::MessageHeader;

/// A message that is being read into its chunk.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) header: MessageHeader,
    pub(super) chunk: Chunk<HeapBlock>,
    pub(super) filled: usize,
    /// Where what comes next without a header ends: with the message, or its fragment.
    pub(super) until: usize,
}

impl Large {
    pub(super) fn new(header: MessageHeader, chunk: Chunk<HeapBlock>, until: usize) -> Self {
        let filled = 0;
        Self {
            header,
            chunk,
            filled,
            until,
        }
    }

    /// True if a fragment of it is likely to follow.
    pub(super) fn goes_on(&self) -> bool {
        self.until < self.header.len
    }
}

impl Reader {
    /// A large message of which `payload` has come.
    pub(super) fn begin_large(&mut self, header: MessageHeader, payload: &[u8]) {
        let Some(sink) = self.sink(header.channel) else {
            self.unwanted = header.len - payload.len();
            return;
        };
        let Some(mut chunk) = sink.take_chunk(header.len) else {
            if sink.begin(&header).is_ok() {
                sink.refuse();
            }
            self.unwanted = header.len - payload.len();
            return;
        };
        chunk.bytes_mut()[..payload.len()].copy_from_slice(payload);
        let mut large = Large::new(header, chunk, header.len);
        large.filled = payload.len();
        self.large = Some(large);
    }

    pub(super) fn fill_large(&mut self, count: usize) -> Result<(), Error> {
        let Some(large) = &mut self.large else {
            return Ok(());
        };
        large.filled += count;
        if large.filled < large.until {
            return Ok(());
        }
        match self.large.take() {
            Some(large) => self.end_fragment(large),
            None => Ok(()),
        }
    }
}
