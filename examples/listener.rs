//! Prints the poses of `talker`: `cargo run --example listener`.
#![allow(clippy::print_stdout)]

use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Message, Node};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Pose {
    x: f64,
    y: f64,
    frame: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder("listener")
        .embedded_coordinator()
        .build()
        .await?;
    let mut poses = node.subscriber::<Pose>("pose").build()?;
    loop {
        let pose = poses.recv().await?;
        println!(
            "{} {:.2} {:.2} in {} from {}, {:?} old",
            pose.sequence(),
            pose.x,
            pose.y,
            pose.frame,
            pose.publisher_name(),
            pose.age().unwrap_or_default()
        );
    }
}
