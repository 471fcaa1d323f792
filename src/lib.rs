//! Zero-copy messaging for robots.
#![deny(unsafe_code)]

pub mod limits;
pub mod name;

mod error;
pub use error::{Error, Holder, RecvError};

mod id;
pub use id::{HostId, NodeId};

mod message;
pub use message::{Body, Message, Payload, Raw, Validation};
pub use shmesh_shm::Trusted;

mod codec;
pub use codec::{Codec, CodecError, Coded, Json, JsonCodec, MsgPack, MsgPackCodec};

mod node;
pub use node::{
    ADVERTISE_VARIABLE, COORDINATOR_VARIABLE, LISTEN_VARIABLE, Node, NodeBuilder,
    RUNTIME_DIR_VARIABLE, Transports, with_port,
};

mod compression;
pub use compression::Compression;

mod publisher;
#[doc(hidden)]
pub use publisher::Draft;
pub use publisher::{ArchiveWriter, Loan, Publisher, PublisherBuilder, PublisherStats, Sent};

mod balance;
pub use balance::Balance;

mod subscriber;
pub use subscriber::{Subscriber, SubscriberBuilder, SubscriberStats};

pub mod service;
pub use service::{CallError, Caller, Client, Provider, Request, Serving};

mod sample;
pub use sample::Sample;

mod endpoint;
pub use endpoint::Overflow;

mod security;
pub use link::auth::AuthKey;
pub use security::{AUTH_KEY_FILE_VARIABLE, AUTH_KEY_VARIABLE, MESH_VARIABLE};

pub mod tls;
pub use tls::{Tls, TlsFiles};

mod wait;

pub mod topology;

pub mod coordinator;
pub use coordinator::Coordinator;

pub mod membership;

pub mod link;

mod gate;

mod driver;

#[doc(hidden)]
pub mod cli;

pub use rkyv;
