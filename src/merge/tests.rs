//! Order across lanes, whatever comes between two looks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use shmesh_shm::{Head, Mode, Producer, RingConfig};

use super::*;
use crate::publisher::Order;

/// One thread that sends on several rings, each message under the next number.
struct Sender {
    producers: Vec<Producer>,
    sequences: Vec<u64>,
    sent: u64,
}

impl Sender {
    fn send(&mut self, lane: usize) {
        let lane = lane % self.producers.len();
        self.sent += 1;
        let head = Head {
            sequence: self.sequences[lane],
            sent_ns: self.sent,
        };
        self.sequences[lane] += 1;
        let producer = &mut self.producers[lane];
        let bytes = self.sent.to_ne_bytes();
        if producer.push_inline(head, &bytes, |_| {}).is_err() {
            producer.count_dropped();
        }
    }
}

fn rings(config: RingConfig, count: usize) -> (Sender, Vec<Consumer>) {
    let ends = (0..count).map(|_| {
        let (ring, borrows) = config.halves_on_heap();
        let producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let consumer = Consumer::new(ring, borrows, config, Arc::default(), None).unwrap();
        (producer, consumer)
    });
    let (producers, consumers) = ends.unzip();
    let sender = Sender {
        producers,
        sequences: vec![0; count],
        sent: 0,
    };
    (sender, consumers)
}

fn config(mode: Mode, depth: u32) -> RingConfig {
    RingConfig {
        depth,
        mode,
        held_max: 2,
        start: 0,
    }
}

impl Lane for Consumer {
    fn consumer(&mut self) -> &mut Consumer {
        self
    }
}

/// A ring whose sender goes on a little each time somebody looks at it.
struct Busy {
    consumer: Consumer,
    script: Rc<Script>,
}

struct Script {
    sender: RefCell<Sender>,
    /// How much is sent, and where, before each look.
    steps: Vec<(usize, usize)>,
    at: Cell<usize>,
}

impl Lane for Busy {
    fn consumer(&mut self) -> &mut Consumer {
        let at = self.script.at.get();
        self.script.at.set(at + 1);
        if let Some((count, lane)) = self.script.steps.get(at) {
            let mut sender = self.script.sender.borrow_mut();
            (0..*count).for_each(|step| sender.send(lane + step * 7));
        }
        &mut self.consumer
    }
}

fn merge_of(count: usize) -> Merge {
    let mut merge = Merge::default();
    (0..count).for_each(|lane| merge.add(lane));
    merge
}

fn stamp_of(message: &Received) -> u64 {
    u64::from_ne_bytes(message.bytes().try_into().unwrap())
}

fn any_config() -> impl Strategy<Value = RingConfig> {
    let mode = prop_oneof![Just(Mode::Keep), Just(Mode::Overwrite)];
    (mode, 1..5_u32).prop_map(|(mode, depth)| config(mode, depth))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_is_sent_between_two_looks_comes_in_order_and_is_counted(
        config in any_config(),
        count in 1..6_usize,
        steps in prop::collection::vec((0..6_usize, 0..6_usize), 0..80),
    ) {
        let (sender, consumers) = rings(config, count);
        let (sender, at) = (RefCell::new(sender), Cell::new(0));
        let script = Rc::new(Script { sender, steps, at });
        let lane = |consumer| Busy { consumer, script: Rc::clone(&script) };
        let mut lanes: Vec<Busy> = consumers.into_iter().map(lane).collect();
        let mut merge = merge_of(count);
        let (mut last, mut received) = (0, 0);
        loop {
            let is_all_sent = script.at.get() >= script.steps.len();
            match merge.next(&mut lanes, || false).unwrap() {
                Found::Message(_, message) => {
                    prop_assert!(stamp_of(&message) > last, "{} after {last}", stamp_of(&message));
                    prop_assert_eq!(stamp_of(&message), message.sent_ns());
                    last = stamp_of(&message);
                    received += 1;
                }
                Found::Waiting(lane) => prop_assert!(false, "lane {lane} has nothing to wait for"),
                Found::Nothing if is_all_sent => break,
                Found::Nothing => {}
            }
        }
        let lost = lanes.iter().map(|lane| lane.consumer.overwritten() + lane.consumer.dropped());
        prop_assert_eq!(received + lost.sum::<u64>(), script.sender.borrow().sent);
        prop_assert!(merge.hand.is_none());
    }
}

