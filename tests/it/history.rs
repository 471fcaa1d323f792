//! What late subscribers get of what was sent before they came.

use std::time::Duration;

use shmesh::{
    Error, Event, Node, Overflow, Publisher, Raw, Subscriber, SubscriberBuilder, Transports,
};

use crate::proxy::Proxy;
use crate::support::{Mesh, PATIENCE, Puppet, WAYS, Way, eventually, is_intact, number, payload};

/// A publisher, here or in another process.
#[derive(Debug)]
pub(crate) enum Talker {
    Here(Box<Publisher<Raw>>),
    There(Puppet),
}

impl Talker {
    pub(crate) fn start(mesh: &Mesh, way: Way, topic: &str, history: u32) -> Self {
        if let Way::Inside = way {
            let publisher = mesh.node("talker").publisher::<Raw>(topic);
            return Self::Here(Box::new(publisher.history(history).build().unwrap()));
        }
        Self::start_there(mesh, way, topic, &format!("history={history}"))
    }

    pub(crate) fn start_unstamped(mesh: &Mesh, way: Way, topic: &str) -> Self {
        if let Way::Inside = way {
            let publisher = mesh.node("talker").publisher::<Raw>(topic);
            return Self::Here(Box::new(publisher.without_timestamps().build().unwrap()));
        }
        Self::start_there(mesh, way, topic, "unstamped")
    }

    fn start_there(mesh: &Mesh, way: Way, topic: &str, options: &str) -> Self {
        let mut puppet = match way {
            Way::Network => mesh.remote("talker"),
            Way::Inside | Way::Memory => mesh.child("talker"),
        };
        let order = format!("pub {topic} 100000000 {options}");
        assert_eq!(puppet.ask(&order), "ok");
        Self::There(puppet)
    }

    pub(crate) fn wait_for_listeners(&mut self, count: usize) {
        eventually("all listen", || match self {
            Self::Here(publisher) => publisher.listener_count() == count,
            Self::There(puppet) => puppet.ask("listeners") == count.to_string(),
        });
    }

    /// Sends that many more messages.
    pub(crate) fn send(&mut self, count: u64, size: usize) {
        match self {
            Self::Here(publisher) => {
                for _ in 0..count {
                    let number = publisher.stats().sent;
                    publisher.publish_bytes(&payload(number, size)).unwrap();
                }
            }
            Self::There(puppet) => {
                let answer = puppet.ask(&format!("send {count} {size}"));
                assert_eq!(number(&answer, "refused"), 0, "{answer}");
            }
        }
    }
}

/// Where the subscribers of a test are.
pub(crate) fn listener(mesh: &Mesh, way: Way) -> Node {
    let transports = match way {
        Way::Network => Transports::Network,
        Way::Inside | Way::Memory => Transports::Auto,
    };
    let builder = mesh.builder("listener").transports(transports);
    builder.build_blocking().unwrap()
}

const POLICIES: [Overflow; 3] = [
    Overflow::KeepLast(8),
    Overflow::DropNewest(8),
    Overflow::Block {
        depth: 8,
        deadline: PATIENCE,
    },
];

fn subscribe(node: &Node, topic: &str, overflow: Overflow) -> SubscriberBuilder<Raw> {
    node.subscriber::<Raw>(topic).overflow(overflow)
}

/// The next messages are these, whole, and nothing was lost between them.
fn expect(subscriber: &mut Subscriber<Raw>, numbers: std::ops::Range<u64>, what: &str) {
    for expected in numbers {
        let sample = subscriber.recv_blocking(PATIENCE).unwrap();
        let found = (sample.sequence(), sample.lost_before());
        assert_eq!(found, (expected, 0), "{what}");
        assert!(is_intact(&sample, expected), "{what}");
    }
}

fn expect_nothing(subscriber: &mut Subscriber<Raw>) {
    subscriber.wait_for_publisher_blocking(PATIENCE).unwrap();
    assert!(subscriber.try_recv().unwrap().is_none());
}

