//! The promises, held against real processes, real sockets and real kills.

mod coordinator;
mod faults;
mod hostile;
mod messaging;
mod processes;
mod role;
mod speedtest;
mod support;
mod tidy;
