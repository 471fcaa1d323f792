//! How fast `mesh topic echo --json` prints into a pipe, beside prepared lines, and what a
//! publisher pays while it is echoed or recorded, against a plain subscriber.
//!
//! `cargo build --release --bin mesh && cargo bench -p shmesh-bench --bench echo`; `-- printing` is
//! the first part alone. Echo, recorder and subscriber are processes of their own. The kinds take
//! turns, and ratios are medians of those inside the rounds.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss
)]

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use shmesh::limits::ECHO_BYTES;
use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Message, Node, Publisher, Raw};
use shmesh_bench::{cpu_s, median, mesh};
use shmesh_shm::monotonic_ns;

const ADDRESS: &str = "127.0.0.1:7694";
const PATIENCE: Duration = Duration::from_secs(10);
/// Says to this binary that it is the plain subscriber.
const ROLE: &str = "SHMESH_BENCH_SUBSCRIBER";
/// Says to this binary that it prints prepared lines, and how long they are.
const LINE: &str = "SHMESH_BENCH_LINE";
/// About what echo adds to a message.
const ENVELOPE: usize = 100;
/// Messages that wait for echo, in its ring of 4096 and its pipe.
const WAITING: u64 = 3_000;
const OUR_CPU: usize = 0;
const ITS_CPU: usize = 1;
const ROUNDS: usize = 9;
const BURSTS: usize = 1_000;
const BURST: usize = 10;

#[derive(Archive, Serialize, Message, serde::Serialize)]
#[rkyv(crate = shmesh::rkyv)]
struct Joint {
    name: String,
    angle: f64,
    speed: f64,
    limits: [f32; 2],
}

/// About 1 kB as an archive, with 20 structures in it.
#[derive(Archive, Serialize, Message, serde::Serialize)]
#[rkyv(crate = shmesh::rkyv)]
struct Robot {
    stamp_ns: u64,
    name: String,
    joints: Vec<Joint>,
}

/// Which numbers are in the message: short ones are printed faster.
#[derive(Clone, Copy, Debug)]
enum Digits {
    /// Most have few.
    Few,
    /// Most have as many as there can be.
    All,
}

impl Robot {
    fn new(digits: Digits) -> Self {
        let joint = |number: u32| {
            let number = f64::from(number);
            let (angle, speed, limits) = match digits {
                Digits::Few => (0.1 * number, 1.5, [-1.0, 1.0]),
                Digits::All => (number.sin(), number.cos(), [-1.234_567_8, 0.987_654_3]),
            };
            Joint {
                name: format!("j{number}"),
                angle,
                speed,
                limits,
            }
        };
        Self {
            stamp_ns: 0,
            name: "robot".into(),
            joints: (0..20).map(joint).collect(),
        }
    }
}

fn tool(args: &[&str], out: Stdio, errors: Stdio) -> Child {
    let mut command = Command::new(mesh());
    command.args(args).args(["--coordinator", ADDRESS]);
    command.stdout(out).stderr(errors).spawn().unwrap()
}

fn end(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
}

/// A process that prints into a pipe, whose lines are counted.
struct Printer {
    child: Child,
    lines: Arc<AtomicU64>,
    reading: JoinHandle<()>,
}

impl Printer {
    /// It has a processor of its own: who reads its pipe is not what is measured.
    fn start(spawn: impl FnOnce() -> Child) -> Self {
        let mut child = pinned(ITS_CPU, spawn);
        let mut out = child.stdout.take().unwrap();
        let lines = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lines);
        let read = move || {
            let mut block = vec![0; 1 << 20];
            while let Ok(len @ 1..) = out.read(&mut block) {
                count.fetch_add(lines_in(&block[..len]), Ordering::Release);
            }
        };
        let reading = pinned(OUR_CPU, || std::thread::spawn(read));
        Self {
            child,
            lines,
            reading,
        }
    }

    /// Lines each second, and processor time of each second.
    fn measure(&self) -> (f64, f64) {
        while self.lines.load(Ordering::Acquire) < 50_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (start, lines) = (Instant::now(), self.lines.load(Ordering::Acquire));
        let busy_s = cpu_s(&self.child);
        std::thread::sleep(Duration::from_secs(3));
        let printed = (self.lines.load(Ordering::Acquire) - lines) as f64;
        let took_s = start.elapsed().as_secs_f64();
        (printed / took_s, (cpu_s(&self.child) - busy_s) / took_s)
    }

    /// What it said beside.
    fn end(self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let said = self.child.wait_with_output().unwrap().stderr;
        self.reading.join().unwrap();
        String::from_utf8(said).unwrap()
    }
}

