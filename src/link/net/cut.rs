//! A large message that goes out in fragments. Sans-IO.

use std::ops::Range;

use shmesh_shm::Received;

use crate::compression::Packer;
use crate::limits::FRAGMENT_BYTES;
use crate::link::wire::{FragmentHeader, MessageHeader};

/// A message and how far it is put into batches. Its payload lies where it is until all is written.
#[derive(Debug)]
pub(super) struct Cut {
    channel: u64,
    message: Received,
    /// Bytes of the payload in the fragments so far.
    at: usize,
}

impl Cut {
    pub(super) fn new(channel: u64, message: Received) -> Self {
        let at = 0;
        Self {
            channel,
            message,
            at,
        }
    }

    pub(super) fn channel(&self) -> u64 {
        self.channel
    }

    /// Bytes of the payload in the fragments so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_done(&self) -> bool {
        self.at == self.message.len()
    }

    pub(super) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.message.bytes()[range.clone()]
    }

    /// Goes on by one fragment: puts its header into `buffer`, with the message's own before the
    /// first. Says where its bytes are; or, if they are in the buffer as well because compressing
    /// them helped, how many that saved.
    pub(super) fn push_fragment(
        &mut self,
        buffer: &mut Vec<u8>,
        packer: Option<&mut Packer>,
    ) -> Result<Range<usize>, usize> {
        let (channel, whole) = (self.channel, self.message.len());
        if self.at == 0 {
            let header = MessageHeader {
                channel,
                sequence: self.message.sequence(),
                sent_ns: self.message.sent_ns(),
                len: whole,
            };
            buffer.extend_from_slice(&header.encode_beginning());
        }
        let range = self.at..whole.min(self.at + FRAGMENT_BYTES);
        self.at = range.end;
        let len = range.len();
        let header = |wire_len| FragmentHeader {
            channel,
            len,
            wire_len,
        };
        let bytes = &self.message.bytes()[range.clone()];
        let packed = packer.and_then(|packer| packer.pack_part(bytes, whole));
        if let Some(packed) = packed {
            buffer.extend_from_slice(&header(packed.len()).encode());
            buffer.extend_from_slice(packed);
            return Err(len - packed.len());
        }
        buffer.extend_from_slice(&header(len).encode());
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use shmesh_shm::{
        Arena, ChunkRef, Consumer, Head, HeapStore, INLINE_BYTES, Mode, Producer, RingConfig,
    };

    use super::super::writer::{Feed, FeedEvent, Writer};
    use super::*;
    use crate::compression::{Compression, unpack};
    use crate::endpoint::RxChannel;
    use crate::limits::{FRAGMENTS_AHEAD_BYTES, FRAGMENTS_PER_SHARED_WRITE, PASSED_OVER_MAX};
    use crate::link::wire::{
        Credit, FRAGMENT_HEADER_BYTES, Item, MESSAGE_HEADER_BYTES, PACKED_HEADER_BYTES, decode_item,
    };
    use crate::priority::Priority;

    const CONFIG: RingConfig = RingConfig {
        depth: 16384,
        mode: Mode::Keep,
        held_max: 64,
        start: 0,
    };

    /// A publisher of ours whose subscriber is elsewhere.
    struct Source {
        producer: Producer,
        arena: Arena<HeapStore>,
        sent: u64,
    }

    impl Source {
        fn add(writer: &mut Writer, channel: u64, priority: Priority) -> Self {
            let (ring, borrows) = CONFIG.halves_on_heap();
            let producer = Producer::new(ring.clone(), borrows.clone(), CONFIG).unwrap();
            let consumer =
                Consumer::new(ring, borrows, CONFIG, std::sync::Arc::default(), None).unwrap();
            let mut arena = Arena::new(HeapStore, 64 << 20);
            let mut rx = RxChannel::new(channel, consumer);
            // A segment has chunks of one size.
            for count in [1, 2, 4, 7, 10] {
                let (number, block) = arena.grow(count * FRAGMENT_BYTES).unwrap();
                rx.add_segment(number, block);
            }
            let mut feed = Box::new(Feed::new(rx, None, None));
            feed.priority = priority;
            writer.take_news(vec![FeedEvent::Add(feed)]);
            Self {
                producer,
                arena,
                sent: 0,
            }
        }

        /// False if there is no room for it.
        fn try_send_inline(&mut self, len: usize) -> bool {
            let (sequence, sent_ns) = (self.sent, 5);
            let head = Head { sequence, sent_ns };
            let pushed = self.producer.push_inline(head, &vec![7; len], |_| {});
            self.sent += u64::from(pushed.is_ok());
            pushed.is_ok()
        }

        fn send(&mut self, len: usize) {
            if len <= INLINE_BYTES {
                assert!(self.try_send_inline(len));
                return;
            }
            let (sequence, sent_ns) = (self.sent, 5);
            let head = Head { sequence, sent_ns };
            self.sent += 1;
            let mut chunk = self.arena.take(len).unwrap();
            for (idx, byte) in chunk.bytes_mut()[..len].iter_mut().enumerate() {
                *byte = byte_at(idx);
            }
            let (offset, len) = (chunk.offset() as u64, u32::try_from(len).unwrap());
            let id = self.arena.publish(chunk);
            let segment = id.segment;
            let place = ChunkRef {
                segment,
                offset,
                len,
            };
            self.producer.push_chunk(head, place, id, |_| {}).unwrap();
        }
    }

    /// Runs of the same byte, so that they can be compressed.
    fn byte_at(idx: usize) -> u8 {
        (idx / 100).to_le_bytes()[0]
    }

    /// What was put on the wire: whole messages, and large ones that were cut.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Said {
        Whole(u64),
        Beginning(u64),
        Part(u64),
        Frame,
    }

    /// Writes `calls` times and then finds the socket full; what that took.
    fn written(writer: &mut Writer, calls: usize, step: usize) -> Vec<u8> {
        let (mut out, mut left) = (Vec::new(), calls);
        writer.flush(
            |slices| {
                if left == 0 {
                    return Err(Errno::AGAIN);
                }
                left -= 1;
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let count = step.min(all.len());
                out.extend_from_slice(&all[..count]);
                Ok(count)
            },
            || false,
            usize::MAX,
        );
        out
    }

    fn said(mut bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        let mut filled = std::collections::HashMap::new();
        while !bytes.is_empty() {
            let item = decode_item(bytes).unwrap().unwrap();
            let (what, len) = match item {
                Item::Message(header) => (
                    Said::Whole(header.channel),
                    MESSAGE_HEADER_BYTES + header.len,
                ),
                Item::Packed(header) => (
                    Said::Whole(header.message.channel),
                    PACKED_HEADER_BYTES + header.packed_len,
                ),
                Item::Beginning(header) => {
                    filled.insert(header.channel, 0);
                    (Said::Beginning(header.channel), MESSAGE_HEADER_BYTES)
                }
                Item::Fragment(header) => {
                    let start = FRAGMENT_HEADER_BYTES;
                    let sent = &bytes[start..start + header.wire_len];
                    let mut part = vec![0; header.len];
                    if header.is_packed() {
                        assert!(unpack(sent, &mut part));
                    } else {
                        part.copy_from_slice(sent);
                    }
                    let at: &mut usize = filled.get_mut(&header.channel).unwrap();
                    let is_its = |(idx, byte): (usize, &u8)| *byte == byte_at(*at + idx);
                    assert!(part.iter().enumerate().all(is_its));
                    *at += header.len;
                    (Said::Part(header.channel), start + header.wire_len)
                }
                Item::Frame(frame) => (Said::Frame, frame.len),
                Item::Credit(_) => panic!("nobody said that"),
            };
            if what != Said::Frame {
                said.push(what);
            }
            bytes = &bytes[len..];
        }
        said
    }

    #[test]
    fn urgent_messages_go_between_the_parts_of_large_ones() {
        let mut writer = Writer::default();
        let mut bulk = Source::add(&mut writer, 1, Priority::Bulk);
        let mut urgent = Source::add(&mut writer, 2, Priority::Urgent);
        bulk.send(4 * FRAGMENT_BYTES);
        bulk.send(10);
        // The first parts are on their way, and the socket full.
        let mut out = written(&mut writer, 1, 1000);
        urgent.send(64);
        urgent.send(FRAGMENT_BYTES);
        out.extend(written(&mut writer, 2, usize::MAX));
        urgent.send(FRAGMENT_BYTES + 1);
        out.extend(written(&mut writer, usize::MAX, usize::MAX));
        writer.credit(Credit {
            channel: Credit::OF_FRAGMENTS,
            taken: 2 * FRAGMENT_BYTES as u64,
        });
        out.extend(written(&mut writer, usize::MAX, usize::MAX));
        use Said::{Beginning, Part, Whole};
        let expected = [
            &[Beginning(1), Part(1)][..],
            &[Whole(2), Whole(2), Part(1)],
            // It was gathered before the next was there.
            &[Part(1)],
            &[Whole(2)],
            // These were as many as may be on their way.
            &[Part(1), Whole(1)],
        ];
        assert_eq!(said(&out), expected.concat());
    }

    #[test]
    fn large_messages_of_one_priority_take_turns() {
        for compression in [None, Some(Compression::default())] {
            for step in [usize::MAX, 50_000, 777] {
                let mut writer = Writer::new(compression);
                let mut first = Source::add(&mut writer, 1, Priority::Normal);
                let mut second = Source::add(&mut writer, 2, Priority::Normal);
                let _urgent = Source::add(&mut writer, 3, Priority::Urgent);
                first.send(FRAGMENT_BYTES + 1);
                second.send(2 * FRAGMENT_BYTES - 1);
                let out = written(&mut writer, usize::MAX, step);
                use Said::{Beginning, Part};
                let expected = [
                    [Beginning(1), Part(1)],
                    [Beginning(2), Part(2)],
                    [Part(1), Part(2)],
                ];
                assert_eq!(said(&out), expected.concat());
                let is_smaller = out.len() < FRAGMENT_BYTES;
                assert_eq!(is_smaller, compression.is_some());
            }
        }
    }

    #[test]
    fn messages_are_whole_where_nobody_is_more_urgent() {
        let mut writer = Writer::default();
        let mut first = Source::add(&mut writer, 1, Priority::Urgent);
        let mut second = Source::add(&mut writer, 2, Priority::Urgent);
        first.send(10 * FRAGMENT_BYTES);
        second.send(FRAGMENT_BYTES + 1);
        let out = written(&mut writer, usize::MAX, 50_000);
        assert_eq!(said(&out), [Said::Whole(1), Said::Whole(2)]);
    }

    #[test]
    fn what_may_wait_is_not_starved() {
        let mut writer = Writer::default();
        let mut bulk = Source::add(&mut writer, 1, Priority::Bulk);
        let mut urgent = Source::add(&mut writer, 2, Priority::Urgent);
        bulk.send(2 * FRAGMENT_BYTES);
        let mut out = Vec::new();
        let found: Vec<usize> = (0..=2 * PASSED_OVER_MAX)
            .map(|_| {
                // More than a write takes, twice: the next is gathered as well.
                while urgent.try_send_inline(64) {}
                out.extend(written(&mut writer, 1, usize::MAX));
                let said = said(&out);
                said.iter().filter(|said| **said == Said::Part(1)).count()
            })
            .collect();
        let count = PASSED_OVER_MAX as usize;
        assert_eq!(found, [vec![0; count], vec![1; count], vec![2]].concat());
    }

    #[test]
    fn parts_wait_for_those_on_their_way_where_somebody_is_more_urgent() {
        let mut writer = Writer::default();
        let mut normal = Source::add(&mut writer, 1, Priority::Normal);
        let urgent = Source::add(&mut writer, 2, Priority::Urgent);
        normal.send(10 * FRAGMENT_BYTES);
        let mut out = Vec::new();
        let mut count = |writer: &mut Writer| {
            out.extend(written(writer, usize::MAX, usize::MAX));
            let said = said(&out);
            said.iter().filter(|said| **said == Said::Part(1)).count()
        };
        let few = usize::try_from(FRAGMENTS_AHEAD_BYTES).unwrap() / FRAGMENT_BYTES;
        assert_eq!(count(&mut writer), few);
        let read = |bytes: usize| Credit {
            channel: Credit::OF_FRAGMENTS,
            taken: bytes as u64,
        };
        // More than was sent.
        assert!(!writer.credit(read((few + 1) * FRAGMENT_BYTES)));
        assert!(writer.credit(read(FRAGMENT_BYTES)));
        assert_eq!(count(&mut writer), few + 1);
        writer.credit(read(few * FRAGMENT_BYTES));
        writer.credit(read((few + 1) * FRAGMENT_BYTES));
        assert_eq!(count(&mut writer), 2 * few + 1);
        writer.credit(read((2 * few + 1) * FRAGMENT_BYTES));
        assert_eq!(count(&mut writer), 10);
        normal.send(10 * FRAGMENT_BYTES);
        assert_eq!(count(&mut writer), 10 + few - 1);
        // Nobody is in a hurry any more.
        drop(urgent);
        writer.take_news(vec![FeedEvent::Remove { channel: 2 }]);
        assert_eq!(count(&mut writer), 20);
    }

    #[test]
    fn a_message_whose_subscriber_goes_is_given_back() {
        let mut writer = Writer::default();
        let mut source = Source::add(&mut writer, 1, Priority::Normal);
        let _urgent = Source::add(&mut writer, 2, Priority::Urgent);
        source.send(10 * FRAGMENT_BYTES);
        let mut out = written(&mut writer, 1, 1000);
        writer.take_news(vec![FeedEvent::Remove { channel: 1 }]);
        out.extend(written(&mut writer, usize::MAX, usize::MAX));
        // What was gathered is written to its end.
        assert_eq!(said(&out).len(), 1 + FRAGMENTS_PER_SHARED_WRITE);
        source.producer.sweep(|id| source.arena.release(id));
        assert_eq!(source.arena.used_count(), 0);
    }
}
