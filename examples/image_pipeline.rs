//! A 1920x1080 camera at 30 Hz written in place, a detector that holds frames while it works, and
//! a 1 kHz IMU beside it. `cargo run --release --example image_pipeline`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use shmesh::{Error, Node, Overflow, Raw};
use tokio::time::{interval, timeout};

const FRAME_BYTES: usize = 1920 * 1080 * 3;

async fn camera(node: Node) -> Result<(), Error> {
    let frames = node.publisher::<Raw>("camera");
    let mut frames = frames.reserve(FRAME_BYTES, 6).build()?;
    let mut tick = interval(Duration::from_millis(33));
    for number in 0..30_u8 {
        tick.tick().await;
        // The sensor's driver would write here; nothing is copied afterwards.
        let mut frame = frames.loan(FRAME_BYTES)?;
        frame.fill(number);
        frames.send(frame)?;
    }
    Ok(())
}

async fn imu(node: Node) -> Result<(), Error> {
    let mut readings = node.publisher::<[f32; 6]>("imu").build()?;
    let mut tick = interval(Duration::from_millis(1));
    for step in 0..1000_u16 {
        tick.tick().await;
        readings.publish(&[f32::from(step); 6])?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let robot = Node::builder("robot").embedded_coordinator();
    let robot = robot.build().await?;
    let detector = Node::builder("detector").build().await?;
    let mut frames = detector.subscriber::<Raw>("camera").build()?;
    let imu_data = detector.subscriber::<[f32; 6]>("imu");
    let mut imu_data = imu_data.overflow(Overflow::KeepLast(64)).build()?;
    tokio::spawn(camera(robot.clone()));
    tokio::spawn(imu(robot));
    let mut recent = Vec::new();
    while let Ok(frame) = timeout(Duration::from_secs(1), frames.recv()).await {
        let frame = frame?;
        println!("frame {}, {:?} old", frame.sequence(), frame.age());
        // The last three frames stay where the camera wrote them.
        recent.push(frame);
        recent.drain(..recent.len().saturating_sub(3));
        while imu_data.try_recv()?.is_some() {}
    }
    println!("IMU: {:?}", imu_data.stats());
    Ok(())
}
