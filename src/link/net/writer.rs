//! The writing side of a network link: takes messages from the rings of its feeds, in turn, and
//! writes them in as few calls as there are moments in which the socket takes them.
//!
//! A feed is the reading end of the ring that a publisher of ours has for a subscriber elsewhere:
//! for the publisher it is a subscriber like any other. Overflow is the ring's. Feeds of keeping
//! rings send only what the subscriber has room for (its credit), so that what waits, waits here.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use rustix::io::Errno;
use shmesh_shm::Block;

use super::batch::Batch;
use crate::compression::Compression;
use crate::endpoint::RxChannel;
use crate::error::Error;
use crate::link::session::LinkFrame;
use crate::link::wire::{self, Credit, Kind};

/// Messages of one feed before the next has its turn.
const BURST: usize = 64;
/// Most chunks of one feed that are held while they are written.
pub(crate) const FEED_HELD_MAX: u32 = 256;

/// News for a writer.
pub(crate) enum FeedEvent {
    /// A channel begins.
    Add(Box<Feed>),
    /// Payloads of a channel may lie here from now on.
    Segment {
        channel: u64,
        number: u32,
        block: Arc<dyn Block>,
    },
    SegmentGone {
        channel: u64,
        number: u32,
    },
    /// Its publisher is gone: what is in the ring still goes out.
    Closed {
        channel: u64,
    },
    /// Its subscriber is gone.
    Remove {
        channel: u64,
    },
    /// Its subscriber has taken so many.
    Credit(Credit),
    /// A frame to be sent before the messages that are not gathered yet.
    Frame(Vec<u8>),
    /// Nothing more comes.
    Close,
}

impl std::fmt::Debug for FeedEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FeedEvent")
    }
}

/// One channel to a subscriber elsewhere.
#[derive(Debug)]
pub(crate) struct Feed {
    rx: RxChannel,
    /// Most messages beyond those taken, where the subscriber gives credit.
    depth: Option<u64>,
    sent: u64,
    taken: u64,
    /// The next message as far as the subscriber was told; unknown before the first.
    told: Option<u64>,
}

impl Feed {
    /// A feed whose subscriber gives credit for `depth` messages, if it gives any.
    pub(crate) fn new(rx: RxChannel, depth: Option<u32>) -> Self {
        Self {
            rx,
            depth: depth.map(u64::from),
            sent: 0,
            taken: 0,
            told: None,
        }
    }

    fn has_credit(&self) -> bool {
        self.depth
            .is_none_or(|depth| self.sent.wrapping_sub(self.taken) < depth)
    }
}

/// How a flush ended.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// All is out, as far as credit goes.
    Idle,
    /// The socket takes no more now.
    Blocked,
    /// There may be more, but it is enough for one turn.
    Enough,
    Failed(Error),
}

#[derive(Debug, Default)]
pub(super) struct Writer {
    feeds: Vec<Feed>,
    /// The feed that is next.
    turn: usize,
    frames: VecDeque<Vec<u8>>,
    batch: Batch,
    pub(super) is_closing: bool,
    /// Messages and bytes written, to see progress by.
    pub(super) written: u64,
}

impl Writer {
    pub(super) fn new(compression: Option<Compression>) -> Self {
        Self {
            batch: Batch::new(compression),
            ..Self::default()
        }
    }

    pub(super) fn take_news(&mut self, news: Vec<FeedEvent>) {
        for event in news {
            match event {
                FeedEvent::Add(feed) => self.feeds.push(*feed),
                FeedEvent::Frame(frame) => self.frames.push_back(frame),
                FeedEvent::Close => self.is_closing = true,
                FeedEvent::Remove { channel } => {
                    self.feeds.retain(|feed| feed.rx.channel != channel)
                }
                FeedEvent::Segment {
                    channel,
                    number,
                    block,
                } => self.with(channel, |feed| feed.rx.add_segment(number, block)),
                FeedEvent::SegmentGone { channel, number } => {
                    self.with(channel, |feed| feed.rx.consumer.remove_segment(number));
                }
                FeedEvent::Closed { channel } => {
                    self.with(channel, |feed| feed.rx.is_closed = true)
                }
                FeedEvent::Credit(credit) => {
                    self.credit(credit);
                }
            }
        }
    }

