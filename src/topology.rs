//! Who is in the mesh, as data: nodes, their publishers and subscribers, and the changes of these.
//!
//! A topology is what its changes say, in order; applying them is all a node does to follow the
//! coordinator. No I/O and no clock here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::{HostId, NodeId};
use crate::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_PER_NODE_MAX, ENDPOINTS_PER_NODE_MAX, NODES_MAX,
    SOCKET_PATH_BYTES_MAX, TYPE_NAME_BYTES_MAX,
};
use crate::name;

/// How messages of a topic are encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Encoding {
    /// Bytes without meaning to us.
    Raw,
    /// An rkyv archive.
    Rkyv,
    /// A JSON text.
    Json,
    /// A MessagePack value; structures are maps with the names of their fields.
    MsgPack,
    /// What the users of this name agree on: see [`name::check_encoding`].
    Custom(String),
    /// Whatever comes: only subscribers say so, see [`Untyped`](crate::Untyped).
    Any,
}

/// What a topic carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicType {
    /// The encoding.
    pub encoding: Encoding,
    /// The type's name.
    pub name: String,
    /// Differs where the layouts differ; 0 for encodings that any program can read and write
    /// without knowing the type.
    pub hash: u64,
}

impl TopicType {
    /// Checks that it may be announced.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] or [`Error::InvalidName`] for names that may not.
    pub fn check(&self) -> Result<(), Error> {
        if let Encoding::Custom(encoding) = &self.encoding {
            name::check_encoding(encoding)?;
        }
        let what = "bytes of a type name";
        within(what, self.name.len(), TYPE_NAME_BYTES_MAX)
    }

    /// True if a subscriber that announces this takes what a publisher announces as `sent`.
    #[must_use]
    pub fn takes(&self, sent: &Self) -> bool {
        self.encoding == Encoding::Any || self == sent
    }
}

impl std::fmt::Display for TopicType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = name::escaped(&self.name);
        match self.hash {
            0 => write!(f, "{name} ({:?})", self.encoding),
            hash => write!(f, "{name} ({:?}, {hash:016x})", self.encoding),
        }
    }
}

/// Which end of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// It sends.
    Publisher,
    /// It receives.
    Subscriber,
}

/// A publisher or subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its number, unique inside its node.
    pub id: u32,
    /// Which end.
    pub role: Role,
    /// The topic's name. A subscriber's may be a pattern of names; a subscription to several names
    /// is as many endpoints.
    pub topic: String,
    /// What it carries.
    pub ty: TopicType,
}

impl Endpoint {
    /// True if one of the two, which share a topic and have not the same role, takes what the other
    /// one sends.
    #[must_use]
    pub fn suits(&self, other: &Self) -> bool {
        match self.role {
            Role::Publisher => other.ty.takes(&self.ty),
            Role::Subscriber => self.ty.takes(&other.ty),
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Its name; several nodes may have the same.
    pub name: String,
    /// Its host.
    pub host: HostId,
    /// Its user.
    pub uid: u32,
    /// Its process, for people; never used for liveness.
    pub pid: u32,
    /// Path of the socket for host links.
    pub socket: String,
    /// Addresses for network links.
    pub addresses: Vec<String>,
}

/// One change of a topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node came.
    NodeUp(NodeInfo),
    /// A node went, with all it had.
    NodeDown(NodeId),
    /// A node's publisher or subscriber came.
    EndpointUp {
        /// The node.
        node: NodeId,
        /// What came.
        endpoint: Endpoint,
    },
    /// A node's publisher or subscriber went.
    EndpointDown {
        /// The node.
        node: NodeId,
        /// What went.
        endpoint: u32,
    },
}

impl Change {
    /// The node it is about.
    #[must_use]
    pub fn node(&self) -> NodeId {
        match self {
            Self::NodeUp(info) => info.id,
            Self::NodeDown(node)
            | Self::EndpointUp { node, .. }
            | Self::EndpointDown { node, .. } => *node,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    info: NodeInfo,
    endpoints: BTreeMap<u32, Endpoint>,
}

/// Who is in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    members: BTreeMap<NodeId, Member>,
    /// Which endpoints a topic has, so that matching costs what it finds. Sorted: the same mesh is
    /// the same value, in whatever order it came, and to leave a topic of many costs little.
    topics: BTreeMap<String, BTreeSet<(NodeId, u32)>>,
    /// The same for patterns, which are looked through one by one.
    patterns: BTreeMap<String, BTreeSet<(NodeId, u32)>>,
}

impl Topology {
    /// Applies a change; false if it changes nothing (a repetition).
    ///
    /// # Errors
    /// A name or number out of bounds, or a change of a node that is not there; nothing is
    /// changed then.
    pub fn apply(&mut self, change: &Change) -> Result<bool, Error> {
        match change {
            Change::NodeUp(info) => self.add_node(info),
            Change::NodeDown(node) => Ok(self.remove_node(*node)),
            Change::EndpointUp { node, endpoint } => self.add_endpoint(*node, endpoint),
            Change::EndpointDown { node, endpoint } => Ok(self.remove_endpoint(*node, *endpoint)),
        }
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.members.values().map(|member| &member.info)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.members.get(&id).map(|member| &member.info)
    }

