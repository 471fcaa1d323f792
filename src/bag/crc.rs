//! Checksums of bytes that are seen once: of parts, and from those of the whole.

use crc32fast::Hasher;

/// The CRC-32 of bytes, and how many they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crc {
    pub(super) value: u32,
    len: u64,
}

impl Crc {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::default().and(bytes)
    }

    /// With these bytes behind.
    #[must_use]
    pub(super) fn and(self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        Self {
            value: hasher.finalize(),
            len: self.len + bytes.len() as u64,
        }
    }

    /// With those behind that the other is of, which are not read again. It takes about a
    /// microsecond, however many they are.
    #[must_use]
    pub(super) fn then(self, other: Self) -> Self {
        let mut hasher = self.hasher();
        hasher.combine(&other.hasher());
        Self {
            value: hasher.finalize(),
            len: self.len + other.len,
        }
    }

    fn hasher(self) -> Hasher {
        Hasher::new_with_initial_len(self.value, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3_000).collect();
        let whole = Crc::of(&bytes);
        assert_eq!(whole.value, crc32fast::hash(&bytes));
        for at in [0, 1, 64, 1_500, 2_999, 3_000] {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(Crc::of(head).and(tail), whole);
            assert_eq!(Crc::of(head).then(Crc::of(tail)), whole);
        }
    }
}
