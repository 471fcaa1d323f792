//! Status pages as Prometheus reads them: the text format, version 0.0.4.

use std::fmt::Write as _;

use shmesh_shm::{Histogram, StatusReader};

use crate::metrics::{Counted, HISTOGRAMS, Kind, METRICS, Whose};
use crate::name;

/// What a status page said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) node: String,
    pub(crate) id: u128,
    pub(crate) pid: u64,
    pub(crate) is_alive: bool,
    /// When it was read, by the monotonic clock of its host in nanoseconds.
    pub(crate) at_ns: u64,
    pub(crate) entries: Vec<Counted>,
}

impl Page {
    /// Reads a page; none if it is being made or removed, or is not one.
    pub(crate) fn read(name: &str) -> Option<Self> {
        let reader = StatusReader::open(name).ok()?;
        let is_alive = reader.is_alive();
        let (id, node) = reader.node();
        let at_ns = shmesh_shm::monotonic_ns();
        let entries = reader.endpoints().into_iter().filter_map(Counted::of);
        Some(Self {
            node,
            id,
            pid: reader.pid(),
            is_alive,
            at_ns,
            entries: entries.collect(),
        })
    }
}

/// All pages as text.
pub(crate) fn text(pages: &[Page]) -> String {
    let mut out = String::new();
    let alive = "Whether the node lives (1), or left its page behind (0)";
    head(&mut out, "shmesh_node_up", "gauge", alive);
    for page in pages {
        let (node, id, pid) = (label(&page.node), page.id, page.pid);
        let labels = format!("node=\"{node}\",id=\"{id:032x}\",pid=\"{pid}\"");
        line(&mut out, "shmesh_node_up", &labels, page.is_alive.into());
    }
    let mut last = "";
    for metric in METRICS {
        if metric.name != last {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            head(&mut out, metric.name, kind, metric.help);
            last = metric.name;
        }
        for page in pages {
            let has_it = |counted: &&Counted| metric.is_of(counted.whose);
            for counted in page.entries.iter().filter(has_it) {
                let mut labels = labels(page, counted);
                if let Some((name, value)) = metric.label {
                    let _ = write!(labels, ",{name}=\"{value}\"");
                }
                let value = counted.counts[metric.counter as usize];
                line(&mut out, metric.name, &labels, value);
            }
        }
    }
    for (name, whose, help) in HISTOGRAMS {
        head(&mut out, name, "histogram", help);
        for page in pages {
            let has_it = |counted: &&Counted| counted.whose == whose && counted.latency.count() > 0;
            for counted in page.entries.iter().filter(has_it) {
                histogram(&mut out, name, &labels(page, counted), &counted.latency);
            }
        }
    }
    out
}

/// Doublings from half a microsecond to nine seconds, each as a power of two nanoseconds.
const EDGES: std::ops::RangeInclusive<u32> = 9..=33;

fn histogram(out: &mut String, name: &str, labels: &str, latency: &Histogram) {
    let count = latency.count();
    let edges = EDGES.map(|bits| {
        let edge = seconds(1 << bits).to_string();
        (edge, latency.count_below(bits))
    });
    let bucket = format!("{name}_bucket");
    for (edge, below) in edges.chain([("+Inf".into(), count)]) {
        line(out, &bucket, &format!("{labels},le=\"{edge}\""), below);
    }
    let sum = seconds(latency.sum_ns());
    // Writing into a string does not fail.
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
    line(out, &format!("{name}_count"), labels, count);
}

#[allow(clippy::cast_precision_loss)] // exact up to 104 days
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn labels(page: &Page, counted: &Counted) -> String {
    let mut labels = format!("node=\"{}\",id=\"{:032x}\"", label(&page.node), page.id);
    let (role, topic) = (counted.whose.label(), label(&counted.topic));
    let about = match counted.whose {
        Whose::Node => return labels,
        Whose::Endpoint(_) | Whose::Share => format!("role=\"{role}\",topic=\"{topic}\""),
        Whose::Caller | Whose::Provider => format!("service=\"{topic}\""),
    };
    // Writing into a string does not fail.
    let _ = write!(labels, ",{about},endpoint=\"{}\"", counted.endpoint);
    labels
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a string does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

/// A text from elsewhere as the value of a label.
fn label(text: &str) -> String {
    let safe = name::escaped(text);
    safe.replace('\\', r"\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use shmesh_shm::Counter;

    use super::*;
    use crate::topology::Role;

    /// Times of 1 us and 1 ms.
    fn latency() -> Histogram {
        let mut latency = Histogram::default();
        [1_000, 1_000, 1_000_000]
            .into_iter()
            .for_each(|ns| latency.record(ns));
        latency
    }

    fn counts(first: u64) -> [u64; Counter::ALL.len()] {
        core::array::from_fn(|idx| first + idx as u64)
    }

    #[test]
    fn pages_look_like_this() {
        let camera = Page {
            node: "camera".into(),
            id: 0xabc,
            pid: 77,
            is_alive: true,
            at_ns: 0,
            entries: vec![
                Counted {
                    whose: Whose::Endpoint(Role::Publisher),
                    endpoint: 0,
                    topic: "images/front".into(),
                    counts: counts(10),
                    latency: Histogram::default(),
                },
                Counted {
                    whose: Whose::Node,
                    endpoint: 0,
                    topic: String::new(),
                    counts: counts(40),
                    latency: Histogram::default(),
                },
                Counted {
                    whose: Whose::Endpoint(Role::Subscriber),
                    endpoint: 3,
                    topic: "config".into(),
                    counts: counts(100),
                    latency: latency(),
                },
                Counted {
                    whose: Whose::Caller,
                    endpoint: 4,
                    topic: "add".into(),
                    counts: counts(200),
                    latency: latency(),
                },
                Counted {
                    whose: Whose::Provider,
                    endpoint: 5,
                    topic: "add".into(),
                    counts: counts(300),
                    latency: Histogram::default(),
                },
            ],
        };
        let dead = Page {
            node: "dead".into(),
            id: 1,
            pid: 5,
            ..Page::default()
        };
        let found = text(&[camera, dead]);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/metrics/snapshot.txt");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn without_nodes_there_are_only_names() {
        let text = text(&[]);
        assert!(text.lines().all(|line| line.starts_with("# ")), "{text}");
        assert!(text.contains("# TYPE shmesh_lost_total counter"));
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        let nasty = "a\"} 1\nb{x=\"\\\u{1b}]52;";
        let counted = Counted {
            whose: Whose::Endpoint(Role::Publisher),
            endpoint: 0,
            topic: nasty.into(),
            counts: counts(0),
            latency: Histogram::default(),
        };
        let page = Page {
            node: nasty.into(),
            entries: vec![counted],
            ..Page::default()
        };
        let text = text(&[page]);
        assert_eq!(label(nasty), r#"a\"} 1\\nb{x=\"\\\\u{1b}]52;"#);
        assert!(!text.contains('\u{1b}'));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("shmesh_"), "{line}");
            let unescaped = line.replace("\\\\", "").replace("\\\"", "");
            assert_eq!(unescaped.matches('"').count() % 2, 0, "{line}");
        }
    }
}
