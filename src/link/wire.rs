//! Frames: how control messages lie on a connection. Sans-IO.
//!
//! A frame is a header of 16 bytes and a body in MessagePack. The header is checked, and its length
//! compared with the limit, before anything is reserved for the body. Messages of topics travel
//! like this on network links only, as frames of their own kind: a header of 32 bytes and the
//! payload as it is, or compressed where both ends offered that; large ones in fragments, between
//! which others may go. On one host they stay in shared memory. Credit, which is said every few
//! messages, has a form of its own as well.

mod fragment;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::fragment::{FRAGMENT_HEADER_BYTES, FragmentHeader};
use crate::limits::{COMPRESS_BYTES_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, PACKED_RATIO_MAX};

/// Bytes of a header: magic (2), kind (1), reserved (1), length (4), reserved (8).
pub const HEADER_BYTES: usize = 16;
const MAGIC: [u8; 2] = *b"sM";
/// Deepest nesting of a body; ours have five levels.
const BODY_DEPTH_MAX: usize = 16;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node's word to the coordinator: `membership::FromNode`.
    FromNode,
    /// The coordinator's word to a node: `membership::FromCoordinator`.
    FromCoordinator,
    /// A node's word to another: `session::LinkFrame`.
    Link,
    /// A message of a topic.
    Message,
    /// What a subscriber has taken of a channel.
    Credit,
    /// A message of a topic whose payload is compressed.
    Packed,
    /// The beginning of a message whose payload follows in fragments.
    Beginning,
    /// A part of such a payload.
    Fragment,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::FromNode => 1,
            Self::FromCoordinator => 2,
            Self::Link => 3,
            Self::Message => 4,
            Self::Credit => 5,
            Self::Packed => 6,
            Self::Beginning => 7,
            Self::Fragment => 8,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::FromNode),
            2 => Some(Self::FromCoordinator),
            3 => Some(Self::Link),
            4 => Some(Self::Message),
            5 => Some(Self::Credit),
            6 => Some(Self::Packed),
            7 => Some(Self::Beginning),
            8 => Some(Self::Fragment),
            _ => None,
        }
    }
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// They do not start like one.
    #[error("the peer does not speak this protocol")]
    Magic,
    /// A frame that is not expected here.
    #[error("unexpected frame (kind {0})")]
    Kind(u8),
    /// Longer than any frame may be.
    #[error("frame of {len} bytes is longer than the limit of {max}")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A compressed payload that cannot be what it is said to be.
    #[error("compressed payload of {packed_len} bytes that is said to have {len}")]
    Packed {
        /// Its bytes.
        packed_len: usize,
        /// What it is said to stand for.
        len: usize,
    },
    /// A part of a message that cannot be one, or a message too small to be cut.
    #[error("fragment of {len} bytes, {wire_len} as it is sent")]
    Fragment {
        /// Its bytes as they are sent.
        wire_len: usize,
        /// Bytes of the payload.
        len: usize,
    },
    /// A body that cannot be read.
    #[error("malformed frame: {0}")]
    Body(String),
}

/// A frame as bytes.
///
/// # Errors
/// [`WireError::TooLong`] if the body is beyond the limit.
pub fn encode<T: Serialize>(kind: Kind, body: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; HEADER_BYTES];
    rmp_serde::encode::write(&mut bytes, body).map_err(|e| WireError::Body(e.to_string()))?;
    let len = bytes.len() - HEADER_BYTES;
    let too_long = WireError::TooLong {
        len,
        max: FRAME_BYTES_MAX - HEADER_BYTES,
    };
    let length = u32::try_from(len)
        .ok()
        .filter(|_| len <= FRAME_BYTES_MAX - HEADER_BYTES);
    let length = length.ok_or(too_long)?;
    bytes[..2].copy_from_slice(&MAGIC);
    bytes[2] = kind.code();
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// A frame found at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its body.
    pub body: &'a [u8],
    /// Bytes it takes, header and all.
    pub len: usize,
}

