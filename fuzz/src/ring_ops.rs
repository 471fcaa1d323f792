//! Any sequence of sending, receiving, holding and evicting: whole messages, in order, all counted.

use shmesh_shm::arena::HeapBlock;
use shmesh_shm::{ChunkId, ChunkRef, Consumer, Head, Mode, Producer, Received, RingConfig};
use std::sync::Arc;

/// Three bytes say what ring, the others what is done with it.
pub fn run(input: &[u8]) {
    let [depth, overwrites, before, ops @ ..] = input else {
        return;
    };
    let mode = if overwrites % 2 == 1 {
        Mode::Overwrite
    } else {
        Mode::Keep
    };
    let mut channel = Channel::new(RingConfig {
        depth: u32::from(depth % 8) + 1,
        mode,
        held_max: 2,
        start: u64::MAX - u64::from(*before),
    });
    for op in ops {
        channel.act(*op);
    }
    channel.settle();
}

struct Channel {
    producer: Producer,
    consumer: Consumer,
    sent: u64,
    received: u64,
    lost: u64,
    lent: i64,
    back: i64,
    held: Vec<Received>,
}

impl Channel {
    fn new(config: RingConfig) -> Self {
        let (ring, borrows) = config.halves_on_heap();
        let producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let mut consumer = Consumer::new(ring, borrows, config, Default::default(), None).unwrap();
        let block = Arc::new(HeapBlock::new(4096).unwrap());
        consumer.add_segment(0, block).unwrap();
        Self {
            producer,
            consumer,
            sent: 0,
            received: 0,
            lost: 0,
            lent: 0,
            back: 0,
            held: Vec::new(),
        }
    }

    fn act(&mut self, op: u8) {
        match op % 6 {
            0 => self.send_inline(op),
            1 => self.send_chunk(op),
            2 | 3 => self.receive(op > 128),
            4 => drop(self.held.pop()),
            _ => {
                self.producer.evict_oldest(|_| self.back += 1);
                self.producer.sweep(|_| self.back += 1);
            }
        }
        assert!(self.held.len() >= self.consumer.held() && self.back <= self.lent);
    }

    fn next_head(&mut self) -> Head {
        let sequence = self.sent;
        self.sent += 1;
        Head {
            sequence,
            sent_ns: 0,
        }
    }

    fn send_inline(&mut self, op: u8) {
        let head = self.next_head();
        let pushed = self
            .producer
            .push_inline(head, &[op; 40], |_| self.back += 1);
        if pushed.is_err() {
            self.producer.count_dropped();
        }
    }

    fn send_chunk(&mut self, op: u8) {
        let head = self.next_head();
        let place = ChunkRef {
            segment: 0,
            offset: u64::from(op),
            len: 64,
        };
        let id = ChunkId::default();
        match self
            .producer
            .push_chunk(head, place, id, |_| self.back += 1)
        {
            Ok(()) => self.lent += 1,
            Err(_) => self.producer.count_dropped(),
        }
    }

    fn receive(&mut self, is_kept: bool) {
        let Some(message) = self.consumer.try_next().unwrap() else {
            return;
        };
        assert_eq!(
            message.sequence(),
            self.received + self.lost + message.lost()
        );
        self.received += 1;
        self.lost += message.lost();
        if is_kept {
            self.held.push(message);
        }
    }

    fn settle(mut self) {
        self.held.clear();
        while self.consumer.try_next().unwrap().is_some() {
            self.received += 1;
        }
        let lost = self.consumer.overwritten() + self.consumer.dropped();
        assert_eq!(self.received + lost, self.sent);
        self.producer.sweep(|_| self.back += 1);
        // What a reader of the latest value only skipped stays lent until it is written over.
        while self.producer.evict_oldest(|_| self.back += 1) {}
        assert_eq!(self.back, self.lent, "every chunk came back");
    }
}