    /// The subscriber of a feed has taken so many; true if the feed waited for that.
    pub(super) fn credit(&mut self, credit: Credit) -> bool {
        let Credit { channel, taken } = credit;
        let mut has_waited = false;
        self.with(channel, |feed| {
            // What was not sent cannot have been taken.
            if feed.sent.wrapping_sub(taken) <= feed.sent.wrapping_sub(feed.taken) {
                has_waited = !feed.has_credit();
                feed.taken = taken;
            }
        });
        has_waited
    }

    /// Gives back room that an idle link does not need.
    pub(super) fn shrink(&mut self) {
        self.batch.shrink();
    }

    fn with(&mut self, channel: u64, act: impl FnOnce(&mut Feed)) {
        if let Some(feed) = self
            .feeds
            .iter_mut()
            .find(|feed| feed.rx.channel == channel)
        {
            act(feed);
        }
    }

    /// Writes until what was there is out, the socket is full, or about `bytes_max` were written.
    /// Does not look again once a batch that held all there was is out: that would fetch a cache
    /// line of each feed in vain, and who left something meanwhile found the writer taken, and
    /// told the task.
    pub(super) fn flush(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> Result<usize, Errno>,
        bytes_max: usize,
    ) -> Flushed {
        let (mut count, mut is_all) = (0, false);
        while count < bytes_max {
            if self.batch.is_empty() {
                if is_all {
                    return Flushed::Idle;
                }
                if let Err(error) = self.gather() {
                    return Flushed::Failed(error);
                }
                if self.batch.is_empty() {
                    return Flushed::Idle;
                }
                is_all = self.batch.has_room();
                count += self.batch.saved();
            }
            match self.batch.with_slices(&mut write) {
                Ok(0) => return failed(Errno::PIPE),
                Ok(written) => {
                    self.batch.advance(written);
                    self.written += written as u64;
                    count += written;
                }
                Err(Errno::AGAIN) => return Flushed::Blocked,
                Err(Errno::INTR) => {}
                Err(errno) => return failed(errno),
            }
        }
        Flushed::Enough
    }

    /// Fills the batch with what there is: frames first, then messages of all feeds in turn.
    fn gather(&mut self) -> Result<(), Error> {
        while let Some(frame) = self.frames.pop_front() {
            self.batch.push_frame(&frame);
            if !self.batch.has_room() {
                return Ok(());
            }
        }
        let mut idle = 0;
        while idle < self.feeds.len() && self.batch.has_room() {
            if self.turn >= self.feeds.len() {
                self.turn = 0;
            }
            let feed = &mut self.feeds[self.turn];
            let (taken, is_over) = gather_from(feed, &mut self.batch)?;
            if is_over {
                self.feeds.swap_remove(self.turn);
                continue;
            }
            self.turn += 1;
            idle = if taken == 0 { idle + 1 } else { 0 };
        }
        Ok(())
    }
}

pub(super) fn failed(errno: Errno) -> Flushed {
    Flushed::Failed(Error::Io {
        what: "send to the peer",
        source: errno.into(),
    })
}

/// Takes some messages of one feed; how many, and whether it is over.
fn gather_from(feed: &mut Feed, batch: &mut Batch) -> Result<(usize, bool), Error> {
    let mut count = 0;
    // Looked at first: what comes after it is not the last.
    let is_closed = feed.rx.is_closed;
    while count < BURST && batch.has_room() && feed.has_credit() {
        // What waits for room to be held must not be skipped.
        let taken = if is_closed && !feed.rx.consumer.is_at_held_max() {
            feed.rx.consumer.next_or_skip()
        } else {
            feed.rx.consumer.try_next()
        };
        let message = taken.map_err(|corrupt| Error::Protocol(corrupt.0))?;
        let Some(message) = message else { break };
        if feed.told.is_none() {
            push(batch, &passed(feed.rx.channel, feed.rx.consumer.first()));
        }
        feed.told = Some(message.sequence().wrapping_add(1));
        feed.sent += 1;
        batch.push_message(feed.rx.channel, message);
        count += 1;
    }
    let mut is_over = false;
    if count == 0 && batch.has_room() {
        tell_of_dropped(feed, batch);
        if is_closed && !feed.rx.consumer.is_ready() {
            let channel = feed.rx.channel;
            push(batch, &LinkFrame::Closed { channel });
            is_over = true;
        }
    }
    Ok((count, is_over))
}

