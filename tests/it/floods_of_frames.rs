//! Peers that are past the handshake and say too much, or what cannot be.

use std::io::Write as _;
use std::net::Shutdown;

use shmesh::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use shmesh::link::handshake::Purpose;
use shmesh::link::session::{LinkFrame, Path, Session};
use shmesh::link::wire::{Credit, HEADER_BYTES, Kind, MESSAGE_HEADER_BYTES, MessageHeader, encode};
use shmesh::membership::{FromCoordinator, FromNode};
use shmesh::{HostId, Node, NodeId, Raw, Subscriber, Transports};

use crate::coordinator::Server;
use crate::floods::{Victim, memory_kb};
use crate::stranger::{FakePublisher, Stranger, announced, attach, message};
use crate::support::{
    Mesh, PATIENCE, TempDir, eventually, free_address, is_intact, number, payload,
};

fn link_frame(frame: &LinkFrame) -> Vec<u8> {
    encode(Kind::Link, frame).unwrap()
}

/// A header with nothing behind it.
fn empty_frame(kind: u8) -> Vec<u8> {
    let mut header = announced(0, 0)[..HEADER_BYTES].to_vec();
    header[2] = kind;
    header
}

#[test]
fn a_flood_of_frames_ends_its_link_and_no_other() {
    let mut victim = Victim::new();
    let memory = victim.memory_kb();
    for (what, words) in [
        ("heartbeats", link_frame(&LinkFrame::Heartbeat)),
        ("ends", link_frame(&LinkFrame::Detach { channel: 1 })),
        ("readiness", link_frame(&LinkFrame::Ready { channel: 1 })),
        ("empty frames", empty_frame(3)),
        ("empty frames of no kind", empty_frame(77)),
        ("garbage", vec![0x55; 1000]),
        ("zeroes", vec![0; 1000]),
        ("half a magic", b"sm".to_vec()),
    ] {
        let stranger = Stranger::link(&victim.door);
        assert!(stranger.repeat_until_cut_off(&words), "{what}");
    }
    let risen = victim.memory_kb().saturating_sub(memory);
    assert!(risen < 8 << 10, "{risen} KiB more");
    victim.must_be_well();
}

#[test]
fn wishes_without_end_end_the_link_when_their_answers_are_not_read() {
    let mut victim = Victim::new();
    let memory = victim.memory_kb();
    let mut channel = 0;
    let mut stranger = Stranger::link(&victim.door);
    let is_over = (0..100_000).any(|_| {
        let wishes = (0..64).flat_map(|_| {
            channel += 1;
            [
                link_frame(&attach(channel, true)),
                link_frame(&LinkFrame::Detach { channel }),
            ]
        });
        let wishes: Vec<u8> = wishes.flatten().collect();
        stranger.stream.write_all(&wishes).is_err()
    });
    assert!(is_over, "it is cut off");
    let risen = victim.memory_kb().saturating_sub(memory);
    assert!(risen < 8 << 10, "{risen} KiB more");
    victim.must_be_well();
}

#[test]
fn a_flood_at_the_coordinator_is_refused_with_a_reason() {
    let server = Server::start("0");
    let memory = memory_kb(server.id());
    let id = NodeId::random().unwrap();
    let mut stranger = Stranger::join(&server.address, Purpose::Membership, id);
    let info = shmesh::topology::NodeInfo {
        id,
        name: "flood".into(),
        host: HostId(1),
        uid: 0,
        pid: 0,
        socket: String::new(),
        addresses: Vec::new(),
    };
    let word = |word: &FromNode| encode(Kind::FromNode, word).unwrap();
    stranger.send(&word(&FromNode::Register(info)));
    // Read beside the flood, so that the last word is not lost with the connection.
    let mut reader = stranger.stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = std::io::copy(&mut reader, &mut said);
        said
    });
    assert!(stranger.repeat_until_cut_off(&word(&FromNode::Heartbeat)));
    let said = reading.join().unwrap();
    let reason = b"number of changes ahead of the rate";
    assert!(said.windows(reason.len()).any(|part| part == reason));
    for words in [empty_frame(1), empty_frame(4), vec![0x55; 100]] {
        let id = NodeId::random().unwrap();
        let stranger = Stranger::join(&server.address, Purpose::Membership, id);
        assert!(stranger.repeat_until_cut_off(&words));
    }
    let risen = memory_kb(server.id()).saturating_sub(memory);
    assert!(risen < 8 << 10, "{risen} KiB more");
    let dir = TempDir::new();
    let builder = Node::builder("good").coordinator(&server.address);
    let builder = builder.runtime_dir(dir.path()).without_signal_handling();
    builder.build_blocking().unwrap();
}

