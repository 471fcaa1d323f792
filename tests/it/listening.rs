//! Callbacks: their order, their number, their failures, their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use shmesh::{Error, Listening, Node, Overflow, Publisher, Raw, RecvError};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::support::{Mesh, PATIENCE, eventually};

const QUEUE: Overflow = Overflow::KeepLast(64);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn heard(node: &Node, topic: &str) -> Publisher<Raw> {
    let mut publisher = node.publisher::<Raw>(topic).build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher
}

fn in_time<T>(runtime: &Runtime, wait: impl Future<Output = T>) -> T {
    let wait = async { tokio::time::timeout(PATIENCE, wait).await };
    runtime.block_on(wait).expect("in time")
}

fn next<T>(told: &Receiver<T>) -> T {
    told.recv_timeout(PATIENCE).expect("told in time")
}

fn await_handled(listening: &Listening, count: u64) {
    eventually("handled", || listening.stats().handled == count);
}

#[test]
fn a_handler_gets_all_in_order_and_survives_its_failures() {
    let mesh = Mesh::start();
    let (here, there) = (mesh.node("here"), mesh.node("there"));
    let runtime = runtime();
    let _inside = runtime.enter();
    let (tell, told) = channel();
    let builder = here.subscriber::<Raw>("t").overflow(QUEUE);
    let listening = builder.listen(move |number| {
        tell.send(number[0]).unwrap();
        match number[0] % 4 {
            1 => Err("odd"),
            2 => panic!("on purpose"),
            _ => Ok(()),
        }
    });
    let listening = listening.unwrap();
    let mut publisher = heard(&there, "t");
    for number in 0..40 {
        publisher.publish_bytes(&[number]).unwrap();
    }
    for number in 0..40 {
        assert_eq!(next(&told), number);
    }
    await_handled(&listening, 40);
    let stats = listening.stats();
    assert_eq!((stats.failed, stats.panicked, stats.lost), (10, 10, 0));
    assert!(!listening.has_ended());
}

#[test]
fn an_async_handler_is_awaited_before_the_next_message() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let runtime = runtime();
    let _inside = runtime.enter();
    let (tell, told) = channel();
    let running = Arc::new(AtomicUsize::new(0));
    let builder = node.subscriber::<Raw>("t").overflow(QUEUE);
    let listening = builder.listen_async(move |number| {
        let (tell, running) = (tell.clone(), Arc::clone(&running));
        async move {
            let others = running.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            tell.send((number[0], others))
        }
    });
    let listening = listening.unwrap();
    let mut publisher = heard(&node, "t");
    for number in 0..40 {
        publisher.publish_bytes(&[number]).unwrap();
    }
    for number in 0..40 {
        assert_eq!(next(&told), (number, 0));
    }
    await_handled(&listening, 40);
}

#[test]
fn as_many_calls_run_at_once_as_asked_for_and_no_more() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    // One thread: whoever could go on has gone on when others had their turns.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let (tell, told) = channel();
    let go_on = Arc::new(Semaphore::new(0));
    in_time(&runtime, async {
        let builder = node.subscriber::<Raw>("t").overflow(QUEUE).concurrency(12);
        let listening = builder.listen_async({
            let go_on = Arc::clone(&go_on);
            move |message| {
                tell.send(message[0]).unwrap();
                let go_on = Arc::clone(&go_on);
                // Holds the message meanwhile: twelve large ones at once.
                async move { go_on.acquire().await.map(|one| one.forget()) }
            }
        });
        let listening = listening.unwrap();
        let mut publisher = node.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener().await.unwrap();
        for number in 0..20 {
            publisher.publish_bytes(&[number; 5000]).unwrap();
        }
        let mut begun = Vec::new();
        for ended in 0..8 {
            while begun.len() < 12 + ended {
                tokio::task::yield_now().await;
                begun.extend(told.try_iter());
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            begun.extend(told.try_iter());
            assert_eq!(begun.len(), 12 + ended, "no more than twelve");
            go_on.add_permits(1);
        }
        go_on.close();
        while listening.stats().handled < 20 {
            tokio::task::yield_now().await;
            begun.extend(told.try_iter());
        }
        assert!(begun.iter().copied().eq(0..20), "they begin in order");
        assert_eq!(listening.stats().lost, 0);
    });
}

