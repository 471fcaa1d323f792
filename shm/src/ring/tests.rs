//! The ring's promises with both ends in one process; also run under miri.

#![allow(clippy::unwrap_used, clippy::type_complexity)] // tests may panic

use std::sync::Arc;

use super::{
    ChunkRef, Consumer, Corrupt, Head, Mode, Peeked, Producer, PushError, Received, RingConfig,
};
use crate::arena::{Arena, Block as _, Chunk, HeapBlock, HeapStore};
use crate::layout::{BorrowHalf, INLINE_BYTES, RingHalf};
use crate::sync::Ordering;

fn config(depth: u32, mode: Mode) -> RingConfig {
    RingConfig {
        depth,
        mode,
        held_max: 2,
        start: 0,
    }
}

fn halves_and_ends(config: RingConfig) -> (RingHalf, BorrowHalf, Producer, Consumer) {
    let (ring, borrows) = config.halves_on_heap();
    let producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
    let consumer = Consumer::new(
        ring.clone(),
        borrows.clone(),
        config,
        Default::default(),
        None,
    )
    .unwrap();
    (ring, borrows, producer, consumer)
}

fn ends(config: RingConfig) -> (Producer, Consumer) {
    let (_, _, producer, consumer) = halves_and_ends(config);
    (producer, consumer)
}

fn push(producer: &mut Producer, sequence: u64, payload: &[u8]) -> Result<(), PushError> {
    producer.push_inline(
        Head {
            sequence,
            sent_ns: 0,
        },
        payload,
        |_| {},
    )
}

fn sequences(consumer: &mut Consumer) -> Vec<(u64, u64)> {
    core::iter::from_fn(|| consumer.try_next().unwrap())
        .map(|m| (m.sequence(), m.lost()))
        .collect()
}

#[test]
fn keep_last_keeps_exactly_the_last_messages() {
    for depth in [1, 2, 3, 7] {
        let (mut producer, mut consumer) = ends(config(depth, Mode::Overwrite));
        for sequence in 0..20 {
            push(&mut producer, sequence, &[1]).unwrap();
        }
        let first = 20 - u64::from(depth);
        let expected: Vec<_> = (first..20)
            .map(|sequence| (sequence, if sequence == first { first } else { 0 }))
            .collect();
        assert_eq!(sequences(&mut consumer), expected, "depth {depth}");
        assert_eq!((consumer.overwritten(), consumer.dropped()), (first, 0));
        assert_eq!(consumer.passed(), 20);
    }
}

#[test]
fn what_is_peeked_at_stays_and_gives_way_as_any_message() {
    for mode in [Mode::Keep, Mode::Overwrite] {
        let (mut producer, mut consumer) = ends(config(3, mode));
        let mut send = |sent_ns: u64| {
            let sequence = sent_ns - 1;
            let head = Head { sequence, sent_ns };
            producer.push_inline(head, &[7], |_| {})
        };
        assert_eq!(consumer.peek().unwrap(), Peeked::Nothing);
        (1..=3).for_each(|sent_ns| send(sent_ns).unwrap());
        assert_eq!(consumer.peek().unwrap(), Peeked::Sent(1));
        assert!(consumer.next_until(0).unwrap().is_none());
        assert_eq!(consumer.overwritten(), 0);
        if mode == Mode::Overwrite {
            send(4).unwrap();
            // The first has given way: what is there now was sent later.
            assert!(consumer.next_until(1).unwrap().is_none());
            assert_eq!(consumer.peek().unwrap(), Peeked::Sent(2));
            assert_eq!(consumer.overwritten(), 1);
            assert_eq!(consumer.next_until(2).unwrap().unwrap().lost(), 1);
            consumer.skip_next();
            assert_eq!(
                (consumer.peek().unwrap(), consumer.overwritten()),
                (Peeked::Sent(4), 2)
            );
        } else {
            assert_eq!(consumer.next_until(1).unwrap().unwrap().sent_ns(), 1);
            assert_eq!(consumer.peek().unwrap(), Peeked::Sent(2));
        }
    }
}

