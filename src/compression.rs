//! Compression of payloads on network links: what is worth it, made smaller, and whole again.
//! Sans-IO.
//!
//! Shared memory is never compressed, nor is what both ends of a link have not offered. A payload
//! that does not become smaller goes as it is.

use lz4_flex::block::{self, CompressTable};

use crate::limits::{COMPRESS_ABOVE_BYTES_DEFAULT, COMPRESS_BYTES_MAX};

/// How a node makes payloads smaller on its network links, where the other end does so, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// LZ4: quick rather than tight. A message costs more time than it takes to copy, on both ends.
    Lz4 {
        /// Payloads of so many bytes or fewer go as they are.
        above_bytes: usize,
    },
}

impl Default for Compression {
    /// LZ4 for payloads above 1 KiB.
    fn default() -> Self {
        let above_bytes = COMPRESS_ABOVE_BYTES_DEFAULT;
        Self::Lz4 { above_bytes }
    }
}

/// Makes payloads smaller, in memory that is used again.
pub(crate) struct Packer {
    above_bytes: usize,
    table: CompressTable,
    packed: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(compression: Compression) -> Self {
        let Compression::Lz4 { above_bytes } = compression;
        Self {
            above_bytes,
            table: CompressTable::small(),
            packed: Vec::new(),
        }
    }

    /// The payload made smaller, if it is worth trying and it helps.
    pub(crate) fn pack(&mut self, payload: &[u8]) -> Option<&[u8]> {
        self.pack_part(payload, payload.len())
    }

    /// The same for a part of a payload that has `whole` bytes.
    pub(crate) fn pack_part(&mut self, payload: &[u8], whole: usize) -> Option<&[u8]> {
        if whole <= self.above_bytes || whole > COMPRESS_BYTES_MAX {
            return None;
        }
        let room = block::get_maximum_output_size(payload.len());
        if self.packed.len() < room {
            self.packed.resize(room, 0);
        }
        let table = &mut self.table;
        let len = block::compress_into_with_table(payload, &mut self.packed, table).ok()?;
        (len < payload.len()).then(|| &self.packed[..len])
    }

    /// Gives memory back.
    pub(crate) fn shrink(&mut self) {
        self.packed = Vec::new();
        self.table = CompressTable::small();
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("above_bytes", &self.above_bytes)
            .finish_non_exhaustive()
    }
}

/// Makes a payload whole again: true if `packed` is one of exactly the length of `payload`. Writes
/// nothing beyond that, and takes no memory.
pub(crate) fn unpack(packed: &[u8], payload: &mut [u8]) -> bool {
    block::decompress_into(packed, payload).is_ok_and(|len| len == payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PACKED_RATIO_MAX;
    use proptest::prelude::*;

    fn packer(above_bytes: usize) -> Packer {
        Packer::new(Compression::Lz4 { above_bytes })
    }

    #[test]
    fn only_what_is_large_enough_and_shrinks_is_packed() {
        let mut packer = packer(1000);
        assert!(packer.pack(&[7; 1000]).is_none());
        assert!(packer.pack(&[7; 1001]).is_some());
        assert!(packer.pack(&vec![7; COMPRESS_BYTES_MAX]).is_some());
        assert!(packer.pack(&vec![7; COMPRESS_BYTES_MAX + 1]).is_none());
        let noise = crate::id::random_bytes::<4096>().unwrap();
        assert!(packer.pack(&noise).is_none());
        packer.shrink();
        assert!(packer.pack(&[7; 70_000]).is_some());
    }

    #[test]
    fn nothing_is_packed_tighter_than_the_other_end_believes() {
        for len in [97, 1000, 100_000, COMPRESS_BYTES_MAX] {
            let packed = packer(0).pack(&vec![0; len]).unwrap().len();
            assert!(len <= packed * PACKED_RATIO_MAX, "{packed} of {len}");
        }
    }

    #[test]
    fn a_payload_of_another_length_is_none() {
        let packed = packer(0).pack(&[7; 5000]).unwrap().to_vec();
        for (len, is_it) in [(4999, false), (5000, true), (5001, false)] {
            assert_eq!(unpack(&packed, &mut vec![0; len]), is_it, "{len}");
        }
        for cut in 0..packed.len() {
            assert!(!unpack(&packed[..cut], &mut [0; 5000]), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_packed_comes_back(
            pieces in prop::collection::vec((any::<u8>(), 1_usize..400), 0..400),
        ) {
            let payload: Vec<u8> = pieces
                .iter()
                .flat_map(|(byte, count)| std::iter::repeat_n(*byte, *count))
                .collect();
            let mut packer = packer(96);
            for _ in 0..2 {
                if let Some(packed) = packer.pack(&payload) {
                    let mut whole = vec![0; payload.len()];
                    prop_assert!(unpack(packed, &mut whole));
                    prop_assert!(whole == payload);
                }
            }
        }

        #[test]
        fn garbage_is_refused_or_fills_the_payload(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            len in 0_usize..5000,
        ) {
            let _ = unpack(&bytes, &mut vec![0; len]);
        }
    }
}
