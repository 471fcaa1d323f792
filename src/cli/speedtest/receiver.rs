//! The receiving end: serves runs until it is stopped.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use shmesh_shm::monotonic_ns;

use super::RecvArgs;
use super::peer::{WORD_TIMEOUT, block_on, end_well, hear, join, receive, say, word_subscriber};
use super::spec::{Control, Outcome, Pattern, Payload, Report, Spec, Transport, verify_byte};
use super::{bare_tcp, call, cores, report};
use crate::cli::{Failure, full_text};
use crate::limits::CALLS_MAX;
use crate::{Node, Overflow, Publisher, Raw, Sample, Subscriber};

/// How long it waits before it looks whether the sender is through.
const IDLE: Duration = Duration::from_millis(20);

pub(super) fn run(args: &RecvArgs) -> Result<(), Failure> {
    end_well(&args.common);
    let core = cores::choose(1, args.common.core);
    block_on(async {
        // Before the node has threads: they stay on its core, and off the other end's.
        let core = cores::pin("receiver", core);
        let node = join("speedtest-recv", &args.common, args.choices.transport).await?;
        let topic = &args.common.topic;
        let mut control = word_subscriber(&node, &format!("{topic}/control"))?;
        let mut words = node.publisher::<Raw>(&format!("{topic}/report")).build()?;
        note!("receiving on `{topic}`; Ctrl-C ends");
        loop {
            let Some(word) = hear(&mut control, Duration::from_secs(3600))? else {
                continue;
            };
            if let Control::Reference { spec, host } = word {
                let listener = TcpListener::bind((host, 0));
                let port = listener.as_ref().ok().and_then(|l| l.local_addr().ok());
                let port = port.map(|address| address.port());
                say(&mut words, &Report::Reference { port })?;
                if let Ok(listener) = listener {
                    // On a thread of its own, but the only one that is busy: it may run a runtime.
                    let served = std::thread::scope(|scope| {
                        let serve = || bare_tcp::serve(&listener, &spec);
                        scope.spawn(serve).join()
                    });
                    if let Ok(Err(failure)) = served {
                        note!("reference failed: {}", full_text(&failure.error));
                    }
                }
            } else if let Control::Start(spec) = word {
                let mut run = Run {
                    node: &node,
                    topic,
                    control: &mut control,
                    words: &mut words,
                };
                if let Err(failure) = run.serve(&spec, core).await {
                    note!("run failed: {}", full_text(&failure.error));
                }
            }
        }
    })
}

struct Run<'a> {
    node: &'a Node,
    topic: &'a str,
    control: &'a mut Subscriber<Raw>,
    words: &'a mut Publisher<Raw>,
}

