//! What a program sees: types, loans, samples, waiting, losses.

use std::time::Duration;

use futures_util::StreamExt as _;
use shmesh::rkyv::{Archive, Serialize};
use shmesh::{Error, Message, Overflow, Raw, RecvError, Validation};

use crate::support::{Mesh, PATIENCE, eventually, is_intact, payload};

#[derive(Archive, Serialize, Message, Clone)]
#[rkyv(crate = shmesh::rkyv)]
struct Image {
    width: u32,
    name: String,
    pixels: Vec<u8>,
}

fn image(bytes: usize) -> Image {
    Image {
        width: 640,
        name: "front camera, left".into(),
        pixels: vec![7; bytes],
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn typed_messages_of_any_size_are_read_in_place() {
    let mesh = Mesh::start();
    let (camera, viewer) = (mesh.node("camera"), mesh.node("viewer"));
    let mut frames = viewer.subscriber::<Image>("frames").build().unwrap();
    let mut publisher = camera.publisher::<Image>("frames").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for bytes in [0, 10, 100, 10_000, 2_000_000, 50] {
        publisher.publish(&image(bytes)).unwrap();
        let sample = frames.recv_blocking(PATIENCE).unwrap();
        assert_eq!(sample.pixels.len(), bytes);
        assert!(sample.pixels.iter().all(|pixel| *pixel == 7));
        assert_eq!(sample.name.as_str(), "front camera, left");
        assert_eq!(sample.publisher_name(), "camera");
        assert_eq!(sample.publisher_id().0, camera.id());
        assert_eq!(sample.lost_before(), 0);
        assert!(sample.age().is_some_and(|age| age < PATIENCE));
    }
}

#[test]
fn every_validation_gives_the_same_value() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let validations = [Validation::InPlace, Validation::Copied];
    let mut subscribers = validations.map(|validation| {
        node.subscriber::<Image>("frames")
            .validation(validation)
            .build()
            .unwrap()
    });
    let mut publisher = node.publisher::<Image>("frames").build().unwrap();
    while publisher.listener_count() < 2 {
        std::thread::yield_now();
    }
    publisher.publish(&image(5000)).unwrap();
    for subscriber in &mut subscribers {
        let sample = subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!((sample.width.to_native(), sample.pixels.len()), (640, 5000));
    }
}

#[test]
fn a_connected_subscriber_lacks_nothing_of_what_its_publisher_had() {
    let mesh = Mesh::start();
    let here = mesh.node("here");
    let mut far = mesh.child("far");
    assert_eq!(far.ask("pub frames 100000000"), "ok");
    // Its memory takes a while to map: longer than a message takes to come.
    assert_eq!(far.ask("loan 8000000"), "loaned 8000000");
    for _ in 0..20 {
        let mut frames = here.subscriber::<Raw>("frames").build().unwrap();
        frames.wait_for_publisher_blocking(PATIENCE).unwrap();
        assert_eq!(far.ask("blank 8000000"), "sent to 1");
        let sample = frames.try_recv().unwrap();
        assert_eq!(sample.expect("there at once").len(), 8_000_000);
        drop(frames);
        assert_eq!(far.ask("alone"), "ok");
    }
}

#[test]
fn a_publisher_that_never_sends_keeps_nothing_of_subscribers_that_went() {
    let mesh = Mesh::start();
    let here = mesh.node("here");
    let mut idle = mesh.child("idle");
    assert_eq!(idle.ask("pub t 1000000"), "ok");
    // Keeps the two nodes linked.
    let mut other = here.subscriber::<Raw>("t").build().unwrap();
    other.wait_for_publisher_blocking(PATIENCE).unwrap();
    let mut descriptors = || idle.ask("descriptors").parse::<u32>().unwrap();
    // One of two links that were dialled at once may still be open then.
    let before = descriptors();
    for _ in 0..20 {
        let mut brief = here.subscriber::<Raw>("t").build().unwrap();
        brief.wait_for_publisher_blocking(PATIENCE).unwrap();
    }
    eventually("as few descriptors as before", || descriptors() <= before);
}

#[test]
fn another_type_is_refused_with_both_names() {
    let mesh = Mesh::start();
    let (one, other) = (mesh.node("one"), mesh.node("other"));
    let _publisher = one.publisher::<Image>("topic").build().unwrap();
    while other.peers().is_empty() {
        std::thread::yield_now();
    }
    eventually("the mismatch is known", || {
        match other.subscriber::<u64>("topic").build() {
            Err(Error::TypeMismatch {
                ours, theirs, node, ..
            }) => {
                assert!(ours.contains("u64") && theirs.contains("Image") && node == "one");
                true
            }
            Ok(_) => false,
            Err(error) => panic!("{error}"),
        }
    });
}

#[test]
fn sizes_at_every_edge_arrive_whole() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let inline = shmesh_shm::INLINE_BYTES;
    let bound = 1 << 20;
    let mut messages = node.subscriber::<Raw>("t").build().unwrap();
    let mut publisher = node
        .publisher::<Raw>("t")
        .arena_bytes_max(bound)
        .build()
        .unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for size in [0, 1, inline - 1, inline, inline + 1, 4096, bound] {
        let number = publisher.stats().sent;
        publisher.publish_bytes(&payload(number, size)).unwrap();
        let sample = messages.recv_blocking(PATIENCE).unwrap();
        assert_eq!(sample.len(), size);
        assert!(is_intact(&sample, number));
    }
    let error = publisher.publish_bytes(&vec![0; bound + 1]).unwrap_err();
    assert!(
        matches!(error, Error::ArenaFull { max, .. } if max == bound as u64),
        "{error}"
    );
    let error = publisher
        .publish_bytes(&payload(0, 10))
        .map(|sent| sent.listeners);
    assert_eq!(error.unwrap(), 1, "and goes on");
}

