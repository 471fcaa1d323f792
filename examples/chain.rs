//! Three nodes in a chain that work only while somebody listens at its end.
//!
//! Run with `cargo run --example chain`; nothing else needs to run.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use shmesh::{Node, Raw};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = |name| Node::builder(name).embedded_coordinator().build();
    let (camera, detector) = (node("camera").await?, node("detector").await?);
    let planner = node("planner").await?;

    // Listens to images only while somebody listens to boxes.
    let mut boxes = detector.publisher::<Raw>("boxes").build()?;
    let images = detector.subscriber::<Raw>("images").depends_on(&boxes);
    let _detecting = images.listen(move |image| boxes.publish_bytes(&image[..1]))?;

    // Takes images only while somebody listens to them.
    let filming = tokio::spawn(async move {
        let mut images = camera.publisher::<Raw>("images").build()?;
        for step in 0..u8::MAX {
            if images.listener_count() == 0 {
                println!("camera: nobody looks, resting");
                images.wait_for_listener().await?;
                println!("camera: filming");
            }
            images.publish_bytes(&[step; 1000])?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, shmesh::Error>(())
    });

    for round in 0..2 {
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let planning = planner.listen::<Raw>("boxes", move |found| tell.try_send(found[0]))?;
        for _ in 0..3 {
            println!("planner, round {round}: box {:?}", told.recv().await);
        }
        planning.stop().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    filming.abort();
    Ok(())
}
