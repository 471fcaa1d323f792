//! `mesh topic hz`, `bw` and `delay`: what a topic's messages are like, over the last so many.
//!
//! Times are those of sending, where messages have them, so that what the reader is late by does
//! not count; else of arrival. Messages that were lost on the way to this tool count as sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use shmesh_shm::monotonic_ns;
use tokio::time::{MissedTickBehavior, interval_at};

use super::check_wanted;
use crate::cli::output::Output;
use crate::cli::reach::ReachArgs;
use crate::cli::signals::Ends;
use crate::cli::time::Time;
use crate::cli::{Failure, runtime};
use crate::endpoint::Overflow;
use crate::error::RecvError;
use crate::limits::{MEASURE_DEPTH, WINDOW_MESSAGES_MAX};
use crate::message::Untyped;
use crate::name::escaped;
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// What of it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Rate,
    Bandwidth,
    Delay,
}

/// Which topics are measured, and how.
#[derive(Args, Clone, Debug)]
pub struct MeasureArgs {
    /// Names of topics, or patterns of names
    #[arg(value_name = "TOPIC", required = true)]
    pub topics: Vec<String>,
    /// Look back on so many messages of each topic
    #[arg(long, short, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(2..=i64::from(WINDOW_MESSAGES_MAX)))]
    pub window: u32,
    /// End after so many messages; at Ctrl-C unless set
    #[arg(long, short, value_name = "N")]
    pub count: Option<u64>,
    /// Say it every so often, such as 0.5, 500ms or 2m
    #[arg(
        long,
        short,
        value_name = "TIME",
        default_value = "1s",
        allow_negative_numbers = true
    )]
    pub interval: Time,
    /// Print a line of JSON for each topic and time
    #[arg(long)]
    pub json: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(measure: Measure, args: &MeasureArgs) -> Result<(), Failure> {
    check_wanted(&args.topics)?;
    let period = args.interval.0.max(Duration::from_millis(10));
    runtime()?.block_on(follow(measure, args, period))
}

async fn follow(measure: Measure, args: &MeasureArgs, period: Duration) -> Result<(), Failure> {
    let mut ends = Ends::new()?;
    let node = args.reach.join("measure").await?;
    let mut topics = node.subscriber::<Untyped>(&args.topics[0]);
    for topic in &args.topics[1..] {
        topics = topics.also(topic);
    }
    let topics = topics.overflow(Overflow::KeepLast(MEASURE_DEPTH));
    let mut topics: Subscriber<Untyped> = topics.build()?;
    let mut beat = interval_at(tokio::time::Instant::now() + period, period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut measured = Measured::new(measure, args);
    let mut output = Output::new();
    while !output.is_ending() {
        tokio::select! {
            biased;
            () = ends.recv() => output.end(),
            _ = beat.tick() => {
                measured.warn_if_nobody(&topics);
                output.write(&measured.report(), &mut ends).await?;
            }
            received = topics.recv() => {
                measured.take(&received?);
                if measured.take_more(&mut topics)? {
                    output.write(&measured.report(), &mut ends).await?;
                    break;
                }
            }
        }
    }
    node.close().await;
    Ok(())
}

/// What came so far.
struct Measured<'a> {
    measure: Measure,
    args: &'a MeasureArgs,
    series: BTreeMap<String, Series>,
    total: u64,
    has_warned: bool,
}

/// Most messages that are taken before the clock is looked at.
const BATCH: usize = 256;

impl<'a> Measured<'a> {
    const fn new(measure: Measure, args: &'a MeasureArgs) -> Self {
        Self {
            measure,
            args,
            series: BTreeMap::new(),
            total: 0,
            has_warned: false,
        }
    }

    fn warn_if_nobody(&mut self, topics: &Subscriber<Untyped>) {
        if !self.has_warned && self.total == 0 && topics.stats().publishers == 0 {
            self.has_warned = true;
            let names = self.args.topics.join(", ");
            note!("mesh: nobody sends to {} yet: waiting", escaped(&names));
        }
    }

    fn take(&mut self, sample: &Sample<Untyped>) {
        self.total += 1;
        if !self.series.contains_key(sample.topic()) {
            self.series
                .insert(sample.topic().to_owned(), Series::default());
        }
        let window = self.args.window as usize;
        if let Some(series) = self.series.get_mut(sample.topic()) {
            series.take(sample, window);
        }
    }

