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
use shmesh_shm::{Block, Received};

use super::batch::Batch;
use super::cut::Cut;
use super::group::Group;
use super::turns::{LEVELS, Turns};
use crate::compression::Compression;
use crate::endpoint::RxChannel;
use crate::error::Error;
use crate::limits::FRAGMENT_BYTES;
use crate::link::session::LinkFrame;
use crate::link::wire::{self, Credit, Kind};
use crate::priority::Priority;

/// Messages of one feed before the next has its turn.
pub(super) const BURST: usize = 64;
/// What the feeds of groups count as.
const GROUPED: Priority = Priority::Normal;
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
    pub(super) rx: RxChannel,
    /// The subscription, if it is one to several topics.
    merged_as: Option<u32>,
    /// Most messages beyond those taken, where the subscriber gives credit.
    depth: Option<u64>,
    sent: u64,
    taken: u64,
    /// The next message as far as the subscriber was told; unknown before the first.
    told: Option<u64>,
    /// Age in nanoseconds beyond which a message is not worth sending.
    pub(crate) lifespan_ns: Option<u64>,
    /// True if some were older.
    has_skipped: bool,
    /// What goes before what, on this link.
    pub(crate) priority: Priority,
    /// Its large message of which a part is out. Nothing else of the channel goes before its end.
    cut: Option<Cut>,
}

impl Feed {
    /// A feed whose subscriber gives credit for `depth` messages, if it gives any.
    pub(crate) fn new(rx: RxChannel, depth: Option<u32>, merged_as: Option<u32>) -> Self {
        Self {
            rx,
            merged_as,
            depth: depth.map(u64::from),
            sent: 0,
            taken: 0,
            told: None,
            lifespan_ns: None,
            has_skipped: false,
            priority: Priority::default(),
            cut: None,
        }
    }

    pub(super) fn channel(&self) -> u64 {
        self.rx.channel
    }

    /// True if a message was sent too long ago.
    fn is_expired(&self, sent_ns: u64, now_ns: u64) -> bool {
        let age_ns = now_ns.saturating_sub(sent_ns);
        sent_ns != 0 && self.lifespan_ns.is_some_and(|max| age_ns > max)
    }

    pub(super) fn has_credit(&self) -> bool {
        self.depth
            .is_none_or(|depth| self.sent.wrapping_sub(self.taken) < depth)
    }

