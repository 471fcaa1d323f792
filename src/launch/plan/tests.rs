//! Whole launches on a clock that only the tests move.

use super::*;

/// A launch, whose processes do as the test says.
struct Launch {
    plan: Plan,
    now: Instant,
}

fn node(name: &str) -> NodePlan {
    NodePlan {
        name: name.to_owned(),
        number: 1,
        depends_timeout: Duration::from_secs(30),
        ..NodePlan::default()
    }
}

fn on(name: &str) -> Dependency {
    Dependency::Node(name.to_owned())
}

const GRACE: Duration = Duration::from_secs(5);

impl Launch {
    fn new(nodes: Vec<NodePlan>) -> Self {
        let now = Instant::now();
        let plan = Plan::new(nodes, GRACE, 7, now, now);
        Self { plan, now }
    }

    /// What there is to do now, in short: `+a0` is a start, `-a0` an end, `!a0` a kill.
    fn actions(&mut self) -> String {
        let mut text = Vec::new();
        while let Some(action) = self.plan.poll() {
            let show = |sign: &str, unit: Unit, plan: &Plan| {
                format!("{sign}{}{}", plan.nodes[unit.node].plan.name, unit.idx)
            };
            text.push(match action {
                Action::Start(unit) => show("+", unit, &self.plan),
                Action::Terminate(unit) => show("-", unit, &self.plan),
                Action::Kill(unit) => show("!", unit, &self.plan),
                Action::Abandon(unit) => show("?", unit, &self.plan),
                Action::Tell(Told::GaveUp { reasons, .. }) => reasons.join(", "),
                Action::Tell(_) => continue,
            });
        }
        text.join(" ")
    }

    /// Lets time pass up to the next deadline, which must be `ms` from now.
    fn after(&mut self, ms: u64) -> String {
        let deadline = self.plan.deadline().expect("a deadline");
        assert_eq!(deadline, self.now + Duration::from_millis(ms));
        self.now = deadline;
        self.plan.advance(self.now);
        self.actions()
    }

    fn end(&mut self, node: usize, end: End) -> String {
        self.plan.ended(Unit { node, idx: 0 }, end, self.now);
        self.actions()
    }

    fn stop(&mut self) -> String {
        self.plan.stop(self.now);
        self.actions()
    }
}

#[test]
fn nodes_start_in_order_with_rosys_delays() {
    let mut launch = Launch::new(vec![
        NodePlan {
            post_delay: Duration::from_secs(2),
            number: 2,
            ..node("a")
        },
        NodePlan {
            pre_delay: Duration::from_secs(1),
            ..node("b")
        },
        node("c"),
    ]);
    assert_eq!(launch.actions(), "+a0 +a1");
    assert_eq!(launch.after(2000), "");
    assert_eq!(launch.after(1000), "+b0 +c0");
    assert_eq!(launch.plan.deadline(), None);
    assert!(!launch.plan.is_over());
}

#[test]
fn all_that_ended_well_is_success_and_a_failure_is_not() {
    for (end, has_failed) in [
        (End::Code(0), false),
        (End::Code(3), true),
        (End::Signal(11), true),
        (End::NotStarted("no such file".into()), true),
    ] {
        let mut launch = Launch::new(vec![node("a"), node("b")]);
        assert_eq!(launch.actions(), "+a0 +b0");
        assert_eq!(launch.end(0, end), "");
        assert!(!launch.plan.is_over(), "others go on");
        launch.end(1, End::Code(0));
        assert!(launch.plan.is_over());
        assert_eq!(launch.plan.has_failed(), has_failed);
    }
}

/// That there is a publisher is known, but not who it is.
fn on_topic(name: &str) -> Dependency {
    Dependency::Topic(name.to_owned())
}

#[test]
fn who_needs_nobody_ends_at_once_the_last_one_first() {
    let mut launch = Launch::new(vec![node("a"), node("b"), node("c")]);
    launch.actions();
    assert_eq!(launch.end(1, End::Code(0)), "");
    assert_eq!(launch.stop(), "-c0 -a0");
    launch.end(2, End::Signal(15));
    assert!(!launch.plan.is_over());
    launch.end(0, End::Code(1));
    assert!(launch.plan.is_over());
    assert!(!launch.plan.has_failed(), "it ended as it was told to");
}

