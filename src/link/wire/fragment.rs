//! Messages in fragments: how a large message lies on a network link, so that others can go between
//! its parts.
//!
//! A message above [`FRAGMENT_BYTES`] begins with its header, of a kind of its own and with nothing
//! behind it. Its payload follows in fragments, each behind a header that names the channel. A
//! channel has one message in the making and its fragments come in order, so they need no number
//! and no place: what overlaps or leaves a gap cannot be said.

use super::{Kind, MAGIC, MESSAGE_HEADER_BYTES, MessageHeader, WireError};
use crate::limits::{FRAGMENT_BYTES, PACKED_RATIO_MAX};

/// Bytes of a fragment's header: magic (2), kind (1), reserved (1), length as it is sent (4),
/// channel (8), length of the payload (4), reserved (4).
pub const FRAGMENT_HEADER_BYTES: usize = 24;

impl MessageHeader {
    /// As the beginning of a message that follows in fragments.
    #[must_use]
    pub fn encode_beginning(&self) -> [u8; MESSAGE_HEADER_BYTES] {
        debug_assert!(self.len > FRAGMENT_BYTES);
        let mut bytes = self.encode();
        bytes[2] = Kind::Beginning.code();
        bytes
    }

    /// Reads one at the start of `bytes`, which has the kind; `None` if more are needed.
    pub(super) fn decode_beginning(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(header) = bytes.first_chunk() else {
            return Ok(None);
        };
        let header = Self::decode(header)?;
        let (len, wire_len) = (header.len, 0);
        // Refused here, it need not be thought of where it would begin and never end.
        if len <= FRAGMENT_BYTES {
            return Err(WireError::Fragment { wire_len, len });
        }
        Ok(Some(header))
    }
}

/// What goes before a part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// The channel, which says of which message.
    pub channel: u64,
    /// Bytes of the payload.
    pub len: usize,
    /// Bytes that follow: as many, or fewer if they are compressed.
    pub wire_len: usize,
}

impl FragmentHeader {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAGMENT_HEADER_BYTES] {
        debug_assert!(self.wire_len <= self.len && self.len <= FRAGMENT_BYTES);
        let mut bytes = [0; FRAGMENT_HEADER_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = Kind::Fragment.code();
        // Both are below the bound.
        #[allow(clippy::cast_possible_truncation)]
        bytes[4..8].copy_from_slice(&(self.wire_len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.channel.to_le_bytes());
        #[allow(clippy::cast_possible_truncation)]
        bytes[16..20].copy_from_slice(&(self.len as u32).to_le_bytes());
        bytes
    }

    /// True if its bytes are compressed.
    #[must_use]
    pub const fn is_packed(&self) -> bool {
        self.wire_len < self.len
    }

    /// Reads one at the start of `bytes`, which has the kind; `None` if more are needed. Lengths
    /// that no fragment can have are refused before its bytes come.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(header) = bytes.first_chunk::<FRAGMENT_HEADER_BYTES>() else {
            return Ok(None);
        };
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|idx| header[at + idx]));
        let (wire_len, len) = (half(4) as usize, half(16) as usize);
        let is_possible = (1..=FRAGMENT_BYTES).contains(&len)
            && wire_len <= len
            && len <= wire_len.saturating_mul(PACKED_RATIO_MAX);
        if !is_possible {
            return Err(WireError::Fragment { wire_len, len });
        }
        Ok(Some(Self {
            channel: u64::from_le_bytes(std::array::from_fn(|idx| header[8 + idx])),
            len,
            wire_len,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Item, decode, decode_item};
    use super::*;
    use crate::limits::MESSAGE_BYTES_MAX;

    fn fragment(len: usize, wire_len: usize) -> FragmentHeader {
        let channel = u64::MAX - 3;
        FragmentHeader {
            channel,
            len,
            wire_len,
        }
    }

    #[test]
    fn headers_of_fragments_cut_anywhere_are_the_same_later() {
        let most = FRAGMENT_BYTES;
        for (len, wire_len) in [
            (1, 1),
            (2, 1),
            (255, 1),
            (most, most),
            (most, most / 255 + 1),
        ] {
            let header = fragment(len, wire_len);
            assert_eq!(header.is_packed(), len != wire_len);
            let bytes = header.encode();
            for cut in 0..bytes.len() {
                assert_eq!(decode_item(&bytes[..cut]).unwrap(), None, "cut at {cut}");
            }
            assert_eq!(decode_item(&bytes).unwrap(), Some(Item::Fragment(header)));
            assert!(matches!(decode(&bytes), Err(WireError::Kind(8))));
        }
        let beginning = MessageHeader {
            channel: 5,
            sequence: 1 << 60,
            sent_ns: 3,
            len: MESSAGE_BYTES_MAX,
        };
        let bytes = beginning.encode_beginning();
        for cut in 0..bytes.len() {
            assert_eq!(decode_item(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        let found = decode_item(&bytes).unwrap();
        assert_eq!(found, Some(Item::Beginning(beginning)));
        assert!(matches!(decode(&bytes), Err(WireError::Kind(7))));
    }

    #[test]
    fn lengths_that_no_fragment_has_are_refused_at_its_header() {
        let most = u32::try_from(FRAGMENT_BYTES).unwrap();
        let impossible = [(0, 0), (0, 1), (1, 0), (9, 10), (256, 1), (most, 0)];
        let too_long = [(most + 1, most + 1), (most + 1, most), (u32::MAX, u32::MAX)];
        for (len, wire_len) in impossible.into_iter().chain(too_long) {
            let mut bytes = fragment(1, 1).encode();
            bytes[4..8].copy_from_slice(&wire_len.to_le_bytes());
            bytes[16..20].copy_from_slice(&len.to_le_bytes());
            let refused = decode_item(&bytes);
            assert!(matches!(refused, Err(WireError::Fragment { .. })), "{len}");
        }
        let header = MessageHeader {
            channel: 5,
            sequence: 0,
            sent_ns: 3,
            len: FRAGMENT_BYTES + 1,
        };
        for len in [0, 1, most] {
            let mut bytes = header.encode_beginning();
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
            assert!(decode_item(&bytes).is_err(), "{len}");
        }
        let mut bytes = header.encode_beginning();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            decode_item(&bytes),
            Err(WireError::TooLong { .. })
        ));
    }
}