#[test]
fn an_idle_publishers_last_messages_come_first_and_once() {
    for way in WAYS {
        let mesh = Mesh::start();
        let node = listener(&mesh, way);
        for (place, overflow) in (0..).zip(POLICIES) {
            for size in [8, 5000] {
                let topic = format!("t/{place}/{size}");
                let what = format!("{way:?} {overflow:?} {size}");
                let mut talker = Talker::start(&mesh, way, &topic, 4);
                talker.send(10, size);
                // Sends nothing more, and takes no news of them.
                let late = subscribe(&node, &topic, overflow).latched();
                let mut late = late.build().unwrap();
                expect(&mut late, 6..10, &what);
                let two = subscribe(&node, &topic, overflow).history(2);
                let mut two = two.build().unwrap();
                expect(&mut two, 8..10, &what);
                let mut plain = subscribe(&node, &topic, overflow).build().unwrap();
                expect_nothing(&mut plain);
                talker.send(5, size);
                for subscriber in [&mut late, &mut two, &mut plain] {
                    expect(subscriber, 10..15, &what);
                    assert_eq!(subscriber.stats().lost, 0, "{what}");
                    expect_nothing(subscriber);
                }
            }
        }
    }
}

#[test]
fn publishers_without_a_history_or_a_message_have_nothing_to_give() {
    for way in WAYS {
        let mesh = Mesh::start();
        let node = listener(&mesh, way);
        for history in [0, 3] {
            let topic = format!("t/{history}");
            let mut talker = Talker::start(&mesh, way, &topic, history);
            let sent = if history == 0 { 5 } else { 0 };
            talker.send(sent, 100);
            let latched = subscribe(&node, &topic, POLICIES[0]).latched();
            let mut latched = latched.build().unwrap();
            expect_nothing(&mut latched);
            talker.send(2, 100);
            expect(&mut latched, sent..sent + 2, &format!("{way:?} {history}"));
            assert_eq!(latched.stats().lost, 0);
        }
    }
}

#[test]
fn who_comes_in_the_middle_of_a_stream_misses_nothing_and_gets_nothing_twice() {
    for transports in [Transports::Auto, Transports::Network] {
        for size in [8, 500] {
            let mesh = Mesh::start();
            let node = |name: &str| {
                let builder = mesh.builder(name).transports(transports);
                builder.build_blocking().unwrap()
            };
            let (one, two) = (node("one"), node("two"));
            let mut publisher = one.publisher::<Raw>("t").history(16).build().unwrap();
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let stream = std::thread::spawn(move || {
                let mut count = 0;
                while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                    publisher.publish_bytes(&payload(count, size)).unwrap();
                    count += 1;
                }
                publisher
            });
            let mut ends = Vec::new();
            for _ in 0..25 {
                let block = Overflow::Block {
                    depth: 32,
                    deadline: PATIENCE,
                };
                let subscriber = subscribe(&two, "t", block).latched();
                let mut subscriber = subscriber.build().unwrap();
                let first = subscriber.recv_blocking(PATIENCE).unwrap().sequence();
                expect(&mut subscriber, first + 1..first + 100, "in order");
                assert_eq!(subscriber.stats().lost, 0);
                ends.push(first);
            }
            drop(stop);
            assert!(stream.join().unwrap().stats().sent >= 100);
            assert!(ends.is_sorted());
        }
    }
}

#[test]
fn held_samples_of_a_history_stay_whole_when_it_forgets_them() {
    for way in WAYS {
        let mesh = Mesh::start();
        let node = listener(&mesh, way);
        let mut talker = Talker::start(&mesh, way, "t", 3);
        talker.send(5, 2000);
        for round in 0..5 {
            let late = subscribe(&node, "t", Overflow::KeepLast(64)).latched();
            let mut late = late.max_held(8).build().unwrap();
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(late.recv_blocking(PATIENCE).unwrap());
            }
            // Forgets them all, and would write over them.
            talker.send(40, 2000);
            let first = 2 + 40 * round;
            for (sequence, sample) in (first..).zip(&held) {
                assert_eq!(sample.sequence(), sequence);
                assert!(is_intact(sample, sequence), "{way:?}");
            }
            expect(&mut late, first + 3..first + 8, "the newer ones");
        }
    }
}

