//! Meshes of thousands in memory: what everybody ends with, what it costs, and what is left.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::*;
use crate::coordinator::tests::support::{endpoint, endpoint_up, info};

/// What a simulated node was offered, in order.
#[derive(Clone, Debug, Default)]
struct Inbox(Rc<RefCell<Vec<Frames>>>);

impl Sink for Inbox {
    fn offer(&mut self, frames: &Frames) -> bool {
        self.0.borrow_mut().push(Arc::clone(frames));
        true
    }
}

impl Inbox {
    fn take(&self) -> Vec<Frames> {
        self.0.take()
    }
}

fn byte_count(offers: &[Frames]) -> usize {
    let blocks = offers.iter().flat_map(|frames| frames.iter());
    blocks.map(Vec::len).sum()
}

fn words_of(frames: &Frames) -> Vec<FromCoordinator> {
    let mut words = Vec::new();
    for block in frames.iter() {
        assert!(block.len() <= FRAME_BYTES_MAX);
        let mut rest = &block[..];
        while let Some(frame) = wire::decode(rest).unwrap() {
            words.push(wire::body(&frame, Kind::FromCoordinator).unwrap());
            rest = &rest[frame.len..];
        }
        assert!(rest.is_empty(), "blocks hold whole frames");
    }
    words
}

/// What a node knows after what it was offered. Every change must be news to it.
#[derive(Clone, Debug, Default)]
struct Replica {
    topology: Topology,
    version: Option<u64>,
    snapshot_count: usize,
}

impl Replica {
    fn follow(&mut self, frames: &Frames) {
        for word in words_of(frames) {
            let changes = match word {
                FromCoordinator::Snapshot {
                    version,
                    is_first,
                    is_last,
                    changes,
                } => {
                    if is_first {
                        self.topology = Topology::default();
                        self.snapshot_count += 1;
                    }
                    self.version = is_last.then_some(version);
                    changes
                }
                FromCoordinator::Delta { version, changes } => {
                    assert_eq!(self.version.map(|old| old + 1), Some(version));
                    self.version = Some(version);
                    changes
                }
                other => panic!("neither snapshot nor delta: {other:?}"),
            };
            for change in changes {
                assert!(self.topology.apply(&change).unwrap(), "{change:?}");
            }
        }
    }
}

/// What many nodes know; who was offered the very same frames knows the same.
#[derive(Default)]
struct Replicas(HashMap<Vec<usize>, Replica>);

impl Replicas {
    fn of(&mut self, offers: &[Frames]) -> &Replica {
        let address = |frames: &Frames| frames.as_ptr().addr();
        let key = offers.iter().map(address).collect();
        self.0.entry(key).or_insert_with(|| {
            let mut replica = Replica::default();
            offers.iter().for_each(|frames| replica.follow(frames));
            replica
        })
    }
}

fn join(state: &mut State<Inbox>, id: u128) -> (u64, Inbox) {
    let inbox = Inbox::default();
    let connection = state.register(&Change::NodeUp(info(id)), inbox.clone());
    (connection.unwrap(), inbox)
}

fn announce(state: &mut State<Inbox>, id: u128, number: u32, topic: &str) {
    let change = endpoint_up(id, endpoint(number, topic));
    state.update(NodeId(id), &[change]).unwrap();
}

fn retract(state: &mut State<Inbox>, id: u128, number: u32) {
    let node = NodeId(id);
    let change = Change::EndpointDown {
        node,
        endpoint: number,
    };
    state.update(node, &[change]).unwrap();
}

#[test]
fn a_thousand_nodes_that_join_at_once_all_know_the_same_after_one_snapshot() {
    let mut state = State::default();
    let mut inboxes = vec![join(&mut state, 1).1];
    state.flush().unwrap();
    inboxes.extend((2..=1000).map(|id| join(&mut state, id).1));
    (1..=1000).for_each(|id| announce(&mut state, id, 0, "common"));
    state.flush().unwrap();
    (1..=1000).for_each(|id| announce(&mut state, id, 1, &format!("own/{id}")));
    state.flush().unwrap();

    let mut replicas = Replicas::default();
    for inbox in &inboxes {
        let replica = replicas.of(&inbox.take());
        assert_eq!(replica.topology, state.topology);
        assert_eq!(replica.version, Some(state.version));
        assert_eq!(replica.snapshot_count, 1);
    }
    assert_eq!(replicas.0.len(), 2, "the first one, and all others");
}

