//! The systems: one file each, behind one small trait for shared memory and one for TCP.
//!
//! One more is its file, with its row or rows, and its lines below.

mod bare;
mod bare_tcp;
mod iceoryx;
mod shmesh_;
mod shmesh_tcp;
#[cfg(feature = "tachyon")]
mod tachyon;
#[cfg(feature = "zenoh")]
mod zenoh_;
#[cfg(feature = "zeromq")]
mod zeromq;

use anyhow::{Context as _, Result};

use crate::measure::{Figure, OtherEnd, Part, Setting, Task};

/// All of them, in the order of the rows. The first of a task is what the others are compared
/// with, unless shmesh does the task.
static SYSTEMS: &[&System] = &[
    &bare::SYSTEM,
    &shmesh_::SYSTEM,
    &iceoryx::SYSTEM,
    #[cfg(feature = "tachyon")]
    &tachyon::SYSTEM,
    &bare_tcp::BLOCKING,
    &bare_tcp::POLLED,
    // The first of these is what the others over TCP are compared with.
    &shmesh_tcp::BLOCKING,
    &shmesh_tcp::WITH_KEY,
    &shmesh_tcp::POLLED,
    &shmesh_tcp::ASYNC,
    #[cfg(feature = "zenoh")]
    &zenoh_::SYSTEM,
    #[cfg(feature = "zeromq")]
    &zeromq::PLAIN,
    #[cfg(feature = "zeromq")]
    &zeromq::WITH_KEYS,
];

/// The limit, by which the distance of the cores is told.
pub static BARE: &System = &bare::SYSTEM;

/// What can be run: a row of the table.
#[derive(Debug)]
pub struct System {
    pub name: &'static str,
    /// Whether it does a task with messages of so many bytes.
    pub can: fn(Task, usize) -> bool,
    /// Connects its ends and does its part with them.
    pub play: fn(&Setting, Side<'_>, Part) -> Result<Figure>,
}

impl System {
    pub fn all() -> Vec<&'static Self> {
        SYSTEMS.to_vec()
    }

    /// The error names those that there are.
    pub fn of_name(name: &str) -> Result<&'static Self, String> {
        let found = SYSTEMS.iter().find(|system| system.name == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = SYSTEMS.iter().map(|system| system.name).collect();
            format!("there is no {name} here, but {}", names.join(", "))
        })
    }
}

/// Which of the two processes this is.
pub enum Side<'a> {
    /// The one that measures.
    Here(&'a mut OtherEnd),
    /// The other one.
    There,
}

impl Side<'_> {
    /// Tells the other side something.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        match self {
            Self::Here(other) => other.tell(line)?,
            Self::There => println!("{line}"),
        }
        Ok(())
    }

    /// The next line that the other side tells.
    pub fn line(&mut self) -> Result<String> {
        let line = match self {
            Self::Here(other) => other.line()?,
            Self::There => std::io::stdin().lines().next().context("stdin")??,
        };
        Ok(line)
    }
}

/// Two connected ends in one process: one to send, one to receive.
pub trait Ends {
    /// Sends a message, waiting for room.
    fn send(&mut self, number: u64) -> Result<()>;
    /// Takes a message if there is one.
    fn try_receive(&mut self) -> Result<bool>;
}

/// The same over TCP, where messages may be gathered and are written, numbered and checked.
pub trait TcpEnds {
    /// Sends a message that is written by [`crate::tcp::write`], waiting for room; may keep it
    /// until `flush`.
    fn send(&mut self, number: u64) -> Result<()>;
    /// Sends what was kept.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
    /// Waits for the next message, at most [`crate::tcp::WAIT`]; its number, as
    /// [`crate::tcp::read`] says.
    fn receive(&mut self) -> Result<u64>;
}
