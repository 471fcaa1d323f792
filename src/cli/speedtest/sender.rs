//! The sending end: chooses the runs, drives them, and says what came of them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use shmesh_shm::{INLINE_BYTES, monotonic_ns};

use super::bare_tcp::{self, Bare};
use super::peer::{WORD_TIMEOUT, block_on, end_well, hear, join, receive, say, word_subscriber};
use super::receiver::stream_depth;
use super::report::{self, Measured, Reference};
use super::spec::{Control, Outcome, Pace, Pattern, Payload, Report, Spec, Transport, Wait};
use super::{ChoiceArgs, RunArgs, call, cores, reference};
use crate::cli::Failure;
use crate::{Node, Overflow, Publisher, Raw, Subscriber};

/// Sizes measured unless one is asked for, as rosy does, and the one people compare.
const SIZES: [usize; 4] = [0, 64, 1000, 1_000_000];
/// How long it waits for an answer before it looks whether the receiver is still there.
const PATIENCE: Duration = Duration::from_millis(100);
/// Share of the time that is not counted, at first.
pub(super) const WARM_UP: f64 = 0.1;
/// Messages of a stream between two looks at the clock.
const STREAM_BATCH: u64 = 256;

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    end_well(&args.common);
    let core = cores::choose(0, args.common.core);
    block_on(async {
        // Before the node has threads: they stay on its core, and off the other end's.
        let core = cores::pin("sender", core);
        let node = join("speedtest-send", &args.common, args.choices.transport).await?;
        let mut sender = Sender::connect(&node, &args.common.topic, core).await?;
        let transport = match sender.receiver {
            Some(_) => Transport::Tcp,
            None => Transport::Shm,
        };
        let specs = specs(&args.choices, transport);
        let progress = progress_bar(specs.len(), args.choices.json);
        let mut all = Vec::new();
        for spec in specs {
            progress.set_message(format!("{:?} {} B", spec.pattern, spec.message_size));
            let measured = sender.measure(&spec).await?;
            if args.choices.json {
                report::print_json(&measured)?;
            }
            all.push(measured);
            progress.inc(1);
        }
        progress.finish_and_clear();
        if !args.choices.json {
            report::print_table(&all)?;
        }
        if let Some(path) = &args.choices.hgrm {
            report::write_hgrm(path, &all)?;
        }
        Ok(())
    })
}

fn specs(choices: &ChoiceArgs, transport: Transport) -> Vec<Spec> {
    let patterns = choices
        .pattern
        .map_or_else(|| Pattern::ALL.to_vec(), |pattern| vec![pattern]);
    let sizes = choices
        .message_size
        .map_or_else(|| SIZES.to_vec(), |size| vec![size]);
    let spec = |pattern, message_size| Spec {
        pattern,
        wait: choices.wait,
        transport,
        payload: choices.payload.unwrap_or(match pattern {
            Pattern::Stream => Payload::Write,
            Pattern::Ping | Pattern::Paced | Pattern::Call => Payload::Loan,
        }),
        message_size,
        seconds: choices.seconds,
        pace: Pace::of(pattern, choices.rate),
        in_flight: choices.in_flight,
    };
    let of_pattern = |pattern| sizes.iter().map(move |size| spec(pattern, *size));
    patterns.into_iter().flat_map(of_pattern).collect()
}

/// On a terminal only; a pipe gets none.
fn progress_bar(count: usize, is_json: bool) -> ProgressBar {
    if is_json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}");
    let bar = ProgressBar::new(count as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

struct Sender<'a> {
    node: &'a Node,
    topic: String,
    core: Option<usize>,
    control: Publisher<Raw>,
    reports: Subscriber<Raw>,
    /// Where the receiver is found over a network, if that is how it is reached.
    receiver: Option<IpAddr>,
    is_same_host: bool,
}

