//! Messages between processes over TCP: whole, in order, and counted, whatever happens on the way.

use rustix::process::Signal;
use shmesh::{Overflow, Raw, Transports};

use crate::proxy::Proxy;
use crate::support::{Mesh, PATIENCE, eventually, is_intact, number, payload};

/// Around what is inline, what is read at once, what is read in pieces.
const SIZES: [usize; 12] = [
    0,
    1,
    95,
    96,
    97,
    1000,
    16_383,
    16_384,
    100_000,
    131_072,
    1 << 20,
    5_000_001,
];

#[test]
fn messages_of_every_size_arrive_whole_and_in_order() {
    let mesh = Mesh::start();
    let mut sender = mesh.remote("sender");
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t 30000 64 8"), "ok");
    assert_eq!(sender.ask("pub t 200000000"), "ok");
    assert_eq!(sender.ask("heard"), "ok");
    let mut count = 0;
    for size in SIZES {
        let sent = sender.ask(&format!("send 3 {size}"));
        assert_eq!(number(&sent, "refused"), 0, "{size}: {sent}");
        count += 3;
        let answer = receiver.ask("recv 3");
        assert_eq!(number(&answer, "received"), count, "{size}: {answer}");
        assert_eq!(
            (number(&answer, "lost"), number(&answer, "damaged")),
            (0, 0)
        );
    }
}

#[test]
fn nodes_of_one_process_take_the_network_if_they_are_told_to() {
    let mesh = Mesh::start();
    let remote = |name| {
        let builder = mesh.builder(name).transports(Transports::Network);
        builder.build_blocking().unwrap()
    };
    let (one, two) = (remote("one"), remote("two"));
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    let mut subscriber = two.subscriber::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for size in [3, 3000] {
        publisher.publish_bytes(&payload(7, size)).unwrap();
        let sample = subscriber.recv_spin(PATIENCE).unwrap();
        assert_eq!(&*sample, payload(7, size));
        assert_eq!(sample.publisher_name(), "one");
        assert!(sample.bytes().as_ptr().addr().is_multiple_of(16));
    }
    drop(publisher);
    eventually("the publisher is gone", || {
        subscriber.publisher_count() == 0
    });
}

#[test]
fn all_three_ways_to_wait_take_from_the_network() {
    let mesh = Mesh::start();
    let mut sender = mesh.remote("sender");
    assert_eq!(sender.ask("pub t 100000000"), "ok");
    let node = mesh.builder("receiver").transports(Transports::Network);
    let node = node.build_blocking().unwrap();
    let overflow = Overflow::Block {
        depth: 8,
        deadline: PATIENCE,
    };
    let subscriber = node.subscriber::<Raw>("t").overflow(overflow);
    let mut subscriber = subscriber.build().unwrap();
    assert_eq!(sender.ask("heard"), "ok");
    sender.tell("send 3000 200");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for expected in 0..3000 {
        let sample = match expected % 3 {
            0 => subscriber.recv_spin(PATIENCE).unwrap(),
            1 => subscriber.recv_blocking(PATIENCE).unwrap(),
            _ => runtime.block_on(subscriber.recv()).unwrap(),
        };
        assert_eq!(sample.sequence(), expected);
        assert!(is_intact(&sample, expected));
    }
    assert_eq!(number(&sender.answer(), "refused"), 0);
}

#[test]
fn back_pressure_reaches_over_the_network() {
    let mesh = Mesh::start();
    let mut sender = mesh.remote("sender");
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t 60000 4 8"), "ok");
    assert_eq!(sender.ask("pub t 100000000"), "ok");
    assert_eq!(sender.ask("heard"), "ok");
    // More than both rings and all socket buffers between them hold.
    sender.tell("send 500 100000");
    let mut received = 0;
    for _ in 0..50 {
        assert_eq!(sender.answer_now(), None, "it waits");
        received += 10;
        let answer = receiver.ask("recv 10");
        assert_eq!(number(&answer, "received"), received);
        assert_eq!(
            (number(&answer, "lost"), number(&answer, "damaged")),
            (0, 0)
        );
        if received >= 480 {
            break;
        }
    }
    let answer = receiver.ask("recv 20");
    assert_eq!(number(&answer, "received"), 500);
    assert_eq!(number(&sender.answer(), "refused"), 0);
}

