//! A process is killed between any two of its steps, and hurts nobody.
//!
//! A child is stopped with ptrace just before it does something, goes a number of steps, and is
//! killed; the next child goes some more. A first run counts the steps there are. Where a thread of
//! the engine does the work, a step is a way into or out of the kernel, for only there, and by what
//! the other sweeps cover, do others see anything of it.

use std::time::Duration;

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shmesh::{Publisher, Raw, RecvError, Subscriber};

use crate::support::{Mesh, PATIENCE, Puppet, eventually, is_intact};

/// Points at which a child is killed in each sweep.
const POINTS: u64 = 40;
/// Larger than what travels in a slot.
const LARGE: usize = 300;

#[derive(Clone, Copy)]
enum Step {
    Instruction,
    SystemCall,
}

/// A child one of whose threads is stopped.
struct Stopped {
    child: Puppet,
    thread: Pid,
    step: Step,
}

impl Stopped {
    /// Stops the thread that acts, at the beginning of `order`.
    fn before(mut child: Puppet, order: &str) -> Self {
        let thread = child.ask(&format!("arm {order}")).parse().unwrap();
        let mut stopped = Self::seize(child, thread, Step::Instruction);
        stopped.child.tell("go");
        stopped
    }

    /// Stops the engine's thread, then gives the order.
    fn engine_before(child: Puppet, order: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let is_engine = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "shmesh")
        };
        let engine = tasks.map(|task| task.unwrap().path()).find(is_engine);
        let engine = engine.expect("the engine has a thread");
        let thread = engine.file_name().unwrap().to_str().unwrap();
        let mut stopped = Self::seize(child, thread.parse().unwrap(), Step::SystemCall);
        stopped.child.tell(order);
        stopped
    }

    fn seize(child: Puppet, thread: i32, step: Step) -> Self {
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self {
            child,
            thread,
            step,
        }
    }

    /// Goes one step. False if `is_over` says so meanwhile, or the thread has ended.
    fn go(&mut self, mut is_over: impl FnMut(&mut Puppet) -> bool) -> bool {
        match self.step {
            Step::Instruction => ptrace::step(self.thread, None).unwrap(),
            Step::SystemCall => ptrace::syscall(self.thread, None).unwrap(),
        }
        loop {
            let how = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            match waitpid(self.thread, Some(how)).unwrap() {
                WaitStatus::StillAlive if is_over(&mut self.child) => return false,
                WaitStatus::StillAlive => std::thread::yield_now(),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return false,
                _ => return !is_over(&mut self.child),
            }
        }
    }

    fn kill(self) {
        let id = Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(id, nix::sys::signal::SIGKILL).unwrap();
        if self.thread != id {
            // Its own end is ours to take; until then the process is not gone.
            while waitpid(self.thread, Some(WaitPidFlag::__WALL)).is_ok_and(|status| {
                !matches!(status, WaitStatus::Signaled(..) | WaitStatus::Exited(..))
            }) {}
        }
        self.child.kill();
    }
}

/// Kills a child at each of the points of what `start` makes it do, and lets `check` look what is
/// left. `is_over` says that it is done.
fn sweep(
    mut start: impl FnMut() -> Stopped,
    mut is_over: impl FnMut(&mut Puppet) -> bool,
    mut check: impl FnMut(u64),
) {
    let mut whole = start();
    let mut steps = 0;
    while whole.go(&mut is_over) {
        steps += 1;
    }
    whole.kill();
    check(steps);
    println!("{steps} steps");
    assert!(steps > POINTS, "{steps} steps");
    for point in 0..POINTS {
        let mut stopped = start();
        for _ in 0..point * steps / POINTS {
            if !stopped.go(&mut is_over) {
                break;
            }
        }
        stopped.kill();
        check(point);
    }
}

fn has_answered(child: &mut Puppet) -> bool {
    child.answer_now().is_some()
}

/// Takes what the dead one left: its `whole` messages from before, perhaps one more, none torn.
fn must_have(subscriber: &mut Subscriber<Raw>, whole: u64, point: u64) {
    eventually("the publisher is gone", || {
        subscriber.publisher_count() == 0
    });
    let mut received = 0;
    loop {
        match subscriber.recv_blocking(Duration::ZERO) {
            Ok(sample) => {
                assert_eq!((sample.sequence(), sample.lost_before()), (received, 0));
                assert!(is_intact(&sample, received), "torn at point {point}");
                received += 1;
            }
            Err(RecvError::Timeout { .. }) => break,
            Err(error) => panic!("{error} at point {point}"),
        }
    }
    assert!(
        (whole..=whole + 1).contains(&received),
        "{received} received at point {point}"
    );
}

fn publisher_is_killed_anywhere(size: usize) {
    let mesh = Mesh::start();
    let node = mesh.node("listener");
    let subscribe = || node.subscriber::<Raw>("t").build().unwrap();
    let subscriber = std::cell::RefCell::new(subscribe());
    let start = || {
        let mut child = mesh.child("far");
        assert_eq!(child.ask("pub t 10000000"), "ok");
        assert_eq!(child.ask("heard"), "ok");
        assert_eq!(child.ask(&format!("send 3 {size}")), "sent 3 refused 0");
        assert_eq!(child.ask(&format!("prepare {size}")), "ok");
        Stopped::before(child, "push")
    };
    sweep(start, has_answered, |point| {
        let mut subscriber = subscriber.borrow_mut();
        must_have(&mut subscriber, 3, point);
        *subscriber = subscribe();
    });
}

