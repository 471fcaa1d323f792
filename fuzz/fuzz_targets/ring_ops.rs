//! Any sequence of sending, receiving, holding and evicting: whole messages, in order, all counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_shm::arena::HeapBlock;
use shmesh_shm::{ChunkId, ChunkRef, Consumer, Head, Mode, Producer, RingConfig};
use std::sync::Arc;

fuzz_target!(|input: (u8, bool, u8, Vec<u8>)| {
    let (depth, overwrites, before, ops) = input;
    let config = RingConfig {
        depth: u32::from(depth % 8) + 1,
        mode: if overwrites {
            Mode::Overwrite
        } else {
            Mode::Keep
        },
        held_max: 2,
        start: u64::MAX - u64::from(before),
    };
    let (ring, borrows) = config.halves_on_heap();
    let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
    let mut consumer = Consumer::new(ring, borrows, config, Default::default(), None).unwrap();
    consumer
        .add_segment(0, Arc::new(HeapBlock::new(4096).unwrap()))
        .unwrap();
    let (mut sent, mut received, mut lost) = (0_u64, 0_u64, 0_u64);
    let (mut lent, mut back) = (0_i64, 0_i64);
    let mut held = Vec::new();
    for op in ops {
        let head = Head {
            sequence: sent,
            sent_ns: 0,
        };
        match op % 6 {
            0 => {
                let payload = [op; 40];
                if producer.push_inline(head, &payload, |_| back += 1).is_err() {
                    producer.count_dropped();
                }
                sent += 1;
            }
            1 => {
                let place = ChunkRef {
                    segment: 0,
                    offset: u64::from(op),
                    len: 64,
                };
                let pushed = producer.push_chunk(head, place, ChunkId::default(), |_| back += 1);
                match pushed {
                    Ok(()) => lent += 1,
                    Err(_) => producer.count_dropped(),
                }
                sent += 1;
            }
            2 | 3 => {
                if let Some(message) = consumer.try_next().unwrap() {
                    assert_eq!(message.sequence(), received + lost + message.lost());
                    received += 1;
                    lost += message.lost();
                    if op > 128 {
                        held.push(message);
                    }
                }
            }
            4 => drop(held.pop()),
            _ => {
                producer.evict_oldest(|_| back += 1);
                producer.sweep(|_| back += 1);
            }
        }
        assert!(held.len() >= consumer.held() && back <= lent);
    }
    held.clear();
    while consumer.try_next().unwrap().is_some() {
        received += 1;
    }
    assert_eq!(received + consumer.overwritten() + consumer.dropped(), sent);
    producer.sweep(|_| back += 1);
    // What a reader of the latest value only skipped stays lent until it is written over.
    while producer.evict_oldest(|_| back += 1) {}
    assert_eq!(back, lent, "every chunk came back");
});
