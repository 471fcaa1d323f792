//! Timers, and the ends of nodes.

use std::sync::mpsc::channel;
use std::task::Poll;
use std::time::Duration;

use rustix::process::Signal;
use shmesh::{End, Error, Node, Raw, Tick};

use crate::role::Answer;
use crate::support::{Mesh, PATIENCE, Puppet, eventually, runtime};

const MS: Duration = Duration::from_millis(1);

/// Each is due a whole number of periods after the one before, and no number is left out untold.
fn follows(before: Tick, tick: Tick, period: Duration) {
    let step = tick.number - before.number;
    assert_eq!(step, tick.missed + 1);
    let due = Duration::from_nanos(tick.due_ns - before.due_ns);
    assert_eq!(due, period * u32::try_from(step).unwrap());
}

#[test]
fn ticks_come_by_the_schedule_and_never_early() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    runtime().block_on(async {
        let mut ticker = node.every(MS).unwrap();
        let mut before = ticker.tick().await.unwrap();
        for _ in 0..100 {
            let tick = ticker.tick().await.unwrap();
            assert!(shmesh_shm::monotonic_ns() >= tick.due_ns, "not early");
            follows(before, tick, MS);
            before = tick;
        }
        // Long work: one tick comes at once, and the next when it is due.
        std::thread::sleep(10 * MS);
        let late = ticker.tick().await.unwrap();
        follows(before, late, MS);
        assert!(late.missed >= 8 && ticker.missed() >= late.missed);
        follows(late, ticker.tick().await.unwrap(), MS);
    });
    let mut ticker = node.every(MS).unwrap();
    let first = ticker.tick_blocking().unwrap();
    follows(first, ticker.tick_blocking().unwrap(), MS);
}

#[test]
fn a_ticker_moves_between_runtimes_and_ends_with_its_node() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut ticker = node.every(MS).unwrap();
    for _ in 0..3 {
        runtime().block_on(ticker.tick()).unwrap();
    }
    let mut slow = node.every(Duration::from_secs(3600)).unwrap();
    let again = node.clone();
    let ended = runtime().block_on(async {
        let (ended, ()) = tokio::join!(slow.tick(), node.close());
        ended
    });
    assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
    assert!(matches!(ticker.tick_blocking(), Err(Error::Closed)));
    assert!(matches!(again.every(MS), Err(Error::Closed)));
}

#[test]
fn periods_that_make_no_sense_are_refused() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    for period in [Duration::ZERO, Duration::from_micros(9), Duration::MAX] {
        let refused = node.every(period);
        assert!(
            matches!(refused, Err(Error::OutOfBounds { .. })),
            "{period:?}"
        );
    }
}

#[test]
fn timers_call_survive_failures_and_end() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let (tell, told) = channel();
    let on_thread = node.timer_on_thread(MS, {
        let tell = tell.clone();
        move |tick: Tick| {
            let _ = tell.send(tick);
            assert_ne!(tick.number % 2, 1, "on purpose");
        }
    });
    let on_thread = on_thread.unwrap();
    for _ in 0..10 {
        told.recv_timeout(PATIENCE).unwrap();
    }
    eventually("panics are counted", || on_thread.stats().panicked >= 3);
    on_thread.stop_blocking();
    while told.try_recv().is_ok() {}

    runtime().block_on(async {
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let send = tell.clone();
        let timer = node.timer(MS, move |tick| send.try_send(tick)).unwrap();
        let slow = node.timer_async(MS, move |tick| {
            let tell = tell.clone();
            async move { tell.send(tick).await }
        });
        let slow = slow.unwrap();
        for _ in 0..20 {
            told.recv().await.unwrap();
        }
        timer.stop().await;
        while slow.stats().handled < 3 {
            told.recv().await.unwrap();
        }
        drop(told);
        slow.stop().await;
    });
    assert!(matches!(node.timer(MS, |_| {}), Err(Error::Io { .. })));
}

#[test]
fn forever_ends_with_the_node() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let timer = node.timer_on_thread(MS, |_| {}).unwrap();
    let end = runtime().block_on(async {
        let waiting = node.clone();
        let (end, ()) = tokio::join!(waiting.forever(), node.close());
        end
    });
    assert_eq!(end, End::Closed);
    assert!(timer.has_ended());
}

#[test]
fn at_a_signal_all_nodes_leave_and_the_program_goes_on() {
    let mesh = Mesh::start();
    let here = mesh.node("here");
    for (signal, number) in [(Signal::INT, 2), (Signal::TERM, 15)] {
        let mut there = mesh.child("there");
        assert_eq!(there.ask("sub t keep 4 4"), "ok");
        let mut publisher = here.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        let order = format!("end both {} {}", mesh.address, mesh.dir.path().display());
        assert_eq!(there.ask(&order), "waiting");
        there.signal(signal);
        assert_eq!(there.answer(), format!("Signal({number}) Signal({number})"));
        runtime()
            .block_on(publisher.wait_for_no_listener())
            .unwrap();
        eventually("they have left", || here.peers().is_empty());
        // It still plays its role; and by now a signal does what it always did.
        assert_eq!(there.ask("recv 1"), "error the node is closed");
        there.signal(signal);
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(there.wait().signal(), Some(number));
    }
}

#[test]
fn a_second_signal_cuts_the_grace_period_short() {
    let mesh = Mesh::start();
    let mut there = Puppet::spawn(&mut Puppet::command());
    let order = format!("end stuck {} {}", mesh.address, mesh.dir.path().display());
    assert_eq!(there.ask(&order), "stuck");
    there.signal(Signal::TERM);
    assert_eq!(there.answer(), "draining");
    assert_eq!(there.answer_now(), None, "it has an hour");
    there.signal(Signal::INT);
    assert_eq!(there.answer(), "Signal(15) 0");
}

/// What a child does until its end (see `role`).
pub(crate) fn play(node: &Option<Node>, how: &str, address: &str, dir: &str) -> Answer {
    let builder = Node::builder("other").coordinator(address).runtime_dir(dir);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    match (how, node) {
        ("both", Some(node)) => runtime.block_on(both(node, &builder.build_blocking()?)),
        // An hour for a call that never ends.
        _ => {
            let builder = builder.grace(Duration::from_secs(3600));
            runtime.block_on(stuck(&builder.build_blocking()?))
        }
    }
}

async fn both(node: &Node, other: &Node) -> Answer {
    let mut ends = std::pin::pin!(async { tokio::join!(node.forever(), other.forever()) });
    // They wait before anybody is told so.
    let begun = std::future::poll_fn(|cx| Poll::Ready(ends.as_mut().poll(cx).is_ready()));
    assert!(!begun.await);
    println!("> waiting");
    let (one, other) = ends.await;
    Ok(format!("{one:?} {other:?}"))
}

async fn stuck(node: &Node) -> Answer {
    let mut publisher = node.publisher::<Raw>("t").build()?;
    let mut ticker = node.every(Duration::from_secs(3600))?;
    let listening = node.listen_async::<Raw>("t", |_| async {
        println!("> stuck");
        std::future::pending::<()>().await;
    })?;
    publisher.wait_for_listener().await?;
    publisher.publish_bytes(b"")?;
    let until_draining = async {
        while ticker.tick().await.is_ok() {}
        println!("> draining");
    };
    let (end, ()) = tokio::join!(node.forever(), until_draining);
    Ok(format!("{end:?} {}", listening.stats().handled))
}
