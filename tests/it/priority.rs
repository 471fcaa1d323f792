//! Large messages go in parts over a network, and urgent ones between them.

use shmesh::limits::{FRAGMENT_BYTES, MESSAGE_BYTES_MAX};
use shmesh::link::wire::{FragmentHeader, MessageHeader};
use shmesh::{Compression, Node, Overflow, Priority, Publisher, Raw, Subscriber, Transports};

use crate::floods::memory_kb;
use crate::proxy::Proxy;
use crate::stranger::{FakePublisher, message};
use crate::support::{Mesh, PATIENCE, eventually, free_address, is_intact, number, payload};

/// More than the sockets on the way and their proxy take.
const LARGE_BYTES: usize = 96 << 20;
const ON_THE_WAY_BYTES_MAX: u64 = 64 << 20;

const WAITING: Overflow = Overflow::Block {
    depth: 4,
    deadline: PATIENCE,
};

/// A node whose subscribers are reached through a proxy, and one that publishes to them.
struct Pair {
    near: Node,
    far: Node,
    proxy: Proxy,
    /// Without them, nothing is cut.
    others: Option<(Publisher<Raw>, Subscriber<Raw>)>,
    _mesh: Mesh,
}

impl Pair {
    fn new(compression: Option<Compression>) -> Self {
        let (mesh, proxy) = (Mesh::start(), Proxy::start());
        let near = mesh.builder("near").transports(Transports::Network);
        let near = match compression {
            Some(compression) => near.compression(compression),
            None => near,
        };
        let near = near.build_blocking().unwrap();
        let far = loop {
            let far = proxy.node_behind_with(&mesh, "far", |builder| match compression {
                Some(compression) => builder.compression(compression),
                None => builder,
            });
            // The one with the smaller id dials, through the proxy.
            if near.id() < far.id() {
                break far;
            }
            far.close_blocking();
        };
        let mut pair = Self {
            near,
            far,
            proxy,
            others: None,
            _mesh: mesh,
        };
        pair.others = Some(pair.ends("urgent", Priority::Urgent));
        pair
    }

    fn ends(&self, topic: &str, priority: Priority) -> (Publisher<Raw>, Subscriber<Raw>) {
        let subscriber = self.far.subscriber::<Raw>(topic).overflow(WAITING);
        let subscriber = subscriber.build().unwrap();
        let publisher = self.near.publisher::<Raw>(topic).priority(priority);
        let mut publisher = publisher.build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        (publisher, subscriber)
    }
}

fn must_get(subscriber: &mut Subscriber<Raw>, sequence: u64, size: usize) {
    let sample = subscriber.recv_blocking(PATIENCE).unwrap();
    assert_eq!((sample.sequence(), sample.len()), (sequence, size));
    assert!(is_intact(&sample, sequence));
    assert_eq!(sample.lost_before(), 0);
}

#[test]
fn an_urgent_message_overtakes_a_large_one_that_is_being_written() {
    let large = payload(0, LARGE_BYTES);
    let pair = Pair::new(None);
    let (mut bulk, mut slow) = pair.ends("map", Priority::Bulk);
    let (mut urgent, mut quick) = pair.ends("stop", Priority::Urgent);
    let before = pair.proxy.bytes();
    pair.proxy.hold_after(1 << 20);
    bulk.publish_bytes(&large).unwrap();
    eventually("it is on its way", || {
        pair.proxy.bytes() >= before + (1 << 20)
    });
    urgent.publish_bytes(&payload(0, 64)).unwrap();
    // Not all of the large one can come before this.
    pair.proxy.hold_after(ON_THE_WAY_BYTES_MAX);
    must_get(&mut quick, 0, 64);
    assert!(slow.try_recv().unwrap().is_none());
    pair.proxy.hold_after(u64::MAX);
    must_get(&mut slow, 0, LARGE_BYTES);
}