#[test]
fn what_cannot_be_asked_for_is_said() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let outside = node.listen::<Raw>("t", |_| {});
    assert!(matches!(outside, Err(Error::Io { .. })), "{outside:?}");
    let runtime = runtime();
    let _inside = runtime.enter();
    let named = node.listen::<Raw>("no spaces", |_| {});
    assert!(matches!(named, Err(Error::InvalidName { .. })), "{named:?}");
    for count in [0, 1025] {
        let many = node.subscriber::<Raw>("t").concurrency(count);
        let many = many.listen_async(|_| async {});
        assert!(matches!(many, Err(Error::OutOfBounds { found, .. }) if found == count as u64));
    }
    let shared = node.subscriber::<Raw>("t").concurrency(2).listen(|_| {});
    assert!(matches!(shared, Err(Error::OutOfBounds { max: 1, .. })));
    let _publisher = node.publisher::<u64>("t").build().unwrap();
    eventually("the other type is known", || {
        matches!(
            node.listen::<Raw>("t", |_| {}),
            Err(Error::TypeMismatch { .. })
        )
    });
}

#[test]
fn it_needs_no_runtime_on_a_thread_of_its_own() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let (tell, told) = channel();
    let builder = node.subscriber::<Raw>("t");
    let listening = builder.listen_on_thread(move |text| tell.send(text.to_vec()));
    let listening = listening.unwrap();
    let mut publisher = heard(&node, "t");
    publisher.publish_bytes(b"hello").unwrap();
    assert_eq!(next(&told), b"hello");
    listening.stop_blocking();
    assert!(told.recv().is_err(), "the handler is gone");
    eventually("nobody listens", || publisher.listener_count() == 0);
}

#[test]
fn a_listening_that_is_dropped_ends() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let runtime = runtime();
    let _inside = runtime.enter();
    let listening = node.listen::<Raw>("t", |_| {}).unwrap();
    let publisher = heard(&node, "t");
    drop(listening);
    in_time(&runtime, publisher.wait_for_no_listener()).unwrap();
}

#[test]
fn stopping_waits_for_the_call_that_runs_and_for_the_grace_period_at_most() {
    let mesh = Mesh::start();
    let patient = mesh.builder("patient").grace(PATIENCE);
    let hasty = mesh.builder("hasty").grace(Duration::from_millis(20));
    let [patient, hasty] = [patient, hasty].map(|node| node.build_blocking().unwrap());
    let runtime = runtime();
    let _inside = runtime.enter();
    let go_on = Arc::new(Semaphore::new(0));
    let listen = |node: &Node| {
        let (tell, told) = channel();
        let go_on = Arc::clone(&go_on);
        let listening = node.listen_async::<Raw>("t", move |_| {
            tell.send("called").unwrap();
            let (tell, go_on) = (tell.clone(), Arc::clone(&go_on));
            async move {
                let _ = go_on.acquire().await;
                tell.send("done")
            }
        });
        (listening.unwrap(), told)
    };
    let (slow, from_slow) = listen(&hasty);
    let mut publisher = heard(&hasty, "t");
    publisher.publish_bytes(b"").unwrap();
    assert_eq!(next(&from_slow), "called");
    in_time(&runtime, slow.stop());
    assert!(from_slow.recv().is_err(), "given up");
    drop(publisher);

    let (steady, from_steady) = listen(&patient);
    let mut publisher = heard(&patient, "t");
    publisher.publish_bytes(b"").unwrap();
    publisher.publish_bytes(b"").unwrap();
    assert_eq!(next(&from_steady), "called");
    let mut stopping = std::pin::pin!(steady.stop());
    // Told to stop before the call can go on.
    let first = std::future::poll_fn(|cx| Poll::Ready(stopping.as_mut().poll(cx).is_ready()));
    assert!(!in_time(&runtime, first), "a call runs");
    assert!(from_steady.try_recv().is_err(), "not yet");
    go_on.close();
    in_time(&runtime, stopping);
    assert_eq!(from_steady.iter().collect::<Vec<_>>(), ["done"]);
}