/// Looks for a frame at the start of `bytes`; `None` if more bytes are needed.
///
/// # Errors
/// [`WireError`] as soon as the bytes cannot become a frame.
pub fn decode(bytes: &[u8]) -> Result<Option<Frame<'_>>, WireError> {
    let prefix = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(prefix) {
        return Err(WireError::Magic);
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let is_frame = |kind: &Kind| kind.code() <= Kind::Link.code();
    let kind = Kind::of_code(header[2]).filter(is_frame);
    let kind = kind.ok_or(WireError::Kind(header[2]))?;
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let len = usize::try_from(length).unwrap_or(usize::MAX);
    let max = FRAME_BYTES_MAX - HEADER_BYTES;
    if len > max {
        return Err(WireError::TooLong { len, max });
    }
    Ok(rest.get(..len).map(|body| Frame {
        kind,
        body,
        len: HEADER_BYTES + len,
    }))
}

/// Bytes of a message's header: magic (2), kind (1), reserved (1), length (4), channel (8),
/// sequence (8), time (8).
pub const MESSAGE_HEADER_BYTES: usize = 32;

/// What goes before a message's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    /// The channel.
    pub channel: u64,
    /// The publisher's number of the message.
    pub sequence: u64,
    /// When it was sent, by the sender's clock, in nanoseconds; 0 if that was not noted.
    pub sent_ns: u64,
    /// Bytes of payload.
    pub len: usize,
}

impl MessageHeader {
    /// As bytes. The length must be that of a message.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> [u8; MESSAGE_HEADER_BYTES] {
        debug_assert!(self.len <= MESSAGE_BYTES_MAX);
        let mut bytes = [0; MESSAGE_HEADER_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = Kind::Message.code();
        #[allow(clippy::cast_possible_truncation)] // a message is below 4 GiB: see `limits`
        bytes[4..8].copy_from_slice(&(self.len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.channel.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..].copy_from_slice(&self.sent_ns.to_le_bytes());
        bytes
    }

    /// From bytes that begin like one.
    #[inline]
    fn decode(header: &[u8; MESSAGE_HEADER_BYTES]) -> Result<Self, WireError> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|idx| header[at + idx]));
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let (len, max) = (length as usize, MESSAGE_BYTES_MAX);
        if len > max {
            return Err(WireError::TooLong { len, max });
        }
        Ok(Self {
            channel: word(8),
            sequence: word(16),
            sent_ns: word(24),
            len,
        })
    }
}

/// Bytes of the header of a message whose payload is compressed: a message's, of another kind and
/// with the length of the payload as it was, and the compressed length (4).
pub const PACKED_HEADER_BYTES: usize = MESSAGE_HEADER_BYTES + 4;

/// What goes before a compressed payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedHeader {
    /// The message as it was.
    pub message: MessageHeader,
    /// Bytes of the compressed payload: fewer than it had.
    pub packed_len: usize,
}

impl PackedHeader {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PACKED_HEADER_BYTES] {
        debug_assert!(self.packed_len < self.message.len);
        let mut bytes = [0; PACKED_HEADER_BYTES];
        bytes[..MESSAGE_HEADER_BYTES].copy_from_slice(&self.message.encode());
        bytes[2] = Kind::Packed.code();
        #[allow(clippy::cast_possible_truncation)] // less than a message, which is below 4 GiB
        bytes[MESSAGE_HEADER_BYTES..].copy_from_slice(&(self.packed_len as u32).to_le_bytes());
        bytes
    }

    /// Reads one at the start of `bytes`, which has the kind; `None` if more are needed. A length
    /// that no compressed payload of so many bytes can have is refused here, before anything is
    /// reserved for it.
    fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some((header, rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let message = MessageHeader::decode(header)?;
        let (len, max) = (message.len, COMPRESS_BYTES_MAX);
        if len > max {
            return Err(WireError::TooLong { len, max });
        }
        let Some(packed_len) = rest.first_chunk() else {
            return Ok(None);
        };
        let packed_len = u32::from_le_bytes(*packed_len) as usize;
        if packed_len >= len || len > packed_len.saturating_mul(PACKED_RATIO_MAX) {
            return Err(WireError::Packed { packed_len, len });
        }
        Ok(Some(Self {
            message,
            packed_len,
        }))
    }
}

