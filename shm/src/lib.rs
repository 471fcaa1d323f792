//! Shared-memory rings, arenas, doorbells and status pages: all unsafe code of shmesh.
//!
//! | module | what it is |
//! |---|---|
//! | [`segment`] | memory without a name: made, sealed, handed over |
//! | [`layout`] | what the two halves of a channel look like in it |
//! | [`ring`] | the queue of a channel: stamps, overflow, borrowed chunks |
//! | [`arena`] | a publisher's payload memory |
//! | [`view`] | a received payload and the value found in it |
//! | [`doorbell`] | parking and waking |
//! | [`histogram`] | how long things took, counted by size |
//! | [`status`] | memory with a name: a node's page of counters |
//! | [`mod@reference`] | a bare cache line, to measure against |
//!
//! No runtime, no message types, no policy: who talks to whom is the business of crate `shmesh`.

mod sync;

mod error;
pub use error::ShmError;

mod clock;
pub use clock::monotonic_ns;

pub mod segment;
pub use segment::{PeerSegment, Segment};

pub mod layout;
pub use layout::{BorrowHalf, INLINE_BYTES, RingHalf, layout_hash};

pub mod ring;
pub use ring::{
    ChunkRef, Consumer, Corrupt, Head, Mode, Origin, Peeked, Producer, Progress, PushError,
    Received, RingConfig, Swept,
};

pub mod arena;
pub use arena::{Arena, Block, Chunk, ChunkId, HeapBlock, HeapStore, SegmentStore};

pub mod view;
pub use view::{Trusted, View};

pub mod doorbell;
mod park;
pub use doorbell::{BellPage, Event, Fencing, Parker, PeerBellPage, Ringer, register_membarrier};

pub mod histogram;
pub use histogram::Histogram;

pub mod status;
pub use status::{Counter, Counters, EndpointStatus, StatusPage, StatusReader};

pub mod reference;
