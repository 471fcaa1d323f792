//! What is printed: a table and a histogram for people, lines of JSON for scripts, a file for
//! HdrHistogram's tools.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::spec::{Pattern, Spec, Transport};
use crate::cli::Failure;

/// Latencies from 1 ns to a minute with three digits.
pub(super) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .expect("invariant: these bounds are within HdrHistogram's")
}

pub(super) fn histogram_of(pairs: &[(u64, u64)]) -> Histogram<u64> {
    let mut histogram = new_histogram();
    for (value, count) in pairs {
        histogram.saturating_record_n(*value, *count);
    }
    histogram
}

/// One measurement and its result.
pub(super) struct Measured {
    pub(super) spec: Spec,
    pub(super) messages: u64,
    pub(super) lost: u64,
    pub(super) seconds: f64,
    pub(super) latencies: Option<Histogram<u64>>,
    /// Of sender and receiver, if pinned.
    pub(super) cores: Vec<usize>,
    pub(super) reference: Reference,
}

/// What the bare step takes, or gives, on the same machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Reference {
    pub(super) ns: Option<u64>,
    pub(super) bytes_per_s: Option<f64>,
}

impl Measured {
    #[allow(clippy::cast_precision_loss)] // for people
    fn messages_per_s(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    #[allow(clippy::cast_precision_loss)]
    fn bytes_per_s(&self) -> f64 {
        self.messages_per_s() * self.spec.message_size as f64
    }

    fn json(&self) -> Value {
        let latency_ns = self.latencies.as_ref().map(|latencies| {
            json!({
                "min": latencies.min(),
                "mean": latencies.mean(),
                "p50": latencies.value_at_quantile(0.5),
                "p90": latencies.value_at_quantile(0.9),
                "p99": latencies.value_at_quantile(0.99),
                "p999": latencies.value_at_quantile(0.999),
                "p9999": latencies.value_at_quantile(0.9999),
                "max": latencies.max(),
            })
        });
        let mut value = json!({
            "pattern": self.spec.pattern,
            "transport": self.spec.transport,
            "wait": self.spec.wait,
            "payload": self.spec.payload,
            "message_size": self.spec.message_size,
            "messages": self.messages,
            "lost": self.lost,
            "seconds": self.seconds,
            "messages_per_s": self.messages_per_s(),
            "bytes_per_s": self.bytes_per_s(),
            "latency_ns": latency_ns,
            "cores": self.cores,
            "reference_ns": self.reference.ns,
        });
        if self.spec.transport == Transport::Tcp && self.spec.pattern == Pattern::Stream {
            value["reference_bytes_per_s"] = json!(self.reference.bytes_per_s);
        }
        if self.spec.pattern == Pattern::Call {
            value["in_flight"] = json!(self.spec.in_flight);
        }
        value
    }
}

pub(super) fn print_json(measured: &Measured) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", measured.json())?;
    out.flush()?;
    Ok(())
}

