//! What is seen, printed once: tables for people, a document for programs.

use serde_json::{Value, json};
use shmesh_shm::Counter;

use super::model::{CAUSES, EndpointSeen, NodeSeen, Seen, Sum};
use super::table::{Table, Which, is_word, placed};
use crate::metrics::role_label;
use crate::name::escaped;

/// Both tables of all, as wide as they are.
pub(crate) fn text(seen: &Seen, coordinator: &str) -> String {
    let mut out = String::new();
    for which in [Which::Nodes, Which::Topics] {
        let mut table = Table::of(seen, &which);
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
        if which == Which::Nodes {
            out.push('\n');
        }
    }
    out.push_str(&format!("\n{coordinator}\n"));
    out
}

/// The same as a document. What is not known is null. Names are escaped as on the screen.
pub(crate) fn document(seen: &Seen, coordinator: &str) -> Value {
    let nodes = seen.nodes.iter().map(node);
    let topics = seen.topics();
    let topics = topics.iter().map(|(topic, endpoints)| {
        let mut said = sums(&Sum::of_topic(endpoints));
        said["topic"] = escaped(topic).into();
        said
    });
    json!({
        "nodes": nodes.collect::<Vec<_>>(),
        "topics": topics.collect::<Vec<_>>(),
        "coordinator": coordinator,
    })
}

fn node(node: &NodeSeen) -> Value {
    let mut said = sums(&Sum::of(&node.endpoints));
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
        "publishers": sum.publishers,
        "subscribers": sum.subscribers,
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
        "fill": sum.fill,
        "arena_bytes": known(sum.arena_bytes),
        "held": known(sum.held),
        "wake_ups_per_s": sum.wake_rate,
        "parkings_per_s": sum.park_rate,
    })
}

fn lost(value: impl Fn(usize) -> Option<u64>) -> Value {
    let causes = CAUSES.iter().enumerate();
    causes
        .map(|(idx, (cause, _))| ((*cause).to_owned(), Value::from(value(idx))))
        .collect()
}

fn endpoint(endpoint: &EndpointSeen) -> Value {
    let value = |counter| endpoint.counts.map(|counts| counts.value(counter));
    let rate = |counter| {
        endpoint
            .counts
            .and_then(|counts| counts.per_second(counter))
    };
    let sum = Sum::of([endpoint]);
    json!({
        "endpoint": endpoint.number,
        "role": role_label(endpoint.role),
        "topic": escaped(&endpoint.topic),
        "messages": value(Counter::Messages),
        "messages_per_s": rate(Counter::Messages),
        "bytes": value(Counter::Bytes),
        "bytes_per_s": rate(Counter::Bytes),
        "lost": lost(|idx| value(CAUSES[idx].1)),
        "lost_per_s": sum.lost_rate,
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
