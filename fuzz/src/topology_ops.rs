//! Any sequence of changes: the topology is what a plainer one would be, and so is what a
//! coordinator's watchers make of what they are told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem;
use std::rc::Rc;

use shmesh::coordinator::state::{Frames, Sink, State};
use shmesh::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_PER_NODE_MAX, CHANGES_PER_FRAME_MAX, ENDPOINTS_PER_NODE_MAX,
    FRAME_BYTES_MAX, NODE_NAME_BYTES_MAX, NODES_MAX, SOCKET_PATH_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
    TYPE_NAME_BYTES_MAX,
};
use shmesh::link::wire::{self, Kind};
use shmesh::membership::FromCoordinator;
use shmesh::name;
use shmesh::topology::{Change, Encoding, Endpoint, NodeInfo, Role, TopicType, Topology};
use shmesh::{HostId, NodeId};

const TOPICS: [&str; 8] = ["a", "b", "b/c", "/a", "", "a//b", "a\x1b", "x"];
/// The last is none.
const PATTERNS: [&str; 5] = ["b/*", "**", "*", "**/c", "a/b*"];
/// To fill a mesh takes a second, so that it must not be found by chance.
const FULL: &[u8] = b"full mesh";
/// Longer sequences take long and find little.
const OPS_MAX: usize = 256;
/// A node's endpoints all at once are a thousand changes: those come once.
const CROWD: usize = 100;

/// Four bytes say what happens: what it is, of which node, which number, and flags. Behind `FULL`
/// it happens in a mesh that has room for two more nodes.
pub fn run(input: &[u8]) {
    let mut plain = Plain::default();
    let in_full = input.strip_prefix(FULL);
    if in_full.is_some() {
        plain.fill();
    }
    let mut told = Told::default();
    let mut had_crowd = false;
    for op in in_full.unwrap_or(input).chunks_exact(4).take(OPS_MAX) {
        let changes = changes(op);
        if changes.len() > CROWD && mem::replace(&mut had_crowd, true) {
            continue;
        }
        changes.iter().for_each(|change| plain.apply(change));
        told.act(op, &changes);
        if op[0] % 16 == 15 && in_full.is_none() {
            plain.check();
        }
    }
    plain.settle();
    told.settle();
}

fn changes(op: &[u8]) -> Vec<Change> {
    let (node, number, flags) = (NodeId(u128::from(op[1] % 4)), u32::from(op[2]), op[3]);
    let up = |number| Change::EndpointUp {
        node,
        endpoint: endpoint(number, flags),
    };
    match op[0] % 16 {
        0..3 => vec![Change::NodeUp(info(node, op[2], flags))],
        3 => vec![Change::NodeDown(node)],
        4..9 => vec![up(number % 16)],
        9..12 => vec![Change::EndpointDown {
            node,
            endpoint: number % 16,
        }],
        // From nearly a node's bound to a little beyond it, or a few.
        12 if number > 128 => (0..ENDPOINTS_PER_NODE_MAX - 192 + number).map(up).collect(),
        12 => (0..number % 40).map(up).collect(),
        _ => Vec::new(),
    }
}

/// A node that is in bounds, or out of them by one byte or one address.
fn info(id: NodeId, what: u8, flags: u8) -> NodeInfo {
    let excess = |of: u8| usize::from(what == of);
    let is_large = flags & 4 != 0;
    let length = |large: usize| if is_large { large } else { 1 };
    let name = match what {
        4 => "a/b".into(),
        5 => String::new(),
        _ => "n".repeat(length(NODE_NAME_BYTES_MAX) + excess(0)),
    };
    let address = "x".repeat(length(ADDRESS_BYTES_MAX) + excess(1));
    NodeInfo {
        id,
        name,
        host: HostId(1),
        uid: 0,
        pid: u32::from(flags),
        socket: "x".repeat(length(SOCKET_PATH_BYTES_MAX) + excess(2)),
        addresses: vec![address; length(ADDRESSES_PER_NODE_MAX) + excess(3)],
    }
}

fn endpoint(id: u32, flags: u8) -> Endpoint {
    let topic = match flags >> 1 & 15 {
        short @ 0..8 => TOPICS[usize::from(short)].to_owned(),
        8 => "x".repeat(TOPIC_NAME_BYTES_MAX),
        9 => "x".repeat(TOPIC_NAME_BYTES_MAX + 1),
        pattern @ 10..15 => PATTERNS[usize::from(pattern) - 10].to_owned(),
        _ => "a".to_owned(),
    };
    let ty_bytes = [5, TYPE_NAME_BYTES_MAX, 5, TYPE_NAME_BYTES_MAX + 1][usize::from(flags >> 6)];
    Endpoint {
        id,
        role: role(flags),
        topic,
        ty: TopicType {
            encoding: Encoding::Raw,
            name: "t".repeat(ty_bytes),
            hash: 0,
        },
    }
}

fn role(flags: u8) -> Role {
    if flags % 2 == 1 {
        Role::Publisher
    } else {
        Role::Subscriber
    }
}

