//! Compressed payloads: where both ends want them and they help, whole, counted, and never more
//! than they may be.

use shmesh::limits::{COMPRESS_BYTES_MAX, PACKED_RATIO_MAX};
use shmesh::link::wire::{MessageHeader, PackedHeader};
use shmesh::{Compression, Node, NodeBuilder, Overflow, Publisher, Raw, Subscriber, Transports};

use crate::proxy::Proxy;
use crate::stranger::{FakePublisher, message};
use crate::support::{Mesh, PATIENCE, eventually, free_address, is_intact, payload};

/// Around the bound, around what is read at once, and the largest that is compressed and beyond.
const SIZES: [usize; 9] = [
    0,
    96,
    1024,
    1025,
    20_000,
    131_072,
    3_000_001,
    COMPRESS_BYTES_MAX,
    COMPRESS_BYTES_MAX + 1,
];

const WAITING: Overflow = Overflow::Block {
    depth: 8,
    deadline: PATIENCE,
};

fn compressing(is_it: bool) -> impl Fn(NodeBuilder) -> NodeBuilder {
    move |builder| {
        if is_it {
            builder.compression(Compression::default())
        } else {
            builder
        }
    }
}

/// A publisher and a subscriber in nodes that compress or do not, with a proxy between them.
struct Pair {
    proxy: Proxy,
    publisher: Publisher<Raw>,
    subscriber: Subscriber<Raw>,
    _nodes: [Node; 2],
    _mesh: Mesh,
}

impl Pair {
    fn new(sender: bool, receiver: bool, overflow: Overflow) -> Self {
        let mesh = Mesh::start();
        let proxy = Proxy::start();
        let receiver = proxy.node_behind_with(&mesh, "receiver", compressing(receiver));
        let sender = loop {
            let builder = compressing(sender)(mesh.builder("sender"));
            let builder = builder.transports(Transports::Network);
            let node = builder.build_blocking().unwrap();
            // The smaller id dials, and only that way leads through the proxy.
            if node.id() < receiver.id() {
                break node;
            }
        };
        let subscriber = receiver.subscriber::<Raw>("t").overflow(overflow);
        let subscriber = subscriber.build().unwrap();
        let mut publisher = sender.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        assert!(proxy.bytes() > 0, "it is between them");
        Self {
            proxy,
            publisher,
            subscriber,
            _nodes: [sender, receiver],
            _mesh: mesh,
        }
    }

    fn send(&mut self, size: usize) {
        let number = self.publisher.stats().sent;
        let payload = payload(number, size);
        self.publisher.publish_bytes(&payload).unwrap();
    }
}

/// What goes over the wire for some messages.
fn bytes_on_the_wire(sender: bool, receiver: bool, payloads: &[Vec<u8>]) -> u64 {
    let Pair {
        proxy,
        publisher,
        subscriber,
        ..
    } = &mut Pair::new(sender, receiver, WAITING);
    let before = proxy.bytes();
    for payload in payloads {
        publisher.publish_bytes(payload).unwrap();
        let sample = subscriber.recv_blocking(PATIENCE).unwrap();
        assert!(*sample == payload[..], "{} bytes", payload.len());
        assert!(sample.bytes().as_ptr().addr().is_multiple_of(16));
    }
    let stats = subscriber.stats();
    assert_eq!((stats.received, stats.lost), (payloads.len() as u64, 0));
    proxy.bytes() - before
}

#[test]
fn payloads_shrink_only_where_both_ends_want_it() {
    // What is too small, or too large, goes as it is anyway.
    let payloads: Vec<_> = (0..).zip(SIZES).map(|(n, size)| payload(n, size)).collect();
    let is_compressed = |payload: &&Vec<u8>| (1025..=COMPRESS_BYTES_MAX).contains(&payload.len());
    let sum = |payloads: &mut dyn Iterator<Item = &Vec<u8>>| -> u64 {
        payloads.map(|payload| payload.len() as u64).sum()
    };
    let all = sum(&mut payloads.iter());
    let compressible = sum(&mut payloads.iter().filter(is_compressed));
    for (sender, receiver) in [(false, false), (true, false), (false, true)] {
        assert!(bytes_on_the_wire(sender, receiver, &payloads) >= all);
    }
    let bytes = bytes_on_the_wire(true, true, &payloads);
    assert!(bytes >= all - compressible, "{bytes}");
    assert!(bytes < all - compressible + compressible / 20, "{bytes}");
}

