//! How long things took, counted by size: log-linear, of fixed shape, with one writer.
//!
//! Each doubling is cut into eight buckets, so a time read from a histogram is at most a sixteenth
//! off. Counts only grow, and a reader takes the difference of two readings for the time between
//! them; it reads one count after another, so what is recorded meanwhile is in it or not.

use crate::layout::Words;
use crate::sync::{AtomicU64, Ordering};

/// Times below 2^6 ns share the first bucket, those from 2^36 ns (69 s) on the last one.
const FLOOR_BITS: u32 = 6;
const CEILING_BITS: u32 = 36;
/// Each doubling has 2^3 buckets.
const PARTS_BITS: u32 = 3;
const BUCKETS: usize = 2 + (((CEILING_BITS - FLOOR_BITS) as usize) << PARTS_BITS);

/// The bucket of a time.
#[inline]
const fn bucket_of(ns: u64) -> usize {
    if ns < 1 << FLOOR_BITS {
        return 0;
    }
    if ns >= 1 << CEILING_BITS {
        return BUCKETS - 1;
    }
    let bits = ns.ilog2();
    // The leading one and the three bits behind it.
    #[allow(clippy::cast_possible_truncation)] // below 16
    let parts = (ns >> (bits - PARTS_BITS)) as usize;
    1 + (((bits - FLOOR_BITS) as usize) << PARTS_BITS) + (parts & ((1 << PARTS_BITS) - 1))
}

/// Where a bucket begins, in nanoseconds; the first bucket's end is the second one's beginning.
const fn begin_of(bucket: usize) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let idx = bucket - 1;
    let parts = (1 << PARTS_BITS) + (idx & ((1 << PARTS_BITS) - 1)) as u64;
    #[allow(clippy::cast_possible_truncation)] // below 30
    let doublings = (idx >> PARTS_BITS) as u32;
    parts << (FLOOR_BITS - PARTS_BITS + doublings)
}

/// The counts in shared memory; one thread writes them.
#[repr(C, align(128))]
pub(crate) struct LiveHistogram {
    sum_ns: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

// SAFETY: atomics and padding only.
unsafe impl Words for LiveHistogram {
    fn zeroed() -> Self {
        Self {
            sum_ns: AtomicU64::new(0),
            counts: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl LiveHistogram {
    /// Loads and stores: there is one writer.
    #[inline]
    pub(crate) fn record(&self, ns: u64) {
        for (word, more) in [(&self.counts[bucket_of(ns)], 1), (&self.sum_ns, ns)] {
            let value = word.load(Ordering::Relaxed);
            word.store(value.wrapping_add(more), Ordering::Relaxed);
        }
    }

    pub(crate) fn clear(&self) {
        let words = self.counts.iter().chain([&self.sum_ns]);
        words.for_each(|word| word.store(0, Ordering::Relaxed));
    }

    pub(crate) fn read(&self) -> Histogram {
        Histogram {
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            counts: core::array::from_fn(|idx| self.counts[idx].load(Ordering::Relaxed)),
        }
    }
}

/// What a histogram said, or what came to it between two readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    sum_ns: u64,
    counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            sum_ns: 0,
            counts: [0; BUCKETS],
        }
    }
}

impl Histogram {
    /// What [`quantile`](Self::quantile) says of times that are as long or longer: 69 s.
    pub const LONGEST_NS: u64 = 1 << CEILING_BITS;
    /// How many buckets there are.
    pub const BUCKETS: usize = BUCKETS;

    /// From what [`sum_ns`](Self::sum_ns) and [`buckets`](Self::buckets) said of another one. None
    /// for a bucket that no histogram has.
    pub fn from_buckets(
        sum_ns: u64,
        buckets: impl IntoIterator<Item = (usize, u64)>,
    ) -> Option<Self> {
        let mut found = Self {
            sum_ns,
            ..Self::default()
        };
        for (bucket, count) in buckets {
            *found.counts.get_mut(bucket)? = count;
        }
        Some(found)
    }

    /// The buckets that are not empty, by their numbers, and their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> {
        let all = self.counts.iter().copied().enumerate();
        all.filter(|(_, count)| *count > 0)
    }

