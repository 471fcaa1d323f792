//! `mesh top`: nodes, topics and services of the mesh, live.
//!
//! It reads the status pages of this host and asks no node of it anything: one that hangs, or is
//! dead, is seen as it is, and one that works is not disturbed. Nodes of other hosts, and those of
//! other users, are asked what they count, through the coordinator.

mod app;
mod beyond;
mod format;
mod model;
mod report;
mod screen;
mod table;
mod view;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::Event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::app::{App, Next};
use self::beyond::Watch;
use self::model::{Model, Seen, State};
use self::screen::Screen;
use self::view::Paint;
use super::metrics::{Page, pages};
use super::reach::ReachArgs;
use super::show::document;
use super::signals::Ends;
use super::time::{self, Time};
use super::{Failure, is_colourless, runtime};
use crate::limits::{TOP_INTERVAL_MS_MAX, TOP_INTERVAL_MS_MIN};
use crate::metrics::Told;
use crate::topology::NodeInfo;

/// Watch nodes, topics and services of the mesh: rates, latencies, losses, memory.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh top                              watch this computer
  mesh top --interval 0.2               five times a second
  mesh top --coordinator robot-1        this computer and the mesh of another one
  mesh top --once | grep camera         print tables, and end
  mesh top --json | jq '.topics[] | select(.lost_per_s > 0)'
                                        what is losing messages now
  mesh top --json | jq '.services[] | {service, p99: .callers.latency.p99_s}'
                                        how long calls take

Keys: arrows j k move, Tab topics, nodes or services, Enter look into one, Esc back, s next order,
S reverse, / filter, p pause, q or Ctrl-C quit, ? help.

Columns: P50, P99 and MAX are latencies between the two readings: of messages from sending to
receiving, of calls from their start to the reply; SERVE50 and so on from taking a request to
answering it. They are measured of all that come slowly, of about a thousand a second of those that
come faster (one in 256 at least), and are at most a sixteenth off. '-' where nothing was measured,
publishers do not stamp, or messages come from another host: its clock is another one. Messages of
a history count with their age.
LOST is what subscribers lost (a publisher's own count where none of them is known to count).
FILL is the fullest subscriber: messages that wait, of those there is room for.
ARENA is payload memory of publishers in bytes, HELD large messages that subscribers keep.
What a subscription to several topics receives is with each of them, and with its pattern.
FAILED calls are all but those that were answered or given up by who called.
States: live, stopped (by a signal), dead (its page is left), far (another host), unseen (this host,
but another user's or without a page). Those that are far or unseen are asked through the
coordinator, at most five times a second; '-' where one does not answer. '-' is what is not known:
rates need two readings.

Without a coordinator this host is shown, the last line says so, and in JSON .coordinator.reached.
Ends at q, Ctrl-C or SIGTERM. Exit codes: 0 ended so, 1 no terminal to draw on, 2 wrong usage.")]
pub struct TopArgs {
    /// Time between two readings, 50ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval,
        allow_negative_numbers = true)]
    pub interval: Duration,
    /// Print tables instead of taking the screen; so it is if standard output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Print one JSON document instead
    #[arg(long)]
    pub json: bool,
    /// Which mesh: its nodes of other hosts and users are asked.
    #[command(flatten)]
    pub reach: ReachArgs,
}

impl TopArgs {
    /// True if it takes the whole screen.
    #[must_use]
    pub fn has_screen(&self) -> bool {
        !self.once && !self.json && std::io::stdout().is_terminal()
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let bounds = [TOP_INTERVAL_MS_MIN, TOP_INTERVAL_MS_MAX].map(Duration::from_millis);
    let interval = text.parse().ok().map(|Time(interval)| interval);
    interval
        .filter(|interval| (bounds[0]..=bounds[1]).contains(interval))
        .ok_or_else(|| format!("{}; {:?} to {:?}", time::FORM, bounds[0], bounds[1]))
}

/// Shows it until it is told to end, or prints once.
///
/// # Errors
/// If it cannot print, or the terminal is gone; a key that cannot be used.
pub fn run(args: &TopArgs) -> Result<(), Failure> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut source = Source {
            model: Model::default(),
            watch: Watch::start(&args.reach, args.interval)?,
        };
        if args.has_screen() {
            watch_screen(args, &mut source).await
        } else {
            print_once(args, &mut source).await
        }
    });
    // A name that is being looked up holds nobody up.
    runtime.shutdown_background();
    outcome
}

