//! A service: one node adds numbers, another one asks it to, three calls at once.
//!
//! Run with `cargo run --example service`; nothing else needs to run.
#![allow(clippy::print_stdout)]

use shmesh::rkyv::{Archive, Serialize};
use shmesh::{CallError, Message, Node, Request};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Pair {
    left: i64,
    right: i64,
}

/// A handler. It may await; an error goes to the caller as text.
async fn add(pair: Request<Pair>) -> Result<i64, String> {
    let sum = pair.left.to_native().checked_add(pair.right.to_native());
    sum.ok_or_else(|| format!("too much for {}", pair.caller_name()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = Node::builder("adder")
        .embedded_coordinator()
        .build()
        .await?;
    // Serves until this is dropped.
    let _serving = provider
        .provider::<Pair, i64>("add")
        .concurrency(8)
        .serve(add)?;

    let caller = Node::builder("asker")
        .embedded_coordinator()
        .build()
        .await?;
    let client = caller.client::<Pair, i64>("add")?;
    client.wait_for_provider().await?;
    let calls = [(1, 2), (40, 2), (i64::MAX, 1)];
    let calls = calls.map(|(left, right)| client.start(&Pair { left, right }));
    for call in calls {
        match call?.await {
            Ok(sum) => println!("{} says {}", sum.publisher_name(), *sum),
            Err(CallError::Failed { provider, message }) => println!("{provider}: {message}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
