//! A control loop on a thread of its own, a report beside it, and an orderly end.
//!
//! Run with `cargo run --example timers`; nothing else needs to run. Ctrl-C ends it.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shmesh::{Node, Tick};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::builder("arm").embedded_coordinator().build().await?;
    let worst_ns = Arc::new(AtomicU64::new(0));

    // Five hundred times a second, at a steady pace: late ticks do not delay those after them.
    let mut torques = node.publisher::<f64>("torque").build()?;
    let control = node.timer_on_thread(Duration::from_millis(2), {
        let worst_ns = Arc::clone(&worst_ns);
        move |tick: Tick| {
            let late_ns = u64::try_from(tick.age().as_nanos()).unwrap_or(u64::MAX);
            worst_ns.fetch_max(late_ns, Ordering::Relaxed);
            let seconds = 0.002 * tick.number as f64;
            torques.publish(&seconds.sin())
        }
    })?;

    // In this runtime, and as a loop.
    let _torques = node.listen::<f64>("torque", |_| {})?;
    let mut report = node.every(Duration::from_secs(1))?;
    let reporting = async {
        while let Ok(tick) = report.tick().await {
            let late = Duration::from_nanos(worst_ns.swap(0, Ordering::Relaxed));
            let stats = control.stats();
            println!(
                "{} s: {} calls, {} missed, at most {late:?} late",
                tick.number + 1,
                stats.handled,
                stats.lost
            );
        }
    };
    let (end, ()) = tokio::join!(node.forever(), reporting);
    println!("left the mesh: {end:?}");
    Ok(())
}
