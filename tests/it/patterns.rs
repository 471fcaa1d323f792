//! Subscriptions to several topics: what matches, and in which order it comes.

use std::time::Duration;

use shmesh::{
    Balance, Compression, Error, Json, Node, Overflow, Raw, RecvError, Subscriber, Transports,
};

use crate::band::{Band, hear, number_of, topic_in_storm, topic_in_turn};
use crate::support::{Mesh, PATIENCE, WAYS, Way, eventually, number, payload};

const TOPICS: u64 = 20;

fn block(depth: u32) -> Overflow {
    Overflow::Block {
        depth,
        deadline: PATIENCE,
    }
}

fn subscribe(node: &Node, pattern: &str, overflow: Overflow) -> Subscriber<Raw> {
    let subscriber = node.subscriber::<Raw>(pattern).overflow(overflow);
    subscriber.build().unwrap()
}

/// A band plays while we hear it. Every message must come in order or be counted as lost.
fn hear_in_order(way: Way, overflow: Overflow, count: u64, size: usize) {
    let mesh = Mesh::start();
    let node = match way {
        Way::Network => mesh.builder("ear").transports(Transports::Network),
        Way::Inside | Way::Memory => mesh.builder("ear"),
    };
    let node = node.build_blocking().unwrap();
    let mut ear = subscribe(&node, "band/*", overflow);
    let lost = if let Way::Inside = way {
        let mut band = Band::new(&mesh.node("band"), "band", 20);
        band.wait_for_listeners();
        let playing = std::thread::spawn(move || (band.play(count, size), band));
        let lost = hear(&mut ear, |number| topic_in_turn(number, TOPICS), count);
        drop(playing.join().unwrap());
        lost
    } else {
        let mut band = match way {
            Way::Network => mesh.remote("band"),
            Way::Inside | Way::Memory => mesh.child("band"),
        };
        assert_eq!(band.ask("band band 20"), "ok");
        band.tell(&format!("play {count} {size}"));
        let lost = hear(&mut ear, |number| topic_in_turn(number, TOPICS), count);
        assert_eq!(number(&band.answer(), "sent"), count);
        lost
    };
    if let Overflow::Block { .. } = overflow {
        assert_eq!(lost, 0, "{way:?} {overflow:?}");
    }
}

#[test]
fn what_a_node_sends_comes_in_order_across_its_topics_however_it_comes() {
    for way in WAYS {
        for overflow in [block(1), block(16), Overflow::KeepLast(16)] {
            hear_in_order(way, overflow, 20_000, 8);
        }
        hear_in_order(way, block(4), 2000, 3000);
    }
}

#[test]
fn rings_that_overflow_all_the_time_stay_in_order_and_count() {
    for way in WAYS {
        for overflow in [
            Overflow::KeepLast(1),
            Overflow::KeepLast(2),
            Overflow::DropNewest(1),
            Overflow::DropNewest(3),
        ] {
            hear_in_order(way, overflow, 20_000, 8);
        }
        hear_in_order(way, Overflow::KeepLast(1), 5000, 300);
    }
}

#[test]
fn stress_rings_that_are_lapped_while_they_are_looked_at_hide_nothing() {
    const STORM_TOPICS: u64 = 3;
    let count = 100_000;
    for depth in [1, 2, 3, 4, 256] {
        for transports in [Transports::Auto, Transports::Network] {
            let mesh = Mesh::start();
            let node = mesh.builder("ear").transports(transports);
            let node = node.build_blocking().unwrap();
            let mut ear = subscribe(&node, "band/*", Overflow::KeepLast(depth));
            let mut band = match transports {
                Transports::Network => mesh.remote("band"),
                _ => mesh.child("band"),
            };
            assert_eq!(band.ask(&format!("band band {STORM_TOPICS}")), "ok");
            band.tell(&format!("storm {count}"));
            hear(
                &mut ear,
                |number| topic_in_storm(number, STORM_TOPICS),
                count,
            );
            assert_eq!(number(&band.answer(), "sent"), count);
        }
    }
}

