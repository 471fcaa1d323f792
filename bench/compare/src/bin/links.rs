//! What links over TCP cost a publisher's process: its CPU time for a message to one and to eight
//! subscribers, each a node of its own, and its memory for a link that is idle.
//!
//! Each figure comes from a new process, whose subscribers are together in another one, with the
//! coordinator. The kernel's memory, of sockets for example, is not counted.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use rustix::process::{Resource, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Coordinator, Message, Node, Overflow, Publisher, Subscriber, Transports};
use tokio::runtime::Runtime;

/// Print a publisher's CPU time for a message to one and to eight nodes, and its memory for a link.
#[derive(Debug, Parser)]
#[command(after_help = "\
Messages have the sizes given, as they are sent, and each is archived once; a link costs about the
same whatever the size, so that the ratio falls with it. They are published without a pause: a
subscriber of a `Block` subscription that is slower makes the publisher sleep. Its process has one
core, that of the subscribers another. CPU time is that of all threads, the median of the rounds;
the kernel tells user from system time by samples, so `least` and `most` of a round may be far off.

Memory is resident memory of the publisher's process with 100 nodes that subscribe, less that with
one, for each of the 99 more: before the first message, and some seconds after 16 of 64 KiB.")]
struct Args {
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement of CPU time
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Sizes of messages in KiB
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024")]
    sizes_kib: Vec<usize>,
    /// What this process does in a measurement
    #[arg(long, hide = true)]
    part: Option<String>,
}

/// Subscribers between which CPU time is compared.
const FEW: usize = 1;
const MANY: usize = 8;
/// Links between which memory is compared.
const LINKS_MIN: usize = 1;
const LINKS_MAX: usize = 100;
/// Bytes that an archive has beside those of its vector.
const BESIDE_BYTES: usize = 16;
/// Bytes of a message where memory is measured.
const IDLE_KIB: usize = 64;
/// Unread bytes of a subscription, as in `tcp-stream`.
const UNREAD_KIB: usize = 2048;
/// Messages over each link before its memory is looked at again, and the pause before that, in
/// which a link gives back what it does not need.
const USES: u64 = 16;
const PAUSE: Duration = Duration::from_secs(5);
/// For so long somebody waits for the other process.
const WAIT: Duration = Duration::from_secs(30);
/// Messages between two looks at the clock.
const BETWEEN_LOOKS: u64 = 64;
const TOPIC: &str = "links";

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Frame {
    number: u64,
    bytes: Vec<u8>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(part) = &args.part {
        return play(part);
    }
    let mut rounds = vec![[Vec::new(), Vec::new()]; args.sizes_kib.len()];
    let (mut idle, mut used) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        eprint!("\rround {round}");
        for (kib, rounds) in args.sizes_kib.iter().zip(&mut rounds) {
            for (count, figures) in [FEW, MANY].iter().zip(rounds) {
                let part = format!("publish {count} {kib} {}", args.seconds);
                figures.push(measured(&part)?);
            }
        }
        let least: [f64; 2] = measured(&format!("idle {LINKS_MIN} {IDLE_KIB} 0"))?;
        let most: [f64; 2] = measured(&format!("idle {LINKS_MAX} {IDLE_KIB} 0"))?;
        let links = (LINKS_MAX - LINKS_MIN) as f64;
        idle.push((most[0] - least[0]) / links);
        used.push((most[1] - least[1]) / links);
    }
    eprintln!();
    println!("CPU time of the publisher's process for a message, us");
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "", "user", "least", "most", "system", "msg/s", "messages"
    );
    for (kib, [few, many]) in args.sizes_kib.iter().zip(&rounds) {
        let [few_us, many_us] =
            [(FEW, few), (MANY, many)].map(|(count, rounds)| print_row(*kib, count, rounds));
        let [user, system] = [0, 1].map(|idx| many_us[idx] / few_us[idx]);
        println!("{:<18} {user:>8.2} {:>17} {system:>8.2}", "ratio", "");
    }
    println!(
        "memory of a link, KiB: {:.1} idle, {:.1} after {USES} messages",
        median(idle),
        median(used)
    );
    Ok(())
}