impl<'a> Sender<'a> {
    async fn connect(node: &'a Node, topic: &str, core: Option<usize>) -> Result<Self, Failure> {
        let mut control = node.publisher::<Raw>(&format!("{topic}/control")).build()?;
        let mut reports = word_subscriber(node, &format!("{topic}/report"))?;
        let found = async {
            note!("waiting for a receiver on `{topic}`");
            control.wait_for_listener().await?;
            reports.wait_for_publisher().await
        };
        let found = tokio::time::timeout(WORD_TIMEOUT, found).await;
        found.map_err(|_| {
            Failure::usage(format!(
                "no receiver on `{topic}` within {WORD_TIMEOUT:?}; start `mesh-speedtest recv`"
            ))
        })??;
        let reached = reports.any_publisher();
        let (receiver, is_over_network) = reached.ok_or_else(|| Failure::usage("no receiver"))?;
        let known = node.whereabouts(receiver);
        let (is_same_host, addresses) = known.unwrap_or((true, Vec::new()));
        let parsed = addresses
            .iter()
            .find_map(|one| one.parse::<SocketAddr>().ok());
        let receiver = parsed
            .map(|address| address.ip())
            .filter(|_| is_over_network);
        Ok(Self {
            receiver,
            is_same_host,
            node,
            topic: topic.to_owned(),
            core,
            control,
            reports,
        })
    }

    async fn measure(&mut self, spec: &Spec) -> Result<Measured, Failure> {
        self.check(spec)?;
        let bare_before = self.bare_tcp(spec)?;
        if spec.pattern == Pattern::Call {
            return self.calls(spec, bare_before).await;
        }
        let mut data = self.node.publisher::<Raw>(&format!("{}/data", self.topic));
        if spec.pattern != Pattern::Paced {
            data = data.without_timestamps();
        }
        if spec.message_size > INLINE_BYTES {
            let count = match spec.pattern {
                Pattern::Stream => stream_depth(spec) as usize + 2,
                Pattern::Ping | Pattern::Paced | Pattern::Call => 4,
            };
            data = data.reserve(spec.message_size, count);
        }
        let mut data = data.build()?;
        let echo = format!("{}/echo", self.topic);
        let mut echo = match spec.pattern {
            Pattern::Ping => {
                let overflow = Overflow::KeepLast(16);
                Some(
                    self.node
                        .subscriber::<Raw>(&echo)
                        .overflow(overflow)
                        .build()?,
                )
            }
            Pattern::Paced | Pattern::Stream | Pattern::Call => None,
        };
        say(&mut self.control, &Control::Start(*spec))?;
        let Some(Report::Ready { core: peer_core }) = hear(&mut self.reports, WORD_TIMEOUT)? else {
            return Err(Failure::usage(
                "the receiver is not ready; is it busy with another sender?",
            ));
        };
        tokio::time::timeout(WORD_TIMEOUT, data.wait_for_listener()).await??;
        let mut data = Transmitter::new(data, *spec);
        let before = self.reference(spec, peer_core)?;
        let (sent, seconds, latencies) = match spec.pattern {
            Pattern::Ping => {
                let echo = echo.as_mut().ok_or_else(|| Failure::usage("no echo"))?;
                ping(spec, &mut data, echo).await?
            }
            Pattern::Paced => self.paced(spec, &mut data).await?,
            Pattern::Stream | Pattern::Call => stream(spec, &mut data).await?,
        };
        say(&mut self.control, &Control::Finish { sent })?;
        let Some(Report::Done(outcome)) = hear(&mut self.reports, 6 * WORD_TIMEOUT)? else {
            return Err(Failure::usage("the receiver did not report"));
        };
        let after = self.reference(spec, peer_core)?;
        drop(data);
        let bare_after = self.bare_tcp(spec)?;
        let rates = bare_before.bytes_per_s.zip(bare_after.bytes_per_s);
        let reference = Reference {
            ns: mid(bare_before.latency_ns, bare_after.latency_ns).or_else(|| mid(before, after)),
            bytes_per_s: rates.map(|(before, after)| before.midpoint(after)),
        };
        let cores = self
            .core
            .zip(peer_core)
            .map_or(Vec::new(), |(ours, theirs)| vec![ours, theirs]);
        measured(*spec, &outcome, latencies, seconds, cores, reference)
    }