    /// Adds a time.
    pub fn record(&mut self, ns: u64) {
        let count = &mut self.counts[bucket_of(ns)];
        *count = count.saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many times are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.counts.iter();
        counts.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Their sum in nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// What came since an earlier reading; none if that was not of the same counts.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut more = Self {
            sum_ns: self.sum_ns.wrapping_sub(before.sum_ns),
            ..Self::default()
        };
        let both = self.counts.iter().zip(&before.counts);
        for (more, (after, before)) in more.counts.iter_mut().zip(both) {
            *more = after.checked_sub(*before)?;
        }
        Some(more)
    }

    /// Adds what another one has.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// The time that this part of all is not above, in nanoseconds: 0.99 for the 99th percentile,
    /// 1.0 for the longest. None without any.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let count = self.count();
        #[allow(clippy::cast_precision_loss)] // exact up to 2^53 times
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // of a part of a count
        let wanted = ((part * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0_u64;
        let bucket = self.counts.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= wanted
        })?;
        Some(match bucket {
            bucket if bucket == BUCKETS - 1 => Self::LONGEST_NS,
            bucket => begin_of(bucket).midpoint(begin_of(bucket + 1)),
        })
    }

    /// How many were below 2^`bits` nanoseconds; for `bits` from 6 to 36.
    #[must_use]
    pub fn count_below(&self, bits: u32) -> u64 {
        let counts = self.counts[..bucket_of(1 << bits)].iter();
        counts.fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        assert_eq!((bucket_of(0), bucket_of(63)), (0, 0));
        for bucket in 1..BUCKETS {
            let begin = begin_of(bucket);
            assert_eq!(bucket_of(begin), bucket, "{begin}");
            assert_eq!(bucket_of(begin - 1), bucket - 1, "{begin}");
        }
        assert_eq!(begin_of(BUCKETS - 1), 1 << CEILING_BITS);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_time_is_at_most_a_sixteenth_off() {
        let mut ns = 64;
        while ns < 1 << CEILING_BITS {
            let mut one = Histogram::default();
            one.record(ns);
            let found = one.quantile(0.5).unwrap();
            assert!(found.abs_diff(ns) * 16 <= ns, "{ns} became {found}");
            ns += 1 + ns / 37;
        }
    }

    #[test]
    fn percentiles_are_those_of_what_came_between_two_readings() {
        let live = LiveHistogram::zeroed();
        live.record(u64::MAX);
        let before = live.read();
        (0..90).for_each(|_| live.record(1_000));
        (0..10).for_each(|_| live.record(1_000_000));
        let more = live.read().since(&before).unwrap();
        assert_eq!((more.count(), more.sum_ns()), (100, 10_090_000));
        let about = |part, expected: u64| {
            let found = more.quantile(part).unwrap();
            assert!(found.abs_diff(expected) * 16 <= expected, "{part}: {found}");
        };
        about(0.5, 1_000);
        about(0.9, 1_000);
        about(0.91, 1_000_000);
        about(1.0, 1_000_000);
        assert_eq!((more.count_below(9), more.count_below(10)), (0, 90));
        assert_eq!((more.count_below(36), more.count_below(20)), (100, 100));
        assert_eq!(before.quantile(0.5), Some(1 << CEILING_BITS));
        assert_eq!(before.since(&live.read()), None, "a count went back");
        assert_eq!(Histogram::default().quantile(0.5), None);
        live.clear();
        assert_eq!(live.read(), Histogram::default());
    }

    #[test]
    fn buckets_say_all_of_a_histogram() {
        let mut whole = Histogram::default();
        for ns in [0, 63, 64, 1_000, 1_000, u64::MAX] {
            whole.record(ns);
        }
        let again = Histogram::from_buckets(whole.sum_ns(), whole.buckets());
        assert_eq!(again.as_ref(), Some(&whole));
        assert_eq!(whole.buckets().count(), 4);
        assert_eq!(Histogram::from_buckets(0, [(BUCKETS, 1)]), None);
        let last = Histogram::from_buckets(0, [(BUCKETS - 1, 1)]);
        assert_eq!(last.unwrap().quantile(1.0), Some(Histogram::LONGEST_NS));
    }

    #[test]
    fn counts_of_a_broken_page_do_no_harm() {
        let mut broken = Histogram {
            sum_ns: u64::MAX,
            counts: [u64::MAX; BUCKETS],
        };
        broken.merge(&broken.clone());
        broken.record(5);
        assert_eq!(broken.count(), u64::MAX);
        for part in [-1.0, 0.0, 0.5, 1.0, 2.0, f64::NAN] {
            assert!(broken.quantile(part).is_some());
        }
    }
}