#[test]
fn an_arena_that_is_just_full_grows_once_and_no_more() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let messages = node.subscriber::<Raw>("t").max_held(1100);
    let mut messages = messages.build().unwrap();
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut exchange = |count: usize| -> Vec<_> {
        let bytes = [7; 1000];
        let exchanged = (0..count).map(|_| {
            publisher.publish_bytes(&bytes).unwrap();
            let sample = messages.recv_blocking(PATIENCE).unwrap();
            (sample, publisher.stats().arena_bytes)
        });
        exchanged.collect()
    };
    // All of the first segment but a few chunks.
    let held = exchange(1020);
    let first = held[0].1;
    assert!(held.iter().all(|(_, bytes)| *bytes == first));
    for _ in 0..20 {
        exchange(1);
    }
    let grown = exchange(1)[0].1;
    assert!(
        grown > first,
        "else each message has all lent ones looked at"
    );
    for _ in 0..5000 {
        assert_eq!(exchange(1)[0].1, grown);
    }
    drop(held);
}

#[test]
fn the_arenas_bound_names_who_holds_how_much() {
    let mesh = Mesh::start();
    let (camera, hoarder) = (mesh.node("camera"), mesh.node("hoarder"));
    let mut frames = hoarder.subscriber::<Raw>("t").max_held(8).build().unwrap();
    let mut publisher = camera
        .publisher::<Raw>("t")
        .arena_bytes_max(4 << 20)
        .build()
        .unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut held = Vec::new();
    let error = loop {
        match publisher.publish_bytes(&payload(held.len() as u64, 1 << 20)) {
            Ok(_) => held.push(frames.recv_blocking(PATIENCE).unwrap()),
            Err(error) => break error,
        }
    };
    let Error::ArenaFull { holders, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (holders[0].node.as_str(), holders[0].chunks),
        ("hoarder", held.len())
    );
    assert_eq!(holders[0].bytes, (held.len() << 20) as u64);
    for (number, sample) in held.iter().enumerate() {
        assert!(
            is_intact(sample, number as u64),
            "held samples stay as they are"
        );
    }
    held.clear();
    publisher.publish_bytes(&payload(0, 1 << 20)).unwrap();
}

