//! How to use shmesh, chapter by chapter. Each has an example that runs as it stands.
//!
//! | chapter | of |
//! |---|---|
//! | [nodes] | the mesh: joining it, the coordinator, the key |
//! | [topics] | publishing and receiving; three ways to wait; what is lost when one is slow |
//! | [patterns] | several topics in one subscription |
//! | [delivery] | late subscribers, the latest value, old messages, silent publishers |
//! | [services] | calls, replies, errors, deadlines |
//! | [balancing] | several nodes of one name, which share the work |
//! | [encodings] | JSON, MessagePack, your own; compression |
//! | [priorities] | what goes first on a network |
//! | [flow] | callbacks, timers, chains that rest while nobody listens |
//! | [one_process] | several nodes, tasks and threads in one process |
//! | [life_cycle] | closing, draining, logs, metrics |
//! | [launch] | the programs of a robot, started and ended together |
//! | [coming_from] | what the calls of rosy, easymesh, ROS 2 and others are called here |
//!
//! The examples have a coordinator of their own, at a free port, so that they run beside anything;
//! the lines for that are hidden on rendered pages. A program leaves `.coordinator(&address)` out,
//! and then looks at `SHMESH_COORDINATOR` in its environment, or at `127.0.0.1:7679`.
#![deny(rustdoc::broken_intra_doc_links)]

// Links of the chapters are looked up here. The compiler does not know.
#[allow(unused_imports)]
use crate::*;

#[doc = include_str!("nodes.md")]
pub mod nodes {}

#[doc = include_str!("topics.md")]
pub mod topics {}

#[doc = include_str!("patterns.md")]
pub mod patterns {}

#[doc = include_str!("delivery.md")]
pub mod delivery {}

#[doc = include_str!("services.md")]
pub mod services {}

#[doc = include_str!("balancing.md")]
pub mod balancing {}

#[doc = include_str!("encodings.md")]
pub mod encodings {}

#[doc = include_str!("priorities.md")]
pub mod priorities {}

#[doc = include_str!("flow.md")]
pub mod flow {}

#[doc = include_str!("one_process.md")]
pub mod one_process {}

#[doc = include_str!("life_cycle.md")]
pub mod life_cycle {}

#[doc = include_str!("launch.md")]
pub mod launch {}

#[doc = include_str!("coming_from.md")]
pub mod coming_from {}