#[test]
fn who_is_far_behind_finds_the_oldest_message_at_once() {
    // Of the interpreter's minutes few go here: it is arithmetic.
    let (depths, aheads): (&[u32], &[u64]) = if cfg!(miri) {
        (&[1, 3, 80], &[1, 65, 200])
    } else {
        (
            &[1, 2, 3, 200, 1024],
            &[1, 2, 63, 64, 65, 150, 199, 200, 201, 1000, 5000],
        )
    };
    for &depth in depths {
        for &ahead in aheads {
            let (mut producer, mut consumer) = ends(config(depth, Mode::Overwrite));
            let count = u64::from(depth) + ahead;
            for sequence in 0..count {
                push(&mut producer, sequence, &[1]).unwrap();
            }
            let found = consumer
                .try_next()
                .unwrap()
                .map(|m| (m.sequence(), m.lost()));
            assert_eq!(found, Some((ahead, ahead)), "depth {depth}");
            assert_eq!(consumer.overwritten(), ahead);
            assert_eq!(sequences(&mut consumer).len() as u64, u64::from(depth) - 1);
        }
    }
}

#[test]
fn a_ring_of_which_nothing_is_taken_is_never_found_empty() {
    let count = if cfg!(miri) { 200 } else { 2_000_000 };
    for depth in [1, 2, 3, 4, 100] {
        let (mut producer, mut consumer) = ends(config(depth, Mode::Overwrite));
        push(&mut producer, 0, &[7; 96]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                (1..count).for_each(|number| push(&mut producer, number, &[7; 96]).unwrap());
            });
            while consumer.overwritten() < count - u64::from(depth) {
                assert_ne!(consumer.peek().unwrap(), Peeked::Nothing, "depth {depth}");
            }
        });
    }
}

#[test]
fn a_keeping_ring_is_full_at_its_depth_and_counts_what_it_refuses() {
    for depth in [1, 2, 5] {
        let (mut producer, mut consumer) = ends(config(depth, Mode::Keep));
        let mut sequence = 0;
        for _ in 0..depth {
            push(&mut producer, sequence, b"x").unwrap();
            sequence += 1;
        }
        for _ in 0..3 {
            assert_eq!(push(&mut producer, sequence, b"x"), Err(PushError::Full));
            producer.count_dropped();
            sequence += 1;
        }
        assert_eq!(consumer.dropped(), 3, "known before any later message");
        assert!(consumer.try_next().unwrap().is_some());
        push(&mut producer, sequence, b"y").unwrap();
        let rest = sequences(&mut consumer);
        assert_eq!(rest.last(), Some(&(sequence, 3)), "the gap is exact");
        assert_eq!(consumer.passed(), sequence + 1);
    }
}

#[test]
fn every_inline_length_arrives_whole() {
    let (mut producer, mut consumer) = ends(config(4, Mode::Overwrite));
    let bytes: Vec<u8> = (1..=255).collect();
    for len in 0..=INLINE_BYTES {
        push(&mut producer, len as u64, &bytes[..len]).unwrap();
        let message = consumer.try_next().unwrap().unwrap();
        assert_eq!(message.bytes(), &bytes[..len]);
    }
}

#[test]
fn positions_wrap() {
    for mode in [Mode::Overwrite, Mode::Keep] {
        for before in 0..6 {
            let mut config = config(3, mode);
            config.start = u64::MAX - before;
            let (mut producer, mut consumer) = ends(config);
            let mut seen = Vec::new();
            for sequence in 0..12 {
                push(&mut producer, sequence, b"").unwrap();
                if sequence % 3 == 2 {
                    seen.extend(sequences(&mut consumer));
                }
            }
            assert_eq!(
                seen,
                (0..12).map(|sequence| (sequence, 0)).collect::<Vec<_>>()
            );
            assert_eq!(consumer.passed(), 12);
        }
    }
    let mut config = config(3, Mode::Overwrite);
    config.start = u64::MAX - 4;
    let (mut producer, mut consumer) = ends(config);
    (0..9).for_each(|sequence| push(&mut producer, sequence, b"").unwrap());
    assert_eq!(
        sequences(&mut consumer),
        [(6, 6), (7, 0), (8, 0)],
        "a lap over the wrap"
    );
}

