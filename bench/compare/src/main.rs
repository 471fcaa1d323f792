//! Runs shmesh and its rivals in turn, between two processes on two cores, and prints ratios.
//!
//! Figures of different runs, or of different minutes, say little on a shared machine: all systems
//! take turns in each round, and what is compared are medians over the rounds.

mod measure;
mod systems;
mod tcp;

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Parser;
use serde_json::{Value, json};

use measure::{Figure, Task};
use systems::{BARE, System};

/// Run shmesh beside its rivals and print ratios.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  cargo run --release                             all systems, five rounds
  cargo run --release -- --only shmesh,iceoryx2 --rounds 9 --json
  CXX=clang++-19 cargo run --release --features tachyon
  cargo run --release --features zenoh,zeromq -- --tasks tcp-ping,tcp-stream

`ping` is half a round trip with loaned, unwritten messages; `stream` sends messages one by one,
written up to 1 KiB, nothing lost; `1.` and `100.` are the first and the hundredth ping on a new
channel between programs that exchange messages on another one; `idle` is the first ping on a
channel that was left alone for 30 ms. A measurement is made again while the cores are further
apart than at best, which `bare ns`, a cache line just before and after, shows. Both ends spin,
each pinned to a core of its own.

`tcp-ping` and `tcp-stream` go over TCP on loopback. Each message is written anew, numbered, and
checked on arrival; time of a stream ends when the last has arrived. Each process has one core for
all its threads; it sleeps until a message comes, except where a name ends in `-poll`: that reads
in a loop. shmesh with a key proves it when it connects; ZeroMQ with keys encrypts each message.")]
struct Args {
    /// Systems to run
    #[arg(long, value_parser = System::of_name, value_delimiter = ',')]
    only: Vec<&'static System>,
    /// Tasks to run; all if none is named
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// Rounds; medians are over these
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The other end of one measurement
    #[arg(long, hide = true)]
    peer: Option<String>,
}

/// What is measured: name, message bytes.
const TASKS: [(Task, usize); 22] = [
    (Task::Ping, 64),
    (Task::Ping, 4096),
    (Task::Ping, 65_536),
    (Task::Ping, 1 << 20),
    (Task::Ping, 16 << 20),
    (Task::Stream, 64),
    (Task::Stream, 1024),
    (Task::Stream, 1 << 20),
    (Task::Nth(1), 64),
    (Task::Nth(100), 64),
    (Task::Idle, 64),
    (Task::Nth(1), 1 << 20),
    (Task::Nth(100), 1 << 20),
    (Task::Idle, 1 << 20),
    (Task::TcpPing, 64),
    (Task::TcpPing, 1024),
    (Task::TcpPing, 65_536),
    (Task::TcpPing, 1 << 20),
    (Task::TcpStream, 64),
    (Task::TcpStream, 1024),
    (Task::TcpStream, 65_536),
    (Task::TcpStream, 1 << 20),
];

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(peer) = &args.peer {
        return measure::serve(peer);
    }
    let systems = if args.only.is_empty() {
        System::all()
    } else {
        args.only.clone()
    };
    let mut figures: BTreeMap<(usize, usize), Vec<Figure>> = BTreeMap::new();
    let mut cores = Cores::look_around()?;
    for round in 0..args.rounds {
        for (task_idx, (task, size)) in TASKS.iter().enumerate() {
            for (system_idx, system) in systems.iter().enumerate() {
                let is_wanted = args.tasks.is_empty() || args.tasks.contains(&task.name());
                if !is_wanted || !(system.can)(*task, *size) {
                    continue;
                }
                eprint!(
                    "\rround {}: {} {size} {}        ",
                    round + 1,
                    task.name(),
                    system.name
                );
                match cores.measure(system, *task, *size, args.seconds) {
                    Ok(figure) => {
                        figures
                            .entry((task_idx, system_idx))
                            .or_default()
                            .push(figure);
                    }
                    Err(error) => eprintln!("\n{} {} {size}: {error:#}", system.name, task.name()),
                }
            }
        }
    }
    eprintln!();
    let medians: Vec<Value> = figures
        .iter()
        .map(|((task, system), all)| {
            let (task, size) = TASKS[*task];
            median(systems[*system], task, size, &cores.nearest(all))
        })
        .collect();
    if args.json {
        println!("{}", json!({ "machine": machine(), "results": medians }));
    } else {
        print_table(&medians);
    }
    Ok(())
}

/// How far apart the two cores are. A host may move them, from one second to the next, and then
/// one system would be measured with near cores and another with distant ones.
#[derive(Debug)]
struct Cores {
    /// Least time of the bare line so far, in nanoseconds.
    nearest_ns: f64,
}