#[test]
fn who_joins_in_the_middle_forces_nobody_to_be_told_early() {
    let mut state = State::default();
    let (_, witness) = join(&mut state, 1);
    state.flush().unwrap();
    let mut offers = witness.take();
    let joined: Vec<Inbox> = (2..=100).map(|id| join(&mut state, id).1).collect();
    (2..=100).for_each(|id| state.catch_up(NodeId(id)).unwrap());
    assert!(witness.take().is_empty());

    state.flush().unwrap();
    let news = witness.take();
    assert_eq!(news.len(), 1, "all that joined in one block");
    offers.extend(news);
    let mut replicas = Replicas::default();
    assert_eq!(replicas.of(&offers).topology, state.topology);
    let snapshots: Vec<Frames> = joined.iter().flat_map(Inbox::take).collect();
    assert_eq!(snapshots.len(), joined.len());
    let distinct: HashSet<usize> = snapshots.iter().map(|s| s.as_ptr().addr()).collect();
    assert_eq!(distinct.len(), 1, "encoded once");
    assert_eq!(replicas.of(&snapshots[..1]).topology, state.topology);
}

/// Bytes that each node gets for each of some changes of one node, in a mesh of `count`.
fn change_bytes(count: u128) -> Vec<usize> {
    let mut state = State::default();
    let inboxes: Vec<Inbox> = (1..=count).map(|id| join(&mut state, id).1).collect();
    state.flush().unwrap();
    inboxes.iter().for_each(|inbox| drop(inbox.take()));
    let mut told = |change: &mut dyn FnMut(&mut State<Inbox>)| {
        change(&mut state);
        state.flush().unwrap();
        let bytes = inboxes.iter().map(|inbox| byte_count(&inbox.take()));
        let distinct: HashSet<usize> = bytes.collect();
        assert_eq!(distinct.len(), 1, "all get the same");
        distinct.into_iter().next().unwrap()
    };
    let mut visitor = 0;
    vec![
        told(&mut |state| announce(state, 1, 7, "camera/front/image")),
        told(&mut |state| retract(state, 1, 7)),
        told(&mut |state| visitor = join(state, 1 << 100).0),
        told(&mut |state| state.unregister(NodeId(1 << 100), visitor)),
    ]
}

#[test]
fn a_change_costs_each_node_the_same_bytes_among_ten_and_among_a_thousand() {
    let few = change_bytes(10);
    assert!(few.iter().all(|bytes| (1..200).contains(bytes)), "{few:?}");
    assert_eq!(few, change_bytes(1000));
}

#[test]
fn a_node_that_reads_slowly_waits_for_the_next_flush_if_one_is_due() {
    #[derive(Clone, Default)]
    struct Slow(Inbox, Rc<RefCell<bool>>);
    impl Sink for Slow {
        fn offer(&mut self, frames: &Frames) -> bool {
            *self.1.borrow() && self.0.offer(frames)
        }
    }
    let mut state = State::default();
    let slow = Slow::default();
    slow.1.replace(true);
    state
        .register(&Change::NodeUp(info(1)), slow.clone())
        .unwrap();
    state.flush().unwrap();
    let mut replica = Replica::default();
    slow.0.take().iter().for_each(|f| replica.follow(f));
    let up = |number| endpoint_up(1, endpoint(number, "t"));

    slow.1.replace(false);
    state.update(NodeId(1), &[up(0)]).unwrap();
    state.flush().unwrap();
    slow.1.replace(true);
    state.update(NodeId(1), &[up(1)]).unwrap();
    state.catch_up(NodeId(1)).unwrap();
    assert!(slow.0.take().is_empty(), "nothing is flushed for it");
    state.flush().unwrap();
    state.update(NodeId(1), &[up(2)]).unwrap();
    state.flush().unwrap();

    slow.0.take().iter().for_each(|f| replica.follow(f));
    assert_eq!(replica.snapshot_count, 2);
    assert_eq!(replica.topology, state.topology);
}

