//! The promises, held against real processes, real sockets and real kills.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

mod codecs;
mod compression;
mod coordinator;
mod corpora;
mod faults;
mod floods;
mod floods_of_frames;
mod hostile;
mod kill_points;
mod mesh_tool;
mod messaging;
mod netns;
mod network;
mod processes;
mod proxy;
mod role;
mod security;
mod security_tools;
mod services;
mod speedtest;
mod steady;
mod stranger;
mod support;
mod tidy;
#[cfg(feature = "tls")]
mod tls;