#[test]
fn messages_for_unknown_channels_are_passed_over() {
    let mut victim = Victim::new();
    let memory = victim.memory_kb();
    let mut stranger = Stranger::link(&victim.door);
    for size in [0, 1, 96, 97, 16_384, 100_000, 5_000_000] {
        for channel in [0, 7, u64::MAX] {
            stranger.send(&message(channel, u64::MAX, &payload(channel, size)));
        }
    }
    let small = message(3, 3, &payload(3, 100)).repeat(200_000);
    stranger.send(&small);
    // The words after them are understood: this asks for a publisher that is not there.
    let LinkFrame::Attach(mut wish) = attach(5, true) else {
        panic!("a wish")
    };
    wish.publisher = 99;
    stranger.say(&LinkFrame::Attach(wish));
    assert_eq!(stranger.hear(), Some(LinkFrame::Closed { channel: 5 }));
    let risen = victim.memory_kb().saturating_sub(memory);
    assert!(risen < 8 << 10, "{risen} KiB more");
    victim.must_be_well();
}

#[test]
fn lengths_beyond_the_limit_and_foreign_words_end_the_link() {
    let mut victim = Victim::new();
    let beyond = |len: usize| u32::try_from(len).unwrap() + 1;
    let mut long_frame = empty_frame(3);
    let len = beyond(FRAME_BYTES_MAX - HEADER_BYTES);
    long_frame[4..8].copy_from_slice(&len.to_le_bytes());
    let bells = LinkFrame::Bells {
        count: 4,
        needs_fences: false,
    };
    let segment = LinkFrame::Segment {
        channel: 1,
        number: 1,
        bytes: 1 << 40,
    };
    let LinkFrame::Attach(mut deep) = attach(1, true) else {
        panic!("a wish")
    };
    deep.depth = u32::MAX;
    for words in [
        announced(1, beyond(MESSAGE_BYTES_MAX)),
        announced(1, u32::MAX),
        long_frame,
        encode(Kind::FromNode, &FromNode::Heartbeat).unwrap(),
        encode(Kind::FromCoordinator, &FromCoordinator::Heartbeat).unwrap(),
        link_frame(&bells),
        link_frame(&segment),
        link_frame(&LinkFrame::Attach(deep)),
        link_frame(&attach(1, true)).repeat(2),
    ] {
        // As strict as the words by themselves.
        let mut stranger = Stranger::link(&victim.door);
        stranger.send(&words);
        assert!(stranger.is_cut_off(), "{words:02x?}");
    }
    assert!(
        Session::new(Path::Network)
            .receive(&link_frame(&bells), 0)
            .is_err()
    );
    victim.must_be_well();
}

/// A subscriber in this process to publishers by hand.
struct Listening {
    mesh: Mesh,
    door: String,
    _node: Node,
    subscriber: Subscriber<Raw>,
}

impl Listening {
    fn new() -> Self {
        let (mesh, door) = (Mesh::start(), free_address());
        let builder = mesh.builder("victim").transports(Transports::Network);
        let node = builder.listen(&door).build_blocking().unwrap();
        let overflow = shmesh::Overflow::KeepLast(64);
        let subscriber = node.subscriber::<Raw>("t").overflow(overflow);
        let subscriber = subscriber.build().unwrap();
        Self {
            mesh,
            door,
            _node: node,
            subscriber,
        }
    }

    /// The next message is that one, whole, and none was lost before it.
    fn must_get(&mut self, sequence: u64, size: usize) {
        let sample = self.subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!((sample.sequence(), sample.len()), (sequence, size));
        assert!(is_intact(&sample, sequence));
        drop(sample);
        assert_eq!(self.subscriber.stats().lost, 0);
    }

