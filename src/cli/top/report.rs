//! What is seen, printed once: tables for people, a document for programs.

use serde_json::{Value, json};
use shmesh_shm::{Counter, Histogram};

use super::model::{CAUSES, Calls, EndpointSeen, NodeSeen, Seen, Sum, outcomes};
use super::table::{Table, Which, is_word, placed};
use crate::metrics::Whose;
use crate::name::escaped;

/// The tables of all, as wide as they are.
pub(crate) fn text(seen: &Seen, coordinator: &str) -> String {
    let mut out = String::new();
    for which in [Which::Nodes, Which::Topics, Which::Services] {
        let mut table = Table::of(seen, &which);
        if which == Which::Services && table.rows.is_empty() {
            continue;
        }
        table.sort(0, false);
        let widths = table.widths(usize::from(u16::MAX));
        let mut put = |cells: &mut dyn Iterator<Item = &str>| {
            let columns = cells.zip(&widths).enumerate();
            let placed = columns
                .map(|(idx, (cell, width))| placed(cell, idx, is_word(table.columns[idx]), *width));
            let line = placed.collect::<Vec<_>>().join(" ");
            out.push_str(line.trim_end());
            out.push('\n');
        };
        put(&mut table.columns.iter().copied());
        for row in &table.rows {
            put(&mut row.cells.iter().map(|cell| cell.text.as_str()));
        }
        out.push('\n');
    }
    out.push_str(&format!("{coordinator}\n"));
    out
}

/// The same as a document. What is not known is null. Names are escaped as on the screen.
pub(crate) fn document(seen: &Seen, coordinator: &Value) -> Value {
    let nodes = seen.nodes.iter().map(node);
    let topics = seen.topics();
    let topics = topics.iter().map(|(topic, endpoints)| {
        let mut said = sums(&Sum::of_topic(endpoints));
        said["topic"] = escaped(topic).into();
        said
    });
    let services = seen.services();
    let services = services.iter().map(|(service, ends)| {
        let of = |whose| calls(whose, ends.iter().map(|(_, end)| *end));
        json!({
            "service": escaped(service),
            "callers": of(Whose::Caller),
            "providers": of(Whose::Provider),
        })
    });
    json!({
        "nodes": nodes.collect::<Vec<_>>(),
        "topics": topics.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "coordinator": coordinator,
    })
}

fn node(node: &NodeSeen) -> Value {
    let mut said = sums(&Sum::of_node(node));
    said["node"] = escaped(&node.name).into();
    said["id"] = format!("{:032x}", node.id).into();
    said["pid"] = node.pid.into();
    said["state"] = node.state.label().into();
    said["endpoints"] = node.endpoints.iter().map(endpoint).collect();
    said
}

fn sums(sum: &Sum) -> Value {
    let known = |value: u64| sum.is_counted.then_some(value);
    json!({
        "publisher_count": sum.publishers,
        "subscriber_count": sum.subscribers,
        "sent": known(sum.sent),
        "sent_per_s": sum.sent_rate,
        "sent_bytes": known(sum.sent_bytes),
        "sent_bytes_per_s": sum.sent_bytes_rate,
        "received": known(sum.received),
        "received_per_s": sum.received_rate,
        "received_bytes": known(sum.received_bytes),
        "received_bytes_per_s": sum.received_bytes_rate,
        "lost": lost(|idx| known(sum.lost[idx])),
        "lost_per_s": sum.lost_rate,
        "latency": latency(sum.latency.as_ref()),
        "fill": sum.fill,
        "arena_bytes": known(sum.arena_bytes),
        "held": known(sum.held),
        "wake_ups_per_s": sum.wake_rate,
        "parkings_per_s": sum.park_rate,
    })
}

/// Of the times measured between the readings; null without any.
fn latency(latency: Option<&Histogram>) -> Value {
    let Some(latency) = latency else {
        return Value::Null;
    };
    #[allow(clippy::cast_precision_loss)] // at most a minute
    let seconds = |part| latency.quantile(part).map(|ns| ns as f64 / 1e9);
    json!({
        "measured": latency.count(),
        "p50_s": seconds(0.5),
        "p99_s": seconds(0.99),
        "max_s": seconds(1.0),
    })
}

/// Of the callers or the providers among those.
fn calls<'a>(whose: Whose, ends: impl IntoIterator<Item = &'a EndpointSeen>) -> Value {
    let calls = Calls::of(whose, ends);
    let ended = outcomes(whose).map(|(name, outcome)| (name, calls.ended(outcome)));
    json!({
        "count": calls.count,
        "calls_per_s": calls.rate,
        "failed_per_s": calls.failed_rate,
        "ended": ended.collect::<std::collections::BTreeMap<_, _>>(),
        "latency": latency(calls.latency.as_ref()),
    })
}

fn lost(value: impl Fn(usize) -> Option<u64>) -> Value {
    let causes = CAUSES.iter().enumerate();
    causes
        .map(|(idx, (cause, _))| ((*cause).to_owned(), Value::from(value(idx))))
        .collect()
}

fn endpoint(endpoint: &EndpointSeen) -> Value {
    if endpoint.is_of_service() {
        let mut said = calls(endpoint.whose, [endpoint]);
        said["endpoint"] = endpoint.number.into();
        said["role"] = endpoint.whose.label().into();
        said["service"] = escaped(&endpoint.topic).into();
        return said;
    }
    let counts = endpoint.counts.as_ref();
    let value = |counter| counts.map(|counts| counts.value(counter));
    let rate = |counter| counts.and_then(|counts| counts.per_second(counter));
    let sum = Sum::of([endpoint]);
    json!({
        "endpoint": endpoint.number,
        "role": endpoint.whose.label(),
        "is_share": endpoint.whose == Whose::Share,
        "topic": escaped(&endpoint.topic),
        "messages": value(Counter::Messages),
        "messages_per_s": rate(Counter::Messages),
        "bytes": value(Counter::Bytes),
        "bytes_per_s": rate(Counter::Bytes),
        "lost": lost(|idx| value(CAUSES[idx].1)),
        "lost_per_s": sum.lost_rate,
        "latency": latency(sum.latency.as_ref()),
        "skipped": value(Counter::Skipped),
        "unread": value(Counter::Unread),
        "room": value(Counter::Room),
        "arena_bytes": value(Counter::ArenaBytes),
        "held": value(Counter::Held),
        "peers": value(Counter::Peers),
        "wake_ups_per_s": rate(Counter::WakeUps),
        "parkings_per_s": rate(Counter::Parkings),
    })
}
