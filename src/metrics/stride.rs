//! Of which messages or calls the time is measured: of all while they come slowly, of fewer the
//! faster they come. A reading of the clock costs 22 ns, several times what a message of a stream
//! does.

use crate::limits::{MEASURED_EACH_MAX, MEASURED_NS};

/// Says which number is the next to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stride {
    next: u64,
    /// One of so many is measured.
    each: u32,
    /// When the last one was.
    at_ns: u64,
}

impl Default for Stride {
    fn default() -> Self {
        Self {
            next: 0,
            each: 1,
            at_ns: 0,
        }
    }
}

impl Stride {
    /// True if the one of that number is to be measured, compared with what its user
    /// counts anyway.
    #[inline(always)]
    pub(crate) const fn is_due(&self, number: u64) -> bool {
        number >= self.next
    }

    /// The one of that number was, at that time.
    pub(crate) fn measured(&mut self, number: u64, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns).max(1);
        // As many as come in the time between two measurements. Doubled at most, so that two at
        // once do not hide the next hundred.
        let wanted = u64::from(self.each) * MEASURED_NS / elapsed_ns;
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        self.each = wanted.min(2 * self.each).clamp(1, MEASURED_EACH_MAX);
        self.next = number + u64::from(self.each);
        self.at_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// How many of those that come so often are measured, in so many seconds.
    fn measured(stride: &mut Stride, per_second: u64, seconds: u64) -> u64 {
        let (start_ns, first) = (stride.at_ns, stride.next - stride.next.min(1));
        let due = (1..=per_second * seconds).filter(|number| {
            let is_due = stride.is_due(first + number);
            if is_due {
                stride.measured(first + number, start_ns + number * SECOND_NS / per_second);
            }
            is_due
        });
        due.count() as u64
    }

    #[test]
    fn all_are_measured_while_they_come_slowly() {
        let mut stride = Stride::default();
        for per_second in [1, 30, 1000] {
            assert_eq!(measured(&mut stride, per_second, 3), 3 * per_second);
        }
    }

    #[test]
    fn of_faster_ones_about_as_many_as_of_slow_ones_and_never_too_few() {
        for per_second in [5_000, 100_000, 200_000] {
            let found = measured(&mut Stride::default(), per_second, 2);
            assert!((1_500..=4_500).contains(&found), "{per_second}: {found}");
        }
        let found = measured(&mut Stride::default(), 20_000_000, 1);
        let least = 20_000_000 / u64::from(MEASURED_EACH_MAX);
        assert!((least..least + 20).contains(&found), "{found}");
    }

    #[test]
    fn after_a_burst_slow_ones_are_soon_all_measured_again() {
        let mut stride = Stride::default();
        measured(&mut stride, 1_000_000, 1);
        let missed = 1000 - measured(&mut stride, 100, 10);
        assert!(missed < u64::from(MEASURED_EACH_MAX), "{missed}");
        // Two at once hide one.
        let mut stride = Stride::default();
        for number in [0, 1] {
            assert!(stride.is_due(number));
            stride.measured(number, SECOND_NS + number);
        }
        assert!(!stride.is_due(2));
        assert!(stride.is_due(3));
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_does_no_harm() {
        let mut stride = Stride::default();
        for at_ns in [u64::MAX, 0, 0, 5, u64::MAX] {
            let number = stride.next;
            stride.measured(number, at_ns);
            let ahead = stride.next - number;
            assert!((1..=u64::from(MEASURED_EACH_MAX)).contains(&ahead));
        }
    }
}
