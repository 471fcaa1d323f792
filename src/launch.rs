//! Starting programs together: what a launch file says, and what follows from it.
//!
//! [`config`] is the file, [`plan`] is what to start, stop and start again, and when, and [`lines`]
//! makes whole lines of what programs print. None of them starts a process, reads a clock or asks
//! the mesh: that is what the tool (`cli/launch`) does.

pub(crate) mod config;
pub(crate) mod lines;
mod marked;
pub(crate) mod plan;