#[test]
fn a_late_reader_of_a_long_queue_finds_the_oldest_message_without_being_woken() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    for topic in ["t/0", "t/*"] {
        let mut ear = subscribe(&node, topic, Overflow::KeepLast(200));
        let mut band = Band::new(&node, "t", 1);
        band.wait_for_listeners();
        band.play(1000, 8);
        for expected in 800..1000 {
            assert_eq!(number_of(&ear.recv_blocking(PATIENCE).unwrap()), expected);
        }
        assert_eq!(ear.stats().lost, 800);
    }
}

#[test]
fn a_late_pattern_gets_the_last_messages_of_each_topic_in_order() {
    for transports in [Transports::Auto, Transports::Network] {
        let mesh = Mesh::start();
        let node = |name| {
            let builder = mesh.builder(name).transports(transports);
            builder.build_blocking().unwrap()
        };
        let (here, there) = (node("here"), node("there"));
        let publisher = |idx| {
            let builder = there.publisher::<Raw>(&format!("t/{idx}")).history(3);
            builder.build().unwrap()
        };
        let mut publishers: Vec<_> = (0..3).map(publisher).collect();
        let mut send = |numbers: std::ops::Range<usize>| {
            for number in numbers {
                let bytes = (number as u64).to_le_bytes();
                publishers[number % 3].publish_bytes(&bytes).unwrap();
            }
        };
        send(0..15);
        let builder = here.subscriber::<Raw>("t/*").overflow(block(64));
        let mut ear = builder.latched().build().unwrap();
        // What was sent before comes as the topics are connected: together if all are.
        eventually("all are connected", || ear.publisher_count() == 3);
        for expected in 6..15 {
            assert_eq!(number_of(&ear.recv_blocking(PATIENCE).unwrap()), expected);
        }
        send(15..100);
        for expected in 15..100 {
            assert_eq!(number_of(&ear.recv_blocking(PATIENCE).unwrap()), expected);
        }
        assert_eq!(ear.stats().lost, 0);
    }
}

#[test]
fn what_is_too_old_is_left_out_and_the_rest_stays_in_order() {
    for transports in [Transports::Auto, Transports::Network] {
        let mesh = Mesh::start();
        let node = |name| {
            let builder = mesh.builder(name).transports(transports);
            builder.build_blocking().unwrap()
        };
        let (here, there) = (node("here"), node("there"));
        let builder = here.subscriber::<Raw>("band/*").overflow(block(64));
        let mut ear = builder.lifespan(Duration::from_nanos(1)).build().unwrap();
        let mut band = Band::new(&there, "band", 3);
        band.wait_for_listeners();
        band.play(30, 8);
        eventually("all are too old", || {
            assert!(ear.try_recv().unwrap().is_none());
            ear.stats().lost == 30
        });
        let builder = here.subscriber::<Raw>("band/*").overflow(block(64));
        let mut ear = builder.lifespan(PATIENCE).build().unwrap();
        band.wait_for_listeners();
        eventually("all are connected", || ear.publisher_count() == 3);
        band.play(30, 8);
        for expected in 30..60 {
            assert_eq!(number_of(&ear.recv_blocking(PATIENCE).unwrap()), expected);
        }
    }
}

#[test]
fn topics_that_appear_meanwhile_take_their_place() {
    for transports in [Transports::Auto, Transports::Network] {
        let mesh = Mesh::start();
        let node = |name| {
            let builder = mesh.builder(name).transports(transports);
            builder.build_blocking().unwrap()
        };
        let (here, there) = (node("here"), node("there"));
        let mut ear = subscribe(&here, "band/**", block(64));
        let mut band = Band::new(&there, "band", 1);
        let playing = std::thread::spawn(move || {
            for _ in 0..30 {
                band.wait_for_listeners();
                band.play(500, 8);
                band.grow(&there);
            }
            band
        });
        for expected in 0..15_000 {
            let sample = ear.recv_blocking(PATIENCE).unwrap();
            assert_eq!(number_of(&sample), expected);
        }
        drop(playing.join().unwrap());
        eventually("their channels end", || {
            assert!(ear.try_recv().unwrap().is_none());
            ear.publisher_count() == 0
        });
        assert_eq!(ear.stats().lost, 0);
    }
}

