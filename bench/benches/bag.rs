//! Recordings: what a recorder takes and costs, and how late a player is.
//!
//! `cargo build --release --bin mesh && cargo bench -p shmesh-bench --bench bag`. Recorder and
//! player are processes of their own, as in use; publishers are in this one. Files are on the tmpfs
//! of /dev/shm: the disk is not what is measured. The last part compares what is in a recorder with
//! the writer of the `mcap` crate, both in this process: the same messages into the same memory.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec};
use serde_json::Value;
use shmesh::bag::{Channel, Config, Message, Recorder, Storage, Target};
use shmesh::topology::{Encoding, TopicType};
use shmesh::{Node, Publisher, Raw};
use shmesh_bench::{cpu_s, mesh};
use shmesh_shm::monotonic_ns;

const ADDRESS: &str = "127.0.0.1:7693";
const PATIENCE: Duration = Duration::from_secs(10);
/// Another file of a recording is begun before one is larger.
const FILE_BYTES: usize = 200_000_000;

/// A verb of `mesh bag` that says what it does.
struct Tool {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Tool {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(mesh());
        let command = command
            .arg("bag")
            .args(args)
            .args(["--json", "--coordinator", ADDRESS]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn event(&mut self) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn end(mut self) -> Value {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let end = self.event();
        self.child.wait().unwrap();
        end
    }
}

fn publisher(node: &Node, topic: &str) -> Publisher<Raw> {
    let mut publisher = node.publisher::<Raw>(topic).build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher
}

/// The files of a recording, of which those that are whole are removed while it goes on: so it may
/// last, and memory is that which was used before. Memory that a virtual machine never had costs
/// the first to write there more than all else.
struct Files {
    first: PathBuf,
    is_over: Arc<AtomicBool>,
    remover: JoinHandle<()>,
}

impl Files {
    fn new(first: &Path) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, path) = (Arc::clone(&is_over), first.to_owned());
        let remover = std::thread::spawn(move || {
            let mut number = 0;
            loop {
                let is_over = over.load(Ordering::Relaxed);
                while numbered(&path, number + u32::from(!is_over)).exists() {
                    std::fs::remove_file(numbered(&path, number)).unwrap();
                    number += 1;
                }
                if is_over {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            first: first.to_owned(),
            is_over,
            remover,
        }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.remover.join().unwrap();
        assert!(!self.first.exists());
    }
}

/// Of a recording, as the recorder names them.
fn numbered(first: &Path, number: u32) -> PathBuf {
    match number {
        0 => first.to_owned(),
        number => {
            let stem = first.file_stem().unwrap().to_str().unwrap();
            first.with_file_name(format!("{stem}_{number}.mcap"))
        }
    }
}

/// What the disk takes: blocks of `size` bytes, written one by one to such files; GB/s.
fn bare_writes(first: &Path, size: usize, seconds: u64) -> f64 {
    let files = Files::new(first);
    let block = vec![7; size];
    let (begin, mut written) = (Instant::now(), 0);
    let mut number = 0;
    while begin.elapsed().as_secs() < seconds {
        let mut file = File::create(numbered(first, number)).unwrap();
        for _ in 0..FILE_BYTES / size {
            file.write_all(&block).unwrap();
            written += size;
        }
        number += 1;
    }
    let gb_s = written as f64 / begin.elapsed().as_nanos() as f64;
    files.end();
    gb_s
}

/// Messages of `size` bytes at a steady pace: in bursts of a millisecond, as sensors come. GB/s.
fn record(node: &Node, file: &Path, size: usize, per_s: u64, seconds: u64) -> f64 {
    let files = Files::new(file);
    let split = FILE_BYTES.to_string();
    let path = file.to_str().unwrap();
    let args = [
        "record",
        "t",
        "--overwrite",
        "--split-size",
        &split,
        "-o",
        path,
    ];
    let mut recorder = Tool::start(&args);
    recorder.event();
    let mut publisher = publisher(node, "t");
    let bytes = vec![7; size];
    let (begin_ns, busy_s) = (monotonic_ns(), cpu_s(&recorder.child));
    let mut slowest_ns = 0;
    for number in 0..per_s * seconds {
        let due_ns = begin_ns + number * 1_000_000_000 / per_s;
        if due_ns > monotonic_ns() {
            let pause = due_ns.next_multiple_of(1_000_000) - monotonic_ns().min(due_ns);
            std::thread::sleep(Duration::from_nanos(pause));
        }
        let start_ns = monotonic_ns();
        publisher.publish_bytes(&bytes).unwrap();
        slowest_ns = slowest_ns.max(monotonic_ns() - start_ns);
    }
    let took_s = (monotonic_ns() - begin_ns) as f64 / 1e9;
    let busy_s = cpu_s(&recorder.child) - busy_s;
    let end = recorder.end();
    let recorded = end["messages"].as_u64().unwrap();
    let gb_s = recorded as f64 * size as f64 / took_s / 1e9;
    println!(
        "record {size:>8} B at {:>7.0}/s for {took_s:.1} s: {recorded} recorded, {} lost, {:.2} \
         GB/s, {:.0} % of a core; slowest publish {} us",
        per_s,
        end["lost"],
        gb_s,
        100.0 * busy_s / took_s,
        slowest_ns / 1_000,
    );
    files.end();
    gb_s
}

fn quantiles(mut late_ns: Vec<u64>) -> [u64; 3] {
    late_ns.sort_unstable();
    let at = |share: f64| late_ns[((late_ns.len() - 1) as f64 * share) as usize] / 1_000;
    [at(0.5), at(0.99), at(1.0)]
}

/// How late a bare sleep to the same moments ends.
fn bare(count: u64) -> [u64; 3] {
    let begin_ns = monotonic_ns();
    let late = (1..=count).map(|number| {
        let due_ns = begin_ns + number * 1_000_000;
        let until = Timespec {
            tv_sec: i64::try_from(due_ns / 1_000_000_000).unwrap(),
            tv_nsec: i64::try_from(due_ns % 1_000_000_000).unwrap(),
        };
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &until);
        monotonic_ns() - due_ns
    });
    quantiles(late.collect())
}

/// A recording of a message each millisecond, played again.
fn play(node: &Node, file: &Path) {
    let path = file.to_str().unwrap();
    let mut recorder = Tool::start(&["record", "t", "--overwrite", "-o", path]);
    recorder.event();
    let mut publisher = publisher(node, "t");
    let begin = Instant::now();
    for number in 0..5_000 {
        let due = Duration::from_millis(number);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        publisher.publish_bytes(&[1; 64]).unwrap();
    }
    drop(publisher);
    recorder.end();
    let mut player = Tool::start(&["play", path, "--remap", "t:=played"]);
    let played = player.event();
    player.child.wait().unwrap();
    let late = &played["late_us"];
    println!(
        "play {} messages of 64 B at 1000/s: late by {} us, p99 {} us, at most {} us",
        played["messages"], late["p50"], late["p99"], late["max"]
    );
    let [p50, p99, max] = bare(5_000);
    println!("     a bare sleep to such moments: late by {p50} us, p99 {p99} us, at most {max} us");
    let _ = std::fs::remove_file(file);
}

/// Memory that is written over again: what a file would cost is left out.
struct Memory;

#[derive(Debug)]
struct Kept(Vec<u8>);

impl Target for Memory {
    type Storage = Kept;
    fn open(&mut self, _: u32) -> std::io::Result<Kept> {
        Ok(Kept(Vec::with_capacity(8 << 20)))
    }
}

impl Storage for Kept {
    fn append(&mut self, pieces: &[&[u8]]) -> std::io::Result<()> {
        if self.0.len() > 4 << 20 {
            self.0.clear();
        }
        pieces
            .iter()
            .for_each(|piece| self.0.extend_from_slice(piece));
        Ok(())
    }
    fn cut(&mut self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

fn writers(size: usize, count: u64) {
    let payload = vec![7; size];
    let mut recorder = Recorder::new(Config::default(), Memory).unwrap();
    let ty = TopicType {
        encoding: Encoding::Raw,
        name: "bytes".into(),
        hash: 0,
    };
    let topic = "t".to_owned();
    let channel = Channel {
        topic,
        ty,
        publisher: None,
        schema: None,
    };
    let channel = recorder.add(channel).unwrap();
    let start = Instant::now();
    for number in 0..count {
        let message = Message {
            channel,
            sequence: number,
            log_ns: number,
            publish_ns: number,
            lost_before: 0,
            payload: &payload,
        };
        recorder.record(&message).unwrap();
    }
    recorder.finish().unwrap();
    let ours = start.elapsed().as_nanos() as f64 / count as f64;

    let options = mcap::WriteOptions::new().compression(None);
    let memory = Cursor::new(Vec::with_capacity(size * count as usize * 5 / 4));
    let mut writer = mcap::Writer::with_options(memory, options).unwrap();
    let channel_id = writer
        .add_channel(0, "t", "raw", &std::collections::BTreeMap::new())
        .unwrap();
    let start = Instant::now();
    for number in 0..count {
        let header = mcap::records::MessageHeader {
            channel_id,
            sequence: u32::try_from(number).unwrap(),
            log_time: number,
            publish_time: number,
        };
        writer.write_to_known_channel(&header, &payload).unwrap();
    }
    writer.finish().unwrap();
    let theirs = start.elapsed().as_nanos() as f64 / count as f64;
    println!("write {size:>8} B: {ours:.0} ns here, {theirs:.0} ns by the mcap crate's writer");
}

fn main() {
    let builder = Node::builder("bench")
        .coordinator(ADDRESS)
        .embedded_coordinator();
    let node = builder.build_blocking().unwrap();
    let file = PathBuf::from(format!("/dev/shm/shmesh-bench-{}.mcap", std::process::id()));
    record(&node, &file, 64, 100_000, 5);
    record(&node, &file, 1_000, 100_000, 5);
    let bare_gb_s = bare_writes(&file, 1_000_000, 4);
    println!("a bare write of 1000000 B there, again and again: {bare_gb_s:.2} GB/s");
    for per_s in [1_000, 1_500, 2_000] {
        let gb_s = record(&node, &file, 1_000_000, per_s, 10);
        println!("    {:.2} of the bare writes", gb_s / bare_gb_s);
    }
    play(&node, &file);
    writers(64, 1_000_000);
    writers(1_000_000, 500);
}
