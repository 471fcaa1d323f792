//! How often something is done again: `--interval` and `--count`.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Failure;
use super::output::Output;
use super::signals::Ends;

/// Turns, until there were enough, or somebody wants the tool to end.
pub(super) struct Pace {
    left: Option<u64>,
    period: Option<Duration>,
    clock: Option<Clock>,
}

/// With one, signals end the turns instead of the process.
struct Clock {
    ticks: Interval,
    ends: Ends,
    output: Output,
}

impl Pace {
    /// Once unless told.
    pub(super) fn new(interval: Option<f64>, count: Option<u64>) -> Result<Self, Failure> {
        // Less than nothing is once, as in rosy.
        let interval = interval.filter(|seconds| *seconds >= 0.0 || seconds.is_nan());
        let period = interval.map(Duration::try_from_secs_f64).transpose();
        let period = period.map_err(|error| Failure::usage(format!("--interval: {error}")))?;
        let left = match period {
            None => Some(count.unwrap_or(1)),
            Some(_) => count,
        };
        Ok(Self {
            left,
            // A timer's ticks are no closer.
            period: period.map(|period| period.max(Duration::from_millis(1))),
            clock: None,
        })
    }

    /// Waits for the next turn; false if there is none.
    pub(super) async fn next(&mut self) -> bool {
        match &mut self.left {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        let Some(period) = self.period else {
            return true;
        };
        if self.clock.is_none() {
            let Ok(ends) = Ends::new() else {
                return false;
            };
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let output = Output::new();
            self.clock = Some(Clock {
                ticks,
                ends,
                output,
            });
        }
        let Some(clock) = &mut self.clock else {
            return false;
        };
        if clock.output.is_ending() {
            return false;
        }
        tokio::select! {
            biased;
            () = clock.ends.recv() => false,
            _ = clock.ticks.tick() => true,
        }
    }

    /// Writes what came of a turn. A signal ends that, too.
    pub(super) async fn print(&mut self, line: &[u8]) -> std::io::Result<()> {
        if let Some(Clock { ends, output, .. }) = &mut self.clock {
            return output.write(line, ends).await.map(|_| ());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(line)?;
        out.flush()
    }
}