/// Bytes of a word of credit: magic (2), kind (1), reserved (5), channel (8), messages (8).
pub const CREDIT_BYTES: usize = 24;

/// "Our subscriber has taken so many messages": as many more than its depth may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The channel.
    pub channel: u64,
    /// Messages taken since the channel began.
    pub taken: u64,
}

impl Credit {
    /// Instead of a channel: how many bytes of fragments were read, of all channels together.
    pub const OF_FRAGMENTS: u64 = u64::MAX;

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CREDIT_BYTES] {
        let mut bytes = [0; CREDIT_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = Kind::Credit.code();
        bytes[8..16].copy_from_slice(&self.channel.to_le_bytes());
        bytes[16..].copy_from_slice(&self.taken.to_le_bytes());
        bytes
    }
}

/// What a stream of a network link goes on with.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame, whole.
    Frame(Frame<'a>),
    /// The header of a message; its payload follows, perhaps later.
    Message(MessageHeader),
    /// Credit for one of our publishers.
    Credit(Credit),
    /// The same of a message whose payload is compressed.
    Packed(PackedHeader),
    /// A message begins; its payload follows in fragments.
    Beginning(MessageHeader),
    /// The header of a fragment; its bytes follow, perhaps later.
    Fragment(FragmentHeader),
}

/// Looks for a frame or a message's header at the start of `bytes`; `None` if more are needed.
///
/// # Errors
/// [`WireError`] as soon as the bytes can become neither.
#[inline]
pub fn decode_item(bytes: &[u8]) -> Result<Option<Item<'_>>, WireError> {
    let kind = bytes.get(2).filter(|_| bytes.starts_with(&MAGIC));
    let kind = kind.and_then(|code| Kind::of_code(*code));
    if kind != Some(Kind::Message) {
        return Ok(match kind {
            Some(Kind::Credit) => bytes.first_chunk().map(|bytes| Item::Credit(credit(bytes))),
            Some(Kind::Packed) => PackedHeader::decode(bytes)?.map(Item::Packed),
            Some(Kind::Beginning) => MessageHeader::decode_beginning(bytes)?.map(Item::Beginning),
            Some(Kind::Fragment) => FragmentHeader::decode(bytes)?.map(Item::Fragment),
            _ => decode(bytes)?.map(Item::Frame),
        });
    }
    let Some(header) = bytes.first_chunk() else {
        return Ok(None);
    };
    Ok(Some(Item::Message(MessageHeader::decode(header)?)))
}

fn credit(bytes: &[u8; CREDIT_BYTES]) -> Credit {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|idx| bytes[at + idx]));
    Credit {
        channel: word(8),
        taken: word(16),
    }
}

