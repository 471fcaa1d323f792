//! Looks over MessagePack bytes before anything is made of them: that they are one value, whole,
//! with nothing behind it, and not nested too deeply. Takes no memory and no stack for nesting.

use crate::limits::CODED_DEPTH_MAX;

/// Why bytes are no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// They end before the value does, or announce more than they have.
    #[error("the value is cut short")]
    Short,
    /// Something comes after the value.
    #[error("something follows the value")]
    Long,
    #[error("nested more than {CODED_DEPTH_MAX} deep")]
    Deep,
    /// The one byte that has no meaning.
    #[error("a byte that MessagePack does not have")]
    Reserved,
}

/// Checks that `bytes` are exactly one value, nested at most [`CODED_DEPTH_MAX`] deep.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Malformed> {
    // How many values are still to come in each array or map that is open.
    let mut open = [0_usize; CODED_DEPTH_MAX];
    let mut depth = 0;
    let mut rest = bytes;
    loop {
        let (marker, tail) = rest.split_first().ok_or(Malformed::Short)?;
        let (len, count) = shape(*marker, tail)?;
        rest = tail.get(len..).ok_or(Malformed::Short)?;
        // Each has a byte at least.
        if count > rest.len() {
            return Err(Malformed::Short);
        }
        if count > 0 {
            *open.get_mut(depth).ok_or(Malformed::Deep)? = count;
            depth += 1;
            continue;
        }
        // A value is over, and with it those that it was the last of.
        while depth > 0 {
            open[depth - 1] -= 1;
            if open[depth - 1] > 0 {
                break;
            }
            depth -= 1;
        }
        if depth == 0 {
            let is_all = rest.is_empty();
            return if is_all { Ok(()) } else { Err(Malformed::Long) };
        }
    }
}

/// How many bytes of its own a value has after its marker, and how many values are in it.
fn shape(marker: u8, tail: &[u8]) -> Result<(usize, usize), Malformed> {
    let number = |width| number(tail, width);
    // Bytes behind a number of `width` bytes that counts them; `extra` are not counted.
    let counted = |width: usize, extra: usize| {
        let len = number(width)?.saturating_add(width + extra);
        Ok((len, 0))
    };
    let few = usize::from(marker & 0x0f);
    match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Ok((0, 0)),
        0x80..=0x8f => Ok((0, 2 * few)),
        0x90..=0x9f => Ok((0, few)),
        0xa0..=0xbf => Ok((usize::from(marker & 0x1f), 0)),
        0xc1 => Err(Malformed::Reserved),
        // Bytes and texts, and those of a user's type, which has a byte.
        0xc4 | 0xd9 => counted(1, 0),
        0xc5 | 0xda => counted(2, 0),
        0xc6 | 0xdb => counted(4, 0),
        0xc7 => counted(1, 1),
        0xc8 => counted(2, 1),
        0xc9 => counted(4, 1),
        0xd4..=0xd8 => Ok((1 + (1 << (marker - 0xd4)), 0)),
        // Numbers.
        0xcc | 0xd0 => Ok((1, 0)),
        0xcd | 0xd1 => Ok((2, 0)),
        0xca | 0xce | 0xd2 => Ok((4, 0)),
        0xcb | 0xcf | 0xd3 => Ok((8, 0)),
        // Arrays and maps.
        0xdc => Ok((2, number(2)?)),
        0xdd => Ok((4, number(4)?)),
        0xde => Ok((2, number(2)?.saturating_mul(2))),
        0xdf => Ok((4, number(4)?.saturating_mul(2))),
    }
}

/// The number in the first `width` bytes, highest first.
fn number(bytes: &[u8], width: usize) -> Result<usize, Malformed> {
    let bytes = bytes.get(..width).ok_or(Malformed::Short)?;
    let fold = |number, byte: &u8| number << 8 | usize::from(*byte);
    Ok(bytes.iter().fold(0, fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each marker with what follows it, as the format says.
    const VALUES: [&[u8]; 22] = [
        b"\x05",
        b"\xff",
        b"\xc0",
        b"\xcc\x01",
        b"\xd1\x01\x02",
        b"\xca\0\0\0\0",
        b"\xcb\0\0\0\0\0\0\0\0",
        b"\xa3abc",
        b"\xd9\x03abc",
        b"\xda\0\x03abc",
        b"\xdb\0\0\0\x03abc",
        b"\xc4\x02ab",
        b"\xc7\x02\x01ab",
        b"\xc9\0\0\0\x02\x01ab",
        b"\xd4\x01a",
        b"\xd8\x010123456789abcdef",
        b"\x90",
        b"\x92\x01\xa1a",
        b"\xdc\0\x02\x01\x91\x02",
        b"\xdd\0\0\0\x01\xc0",
        b"\x81\xa1k\x92\x01\x02",
        b"\xdf\0\0\0\x01\xa1k\x80",
    ];

    #[test]
    fn whole_values_are_those_and_nothing_else_is() {
        for value in VALUES {
            assert_eq!(check(value), Ok(()), "{value:x?}");
            assert_eq!(check(&[value, b"\xc0"].concat()), Err(Malformed::Long));
            for cut in 0..value.len() {
                assert_eq!(check(&value[..cut]), Err(Malformed::Short), "{value:x?}");
            }
        }
        assert_eq!(check(b"\x92\x01\xc1"), Err(Malformed::Reserved));
    }

    #[test]
    fn what_is_announced_must_be_there() {
        for bomb in [
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
        ] {
            let behind = [&bomb[..], &[0xc0; 1000]].concat();
            assert_eq!(check(&behind), Err(Malformed::Short));
        }
    }

    proptest! {
        #[test]
        fn what_is_no_value_is_none_for_the_decoder_either(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(&bytes));
            let read = <serde::de::IgnoredAny as serde::Deserialize>::deserialize(&mut reader);
            let is_whole = read.is_ok() && reader.position() == bytes.len() as u64;
            prop_assert_eq!(check(&bytes).is_ok(), is_whole);
        }
    }
}
