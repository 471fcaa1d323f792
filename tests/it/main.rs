//! The promises, held against real processes, real sockets and real kills.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

mod agents;
mod bag;
mod band;
mod codecs;
mod compression;
mod coordinator;
mod corpora;
mod direct;
mod draining;
mod echo;
mod events;
mod faults;
mod floods;
mod floods_of_frames;
mod guide;
mod history;
mod hostile;
mod kill_points;
mod launch;
mod lifespan;
mod lifetime;
mod listening;
mod mesh_talk;
mod mesh_tool;
mod mesh_verbs;
mod messaging;
mod metrics;
mod netns;
mod network;
mod other_user;
mod patterns;
mod priority;
mod processes;
mod proxy;
mod role;
mod schemas;
mod security;
mod security_tools;
mod services;
mod snapshot;
mod speedtest;
mod steady;
mod stranger;
mod support;
mod tidy;
#[cfg(feature = "tls")]
mod tls;
mod tools;
mod top;
mod top_numbers;
mod untyped;
mod usage;
mod waiting;