#[test]
fn a_thread_that_sends_in_turn_is_heard_in_order() {
    for (mode, depth) in [
        (Mode::Keep, 1),
        (Mode::Keep, 16),
        (Mode::Overwrite, 1),
        (Mode::Overwrite, 2),
        (Mode::Overwrite, 64),
    ] {
        const LANES: usize = 20;
        let (mut sender, mut lanes) = rings(config(mode, depth), LANES);
        let mut merge = merge_of(LANES);
        let sending = std::thread::spawn(move || {
            (0..200_000).for_each(|number| sender.send(number % LANES));
            sender.sent
        });
        let (mut last, mut received) = (0, 0);
        let mut sent = None;
        let mut sending = Some(sending);
        loop {
            if let Found::Message(_, message) = merge.next(&mut lanes, || false).unwrap() {
                assert!(
                    stamp_of(&message) > last,
                    "{} after {last}: {mode:?} {depth} {merge:?}",
                    stamp_of(&message)
                );
                last = stamp_of(&message);
                received += 1;
            } else if sent.is_some() {
                break;
            } else if let Some(done) = sending.take_if(|sending| sending.is_finished()) {
                sent = Some(done.join().unwrap());
            }
        }
        let lost = lanes.iter().map(|lane| lane.overwritten() + lane.dropped());
        assert_eq!(Some(received + lost.sum::<u64>()), sent, "{mode:?} {depth}");
    }
}

/// Each burst goes to one ring, and the next message to another: whoever takes a ring that is
/// lapped for one that is empty delivers that one too early.
#[test]
fn rings_that_are_lapped_while_they_are_looked_at_hide_nothing() {
    const LANES: usize = 3;
    for depth in [1, 2, 3, 4, 40, 64, 100, 256, 1024] {
        let (mut sender, mut lanes) = rings(config(Mode::Overwrite, depth), LANES);
        let mut merge = merge_of(LANES);
        let count = 1_000_000;
        let every = 3 * depth as usize + 64;
        let (mut last, mut received) = (0, 0);
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || {
                for number in 0..count {
                    let is_other = number % every == 0;
                    sender.send(if is_other { number / every } else { 0 });
                }
            });
            loop {
                let is_all_sent = sending.is_finished();
                match merge.next(&mut lanes, || false).unwrap() {
                    Found::Message(_, message) => {
                        let stamp = stamp_of(&message);
                        assert!(stamp > last, "{stamp} after {last}: {depth} {merge:?}");
                        last = stamp;
                        received += 1;
                    }
                    Found::Nothing if is_all_sent => break,
                    Found::Nothing => {}
                    Found::Waiting(lane) => panic!("{lane} has nothing to wait for"),
                }
            }
        });
        let lost: u64 = lanes.iter().map(Consumer::overwritten).sum();
        assert_eq!(received + lost, count as u64, "{depth}");
    }
}

#[test]
fn what_is_in_a_new_lane_takes_its_place() {
    let (mut sender, mut lanes) = rings(config(Mode::Keep, 4), 3);
    let mut merge = merge_of(2);
    for lane in [0, 2, 1, 2, 0] {
        sender.send(lane);
    }
    let mut take = |merge: &mut Merge, has_news| match merge.next(&mut lanes, || has_news) {
        Ok(Found::Message(_, message)) => Some(stamp_of(&message)),
        _ => None,
    };
    assert_eq!(
        take(&mut merge, true),
        None,
        "it may come after what is in the new lane"
    );
    assert_eq!(take(&mut merge, false), Some(1));
    // Of the known ones the next is safe by now.
    merge.add(2);
    let rest: Vec<_> = std::iter::from_fn(|| take(&mut merge, false)).collect();
    assert_eq!(rest, [2, 3, 4, 5]);
}

