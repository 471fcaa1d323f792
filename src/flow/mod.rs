//! Callbacks, timers, and the end of a node: conveniences on top of publishers and subscribers.
//!
//! Nothing here is on the path of a message that is not listened to with a callback.

pub(crate) mod forever;
pub(crate) mod handler;
pub(crate) mod life;
pub(crate) mod listen;
pub(crate) mod listeners;
pub(crate) mod timer;
