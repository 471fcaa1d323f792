//! The reference over a network: a bare TCP connection between the same two ends, waited for in the
//! same way, on which a ping-pong, a schedule or a stream of the same messages runs. The receiver
//! serves it on the thread that receives, which does nothing else meanwhile.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use shmesh_shm::monotonic_ns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::peer::WORD_TIMEOUT;
use super::report;
use super::spec::{Pace, Pattern, Spec, Wait, wait_until};
use crate::cli::Failure;

/// What a bare connection gives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bare {
    /// One way, p50.
    pub(super) latency_ns: Option<u64>,
    pub(super) bytes_per_s: Option<f64>,
}

/// How long it is measured.
const PING_TIME: Duration = Duration::from_millis(300);
const STREAM_TIME: Duration = Duration::from_millis(500);
const PACED_SECONDS: f64 = 0.5;
/// Bytes before each payload of the stream: those of a frame of ours.
const HEADER_BYTES: usize = 32;
/// Small messages are gathered into writes of about so many bytes, as a batching sender would.
const GATHERED_BYTES: usize = 128 << 10;
const SLICES_MAX: usize = 1024;
const READ_BYTES: usize = 256 << 10;
/// Said by a paced sender when it is through.
const OVER: u64 = u64::MAX;

/// Waits for the connection and serves what `spec` says on it.
pub(super) fn serve(listener: &TcpListener, spec: &Spec) -> Result<(), Failure> {
    listener.set_nonblocking(true)?;
    let started = Instant::now();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if started.elapsed() > WORD_TIMEOUT {
                    return Err(Failure::usage("the sender did not dial the reference"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let mut end = End::new(stream, spec.wait)?;
    match spec.pattern {
        Pattern::Ping | Pattern::Call => serve_ping(&mut end, spec.message_size),
        Pattern::Paced => serve_paced(&mut end),
        Pattern::Stream => serve_stream(end.into_blocking()?),
    }
}

/// Dials the other end and measures what `spec` says.
pub(super) fn measure(address: &str, spec: &Spec) -> Result<Bare, Failure> {
    let stream = TcpStream::connect(address)?;
    let mut end = End::new(stream, spec.wait)?;
    Ok(match spec.pattern {
        Pattern::Ping | Pattern::Call => Bare {
            latency_ns: Some(ping(&mut end, spec)?),
            ..Bare::default()
        },
        Pattern::Paced => Bare {
            latency_ns: Some(pace(&mut end, spec.pace)?),
            ..Bare::default()
        },
        Pattern::Stream => Bare {
            bytes_per_s: Some(stream_all(end.into_blocking()?, spec)?),
            ..Bare::default()
        },
    })
}

/// One end of a connection, waited for in one of the three ways.
enum End {
    Spin(TcpStream),
    Block(TcpStream),
    Async {
        stream: tokio::net::TcpStream,
        runtime: tokio::runtime::Runtime,
    },
}

impl End {
    fn new(stream: TcpStream, wait: Wait) -> Result<Self, Failure> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(wait != Wait::Block)?;
        Ok(match wait {
            Wait::Spin => Self::Spin(stream),
            Wait::Block => {
                stream.set_read_timeout(Some(WORD_TIMEOUT))?;
                Self::Block(stream)
            }
            Wait::Async => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let entered = runtime.enter();
                let stream = tokio::net::TcpStream::from_std(stream)?;
                drop(entered);
                Self::Async { stream, runtime }
            }
        })
    }

    /// The connection alone.
    fn into_blocking(self) -> Result<TcpStream, Failure> {
        let stream = match self {
            Self::Spin(stream) | Self::Block(stream) => stream,
            Self::Async { stream, runtime } => {
                let _entered = runtime.enter();
                stream.into_std()?
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(WORD_TIMEOUT))?;
        Ok(stream)
    }

    /// Fills `bytes`; false at the end.
    fn read(&mut self, bytes: &mut [u8]) -> Result<bool, Failure> {
        let read = match self {
            Self::Block(stream) => stream.read_exact(bytes),
            Self::Spin(stream) => retried(bytes.len(), |at| stream.read(&mut bytes[at..])),
            Self::Async { stream, runtime } => {
                runtime.block_on(async { stream.read_exact(bytes).await.map(|_| ()) })
            }
        };
        match read {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Block(stream) => stream.write_all(bytes)?,
            Self::Spin(stream) => retried(bytes.len(), |at| stream.write(&bytes[at..]))?,
            Self::Async { stream, runtime } => runtime.block_on(stream.write_all(bytes))?,
        }
        Ok(())
    }
}

/// Tries again and again until `len` bytes went through.
fn retried(
    len: usize,
    mut step: impl FnMut(usize) -> std::io::Result<usize>,
) -> std::io::Result<()> {
    let mut at = 0;
    while at < len {
        match step(at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => at += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ping(end: &mut End, spec: &Spec) -> Result<u64, Failure> {
    let (pace, begin_ns) = (spec.pace.of_reference(), monotonic_ns());
    let mut message = vec![0; spec.message_size.max(1)];
    let mut halves = report::new_histogram();
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < PING_TIME {
        pace.wait(begin_ns, u64::from(count));
        let before = Instant::now();
        end.write(&message)?;
        if !end.read(&mut message)? {
            return Err(Failure::usage("the other end of the reference is gone"));
        }
        let nanos = u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX);
        count += 1;
        // The first ones wait for the other end to get going.
        if count > 100 || started.elapsed() > PING_TIME / 3 {
            halves.saturating_record(nanos / 2);
        }
    }
    Ok(halves.value_at_quantile(0.5))
}

fn serve_ping(end: &mut End, size: usize) -> Result<(), Failure> {
    let mut message = vec![0; size.max(1)];
    while end.read(&mut message)? {
        end.write(&message)?;
    }
    Ok(())
}

/// The other end measures, by the clock that the processes of one host share.
fn pace(end: &mut End, pace: Pace) -> Result<u64, Failure> {
    let pace = pace.of_reference();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let count = (pace.per_second() * PACED_SECONDS) as u64;
    let begin_ns = monotonic_ns() + 5_000_000;
    for number in 0..count {
        let due_ns = begin_ns + pace.due_ns(number);
        wait_until(due_ns);
        end.write(&due_ns.to_le_bytes())?;
    }
    end.write(&OVER.to_le_bytes())?;
    let mut median = [0; 8];
    if !end.read(&mut median)? {
        return Err(Failure::usage("the other end of the reference is gone"));
    }
    Ok(u64::from_le_bytes(median))
}

fn serve_paced(end: &mut End) -> Result<(), Failure> {
    let mut latencies = report::new_histogram();
    let mut word = [0; 8];
    while end.read(&mut word)? {
        let (now_ns, due_ns) = (monotonic_ns(), u64::from_le_bytes(word));
        if due_ns == OVER {
            return end.write(&latencies.value_at_quantile(0.5).to_le_bytes());
        }
        latencies.saturating_record(now_ns.saturating_sub(due_ns));
    }
    Ok(())
}

/// Writes messages of that size, each written anew as the measured ones are, header and payload as
/// slices of their own; bytes of payload that the other end got in a second.
fn stream_all(mut stream: TcpStream, spec: &Spec) -> Result<f64, Failure> {
    let size = spec.message_size.max(1);
    let count = (GATHERED_BYTES / (size + HEADER_BYTES)).clamp(1, SLICES_MAX / 2);
    // Two sets, as a sender that writes one while the other is on its way.
    let mut payloads = vec![vec![0; size]; 2 * count];
    let header = [0x5A; HEADER_BYTES];
    let (mut sent, mut number) = (0_u64, 0_u64);
    let started = Instant::now();
    while started.elapsed() < STREAM_TIME {
        let set = if (number / count as u64).is_multiple_of(2) {
            &mut payloads[..count]
        } else {
            &mut payloads[count..]
        };
        for payload in set.iter_mut() {
            spec.payload.write(payload, number);
            number += 1;
        }
        let slices = set.iter().flat_map(|payload| [&header[..], payload]);
        let mut slices: Vec<IoSlice<'_>> = slices.map(IoSlice::new).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let written = stream.write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, written);
        }
        sent += (count * size) as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut got = [0; 8];
    stream.read_exact(&mut got)?;
    let seconds = started.elapsed().as_secs_f64();
    let expected = number * (size + HEADER_BYTES) as u64;
    if u64::from_le_bytes(got) != expected {
        return Err(Failure::usage("the reference lost bytes"));
    }
    #[allow(clippy::cast_precision_loss)]
    Ok(sent as f64 / seconds)
}

fn serve_stream(mut stream: TcpStream) -> Result<(), Failure> {
    let mut buffer = vec![0; READ_BYTES];
    let mut got = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            count => got += count as u64,
        }
    }
    stream.write_all(&got.to_le_bytes())?;
    Ok(())
}
