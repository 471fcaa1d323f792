//! Which of several nodes of one name gets a message. Sans-IO.
//!
//! Subscribers of a topic are grouped by the name of their node. A group of one node gets
//! everything; of a group of several each message goes to one, chosen as [`Balance`] says among
//! those with room. What the others get is no loss of theirs: see `TxChannel::passed_over`.

use crate::id::NodeId;

/// How a publisher or caller shares its messages out among nodes of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one whose last message is longest ago; one that comes new is first.
    LeastRecent,
    /// Any, by chance.
    Random,
    /// The one with the fewest unread messages. Looking costs a cache line for each member.
    LeastLoaded,
    /// Always the same for the same key (see [`Publisher::set_key`](crate::Publisher::set_key)),
    /// for as long as it is there and has room. When members come or go, only keys of these move.
    Sticky,
    /// All of them: nodes of one name share nothing.
    Everybody,
}

/// What may be asked of a channel before a choice.
pub(crate) trait Channels {
    /// True if a message would find room.
    fn has_room(&mut self, idx: usize) -> bool;
    /// Messages that are not read yet.
    fn unread(&mut self, idx: usize) -> u64;
    /// Notes whether the next message is for it.
    fn mark(&mut self, idx: usize, is_chosen: bool);
}

#[derive(Debug)]
struct Member {
    node: NodeId,
    /// Those of the publisher's channels that lead to it.
    channels: Vec<usize>,
    /// When it was last chosen, by the count of choices; 0 if never.
    chosen_at: u64,
    /// What stands in the way of it this time: more is worse.
    rank: u64,
}

/// The groups of a publisher that have several members.
#[derive(Debug)]
pub(crate) struct Groups {
    balance: Balance,
    /// Services know one group, whatever the names.
    is_by_name: bool,
    groups: Vec<(String, Vec<Member>)>,
    choices: u64,
    random: u64,
    pub(crate) key: u64,
}

impl Groups {
    pub(crate) fn new(balance: Balance, is_by_name: bool, seed: u64) -> Self {
        Self {
            balance,
            is_by_name,
            groups: Vec::new(),
            choices: 0,
            // An xorshift generator stands still at 0.
            random: seed | 1,
            key: 0,
        }
    }

    /// True if there is something to choose.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Takes in who is there now: node and name of each channel, by index.
    pub(crate) fn regroup<'a>(&mut self, channels: impl Iterator<Item = (NodeId, &'a str)>) {
        let known = std::mem::take(&mut self.groups);
        if self.balance == Balance::Everybody {
            return;
        }
        let chosen_at = |node: NodeId| {
            let members = known.iter().flat_map(|(_, members)| members);
            let mut found = members.filter(|member| member.node == node);
            found.next().map_or(0, |member| member.chosen_at)
        };
        for (idx, (node, name)) in channels.enumerate() {
            let name = if self.is_by_name { name } else { "" };
            let found = self.groups.iter().position(|(known, _)| known == name);
            let place = found.unwrap_or_else(|| {
                self.groups.push((name.to_owned(), Vec::new()));
                self.groups.len() - 1
            });
            let members = &mut self.groups[place].1;
            match members.iter_mut().find(|member| member.node == node) {
                Some(member) => member.channels.push(idx),
                None => members.push(Member {
                    node,
                    channels: vec![idx],
                    chosen_at: chosen_at(node),
                    rank: 0,
                }),
            }
        }
        self.groups.retain(|(_, members)| members.len() > 1);
        for (_, members) in &mut self.groups {
            members.sort_by_key(|member| member.node);
        }
    }

    /// Chooses one member of each group for the next message, and marks its channels and those of
    /// the others. Does not allocate.
    pub(crate) fn choose(&mut self, channels: &mut impl Channels) {
        let Self {
            balance,
            groups,
            choices,
            random,
            key,
            ..
        } = self;
        for (_, members) in groups {
            *choices += 1;
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            for member in members.iter_mut() {
                member.rank = match balance {
                    // One that never was chosen is first either way.
                    Balance::RoundRobin | Balance::LeastRecent | Balance::Everybody => {
                        member.chosen_at
                    }
                    Balance::Random => mixed(*random, member.node),
                    Balance::LeastLoaded => {
                        let unread = member.channels.iter().map(|idx| channels.unread(*idx));
                        unread.max().unwrap_or_default()
                    }
                    Balance::Sticky => mixed(*key, member.node),
                };
            }
            let chosen = best(members, channels);
            for (idx, member) in members.iter_mut().enumerate() {
                let is_chosen = idx == chosen;
                if is_chosen {
                    member.chosen_at = *choices;
                }
                for channel in &member.channels {
                    channels.mark(*channel, is_chosen);
                }
            }
        }
    }
}

/// The first member by rank that has room in all its channels; the first at all if none has.
fn best(members: &[Member], channels: &mut impl Channels) -> usize {
    let by_rank = |idx: &usize| {
        let member = &members[*idx];
        (member.rank, member.chosen_at)
    };
    let first = (0..members.len()).min_by_key(by_rank).unwrap_or_default();
    let has_room = |idx: usize, channels: &mut _| {
        let mut of_member = members[idx].channels.iter();
        of_member.all(|channel| Channels::has_room(channels, *channel))
    };
    if has_room(first, channels) {
        return first;
    }
    let others = (0..members.len()).filter(|idx| *idx != first);
    let others = others.filter(|idx| has_room(*idx, channels));
    others.min_by_key(by_rank).unwrap_or(first)
}

