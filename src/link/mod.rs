//! Connections: frames, handshakes, and the host link between two nodes of one host.

pub mod handshake;
pub(crate) mod host;
pub mod session;
pub mod wire;
