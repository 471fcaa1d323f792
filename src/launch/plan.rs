//! What to start, to stop and to start again, and when. Events and the time in, actions out.
//!
//! Nodes are started in the order of the file, as rosy does it: the delays of one hold up those
//! after it. A node that depends on others leaves that row: it waits by itself, and holds up
//! nobody. Stopping goes the other way round: each node is told to end when those that may need it
//! have ended, and killed after the grace period.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::order::Order;
use super::config::{Dependency, Restart};
use crate::limits::{HEALTHY_MS, LAUNCH_KILL_MS_MAX, RESTART_MS_MAX, RESTART_MS_MIN};

mod order;

/// What the plan knows of a node of the launch file.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    /// Processes.
    pub(crate) number: u32,
    pub(crate) pre_delay: Duration,
    pub(crate) post_delay: Duration,
    pub(crate) restart: Restart,
    pub(crate) depends_on: Vec<Dependency>,
    pub(crate) depends_timeout: Duration,
}

/// A process: which one of which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Unit {
    pub(crate) node: usize,
    pub(crate) idx: u32,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
    /// It could not be started, and why.
    NotStarted(String),
}

/// What to do, and what to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start(Unit),
    /// Tell it to end.
    Terminate(Unit),
    Kill(Unit),
    /// It cannot be killed: nobody waits for it any more.
    Abandon(Unit),
    Tell(Told),
}

/// For people and programs that watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A node is not started before these are there.
    Waits {
        node: usize,
        missing: Vec<Dependency>,
    },
    /// They did not come in time: why, for each.
    GaveUp { node: usize, reasons: Vec<String> },
    /// A process ended, and is started again, after a pause, or never.
    Ended {
        unit: Unit,
        end: End,
        again: Option<Duration>,
        was_asked: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Its turn has not come.
    Ahead,
    Waiting {
        until: Instant,
    },
    Delayed {
        until: Instant,
    },
    Begun,
    /// It is not started any more.
    Dropped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Running { since: Instant },
    Pausing { until: Instant },
    Ending { kill_at: Instant },
    Killed { abandon_at: Instant },
    Over,
}

#[derive(Debug)]
struct Process {
    state: State,
    /// Failures in a row.
    failures: u32,
}

#[derive(Debug)]
struct Node {
    plan: NodePlan,
    phase: Phase,
    processes: Vec<Process>,
    last_end: Option<End>,
}

/// The state of a launch.
#[derive(Debug)]
pub(crate) struct Plan {
    nodes: Vec<Node>,
    /// The next node in the row, and when its turn comes.
    turn: usize,
    turn_at: Instant,
    /// Nodes in the order in which they were first started.
    begun: Vec<usize>,
    order: Order,
    grace: Duration,
    dice: u64,
    is_stopping: bool,
    has_failed: bool,
    actions: VecDeque<Action>,
}

impl Plan {
    /// The first node's turn comes at `begin_at`. `seed` is for pauses that differ from launch to
    /// launch.
    pub(crate) fn new(
        nodes: Vec<NodePlan>,
        grace: Duration,
        seed: u64,
        begin_at: Instant,
        now: Instant,
    ) -> Self {
        let order = Order::new(&nodes);
        let nodes = nodes.into_iter().map(|plan| Node {
            phase: Phase::Ahead,
            processes: (0..plan.number).map(|_| Process::new()).collect(),
            plan,
            last_end: None,
        });
        let mut made = Self {
            nodes: nodes.collect(),
            turn: 0,
            turn_at: begin_at,
            begun: Vec::new(),
            order,
            grace,
            dice: seed | 1,
            is_stopping: false,
            has_failed: false,
            actions: VecDeque::new(),
        };
        made.advance(now);
        made
    }

