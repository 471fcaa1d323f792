//! The messages of one node, which come through many rings, in the order in which the node sent
//! them.
//!
//! While a subscription to several topics listens, publishers of a node stamp their messages with
//! times that no two of them share and that grow (see `publisher::order`). Of the rings' first
//! messages the one with the smallest stamp is next, but only if nothing that was sent before it
//! can still turn up in a ring that was found empty. To look at all rings again for each message
//! would cost as much as there are rings, so whole groups are found safe at once:
//!
//! A message is *safe* if its stamp is not above one that was seen before the rings were last
//! looked at, all of those that were empty. For what its sender had sent before, it had put into
//! its ring before it took this message's stamp. That was before the larger stamp was taken, for
//! stamps grow; and what was done before a stamp was taken is visible to who has seen that stamp
//! (a chain of read-modify-writes, then the ring's Release and Acquire). So that look found it.
//! What comes later with a smaller stamp yet was sent by another thread meanwhile, and neither is
//! before the other.
//!
//! The same holds for rings that a network fills: the writer merges by the same rule, so what was
//! before a message went out before any message with a larger stamp.
//!
//! That look must have found each ring empty or not. An overwriting ring can be written so fast
//! that the look cannot tell which message is its first: then nothing becomes safe by it. Nor does
//! it while rings are about to come: what was sent before may lie in one of them.
//!
//! Messages stay in their rings until it is their turn, so that the depth of each means what it
//! says. In an overwriting ring a later one may have come in between; it takes its own place.

use std::collections::VecDeque;

use shmesh_shm::{Consumer, Corrupt, Peeked, Received};

use crate::endpoint::RxChannel;

/// Something with a ring to merge.
pub(crate) trait Lane {
    fn consumer(&mut self) -> &mut Consumer;

    /// False while its next message has to stay where it is.
    fn may_take(&self) -> bool {
        true
    }
}

impl Lane for RxChannel {
    #[inline]
    fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }
}

/// What came of a look for the next message.
#[derive(Debug)]
pub(crate) enum Found {
    /// It, and from which lane.
    Message(usize, Received),
    /// It is in that lane, and cannot be taken now.
    Waiting(usize),
    Nothing,
}

/// A lane's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct First {
    stamp: u64,
    lane: u32,
}

/// First messages in the order of their stamps. Where topics take turns, the next one of a lane
/// comes behind all others, and where one is behind, before them: so most are put in at an end. A
/// heap would sift each through all its levels.
#[derive(Debug, Default)]
struct Firsts(VecDeque<First>);

impl Firsts {
    #[inline]
    fn first(&self) -> Option<First> {
        self.0.front().copied()
    }

    #[inline]
    fn insert(&mut self, first: First) {
        if self.0.back().is_none_or(|last| *last <= first) {
            self.0.push_back(first);
        } else {
            let at = self.0.partition_point(|known| *known <= first);
            self.0.insert(at, first);
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<First> {
        self.0.pop_front()
    }
}

/// A message that was taken before its turn, because it would have been overwritten for ever.
#[derive(Debug)]
struct Hand {
    first: First,
    message: Received,
}

/// Where the lanes of one node are. Lanes are numbers in a slice that is given to each call.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    /// Lanes that had a message.
    firsts: Firsts,
    /// True if the smallest is taken, and what follows it is not looked at yet.
    is_first_taken: bool,
    /// Lanes that had none when they were last looked at, or none that could be told.
    idle: Vec<u32>,
    /// The largest stamp that was seen.
    seen: u64,
    /// Messages up to this stamp are safe.
    safe: u64,
    /// One at most.
    hand: Option<Hand>,
}

type Failed = (usize, Corrupt);

impl Merge {
    /// Takes a lane in. What is in it already may have been sent before what is known.
    #[allow(clippy::cast_possible_truncation)] // at most CHANNELS_PER_LINK_MAX for each node
    pub(crate) fn add(&mut self, lane: usize) {
        self.idle.push(lane as u32);
        self.safe = 0;
        self.make_room();
    }