    /// Takes what is there; true if that was all that was wanted.
    fn take_more(&mut self, topics: &mut Subscriber<Untyped>) -> Result<bool, RecvError> {
        for _ in 0..BATCH {
            if self.args.count.is_some_and(|count| self.total >= count) {
                return Ok(true);
            }
            match topics.try_recv()? {
                Some(sample) => self.take(&sample),
                None => break,
            }
        }
        Ok(false)
    }

    /// How it is with the topics of which something came since the last time, a line each.
    fn report(&mut self) -> Vec<u8> {
        let mut lines = String::new();
        for (topic, series) in &mut self.series {
            if !std::mem::take(&mut series.has_news) {
                continue;
            }
            if self.args.json {
                lines.push_str(&series.json(topic, self.measure).to_string());
            } else {
                lines.extend([&*escaped(topic), ": ", &series.text(self.measure)]);
            }
            lines.push('\n');
        }
        lines.into_bytes()
    }
}

/// The messages of a topic.
#[derive(Debug, Default)]
struct Series {
    points: VecDeque<Point>,
    messages: u64,
    lost: u64,
    has_news: bool,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    ns: u64,
    bytes: usize,
    /// Lost just before it.
    lost: u64,
    delay_s: Option<f64>,
}

impl Series {
    fn take(&mut self, sample: &Sample<Untyped>, window: usize) {
        let now = monotonic_ns();
        let delay = |sent: u64| Duration::from_nanos(now.saturating_sub(sent)).as_secs_f64();
        let sent = sample.sent_ns();
        let point = Point {
            ns: sent.unwrap_or(now),
            bytes: sample.len(),
            lost: sample.lost_before(),
            delay_s: sent.map(delay),
        };
        self.add(point, window);
    }

    fn add(&mut self, point: Point, window: usize) {
        if self.points.len() >= window {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.messages += 1;
        self.lost += point.lost;
        self.has_news = true;
    }

    /// Times between messages in seconds; those that were lost share theirs with the next one, so
    /// that the mean is that of the rate.
    #[allow(clippy::cast_precision_loss)] // for people
    fn periods(&self) -> Summary {
        let pairs = self.points.iter().zip(self.points.iter().skip(1));
        Summary::weighted(pairs.map(|(before, after)| {
            let between = Duration::from_nanos(after.ns.saturating_sub(before.ns));
            let sent = after.lost + 1;
            (between.as_secs_f64() / sent as f64, sent)
        }))
    }

    #[allow(clippy::cast_precision_loss)]
    fn sizes(&self) -> Summary {
        Summary::weighted(self.points.iter().map(|point| (point.bytes as f64, 1)))
    }

    fn delays(&self) -> Summary {
        let delays = self.points.iter().filter_map(|point| point.delay_s);
        Summary::weighted(delays.map(|delay| (delay, 1)))
    }

    /// Messages a second, those that were lost among them.
    #[allow(clippy::cast_precision_loss)]
    fn rate(&self) -> Option<f64> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let seconds = Duration::from_nanos(last.ns.saturating_sub(first.ns)).as_secs_f64();
        let sent: u64 = self.points.iter().skip(1).map(|point| 1 + point.lost).sum();
        (sent > 0 && seconds > 0.0).then(|| sent as f64 / seconds)
    }

    fn bytes_per_s(&self) -> Option<f64> {
        Some(self.rate()? * self.sizes().mean)
    }

    fn text(&self, measure: Measure) -> String {
        let (window, lost) = (self.points.len(), self.lost);
        let tail = format!("window {window}, lost {lost}");
        let unknown = || "-".to_owned();
        match measure {
            Measure::Rate => {
                let rate = self
                    .rate()
                    .map_or_else(unknown, |rate| format!("{rate:.3}"));
                format!("{rate} Hz, period {} s, {tail}", self.periods().text(6))
            }
            Measure::Bandwidth => {
                let bytes = self.bytes_per_s().map_or_else(unknown, of_bytes);
                format!("{bytes}/s, size {} B, {tail}", self.sizes().text(0))
            }
            Measure::Delay if self.delays().count == 0 => {
                format!("no times: sent from another host, or without timestamps, {tail}")
            }
            Measure::Delay => format!("delay {} s, {tail}", self.delays().text(6)),
        }
    }

    fn json(&self, topic: &str, measure: Measure) -> Value {
        let mut value = json!({
            "topic": topic,
            "messages": self.messages,
            "lost": self.lost,
            "window": self.points.len(),
        });
        match measure {
            Measure::Rate => {
                value["rate_hz"] = json!(self.rate());
                value["period_s"] = self.periods().json();
            }
            Measure::Bandwidth => {
                value["bytes_per_s"] = json!(self.bytes_per_s());
                value["bytes"] = self.sizes().json();
            }
            Measure::Delay => value["delay_s"] = self.delays().json(),
        }
        value
    }
}

