//! Publishers that should send, and do not: what the driver of a node looks at beside its links.
//!
//! Nobody's messages are touched for this. The driver looks from the side how far a publisher has
//! come, when the next message is due and not more often; one timer serves all. Sans-IO: time is
//! an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::endpoint::lock;

/// The deadline of one publisher.
#[derive(Debug)]
pub(crate) struct Deadline {
    period_ns: u64,
    /// The last message, as far as is known.
    last_ns: u64,
    /// Periods without a message that are told of next.
    told_next: u64,
}

impl Deadline {
    pub(crate) fn new(period_ns: u64, now_ns: u64) -> Self {
        Self {
            period_ns,
            last_ns: now_ns,
            told_next: 1,
        }
    }

    /// A message was sent at `sent_ns`; 0 if that is not known but to be new.
    pub(crate) fn moved(&mut self, sent_ns: u64, now_ns: u64) {
        let sent_ns = if sent_ns == 0 { now_ns } else { sent_ns };
        // Not an old one out of a history, and not by another clock.
        if sent_ns > self.last_ns {
            self.last_ns = sent_ns.min(now_ns);
            self.told_next = 1;
        }
    }

    /// Periods that have passed since the last message, if that is to be told of: after 1, and
    /// then after at least twice as many as were told of last.
    pub(crate) fn missed(&mut self, now_ns: u64) -> Option<u64> {
        let silent_ns = now_ns.saturating_sub(self.last_ns);
        let missed = silent_ns / self.period_ns;
        if missed < self.told_next {
            return None;
        }
        self.told_next = missed.saturating_mul(2);
        Some(missed)
    }

    /// When it is to be looked at again.
    pub(crate) fn due_ns(&self) -> u64 {
        let silent_ns = self.period_ns.saturating_mul(self.told_next);
        self.last_ns.saturating_add(silent_ns)
    }
}

/// Something that is looked at when it is due.
pub(crate) trait Check: Send + Sync + std::fmt::Debug {
    /// Looks, and says when to look again; `u64::MAX` for not before it says so.
    fn check(&self, now_ns: u64) -> u64;
}

/// All deadlines of a node.
#[derive(Debug)]
pub(crate) struct Deadlines {
    /// When the first of them is due: may be too early, never too late.
    due_ns: AtomicU64,
    checks: Mutex<Vec<Weak<dyn Check>>>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            due_ns: AtomicU64::new(u64::MAX),
            checks: Mutex::default(),
        }
    }
}

impl Deadlines {
    /// Looks at it from now on, for as long as it lives.
    pub(crate) fn add(&self, check: &Arc<impl Check + 'static>) {
        let check = Arc::downgrade(check) as Weak<dyn Check>;
        lock(&self.checks).push(check);
    }

    /// One of them is due then. Its node's driver must be told if it is not the one who says so.
    pub(crate) fn expect(&self, due_ns: u64) {
        // Relaxed: the driver is told, or is the one who says it.
        self.due_ns.fetch_min(due_ns, Ordering::Relaxed);
    }

    /// When to call [`run`](Self::run), if ever.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        let due_ns = self.due_ns.load(Ordering::Relaxed);
        (due_ns != u64::MAX).then_some(due_ns)
    }

    /// Looks at all of them.
    pub(crate) fn run(&self, now_ns: u64) {
        // First: who expects something meanwhile lowers it again.
        self.due_ns.store(u64::MAX, Ordering::Relaxed);
        lock(&self.checks).retain(|check| match check.upgrade() {
            None => false,
            Some(check) => {
                self.expect(check.check(now_ns));
                true
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_of_after_one_two_and_four_periods() {
        let mut deadline = Deadline::new(10, 100);
        let told: Vec<_> = (100..200)
            .filter_map(|now_ns| deadline.missed(now_ns).map(|missed| (now_ns, missed)))
            .collect();
        assert_eq!(told, [(110, 1), (120, 2), (140, 4), (180, 8)]);
        deadline.moved(0, 195);
        assert_eq!((deadline.missed(204), deadline.due_ns()), (None, 205));
        assert_eq!(deadline.missed(205), Some(1));
    }

    #[test]
    fn a_look_that_comes_late_counts_all_periods() {
        let mut deadline = Deadline::new(10, 0);
        assert_eq!((deadline.missed(57), deadline.due_ns()), (Some(5), 100));
    }

    #[test]
    fn the_time_of_the_message_counts_and_not_that_of_the_look() {
        let mut deadline = Deadline::new(10, 100);
        deadline.moved(103, 110);
        assert_eq!((deadline.missed(110), deadline.due_ns()), (None, 113));
        // Out of a history; by a clock that is ahead.
        deadline.moved(50, 111);
        assert_eq!(deadline.due_ns(), 113);
        deadline.moved(1 << 60, 112);
        assert_eq!(deadline.due_ns(), 122);
    }

    #[derive(Debug)]
    struct Every(u64);

    impl Check for Every {
        fn check(&self, now_ns: u64) -> u64 {
            now_ns + self.0
        }
    }

    #[test]
    fn the_first_that_is_due_sets_the_timer() {
        let deadlines = Deadlines::default();
        assert_eq!(deadlines.due_ns(), None);
        let (slow, fast) = (Arc::new(Every(100)), Arc::new(Every(10)));
        deadlines.add(&slow);
        deadlines.add(&fast);
        deadlines.expect(7);
        deadlines.expect(9);
        assert_eq!(deadlines.due_ns(), Some(7));
        deadlines.run(7);
        assert_eq!(deadlines.due_ns(), Some(17));
        drop(fast);
        deadlines.run(17);
        assert_eq!(deadlines.due_ns(), Some(117));
        drop(slow);
        deadlines.run(117);
        assert_eq!(deadlines.due_ns(), None);
    }
}