    /// Lane `gone` is no more, and what was lane `moved` has its number. False if no lane is left.
    pub(crate) fn remove(&mut self, gone: usize, moved: usize) -> bool {
        let renamed = |lane: u32| match lane as usize {
            lane if lane == gone => None,
            other if other == moved => u32::try_from(gone).ok(),
            _ => Some(lane),
        };
        if std::mem::take(&mut self.is_first_taken)
            && let Some(first) = self.firsts.pop()
        {
            self.idle.push(first.lane);
        }
        let mut firsts = Firsts::default();
        while let Some(first) = self.firsts.pop() {
            if let Some(lane) = renamed(first.lane) {
                firsts.insert(First { lane, ..first });
            }
        }
        self.firsts = firsts;
        self.idle = self.idle.iter().filter_map(|lane| renamed(*lane)).collect();
        self.hand = self.hand.take().and_then(|mut hand| {
            hand.first.lane = renamed(hand.first.lane)?;
            Some(hand)
        });
        self.make_room();
        self.firsts.0.len() + self.idle.len() > 0
    }

    /// Room for all lanes in both, so that nothing is allocated later.
    fn make_room(&mut self) {
        self.firsts.0.reserve(self.idle.len());
        self.idle.reserve(self.firsts.0.len());
    }

    /// Lanes that were empty when they were last looked at, and of which no message waits here.
    pub(crate) fn idle(&self) -> impl Iterator<Item = usize> {
        let idle = self.idle.iter().map(|lane| *lane as usize);
        idle.filter(|lane| !self.is_in_hand(*lane))
    }

    /// True if a message of that lane was taken before its turn and waits here.
    pub(crate) fn is_in_hand(&self, lane: usize) -> bool {
        let is_its = |hand: &Hand| hand.first.lane as usize == lane;
        self.hand.as_ref().is_some_and(is_its)
    }

    /// One of these.
    pub(crate) fn find_idle(&self, is_it: impl FnMut(&usize) -> bool) -> Option<usize> {
        self.idle().find(is_it)
    }

    /// Takes the next message, if there is one. Wait-free; allocates nothing. `has_news` says if
    /// lanes are to be taken in or away: then it finds nothing until that is done, or it is called
    /// again.
    ///
    /// # Errors
    /// The lane whose ring holds what no publisher writes.
    #[inline]
    pub(crate) fn next<L: Lane>(
        &mut self,
        lanes: &mut [L],
        has_news: impl Fn() -> bool,
    ) -> Result<Found, Failed> {
        if std::mem::take(&mut self.is_first_taken) {
            self.look_at_first(lanes)?;
        }
        if let Some(first) = self.firsts.first()
            && first.stamp <= self.safe
            && self.hand.is_none()
        {
            let lane = &mut lanes[first.lane as usize];
            if lane.may_take() {
                let taken = lane.consumer().next_until(first.stamp);
                let lane = first.lane as usize;
                if let Some(message) = taken.map_err(|corrupt| (lane, corrupt))? {
                    self.is_first_taken = true;
                    return Ok(Found::Message(lane, message));
                }
            }
        }
        self.search(lanes, &has_news)
    }