/// A topology beside a plainer one.
#[derive(Default)]
struct Plain {
    topology: Topology,
    nodes: BTreeMap<NodeId, (NodeInfo, BTreeMap<u32, Endpoint>)>,
}

impl Plain {
    fn fill(&mut self) {
        for id in 1000..1000 + NODES_MAX as u128 - 2 {
            self.apply(&Change::NodeUp(info(NodeId(id), 9, 0)));
        }
    }

    fn apply(&mut self, change: &Change) {
        let expected = self.expect(change);
        let found = self.topology.apply(change);
        assert_eq!(found.ok(), expected, "{change:?}");
    }

    /// What is to come of a change; none if it is refused.
    fn expect(&mut self, change: &Change) -> Option<bool> {
        match change {
            Change::NodeUp(info) => {
                is_node_in_bounds(info).then_some(())?;
                if let Some((known, _)) = self.nodes.get_mut(&info.id) {
                    return Some(mem::replace(known, info.clone()) != *info);
                }
                (self.nodes.len() < NODES_MAX).then_some(())?;
                let nothing = BTreeMap::new();
                self.nodes.insert(info.id, (info.clone(), nothing));
                Some(true)
            }
            Change::NodeDown(node) => Some(self.nodes.remove(node).is_some()),
            Change::EndpointUp { node, endpoint } => {
                is_endpoint_in_bounds(endpoint).then_some(())?;
                let (_, endpoints) = self.nodes.get_mut(node)?;
                if let Some(known) = endpoints.get(&endpoint.id) {
                    return (known == endpoint).then_some(false);
                }
                (endpoints.len() < ENDPOINTS_PER_NODE_MAX as usize).then_some(())?;
                endpoints.insert(endpoint.id, endpoint.clone());
                Some(true)
            }
            Change::EndpointDown { node, endpoint } => {
                let member = self.nodes.get_mut(node);
                Some(member.is_some_and(|(_, endpoints)| endpoints.remove(endpoint).is_some()))
            }
        }
    }

    /// All that can be asked of the topology, and that a snapshot of the whole is the whole.
    fn check(&self) {
        let infos = self.nodes.values().map(|(info, _)| info);
        assert!(self.topology.nodes().eq(infos));
        for (id, (_, endpoints)) in &self.nodes {
            assert!(self.topology.endpoints(*id).eq(endpoints.values()));
        }
        let longest = "x".repeat(TOPIC_NAME_BYTES_MAX);
        let all_of = |id| self.nodes[id].1.values().map(move |end| (*id, end));
        let all = || self.nodes.keys().flat_map(all_of);
        let names = TOPICS.into_iter().chain([longest.as_str()]);
        for topic in names.chain(PATTERNS) {
            for role in [Role::Publisher, Role::Subscriber] {
                let matching = all().filter(|(_, end)| end.role == role && fits(topic, end));
                let found = self.topology.matching(topic, role);
                let mut found: Vec<_> = found.map(|(node, end)| (node.id, end)).collect();
                found.sort_by_key(|(node, end)| (*node, end.id));
                assert!(matching.eq(found), "{topic} {role:?}");
            }
        }
        let mut late = Topology::default();
        let mut changes = self.topology.changes().peekable();
        while changes.peek().is_some() {
            let changes: Vec<Change> = changes.by_ref().take(CHANGES_PER_FRAME_MAX).collect();
            for change in &changes {
                assert!(late.apply(change).expect("a snapshot is in bounds"));
            }
            let delta = FromCoordinator::Delta {
                version: u64::MAX,
                changes,
            };
            let frame = wire::encode(Kind::FromCoordinator, &delta).expect("it fits");
            assert!(frame.len() <= FRAME_BYTES_MAX);
        }
        assert_eq!(late, self.topology);
    }

    fn settle(mut self) {
        self.check();
        for id in mem::take(&mut self.nodes).into_keys() {
            assert!(self.topology.apply(&Change::NodeDown(id)).expect("it goes"));
        }
        assert_eq!(self.topology, Topology::default());
    }
}

fn is_node_in_bounds(info: &NodeInfo) -> bool {
    let is_address_in_bounds = |address: &String| address.len() <= ADDRESS_BYTES_MAX;
    let is_named = info.name.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_named
        && (1..=NODE_NAME_BYTES_MAX).contains(&info.name.len())
        && info.socket.len() <= SOCKET_PATH_BYTES_MAX
        && info.addresses.len() <= ADDRESSES_PER_NODE_MAX
        && info.addresses.iter().all(is_address_in_bounds)
}

/// Whether a name or pattern that is looked for finds an endpoint.
fn fits(topic: &str, end: &Endpoint) -> bool {
    let is_pattern = topic.contains('*');
    topic == end.topic
        || (is_pattern && end.role == Role::Publisher && name::matches(topic, &end.topic))
        || (!is_pattern && end.role == Role::Subscriber && name::matches(&end.topic, topic))
}

fn is_endpoint_in_bounds(endpoint: &Endpoint) -> bool {
    let topic = endpoint.topic.as_str();
    let is_pattern = endpoint.role == Role::Subscriber && PATTERNS[..4].contains(&topic);
    let is_long = topic.len() > 3 && topic.bytes().all(|byte| byte == b'x');
    let is_topic = ["a", "b", "b/c", "x"].contains(&topic) || is_long;
    (is_topic || is_pattern)
        && topic.len() <= TOPIC_NAME_BYTES_MAX
        && endpoint.ty.name.len() <= TYPE_NAME_BYTES_MAX
}