    /// Measures service calls.
    async fn calls(&mut self, spec: &Spec, bare_before: Bare) -> Result<Measured, Failure> {
        say(&mut self.control, &Control::Start(*spec))?;
        let Some(Report::Ready { core: peer_core }) = hear(&mut self.reports, WORD_TIMEOUT)? else {
            return Err(Failure::usage("the receiver is not ready"));
        };
        let mut caller = call::caller(self.node, &self.topic, spec).await?;
        let before = self.reference(spec, peer_core)?;
        let (count, seconds, latencies) = call::measure(spec, &mut caller).await?;
        say(&mut self.control, &Control::Finish { sent: count })?;
        let Some(Report::Done(mut outcome)) = hear(&mut self.reports, 6 * WORD_TIMEOUT)? else {
            return Err(Failure::usage("the receiver did not report"));
        };
        outcome.received = count;
        let after = self.reference(spec, peer_core)?;
        drop(caller);
        let bare_after = self.bare_tcp(spec)?;
        let one_way = mid(bare_before.latency_ns, bare_after.latency_ns);
        let one_way = one_way.or_else(|| mid(before, after));
        let reference = Reference {
            ns: one_way.map(|ns| 2 * ns),
            bytes_per_s: None,
        };
        let cores = self.core.into_iter().chain(peer_core).collect();
        measured(*spec, &outcome, latencies, seconds, cores, reference)
    }

    fn check(&self, spec: &Spec) -> Result<(), Failure> {
        if spec.pattern == Pattern::Paced && !self.is_same_host {
            return Err(Failure::usage(
                "`paced` measures by the clock of one host; between two use `ping` or `stream`",
            ));
        }
        Ok(())
    }

    fn reference(&self, spec: &Spec, peer_core: Option<usize>) -> Result<Option<u64>, Failure> {
        if spec.pattern == Pattern::Stream || spec.transport == Transport::Tcp {
            return Ok(None);
        }
        reference::measure(spec, peer_core).map(Some)
    }

    /// What a bare connection to the receiver gives, if that is how it is reached.
    fn bare_tcp(&mut self, spec: &Spec) -> Result<Bare, Failure> {
        let Some(host) = self.receiver else {
            return Ok(Bare::default());
        };
        say(&mut self.control, &Control::Reference { spec: *spec, host })?;
        let Some(Report::Reference { port }) = hear(&mut self.reports, WORD_TIMEOUT)? else {
            return Err(Failure::usage("the receiver does not serve the reference"));
        };
        let Some(port) = port else {
            return Ok(Bare::default());
        };
        let address = SocketAddr::new(host, port).to_string();
        // On a thread of its own, for it may run a runtime.
        let measured = std::thread::scope(|scope| {
            let measure = || bare_tcp::measure(&address, spec);
            scope.spawn(measure).join()
        });
        measured.unwrap_or_else(|_| Err(Failure::usage("the reference failed")))
    }

    /// Sends on schedule; the receiver measures.
    async fn paced(&mut self, spec: &Spec, data: &mut Transmitter) -> Result<Sending, Failure> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = (spec.seconds * spec.pace.per_second()).ceil() as u64;
        let begin_ns = monotonic_ns() + 10_000_000;
        say(&mut self.control, &Control::Begin { at_ns: begin_ns })?;
        for number in 0..count {
            spec.pace.wait(begin_ns, number);
            data.transmit(number).await?;
        }
        let seconds = Duration::from_nanos(monotonic_ns().saturating_sub(begin_ns)).as_secs_f64();
        Ok((count, seconds, None))
    }
}

fn mid(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    before
        .zip(after)
        .map(|(before, after)| before.midpoint(after))
}

/// Messages sent, seconds it took, and latencies if this end measured them.
pub(super) type Sending = (u64, f64, Option<Histogram<u64>>);

