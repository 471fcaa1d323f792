//! The first words on every connection: who speaks, and which version. Sans-IO, fixed size.
//!
//! The initiator sends its hello, the responder answers with its own and, if they do not fit, ends
//! the connection after that, so that both know why. The room for authentication (mode and tag)
//! is there and must be empty in this version: any other mode is refused.

use crate::error::Error;
use crate::id::{NodeId, random_bytes};

/// Version of the protocol: frames, link messages and coordinator messages.
pub const PROTOCOL_VERSION: u16 = 2;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 128;

const MAGIC: [u8; 8] = *b"shmesh\0h";
const NONCE_BYTES: usize = 32;
const TAG_BYTES: usize = 32;

/// What a side of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A node.
    Node,
    /// A coordinator.
    Coordinator,
}

/// The first words of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Protocol version.
    pub version: u16,
    /// What it is.
    pub side: Side,
    /// Authentication mode; 0 is none.
    pub auth: u8,
    /// Its id (a coordinator's is its epoch).
    pub id: NodeId,
    /// Fresh random bytes.
    pub nonce: [u8; NONCE_BYTES],
    /// Hash of its memory layouts; matters between nodes.
    pub layout: u64,
}

impl Hello {
    /// Our own hello.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no random bytes.
    pub fn ours(side: Side, id: NodeId) -> Result<Self, Error> {
        let (nonce, layout) = (random_bytes()?, shmesh_shm::layout_hash());
        Ok(Self {
            version: PROTOCOL_VERSION,
            side,
            auth: 0,
            id,
            nonce,
            layout,
        })
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let side = match self.side {
            Side::Node => 1,
            Side::Coordinator => 2,
        };
        let fields: [&[u8]; 8] = [
            &MAGIC,
            &self.version.to_le_bytes(),
            &[side, self.auth],
            &[0; 4],
            &self.id.0.to_le_bytes(),
            &self.nonce,
            &self.layout.to_le_bytes(),
            &[0; TAG_BYTES],
        ];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        bytes
    }

    /// From bytes. Magic and version are read first and stay where they are in every version.
    ///
    /// # Errors
    /// [`Error::Protocol`] for what is no hello, [`Error::Version`] for another version's.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, Error> {
        let mut rest = bytes.as_slice();
        if take::<8>(&mut rest)? != MAGIC {
            return Err(Error::Protocol("not a shmesh peer"));
        }
        let version = u16::from_le_bytes(take(&mut rest)?);
        if version != PROTOCOL_VERSION {
            return Err(Error::Version {
                ours: PROTOCOL_VERSION,
                theirs: version,
            });
        }
        let [side, auth] = take(&mut rest)?;
        let side = match side {
            1 => Side::Node,
            2 => Side::Coordinator,
            _ => return Err(Error::Protocol("unknown side")),
        };
        take::<4>(&mut rest)?;
        let id = NodeId(u128::from_le_bytes(take(&mut rest)?));
        let nonce = take(&mut rest)?;
        let layout = u64::from_le_bytes(take(&mut rest)?);
        Ok(Self {
            version,
            side,
            auth,
            id,
            nonce,
            layout,
        })
    }

    /// Checks that a connection between us and `theirs`, from which a `side` was expected, can be.
    ///
    /// # Errors
    /// [`Error::Protocol`] for an echo of our own words, another side or an authentication mode we
    /// do not know; [`Error::Layout`] between nodes of different layouts.
    pub fn check(&self, theirs: &Self, side: Side) -> Result<(), Error> {
        if theirs.nonce == self.nonce {
            return Err(Error::Protocol("our own hello came back"));
        }
        if theirs.side != side {
            return Err(Error::Protocol(
                "another kind of peer was expected at this address",
            ));
        }
        if theirs.auth != 0 {
            return Err(Error::Protocol(
                "the peer wants authentication, which we do not know",
            ));
        }
        let are_nodes = (self.side, theirs.side) == (Side::Node, Side::Node);
        if are_nodes && theirs.layout != self.layout {
            return Err(Error::Layout);
        }
        Ok(())
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Error> {
    let (head, rest) = bytes
        .split_first_chunk::<N>()
        .ok_or(Error::Protocol("short hello"))?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello::ours(Side::Node, NodeId(7)).unwrap()
    }

    #[test]
    fn a_hello_arrives_as_it_was() {
        let ours = hello();
        assert_eq!(Hello::decode(&ours.encode()).unwrap(), ours);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ours = hello();
        let mut bytes = hello().encode();
        bytes[8] = 99;
        let error = Hello::decode(&bytes).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Version {
                    ours: PROTOCOL_VERSION,
                    theirs: 99
                }
            ),
            "{error}"
        );
        assert!(Hello::decode(&[0; HELLO_BYTES]).is_err());
        assert!(ours.check(&ours.clone(), Side::Node).is_err(), "echo");
        assert!(
            ours.check(&hello(), Side::Coordinator).is_err(),
            "wrong side"
        );
        let keyed = Hello { auth: 1, ..hello() };
        assert!(
            ours.check(&keyed, Side::Node).is_err(),
            "unknown mode fails closed"
        );
        let other = Hello {
            layout: 1,
            ..hello()
        };
        assert!(matches!(ours.check(&other, Side::Node), Err(Error::Layout)));
        let coordinator = Hello {
            side: Side::Coordinator,
            layout: 1,
            ..hello()
        };
        ours.check(&coordinator, Side::Coordinator).unwrap();
    }
}
