//! Processes that die, stop and come back.

use rustix::process::Signal;
use shmesh::{Overflow, Raw};

use crate::support::{Mesh, PATIENCE, eventually, is_intact, number, payload};

const ARENA: &str = "67108864";

#[test]
fn messages_cross_processes_whole() {
    let mesh = Mesh::start();
    let (mut talker, mut listener) = (mesh.child("talker"), mesh.child("listener"));
    assert_eq!(listener.ask("sub t 20000 16 8"), "ok");
    assert_eq!(talker.ask(&format!("pub t {ARENA}")), "ok");
    assert_eq!(talker.ask("heard"), "ok");
    for (count, size) in [(2000, 8), (500, 97), (300, 100_000), (5, 3_000_000)] {
        talker.tell(&format!("send {count} {size}"));
        let answer = listener.ask(&format!("recv {count}"));
        assert_eq!(
            (number(&answer, "damaged"), number(&answer, "lost")),
            (0, 0),
            "{answer}"
        );
        assert_eq!(number(&talker.answer(), "refused"), 0);
    }
}

#[test]
fn a_killed_publishers_messages_stay_and_its_successor_is_found() {
    let mesh = Mesh::start();
    let mut listener = mesh.child("listener");
    assert_eq!(listener.ask("sub t keep 64 8"), "ok");
    for size in [8, 200_000] {
        let mut talker = mesh.child("talker");
        assert_eq!(talker.ask(&format!("pub t {ARENA}")), "ok");
        assert_eq!(talker.ask("heard"), "ok");
        assert_eq!(talker.ask(&format!("send 5 {size}")), "sent 5 refused 0");
        let before = listener.ask("hold 2");
        talker.kill();
        let after = listener.ask("recv 3");
        assert_eq!(number(&after, "received"), number(&before, "received") + 3);
        assert_eq!(
            number(&after, "damaged"),
            0,
            "also those held over the death"
        );
        assert_eq!(listener.ask("release"), "ok");
    }
}

#[test]
fn a_publisher_killed_in_a_flood_leaves_whole_messages_only() {
    let mesh = Mesh::start();
    for size in [8, 97, 50_000] {
        let (mut talker, mut listener) = (mesh.child("talker"), mesh.child("listener"));
        assert_eq!(listener.ask("sub t keep 16 8"), "ok");
        assert_eq!(talker.ask(&format!("pub t {ARENA}")), "ok");
        assert_eq!(talker.ask("heard"), "ok");
        assert_eq!(talker.ask(&format!("flood {size}")), "flooding");
        listener.ask("recv 200");
        talker.kill();
        let answer = listener.ask("drain");
        assert_eq!(number(&answer, "damaged"), 0, "{answer}");
        assert_eq!(number(&answer, "publishers"), 0, "its death is seen");
    }
}

#[test]
fn a_killed_subscriber_costs_nobody_anything() {
    let mesh = Mesh::start();
    let node = mesh.node("camera");
    // Room for few messages: what the dead one held must come back.
    let mut publisher = node
        .publisher::<Raw>("t")
        .arena_bytes_max(8 << 20)
        .build()
        .unwrap();
    let mut witness = mesh.child("witness");
    assert_eq!(witness.ask("sub t 20000 4 4"), "ok");
    for _ in 0..5 {
        let mut doomed = mesh.child("doomed");
        assert_eq!(doomed.ask("sub t keep 2 4"), "ok");
        eventually("both listen", || publisher.listener_count() == 2);
        for _ in 0..4 {
            let sent = publisher.stats().sent;
            publisher.publish_bytes(&payload(sent, 1 << 20)).unwrap();
        }
        assert_eq!(number(&doomed.ask("hold 2"), "damaged"), 0);
        doomed.kill();
        eventually("its death is seen", || publisher.listener_count() == 1);
        assert_eq!(number(&witness.ask("recv 4"), "damaged"), 0);
    }
    let answer = witness.ask("drain");
    assert_eq!(
        (number(&answer, "received"), number(&answer, "lost")),
        (20, 0)
    );
    for _ in 0..20 {
        let sent = publisher.stats().sent;
        publisher.publish_bytes(&payload(sent, 1 << 20)).unwrap();
        witness.ask("recv 1");
    }
}

#[test]
fn a_publisher_that_waits_for_a_killed_subscriber_goes_on_at_once() {
    let mesh = Mesh::start();
    let node = mesh.node("camera");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    let mut doomed = mesh.child("doomed");
    // Were it to wait for its deadline, the test would not end in time.
    assert_eq!(doomed.ask("sub t 3600000 2 4"), "ok");
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    let sending = std::thread::spawn(move || {
        for number in 0..3 {
            publisher.publish_bytes(&payload(number, 8)).unwrap();
            done.send(number).unwrap();
        }
    });
    assert_eq!(is_done.recv_timeout(PATIENCE), Ok(0));
    assert_eq!(is_done.recv_timeout(PATIENCE), Ok(1));
    doomed.kill();
    assert_eq!(is_done.recv_timeout(PATIENCE), Ok(2));
    sending.join().unwrap();
}

