//! What the targets do with their input; `cargo test` of the workspace does the same with the
//! corpora.

pub mod bag_files;
pub mod codec_values;
pub mod handshake;
pub mod ring_ops;
pub mod schema_walk;
pub mod segment_attach;
pub mod session_ops;
pub mod topology_ops;
pub mod wire_frames;