#[test]
fn who_depends_on_a_listener_listens_only_while_there_is_one() {
    let mesh = Mesh::start();
    let [camera, detector, planner] = ["camera", "detector", "planner"].map(|name| mesh.node(name));
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut images = camera.publisher::<Raw>("images").build().unwrap();
    let mut boxes = detector.publisher::<Raw>("boxes").build().unwrap();
    let detecting = detector.subscriber::<Raw>("images").depends_on(&boxes);
    let detecting = detecting.listen(move |image| boxes.publish_bytes(&image[..1]));
    let detecting = detecting.unwrap();

    // One that is sure to be connected later than the detector would have been.
    let witness = detector.subscriber::<Raw>("images").build().unwrap();
    images.wait_for_listener_blocking(PATIENCE).unwrap();
    assert_eq!(images.listener_count(), 1, "the witness alone");
    drop(witness);
    in_time(&runtime, images.wait_for_no_listener()).unwrap();

    for round in 0..5 {
        let mut wanted = planner.subscriber::<Raw>("boxes").build().unwrap();
        images.wait_for_listener_blocking(PATIENCE).unwrap();
        images.publish_bytes(&[round; 300]).unwrap();
        assert_eq!(&*wanted.recv_blocking(PATIENCE).unwrap(), [round]);
        drop(wanted);
        in_time(&runtime, images.wait_for_no_listener()).unwrap();
    }
    assert_eq!(detecting.stats().handled, 5);
    assert!(!detecting.has_ended());
}

#[test]
fn any_of_several_listeners_will_do_and_without_publishers_there_is_none() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut source = node.publisher::<Raw>("source").build().unwrap();
    let publish = |topic| node.publisher::<Raw>(topic).build().unwrap();
    let subscribe = |topic| node.subscriber::<Raw>(topic).build().unwrap();
    let (left, right) = (publish("left"), publish("right"));
    let builder = node.subscriber::<Raw>("source");
    let builder = builder.depends_on(&left).depends_on(&right);
    let listening = builder.listen(|_| {}).unwrap();
    let on_left = subscribe("left");
    source.wait_for_listener_blocking(PATIENCE).unwrap();
    let on_right = subscribe("right");
    eventually("it has both", || right.listener_count() == 1);
    drop(on_left);
    eventually("it has one", || left.listener_count() == 0);
    assert_eq!(source.listener_count(), 1, "the right one is enough");
    drop(on_right);
    in_time(&runtime, source.wait_for_no_listener()).unwrap();
    drop((left, right));
    in_time(&runtime, listening.ended());
}

