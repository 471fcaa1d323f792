//! Any bytes as frames and messages: the same items wherever the stream is cut, and nothing is
//! reserved for what was only announced.

use std::fmt::Debug;
use std::ops::Range;

use shmesh::limits::{
    COMPRESS_BYTES_MAX, FRAGMENT_BYTES, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, PACKED_RATIO_MAX,
};
use shmesh::link::session::LinkFrame;
use shmesh::link::wire::{
    self, CREDIT_BYTES, Credit, FRAGMENT_HEADER_BYTES, FragmentHeader, Frame, HEADER_BYTES, Item,
    Kind, MESSAGE_HEADER_BYTES, MessageHeader, PACKED_HEADER_BYTES, PackedHeader, WireError,
};
use shmesh::membership::{FromCoordinator, FromNode};

/// What serde reserves at most for the elements that a list announces; two lists of ours lie in
/// each other, the changes of an update and the addresses of a node.
const RESERVED_BYTES_MAX: u64 = 2 << 20;
/// Memory for each byte of a body: an empty address takes one byte there and a `String` here, and
/// a list that grows is there twice for a moment.
const BYTES_PER_BYTE_MAX: u64 = 128;
/// Memory for what does not depend on the body, such as the text of an error.
const BYTES_BESIDE_MAX: u64 = 4096;

type Decode = fn(&[u8]) -> Result<Option<Item<'_>>, WireError>;

/// All of the input is the stream.
pub fn run(input: &[u8]) {
    let frames_only: Decode = |bytes| Ok(wire::decode(bytes)?.map(Item::Frame));
    for decode in [frames_only, wire::decode_item] {
        let mut whole = Reader::default();
        whole.read(input, decode);
        check_items(input, &whole.seen);
        let mut trickling = Reader::default();
        for cut in 0..=input.len() {
            let mut reader = Reader::default();
            reader.read(&input[..cut], decode);
            assert!(whole.seen.starts_with(&reader.seen), "cut at {cut}");
            reader.read(input, decode);
            assert_eq!(reader, whole, "cut at {cut}");
            trickling.read(&input[..cut], decode);
        }
        assert_eq!(trickling, whole, "byte by byte");
    }
}

#[derive(Debug, PartialEq)]
enum Seen {
    Frame { kind: Kind, body: Range<usize> },
    Message { at: usize, header: MessageHeader },
    Credit { at: usize, credit: Credit },
    Packed { at: usize, header: PackedHeader },
    Beginning { at: usize, header: MessageHeader },
    Fragment { at: usize, header: FragmentHeader },
}

/// One that reads a stream from its beginning, of which there is more each time.
#[derive(Debug, Default, PartialEq)]
struct Reader {
    /// Where the next item begins; beyond what there is while a payload is on its way.
    at: usize,
    seen: Vec<Seen>,
    error: Option<String>,
}

impl Reader {
    fn read(&mut self, stream: &[u8], decode: Decode) {
        while self.error.is_none() && self.at < stream.len() {
            let rest = &stream[self.at..];
            let mut found = Ok(None);
            let measured = allocation_counter::measure(|| found = decode(rest));
            assert_eq!(measured.count_total, 0, "to look takes no memory");
            match found {
                Ok(Some(Item::Frame(frame))) => {
                    let start = self.at + HEADER_BYTES;
                    self.at += frame.len;
                    let (kind, body) = (frame.kind, start..self.at);
                    assert_eq!(frame.body, &stream[body.clone()]);
                    self.seen.push(Seen::Frame { kind, body });
                }
                Ok(Some(Item::Message(header))) => {
                    let at = self.at;
                    self.at += MESSAGE_HEADER_BYTES + header.len;
                    self.seen.push(Seen::Message { at, header });
                }
                Ok(Some(Item::Credit(credit))) => {
                    let at = self.at;
                    self.at += CREDIT_BYTES;
                    self.seen.push(Seen::Credit { at, credit });
                }
                Ok(Some(Item::Packed(header))) => {
                    let at = self.at;
                    self.at += PACKED_HEADER_BYTES + header.packed_len;
                    self.seen.push(Seen::Packed { at, header });
                }
                Ok(Some(Item::Beginning(header))) => {
                    let at = self.at;
                    self.at += MESSAGE_HEADER_BYTES;
                    self.seen.push(Seen::Beginning { at, header });
                }
                Ok(Some(Item::Fragment(header))) => {
                    let at = self.at;
                    self.at += FRAGMENT_HEADER_BYTES + header.wire_len;
                    self.seen.push(Seen::Fragment { at, header });
                }
                Ok(None) => {
                    assert!(is_worth_waiting_for(rest), "{rest:?}");
                    return;
                }
                Err(error) => self.error = Some(error.to_string()),
            }
        }
    }
}