#[test]
fn a_killed_publishers_last_messages_stay_and_its_successors_come() {
    for way in [Way::Memory, Way::Network] {
        for size in [8, 5000] {
            let mesh = Mesh::start();
            let node = listener(&mesh, way);
            let mut late = None;
            for round in 0..3 {
                let mut talker = Talker::start(&mesh, way, "t", 4);
                talker.send(6, size);
                let subscribe = || subscribe(&node, "t", POLICIES[0]).latched().build();
                let subscriber = late.get_or_insert_with(|| subscribe().unwrap());
                let sample = subscriber.recv_blocking(PATIENCE).unwrap();
                // Who listens already may be connected before the first message is sent.
                let first = sample.sequence();
                assert!(
                    first == 2 || round > 0 && first < 2,
                    "{way:?} {size} {round}"
                );
                if let Way::Network = way {
                    // What is still with the sender is not safe from a kill.
                    expect(subscriber, first + 1..6, "before the kill");
                }
                let Talker::There(puppet) = talker else {
                    unreachable!()
                };
                puppet.kill();
                eventually("its death is seen", || subscriber.publisher_count() == 0);
                if let Way::Memory = way {
                    expect(subscriber, first + 1..6, "after its death");
                }
                assert!(is_intact(&sample, first), "held over its death");
                assert!(subscriber.try_recv().unwrap().is_none());
                assert_eq!(subscriber.stats().lost, 0);
            }
        }
    }
}

#[test]
fn a_history_at_the_arenas_bound_gives_way() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let publisher = node.publisher::<Raw>("t").history(64);
    let mut publisher = publisher.arena_bytes_max(4 << 20).build().unwrap();
    let mut held = Vec::new();
    for round in 1..=10 {
        for _ in 0..10 {
            let number = publisher.stats().sent;
            publisher.publish_bytes(&payload(number, 1 << 20)).unwrap();
        }
        let late = subscribe(&node, "t", Overflow::KeepLast(64)).latched();
        let mut late = late.build().unwrap();
        let mut last = None;
        late.wait_for_publisher_blocking(PATIENCE).unwrap();
        while let Some(sample) = late.try_recv().unwrap() {
            assert!(is_intact(&sample, sample.sequence()));
            assert!(last.is_none_or(|last| last + 1 == sample.sequence()));
            last = Some(sample.sequence());
            if round <= 2 && last == Some(10 * round - 1) {
                held.push((late, sample));
                break;
            }
        }
        assert_eq!(last, Some(10 * round - 1));
    }
    assert!(
        held.iter()
            .all(|(_, held)| is_intact(held, held.sequence()))
    );
    // Small ones are kept in full.
    for number in 0..80 {
        publisher.publish_bytes(&payload(number, 8)).unwrap();
    }
    let latched = subscribe(&node, "t", Overflow::KeepLast(64)).latched();
    let mut latched = latched.build().unwrap();
    let first = latched.recv_blocking(PATIENCE).unwrap();
    assert_eq!(first.sequence(), 100 + 80 - 64);
}

#[test]
fn the_latest_value_is_the_newest_and_the_others_are_counted() {
    for way in WAYS {
        for size in [8, 5000] {
            let mesh = Mesh::start();
            let node = listener(&mesh, way);
            let mut talker = Talker::start(&mesh, way, "t", 1);
            talker.send(3, size);
            for overflow in POLICIES {
                let blackboard = subscribe(&node, "t", overflow).latched().max_held(1);
                let mut blackboard = blackboard.build().unwrap();
                let mut first = None;
                eventually("there is a value", || {
                    first = blackboard.latest().unwrap().map(|sample| sample.sequence());
                    first.is_some()
                });
                let first = first.unwrap();
                talker.send(5, size);
                let mut newest = 0;
                eventually("the newest comes", || {
                    if let Some(sample) = blackboard.latest().unwrap() {
                        newest = sample.sequence();
                        assert!(is_intact(&sample, newest));
                    }
                    newest == first + 5
                });
                assert!(blackboard.latest().unwrap().is_none());
                let stats = blackboard.stats();
                assert_eq!((stats.received + stats.skipped, stats.lost), (6, 0));
                if !matches!(way, Way::Network) {
                    assert_eq!(stats.received, 2, "{way:?} {overflow:?}");
                }
            }
        }
    }
}