#[test]
fn a_subscriber_holds_what_it_may_and_is_told_so() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut frames = node.subscriber::<Raw>("t").max_held(3).build().unwrap();
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut held = Vec::new();
    for number in 0..4 {
        publisher.publish_bytes(&payload(number, 1000)).unwrap();
        match frames.recv_blocking(PATIENCE) {
            Ok(sample) => held.push(sample),
            Err(RecvError::TooManyHeld { held, max }) => assert_eq!((held, max), (3, 3)),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(held.len(), 3);
    let elsewhere = held.pop().unwrap();
    std::thread::spawn(move || assert!(is_intact(&elsewhere, 2)))
        .join()
        .unwrap();
    assert_eq!(
        frames.recv_blocking(PATIENCE).unwrap().sequence(),
        3,
        "the message waited"
    );
}

#[test]
fn loans_that_are_dropped_come_back_and_foreign_ones_are_refused() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut publisher = node
        .publisher::<Raw>("t")
        .arena_bytes_max(1 << 20)
        .build()
        .unwrap();
    let mut other = node.publisher::<Raw>("t").build().unwrap();
    for _ in 0..1000 {
        drop(publisher.loan(500_000).unwrap());
    }
    let kept = [
        publisher.loan(500_000).unwrap(),
        publisher.loan(500_000).unwrap(),
    ];
    assert!(matches!(
        publisher.loan(500_000),
        Err(Error::ArenaFull { .. })
    ));
    drop(kept);
    let mut loan = publisher.loan(500_000).unwrap();
    loan[499_999] = 1;
    assert!(matches!(other.send(loan), Err(Error::ForeignLoan)));
    let mut typed = node.publisher::<[u32; 4]>("typed").build().unwrap();
    let mut values = node.subscriber::<[u32; 4]>("typed").build().unwrap();
    typed.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut loan = typed.loan_uninit().unwrap();
    loan.write(&[1, 2, 3, 4]).unwrap();
    typed.send(loan).unwrap();
    assert_eq!(values.recv_blocking(PATIENCE).unwrap()[3], 4);
}

#[test]
fn a_publisher_waits_for_block_subscribers_alone_and_no_longer_than_asked() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let block = Overflow::Block {
        depth: 2,
        deadline: Duration::from_millis(20),
    };
    let mut blocking = node.subscriber::<Raw>("t").overflow(block).build().unwrap();
    let mut dropping = node
        .subscriber::<Raw>("t")
        .overflow(Overflow::DropNewest(2))
        .build()
        .unwrap();
    let mut keeping = node
        .subscriber::<Raw>("t")
        .overflow(Overflow::KeepLast(2))
        .build()
        .unwrap();
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    while publisher.listener_count() < 3 {
        std::thread::yield_now();
    }
    for number in 0..5 {
        let sent = publisher.publish_bytes(&payload(number, 8)).unwrap();
        assert_eq!(sent.refused, if number < 2 { 0 } else { 2 });
    }
    for (subscriber, first, lost) in [
        (&mut blocking, 0, 3),
        (&mut dropping, 0, 3),
        (&mut keeping, 3, 3),
    ] {
        for number in first..first + 2 {
            assert_eq!(subscriber.try_recv().unwrap().unwrap().sequence(), number);
        }
        assert!(subscriber.try_recv().unwrap().is_none());
        let stats = subscriber.stats();
        assert_eq!(
            (stats.received, stats.lost),
            (2, lost),
            "received + lost = sent"
        );
    }
}

