//! The first words on every connection: who speaks, which version, which mesh, and proof of the
//! key. Sans-IO, every word of a fixed size.
//!
//! ```text
//! initiator  -> hello                responder
//!            <- hello
//!            -> proof                only with a key; the initiator proves first
//!            <- proof or refusal
//! ```
//!
//! Each side sees from the other's hello whether they fit, and the responder always answers with
//! its own before it hangs up: so both know why. Nothing but these words is read before the end.

use super::auth::{AuthKey, BINDING_BYTES, Prover, TAG_BYTES, Transcript};
use crate::error::Error;
use crate::id::{NodeId, random_bytes};
use crate::limits::MESH_NAME_BYTES_MAX;
use crate::name::escaped;
use crate::tls::Tls;

/// Version of the protocol: hellos, frames, link messages and coordinator messages.
pub const PROTOCOL_VERSION: u16 = 7;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 128;
/// Bytes of a proof or refusal.
pub const PROOF_BYTES: usize = 64;

pub(crate) const HELLO_MAGIC: [u8; 8] = *b"shmesh\0h";
const PROOF_MAGIC: [u8; 8] = *b"shmesh\0p";
const NONCE_BYTES: usize = 32;
/// What a proof's status byte says.
const PROVEN: u8 = 1;
const REFUSED: u8 = 2;

/// What a side of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A node.
    Node,
    /// A coordinator.
    Coordinator,
}

/// What a connection is for; both sides must mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A node's place in the mesh.
    Membership,
    /// Two nodes that share memory.
    HostLink,
    /// Two nodes over a network.
    NetworkLink,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Membership, Self::HostLink, Self::NetworkLink];

    const fn code(self) -> u8 {
        match self {
            Self::Membership => 1,
            Self::HostLink => 2,
            Self::NetworkLink => 3,
        }
    }
}

/// The first words of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Protocol version.
    pub version: u16,
    /// What it is.
    pub side: Side,
    /// True if it demands proof of a key.
    pub is_keyed: bool,
    /// True if it is said inside a TLS channel, or should be.
    pub uses_tls: bool,
    /// True if it compresses payloads and takes compressed ones; matters on network links.
    pub packs: bool,
    /// What it wants the connection for.
    pub purpose: Purpose,
    /// Its id (a coordinator's is its epoch).
    pub id: NodeId,
    /// Fresh random bytes.
    pub nonce: [u8; NONCE_BYTES],
    /// Hash of its memory layouts; matters on host links.
    pub layout: u64,
    /// Name of its mesh, padded with zeroes.
    pub mesh: [u8; MESH_NAME_BYTES_MAX],
}

