//! Loom models of the ring: every order in which the two ends can see each other's words.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p shmesh-shm --release --lib models`.

#![allow(clippy::unwrap_used, clippy::type_complexity)] // tests may panic

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::{ChunkRef, Consumer, Head, Mode, Origin, Producer, PushError, Received, RingConfig};
use crate::arena::{ChunkId, HeapBlock};
use crate::sync::Ordering;

fn model(check: impl Fn() + Send + Sync + 'static) {
    model_bounded(3, check);
}

fn model_bounded(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(check);
}

fn config(depth: u32, mode: Mode) -> RingConfig {
    // Positions wrap inside each model.
    RingConfig {
        depth,
        mode,
        held_max: 1,
        start: u64::MAX,
    }
}

fn ends(config: RingConfig) -> (Producer, Consumer) {
    let (ring, borrows) = config.halves_on_heap();
    let producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
    let mut consumer = Consumer::new(ring, borrows, config, Default::default(), None).unwrap();
    consumer
        .add_segment(0, Arc::new(HeapBlock::new(1024).unwrap()))
        .unwrap();
    (producer, consumer)
}

fn head(sequence: u64) -> Head {
    Head {
        sequence,
        sent_ns: sequence + 100,
    }
}

fn words(sequence: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sequence.to_ne_bytes());
    bytes[8..].copy_from_slice(&(!sequence).to_ne_bytes());
    bytes
}

/// Follows what a subscriber is promised: whole messages, in order, with exact losses.
#[derive(Default)]
struct Witness {
    next: u64,
    received: u64,
    lost: u64,
}

impl Witness {
    fn see(&mut self, message: &Received) {
        assert_eq!(
            message.sequence(),
            self.next + message.lost(),
            "in order, losses exact"
        );
        assert_eq!(
            message.sent_ns(),
            message.sequence() + 100,
            "head of the same message"
        );
        if message.is_inline() {
            let bytes = message.bytes();
            assert_eq!(
                bytes,
                words(message.sequence()),
                "payload of the same message"
            );
        }
        self.next = message.sequence() + 1;
        self.received += 1;
        self.lost += message.lost();
    }

    fn drain(&mut self, consumer: &mut Consumer) {
        while let Some(message) = consumer.try_next().unwrap() {
            self.see(&message);
        }
    }
}

#[test]
fn models_keeping_ring_delivers_all_in_order() {
    model(|| {
        let (mut producer, mut consumer) = ends(config(1, Mode::Keep));
        let pushing = thread::spawn(move || {
            let mut pushed = 0;
            for sequence in 0..3 {
                match producer.push_inline(head(sequence), &words(sequence), |_| {}) {
                    Ok(()) => pushed += 1,
                    Err(PushError::Full) => producer.count_dropped(),
                    Err(PushError::Corrupt(corrupt)) => panic!("{corrupt}"),
                }
            }
            pushed
        });
        let mut witness = Witness::default();
        witness.drain(&mut consumer);
        let pushed = pushing.join().unwrap();
        witness.drain(&mut consumer);
        assert_eq!(witness.received, pushed);
        assert_eq!(witness.received + consumer.dropped(), 3);
    });
}

#[test]
fn models_lapped_reader_sees_whole_messages_in_order() {
    model(|| {
        let (mut producer, mut consumer) = ends(config(2, Mode::Overwrite));
        let pushing = thread::spawn(move || {
            for sequence in 0..3 {
                producer
                    .push_inline(head(sequence), &words(sequence), |_| {})
                    .unwrap();
            }
        });
        let mut witness = Witness::default();
        for _ in 0..2 {
            if let Some(message) = consumer.try_next().unwrap() {
                witness.see(&message);
            }
        }
        pushing.join().unwrap();
        witness.drain(&mut consumer);
        assert_eq!(witness.received + witness.lost, 3, "received + lost = sent");
        assert_eq!(witness.next, 3, "the last message is there");
    });
}

#[test]
fn models_latest_value_ring_is_never_older_than_its_depth() {
    model(|| {
        let (mut producer, mut consumer) = ends(config(1, Mode::Overwrite));
        let pushing = thread::spawn(move || {
            for sequence in 0..3 {
                producer
                    .push_inline(head(sequence), &words(sequence), |_| {})
                    .unwrap();
            }
        });
        let mut witness = Witness::default();
        if let Some(message) = consumer.try_next().unwrap() {
            witness.see(&message);
        }
        pushing.join().unwrap();
        let before = witness.received;
        witness.drain(&mut consumer);
        assert!(witness.received <= before + 1, "one unread message at rest");
        assert_eq!((witness.next, witness.received + witness.lost), (3, 3));
    });
}

