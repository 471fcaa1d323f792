//! Whose turn it is on a network link. Sans-IO.

use crate::limits::{
    FRAGMENTS_AHEAD_BYTES, FRAGMENTS_PER_SHARED_WRITE, FRAGMENTS_PER_WRITE, PASSED_OVER_MAX,
};
use crate::priority::Priority;

/// The most urgent first.
pub(super) const LEVELS: [Priority; 3] = [Priority::Urgent, Priority::Normal, Priority::Bulk];

/// Feeds of one priority have turns among each other.
#[derive(Debug, Default)]
struct Level {
    is_there: bool,
    /// The feed that is next.
    turn: usize,
    /// Batches in a row that were full before this priority was looked at.
    passed_over: u32,
}

#[derive(Debug, Default)]
pub(super) struct Turns {
    levels: [Level; LEVELS.len()],
}

impl Turns {
    /// These are the priorities of all feeds: nobody looks for messages of others.
    pub(super) fn set(&mut self, priorities: impl Iterator<Item = Priority>) {
        self.levels
            .iter_mut()
            .for_each(|level| level.is_there = false);
        priorities.for_each(|priority| self.levels[priority as usize].is_there = true);
    }

    pub(super) fn is_there(&self, priority: Priority) -> bool {
        self.levels[priority as usize].is_there
    }

    /// True if there are feeds that are more urgent than this: only then messages are cut.
    pub(super) fn is_shared(&self, priority: Priority) -> bool {
        let above = &self.levels[priority as usize + 1..];
        above.iter().any(|level| level.is_there)
    }

    /// How many fragments of a message of this priority may go at once, if so many bytes of
    /// fragments are on their way.
    pub(super) fn fragments_max(&self, priority: Priority, bytes_ahead: u64) -> usize {
        match self.is_shared(priority) {
            true if bytes_ahead >= FRAGMENTS_AHEAD_BYTES => 0,
            true => FRAGMENTS_PER_SHARED_WRITE,
            false => FRAGMENTS_PER_WRITE,
        }
    }

    /// The feed that is next of this priority.
    pub(super) fn of(&mut self, priority: Priority) -> &mut usize {
        &mut self.levels[priority as usize].turn
    }

    /// A batch has come to this priority; there may be no room left.
    pub(super) fn note_turn(&mut self, priority: Priority, has_room: bool) {
        let passed_over = &mut self.levels[priority as usize].passed_over;
        *passed_over = if has_room { 0 } else { *passed_over + 1 };
    }

    /// The least urgent priority that was passed over too often in a row: it has a turn first.
    pub(super) fn overdue(&mut self) -> Option<Priority> {
        let is_overdue = |priority: &Priority| {
            let level = &self.levels[*priority as usize];
            level.passed_over >= PASSED_OVER_MAX
        };
        let priority = LEVELS.into_iter().rev().find(is_overdue)?;
        self.levels[priority as usize].passed_over = 0;
        Some(priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_wait_where_somebody_is_more_urgent_and_many_are_on_their_way() {
        use Priority::{Bulk, Normal, Urgent};
        let mut turns = Turns::default();
        turns.set([Normal, Bulk].into_iter());
        assert!(turns.is_shared(Bulk) && !turns.is_shared(Normal) && !turns.is_shared(Urgent));
        let (few, many) = (FRAGMENTS_AHEAD_BYTES - 1, FRAGMENTS_AHEAD_BYTES);
        assert_eq!(turns.fragments_max(Normal, many), FRAGMENTS_PER_WRITE);
        assert_eq!(turns.fragments_max(Bulk, few), FRAGMENTS_PER_SHARED_WRITE);
        assert_eq!(turns.fragments_max(Bulk, many), 0);
        turns.set([Normal, Urgent].into_iter());
        assert!(!turns.is_there(Bulk) && turns.is_there(Urgent));
        assert_eq!(turns.fragments_max(Normal, many), 0);
        assert_eq!(turns.fragments_max(Urgent, many), FRAGMENTS_PER_WRITE);
        turns.set([Normal].into_iter());
        assert_eq!(turns.fragments_max(Normal, many), FRAGMENTS_PER_WRITE);
    }

    #[test]
    fn who_is_passed_over_for_long_enough_has_one_turn() {
        let mut turns = Turns::default();
        for priority in LEVELS {
            assert!(!turns.is_there(priority));
        }
        turns.set(LEVELS.into_iter());
        for _ in 0..3 {
            for _ in 0..PASSED_OVER_MAX {
                assert_eq!(turns.overdue(), None);
                turns.note_turn(Priority::Urgent, true);
                turns.note_turn(Priority::Normal, false);
                turns.note_turn(Priority::Bulk, false);
            }
            assert_eq!(turns.overdue(), Some(Priority::Bulk));
            assert_eq!(turns.overdue(), Some(Priority::Normal));
        }
        for _ in 1..PASSED_OVER_MAX {
            turns.note_turn(Priority::Normal, false);
        }
        turns.note_turn(Priority::Normal, true);
        turns.note_turn(Priority::Normal, false);
        assert_eq!(turns.overdue(), None, "only in a row");
    }
}
