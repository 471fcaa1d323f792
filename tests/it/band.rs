//! A thread that sends on many topics in turn, and what is to be heard of it.

use std::time::{Duration, Instant};

use shmesh::{Node, Publisher, Raw, RecvError, Sample, Subscriber};

use crate::support::{PATIENCE, is_intact, payload};

/// Publishers of topics `prefix/0`, `prefix/1` and so on of one node. Message `n` of them all says
/// that it is, and goes to topic `n % count`.
#[derive(Debug)]
pub(crate) struct Band {
    prefix: String,
    publishers: Vec<Publisher<Raw>>,
    sent: u64,
}

impl Band {
    pub(crate) fn new(node: &Node, prefix: &str, count: usize) -> Self {
        let mut band = Self {
            prefix: prefix.to_owned(),
            publishers: Vec::new(),
            sent: 0,
        };
        (0..count).for_each(|_| band.grow(node));
        band
    }

    /// One topic more.
    pub(crate) fn grow(&mut self, node: &Node) {
        let topic = format!("{}/{}", self.prefix, self.publishers.len());
        // With times only because somebody merges.
        let publisher = node.publisher::<Raw>(&topic).without_timestamps();
        self.publishers.push(publisher.build().unwrap());
    }

    pub(crate) fn wait_for_listeners(&mut self) {
        for publisher in &mut self.publishers {
            publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        }
    }

    /// Sends; how many it sent in all.
    pub(crate) fn play(&mut self, count: u64, size: usize) -> u64 {
        for _ in 0..count {
            let idx = usize::try_from(self.sent).unwrap() % self.publishers.len();
            let mut bytes = self.sent.to_le_bytes().to_vec();
            bytes.extend(payload(self.sent, size));
            self.publishers[idx].publish_bytes(&bytes).unwrap();
            self.sent += 1;
        }
        self.sent
    }

    /// The same, as fast as it can be and nearly all on the first topic: who reads its ring is
    /// lapped again and again.
    pub(crate) fn storm(&mut self, count: u64) -> u64 {
        let topics = self.publishers.len();
        for _ in 0..count {
            let idx = topic_in_storm(self.sent, topics as u64);
            let publisher = &mut self.publishers[usize::try_from(idx).unwrap()];
            publisher.publish_bytes(&self.sent.to_le_bytes()).unwrap();
            self.sent += 1;
        }
        self.sent
    }
}

/// In turn, each message to the next of `count` topics.
pub(crate) fn topic_in_turn(number: u64, count: u64) -> u64 {
    number % count
}

/// One in 64 messages goes to another topic than the first.
pub(crate) fn topic_in_storm(number: u64, count: u64) -> u64 {
    if number.is_multiple_of(64) {
        number / 64 % count
    } else {
        0
    }
}

/// Which message it is, whole.
pub(crate) fn number_of(sample: &Sample<Raw>) -> u64 {
    let (number, rest) = sample.split_first_chunk().unwrap();
    let number = u64::from_le_bytes(*number);
    assert!(is_intact(rest, number));
    number
}

/// Hears a band until `sent` messages came or were lost, in order all the time and each on its
/// topic; how many were lost.
pub(crate) fn hear(
    subscriber: &mut Subscriber<Raw>,
    topic_of: impl Fn(u64) -> u64,
    sent: u64,
) -> u64 {
    let started = Instant::now();
    let mut last = None;
    loop {
        match subscriber.recv_blocking(Duration::from_millis(20)) {
            Ok(sample) => {
                let number = number_of(&sample);
                assert!(last < Some(number), "{number} after {last:?}");
                let (_, topic) = sample.topic().rsplit_once('/').unwrap();
                assert_eq!(topic.parse::<u64>().unwrap(), topic_of(number));
                last = Some(number);
            }
            Err(RecvError::Timeout { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let stats = subscriber.stats();
        if stats.received + stats.lost == sent {
            return stats.lost;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{stats:?} of {sent}, last {last:?}"
        );
    }
}