#[test]
fn a_blocked_publisher_goes_on_when_there_is_room() {
    let mesh = Mesh::start();
    let (one, two) = (mesh.node("one"), mesh.node("two"));
    let block = Overflow::Block {
        depth: 4,
        deadline: PATIENCE,
    };
    let mut messages = two.subscriber::<Raw>("t").overflow(block).build().unwrap();
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let sending = std::thread::spawn(move || {
        (0..20_000)
            .map(|n| publisher.publish_bytes(&payload(n, 200)).unwrap().refused)
            .sum::<u32>()
    });
    for number in 0..20_000 {
        let sample = messages.recv_blocking(PATIENCE).unwrap();
        assert_eq!(sample.sequence(), number);
        assert!(is_intact(&sample, number));
    }
    assert_eq!(sending.join().unwrap(), 0);
}

#[test]
fn async_ends_wait_in_the_runtime() {
    let mesh = Mesh::start();
    runtime().block_on(async {
        let one = mesh.builder("one").build().await.unwrap();
        let two = mesh.builder("two").build().await.unwrap();
        let block = Overflow::Block {
            depth: 4,
            deadline: PATIENCE,
        };
        let mut messages = two.subscriber::<Raw>("t").overflow(block).build().unwrap();
        let mut publisher = one.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener().await.unwrap();
        messages.wait_for_publisher().await.unwrap();
        let sending = tokio::spawn(async move {
            for number in 0..5000 {
                publisher
                    .publish_bytes_async(&payload(number, 300))
                    .await
                    .unwrap();
            }
        });
        for number in 0..5000 {
            let sample = messages.next().await.unwrap().unwrap();
            assert_eq!(sample.sequence(), number);
        }
        sending.await.unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(1), messages.recv()).await;
        assert!(
            nothing.is_err(),
            "a receive that is given up takes nothing with it"
        );
        one.close().await;
    });
}

#[test]
fn a_sleeper_is_woken_once_for_each_sleep() {
    let mesh = Mesh::start();
    let (one, two) = (mesh.node("one"), mesh.node("two"));
    let mut messages = two.subscriber::<Raw>("t").build().unwrap();
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let early = runtime()
        .block_on(async { tokio::time::timeout(Duration::from_millis(1), messages.recv()).await });
    assert!(early.is_err());
    // It is parked, and does not run again until all is sent.
    for number in 0..1000 {
        publisher.publish_bytes(&payload(number, 8)).unwrap();
    }
    assert_eq!(publisher.stats().wake_ups, 1);
}

#[test]
fn a_closed_node_is_gone_for_its_peers_but_what_it_sent_is_not() {
    let mesh = Mesh::start();
    let (one, two) = (mesh.node("one"), mesh.node("two"));
    let mut messages = two.subscriber::<Raw>("t").build().unwrap();
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(&payload(0, 5000)).unwrap();
    drop(publisher);
    one.close_blocking();
    let sample = messages.recv_blocking(PATIENCE).unwrap();
    assert!(
        is_intact(&sample, 0),
        "sent just before the end, and readable after it"
    );
    eventually("no publisher is left", || {
        let _ = messages.try_recv();
        messages.publisher_count() == 0
    });
}

#[test]
fn names_and_settings_out_of_bounds_are_refused() {
    let mesh = Mesh::start();
    assert!(matches!(
        mesh.builder("a b").build_blocking(),
        Err(Error::InvalidName { .. })
    ));
    let node = mesh.node("n");
    assert!(matches!(
        node.publisher::<Raw>("a//b").build(),
        Err(Error::InvalidName { .. })
    ));
    let deep = node
        .subscriber::<Raw>("t")
        .overflow(Overflow::KeepLast(0))
        .build();
    assert!(matches!(
        deep,
        Err(Error::OutOfBounds { what: "depth", .. })
    ));
    let nobody = shmesh::Node::builder("n")
        .coordinator("127.0.0.1:1")
        .runtime_dir(mesh.dir.path())
        .join_timeout(Duration::from_millis(100))
        .build_blocking();
    let error = nobody.unwrap_err();
    assert!(error.to_string().contains("mesh coordinator"), "{error}");
}