/// False for what cannot become a frame or a message, whatever comes behind it.
fn is_worth_waiting_for(rest: &[u8]) -> bool {
    let is_ours = rest.iter().zip(b"sM").all(|(byte, ours)| byte == ours);
    let Some(header) = rest.first_chunk::<MESSAGE_HEADER_BYTES>() else {
        return is_ours;
    };
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if header[2] == 6 {
        return is_ours && rest.len() < PACKED_HEADER_BYTES && len <= COMPRESS_BYTES_MAX;
    }
    is_ours && matches!(header[2], 1..=3) && len <= FRAME_BYTES_MAX - HEADER_BYTES
}

fn check_items(stream: &[u8], seen: &[Seen]) {
    for item in seen {
        match item {
            Seen::Message { at, header } => {
                assert!(header.len <= MESSAGE_BYTES_MAX);
                let mut bytes = header.encode();
                // The reserved byte is not looked at.
                bytes[3] = stream[at + 3];
                assert!(stream[*at..].starts_with(&bytes), "{header:?}");
            }
            Seen::Credit { at, credit } => {
                let mut bytes = credit.encode();
                // Nor are these.
                bytes[3..8].copy_from_slice(&stream[at + 3..at + 8]);
                assert!(stream[*at..].starts_with(&bytes), "{credit:?}");
            }
            Seen::Packed { at, header } => {
                let (len, packed_len) = (header.message.len, header.packed_len);
                assert!(len <= COMPRESS_BYTES_MAX && packed_len < len);
                assert!(len.div_ceil(packed_len) <= PACKED_RATIO_MAX);
                let mut bytes = header.encode();
                bytes[3] = stream[at + 3];
                assert!(stream[*at..].starts_with(&bytes), "{header:?}");
            }
            Seen::Beginning { at, header } => {
                assert!((FRAGMENT_BYTES + 1..=MESSAGE_BYTES_MAX).contains(&header.len));
                let mut bytes = header.encode_beginning();
                bytes[3] = stream[at + 3];
                assert!(stream[*at..].starts_with(&bytes), "{header:?}");
            }
            Seen::Fragment { at, header } => {
                let (len, wire_len) = (header.len, header.wire_len);
                assert!((1..=FRAGMENT_BYTES).contains(&len) && (1..=len).contains(&wire_len));
                assert!(len.div_ceil(wire_len) <= PACKED_RATIO_MAX);
                let mut bytes = header.encode();
                bytes[3] = stream[at + 3];
                bytes[20..].copy_from_slice(&stream[at + 20..at + 24]);
                assert!(stream[*at..].starts_with(&bytes), "{header:?}");
            }
            Seen::Frame { kind, body } => {
                assert!(body.len() <= FRAME_BYTES_MAX - HEADER_BYTES);
                let frame = Frame {
                    kind: *kind,
                    body: &stream[body.clone()],
                    len: HEADER_BYTES + body.len(),
                };
                check_body(&frame, Kind::FromNode, wire::body, wire::encode::<FromNode>);
                check_body(
                    &frame,
                    Kind::FromCoordinator,
                    wire::body,
                    wire::encode::<FromCoordinator>,
                );
                check_body(&frame, Kind::Link, wire::body, wire::encode::<LinkFrame>);
            }
        }
    }
}

/// A body of these words is read or refused, within its memory; what was read is a value that can
/// be said again. Frames of other kinds are tried as well, as if they were of this one.
fn check_body<T: Debug + PartialEq>(
    frame: &Frame<'_>,
    kind: Kind,
    body: fn(&Frame<'_>, Kind) -> Result<T, WireError>,
    encode: fn(Kind, &T) -> Result<Vec<u8>, WireError>,
) {
    if frame.kind != kind {
        assert!(matches!(body(frame, kind), Err(WireError::Kind(_))));
    }
    let mut found = None;
    let measured = allocation_counter::measure(|| found = body(frame, frame.kind).ok());
    let of_body = BYTES_PER_BYTE_MAX * frame.body.len() as u64;
    let bytes_max = RESERVED_BYTES_MAX + of_body + BYTES_BESIDE_MAX;
    assert!(measured.bytes_max <= bytes_max, "{measured:?} {frame:?}");
    let Some(value) = found else { return };
    // Other spellings of a value may be shorter than ours, so that ours does not fit.
    let Ok(again) = encode(kind, &value) else {
        return;
    };
    let decoded = wire::decode(&again).expect("our own").expect("whole");
    assert_eq!(body(&decoded, kind).expect("our own"), value);
}
