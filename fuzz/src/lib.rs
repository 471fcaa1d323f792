//! What the targets do with their input; `cargo test` of the workspace does the same with the
//! corpora.

pub mod ring_ops;
pub mod segment_attach;