/// Sizes at which a message is cut, or not, or has a part of one byte.
fn sizes() -> impl Iterator<Item = usize> {
    let around = |len: usize| [len - 1, len, len + 1];
    let bounds = [1, 2, 3, 16].map(|count| around(count * FRAGMENT_BYTES));
    let between = [10, 97, 20_000, 5 * FRAGMENT_BYTES / 2, 0];
    between.into_iter().chain(bounds.into_iter().flatten())
}

#[test]
fn messages_around_the_bound_stay_in_order_and_whole() {
    for compression in [None, Some(Compression::default())] {
        let pair = Pair::new(compression);
        let (mut publisher, mut subscriber) = pair.ends("t", Priority::Normal);
        let sending = std::thread::spawn(move || {
            for (number, size) in (0..).zip(sizes().chain(sizes())) {
                publisher.publish_bytes(&payload(number, size)).unwrap();
            }
            publisher
        });
        for (number, size) in (0..).zip(sizes().chain(sizes())) {
            must_get(&mut subscriber, number, size);
        }
        assert_eq!(sending.join().unwrap().stats().refused, 0);
    }
}

#[test]
fn large_messages_of_several_publishers_arrive_whole() {
    for compression in [None, Some(Compression::default())] {
        let pair = Pair::new(compression);
        let topics = [
            ("a", Priority::Normal, 3 * FRAGMENT_BYTES + 5),
            ("b", Priority::Normal, 40 * FRAGMENT_BYTES),
            ("c", Priority::Bulk, 7 * FRAGMENT_BYTES - 1),
            ("d", Priority::Urgent, 2 * FRAGMENT_BYTES + 1),
        ];
        let ends = topics.map(|(topic, priority, size)| (pair.ends(topic, priority), size));
        let threads = ends.map(|((mut publisher, mut subscriber), size)| {
            let sending = std::thread::spawn(move || {
                for number in 0..20 {
                    publisher.publish_bytes(&payload(number, size)).unwrap();
                }
                publisher
            });
            let receiving = std::thread::spawn(move || {
                for number in 0..20 {
                    must_get(&mut subscriber, number, size);
                }
            });
            (sending, receiving)
        });
        for (sending, receiving) in threads {
            receiving.join().unwrap();
            sending.join().unwrap();
        }
    }
}

#[test]
fn bytes_that_trickle_make_the_same_fragments() {
    for compression in [None, Some(Compression::default())] {
        let pair = Pair::new(compression);
        let (mut publisher, mut subscriber) = pair.ends("t", Priority::Normal);
        pair.proxy.trickle(true);
        for (number, size) in (0..).zip([FRAGMENT_BYTES + 1, 30, 2 * FRAGMENT_BYTES]) {
            publisher.publish_bytes(&payload(number, size)).unwrap();
            must_get(&mut subscriber, number, size);
        }
    }
}

#[test]
fn a_link_that_breaks_within_a_message_takes_it_along_and_that_is_counted() {
    for compression in [None, Some(Compression::default())] {
        let pair = Pair::new(compression);
        let subscriber = pair.far.subscriber::<Raw>("t");
        let overflow = Overflow::KeepLast(64);
        let mut subscriber = subscriber.overflow(overflow).build().unwrap();
        let publisher = pair.near.publisher::<Raw>("t");
        let mut publisher = publisher.build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for round in 0..6 {
            for _ in 0..4 {
                let number = publisher.stats().sent;
                let size = 20 * FRAGMENT_BYTES + 5;
                publisher.publish_bytes(&payload(number, size)).unwrap();
            }
            // In the middle of the first of them, or of what comes next.
            match round % 3 {
                0 => pair.proxy.cut_in_mid_frame(),
                1 => pair.proxy.reset_all(),
                _ => {}
            }
        }
        eventually("all are counted", || {
            let number = publisher.stats().sent;
            publisher.publish_bytes(&payload(number, 8)).unwrap();
            while let Some(sample) = subscriber.try_recv().unwrap() {
                assert!(is_intact(&sample, sample.sequence()));
            }
            let (stats, sent) = (subscriber.stats(), number + 1);
            assert!(stats.received + stats.lost <= sent, "counted twice");
            stats.received + stats.lost == sent
        });
    }
}

