//! An arm of three joints, heard by one pattern in the order it spoke:
//! `cargo run --example patterns`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Message, Node};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Angle {
    radians: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let builder = Node::builder("arm").embedded_coordinator();
    let arm = builder.build_blocking()?;
    let monitor = Node::builder("monitor").build_blocking()?;
    let mut angles = monitor
        .subscriber::<Angle>("arm/*/angle")
        .also("gripper/angle")
        .build()?;
    let mut joints = Vec::new();
    for joint in ["arm/shoulder/angle", "arm/elbow/angle", "gripper/angle"] {
        let mut publisher = arm.publisher::<Angle>(joint).build()?;
        publisher.wait_for_listener_blocking(PATIENCE)?;
        joints.push(publisher);
    }
    for step in 0..4 {
        for joint in &mut joints {
            let radians = 0.1 * f64::from(step);
            joint.publish(&Angle { radians })?;
        }
    }
    for _ in 0..4 * joints.len() {
        let angle = angles.recv_blocking(PATIENCE)?;
        println!(
            "{} {}: {:.1}",
            angle.topic(),
            angle.sequence(),
            angle.radians
        );
    }
    Ok(())
}
