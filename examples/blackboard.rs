//! The latest value of a topic for whoever comes, whenever: a publisher that keeps its last
//! message, a late subscriber that takes it, and what it is told when the publisher falls silent.
//!
//! Run with `cargo run --example blackboard`; nothing else needs to run.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Event, Message, Node};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Battery {
    percent: u8,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let robot = Node::builder("robot")
        .embedded_coordinator()
        .build()
        .await?;
    let mut battery = robot.publisher::<Battery>("battery").history(1).build()?;
    for percent in [80, 79, 78] {
        battery.publish(&Battery { percent })?;
    }

    // Comes later, and the publisher sends nothing more: it gets the last value.
    let screen = Node::builder("screen").build().await?;
    let values = screen.subscriber::<Battery>("battery");
    let values = values.latched().lifespan(Duration::from_secs(60));
    let mut values = values.deadline(Duration::from_millis(50)).build()?;
    let mut events = values.events();
    println!("late, but here it is: {} %", values.recv().await?.percent);

    // Of several that came meanwhile only the newest counts.
    battery.publish(&Battery { percent: 77 })?;
    battery.publish(&Battery { percent: 76 })?;
    if let Some(newest) = values.latest()? {
        let skipped = values.stats().skipped;
        println!("now {} %, {skipped} skipped", newest.percent);
    }

    loop {
        match events.recv().await? {
            Event::PublisherUp { publisher } => println!("{} is up", publisher.node_name),
            Event::DeadlineMissed { publisher, missed } => {
                println!(
                    "{} is silent: {missed} deadlines missed",
                    publisher.node_name
                );
                return Ok(());
            }
            other => println!("{other:?}"),
        }
    }
}