/// A subscriber in this process to publishers by hand.
struct Victim {
    mesh: Mesh,
    door: String,
    _node: Node,
    subscriber: Subscriber<Raw>,
}

impl Victim {
    fn new() -> Self {
        let (mesh, door) = (Mesh::start(), free_address());
        let builder = mesh.builder("victim").compression(Compression::default());
        let builder = builder.transports(Transports::Network).listen(&door);
        let node = builder.build_blocking().unwrap();
        let subscriber = node.subscriber::<Raw>("t").build().unwrap();
        Self {
            mesh,
            door,
            _node: node,
            subscriber,
        }
    }
}

fn beginning(channel: u64, sequence: u64, len: usize) -> Vec<u8> {
    let header = MessageHeader {
        channel,
        sequence,
        sent_ns: 0,
        len,
    };
    header.encode_beginning().to_vec()
}

/// A fragment with these bytes behind it, which are compressed if it is said to have more.
fn fragment(channel: u64, len: usize, bytes: &[u8]) -> Vec<u8> {
    let header = FragmentHeader {
        channel,
        len,
        wire_len: bytes.len(),
    };
    [&header.encode()[..], bytes].concat()
}

/// All of a message.
fn fragments(channel: u64, sequence: u64, size: usize) -> Vec<u8> {
    let payload = payload(sequence, size);
    let parts = payload.chunks(FRAGMENT_BYTES);
    let parts = parts.map(|part| fragment(channel, part.len(), part));
    let beginning = std::iter::once(beginning(channel, sequence, size));
    beginning.chain(parts).flatten().collect()
}

