//! How a launch ends, and that nothing is left of it, whatever was killed.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{GOOD, Launch, PARENT, STUBBORN};

#[test]
fn ctrl_c_ends_each_after_those_that_may_need_it() {
    // A delay says that one needs another.
    let nodes = format!(
        "  one: {{command: {GOOD}, post_delay: 0.01}}\n  two: {{command: {GOOD}}}\n  \
         three: {{command: {PARENT}, pre_delay: 0.01}}\n"
    );
    let file = format!("coordinator: {{port: 0}}\nnodes:\n{nodes}");
    let mut launch = Launch::start_with(&file, &["--grace", "0.2"]);
    for node in ["one", "two", "three"] {
        launch.await_line(node, "ready");
    }
    launch.signal(Signal::INT);
    let ended: Vec<Value> = (0..3)
        .map(|_| launch.await_event("ended", "")["node"].clone())
        .collect();
    assert_eq!(ended, ["three", "two", "one"]);
    assert_eq!(launch.end(), Some(130));
    launch.assert_nobody_is_left();
}

#[test]
fn nodes_that_need_nobody_are_told_to_end_at_the_same_time() {
    let slow = r#"[sh, -c, "trap 'echo told' TERM; echo ready; while :; do sleep 0.05; done"]"#;
    let nodes = format!("  one: {{command: {slow}}}\n  two: {{command: {slow}}}\n");
    let file = format!("coordinator: {{port: 0}}\nnodes:\n{nodes}");
    let mut launch = Launch::start_with(&file, &["--grace", "1000"]);
    for node in ["one", "two"] {
        launch.await_line(node, "ready");
    }
    launch.signal(Signal::INT);
    for node in ["two", "one"] {
        launch.await_line(node, "told");
    }
    assert_eq!(
        launch.count("ended", "one") + launch.count("ended", "two"),
        0
    );
    launch.signal(Signal::INT);
    assert_eq!(launch.end(), Some(130));
    launch.assert_nobody_is_left();
}

#[test]
fn ctrl_c_in_a_delay_starts_nothing_more() {
    let mut launch = Launch::start(&format!(
        "  one: {{command: {GOOD}}}\n  two: {{command: {GOOD}, pre_delay: 1000}}\n"
    ));
    launch.await_line("one", "ready");
    launch.signal(Signal::INT);
    assert_eq!(launch.end(), Some(130));
    assert_eq!(launch.count("starting", "two"), 0);
    launch.assert_nobody_is_left();
}

#[test]
fn who_ignores_sigterm_is_killed_after_the_grace_period_or_at_the_second_signal() {
    let nodes = format!("  one: {{command: {STUBBORN}}}\n");
    for (grace, signals) in [("0.1", 1), ("1000", 2)] {
        let file = format!("coordinator: {{port: 0}}\nnodes:\n{nodes}");
        let mut launch = Launch::start_with(&file, &["--grace", grace]);
        launch.await_line("one", "ready");
        for _ in 0..signals {
            launch.signal(Signal::INT);
            launch.await_event("stopping", "");
        }
        let end = launch.await_event("ended", "one")["end"].clone();
        assert_eq!(end["signal"], 9, "{end}");
        assert_eq!(launch.end(), Some(130));
        launch.assert_nobody_is_left();
    }
}

#[test]
fn what_a_process_leaves_behind_ends_with_it() {
    let command = PARENT.replace(" ; wait", " ; sleep 0.2");
    let file = format!("coordinator: {{port: 0}}\nnodes:\n  one: {{command: {command}}}\n");
    let mut launch = Launch::start_with(&file, &["--grace", "0.2"]);
    assert_eq!(launch.end(), Some(0));
    launch.assert_nobody_is_left();
}

/// Those that stand above a node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Above {
    Keeper,
    Launcher,
    Guards,
}

/// Kills these at the same time, as far as the others can tell.
fn kill(launch: &Launch, victims: &[Above]) {
    let survivors = launch.survivors();
    let pids = survivors.iter().filter(|(_, command)| {
        let of_whom = if command.contains(" launch-child ") {
            Above::Guards
        } else if command.contains(" launch --kept ") {
            Above::Launcher
        } else if command.contains(" launch ") {
            Above::Keeper
        } else {
            return false;
        };
        victims.contains(&of_whom)
    });
    let pids: Vec<Pid> = pids.map(|(pid, _)| Pid::from_raw(*pid).unwrap()).collect();
    assert!(pids.len() >= victims.len(), "{survivors:#?}");
    // Stopped first, so that none can do anything in between.
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in &pids {
            kill_process(*pid, signal).unwrap();
        }
    }
}

const NODES: &str = "  two: {command: STUBBORN}\n  three: {command: GOOD, pre_delay: 1000}\n";

#[test]
fn kill_9_of_any_two_of_keeper_launcher_and_guards_leaves_no_process() {
    use Above::{Guards, Keeper, Launcher};
    let nodes = NODES.replace("STUBBORN", STUBBORN).replace("GOOD", GOOD);
    let file = format!(
        "coordinator: {{port: 0}}\nnodes:\n  one: {{command: {PARENT}, number: 2}}\n{nodes}"
    );
    for victims in [
        &[Keeper][..],
        &[Launcher],
        &[Guards],
        &[Keeper, Launcher],
        &[Keeper, Guards],
        &[Launcher, Guards],
    ] {
        let mut launch = Launch::start_with(&file, &["--grace", "0.2"]);
        for node in ["one-0", "one-1", "two"] {
            launch.await_line(node, "ready");
        }
        kill(&launch, victims);
        if victims == [Guards] {
            for _ in 0..3 {
                launch.await_event("ended", "");
            }
            launch.signal(Signal::INT);
        }
        let expected = match victims {
            [Guards] => Some(130),
            _ if victims.contains(&Keeper) => None,
            _ => Some(1),
        };
        assert_eq!(launch.end(), expected, "{victims:?}");
        launch.assert_nobody_is_left();
    }
}

#[test]
fn the_process_itself_outlives_not_even_all_being_killed() {
    let mut launch = Launch::start(&format!("  one: {{command: {GOOD}}}\n"));
    launch.await_line("one", "ready");
    kill(&launch, &[Above::Keeper, Above::Launcher, Above::Guards]);
    launch.end();
    launch.assert_nobody_is_left();
}

#[test]
fn a_signal_that_comes_to_all_of_a_service_counts_once() {
    let mut launch = Launch::start(&format!("  one: {{command: {STUBBORN}}}\n"));
    launch.await_line("one", "ready");
    for (pid, command) in launch.survivors() {
        if command.contains(" launch ") {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        }
    }
    launch.await_event("stopping", "");
    launch.signal(Signal::TERM);
    launch.await_event("stopping", "");
    assert_eq!(launch.end(), Some(143));
    let words = launch.heard.iter();
    let words = words.filter(|event| event["event"] == "stopping").count();
    assert_eq!(words, 2, "one for each of the two times");
    launch.assert_nobody_is_left();
}