#[test]
fn what_a_deadline_gave_up_is_counted_at_the_other_end() {
    let mesh = Mesh::start();
    let mut sender = mesh.remote("sender");
    let mut receiver = mesh.remote("receiver");
    for (topic, overflow) in [("a", "20"), ("b", "drop")] {
        assert_eq!(receiver.ask(&format!("sub {topic} {overflow} 2 4")), "ok");
        assert_eq!(sender.ask(&format!("pub {topic} 100000000")), "ok");
        assert_eq!(sender.ask("heard"), "ok");
        let refused = number(&sender.ask("send 20 50"), "refused");
        assert!(refused >= 15, "two rings of two: {refused}");
        // The last ones were refused, so no later message tells of them.
        eventually("all are counted", || {
            let answer = receiver.ask("drain");
            number(&answer, "received") + number(&answer, "lost") == 20
        });
        let answer = receiver.ask("drain");
        assert_eq!(number(&answer, "lost"), refused, "{answer}");
        assert_eq!(receiver.ask("forget"), "ok");
    }
}

#[test]
fn a_stopped_subscriber_slows_nobody_and_gets_the_newest() {
    let mesh = Mesh::start();
    let mut sender = mesh.remote("sender");
    let mut receiver = mesh.remote("receiver");
    let mut other = mesh.remote("other");
    for subscriber in [&mut receiver, &mut other] {
        assert_eq!(subscriber.ask("sub t keep 8 8"), "ok");
    }
    assert_eq!(sender.ask("pub t 100000000"), "ok");
    eventually("both listen", || sender.ask("listeners") == "2");
    receiver.signal(Signal::STOP);
    // Tens of times what the sockets hold.
    assert_eq!(number(&sender.ask("send 2000 100000"), "refused"), 0);
    let sent = number(&sender.ask("send 1 10"), "sent");
    let answer = other.ask("drain");
    assert_eq!(number(&answer, "received") + number(&answer, "lost"), sent);
    receiver.signal(Signal::CONT);
    eventually("all are counted", || {
        let answer = receiver.ask("drain");
        assert_eq!(number(&answer, "damaged"), 0);
        number(&answer, "received") + number(&answer, "lost") == sent
    });
}

#[test]
fn killed_processes_are_noticed_at_once() {
    let mesh = Mesh::start();
    let mut sender = mesh.remote("sender");
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t 60000 4 8"), "ok");
    assert_eq!(sender.ask("pub t 100000000"), "ok");
    assert_eq!(sender.ask("heard"), "ok");
    // It waits for room when its subscriber dies.
    sender.tell("send 500 100000");
    let answer = receiver.ask("recv 4");
    assert_eq!(number(&answer, "damaged"), 0);
    receiver.kill();
    assert_eq!(number(&sender.answer(), "sent"), 500);
    assert_eq!(sender.ask("alone"), "ok");

    let mut next = mesh.remote("next");
    assert_eq!(next.ask("sub t keep 64 8"), "ok");
    assert_eq!(sender.ask("heard"), "ok");
    assert_eq!(number(&sender.ask("send 5 100"), "refused"), 0);
    eventually("they arrive", || {
        number(&next.ask("drain"), "received") == 5
    });
    sender.kill();
    eventually("its end is seen", || {
        number(&next.ask("drain"), "publishers") == 0
    });
    let answer = next.ask("drain");
    assert_eq!(
        (number(&answer, "received"), number(&answer, "lost")),
        (5, 0)
    );
}

#[test]
fn the_last_message_before_an_exit_arrives_over_the_network() {
    for size in [8, 5000] {
        let mesh = Mesh::start();
        let mut receiver = mesh.remote("receiver");
        assert_eq!(receiver.ask("sub t keep 8 8"), "ok");
        for count in 1..=10 {
            let mut sender = mesh.remote("sender");
            assert_eq!(sender.ask("pub t 10000000"), "ok");
            assert_eq!(sender.ask("heard"), "ok");
            assert_eq!(sender.ask(&format!("prepare {size}")), "ok");
            sender.tell("quit");
            assert!(sender.wait().success());
            let answer = receiver.ask("recv 1");
            assert_eq!(number(&answer, "received"), count, "{answer}");
            assert_eq!(number(&answer, "damaged"), 0);
        }
    }
}

