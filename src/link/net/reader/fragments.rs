//! Messages that come in fragments. Each lies in its chunk from its beginning on, and each fragment
//! is read, or decompressed, straight to its place there; between fragments it waits at its sink
//! while others come. A sink has one message in the making, in the memory that it has anyway, and
//! takes it along when it goes.

use super::large::Large;
use super::{Reader, Sink};
use crate::compression::unpack;
use crate::error::Error;
use crate::link::wire::{FragmentHeader, MessageHeader};

/// A message of which some fragments have not come.
#[derive(Debug)]
pub(super) enum Unfinished {
    Filling(Large),
    /// There was no memory for it: it is counted as lost, and so many bytes are still to come.
    Refused(usize),
}

impl Reader {
    /// A message begins.
    pub(super) fn begin_fragments(&mut self, header: MessageHeader) -> Result<(), Error> {
        match self.sink(header.channel) {
            Some(sink) => sink.begin_fragments(header),
            // Detached while it was on its way.
            None => Ok(()),
        }
    }

    /// A fragment, and what came behind its header; how much of that is its own. `None` if it is
    /// taken in whole, and not all of it has come.
    pub(super) fn take_fragment(
        &mut self,
        header: &FragmentHeader,
        rest: &[u8],
    ) -> Result<Option<usize>, Error> {
        if header.is_packed() && !self.takes_packed {
            return Err(Error::Protocol("compressed without being asked to"));
        }
        let unfinished = match self.sink(header.channel) {
            Some(sink) => {
                let none = Error::Protocol("a fragment of no message");
                sink.unfinished.take().ok_or(none)?
            }
            None => Unfinished::Refused(header.len),
        };
        let large = match unfinished {
            Unfinished::Filling(large) => large,
            Unfinished::Refused(left) => {
                let left = left.checked_sub(header.len).ok_or(BEYOND)?;
                if let Some(sink) = self.sink(header.channel).filter(|_| left > 0) {
                    sink.unfinished = Some(Unfinished::Refused(left));
                }
                self.unwanted = header.wire_len;
                return Ok(Some(0));
            }
        };
        if header.len > large.header.len - large.filled {
            return Err(BEYOND);
        }
        self.fill_fragment(large, header, rest)
    }

    fn fill_fragment(
        &mut self,
        mut large: Large,
        header: &FragmentHeader,
        rest: &[u8],
    ) -> Result<Option<usize>, Error> {
        let place = large.filled..large.filled + header.len;
        let count = header.wire_len.min(rest.len());
        if header.is_packed() {
            let Some(packed) = rest.get(..header.wire_len) else {
                self.put_back(large);
                return Ok(None);
            };
            if !unpack(packed, &mut large.chunk.bytes_mut()[place]) {
                return Err(Error::Protocol("a compressed fragment that is none"));
            }
            large.filled += header.len;
        } else {
            large.chunk.bytes_mut()[place][..count].copy_from_slice(&rest[..count]);
            large.filled += count;
            large.until += header.len;
            if large.filled < large.until {
                self.large = Some(large);
                return Ok(Some(count));
            }
        }
        large.until = large.filled;
        self.end_fragment(large)?;
        Ok(Some(count))
    }

    /// A fragment has come: the message is whole, or waits for the next.
    pub(super) fn end_fragment(&mut self, large: Large) -> Result<(), Error> {
        if large.filled < large.header.len {
            self.put_back(large);
            return Ok(());
        }
        let arrived_ns = self.arrived_ns();
        let Large { header, chunk, .. } = large;
        // The subscriber may be gone meanwhile; the chunk goes back on its own.
        let Some(sink) = self.sink(header.channel) else {
            return Ok(());
        };
        sink.begin(&header)?;
        sink.push_chunk(sink.head_of(&header, arrived_ns), chunk, header.len)
    }

    fn put_back(&mut self, large: Large) {
        if let Some(sink) = self.sink(large.header.channel) {
            sink.unfinished = Some(Unfinished::Filling(large));
        }
    }
}

const BEYOND: Error = Error::Protocol("fragments of more than the message");

impl Sink {
    fn begin_fragments(&mut self, header: MessageHeader) -> Result<(), Error> {
        if self.unfinished.is_some() {
            return Err(Error::Protocol("a message within another of its channel"));
        }
        let unfinished = match self.take_chunk(header.len) {
            Some(chunk) => Unfinished::Filling(Large::new(header, chunk, 0)),
            None => {
                self.begin(&header)?;
                self.refuse();
                Unfinished::Refused(header.len)
            }
        };
        self.unfinished = Some(unfinished);
        Ok(())
    }
}