impl Hello {
    /// Our own hello, for the mesh without a name and without a key.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no random bytes.
    pub fn ours(side: Side, purpose: Purpose, id: NodeId) -> Result<Self, Error> {
        let (nonce, layout) = (random_bytes()?, shmesh_shm::layout_hash());
        Ok(Self {
            version: PROTOCOL_VERSION,
            side,
            is_keyed: false,
            uses_tls: false,
            packs: false,
            purpose,
            id,
            nonce,
            layout,
            mesh: [0; MESH_NAME_BYTES_MAX],
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
            &HELLO_MAGIC,
            &self.version.to_le_bytes(),
            &[side, u8::from(self.is_keyed), self.purpose.code()],
            &[u8::from(self.uses_tls), u8::from(self.packs), 0],
            &self.id.0.to_le_bytes(),
            &self.nonce,
            &self.layout.to_le_bytes(),
            &self.mesh,
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
        if take::<8>(&mut rest)? != HELLO_MAGIC {
            return Err(Error::Protocol("not a shmesh peer"));
        }
        let version = u16::from_le_bytes(take(&mut rest)?);
        if version != PROTOCOL_VERSION {
            return Err(Error::Version {
                ours: PROTOCOL_VERSION,
                theirs: version,
            });
        }
        let [side, keyed, purpose, tls, packs, _] = take::<6>(&mut rest)?;
        let side = match side {
            1 => Side::Node,
            2 => Side::Coordinator,
            _ => return Err(Error::Protocol("unknown side")),
        };
        if keyed > 1 || tls > 1 {
            // Whatever it means, it is not what we have: closed, not open.
            return Err(Error::Protocol("unknown mode of authentication"));
        }
        let purpose = Purpose::ALL
            .into_iter()
            .find(|known| known.code() == purpose)
            .ok_or(Error::Protocol("unknown purpose"))?;
        let id = NodeId(u128::from_le_bytes(take(&mut rest)?));
        let nonce = take(&mut rest)?;
        let layout = u64::from_le_bytes(take(&mut rest)?);
        Ok(Self {
            version,
            side,
            is_keyed: keyed == 1,
            uses_tls: tls == 1,
            // Of what we do not know we have nothing to offer.
            packs: packs == 1,
            purpose,
            id,
            nonce,
            layout,
            mesh: take(&mut rest)?,
        })
    }

    /// Name of its mesh, safe to print.
    #[must_use]
    pub fn mesh_name(&self) -> String {
        let end = self.mesh.iter().rposition(|byte| *byte != 0);
        let name = &self.mesh[..end.map_or(0, |last| last + 1)];
        escaped(&String::from_utf8_lossy(name))
    }

    /// Checks that a connection between us and `theirs`, from which a `side` was expected, can be.
    ///
    /// # Errors
    /// [`Error::Protocol`] for an echo of our own words or another kind of peer;
    /// [`Error::OtherMesh`]; [`Error::Unproven`] if only one of the two has a key;
    /// [`Error::Layout`] on a host link between different layouts.
    pub fn check(&self, theirs: &Self, side: Side) -> Result<(), Error> {
        if theirs.nonce == self.nonce {
            return Err(Error::Protocol("our own hello came back"));
        }
        if theirs.side != side || theirs.purpose != self.purpose {
            return Err(Error::Protocol(
                "another kind of peer was expected at this address",
            ));
        }
        if theirs.uses_tls != self.uses_tls {
            return Err(Error::TlsMismatch {
                theirs: theirs.uses_tls,
            });
        }
        if theirs.mesh != self.mesh {
            return Err(Error::OtherMesh {
                ours: self.mesh_name(),
                theirs: theirs.mesh_name(),
            });
        }
        match (self.is_keyed, theirs.is_keyed) {
            (true, false) => return Err(Error::Unproven(KEY_MISSING_THERE)),
            (false, true) => return Err(Error::Unproven(KEY_MISSING_HERE)),
            _ => {}
        }
        if self.purpose == Purpose::HostLink && theirs.layout != self.layout {
            return Err(Error::Layout);
        }
        Ok(())
    }
}

const KEY_MISSING_THERE: &str = "we demand a key and it has none";
const KEY_MISSING_HERE: &str = "it demands a key and we have none: give it with --authkey-file, \
                                SHMESH_AUTHKEY or NodeBuilder::auth_key";
const KEYS_DIFFER: &str = "its key is another one than ours";

/// Says which mesh we are of, and that we are.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Name of the mesh; empty for the mesh without a name.
    pub mesh: String,
    /// Its key.
    pub key: Option<AuthKey>,
    /// Certificates, where TLS is used.
    pub tls: Option<Tls>,
}

/// What to do next. `send` goes out first, whatever comes then.
#[derive(Debug)]
pub struct Step {
    /// What to send.
    pub send: Option<Vec<u8>>,
    /// What then.
    pub next: Next,
}

/// How the handshake goes on.
#[derive(Debug)]
pub enum Next {
    /// So many bytes must come, neither more nor less.
    Receive(usize),
    /// The peer is who it says, as far as keys tell; frames may flow.
    Done(Hello),
    /// It comes to nothing.
    Failed(Error),
}

#[derive(Debug)]
enum Stage {
    /// Waits for the peer's hello.
    Hello,
    /// Waits for the peer's proof.
    Proof(Box<(Hello, Transcript)>),
    Over,
}

/// One side of a handshake.
#[derive(Debug)]
pub struct Handshake {
    ours: Hello,
    expected: Side,
    key: Option<AuthKey>,
    binding: [u8; BINDING_BYTES],
    role: Prover,
    stage: Stage,
}

impl Handshake {
    /// A side that takes `role`, says `ours` as its hello (with mesh and key of `credentials`), and
    /// expects a peer of the `expected` side. `binding` is what only the ends of the TLS channel
    /// know, or zeroes.
    #[must_use]
    pub fn new(
        role: Prover,
        mut ours: Hello,
        expected: Side,
        credentials: &Credentials,
        binding: [u8; BINDING_BYTES],
    ) -> Self {
        let name = credentials.mesh.as_bytes();
        let len = name.len().min(MESH_NAME_BYTES_MAX);
        ours.mesh[..len].copy_from_slice(&name[..len]);
        ours.is_keyed = credentials.key.is_some();
        ours.uses_tls = credentials.tls.is_some() && ours.purpose != Purpose::HostLink;
        Self {
            ours,
            expected,
            key: credentials.key.clone(),
            binding,
            role,
            stage: Stage::Hello,
        }
    }