#[test]
fn traffic_goes_on_without_the_coordinator() {
    let mut mesh = Mesh::start();
    let mut sender = mesh.remote("sender");
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t 30000 16 8"), "ok");
    assert_eq!(sender.ask("pub t 10000000"), "ok");
    assert_eq!(sender.ask("heard"), "ok");
    for round in 1..=3 {
        assert_eq!(number(&sender.ask("send 10 5000"), "refused"), 0);
        let answer = receiver.ask("recv 10");
        assert_eq!(number(&answer, "received"), 10 * round);
        assert_eq!(number(&answer, "lost"), 0, "{answer}");
        mesh.restart();
    }
    let mut late = mesh.remote("late");
    assert_eq!(late.ask("sub t keep 16 8"), "ok");
    eventually("the late one is heard", || sender.ask("listeners") == "2");
}

#[test]
fn what_a_lost_link_took_with_it_is_counted_and_nothing_comes_twice() {
    let mesh = Mesh::start();
    let proxy = Proxy::start();
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t keep 4096 8"), "ok");
    let node = proxy.node_behind(&mesh, "sender");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut sent = 0;
    for round in 0..5 {
        for _ in 0..200 {
            publisher.publish_bytes(&payload(sent, 2000)).unwrap();
            sent += 1;
        }
        if round % 2 == 0 {
            proxy.reset_all();
        } else {
            proxy.cut_in_mid_frame();
        }
        // Some of these nobody hears.
        for _ in 0..200 {
            publisher.publish_bytes(&payload(sent, 100)).unwrap();
            sent += 1;
            std::thread::yield_now();
        }
    }
    eventually("all are counted", || {
        // The last one of all arrives, when there is a link again.
        publisher.publish_bytes(&payload(sent, 8)).unwrap();
        sent += 1;
        let answer = receiver.ask("drain");
        assert_eq!(number(&answer, "damaged"), 0, "{answer}");
        let counted = number(&answer, "received") + number(&answer, "lost");
        assert!(counted <= sent, "{answer} of {sent}: counted twice");
        counted == sent
    });
}

#[test]
fn a_silent_peer_is_gone_after_three_heartbeats_and_comes_back() {
    let mesh = Mesh::start();
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t keep 64 8"), "ok");
    let mut sender = mesh.remote("sender");
    assert_eq!(sender.ask("pub t 1000000"), "ok");
    assert_eq!(sender.ask("heard"), "ok");
    receiver.signal(Signal::STOP);
    eventually("silence ends the link", || sender.ask("listeners") == "0");
    assert_eq!(sender.ask("send 3 100"), "sent 3 refused 0");
    receiver.signal(Signal::CONT);
    eventually("it is back", || sender.ask("listeners") == "1");
    assert_eq!(sender.ask("send 2 100"), "sent 5 refused 0");
    eventually("three are lost and two arrive", || {
        let answer = receiver.ask("drain");
        (number(&answer, "received"), number(&answer, "lost")) == (2, 3)
    });
}

#[test]
fn a_link_that_falls_silent_is_replaced_and_what_it_took_is_counted() {
    let mesh = Mesh::start();
    let proxy = Proxy::start();
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t keep 4096 8"), "ok");
    let node = proxy.node_behind(&mesh, "sender");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(&payload(0, 10)).unwrap();
    assert_eq!(number(&receiver.ask("recv 1"), "received"), 1);
    // Nothing comes through any more, but nothing says so; the node's own address is free.
    proxy.hold(true);
    let mut sent = 1;
    eventually("another way is found", || {
        publisher.publish_bytes(&payload(sent, 10)).unwrap();
        sent += 1;
        number(&receiver.ask("drain"), "received") > 1
    });
    proxy.reset_all();
    eventually("all are counted", || {
        let answer = receiver.ask("drain");
        assert_eq!(number(&answer, "damaged"), 0);
        number(&answer, "received") + number(&answer, "lost") == sent
    });
}

