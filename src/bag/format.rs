//! Records of an MCAP file, as bytes. See <https://mcap.dev/spec>; all numbers little-endian.

use mcap::records::op;

/// Bytes before the body of a record: its kind and length.
pub(super) const RECORD_HEAD_BYTES: usize = 1 + 8;
/// Bytes of a message record before the payload: channel, sequence and two times.
pub(super) const MESSAGE_HEAD_BYTES: usize = 2 + 4 + 8 + 8;
/// The smallest body of a chunk: two times, size, checksum, an empty name, size.
pub(super) const CHUNK_HEAD_BYTES: usize = 8 + 8 + 8 + 4 + 4 + 8;

/// Appends a record whose body is written by `body`.
pub(super) fn record(out: &mut Vec<u8>, opcode: u8, body: impl FnOnce(&mut Vec<u8>)) {
    head(out, opcode, 0);
    let start = out.len();
    body(out);
    let len = (out.len() - start) as u64;
    out[start - 8..start].copy_from_slice(&len.to_le_bytes());
}

/// Appends the kind and the length of a record.
pub(super) fn head(out: &mut Vec<u8>, opcode: u8, len: u64) {
    out.push(opcode);
    out.extend_from_slice(&len.to_le_bytes());
}

/// Appends a length that fits, for all that is written is bounded by far less.
fn len32(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
}

/// Appends a text.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    len32(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Appends bytes behind their length in 32 bits.
fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    len32(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a map whose entries are written by `entries`, behind its length in bytes.
pub(super) fn map(out: &mut Vec<u8>, entries: impl FnOnce(&mut Vec<u8>)) {
    len32(out, 0);
    let start = out.len();
    entries(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start - 4..start].copy_from_slice(&len.to_le_bytes());
}

/// Appends a map of texts.
fn texts<'a>(out: &mut Vec<u8>, entries: impl IntoIterator<Item = (&'a str, &'a str)>) {
    map(out, |out| {
        for (key, value) in entries {
            text(out, key);
            text(out, value);
        }
    });
}

/// The beginning of a file.
pub(super) fn header(out: &mut Vec<u8>) {
    out.extend_from_slice(mcap::MAGIC);
    record(out, op::HEADER, |out| {
        text(out, "");
        text(out, concat!("shmesh ", env!("CARGO_PKG_VERSION")));
    });
}

/// True if a file that begins with these bytes, some tens of them, was written here.
#[must_use]
pub fn is_ours(beginning: &[u8]) -> bool {
    let header = beginning.strip_prefix(mcap::MAGIC);
    // Its kind and length, no profile, and the length of the program's name.
    let program = header.and_then(|header| header.get(RECORD_HEAD_BYTES + 4 + 4..));
    program.is_some_and(|program| program.starts_with(b"shmesh "))
}

/// What describes the messages of channels.
pub(super) fn schema(out: &mut Vec<u8>, id: u16, name: &str, encoding: &str, data: &[u8]) {
    record(out, op::SCHEMA, |out| {
        out.extend_from_slice(&id.to_le_bytes());
        text(out, name);
        text(out, encoding);
        bytes(out, data);
    });
}

/// Who sends what.
pub(super) struct ChannelRecord<'a> {
    pub(super) id: u16,
    /// 0 for none.
    pub(super) schema: u16,
    pub(super) topic: &'a str,
    pub(super) encoding: &'a str,
}

pub(super) fn channel<'a>(
    out: &mut Vec<u8>,
    channel: &ChannelRecord<'_>,
    metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    record(out, op::CHANNEL, |out| {
        out.extend_from_slice(&channel.id.to_le_bytes());
        out.extend_from_slice(&channel.schema.to_le_bytes());
        text(out, channel.topic);
        text(out, channel.encoding);
        texts(out, metadata);
    });
}

/// Texts under a name.
pub(super) fn metadata<'a>(
    out: &mut Vec<u8>,
    name: &str,
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    record(out, op::METADATA, |out| {
        text(out, name);
        texts(out, entries);
    });
}

/// Where a metadata record is.
pub(super) fn metadata_index(out: &mut Vec<u8>, name: &str, (offset, len): (u64, u64)) {
    record(out, op::METADATA_INDEX, |out| {
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        text(out, name);
    });
}

/// What is before the payload of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageHead {
    pub(super) channel: u16,
    pub(super) sequence: u32,
    pub(super) log_ns: u64,
    pub(super) publish_ns: u64,
}

impl MessageHead {
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>, payload_len: usize) {
        let mut bytes = [0; RECORD_HEAD_BYTES + MESSAGE_HEAD_BYTES];
        bytes[0] = op::MESSAGE;
        bytes[1..9].copy_from_slice(&((MESSAGE_HEAD_BYTES + payload_len) as u64).to_le_bytes());
        bytes[9..11].copy_from_slice(&self.channel.to_le_bytes());
        bytes[11..15].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[15..23].copy_from_slice(&self.log_ns.to_le_bytes());
        bytes[23..31].copy_from_slice(&self.publish_ns.to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    /// The head and the payload of a message record's body.
    pub(super) fn read(body: &[u8]) -> Option<(Self, &[u8])> {
        let (channel, rest) = body.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (log_ns, rest) = rest.split_first_chunk()?;
        let (publish_ns, payload) = rest.split_first_chunk()?;
        let head = Self {
            channel: u16::from_le_bytes(*channel),
            sequence: u32::from_le_bytes(*sequence),
            log_ns: u64::from_le_bytes(*log_ns),
            publish_ns: u64::from_le_bytes(*publish_ns),
        };
        Some((head, payload))
    }
}

/// The first record in these bytes: its kind, its body, and what follows.
pub(super) fn split_record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (opcode, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first_chunk()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let (body, rest) = rest.split_at_checked(len)?;
    Some((*opcode, body, rest))
}
