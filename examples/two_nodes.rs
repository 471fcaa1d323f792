//! Two nodes in one process: the same rings, on private memory.
//!
//! Run with `cargo run --example two_nodes`; nothing else needs to run.
#![allow(clippy::print_stdout)]

use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Error, Message, Node};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Scan {
    angle: f32,
    ranges: Vec<f32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lidar = Node::builder("lidar")
        .embedded_coordinator()
        .build()
        .await?;
    let planner = Node::builder("planner").build().await?;

    let mut scans = planner.subscriber::<Scan>("scan").build()?;
    let mut publisher = lidar.publisher::<Scan>("scan").build()?;
    publisher.wait_for_listener().await?;

    let sender = async {
        for step in 0..5_u8 {
            let scan = Scan {
                angle: f32::from(step),
                ranges: vec![1.5; 360],
            };
            publisher.publish_async(&scan).await?;
        }
        Ok::<_, Error>(())
    };
    let receiver = async {
        for _ in 0..5 {
            let scan = scans.recv().await?;
            let nearest = scan.ranges.iter().map(|range| range.to_native());
            let nearest = nearest.fold(f32::INFINITY, f32::min);
            println!("{} scan {}: {nearest} m", scan.publisher_name(), scan.angle);
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let (sent, received) = tokio::join!(sender, receiver);
    sent?;
    received
}
