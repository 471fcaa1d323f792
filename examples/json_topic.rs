//! A topic of JSON texts, which programs in other languages can read and write.
//!
//! Run with `cargo run --example json_topic`; nothing else needs to run.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shmesh::{Json, Node};

#[derive(Debug, Serialize, Deserialize)]
struct Pose {
    x: f64,
    y: f64,
    frame: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let patience = Duration::from_secs(5);
    let node = Node::builder("poses").embedded_coordinator();
    let node = node.build_blocking()?;
    let mut reader = node.subscriber::<Json<Pose>>("pose").build()?;
    let mut poses = node.publisher::<Json<Pose>>("pose").build()?;
    poses.wait_for_listener_blocking(patience)?;
    for step in 0..3 {
        poses.publish(&Pose {
            x: f64::from(step),
            y: 0.5,
            frame: "map".into(),
        })?;
        let pose = reader.recv_blocking(patience)?;
        println!("{}", String::from_utf8_lossy(pose.bytes()));
        println!("{} {} in {}", pose.x, pose.y, pose.frame);
    }
    Ok(())
}
