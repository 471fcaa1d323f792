//! One measurement over TCP: messages are written anew, numbered, and checked on arrival.
//!
//! All threads of each process, also those that a system starts for itself, share its core.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::measure::{self, Figure, Part, Task};
use crate::systems::TcpEnds;

/// For so long an end waits for a message before it gives up.
pub const WAIT: Duration = Duration::from_secs(10);

/// Added to a message's number: the other side answers it with its number.
const ANSWER: u64 = 1 << 63;
/// The number of the message after the last.
const GOODBYE: u64 = u64::MAX;
/// Messages of a stream between two looks at the clock.
const BETWEEN_LOOKS: u64 = 64;

impl Part {
    /// Does it over TCP. `connect` makes the ends.
    pub fn play_tcp<E: TcpEnds>(
        self,
        task: Task,
        connect: impl FnOnce() -> Result<E>,
    ) -> Result<Figure> {
        // Before threads are started, which take it over.
        measure::pin(self.core())?;
        let mut ends = connect()?;
        let Self::Measure(time) = self else {
            return answer(&mut ends);
        };
        let figure = match task {
            Task::TcpPing => measure::ping(time, |number| round_trip(&mut ends, number))?,
            Task::TcpStream => stream(&mut ends, time)?,
            _ => bail!("not over TCP"),
        };
        ends.send(GOODBYE)?;
        ends.flush()?;
        Ok(figure)
    }
}

/// Writes a message: its number, the rest filled with the low byte of that.
#[inline]
pub fn write(message: &mut [u8], number: u64) {
    message.fill(number as u8);
    message[..8].copy_from_slice(&number.to_le_bytes());
}

/// A message in memory of its own, for systems that take it.
#[cfg(any(feature = "zenoh", feature = "zeromq"))]
pub fn written(size: usize, number: u64) -> Vec<u8> {
    let mut message = vec![number as u8; size];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

/// An address on loopback that nobody listens on, for systems that do not say which they took.
pub fn free_address() -> Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}

/// The number of a message of `size` bytes, which may have come in parts. Looks at both ends of
/// it only, so that no system has to put parts together.
#[inline]
pub fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>, size: usize) -> Result<u64> {
    let mut parts = parts.into_iter();
    let first = parts.next().context("an empty message")?;
    let mut last = first;
    let mut bytes = first.len();
    for part in parts {
        bytes += part.len();
        last = part;
    }
    ensure!(bytes == size, "a message of {bytes} bytes, not {size}");
    let number = first.first_chunk().context("a number in parts")?;
    let number = u64::from_le_bytes(*number);
    let end = last.last().copied();
    ensure!(
        end == Some(number as u8),
        "message {number} ends in {end:?}"
    );
    Ok(number)
}

fn round_trip<E: TcpEnds>(ends: &mut E, number: u64) -> Result<Duration> {
    let before = Instant::now();
    ends.send(number | ANSWER)?;
    ends.flush()?;
    let answer = ends.receive()?;
    ensure!(answer == number, "answer {answer} to message {number}");
    Ok(before.elapsed())
}

/// Counts what has arrived: the last message is answered, and time ends with the answer.
fn stream<E: TcpEnds>(ends: &mut E, time: Duration) -> Result<Figure> {
    // The first messages warm up; the kernel finds the size of its buffers meanwhile.
    let first = send_for(ends, 0, time / 4)?;
    let started = Instant::now();
    let next = send_for(ends, first, time)?;
    Ok(Figure {
        messages_per_s: (next - first) as f64 / started.elapsed().as_secs_f64(),
        ..Figure::default()
    })
}

/// Sends for some time, then waits until all is received; the number after the last.
fn send_for<E: TcpEnds>(ends: &mut E, mut number: u64, time: Duration) -> Result<u64> {
    let started = Instant::now();
    while started.elapsed() < time {
        for _ in 0..BETWEEN_LOOKS {
            ends.send(number)?;
            number += 1;
        }
    }
    round_trip(ends, number)?;
    Ok(number + 1)
}

/// Answers what asks for it; none may be missing.
fn answer<E: TcpEnds>(ends: &mut E) -> Result<Figure> {
    let mut due = 0;
    loop {
        let number = ends.receive()?;
        if number == GOODBYE {
            return measure::wait_to_be_killed();
        }
        let is_answered = number & ANSWER != 0;
        let number = number & !ANSWER;
        ensure!(number == due, "message {number} when {due} was due");
        if is_answered {
            ends.send(number)?;
            ends.flush()?;
        }
        due += 1;
    }
}