    /// The channel over that link is over, and then the link itself.
    fn must_end(&mut self, mut link: Stranger) {
        eventually("the channel is over", || {
            assert!(self.subscriber.try_recv().unwrap().is_none());
            self.subscriber.publisher_count() == 0
        });
        assert_eq!(link.hear(), None);
    }

    /// True if the node has read all that came over that link.
    fn has_read(&self, link: &Stranger) -> bool {
        let port = |address: &str| {
            let (_, port) = address.rsplit_once(':').unwrap();
            format!(":{:04X}", port.parse::<u16>().unwrap())
        };
        let ours = port(&link.stream.local_addr().unwrap().to_string());
        let theirs = port(&self.door);
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut lines = table.lines().map(|line| line.split_whitespace());
        lines.any(|mut words| {
            let words: [&str; 5] = std::array::from_fn(|_| words.next().unwrap_or_default());
            let [_, local, remote, _, queues] = words;
            let is_it = local.ends_with(&theirs) && remote.ends_with(&ours);
            is_it && queues.ends_with(":00000000")
        })
    }
}

fn numbered(channel: u64, sequence: u64, size: usize) -> Vec<u8> {
    message(channel, sequence, &payload(sequence, size))
}

#[test]
fn a_sequence_that_goes_back_ends_the_link_and_nothing_comes_twice() {
    let mut listening = Listening::new();
    let fake = FakePublisher::join(&listening.mesh.address, 0);
    let mut sent = 0;
    for (size, back) in [(40, 1), (40, 2), (300, 1), (20_000, 1), (20_000, 3)] {
        let (mut link, channel) = fake.link(&listening.door, sent);
        for sequence in sent..sent + 3 {
            link.send(&numbered(channel, sequence, size));
            listening.must_get(sequence, size);
        }
        sent += 3;
        link.send(&numbered(channel, sent - back, size));
        listening.must_end(link);
    }
    assert!(listening.subscriber.try_recv().unwrap().is_none());
    let stats = listening.subscriber.stats();
    assert_eq!((stats.received, stats.lost), (sent, 0));
}

#[test]
fn a_gap_of_any_size_is_counted() {
    let mut listening = Listening::new();
    let fake = FakePublisher::join(&listening.mesh.address, 0);
    let (mut link, channel) = fake.link(&listening.door, 0);
    link.send(&numbered(channel, 0, 10));
    listening.must_get(0, 10);
    link.send(&numbered(channel, 1 << 40, 10));
    let sample = listening.subscriber.recv_blocking(PATIENCE).unwrap();
    assert_eq!(sample.lost_before(), (1 << 40) - 1);
    drop(sample);
    link.say(&LinkFrame::Passed {
        channel,
        sequence: 1 << 41,
    });
    eventually("what was passed over is counted", || {
        listening.subscriber.stats().lost == (1 << 41) - 2
    });
}

#[test]
fn messages_cut_anywhere_are_the_same_messages() {
    let mut listening = Listening::new();
    let fake = FakePublisher::join(&listening.mesh.address, 0);
    let (mut link, channel) = fake.link(&listening.door, 0);
    let header = MESSAGE_HEADER_BYTES;
    let mut sequence = 0;
    for (size, cuts) in [
        (40, (1..header + 40).collect::<Vec<_>>()),
        (300, (1..header + 300).step_by(7).collect()),
        (
            20_000,
            (1..header + 4).chain([500, 16_000, 20_031]).collect(),
        ),
    ] {
        for cut in cuts {
            let bytes = numbered(channel, sequence, size);
            link.send(&bytes[..cut]);
            eventually("the first part is read", || listening.has_read(&link));
            link.send(&bytes[cut..]);
            listening.must_get(sequence, size);
            sequence += 1;
        }
    }
}