    /// A node's endpoints, by number.
    pub fn endpoints(&self, id: NodeId) -> impl Iterator<Item = &Endpoint> {
        self.members
            .get(&id)
            .into_iter()
            .flat_map(|member| member.endpoints.values())
    }

    /// One endpoint of a node.
    #[must_use]
    pub fn endpoint(&self, node: NodeId, id: u32) -> Option<&Endpoint> {
        self.members.get(&node)?.endpoints.get(&id)
    }

    /// All publishers that a topic, or pattern of topics, matches, or all subscribers that want
    /// that topic, with their nodes. Costs what it finds; and a look at each pattern there is,
    /// where subscribers are looked for, or, with a pattern, at each topic that begins as it does.
    pub fn matching<'a>(
        &'a self,
        topic: &'a str,
        role: Role,
    ) -> impl Iterator<Item = (&'a NodeInfo, &'a Endpoint)> {
        let is_pattern = name::is_pattern(topic);
        let alike = if is_pattern {
            &self.patterns
        } else {
            &self.topics
        };
        let exact = alike.get(topic).into_iter();
        let patterns = (!is_pattern && role == Role::Subscriber).then_some(&self.patterns);
        let patterns = patterns.into_iter().flatten();
        let by_pattern = patterns.filter(move |(pattern, _)| name::matches(pattern, topic));
        let fixed = name::fixed_part(topic);
        let under = (is_pattern && role == Role::Publisher).then(|| {
            let bounds = (Bound::Included(fixed), Bound::Unbounded);
            self.topics.range::<str, _>(bounds)
        });
        let under = under.into_iter().flatten();
        let under = under
            .take_while(move |(name, _)| name.starts_with(fixed))
            .filter(move |(name, _)| name::matches(topic, name));
        let found = by_pattern.chain(under).map(|(_, ends)| ends);
        exact
            .chain(found)
            .flatten()
            .filter_map(move |(node, endpoint)| {
                let member = self.members.get(node)?;
                let endpoint = member.endpoints.get(endpoint)?;
                (endpoint.role == role).then_some((&member.info, endpoint))
            })
    }

    /// The changes that make an empty topology this one.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Change> {
        self.changes().collect()
    }