    /// The same, where the first one that is known is not safe, or not there any more.
    #[inline(never)]
    fn search<L: Lane>(
        &mut self,
        lanes: &mut [L],
        has_news: &impl Fn() -> bool,
    ) -> Result<Found, Failed> {
        let (mut laps, mut has_scanned) = (0, false);
        loop {
            let first = self.firsts.first();
            if let Some(hand) = self.hand.take_if(|hand| {
                hand.first.stamp <= self.safe && first.is_none_or(|first| hand.first <= first)
            }) {
                return Ok(Found::Message(hand.first.lane as usize, hand.message));
            }
            match first {
                // Its publisher goes on and rings whoever parks: see `Consumer::peek`.
                _ if laps > 2 * LAPS_MAX => return Ok(Found::Nothing),
                Some(first) if first.stamp <= self.safe => {
                    let lane = first.lane as usize;
                    if !lanes[lane].may_take() {
                        return Ok(Found::Waiting(lane));
                    }
                    let stamp_max = if laps < LAPS_MAX || self.hand.is_some() {
                        first.stamp
                    } else {
                        u64::MAX
                    };
                    let taken = lanes[lane].consumer().next_until(stamp_max);
                    let taken = taken.map_err(|corrupt| (lane, corrupt))?;
                    let is_taken = taken.is_some();
                    if let Some(message) = taken {
                        let stamp = message.sent_ns();
                        if stamp <= first.stamp {
                            self.is_first_taken = true;
                            return Ok(Found::Message(lane, message));
                        }
                        let first = First { stamp, ..first };
                        self.see(first);
                        self.hand = Some(Hand { first, message });
                    }
                    let is_other = self.look_at_first(lanes)?;
                    if !is_taken && !is_other {
                        return Ok(Found::Waiting(lane));
                    }
                    laps += 1;
                }
                None if has_scanned && self.hand.is_none() => return Ok(Found::Nothing),
                _ => {
                    let is_told = self.scan(lanes)?;
                    // After the looks: rings in which something was before what they found.
                    if !is_told || has_news() {
                        self.safe = 0;
                        return Ok(Found::Nothing);
                    }
                    has_scanned = true;
                }
            }
        }
    }

    /// Looks again at the lane with the smallest stamp; true if another message is first there.
    #[inline]
    fn look_at_first<L: Lane>(&mut self, lanes: &mut [L]) -> Result<bool, Failed> {
        let Some(First {
            stamp: before,
            lane,
        }) = self.firsts.first()
        else {
            return Ok(false);
        };
        let peeked = lanes[lane as usize].consumer().peek();
        let peeked = peeked.map_err(|corrupt| (lane as usize, corrupt))?;
        self.firsts.pop();
        let stamp = match peeked {
            Peeked::Sent(stamp) => stamp,
            Peeked::Nothing => {
                self.idle.push(lane);
                return Ok(true);
            }
            Peeked::Lapped => {
                self.idle.push(lane);
                self.safe = 0;
                return Ok(true);
            }
        };
        let first = First { stamp, lane };
        self.firsts.insert(first);
        self.see(first);
        Ok(stamp != before)
    }

    /// Looks at all lanes that were empty. What was seen before is safe then, unless this is false:
    /// of some it could not be told.
    fn scan<L: Lane>(&mut self, lanes: &mut [L]) -> Result<bool, Failed> {
        let (seen, mut is_told) = (self.seen, true);
        // Their order stays: they were emptied in the order of their stamps, and where topics take
        // turns those of the next messages are in the same order.
        let mut kept = 0;
        for at in 0..self.idle.len() {
            let lane = self.idle[at];
            match lanes[lane as usize].consumer().peek() {
                Ok(Peeked::Sent(stamp)) => {
                    let first = First { stamp, lane };
                    self.firsts.insert(first);
                    self.see(first);
                }
                Ok(found) => {
                    is_told &= found == Peeked::Nothing;
                    self.idle[kept] = lane;
                    kept += 1;
                }
                Err(corrupt) => {
                    self.idle.drain(kept..at);
                    return Err((lane as usize, corrupt));
                }
            }
        }
        self.idle.truncate(kept);
        self.safe = seen;
        Ok(is_told)
    }

    #[inline]
    fn see(&mut self, first: First) {
        self.seen = self.seen.max(first.stamp);
    }
}

/// First messages that were overwritten in a row until one is taken before its turn.
const LAPS_MAX: u32 = 8;

#[cfg(test)]
mod tests;
