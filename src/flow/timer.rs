//! Timers: a steady schedule, and handlers that are called by it.
//!
//! Ticks are due at the start and a whole number of periods, whenever the last one was taken, so
//! nothing adds up. Who comes late for several gets one of them, and is told how many it missed.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use shmesh_shm::monotonic_ns;
use tokio::sync::watch;

use crate::error::Error;
use crate::flow::handler::{AsyncHandler, Handler, HandlerStats, Reports};
use crate::flow::life::{Control, Running, on_thread, runtime_here};
use crate::limits::{PERIOD_S_MAX, PERIOD_US_MIN};
use crate::node::Node;
use crate::wait::AsyncSocket;

impl Node {
    /// A tick every `period`, the first after one period; from 10 us to a day.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run(node: shmesh::Node) -> Result<(), shmesh::Error> {
    /// let mut ticker = node.every(Duration::from_millis(10))?;
    /// let mut poses = node.publisher::<u64>("pose").build()?;
    /// while let Ok(tick) = ticker.tick().await {
    ///     poses.publish(&tick.number)?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] for another period; no descriptors; a closed node.
    pub fn every(&self, period: Duration) -> Result<Ticker, Error> {
        Ticker::new(period, self.shared().life.draining())
    }

    /// Calls `handler` every `period`, in the current tokio runtime, until the [`Timer`] is dropped
    /// or the node closes. What it returns as an error, and its panics, are logged (target
    /// `shmesh::handler`) and counted.
    ///
    /// # Errors
    /// As [`every`](Self::every); [`Error::Io`] outside a runtime.
    pub fn timer(&self, period: Duration, handler: impl Handler<Tick>) -> Result<Timer, Error> {
        let runtime = runtime_here()?;
        let (running, task) = self.start_timer(period)?;
        runtime.spawn(task.run(handler));
        Ok(Timer { running })
    }

    /// The same with a handler that returns a future. A tick that is due before it is done waits;
    /// of several, the last.
    ///
    /// # Errors
    /// As [`timer`](Self::timer).
    pub fn timer_async(
        &self,
        period: Duration,
        handler: impl AsyncHandler<Tick>,
    ) -> Result<Timer, Error> {
        let runtime = runtime_here()?;
        let (running, task) = self.start_timer(period)?;
        runtime.spawn(task.run_async(handler));
        Ok(Timer { running })
    }

    /// Calls `handler` every `period` on a thread of its own: the steadiest, and it may block.
    ///
    /// # Errors
    /// As [`every`](Self::every).
    pub fn timer_on_thread(
        &self,
        period: Duration,
        handler: impl Handler<Tick>,
    ) -> Result<Timer, Error> {
        let (running, task) = self.start_timer(period)?;
        on_thread("timer", task.run(handler))?;
        Ok(Timer { running })
    }

    fn start_timer(&self, period: Duration) -> Result<(Running, TimerTask), Error> {
        let ticker = self.every(period)?;
        let (running, control) = Running::start(self.shared(), format!("timer {period:?}"))?;
        let task = TimerTask {
            _node: self.clone(),
            ticker,
            control,
        };
        Ok((running, task))
    }
}

/// One tick of a [`Ticker`] or [`Timer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Its number in the schedule, from 0; those that were missed count.
    pub number: u64,
    /// Ticks missed between the one before and this one.
    pub missed: u64,
    /// When it was due: nanoseconds of `CLOCK_MONOTONIC`, as [`Sample::sent_ns`] is.
    ///
    /// [`Sample::sent_ns`]: crate::Sample::sent_ns
    pub due_ns: u64,
}

impl Tick {
    /// How long ago it was due. Reads the clock.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.due_ns))
    }
}

/// When ticks are due. No clock.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start_ns: u64,
    period_ns: u64,
    /// The number of the next one.
    next: u64,
}

impl Schedule {
    const fn due_ns(&self, number: u64) -> u64 {
        let since_start = self.period_ns.saturating_mul(number.saturating_add(1));
        self.start_ns.saturating_add(since_start)
    }