async fn ping(
    spec: &Spec,
    data: &mut Transmitter,
    echo: &mut Subscriber<Raw>,
) -> Result<Sending, Failure> {
    let mut latencies = report::new_histogram();
    let (started, mut counted_from) = (Instant::now(), None);
    let (warm_up, whole) = (spec.seconds * WARM_UP, spec.seconds * (1.0 + WARM_UP));
    let mut number = 0;
    let mut elapsed = 0.0;
    while elapsed < whole {
        let before = Instant::now();
        data.transmit(number).await?;
        number += 1;
        while receive(echo, spec.wait, PATIENCE).await?.is_none() {
            if echo.publisher_count() == 0 {
                return Err(Failure::from(anyhow::anyhow!("the receiver is gone")));
            }
            if before.elapsed() > WORD_TIMEOUT {
                return Err(Failure::from(anyhow::anyhow!("no answer to a ping")));
            }
        }
        let round_trip = before.elapsed();
        elapsed = (before - started).as_secs_f64();
        if elapsed >= warm_up {
            counted_from.get_or_insert(number);
            latencies
                .saturating_record(u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX) / 2);
        }
    }
    Ok((number, started.elapsed().as_secs_f64(), Some(latencies)))
}

async fn stream(spec: &Spec, data: &mut Transmitter) -> Result<Sending, Failure> {
    let started = Instant::now();
    let mut number = 0_u64;
    while started.elapsed().as_secs_f64() < spec.seconds {
        let batch = if spec.message_size > 65_536 {
            1
        } else {
            STREAM_BATCH
        };
        for number in number..number + batch {
            if spec.wait == Wait::Async {
                data.transmit(number).await?;
            } else {
                data.transmit_now(number)?;
            }
        }
        number += batch;
    }
    Ok((number, started.elapsed().as_secs_f64(), None))
}

/// Sends messages in the way that is measured.
struct Transmitter {
    data: Publisher<Raw>,
    spec: Spec,
    /// The message, where it travels in its slot: written there from the caller's memory.
    message: [u8; INLINE_BYTES],
}

impl Transmitter {
    fn new(data: Publisher<Raw>, spec: Spec) -> Self {
        let message = [0; INLINE_BYTES];
        Self {
            data,
            spec,
            message,
        }
    }

    async fn transmit(&mut self, number: u64) -> Result<(), Failure> {
        if self.spec.wait != Wait::Async {
            return self.transmit_now(number);
        }
        let mut loan = self.data.loan(self.spec.message_size)?;
        self.spec.payload.write(&mut loan, number);
        self.data.send_async(loan).await?;
        Ok(())
    }

    #[inline]
    fn transmit_now(&mut self, number: u64) -> Result<(), Failure> {
        let size = self.spec.message_size;
        if let Some(message) = self.message.get_mut(..size) {
            self.spec.payload.write(message, number);
            self.data.publish_bytes(message)?;
        } else {
            let mut loan = self.data.loan(size)?;
            self.spec.payload.write(&mut loan, number);
            self.data.send(loan)?;
        }
        Ok(())
    }
}

fn measured(
    spec: Spec,
    outcome: &Outcome,
    latencies: Option<Histogram<u64>>,
    seconds: f64,
    cores: Vec<usize>,
    reference: Reference,
) -> Result<Measured, Failure> {
    if outcome.damaged > 0 {
        let (damaged, received) = (outcome.damaged, outcome.received);
        return Err(Failure::usage(format!(
            "{damaged} of {received} messages were damaged"
        )));
    }
    let latencies = match (spec.pattern, latencies) {
        (Pattern::Stream, _) => None,
        (_, Some(latencies)) => Some(latencies),
        (_, None) => Some(report::histogram_of(&outcome.latencies)),
    };
    Ok(Measured {
        spec,
        messages: outcome.received,
        lost: outcome.lost,
        seconds,
        latencies,
        cores,
        reference,
    })
}
