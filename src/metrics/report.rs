//! What a node counts, told to a tool that cannot read its status page: one on another host.
//!
//! A report is asked for by a visitor of the coordinator, made by the node from its page, and comes
//! in parts, each a frame. Numbers that are zero are left out, so most of it is names. No I/O here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shmesh_shm::status::ENTRIES;
use shmesh_shm::{Counter, EndpointStatus, Histogram};

use super::Whose;
use crate::id::NodeId;
use crate::limits::TALLIES_PER_FRAME_MAX;

/// A part of what a node counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When it was read, by the monotonic clock of the node's host in nanoseconds; the same in all
    /// parts.
    pub at_ns: u64,
    /// Which part it is, from 0.
    pub part: u32,
    /// True for the last part.
    pub is_last: bool,
    /// At most [`TALLIES_PER_FRAME_MAX`].
    pub tallies: Vec<Tally>,
}

/// An entry of a status page, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Whose it is, as the number on the page.
    pub whose: u32,
    /// The number of the endpoint.
    pub endpoint: u32,
    /// Its topic or service.
    pub topic: String,
    /// Counters by number, those that are not zero.
    pub counts: Vec<(u16, u64)>,
    /// The sum of all times measured, in nanoseconds.
    pub sum_ns: u64,
    /// How many were measured, by bucket: those that are not empty.
    pub buckets: Vec<(u16, u64)>,
}

/// An entry of a status page, as tools use it.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) whose: Whose,
    pub(crate) endpoint: u32,
    pub(crate) topic: String,
    pub(crate) counts: [u64; Counter::ALL.len()],
    pub(crate) latency: Histogram,
}

impl Report {
    /// The parts of a report on what stands on a page. One without any entry, if there are none.
    pub(crate) fn of(entries: &[EndpointStatus], at_ns: u64) -> Vec<Self> {
        let tallies: Vec<Tally> = entries.iter().map(Tally::of).collect();
        let mut chunks: Vec<&[Tally]> = tallies.chunks(TALLIES_PER_FRAME_MAX).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let parts = chunks.into_iter().zip(0..).map(|(tallies, part)| Self {
            at_ns,
            part,
            is_last: false,
            tallies: tallies.to_vec(),
        });
        let mut parts: Vec<Self> = parts.collect();
        if let Some(last) = parts.last_mut() {
            last.is_last = true;
        }
        parts
    }
}

impl Tally {
    fn of(status: &EndpointStatus) -> Self {
        let counts = Counter::ALL.map(|counter| status.value(counter));
        Self {
            whose: status.role,
            endpoint: status.endpoint,
            topic: status.topic.clone(),
            counts: numbered(counts.into_iter().enumerate()),
            sum_ns: status.latency.sum_ns(),
            buckets: numbered(status.latency.buckets()),
        }
    }
}

/// Without zeroes.
fn numbered(counts: impl Iterator<Item = (usize, u64)>) -> Vec<(u16, u64)> {
    let small = counts.filter_map(|(idx, count)| Some((u16::try_from(idx).ok()?, count)));
    small.filter(|(_, count)| *count > 0).collect()
}

impl Counted {
    /// None for what a newer version may have written.
    pub(crate) fn of(status: EndpointStatus) -> Option<Self> {
        Some(Self {
            whose: Whose::from_number(status.role)?,
            endpoint: status.endpoint,
            counts: Counter::ALL.map(|counter| status.value(counter)),
            topic: status.topic,
            latency: status.latency,
        })
    }

    /// None for numbers that nothing has.
    fn told(tally: Tally) -> Option<Self> {
        let mut counts = [0; Counter::ALL.len()];
        for (idx, count) in tally.counts {
            *counts.get_mut(usize::from(idx))? = count;
        }
        let buckets = tally.buckets.into_iter();
        let buckets = buckets.map(|(bucket, count)| (usize::from(bucket), count));
        Some(Self {
            whose: Whose::from_number(tally.whose)?,
            endpoint: tally.endpoint,
            topic: tally.topic,
            counts,
            latency: Histogram::from_buckets(tally.sum_ns, buckets)?,
        })
    }
}

/// What one node said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// As [`Report::at_ns`].
    pub(crate) at_ns: u64,
    pub(crate) entries: Vec<Counted>,
    /// Which part is to come.
    next: u32,
}

/// What a part of a report comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// More is to come.
    Begun,
    Whole,
    /// No node says that.
    Wrong,
}

impl Told {
    /// Takes in a part. One that does not follow is left out: it is of an answer that was given up,
    /// or parts before it were, as nobody had room for them.
    fn take(&mut self, part: Report) -> Taken {
        if part.part == 0 {
            self.at_ns = part.at_ns;
            self.entries.clear();
        } else if (part.at_ns, part.part) != (self.at_ns, self.next) {
            return Taken::Begun;
        }
        self.next = part.part.wrapping_add(1);
        for tally in part.tallies {
            match Counted::told(tally) {
                Some(counted) if self.entries.len() < ENTRIES => self.entries.push(counted),
                _ => return Taken::Wrong,
            }
        }
        if part.is_last {
            Taken::Whole
        } else {
            Taken::Begun
        }
    }
}

/// Reports of several nodes, as their parts come in.
#[derive(Debug)]
pub(crate) struct Reports {
    /// Those who were asked, with what they said so far.
    waiting: BTreeMap<NodeId, Told>,
    whole: BTreeMap<NodeId, Told>,
}