    /// How it begins.
    #[must_use]
    pub fn start(&self) -> Step {
        Step {
            send: (self.role == Prover::Initiator).then(|| self.ours.encode().to_vec()),
            next: Next::Receive(HELLO_BYTES),
        }
    }

    /// Takes in what came: as many bytes as were asked for.
    pub fn receive(&mut self, bytes: &[u8]) -> Step {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Hello => self.on_hello(bytes),
            Stage::Proof(greeted) => {
                let (theirs, transcript) = *greeted;
                self.on_proof(bytes, theirs, &transcript)
            }
            Stage::Over => failed(Error::Protocol("words after the handshake")),
        }
    }

    fn on_hello(&mut self, bytes: &[u8]) -> Step {
        let Ok(bytes) = <&[u8; HELLO_BYTES]>::try_from(bytes) else {
            return failed(Error::Protocol("not a hello"));
        };
        let decoded = Hello::decode(bytes);
        // The answer goes out even if they do not fit, so that the other side sees why; to garbage
        // nothing is said.
        let is_answering =
            self.role == Prover::Responder && matches!(decoded, Ok(_) | Err(Error::Version { .. }));
        let ours = self.ours.encode();
        let send = is_answering.then(|| ours.to_vec());
        let checked = decoded.and_then(|theirs| {
            self.ours.check(&theirs, self.expected)?;
            Ok(theirs)
        });
        let theirs = match checked {
            Ok(theirs) => theirs,
            Err(error) => {
                let next = Next::Failed(error);
                return Step { send, next };
            }
        };
        let Some(key) = &self.key else {
            let next = Next::Done(theirs);
            return Step { send, next };
        };
        let (initiator, responder) = match self.role {
            Prover::Initiator => (ours, *bytes),
            Prover::Responder => (*bytes, ours),
        };
        let binding = self.binding;
        let transcript = Transcript {
            initiator,
            responder,
            binding,
        };
        let send = match self.role {
            Prover::Initiator => Some(proof(PROVEN, &key.prove(self.role, &transcript))),
            Prover::Responder => send,
        };
        self.stage = Stage::Proof(Box::new((theirs, transcript)));
        let next = Next::Receive(PROOF_BYTES);
        Step { send, next }
    }

    fn on_proof(&mut self, bytes: &[u8], theirs: Hello, transcript: &Transcript) -> Step {
        let Some(key) = &self.key else {
            return failed(Error::Protocol("proof without a key"));
        };
        let prover = match self.role {
            Prover::Initiator => Prover::Responder,
            Prover::Responder => Prover::Initiator,
        };
        let (status, tag) = parse_proof(bytes);
        let is_proven = status == Some(PROVEN) && key.verifies(prover, transcript, tag);
        let send = match (self.role, is_proven) {
            (Prover::Initiator, _) => None,
            (Prover::Responder, true) => Some(proof(PROVEN, &key.prove(self.role, transcript))),
            // The same for a wrong tag and a wrong form.
            (Prover::Responder, false) => Some(proof(REFUSED, &[0; TAG_BYTES])),
        };
        let next = if is_proven {
            Next::Done(theirs)
        } else {
            Next::Failed(Error::Unproven(KEYS_DIFFER))
        };
        Step { send, next }
    }
}

fn failed(error: Error) -> Step {
    Step {
        send: None,
        next: Next::Failed(error),
    }
}

fn proof(status: u8, tag: &[u8; TAG_BYTES]) -> Vec<u8> {
    let mut bytes = vec![0; PROOF_BYTES];
    bytes[..8].copy_from_slice(&PROOF_MAGIC);
    bytes[8] = status;
    bytes[PROOF_BYTES - TAG_BYTES..].copy_from_slice(tag);
    bytes
}

/// Status and tag; no status for what is no proof.
fn parse_proof(bytes: &[u8]) -> (Option<u8>, &[u8]) {
    let is_proof = bytes.len() == PROOF_BYTES && bytes.starts_with(&PROOF_MAGIC);
    let tag = bytes.get(PROOF_BYTES - TAG_BYTES..).unwrap_or_default();
    (bytes.get(8).copied().filter(|_| is_proof), tag)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Error> {
    let (head, rest) = bytes
        .split_first_chunk::<N>()
        .ok_or(Error::Protocol("short hello"))?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests;