#[test]
fn bytes_that_trickle_make_the_same_messages() {
    let mesh = Mesh::start();
    let proxy = Proxy::start();
    proxy.trickle(true);
    let mut receiver = mesh.remote("receiver");
    assert_eq!(receiver.ask("sub t 30000 16 8"), "ok");
    let node = proxy.node_behind(&mesh, "sender");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for (number, size) in (0..).zip([0, 1, 96, 97, 500, 3000]) {
        publisher.publish_bytes(&payload(number, size)).unwrap();
    }
    let answer = receiver.ask("recv 6");
    assert_eq!(number(&answer, "received"), 6);
    assert_eq!(
        (number(&answer, "lost"), number(&answer, "damaged")),
        (0, 0)
    );
}

#[test]
fn where_memory_cannot_be_shared_the_network_is_taken() {
    let mesh = Mesh::start();
    let node = mesh.node("one");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    // As in another container: its runtime directory is its own, and what is in ours is gone.
    let mut receiver = mesh.child("receiver");
    for entry in std::fs::read_dir(mesh.dir.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(receiver.ask("sub t keep 16 8"), "ok");
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(&payload(0, 5000)).unwrap();
    let answer = receiver.ask("recv 1");
    assert_eq!(number(&answer, "received"), 1);
    assert_eq!(number(&answer, "damaged"), 0);
}

#[test]
fn a_late_listener_has_lost_nothing_whichever_way() {
    for transports in [Transports::Auto, Transports::Network] {
        let mesh = Mesh::start();
        let node = |name: &str| {
            let builder = mesh.builder(name).transports(transports);
            builder.build_blocking().unwrap()
        };
        let (one, two) = (node("one"), node("two"));
        let mut publisher = one.publisher::<Raw>("t").build().unwrap();
        for number in 0..5 {
            publisher.publish_bytes(&payload(number, 8)).unwrap();
        }
        let mut subscriber = two.subscriber::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        publisher.publish_bytes(&payload(5, 8)).unwrap();
        let sample = subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!(
            (sample.sequence(), sample.lost_before()),
            (5, 0),
            "{transports:?}"
        );
        assert_eq!(subscriber.stats().lost, 0);
    }
}

#[test]
fn receivers_asleep_at_shallow_rings_get_on_without_a_heartbeat() {
    let mesh = Mesh::start();
    let remote = |name| {
        let builder = mesh.builder(name).transports(Transports::Network);
        builder.build_blocking().unwrap()
    };
    let (one, two) = (remote("one"), remote("two"));
    let shallow = [
        Overflow::DropNewest(1),
        Overflow::Block {
            depth: 1,
            deadline: PATIENCE,
        },
        Overflow::DropNewest(2),
    ];
    for (round, overflow) in shallow.into_iter().enumerate() {
        let topics = [0, 1].map(|way| format!("t{round}/{way}"));
        let echo = {
            let (two, topics) = (two.clone(), topics.clone());
            std::thread::spawn(move || {
                let pings = two.subscriber::<Raw>(&topics[0]).overflow(overflow);
                let mut pings = pings.build().unwrap();
                let mut pongs = two.publisher::<Raw>(&topics[1]).build().unwrap();
                pongs.wait_for_listener_blocking(PATIENCE).unwrap();
                for _ in 0..300 {
                    let ping = pings.recv_blocking(PATIENCE).unwrap();
                    pongs.publish_bytes(&ping).unwrap();
                }
            })
        };
        let mut pings = one.publisher::<Raw>(&topics[0]).build().unwrap();
        let pongs = one.subscriber::<Raw>(&topics[1]).overflow(overflow);
        let mut pongs = pongs.build().unwrap();
        pings.wait_for_listener_blocking(PATIENCE).unwrap();
        pongs.wait_for_publisher_blocking(PATIENCE).unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        // A second lost to each would be five minutes.
        let all = async {
            for number in 0..300 {
                pings.publish_bytes(&payload(number, 40)).unwrap();
                assert!(is_intact(&pongs.recv().await.unwrap(), number));
            }
        };
        let all = async { tokio::time::timeout(PATIENCE, all).await };
        runtime.block_on(all).expect("no wait for a heartbeat");
        echo.join().unwrap();
    }
}