    /// The next thing to do.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`advance`](Self::advance) if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let row = (!self.is_stopping && self.turn < self.nodes.len()).then_some(self.turn_at);
        let phases = self.nodes.iter().filter_map(|node| match node.phase {
            Phase::Waiting { until } | Phase::Delayed { until } => Some(until),
            _ => None,
        });
        let processes = self.nodes.iter().flat_map(|node| &node.processes);
        let states = processes.filter_map(|process| match process.state {
            State::Pausing { until } => Some(until),
            State::Ending { kill_at } => Some(kill_at),
            State::Killed { abandon_at } => Some(abandon_at),
            _ => None,
        });
        row.into_iter().chain(phases).chain(states).min()
    }

    /// True when nothing runs and nothing will be started.
    pub(crate) fn is_over(&self) -> bool {
        let is_row_over = self.is_stopping || self.turn >= self.nodes.len();
        is_row_over && self.nodes.iter().all(Node::is_over)
    }

    /// True if a process failed for good, or what a node depends on did not come.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// What to look for in the mesh.
    pub(crate) fn wanted(&self) -> Vec<Dependency> {
        let waiting = self.nodes.iter().filter(|node| node.is_waiting());
        let mut wanted: Vec<_> = waiting
            .flat_map(|node| node.plan.depends_on.clone())
            .collect();
        wanted.sort();
        wanted.dedup();
        wanted
    }

    /// What of it was found there.
    pub(crate) fn found(&mut self, there: &[Dependency], now: Instant) {
        for node in self.nodes.iter_mut().filter(|node| node.is_waiting()) {
            if node.plan.depends_on.iter().all(|one| there.contains(one)) {
                let until = now + node.plan.pre_delay;
                node.phase = Phase::Delayed { until };
            }
        }
        self.advance(now);
        for idx in 0..self.nodes.len() {
            if matches!(self.nodes[idx].phase, Phase::Waiting { until } if until <= now) {
                self.give_up(idx, there);
            }
        }
    }

    /// A process ended, or could not be started.
    pub(crate) fn ended(&mut self, unit: Unit, end: End, now: Instant) {
        let node = &mut self.nodes[unit.node];
        let process = &mut node.processes[unit.idx as usize];
        let was_asked = !matches!(process.state, State::Running { .. });
        let has_failed = end != End::Code(0);
        let is_again = match node.plan.restart {
            Restart::Never => false,
            Restart::OnFailure => has_failed,
            Restart::Always => true,
        };
        let mut again = None;
        if is_again && !was_asked && !self.is_stopping {
            let pause = pause(process, now, &mut self.dice);
            process.state = State::Pausing { until: now + pause };
            again = Some(pause);
        } else {
            process.state = State::Over;
            self.has_failed |= has_failed && !was_asked;
        }
        node.last_end = Some(end.clone());
        self.tell(Told::Ended {
            unit,
            end,
            again,
            was_asked,
        });
        self.advance(now);
    }

    /// Stops all, who needs others before them. The second time, kills what is left.
    pub(crate) fn stop(&mut self, now: Instant) {
        if self.is_stopping {
            for (node, idx) in self.units() {
                self.kill(Unit { node, idx }, now);
            }
            return;
        }
        self.is_stopping = true;
        for node in &mut self.nodes {
            if node.phase != Phase::Begun {
                node.phase = Phase::Dropped;
            }
            for process in &mut node.processes {
                if matches!(process.state, State::Idle | State::Pausing { .. }) {
                    process.state = State::Over;
                }
            }
        }
        self.advance(now);
    }

    /// Does what the time has come for.
    pub(crate) fn advance(&mut self, now: Instant) {
        for (node, idx) in self.units() {
            self.advance_process(Unit { node, idx }, now);
        }
        if self.is_stopping {
            self.stop_next(now);
            return;
        }
        while self.turn < self.nodes.len() && self.turn_at <= now {
            self.take_turn(now);
        }
        for idx in 0..self.nodes.len() {
            if matches!(self.nodes[idx].phase, Phase::Delayed { until } if until <= now) {
                self.begin(idx, now);
            }
        }
    }

    fn units(&self) -> Vec<(usize, u32)> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .flat_map(|(idx, node)| (0..node.plan.number).map(move |process| (idx, process)))
            .collect()
    }

    /// The row: the delay before a node, then the node and the delay after it.
    fn take_turn(&mut self, now: Instant) {
        let idx = self.turn;
        let node = &mut self.nodes[idx];
        if !node.plan.depends_on.is_empty() {
            let until = now + node.plan.depends_timeout;
            node.phase = Phase::Waiting { until };
            let missing = node.plan.depends_on.clone();
            self.turn += 1;
            self.tell(Told::Waits { node: idx, missing });
        } else if node.phase == Phase::Ahead && !node.plan.pre_delay.is_zero() {
            self.turn_at = now + node.plan.pre_delay;
            node.phase = Phase::Delayed {
                until: self.turn_at,
            };
        } else {
            self.turn_at = now + node.plan.post_delay;
            self.turn += 1;
            self.begin(idx, now);
        }
    }

    fn begin(&mut self, idx: usize, now: Instant) {
        if self.nodes[idx].phase == Phase::Begun {
            return;
        }
        self.nodes[idx].phase = Phase::Begun;
        self.begun.push(idx);
        for process in 0..self.nodes[idx].plan.number {
            let unit = Unit {
                node: idx,
                idx: process,
            };
            self.start(unit, now);
        }
    }

    fn start(&mut self, unit: Unit, now: Instant) {
        self.process(unit).state = State::Running { since: now };
        self.actions.push_back(Action::Start(unit));
    }

    fn advance_process(&mut self, unit: Unit, now: Instant) {
        match self.process(unit).state {
            State::Pausing { until } if until <= now => self.start(unit, now),
            State::Ending { kill_at } if kill_at <= now => self.kill(unit, now),
            State::Killed { abandon_at } if abandon_at <= now => {
                self.process(unit).state = State::Over;
                self.has_failed = true;
                self.actions.push_back(Action::Abandon(unit));
            }
            _ => {}
        }
    }

    fn kill(&mut self, unit: Unit, now: Instant) {
        let process = self.process(unit);
        if matches!(process.state, State::Running { .. } | State::Ending { .. }) {
            let abandon_at = now + Duration::from_millis(LAUNCH_KILL_MS_MAX);
            process.state = State::Killed { abandon_at };
            self.actions.push_back(Action::Kill(unit));
        }
    }

    /// Tells those to end that nobody needs any more, the last one first.
    fn stop_next(&mut self, now: Instant) {
        let mut left: Vec<usize> = Vec::new();
        for idx in std::mem::take(&mut self.begun).into_iter().rev() {
            if self.nodes[idx].is_over() {
                continue;
            }
            let is_needed = || left.iter().any(|later| self.order.may_need(*later, idx));
            if self.nodes[idx].is_running() && !is_needed() {
                self.terminate(idx, now);
            }
            left.push(idx);
        }
        left.reverse();
        self.begun = left;
    }

    fn terminate(&mut self, node: usize, now: Instant) {
        for idx in 0..self.nodes[node].plan.number {
            let unit = Unit { node, idx };
            if matches!(self.process(unit).state, State::Running { .. }) {
                let kill_at = now + self.grace;
                self.process(unit).state = State::Ending { kill_at };
                self.actions.push_back(Action::Terminate(unit));
            }
        }
    }

    fn give_up(&mut self, idx: usize, there: &[Dependency]) {
        let wanted = &self.nodes[idx].plan.depends_on;
        let missing = wanted.iter().filter(|one| !there.contains(one));
        let reasons = missing.map(|one| self.reason(one)).collect();
        self.nodes[idx].phase = Phase::Dropped;
        self.has_failed = true;
        self.tell(Told::GaveUp { node: idx, reasons });
    }

    /// Why something is not there, as far as it is known here.
    fn reason(&self, missing: &Dependency) -> String {
        let what = match missing {
            Dependency::Node(_) => "is not in the mesh",
            Dependency::Topic(_) => "has no publisher",
            Dependency::Service(_) => "has no provider",
        };
        let ours = self
            .nodes
            .iter()
            .find(|node| matches!(missing, Dependency::Node(name) if *name == node.plan.name));
        let more = ours.map_or("", |node| node.condition());
        format!("{missing} {what}{more}")
    }

    fn tell(&mut self, told: Told) {
        self.actions.push_back(Action::Tell(told));
    }

    fn process(&mut self, unit: Unit) -> &mut Process {
        &mut self.nodes[unit.node].processes[unit.idx as usize]
    }
}

