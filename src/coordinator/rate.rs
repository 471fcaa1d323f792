//! How much a node may say in a time. No clock here: the time is an argument.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::limits::{NODE_CHANGES_AHEAD_MAX, NODE_CHANGES_PER_SECOND_MAX};

/// Words of one connection, each of which takes a fixed time: they may run ahead of the clock by a
/// burst, and no further.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When all words so far are paid for; none yet if there is none.
    paid_at: Option<Instant>,
}

impl Rate {
    /// Takes in a word with so many changes. A word without any counts like one change, as empty
    /// ones can be sent as a flood too.
    pub(super) fn take(&mut self, change_count: usize, now: Instant) -> Result<(), Error> {
        let count = u32::try_from(change_count.max(1)).unwrap_or(u32::MAX);
        let start = self.paid_at.map_or(now, |paid_at| paid_at.max(now));
        let paid_at = start + CHANGE * count;
        let ahead = paid_at.duration_since(now);
        if ahead > CHANGE * NODE_CHANGES_AHEAD_MAX {
            return Err(Error::OutOfBounds {
                what: "number of changes ahead of the rate that a node may keep up",
                found: u64::try_from(ahead.as_nanos() / CHANGE.as_nanos()).unwrap_or(u64::MAX),
                min: 0,
                max: u64::from(NODE_CHANGES_AHEAD_MAX),
            });
        }
        self.paid_at = Some(paid_at);
        Ok(())
    }
}

/// What one change takes.
const CHANGE: Duration = Duration::from_nanos(1_000_000_000 / NODE_CHANGES_PER_SECOND_MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: usize = NODE_CHANGES_AHEAD_MAX as usize;

    #[test]
    fn a_full_node_may_change_at_once_and_one_change_more_may_not() {
        let now = Instant::now();
        let mut rate = Rate::default();
        rate.take(BURST - 1, now).unwrap();
        rate.take(1, now).unwrap();
        let error = rate.take(1, now).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&format!("is {}", BURST + 1)), "{said}");
        assert!(said.contains(&format!("to {BURST}")), "{said}");
        rate.take(1, now + CHANGE).unwrap();
        rate.take(BURST, now + CHANGE * (2 * NODE_CHANGES_AHEAD_MAX))
            .unwrap();
    }

    #[test]
    fn the_steady_rate_is_kept_up_for_ever_and_a_little_more_is_not() {
        let start = Instant::now();
        let within = |per_second: u32, seconds: u32| {
            let mut rate = Rate::default();
            let step = Duration::from_secs(1) / per_second;
            (0..per_second * seconds).all(|idx| rate.take(1, start + step * idx).is_ok())
        };
        assert!(within(NODE_CHANGES_PER_SECOND_MAX, 60));
        assert!(!within(NODE_CHANGES_PER_SECOND_MAX / 10 * 11, 60));
    }

    #[test]
    fn silence_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let later = start + Duration::from_secs(3600);
        let mut rate = Rate::default();
        rate.take(1, start).unwrap();
        rate.take(BURST, later).unwrap();
        assert!(rate.take(1, later).is_err());
    }

    #[test]
    fn words_without_changes_count_as_well() {
        let now = Instant::now();
        let mut rate = Rate::default();
        assert!((0..BURST).all(|_| rate.take(0, now).is_ok()));
        assert!(rate.take(0, now).is_err());
    }
}
