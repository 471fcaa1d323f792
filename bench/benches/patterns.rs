//! What a message costs a subscription that merges 100 topics of one node, against one topic.
//!
//! `cargo bench -p shmesh-bench --bench patterns`. Rounds of all kinds take turns, so that what the
//! machine does besides hits all alike. "plain" is a subscription to one name, which merges
//! nothing; the others are patterns. Ratios are to the pattern's one topic, of the medians and of
//! the shortest rounds, which say more on a machine that does other things, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use shmesh::{Node, Overflow, Publisher, Raw, Subscriber, Transports};

const PATIENCE: Duration = Duration::from_secs(30);
const ROUNDS: usize = 21;
const MESSAGES: usize = 100_000;
/// Messages of a round on one thread that are sent before they are received.
const BATCH: usize = 100;
const PAYLOAD: [u8; 64] = [7; 64];

struct Stream {
    publishers: Vec<Publisher<Raw>>,
    subscriber: Subscriber<Raw>,
}

impl Stream {
    /// All topics that match `pattern`, which are `count`.
    fn new(nodes: &[Node; 2], name: &str, pattern: &str, count: usize) -> Self {
        // One topic has to hold a batch; for more it is that of a subscription that says nothing.
        let depth = u32::try_from(2 * BATCH / count).unwrap().max(16);
        let overflow = Overflow::Block {
            depth,
            deadline: PATIENCE,
        };
        let subscriber = nodes[0].subscriber::<Raw>(pattern).overflow(overflow);
        let subscriber = subscriber.build().unwrap();
        let publisher = |idx| {
            let topic = format!("{name}/{idx}");
            nodes[1].publisher::<Raw>(&topic).build().unwrap()
        };
        let mut publishers: Vec<_> = (0..count).map(publisher).collect();
        for publisher in &mut publishers {
            publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        }
        Self {
            publishers,
            subscriber,
        }
    }

    /// Sends and receives on one thread; nanoseconds for each message, of both.
    fn alone(&mut self) -> [f64; 2] {
        let mut publishers = (0..self.publishers.len()).cycle();
        let [mut sending, mut receiving] = [Duration::ZERO; 2];
        for _ in 0..MESSAGES / BATCH {
            let start = Instant::now();
            for idx in publishers.by_ref().take(BATCH) {
                self.publishers[idx].publish_bytes(&PAYLOAD).unwrap();
            }
            let sent = Instant::now();
            for _ in 0..BATCH {
                black_box(self.subscriber.try_recv().unwrap().unwrap());
            }
            sending += sent - start;
            receiving += sent.elapsed();
        }
        [sending, receiving].map(per_message)
    }

    /// Sends on another thread.
    fn across(&mut self) -> f64 {
        let publishers = &mut self.publishers;
        let subscriber = &mut self.subscriber;
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let count = publishers.len();
                for number in 0..MESSAGES {
                    publishers[number % count].publish_bytes(&PAYLOAD).unwrap();
                }
            });
            for _ in 0..MESSAGES {
                let received = subscriber.recv_spin(PATIENCE);
                black_box(received.unwrap_or_else(|error| {
                    panic!("{}: {error} {:?}", subscriber.topic(), subscriber.stats())
                }));
            }
        });
        per_message(start.elapsed())
    }
}

#[allow(clippy::cast_precision_loss)]
fn per_message(taken: Duration) -> f64 {
    taken.as_nanos() as f64 / MESSAGES as f64
}

fn nodes(transports: Transports) -> [Node; 2] {
    ["to", "from"].map(|name| {
        let builder = Node::builder(name).coordinator("127.0.0.1:7691");
        let builder = builder.embedded_coordinator().transports(transports);
        builder.build_blocking().unwrap()
    })
}

fn compare(what: &str, nodes: &[Node; 2], round: impl Fn(&mut Stream) -> f64) {
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    if wanted.is_some_and(|wanted| wanted != what) {
        return;
    }
    let mut streams = [
        ("plain, 1 topic", Stream::new(nodes, "plain", "plain/0", 1)),
        ("pattern, 1 topic", Stream::new(nodes, "one", "one/*", 1)),
        ("pattern, 10 topics", Stream::new(nodes, "ten", "ten/*", 10)),
        (
            "pattern, 100 topics",
            Stream::new(nodes, "all", "all/*", 100),
        ),
    ];
    let mut taken = streams.each_ref().map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, stream), taken) in streams.iter_mut().zip(&mut taken) {
            taken.push(round(stream));
        }
    }
    // The slowest round, the first perhaps, is left out.
    taken
        .iter_mut()
        .for_each(|taken| taken.truncate(ROUNDS - 1));
    taken
        .iter_mut()
        .for_each(|taken| taken.sort_by(f64::total_cmp));
    let median = |idx: usize| taken[idx][taken[idx].len() / 2];
    for (idx, (name, _)) in streams.iter().enumerate() {
        let [min, p50, max] = [taken[idx][0], median(idx), taken[idx][ROUNDS - 2]];
        let ratios = [p50 / median(1), min / taken[1][0]];
        let [of_p50, of_min] = ratios;
        println!("{what:<22}{name:<22}{min:8.1}{p50:8.1}{max:8.1} ns {of_p50:6.2}{of_min:6.2}");
    }
}

fn main() {
    println!(
        "{MESSAGES} messages of 64 B a round, {} rounds: min, median, max, ratios",
        ROUNDS - 1
    );
    let local = nodes(Transports::Auto);
    compare("one thread", &local, |stream| stream.alone().iter().sum());
    compare("one thread, receiving", &local, |stream| stream.alone()[1]);
    compare("two threads", &local, Stream::across);
    drop(local);
    let remote = nodes(Transports::Network);
    compare("two threads, TCP", &remote, Stream::across);
}