#[test]
fn churn_between_two_flushes_is_never_spoken_of() {
    let mut state = State::default();
    let (_, witness) = join(&mut state, 1);
    join(&mut state, 2);
    announce(&mut state, 2, 0, "stays");
    state.flush().unwrap();
    witness.take();
    for number in 0..5_000 {
        announce(&mut state, 2, number + 1, "comes/and/goes");
        retract(&mut state, 2, number + 1);
        retract(&mut state, 2, 0);
        announce(&mut state, 2, 0, "stays");
        let (visitor, _) = join(&mut state, 3);
        state.unregister(NodeId(3), visitor);
    }
    assert!(state.pending.is_empty(), "nothing is kept of it");
    state.flush().unwrap();
    assert!(witness.take().is_empty());
}

/// `count` nodes come with two endpoints each, and go again.
fn tide(state: &mut State<Inbox>, count: u128) {
    let mut joined = Vec::new();
    for id in 1..=count {
        joined.push((id, join(state, id).0));
        announce(state, id, 0, "common");
        announce(state, id, 1, &format!("own/{id}"));
        if id % 500 == 0 {
            state.flush().unwrap();
        }
    }
    for (id, connection) in joined {
        state.unregister(NodeId(id), connection);
        if id % 500 == 0 {
            state.flush().unwrap();
        }
    }
    state.flush().unwrap();
}

#[test]
fn ten_thousand_joins_and_leaves_leave_nothing_behind() {
    let mut state = State::default();
    // An empty map that was used once keeps one block.
    tide(&mut state, 1);
    let measured = allocation_counter::measure(|| tide(&mut state, 10_000));
    assert_eq!(state.topology, Topology::default());
    assert!(state.pending.is_empty() && state.watchers.is_empty());
    assert!(state.snapshot.is_none());
    assert!(
        measured.bytes_max > 1 << 20,
        "it was measured: {measured:?}"
    );
    assert_eq!(measured.bytes_current, 0, "{measured:?}");
}

#[test]
fn what_nodes_count_is_told_who_asked_and_of_others_that_they_cannot_be_asked() {
    let mut state = State::default();
    let (_, node) = join(&mut state, 1);
    let [asking, other] = [Inbox::default(), Inbox::default()];
    let visitor = state.visit(asking.clone());
    let second = state.visit(other.clone());
    assert_ne!(visitor, second);
    node.take();
    let nodes = [1, 9, 1, 9].map(NodeId);
    let unasked = state.ask_counts(visitor, &nodes).unwrap();
    let of = |node, report| FromCoordinator::Counts { node, report };
    assert_eq!(words_of(&unasked), [of(NodeId(9), None)]);
    let asked: Vec<_> = node.take().iter().flat_map(words_of).collect();
    assert_eq!(asked, [FromCoordinator::WantCounts { visitor }], "once");

    let report = || Report {
        at_ns: 5,
        part: 0,
        is_last: true,
        tallies: vec![],
    };
    let told = |inbox: &Inbox| inbox.take().iter().flat_map(words_of).collect::<Vec<_>>();
    state.tell_counts(NodeId(1), visitor, report()).unwrap();
    assert_eq!(told(&asking), [of(NodeId(1), Some(report()))]);
    assert_eq!(told(&other), []);
    state.end_visit(visitor);
    state.tell_counts(NodeId(1), visitor, report()).unwrap();
    assert_eq!((told(&asking), told(&other)), (vec![], vec![]));
    let unasked = state.ask_counts(second, &[NodeId(1)]).unwrap();
    assert!(unasked.is_empty(), "all are asked");
}
