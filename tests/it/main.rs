//! The promises, held against real processes, real sockets and real kills.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

mod coordinator;
mod corpora;
mod faults;
mod hostile;
mod kill_points;
mod mesh_tool;
mod messaging;
mod network;
mod processes;
mod proxy;
mod role;
mod security;
mod security_tools;
mod speedtest;
mod steady;
mod support;
mod tidy;
