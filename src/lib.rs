//! Zero-copy messaging for robots.
//!
//! The [guide] shows how to use it, each chapter with an example, in this order: [nodes and the
//! mesh](guide::nodes), [topics](guide::topics), [several topics at once](guide::patterns),
//! [delivery](guide::delivery), [services](guide::services), [several nodes of one
//! name](guide::balancing), [encodings](guide::encodings), [priorities](guide::priorities),
//! [callbacks, timers, chains](guide::flow), [several nodes in one process](guide::one_process),
//! [life cycle](guide::life_cycle), [launching](guide::launch), and [coming from rosy, easymesh,
//! ROS 2](guide::coming_from).
//!
//! # Logs
//!
//! What happens is told through `tracing`, under targets that one can filter by, as in
//! `RUST_LOG=warn,shmesh::handler=debug`:
//!
//! | target | tells of |
//! |---|---|
//! | `shmesh::node` | a node: its start, its end, what it runs without |
//! | `shmesh::topology` | who is in the mesh; the coordinator found and lost |
//! | `shmesh::link` | connections between nodes: up, down, refused; and what is below this target |
//! | `shmesh::channel` | publishers and subscribers that do not get together, or no longer |
//! | `shmesh::service` | providers: requests and replies that came to nothing |
//! | `shmesh::handler` | callbacks and timers: begun, failed, panicked, given up |
//! | `shmesh::coordinator` | a coordinator in this process: its nodes |
//!
//! `error` is for what should not be, `warn` for what somebody should look at, `info` for changes
//! of state, `debug` for what explains them. No message is logged for being sent or received.
#![deny(unsafe_code)]

// What `#[derive(Message)]` writes says `::shmesh`, here too.
#[cfg(test)]
extern crate self as shmesh;

pub mod guide;

pub mod limits;
pub mod name;

mod error;
pub use error::{Error, Holder, RecvError};

mod id;
pub use id::{HostId, NodeId};

mod message;
pub use message::{Body, Bytes, Message, Payload, Raw, Untyped, Validation};
pub use shmesh_derive::Message;
pub use shmesh_shm::Trusted;

pub mod schema;

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

mod priority;
pub use priority::Priority;

mod balance;
pub use balance::Balance;

mod subscriber;
pub use subscriber::{Subscriber, SubscriberBuilder, SubscriberStats};

pub mod service;
pub use service::{CallError, Caller, Client, Provider, Request, Serving};

mod sample;
pub use sample::Sample;

mod merge;

mod endpoint;
pub use endpoint::Overflow;

mod events;
pub use events::{Event, Events, Loss, PublisherId};

mod deadline;

mod bounds;

mod security;
pub use link::auth::AuthKey;
pub use security::{AUTH_KEY_FILE_VARIABLE, AUTH_KEY_VARIABLE, MESH_VARIABLE};
pub use security::{TLS_CA_VARIABLE, TLS_CERT_VARIABLE, TLS_KEY_VARIABLE};
pub use security::{TLS_MUTUAL_VARIABLE, TLS_SERVER_NAME_VARIABLE};

pub mod tls;
pub use tls::{Tls, TlsFiles};

mod flow;
pub use flow::forever::End;
pub use flow::handler::{AsyncHandler, Handler, HandlerError, HandlerStats, Outcome};
pub use flow::listen::{ListenBuilder, Listening};
pub use flow::listeners::Listeners;
pub use flow::timer::{Tick, Ticker, Timer};

mod wait;

pub mod topology;

pub mod coordinator;
pub use coordinator::Coordinator;

pub mod membership;

mod visit;

pub mod link;

mod gate;

pub mod metrics;

mod known;

mod driver;

pub mod bag;

mod launch;

#[doc(hidden)]
pub mod cli;

pub use rkyv;
