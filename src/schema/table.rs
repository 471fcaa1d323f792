//! What rkyv's types look like in its default format: pointers, texts, lists and hash tables, as
//! its version 0.8 lays them out. For reading; nothing that bytes say is believed.

use super::read::wrong;
use super::{Entry, Kind, SchemaError, Type};

/// So many bytes from `at` on.
#[inline]
pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], SchemaError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or_else(|| outside(at))
}

/// The same, where their number is not known beforehand.
pub(super) fn bytes_at(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], SchemaError> {
    let end = at.checked_add(len).ok_or_else(|| outside(at))?;
    bytes.get(at..end).ok_or_else(|| outside(at))
}

/// Where the pointer at `at` leads, to `size` bytes: it says how far away they are.
pub(super) fn target(bytes: &[u8], at: usize, size: usize) -> Result<usize, SchemaError> {
    pointed(bytes, at, i32::from_le_bytes(array_at(bytes, at)?), size)
}

fn pointed(bytes: &[u8], from: usize, away: i32, size: usize) -> Result<usize, SchemaError> {
    let target = isize::try_from(away).ok();
    let target = target.and_then(|away| from.checked_add_signed(away));
    let target = target.ok_or_else(|| outside(from))?;
    bytes_at(bytes, target, size)?;
    Ok(target)
}

/// Where the items of a list are, each of `size` bytes, and how many.
pub(super) fn list(bytes: &[u8], at: usize, size: u32) -> Result<(usize, usize), SchemaError> {
    let len = u32::from_le_bytes(array_at(bytes, at + 4)?);
    let all = u64::from(len) * u64::from(size);
    let all = usize::try_from(all).map_err(|_| outside(at))?;
    Ok((target(bytes, at, all)?, len as usize))
}

/// The text of a `Box<str>`.
pub(super) fn str(bytes: &[u8], at: usize) -> Result<&[u8], SchemaError> {
    let (target, len) = list(bytes, at, 1)?;
    bytes_at(bytes, target, len)
}

/// The text of a `String`. Up to 8 bytes are in place, with 0xff behind them; longer ones are told
/// by the two highest bits of the first byte, which no text begins with. These are cut out of the
/// length, and what was there is moved up.
pub(super) fn string(bytes: &[u8], at: usize) -> Result<&[u8], SchemaError> {
    let whole: &[u8; INLINE] = bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .ok_or_else(|| outside(at))?;
    if whole[0] & 0xc0 != 0x80 {
        let len = whole.iter().position(|byte| *byte == 0xff);
        return Ok(&whole[..len.unwrap_or(INLINE)]);
    }
    let len = u32::from_le_bytes(array_at(bytes, at)?);
    let len = (len & 0x3f) | ((len & !0xff) >> 2);
    if len as usize <= INLINE {
        return Err(wrong("a short text outside its place", at));
    }
    let away = i32::from_le_bytes(array_at(bytes, at + 4)?);
    let target = pointed(bytes, at, away, len as usize)?;
    bytes_at(bytes, target, len as usize)
}

/// The opposite: the word before the pointer to a text of more than [`INLINE`] bytes.
pub(super) fn string_word(len: u32) -> u32 {
    (len & 0x3f) | 0x80 | ((len & !0x3f) << 2)
}

/// Longest text in bytes that lies in place.
pub(super) const INLINE: usize = 8;
/// Longest text in bytes that the word has room for.
pub(super) const STRING_BYTES_MAX: usize = (1 << 30) - 1;

/// Seconds and nanoseconds.
pub(super) fn duration(bytes: &[u8], at: usize) -> Result<(u64, u32), SchemaError> {
    let seconds = u64::from_le_bytes(array_at(bytes, at)?);
    let nanos = u32::from_le_bytes(array_at(bytes, at + 8)?);
    if nanos >= NANOS {
        return Err(wrong("a second and more of nanoseconds", at));
    }
    Ok((seconds, nanos))
}

/// Nanoseconds of a second.
pub(super) const NANOS: u32 = 1_000_000_000;

/// True for a pointer to nowhere.
pub(super) fn is_nowhere(bytes: &[u8], at: usize) -> Result<bool, SchemaError> {
    Ok(i32::from_le_bytes(array_at(bytes, at)?) == NOWHERE)
}

/// What a pointer to nowhere says.
pub(super) const NOWHERE: i32 = 1;

/// The entries of a hash table, from the pointer down, and what is in each place, from the pointer
/// up: a byte whose highest bit is set where there is nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    target: usize,
    len: usize,
    capacity: usize,
    size: usize,
}

impl Buckets {
    pub(super) fn find(bytes: &[u8], at: usize, entry: &Entry) -> Result<Self, SchemaError> {
        let size = entry.size as usize;
        let len = u32::from_le_bytes(array_at(bytes, at + 4)?) as usize;
        let capacity = u32::from_le_bytes(array_at(bytes, at + 8)?) as usize;
        let mut found = Self {
            target: 0,
            len,
            capacity,
            size,
        };
        if (len, capacity) == (0, 0) {
            return Ok(found);
        }
        if len >= capacity {
            return Err(wrong("a map with more than it has room for", at));
        }
        found.target = target(bytes, at, control_len(capacity))?;
        let below = capacity.checked_mul(size);
        if below.is_none_or(|below| below > found.target) {
            return Err(outside(at));
        }
        Ok(found)
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Where the keys are, and the values.
    pub(super) fn entries(
        self,
        bytes: &[u8],
        entry: &Entry,
    ) -> Result<impl Iterator<Item = Result<(usize, usize), SchemaError>>, SchemaError> {
        let (key, value) = (entry.key.offset as usize, entry.value.offset as usize);
        let control = match self.len {
            0 => &[],
            _ => bytes_at(bytes, self.target, self.capacity)?,
        };
        let is_full = |byte: &u8| byte & 0x80 == 0;
        if control.iter().filter(|byte| is_full(byte)).count() != self.len {
            return Err(wrong("a map that miscounts its entries", self.target));
        }
        let full = (1..).zip(control).filter(move |(_, byte)| is_full(byte));
        let places = full.map(move |(idx, _): (usize, _)| self.target - idx * self.size);
        Ok(places.map(move |at| Ok((at + key, at + value))))
    }
}

/// Bytes that say what is in a table's places: some are repeated behind the last one, so that a
/// group of them can be read from any.
pub(super) fn control_len(capacity: usize) -> usize {
    capacity.next_multiple_of(GROUP) + GROUP - 1
}

/// Places that are looked at together.
pub(super) const GROUP: usize = 16;

/// True for types that can be the name of a field in JSON.
pub(super) fn is_name(ty: &Type) -> bool {
    let is_float = matches!(
        ty.kind,
        Kind::Scalar(super::Scalar::F32 | super::Scalar::F64)
    );
    let is_text = matches!(
        ty.kind,
        Kind::Scalar(_) | Kind::NonZero(_) | Kind::String | Kind::Str
    );
    is_text && !is_float
}

/// What numbers are called for which JSON has no words: as in protobuf's JSON.
pub(super) const NAN: &str = "NaN";
/// Beyond all others.
pub(super) const INFINITY: &str = "Infinity";
/// Below all others.
pub(super) const MINUS_INFINITY: &str = "-Infinity";

fn outside(at: usize) -> SchemaError {
    wrong("something that is not there", at)
}