impl Reports {
    pub(crate) fn of(nodes: &[NodeId]) -> Self {
        let waiting = nodes.iter().map(|node| (*node, Told::default()));
        Self {
            waiting: waiting.collect(),
            whole: BTreeMap::new(),
        }
    }

    /// True while somebody has not said all.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes in a part of what a node said; `None` if it cannot be asked. Of a node that says what
    /// cannot be, there is no report.
    pub(crate) fn take(&mut self, node: NodeId, part: Option<Report>) {
        let Some(told) = self.waiting.get_mut(&node) else {
            return;
        };
        match part.map_or(Taken::Wrong, |part| told.take(part)) {
            Taken::Begun => {}
            Taken::Whole => {
                self.whole.extend(self.waiting.remove_entry(&node));
            }
            Taken::Wrong => {
                self.waiting.remove(&node);
            }
        }
    }

    /// What those said who said all.
    pub(crate) fn whole(self) -> BTreeMap<NodeId, Told> {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use shmesh_shm::StatusPage;

    use super::*;
    use crate::limits::FRAME_BYTES_MAX;
    use crate::link::wire::{self, Kind};
    use crate::membership::FromNode;
    use crate::topology::Role;

    const NODE: NodeId = NodeId(7);

    fn page_of(entries: usize, record: impl Fn(&shmesh_shm::Counters)) -> Vec<EndpointStatus> {
        let node = NodeId::random().unwrap();
        let page = StatusPage::create(node.0, "camera").unwrap();
        let topic = "t".repeat(128);
        let claimed: Vec<_> = (0..entries)
            .map(|idx| page.claim(1, u32::try_from(idx).unwrap(), &topic).unwrap())
            .collect();
        claimed.iter().for_each(record);
        page.endpoints()
    }

    #[test]
    fn what_stands_on_a_page_arrives_in_parts_that_are_frames() {
        let entries = page_of(ENTRIES, |counters| {
            for counter in Counter::ALL {
                counters.set(counter, u64::MAX);
            }
            (0..40).for_each(|bits| (0..8).for_each(|part| counters.record((8 + part) << bits)));
        });
        let parts = Report::of(&entries, u64::MAX);
        assert_eq!(parts.len(), ENTRIES.div_ceil(TALLIES_PER_FRAME_MAX));
        let mut reports = Reports::of(&[NODE]);
        for report in parts {
            assert!(reports.is_waiting());
            let word = FromNode::Counts {
                visitor: u64::MAX,
                report,
            };
            let frame = wire::encode(Kind::FromNode, &word).unwrap();
            assert!(frame.len() <= FRAME_BYTES_MAX);
            let FromNode::Counts { report, .. } = word else {
                unreachable!("made above")
            };
            reports.take(NODE, Some(report));
        }
        assert!(!reports.is_waiting());
        let told = &reports.whole()[&NODE];
        assert_eq!(told.entries.len(), ENTRIES);
        for (counted, status) in told.entries.iter().zip(&entries) {
            assert_eq!(counted.whose, Whose::Endpoint(Role::Subscriber));
            assert_eq!(counted.endpoint, status.endpoint);
            assert_eq!(counted.topic, status.topic);
            assert_eq!(counted.counts, [u64::MAX; Counter::ALL.len()]);
            assert_eq!(counted.latency, status.latency);
        }
    }

    #[test]
    fn a_report_is_whole_or_there_is_none() {
        let entries = page_of(3, |counters| counters.set(Counter::Messages, 5));
        let whole = || Report::of(&entries, 9).remove(0);
        let part = |at_ns, part, is_last| {
            Some(Report {
                at_ns,
                part,
                is_last,
                ..whole()
            })
        };
        let entry_counts = |parts: Vec<Option<Report>>| {
            let mut reports = Reports::of(&[NODE]);
            reports.take(NodeId(8), Some(whole()));
            parts.into_iter().for_each(|part| reports.take(NODE, part));
            let told = reports.whole();
            let counts = told.values().map(|told| told.entries.len());
            counts.collect::<Vec<_>>()
        };
        let none: [usize; 0] = [];
        assert_eq!(entry_counts(vec![Some(whole())]), [3]);
        assert_eq!(entry_counts(vec![]), none);
        assert_eq!(entry_counts(vec![None, Some(whole())]), none, "gone");
        assert_eq!(entry_counts(vec![part(9, 0, false)]), none, "cut off");
        let two = || vec![part(9, 0, false), part(9, 1, true)];
        assert_eq!(entry_counts(two()), [6]);
        // Ends of other answers, whose beginnings are lost, come before, between and alone.
        for at in 0..2 {
            for lost in [part(8, 1, true), part(9, 2, true)] {
                let mut disturbed = two();
                disturbed.insert(at, lost.clone());
                assert_eq!(entry_counts(disturbed), [6]);
                assert_eq!(entry_counts(vec![lost]), none);
            }
        }
        let again = vec![part(8, 0, false), part(9, 0, true)];
        assert_eq!(entry_counts(again), [3], "the first was given up");
        let flood = (0..200).map(|number| part(9, number, false)).collect();
        assert_eq!(entry_counts(flood), none, "more than a page has");
        assert_eq!(Report::of(&[], 9).len(), 1, "nothing is said as well");
        for spoil in [
            |tally: &mut Tally| tally.whose = 6,
            |tally: &mut Tally| tally.counts.push((31, 1)),
            |tally: &mut Tally| tally.buckets.push((u16::MAX, 1)),
        ] {
            let mut broken = whole();
            spoil(&mut broken.tallies[1]);
            assert_eq!(entry_counts(vec![Some(broken), Some(whole())]), none);
        }
    }
}
