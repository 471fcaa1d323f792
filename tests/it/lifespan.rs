//! Messages that are too old to be worth anything.

use std::time::Duration;

use shmesh::link::wire::MessageHeader;
use shmesh::{Error, HostId, Node, Overflow, Raw, RecvError, Transports};

use crate::history::{Talker, listener};
use crate::stranger::FakePublisher;
use crate::support::{Mesh, PATIENCE, WAYS, Way, eventually, payload};

/// After this pause every message is older than [`SHORT`].
const PAUSE: Duration = Duration::from_millis(60);
const SHORT: Duration = Duration::from_millis(50);

fn talker(mesh: &Mesh, way: Way) -> Node {
    let builder = mesh.builder("talker");
    let builder = match way {
        Way::Network => builder.transports(Transports::Network),
        Way::Inside | Way::Memory => builder,
    };
    builder.build_blocking().unwrap()
}

#[test]
fn old_messages_are_skipped_and_counted_whichever_way() {
    let block = Overflow::Block {
        depth: 16,
        deadline: PATIENCE,
    };
    for way in WAYS {
        let mesh = Mesh::start();
        let here = listener(&mesh, way);
        let policies = [Overflow::KeepLast(16), Overflow::DropNewest(16), block];
        for (place, overflow) in (0..).zip(policies) {
            for size in [8, 5000] {
                let what = format!("{way:?} {overflow:?} {size}");
                let topic = format!("t/{place}/{size}");
                let mut talker = Talker::start(&mesh, way, &topic, 0);
                let builder = || here.subscriber::<Raw>(&topic).overflow(overflow);
                let mut brief = builder().lifespan(SHORT).build().unwrap();
                let mut long = builder().lifespan(PATIENCE).build().unwrap();
                talker.wait_for_listeners(2);
                talker.send(6, size);
                for expected in 0..6 {
                    let sample = long.recv_blocking(PATIENCE).unwrap();
                    assert_eq!(sample.sequence(), expected, "{what}");
                }
                std::thread::sleep(PAUSE);
                eventually("all are counted", || {
                    assert!(brief.try_recv().unwrap().is_none(), "{what}");
                    brief.stats().lost == 6
                });
                let (old, fresh) = (brief.stats(), long.stats());
                assert_eq!((old.received, old.lost_expired), (0, 6), "{what}");
                assert_eq!((fresh.received, fresh.lost), (6, 0), "{what}");
            }
        }
    }
}

#[test]
fn messages_that_grew_old_at_the_sender_are_not_sent() {
    let mesh = Mesh::start();
    let here = listener(&mesh, Way::Network);
    let there = talker(&mesh, Way::Network);
    let mut publisher = there.publisher::<Raw>("t").build().unwrap();
    let subscriber = here
        .subscriber::<Raw>("t")
        .overflow(Overflow::DropNewest(4));
    let mut subscriber = subscriber.lifespan(SHORT).build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    // As many as both rings have room for, and more.
    let mut sent = 0;
    let mut refused = 0;
    while refused < 5 {
        refused += publisher.publish_bytes(&payload(sent, 8)).unwrap().refused;
        sent += 1;
        std::thread::yield_now();
    }
    std::thread::sleep(PAUSE);
    eventually("all are counted", || {
        assert!(subscriber.try_recv().unwrap().is_none());
        subscriber.stats().lost == sent
    });
    let stats = subscriber.stats();
    assert!(stats.lost_expired >= 4, "those that came: {stats:?}");
    assert!(
        stats.lost_dropped > u64::from(refused),
        "those that stayed: {stats:?}"
    );
}

#[test]
fn messages_that_were_not_sent_are_counted_though_none_follow() {
    let mesh = Mesh::start();
    let here = listener(&mesh, Way::Network);
    let there = talker(&mesh, Way::Network);
    let mut publisher = there.publisher::<Raw>("t").build().unwrap();
    let block = Overflow::Block {
        depth: 4,
        deadline: PATIENCE,
    };
    let subscriber = here.subscriber::<Raw>("t").overflow(block);
    let mut subscriber = subscriber.lifespan(SHORT).build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    // What both rings have room for: four wait here, four there.
    for number in 0..8 {
        let sent = publisher.publish_bytes(&payload(number, 8)).unwrap();
        assert_eq!(sent.refused, 0);
    }
    std::thread::sleep(PAUSE);
    eventually("all are counted", || {
        assert!(subscriber.try_recv().unwrap().is_none());
        subscriber.stats().lost == 8
    });
    assert!(subscriber.stats().lost_dropped >= 4);
}

#[test]
fn a_message_without_a_time_is_refused_with_advice() {
    for way in [Way::Inside, Way::Network] {
        let mesh = Mesh::start();
        let node = listener(&mesh, way);
        let there = talker(&mesh, way);
        let publisher = there.publisher::<Raw>("t").without_timestamps();
        let mut publisher = publisher.build().unwrap();
        let subscriber = node.subscriber::<Raw>("t").lifespan(PATIENCE);
        let mut subscriber = subscriber.build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        publisher.publish_bytes(b"when?").unwrap();
        let error = subscriber.recv_blocking(PATIENCE).unwrap_err();
        assert!(matches!(error, RecvError::Undated { sequence: 0, .. }));
        assert!(error.to_string().contains("without_timestamps"), "{error}");
        let stats = subscriber.stats();
        assert_eq!((stats.received, stats.lost, stats.lost_expired), (0, 1, 1));
    }
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let subscriber = node.subscriber::<Raw>("t").lifespan(Duration::ZERO);
    assert!(matches!(subscriber.build(), Err(Error::OutOfBounds { .. })));
}

#[test]
fn ages_of_another_hosts_messages_count_from_their_arrival() {
    let mesh = Mesh::start();
    let address = crate::support::free_address();
    let node = mesh.builder("listener").transports(Transports::Network);
    let node = node.listen(&address).build_blocking().unwrap();
    let brief = node.subscriber::<Raw>("t").lifespan(PATIENCE);
    let mut brief = brief.build().unwrap();
    let fake = FakePublisher::join_from(HostId(1), &mesh.address, 0);
    eventually("it is known", || !node.peers().is_empty());
    let (mut link, channel) = fake.link(&address, 0);
    // By its clock of long ago, or of times to come.
    for (sequence, sent_ns) in [(0, 5), (1, u64::MAX >> 1), (2, 0)] {
        let header = MessageHeader {
            channel,
            sequence,
            sent_ns,
            len: 0,
        };
        link.send(&header.encode());
        let sample = brief.recv_blocking(PATIENCE).unwrap();
        assert_eq!((sample.sequence(), sample.sent_ns()), (sequence, None));
    }
    assert_eq!(brief.stats().lost, 0);
}
