//! Compressed payloads: gathered until they are whole, then decompressed into where the subscriber
//! finds them. Memory for the message is taken when all of it has come, and no more than its
//! header may say (see `PackedHeader`).

use shmesh_shm::INLINE_BYTES;

use super::{Reader, Sink};
use crate::compression::unpack;
use crate::error::Error;
use crate::link::wire::PackedHeader;

/// A compressed payload of which a part has come.
#[derive(Debug)]
pub(super) struct Packed {
    header: PackedHeader,
    bytes: Vec<u8>,
}

impl Reader {
    /// A message whose payload is compressed, and what came behind its header; how much of that
    /// is its own.
    pub(super) fn begin_packed(
        &mut self,
        header: PackedHeader,
        rest: &[u8],
    ) -> Result<usize, Error> {
        if !self.takes_packed {
            return Err(Error::Protocol("compressed without being asked to"));
        }
        if let Some(packed) = rest.get(..header.packed_len) {
            self.deliver_packed(&header, packed)?;
            return Ok(packed.len());
        }
        if self.sink(header.message.channel).is_some() {
            let bytes = rest.to_vec();
            self.packed = Some(Packed { header, bytes });
        } else {
            self.unwanted = header.packed_len - rest.len();
        }
        Ok(rest.len())
    }

    /// Goes on with one that was begun; how much of `bytes` is its.
    #[inline]
    pub(super) fn fill_packed(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if self.packed.is_none() {
            return Ok(0);
        }
        self.fill_begun(bytes)
    }

    fn fill_begun(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let Some(mut packed) = self.packed.take() else {
            return Ok(0);
        };
        let missing = packed.header.packed_len - packed.bytes.len();
        let count = missing.min(bytes.len());
        packed.bytes.extend_from_slice(&bytes[..count]);
        if count < missing {
            self.packed = Some(packed);
        } else {
            self.deliver_packed(&packed.header, &packed.bytes)?;
        }
        Ok(count)
    }

    fn deliver_packed(&mut self, header: &PackedHeader, packed: &[u8]) -> Result<(), Error> {
        let arrived_ns = self.arrived_ns();
        match self.sink(header.message.channel) {
            Some(sink) => sink.push_packed(header, packed, arrived_ns),
            None => Ok(()),
        }
    }
}

impl Sink {
    /// What cannot be decompressed ends the link. The message was not begun then: it is counted as
    /// lost by the next link.
    fn push_packed(
        &mut self,
        header: &PackedHeader,
        packed: &[u8],
        arrived_ns: u64,
    ) -> Result<(), Error> {
        let (message, len) = (&header.message, header.message.len);
        let broken = Error::Protocol("a compressed payload that is none");
        let head = self.head_of(message, arrived_ns);
        if len <= INLINE_BYTES {
            let mut payload = [0; INLINE_BYTES];
            if !unpack(packed, &mut payload[..len]) {
                return Err(broken);
            }
            self.begin(message)?;
            return self.push_inline(head, &payload[..len]);
        }
        let Some(mut chunk) = self.take_chunk(len) else {
            self.begin(message)?;
            self.refuse();
            return Ok(());
        };
        if !unpack(packed, &mut chunk.bytes_mut()[..len]) {
            return Err(broken);
        }
        self.begin(message)?;
        self.push_chunk(head, chunk, len)
    }
}