pub(super) fn print_table(all: &[Measured]) -> Result<(), Failure> {
    let mut text = table(all);
    for measured in all {
        text.push_str(&bars(measured));
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn table(all: &[Measured]) -> String {
    let mut rows = vec![
        [
            "pattern",
            "size",
            "payload",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
            "msg/s",
            "bandwidth",
            "lost",
            "bare",
        ]
        .map(str::to_owned),
    ];
    rows.extend(all.iter().map(row));
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|c| rows.iter().map(|r| r[c].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        for (idx, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if idx == 0 { "" } else { "  " };
            let _ = if idx == 0 || idx == 2 {
                write!(text, "{gap}{cell:<width$}")
            } else {
                write!(text, "{gap}{cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

fn row(measured: &Measured) -> [String; 12] {
    let latency = |quantile: f64| {
        let latencies = measured.latencies.as_ref();
        latencies.map_or_else(|| "-".into(), |l| nanos(l.value_at_quantile(quantile)))
    };
    let name = |value: &dyn erased::Name| value.name();
    [
        name(&measured.spec.pattern),
        size(measured.spec.message_size),
        name(&measured.spec.payload),
        latency(0.5),
        latency(0.9),
        latency(0.99),
        latency(0.999),
        latency(1.0),
        scaled(measured.messages_per_s(), ""),
        scaled(measured.bytes_per_s(), "B/s"),
        measured.lost.to_string(),
        bare_cell(measured),
    ]
}

/// What the bare step takes; for a stream over a network, what a bare one gives.
fn bare_cell(measured: &Measured) -> String {
    let Reference { ns, bytes_per_s } = measured.reference;
    let rate = bytes_per_s.map(|rate| scaled(rate, "B/s"));
    ns.map(nanos).or(rate).unwrap_or_else(|| "-".into())
}

mod erased {
    /// The name of a choice, as on the command line.
    pub(super) trait Name {
        fn name(&self) -> String;
    }
    impl<T: clap::ValueEnum> Name for T {
        fn name(&self) -> String {
            self.to_possible_value()
                .map(|value| value.get_name().to_owned())
                .unwrap_or_default()
        }
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[allow(clippy::cast_precision_loss)]
fn nanos(ns: u64) -> String {
    match ns {
        0..1000 => format!("{ns} ns"),
        1000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

fn scaled(value: f64, unit: &str) -> String {
    let (value, prefix) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, " "),
    };
    format!("{value:.1}{prefix}{unit}").trim_end().to_owned()
}

/// The latencies drawn: a bar for each doubling.
fn bars(measured: &Measured) -> String {
    let Some(latencies) = &measured.latencies else {
        return String::new();
    };
    let mut text = format!(
        "\n{:?}, {}, {} messages\n",
        measured.spec.pattern,
        size(measured.spec.message_size),
        latencies.len()
    );
    let mut low = 1_u64;
    while low <= latencies.max() && low < u64::MAX / 4 {
        let high = low * 2;
        let count = latencies.count_between(low, high - 1);
        if count > 0 {
            #[allow(clippy::cast_precision_loss)]
            let share = count as f64 / latencies.len() as f64;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let width = (share * 50.0).ceil() as usize;
            let bar = "#".repeat(width);
            let _ = writeln!(text, "{:>9} {bar:<50} {:6.2} %", nanos(low), share * 100.0);
        }
        low = high;
    }
    text
}

/// The percentile format of HdrHistogram, in microseconds, as its plotters read it.
pub(super) fn write_hgrm(path: &Path, all: &[Measured]) -> Result<(), Failure> {
    let mut text = String::new();
    for measured in all
        .iter()
        .filter(|measured| measured.spec.pattern != Pattern::Stream)
    {
        if let Some(latencies) = &measured.latencies {
            text.push_str(&hgrm(latencies));
        }
    }
    std::fs::write(path, text)
        .map_err(|error| anyhow::Error::new(error).context(format!("write {}", path.display())))?;
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn hgrm(latencies: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in latencies.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to() as f64 / 1e3;
        let _ = write!(text, "{value:12.3} {quantile:2.12} {total:10}");
        let _ = if quantile < 1.0 {
            writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
        latencies.mean() / 1e3,
        latencies.stdev() / 1e3
    );
    let _ = writeln!(
        text,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        latencies.max() as f64 / 1e3,
        latencies.len()
    );
    let _ = writeln!(
        text,
        "#[Buckets = {:12}, SubBuckets     = {:12}]",
        latencies.buckets(),
        latencies.distinct_values()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Pace, Payload, Wait};
    use super::*;

    fn measured(pattern: Pattern) -> Measured {
        let spec = Spec {
            pattern,
            wait: Wait::Spin,
            transport: Transport::Shm,
            payload: Payload::Loan,
            message_size: 1000,
            seconds: 1.0,
            pace: Pace::of(pattern, None),
            in_flight: 1,
        };
        let mut latencies = new_histogram();
        (1..=1000).for_each(|ns| latencies.saturating_record(ns));
        Measured {
            spec,
            messages: 1000,
            lost: 0,
            seconds: 2.0,
            latencies: (pattern != Pattern::Stream).then_some(latencies),
            cores: vec![0, 1],
            reference: Reference {
                ns: Some(50),
                bytes_per_s: Some(1e6),
            },
        }
    }

    #[test]
    fn json_has_the_fields_that_scripts_rely_on() {
        let value = measured(Pattern::Ping).json();
        assert_eq!(value["pattern"], "ping");
        assert_eq!(value["transport"], "shm");
        assert_eq!(value["wait"], "spin");
        assert_eq!(value["payload"], "loan");
        assert_eq!(value["messages_per_s"], 500.0);
        assert_eq!(value["bytes_per_s"], 500_000.0);
        assert_eq!(value["latency_ns"]["p50"], 500);
        assert_eq!(value["latency_ns"]["max"], 1000);
        assert_eq!(value["cores"], json!([0, 1]));
        assert_eq!(value["reference_ns"], 50);
        assert!(measured(Pattern::Stream).json()["latency_ns"].is_null());
        let mut over_tcp = measured(Pattern::Stream);
        assert!(over_tcp.json().get("reference_bytes_per_s").is_none());
        over_tcp.spec.transport = Transport::Tcp;
        assert_eq!(over_tcp.json()["transport"], "tcp");
        assert_eq!(over_tcp.json()["reference_bytes_per_s"], 1e6);
    }

    #[test]
    fn the_table_is_aligned_and_says_the_payload() {
        let text = table(&[measured(Pattern::Ping), measured(Pattern::Stream)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].contains("loan") && lines[1].contains("500 ns"),
            "{text}"
        );
        assert!(
            lines.iter().all(|line| line.len() == lines[0].len()),
            "{text}"
        );
    }

    #[test]
    fn the_bars_add_up_and_the_percentiles_end_at_one() {
        let text = bars(&measured(Pattern::Paced));
        let shares = text
            .lines()
            .filter_map(|l| l.strip_suffix(" %")?.split(' ').next_back());
        let sum: f64 = shares.map(|share| share.parse::<f64>().unwrap()).sum();
        assert!((sum - 100.0).abs() < 1.0, "{text}");
        let text = hgrm(measured(Pattern::Ping).latencies.as_ref().unwrap());
        assert!(text.contains("1.000000000000       1000\n"), "{text}");
    }
}
