//! Does what the plan says: starts guards with their processes, hears what becomes of them, prints.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe::Receiver as Pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use super::child::{ChildArgs, KILL, LOOK, TERMINATE};
use super::keeper::Keeper;
use super::mesh::{Entrance, look};
use super::output::{Printer, Style};
use super::show::{end_json, end_text, quoted};
use super::tree::children;
use super::{LaunchArgs, Selection};
use crate::cli::coordinator::bind;
use crate::cli::{Failure, runtime};
use crate::endpoint::lock;
use crate::launch::config::NodeEntry;
use crate::launch::lines::Lines;
use crate::launch::plan::{Action, End, NodePlan, Plan, Told, Unit};
use crate::limits::{LAUNCH_KILL_MS_MAX, LAUNCH_LOOK_MS, LINE_BYTES_MAX};
use crate::name::escaped_path;
use crate::security::{AUTH_KEY_FILE_VARIABLE, AUTH_KEY_VARIABLE};
use crate::{AuthKey, COORDINATOR_VARIABLE, Node};

/// The node's name in the launch file, for its process.
const NAME_VARIABLE: &str = "SHMESH_NAME";
/// Which of the node's processes it is, from 0.
const INDEX_VARIABLE: &str = "SHMESH_INDEX";
/// Reports of guards that may wait.
const REPORTS: usize = 64;
/// What was printed before the end is waited for so long.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a launch to its end.
pub(super) fn run(
    selection: &Selection<'_>,
    args: &LaunchArgs,
    path: &Path,
) -> Result<(), Failure> {
    // Should a guard be killed, what it guarded becomes ours.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut launch = Launch::begin(selection, args, path).await?;
        let signal = launch.drive().await?;
        Ok::<_, Failure>((signal, launch.finish().await))
    })?;
    match outcome {
        (Some(signal), _) => std::process::exit(128 + signal),
        (None, failed) if failed.is_empty() => Ok(()),
        (None, failed) => Err(super::failed(&failed)),
    }
}

/// A process that runs, behind its guard.
struct Running {
    guard: Pid,
    orders: OwnedWriteHalf,
    /// What the guard said became of the process.
    end: Option<End>,
    /// Nothing more is heard of it.
    is_closed: bool,
    /// The guard ended, and so has everything under it.
    is_reaped: bool,
}

/// What a guard says of its process; `None` is its last word.
type Report = (Unit, Pid, Option<String>);

struct Launch<'a> {
    selection: &'a Selection<'a>,
    args: &'a LaunchArgs,
    base: &'a Path,
    plan: Plan,
    running: BTreeMap<Unit, Running>,
    entrance: Entrance,
    observer: Option<Node>,
    /// Why the launcher itself is not in the mesh.
    outside: Option<String>,
    tell: Sender<Report>,
    reports: Receiver<Report>,
    readers: JoinSet<()>,
    printer: Arc<Mutex<Printer>>,
    failed: Vec<String>,
}

impl<'a> Launch<'a> {
    async fn begin(
        selection: &'a Selection<'a>,
        args: &'a LaunchArgs,
        path: &'a Path,
    ) -> Result<Self, Failure> {
        if let Some(dir) = &args.log_dir {
            std::fs::create_dir_all(dir).map_err(|error| {
                Failure::usage(format!("--log-dir {}: {error}", escaped_path(dir)))
            })?;
        }
        let nodes = selection.nodes.iter();
        let names: Vec<String> = nodes.flat_map(|node| labels(node)).collect();
        let mut printer = Printer::start(Style::for_stdout(args.json, &names));
        let entry = selection.coordinator;
        let mut listening = None;
        if selection.has_coordinator {
            let (hosts, port) = selection.listen_at();
            let coordinator = bind(hosts, port).await?;
            let mut coordinator = args.security.secure_coordinator(coordinator)?;
            if let Some(key) = &entry.authkey {
                coordinator = coordinator.with_auth_key(AuthKey::from_text(key.0.as_bytes())?);
            }
            let addresses = coordinator.local_addrs()?;
            let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let event = json!({
                "event": "coordinator", "listening": words[0], "addresses": words,
            });
            let sentence = format!("coordinator listening on {}", words.join(", "));
            printer.note(&event, &sentence);
            listening = addresses.first().copied();
            tokio::spawn(coordinator.run(std::future::pending()));
        }
        let now = Instant::now();
        let begin_at = now + entry.post_delay * u32::from(selection.has_coordinator);
        let plans = selection.nodes.iter().map(|node| node_plan(node)).collect();
        let seed = u64::from_le_bytes(crate::id::random_bytes()?);
        let (tell, reports) = channel(REPORTS);
        Ok(Self {
            selection,
            args,
            base: path.parent().unwrap_or_else(|| Path::new("")),
            plan: Plan::new(plans, args.grace, seed, begin_at, now),
            running: BTreeMap::new(),
            entrance: Entrance {
                coordinator: selection.client_address(listening),
                security: args.security.clone(),
                key: entry.authkey.clone(),
            },
            observer: None,
            outside: None,
            tell,
            reports,
            readers: JoinSet::new(),
            printer: Arc::new(Mutex::new(printer)),
            failed: Vec::new(),
        })
    }

