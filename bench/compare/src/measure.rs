//! One measurement: this process on one core, a copy of it as the other end on another.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::systems::{Ends, Side, System};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Half a round trip.
    Ping,
    /// Messages a second.
    Stream,
    /// Half of one round trip on a new channel, the first or a later one, in two programs that
    /// exchange messages on another channel up to then.
    Nth(u32),
    /// Half of the first round trip on a channel that was left alone for a while.
    Idle,
    /// Half a round trip over TCP.
    TcpPing,
    /// Messages a second over TCP.
    TcpStream,
}

impl Task {
    /// For output.
    pub fn name(self) -> String {
        match self {
            Self::Ping => "ping".into(),
            Self::Stream => "stream".into(),
            Self::Nth(n) => format!("{n}."),
            Self::Idle => "idle".into(),
            Self::TcpPing => "tcp-ping".into(),
            Self::TcpStream => "tcp-stream".into(),
        }
    }

    /// Whether messages go over TCP and not through shared memory.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::TcpPing | Self::TcpStream)
    }

    fn of_name(name: &str) -> Option<Self> {
        match name {
            "ping" => Some(Self::Ping),
            "stream" => Some(Self::Stream),
            "idle" => Some(Self::Idle),
            "tcp-ping" => Some(Self::TcpPing),
            "tcp-stream" => Some(Self::TcpStream),
            _ => name.strip_suffix('.')?.parse().ok().map(Self::Nth),
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figure {
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub p999_ns: f64,
    pub max_ns: f64,
    pub messages_per_s: f64,
    /// One way of a bare cache line, the longer of just before and just after.
    pub bare_ns: f64,
}

/// What both ends must know.
#[derive(Clone, Debug)]
pub struct Setting {
    pub system: &'static System,
    pub task: Task,
    pub size: usize,
    /// Unique for this measurement.
    pub id: String,
    /// Which of its channels.
    pub channel: usize,
}

/// The process at the other end; ends with this.
#[derive(Debug)]
pub struct OtherEnd {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl OtherEnd {
    /// The next line it says.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Tells it something.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.child.stdin.as_mut().context("stdin")?, "{line}")?;
        Ok(())
    }

    fn start(setting: &Setting) -> Result<Self> {
        let words = format!(
            "{} {} {} {}",
            setting.system.name,
            setting.task.name(),
            setting.size,
            setting.id
        );
        let mut command = Command::new("/proc/self/exe");
        let command = command.args(["--peer", &words]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, stdout })
    }
}

impl Drop for OtherEnd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pins this thread.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Measures.
pub fn run(system: &'static System, task: Task, size: usize, seconds: f64) -> Result<Figure> {
    let id = format!("{}-{}", std::process::id(), unique());
    let setting = Setting {
        system,
        task,
        size,
        id,
        channel: 0,
    };
    let time = Duration::from_secs_f64(seconds);
    // A thread of its own for each: pinning and what a system keeps per thread go with it.
    let measured = std::thread::spawn(move || -> Result<Figure> {
        let mut other = OtherEnd::start(&setting)?;
        let side = Side::Here(&mut other);
        (system.play)(&setting, side, Part::Measure(time))
    });
    measured
        .join()
        .map_err(|_| anyhow::anyhow!("the measurement panicked"))?
}

/// Tells the measurements of this process apart.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What this process does in a measurement.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Measures for so long.
    Measure(Duration),
    /// Answers until it is killed.
    Answer,
}

impl Part {
    /// The core it runs on.
    pub fn core(self) -> usize {
        match self {
            Self::Measure(_) => 0,
            Self::Answer => 1,
        }
    }

    /// Does it through shared memory. `connect` makes the ends of one channel.
    pub fn play<E: Ends>(
        self,
        setting: &Setting,
        mut connect: impl FnMut(&Setting) -> Result<E>,
    ) -> Result<Figure> {
        let ends = connect(setting)?;
        let connect = |channel| {
            let setting = setting.clone();
            connect(&Setting { channel, ..setting })
        };
        pin(self.core())?;
        match self {
            Self::Measure(time) => measure(setting.task, time, ends, connect),
            Self::Answer => answer_all(setting.task, ends, connect),
        }
    }
}

fn measure<E: Ends>(
    task: Task,
    time: Duration,
    mut ends: E,
    mut connect: impl FnMut(usize) -> Result<E>,
) -> Result<Figure> {
    if let Task::Ping = task {
        return ping(time, |number| round_trip(&mut ends, number));
    }
    if let Task::Stream = task {
        return stream(&mut ends, time);
    }
    let mut halves = Vec::new();
    // None is closed before the end: freeing its memory would disturb the next.
    let mut channels = Vec::new();
    for channel in 1..=NEW_CHANNELS {
        let mut new = Box::new(connect(channel)?);
        // Answers mean that the other end is connected, too.
        for number in 0..IN_USE {
            round_trip(&mut ends, number)?;
        }
        halves.push(nth(&mut *new, task)?.as_nanos() as f64 / 2.0);
        channels.push(new);
    }
    halves.sort_by(f64::total_cmp);
    let at = |hundredth: usize| halves[hundredth * (halves.len() - 1) / 100];
    Ok(Figure {
        p50_ns: at(50),
        p99_ns: at(99),
        p999_ns: at(100),
        max_ns: at(100),
        ..Figure::default()
    })
}