/// What is started in `start` runs on this processor, if there are so many.
fn pinned<T>(cpu: usize, start: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set(cpu);
    let _ = sched_setaffinity(None, &one);
    let started = start();
    sched_setaffinity(None, &before).unwrap();
    started
}

/// Counted in bytes, which compilers make wide instructions of.
fn lines_in(text: &[u8]) -> u64 {
    let ends = |part: &[u8]| part.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>();
    text.chunks(u8::MAX.into())
        .map(|part| u64::from(ends(part)))
        .sum()
}

/// Prints as fast as it can for some seconds, while as many messages wait as it may have.
fn echo(node: &Node, digits: Digits) -> f64 {
    let mut publisher = node.publisher::<Robot>("robot").build().unwrap();
    let args = ["topic", "echo", "robot", "--json", "--depth", "4096"];
    let printer = Printer::start(|| tool(&args, Stdio::piped(), Stdio::piped()));
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let (stop, lines) = (Arc::clone(&is_over), Arc::clone(&printer.lines));
    let send = move || {
        let robot = Robot::new(digits);
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            // What is between the ring and the count of lines is in the ring for us.
            while sent < lines.load(Ordering::Acquire) + WAITING {
                publisher.publish(&robot).unwrap();
                sent += 1;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    };
    let sending = pinned(OUR_CPU, || std::thread::spawn(send));
    let (rate, busy) = printer.measure();
    is_over.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    assert_eq!(printer.end(), "", "nothing may be lost");
    println!(
        "  echo --json: {rate:.0} messages/s, {busy:.2} s of its processor time each second, \
         {:.0} for each second of it",
        rate / busy
    );
    rate
}

/// What the pipe and its reader take: a process that prints prepared lines of the same length.
fn prepared(len: usize) -> f64 {
    let spawn = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.env(LINE, len.to_string()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let printer = Printer::start(spawn);
    let (rate, busy) = printer.measure();
    printer.end();
    println!(
        "  prepared lines of {len} B: {rate:.0} lines/s, {busy:.2} s of processor time each second"
    );
    rate
}

/// Prints lines of this length until it is ended.
fn print_prepared(len: usize) {
    let line = ["x".repeat(len - 1), "\n".into()].concat();
    let block = line.repeat(ECHO_BYTES.div_ceil(len));
    let mut out = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap());
    while out.write_all(block.as_bytes()).is_ok() {}
}

/// What `serde_json` needs for the same text of the Rust value, on one processor.
fn by_serde_json(digits: Digits) -> (usize, f64) {
    let robot = Robot::new(digits);
    let mut line = serde_json::to_vec(&robot).unwrap();
    let (start, count) = (Instant::now(), 200_000);
    for _ in 0..count {
        line.clear();
        serde_json::to_writer(&mut line, black_box(&robot)).unwrap();
    }
    (line.len(), f64::from(count) / start.elapsed().as_secs_f64())
}

/// Echo and its references, in turns.
fn echoes(node: &Node, digits: Digits) {
    let (mut rates, mut pipes) = (Vec::new(), Vec::new());
    println!("a message of 1 kB, {digits:?} digits");
    for _ in 0..3 {
        let (len, by_serde) = by_serde_json(digits);
        println!("  serde_json of the value, {len} B: {by_serde:.0} texts/s on one processor");
        pipes.push(prepared(len + ENVELOPE));
        rates.push(echo(node, digits));
    }
    let (rate, pipe) = (median(rates), median(pipes));
    println!(
        "  echo --json, median: {rate:.0} messages/s, {:.2} of what the pipe takes",
        rate / pipe
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
            Self::Echo => tool(
                &["topic", "echo", topic, "--json"],
                Stdio::null(),
                Stdio::null(),
            ),
            Self::Recorder => tool(
                &["bag", "record", topic, "--overwrite", "-o", &file()],
                Stdio::null(),
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
            median(ratios)
        );
    }
    let _ = std::fs::remove_file(file());
}

fn main() {
    if let Ok(topic) = std::env::var(ROLE) {
        return subscribe(&topic);
    }
    if let Ok(len) = std::env::var(LINE) {
        return print_prepared(len.parse().unwrap());
    }
    let builder = Node::builder("bench")
        .coordinator(ADDRESS)
        .embedded_coordinator();
    let node = builder.build_blocking().unwrap();
    for digits in [Digits::Few, Digits::All] {
        echoes(&node, digits);
    }
    if std::env::args().any(|argument| argument == "printing") {
        return;
    }
    for size in [64, 1_000, 100_000] {
        costs(&node, size);
    }
}