#[test]
fn what_does_not_shrink_goes_as_it_is() {
    let mut seed = 7_u64;
    let mut noise = |len| -> Vec<u8> {
        let words = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 32).to_le_bytes()[0]
        });
        words.take(len).collect()
    };
    let payloads: Vec<_> = [97, 2000, 70_000, 1_000_000].map(&mut noise).into();
    let all = payloads.iter().map(Vec::len).sum::<usize>() as u64;
    let bytes = bytes_on_the_wire(true, true, &payloads);
    // Nor does it get larger: the rest is headers, credit and heartbeats.
    assert!(bytes >= all && bytes < all + 100_000, "{bytes} for {all}");
}

#[test]
fn messages_over_links_that_break_are_counted_exactly() {
    let mut pair = Pair::new(true, true, Overflow::KeepLast(4096));
    for round in 0..4 {
        for _ in 0..100 {
            pair.send(50_000);
        }
        if round % 2 == 0 {
            pair.proxy.cut_in_mid_frame();
        } else {
            pair.proxy.reset_all();
        }
        for _ in 0..100 {
            pair.send(2000);
            std::thread::yield_now();
        }
    }
    eventually("all are counted", || {
        pair.send(3000);
        while let Some(sample) = pair.subscriber.try_recv().unwrap() {
            assert!(is_intact(&sample, sample.sequence()));
        }
        let (stats, sent) = (pair.subscriber.stats(), pair.publisher.stats().sent);
        assert!(stats.received + stats.lost <= sent, "counted twice");
        stats.received + stats.lost == sent
    });
}

#[test]
fn a_compressed_message_may_come_in_pieces() {
    let mut pair = Pair::new(true, true, WAITING);
    pair.proxy.trickle(true);
    for (number, size) in (0..).zip([2000, 100, 100_000, 1025]) {
        pair.send(size);
        let sample = pair.subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!((sample.sequence(), sample.len()), (number, size));
        assert!(is_intact(&sample, number));
    }
    assert_eq!(pair.subscriber.stats().lost, 0);
}

/// A node that a stranger says it is a publisher to.
struct Victim {
    mesh: Mesh,
    door: String,
    _node: Node,
    subscriber: Subscriber<Raw>,
}

