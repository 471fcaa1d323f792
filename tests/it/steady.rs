//! What holds while nothing happens but messages.

use std::time::{Duration, Instant};

use shmesh::{Node, Raw};

use crate::coordinator::Server;
use crate::support::{Mesh, PATIENCE, Puppet, TempDir, eventually, number, payload};

#[test]
fn a_stream_makes_no_system_call() {
    let mesh = Mesh::start();
    for size in [64, 100_000] {
        let mut child = mesh.child("quiet");
        assert_eq!(child.ask("sub t 1000 64 8"), "ok");
        assert_eq!(child.ask("pub t 100000000"), "ok");
        assert_eq!(child.ask(&format!("quiet 0 {size}")), "no call");
        assert_eq!(child.ask("sub u 1000 64 8"), "ok");
        assert_eq!(child.ask("pub u 100000000"), "ok");
        assert_eq!(child.ask(&format!("quiet 1 {size}")), "a call");
    }
}

#[test]
fn a_thousand_a_second_flow_through_ten_seconds_without_a_coordinator() {
    let server = Server::start("0");
    let dir = TempDir::new();
    let address = server.address.clone();
    let port = address.rsplit(':').next().unwrap().to_owned();
    let builder = Node::builder("imu")
        .coordinator(&address)
        .runtime_dir(dir.path());
    let node = builder.without_signal_handling().build_blocking().unwrap();
    let mut planner = Puppet::spawn(&mut Puppet::command());
    let path = dir.path().display();
    assert_eq!(planner.ask(&format!("node planner {address} {path}")), "ok");
    assert_eq!(planner.ask("sub imu 30000 64 8"), "ok");
    let mut publisher = node.publisher::<Raw>("imu").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    planner.tell("recv 12000");
    let mut server = Some(server);
    let mut late = None;
    let started = Instant::now();
    for sequence in 0..12_000 {
        match sequence {
            1_000 => server.take().unwrap().kill(),
            6_000 => late = Some(node.subscriber::<Raw>("imu").build().unwrap()),
            11_000 => server = Some(Server::start(&port)),
            _ => {}
        }
        let due = Duration::from_millis(sequence);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        let sent = publisher.publish_bytes(&payload(sequence, 48)).unwrap();
        assert_eq!((sent.sequence, sent.refused), (sequence, 0));
    }
    let answer = planner.answer();
    assert!(
        answer.starts_with("received 12000 lost 0 damaged 0"),
        "{answer}"
    );
    eventually("the late listener is found", || {
        publisher.listener_count() == 2
    });
    publisher.publish_bytes(&payload(0, 48)).unwrap();
    let sample = late.unwrap().recv_blocking(PATIENCE).unwrap();
    assert_eq!(sample.publisher_name(), "imu");
    drop(server);
    assert_eq!(number(&planner.ask("recv 1"), "lost"), 0);
}

#[test]
fn the_status_page_says_what_stats_say() {
    use shmesh_shm::{Counter, StatusReader};
    let mesh = Mesh::start();
    let node = mesh.node("watched");
    let mut frames = node.subscriber::<Raw>("frames").build().unwrap();
    let mut publisher = node.publisher::<Raw>("frames").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut held = Vec::new();
    for sequence in 0..20 {
        publisher.publish_bytes(&payload(sequence, 1000)).unwrap();
        let sample = frames.recv_blocking(PATIENCE).unwrap();
        if sequence < 3 {
            held.push(sample);
        }
    }
    // Sleeps once, and finds nothing.
    let short = Duration::from_millis(1);
    assert!(frames.recv_blocking(short).is_err());
    let is_ours = |name: &String| {
        let page = StatusReader::open(name).ok()?;
        (page.pid() == u64::from(std::process::id()) && page.node().1 == "watched").then_some(page)
    };
    let page = shmesh_shm::status::list().iter().find_map(is_ours).unwrap();
    assert!(page.is_alive());
    // Without what it says of the node itself.
    let mut endpoints = page.endpoints();
    endpoints.retain(|entry| entry.role < 2);
    let said = |counter: Counter| {
        let mut values: Vec<_> = endpoints.iter().map(|e| e.value(counter)).collect();
        values.sort_unstable();
        values
    };
    let (sent, received) = (publisher.stats(), frames.stats());
    assert_eq!(said(Counter::Messages), [sent.sent, received.received]);
    assert_eq!(said(Counter::Bytes), [20_000, 20_000]);
    assert_eq!(said(Counter::Held), [0, received.held as u64]);
    assert_eq!(received.held, 3);
    assert_eq!(said(Counter::Peers), [1, 1]);
    assert_eq!(said(Counter::ArenaBytes), [0, sent.arena_bytes]);
    assert!(said(Counter::Parkings)[1] > 0);
}