#[test]
fn a_list_takes_names_and_patterns_and_each_message_once() {
    let mesh = Mesh::start();
    let (here, there) = (mesh.node("here"), mesh.node("there"));
    let builder = here.subscriber::<Raw>("/a/x").overflow(block(64));
    let builder = builder.also("a/*").also("b").also("**/x").also("b");
    let mut ear = builder.build().unwrap();
    assert!(ear.topics().eq(["a/x", "a/*", "b", "**/x"]));
    assert_eq!(ear.topic(), "a/x");
    let topics = ["a/x", "a/y", "b", "c/d/x", "c", "a/y/z"];
    let publisher = |topic| there.publisher::<Raw>(topic).build().unwrap();
    let mut publishers = topics.map(publisher);
    for heard in &mut publishers[..4] {
        heard.wait_for_listener_blocking(PATIENCE).unwrap();
    }
    for round in 0..50 {
        for publisher in &mut publishers {
            publisher.publish_bytes(&payload(round, 8)).unwrap();
        }
    }
    for round in 0..50 {
        for topic in &topics[..4] {
            let sample = ear.recv_blocking(PATIENCE).unwrap();
            assert_eq!((sample.topic(), sample.sequence()), (*topic, round));
        }
    }
    assert!(ear.try_recv().unwrap().is_none());
    assert_eq!(
        (
            publishers[4].listener_count(),
            publishers[5].listener_count()
        ),
        (0, 0)
    );
    let one = here.subscriber::<Raw>("c").build().unwrap();
    publishers[4].wait_for_listener_blocking(PATIENCE).unwrap();
    drop((one, ear));
    eventually("nobody listens", || {
        publishers
            .iter()
            .all(|publisher| publisher.listener_count() == 0)
    });
}

#[test]
fn a_band_that_is_killed_is_heard_to_its_end_and_its_successor_from_its_beginning() {
    for is_network in [false, true] {
        let mesh = Mesh::start();
        let transports = if is_network {
            Transports::Network
        } else {
            Transports::Auto
        };
        let here = mesh.builder("here").transports(transports);
        let here = here.build_blocking().unwrap();
        let mut ear = subscribe(&here, "band/*", block(64));
        let band = || {
            let mut band = if is_network {
                mesh.remote("band")
            } else {
                mesh.child("band")
            };
            assert_eq!(band.ask("band band 20"), "ok");
            band
        };
        for _ in 0..2 {
            let mut band = band();
            band.tell("play 1000000000 8");
            let mut expected = 0;
            let mut expect = |sample: &shmesh::Sample<Raw>| {
                assert_eq!(number_of(sample), expected);
                expected += 1;
            };
            for _ in 0..2000 {
                expect(&ear.recv_blocking(PATIENCE).unwrap());
            }
            band.kill();
            eventually("all is heard", || {
                while let Some(sample) = ear.try_recv().unwrap() {
                    expect(&sample);
                }
                ear.publisher_count() == 0
            });
            while let Some(sample) = ear.try_recv().unwrap() {
                expect(&sample);
            }
        }
    }
}

#[test]
fn topics_of_another_type_are_left_out_of_a_pattern() {
    let mesh = Mesh::start();
    let (here, there) = (mesh.node("here"), mesh.node("there"));
    let mut raw = there.publisher::<Raw>("a/raw").build().unwrap();
    let mut other = there.publisher::<u64>("a/other").build().unwrap();
    let mut early = subscribe(&here, "a/*", block(4));
    raw.wait_for_listener_blocking(PATIENCE).unwrap();
    // It is known by now who has which type: that of a topic by its name is refused.
    let by_name = here.subscriber::<Raw>("a/*").also("a/other").build();
    assert!(matches!(by_name, Err(Error::TypeMismatch { .. })));
    let mut numbers = here.subscriber::<u64>("a/*").build().unwrap();
    other.wait_for_listener_blocking(PATIENCE).unwrap();
    let _later = there.publisher::<u64>("a/later").build().unwrap();
    other.publish(&7).unwrap();
    raw.publish_bytes(b"raw").unwrap();
    assert_eq!(early.recv_blocking(PATIENCE).unwrap().topic(), "a/raw");
    let sample = numbers.recv_blocking(PATIENCE).unwrap();
    assert_eq!((sample.to_native(), sample.topic()), (7, "a/other"));
    assert!(early.try_recv().unwrap().is_none() && numbers.try_recv().unwrap().is_none());
}

