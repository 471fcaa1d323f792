//! A reader without tokio: sleeps in the kernel until a pose of `talker` comes.
//! `cargo run --example blocking_reader`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Message, Node, Overflow, RecvError};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Pose {
    x: f64,
    y: f64,
    frame: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder("blocking_reader")
        .embedded_coordinator()
        .build_blocking()?;
    // Only the newest pose matters here.
    let mut poses = node
        .subscriber::<Pose>("pose")
        .overflow(Overflow::KeepLast(1))
        .build()?;
    loop {
        match poses.recv_blocking(Duration::from_secs(2)) {
            Ok(pose) => println!(
                "{:.2} {:.2}, {} lost before",
                pose.x,
                pose.y,
                pose.lost_before()
            ),
            Err(RecvError::Timeout { .. }) => println!("no pose for two seconds"),
            Err(error) => return Err(error.into()),
        }
    }
}