/// What one thread sends after it has heard of what another one sent comes after it.
#[test]
fn what_follows_from_a_message_comes_after_it() {
    const LANES: usize = 16;
    let (sender, mut lanes) = rings(config(Mode::Keep, 64), LANES);
    let mut merge = merge_of(LANES);
    let order = Arc::new(Order::default());
    // Two threads take turns; each has half of the rings.
    let turn = Arc::new(std::sync::atomic::AtomicU64::new(1));
    let mut producers = sender.producers.into_iter();
    let threads: Vec<_> = (0..2)
        .map(|thread| {
            let mut producers: Vec<_> = producers.by_ref().take(LANES / 2).collect();
            let mut sequences = vec![0; producers.len()];
            let (order, turn) = (Arc::clone(&order), Arc::clone(&turn));
            std::thread::spawn(move || {
                for number in (1..20_000_u64).filter(|number| number % 2 == thread) {
                    use std::sync::atomic::Ordering;
                    while turn.load(Ordering::Acquire) != number {
                        std::thread::yield_now();
                    }
                    let lane = usize::try_from(number / 2).unwrap() % producers.len();
                    let head = Head {
                        sequence: sequences[lane],
                        sent_ns: order.stamp(0),
                    };
                    let bytes = number.to_ne_bytes();
                    while producers[lane].push_inline(head, &bytes, |_| {}).is_err() {
                        std::thread::yield_now();
                    }
                    sequences[lane] += 1;
                    turn.store(number + 1, Ordering::Release);
                }
            })
        })
        .collect();
    for expected in 1..20_000 {
        loop {
            match merge.next(&mut lanes, || false).unwrap() {
                Found::Message(_, message) => {
                    assert_eq!(stamp_of(&message), expected);
                    break;
                }
                _ => std::thread::yield_now(),
            }
        }
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn lanes_that_go_take_nothing_of_the_others_with_them() {
    let (mut sender, mut lanes) = rings(config(Mode::Keep, 8), 4);
    let mut merge = merge_of(4);
    for number in 0..16 {
        sender.send(number % 4);
    }
    let take =
        |merge: &mut Merge, lanes: &mut Vec<Consumer>| match merge.next(lanes, || false).unwrap() {
            Found::Message(lane, message) => Some((lane, stamp_of(&message))),
            _ => None,
        };
    assert_eq!(take(&mut merge, &mut lanes), Some((0, 1)));
    assert_eq!(take(&mut merge, &mut lanes), Some((1, 2)));
    // Lane 3 becomes lane 1; 2 was just taken of lane 1.
    lanes.swap_remove(1);
    assert!(merge.remove(1, 3));
    let left: Vec<_> = std::iter::from_fn(|| take(&mut merge, &mut lanes)).collect();
    let stamps: Vec<u64> = left.iter().map(|(_, stamp)| *stamp).collect();
    assert_eq!(stamps, [3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16]);
    assert_eq!(left[1], (1, 4));
    for count in (0..3).rev() {
        assert_eq!(merge.idle().count(), count + 1);
        lanes.swap_remove(0);
        assert_eq!(merge.remove(0, count), count > 0);
    }
    assert!(matches!(
        merge.next(&mut lanes, || false),
        Ok(Found::Nothing)
    ));
}

#[test]
fn a_look_for_the_next_message_allocates_nothing() {
    let (mut sender, mut lanes) = rings(config(Mode::Keep, 8), 100);
    let mut merge = merge_of(100);
    let mut round = || {
        (0..100).for_each(|lane| sender.send(lane));
        let mut count = 0;
        while let Found::Message(..) = merge.next(&mut lanes, || false).unwrap() {
            count += 1;
        }
        count
    };
    assert_eq!(round(), 100);
    let found = allocation_counter::measure(|| assert_eq!(round(), 100));
    assert_eq!(found.count_total, 0);
}