/// Prints what the rounds come to; user and system time for a message, in microseconds: medians of
/// the rounds, for now and then one has the memory of the machine shared with others.
fn print_row(kib: usize, count: usize, rounds: &[[f64; 4]]) -> [f64; 2] {
    let sum = |idx: usize| rounds.iter().map(|figures| figures[idx]).sum::<f64>();
    let (messages, seconds) = (sum(0), sum(1));
    let per_message = |idx: usize| rounds.iter().map(move |figures| figures[idx] / figures[0]);
    let [user_us, system_us] = [2, 3].map(|idx| median(per_message(idx).collect()));
    let (least, most) = (
        per_message(2).reduce(f64::min),
        per_message(2).reduce(f64::max),
    );
    println!(
        "{:<18} {user_us:>8.2} {:>8.2} {:>8.2} {system_us:>8.2} {:>8.0} {messages:>9.0}",
        format!("{kib:>5} KiB to {count}"),
        least.unwrap_or(f64::NAN),
        most.unwrap_or(f64::NAN),
        messages / seconds
    );
    [user_us, system_us]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What a new process says of itself.
fn measured<const N: usize>(part: &str) -> Result<[f64; N]> {
    let mut process = Process::start(part)?;
    let line = process.line()?;
    let numbers = line
        .split(' ')
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>();
    let numbers = numbers.with_context(|| format!("`{part}` said `{line}`"))?;
    numbers.try_into().ok().with_context(|| format!("`{part}`"))
}

/// A copy of this process; ends with this one, and when it is dropped.
struct Process(Child);

impl Process {
    fn start(part: &str) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        let command = command.args(["--part", part]).stdin(Stdio::null());
        Ok(Self(command.stdout(Stdio::piped()).spawn()?))
    }

    /// The only line it says.
    fn line(&mut self) -> Result<String> {
        let stdout = self.0.stdout.take().context("stdout")?;
        let line = BufReader::new(stdout).lines().next();
        Ok(line.context("the other process failed")??)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn play(part: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let words: Vec<&str> = part.split(' ').collect();
    let [part, count, kib, seconds] = words[..] else {
        bail!("--part is for this program only")
    };
    let (count, kib) = (count.parse()?, kib.parse()?);
    match part {
        "publish" => publish(count, kib, Duration::from_secs_f64(seconds.parse()?)),
        "idle" => idle(count, kib),
        "subscribe" => subscribe(count, kib),
        _ => bail!("--part is for this program only"),
    }
}

/// Says how many messages it sent, in how many seconds, and the microseconds of user and of
/// system time that took.
fn publish(count: usize, kib: usize, time: Duration) -> Result<()> {
    let mut sender = Sender::connect(count, kib)?;
    // The first messages warm up.
    sender.send_for(time / 4)?;
    let (before, started) = (CpuTime::of_this_process()?, Instant::now());
    let sent = sender.send_for(time)?;
    let (after, took) = (CpuTime::of_this_process()?, started.elapsed());
    let user_us = after.user_us - before.user_us;
    let system_us = after.system_us - before.system_us;
    println!("{sent} {} {user_us} {system_us}", took.as_secs_f64());
    Ok(())
}

/// Says the KiB of this process with so many links, before and after they were used.
fn idle(count: usize, kib: usize) -> Result<()> {
    let mut sender = Sender::connect(count, kib)?;
    std::thread::sleep(PAUSE);
    let idle = resident_kib()?;
    for _ in 0..USES {
        sender.send()?;
    }
    std::thread::sleep(PAUSE);
    println!("{idle} {}", resident_kib()?);
    Ok(())
}

struct Sender {
    publisher: Publisher<Frame>,
    frame: Frame,
    listeners: usize,
    runtime: Runtime,
    _subscribers: Process,
}

impl Sender {
    fn connect(count: usize, kib: usize) -> Result<Self> {
        let mut subscribers = Process::start(&format!("subscribe {count} {kib} 0"))?;
        // Before threads are started, which take it over.
        pin(0)?;
        let runtime = runtime()?;
        let node = join("publisher", &subscribers.line()?)?;
        let publisher = node.publisher::<Frame>(TOPIC).without_timestamps();
        let publisher = publisher.build()?;
        let started = Instant::now();
        while publisher.listener_count() < count {
            ensure!(started.elapsed() < WAIT, "a subscriber did not come");
            std::thread::sleep(Duration::from_millis(1));
        }
        let bytes = vec![0x5a; (kib << 10) - BESIDE_BYTES];
        Ok(Self {
            publisher,
            frame: Frame { number: 0, bytes },
            listeners: count,
            runtime,
            _subscribers: subscribers,
        })
    }

    /// How many it sent.
    fn send_for(&mut self, time: Duration) -> Result<u64> {
        let (started, first) = (Instant::now(), self.frame.number);
        while started.elapsed() < time {
            for _ in 0..BETWEEN_LOOKS {
                self.send()?;
            }
        }
        Ok(self.frame.number - first)
    }

    /// Archives and sends a message. Sleeps while there is no room: spinning would count.
    fn send(&mut self) -> Result<()> {
        let publishing = self.publisher.publish_async(&self.frame);
        let sent = self.runtime.block_on(publishing)?;
        let reached = sent.listeners as usize;
        ensure!(
            reached == self.listeners,
            "message {} reached {reached}",
            sent.sequence
        );
        self.frame.number += 1;
        let bytes = self.publisher.stats().bytes;
        let due = self.frame.number * (self.frame.bytes.len() + BESIDE_BYTES) as u64;
        ensure!(bytes == due, "{bytes} bytes sent, not {due}");
        Ok(())
    }
}

/// Receives with so many nodes until it is killed; says where the coordinator is.
fn subscribe(count: usize, kib: usize) -> Result<()> {
    pin(1)?;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let runtime = runtime()?;
    let coordinator = runtime.block_on(Coordinator::bind("127.0.0.1:0"))?;
    let address = coordinator.local_addr()?.to_string();
    let coordinating = move || runtime.block_on(coordinator.run(std::future::pending()));
    let coordinator = std::thread::spawn(coordinating);
    for number in 0..count {
        let node = join(&format!("subscriber-{number}"), &address)?;
        let overflow = Overflow::Block {
            depth: u32::try_from(UNREAD_KIB / kib)?.max(2),
            deadline: WAIT,
        };
        let subscriber = node.subscriber::<Frame>(TOPIC).overflow(overflow);
        let subscriber = subscriber.build()?;
        // One that fails ends the measurement.
        std::thread::spawn(|| {
            let failed = receive(subscriber);
            eprintln!("a subscriber: {failed:?}");
            std::process::exit(1);
        });
    }
    println!("{address}");
    let _ = coordinator.join();
    Ok(())
}

/// Receives until something fails; none may be missing.
fn receive(mut subscriber: Subscriber<Frame>) -> Result<()> {
    let mut due = 0;
    loop {
        let frame = subscriber.recv_blocking(WAIT)?;
        let number = frame.number.to_native();
        ensure!(number == due, "message {number} when {due} was due");
        due += 1;
    }
}

fn join(name: &str, address: &str) -> Result<Node> {
    let builder = Node::builder(name)
        .coordinator(address)
        .transports(Transports::Network)
        .without_signal_handling();
    Ok(builder.join_timeout(WAIT).build_blocking()?)
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Of all threads, those that have ended among them.
struct CpuTime {
    user_us: f64,
    system_us: f64,
}

/// What `/proc` counts in, whatever the kernel's own ticks are.
const TICK_US: f64 = 10_000.0;

impl CpuTime {
    fn of_this_process() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // After the name, which may have spaces.
        let (_, rest) = stat.rsplit_once(") ").context("/proc/self/stat")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |idx: usize| anyhow::Ok(fields.get(idx).context("a field")?.parse::<f64>()?);
        Ok(Self {
            user_us: ticks(11)? * TICK_US,
            system_us: ticks(12)? * TICK_US,
        })
    }
}

/// Counted page by page: the quick counter in `/proc/self/statm` lags behind.
fn resident_kib() -> Result<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("/proc/self/smaps_rollup")?.trim().parse()?)
}
