//! The model, fed with pages.

use super::*;
use crate::cli::top::report;
use crate::id::{HostId, NodeId};
use crate::topology::{Change, Encoding, Endpoint, NodeInfo, TopicType};

fn counted(role: Role, endpoint: u32, topic: &str, numbers: &[(Counter, u64)]) -> Counted {
    let mut counts = [0; COUNTERS];
    for (counter, value) in numbers {
        counts[*counter as usize] = *value;
    }
    Counted {
        whose: Whose::Endpoint(role),
        endpoint,
        topic: topic.into(),
        counts,
    }
}

fn page(id: u128, entries: Vec<Counted>) -> (Page, State) {
    let page = Page {
        node: format!("node-{id}"),
        id,
        pid: 7,
        is_alive: true,
        entries,
    };
    (page, State::Live)
}

fn sent(count: u64) -> Counted {
    let numbers = [(Counter::Messages, count), (Counter::Bytes, 10 * count)];
    counted(Role::Publisher, 0, "t", &numbers)
}

const SECOND: Duration = Duration::from_secs(1);

/// The rate of the only endpoint's messages after two readings.
fn rate_of(first: (Page, State), second: (Page, State), elapsed: Duration) -> Option<f64> {
    let mut model = Model::default();
    let now = Instant::now();
    let seen = model.read(now, vec![first]);
    assert_eq!(
        Sum::of(&seen.nodes[0].endpoints).sent_rate,
        None,
        "at first sight"
    );
    let seen = model.read(now + elapsed, vec![second]);
    Sum::of(&seen.nodes[0].endpoints).sent_rate
}

#[test]
fn rates_are_differences_by_the_time_between() {
    let (first, second) = (|| page(1, vec![sent(100)]), || page(1, vec![sent(150)]));
    assert_eq!(rate_of(first(), second(), SECOND), Some(50.0));
    assert_eq!(rate_of(first(), second(), 4 * SECOND), Some(12.5));
    assert_eq!(rate_of(first(), first(), SECOND), Some(0.0));
    assert_eq!(rate_of(first(), second(), Duration::ZERO), None);
}

#[test]
fn counts_of_others_are_never_compared() {
    let first = || page(1, vec![sent(100)]);
    let mut renamed = sent(500);
    renamed.topic = "other".into();
    let mut fewer_bytes = sent(500);
    fewer_bytes.counts[Counter::Bytes as usize] = 3;
    let mut renumbered = sent(500);
    renumbered.endpoint = 1;
    for (what, second) in [
        ("another run of the node", page(2, vec![sent(500)])),
        ("the number went to another topic", page(1, vec![renamed])),
        ("a count went back", page(1, vec![sent(99)])),
        ("one of the counts went back", page(1, vec![fewer_bytes])),
        ("another number", page(1, vec![renumbered])),
    ] {
        assert_eq!(rate_of(first(), second, SECOND), None, "{what}");
    }
}

#[test]
fn an_endpoint_that_went_and_came_again_starts_anew() {
    let mut model = Model::default();
    let now = Instant::now();
    model.read(now, vec![page(1, vec![sent(10)])]);
    model.read(now + SECOND, vec![page(1, vec![])]);
    let seen = model.read(now + 2 * SECOND, vec![page(1, vec![sent(20)])]);
    assert_eq!(Sum::of(&seen.nodes[0].endpoints).sent_rate, None);
    let seen = model.read(now + 3 * SECOND, vec![page(1, vec![sent(25)])]);
    assert_eq!(Sum::of(&seen.nodes[0].endpoints).sent_rate, Some(5.0));
}

#[test]
fn a_topic_loses_a_message_once() {
    let numbers = [(Counter::LostDropped, 5)];
    let publisher = || counted(Role::Publisher, 0, "t", &numbers);
    let subscriber = counted(Role::Subscriber, 1, "t", &numbers);
    let lost = |pages| {
        let seen = Model::default().read(Instant::now(), pages);
        Sum::of_topic(&seen.topics()["t"]).lost_total()
    };
    let both = vec![page(1, vec![publisher()]), page(2, vec![subscriber])];
    assert_eq!(lost(both), 5);
    let alone = vec![page(1, vec![publisher()])];
    assert_eq!(lost(alone), 5, "the subscriber is on another host");
}

#[test]
fn the_fill_of_a_topic_is_that_of_its_fullest_subscriber() {
    let subscriber = |number, unread, room| {
        let numbers = [(Counter::Unread, unread), (Counter::Room, room)];
        counted(Role::Subscriber, number, "t", &numbers)
    };
    let entries = vec![
        subscriber(0, 1, 10),
        subscriber(1, 8, 16),
        subscriber(2, 0, 0),
    ];
    let seen = Model::default().read(Instant::now(), vec![page(1, entries)]);
    assert_eq!(Sum::of_topic(&seen.topics()["t"]).fill, Some(0.5));
}

#[test]
fn numbers_of_a_broken_page_do_no_harm() {
    let mut model = Model::default();
    let now = Instant::now();
    let broken = |value| {
        let mut entries = Vec::new();
        for role in [Role::Publisher, Role::Subscriber] {
            for number in [0, 0, u32::MAX] {
                let mut entry = counted(role, number, "\u{1b}[2J\u{9b}", &[]);
                entry.counts = [value; COUNTERS];
                entries.push(entry);
            }
        }
        vec![page(u128::MAX, entries)]
    };
    for (step, value) in [u64::MAX, 0, u64::MAX - 1, u64::MAX]
        .into_iter()
        .enumerate()
    {
        let seen = model.read(now + SECOND * u32::try_from(step).unwrap(), broken(value));
        for printed in [
            report::text(&seen, ""),
            report::document(&seen, "").to_string(),
        ] {
            assert!(!printed.contains(['\u{1b}', '\u{9b}']), "{printed}");
        }
    }
}

#[test]
fn what_only_the_coordinator_knows_is_added() {
    let info = |id, host| NodeInfo {
        id: NodeId(id),
        name: format!("n{id}"),
        host: HostId(host),
        uid: 0,
        pid: 1,
        socket: String::new(),
        addresses: Vec::new(),
    };
    let endpoint = Endpoint {
        id: 4,
        role: Role::Publisher,
        topic: "t".into(),
        ty: TopicType {
            name: "bytes".into(),
            encoding: Encoding::Raw,
            hash: 0,
        },
    };
    let mut topology = Topology::default();
    for info in [info(1, 5), info(2, 5), info(3, 6)] {
        assert!(topology.apply(&Change::NodeUp(info)).unwrap());
    }
    let node = NodeId(3);
    let up = Change::EndpointUp { node, endpoint };
    assert!(topology.apply(&up).unwrap());
    let mut seen = Model::default().read(Instant::now(), vec![page(1, vec![sent(1)])]);
    seen.add_far(&topology, 5);
    let states: Vec<_> = seen.nodes.iter().map(|n| (n.id, n.state)).collect();
    assert_eq!(
        states,
        [(1, State::Live), (2, State::Unseen), (3, State::Far)]
    );
    let sum = Sum::of_topic(&seen.topics()["t"]);
    assert_eq!((sum.publishers, sum.sent), (2, 1));
    assert!(!Sum::of(&seen.nodes[2].endpoints).is_counted);
}