impl Run<'_> {
    async fn serve(&mut self, spec: &Spec, core: Option<usize>) -> Result<(), Failure> {
        if spec.pattern == Pattern::Call {
            return self.serve_calls(spec, core).await;
        }
        let overflow = match spec.pattern {
            Pattern::Ping => Overflow::KeepLast(16),
            Pattern::Paced => Overflow::KeepLast(1024),
            Pattern::Stream | Pattern::Call => Overflow::Block {
                depth: stream_depth(spec),
                deadline: WORD_TIMEOUT,
            },
        };
        let data = format!("{}/data", self.topic);
        let mut data = self
            .node
            .subscriber::<Raw>(&data)
            .overflow(overflow)
            .build()?;
        let mut echo = match spec.pattern {
            Pattern::Ping => Some(
                self.node
                    .publisher::<Raw>(&format!("{}/echo", self.topic))
                    .reserve(spec.message_size, 2)
                    .build()?,
            ),
            Pattern::Paced | Pattern::Stream | Pattern::Call => None,
        };
        tokio::time::timeout(WORD_TIMEOUT, data.wait_for_publisher()).await??;
        if let Some(echo) = &mut echo {
            tokio::time::timeout(WORD_TIMEOUT, echo.wait_for_listener()).await??;
        }
        say(self.words, &Report::Ready { core })?;
        let outcome = self.take_all(spec, &mut data, echo.as_mut()).await?;
        say(self.words, &Report::Done(outcome))
    }

    async fn serve_calls(&mut self, spec: &Spec, core: Option<usize>) -> Result<(), Failure> {
        let provider = self
            .node
            .provider::<Raw, Raw>(&format!("{}/call", self.topic));
        let provider = provider.concurrency(spec.in_flight.min(CALLS_MAX / 4));
        let mut provider = provider
            .pending(spec.in_flight.min(CALLS_MAX / 4))
            .build()?;
        say(self.words, &Report::Ready { core })?;
        let longest = Duration::from_secs_f64(2.0 * spec.seconds) + 6 * WORD_TIMEOUT;
        let started = Instant::now();
        let is_over = || match hear(self.control, Duration::ZERO)? {
            Some(Control::Finish { .. }) => Ok(true),
            Some(_) => Err(Failure::usage("the sender started over")),
            None => Ok(started.elapsed() > longest),
        };
        let received = call::serve(&mut provider, spec, IDLE, is_over).await?;
        let outcome = Outcome {
            received,
            ..Outcome::default()
        };
        say(self.words, &Report::Done(outcome))
    }

    async fn take_all(
        &mut self,
        spec: &Spec,
        data: &mut Subscriber<Raw>,
        mut echo: Option<&mut Publisher<Raw>>,
    ) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        let mut latencies = report::new_histogram();
        let mut begin_ns = 0;
        let mut sent = None;
        let mut idle_count = 0;
        loop {
            // What is there is taken without the detour over the three ways to wait.
            let mut next = data.try_recv()?;
            if next.is_none() {
                next = receive(data, spec.wait, IDLE).await?;
            }
            let Some(sample) = &next else {
                idle_count += 1;
                if self.is_over(data, &mut sent, &mut begin_ns, idle_count)? {
                    break;
                }
                continue;
            };
            if spec.pattern == Pattern::Paced {
                if begin_ns == 0 {
                    begin_ns = self.beginning()?;
                }
                let due_ns = begin_ns + spec.pace.due_ns(sample.sequence());
                latencies.saturating_record(monotonic_ns().saturating_sub(due_ns));
            }
            if let Some(echo) = echo.as_deref_mut() {
                reflect(echo, sample, spec).await?;
            }
            if spec.payload == Payload::Verify && !is_intact(sample) {
                outcome.damaged += 1;
            }
            outcome.received += 1;
            idle_count = 0;
        }
        let missing = sent
            .unwrap_or(outcome.received)
            .saturating_sub(outcome.received);
        outcome.lost = missing.max(data.stats().lost);
        outcome.latencies = pairs(&latencies);
        Ok(outcome)
    }

    /// True when the sender said how many it sent and all came or are lost, or when it is gone.
    fn is_over(
        &mut self,
        data: &Subscriber<Raw>,
        sent: &mut Option<u64>,
        begin_ns: &mut u64,
        idle_count: u32,
    ) -> Result<bool, Failure> {
        match hear(self.control, Duration::ZERO)? {
            Some(Control::Finish { sent: count }) => *sent = Some(count),
            Some(Control::Begin { at_ns }) => *begin_ns = at_ns,
            Some(Control::Start(_) | Control::Reference { .. }) => {
                return Err(Failure::usage("the sender started over"));
            }
            None => {}
        }
        let stats = data.stats();
        let is_done = sent.is_some_and(|sent| stats.received + stats.lost >= sent);
        let is_deserted = stats.publishers == 0 && idle_count * IDLE > WORD_TIMEOUT;
        Ok(is_done || is_deserted)
    }

    /// When the schedule begins: said before the first message, so it is there.
    fn beginning(&mut self) -> Result<u64, Failure> {
        match hear(self.control, WORD_TIMEOUT)? {
            Some(Control::Begin { at_ns }) => Ok(at_ns),
            _ => Err(Failure::usage("messages without a schedule")),
        }
    }
}

/// A stream's depth: large messages wait in few, so that the memory stays in the cache or nearly.
/// Over a network more small ones are on their way at once.
pub(super) fn stream_depth(spec: &Spec) -> u32 {
    let (bytes, depth_max) = match spec.transport {
        Transport::Auto | Transport::Shm => (8 << 20, 1024),
        Transport::Tcp => (2 << 20, 8192),
    };
    let fitting = bytes / spec.message_size.max(1);
    u32::try_from(fitting)
        .unwrap_or(u32::MAX)
        .clamp(4, depth_max)
}

/// Sends a message of the same size back, in memory of our own.
async fn reflect(
    echo: &mut Publisher<Raw>,
    sample: &Sample<Raw>,
    spec: &Spec,
) -> Result<(), Failure> {
    if spec.message_size <= shmesh_shm::INLINE_BYTES {
        echo.publish_bytes(sample)?;
        return Ok(());
    }
    let mut loan = echo.loan(spec.message_size)?;
    if spec.payload == Payload::Loan {
        loan[..8].copy_from_slice(&sample[..8]);
    } else {
        loan.copy_from_slice(sample);
    }
    echo.send(loan)?;
    Ok(())
}

fn is_intact(sample: &Sample<Raw>) -> bool {
    let number = sample.sequence();
    sample
        .iter()
        .enumerate()
        .all(|(idx, byte)| *byte == verify_byte(number, idx))
}

fn pairs(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram
        .iter_recorded()
        .map(|value| (value.value_iterated_to(), value.count_at_value()))
        .collect()
}