    /// As [`snapshot`](Self::snapshot), one by one.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.members.keys().flat_map(|id| self.snapshot_of(*id))
    }

    /// The changes that add one node with all it has.
    #[must_use]
    pub fn snapshot_of(&self, id: NodeId) -> Vec<Change> {
        let node = self.node(id).map(|info| Change::NodeUp(info.clone()));
        let endpoints = self.endpoints(id).map(|endpoint| Change::EndpointUp {
            node: id,
            endpoint: endpoint.clone(),
        });
        node.into_iter().chain(endpoints).collect()
    }

    fn add_node(&mut self, info: &NodeInfo) -> Result<bool, Error> {
        name::check_node(&info.name)?;
        within(
            "bytes of a socket path",
            info.socket.len(),
            SOCKET_PATH_BYTES_MAX,
        )?;
        within(
            "addresses of a node",
            info.addresses.len(),
            ADDRESSES_PER_NODE_MAX,
        )?;
        for address in &info.addresses {
            within("bytes of an address", address.len(), ADDRESS_BYTES_MAX)?;
        }
        if let Some(member) = self.members.get_mut(&info.id) {
            let is_new = member.info != *info;
            member.info.clone_from(info);
            return Ok(is_new);
        }
        within("nodes of the mesh", self.members.len() + 1, NODES_MAX)?;
        let member = Member {
            info: info.clone(),
            endpoints: BTreeMap::new(),
        };
        self.members.insert(info.id, member);
        Ok(true)
    }

    fn remove_node(&mut self, id: NodeId) -> bool {
        let Some(member) = self.members.remove(&id) else {
            return false;
        };
        for endpoint in member.endpoints.values() {
            self.forget_topic(&endpoint.topic, id, endpoint.id);
        }
        true
    }

    fn add_endpoint(&mut self, id: NodeId, endpoint: &Endpoint) -> Result<bool, Error> {
        let topic = match endpoint.role {
            Role::Publisher => name::check_topic(&endpoint.topic)?,
            Role::Subscriber => name::check_pattern(&endpoint.topic)?,
        };
        if topic != endpoint.topic {
            // Two spellings of a topic would be two topics here, and one of them for ever.
            return Err(Error::Protocol("topic with a leading slash"));
        }
        endpoint.ty.check()?;
        if endpoint.role == Role::Publisher && endpoint.ty.encoding == Encoding::Any {
            return Err(Error::Protocol("publisher of any type"));
        }
        let member = self
            .members
            .get_mut(&id)
            .ok_or(Error::Protocol("endpoint of an unknown node"))?;
        if let Some(known) = member.endpoints.get(&endpoint.id) {
            if known == endpoint {
                return Ok(false);
            }
            return Err(Error::Protocol("endpoint number used twice"));
        }
        let count = member.endpoints.len() + 1;
        within(
            "endpoints of a node",
            count,
            ENDPOINTS_PER_NODE_MAX as usize,
        )?;
        member.endpoints.insert(endpoint.id, endpoint.clone());
        self.topics_like(topic)
            .entry(topic.to_owned())
            .or_default()
            .insert((id, endpoint.id));
        Ok(true)
    }

    fn remove_endpoint(&mut self, id: NodeId, endpoint: u32) -> bool {
        let removed = self
            .members
            .get_mut(&id)
            .and_then(|m| m.endpoints.remove(&endpoint));
        let Some(removed) = removed else { return false };
        self.forget_topic(&removed.topic, id, endpoint);
        true
    }

    fn forget_topic(&mut self, topic: &str, node: NodeId, endpoint: u32) {
        let topics = self.topics_like(topic);
        if let Some(ends) = topics.get_mut(topic) {
            ends.remove(&(node, endpoint));
            if ends.is_empty() {
                topics.remove(topic);
            }
        }
    }

    /// Where a topic's name, or a pattern, is kept.
    fn topics_like(&mut self, topic: &str) -> &mut BTreeMap<String, BTreeSet<(NodeId, u32)>> {
        if name::is_pattern(topic) {
            &mut self.patterns
        } else {
            &mut self.topics
        }
    }
}

