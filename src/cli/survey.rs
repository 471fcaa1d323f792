//! Who does what in a mesh, as lists: topics, services, and what nodes have to do with them.

use std::collections::BTreeMap;

use crate::name::{escaped, is_pattern};
use crate::service::{REPLIES, REQUESTS};
use crate::topology::{Endpoint, NodeInfo, Role, TopicType, Topology};

/// One end of a topic or service.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) node: &'a NodeInfo,
    pub(super) endpoint: &'a Endpoint,
}

/// The ends of a topic.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicEnds<'a> {
    pub(super) publishers: Vec<End<'a>>,
    /// Those of patterns that match it, too.
    pub(super) subscribers: Vec<End<'a>>,
}

impl TopicEnds<'_> {
    /// What is sent, or what is waited for while nobody sends.
    pub(super) fn types(&self) -> impl Iterator<Item = &TopicType> {
        let ends = if self.publishers.is_empty() {
            &self.subscribers
        } else {
            &self.publishers
        };
        ends.iter().map(|end| &end.endpoint.ty)
    }
}

/// The ends of a service.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceEnds<'a> {
    pub(super) providers: Vec<End<'a>>,
    pub(super) callers: Vec<End<'a>>,
    /// What providers reply with.
    pub(super) replies: Vec<&'a TopicType>,
}

impl ServiceEnds<'_> {
    pub(super) fn requests(&self) -> impl Iterator<Item = &TopicType> {
        let ends = if self.providers.is_empty() {
            &self.callers
        } else {
            &self.providers
        };
        ends.iter().map(|end| &end.endpoint.ty)
    }
}

fn ends(topology: &Topology) -> impl Iterator<Item = End<'_>> {
    topology.nodes().flat_map(|node| {
        let endpoints = topology.endpoints(node.id);
        endpoints.map(move |endpoint| End { node, endpoint })
    })
}

/// The topics that have a name, and then the patterns that are subscribed to.
pub(super) fn topics(topology: &Topology) -> BTreeMap<(bool, &str), TopicEnds<'_>> {
    let mut topics = BTreeMap::new();
    for end in ends(topology) {
        let topic = end.endpoint.topic.as_str();
        if !topic.starts_with('@') {
            let key = (is_pattern(topic), topic);
            topics
                .entry(key)
                .or_insert_with(|| topic_ends(topology, topic));
        }
    }
    topics
}

/// The ends of one topic, or of those that a pattern matches and of who subscribes to just that.
pub(super) fn topic_ends<'a>(topology: &'a Topology, topic: &'a str) -> TopicEnds<'a> {
    let found = |role| {
        let found = topology.matching(topic, role);
        found.map(|(node, endpoint)| End { node, endpoint })
    };
    TopicEnds {
        publishers: found(Role::Publisher).collect(),
        subscribers: found(Role::Subscriber).collect(),
    }
}

/// The services, by name.
pub(super) fn services(topology: &Topology) -> BTreeMap<&str, ServiceEnds<'_>> {
    let mut services: BTreeMap<&str, ServiceEnds<'_>> = BTreeMap::new();
    for end in ends(topology) {
        let Endpoint {
            topic, role, ty, ..
        } = end.endpoint;
        if let Some(name) = topic.strip_prefix(REQUESTS) {
            let service = services.entry(name).or_default();
            match role {
                Role::Publisher => service.callers.push(end),
                Role::Subscriber => service.providers.push(end),
            }
        } else if let Some(name) = topic.strip_prefix(REPLIES)
            && *role == Role::Publisher
        {
            services.entry(name).or_default().replies.push(ty);
        }
    }
    services
}

/// The names of their nodes.
pub(super) fn names<'a>(ends: &[End<'a>]) -> Vec<&'a str> {
    ends.iter().map(|end| end.node.name.as_str()).collect()
}

/// The same, for people.
pub(super) fn names_text(ends: &[End<'_>]) -> String {
    let names: Vec<String> = names(ends).into_iter().map(escaped).collect();
    names.join(", ")
}

/// What a node has to do with topics and services.
#[derive(Clone, Debug, Default)]
pub(super) struct Doings<'a> {
    pub(super) publishes: Vec<(&'a str, &'a TopicType)>,
    pub(super) subscribes: Vec<(&'a str, &'a TopicType)>,
    pub(super) provides: Vec<(&'a str, &'a TopicType)>,
    pub(super) calls: Vec<(&'a str, &'a TopicType)>,
}

pub(super) fn doings<'a>(topology: &'a Topology, node: &NodeInfo) -> Doings<'a> {
    let mut doings = Doings::default();
    for Endpoint {
        topic, role, ty, ..
    } in topology.endpoints(node.id)
    {
        if topic.starts_with(REPLIES) {
            continue;
        }
        let service = topic.strip_prefix(REQUESTS);
        let list = match (service, role) {
            (None, Role::Publisher) => &mut doings.publishes,
            (None, Role::Subscriber) => &mut doings.subscribes,
            (Some(_), Role::Publisher) => &mut doings.calls,
            (Some(_), Role::Subscriber) => &mut doings.provides,
        };
        list.push((service.unwrap_or(topic), ty));
    }
    let Doings {
        publishes,
        subscribes,
        provides,
        calls,
    } = &mut doings;
    for list in [publishes, subscribes, provides, calls] {
        list.sort_by_key(|(name, _)| *name);
    }
    doings
}
