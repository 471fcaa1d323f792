//! When a message is sent again: a recording's time, laid over the clock of now.

/// Which part of a recording, in nanoseconds from its first message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// From here on.
    pub start_ns: u64,
    /// Up to here, if anywhere.
    pub end_ns: Option<u64>,
}

impl Span {
    /// True if a message of that time belongs to it.
    #[must_use]
    pub fn has(&self, since_first_ns: u64) -> bool {
        since_first_ns >= self.start_ns && self.end_ns.is_none_or(|end_ns| since_first_ns <= end_ns)
    }
}

/// Says when each message is due. Messages stay in their order: one that is older than the one
/// before it is due with that.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate: f64,
    /// A moment of the recording, and when it is, or was.
    anchor: Option<(u64, u64)>,
    /// The latest moment of the recording that was asked for.
    latest_ns: u64,
    paused_ns: Option<u64>,
}

impl Schedule {
    /// So many times as fast as it was recorded.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        Self {
            rate,
            anchor: None,
            latest_ns: 0,
            paused_ns: None,
        }
    }

    /// The recording's moment `recorded_ns` is at `now_ns`; what is due follows from it.
    pub fn begin(&mut self, recorded_ns: u64, now_ns: u64) {
        self.anchor = Some((recorded_ns, now_ns));
        self.latest_ns = recorded_ns;
        if self.paused_ns.is_some() {
            self.paused_ns = Some(now_ns);
        }
    }

    /// When a message of that moment is due; `None` while it pauses. Never earlier than the one
    /// before.
    pub fn due_ns(&mut self, recorded_ns: u64, now_ns: u64) -> Option<u64> {
        if self.anchor.is_none() {
            self.begin(recorded_ns, now_ns);
        }
        self.latest_ns = self.latest_ns.max(recorded_ns);
        if self.paused_ns.is_some() {
            return None;
        }
        let (anchor_ns, at_ns) = self.anchor?;
        let since_ns = self.latest_ns.saturating_sub(anchor_ns);
        Some(at_ns.saturating_add(scaled(since_ns, 1.0 / self.rate)))
    }

    /// True while it pauses.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused_ns.is_some()
    }

    /// Stops the recording's time.
    pub fn pause(&mut self, now_ns: u64) {
        self.paused_ns.get_or_insert(now_ns);
    }

    /// Lets it go on from where it stopped.
    pub fn resume(&mut self, now_ns: u64) {
        let Some(paused_ns) = self.paused_ns.take() else {
            return;
        };
        if let Some((_, at_ns)) = &mut self.anchor {
            *at_ns = at_ns.saturating_add(now_ns.saturating_sub(paused_ns));
        }
    }

    /// Goes on faster or slower from now.
    pub fn set_rate(&mut self, rate: f64, now_ns: u64) {
        let now_ns = self.paused_ns.unwrap_or(now_ns);
        if let Some((anchor_ns, at_ns)) = &mut self.anchor {
            let passed_ns = scaled(now_ns.saturating_sub(*at_ns), self.rate);
            *anchor_ns = anchor_ns.saturating_add(passed_ns);
            *at_ns = now_ns.max(*at_ns);
        }
        self.rate = rate;
    }

    /// How many times as fast it is.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }
}

/// Nanoseconds up to some centuries: 53 bits are exact to the nanosecond for 104 days.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]
fn scaled(ns: u64, factor: f64) -> u64 {
    (ns as f64 * factor) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_distances_are_kept_at_any_rate() {
        for (rate, expected) in [
            (1.0, [500, 510, 530]),
            (2.0, [500, 505, 515]),
            (0.5, [500, 520, 560]),
        ] {
            let mut schedule = Schedule::new(rate);
            let due = [1_000, 1_010, 1_030].map(|at| schedule.due_ns(at, 500));
            assert_eq!(due, expected.map(Some));
        }
    }

    #[test]
    fn order_is_kept_where_times_go_back() {
        let mut schedule = Schedule::new(1.0);
        let due = [100, 130, 120, 140].map(|at| schedule.due_ns(at, 0));
        assert_eq!(due, [0, 30, 30, 40].map(Some));
    }

    #[test]
    fn a_pause_moves_all_that_follows() {
        let mut schedule = Schedule::new(1.0);
        assert_eq!(schedule.due_ns(100, 0), Some(0));
        schedule.pause(10);
        assert_eq!(schedule.due_ns(120, 15), None);
        schedule.resume(60);
        assert_eq!(schedule.due_ns(120, 60), Some(70));
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let mut schedule = Schedule::new(1.0);
        assert_eq!(schedule.due_ns(1_000, 0), Some(0));
        schedule.set_rate(10.0, 50);
        assert_eq!(schedule.due_ns(1_150, 50), Some(60));
        schedule.pause(60);
        schedule.set_rate(1.0, 99);
        schedule.resume(100);
        assert_eq!(schedule.due_ns(1_160, 100), Some(110));
    }

    #[test]
    fn a_span_has_both_its_ends() {
        let span = Span {
            start_ns: 10,
            end_ns: Some(20),
        };
        assert_eq!(
            [9, 10, 20, 21].map(|at| span.has(at)),
            [false, true, true, false]
        );
        assert!(Span::default().has(u64::MAX));
    }
}
