//! The key of a mesh, and how both ends of a connection prove that they have it. Sans-IO.
//!
//! A proof is an HMAC-SHA256 over the transcript: both hellos whole, with their versions, ids,
//! fresh nonces, modes and mesh names, and what binds the connection to its TLS channel, if it has
//! one. Each side proves under a key of its own, derived from the mesh's, so that a proof sent back
//! to its maker never verifies. What follows on the connection is not covered: see the README.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::limits::{AUTH_KEY_BYTES_MAX, AUTH_KEY_BYTES_MIN};

/// Bytes of a proof.
pub const TAG_BYTES: usize = 32;
/// Bytes that bind a connection to its TLS channel; zeroes without one.
pub const BINDING_BYTES: usize = 32;

/// Who proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prover {
    /// The side that dialled; it proves first.
    Initiator,
    /// The side that was dialled.
    Responder,
}

/// The key of a mesh: whoever has it is let in, with it both ways. Cheap to clone; wiped from
/// memory with the last clone; never printed.
///
/// ```
/// let key = shmesh::AuthKey::new(b"at least thirty-two bytes, better random")?;
/// assert!(shmesh::AuthKey::new(b"too short").is_err());
/// assert_eq!(format!("{key:?}"), "AuthKey(..)");
/// # Ok::<(), shmesh::Error>(())
/// ```
#[derive(Clone)]
pub struct AuthKey(Arc<DirectionKeys>);

struct DirectionKeys {
    initiator: Zeroizing<[u8; TAG_BYTES]>,
    responder: Zeroizing<[u8; TAG_BYTES]>,
}

impl AuthKey {
    /// A key of at least 32 bytes, which should be random.
    ///
    /// # Errors
    /// [`Error::Key`] if it is too short or too long.
    pub fn new(key: &[u8]) -> Result<Self, Error> {
        let len = key.len();
        if !(AUTH_KEY_BYTES_MIN..=AUTH_KEY_BYTES_MAX).contains(&len) {
            return Err(Error::Key(format!(
                "it has {len} bytes; allowed are {AUTH_KEY_BYTES_MIN} to {AUTH_KEY_BYTES_MAX} \
                 (`openssl rand -hex 32` makes one)"
            )));
        }
        let derive = |label: &[u8]| Zeroizing::new(mac(key, &[label]).finalize().into_bytes().0);
        Ok(Self(Arc::new(DirectionKeys {
            initiator: derive(b"shmesh: the initiator proves"),
            responder: derive(b"shmesh: the responder proves"),
        })))
    }

    /// A key as people write it, in a file or a variable: space around it does not count.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_text(text: &[u8]) -> Result<Self, Error> {
        Self::new(text.trim_ascii())
    }

    /// The proof of one side.
    #[must_use]
    pub fn prove(&self, prover: Prover, transcript: &Transcript) -> [u8; TAG_BYTES] {
        self.tag(prover, transcript).finalize().into_bytes().0
    }

    /// True if `tag` is the proof of that side. Takes the same time for every wrong tag.
    #[must_use]
    pub fn verifies(&self, prover: Prover, transcript: &Transcript, tag: &[u8]) -> bool {
        self.tag(prover, transcript).verify_slice(tag).is_ok()
    }

    fn tag(&self, prover: Prover, transcript: &Transcript) -> Hmac<Sha256> {
        let key = match prover {
            Prover::Initiator => &self.0.initiator,
            Prover::Responder => &self.0.responder,
        };
        let Transcript {
            initiator,
            responder,
            binding,
        } = transcript;
        mac(key.as_slice(), &[initiator, responder, binding])
    }
}

/// All of the parts have fixed lengths, so that they cannot be divided otherwise.
fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes keys of every length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(..)")
    }
}

/// What both sides of a connection have seen of each other before they prove anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// Hello of the side that dialled.
    pub initiator: [u8; super::handshake::HELLO_BYTES],
    /// Hello of the side that was dialled.
    pub responder: [u8; super::handshake::HELLO_BYTES],
    /// What is known only to the two ends of the TLS channel.
    pub binding: [u8; BINDING_BYTES],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::handshake::HELLO_BYTES;

    fn key(byte: u8) -> AuthKey {
        AuthKey::new(&[byte; 32]).unwrap()
    }

    fn transcript() -> Transcript {
        Transcript {
            initiator: [1; HELLO_BYTES],
            responder: [2; HELLO_BYTES],
            binding: [0; BINDING_BYTES],
        }
    }

    #[test]
    fn a_proof_verifies_for_its_key_role_and_transcript_alone() {
        let tag = key(1).prove(Prover::Initiator, &transcript());
        let verifies =
            |key: &AuthKey, prover, transcript: &Transcript| key.verifies(prover, transcript, &tag);
        assert!(verifies(&key(1), Prover::Initiator, &transcript()));
        assert!(!verifies(&key(2), Prover::Initiator, &transcript()));
        assert!(
            !verifies(&key(1), Prover::Responder, &transcript()),
            "a proof sent back to its maker"
        );
        for idx in 0..HELLO_BYTES {
            let mut other = transcript();
            other.initiator[idx] ^= 1;
            assert!(!verifies(&key(1), Prover::Initiator, &other), "{idx}");
            let mut other = transcript();
            other.responder[idx] ^= 1;
            assert!(!verifies(&key(1), Prover::Initiator, &other), "{idx}");
        }
        let mut other = transcript();
        other.binding[7] = 1;
        assert!(
            !verifies(&key(1), Prover::Initiator, &other),
            "another channel"
        );
        let swapped = Transcript {
            initiator: transcript().responder,
            responder: transcript().initiator,
            ..transcript()
        };
        assert!(!verifies(&key(1), Prover::Initiator, &swapped));
    }

    #[test]
    fn tags_of_another_length_never_verify() {
        let key = key(1);
        let tag = key.prove(Prover::Responder, &transcript());
        let mut longer = tag.to_vec();
        longer.push(0);
        assert!(!key.verifies(Prover::Responder, &transcript(), &longer));
        for len in 0..TAG_BYTES {
            assert!(
                !key.verifies(Prover::Responder, &transcript(), &tag[..len]),
                "{len}"
            );
        }
    }

    #[test]
    fn weak_keys_are_refused_and_none_is_printed() {
        for weak in [&b""[..], b"x", b"\n", &[7; 31], &[b' '; 40]] {
            assert!(AuthKey::from_text(weak).is_err(), "{weak:?}");
        }
        assert!(AuthKey::new(&vec![7; AUTH_KEY_BYTES_MAX + 1]).is_err());
        let text = format!("{}\n", "k".repeat(32));
        let key = AuthKey::from_text(text.as_bytes()).unwrap();
        assert_eq!(format!("{key:?}"), "AuthKey(..)");
        let same = AuthKey::new(&[b'k'; 32]).unwrap();
        let tag = same.prove(Prover::Initiator, &transcript());
        assert!(key.verifies(Prover::Initiator, &transcript(), &tag));
    }
}