    /// Until all is over. Gives the signal that ended it, if one did.
    async fn drive(&mut self) -> Result<Option<i32>, Failure> {
        let mut ended = signal(SignalKind::child())?;
        let mut keeper = Keeper::new()?;
        let mut has_keeper = true;
        let mut looks = tokio::time::interval(Duration::from_millis(LAUNCH_LOOK_MS));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut joining = JoinSet::new();
        let mut stopped_by = None;
        loop {
            self.act();
            if self.plan.is_over() && self.running.is_empty() {
                self.bury_orphans().await;
                return Ok(stopped_by);
            }
            let is_waiting = !self.plan.wanted().is_empty();
            if !is_waiting {
                // It leaves the mesh.
                self.observer = None;
            } else if self.observer.is_none() && joining.is_empty() {
                joining.spawn(self.entrance.clone().join());
            }
            let deadline = self.plan.deadline();
            let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                _ = ended.recv() => self.reap(),
                Some(report) = self.reports.recv() => self.hear(report),
                Some(joined) = joining.join_next(), if !joining.is_empty() => match joined {
                    Ok(Ok(node)) => (self.observer, self.outside) = (Some(node), None),
                    Ok(Err(error)) => self.outside = Some(error),
                    Err(_) => {}
                },
                _ = looks.tick(), if is_waiting => {
                    let wanted = self.plan.wanted();
                    let observer = self.observer.as_ref();
                    let found = observer.map_or_else(Vec::new, |node| look(node, &wanted));
                    self.plan.found(&found, Instant::now());
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    self.plan.advance(Instant::now());
                }
                told = keeper.recv(), if has_keeper => {
                    has_keeper = told.is_some();
                    if has_keeper || stopped_by.is_none() {
                        self.stop(&mut stopped_by, told.unwrap_or(Signal::TERM.as_raw()));
                    }
                }
            }
        }
    }

    fn stop(&mut self, stopped_by: &mut Option<i32>, signal: i32) {
        let text = if stopped_by.is_some() {
            "killing all"
        } else {
            "ending all, each after those that may need it; once more kills"
        };
        stopped_by.get_or_insert(signal);
        self.note(&json!({"event": "stopping", "signal": signal}), text);
        self.plan.stop(Instant::now());
    }

    fn act(&mut self) {
        while let Some(action) = self.plan.poll() {
            match action {
                Action::Start(unit) => {
                    if let Err(error) = self.start(unit) {
                        let end = End::NotStarted(super::super::full_text(&error.error));
                        self.plan.ended(unit, end, Instant::now());
                    }
                }
                Action::Terminate(unit) => self.order(unit, TERMINATE),
                Action::Kill(unit) => self.order(unit, KILL),
                Action::Abandon(unit) => {
                    let label = self.label(unit);
                    self.running.remove(&unit);
                    self.failed.push(label.clone());
                    let event = json!({"event": "abandoned", "node": label});
                    let text = format!("{label} cannot be killed; the kernel is busy with it");
                    self.note(&event, &text);
                }
                Action::Tell(told) => self.tell(told),
            }
        }
    }

    fn node(&self, unit: Unit) -> &'a NodeEntry {
        self.selection.nodes[unit.node]
    }

    fn label(&self, unit: Unit) -> String {
        let node = self.node(unit);
        labels(node).nth(unit.idx as usize).unwrap_or_default()
    }

    fn start(&mut self, unit: Unit) -> Result<(), Failure> {
        let node = self.node(unit);
        let cwd = node.cwd.as_ref().map(|cwd| self.base.join(cwd));
        let child = ChildArgs::new(&node.command, self.args.grace);
        let child = child.placed(node.priority, &node.cpu, cwd);
        let mut command = child.to_command();
        self.set_environment(&mut command, unit)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        command.stdin(OwnedFd::from(theirs));
        let label = self.label(unit);
        let mut pipes = Vec::new();
        if let Some(dir) = &self.args.log_dir {
            let path = dir.join(format!("{label}.log"));
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|error| anyhow::anyhow!("{}: {error}", escaped_path(&path)))?;
            command.stdout(file.try_clone()?).stderr(file);
        } else {
            let ((out, their_out), (err, their_err)) = (std::io::pipe()?, std::io::pipe()?);
            command.stdout(their_out).stderr(their_err);
            pipes.extend([(OwnedFd::from(out), false), (OwnedFd::from(err), true)]);
        }
        let count = node.number;
        let event = json!({"event": "starting", "node": node.name, "index": unit.idx,
            "command": node.command});
        let which = if count > 1 {
            format!(" ({} of {count})", unit.idx + 1)
        } else {
            String::new()
        };
        let text = format!("starting {}{which}: {}", node.name, quoted(&node.command));
        self.note(&event, &text);
        let guard = Pid::from_child(&command.spawn()?);
        for (pipe, is_error) in pipes {
            let pipe = Pipe::from_owned_fd(pipe)?;
            let printer = Arc::clone(&self.printer);
            let label = label.clone();
            self.readers
                .spawn(read_lines(pipe, printer, unit.node, label, is_error));
        }
        ours.set_nonblocking(true)?;
        let (reports, orders) = UnixStream::from_std(ours)?.into_split();
        let tell = self.tell.clone();
        self.readers.spawn(async move {
            // A guard says a few words; an error may be long, but not without bound.
            let mut lines = BufReader::new(reports.take(LINE_BYTES_MAX as u64)).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = tell.send((unit, guard, Some(line))).await;
            }
            let _ = tell.send((unit, guard, None)).await;
        });
        let running = Running {
            guard,
            orders,
            end: None,
            is_closed: false,
            is_reaped: false,
        };
        self.running.insert(unit, running);
        Ok(())
    }

    /// The mesh and its key go to the processes by their environment, where others cannot see them.
    fn set_environment(&self, command: &mut Command, unit: Unit) -> std::io::Result<()> {
        let node = self.node(unit);
        if let Some(address) = &self.entrance.coordinator {
            command.env(COORDINATOR_VARIABLE, address);
        }
        self.args.security.hand_on(command)?;
        if let Some(key) = &self.entrance.key {
            command.env_remove(AUTH_KEY_FILE_VARIABLE);
            command.env(AUTH_KEY_VARIABLE, key.0.as_str());
        }
        command.env(NAME_VARIABLE, &node.name);
        command.env(INDEX_VARIABLE, unit.idx.to_string());
        for (name, value) in &node.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Ok(())
    }

    fn order(&mut self, unit: Unit, order: u8) {
        let label = self.label(unit);
        if order == KILL {
            let event = json!({"event": "killing", "node": label});
            self.note(&event, &format!("killing {label}"));
        }
        if let Some(running) = self.running.get(&unit) {
            // Fails only where the guard is gone, and then it is reaped.
            let _ = running.orders.try_write(&[order]);
        }
    }

    /// A word of a guard.
    fn hear(&mut self, (unit, guard, word): Report) {
        let label = self.label(unit);
        let Some(running) = self.running.get_mut(&unit) else {
            return;
        };
        if running.guard != guard {
            return;
        }
        let Some(word) = word else {
            running.is_closed = true;
            return self.settle(unit);
        };
        let (kind, rest) = word.split_once(' ').unwrap_or((&word, ""));
        match (kind, rest.parse::<i32>()) {
            ("code", Ok(code)) => running.end = Some(End::Code(code)),
            ("signal", Ok(number)) => running.end = Some(End::Signal(number)),
            ("failed", _) => running.end = Some(End::NotStarted(rest.to_owned())),
            ("started", Ok(pid)) => {
                let event = json!({"event": "started", "node": label, "pid": pid});
                self.note(&event, &format!("started {label}, process {pid}"));
            }
            _ => {}
        }
    }

    /// Buries what has ended: guards, and what was theirs if they did not do it.
    fn reap(&mut self) {
        while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
            let found = self.running.iter_mut().find(|(_, one)| one.guard == pid);
            let unit = found.map(|(unit, running)| {
                running.is_reaped = true;
                *unit
            });
            if let Some(unit) = unit {
                self.settle(unit);
            }
        }
        self.kill_orphans();
    }

    /// Whatever is our child and no guard was left by a guard that was killed.
    fn kill_orphans(&self) {
        for pid in children() {
            if self.running.values().all(|running| running.guard != pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Those of an orphan that is killed become ours in turn: nobody may be left at the end, but
    /// for whom the kernel cannot end.
    async fn bury_orphans(&mut self) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(LAUNCH_KILL_MS_MAX) {
            self.reap();
            if children().is_empty() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A process is over when its guard is, and all it said was heard.
    fn settle(&mut self, unit: Unit) {
        let is_over = |running: &Running| running.is_closed && running.is_reaped;
        if self.running.get(&unit).is_none_or(|one| !is_over(one)) {
            return;
        }
        let running = self.running.remove(&unit);
        let end = running.and_then(|running| running.end);
        // A guard that said nothing was killed itself.
        let end = end.unwrap_or(End::Signal(Signal::KILL.as_raw()));
        self.plan.ended(unit, end, Instant::now());
    }

    fn tell(&mut self, told: Told) {
        match told {
            Told::Waits { node, missing } => {
                let name = &self.selection.nodes[node].name;
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                let event = json!({"event": "waiting", "node": name, "for": missing});
                self.note(&event, &format!("{name} waits for {}", missing.join(", ")));
            }
            Told::GaveUp { node, mut reasons } => {
                let name = self.selection.nodes[node].name.clone();
                let after = self.selection.nodes[node].depends_timeout.as_secs_f64();
                if self.observer.is_none() {
                    reasons.push(format!(
                        "the launcher is not in the mesh: {}",
                        self.outside()
                    ));
                }
                let event = json!({"event": "gave_up", "node": name, "reasons": reasons});
                let reasons = reasons.join("; ");
                let text = format!("{name} is not started: after {after} s {reasons}");
                self.note(&event, &text);
                self.failed.push(name);
            }
            Told::Ended {
                unit,
                end,
                again,
                was_asked,
            } => {
                let label = self.label(unit);
                let pause = again.map(|pause| pause.as_secs_f64());
                let event = json!({"event": "ended", "node": label, "end": end_json(&end),
                    "restart_in_s": pause});
                let more = pause.map(|s| format!("; started again in {s:.1} s"));
                let text = format!("{label} {}{}", end_text(&end), more.unwrap_or_default());
                self.note(&event, &text);
                if end != End::Code(0) && again.is_none() && !was_asked {
                    self.failed.push(label);
                }
            }
        }
    }

    /// Why the launcher is not in the mesh.
    fn outside(&self) -> String {
        let address = self.entrance.coordinator.as_deref();
        let address = address.unwrap_or("the coordinator of the environment");
        let silent = || format!("{address} has not answered yet");
        self.outside.clone().unwrap_or_else(silent)
    }

    fn note(&self, event: &serde_json::Value, text: &str) {
        lock(&self.printer).note(event, text);
    }

    /// Lets all be read and written that was said. Gives the names of what failed.
    async fn finish(mut self) -> Vec<String> {
        let all_read = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, all_read).await;
        let event = json!({"event": "over", "failed": self.failed});
        let mut printer = lock(&self.printer);
        printer.note(&event, "all have ended");
        printer.finish(LAST_WORDS);
        drop(printer);
        debug_assert_eq!(self.plan.has_failed(), !self.failed.is_empty());
        self.failed
    }
}

/// A name for each of a node's processes.
fn labels(node: &NodeEntry) -> impl Iterator<Item = String> + '_ {
    (0..node.number).map(|idx| match node.number {
        1 => node.name.clone(),
        _ => format!("{}-{idx}", node.name),
    })
}

fn node_plan(node: &NodeEntry) -> NodePlan {
    NodePlan {
        name: node.name.clone(),
        number: node.number,
        pre_delay: node.pre_delay,
        post_delay: node.post_delay,
        restart: node.restart,
        depends_on: node.depends_on.clone(),
        depends_timeout: node.depends_timeout,
    }
}

async fn read_lines(
    mut pipe: Pipe,
    printer: Arc<Mutex<Printer>>,
    colour: usize,
    label: String,
    is_error: bool,
) {
    let mut lines = Lines::default();
    let mut bytes = vec![0; LINE_BYTES_MAX];
    while let Ok(count @ 1..) = pipe.read(&mut bytes).await {
        let mut printer = lock(&printer);
        let give = |line: &[u8]| printer.line(colour, &label, line, is_error);
        lines.push(&bytes[..count], give);
    }
    let mut printer = lock(&printer);
    lines.finish(|line| printer.line(colour, &label, line, is_error));
}