/// A publisher's side in small: an arena and one ring.
struct Bench {
    arena: Arena<HeapStore>,
    producer: Producer,
    consumer: Consumer,
    sequence: u64,
}

impl Bench {
    fn new(config: RingConfig) -> Self {
        let (producer, mut consumer) = ends(config);
        let mut arena = Arena::new(HeapStore, 1 << 20);
        let (number, block) = arena.grow(4096).unwrap();
        consumer.add_segment(number, block).unwrap();
        Self {
            arena,
            producer,
            consumer,
            sequence: 0,
        }
    }

    fn chunk(&mut self) -> Option<Chunk<HeapBlock>> {
        let Self {
            arena, producer, ..
        } = self;
        producer.collect(|id| arena.release(id));
        self.arena.take(4096)
    }

    fn push(&mut self, fill: u8) -> Result<(), PushError> {
        let mut chunk = self.chunk().expect("a free chunk");
        chunk.bytes_mut()[..1000].fill(fill);
        let place = ChunkRef {
            segment: 0,
            offset: chunk.offset() as u64,
            len: 1000,
        };
        let id = self.arena.publish(chunk);
        let head = Head {
            sequence: self.sequence,
            sent_ns: 0,
        };
        self.sequence += 1;
        let Self {
            arena, producer, ..
        } = self;
        let pushed = producer.push_chunk(head, place, id, |id| arena.release(id));
        if pushed.is_ok() {
            arena.retain(id);
        } else {
            producer.count_dropped();
        }
        arena.release(id);
        pushed
    }

    fn warm(&mut self) {
        self.arena.warm();
        self.producer.warm();
        self.consumer.warm();
    }

    fn next(&mut self) -> Option<(u64, Received)> {
        self.consumer
            .try_next()
            .unwrap()
            .map(|message| (message.sequence(), message))
    }
}

#[test]
fn a_held_chunk_is_not_reused_and_comes_back_when_dropped() {
    for mode in [Mode::Overwrite, Mode::Keep] {
        let mut bench = Bench::new(config(2, mode));
        // Warming changes nothing, whenever it comes.
        bench.warm();
        bench.push(1).unwrap();
        bench.warm();
        let (_, held) = bench.next().unwrap();
        for fill in 2..100 {
            bench.push(fill).unwrap();
            bench.warm();
            let (_, body) = bench.next().unwrap();
            assert!(body.bytes().iter().all(|byte| *byte == fill));
        }
        assert!(
            held.bytes().iter().all(|byte| *byte == 1),
            "held sample unchanged"
        );
        drop(held);
        let Bench {
            arena, producer, ..
        } = &mut bench;
        producer.sweep(|id| arena.release(id));
        assert_eq!(bench.arena.used_count(), 0, "all chunks came back");
    }
}

#[test]
fn unread_chunks_that_give_way_come_back() {
    let mut bench = Bench::new(config(2, Mode::Overwrite));
    for fill in 0..50 {
        bench.push(fill).unwrap();
    }
    assert_eq!(
        bench.arena.used_count(),
        2,
        "only what can still be read is in use"
    );
    let (sequence, body) = bench.next().unwrap();
    assert_eq!((sequence, body.bytes()[0]), (48, 48));
}

#[test]
fn a_consumer_holds_no_more_than_it_may() {
    for mode in [Mode::Overwrite, Mode::Keep] {
        let mut bench = Bench::new(config(2, mode));
        let mut held = Vec::new();
        for fill in 0..2 {
            bench.push(fill).unwrap();
            held.push(bench.next().unwrap().1);
        }
        bench.push(9).unwrap();
        assert!(bench.next().is_none());
        assert!(bench.consumer.is_ready() && bench.consumer.is_at_held_max());
        held.remove(0);
        assert_eq!(bench.next().unwrap().1.bytes()[0], 9, "the message waited");
    }
}

