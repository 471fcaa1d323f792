//! The parking protocol: how a receiver says that it sleeps, and who wakes it.
//!
//! The receiver's word is `2 * epoch + 1` while it is parked and `2 * epoch` while it is awake;
//! every
//! parking has a new epoch. It is the only one who writes it. A sender loads it after every
//! message, and rings once for each epoch it finds parked.
//!
//! **No wake-up is lost.** The receiver stores its word and then looks for messages; the sender
//! stores its message and then looks at the word. With a full barrier between store and look on
//! both sides, at least one of the two sees the other: the receiver finds the message, or the
//! sender finds it parked. The sender's barrier would cost more than the message, so where the
//! kernel has `membarrier` the receiver's barrier is one that acts on the sender's processor too
//! (see `doorbell`), and the sender keeps only the program order of its two instructions.
//!
//! Ringing must not get lost between the receiver's look and its sleep: it goes through a counter
//! in the kernel (an eventfd), not through the word.

use crate::sync::{AtomicU32, Ordering};

const PARKED: u32 = 1;

/// The owner's side of a parked word.
#[derive(Debug, Default)]
pub(crate) struct ParkState {
    word: u32,
}

impl ParkState {
    /// Says "parked" under a new epoch. A full barrier must follow before the last look.
    pub(crate) fn begin(&mut self, word: &AtomicU32) {
        if self.is_parked() {
            return;
        }
        self.word = self.word.wrapping_add(2) | PARKED;
        // Relaxed: ordered by the barrier that the caller runs next.
        word.store(self.word, Ordering::Relaxed);
    }

    /// Says "awake".
    pub(crate) fn end(&mut self, word: &AtomicU32) {
        if !self.is_parked() {
            return;
        }
        self.word &= !PARKED;
        // Relaxed: a sender that still sees the old value rings once in vain.
        word.store(self.word, Ordering::Relaxed);
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.word & PARKED != 0
    }
}

/// The ringer's side: the last epoch it rang for.
#[derive(Debug)]
pub(crate) struct RingState {
    rung: AtomicU32,
}

impl RingState {
    pub(crate) fn new() -> Self {
        Self {
            rung: AtomicU32::new(0),
        }
    }

    /// True once for each parking. The message must be stored before, and the barrier of the
    /// protocol must lie between.
    #[inline]
    pub(crate) fn should_ring(&self, word: &AtomicU32) -> bool {
        // Relaxed: ordered after the message's stamp by the barrier.
        let seen = word.load(Ordering::Relaxed);
        seen & PARKED != 0 && self.is_new(seen)
    }

    /// True if [`should_ring`](Self::should_ring) would be; changes nothing.
    #[inline]
    pub(crate) fn is_wanted(&self, word: &AtomicU32) -> bool {
        // Relaxed, both: as in `should_ring` and `is_new`.
        let seen = word.load(Ordering::Relaxed);
        seen & PARKED != 0 && self.rung.load(Ordering::Relaxed) != seen
    }

    #[cold]
    fn is_new(&self, seen: u32) -> bool {
        // Relaxed: several threads of one process may ring for one subscriber (samples dropped on
        // different threads); if two of them get here at once, one ring too many is harmless.
        // The load keeps a saturating sender from writing while the sleeper wakes up.
        self.rung.load(Ordering::Relaxed) != seen && self.rung.swap(seen, Ordering::Relaxed) != seen
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rings_once_for_each_parking() {
        let word = AtomicU32::new(0);
        let (mut park, ring) = (ParkState::default(), RingState::new());
        assert!(!ring.should_ring(&word));
        for _ in 0..3 {
            assert!(!ring.is_wanted(&word));
            park.begin(&word);
            park.begin(&word);
            assert!(ring.is_wanted(&word));
            assert!(ring.should_ring(&word));
            assert!(!ring.is_wanted(&word));
            assert!(!ring.should_ring(&word));
            park.end(&word);
            assert!(!ring.should_ring(&word));
        }
        let newcomer = RingState::new();
        park.begin(&word);
        assert!(newcomer.should_ring(&word) && ring.should_ring(&word));
    }

    #[test]
    fn epochs_wrap() {
        let word = AtomicU32::new(0);
        let (mut park, ring) = (ParkState { word: u32::MAX - 3 }, RingState::new());
        for _ in 0..4 {
            park.begin(&word);
            assert!(ring.should_ring(&word));
            park.end(&word);
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    //! A sequentially consistent fence on both sides stands for the barrier: `membarrier` makes
    //! every running thread of the registered processes pass a full barrier while the caller
    //! waits, which is at least as strong as a fence at that point of the sender's program.

    use std::sync::Arc;

    use loom::sync::atomic::AtomicU64;
    use loom::thread;

    use super::*;
    use crate::sync::fence;

    fn check(barrier: fn()) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let word = Arc::new(AtomicU32::new(0));
            let message = Arc::new(AtomicU64::new(0));
            let rings = Arc::new(AtomicU64::new(0));
            let sender = {
                let (word, message, rings) = (word.clone(), message.clone(), rings.clone());
                thread::spawn(move || {
                    let ring = RingState::new();
                    for sequence in 1..=2 {
                        message.store(sequence, Ordering::Release);
                        barrier();
                        if ring.should_ring(&word) {
                            rings.fetch_add(1, Ordering::AcqRel);
                        }
                    }
                })
            };
            let mut park = ParkState::default();
            park.begin(&word);
            barrier();
            let seen = message.load(Ordering::Acquire);
            sender.join().unwrap();
            // The sleeper has seen the last message or was rung after its look.
            assert!(
                seen == 2 || rings.load(Ordering::Acquire) == 1,
                "lost wake-up"
            );
            assert!(
                rings.load(Ordering::Acquire) <= 1,
                "one ring for one parking"
            );
        });
    }

    #[test]
    fn models_no_wake_up_is_lost() {
        check(|| fence(Ordering::SeqCst));
    }

    #[test]
    #[should_panic(expected = "lost wake-up")]
    fn models_without_the_barrier_a_wake_up_is_lost() {
        check(|| {});
    }
}