#[test]
fn who_is_needed_ends_when_those_who_may_need_it_have() {
    let needing = |name: &str, depends_on: Vec<Dependency>| NodePlan {
        depends_on,
        ..node(name)
    };
    let mut launch = Launch::new(vec![
        node("a"),
        NodePlan {
            number: 2,
            ..needing("b", vec![on("a")])
        },
        needing("c", vec![on("b")]),
        needing("d", vec![on("a")]),
        node("e"),
    ]);
    assert_eq!(launch.actions(), "+a0 +e0");
    launch.plan.found(&[on("a"), on("b")], launch.now);
    assert_eq!(launch.actions(), "+b0 +b1 +c0 +d0");
    assert_eq!(launch.stop(), "-d0 -c0 -e0");
    assert_eq!(launch.end(3, End::Code(0)), "");
    assert_eq!(launch.end(2, End::Code(0)), "-b0 -b1");
    assert_eq!(launch.end(4, End::Code(0)), "");
    assert_eq!(launch.end(1, End::Code(0)), "", "one of two");
    let unit = Unit { node: 1, idx: 1 };
    launch.plan.ended(unit, End::Code(0), launch.now);
    assert_eq!(launch.actions(), "-a0");
}

#[test]
fn who_needs_a_topic_may_need_all_that_were_begun_before_it() {
    let mut launch = Launch::new(vec![
        node("a"),
        NodePlan {
            depends_on: vec![on_topic("image")],
            ..node("b")
        },
        NodePlan {
            depends_on: vec![on("no such entry")],
            ..node("c")
        },
    ]);
    assert_eq!(launch.actions(), "+a0");
    launch.plan.found(&[on_topic("image")], launch.now);
    assert_eq!(launch.actions(), "+b0");
    launch.plan.found(&[on("no such entry")], launch.now);
    assert_eq!(launch.actions(), "+c0");
    assert_eq!(launch.stop(), "-c0");
    assert_eq!(launch.end(2, End::Code(0)), "-b0");
    assert_eq!(launch.end(1, End::Code(0)), "-a0");
}

#[test]
fn a_delay_between_nodes_says_that_one_needs_the_other() {
    let mut launch = Launch::new(vec![
        node("a"),
        NodePlan {
            post_delay: Duration::from_secs(1),
            ..node("b")
        },
        node("c"),
        NodePlan {
            pre_delay: Duration::from_secs(1),
            ..node("d")
        },
    ]);
    assert_eq!(launch.actions(), "+a0 +b0");
    assert_eq!(launch.after(1000), "+c0");
    assert_eq!(launch.after(1000), "+d0");
    assert_eq!(launch.stop(), "-d0");
    assert_eq!(launch.end(3, End::Code(0)), "-c0");
    assert_eq!(launch.end(2, End::Code(0)), "-b0 -a0");
}

#[test]
fn stopping_takes_as_long_as_nodes_need_each_other_not_as_there_are_nodes() {
    let mut nodes: Vec<NodePlan> = (0..100).map(|idx| node(&format!("n{idx}"))).collect();
    nodes.push(NodePlan {
        depends_on: vec![on("n0")],
        ..node("last")
    });
    let mut launch = Launch::new(nodes);
    launch.plan.found(&[on("n0")], launch.now);
    launch.actions();
    let began = launch.now;
    launch.stop();
    // Nobody ends before it is killed, and then at once.
    while !launch.plan.is_over() {
        launch.now = launch.plan.deadline().expect("a deadline");
        launch.plan.advance(launch.now);
        while let Some(action) = launch.plan.poll() {
            if let Action::Kill(unit) = action {
                launch.plan.ended(unit, End::Signal(9), launch.now);
            }
        }
    }
    assert_eq!(launch.now - began, 2 * GRACE);
}

