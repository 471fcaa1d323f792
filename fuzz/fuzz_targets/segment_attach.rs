//! Memory of any content that a peer hands over: opened or refused, never followed.
#![no_main]

use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, SealFlags};
use shmesh_shm::{BorrowHalf, Consumer, Mode, PeerBellPage, PeerSegment, RingConfig, RingHalf};

/// Sealed memory with these bytes.
fn handed(bytes: &[u8]) -> Option<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("fuzz", flags).ok()?;
    rustix::io::write(&fd, bytes).ok()?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
    rustix::fs::fcntl_add_seals(&fd, seals).ok()?;
    Some(fd)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (depth, bytes) = input;
    let depth = u32::from(depth);
    let map = || PeerSegment::map(handed(bytes)?, 1..=1 << 20).ok();
    let config = RingConfig {
        depth,
        mode: Mode::Overwrite,
        held_max: 2,
        start: 0,
    };
    if let Some(Ok(ring)) = map().map(|segment| RingHalf::open(segment, config.capacity())) {
        let borrows = BorrowHalf::on_heap(config.entry_count());
        if let Ok(mut consumer) = Consumer::new(ring, borrows, config, Default::default(), None) {
            for _ in 0..1000 {
                if !matches!(consumer.try_next(), Ok(Some(_))) {
                    break;
                }
            }
        }
    }
    let _ = map().map(|segment| BorrowHalf::open(segment, config.entry_count()));
    let _ = handed(bytes).map(|fd| PeerBellPage::map(fd, depth));
});
