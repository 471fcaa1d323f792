//! Tables of services.

use shmesh_shm::Counter;

use super::{Cell, Key, Row, Tone, Which, key_of, role, times, tone_of};
use crate::cli::top::format::{count, rate};
use crate::cli::top::model::{Calls, EndpointSeen, NodeSeen, Seen};
use crate::metrics::Whose;

const SERVICES: [&str; 15] = [
    "SERVICE",
    "CALL/s",
    "FAIL/s",
    "P50",
    "P99",
    "MAX",
    "FAILED",
    "SERVE/s",
    "SERVE50",
    "SERVE99",
    "SERVEMAX",
    "CALLERS",
    "PROVIDERS",
    "CALLS",
    "SERVED",
];
const OF_SERVICE: [&str; 15] = [
    "NODE", "ROLE", "CALL/s", "FAIL/s", "P50", "P99", "MAX", "OK", "FAILED", "PANICKED",
    "OVERLOAD", "TIMEOUT", "LOST", "CANCEL", "OTHER",
];
/// Those with a column of their own in [`OF_SERVICE`].
const OUTCOMES: [Counter; 7] = [
    Counter::CallsOk,
    Counter::CallsFailed,
    Counter::CallsPanicked,
    Counter::CallsOverloaded,
    Counter::CallsTimeout,
    Counter::CallsProviderLost,
    Counter::CallsCancelled,
];

/// The table of all services, or of one.
pub(super) fn rows(seen: &Seen, which: &Which) -> (&'static [&'static str], Vec<Row>) {
    let services = seen.services();
    match which {
        Which::Service(service) => {
            let all = services.get(service.as_str()).into_iter().flatten();
            let rows = all.map(|(node, end)| end_row(node, end));
            (&OF_SERVICE, rows.collect())
        }
        _ => {
            let rows = services
                .iter()
                .map(|(service, all)| service_row(service, all));
            (&SERVICES, rows.collect())
        }
    }
}

fn service_row(service: &str, ends: &[(&NodeSeen, &EndpointSeen)]) -> Row {
    let of = |whose| Calls::of(whose, ends.iter().map(|(_, end)| *end));
    let (made, served) = (of(Whose::Caller), of(Whose::Provider));
    let failed = made.ended_otherwise(&[Counter::CallsOk, Counter::CallsCancelled]);
    let mut cells = vec![
        Cell::text(service),
        Cell::number(made.rate, rate),
        Cell::number(made.failed_rate, rate).toned(Tone::Bad),
    ];
    cells.extend(times(made.latency.as_ref()));
    cells.push(Cell::count(failed, count).toned(Tone::Warn));
    cells.push(Cell::number(served.rate, rate));
    cells.extend(times(served.latency.as_ref()));
    cells.extend([
        Cell::count(Some(made.count as u64), count),
        Cell::count(Some(served.count as u64), count),
        Cell::count(made.ended_otherwise(&[]), count),
        Cell::count(served.ended_otherwise(&[]), count),
    ]);
    Row {
        key: Key::Service(service.into()),
        cells,
    }
}

fn end_row(node: &NodeSeen, end: &EndpointSeen) -> Row {
    let calls = Calls::of(end.whose, [end]);
    let mut name = Cell::text(&node.name);
    name.tone = tone_of(node.state);
    let mut cells = vec![
        name,
        role(end),
        Cell::number(calls.rate, rate),
        Cell::number(calls.failed_rate, rate).toned(Tone::Bad),
    ];
    cells.extend(times(calls.latency.as_ref()));
    cells.extend(OUTCOMES.map(|outcome| {
        let cell = Cell::count(calls.ended(outcome), count);
        match outcome {
            Counter::CallsOk | Counter::CallsCancelled => cell,
            _ => cell.toned(Tone::Warn),
        }
    }));
    let other = calls.ended_otherwise(&OUTCOMES);
    cells.push(Cell::count(other, count).toned(Tone::Warn));
    Row {
        key: key_of(node, end),
        cells,
    }
}