    /// The latest tick that is due, if any is.
    fn take(&mut self, now_ns: u64) -> Option<Tick> {
        let behind_ns = now_ns.checked_sub(self.due_ns(self.next))?;
        let missed = behind_ns / self.period_ns;
        let number = self.next + missed;
        self.next = number + 1;
        Some(Tick {
            number,
            missed,
            due_ns: self.due_ns(number),
        })
    }
}

/// Ticks at a steady pace; made by [`Node::every`]. One that is not asked for does nothing.
#[derive(Debug)]
pub struct Ticker {
    schedule: Schedule,
    missed: u64,
    /// The kernel's timer: tokio's own is good to a millisecond.
    timer: OwnedFd,
    watched: Option<AsyncSocket>,
    draining: watch::Receiver<bool>,
}

impl Ticker {
    fn new(period: Duration, draining: watch::Receiver<bool>) -> Result<Self, Error> {
        let bounds = Duration::from_micros(PERIOD_US_MIN)..=Duration::from_secs(PERIOD_S_MAX);
        if !bounds.contains(&period) {
            return Err(Error::OutOfBounds {
                what: "a period in microseconds",
                found: u64::try_from(period.as_micros()).unwrap_or(u64::MAX),
                min: PERIOD_US_MIN,
                max: PERIOD_S_MAX * 1_000_000,
            });
        }
        if *draining.borrow() {
            return Err(Error::Closed);
        }
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let schedule = Schedule {
            start_ns: monotonic_ns(),
            period_ns,
            next: 0,
        };
        let timer = start_timer(schedule).map_err(|errno| Error::Io {
            what: "start a timer",
            source: errno.into(),
        })?;
        Ok(Self {
            schedule,
            missed: 0,
            timer,
            watched: None,
            draining,
        })
    }

    /// Waits for the next tick. At once if one is due already: the latest of several. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Closed`] once the node closes; a failure of the system.
    pub async fn tick(&mut self) -> Result<Tick, Error> {
        // Who is always late never waits: others of this runtime get their turn here.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(tick) = self.take()? {
                return Ok(tick);
            }
            let mut draining = self.draining.clone();
            tokio::select! {
                biased;
                woken = poll_fn(|cx| self.poll_woken(cx)) => woken?,
                _ = draining.wait_for(|is_over| *is_over) => return Err(Error::Closed),
            }
        }
    }

    /// The same, sleeping on this thread. It sees that the node closed when the tick is due.
    ///
    /// # Errors
    /// As [`tick`](Self::tick).
    pub fn tick_blocking(&mut self) -> Result<Tick, Error> {
        loop {
            if let Some(tick) = self.take()? {
                return Ok(tick);
            }
            let due_ns = self.schedule.due_ns(self.schedule.next);
            std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(monotonic_ns())));
        }
    }

    /// All ticks that were missed.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn take(&mut self) -> Result<Option<Tick>, Error> {
        // A node that is gone is as good as its word.
        if self.draining.has_changed().unwrap_or(true) {
            return Err(Error::Closed);
        }
        let tick = self.schedule.take(monotonic_ns());
        self.missed += tick.map_or(0, |tick| tick.missed);
        Ok(tick)
    }

    /// Ready when the timer went off since the last time.
    fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let io = |source| Error::Io {
            what: "wait for a timer",
            source,
        };
        loop {
            let watched = match self.watched.take() {
                Some(watched) => watched,
                None => AsyncSocket::new(self.timer.try_clone().map_err(io)?).map_err(io)?,
            };
            // Registered again if its runtime is gone; failing that is an error.
            if ready!(self.watched.insert(watched).poll_ready(cx)) {
                // Reading arms it for the next period. What it counts, the schedule knows.
                let mut count = [0; 8];
                let _ = rustix::io::read(&self.timer, &mut count);
                return Poll::Ready(Ok(()));
            }
            self.watched = None;
        }
    }
}