#[test]
fn a_front_is_taken_off_inline_and_in_chunks_and_the_chunk_comes_back() {
    let mut bench = Bench::new(config(4, Mode::Keep));
    let payload: Vec<u8> = (0..96).collect();
    for len in [0, 31, 32, 33, 64, 96] {
        push(&mut bench.producer, bench.sequence, &payload[..len]).unwrap();
        bench.sequence += 1;
        let (_, mut message) = bench.next().unwrap();
        let front = message.take_front();
        if len < 32 {
            assert_eq!((front, message.len()), (None, len));
            continue;
        }
        assert_eq!(front.unwrap()[0].to_le_bytes(), payload[..8]);
        assert_eq!(front.unwrap()[3].to_le_bytes(), payload[24..32]);
        assert_eq!(message.bytes(), &payload[32..len]);
        assert!(message.bytes().as_ptr().addr().is_multiple_of(16));
    }
    bench.push(7).unwrap();
    let (_, mut message) = bench.next().unwrap();
    assert_eq!(
        message.take_front().unwrap(),
        [u64::from_le_bytes([7; 8]); 4]
    );
    assert_eq!(message.bytes(), [7; 1000 - 32]);
    drop(message);
    let Bench {
        arena, producer, ..
    } = &mut bench;
    producer.sweep(|id| arena.release(id));
    assert_eq!(arena.used_count(), 0);
}

#[test]
fn what_was_given_back_long_ago_does_not_count_as_held() {
    let mut config = config(64, Mode::Keep);
    // More than the cells that are made at a time, so that cells come back before anybody counts.
    config.held_max = 40;
    let mut bench = Bench::new(config);
    for fill in 0..200 {
        bench.push(fill).unwrap();
        bench.next().unwrap();
    }
    let mut held = Vec::new();
    for fill in 0..40 {
        bench.push(fill).unwrap();
        held.extend(bench.next());
    }
    assert_eq!(held.len(), 40);
    bench.push(9).unwrap();
    assert!(bench.next().is_none(), "one more than it may");
}

#[test]
fn evicting_takes_the_oldest_unread_chunk_away() {
    let mut bench = Bench::new(config(4, Mode::Overwrite));
    (0..3).for_each(|fill| bench.push(fill).unwrap());
    let (_, held) = bench.next().unwrap();
    let Bench {
        arena, producer, ..
    } = &mut bench;
    assert!(producer.evict_oldest(|id| arena.release(id)));
    assert_eq!(bench.arena.used_count(), 2, "the held one and the newest");
    assert_eq!(bench.next().unwrap().0, 2);
    assert_eq!(bench.consumer.overwritten(), 1);
    assert_eq!(held.bytes()[0], 0);
    let mut keeping = Bench::new(config(4, Mode::Keep));
    keeping.push(0).unwrap();
    assert!(
        !keeping.producer.evict_oldest(|_| {}),
        "a keeping ring gives nothing away"
    );
}

#[test]
fn a_message_waits_until_its_segment_is_known() {
    let config = config(2, Mode::Overwrite);
    let (mut producer, mut consumer) = ends(config);
    let place = ChunkRef {
        segment: 3,
        offset: 64,
        len: 10,
    };
    let head = Head {
        sequence: 0,
        sent_ns: 0,
    };
    producer
        .push_chunk(head, place, Default::default(), |_| {})
        .unwrap();
    assert!(consumer.try_next().unwrap().is_none());
    consumer
        .add_segment(3, Arc::new(HeapBlock::new(128).unwrap()))
        .unwrap();
    assert_eq!(consumer.try_next().unwrap().unwrap().bytes().len(), 10);
}

#[test]
fn what_a_gone_producer_left_out_of_reach_is_given_up_and_counted() {
    for mode in [Mode::Overwrite, Mode::Keep] {
        let (mut producer, mut consumer) = ends(config(4, mode));
        let place = ChunkRef {
            segment: 3,
            offset: 64,
            len: 10,
        };
        for sequence in 0..2 {
            let head = Head {
                sequence,
                sent_ns: 0,
            };
            producer
                .push_chunk(head, place, Default::default(), |_| {})
                .unwrap();
        }
        push(&mut producer, 2, b"whole").unwrap();
        assert!(consumer.try_next().unwrap().is_none(), "it waits");
        let last = consumer.next_or_skip().unwrap().unwrap();
        assert_eq!((last.sequence(), last.lost()), (2, 2));
        assert!(consumer.next_or_skip().unwrap().is_none());
        assert_eq!((consumer.overwritten(), consumer.passed()), (2, 3));
    }
}

