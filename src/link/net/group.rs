//! The feeds of one subscription to several topics: gathered in the order of our node.

use shmesh_shm::Consumer;

use super::batch::Batch;
use super::writer::{BURST, Feed, end, put, tell_of_dropped};
use crate::error::Error;
use crate::merge::{Found, Lane, Merge};

impl Lane for Feed {
    #[inline]
    fn consumer(&mut self) -> &mut Consumer {
        &mut self.rx.consumer
    }

    /// One that has no credit holds up the others: what they have comes later. The subscriber can
    /// take all that it has got, and says so.
    #[inline]
    fn may_take(&self) -> bool {
        self.has_credit()
    }
}

#[derive(Debug)]
pub(super) struct Group {
    /// The subscription's number in the peer's node.
    pub(super) subscription: u32,
    pub(super) feeds: Vec<Feed>,
    merge: Merge,
}

impl Group {
    pub(super) fn new(subscription: u32) -> Self {
        Self {
            subscription,
            feeds: Vec::new(),
            merge: Merge::default(),
        }
    }

    pub(super) fn add(&mut self, feed: Feed) {
        self.merge.add(self.feeds.len());
        self.feeds.push(feed);
    }

    /// Takes a feed away, if it is one of these.
    pub(super) fn remove(&mut self, channel: u64) {
        let is_it = |feed: &Feed| feed.rx.channel == channel;
        if let Some(lane) = self.feeds.iter().position(is_it) {
            self.remove_lane(lane);
        }
    }

    fn remove_lane(&mut self, lane: usize) {
        self.feeds.swap_remove(lane);
        self.merge.remove(lane, self.feeds.len());
    }

    /// Takes some messages; how many. None while there `has_news`: it comes with another flush.
    pub(super) fn gather(
        &mut self,
        batch: &mut Batch,
        now_ns: u64,
        has_news: &impl Fn() -> bool,
    ) -> Result<usize, Error> {
        let mut count = 0;
        while count < BURST && batch.has_room() {
            let found = self.merge.next(&mut self.feeds, has_news);
            match found.map_err(|(_, corrupt)| Error::Protocol(corrupt.0))? {
                Found::Message(lane, message) => {
                    put(&mut self.feeds[lane], batch, message, now_ns);
                    count += 1;
                }
                Found::Waiting(lane) => {
                    let feed = &mut self.feeds[lane];
                    let is_lost = feed.rx.is_closed
                        && feed.has_credit()
                        && !feed.rx.consumer.is_at_held_max();
                    if !is_lost {
                        break;
                    }
                    feed.rx.consumer.skip_next();
                }
                Found::Nothing => break,
            }
        }
        if count == 0 {
            self.tidy(batch);
        }
        Ok(count)
    }

    /// Says what is to be said of feeds that have no message: what was dropped, and which are over.
    fn tidy(&mut self, batch: &mut Batch) {
        for lane in self.merge.idle() {
            if !batch.has_room() {
                return;
            }
            tell_of_dropped(&mut self.feeds[lane], batch);
        }
        while batch.has_room()
            && let Some(lane) = self.merge.find_idle(|lane| self.feeds[*lane].is_over())
        {
            end(&self.feeds[lane], batch);
            self.remove_lane(lane);
        }
    }
}
