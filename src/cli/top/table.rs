//! What is seen as tables: columns, rows, their order, and how much of them fits.

mod services;

use std::cmp::Ordering;

use shmesh_shm::Histogram;

use super::model::{CAUSES, Calls, EndpointSeen, NodeSeen, Seen, State, Sum};
use crate::cli::top::format::{bytes, count, percent, rate, time};
use crate::name::escaped;

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Node(u128),
    Topic(String),
    Service(String),
    /// Of that node, with its role's label, number and topic.
    Endpoint(u128, &'static str, u32, String),
}

/// Which table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Topics,
    Nodes,
    Services,
    /// The endpoints of a topic.
    Topic(String),
    /// The callers and providers of a service.
    Service(String),
    /// The endpoints of a node.
    Node(u128),
}

/// What a cell means beyond its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    /// Something is wrong now.
    Bad,
    /// Something may be about to be wrong, or was.
    Warn,
    /// Nothing is known of it.
    Dim,
}

/// What a cell is put in order by.
#[derive(Clone, Debug, PartialEq)]
enum Rank {
    Unknown,
    Number(f64),
    Text(String),
}

impl Rank {
    /// What is not known comes last, whichever way.
    fn compare(&self, other: &Self, is_reversed: bool) -> Ordering {
        let ordering = match (self, other) {
            (Self::Number(a), Self::Number(b)) => b.total_cmp(a),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Unknown, Self::Unknown) => Ordering::Equal,
            (Self::Unknown, _) => return Ordering::Greater,
            (_, Self::Unknown) => return Ordering::Less,
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        };
        if is_reversed {
            ordering.reverse()
        } else {
            ordering
        }
    }
}

/// One field of a row.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) tone: Tone,
    rank: Rank,
}

impl Cell {
    fn text(text: &str) -> Self {
        let text = escaped(text);
        Self {
            rank: Rank::Text(text.clone()),
            text,
            tone: Tone::Plain,
        }
    }

    fn number(value: Option<f64>, show: fn(f64) -> String) -> Self {
        Self {
            text: value.map_or_else(|| "-".into(), show),
            tone: value.map_or(Tone::Dim, |_| Tone::Plain),
            rank: value.map_or(Rank::Unknown, Rank::Number),
        }
    }

    #[allow(clippy::cast_precision_loss)] // for people
    fn count(value: Option<u64>, show: fn(f64) -> String) -> Self {
        Self::number(value.map(|value| value as f64), show)
    }

    /// A number that should be zero.
    fn toned(mut self, tone: Tone) -> Self {
        if matches!(self.rank, Rank::Number(value) if value > 0.0) {
            self.tone = tone;
        }
        self
    }
}

/// A line of a table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) cells: Vec<Cell>,
}

/// A table; the columns that matter most are on the left.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) columns: &'static [&'static str],
    pub(crate) rows: Vec<Row>,
}

const TOPICS: [&str; 18] = [
    "TOPIC", "MSG/s", "B/s", "LOST/s", "P50", "P99", "MAX", "LOST", "FILL", "PUB", "SUB", "ARENA",
    "HELD", "WAKE/s", "OVERWR", "DROPPED", "INVALID", "EXPIRED",
];
const NODES: [&str; 16] = [
    "NODE", "STATE", "OUT/s", "IN/s", "LOST/s", "OUT B/s", "IN B/s", "LOST", "FILL", "ARENA",
    "HELD", "WAKE/s", "PARK/s", "PUB", "SUB", "PID",
];
const OF_TOPIC: [&str; 19] = [
    "NODE", "ROLE", "MSG/s", "B/s", "LOST/s", "P50", "P99", "MAX", "FILL", "OVERWR", "DROPPED",
    "INVALID", "EXPIRED", "ARENA", "HELD", "WAKE/s", "PARK/s", "MESSAGES", "BYTES",
];
const OF_NODE: [&str; 19] = {
    let mut columns = OF_TOPIC;
    columns[0] = "TOPIC";
    columns
};