/// Messages that had no room show in the numbers of those that follow; if none follow, they are
/// said.
fn tell_of_dropped(feed: &mut Feed, batch: &mut Batch) {
    let dropped = feed.rx.consumer.dropped();
    // Looked at after the count: what was put in before something was dropped is seen.
    if dropped == 0 || feed.rx.consumer.is_ready() {
        return;
    }
    let next = feed
        .rx
        .consumer
        .first()
        .wrapping_add(feed.rx.consumer.passed());
    if feed.told.is_none() {
        push(batch, &passed(feed.rx.channel, feed.rx.consumer.first()));
    }
    if feed.told != Some(next) {
        push(batch, &passed(feed.rx.channel, next));
        feed.told = Some(next);
    }
}

fn passed(channel: u64, sequence: u64) -> LinkFrame {
    LinkFrame::Passed { channel, sequence }
}

fn push(batch: &mut Batch, frame: &LinkFrame) {
    match wire::encode(Kind::Link, frame) {
        Ok(frame) => batch.push_frame(&frame),
        Err(error) => tracing::error!(%error, "frame left out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(frames: &[&[u8]]) -> Writer {
        let mut writer = Writer::default();
        let news = frames.iter().map(|frame| FeedEvent::Frame(frame.to_vec()));
        writer.take_news(news.collect());
        writer
    }

    /// Takes at most `step` bytes at once, and says the errors in turn before each.
    fn flush(writer: &mut Writer, step: usize, errors: &mut Vec<Errno>) -> (Vec<u8>, Flushed) {
        let mut out = Vec::new();
        let flushed = writer.flush(
            |slices| {
                if let Some(error) = errors.pop() {
                    return Err(error);
                }
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let count = step.min(all.len());
                out.extend_from_slice(&all[..count]);
                Ok(count)
            },
            usize::MAX,
        );
        (out, flushed)
    }

    #[test]
    fn interruptions_are_tried_again_and_a_full_socket_goes_on_where_it_was() {
        for step in 1..10 {
            let mut writer = writer(&[b"one ", b"two ", b"three"]);
            let mut errors = vec![Errno::AGAIN, Errno::INTR, Errno::INTR];
            let (out, flushed) = flush(&mut writer, step, &mut errors);
            assert!(matches!(flushed, Flushed::Blocked) && out.is_empty());
            let (out, flushed) = flush(&mut writer, step, &mut errors);
            assert!(matches!(flushed, Flushed::Idle));
            assert_eq!(out, b"one two three");
        }
    }

    #[test]
    fn a_socket_that_takes_nothing_or_fails_ends_the_link_at_once() {
        let (_, flushed) = flush(&mut writer(&[b"x"]), 0, &mut Vec::new());
        assert!(matches!(flushed, Flushed::Failed(_)));
        let (_, flushed) = flush(&mut writer(&[b"x"]), 1, &mut vec![Errno::CONNRESET]);
        assert!(matches!(flushed, Flushed::Failed(_)));
        let (_, flushed) = flush(&mut writer(&[]), 1, &mut vec![Errno::CONNRESET]);
        assert!(matches!(flushed, Flushed::Idle), "nothing to write");
    }

    #[test]
    fn credit_that_was_not_sent_for_is_not_believed() {
        let config = shmesh_shm::RingConfig {
            depth: 2,
            mode: shmesh_shm::Mode::Keep,
            held_max: 1,
            start: 0,
        };
        let (ring, borrows) = config.halves_on_heap();
        let consumer =
            shmesh_shm::Consumer::new(ring, borrows, config, Arc::default(), None).unwrap();
        let mut writer = Writer::default();
        let feed = Box::new(Feed::new(RxChannel::new(7, consumer), Some(2)));
        writer.take_news(vec![FeedEvent::Add(feed)]);
        for (taken, expected) in [(1, 0), (u64::MAX, 0)] {
            writer.take_news(vec![FeedEvent::Credit(Credit { channel: 7, taken })]);
            assert_eq!(writer.feeds[0].taken, expected);
        }
        writer.feeds[0].sent = 2;
        for (taken, expected) in [(1, 1), (3, 1), (0, 1), (2, 2)] {
            writer.take_news(vec![FeedEvent::Credit(Credit { channel: 7, taken })]);
            assert_eq!(writer.feeds[0].taken, expected, "{taken}");
        }
        writer.take_news(vec![FeedEvent::Remove { channel: 7 }]);
        assert!(writer.feeds.is_empty());
    }
}
