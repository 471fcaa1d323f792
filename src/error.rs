//! The errors of the engine: a variant for each thing a caller may do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use shmesh_shm::ShmError;

use crate::name::escaped;

/// Why something failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is not allowed.
    #[error("invalid name `{name}`: {reason}")]
    InvalidName {
        /// The name, escaped.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting out of its bounds.
    #[error("{what} is {found}; allowed are {min} to {max}")]
    OutOfBounds {
        /// Which setting.
        what: &'static str,
        /// What it is.
        found: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// No coordinator answers.
    #[error(
        "no coordinator at {}: {source}; start one with `mesh coordinator`, or build the node with \
         `.embedded_coordinator()`",
        escaped(.address)
    )]
    CoordinatorUnreachable {
        /// Where it was looked for.
        address: String,
        /// What the last attempt said.
        #[source]
        source: io::Error,
    },
    /// A coordinator that started before one that this node has been with already.
    #[error(
        "stale coordinator: its epoch is {found}, but this node has seen {seen}; stop it if \
         another one runs, or set the clock right if it was set back, and start it again"
    )]
    StaleCoordinator {
        /// The highest epoch seen.
        seen: u64,
        /// Its epoch.
        found: u64,
    },
    /// Something listens at the address already.
    #[error("{} is in use; is a coordinator running there already?", escaped(.address))]
    AddressInUse {
        /// The address.
        address: String,
    },
    /// The other side speaks another version.
    #[error("version mismatch: we speak {ours}, the peer {theirs}; update the older side")]
    Version {
        /// Ours.
        ours: u16,
        /// Theirs.
        theirs: u16,
    },
    /// The other side is of another mesh.
    #[error(
        "the peer is of mesh `{theirs}`, we are of `{ours}`: choose one with --mesh, SHMESH_MESH \
         or NodeBuilder::mesh"
    )]
    OtherMesh {
        /// Ours; empty for the mesh without a name.
        ours: String,
        /// Theirs.
        theirs: String,
    },
    /// The other side could not prove that it has our key, or we have none and it demands one.
    #[error("the peer is not let in: {0}")]
    Unproven(&'static str),
    /// TLS that cannot be had, or was refused.
    #[error("{0}")]
    Tls(String),
    /// Only one side uses TLS.
    #[error(
        "the peer {} TLS and we {}: give both or neither --tls-cert, --tls-key and --tls-ca",
        if *.theirs { "uses" } else { "does not use" },
        if *.theirs { "do not" } else { "do" }
    )]
    TlsMismatch {
        /// True if it is the peer that uses it.
        theirs: bool,
    },
    /// A key that cannot be used.
    #[error("cannot use the key: {0}")]
    Key(String),
    /// The other side was built with other memory layouts.
    #[error("the peer was built with another memory layout; use one build of shmesh on a host")]
    Layout,
    /// The other side refused.
    #[error("refused by {by}: {reason}")]
    Refused {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// The other side sent what it must not send.
    #[error("protocol violated by the peer: {0}")]
    Protocol(&'static str),
    /// A frame that is none.
    #[error(transparent)]
    Wire(#[from] crate::link::wire::WireError),
    /// A message longer than any may be.
    #[error("message of {len} bytes is longer than the limit of {max}")]
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The publisher's payload memory is at its bound.
    #[error(
        "no room for a message of {need} bytes: the publisher's arena is at its bound of {max} \
         bytes; held by: {}; raise `arena_bytes_max`, lower depths, or drop samples sooner",
        holders_text(.holders)
    )]
    ArenaFull {
        /// Bytes that were asked for.
        need: u64,
        /// The bound in bytes.
        max: u64,
        /// Who holds how much.
        holders: Vec<Holder>,
    },
    /// A value that rkyv could not archive.
    #[error("cannot archive the message: {0}")]
    Archive(String),
    /// A value that its codec could not encode.
    #[error("cannot encode the message: {0}")]
    Encode(String),
    /// Somebody on the topic has another type.
    #[error("topic {topic} carries {theirs} at node {node}, but {ours} here")]
    TypeMismatch {
        /// The topic.
        topic: String,
        /// The type here.
        ours: String,
        /// The type there.
        theirs: String,
        /// The node there.
        node: String,
    },
    /// A loan of another publisher.
    #[error("the loan belongs to another publisher")]
    ForeignLoan,
    /// A loan whose bytes are no value of the topic's type.
    #[error("the loan does not hold a valid message: {0}")]
    InvalidLoan(String),
    /// Nothing came, or nobody was there, in time.
    #[error("nothing happened for {0:?}")]
    Timeout(Duration),
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
    /// Shared memory.
    #[error(transparent)]
    Shm(#[from] ShmError),
    /// The directory where nodes of one host find each other cannot be made.
    #[error(
        "cannot make the runtime directory {}: {source}; choose another with SHMESH_RUNTIME_DIR",
        crate::name::escaped_path(.dir)
    )]
    RuntimeDir {
        /// Which one.
        dir: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// Another failure of the system.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Why an address cannot be listened at.
    pub(crate) fn of_listening(address: &str, what: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse {
                address: address.into(),
            },
            _ => Self::Io { what, source },
        }
    }
}

/// Who holds how much of an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The subscriber's node.
    pub node: String,
    /// Messages it holds or has not read.
    pub chunks: usize,
    /// Their bytes.
    pub bytes: u64,
}

fn holders_text(holders: &[Holder]) -> String {
    let holder = |h: &Holder| format!("{} ({} messages, {} bytes)", h.node, h.chunks, h.bytes);
    if holders.is_empty() {
        return "loans that were not sent".into();
    }
    holders.iter().map(holder).collect::<Vec<_>>().join(", ")
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// None came in time.
    #[error("no message within {timeout:?}")]
    Timeout {
        /// How long was waited.
        timeout: Duration,
    },
    /// A message waits, but this subscriber holds as many as it may.
    #[error("{held} samples are held, the most is {max}: drop some, or raise `max_held`")]
    TooManyHeld {
        /// Samples held.
        held: usize,
        /// The limit.
        max: u32,
    },
    /// A message without a time, for a subscription with a lifespan. It counts as lost; receiving
    /// goes on.
    #[error(
        "message {sequence} of {publisher} on {topic} has no time to tell its age by: build its \
         publisher without `.without_timestamps()`, or this subscription without `.lifespan()`"
    )]
    Undated {
        /// The topic.
        topic: String,
        /// Who sent it.
        publisher: String,
        /// Its number.
        sequence: u64,
    },
    /// A message that is no value of the topic's type. It counts as lost; receiving goes on.
    #[error("message {sequence} of {publisher} on {topic} is invalid: {reason}")]
    Invalid {
        /// The topic.
        topic: String,
        /// Who sent it.
        publisher: String,
        /// Its number.
        sequence: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A publisher broke the protocol of the rings; its channel is ended.
    #[error("channel from {publisher} ended: {reason}")]
    Corrupt {
        /// Who.
        publisher: String,
        /// How.
        reason: &'static str,
    },
    /// The node is closed: nothing more comes.
    #[error("the node is closed")]
    Closed,
    /// Publishers came or went: said only where it was asked for.
    #[error("publishers came or went")]
    #[doc(hidden)]
    Changed,
    /// Waiting itself failed.
    #[error(transparent)]
    Wait(#[from] Error),
}