#[test]
fn after_a_broken_link_a_history_fills_the_gap_and_nothing_comes_twice() {
    let mesh = Mesh::start();
    let proxy = Proxy::start();
    let here = listener(&mesh, Way::Network);
    // It must be the one that is dialled: what it dials itself does not go through the proxy.
    let node = loop {
        let node = proxy.node_behind(&mesh, "talker");
        if node.id() > here.id() {
            break node;
        }
        node.close_blocking();
    };
    let mut publisher = node.publisher::<Raw>("t").history(300).build().unwrap();
    let subscriber = subscribe(&here, "t", Overflow::KeepLast(4096)).latched();
    let mut subscriber = subscriber.build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut events = subscriber.events();
    let (mut sent, mut next) = (0, 0);
    for round in 0..4 {
        for _ in 0..100 {
            publisher.publish_bytes(&payload(sent, 200)).unwrap();
            sent += 1;
        }
        if round % 2 == 0 {
            proxy.reset_all();
        } else {
            proxy.cut_in_mid_frame();
        }
        for _ in 0..100 {
            publisher.publish_bytes(&payload(sent, 200)).unwrap();
            sent += 1;
        }
        // What came over the old link is not read before there is a new one.
        let mut wait_for = |is_it: fn(&Event) -> bool| {
            while !is_it(&events.recv_blocking(PATIENCE).unwrap()) {}
        };
        wait_for(|event| matches!(event, Event::PublisherLost { .. }));
        wait_for(|event| matches!(event, Event::PublisherUp { .. }));
        // Nothing more is sent, and yet all of it comes, in order.
        while next < sent {
            let sample = subscriber.recv_blocking(PATIENCE).unwrap();
            assert_eq!(sample.sequence(), next, "round {round}");
            next += 1;
        }
    }
    let stats = subscriber.stats();
    assert_eq!((stats.received, stats.lost), (sent, 0));
}

#[test]
fn histories_lifespans_and_deadlines_allocate_nothing_per_message() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let subscriber = node.subscriber::<Raw>("t").latched().lifespan(PATIENCE);
    let mut subscriber = subscriber.deadline(PATIENCE).build().unwrap();
    let publisher = node.publisher::<Raw>("t").history(8).deadline(PATIENCE);
    let mut publisher = publisher.build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut round = |size| {
        let bytes = payload(0, size);
        let measured = allocation_counter::measure(|| {
            for _ in 0..100 {
                publisher.publish_bytes(&bytes).unwrap();
                assert!(subscriber.try_recv().unwrap().is_some());
                publisher.publish_bytes(&bytes).unwrap();
                assert!(subscriber.latest().unwrap().is_some());
            }
        });
        measured.count_total
    };
    for size in [8, 5000] {
        round(size);
        assert_eq!(round(size), 0, "{size} bytes");
    }
}

#[test]
fn histories_have_bounds() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let publisher = node.publisher::<Raw>("t").history(4097).build();
    assert!(matches!(
        publisher,
        Err(Error::OutOfBounds { max: 4096, .. })
    ));
    let subscriber = subscribe(&node, "t", Overflow::KeepLast(4)).history(5);
    let subscriber = subscriber.build();
    assert!(matches!(subscriber, Err(Error::OutOfBounds { max: 4, .. })));
    let mut publisher = node.publisher::<u64>("n").history(1).build().unwrap();
    // Archived although nobody listens.
    publisher.publish(&7).unwrap();
    let mut subscriber = node.subscriber::<u64>("n").latched().build().unwrap();
    let sample = subscriber.recv_blocking(Duration::from_secs(30)).unwrap();
    assert_eq!(sample.to_native(), 7);
}