#[test]
fn who_does_not_end_is_killed_and_who_cannot_be_is_left() {
    let needing = NodePlan {
        depends_on: vec![on("a")],
        ..node("b")
    };
    let mut launch = Launch::new(vec![node("a"), needing]);
    launch.plan.found(&[on("a")], launch.now);
    launch.actions();
    assert_eq!(launch.stop(), "-b0");
    assert_eq!(launch.after(5000), "!b0");
    assert_eq!(launch.after(LAUNCH_KILL_MS_MAX), "?b0 -a0");
    launch.end(0, End::Code(0));
    assert!(launch.plan.is_over() && launch.plan.has_failed());
}

#[test]
fn the_second_signal_kills_all() {
    let mut launch = Launch::new(vec![node("a"), node("b")]);
    launch.actions();
    assert_eq!(launch.stop(), "-b0 -a0");
    assert_eq!(launch.stop(), "!a0 !b0");
    launch.end(0, End::Signal(9));
    launch.end(1, End::Signal(9));
    assert!(launch.plan.is_over() && !launch.plan.has_failed());
}

#[test]
fn a_stop_in_a_delay_starts_nothing_more() {
    let mut launch = Launch::new(vec![
        node("a"),
        NodePlan {
            pre_delay: Duration::from_secs(60),
            ..node("b")
        },
        NodePlan {
            depends_on: vec![on("z")],
            ..node("c")
        },
    ]);
    assert_eq!(launch.actions(), "+a0");
    assert_eq!(launch.stop(), "-a0");
    launch.end(0, End::Code(0));
    assert!(launch.plan.is_over());
    launch.now += Duration::from_secs(100);
    launch.plan.advance(launch.now);
    launch.plan.found(&[on("z")], launch.now);
    assert_eq!(launch.actions(), "");
}

#[test]
fn pauses_grow_to_a_bound_differ_and_begin_anew_after_health() {
    let always = || NodePlan {
        restart: Restart::OnFailure,
        ..node("a")
    };
    let mut launch = Launch::new(vec![always()]);
    assert_eq!(launch.actions(), "+a0");
    let mut pauses = Vec::new();
    for _ in 0..12 {
        assert_eq!(launch.end(0, End::Code(1)), "");
        let pause = launch.plan.deadline().unwrap() - launch.now;
        pauses.push(pause.as_millis());
        assert_eq!(
            launch.after(u64::try_from(pause.as_millis()).unwrap()),
            "+a0"
        );
    }
    for (idx, pause) in pauses.iter().enumerate() {
        let longest = u128::from((RESTART_MS_MIN << idx).min(RESTART_MS_MAX));
        assert!(*pause <= longest && *pause >= longest / 2 - 1, "{pauses:?}");
    }
    let last: std::collections::BTreeSet<_> = pauses[8..].iter().collect();
    assert!(last.len() > 1, "left to chance: {pauses:?}");
    launch.now += Duration::from_millis(HEALTHY_MS);
    launch.end(0, End::Code(1));
    let pause = launch.plan.deadline().unwrap() - launch.now;
    assert!(pause <= Duration::from_millis(RESTART_MS_MIN));
    // A stop ends a pause, and an end that is no failure ends the node.
    assert_eq!(launch.stop(), "");
    assert!(launch.plan.is_over());
    let mut launch = Launch::new(vec![always()]);
    launch.end(0, End::Code(0));
    assert!(launch.plan.is_over() && !launch.plan.has_failed());
}

#[test]
fn always_means_after_success_too_but_not_after_a_stop() {
    let mut launch = Launch::new(vec![NodePlan {
        restart: Restart::Always,
        ..node("a")
    }]);
    launch.actions();
    launch.end(0, End::Code(0));
    let pause = launch.plan.deadline().unwrap() - launch.now;
    assert_eq!(
        launch.after(u64::try_from(pause.as_millis()).unwrap()),
        "+a0"
    );
    assert_eq!(launch.stop(), "-a0");
    launch.end(0, End::Code(0));
    assert!(launch.plan.is_over());
}