/// Where readings come from.
struct Source {
    model: Model,
    watch: Watch,
}

impl Source {
    fn read(&mut self) -> Seen {
        let with_state = |page: Page| {
            let state = state(&page);
            (page, state)
        };
        let mut pages: Vec<_> = pages().into_iter().map(with_state).collect();
        let known = self.watch.known.borrow();
        let (beyond, host) = (&*known, self.watch.host);
        for info in beyond.topology.nodes() {
            let is_read = pages.iter().any(|(page, _)| page.id == info.id.0);
            if let Some(told) = beyond.told.get(&info.id).filter(|_| !is_read) {
                pages.push((told_page(info, told), State::of_unread(info, host)));
            }
        }
        let mut seen = self.model.read(pages);
        seen.add_far(&beyond.topology, host);
        seen
    }
}

/// What a node said, as if it had been read.
fn told_page(info: &NodeInfo, told: &Told) -> Page {
    Page {
        node: info.name.clone(),
        id: info.id.0,
        pid: info.pid.into(),
        is_alive: true,
        at_ns: told.at_ns,
        entries: told.entries.clone(),
    }
}

async fn print_once(args: &TopArgs, source: &mut Source) -> Result<(), Failure> {
    source.read();
    let mut began = Instant::now();
    source.watch.settle().await;
    // Rates need two readings, those of nodes that are asked, too.
    if source.watch.has_told() {
        source.read();
        began = Instant::now();
    }
    tokio::time::sleep_until(began + args.interval).await;
    source.watch.look_again().await;
    let seen = source.read();
    if args.json {
        return document(&report::document(&seen, &source.watch.document()));
    }
    let mut out = std::io::stdout().lock();
    out.write_all(report::text(&seen, &source.watch.line()).as_bytes())?;
    Ok(out.flush()?)
}

async fn watch_screen(args: &TopArgs, source: &mut Source) -> Result<(), Failure> {
    let mut ends = Ends::of_terminal()?;
    let mut continued = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?;
    let paint = if is_colourless() {
        Paint::Plain
    } else {
        Paint::Colours
    };
    let mut app = App::new();
    let mut screen = Screen::enter()?;
    let mut events = screen::events()?;
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ends.recv() => return Ok(()),
            _ = continued.recv() => screen.retake()?,
            _ = ticks.tick() => app.show(source.read()),
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) if app.key(key) == Next::Quit => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
        app.coordinator = Some(source.watch.line());
        screen.draw(&mut app, paint)?;
    }
}

/// How the node of a page is.
fn state(page: &Page) -> State {
    if !page.is_alive {
        State::Dead
    } else if is_stopped(page) {
        State::Stopped
    } else {
        State::Live
    }
}

/// True if its process is stopped. A number of another container is another process here: so it
/// must have the page open.
fn is_stopped(page: &Page) -> bool {
    let directory = format!("/proc/{}", page.pid);
    let stat = std::fs::read_to_string(format!("{directory}/stat")).unwrap_or_default();
    // The command in brackets may have anything in it.
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    if !matches!(state, Some('T' | 't')) {
        return false;
    }
    let Ok(open) = std::fs::read_dir(format!("{directory}/fd")) else {
        return false;
    };
    let mut paths = open
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let id = format!("-{:032x}", page.id);
    paths.any(|path| path.to_string_lossy().ends_with(&id))
}
