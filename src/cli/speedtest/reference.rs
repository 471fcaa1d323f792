//! The reference: what the machine takes for the bare step that a message cannot do without. A
//! cache line passed back and forth for spinning ends, an eventfd for sleeping ones: back and forth
//! for a ping, and for paced messages one way at their pace, because a processor that was idle for
//! a while wakes later.
//!
//! The other end is a process of its own on the receiver's core, which sleeps meanwhile.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::event::{EventfdFlags, eventfd};
use shmesh_shm::monotonic_ns;
use shmesh_shm::reference::{Line, PeerLine};

use super::spec::{Pace, Pattern, Spec, Wait, wait_until};
use super::{cores, once_more, report};
use crate::cli::Failure;

/// How long the reference is measured.
const SPIN_TIME: Duration = Duration::from_millis(100);
const SLEEP_TIME: Duration = Duration::from_millis(300);
const PACED_SECONDS: f64 = 0.5;
/// Ends the other end of a line.
const OVER: u64 = u64::MAX;
/// Ends the other end of wakes; an event's counter holds no more than this and what it may have.
const WAKES_OVER: u64 = 1 << 63;

#[derive(Args, Clone, Debug)]
pub(super) struct ReferenceArgs {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Line,
    Event,
    Wake,
}

/// One way of the bare step, p50 in nanoseconds.
pub(super) fn measure(spec: &Spec, peer_core: Option<usize>) -> Result<u64, Failure> {
    match (spec.wait, spec.pattern) {
        (Wait::Spin, _) => measure_line(peer_core),
        (Wait::Block | Wait::Async, Pattern::Paced) => measure_wakes(spec.pace, peer_core),
        (Wait::Block | Wait::Async, _) => measure_event(spec.pace, peer_core),
    }
}

fn other_end(kind: Kind, core: Option<usize>) -> Command {
    let mut command = once_more("reference");
    let kind = kind.to_possible_value();
    let kind = kind.expect("invariant: no kind is skipped");
    command.args(["--kind", kind.get_name()]);
    if let Some(core) = core {
        command.args(["--core", &core.to_string()]);
    }
    command.stderr(Stdio::null());
    command
}

/// Ends with its owner.
struct OtherEnd(Child);