/// A number that differs for each pair, and looks like chance (the finaliser of SplitMix64).
fn mixed(number: u64, node: NodeId) -> u64 {
    #[allow(clippy::cast_possible_truncation)] // both halves are used
    let folded = (node.0 >> 64) as u64 ^ node.0 as u64;
    let mut word = number
        .wrapping_add(folded)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channels that only count.
    #[derive(Default)]
    struct Counts {
        got: Vec<u64>,
        is_full: Vec<bool>,
        unread: Vec<u64>,
    }

    impl Counts {
        fn of(count: usize) -> Self {
            Self {
                got: vec![0; count],
                is_full: vec![false; count],
                unread: vec![0; count],
            }
        }
    }

    impl Channels for Counts {
        fn has_room(&mut self, idx: usize) -> bool {
            !self.is_full[idx]
        }
        fn unread(&mut self, idx: usize) -> u64 {
            self.unread[idx]
        }
        fn mark(&mut self, idx: usize, is_chosen: bool) {
            self.got[idx] += u64::from(is_chosen);
        }
    }

    fn groups(balance: Balance, members: &[(u128, &str)]) -> Groups {
        let mut groups = Groups::new(balance, true, 7);
        groups.regroup(members.iter().map(|(id, name)| (NodeId(*id), *name)));
        groups
    }

    #[test]
    fn nodes_alone_are_no_group() {
        assert!(groups(Balance::RoundRobin, &[(1, "a"), (2, "b")]).is_empty());
        assert!(groups(Balance::Everybody, &[(1, "a"), (2, "a")]).is_empty());
        let two_of_one_node = [(1, "a"), (1, "a")];
        assert!(groups(Balance::RoundRobin, &two_of_one_node).is_empty());
        assert!(!groups(Balance::RoundRobin, &[(1, "a"), (2, "a")]).is_empty());
        let mut service = Groups::new(Balance::RoundRobin, false, 7);
        service.regroup([(NodeId(1), "a"), (NodeId(2), "b")].into_iter());
        assert!(!service.is_empty());
    }

    #[test]
    fn work_is_shared_evenly_in_turn_and_about_evenly_by_chance() {
        let members = [(1, "a"), (2, "a"), (3, "a")];
        for balance in [Balance::RoundRobin, Balance::LeastRecent] {
            let (mut groups, mut counts) = (groups(balance, &members), Counts::of(3));
            for _ in 0..300 {
                groups.choose(&mut counts);
            }
            assert_eq!(counts.got, [100, 100, 100]);
        }
        let (mut groups, mut counts) = (groups(Balance::Random, &members), Counts::of(3));
        for _ in 0..3000 {
            groups.choose(&mut counts);
        }
        assert!(
            counts.got.iter().all(|got| (850..1150).contains(got)),
            "{:?}",
            counts.got
        );
    }

    #[test]
    fn all_channels_of_the_chosen_node_get_the_message() {
        let members = [(1, "a"), (2, "a"), (1, "a")];
        let (mut groups, mut counts) = (groups(Balance::RoundRobin, &members), Counts::of(3));
        for _ in 0..10 {
            groups.choose(&mut counts);
        }
        assert_eq!(counts.got, [5, 5, 5]);
    }

    #[test]
    fn who_is_full_is_left_out_while_somebody_has_room() {
        for balance in [
            Balance::RoundRobin,
            Balance::Random,
            Balance::LeastLoaded,
            Balance::Sticky,
        ] {
            let members = [(1, "a"), (2, "a")];
            let (mut groups, mut counts) = (groups(balance, &members), Counts::of(2));
            counts.is_full[0] = true;
            for _ in 0..10 {
                groups.choose(&mut counts);
            }
            assert_eq!(counts.got, [0, 10], "{balance:?}");
            counts.is_full[1] = true;
            groups.choose(&mut counts);
            assert_eq!(counts.got.iter().sum::<u64>(), 11, "somebody has to wait");
        }
    }

    #[test]
    fn the_least_loaded_is_the_one_with_the_fewest_unread() {
        let members = [(1, "a"), (2, "a"), (3, "a")];
        let (mut groups, mut counts) = (groups(Balance::LeastLoaded, &members), Counts::of(3));
        counts.unread = vec![3, 1, 2];
        groups.choose(&mut counts);
        assert_eq!(counts.got, [0, 1, 0]);
    }

    #[test]
    fn keys_stay_where_they_are_when_others_come_and_go() {
        let owner = |members: &[(u128, &str)], key| {
            let (mut groups, mut counts) = (groups(Balance::Sticky, members), Counts::of(4));
            groups.key = key;
            groups.choose(&mut counts);
            members[counts.got.iter().position(|got| *got == 1).unwrap()].0
        };
        let (three, four) = (
            [(1, "a"), (2, "a"), (3, "a")],
            [(1, "a"), (2, "a"), (3, "a"), (4, "a")],
        );
        let mut moved = 0;
        for key in 0..400 {
            let (before, after) = (owner(&three, key), owner(&four, key));
            assert!(after == before || after == 4);
            moved += u32::from(after == 4);
        }
        assert!((60..140).contains(&moved), "{moved} of 400 to the fourth");
    }

    #[test]
    fn who_comes_new_is_next_and_the_others_keep_their_turns() {
        let two = [(1, "a"), (2, "a")];
        let (mut groups, mut counts) = (groups(Balance::LeastRecent, &two), Counts::of(2));
        groups.choose(&mut counts);
        assert_eq!(counts.got, [1, 0]);
        let three = [(1, "a"), (2, "a"), (3, "a")].map(|(id, name)| (NodeId(id), name));
        groups.regroup(three.into_iter());
        let mut counts = Counts::of(3);
        for _ in 0..2 {
            groups.choose(&mut counts);
        }
        assert_eq!(counts.got, [0, 1, 1]);
    }
}