/// A rate of bytes as people say it.
fn of_bytes(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB"];
    let mut scaled = bytes;
    let mut unit = 0;
    while scaled >= 1000.0 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{scaled:.2} {}", units[unit])
}

/// Of numbers, none of which is kept.
#[derive(Clone, Copy, Debug, Default)]
struct Summary {
    count: u64,
    min: f64,
    mean: f64,
    max: f64,
    /// The standard deviation.
    std: f64,
}

impl Summary {
    /// Each with how often it counts.
    #[allow(clippy::cast_precision_loss)]
    fn weighted(values: impl Iterator<Item = (f64, u64)>) -> Self {
        let (mut count, mut min, mut max) = (0_u64, f64::INFINITY, f64::NEG_INFINITY);
        // Welford's: sums of squares would lose what small deviations are.
        let (mut mean, mut squares) = (0.0, 0.0);
        for (value, weight) in values {
            count += weight;
            (min, max) = (value.min(min), value.max(max));
            let before = value - mean;
            mean += before * weight as f64 / count as f64;
            squares += weight as f64 * before * (value - mean);
        }
        if count == 0 {
            return Self::default();
        }
        let std = (squares / count as f64).sqrt();
        Self {
            count,
            min,
            mean,
            max,
            std,
        }
    }

    fn text(&self, digits: usize) -> String {
        if self.count == 0 {
            return "-".into();
        }
        let [min, mean, max, std] =
            [self.min, self.mean, self.max, self.std].map(|value| format!("{value:.digits$}"));
        format!("min {min} mean {mean} max {max} std {std}")
    }

    fn json(&self) -> Value {
        match self.count {
            0 => Value::Null,
            _ => json!({
                "min": self.min,
                "mean": self.mean,
                "max": self.max,
                "std": self.std,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(ms: u64, lost: u64) -> Point {
        Point {
            ns: 1_000_000 * ms,
            bytes: 100,
            lost,
            delay_s: Some(0.5),
        }
    }

    #[test]
    fn lost_messages_count_as_sent() {
        let mut series = Series::default();
        // Every 10 ms; four of the first seven came.
        for (ms, lost) in [(0, 0), (10, 0), (50, 3), (60, 0)] {
            series.add(point(ms, lost), 10);
        }
        assert_eq!(
            series.text(Measure::Rate),
            "100.000 Hz, period min 0.010000 mean 0.010000 max 0.010000 std 0.000000 s, window 4, \
             lost 3"
        );
        assert_eq!(
            series.text(Measure::Bandwidth),
            "10.00 kB/s, size min 100 mean 100 max 100 std 0 B, window 4, lost 3"
        );
        assert_eq!(
            series.text(Measure::Delay),
            "delay min 0.500000 mean 0.500000 max 0.500000 std 0.000000 s, window 4, lost 3"
        );
    }

    #[test]
    fn the_mean_period_is_that_of_the_rate_whatever_was_lost() {
        let mut series = Series::default();
        for (ms, lost) in [(0, 0), (10, 0), (100, 8), (130, 1), (131, 0)] {
            series.add(point(ms, lost), 10);
        }
        let (rate, periods) = (series.rate().unwrap(), series.periods());
        assert_eq!(periods.count, 13);
        assert!(
            (rate * periods.mean - 1.0).abs() < 1e-9,
            "{rate} {periods:?}"
        );
    }

    #[test]
    fn a_window_forgets_what_is_older() {
        let mut series = Series::default();
        for ms in [0, 1000, 1010, 1030] {
            series.add(point(ms, 0), 3);
        }
        let periods = series.periods();
        assert_eq!((periods.count, series.messages), (2, 4));
        assert!((periods.mean - 0.015).abs() < 1e-9 && (periods.std - 0.005).abs() < 1e-9);
    }

    #[test]
    fn one_message_has_no_rate_and_messages_without_times_no_delay() {
        let mut series = Series::default();
        let delay_s = None;
        series.add(
            Point {
                delay_s,
                ..point(5, 0)
            },
            10,
        );
        assert_eq!(
            series.text(Measure::Rate),
            "- Hz, period - s, window 1, lost 0"
        );
        assert!(series.text(Measure::Delay).starts_with("no times"));
        assert!(series.json("t", Measure::Delay)["delay_s"].is_null());
        assert!(series.json("t", Measure::Rate)["rate_hz"].is_null());
    }
}