#[test]
fn what_no_producer_writes_is_corrupt_and_never_followed() {
    let spoil: [(&str, fn(&RingHalf)); 5] = [
        ("stamp of another slot", |ring| {
            ring.slots.at(0).stamp.store(0x77, Ordering::Relaxed)
        }),
        ("kind", |ring| {
            ring.slots.at(0).meta.store(9 << 32, Ordering::Relaxed)
        }),
        ("entry", |ring| {
            ring.slots.at(0).payload[0].store(u64::MAX << 32, Ordering::Relaxed)
        }),
        ("segment", |ring| {
            ring.slots.at(0).payload[0].store(0xffff_ffff, Ordering::Relaxed)
        }),
        ("offset", |ring| {
            ring.slots.at(0).payload[1].store(u64::MAX, Ordering::Relaxed)
        }),
    ];
    for (what, spoil) in spoil {
        let (ring, _, mut producer, mut consumer) = halves_and_ends(config(4, Mode::Overwrite));
        consumer
            .add_segment(0, Arc::new(HeapBlock::new(128).unwrap()))
            .unwrap();
        let place = ChunkRef {
            segment: 0,
            offset: 0,
            len: 10,
        };
        let head = Head {
            sequence: 0,
            sent_ns: 0,
        };
        producer
            .push_chunk(head, place, Default::default(), |_| {})
            .unwrap();
        spoil(&ring);
        assert!(consumer.try_next().is_err(), "{what}");
    }
    let (ring, _, mut producer, mut consumer) = halves_and_ends(config(2, Mode::Overwrite));
    push(&mut producer, 5, b"a").unwrap();
    push(&mut producer, 6, b"a").unwrap();
    assert_eq!(consumer.try_next().unwrap().unwrap().lost(), 5);
    ring.slots.at(1).sequence.store(2, Ordering::Relaxed);
    assert_eq!(
        consumer.try_next().unwrap_err(),
        Corrupt("sequence goes back")
    );
    // A length beyond the slot is cut, not followed.
    push(&mut producer, 7, b"a").unwrap();
    ring.slots
        .at(0)
        .meta
        .store(u64::from(u32::MAX), Ordering::Relaxed);
}

#[test]
fn a_cursor_outside_the_ring_is_corrupt() {
    let (_, borrows, mut producer, _consumer) = halves_and_ends(config(2, Mode::Keep));
    (0..2).for_each(|sequence| push(&mut producer, sequence, b"").unwrap());
    borrows.head.cursor.0.store(77, Ordering::Relaxed);
    assert!(matches!(
        push(&mut producer, 2, b""),
        Err(PushError::Corrupt(_))
    ));
}

#[test]
fn messages_cross_threads_whole() {
    let rounds: u64 = if cfg!(miri) { 300 } else { 300_000 };
    for mode in [Mode::Overwrite, Mode::Keep] {
        let (mut producer, mut consumer) = ends(config(8, mode));
        let pushing = std::thread::spawn(move || {
            for sequence in 0..rounds {
                let payload = sequence
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .to_ne_bytes()
                    .repeat(4);
                while push(&mut producer, sequence, &payload).is_err() {
                    std::hint::spin_loop();
                    std::thread::yield_now();
                }
            }
        });
        let (mut received, mut lost, mut next) = (0, 0, 0);
        while next < rounds {
            let Some(message) = consumer.try_next().unwrap() else {
                std::thread::yield_now();
                continue;
            };
            let sum = message
                .sequence()
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_ne_bytes()
                .repeat(4);
            assert_eq!(message.bytes(), sum);
            assert_eq!(message.sequence(), next + message.lost());
            next = message.sequence() + 1;
            received += 1;
            lost += message.lost();
        }
        pushing.join().unwrap();
        assert_eq!(received + lost, rounds);
        assert!(mode == Mode::Overwrite || lost == 0);
    }
}

#[test]
fn blocks_are_aligned_and_zeroed() {
    let block = HeapBlock::new(1000).unwrap();
    assert!(block.ptr().addr().get().is_multiple_of(64) && block.len() == 1000);
}
