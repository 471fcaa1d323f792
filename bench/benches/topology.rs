//! What it costs a coordinator to keep n nodes told of each other, without sockets: each node is a
//! counter of what it is offered.
//!
//! `cargo bench -p shmesh-bench --bench topology`. The columns of bytes are the same on every
//! machine. Bytes per node and change must not grow with n, except that a delta carries a version,
//! whose number takes one byte more beyond 127, and again beyond 255.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use shmesh::coordinator::state::{Frames, Sink, State};
use shmesh::topology::{Change, Encoding, Endpoint, NodeInfo, Role, TopicType};
use shmesh::{HostId, NodeId};

/// What all nodes together were offered.
#[derive(Clone, Copy, Default)]
struct Told {
    snapshot_bytes: u64,
    delta_bytes: u64,
}

/// One node. The first that it is offered is its snapshot; none of these falls behind.
struct Counter {
    told: Rc<Cell<Told>>,
    is_in: bool,
}

impl Sink for Counter {
    fn offer(&mut self, frames: &Frames) -> bool {
        let bytes: usize = frames.iter().map(Vec::len).sum();
        let mut told = self.told.get();
        if self.is_in {
            told.delta_bytes += bytes as u64;
        } else {
            told.snapshot_bytes += bytes as u64;
        }
        self.told.set(told);
        self.is_in = true;
        true
    }
}

#[derive(Default)]
struct Mesh {
    state: State<Counter>,
    told: Rc<Cell<Told>>,
}

impl Mesh {
    fn join(&mut self, number: u32) {
        let told = Rc::clone(&self.told);
        let counter = Counter { told, is_in: false };
        self.state.register(&node_up(number), counter).unwrap();
    }

    fn flush(&mut self) {
        self.state.flush().unwrap();
    }
}

fn id(number: u32) -> NodeId {
    // Spread as random ids are.
    NodeId(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// As a node of a robot says it; of the same length for all.
fn node_up(number: u32) -> Change {
    let id = id(number);
    Change::NodeUp(NodeInfo {
        id,
        name: format!("node-{number:05}"),
        host: HostId(1),
        uid: 1000,
        pid: 100_000 + number,
        socket: format!("/run/user/1000/shmesh/{id}.sock"),
        addresses: Vec::new(),
    })
}

fn endpoint_up(number: u32, endpoint: u32) -> Change {
    let ty = TopicType {
        encoding: Encoding::Rkyv,
        name: "sensor::Image".into(),
        hash: u64::MAX,
    };
    let endpoint = Endpoint {
        id: endpoint,
        role: Role::Publisher,
        topic: "camera/front/image".into(),
        ty,
    };
    Change::EndpointUp {
        node: id(number),
        endpoint,
    }
}

struct Joins {
    took: Duration,
    told: Told,
}

/// Each join is flushed by itself, as with nodes that come seldom.
fn one_by_one(count: u32) -> (Joins, Mesh) {
    let mut mesh = Mesh::default();
    let began = Instant::now();
    for number in 1..=count {
        mesh.join(number);
        mesh.flush();
    }
    let took = began.elapsed();
    let told = mesh.told.get();
    (Joins { took, told }, mesh)
}

/// The first join is flushed at once, as after quiet, and the others together.
fn storm(count: u32) -> Joins {
    let mut mesh = Mesh::default();
    let began = Instant::now();
    mesh.join(1);
    mesh.flush();
    (2..=count).for_each(|number| mesh.join(number));
    mesh.flush();
    let took = began.elapsed();
    let told = mesh.told.get();
    Joins { took, told }
}

/// What a publisher that comes costs: all together, and bytes for each node.
fn change(mesh: &mut Mesh, count: u32) -> (Duration, f64) {
    let before = mesh.told.get().delta_bytes;
    let began = Instant::now();
    for endpoint in 0..CHANGE_COUNT {
        mesh.state
            .update(id(1), &[endpoint_up(1, endpoint)])
            .unwrap();
        mesh.flush();
    }
    let took = began.elapsed() / CHANGE_COUNT;
    let bytes = mesh.told.get().delta_bytes - before;
    (
        took,
        bytes as f64 / f64::from(CHANGE_COUNT) / f64::from(count),
    )
}

fn main() {
    println!(
        "{:>6} | {:^38} | {:^25} | {:^23}",
        "", "joins one by one", "all at once", "change"
    );
    println!(
        "{:>6} | {:>10} {:>12} {:>14} | {:>10} {:>14} | {:>10} {:>12}",
        "n",
        "ns/join",
        "B/node/join",
        "B/snapshot/n",
        "ns/join",
        "B/node/join",
        "ns/node",
        "B/node"
    );
    for count in [10, 100, 1_000, 10_000] {
        let n = f64::from(count);
        let (joins, mut mesh) = one_by_one(count);
        let pairs = n * (n - 1.0) / 2.0;
        let (change_took, change_bytes) = change(&mut mesh, count);
        let at_once = storm(count);
        let all = at_once.told.snapshot_bytes + at_once.told.delta_bytes;
        println!(
            "{count:>6} | {:>10.0} {:>12.1} {:>14.1} | {:>10.0} {:>14.1} | {:>10.1} {:>12.1}",
            joins.took.as_secs_f64() * 1e9 / n,
            joins.told.delta_bytes as f64 / pairs,
            joins.told.snapshot_bytes as f64 / (pairs + n),
            at_once.took.as_secs_f64() * 1e9 / n,
            all as f64 / n / n,
            change_took.as_secs_f64() * 1e9 / n,
            change_bytes,
        );
    }
}

/// Changes to take the mean of.
const CHANGE_COUNT: u32 = 100;