#[test]
fn frames_cut_anywhere_are_the_same_frames() {
    let mut listening = Listening::new();
    let fake = FakePublisher::join(&listening.mesh.address, 0);
    let (mut link, channel) = fake.link(&listening.door, 0);
    link.send(&numbered(channel, 0, 10));
    listening.must_get(0, 10);
    let len = link_frame(&LinkFrame::Passed {
        channel,
        sequence: 2,
    });
    for (lost, cut) in (1..).zip(1..len.len()) {
        let frame = link_frame(&LinkFrame::Passed {
            channel,
            sequence: 1 + lost,
        });
        link.send(&frame[..cut]);
        eventually("the first part is read", || listening.has_read(&link));
        link.send(&frame[cut..]);
        eventually("the frame is understood", || {
            listening.subscriber.stats().lost == lost
        });
    }
}

#[test]
fn a_message_whose_end_is_missing_never_comes() {
    let mut listening = Listening::new();
    let fake = FakePublisher::join(&listening.mesh.address, 0);
    let header = MESSAGE_HEADER_BYTES;
    let cuts = [
        (40, (0..header + 40).step_by(3).collect::<Vec<_>>()),
        (300, vec![header, header + 1, header + 299]),
        (20_000, vec![header, header + 1, 16_000, header + 19_999]),
    ];
    let mut sequence = 0;
    for (size, cuts) in cuts {
        for cut in cuts {
            let (mut link, channel) = fake.link(&listening.door, sequence);
            link.send(&numbered(channel, sequence, size));
            link.send(&numbered(channel, sequence + 1, size)[..cut]);
            link.stream.shutdown(Shutdown::Write).unwrap();
            listening.must_get(sequence, size);
            listening.must_end(link);
            // It was not sent at all, as far as its publisher knows.
            sequence += 1;
        }
    }
    assert!(listening.subscriber.try_recv().unwrap().is_none());
    assert_eq!(listening.subscriber.stats().lost, 0);
}

#[test]
fn a_message_that_is_announced_and_does_not_come_takes_no_memory() {
    let (mesh, door) = (Mesh::start(), free_address());
    let mut victim = mesh.child_with("victim", &format!("tcp listen={door}"));
    assert_eq!(victim.ask("sub t keep 16 4"), "ok");
    let memory = memory_kb(victim.id());
    let fakes: Vec<_> = (0..4)
        .map(|number| {
            let fake = FakePublisher::join(&mesh.address, number);
            let (mut link, channel) = fake.link(&door, 0);
            link.send(&[&announced(channel, 256 << 20)[..], &[0x55; 100]].concat());
            (fake, link)
        })
        .collect();
    // They are silent from now on.
    eventually("all links are given up", || {
        let risen = memory_kb(victim.id()).saturating_sub(memory);
        assert!(risen < 8 << 10, "{risen} KiB more");
        number(&victim.ask("drain"), "publishers") == 0
    });
    drop(fakes);
}

#[test]
fn credits_without_end_end_the_link() {
    let mut victim = Victim::new();
    for words in [
        Credit {
            channel: 1,
            taken: 1,
        }
        .encode()
        .to_vec(),
        link_frame(&LinkFrame::Passed {
            channel: 1,
            sequence: 1,
        }),
    ] {
        let stranger = Stranger::link(&victim.door);
        assert!(stranger.repeat_until_cut_off(&words));
    }
    victim.must_be_well();
}

#[test]
fn a_link_that_ended_is_closed_though_its_subscriber_does_not_receive() {
    let mut listening = Listening::new();
    let fake = FakePublisher::join(&listening.mesh.address, 0);
    let (mut link, channel) = fake.link(&listening.door, 0);
    link.send(&numbered(channel, 0, 40));
    listening.must_get(0, 40);
    link.send(&numbered(channel, 0, 40));
    // Nobody calls a method of the subscriber meanwhile.
    assert_eq!(link.hear(), None);
}

#[test]
fn messages_of_another_host_have_no_age_and_those_of_ours_do() {
    let ours = HostId::of_this_host().unwrap();
    for (host, expected) in [(ours, Some(5)), (HostId(1), None)] {
        let mut listening = Listening::new();
        let fake = FakePublisher::join_from(host, &listening.mesh.address, 0);
        let (mut link, channel) = fake.link(&listening.door, 0);
        let header = MessageHeader {
            channel,
            sequence: 0,
            sent_ns: 5,
            len: 0,
        };
        link.send(&header.encode());
        let sample = listening.subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!(sample.sent_ns(), expected);
    }
}
