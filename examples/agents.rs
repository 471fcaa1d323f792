//! Many agents in one process, on one thread: each is a node of its own, with its own name and
//! topics, and passes a token on to the next. A node costs a few descriptors and no thread.
//!
//! Run with `cargo run --release --example agents [COUNT]`; nothing else needs to run. For more
//! than 80 or so, allow more than the usual 1,024 descriptors: `ulimit -n 20000`.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Message, Node, Publisher, Subscriber};

const LAPS: u32 = 100;
type Failed = Box<dyn Error + Send + Sync>;

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Token {
    lap: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let count = std::env::args().nth(1).unwrap_or_else(|| "50".into());
    let count: usize = count.parse()?;
    let started = Instant::now();
    let chief = Node::builder("chief").embedded_coordinator();
    let chief = chief.build().await?;
    let mut agents = tokio::task::JoinSet::new();
    for number in 1..count {
        let node = Node::builder(format!("agent-{number}")).build().await?;
        let inbox = node.subscriber(&format!("inbox/{number}")).build()?;
        let next = format!("inbox/{}", (number + 1) % count);
        agents.spawn(pass_on(inbox, node.publisher(&next).build()?));
    }
    let mut inbox = chief.subscriber::<Token>("inbox/0").build()?;
    let mut first = chief.publisher::<Token>("inbox/1").build()?;
    inbox.wait_for_publisher().await?;
    first.wait_for_listener().await?;
    println!("{count} agents after {:.1?}", started.elapsed());

    let started = Instant::now();
    for lap in 0..LAPS {
        first.publish(&Token { lap })?;
        assert_eq!(inbox.recv().await?.lap, lap);
    }
    let steps = LAPS * u32::try_from(count)?;
    println!("{:.1?} from agent to agent", started.elapsed() / steps);
    Ok(())
}

async fn pass_on(mut inbox: Subscriber<Token>, mut next: Publisher<Token>) -> Result<(), Failed> {
    next.wait_for_listener().await?;
    loop {
        let lap = inbox.recv().await?.lap.to_native();
        next.publish(&Token { lap })?;
    }
}
