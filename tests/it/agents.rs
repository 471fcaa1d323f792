//! Many nodes in one process.

use rustix::process::{Resource, getrlimit, setrlimit};
use shmesh::{Publisher, Raw, Subscriber};

use crate::support::{Mesh, PATIENCE, eventually};

/// Descriptors that a node with a publisher and a subscriber needs here, that of the coordinator's
/// connection among them.
const DESCRIPTORS: u64 = 14;

/// As many nodes as the system's limits let us have, and 300 are enough.
fn count() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let most = limit.current.unwrap_or(u64::MAX) / 2 / DESCRIPTORS;
    let count = most.min(300) as usize;
    if count < 300 {
        eprintln!(
            "{count} nodes only: the limit of descriptors is {:?}",
            limit.current
        );
    }
    count
}

fn engine_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("comm")));
    names
        .flatten()
        .filter(|name| name.trim() == "shmesh")
        .count()
}

#[test]
fn hundreds_of_nodes_share_a_thread_and_what_they_know_of_the_mesh() {
    let mesh = Mesh::start();
    let count = count();
    let nodes: Vec<_> = (0..count)
        .map(|idx| mesh.node(&format!("n{idx}")))
        .collect();
    // Those that leave do not take the others along.
    let (mut ends, gone): (Vec<_>, Vec<_>) = nodes
        .into_iter()
        .enumerate()
        .partition(|(idx, _)| idx % 3 < 2);
    assert_eq!(engine_threads(), 1, "of all tests in this process");
    drop(gone);
    let left = ends.len();
    let knows_all = |node: &shmesh::Node| node.peers().len() == left - 1;
    eventually("all know all", || {
        ends.iter().all(|(_, node)| knows_all(node))
    });
    let mut ring: Vec<(Subscriber<Raw>, Publisher<Raw>)> = Vec::new();
    for (place, (_, node)) in ends.iter().enumerate() {
        let inbox = node.subscriber(&format!("inbox/{place}"));
        let next = node.publisher(&format!("inbox/{}", (place + 1) % left));
        ring.push((inbox.build().unwrap(), next.build().unwrap()));
    }
    for (_, next) in &mut ring {
        next.wait_for_listener_blocking(PATIENCE).unwrap();
    }
    for lap in 0..3_u8 {
        ring[left - 1].1.publish_bytes(&[lap]).unwrap();
        for (inbox, next) in &mut ring[..left - 1] {
            let token = inbox.recv_blocking(PATIENCE).unwrap();
            next.publish_bytes(&token).unwrap();
        }
        assert_eq!(&*ring[left - 1].0.recv_blocking(PATIENCE).unwrap(), [lap]);
    }
    // One in the middle goes: its neighbours see it, and a new one takes its place.
    let middle = left / 2;
    ends.remove(middle);
    drop(ring.remove(middle));
    let (before, after) = (middle - 1, middle);
    eventually("it is gone", || ring[before].1.listener_count() == 0);
    let new = mesh.node("new");
    let mut inbox = new
        .subscriber::<Raw>(&format!("inbox/{middle}"))
        .build()
        .unwrap();
    let mut next = new
        .publisher::<Raw>(&format!("inbox/{}", middle + 1))
        .build()
        .unwrap();
    ring[before].1.wait_for_listener_blocking(PATIENCE).unwrap();
    next.wait_for_listener_blocking(PATIENCE).unwrap();
    ring[before].1.publish_bytes(b"on").unwrap();
    next.publish_bytes(&inbox.recv_blocking(PATIENCE).unwrap())
        .unwrap();
    assert_eq!(&*ring[after].0.recv_blocking(PATIENCE).unwrap(), b"on");
}
