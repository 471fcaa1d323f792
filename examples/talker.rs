//! Sends a pose ten times a second. Run it beside `listener`:
//! `cargo run --example talker` (with `cargo run --bin mesh` on another terminal).
#![allow(clippy::print_stdout)]

use std::time::Duration;

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
async fn main() -> Result<(), shmesh::Error> {
    let node = Node::builder("talker")
        .embedded_coordinator()
        .build()
        .await?;
    let mut poses = node.publisher::<Pose>("pose").build()?;
    println!("waiting for a listener");
    poses.wait_for_listener().await?;
    for step in 0..u32::MAX {
        let angle = f64::from(step) / 10.0;
        poses.publish(&Pose {
            x: angle.cos(),
            y: angle.sin(),
            frame: "map".into(),
        })?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