/// A hostile word: what it is, and how it is said over a channel.
type Case = (&'static str, fn(u64) -> Vec<u8>);

/// Two parts; so few bytes that nothing is said of them.
const SIZE: usize = FRAGMENT_BYTES + LAST_BYTES;
const LAST_BYTES: usize = FRAGMENT_BYTES - 1000;
static PART: [u8; FRAGMENT_BYTES] = [7; FRAGMENT_BYTES];

const CASES: [Case; 10] = [
    ("a fragment of no message", |to| {
        fragment(to, 100, &[7; 100])
    }),
    ("one more than the message has", |to| {
        [fragments(to, 1, SIZE), fragment(to, 1, &[7])].concat()
    }),
    ("beyond the end of the message", |to| {
        let whole = fragment(to, FRAGMENT_BYTES, &PART);
        [beginning(to, 1, SIZE - 1), whole.clone(), whole].concat()
    }),
    ("a message within another", |to| {
        beginning(to, 1, SIZE).repeat(2)
    }),
    ("a message that is too small to be cut", |to| {
        let mut words = beginning(to, 1, SIZE);
        words[4..8].copy_from_slice(&100_u32.to_le_bytes());
        words
    }),
    ("a message larger than any", |to| {
        let mut words = beginning(to, 1, MESSAGE_BYTES_MAX);
        words[7] = 0xff;
        words
    }),
    ("a fragment larger than any", |to| {
        let mut part = fragment(to, 100, &[7; 100]);
        part[6] = 2;
        part[18] = 2;
        [beginning(to, 1, 4 * SIZE), part].concat()
    }),
    ("one that is compressed too well", |to| {
        [beginning(to, 1, SIZE), fragment(to, 256, &[7])].concat()
    }),
    ("one whose bytes are garbage", |to| {
        [beginning(to, 1, SIZE), fragment(to, 3000, &[0x85; 100])].concat()
    }),
    ("a later message within, and then its end", |to| {
        let mut words = fragments(to, 1, SIZE);
        let end = words.split_off(words.len() - LAST_BYTES - 24);
        [words, message(to, 2, b"later"), end].concat()
    }),
];

#[test]
fn fragments_that_cannot_be_end_the_link_and_leave_no_message() {
    let mut victim = Victim::new();
    let fake = FakePublisher::join(&victim.mesh.address, 0);
    for (what, words) in CASES {
        // Each link goes on at a number that is far beyond the one before.
        let (mut link, channel) = fake.link_that_packs(&victim.door, 0, true);
        assert!(link.is_cut_off_by(&words(channel)), "{what}");
        eventually("the channel is over", || {
            while let Some(sample) = victim.subscriber.try_recv().unwrap() {
                let is_whole = is_intact(&sample, 1) && sample.len() == SIZE;
                assert!(is_whole || &*sample == b"later", "{what}");
            }
            victim.subscriber.publisher_count() == 0
        });
    }
}

#[test]
fn compressed_fragments_are_refused_where_that_was_not_agreed_on() {
    let victim = Victim::new();
    let fake = FakePublisher::join(&victim.mesh.address, 0);
    let (mut link, channel) = fake.link(&victim.door, 0);
    let packed = lz4_flex::block::compress(&PART);
    let words = [
        beginning(channel, 0, SIZE),
        fragment(channel, FRAGMENT_BYTES, &packed),
    ];
    assert!(link.is_cut_off_by(&words.concat()));
}

#[test]
fn a_message_that_is_never_finished_is_counted_by_the_next_link() {
    let mut victim = Victim::new();
    let fake = FakePublisher::join(&victim.mesh.address, 0);
    let whole = fragments(0, 1, SIZE);
    for cut in [32, 40, 56, 5000, whole.len() / 2, whole.len() - 1] {
        let first = victim.subscriber.stats();
        let sequence = first.received + first.lost;
        let (mut link, channel) = fake.link(&victim.door, sequence);
        link.send(&message(channel, sequence, &payload(sequence, 10)));
        let words = fragments(channel, sequence + 1, SIZE);
        link.send(&words[..cut]);
        link.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(link.hear(), None);
        let sample = victim.subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!(sample.sequence(), sequence);
        drop(sample);
        let (_link, _) = fake.link(&victim.door, sequence + 2);
        eventually("it is counted", || {
            assert!(victim.subscriber.try_recv().unwrap().is_none());
            victim.subscriber.stats().lost == first.lost + 1
        });
    }
}

#[test]
fn fragments_of_unknown_channels_are_passed_over() {
    let mut victim = Victim::new();
    let fake = FakePublisher::join(&victim.mesh.address, 0);
    let (mut link, channel) = fake.link_that_packs(&victim.door, 0, true);
    link.send(&fragments(channel + 7, 0, 10 * FRAGMENT_BYTES));
    link.send(&fragment(channel + 7, 9, b"unlooked"));
    // And parts of two channels in turn, with others between them.
    let known = fragments(channel, 0, SIZE);
    let unknown = fragments(channel + 1, 0, SIZE);
    let (start, end) = known.split_at(known.len() - LAST_BYTES - 24);
    link.send(&[&unknown[..FRAGMENT_BYTES + 56], start].concat());
    link.send(&[&unknown[FRAGMENT_BYTES + 56..], end].concat());
    link.send(&message(channel, 1, &payload(1, 50)));
    must_get(&mut victim.subscriber, 0, SIZE);
    must_get(&mut victim.subscriber, 1, 50);
}

#[test]
fn messages_that_only_begin_take_no_memory() {
    let (mesh, door) = (Mesh::start(), free_address());
    let mut victim = mesh.child_with("victim", &format!("tcp listen={door}"));
    assert_eq!(victim.ask("sub t keep 16 4"), "ok");
    let memory = memory_kb(victim.id());
    let fakes: Vec<_> = (0..4)
        .map(|number| {
            let fake = FakePublisher::join(&mesh.address, number);
            let (mut link, channel) = fake.link(&door, 0);
            let words = [
                beginning(channel, 0, 256 << 20),
                fragment(channel, 100, &[0x55; 100]),
                fragment(channel, FRAGMENT_BYTES, &PART)[..5000].to_vec(),
            ];
            link.send(&words.concat());
            (fake, link)
        })
        .collect();
    // They are silent from now on.
    eventually("all links are given up", || {
        let risen = memory_kb(victim.id()).saturating_sub(memory);
        assert!(risen < 32 << 10, "{risen} KiB more");
        number(&victim.ask("drain"), "publishers") == 0
    });
    drop(fakes);
}