/// Chunks of the model: loom fails the model when one is written while it is read.
type Pool = Arc<[UnsafeCell<u64>; 4]>;

fn read_chunk(pool: &Pool, message: &Received) {
    let idx = message.bytes().len();
    // SAFETY: the point of the model; loom checks that nobody writes the cell now.
    pool[idx].with(|value| assert_eq!(unsafe { *value }, message.sequence()));
}

/// Publishes `count` chunk messages, each in a chunk that nobody refers to.
fn push_chunks(producer: &mut Producer, pool: &Pool, count: u64) {
    let mut free: Vec<u32> = (0..4).collect();
    for sequence in 0..count {
        if free.is_empty() {
            producer.sweep(|id| free.push(id.index));
        }
        let Some(index) = free.pop() else {
            panic!("more chunks out than the ring can hold")
        };
        // SAFETY: as in `read_chunk`.
        pool[index as usize].with_mut(|value| unsafe { *value = sequence });
        // The model's chunks are cells; the length says which.
        let place = ChunkRef {
            segment: 0,
            offset: 0,
            len: index,
        };
        let id = ChunkId { segment: 0, index };
        let pushed = producer.push_chunk(head(sequence), place, id, |id| free.push(id.index));
        if pushed.is_err() {
            producer.count_dropped();
            free.push(index);
        }
    }
}

fn chunk_model(mode: Mode, depth: u32, count: u64) {
    model_bounded(2, move || {
        let (mut producer, mut consumer) = ends(config(depth, mode));
        let pool: Pool = Arc::new(core::array::from_fn(|_| UnsafeCell::new(0)));
        let writers_pool = Arc::clone(&pool);
        let pushing = thread::spawn(move || {
            push_chunks(&mut producer, &writers_pool, count);
            producer
        });
        let mut witness = Witness::default();
        if let Some(message) = consumer.try_next().unwrap() {
            witness.see(&message);
            read_chunk(&pool, &message);
        }
        let mut producer = pushing.join().unwrap();
        while let Some(message) = consumer.try_next().unwrap() {
            witness.see(&message);
            read_chunk(&pool, &message);
        }
        let lost = consumer.overwritten() + consumer.dropped();
        assert_eq!(witness.received + lost, count, "received + lost = sent");
        producer.sweep(|_| {});
        assert_eq!(producer.lent().count(), 0, "every chunk came back");
    });
}

#[test]
fn models_overwritten_chunk_is_held_or_given_back_never_both() {
    // The third message evicts the first, and the fourth is written into its chunk.
    chunk_model(Mode::Overwrite, 2, 4);
}

#[test]
fn models_kept_chunk_is_not_reused_before_its_release() {
    chunk_model(Mode::Keep, 1, 3);
}

#[test]
fn models_who_sees_closed_has_the_last_message() {
    model(|| {
        let (mut producer, mut consumer) = ends(config(2, Mode::Overwrite));
        let closed = Arc::new(AtomicBool::new(false));
        let closing = Arc::clone(&closed);
        let pushing = thread::spawn(move || {
            producer.push_inline(head(0), &words(0), |_| {}).unwrap();
            producer.push_inline(head(1), &words(1), |_| {}).unwrap();
            closing.store(true, Ordering::Release);
        });
        let mut witness = Witness::default();
        if closed.load(Ordering::Acquire) {
            witness.drain(&mut consumer);
            assert_eq!(witness.received, 2);
        }
        pushing.join().unwrap();
    });
}

#[test]
fn models_a_lender_ends_with_its_last_sample_and_not_before() {
    model(|| {
        let config = config(2, Mode::Keep);
        let (ring, borrows) = config.halves_on_heap();
        let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let origin = Arc::<Origin>::default();
        let mut consumer = Consumer::new(ring, borrows, config, Arc::clone(&origin), None).unwrap();
        for sequence in 0..2 {
            let pushed = producer.push_inline(head(sequence), &words(sequence), |_| {});
            pushed.unwrap();
        }
        let samples = [(); 2].map(|()| consumer.try_next().unwrap().unwrap());
        let dropping = samples.map(|sample| {
            thread::spawn(move || {
                assert_eq!(sample.bytes(), words(sample.sequence()));
            })
        });
        drop(consumer);
        for thread in dropping {
            thread.join().unwrap();
        }
        assert_eq!(Arc::strong_count(&origin), 1, "the lender is gone");
    });
}