/// A coordinator's state, what it is to be, and its nodes.
#[derive(Default)]
struct Told {
    state: State<Inbox>,
    whole: Topology,
    watchers: BTreeMap<NodeId, Watcher>,
}

/// Where frames for a node wait: room for so many.
#[derive(Clone)]
struct Inbox {
    waiting: Rc<RefCell<Vec<Frames>>>,
    room: usize,
}

impl Sink for Inbox {
    fn offer(&mut self, frames: &Frames) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let has_room = waiting.len() < self.room;
        if has_room {
            waiting.push(frames.clone());
        }
        has_room
    }
}

struct Watcher {
    connection: u64,
    inbox: Inbox,
    known: Topology,
    version: Option<u64>,
}

impl Told {
    fn act(&mut self, op: &[u8], changes: &[Change]) {
        let node = NodeId(u128::from(op[1] % 4));
        match changes {
            [] => match op[0] % 16 {
                13 => self.read(node),
                _ => self.state.flush().expect("it can be encoded"),
            },
            [up @ Change::NodeUp(_)] => self.register(up, usize::from(op[3] % 3) + 1),
            [Change::NodeDown(_)] => self.unregister(node, u64::from(op[2] % 2)),
            _ => self.update(node, changes),
        }
    }

    /// Who comes back starts over; who is refused is left as it was.
    fn register(&mut self, up: &Change, room: usize) {
        let inbox = Inbox {
            waiting: Rc::default(),
            room,
        };
        let registered = self.state.register(up, inbox.clone());
        assert_eq!(registered.is_ok(), Topology::default().apply(up).is_ok());
        let Ok(connection) = registered else { return };
        let node = up.node();
        self.apply_whole(&Change::NodeDown(node)).expect("it goes");
        self.apply_whole(up).expect("it was registered");
        let watcher = Watcher {
            connection,
            inbox,
            known: Topology::default(),
            version: None,
        };
        self.watchers.insert(node, watcher);
    }

    /// A connection that was replaced does not take its successor with it.
    fn unregister(&mut self, node: NodeId, age: u64) {
        let Some(watcher) = self.watchers.get(&node) else {
            return self.state.unregister(node, age);
        };
        self.state.unregister(node, watcher.connection - age);
        if age == 0 {
            self.watchers.remove(&node);
            self.apply_whole(&Change::NodeDown(node)).expect("it goes");
        }
    }

    fn update(&mut self, node: NodeId, changes: &[Change]) {
        let mut applied = changes.iter().map(|change| self.whole.apply(change));
        let expected = applied.all(|applied| applied.is_ok());
        let updated = self.state.update(node, changes);
        assert_eq!(updated.is_ok(), expected);
        let foreign = NodeId(node.0 + 100);
        assert!(self.state.update(foreign, changes).is_err());
    }

    fn apply_whole(&mut self, change: &Change) -> Option<bool> {
        self.whole.apply(change).ok()
    }

    /// A node reads what waits for it, and is told the rest.
    fn read(&mut self, node: NodeId) {
        if let Some(watcher) = self.watchers.get_mut(&node) {
            watcher.read();
            self.state.catch_up(node).expect("it can be encoded");
        }
    }

    fn settle(mut self) {
        self.state.flush().expect("it can be encoded");
        let mut versions = Vec::new();
        for node in self.watchers.keys().copied().collect::<Vec<_>>() {
            self.read(node);
            self.read(node);
            let watcher = &self.watchers[&node];
            assert_eq!(watcher.known, self.whole, "{node}");
            versions.push(watcher.version);
        }
        assert!(versions.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

impl Watcher {
    fn read(&mut self) {
        let waiting = mem::take(&mut *self.inbox.waiting.borrow_mut());
        for block in waiting.iter().flat_map(|frames| frames.iter()) {
            assert!(block.len() <= FRAME_BYTES_MAX);
            let mut rest = block.as_slice();
            while !rest.is_empty() {
                let frame = wire::decode(rest).expect("a frame").expect("whole");
                rest = &rest[frame.len..];
                self.take(wire::body(&frame, Kind::FromCoordinator).expect("a word"));
            }
        }
    }

    fn take(&mut self, word: FromCoordinator) {
        let changes = match word {
            FromCoordinator::Snapshot {
                version,
                is_first,
                is_last,
                changes,
            } => {
                if is_first {
                    (self.known, self.version) = (Topology::default(), None);
                }
                if is_last {
                    self.version = Some(version);
                }
                changes
            }
            FromCoordinator::Delta { version, changes } => {
                let before = self.version.expect("deltas come behind a snapshot");
                assert_eq!(version, before + 1);
                self.version = Some(version);
                changes
            }
            other => panic!("{other:?}"),
        };
        for change in changes {
            let applied = self.known.apply(&change);
            assert!(applied.expect("what is told is in bounds"), "{change:?}");
        }
    }
}