fn within(what: &'static str, found: usize, max: usize) -> Result<(), Error> {
    if found <= max {
        return Ok(());
    }
    Err(Error::OutOfBounds {
        what,
        found: found as u64,
        min: 0,
        max: max as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{
        CHANGES_PER_FRAME_MAX, ENCODING_NAME_BYTES_MAX, NODE_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
    };
    use crate::link::wire::{Kind, encode};
    use crate::membership::FromCoordinator;
    use proptest::prelude::*;

    fn node(id: u128) -> NodeInfo {
        NodeInfo {
            id: NodeId(id),
            name: format!("n{id}"),
            host: HostId(1),
            uid: 0,
            pid: 1,
            socket: "/run/x".into(),
            addresses: vec![],
        }
    }

    fn endpoint(id: u32, role: Role, topic: &str) -> Endpoint {
        let ty = TopicType {
            encoding: Encoding::Raw,
            name: "bytes".into(),
            hash: 0,
        };
        Endpoint {
            id,
            role,
            topic: topic.into(),
            ty,
        }
    }

    fn up(id: u128, number: u32, role: Role, topic: &str) -> Change {
        Change::EndpointUp {
            node: NodeId(id),
            endpoint: endpoint(number, role, topic),
        }
    }

    #[test]
    fn a_node_takes_its_endpoints_with_it() {
        let mut topology = Topology::default();
        assert!(
            topology.apply(&up(1, 0, Role::Publisher, "a")).is_err(),
            "node unknown"
        );
        assert!(topology.apply(&Change::NodeUp(node(1))).unwrap());
        assert!(
            !topology.apply(&Change::NodeUp(node(1))).unwrap(),
            "a repetition"
        );
        assert!(topology.apply(&up(1, 0, Role::Publisher, "a")).unwrap());
        assert!(
            topology.apply(&up(1, 0, Role::Publisher, "b")).is_err(),
            "number used twice"
        );
        assert!(topology.apply(&up(1, 1, Role::Subscriber, "a")).unwrap());
        assert_eq!(topology.matching("a", Role::Publisher).count(), 1);
        assert!(topology.apply(&Change::NodeDown(NodeId(1))).unwrap());
        assert_eq!(topology, Topology::default());
    }

    #[test]
    fn what_is_out_of_bounds_changes_nothing() {
        let mut topology = Topology::default();
        let bad = NodeInfo {
            name: "a\x1bb".into(),
            ..node(1)
        };
        assert!(topology.apply(&Change::NodeUp(bad)).is_err());
        topology.apply(&Change::NodeUp(node(1))).unwrap();
        for id in 0..ENDPOINTS_PER_NODE_MAX {
            topology.apply(&up(1, id, Role::Subscriber, "t")).unwrap();
        }
        let more = up(1, ENDPOINTS_PER_NODE_MAX, Role::Subscriber, "t");
        assert!(matches!(
            topology.apply(&more),
            Err(Error::OutOfBounds { .. })
        ));
    }

    #[test]
    fn a_topic_of_another_spelling_leaves_nothing_behind() {
        let mut topology = Topology::default();
        topology.apply(&Change::NodeUp(node(1))).unwrap();
        let slashed = topology.apply(&up(1, 0, Role::Publisher, "/a"));
        assert!(matches!(slashed, Err(Error::Protocol(_))), "{slashed:?}");
        topology.apply(&up(1, 0, Role::Publisher, "b")).unwrap();
        assert_eq!(topology.matching("a", Role::Publisher).count(), 0);
        topology.apply(&Change::NodeDown(NodeId(1))).unwrap();
        assert_eq!(topology, Topology::default());
    }

    #[test]
    fn patterns_are_for_subscribers_and_leave_nothing_behind() {
        let mut topology = Topology::default();
        topology.apply(&Change::NodeUp(node(1))).unwrap();
        assert!(topology.apply(&up(1, 0, Role::Publisher, "a/*")).is_err());
        assert!(topology.apply(&up(1, 0, Role::Subscriber, "a/b*")).is_err());
        topology.apply(&up(1, 0, Role::Subscriber, "a/**")).unwrap();
        for (number, topic) in (1..).zip(["a", "a/b", "a/b/c", "ab", "a-b", "b"]) {
            topology
                .apply(&up(1, number, Role::Publisher, topic))
                .unwrap();
        }
        let found = topology.matching("a/**", Role::Publisher);
        assert!(found.map(|(_, end)| end.id).eq([1, 2, 3]));
        let found = topology.matching("a/b", Role::Subscriber);
        assert!(found.map(|(_, end)| end.id).eq([0]));
        assert_eq!(topology.matching("ab", Role::Subscriber).count(), 0);
        topology.apply(&Change::NodeDown(NodeId(1))).unwrap();
        assert_eq!(topology, Topology::default());
    }

    #[test]
    fn any_type_is_for_subscribers() {
        let mut topology = Topology::default();
        topology.apply(&Change::NodeUp(node(1))).unwrap();
        for (role, is_fine) in [(Role::Publisher, false), (Role::Subscriber, true)] {
            let mut any = endpoint(0, role, "a");
            any.ty.encoding = Encoding::Any;
            let (node, endpoint) = (NodeId(1), any);
            let up = topology.apply(&Change::EndpointUp { node, endpoint });
            assert_eq!(up.is_ok(), is_fine);
        }
        let [sent, wanted] = [Role::Publisher, Role::Subscriber].map(|role| endpoint(0, role, "a"));
        let mut any = wanted.clone();
        any.ty.encoding = Encoding::Any;
        let mut other = wanted.clone();
        other.ty.hash = 1;
        for (subscriber, is_fine) in [(wanted, true), (any, true), (other, false)] {
            assert_eq!(subscriber.suits(&sent), is_fine);
            assert_eq!(sent.suits(&subscriber), is_fine);
        }
    }

    #[test]
    fn encodings_of_users_have_plain_names() {
        let mut topology = Topology::default();
        topology.apply(&Change::NodeUp(node(1))).unwrap();
        let mut topic = endpoint(0, Role::Publisher, "a");
        for name in [
            "",
            "\x1b]52;",
            "*",
            &"x".repeat(ENCODING_NAME_BYTES_MAX + 1),
            "cbor",
        ] {
            topic.ty.encoding = Encoding::Custom(name.into());
            let up = Change::EndpointUp {
                node: NodeId(1),
                endpoint: topic.clone(),
            };
            assert_eq!(topology.apply(&up).is_ok(), name == "cbor", "{name:?}");
        }
        assert_eq!(topic.ty.to_string(), "bytes (Custom(\"cbor\"))");
    }

    #[test]
    fn the_largest_changes_fit_into_one_frame() {
        let largest_node = NodeInfo {
            name: "x".repeat(NODE_NAME_BYTES_MAX),
            uid: u32::MAX,
            pid: u32::MAX,
            socket: "x".repeat(SOCKET_PATH_BYTES_MAX),
            addresses: vec!["x".repeat(ADDRESS_BYTES_MAX); ADDRESSES_PER_NODE_MAX],
            ..node(u128::MAX)
        };
        let mut largest_endpoint = endpoint(0, Role::Subscriber, &"x".repeat(TOPIC_NAME_BYTES_MAX));
        largest_endpoint.ty.name = "x".repeat(TYPE_NAME_BYTES_MAX);
        largest_endpoint.ty.encoding = Encoding::Custom("x".repeat(ENCODING_NAME_BYTES_MAX));
        let mut topology = Topology::default();
        let changes = [
            Change::NodeUp(largest_node.clone()),
            Change::EndpointUp {
                node: largest_node.id,
                endpoint: largest_endpoint,
            },
        ];
        for change in changes {
            assert!(topology.apply(&change).unwrap());
            let delta = FromCoordinator::Delta {
                version: u64::MAX,
                changes: vec![change; CHANGES_PER_FRAME_MAX],
            };
            encode(Kind::FromCoordinator, &delta).unwrap();
        }
        for too_much in [
            NodeInfo {
                socket: "x".repeat(SOCKET_PATH_BYTES_MAX + 1),
                ..largest_node.clone()
            },
            NodeInfo {
                addresses: vec!["x".repeat(ADDRESS_BYTES_MAX + 1)],
                ..largest_node.clone()
            },
            NodeInfo {
                addresses: vec![String::new(); ADDRESSES_PER_NODE_MAX + 1],
                ..largest_node.clone()
            },
        ] {
            assert!(topology.apply(&Change::NodeUp(too_much)).is_err());
        }
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let topics = prop_oneof![Just("a"), Just("b/c"), Just("/a"), Just("b/*"), Just("**")];
        let roles = prop_oneof![Just(Role::Publisher), Just(Role::Subscriber)];
        prop_oneof![
            (1..4_u128).prop_map(|id| Change::NodeUp(node(id))),
            (1..4_u128).prop_map(|id| Change::NodeDown(NodeId(id))),
            (1..4_u128, 0..4_u32, roles, topics).prop_map(|(id, n, role, t)| up(id, n, role, t)),
            (1..4_u128, 0..4_u32).prop_map(|(id, n)| Change::EndpointDown {
                node: NodeId(id),
                endpoint: n
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_snapshot_and_the_rest_is_the_whole(
            before in prop::collection::vec(any_change(), 0..40),
            after in prop::collection::vec(any_change(), 0..40),
        ) {
            let mut whole = Topology::default();
            before.iter().for_each(|change| { let _ = whole.apply(change); });
            let mut late = Topology::default();
            for change in whole.snapshot() {
                prop_assert!(late.apply(&change).unwrap());
            }
            for change in &after {
                prop_assert_eq!(whole.apply(change).ok(), late.apply(change).ok());
            }
            prop_assert_eq!(&whole, &late);
            for (topic, role) in [
                ("a", Role::Publisher),
                ("a", Role::Subscriber),
                ("b/c", Role::Subscriber),
                ("b/*", Role::Publisher),
                ("**", Role::Publisher),
            ] {
                let is_found = |end: &&Endpoint| match end.role {
                    _ if end.role != role => false,
                    Role::Publisher => name::matches(topic, &end.topic),
                    Role::Subscriber => name::matches(&end.topic, topic),
                };
                let all = whole.nodes().flat_map(|n| whole.endpoints(n.id));
                let found = whole.matching(topic, role).count();
                prop_assert_eq!(found, all.filter(is_found).count(), "{}", topic);
            }
        }
    }
}