#[test]
fn the_steady_path_allocates_nothing() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut messages = node.subscriber::<Image>("t").build().unwrap();
    let mut publisher = node.publisher::<Image>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut round = |bytes| {
        let value = image(bytes);
        allocation_counter::measure(|| {
            for _ in 0..100 {
                publisher.publish(&value).unwrap();
                let sample = messages.try_recv().unwrap().unwrap();
                assert_eq!(sample.pixels.len(), bytes);
            }
        })
        .count_total
    };
    for bytes in [4, 50_000] {
        round(bytes);
        assert_eq!(round(bytes), 0, "{bytes} bytes");
    }
}

#[test]
fn who_spins_finds_all_that_comes_and_hears_of_the_end() {
    let mesh = Mesh::start();
    for overflow in [Overflow::KeepLast(16), Overflow::DropNewest(16)] {
        let (node, other) = (mesh.node("n"), mesh.node("o"));
        let messages = node.subscriber::<Raw>("t").overflow(overflow);
        let mut messages = messages.build().unwrap();
        let spinning = std::thread::spawn(move || {
            let mut found = Vec::new();
            loop {
                match messages.recv_spin(PATIENCE) {
                    Ok(sample) => found.push((sample.to_vec(), sample.publisher_name().to_owned())),
                    Err(error) => return (found, error),
                }
            }
        });
        // Publishers that come, and go, while it looks: in turn, and two at once.
        let mut sent = Vec::new();
        for sizes in [[0, 33], [96, 5000]] {
            let mut publishers = [&node, &other].map(|node| {
                let publisher = node.publisher::<Raw>("t").build().unwrap();
                (publisher, node.name().to_owned())
            });
            for size in sizes {
                for (publisher, name) in &mut publishers {
                    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
                    let message = payload(sent.len() as u64, size);
                    publisher.publish_bytes(&message).unwrap();
                    sent.push((message, name.clone()));
                }
            }
        }
        node.close_blocking();
        let (mut found, error) = spinning.join().unwrap();
        found.sort();
        sent.sort();
        assert_eq!(found, sent);
        assert!(matches!(error, RecvError::Closed), "{error}");
    }
}

#[test]
fn a_sample_outlives_its_subscriber_unchanged_and_its_memory_comes_back() {
    let mesh = Mesh::start();
    let overflows = [
        Overflow::KeepLast(16),
        Overflow::Block {
            depth: 16,
            deadline: PATIENCE,
        },
    ];
    for overflow in overflows {
        let node = mesh.node("n");
        let messages = node.subscriber::<Raw>("t").overflow(overflow);
        let mut messages = messages.max_held(4).build().unwrap();
        let mut publisher = node.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for number in 0..4 {
            publisher.publish_bytes(&payload(number, 200_000)).unwrap();
        }
        let held = [0, 1].map(|_| messages.recv_blocking(PATIENCE).unwrap());
        let bytes = publisher.stats().arena_bytes;
        drop(messages);
        eventually("the subscriber is gone", || publisher.listener_count() == 0);
        let mut others = node.subscriber::<Raw>("t").max_held(4).build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for number in 4..40 {
            publisher.publish_bytes(&payload(number, 200_000)).unwrap();
            others.recv_blocking(PATIENCE).unwrap();
        }
        for (number, sample) in (0..).zip(&held) {
            assert!(is_intact(sample, number), "{overflow:?}: {number}");
        }
        drop(held);
        for number in 40..80 {
            publisher.publish_bytes(&payload(number, 200_000)).unwrap();
            others.recv_blocking(PATIENCE).unwrap();
        }
        let grown = publisher.stats().arena_bytes;
        assert!(grown <= 2 * bytes, "{grown} bytes, {bytes} before");
    }
}