    /// True if its publisher is gone and all is out.
    pub(super) fn is_over(&self) -> bool {
        self.rx.is_closed && !self.rx.consumer.is_ready()
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
    /// Those of subscriptions to several topics. They keep the order of our node, so they are all
    /// of one priority, and not cut.
    groups: Vec<Group>,
    turns: Turns,
    /// Bytes of fragments that the peer said it has read.
    fragments_read: u64,
    frames: VecDeque<Vec<u8>>,
    batch: Batch,
    pub(super) is_closing: bool,
    /// Messages and bytes written, to see progress by.
    pub(super) written: u64,
    /// The time of this flush, if messages may be too old.
    pub(super) now_ns: u64,
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
                FeedEvent::Add(feed) => {
                    self.add(*feed);
                    self.note_priorities();
                }
                FeedEvent::Frame(frame) => self.frames.push_back(frame),
                FeedEvent::Close => self.is_closing = true,
                FeedEvent::Remove { channel } => {
                    self.feeds.retain(|feed| feed.rx.channel != channel);
                    self.groups
                        .iter_mut()
                        .for_each(|group| group.remove(channel));
                    self.groups.retain(|group| !group.feeds.is_empty());
                    self.note_priorities();
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
        if channel == Credit::OF_FRAGMENTS {
            return self.note_read(taken);
        }
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

    /// True if who flushes must say the time before: some messages may be too old.
    pub(super) fn is_ageing(&self) -> bool {
        let grouped = self.groups.iter().flat_map(|group| &group.feeds);
        let mut feeds = self.feeds.iter().chain(grouped);
        feeds.any(|feed| feed.lifespan_ns.is_some())
    }

    /// Gives back room that an idle link does not need.
    pub(super) fn shrink(&mut self) {
        self.batch.shrink();
    }

    fn add(&mut self, feed: Feed) {
        let Some(subscription) = feed.merged_as else {
            return self.feeds.push(feed);
        };
        let is_its = |group: &&mut Group| group.subscription == subscription;
        if let Some(group) = self.groups.iter_mut().find(is_its) {
            return group.add(feed);
        }
        let mut group = Group::new(subscription);
        group.add(feed);
        self.groups.push(group);
    }

    fn with(&mut self, channel: u64, act: impl FnOnce(&mut Feed)) {
        let grouped = self.groups.iter_mut().flat_map(|group| &mut group.feeds);
        let mut feeds = self.feeds.iter_mut().chain(grouped);
        if let Some(feed) = feeds.find(|feed| feed.rx.channel == channel) {
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
        has_news: impl Fn() -> bool,
        bytes_max: usize,
    ) -> Flushed {
        let (mut count, mut is_all) = (0, false);
        while count < bytes_max {
            if self.batch.is_empty() {
                if is_all {
                    return Flushed::Idle;
                }
                if let Err(error) = self.gather(&has_news) {
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

    /// Fills the batch with what there is: frames first, then messages, the most urgent first.
    fn gather(&mut self, has_news: &impl Fn() -> bool) -> Result<(), Error> {
        if let Some(cut) = self.batch.take_cut() {
            self.put_back(cut);
        }
        while let Some(frame) = self.frames.pop_front() {
            self.batch.push_frame(&frame);
            if !self.batch.has_room() {
                return Ok(());
            }
        }
        if let Some(priority) = self.turns.overdue() {
            self.gather_of(priority, 1, has_news)?;
        }
        for priority in LEVELS {
            if !self.turns.is_there(priority) {
                continue;
            }
            let has_room = self.batch.has_room();
            self.turns.note_turn(priority, has_room);
            if has_room {
                self.gather_of(priority, usize::MAX, has_news)?;
            }
        }
        Ok(())
    }

    /// Gathers messages of the feeds and groups of one priority in turn, until they have none, the
    /// batch is full, or so many had their turn.
    fn gather_of(
        &mut self,
        priority: Priority,
        turns_max: usize,
        has_news: &impl Fn() -> bool,
    ) -> Result<(), Error> {
        let (mut idle, mut turns) = (0, 0);
        let ahead = self.bytes_ahead();
        self.batch.is_cutting = self.turns.is_shared(priority);
        self.batch.fragments_max = self.turns.fragments_max(priority, ahead);
        while idle < self.feeds.len() + self.groups.len()
            && turns < turns_max
            && self.batch.has_room()
        {
            let turn = self.turns.of(priority);
            if *turn >= self.feeds.len() + self.groups.len() {
                *turn = 0;
            }
            let idx = *turn;
            *turn += 1;
            let (taken, is_over) = match self.feeds.get_mut(idx) {
                Some(feed) if feed.priority == priority => {
                    gather_from(feed, &mut self.batch, self.now_ns)?
                }
                None if priority == GROUPED => {
                    let group = &mut self.groups[idx - self.feeds.len()];
                    let taken = group.gather(&mut self.batch, self.now_ns, has_news)?;
                    (taken, group.feeds.is_empty())
                }
                _ => (0, false),
            };
            if is_over {
                self.remove(idx);
                // Who is at its place now is next.
                *self.turns.of(priority) = idx;
                continue;
            }
            if taken == 0 {
                idle += 1;
            } else {
                (idle, turns) = (0, turns + 1);
            }
        }
        Ok(())
    }

    /// Takes away the feed or group that has had its turns.
    fn remove(&mut self, idx: usize) {
        match idx.checked_sub(self.feeds.len()) {
            None => drop(self.feeds.swap_remove(idx)),
            Some(group) => drop(self.groups.swap_remove(group)),
        }
        self.note_priorities();
    }

    fn note_priorities(&mut self) {
        let grouped = self.groups.iter().map(|_| GROUPED);
        let plain = self.feeds.iter().map(|feed| feed.priority);
        self.turns.set(plain.chain(grouped));
    }

    /// Bytes of fragments that the peer is not known to have read.
    fn bytes_ahead(&self) -> u64 {
        self.batch.fragment_bytes.wrapping_sub(self.fragments_read)
    }

    /// The peer has read so many bytes of fragments; true if some wait for that.
    fn note_read(&mut self, bytes: u64) -> bool {
        let ahead = self.bytes_ahead();
        // What was not sent cannot have been read.
        if self.batch.fragment_bytes.wrapping_sub(bytes) > ahead {
            return false;
        }
        self.fragments_read = bytes;
        self.feeds.iter().any(|feed| feed.cut.is_some())
    }

    /// A message that is not all out goes back to its feed, unless that is gone: so is who it was
    /// for.
    fn put_back(&mut self, cut: Cut) {
        self.with(cut.channel(), |feed| feed.cut = Some(cut));
    }
}

pub(super) fn failed(errno: Errno) -> Flushed {
    Flushed::Failed(Error::Io {
        what: "send to the peer",
        source: errno.into(),
    })
}

/// Takes some messages of one feed; how many, and whether it is over.
fn gather_from(feed: &mut Feed, batch: &mut Batch, now_ns: u64) -> Result<(usize, bool), Error> {
    if feed.cut.is_some() {
        return Ok((go_on(feed, batch), false));
    }
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
        if batch.is_cutting && message.len() > FRAGMENT_BYTES {
            count += 1;
            if !admit(feed, batch, &message, now_ns) {
                continue;
            }
            feed.cut = Some(Cut::new(feed.rx.channel, message));
            go_on(feed, batch);
            break;
        }
        put(feed, batch, message, now_ns);
        count += 1;
    }
    let mut is_over = false;
    if count == 0 && batch.has_room() {
        tell_of_dropped(feed, batch);
        if is_closed && feed.is_over() {
            end(feed, batch);
            is_over = true;
        }
    }
    Ok((count, is_over))
}

/// Goes on with the large message of a feed, if fragments may go; how many messages that was.
fn go_on(feed: &mut Feed, batch: &mut Batch) -> usize {
    let may_go = |_: &mut Cut| batch.fragments_max > 0;
    let Some(cut) = feed.cut.take_if(may_go) else {
        return 0;
    };
    batch.push_fragments(cut);
    1
}

/// Puts a message of a feed into the batch, unless it is too old.
#[inline]
pub(super) fn put(feed: &mut Feed, batch: &mut Batch, message: Received, now_ns: u64) {
    if admit(feed, batch, &message, now_ns) {
        batch.push_message(feed.rx.channel, message);
    }
}

/// Counts a message of a feed in, and says with which it begins; false if it is too old.
#[inline]
fn admit(feed: &mut Feed, batch: &mut Batch, message: &Received, now_ns: u64) -> bool {
    if feed.is_expired(message.sent_ns(), now_ns) {
        feed.has_skipped = true;
        return false;
    }
    if feed.told.is_none() {
        push(batch, &passed(feed.rx.channel, feed.rx.consumer.first()));
    }
    feed.told = Some(message.sequence().wrapping_add(1));
    feed.sent += 1;
    true
}

/// Says that a feed is over.
pub(super) fn end(feed: &Feed, batch: &mut Batch) {
    let channel = feed.rx.channel;
    push(batch, &LinkFrame::Closed { channel });
}

/// Messages that had no room, or were too old, show in the numbers of those that follow; if none
/// follow, they are said.
pub(super) fn tell_of_dropped(feed: &mut Feed, batch: &mut Batch) {
    let dropped = feed.rx.consumer.dropped();
    // Looked at after the count: what was put in before something was dropped is seen.
    if (dropped == 0 && !feed.has_skipped) || feed.rx.consumer.is_ready() {
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
            || false,
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
        let feed = Box::new(Feed::new(RxChannel::new(7, consumer), Some(2), None));
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
