//! How often something is done again: `--interval` and `--count`.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::output::Output;
use super::signals::Ends;
use super::time::Time;

/// Turns, until there were enough, or somebody wants the tool to end.
pub(super) struct Pace {
    left: Option<u64>,
    period: Option<Duration>,
    ticks: Option<Interval>,
    output: Output,
    /// Signals end the turns instead of the process.
    pub(super) ends: Ends,
}

impl Pace {
    /// Once unless told. Needs a runtime.
    pub(super) fn new(interval: Option<Time>, count: Option<u64>) -> std::io::Result<Self> {
        let left = match interval {
            None => Some(count.unwrap_or(1)),
            Some(_) => count,
        };
        Ok(Self {
            left,
            // A timer's ticks are no closer.
            period: interval.map(|Time(period)| period.max(Duration::from_millis(1))),
            ticks: None,
            output: Output::new(),
            ends: Ends::new()?,
        })
    }

    /// True if there is no turn at all.
    pub(super) fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    /// Waits for the next turn; false if there is none.
    pub(super) async fn next(&mut self) -> bool {
        if self.is_over() || self.output.is_ending() {
            return false;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        let Some(period) = self.period else {
            return true;
        };
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        self.ends.unless(ticks.tick()).await.is_some()
    }

    /// Writes what came of a turn. A signal ends that, too.
    pub(super) async fn print(&mut self, line: &[u8]) -> std::io::Result<()> {
        let written = self.output.write(line, &mut self.ends).await;
        written.map(|_| ())
    }
}