impl Node {
    fn is_over(&self) -> bool {
        match self.phase {
            Phase::Dropped => true,
            Phase::Begun => self.processes.iter().all(|one| one.state == State::Over),
            _ => false,
        }
    }

    fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. })
    }

    fn is_running(&self) -> bool {
        let mut processes = self.processes.iter();
        processes.any(|one| matches!(one.state, State::Running { .. }))
    }

    /// Of a node that others wait for.
    fn condition(&self) -> &'static str {
        match (&self.phase, &self.last_end) {
            (Phase::Begun, _) if self.is_running() => {
                ": its process runs, and joined under no such name"
            }
            (Phase::Begun, Some(End::NotStarted(_))) => ": it could not be started",
            (Phase::Begun, Some(End::Code(0))) => ": its process ended",
            (Phase::Begun, Some(_)) => ": its process failed",
            (Phase::Waiting { .. }, _) => ": it waits itself for what it depends on",
            (Phase::Dropped, _) => ": what it depends on did not come",
            _ => ": it is not started yet",
        }
    }
}

impl Process {
    fn new() -> Self {
        Self {
            state: State::Idle,
            failures: 0,
        }
    }
}

/// Twice as long each time, up to a bound, and less by a part that is left to chance, so that what
/// failed together does not come back together. Begins anew after a time of health.
fn pause(process: &mut Process, now: Instant, dice: &mut u64) -> Duration {
    let State::Running { since } = process.state else {
        return Duration::ZERO;
    };
    if now.duration_since(since) >= Duration::from_millis(HEALTHY_MS) {
        process.failures = 0;
    }
    let longest = RESTART_MS_MIN << process.failures.min(16);
    process.failures = process.failures.saturating_add(1);
    let longest = longest.min(RESTART_MS_MAX);
    // Xorshift: good enough for this.
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    Duration::from_millis(longest - *dice % (longest / 2 + 1))
}

#[cfg(test)]
mod tests;