#[test]
fn patterns_and_lists_out_of_bounds_are_refused() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    for name in ["a/*", "**", "a/b*"] {
        let refused = node.publisher::<Raw>(name).build();
        let Err(Error::InvalidName { reason, .. }) = refused else {
            panic!("{name}")
        };
        assert!(reason.contains("only subscribers"), "{reason}");
    }
    assert!(matches!(
        node.subscriber::<Raw>("a/b*").build(),
        Err(Error::InvalidName { .. })
    ));
    let many = |count: usize| {
        let builder = node.subscriber::<Raw>("t/0");
        let more = (1..count).fold(builder, |builder, idx| builder.also(&format!("t/{idx}")));
        more.build()
    };
    assert!(matches!(
        many(257),
        Err(Error::OutOfBounds {
            what: "topics of a subscriber",
            found: 257,
            ..
        })
    ));
    let all: Vec<_> = (0..4).map(|_| many(256).unwrap()).collect();
    let full = node.subscriber::<Raw>("t").build();
    assert!(matches!(full, Err(Error::OutOfBounds { found: 1025, .. })));
    drop(all);
    many(200).unwrap();
}

#[test]
fn nodes_take_turns_and_each_keeps_its_order() {
    let mesh = Mesh::start();
    let here = mesh.node("here");
    let mut ear = subscribe(&here, "band/*/*", block(64));
    let names = ["one", "two", "three"];
    let mut bands = names.map(|name| {
        let mut band = Band::new(&mesh.node(name), &format!("band/{name}"), 5);
        band.wait_for_listeners();
        band
    });
    for band in &mut bands {
        band.play(300, 8);
    }
    let mut heard = [0; 3];
    for _ in 0..900 {
        let sample = ear.recv_blocking(PATIENCE).unwrap();
        let who = names
            .iter()
            .position(|name| *name == sample.publisher_name());
        let next = &mut heard[who.unwrap()];
        assert_eq!(number_of(&sample), *next);
        *next += 1;
        let (most, least) = (heard.iter().max(), heard.iter().min());
        assert!(most.unwrap() - least.unwrap() <= 1, "{heard:?}");
    }
}

#[test]
fn messages_are_stamped_for_as_long_as_somebody_merges() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut plain = node.subscriber::<Raw>("t/0").build().unwrap();
    let mut band = Band::new(&node, "t", 1);
    band.wait_for_listeners();
    band.play(1, 8);
    assert_eq!(plain.recv_blocking(PATIENCE).unwrap().sent_ns(), None);
    let mut merging = node.subscriber::<Raw>("t/*").build().unwrap();
    let mut last = None;
    eventually("its publisher knows of it", || {
        band.play(1, 8);
        last = plain.recv_blocking(PATIENCE).unwrap().sent_ns();
        last.is_some()
    });
    for _ in 0..100 {
        band.play(1, 8);
        let stamp = plain.recv_blocking(PATIENCE).unwrap().sent_ns();
        assert!(std::mem::replace(&mut last, stamp) < stamp);
    }
    let merged = std::iter::from_fn(|| merging.try_recv().unwrap());
    assert_eq!(merged.last().unwrap().sent_ns(), last);
    drop(merging);
    eventually("no stamps any more", || {
        band.play(1, 8);
        plain.recv_blocking(PATIENCE).unwrap().sent_ns().is_none()
    });
}

#[test]
fn a_node_of_which_too_much_is_held_waits_and_the_others_do_not() {
    let mesh = Mesh::start();
    let (here, hog, other) = (mesh.node("here"), mesh.node("hog"), mesh.node("other"));
    let ear = here.subscriber::<Raw>("band/*").overflow(block(64));
    let mut ear = ear.max_held(2).build().unwrap();
    let mut bands = [&hog, &other].map(|node| {
        let mut band = Band::new(node, "band", 2);
        band.wait_for_listeners();
        band
    });
    bands[0].play(7, 3000);
    let mut held: Vec<_> = (0..4)
        .map(|_| ear.recv_blocking(PATIENCE).unwrap())
        .collect();
    let short = Duration::from_millis(1);
    let error = ear.recv_blocking(short).unwrap_err();
    assert!(
        matches!(error, RecvError::TooManyHeld { held: 2, max: 2 }),
        "{error}"
    );
    bands[1].play(5, 8);
    for expected in 0..5 {
        let sample = ear.recv_blocking(PATIENCE).unwrap();
        assert_eq!(
            (number_of(&sample), sample.publisher_name()),
            (expected, "other")
        );
    }
    held.remove(0);
    assert_eq!(number_of(&ear.recv_blocking(PATIENCE).unwrap()), 4);
    held.clear();
    for expected in 5..7 {
        assert_eq!(number_of(&ear.recv_blocking(PATIENCE).unwrap()), expected);
    }
}

