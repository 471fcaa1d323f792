//! How fast `mesh topic echo --json` prints, and what a publisher pays while it is echoed or
//! recorded, against a plain subscriber.
//!
//! `cargo build --release --bin mesh && cargo bench -p shmesh-bench --bench echo`. Echo, recorder
//! and subscriber are processes of their own. The kinds take turns, and ratios are medians of those
//! inside the rounds.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss
)]

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Message, Node, Publisher, Raw};
use shmesh_shm::monotonic_ns;

const ADDRESS: &str = "127.0.0.1:7694";
const PATIENCE: Duration = Duration::from_secs(10);
/// Says to this binary that it is the plain subscriber.
const ROLE: &str = "SHMESH_BENCH_SUBSCRIBER";
const ROUNDS: usize = 9;
const BURSTS: usize = 1_000;
const BURST: usize = 10;

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Joint {
    name: String,
    angle: f64,
    speed: f64,
    limits: [f32; 2],
}

/// About 1 kB as an archive, with 20 structures in it.
#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Robot {
    stamp_ns: u64,
    name: String,
    joints: Vec<Joint>,
}

impl Robot {
    fn new() -> Self {
        let joint = |number: u32| Joint {
            name: format!("j{number}"),
            angle: 0.1 * f64::from(number),
            speed: 1.5,
            limits: [-1.0, 1.0],
        };
        Self {
            stamp_ns: 0,
            name: "robot".into(),
            joints: (0..20).map(joint).collect(),
        }
    }
}

fn tool(args: &[&str], out: Stdio) -> Child {
    let own = std::env::current_exe().unwrap();
    let mesh = own.parent().unwrap().parent().unwrap().join("mesh");
    assert!(mesh.exists(), "first: cargo build --release --bin mesh");
    let mut command = Command::new(mesh);
    command.args(args).args(["--coordinator", ADDRESS]);
    command.stdout(out).stderr(Stdio::null()).spawn().unwrap()
}

/// Seconds that the threads of a process had a processor.
fn cpu_s(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    ticks as f64 / 100.0
}

fn end(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
}

/// Prints as fast as it can for some seconds, of a publisher that sends more than that.
fn echo(node: &Node) {
    let mut publisher = node.publisher::<Robot>("robot").build().unwrap();
    let args = ["topic", "echo", "robot", "--json", "--depth", "4096"];
    let mut child = tool(&args, Stdio::piped());
    let mut out = child.stdout.take().unwrap();
    let lines = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&lines);
    let reading = std::thread::spawn(move || {
        let mut block = vec![0; 1 << 20];
        while let Ok(len @ 1..) = out.read(&mut block) {
            let found = block[..len].iter().filter(|byte| **byte == b'\n').count();
            count.fetch_add(found as u64, Ordering::Relaxed);
        }
    });
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_over);
    let sending = std::thread::spawn(move || {
        let robot = Robot::new();
        // In bursts that the ring holds, also while the printer waits for its reader.
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..400 {
                publisher.publish(&robot).unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    while lines.load(Ordering::Relaxed) < 10_000 {
        std::thread::yield_now();
    }
    let before = (Instant::now(), lines.load(Ordering::Relaxed), cpu_s(&child));
    std::thread::sleep(Duration::from_secs(4));
    let printed = (lines.load(Ordering::Relaxed) - before.1) as f64;
    let (took_s, busy_s) = (before.0.elapsed().as_secs_f64(), cpu_s(&child) - before.2);
    is_over.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    end(child);
    reading.join().unwrap();
    println!(
        "echo --json of 1 kB: {:.0} messages/s, {:.0} for each second of its processor time",
        printed / took_s,
        printed / busy_s
    );
}

/// Who listens while a publisher is measured.
#[derive(Clone, Copy, Debug)]
enum Listener {
    Plain,
    Echo,
    Recorder,
}

impl Listener {
    fn start(self, topic: &str) -> Child {
        match self {
            Self::Plain => {
                let own = std::env::current_exe().unwrap();
                let mut command = Command::new(own);
                let command = command.env(ROLE, topic).stdin(Stdio::null());
                command.spawn().unwrap()
            }
            Self::Echo => tool(&["topic", "echo", topic, "--json"], Stdio::null()),
            Self::Recorder => tool(
                &["bag", "record", topic, "--overwrite", "-o", &file()],
                Stdio::null(),
            ),
        }
    }
}

fn file() -> String {
    format!("/dev/shm/shmesh-bench-echo-{}.mcap", std::process::id())
}

/// The plain subscriber: takes what comes until it is ended.
fn subscribe(topic: &str) {
    let node = Node::builder("plain").coordinator(ADDRESS);
    let node = node.build_blocking().unwrap();
    let subscriber = node.subscriber::<Raw>(topic);
    let mut subscriber = subscriber.build().unwrap();
    while subscriber.recv_blocking(PATIENCE).is_ok() {}
}

/// Median nanoseconds of a message that is published in a burst.
fn cost(publisher: &mut Publisher<Raw>, bytes: &[u8]) -> f64 {
    let mut found: Vec<u64> = (0..BURSTS)
        .map(|_| {
            std::thread::sleep(Duration::from_micros(500));
            let start_ns = monotonic_ns();
            for _ in 0..BURST {
                publisher.publish_bytes(bytes).unwrap();
            }
            (monotonic_ns() - start_ns) / BURST as u64
        })
        .collect();
    found.sort_unstable();
    found[found.len() / 2] as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn costs(node: &Node, size: usize) {
    let topic = format!("cost/{size}");
    let mut publisher = node.publisher::<Raw>(&topic).build().unwrap();
    let bytes = vec![7; size];
    let kinds = [Listener::Plain, Listener::Echo, Listener::Recorder];
    let mut found = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (kind, found) in kinds.iter().zip(&mut found) {
            let child = kind.start(&topic);
            publisher.wait_for_listener_blocking(PATIENCE).unwrap();
            found.push(cost(&mut publisher, &bytes));
            end(child);
            while publisher.listener_count() > 0 {
                std::thread::yield_now();
            }
        }
    }
    for (kind, costs) in kinds.iter().zip(&found) {
        let ratios = costs.iter().zip(&found[0]).map(|(its, plain)| its / plain);
        println!(
            "publish {size:>6} B to {:<10} {:>8.0} ns, {:.2} x plain",
            format!("{kind:?}"),
            median(costs.clone()),
            median(ratios.collect())
        );
    }
    let _ = std::fs::remove_file(file());
}

fn main() {
    if let Ok(topic) = std::env::var(ROLE) {
        return subscribe(&topic);
    }
    let builder = Node::builder("bench")
        .coordinator(ADDRESS)
        .embedded_coordinator();
    let node = builder.build_blocking().unwrap();
    echo(&node);
    for size in [64, 1_000, 100_000] {
        costs(&node, size);
    }
}