#[test]
fn who_depends_waits_by_itself_and_starts_when_all_is_there() {
    let topic = Dependency::Topic("pose".into());
    let mut launch = Launch::new(vec![
        NodePlan {
            depends_on: vec![on("b"), topic.clone()],
            pre_delay: Duration::from_secs(1),
            ..node("a")
        },
        node("b"),
    ]);
    assert_eq!(launch.actions(), "+b0");
    assert_eq!(launch.plan.wanted(), [on("b"), topic.clone()]);
    launch.plan.found(&[on("b")], launch.now);
    assert_eq!(launch.actions(), "");
    launch.plan.found(&[topic, on("b")], launch.now);
    assert_eq!(launch.after(1000), "+a0");
    assert!(launch.plan.wanted().is_empty());
    // It was started last, so it is stopped first.
    assert_eq!(launch.stop(), "-a0");
}

#[test]
fn what_does_not_come_in_time_is_named_with_what_is_known_of_it() {
    let depending = |name: &str, dependency| NodePlan {
        depends_on: vec![dependency],
        ..node(name)
    };
    let mut launch = Launch::new(vec![
        depending("a", on("b")),
        node("b"),
        depending("c", Dependency::Topic("pose".into())),
        depending("d", Dependency::Service("plan".into())),
        depending("e", on("elsewhere")),
    ]);
    assert_eq!(launch.actions(), "+b0");
    launch.now += Duration::from_secs(30);
    launch.plan.found(&[on("elsewhere")], launch.now);
    let said = launch.actions();
    assert!(
        said.contains("node `b` is not in the mesh: its process runs"),
        "{said}"
    );
    assert!(said.contains("topic `pose` has no publisher"), "{said}");
    assert!(said.contains("service `plan` has no provider"), "{said}");
    assert!(said.contains("+e0"), "{said}");
    launch.end(1, End::Code(0));
    launch.end(4, End::Code(0));
    assert!(launch.plan.is_over() && launch.plan.has_failed());
}

#[test]
fn whatever_happens_what_was_started_is_ended_or_left_and_nothing_is_started_after_a_stop() {
    use proptest::prelude::*;
    proptest!(|(script in proptest::collection::vec((0u8..6, 0usize..4), 0..60))| {
        let nodes = (0usize..4).map(|idx| NodePlan {
            number: 1 + u32::from(idx == 2),
            pre_delay: Duration::from_millis(if idx == 1 { 300 } else { 0 }),
            restart: [Restart::Never, Restart::OnFailure, Restart::Always][idx % 3],
            depends_on: if idx == 3 { vec![on("n1")] } else { Vec::new() },
            ..node(&format!("n{idx}"))
        });
        let mut launch = Launch::new(nodes.collect());
        let mut alive = std::collections::BTreeSet::new();
        let mut is_stopped = false;
        // First nothing, so that what is to be started is.
        for (what, which) in [(2, 0)].into_iter().chain(script).chain([(3, 0), (3, 0)]) {
            match what {
                0 | 1 => if let Some(unit) = alive.iter().nth(which).copied() {
                    alive.remove(&unit);
                    launch.plan.ended(unit, End::Code(i32::from(what)), launch.now);
                },
                2 => launch.plan.found(&[on("n1")], launch.now),
                3 => { launch.plan.stop(launch.now); is_stopped = true; }
                _ => {
                    launch.now += Duration::from_millis(100 << which);
                    launch.plan.advance(launch.now);
                }
            }
            while let Some(action) = launch.plan.poll() {
                match action {
                    Action::Start(unit) => {
                        prop_assert!(!is_stopped, "{unit:?} after a stop");
                        prop_assert!(alive.insert(unit), "{unit:?} twice");
                    }
                    // The fourth depends on the second.
                    Action::Terminate(unit) if unit.node == 1 => {
                        prop_assert!(alive.iter().all(|unit| unit.node != 3), "{alive:?}");
                    }
                    _ => {}
                }
            }
        }
        for unit in alive {
            launch.plan.ended(unit, End::Signal(9), launch.now);
        }
        prop_assert!(launch.plan.is_over());
    });
}