#[test]
fn a_publisher_killed_at_any_instruction_leaves_whole_messages() {
    publisher_is_killed_anywhere(40);
}

#[test]
fn a_publisher_killed_at_any_instruction_leaves_whole_large_messages() {
    publisher_is_killed_anywhere(LARGE);
}

/// A publisher whose memory is enough for a few chunks: one that is lost for ever is missed.
fn narrow(mesh: &Mesh) -> Publisher<Raw> {
    let node = mesh.node("narrow");
    let publisher = node.publisher::<Raw>("t").arena_bytes_max(4096);
    publisher.build().unwrap()
}

/// Sends as many large messages as there is memory for, twice.
fn must_have_all_memory(publisher: &mut Publisher<Raw>, chunks: usize) {
    eventually("the subscriber is gone", || publisher.listener_count() == 0);
    publisher.publish_bytes(&[1; LARGE]).unwrap();
    let loans: Vec<_> = (0..chunks)
        .map(|_| publisher.loan(LARGE).unwrap())
        .collect();
    assert!(publisher.loan(LARGE).is_err(), "the memory is narrow");
    drop(loans);
}

fn subscriber_is_killed_anywhere(prepare: &[&str], order: &str) {
    let mesh = Mesh::start();
    let publisher = std::cell::RefCell::new(narrow(&mesh));
    let mut loans = Vec::new();
    while let Ok(loan) = publisher.borrow_mut().loan(LARGE) {
        loans.push(loan);
    }
    let chunks = loans.len();
    assert!(chunks > 4);
    drop(loans);
    let start = || {
        let mut child = mesh.child("far");
        assert_eq!(child.ask("sub t keep 4 4"), "ok");
        let mut publisher = publisher.borrow_mut();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for _ in 0..4 {
            publisher.publish_bytes(&[1; LARGE]).unwrap();
        }
        for order in prepare {
            let answer = child.ask(order);
            assert!(!answer.contains("error"), "{answer}");
        }
        Stopped::before(child, order)
    };
    sweep(start, has_answered, |_| {
        must_have_all_memory(&mut publisher.borrow_mut(), chunks);
    });
}

#[test]
fn a_subscriber_killed_at_any_instruction_of_a_receive_keeps_nothing() {
    subscriber_is_killed_anywhere(&[], "take");
}

#[test]
fn a_subscriber_killed_at_any_instruction_of_a_release_keeps_nothing() {
    subscriber_is_killed_anywhere(&["hold 3"], "release");
}

#[test]
fn a_subscriber_killed_anywhere_in_attaching_leaves_its_publisher_well() {
    let mesh = Mesh::start();
    let publisher = std::cell::RefCell::new(mesh.child("steady"));
    let ask = |order: &str| publisher.borrow_mut().ask(order);
    assert_eq!(ask("pub t 10000000"), "ok");
    let size = LARGE;
    assert_eq!(ask(&format!("send 1 {size}")), "sent 1 refused 0");
    let open = ask("descriptors");
    let start = || {
        let mut child = mesh.child("far");
        // Linked already, so that what is swept is the channel.
        assert_eq!(child.ask("sub other keep 4 4"), "ok");
        Stopped::engine_before(child, "sub t 1 4 4")
    };
    let is_attached = |_: &mut Puppet| publisher.borrow_mut().ask("listeners") == "1";
    sweep(start, is_attached, |_| {
        let mut publisher = publisher.borrow_mut();
        assert_eq!(publisher.ask("alone"), "ok");
        // Its links to the dead are gone, too, once it has taken in the news.
        eventually("as many descriptors as before", || {
            let sent = publisher.ask(&format!("send 1 {size}"));
            assert!(sent.ends_with("refused 0"), "{sent}");
            publisher.ask("descriptors") == open
        });
    });
}

#[test]
fn a_node_killed_anywhere_in_its_making_is_in_nobodys_way() {
    let mesh = Mesh::start();
    let dir = mesh.dir.path().display().to_string();
    let start = || {
        let child = Puppet::spawn(&mut Puppet::command());
        let mut stopped = Stopped::before(child, &format!("node far {} {dir}", mesh.address));
        stopped.step = Step::SystemCall;
        stopped
    };
    sweep(start, has_answered, |point| {
        let node = mesh.node("next");
        let mut subscriber = node.subscriber::<Raw>("t").build().unwrap();
        let mut publisher = node.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        publisher.publish_bytes(b"well").unwrap();
        let sample = subscriber.recv_blocking(PATIENCE).unwrap();
        assert_eq!(&*sample, b"well", "point {point}");
    });
    // What is left is at most the sockets of those killed while they made them, which the next
    // start takes away once they are ten seconds old.
    let left = std::fs::read_dir(mesh.dir.path()).unwrap().count();
    assert!(left as u64 <= POINTS / 2, "{left} left");
}