impl Cores {
    fn look_around() -> Result<Self> {
        let mut cores = Self {
            nearest_ns: f64::INFINITY,
        };
        for _ in 0..LOOKS {
            cores.look()?;
        }
        Ok(cores)
    }

    /// Measures while the cores are near, as the bare line before and after says; after some
    /// attempts, however they are.
    fn measure(
        &mut self,
        system: &'static System,
        task: Task,
        size: usize,
        seconds: f64,
    ) -> Result<Figure> {
        let mut before_ns = self.look()?;
        let mut attempts = 0;
        loop {
            let mut figure = measure::run(system, task, size, seconds)?;
            let after_ns = self.look()?;
            figure.bare_ns = before_ns.max(after_ns);
            attempts += 1;
            if self.is_near(&figure) || attempts == ATTEMPTS {
                return Ok(figure);
            }
            before_ns = after_ns;
        }
    }

    fn is_near(&self, figure: &Figure) -> bool {
        figure.bare_ns <= NEAR * self.nearest_ns
    }

    /// The figures that were measured while the cores were near; all if none was.
    fn nearest(&self, all: &[Figure]) -> Vec<Figure> {
        let near: Vec<_> = all.iter().copied().filter(|f| self.is_near(f)).collect();
        if near.is_empty() { all.to_vec() } else { near }
    }

    fn look(&mut self) -> Result<f64> {
        let bare = measure::run(BARE, Task::Ping, 64, LOOK_SECONDS)?.p50_ns;
        self.nearest_ns = self.nearest_ns.min(bare);
        Ok(bare)
    }
}

/// Length of a look at the bare line.
const LOOK_SECONDS: f64 = 0.02;
/// Looks before the first measurement.
const LOOKS: u32 = 20;
/// Times that a measurement is made before it is taken however the cores are.
const ATTEMPTS: u32 = 3;
/// Cores are near if the bare line takes at most so many times what it took at best.
const NEAR: f64 = 2.0;

fn median(system: &System, task: Task, size: usize, all: &[Figure]) -> Value {
    let of = |pick: fn(&Figure) -> f64| {
        let mut values: Vec<f64> = all.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    json!({
        "system": system.name,
        "task": task.name(),
        "message_size": size,
        "rounds": all.len(),
        "p50_ns": of(|f| f.p50_ns),
        "p99_ns": of(|f| f.p99_ns),
        "p999_ns": of(|f| f.p999_ns),
        "max_ns": of(|f| f.max_ns),
        "messages_per_s": of(|f| f.messages_per_s),
        "bare_ns": of(|f| f.bare_ns),
    })
}

fn print_table(medians: &[Value]) {
    println!("{}", machine());
    println!(
        "{:<10} {:>9}  {:<16} {:>8} {:>8} {:>9} {:>11} {:>8} {:>6}",
        "task", "bytes", "system", "p50 ns", "p99 ns", "p99.9 ns", "msg/s", "bare ns", "ratio"
    );
    for row in medians {
        println!(
            "{:<10} {:>9.0}  {:<16} {:>8.0} {:>8.0} {:>9.0} {:>11.0} {:>8.0} {:>6.2}",
            row["task"].as_str().unwrap_or_default(),
            number(&row["message_size"]),
            row["system"].as_str().unwrap_or_default(),
            number(&row["p50_ns"]),
            number(&row["p99_ns"]),
            number(&row["p999_ns"]),
            number(&row["messages_per_s"]),
            number(&row["bare_ns"]),
            ratio(row, medians),
        );
    }
    println!("ratio: how many times as long as shmesh, or as the first row of a task without it;");
    println!("bare: a cache line, just before and after");
}

/// Above 1: this system takes so many times as long as shmesh does, or as the first one if shmesh
/// does not do this.
fn ratio(row: &Value, medians: &[Value]) -> f64 {
    let of_task = |other: &&Value| {
        other["task"] == row["task"] && other["message_size"] == row["message_size"]
    };
    let is_ours = |other: &&Value| {
        let name = other["system"].as_str();
        name.is_some_and(|name| name.starts_with("shmesh"))
    };
    let mut same = medians.iter().filter(of_task);
    let Some(base) = same.clone().find(is_ours).or_else(|| same.next()) else {
        return f64::NAN;
    };
    let is_rate = row["task"]
        .as_str()
        .is_some_and(|task| task.ends_with("stream"));
    if is_rate {
        number(&base["messages_per_s"]) / number(&row["messages_per_s"])
    } else {
        number(&row["p50_ns"]) / number(&base["p50_ns"])
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1))
            .unwrap_or("?")
            .to_owned()
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (model, family) = (field("model name"), field("cpu family"));
    format!(
        "{model} (family {family}), {cores} cores, Linux {}",
        kernel.trim()
    )
}