/// Makes round trips, given how one is made.
pub fn ping(time: Duration, mut round_trip: impl FnMut(u64) -> Result<Duration>) -> Result<Figure> {
    let mut halves = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3)?;
    let mut number = 0;
    let started = Instant::now();
    loop {
        let took = round_trip(number)?;
        number += 1;
        // The first messages warm up.
        if number > 1000 || started.elapsed() > time / 4 {
            halves.saturating_record(u64::try_from(took.as_nanos())? / 2);
        }
        if number % 16 == 0 && started.elapsed() > time {
            break;
        }
    }
    let at = |quantile| halves.value_at_quantile(quantile) as f64;
    Ok(Figure {
        p50_ns: at(0.5),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: halves.max() as f64,
        messages_per_s: number as f64 / started.elapsed().as_secs_f64(),
        ..Figure::default()
    })
}

fn round_trip<E: Ends>(ends: &mut E, number: u64) -> Result<Duration> {
    let before = Instant::now();
    ends.send(number)?;
    let mut looks = 0_u64;
    while !ends.try_receive()? {
        std::hint::spin_loop();
        looks += 1;
        if looks > 1 << 28 {
            bail!("no answer");
        }
    }
    Ok(before.elapsed())
}

/// New channels of a measurement of theirs; its figure is the median over them.
const NEW_CHANNELS: usize = 20;
/// Round trips on the old channel before the first on a new one.
const IN_USE: u64 = 8;
/// How long a channel is left alone.
const IDLE: Duration = Duration::from_millis(30);

fn nth<E: Ends>(ends: &mut E, task: Task) -> Result<Duration> {
    leave_alone(ends, task)?;
    let mut last = Duration::ZERO;
    for number in 0..messages(task) {
        last = round_trip(ends, number)?;
    }
    Ok(last)
}

/// Messages on each new channel.
fn messages(task: Task) -> u64 {
    if let Task::Nth(n) = task { n.into() } else { 1 }
}

/// Looks for messages, of which there are none yet, for as long as the task says.
fn leave_alone<E: Ends>(ends: &mut E, task: Task) -> Result<()> {
    let started = Instant::now();
    while task == Task::Idle && started.elapsed() < IDLE {
        if ends.try_receive()? {
            bail!("a message before the first");
        }
    }
    Ok(())
}

fn stream<E: Ends>(ends: &mut E, time: Duration) -> Result<Figure> {
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < time {
        for _ in 0..64 {
            ends.send(number)?;
            number += 1;
        }
    }
    Ok(Figure {
        messages_per_s: number as f64 / started.elapsed().as_secs_f64(),
        ..Figure::default()
    })
}

fn answer_all<E: Ends>(
    task: Task,
    mut ends: E,
    mut connect: impl FnMut(usize) -> Result<E>,
) -> Result<Figure> {
    if let Task::Ping | Task::Stream = task {
        answer(&mut ends, u64::MAX, task == Task::Ping)?;
    }
    let mut channels = Vec::new();
    for channel in 1..=NEW_CHANNELS {
        let mut new = Box::new(connect(channel)?);
        answer(&mut ends, IN_USE, true)?;
        answer(&mut *new, messages(task), true)?;
        channels.push(new);
    }
    // The last answer must reach the other side before this end is closed.
    wait_to_be_killed()
}

/// The other side ends this process when it has its figure.
pub fn wait_to_be_killed() -> Result<Figure> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(Figure::default())
}

fn answer<E: Ends>(ends: &mut E, count: u64, is_answered: bool) -> Result<()> {
    let mut number = 0;
    while number < count {
        if !ends.try_receive()? {
            std::hint::spin_loop();
            continue;
        }
        if is_answered {
            ends.send(number)?;
        }
        number += 1;
    }
    Ok(())
}

/// The other end: answers until it is killed.
pub fn serve(words: &str) -> Result<()> {
    // It looks for messages without a pause: it must not outlive a measurement that is killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let words: Vec<&str> = words.split(' ').collect();
    let [system, task, size, id] = words[..] else {
        bail!("--peer is for this program only")
    };
    let system = System::of_name(system).map_err(anyhow::Error::msg)?;
    let task = Task::of_name(task).context("task")?;
    let setting = Setting {
        system,
        task,
        size: size.parse()?,
        id: id.to_owned(),
        channel: 0,
    };
    (system.play)(&setting, Side::There, Part::Answer)?;
    Ok(())
}
