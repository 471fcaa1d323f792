//! Connections: handshakes and frames, and the links between two nodes.

pub mod auth;
pub mod handshake;
pub mod wire;

pub mod session;

pub(crate) mod door;
pub(crate) mod host;
pub(crate) mod stream;
