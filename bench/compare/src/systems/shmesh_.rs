//! shmesh: raw bytes, `KeepLast` for ping, `Block` for stream, no send times.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Result;
use shmesh::{Node, Overflow, Publisher, Raw, Subscriber};

use super::{Ends, Side, System};
use crate::measure::{Setting, Task};

pub static SYSTEM: System = System {
    name: "shmesh",
    can: |task, _| !task.is_tcp(),
    play: |setting, side, part| part.play(setting, |setting| connect(setting, &side)),
};

struct Shmesh {
    publisher: Publisher<Raw>,
    subscriber: Subscriber<Raw>,
    size: usize,
    is_written: bool,
}

fn connect(setting: &Setting, side: &Side<'_>) -> Result<Shmesh> {
    let address = "127.0.0.1:7691";
    let (ours, theirs) = match side {
        Side::Here(_) => ("there", "here"),
        Side::There => ("here", "there"),
    };
    // One for all channels: a new channel is measured, not a new node.
    static NODE: OnceLock<Node> = OnceLock::new();
    let node = match NODE.get() {
        Some(node) => node,
        None => {
            let builder = Node::builder(ours)
                .coordinator(address)
                .embedded_coordinator();
            let node = builder
                .join_timeout(Duration::from_secs(5))
                .build_blocking()?;
            NODE.get_or_init(|| node)
        }
    };
    let deadline = Duration::from_secs(10);
    let overflow = match setting.task {
        Task::Stream if setting.size > 65_536 => Overflow::Block { depth: 8, deadline },
        Task::Stream => Overflow::Block {
            depth: 1024,
            deadline,
        },
        _ => Overflow::KeepLast(16),
    };
    let topic = |name: &str| format!("{}/{}/{name}", setting.id, setting.channel);
    let mut subscriber = node
        .subscriber::<Raw>(&topic(theirs))
        .overflow(overflow)
        .build()?;
    let publisher = node.publisher::<Raw>(&topic(ours)).without_timestamps();
    // As many as are unread or on their way at once.
    let chunks = if setting.task == Task::Stream { 12 } else { 4 };
    let mut publisher = publisher.reserve(setting.size, chunks).build()?;
    subscriber.wait_for_publisher_blocking(deadline)?;
    publisher.wait_for_listener_blocking(deadline)?;
    let is_written = setting.task == Task::Stream && setting.size <= 1024;
    Ok(Shmesh {
        publisher,
        subscriber,
        size: setting.size,
        is_written,
    })
}

impl Ends for Shmesh {
    #[inline]
    fn send(&mut self, number: u64) -> Result<()> {
        if self.size <= 64 {
            let mut message = [0x5a; 64];
            message[..8].copy_from_slice(&number.to_le_bytes());
            self.publisher.publish_bytes(&message[..self.size])?;
            return Ok(());
        }
        let mut loan = self.publisher.loan(self.size)?;
        if self.is_written {
            loan.fill(0x5a);
        }
        loan[..8].copy_from_slice(&number.to_le_bytes());
        self.publisher.send(loan)?;
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self) -> Result<bool> {
        Ok(self.subscriber.try_recv()?.is_some())
    }
}
