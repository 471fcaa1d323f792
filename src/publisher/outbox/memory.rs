//! Where an outbox gets chunks from: memory that is free, came back, is new, or must be taken from
//! somebody, in this order; and who is told of it.

use std::sync::Arc;

use shmesh_shm::{Chunk, Counter, Segment, ShmError, Swept};

use super::{History, Outbox};
use crate::endpoint::{TxChannel, lock};
use crate::error::{Error, Holder};

impl Outbox {
    /// A chunk of at least `len` bytes: one that is free, one that came back, one in a new
    /// segment, or one taken from the history or from a subscriber that keeps only the last
    /// messages.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] names who holds how much; or why no memory could be had.
    pub(crate) fn take_chunk(&mut self, len: usize) -> Result<Chunk<Segment>, Error> {
        self.take_news();
        if let Some(chunk) = self.arena.take(len) {
            return Ok(chunk);
        }
        let Self {
            channels,
            lingering,
            arena,
            ..
        } = self;
        let mut swept = Swept::default();
        for channel in channels.iter_mut() {
            swept += channel.producer.sweep(|id| arena.release(id));
        }
        lingering.retain_mut(|(_, producer)| {
            swept += producer.sweep(|id| arena.release(id));
            producer.lent_count() > 0
        });
        let Some(chunk) = arena.take(len) else {
            return self.grow_for(len);
        };
        if swept.is_poor() {
            self.grow_ahead(len);
        }
        Ok(chunk)
    }

    /// Grows although it need not, so that sweeps are worth their while. Leaves half of the bound
    /// for messages of other sizes.
    #[cold]
    fn grow_ahead(&mut self, len: usize) {
        if self.arena.bytes() < self.arena.bytes_max() / 2
            && let Ok((number, segment)) = self.arena.grow(len)
        {
            self.announce(number, segment);
        }
    }

    /// Makes sure that `count` chunks of `len` bytes can be had without new memory.
    pub(crate) fn reserve(&mut self, len: usize, count: usize) -> Result<(), Error> {
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            taken.push(self.take_chunk(len)?);
        }
        Ok(())
    }

    #[cold]
    fn grow_for(&mut self, len: usize) -> Result<Chunk<Segment>, Error> {
        if self.is_over {
            return Err(Error::Closed);
        }
        loop {
            let full = match self.arena.grow(len) {
                Ok((number, segment)) => {
                    self.announce(number, segment);
                    let chunk = self.arena.take(len);
                    return Ok(chunk.expect("invariant: a grown arena has a free chunk"));
                }
                Err(ShmError::ArenaFull { need, max, .. }) => (need, max),
                Err(error) => return Err(error.into()),
            };
            if let Some(chunk) = self.evict_for(len) {
                return Ok(chunk);
            }
            if !self.retire_idle() {
                let (need, max) = full;
                return Err(Error::ArenaFull {
                    need,
                    max,
                    holders: self.holders(),
                });
            }
        }
    }

    /// Takes messages out of the history, and unread ones from subscribers that allow it, oldest
    /// first, until a chunk fits.
    fn evict_for(&mut self, len: usize) -> Option<Chunk<Segment>> {
        let shared = Arc::clone(&self.shared);
        let mut kept = shared.history.as_ref().map(History::lock);
        if kept.is_some() {
            // Under the lock, as `History` demands.
            self.take_news();
        }
        let Self {
            channels, arena, ..
        } = self;
        loop {
            let forgotten = kept.as_mut().and_then(|kept| kept.give_way());
            let mut has_evicted = forgotten.is_some();
            if let Some(id) = forgotten {
                arena.release(id);
                // Perhaps nobody else had it.
                if let Some(chunk) = arena.take(len) {
                    return Some(chunk);
                }
            }
            for channel in channels.iter_mut() {
                has_evicted |= channel.producer.evict_oldest(|id| arena.release(id));
            }
            if let Some(chunk) = arena.take(len) {
                return Some(chunk);
            }
            if !has_evicted {
                return None;
            }
        }
    }

    fn announce(&mut self, number: u32, segment: Arc<Segment>) {
        self.counters
            .set(Counter::ArenaBytes, self.arena.bytes() as u64);
        let mut outlets = lock(&self.shared.outlets);
        for listener in &outlets.listeners {
            listener.outlet.segment(number, &segment);
        }
        outlets.segments.push((number, segment));
    }

    fn retire_idle(&mut self) -> bool {
        let retired = self.arena.retire_idle();
        let mut outlets = lock(&self.shared.outlets);
        outlets
            .segments
            .retain(|(number, _)| !retired.contains(number));
        for number in &retired {
            for listener in &outlets.listeners {
                listener.outlet.segment_gone(*number);
            }
        }
        self.counters
            .set(Counter::ArenaBytes, self.arena.bytes() as u64);
        !retired.is_empty()
    }

    /// Who holds how much of the arena.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let holder = |channel: &TxChannel| {
            let (chunks, bytes) = channel.producer.lent().fold((0, 0), |(chunks, bytes), id| {
                (chunks + 1, bytes + self.arena.chunk_bytes(id) as u64)
            });
            Holder {
                node: channel.subscriber_name.clone(),
                chunks,
                bytes,
            }
        };
        let mut holders: Vec<_> = self.channels.iter().map(holder).collect();
        holders.retain(|holder| holder.chunks > 0);
        let lent: usize = holders
            .iter()
            .map(|holder| holder.chunks)
            .max()
            .unwrap_or_default();
        if self.arena.used_count() > lent && holders.is_empty() {
            let chunks = self.arena.used_count();
            holders.push(Holder {
                node: "loans of this publisher".into(),
                chunks,
                bytes: 0,
            });
        }
        holders
    }
}
