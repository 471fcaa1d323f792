//! Who may try to get in: bounds connections in their handshake, and attempts that fail. Sans-IO.
//!
//! Where too many are in their handshake at once, the oldest gives way: one that means well is
//! through within a round trip or two, one that dawdles is not. An address that failed too often
//! is turned away for a while.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limits::{
    ATTEMPT_ADDRESSES_MAX, ATTEMPTS_MAX, ATTEMPTS_MS, HALF_OPEN_MAX, HALF_OPEN_PER_ADDRESS_MAX,
};

/// Names a connection in its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct HalfOpen<T> {
    ticket: Ticket,
    address: IpAddr,
    handle: T,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: Instant,
    count: u32,
}

/// What became of an arrival.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival<T> {
    /// It may shake hands, and somebody else must give way for it, perhaps.
    Admitted {
        ticket: Ticket,
        gives_way: Option<T>,
    },
    /// Its address failed too often.
    TurnedAway,
}

/// A `T` is what a connection in its handshake can be ended by.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    /// Oldest first.
    half_open: VecDeque<HalfOpen<T>>,
    failures: HashMap<IpAddr, Failures>,
    next: u64,
}

impl<T> Gate<T> {
    pub(crate) fn new() -> Self {
        Self {
            half_open: VecDeque::new(),
            failures: HashMap::new(),
            next: 0,
        }
    }

    /// A connection came.
    pub(crate) fn arrive(&mut self, address: IpAddr, handle: T, now: Instant) -> Arrival<T> {
        if let Some(failures) = self.failures.get(&address) {
            if !failures.is_recent(now) {
                self.failures.remove(&address);
            } else if failures.count >= ATTEMPTS_MAX {
                return Arrival::TurnedAway;
            }
        }
        let of_address = |half: &HalfOpen<T>| half.address == address;
        let count = self
            .half_open
            .iter()
            .filter(|half| of_address(half))
            .count();
        let oldest = if count >= HALF_OPEN_PER_ADDRESS_MAX {
            self.half_open.iter().position(of_address)
        } else {
            (self.half_open.len() >= HALF_OPEN_MAX).then_some(0)
        };
        let gives_way = oldest.and_then(|idx| self.half_open.remove(idx));
        let gives_way = gives_way.map(|half| half.handle);
        let ticket = Ticket(self.next);
        self.next += 1;
        self.half_open.push_back(HalfOpen {
            ticket,
            address,
            handle,
        });
        Arrival::Admitted { ticket, gives_way }
    }

    /// A handshake is over, well or not.
    pub(crate) fn settle(&mut self, ticket: Ticket, is_good: bool, now: Instant) {
        let idx = self.half_open.iter().position(|half| half.ticket == ticket);
        let Some(half) = idx.and_then(|idx| self.half_open.remove(idx)) else {
            return;
        };
        if is_good {
            return;
        }
        if self.failures.len() >= ATTEMPT_ADDRESSES_MAX {
            self.failures.retain(|_, failures| failures.is_recent(now));
        }
        if self.failures.len() >= ATTEMPT_ADDRESSES_MAX {
            return;
        }
        let known = self.failures.entry(half.address).or_insert(Failures {
            since: now,
            count: 0,
        });
        known.count = known.count.saturating_add(1);
    }
}

impl Failures {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < Duration::from_millis(ATTEMPTS_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(last: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + last).into()
    }

    fn admitted(arrival: Arrival<u32>) -> (Ticket, Option<u32>) {
        match arrival {
            Arrival::Admitted { ticket, gives_way } => (ticket, gives_way),
            Arrival::TurnedAway => panic!("turned away"),
        }
    }

    #[test]
    fn the_oldest_of_an_address_gives_way_to_its_newest() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        for number in (0..).take(HALF_OPEN_PER_ADDRESS_MAX) {
            assert_eq!(admitted(gate.arrive(address(1), number, now)).1, None);
        }
        let (ticket, gives_way) = admitted(gate.arrive(address(2), 1000, now));
        assert_eq!(gives_way, None, "another address");
        assert_eq!(admitted(gate.arrive(address(1), 1001, now)).1, Some(0));
        gate.settle(ticket, true, now);
        assert_eq!(gate.half_open.len(), HALF_OPEN_PER_ADDRESS_MAX);
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        for number in (0..).take(10 * HALF_OPEN_MAX) {
            gate.arrive(address(number), number, now);
        }
        assert_eq!(gate.half_open.len(), HALF_OPEN_MAX);
    }

    #[test]
    fn who_fails_too_often_is_turned_away_for_a_while() {
        let (mut gate, start) = (Gate::new(), Instant::now());
        for _ in 0..ATTEMPTS_MAX {
            let (ticket, _) = admitted(gate.arrive(address(1), 0, start));
            gate.settle(ticket, false, start);
        }
        assert_eq!(gate.arrive(address(1), 0, start), Arrival::TurnedAway);
        admitted(gate.arrive(address(2), 0, start));
        let later = start + Duration::from_millis(ATTEMPTS_MS);
        admitted(gate.arrive(address(1), 0, later));
        assert!(gate.failures.is_empty());
    }

    #[test]
    fn remembered_failures_are_bounded() {
        let (mut gate, now) = (Gate::new(), Instant::now());
        for number in (0..).take(2 * ATTEMPT_ADDRESSES_MAX) {
            let (ticket, _) = admitted(gate.arrive(address(number), 0, now));
            gate.settle(ticket, false, now);
        }
        assert_eq!(gate.failures.len(), ATTEMPT_ADDRESSES_MAX);
        assert!(gate.half_open.is_empty());
    }
}