/// A timer of the kernel that goes off whenever a tick is due.
fn start_timer(schedule: Schedule) -> rustix::io::Result<OwnedFd> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let [it_value, it_interval] = [schedule.due_ns(0), schedule.period_ns].map(timespec);
    let times = Itimerspec {
        it_interval,
        it_value,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &times)?;
    Ok(timer)
}

fn timespec(ns: u64) -> Timespec {
    let since = Duration::from_nanos(ns);
    Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: since.subsec_nanos().into(),
    }
}

/// A handler that is called at a steady pace, until this is dropped. It ends as a
/// [`Listening`](crate::Listening) does.
#[derive(Debug)]
#[must_use = "dropping it ends the timer"]
pub struct Timer {
    running: Running,
}

impl Timer {
    /// Ends it, and waits for the call that runs.
    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// The same, waiting on this thread. Not to be called from async code.
    pub fn stop_blocking(self) {
        self.running.stop_blocking();
    }

    /// Waits until it ends because the node closes.
    pub async fn ended(&self) {
        self.running.ended().await;
    }

    /// True when it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.running.has_ended()
    }

    /// Counts of the handler's calls; `lost` are the ticks that were missed.
    #[must_use]
    pub fn stats(&self) -> HandlerStats {
        self.running.stats()
    }
}

/// What runs.
struct TimerTask {
    /// A timer keeps its node in the mesh, as publishers do.
    _node: Node,
    ticker: Ticker,
    control: Control,
}

impl TimerTask {
    async fn run(mut self, mut handler: impl Handler<Tick>) {
        while let Some(tick) = self.next().await {
            self.control.reports.call(|| handler(tick));
        }
    }

    async fn run_async(mut self, mut handler: impl AsyncHandler<Tick>) {
        while let Some(tick) = self.next().await {
            let reports: &Arc<Reports> = &self.control.reports;
            tokio::select! {
                biased;
                () = reports.call_async(|| handler(tick)) => {}
                () = self.control.overdue() => return reports.note_cut_off(1),
            }
        }
    }

    async fn next(&mut self) -> Option<Tick> {
        if self.control.is_over() {
            return None;
        }
        let tick = tokio::select! {
            biased;
            tick = self.ticker.tick() => tick,
            () = self.control.over() => return None,
        };
        match tick {
            Ok(tick) => {
                self.control.reports.note_lost(tick.missed);
                Some(tick)
            }
            Err(Error::Closed) => None,
            Err(error) => {
                let name = self.control.reports.name();
                tracing::error!(target: "shmesh::handler", name, %error, "the timer ended");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        start_ns: 1_000,
        period_ns: 10,
        next: 0,
    };

    fn tick(number: u64, missed: u64, due_ns: u64) -> Option<Tick> {
        Some(Tick {
            number,
            missed,
            due_ns,
        })
    }

    #[test]
    fn ticks_are_due_by_the_start_however_late_the_last_one_was() {
        let mut schedule = SCHEDULE;
        assert_eq!(schedule.take(1_009), None);
        assert_eq!(schedule.take(1_010), tick(0, 0, 1_010));
        assert_eq!(schedule.take(1_010), None, "once");
        for number in 1..1_000_000 {
            let due_ns = 1_010 + 10 * number;
            assert_eq!(schedule.take(due_ns - 1), None);
            assert_eq!(schedule.take(due_ns + number % 10), tick(number, 0, due_ns));
        }
    }

    #[test]
    fn of_several_that_are_due_one_comes_and_says_how_many_did_not() {
        let mut schedule = SCHEDULE;
        assert_eq!(schedule.take(1_045), tick(3, 3, 1_040));
        assert_eq!(schedule.take(1_049), None, "not bunched");
        assert_eq!(schedule.take(1_050), tick(4, 0, 1_050));
    }

    #[test]
    fn the_end_of_the_clock_is_no_panic() {
        let mut schedule = SCHEDULE;
        assert!(schedule.take(u64::MAX).is_some());
        schedule.next = u64::MAX - 1;
        assert_eq!(schedule.take(5), None);
    }
}