impl Victim {
    fn new(is_compressing: bool) -> Self {
        let (mesh, door) = (Mesh::start(), free_address());
        let builder = compressing(is_compressing)(mesh.builder("victim"));
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

    /// The next message is that one, whole, after so many that were lost.
    fn must_get(&mut self, sequence: u64, size: usize, lost: u64) {
        let sample = self.subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!((sample.sequence(), sample.len()), (sequence, size));
        assert!(is_intact(&sample, sequence));
        assert_eq!(sample.lost_before(), lost);
    }
}

/// A compressed message, its payload said to be of `len` bytes.
fn packed(channel: u64, sequence: u64, len: usize, block: &[u8]) -> Vec<u8> {
    let message = MessageHeader {
        channel,
        sequence,
        sent_ns: 0,
        len,
    };
    let packed_len = block.len();
    let header = PackedHeader {
        message,
        packed_len,
    };
    [&header.encode()[..], block].concat()
}

fn block_of(number: u64, size: usize) -> Vec<u8> {
    lz4_flex::block::compress(&payload(number, size))
}

#[test]
fn a_payload_that_is_none_ends_its_link_and_is_counted() {
    let mut victim = Victim::new(true);
    let fake = FakePublisher::join(&victim.mesh.address, 0);
    let whole = block_of(1, 50_000);
    let mut damaged = whole.clone();
    damaged[20..].fill(0);
    let few = [&[0x10][..], &[7], &[1, 0]].concat();
    let cases: [(&str, usize, &[u8]); 7] = [
        ("damaged", 50_000, &damaged),
        ("cut short", 50_000, &whole[..whole.len() - 1]),
        ("longer than said", 49_999, &whole),
        ("shorter than said", 50_001, &whole),
        ("an empty block", 200, &[0]),
        ("small ones, too", 90, &few),
        (
            "garbage for much memory",
            COMPRESS_BYTES_MAX,
            &[0x85; 70_000],
        ),
    ];
    for (turn, (what, len, block)) in (0..).zip(cases) {
        // The one before was the other of each pair.
        let good = 2 * turn;
        let (mut link, channel) = fake.link_that_packs(&victim.door, good, true);
        link.send(&packed(channel, good, 3000, &block_of(good, 3000)));
        victim.must_get(good, 3000, good.min(1));
        assert!(
            link.is_cut_off_by(&packed(channel, good + 1, len, block)),
            "{what}"
        );
        eventually("the channel is over", || {
            assert!(victim.subscriber.try_recv().unwrap().is_none(), "{what}");
            victim.subscriber.publisher_count() == 0
        });
    }
    let _link = fake.link_that_packs(&victim.door, 14, true);
    eventually("all are counted", || {
        assert!(victim.subscriber.try_recv().unwrap().is_none());
        let stats = victim.subscriber.stats();
        (stats.received, stats.lost) == (7, 7)
    });
}

#[test]
fn lengths_that_cannot_be_end_the_link_at_the_header() {
    let mut victim = Victim::new(true);
    let fake = FakePublisher::join(&victim.mesh.address, 0);
    let block = block_of(0, 3000);
    let bytes = |len: usize| u32::try_from(len).unwrap().to_le_bytes();
    for (len, packed_len) in [
        (COMPRESS_BYTES_MAX + 1, 100_000),
        (100 * PACKED_RATIO_MAX + 1, 100),
        (COMPRESS_BYTES_MAX, 10),
        (1000, 1000),
        (0, 0),
    ] {
        let (mut link, channel) = fake.link_that_packs(&victim.door, 0, true);
        let mut header = packed(channel, 0, 3000, &block)[..36].to_vec();
        header[4..8].copy_from_slice(&bytes(len));
        header[32..].copy_from_slice(&bytes(packed_len));
        // Nothing follows that could be waited for.
        assert!(link.is_cut_off_by(&header), "{len} in {packed_len}");
    }
    let (mut link, channel) = fake.link_that_packs(&victim.door, 0, true);
    link.send(&packed(channel, 0, 3000, &block));
    victim.must_get(0, 3000, 0);
}

#[test]
fn nobody_has_to_take_what_was_not_agreed_on() {
    for (ours, theirs) in [(false, false), (false, true), (true, false)] {
        let victim = Victim::new(ours);
        let fake = FakePublisher::join(&victim.mesh.address, 0);
        let (mut link, channel) = fake.link_that_packs(&victim.door, 0, theirs);
        let message = packed(channel, 0, 3000, &block_of(0, 3000));
        assert!(link.is_cut_off_by(&message), "{ours} {theirs}");
    }
}

#[test]
fn compressed_messages_of_unknown_channels_are_passed_over() {
    let mut victim = Victim::new(true);
    let fake = FakePublisher::join(&victim.mesh.address, 0);
    let (mut link, channel) = fake.link_that_packs(&victim.door, 0, true);
    // More than is read at once, so that it comes in pieces.
    let block = vec![0x85; 300_000];
    link.send(&packed(channel + 7, 0, COMPRESS_BYTES_MAX, &block));
    link.send(&packed(
        channel + 7,
        1,
        3000,
        b"whatever that is, it is not looked at",
    ));
    link.send(&packed(channel, 0, 2000, &block_of(0, 2000)));
    link.send(&message(channel, 1, &payload(1, 50)));
    victim.must_get(0, 2000, 0);
    victim.must_get(1, 50, 0);
}
