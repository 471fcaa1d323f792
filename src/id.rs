//! Who is who: random ids of nodes, and the id of a host.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A node: 128 random bits, new with every start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u128);

/// A host: its boot id. Two nodes with the same one may share memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId(pub u128);

impl NodeId {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no random bytes.
    pub fn random() -> Result<Self, Error> {
        Ok(Self(u128::from_le_bytes(random_bytes()?)))
    }
}

impl HostId {
    /// This host's.
    ///
    /// # Errors
    /// [`Error::Io`] without `/proc`.
    pub fn of_this_host() -> Result<Self, Error> {
        let what = "read the boot id";
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|source| Error::Io { what, source })?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u128::from_str_radix(&digits, 16)
            .map(Self)
            .map_err(|error| Error::Io {
                what,
                source: std::io::Error::other(error),
            })
    }
}

/// Random bytes of the system.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io {
        what: "get random bytes",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

macro_rules! hexadecimal {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}

hexadecimal!(NodeId HostId);
