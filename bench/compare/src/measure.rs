//! One measurement: this process on one core, a copy of it as the other end on another.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::systems::{self, Ends, Side, System};

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
}

impl Task {
    /// For output.
    pub fn name(self) -> String {
        match self {
            Self::Ping => "ping".into(),
            Self::Stream => "stream".into(),
            Self::Nth(n) => format!("{n}."),
            Self::Idle => "idle".into(),
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        match name {
            "ping" => Some(Self::Ping),
            "stream" => Some(Self::Stream),
            "idle" => Some(Self::Idle),
            _ => name.strip_suffix('.')?.parse().ok().map(Self::Nth),
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
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
    pub system: System,
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
            setting.system.name(),
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
pub fn run(system: System, task: Task, size: usize, seconds: f64) -> Result<Figure> {
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
        systems::with_ends(&setting, side, &mut Measuring { task, time })
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

/// What is done with the two ends of a system once they are connected.
pub trait Visit {
    /// Does it. `connect` makes the ends of another channel, given its number.
    fn visit<E: Ends>(
        &mut self,
        ends: E,
        connect: impl FnMut(usize) -> Result<E>,
    ) -> Result<Figure>;
}

struct Measuring {
    task: Task,
    time: Duration,
}

impl Visit for Measuring {
    fn visit<E: Ends>(
        &mut self,
        mut ends: E,
        mut connect: impl FnMut(usize) -> Result<E>,
    ) -> Result<Figure> {
        pin(0)?;
        if let Task::Ping = self.task {
            return ping(&mut ends, self.time);
        }
        if let Task::Stream = self.task {
            return stream(&mut ends, self.time);
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
            halves.push(nth(&mut *new, self.task)?.as_nanos() as f64 / 2.0);
            channels.push(new);
        }
        halves.sort_by(f64::total_cmp);
        let at = |hundredth: usize| halves[hundredth * (halves.len() - 1) / 100];
        Ok(Figure {
            p50_ns: at(50),
            p99_ns: at(99),
            p999_ns: at(100),
            max_ns: at(100),
            messages_per_s: 0.0,
            bare_ns: 0.0,
        })
    }
}

fn ping<E: Ends>(ends: &mut E, time: Duration) -> Result<Figure> {
    let mut halves = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3)?;
    let mut number = 0;
    let started = Instant::now();
    loop {
        let round_trip = round_trip(ends, number)?;
        number += 1;
        // The first messages warm up.
        if number > 1000 || started.elapsed() > time / 4 {
            halves.saturating_record(u64::try_from(round_trip.as_nanos())? / 2);
        }
        if number % 16 == 0 && started.elapsed() > time {
            break;
        }
    }
    Ok(figure(
        &halves,
        number as f64 / started.elapsed().as_secs_f64(),
    ))
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
    let rate = number as f64 / started.elapsed().as_secs_f64();
    Ok(figure(&Histogram::new(3)?, rate))
}

fn figure(halves: &Histogram<u64>, messages_per_s: f64) -> Figure {
    let at = |quantile| halves.value_at_quantile(quantile) as f64;
    Figure {
        p50_ns: at(0.5),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: halves.max() as f64,
        messages_per_s,
        bare_ns: 0.0,
    }
}

struct Answering(Task);

impl Visit for Answering {
    fn visit<E: Ends>(
        &mut self,
        mut ends: E,
        mut connect: impl FnMut(usize) -> Result<E>,
    ) -> Result<Figure> {
        pin(1)?;
        if let Task::Ping | Task::Stream = self.0 {
            answer(&mut ends, u64::MAX, self.0 == Task::Ping)?;
        }
        let mut channels = Vec::new();
        for channel in 1..=NEW_CHANNELS {
            let mut new = Box::new(connect(channel)?);
            answer(&mut ends, IN_USE, true)?;
            answer(&mut *new, messages(self.0), true)?;
            channels.push(new);
        }
        // The last answer must reach the other side before this end is closed.
        std::io::stdin().read_line(&mut String::new())?;
        Ok(figure(&Histogram::new(3)?, 0.0))
    }
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
    let system = System::of_name(system).context("system")?;
    let task = Task::of_name(task).context("task")?;
    let setting = Setting {
        system,
        task,
        size: size.parse()?,
        id: id.to_owned(),
        channel: 0,
    };
    systems::with_ends(&setting, Side::There, &mut Answering(task))?;
    Ok(())
}
