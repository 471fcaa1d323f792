//! Memory that a peer hands over, of which any bytes were changed: opened or refused, never
//! followed out of bounds, never waited for.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use shmesh_shm::arena::HeapBlock;
use shmesh_shm::{
    BellPage, BorrowHalf, ChunkId, ChunkRef, Consumer, Head, Mode, PeerBellPage, PeerSegment,
    Producer, RingConfig, RingHalf, Segment,
};

const BELLS: u32 = 4;

/// The first bytes say what ring and how much of the memory is handed over, the others, by threes,
/// where it is changed and how.
pub fn run(input: &[u8]) {
    let [depth, mode, cut, changes @ ..] = input else {
        return;
    };
    let config = RingConfig {
        depth: u32::from(depth % 9),
        mode: if mode % 2 == 1 {
            Mode::Overwrite
        } else {
            Mode::Keep
        },
        held_max: 2,
        start: 0,
    };
    let map = |fd: OwnedFd| PeerSegment::map(fd, 1..=1 << 20);
    let Some([ring, borrows, bells]) = memory(config) else {
        return;
    };
    if let Ok(ring) = map(changed(ring, *cut, changes))
        && let Ok(ring) = RingHalf::open(ring, config.capacity())
    {
        read(ring, config);
    }
    if let Ok(borrows) = map(changed(borrows, *cut, changes))
        && let Ok(borrows) = BorrowHalf::open(borrows, config.entry_count())
    {
        write(borrows, config);
    }
    let _ = PeerBellPage::map(changed(bells, *cut, changes), BELLS);
}

/// A ring with messages in it, a borrow half and a bell page, as correct peers make them.
fn memory(config: RingConfig) -> Option<[Vec<u8>; 3]> {
    let ring = Segment::create("fuzz", RingHalf::bytes(config.capacity())).ok()?;
    let ring = Arc::new(ring);
    let half = RingHalf::create_in(&ring, config.capacity()).ok()?;
    write_to(half, BorrowHalf::on_heap(config.entry_count()), config);
    let borrows = Segment::create("fuzz", BorrowHalf::bytes(config.entry_count())).ok()?;
    let borrows = Arc::new(borrows);
    BorrowHalf::create_in(&borrows, config.entry_count()).ok()?;
    let bells = BellPage::create(BELLS).ok()?;
    Some([bytes(ring.fd()), bytes(borrows.fd()), bytes(bells.fd())])
}

fn bytes(fd: impl AsFd) -> Vec<u8> {
    let len = rustix::fs::fstat(&fd).map_or(0, |stat| stat.st_size);
    let mut bytes = vec![0; len as usize];
    let _ = rustix::io::pread(fd, &mut bytes, 0);
    bytes
}

/// Sealed memory with these bytes but for the changes and without the last `cut` pages.
fn changed(mut bytes: Vec<u8>, cut: u8, changes: &[u8]) -> OwnedFd {
    bytes.truncate(bytes.len().saturating_sub(4096 * usize::from(cut)));
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = change[2];
        }
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("fuzz", flags).expect("memory");
    rustix::io::write(&fd, &bytes).expect("memory");
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    fd
}

/// Reads what there is, as far as it goes.
fn read(ring: RingHalf, config: RingConfig) {
    let borrows = BorrowHalf::on_heap(config.entry_count());
    let Ok(mut consumer) = Consumer::new(ring, borrows, config, Default::default(), None) else {
        return;
    };
    let block = HeapBlock::new(4096).expect("memory");
    let _ = consumer.add_segment(0, Arc::new(block));
    consumer.warm();
    let mut held = Vec::new();
    for _ in 0..100 {
        match consumer.try_next() {
            Ok(Some(message)) => {
                // Whatever it says, its bytes are there.
                let sum = message
                    .bytes()
                    .iter()
                    .map(|byte| u64::from(*byte))
                    .sum::<u64>();
                std::hint::black_box(sum);
                held.push(message);
                held.truncate(1);
            }
            Ok(None) | Err(_) => break,
        }
    }
}

fn write(borrows: BorrowHalf, config: RingConfig) {
    let (ring, _) = config.halves_on_heap();
    write_to(ring, borrows, config);
}

/// Messages of both kinds, with all that a producer does.
fn write_to(ring: RingHalf, borrows: BorrowHalf, config: RingConfig) {
    let Ok(mut producer) = Producer::new(ring, borrows, config) else {
        return;
    };
    producer.warm();
    for sequence in 0..12 {
        let head = Head {
            sequence,
            sent_ns: 0,
        };
        let place = ChunkRef {
            segment: 0,
            offset: 64 * sequence,
            len: 64,
        };
        let pushed = if sequence % 2 == 0 {
            producer.push_inline(head, &[7; 50], |_| {})
        } else {
            producer.push_chunk(head, place, ChunkId::default(), |_| {})
        };
        if pushed.is_err() {
            producer.count_dropped();
        }
        producer.collect(|_| {});
        producer.evict_oldest(|_| {});
    }
    producer.sweep(|_| {});
}
