//! What can be measured, and how the two ends agree on it.

use std::net::IpAddr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use shmesh_shm::monotonic_ns;

use crate::Transports;
use crate::limits::MESSAGE_BYTES_MAX;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pattern {
    /// One message back and forth: half of the round trip
    Ping,
    /// Messages at a fixed rate: one-way latency from the time each was due
    Paced,
    /// As fast as it goes, nothing lost: throughput
    Stream,
    /// Service calls: whole round trips
    Call,
}

impl Pattern {
    pub(super) const ALL: [Self; 3] = [Self::Ping, Self::Paced, Self::Stream];
}

/// How messages are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wait {
    /// Look without sleeping: the lowest latency, for a whole core
    Spin,
    /// Sleep in the kernel
    Block,
    /// Sleep in tokio
    Async,
}

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    /// Shared memory where it can be had, else TCP
    Auto,
    /// Shared memory
    Shm,
    /// TCP, on one host, too
    Tcp,
}

impl Transport {
    pub(super) const fn transports(self) -> Transports {
        match self {
            Self::Auto => Transports::Auto,
            Self::Shm => Transports::SharedMemory,
            Self::Tcp => Transports::Network,
        }
    }
}

/// What the sender writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Payload {
    /// A header into loaned memory: measures the path
    Loan,
    /// The whole message, each time
    Write,
    /// The whole message, and the receiver checks each byte
    Verify,
}

impl Payload {
    /// Writes message `number`.
    #[inline]
    pub(super) fn write(self, message: &mut [u8], number: u64) {
        match self {
            Self::Loan => {
                if let Some(header) = message.first_chunk_mut::<8>() {
                    *header = number.to_le_bytes();
                }
            }
            Self::Write => message.fill(number.to_le_bytes()[0]),
            Self::Verify => {
                for (idx, byte) in message.iter_mut().enumerate() {
                    *byte = verify_byte(number, idx);
                }
            }
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) pattern: Pattern,
    pub(super) wait: Wait,
    pub(super) transport: Transport,
    pub(super) payload: Payload,
    pub(super) message_size: usize,
    pub(super) seconds: f64,
    pub(super) pace: Pace,
    /// Calls under way at once.
    pub(super) in_flight: u32,
}

/// How often something begins, in times a second; none: when what was before it is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pace(Option<f64>);

impl Pace {
    pub(super) fn of(pattern: Pattern, rate: Option<f64>) -> Self {
        match pattern {
            Pattern::Paced => Self(rate.or(Some(RATE))),
            Pattern::Call => Self(rate),
            Pattern::Ping | Pattern::Stream => Self(None),
        }
    }

    /// The same for a reference: often enough, and not while the one before is read.
    pub(super) fn of_reference(self) -> Self {
        Self(self.0.map(|rate| rate.clamp(RATE / 10.0, RATE)))
    }

    pub(super) fn per_second(self) -> f64 {
        self.0.unwrap_or(RATE)
    }

    /// Nanoseconds after the start at which number `number` is due.
    pub(super) fn due_ns(self, number: u64) -> u64 {
        // Exact for years of a schedule.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let due = self.0.map_or(0, |rate| (number as f64 * 1e9 / rate) as u64);
        due
    }

    /// Waits until it is due.
    pub(super) fn wait(self, begin_ns: u64, number: u64) {
        if self.0.is_some() {
            wait_until(begin_ns + self.due_ns(number));
        }
    }
}

/// Sleeps, then looks at the clock: the sender is on time, and asleep in between.
pub(super) fn wait_until(due_ns: u64) {
    let left = Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()));
    if left > 2 * WAKE_EARLY {
        std::thread::sleep(left - WAKE_EARLY);
    }
    while monotonic_ns() < due_ns {
        std::hint::spin_loop();
    }
}

/// The sender's word to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Control {
    /// Serve the bare reference of this, at that address of yours.
    Reference { spec: Spec, host: IpAddr },
    /// Get ready for this.
    Start(Spec),
    /// The schedule of `paced` begins at this time of the shared clock.
    Begin { at_ns: u64 },
    /// So many messages were sent; say what came.
    Finish { sent: u64 },
}

/// The receiver's word to the sender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The bare reference is served at that port of the address that was asked for, or cannot be.
    Reference { port: Option<u16> },
    /// Connected and waiting; pinned to that core.
    Ready { core: Option<usize> },
    /// What came.
    Done(Outcome),
}

/// What the receiver saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) received: u64,
    pub(super) lost: u64,
    /// Messages whose bytes were not what was sent.
    pub(super) damaged: u64,
    /// Latencies in nanoseconds with their counts.
    pub(super) latencies: Vec<(u64, u64)>,
}

/// Reads a size: `64`, `1k`, `1kB`, `1KiB`, `1MiB`. Letters alone are decimal, as rosy has them.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "ki" | "kib" => 1024.0,
        "mi" | "mib" => 1024.0 * 1024.0,
        "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => {
            return Err(format!(
                "unknown unit `{}`; use 64, 1k, 1kB, 1KiB, 1MiB",
                unit.trim()
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "expected a number like 64 or 1.5k".to_owned())?;
    let bytes = number * factor;
    #[allow(clippy::cast_precision_loss)] // the limit is a power of two
    let max = MESSAGE_BYTES_MAX as f64;
    if bytes.fract() != 0.0 || bytes > max {
        return Err(format!("must be whole bytes, at most {MESSAGE_BYTES_MAX}"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked above
    let bytes = bytes as usize;
    Ok(bytes)
}

/// The pattern of `verify`: every message differs in every byte from the one before.
pub(super) fn verify_byte(number: u64, idx: usize) -> u8 {
    let mixed = number.wrapping_mul(0x9e37_79b9).wrapping_add(idx as u64);
    mixed.to_le_bytes()[0] ^ mixed.to_le_bytes()[1]
}

/// The paced sender sleeps until this long before a message is due, then looks at the clock.
const WAKE_EARLY: Duration = Duration::from_micros(200);
/// Times a second, unless said.
const RATE: f64 = 1000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("64", 64),
            ("1k", 1000),
            ("1kB", 1000),
            ("1KiB", 1024),
            ("1MiB", 1 << 20),
            ("1.5k", 1500),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1q", "0.5", "2GiB", "1e99", "1..2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_schedule_does_not_drift() {
        let spec = Spec {
            pattern: Pattern::Paced,
            wait: Wait::Spin,
            transport: Transport::Shm,
            payload: Payload::Loan,
            message_size: 0,
            seconds: 1.0,
            pace: Pace(Some(3.0)),
            in_flight: 1,
        };
        assert_eq!(spec.pace.due_ns(0), 0);
        assert_eq!(spec.pace.due_ns(3_000_000), 1_000_000_000_000_000);
    }

    #[test]
    fn calls_wait_for_each_other_unless_a_pace_is_asked_for() {
        assert_eq!(Pace::of(Pattern::Call, None).due_ns(7), 0);
        assert_eq!(Pace::of(Pattern::Call, Some(100.0)).due_ns(7), 70_000_000);
        assert_eq!(Pace::of(Pattern::Paced, None).due_ns(7), 7_000_000);
        assert_eq!(Pace::of(Pattern::Ping, Some(100.0)).due_ns(7), 0);
        let reference = Pace::of(Pattern::Call, Some(1e6)).of_reference();
        assert_eq!(
            reference.due_ns(1),
            1_000_000,
            "not while the one before is read"
        );
    }
}
