//! Nodes that wait for each other would wait for ever.

use std::collections::BTreeMap;

use super::{Dependency, NodeEntry};
use crate::launch::marked::Wrong;

/// # Errors
/// Names a cycle, if there is one.
pub(super) fn check(nodes: &[NodeEntry]) -> Result<(), Wrong> {
    let by_name = nodes.iter().map(|node| (node.name.as_str(), node));
    let by_name: BTreeMap<&str, &NodeEntry> = by_name.collect();
    let mut is_free = BTreeMap::new();
    for node in nodes {
        if let Some(path) = cycle(node, &by_name, &mut is_free) {
            let text = format!("depends_on goes round in a circle: {}", path.join(" -> "));
            return Err(Wrong::at(node.line, text));
        }
    }
    Ok(())
}

/// The names of a cycle that is reached from `start`. Walks without recursion: a file may have a
/// thousand nodes in a row.
fn cycle<'a>(
    start: &'a NodeEntry,
    by_name: &BTreeMap<&str, &'a NodeEntry>,
    is_free: &mut BTreeMap<&'a str, ()>,
) -> Option<Vec<String>> {
    let mut path: Vec<(&NodeEntry, usize)> = vec![(start, 0)];
    while let Some((node, at)) = path.last_mut() {
        let next = node.depends_on.get(*at);
        *at += 1;
        let Some(next) = next else {
            is_free.insert(&node.name, ());
            path.pop();
            continue;
        };
        let Dependency::Node(name) = next else {
            continue;
        };
        let begin = path.iter().position(|(node, _)| node.name == *name);
        if let Some(begin) = begin {
            let round = path[begin..].iter().map(|(node, _)| node.name.clone());
            return Some(round.chain([name.clone()]).collect());
        }
        if let Some(node) = by_name.get(name.as_str())
            && !is_free.contains_key(name.as_str())
        {
            path.push((node, 0));
        }
    }
    None
}
