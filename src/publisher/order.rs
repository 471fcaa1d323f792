//! The order in which the publishers of a node send.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the messages of a node are stamped with while a subscription to several topics listens to
/// it: times, but no two the same, and growing from each to the next, whatever thread takes them.
#[derive(Debug, Default)]
pub(crate) struct Order(AtomicU64);

impl Order {
    /// The next stamp: the time, or a little more where two come at once.
    #[inline]
    pub(crate) fn stamp(&self, now_ns: u64) -> u64 {
        // Relaxed: the exchange below looks again.
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let next = now_ns.max(last.saturating_add(1));
            // AcqRel: what was sent before this stamp was taken is visible to who has taken, or
            // seen, a later one; pairs with itself. `merge` rests on this.
            let exchanged =
                self.0
                    .compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed);
            match exchanged {
                Ok(_) => return next,
                Err(now) => last = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_times_that_grow_even_if_the_clock_does_not() {
        let order = Order::default();
        let stamps = [5, 5, 4, 9, 0].map(|now_ns| order.stamp(now_ns));
        assert_eq!(stamps, [5, 6, 7, 9, 10]);
    }

    #[test]
    fn no_two_threads_get_the_same() {
        let order = Order::default();
        let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let take = || (0..10_000).map(|_| order.stamp(0)).collect();
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(taken.iter().all(|stamps| stamps.is_sorted_by(|a, b| a < b)));
        let mut all = taken.concat();
        all.sort_unstable();
        assert!((1..=30_000).eq(all));
    }
}
