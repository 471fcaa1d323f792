//! How late an urgent message of 64 B is on a network link that a stream of 16 MiB saturates:
//! against the same link idle, and beside the stream without a priority.
//!
//! `cargo bench -p shmesh-bench --bench priority`. Two nodes talk over TCP on the loopback
//! interface; each has its threads, and each of the four ends has one of its own, which sleeps
//! while there is nothing to do. The two ends of the small messages go before all other threads
//! (SCHED_FIFO, where that is allowed), as on a robot: the nodes' own threads and the stream's do
//! not. A message is sent every millisecond. Latencies are one-way, from the moment of sending, by
//! the one clock. The three take turns for some rounds, and a line has the medians of what the
//! rounds found, so that a moment in which the computer was elsewhere does not decide; the ratio
//! is the median of those inside the rounds.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shmesh::{Node, Overflow, Priority, Raw, Transports};
use shmesh_bench::median;
use shmesh_shm::monotonic_ns;

const PATIENCE: Duration = Duration::from_secs(10);
const PERIOD: Duration = Duration::from_millis(1);
const ROUNDS: usize = 9;
const WARM_UP: usize = 300;
const COUNT: usize = 1_500;
const STREAM_BYTES: usize = 16 << 20;

fn node(name: &str) -> Node {
    let builder = Node::builder(name)
        .coordinator("127.0.0.1:7691")
        .embedded_coordinator()
        .transports(Transports::Network);
    builder.build_blocking().unwrap()
}

/// A stream that goes on until told otherwise.
struct Stream {
    is_over: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
    started: Instant,
}

impl Stream {
    fn start(near: &Node, far: &Node, topic: &str) -> Self {
        let overflow = Overflow::Block {
            depth: 2,
            deadline: PATIENCE,
        };
        let subscriber = far.subscriber::<Raw>(topic).overflow(overflow);
        let mut subscriber = subscriber.build().unwrap();
        let publisher = near.publisher::<Raw>(topic).reserve(STREAM_BYTES, 4);
        let mut publisher = publisher.build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let bytes = Arc::new(AtomicU64::new(0));
        let (stop, count) = (Arc::clone(&is_over), Arc::clone(&bytes));
        let done = Arc::clone(&is_over);
        let sending = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let loan = publisher.loan(STREAM_BYTES).unwrap();
                publisher.send(loan).unwrap();
            }
        });
        let receiving = std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let sample = subscriber.recv_blocking(PATIENCE).unwrap();
                count.fetch_add(sample.len() as u64, Ordering::Relaxed);
            }
        });
        Self {
            is_over,
            bytes,
            threads: vec![sending, receiving],
            started: Instant::now(),
        }
    }

    /// Ends it; how many bytes it had in a nanosecond.
    fn end(self) -> f64 {
        let nanos = self.started.elapsed().as_secs_f64() * 1e9;
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        #[allow(clippy::cast_precision_loss)] // for people to read
        let rate = bytes as f64 / nanos;
        rate
    }
}

/// Has this thread go before all others of this computer; false if it may not.
fn hurry() -> bool {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    let thread = link.file_name().unwrap();
    let mut command = Command::new("chrt");
    let command = command
        .args(["--reset-on-fork", "--fifo", "--pid", "1"])
        .arg(thread);
    command.status().is_ok_and(|status| status.success())
}

/// Latencies in nanoseconds, the shortest first.
fn latencies(near: &Node, far: &Node, topic: &str, priority: Priority) -> Vec<u64> {
    let subscriber = far
        .subscriber::<Raw>(topic)
        .overflow(Overflow::KeepLast(4096));
    let mut subscriber = subscriber.build().unwrap();
    let publisher = near.publisher::<Raw>(topic).priority(priority);
    let mut publisher = publisher.build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let receiving = std::thread::spawn(move || {
        hurry();
        let mut found = Vec::with_capacity(COUNT);
        for number in 0..WARM_UP + COUNT {
            let sample = subscriber.recv_blocking(PATIENCE).unwrap();
            let latency_ns = monotonic_ns() - sample.sent_ns().unwrap();
            assert_eq!(
                (sample.sequence(), sample.lost_before()),
                (number as u64, 0)
            );
            if number >= WARM_UP {
                found.push(latency_ns);
            }
        }
        found
    });
    let mut due = Instant::now();
    for _ in 0..WARM_UP + COUNT {
        due += PERIOD;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        publisher.publish_bytes(&[7; 64]).unwrap();
    }
    let mut found = receiving.join().unwrap();
    found.sort_unstable();
    found
}

/// What was found in one round of one kind.
struct Found {
    /// The shares of [`SHARES`], in microseconds.
    us: [f64; SHARES.len()],
    /// Of the stream beside it, in GB/s.
    rate: f64,
}

const SHARES: [f64; 4] = [0.5, 0.99, 0.999, 1.0];

impl Found {
    fn new(sorted: &[u64], rate: f64) -> Self {
        let us = SHARES.map(|share| {
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss
            )] // an index
            let idx = ((sorted.len() - 1) as f64 * share) as usize;
            #[allow(clippy::cast_precision_loss)] // for people to read
            let us = sorted[idx] as f64 / 1e3;
            us
        });
        Self { us, rate }
    }

    fn p99(&self) -> f64 {
        self.us[1]
    }
}

fn report(what: &str, found: &[Found], idle: &[Found]) {
    let [p50, p99, p999, max]: [f64; SHARES.len()] =
        std::array::from_fn(|share| median(found.iter().map(|found| found.us[share])));
    let pairs = found.iter().zip(idle);
    let ratio = median(pairs.map(|(found, idle)| found.p99() / idle.p99()));
    let rate = median(found.iter().map(|found| found.rate));
    println!("{what:<24}{p50:>10.1}{p99:>10.1}{p999:>10.1}{max:>10.1}{ratio:>8.1}{rate:>8.2}");
}

fn main() {
    let near = node("near");
    let far = node("far");
    if !hurry() {
        println!("not as a real-time process: latencies contain waits for a processor");
    }
    println!("64 B every ms over TCP: medians of {ROUNDS} rounds of {COUNT}");
    println!(
        "{:<24}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8}",
        "", "p50 us", "p99 us", "p99.9 us", "max us", "p99", "GB/s"
    );
    let mut found: [Vec<Found>; 3] = Default::default();
    let kinds = [None, Some(Priority::Normal), Some(Priority::Urgent)];
    for round in 0..ROUNDS {
        for (number, (kind, found)) in kinds.iter().zip(&mut found).enumerate() {
            let topic = format!("{round}/{number}");
            let stream = kind.map(|_| Stream::start(&near, &far, &format!("stream/{topic}")));
            let sorted = latencies(&near, &far, &topic, kind.unwrap_or(Priority::Urgent));
            found.push(Found::new(&sorted, stream.map_or(0.0, Stream::end)));
        }
    }
    report("idle link", &found[0], &found[0]);
    report("beside 16 MiB, normal", &found[1], &found[0]);
    report("beside 16 MiB, urgent", &found[2], &found[0]);
}
