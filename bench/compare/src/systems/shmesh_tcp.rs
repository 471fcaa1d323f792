//! shmesh over TCP: raw bytes, `KeepLast` for ping, `Block` for stream, no send times. With a key
//! nodes prove to each other that they have it when they connect; messages are not encrypted.

use anyhow::{Result, ensure};
use shmesh::{AuthKey, Node, Overflow, Publisher, Raw, Sample, Subscriber, Transports};
use tokio::runtime::Runtime;

use super::{Side, System, TcpEnds};
use crate::measure::{Setting, Task};
use crate::tcp;

/// Sleeps in the kernel until a message comes: with one core it does not spin first.
pub static BLOCKING: System = System {
    name: "shmesh-tcp",
    can: |task, _| task.is_tcp(),
    play: |setting, mut side, part| {
        part.play_tcp(setting.task, || {
            connect(setting, &mut side, Wait::Sleep, None)
        })
    },
};

pub static WITH_KEY: System = System {
    name: "shmesh-tcp-key",
    can: |task, _| task.is_tcp(),
    play: |setting, mut side, part| {
        let key = AuthKey::new(KEY)?;
        part.play_tcp(setting.task, || {
            connect(setting, &mut side, Wait::Sleep, Some(key))
        })
    },
};

/// Reads in a loop, as `bare-tcp-poll` does, and like it for ping only. What finds no room in the
/// socket is left to a thread of the node, which waits until this one is taken off the core.
pub static POLLED: System = System {
    name: "shmesh-tcp-poll",
    can: |task, _| task == Task::TcpPing,
    play: |setting, mut side, part| {
        part.play_tcp(setting.task, || {
            connect(setting, &mut side, Wait::Poll, None)
        })
    },
};

/// Sleeps in tokio. Each message enters the runtime anew, which would count in a stream.
pub static ASYNC: System = System {
    name: "shmesh-tcp-async",
    can: |task, _| task == Task::TcpPing,
    play: |setting, mut side, part| {
        part.play_tcp(setting.task, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            connect(setting, &mut side, Wait::Async(runtime), None)
        })
    },
};

enum Wait {
    Sleep,
    Poll,
    Async(Runtime),
}

struct ShmeshTcp {
    publisher: Publisher<Raw>,
    subscriber: Subscriber<Raw>,
    size: usize,
    wait: Wait,
}

const KEY: &[u8] = b"a key that both of the processes have";
/// Messages up to this are sent from the stack; others are written in a loan.
const INLINE_BYTES: usize = 64;
/// Bytes that may be unread in a stream, as far as [`UNREAD_MIN`] and [`UNREAD_MAX`] let them.
const UNREAD_BYTES: usize = 2 << 20;
const UNREAD_MIN: usize = 4;
const UNREAD_MAX: usize = 8192;

fn connect(
    setting: &Setting,
    side: &mut Side<'_>,
    wait: Wait,
    key: Option<AuthKey>,
) -> Result<ShmeshTcp> {
    let (ours, theirs, node) = match side {
        Side::Here(_) => ("there", "here", join("here", side.line()?, key, false)?),
        Side::There => {
            let address = tcp::free_address()?;
            let node = join("there", address.clone(), key, true)?;
            side.tell(&address)?;
            ("here", "there", node)
        }
    };
    let unread = (UNREAD_BYTES / setting.size).clamp(UNREAD_MIN, UNREAD_MAX);
    let overflow = match setting.task {
        Task::TcpStream => Overflow::Block {
            depth: u32::try_from(unread)?,
            deadline: tcp::WAIT,
        },
        _ => Overflow::KeepLast(16),
    };
    let topic = |name: &str| format!("{}/{name}", setting.id);
    let subscriber = node.subscriber::<Raw>(&topic(theirs)).overflow(overflow);
    let mut subscriber = subscriber.build()?;
    let publisher = node.publisher::<Raw>(&topic(ours)).without_timestamps();
    let mut publisher = publisher.build()?;
    subscriber.wait_for_publisher_blocking(tcp::WAIT)?;
    publisher.wait_for_listener_blocking(tcp::WAIT)?;
    Ok(ShmeshTcp {
        publisher,
        subscriber,
        size: setting.size,
        wait,
    })
}

/// A coordinator that is embedded has the key of its node.
fn join(name: &str, address: String, key: Option<AuthKey>, is_embedding: bool) -> Result<Node> {
    let mut builder = Node::builder(name)
        .coordinator(address)
        .transports(Transports::Network)
        .without_signal_handling();
    if let Some(key) = key {
        builder = builder.auth_key(key);
    }
    if is_embedding {
        builder = builder.embedded_coordinator();
    }
    Ok(builder.join_timeout(tcp::WAIT).build_blocking()?)
}

impl ShmeshTcp {
    fn next(&mut self) -> Result<Sample<Raw>> {
        let subscriber = &mut self.subscriber;
        let sample = match &self.wait {
            Wait::Sleep => subscriber.recv_blocking(tcp::WAIT)?,
            Wait::Poll => subscriber.recv_spin(tcp::WAIT)?,
            Wait::Async(runtime) => runtime
                .block_on(async { tokio::time::timeout(tcp::WAIT, subscriber.recv()).await })??,
        };
        Ok(sample)
    }
}

impl TcpEnds for ShmeshTcp {
    fn send(&mut self, number: u64) -> Result<()> {
        let sent = if self.size <= INLINE_BYTES {
            let mut message = [0; INLINE_BYTES];
            let message = &mut message[..self.size];
            tcp::write(message, number);
            self.publisher.publish_bytes(message)?
        } else {
            let mut loan = self.publisher.loan(self.size)?;
            tcp::write(&mut loan, number);
            self.publisher.send(loan)?
        };
        ensure!(sent.listeners == 1, "message {number} reached nobody");
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        let sample = self.next()?;
        tcp::read([&sample[..]], self.size)
    }
}