impl Drop for OtherEnd {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure_line(core: Option<usize>) -> Result<u64, Failure> {
    let ours = Line::create()?;
    let mut command = other_end(Kind::Line, core);
    let mut other = OtherEnd(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let (stdin, stdout) = (other.0.stdin.take(), other.0.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(Failure::usage("the reference has no pipes"));
    };
    writeln!(
        stdin,
        "/proc/{}/fd/{}",
        std::process::id(),
        ours.fd().as_raw_fd()
    )?;
    let theirs = read_line(BufReader::new(stdout))?;
    let mut round = 0;
    let median = median(SPIN_TIME, Pace::of(Pattern::Ping, None), || {
        round += 1;
        ours.store(round);
        while theirs.load() != round {
            std::hint::spin_loop();
        }
        Ok(())
    });
    ours.store(OVER);
    median
}

/// Maps the word whose path the other side says.
fn read_line(mut from: impl std::io::BufRead) -> Result<PeerLine, Failure> {
    let mut path = String::new();
    from.read_line(&mut path)?;
    Ok(PeerLine::map(OwnedFd::from(File::open(path.trim())?))?)
}

fn measure_event(pace: Pace, core: Option<usize>) -> Result<u64, Failure> {
    let [there, back] = [(); 2].map(|()| eventfd(0, EventfdFlags::CLOEXEC));
    let (there, back) = (there?, back?);
    let mut command = other_end(Kind::Event, core);
    let command = command
        .stdin(Stdio::from(there.try_clone()?))
        .stdout(Stdio::from(back.try_clone()?));
    let _other = OtherEnd(command.spawn()?);
    let (mut there, mut back) = (File::from(there), File::from(back));
    median(SLEEP_TIME, pace, || {
        there.write_all(&1_u64.to_ne_bytes())?;
        back.read_exact(&mut [0; 8])?;
        Ok(())
    })
}

/// Wakes the other end on schedule; it measures, as the receiver of paced messages does.
fn measure_wakes(pace: Pace, core: Option<usize>) -> Result<u64, Failure> {
    let pace = pace.of_reference();
    let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
    let mut command = other_end(Kind::Wake, core);
    let command = command
        .stdin(Stdio::from(bell.try_clone()?))
        .stdout(Stdio::piped());
    let mut other = OtherEnd(command.spawn()?);
    let Some(stdout) = other.0.stdout.take() else {
        return Err(Failure::usage("the reference has no pipe"));
    };
    let mut said = BufReader::new(stdout).lines();
    let mut hear = || {
        said.next()
            .unwrap_or_else(|| Err(ErrorKind::UnexpectedEof.into()))
    };
    // It is there.
    hear()?;
    let mut bell = File::from(bell);
    let begin_ns = monotonic_ns();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let count = (pace.per_second() * PACED_SECONDS) as u64;
    for number in 1..=count {
        let due_ns = begin_ns + pace.due_ns(number);
        wait_until(due_ns);
        bell.write_all(&due_ns.to_ne_bytes())?;
    }
    // After the last one is read.
    wait_until(begin_ns + pace.due_ns(count + 1));
    bell.write_all(&WAKES_OVER.to_ne_bytes())?;
    hear()?
        .parse()
        .map_err(|_| Failure::usage("the reference said no number"))
}

fn median(
    time: Duration,
    pace: Pace,
    mut round: impl FnMut() -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut halves = report::new_histogram();
    // The first round waits for the other end to start.
    for _ in 0..100 {
        round()?;
    }
    let (started, begin_ns, mut number) = (Instant::now(), monotonic_ns(), 0);
    let pace = pace.of_reference();
    while started.elapsed() < time {
        for _ in 0..16 {
            pace.wait(begin_ns, number);
            number += 1;
            let before = Instant::now();
            round()?;
            let nanos = u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX);
            halves.saturating_record(nanos / 2);
        }
    }
    Ok(halves.value_at_quantile(0.5))
}

/// The other end: answers until it is stopped.
pub(super) fn serve(args: &ReferenceArgs) -> Result<(), Failure> {
    cores::pin("reference", args.core);
    match args.kind {
        Kind::Line => serve_line(),
        Kind::Event => serve_event(),
        Kind::Wake => serve_wakes(),
    }
}

fn serve_line() -> Result<(), Failure> {
    let theirs = read_line(std::io::stdin().lock())?;
    let ours = Line::create()?;
    println!("/proc/{}/fd/{}", std::process::id(), ours.fd().as_raw_fd());
    let mut seen = 0;
    while seen != OVER {
        let word = theirs.load();
        if word != seen {
            ours.store(word);
            seen = word;
        } else {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

fn serve_event() -> Result<(), Failure> {
    let from = rustix::stdio::stdin();
    let to = rustix::stdio::stdout();
    loop {
        rustix::io::read(from, &mut [0; 8])?;
        rustix::io::write(to, &1_u64.to_ne_bytes())?;
    }
}

fn serve_wakes() -> Result<(), Failure> {
    let from = rustix::stdio::stdin();
    println!("ready");
    let mut latencies = report::new_histogram();
    loop {
        let mut word = [0; 8];
        rustix::io::read(from, &mut word)?;
        let (now_ns, due_ns) = (monotonic_ns(), u64::from_ne_bytes(word));
        if due_ns >= WAKES_OVER {
            break;
        }
        // Two that were read at once are a sum in the future.
        if due_ns <= now_ns {
            latencies.saturating_record(now_ns - due_ns);
        }
    }
    println!("{}", latencies.value_at_quantile(0.5));
    Ok(())
}
