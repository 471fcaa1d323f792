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
        latency: Histogram::default(),
    }
}

fn page(id: u128, entries: Vec<Counted>) -> (Page, State) {
    let page = Page {
        node: format!("node-{id}"),
        id,
        pid: 7,
        is_alive: true,
        at_ns: 0,
        entries,
    };
    (page, State::Live)
}

fn sent(count: u64) -> Counted {
    let numbers = [(Counter::Messages, count), (Counter::Bytes, 10 * count)];
    counted(Role::Publisher, 0, "t", &numbers)
}

const SECOND: Duration = Duration::from_secs(1);

/// Has all these pages read then.
fn read_at(model: &mut Model, at: Duration, mut pages: Vec<(Page, State)>) -> Seen {
    for (page, _) in &mut pages {
        page.at_ns = u64::try_from(at.as_nanos()).unwrap();
    }
    model.read(pages)
}

/// The rate of the only endpoint's messages after two readings.
fn rate_of(first: (Page, State), second: (Page, State), elapsed: Duration) -> Option<f64> {
    let mut model = Model::default();
    let now = Duration::ZERO;
    let seen = read_at(&mut model, now, vec![first]);
    assert_eq!(
        Sum::of(&seen.nodes[0].endpoints).sent_rate,
        None,
        "at first sight"
    );
    let seen = read_at(&mut model, now + elapsed, vec![second]);
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
fn of_a_page_that_was_not_read_anew_the_same_is_seen() {
    let mut model = Model::default();
    let told = |at_ns, count| {
        let (mut page, _) = page(1, vec![sent(count)]);
        page.at_ns = at_ns;
        vec![(page, State::Far)]
    };
    let rate = |seen: Seen| Sum::of(&seen.nodes[0].endpoints).sent_rate;
    assert_eq!(rate(model.read(told(1_000_000_000, 100))), None);
    assert_eq!(rate(model.read(told(1_000_000_000, 100))), None);
    for _ in 0..3 {
        assert_eq!(rate(model.read(told(3_000_000_000, 200))), Some(50.0));
    }
    assert_eq!(rate(model.read(told(4_000_000_000, 200))), Some(0.0));
    assert!(model.read(vec![]).nodes.is_empty());
    assert_eq!(
        rate(model.read(told(5_000_000_000, 300))),
        None,
        "it was gone"
    );
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
    let now = Duration::ZERO;
    read_at(&mut model, now, vec![page(1, vec![sent(10)])]);
    read_at(&mut model, now + SECOND, vec![page(1, vec![])]);
    let seen = read_at(&mut model, now + 2 * SECOND, vec![page(1, vec![sent(20)])]);
    assert_eq!(Sum::of(&seen.nodes[0].endpoints).sent_rate, None);
    let seen = read_at(&mut model, now + 3 * SECOND, vec![page(1, vec![sent(25)])]);
    assert_eq!(Sum::of(&seen.nodes[0].endpoints).sent_rate, Some(5.0));
}

#[test]
fn a_topic_loses_a_message_once() {
    let numbers = [(Counter::LostDropped, 5)];
    let publisher = || counted(Role::Publisher, 0, "t", &numbers);
    let subscriber = counted(Role::Subscriber, 1, "t", &numbers);
    let lost = |pages| {
        let seen = read_at(&mut Model::default(), Duration::ZERO, pages);
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
    let seen = read_at(
        &mut Model::default(),
        Duration::ZERO,
        vec![page(1, entries)],
    );
    assert_eq!(Sum::of_topic(&seen.topics()["t"]).fill, Some(0.5));
}

#[test]
fn numbers_of_a_broken_page_do_no_harm() {
    let mut model = Model::default();
    let now = Duration::ZERO;
    let broken = |value| {
        let mut entries = Vec::new();
        for number in [0, 0, u32::MAX] {
            for whose in (0..=5).filter_map(Whose::from_number) {
                let mut entry = counted(Role::Publisher, number, "\u{1b}[2J\u{9b}", &[]);
                entry.whose = whose;
                entry.counts = [value; COUNTERS];
                entry.latency.record(value);
                entries.push(entry);
            }
        }
        vec![page(u128::MAX, entries)]
    };
    for (step, value) in [u64::MAX, 0, u64::MAX - 1, u64::MAX]
        .into_iter()
        .enumerate()
    {
        let seen = read_at(
            &mut model,
            now + SECOND * u32::try_from(step).unwrap(),
            broken(value),
        );
        for printed in [
            report::text(&seen, ""),
            report::document(&seen, &serde_json::Value::Null).to_string(),
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
    let requests = Endpoint {
        id: 5,
        topic: "@requests/add".into(),
        ..endpoint.clone()
    };
    for endpoint in [endpoint, requests] {
        let up = Change::EndpointUp { node, endpoint };
        assert!(topology.apply(&up).unwrap());
    }
    let mut seen = read_at(
        &mut Model::default(),
        Duration::ZERO,
        vec![page(1, vec![sent(1)])],
    );
    seen.add_far(&topology, HostId(5));
    let states: Vec<_> = seen.nodes.iter().map(|n| (n.id, n.state)).collect();
    assert_eq!(
        states,
        [(1, State::Live), (2, State::Unseen), (3, State::Far)]
    );
    let sum = Sum::of_topic(&seen.topics()["t"]);
    assert_eq!((sum.publishers, sum.sent), (2, 1));
    assert!(!Sum::of(&seen.nodes[2].endpoints).is_counted);
    let services = seen.services();
    let made = Calls::of(Whose::Caller, services["add"].iter().map(|(_, end)| *end));
    assert_eq!((made.count, made.ended_otherwise(&[])), (1, None));
}

fn subscriber(number: u32, topic: &str, times_ns: &[u64]) -> Counted {
    let mut entry = counted(Role::Subscriber, number, topic, &[]);
    times_ns.iter().for_each(|ns| entry.latency.record(*ns));
    entry
}

#[test]
fn latencies_are_those_between_two_readings_of_all_subscribers() {
    let mut model = Model::default();
    let now = Duration::ZERO;
    let read = |model: &mut Model, seconds: u32, times: [&[u64]; 2]| {
        let entries = times.iter().zip(0..).map(|(t, n)| subscriber(n, "t", t));
        let seen = read_at(
            model,
            now + SECOND * seconds,
            vec![page(1, entries.collect())],
        );
        Sum::of_topic(&seen.topics()["t"]).latency
    };
    let old = 60_000_000_000;
    assert_eq!(read(&mut model, 0, [&[old], &[]]), None, "at first sight");
    let latency = read(&mut model, 1, [&[old, 1_000], &[64_000]]).unwrap();
    assert_eq!((latency.count(), latency.sum_ns()), (2, 65_000));
    let later = read(&mut model, 2, [&[old, 1_000], &[64_000]]);
    assert_eq!(later, None, "nothing was measured");
}

#[test]
fn what_a_pattern_took_is_with_its_topics_and_with_itself_but_counts_once_for_its_node() {
    let numbers = |count| [(Counter::Messages, count), (Counter::LostOverwritten, 1)];
    let of = |whose, topic, count| Counted {
        whose,
        ..counted(Role::Subscriber, 3, topic, &numbers(count))
    };
    let all = Whose::Endpoint(Role::Subscriber);
    let entries = vec![
        of(all, "a/*", 30),
        // Two publishers of a topic.
        of(Whose::Share, "a/x", 10),
        of(Whose::Share, "a/x", 15),
        of(Whose::Share, "a/y", 5),
        Counted {
            endpoint: 4,
            ..of(all, "b", 7)
        },
    ];
    let seen = read_at(
        &mut Model::default(),
        Duration::ZERO,
        vec![page(1, entries)],
    );
    let topics = seen.topics();
    let sum = |topic| {
        let sum = Sum::of_topic(&topics[topic]);
        (sum.subscribers, sum.received, sum.lost_total())
    };
    assert_eq!(sum("a/x"), (1, 25, 2));
    assert_eq!(sum("a/y"), (1, 5, 1));
    assert_eq!(sum("a/*"), (1, 30, 1));
    assert_eq!(sum("b"), (1, 7, 1));
    let node = Sum::of_node(&seen.nodes[0]);
    assert_eq!((node.subscribers, node.received), (2, 37));
}

#[test]
fn several_names_are_with_each_of_their_topics_once() {
    let all = counted(Role::Subscriber, 3, "a", &[(Counter::Messages, 9)]);
    let share = |topic, count| Counted {
        whose: Whose::Share,
        ..counted(Role::Subscriber, 3, topic, &[(Counter::Messages, count)])
    };
    let entries = vec![all, share("a", 5), share("b", 4)];
    let seen = read_at(
        &mut Model::default(),
        Duration::ZERO,
        vec![page(1, entries)],
    );
    let topics = seen.topics();
    let received = |topic| Sum::of_topic(&topics[topic]).received;
    assert_eq!((received("a"), received("b")), (5, 4));
}

#[test]
fn calls_and_requests_are_counted_by_how_they_ended() {
    let end = |whose, ok, failed| {
        let numbers = [(Counter::CallsOk, ok), (Counter::CallsFailed, failed)];
        Counted {
            whose,
            ..counted(Role::Publisher, 0, "add", &numbers)
        }
    };
    let mut model = Model::default();
    let now = Duration::ZERO;
    read_at(
        &mut model,
        now,
        vec![page(1, vec![end(Whose::Caller, 10, 0)])],
    );
    let entries = vec![end(Whose::Caller, 13, 1), end(Whose::Provider, 5, 1)];
    let seen = read_at(&mut model, now + SECOND, vec![page(1, entries)]);
    let ends = &seen.services()["add"];
    let of = |whose| Calls::of(whose, ends.iter().map(|(_, end)| *end));
    let made = of(Whose::Caller);
    assert_eq!((made.rate, made.failed_rate), (Some(4.0), Some(1.0)));
    assert_eq!(made.ended(Counter::CallsOk), Some(13));
    assert_eq!(made.ended_otherwise(&[Counter::CallsOk]), Some(1));
    let served = of(Whose::Provider);
    assert_eq!((served.count, served.rate), (1, None));
    assert_eq!(served.ended_otherwise(&[]), Some(6));
    assert_eq!(served.ended(Counter::CallsTimeout), None, "it cannot be");
    assert!(seen.topics().is_empty());
}