#[test]
fn a_stopped_subscriber_slows_nobody_and_loses_exactly_what_it_missed() {
    let mesh = Mesh::start();
    let node = mesh.node("camera");
    for overflow in ["keep", "drop", "1"] {
        for size in [8, 20_000] {
            let topic = format!("{overflow}/{size}");
            let mut publisher = node.publisher::<Raw>(&topic).build().unwrap();
            let block = Overflow::Block {
                depth: 64,
                deadline: PATIENCE,
            };
            let mut witness = node
                .subscriber::<Raw>(&topic)
                .overflow(block)
                .build()
                .unwrap();
            let mut frozen = mesh.child("frozen");
            assert_eq!(frozen.ask(&format!("sub {topic} {overflow} 8 4")), "ok");
            eventually("both listen", || publisher.listener_count() == 2);
            frozen.signal(Signal::STOP);
            for number in 0..200 {
                publisher.publish_bytes(&payload(number, size)).unwrap();
                let sample = witness
                    .try_recv()
                    .unwrap()
                    .expect("nobody waits for the frozen one");
                assert!(is_intact(&sample, number));
            }
            frozen.signal(Signal::CONT);
            let answer = frozen.ask("drain");
            let (received, lost) = (number(&answer, "received"), number(&answer, "lost"));
            assert_eq!(received + lost, 200, "{topic}: {answer}");
            assert_eq!(
                (received, number(&answer, "damaged")),
                (8, 0),
                "{topic}: {answer}"
            );
        }
    }
}

#[test]
fn a_process_leaves_at_a_signal_and_dies_of_it() {
    let mesh = Mesh::start();
    for signal in [Signal::INT, Signal::TERM] {
        let mut listener = mesh.child("listener");
        assert_eq!(listener.ask("sub t keep 4 4"), "ok");
        let sockets = || std::fs::read_dir(mesh.dir.path()).unwrap().count();
        assert_eq!(sockets(), 1);
        listener.signal(signal);
        let status = listener.wait();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(signal.as_raw()));
        assert_eq!(sockets(), 0, "its socket went with it");
    }
}

#[test]
fn the_last_message_before_an_exit_arrives() {
    let mesh = Mesh::start();
    let node = mesh.node("listener");
    let mut subscriber = node.subscriber::<Raw>("t").build().unwrap();
    for size in [8, 200_000] {
        for _ in 0..25 {
            let mut hasty = mesh.child("hasty");
            assert_eq!(hasty.ask(&format!("pub t {ARENA}")), "ok");
            assert_eq!(hasty.ask("heard"), "ok");
            assert_eq!(hasty.ask(&format!("prepare {size}")), "ok");
            hasty.tell("quit");
            let sample = subscriber.recv_blocking(PATIENCE).unwrap();
            assert!(sample.len() == size && is_intact(&sample, 0));
            assert!(hasty.wait().success());
        }
    }
}

/// True if the next start of a node leaves no status page of a node of this name.
fn is_swept(mesh: &Mesh, of: &str) -> bool {
    drop(mesh.node("next"));
    let is_its =
        |name: &String| shmesh_shm::StatusReader::open(name).is_ok_and(|page| page.node().1 == of);
    !shmesh_shm::status::list().iter().any(is_its)
}

#[test]
fn a_zombie_is_dead() {
    let mesh = Mesh::start();
    let node = mesh.node("listener");
    let subscriber = node.subscriber::<Raw>("t").build().unwrap();
    let mut zombie = mesh.child("zombie");
    assert_eq!(zombie.ask("pub t 1000000"), "ok");
    assert_eq!(zombie.ask("heard"), "ok");
    // Nobody waits for it: the process stays in the table.
    zombie.signal(Signal::KILL);
    eventually("its death is seen", || subscriber.publisher_count() == 0);
    eventually("its page is swept", || is_swept(&mesh, "zombie"));
    assert!(std::fs::exists(format!("/proc/{}", zombie.id())).unwrap());
}

#[test]
fn a_hundred_kills_leave_nothing_behind() {
    let mesh = Mesh::start();
    for _ in 0..100 {
        let mut child = mesh.child("ephemeral");
        assert_eq!(child.ask("pub t 1000000"), "ok");
        child.kill();
    }
    let node = mesh.node("last");
    let sockets = std::fs::read_dir(mesh.dir.path()).unwrap().count();
    assert_eq!(sockets, 1, "only the living node's socket");
    drop(node);
    assert!(is_swept(&mesh, "ephemeral"));
}

#[test]
fn what_a_gone_subscribers_process_holds_comes_back_when_that_dies() {
    let mesh = Mesh::start();
    let node = mesh.node("talker");
    let mut hoarder = mesh.child("hoarder");
    assert_eq!(hoarder.ask("sub t keep 16 8"), "ok");
    // Four chunks.
    let publisher = node.publisher::<Raw>("t").arena_bytes_max(1 << 20);
    let mut publisher = publisher.build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for number in 0..2 {
        publisher.publish_bytes(&payload(number, 200_000)).unwrap();
    }
    hoarder.ask("hold 2");
    assert_eq!(hoarder.ask("forget"), "ok");
    eventually("its subscriber is gone", || publisher.listener_count() == 0);
    let mut messages = node.subscriber::<Raw>("t").max_held(8).build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut held = Vec::new();
    for number in 2..4 {
        publisher.publish_bytes(&payload(number, 200_000)).unwrap();
        held.push(messages.recv_blocking(PATIENCE).unwrap());
    }
    let error = publisher.publish_bytes(&payload(4, 200_000)).unwrap_err();
    assert!(matches!(error, shmesh::Error::ArenaFull { .. }), "{error}");
    hoarder.kill();
    for number in 4..6 {
        eventually("its chunks came back", || {
            publisher.publish_bytes(&payload(number, 200_000)).is_ok()
        });
        held.push(messages.recv_blocking(PATIENCE).unwrap());
    }
    assert_eq!(held.len(), 4);
}
