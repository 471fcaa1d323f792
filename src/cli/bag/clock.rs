//! The two clocks of recordings, and waiting for a moment.

use std::time::SystemTime;

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec};
use shmesh_shm::monotonic_ns;

/// Times since 1970 that never jump: those of the monotonic clock, moved once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    offset_ns: u64,
}

impl Clock {
    #[allow(clippy::disallowed_methods)] // stamps of records
    pub(super) fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since_1970 = since_1970.map_or(0, |since| since.as_nanos());
        let now_ns = u64::try_from(since_1970).unwrap_or(u64::MAX);
        Self {
            offset_ns: now_ns.saturating_sub(monotonic_ns()),
        }
    }

    pub(super) fn now_ns(self) -> u64 {
        self.at(monotonic_ns())
    }

    /// A moment of the monotonic clock.
    pub(super) fn at(self, monotonic_ns: u64) -> u64 {
        self.offset_ns.saturating_add(monotonic_ns)
    }
}

/// Sleeps until shortly before the moment, then looks at the clock until it is there. Signals end
/// the sleep early, not the looking.
pub(super) fn wait_until(due_ns: u64) {
    sleep_until(due_ns.saturating_sub(WAKE_EARLY_NS));
    while monotonic_ns() < due_ns {
        std::hint::spin_loop();
    }
}

/// Sleeps until about that moment, or a signal.
pub(super) fn sleep_until(due_ns: u64) {
    if due_ns <= monotonic_ns() {
        return;
    }
    let until = Timespec {
        tv_sec: i64::try_from(due_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(due_ns % 1_000_000_000).unwrap_or(0),
    };
    let _ = clock_nanosleep_absolute(ClockId::Monotonic, &until);
}

/// Takes from this thread the 50 us that the kernel may add to each sleep, to gather wake-ups.
pub(super) fn wake_exactly() {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// A sleep ends later than it should, by less than that on an idle machine; the rest is spun. The
/// bench `bag` prints by how much it is late.
const WAKE_EARLY_NS: u64 = 100_000;