#[test]
fn closing_lets_calls_finish_and_their_messages_out_and_then_says_so() {
    let mesh = Mesh::start();
    let leaving = mesh.builder("leaving").grace(PATIENCE);
    let (leaving, staying) = (leaving.build_blocking().unwrap(), mesh.node("staying"));
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut answers = leaving.publisher::<Raw>("answers").build().unwrap();
    let mut idle = leaving.publisher::<Raw>("idle").build().unwrap();
    let mut late = leaving.subscriber::<Raw>("questions").build().unwrap();
    let (tell, told) = channel();
    let go_on = Arc::new(Semaphore::new(0));
    let mut from_it = staying.subscriber::<Raw>("answers").build().unwrap();
    answers.wait_for_listener_blocking(PATIENCE).unwrap();
    let answers = Arc::new(tokio::sync::Mutex::new(answers));
    let listening = leaving.listen_async::<Raw>("questions", {
        let go_on = Arc::clone(&go_on);
        move |question| {
            tell.send(question[0]).unwrap();
            let (go_on, answers) = (Arc::clone(&go_on), Arc::clone(&answers));
            async move {
                let _ = go_on.acquire().await;
                answers.lock().await.publish_bytes(&question)
            }
        }
    });
    let listening = listening.unwrap();
    let mut questions = staying.publisher::<Raw>("questions").build().unwrap();
    eventually("both listen", || questions.listener_count() == 2);
    questions.publish_bytes(&[1]).unwrap();
    assert_eq!(next(&told), 1);
    let again = leaving.clone();
    let closing = runtime.spawn(leaving.close());
    eventually("it takes in nothing new", || {
        matches!(again.listen::<Raw>("t", |_| {}), Err(Error::Closed))
    });
    questions.publish_bytes(&[2]).unwrap();
    assert!(!closing.is_finished(), "a call still runs");
    go_on.close();
    in_time(&runtime, closing).unwrap();
    assert_eq!(&*from_it.recv_blocking(PATIENCE).unwrap(), [1]);
    assert!(listening.has_ended() && told.recv().is_err());

    // What had come is still there, and then nothing more.
    assert_eq!(&*late.recv_blocking(PATIENCE).unwrap(), [1]);
    assert_eq!(&*late.recv_blocking(PATIENCE).unwrap(), [2]);
    let end = late.recv_blocking(PATIENCE);
    assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
    let end = in_time(&runtime, late.recv());
    assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
    let sent = idle.publish_bytes(b"late");
    assert!(matches!(sent, Err(Error::Closed)), "{sent:?}");
    let made = again.publisher::<Raw>("t").build().map(drop);
    assert!(matches!(made, Err(Error::Closed)), "{made:?}");
    let made = again.subscriber::<Raw>("t").build().map(drop);
    assert!(matches!(made, Err(Error::Closed)), "{made:?}");
}

#[test]
fn a_publisher_tells_how_many_listen_as_they_come_and_go() {
    let mesh = Mesh::start();
    let (here, there) = (mesh.node("here"), mesh.node("there"));
    let publisher = here.publisher::<Raw>("t").build().unwrap();
    let mut listeners = publisher.listeners();
    let subscribe = || there.subscriber::<Raw>("t").build().unwrap();
    in_time(&runtime(), async {
        assert_eq!(listeners.next().await, Some(0));
        let one = subscribe();
        assert_eq!(listeners.next().await, Some(1));
        let two = subscribe();
        assert_eq!(listeners.next().await, Some(2));
        assert!(publisher.has_listeners());
        drop(one);
        assert_eq!(listeners.next().await, Some(1));
        drop(two);
        assert_eq!(listeners.next().await, Some(0));
        publisher.wait_for_no_listener().await.unwrap();
        drop(publisher);
        assert_eq!(listeners.next().await, None);
    });
}

#[test]
fn an_endless_stream_leaves_others_of_its_runtime_their_turn() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let mut echo = node.publisher::<Raw>("t").build().unwrap();
    let mut starter = node.publisher::<Raw>("t").build().unwrap();
    in_time(&runtime, async {
        // Each message makes the next one: there always is one.
        let listening = node.listen::<Raw>("t", move |_| echo.publish_bytes(b"again"));
        let listening = listening.unwrap();
        starter.wait_for_listener().await.unwrap();
        while listening.stats().handled == 0 {
            starter.publish_bytes(b"go").unwrap();
            tokio::task::yield_now().await;
        }
        let before = listening.stats().handled;
        while listening.stats().handled < before + 1000 {
            tokio::task::yield_now().await;
        }
        listening.stop().await;
    });
}