impl Table {
    /// A table of what is seen.
    pub(crate) fn of(seen: &Seen, which: &Which) -> Self {
        let (columns, rows): (&[&str], Vec<Row>) = match which {
            Which::Topics => {
                let topics = seen.topics();
                let rows = topics.iter().map(|(topic, all)| topic_row(topic, all));
                (&TOPICS, rows.collect())
            }
            Which::Nodes => (&NODES, seen.nodes.iter().map(node_row).collect()),
            Which::Topic(topic) => {
                let all = seen.topics().remove(topic.as_str()).unwrap_or_default();
                let rows = all.iter().map(|(node, endpoint)| {
                    let mut name = Cell::text(&node.name);
                    name.tone = tone_of(node.state);
                    endpoint_row(name, node, endpoint)
                });
                (&OF_TOPIC, rows.collect())
            }
            Which::Services | Which::Service(_) => services::rows(seen, which),
            Which::Node(id) => {
                let node = seen.nodes.iter().find(|node| node.id == *id);
                let row = |node, endpoint: &EndpointSeen| {
                    endpoint_row(Cell::text(&endpoint.topic), node, endpoint)
                };
                let rows = node.map(|node| node.own_endpoints().map(move |e| row(node, e)));
                (&OF_NODE, rows.into_iter().flatten().collect())
            }
        };
        Self { columns, rows }
    }

    /// Keeps the rows whose name has this in it, in whatever case.
    pub(crate) fn filter(&mut self, wanted: &str) {
        let wanted = wanted.to_lowercase();
        self.rows
            .retain(|row| row.cells[0].text.to_lowercase().contains(&wanted));
    }

    /// By a column: numbers from the largest, names by the alphabet; the other way if reversed.
    /// Rows that are equal there are in order of their names.
    pub(crate) fn sort(&mut self, column: usize, is_reversed: bool) {
        self.rows.sort_by(|a, b| {
            let by = |idx: usize, is_reversed| {
                a.cells[idx].rank.compare(&b.cells[idx].rank, is_reversed)
            };
            by(column, is_reversed).then(by(0, false))
        });
    }

