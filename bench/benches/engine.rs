//! What the parts cost on one thread: the ring, the arena, archiving in place against a bare copy,
//! a message from publish to receive, and each further subscriber.
//!
//! `cargo bench -p shmesh-bench`. Two ends on one thread never wait for a cache line, so these are
//! costs of instructions; `mesh-speedtest` has latencies between processes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Message, Node, Overflow, Publisher, Raw, Subscriber};
use shmesh_shm::{Arena, Consumer, Head, Mode, Producer, RingConfig, SegmentStore};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Blob {
    bytes: Vec<u8>,
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring: push and pop");
    for mode in [Mode::Keep, Mode::Overwrite] {
        for size in [0_usize, 8, 32, 64, 96] {
            let config = RingConfig {
                depth: 64,
                mode,
                held_max: 1,
                start: 0,
            };
            let (ring, borrows) = config.halves_on_heap();
            let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
            let mut consumer =
                Consumer::new(ring, borrows, config, Default::default(), None).unwrap();
            let payload = [7; 96];
            let mut sequence = 0;
            group.bench_function(BenchmarkId::new(format!("{mode:?}"), size), |b| {
                b.iter(|| {
                    let head = Head {
                        sequence,
                        sent_ns: 0,
                    };
                    producer
                        .push_inline(head, &payload[..size], |_| {})
                        .unwrap();
                    sequence += 1;
                    black_box(consumer.try_next().unwrap());
                });
            });
        }
    }
}

fn arena(c: &mut Criterion) {
    let mut arena = Arena::new(SegmentStore, 64 << 20);
    for size in [1000, 1_000_000] {
        arena.grow(size).unwrap();
        c.bench_function(&format!("arena: take and release {size} B"), |b| {
            b.iter(|| {
                let chunk = arena.take(size).unwrap();
                let id = arena.publish(chunk);
                arena.release(id);
            });
        });
    }
}

fn node() -> Node {
    let builder = Node::builder("bench")
        .coordinator("127.0.0.1:7690")
        .embedded_coordinator();
    builder.build_blocking().unwrap()
}

fn connected(node: &Node, topic: &str, count: usize) -> (Publisher<Raw>, Vec<Subscriber<Raw>>) {
    let overflow = Overflow::KeepLast(4);
    let subscribe = |_| {
        node.subscriber::<Raw>(topic)
            .overflow(overflow)
            .build()
            .unwrap()
    };
    let subscribers: Vec<_> = (0..count).map(subscribe).collect();
    let publisher = node.publisher::<Raw>(topic).without_timestamps();
    let publisher = publisher.reserve(1 << 20, 6).build().unwrap();
    while publisher.listener_count() < count {
        std::thread::sleep(Duration::from_millis(1));
    }
    (publisher, subscribers)
}

fn fan_out(c: &mut Criterion) {
    let node = node();
    let mut group = c.benchmark_group("publish to n subscribers (nobody reads)");
    for size in [64, 1 << 20] {
        for count in 1..=8 {
            let topic = format!("fan/{size}/{count}");
            let (mut publisher, subscribers) = connected(&node, &topic, count);
            group.bench_function(BenchmarkId::new(format!("{size} B"), count), |b| {
                b.iter(|| {
                    let loan = publisher.loan(size).unwrap();
                    publisher.send(loan).unwrap()
                });
            });
            drop(subscribers);
        }
    }
}

fn path(c: &mut Criterion) {
    let node = node();
    let mut group = c.benchmark_group("publish and receive");
    for size in [64, 4096, 1 << 20] {
        let (mut publisher, mut subscribers) = connected(&node, &format!("path/{size}"), 1);
        group.bench_function(BenchmarkId::new("loan", size), |b| {
            b.iter(|| {
                let loan = publisher.loan(size).unwrap();
                publisher.send(loan).unwrap();
                black_box(subscribers[0].try_recv().unwrap().unwrap());
            });
        });
    }
}

fn archive(c: &mut Criterion) {
    let node = node();
    let mut publisher = node
        .publisher::<Blob>("archive")
        .without_timestamps()
        .build()
        .unwrap();
    let mut blobs = node.subscriber::<Blob>("archive").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let blob = Blob {
        bytes: vec![7; 1_000_000],
    };
    let mut group = c.benchmark_group("1 MB vector");
    group.bench_function("archive in place", |b| {
        b.iter(|| {
            publisher.publish(&blob).unwrap();
            assert!(blobs.try_recv().unwrap().is_some());
        });
    });
    let mut copies = vec![vec![0; 1_000_000]; 2];
    let mut turn = 0;
    group.bench_function("bare memcpy", |b| {
        b.iter(|| {
            turn = 1 - turn;
            copies[turn].copy_from_slice(black_box(&blob.bytes));
            black_box(&copies);
        });
    });
}

criterion_group!(benches, ring, arena, path, fan_out, archive);
criterion_main!(benches);
