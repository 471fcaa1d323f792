//! Publishers that come, go, and do not send.

use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::process::Signal;
use shmesh::{Error, Event, Events, Loss, Raw, RecvError, Subscriber};

use crate::history::{Talker, listener};
use crate::support::{Mesh, PATIENCE, Puppet, WAYS, Way, eventually};

/// Passes soon.
const SOON: Duration = Duration::from_millis(20);

fn next(events: &mut Events) -> Event {
    events.recv_blocking(PATIENCE).unwrap()
}

fn expect_up(events: &mut Events) {
    let event = next(events);
    let is_up =
        matches!(&event, Event::PublisherUp { publisher } if publisher.node_name == "talker");
    assert!(is_up, "{event:?}");
}

fn expect_lost(events: &mut Events, expected: Loss) {
    match next(events) {
        Event::PublisherLost { reason, .. } => assert_eq!(reason, expected),
        other => panic!("{other:?}"),
    }
}

fn expect_missed(events: &mut Events) -> u64 {
    match next(events) {
        Event::DeadlineMissed { publisher, missed } => {
            assert_eq!(publisher.node_name, "talker");
            missed
        }
        other => panic!("{other:?}"),
    }
}

fn puppet(talker: Talker) -> Puppet {
    match talker {
        Talker::There(puppet) => puppet,
        Talker::Here(_) => unreachable!("it is another process"),
    }
}

#[test]
fn publishers_that_leave_or_die_are_told_of_whichever_way() {
    for way in WAYS {
        let mesh = Mesh::start();
        let node = listener(&mesh, way);
        let subscriber = node.subscriber::<Raw>("t").build().unwrap();
        let mut events = subscriber.events();
        let talker = Talker::start(&mesh, way, "t", 0);
        expect_up(&mut events);
        match talker {
            Talker::Here(publisher) => drop(publisher),
            Talker::There(mut puppet) => assert_eq!(puppet.ask("close"), "ok"),
        }
        expect_lost(&mut events, Loss::Left);
        if let Way::Inside = way {
            continue;
        }
        let talker = Talker::start(&mesh, way, "t", 0);
        expect_up(&mut events);
        puppet(talker).kill();
        expect_lost(&mut events, Loss::Died);
        assert_eq!(events.try_recv(), None);
        assert_eq!(events.dropped(), 0);
    }
}

#[test]
fn a_node_that_falls_silent_is_unreachable() {
    let mesh = Mesh::start();
    let node = listener(&mesh, Way::Network);
    let subscriber = node.subscriber::<Raw>("t").build().unwrap();
    let mut events = subscriber.events();
    let silent = puppet(Talker::start(&mesh, Way::Network, "t", 0));
    expect_up(&mut events);
    silent.signal(Signal::STOP);
    expect_lost(&mut events, Loss::Unreachable);
}

#[test]
fn a_publisher_that_stops_sending_misses_deadlines_until_it_sends_again() {
    for way in WAYS {
        for is_stamping in [true, false] {
            let mesh = Mesh::start();
            let node = listener(&mesh, way);
            let subscriber = node.subscriber::<Raw>("t").deadline(SOON);
            let mut subscriber = subscriber.build().unwrap();
            let mut events = subscriber.events();
            let mut talker = if is_stamping {
                Talker::start(&mesh, way, "t", 0)
            } else {
                Talker::start_unstamped(&mesh, way, "t")
            };
            expect_up(&mut events);
            let mut last = 0;
            for _ in 0..3 {
                let missed = expect_missed(&mut events);
                assert!(missed >= 2 * last && missed > 0, "{missed} after {last}");
                last = missed;
            }
            // One message, and it begins anew.
            eventually("it is seen", || {
                talker.send(1, 8);
                subscriber.recv_blocking(PATIENCE).unwrap();
                let missed = expect_missed(&mut events);
                let is_anew = missed < last;
                last = missed;
                is_anew
            });
        }
    }
}

#[test]
fn deadlines_that_are_met_are_not_missed() {
    for way in WAYS {
        let mesh = Mesh::start();
        let node = listener(&mesh, way);
        let subscriber = node.subscriber::<Raw>("t").deadline(PATIENCE);
        let mut subscriber = subscriber.build().unwrap();
        let mut events = subscriber.events();
        let mut talker = Talker::start(&mesh, way, "t", 0);
        expect_up(&mut events);
        talker.send(5, 8);
        (0..5).for_each(|_| drop(subscriber.recv_blocking(PATIENCE).unwrap()));
        assert_eq!(events.try_recv(), None);
    }
}

#[test]
fn a_publisher_is_told_of_promises_that_it_breaks() {
    let mesh = Mesh::start();
    let node = mesh.node("talker");
    let publisher = node.publisher::<Raw>("t").deadline(SOON);
    let mut publisher = publisher.build().unwrap();
    let mut events = publisher.events();
    // Nobody need listen.
    assert!(expect_missed(&mut events) >= 1);
    let mut last = expect_missed(&mut events);
    eventually("it begins anew", || {
        publisher.publish_bytes(b"at last").unwrap();
        let missed = expect_missed(&mut events);
        let is_anew = missed < last;
        last = missed;
        is_anew
    });
    drop(publisher);
    loop {
        match events.recv_blocking(PATIENCE) {
            Ok(Event::DeadlineMissed { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert!(matches!(error, RecvError::Wait(Error::Closed)), "{error}");
                return;
            }
        }
    }
}

#[test]
fn events_come_to_tasks_and_streams() {
    let mesh = Mesh::start();
    let node = mesh.node("talker");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let subscriber: Subscriber<Raw> = node.subscriber("t").build().unwrap();
    let mut events = subscriber.events();
    runtime.block_on(async {
        let coming = tokio::spawn(async move {
            let event = events.recv().await.unwrap();
            (event, events)
        });
        tokio::task::yield_now().await;
        let publisher = node.publisher::<Raw>("t").build().unwrap();
        let (event, mut events) = coming.await.unwrap();
        assert!(matches!(event, Event::PublisherUp { .. }));
        drop(publisher);
        let event = events.next().await;
        assert!(matches!(event, Some(Event::PublisherLost { .. })));
        drop(subscriber);
        assert_eq!(events.next().await, None);
    });
    let zero = node.subscriber::<Raw>("t").deadline(Duration::ZERO).build();
    assert!(matches!(zero, Err(Error::OutOfBounds { .. })));
}
