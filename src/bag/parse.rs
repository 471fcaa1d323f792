//! Records of any file, looked over before the `mcap` crate takes them apart: it reserves what a
//! text says of its length before it looks whether so much is there.

use mcap::records::{Record, op};

use Field::{Fixed, Offsets, Sized, Texts};

/// A part of a record's body.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// Numbers, of so many bytes together.
    Fixed(usize),
    /// A length in 32 bits, and so many bytes.
    Sized,
    /// The same, and in it pairs of texts.
    Texts,
    /// The same, and in it numbers of channels with offsets, and nothing less than those.
    Offsets,
}

/// Takes a record apart. Memory is bounded by the record's length.
pub(super) fn parse(opcode: u8, body: &[u8]) -> Result<Record<'_>, String> {
    let unfit = || "its parts are longer than it".to_owned();
    walk(body, fields(opcode)).ok_or_else(unfit)?;
    mcap::parse_record(opcode, body).map_err(|error| error.to_string())
}

/// What a record has up to its last text.
const fn fields(opcode: u8) -> &'static [Field] {
    match opcode {
        op::HEADER => &[Sized, Sized],
        op::SCHEMA => &[Fixed(2), Sized, Sized],
        op::CHANNEL => &[Fixed(4), Sized, Sized, Texts],
        op::CHUNK => &[Fixed(28), Sized],
        op::CHUNK_INDEX => &[Fixed(32), Offsets, Fixed(8), Sized],
        op::ATTACHMENT => &[Fixed(16), Sized, Sized],
        op::ATTACHMENT_INDEX => &[Fixed(40), Sized, Sized],
        op::METADATA => &[Sized, Texts],
        op::METADATA_INDEX => &[Fixed(16), Sized],
        _ => &[],
    }
}

fn walk(mut rest: &[u8], fields: &[Field]) -> Option<()> {
    for field in fields {
        if let Fixed(len) = field {
            rest = rest.get(*len..)?;
            continue;
        }
        let (mut inside, after) = split_sized(rest)?;
        rest = after;
        match field {
            Texts => {
                while !inside.is_empty() {
                    let (_, value) = split_sized(inside)?;
                    (_, inside) = split_sized(value)?;
                }
            }
            // Else the crate would read the last one from what is behind them.
            Offsets if !inside.len().is_multiple_of(OFFSET_BYTES) => return None,
            _ => {}
        }
    }
    Some(())
}

fn split_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
}

/// A channel's number and an offset.
const OFFSET_BYTES: usize = 2 + 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_reserves_more_than_its_record_has() {
        // Each byte in turn, and the three behind it, as a length that is not there.
        for opcode in op::HEADER..=op::DATA_END {
            for at in 0..100 {
                let mut body = [0; 104];
                body[at..at + 4].copy_from_slice(&0x6100_0000_u32.to_le_bytes());
                let measured = allocation_counter::measure(|| drop(parse(opcode, &body)));
                let bytes = measured.bytes_max;
                assert!(bytes < 10_000, "{bytes} bytes of {opcode:#x} at {at}");
            }
        }
        for (map_len, at) in (0..40_u8).flat_map(|len| (36..100).map(move |at| (len, at))) {
            let mut body = [0; 104];
            body[32] = map_len;
            body[at..at + 4].copy_from_slice(&0x6100_0000_u32.to_le_bytes());
            let measured = allocation_counter::measure(|| drop(parse(op::CHUNK_INDEX, &body)));
            let bytes = measured.bytes_max;
            assert!(
                bytes < 10_000,
                "{bytes} bytes at {at} behind {map_len} of offsets"
            );
        }
        // Maps that are as long as they say, with a key that is not, and with a key alone.
        let long = [0, 0, 0, 0x61];
        for map in [[[8, 0, 0, 0], long, [0; 4]], [[4, 0, 0, 0], [0; 4], long]] {
            let body = [[[0; 4]].as_slice(), &map, &[[0; 4]]].concat().concat();
            let measured = allocation_counter::measure(|| drop(parse(op::METADATA, &body)));
            assert!(measured.bytes_max < 10_000, "{}", measured.bytes_max);
        }
    }
}