    /// The widths of the columns that fit, the first one always.
    pub(crate) fn widths(&self, room: usize) -> Vec<usize> {
        let natural: Vec<usize> = (0..self.columns.len())
            .map(|idx| {
                let cells = self.rows.iter().map(|row| row.cells[idx].text.len());
                // Room for the mark of the order; and for numbers to grow in without a jolt.
                cells
                    .chain([self.columns[idx].len() + 1, 5])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let first = natural[0].min((room / 3).max(12)).min(room);
        let mut widths = vec![first];
        let mut left = room - first;
        for width in &natural[1..] {
            if width + 1 > left {
                break;
            }
            left -= width + 1;
            widths.push(*width);
        }
        widths[0] += left.min(natural[0] - first);
        widths
    }
}

/// A cell's text in its place. The first column, and words, are on the left.
pub(crate) fn placed(text: &str, column: usize, is_word: bool, width: usize) -> String {
    if text.len() > width {
        // Cells are plain ASCII, so bytes are columns.
        let kept = width.saturating_sub(1);
        let cut: String = text.chars().take(kept).collect();
        return format!("{cut}{}", if width > 0 { "~" } else { "" });
    }
    if column == 0 || is_word {
        format!("{text:<width$}")
    } else {
        format!("{text:>width$}")
    }
}

/// Columns with words in them.
pub(crate) fn is_word(title: &str) -> bool {
    matches!(title, "STATE" | "ROLE")
}

fn topic_row(topic: &str, endpoints: &[(&NodeSeen, &EndpointSeen)]) -> Row {
    let sum = Sum::of_topic(endpoints);
    // What several subscribers received is the same; each has it all at best.
    let received = |rate: fn(&Sum) -> Option<f64>| {
        let each = endpoints
            .iter()
            .filter_map(|(_, endpoint)| rate(&Sum::of([*endpoint])));
        each.reduce(f64::max)
    };
    let messages = sum.sent_rate.or_else(|| received(|sum| sum.received_rate));
    let volume = sum
        .sent_bytes_rate
        .or_else(|| received(|sum| sum.received_bytes_rate));
    let mut cells = vec![
        Cell::text(topic),
        Cell::number(messages, rate),
        Cell::number(volume, bytes),
        Cell::number(sum.lost_rate, rate).toned(Tone::Bad),
    ];
    cells.extend(times(sum.latency.as_ref()));
    cells.extend([
        known(&sum, sum.lost_total(), count).toned(Tone::Warn),
        fill(&sum),
        Cell::count(Some(sum.publishers as u64), count),
        Cell::count(Some(sum.subscribers as u64), count),
        known(&sum, sum.arena_bytes, bytes),
        known(&sum, sum.held, count),
        Cell::number(sum.wake_rate, rate),
    ]);
    cells.extend(causes(&sum));
    Row {
        key: Key::Topic(topic.into()),
        cells,
    }
}

fn node_row(node: &NodeSeen) -> Row {
    let sum = Sum::of_node(node);
    let mut state = Cell::text(node.state.label());
    state.tone = tone_of(node.state);
    let cells = vec![
        Cell::text(&node.name),
        state,
        Cell::number(sum.sent_rate, rate),
        Cell::number(sum.received_rate, rate),
        Cell::number(sum.lost_rate, rate).toned(Tone::Bad),
        Cell::number(sum.sent_bytes_rate, bytes),
        Cell::number(sum.received_bytes_rate, bytes),
        known(&sum, sum.lost_total(), count).toned(Tone::Warn),
        fill(&sum),
        known(&sum, sum.arena_bytes, bytes),
        known(&sum, sum.held, count),
        Cell::number(sum.wake_rate, rate),
        Cell::number(sum.park_rate, rate),
        Cell::count(Some(sum.publishers as u64), count),
        Cell::count(Some(sum.subscribers as u64), count),
        Cell::count(Some(node.pid), |pid| format!("{pid}")),
    ];
    Row {
        key: Key::Node(node.id),
        cells,
    }
}

/// A publisher, subscriber or share of one; or a caller or provider, of which less is known.
fn endpoint_row(name: Cell, node: &NodeSeen, endpoint: &EndpointSeen) -> Row {
    let sum = Sum::of([endpoint]);
    let calls = Calls::of(endpoint.whose, endpoint.is_of_service().then_some(endpoint));
    let messages = sum.sent_rate.or(sum.received_rate);
    let mut cells = vec![
        name,
        role(endpoint),
        Cell::number(messages.or(calls.rate), rate),
        Cell::number(sum.sent_bytes_rate.or(sum.received_bytes_rate), bytes),
        Cell::number(sum.lost_rate, rate).toned(Tone::Bad),
    ];
    cells.extend(times(sum.latency.as_ref().or(calls.latency.as_ref())));
    cells.push(fill(&sum));
    cells.extend(causes(&sum));
    cells.extend([
        known(&sum, sum.arena_bytes, bytes),
        known(&sum, sum.held, count),
        Cell::number(sum.wake_rate, rate),
        Cell::number(sum.park_rate, rate),
        known(&sum, sum.sent + sum.received, count),
        known(&sum, sum.sent_bytes + sum.received_bytes, bytes),
    ]);
    Row {
        key: key_of(node, endpoint),
        cells,
    }
}

fn key_of(node: &NodeSeen, endpoint: &EndpointSeen) -> Key {
    let topic = endpoint.topic.clone();
    Key::Endpoint(node.id, endpoint.whose.label(), endpoint.number, topic)
}

fn role(endpoint: &EndpointSeen) -> Cell {
    Cell::text(&endpoint.whose.label()[..3])
}

/// The median, the 99th percentile and the longest.
fn times(latency: Option<&Histogram>) -> impl Iterator<Item = Cell> + use<> {
    let cells = [0.5, 0.99, 1.0].map(|part| {
        let ns = latency.and_then(|latency| latency.quantile(part));
        Cell::count(ns, time)
    });
    cells.into_iter()
}

fn known(sum: &Sum, value: u64, show: fn(f64) -> String) -> Cell {
    Cell::count(sum.is_counted.then_some(value), show)
}

fn causes(sum: &Sum) -> impl Iterator<Item = Cell> {
    let cells = CAUSES.iter().zip(sum.lost);
    cells.map(|(_, lost)| known(sum, lost, count).toned(Tone::Warn))
}

fn fill(sum: &Sum) -> Cell {
    let mut cell = Cell::number(sum.fill, percent);
    cell.tone = match sum.fill {
        None => Tone::Dim,
        Some(fill) if fill >= 1.0 => Tone::Bad,
        Some(fill) if fill >= 0.5 => Tone::Warn,
        Some(_) => Tone::Plain,
    };
    cell
}

const fn tone_of(state: State) -> Tone {
    match state {
        State::Live => Tone::Plain,
        State::Stopped => Tone::Warn,
        State::Dead => Tone::Bad,
        State::Unseen | State::Far => Tone::Dim,
    }
}