#[test]
fn merging_allocates_nothing_per_message() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut ear = subscribe(&node, "t/*", Overflow::KeepLast(4));
    let publisher = |idx| node.publisher::<Raw>(&format!("t/{idx}")).build().unwrap();
    let mut publishers: Vec<_> = (0..100).map(publisher).collect();
    for publisher in &mut publishers {
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    }
    let mut round = || {
        for publisher in &mut publishers {
            publisher.publish_bytes(&[7; 64]).unwrap();
        }
        for _ in 0..100 {
            ear.try_recv().unwrap().unwrap();
        }
        assert!(ear.try_recv().unwrap().is_none());
    };
    (0..20).for_each(|_| round());
    let found = allocation_counter::measure(|| (0..20).for_each(|_| round()));
    assert_eq!(found.count_total, 0);
}

#[test]
fn a_pattern_of_a_closed_node_says_so_after_what_had_come() {
    let mesh = Mesh::start();
    let [ear, mouth] = ["ear", "mouth"].map(|name| mesh.node(name));
    let mut heard = subscribe(&ear, "a/*", Overflow::KeepLast(8));
    let mut publisher = mouth.publisher::<Raw>("a/b").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(b"last").unwrap();
    ear.close_blocking();
    assert_eq!(&*heard.recv_blocking(PATIENCE).unwrap(), b"last");
    let after = heard.recv_blocking(PATIENCE);
    assert!(matches!(after, Err(RecvError::Closed)), "{after:?}");
}

#[test]
fn decoded_and_compressed_messages_that_a_group_shares_come_once_and_in_order() {
    const COUNT: u64 = 600;
    for transports in [Transports::Auto, Transports::Network] {
        let mesh = Mesh::start();
        let node = |name| {
            let builder = mesh.builder(name).transports(transports);
            let builder = builder.compression(Compression::default());
            builder.build_blocking().unwrap()
        };
        // Two nodes of one name.
        let ears = ["ear", "ear"].map(node);
        let mouth = node("mouth");
        let heard = ears.each_ref().map(|ear| {
            let subscriber = ear.subscriber::<Json<(u64, String)>>("a/*");
            subscriber.overflow(block(64)).build().unwrap()
        });
        let mut publishers = ["a/b", "a/c", "a/d"].map(|topic| {
            let publisher = mouth.publisher::<Json<(u64, String)>>(topic);
            publisher.balance(Balance::RoundRobin).build().unwrap()
        });
        for publisher in &publishers {
            eventually("both listen", || publisher.listener_count() == 2);
        }
        let hearing = heard.map(|mut subscriber| {
            std::thread::spawn(move || {
                let mut numbers = Vec::new();
                loop {
                    let sample = subscriber.recv_blocking(PATIENCE).unwrap();
                    let (number, text) = sample.into_value();
                    if text.is_empty() {
                        return numbers;
                    }
                    assert_eq!(text, "long and dull ".repeat(400));
                    numbers.push(number);
                }
            })
        });
        for number in 0..COUNT {
            let value = (number, "long and dull ".repeat(400));
            publishers[number as usize % 3].publish(&value).unwrap();
        }
        // One for each of them.
        for number in [COUNT, COUNT + 1] {
            publishers[0].publish(&(number, String::new())).unwrap();
        }
        let heard = hearing.map(|thread| thread.join().unwrap());
        for numbers in &heard {
            assert!(numbers.is_sorted(), "{transports:?}: out of order");
            assert_eq!(numbers.len() as u64, COUNT / 2, "{transports:?}");
        }
        let mut all = heard.concat();
        all.sort_unstable();
        assert!(
            all.into_iter().eq(0..COUNT),
            "{transports:?}: not each once"
        );
    }
}
