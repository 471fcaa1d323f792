//! What is seen as tables: columns, rows, their order, and how much of them fits.

use std::cmp::Ordering;

use super::model::{CAUSES, EndpointSeen, NodeSeen, Seen, State, Sum};
use crate::cli::top::format::{bytes, count, percent, rate};
use crate::metrics::role_label;
use crate::name::escaped;

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Node(u128),
    Topic(String),
    /// Of that node, with its role's label and number.
    Endpoint(u128, &'static str, u32),
}

/// Which table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Topics,
    Nodes,
    /// The endpoints of a topic.
    Topic(String),
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

const TOPICS: [&str; 15] = [
    "TOPIC", "MSG/s", "B/s", "LOST/s", "LOST", "FILL", "PUB", "SUB", "ARENA", "HELD", "WAKE/s",
    "OVERWR", "DROPPED", "INVALID", "EXPIRED",
];
const NODES: [&str; 16] = [
    "NODE", "STATE", "OUT/s", "IN/s", "LOST/s", "OUT B/s", "IN B/s", "LOST", "FILL", "ARENA",
    "HELD", "WAKE/s", "PARK/s", "PUB", "SUB", "PID",
];
const OF_TOPIC: [&str; 16] = [
    "NODE", "ROLE", "MSG/s", "B/s", "LOST/s", "FILL", "OVERWR", "DROPPED", "INVALID", "EXPIRED",
    "ARENA", "HELD", "WAKE/s", "PARK/s", "MESSAGES", "BYTES",
];
const OF_NODE: [&str; 16] = {
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
            Which::Node(id) => {
                let node = seen.nodes.iter().find(|node| node.id == *id);
                let row = |node, endpoint: &EndpointSeen| {
                    endpoint_row(Cell::text(&endpoint.topic), node, endpoint)
                };
                let rows = node.map(|node| node.endpoints.iter().map(move |e| row(node, e)));
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
        known(&sum, sum.lost_total(), count).toned(Tone::Warn),
        fill(&sum),
        Cell::count(Some(sum.publishers as u64), count),
        Cell::count(Some(sum.subscribers as u64), count),
        known(&sum, sum.arena_bytes, bytes),
        known(&sum, sum.held, count),
        Cell::number(sum.wake_rate, rate),
    ];
    cells.extend(causes(&sum));
    Row {
        key: Key::Topic(topic.into()),
        cells,
    }
}

fn node_row(node: &NodeSeen) -> Row {
    let sum = Sum::of(&node.endpoints);
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

fn endpoint_row(name: Cell, node: &NodeSeen, endpoint: &EndpointSeen) -> Row {
    let sum = Sum::of([endpoint]);
    let role = role_label(endpoint.role);
    let mut cells = vec![
        name,
        Cell::text(&role[..3]),
        Cell::number(sum.sent_rate.or(sum.received_rate), rate),
        Cell::number(sum.sent_bytes_rate.or(sum.received_bytes_rate), bytes),
        Cell::number(sum.lost_rate, rate).toned(Tone::Bad),
        fill(&sum),
    ];
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
        key: Key::Endpoint(node.id, role, endpoint.number),
        cells,
    }
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