/// Reads a body of the expected kind.
///
/// # Errors
/// [`WireError::Kind`] for another kind, [`WireError::Body`] for what cannot be read.
pub fn body<T: DeserializeOwned>(frame: &Frame<'_>, expected: Kind) -> Result<T, WireError> {
    if frame.kind != expected {
        return Err(WireError::Kind(frame.kind.code()));
    }
    let mut reader = rmp_serde::Deserializer::from_read_ref(frame.body);
    reader.set_max_depth(BODY_DEPTH_MAX);
    serde::Deserialize::deserialize(&mut reader).map_err(|error| WireError::Body(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        encode(Kind::Link, &vec!["a".to_owned(), "b".repeat(300)]).unwrap()
    }

    #[test]
    fn a_frame_cut_anywhere_is_the_same_frame_later() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        let mut more = bytes.clone();
        more.extend_from_slice(b"sM");
        let frame = decode(&more).unwrap().unwrap();
        assert_eq!(frame.len, bytes.len());
        let texts: Vec<String> = body(&frame, Kind::Link).unwrap();
        assert_eq!(texts[1].len(), 300);
        assert!(matches!(
            body::<Vec<String>>(&frame, Kind::FromNode),
            Err(WireError::Kind(3))
        ));
    }

    #[test]
    fn headers_and_credit_cut_anywhere_are_the_same_later() {
        let header = MessageHeader {
            channel: u64::MAX - 1,
            sequence: 7,
            sent_ns: 1 << 60,
            len: MESSAGE_BYTES_MAX,
        };
        let bytes = header.encode();
        for cut in 0..bytes.len() {
            assert_eq!(decode_item(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(decode_item(&bytes).unwrap(), Some(Item::Message(header)));
        let mut bomb = bytes;
        bomb[4..8].copy_from_slice(&u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_le_bytes());
        assert!(matches!(decode_item(&bomb), Err(WireError::TooLong { .. })));
        assert!(matches!(decode(&bytes), Err(WireError::Kind(4))));
        let credit = Credit {
            channel: u64::MAX - 2,
            taken: 1 << 50,
        };
        let bytes = credit.encode();
        for cut in 0..bytes.len() {
            assert_eq!(decode_item(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(decode_item(&bytes).unwrap(), Some(Item::Credit(credit)));
        assert!(matches!(decode(&bytes), Err(WireError::Kind(5))));
        let frame = sample();
        let Ok(Some(Item::Frame(found))) = decode_item(&frame) else {
            panic!("a frame among the messages")
        };
        assert_eq!(found.len, frame.len());
    }

    #[test]
    fn a_compressed_payload_is_smaller_and_not_smaller_than_it_can_be() {
        let header = |len, packed_len| PackedHeader {
            message: MessageHeader {
                channel: 3,
                sequence: u64::MAX,
                sent_ns: 9,
                len,
            },
            packed_len,
        };
        for (len, packed_len) in [(2, 1), (255, 1), (COMPRESS_BYTES_MAX, 70_000)] {
            let bytes = header(len, packed_len).encode();
            for cut in 0..bytes.len() {
                assert_eq!(decode_item(&bytes[..cut]).unwrap(), None, "cut at {cut}");
            }
            let found = decode_item(&bytes).unwrap();
            assert_eq!(found, Some(Item::Packed(header(len, packed_len))));
            assert!(matches!(decode(&bytes), Err(WireError::Kind(6))));
        }
        let beyond = u32::try_from(COMPRESS_BYTES_MAX + 1).unwrap();
        for (len, packed_len) in [(0, 0), (0, 5), (1, 1), (256, 1), (5, 0), (beyond, 1 << 20)] {
            let mut bytes = header(2, 1).encode();
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
            bytes[32..].copy_from_slice(&u32::to_le_bytes(packed_len));
            assert!(decode_item(&bytes).is_err(), "{len} in {packed_len}");
        }
    }

    #[test]
    fn lengths_beyond_the_limit_are_refused_before_the_body() {
        let mut bytes = sample();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            decode(&bytes[..HEADER_BYTES]),
            Err(WireError::TooLong { .. })
        ));
        let large = vec![0_u64; FRAME_BYTES_MAX];
        assert!(matches!(
            encode(Kind::Link, &large),
            Err(WireError::TooLong { .. })
        ));
        assert!(matches!(decode(b"GET / HTTP/1.1"), Err(WireError::Magic)));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let _ = decode_item(&bytes);
            for (place, byte) in bytes.iter_mut().zip(sample()).take(8) {
                *place = byte;
            }
            if let Ok(Some(frame)) = decode(&bytes) {
                let _ = body::<crate::membership::FromNode>(&frame, Kind::Link);
                let _ = body::<super::super::session::LinkFrame>(&frame, Kind::Link);
            }
        }
    }
}
