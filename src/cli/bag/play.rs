//! `mesh bag play`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use shmesh_shm::monotonic_ns;

use super::clock::{sleep_until, wait_until, wake_exactly};
use super::info::{CUT, REPAIR};
use super::input::{self, InputArgs, names_text};
use super::keys::{Key, Keys};
use super::playing::{News, read_ahead};
use super::progress::Progress;
use super::stops::Stops;
use super::units::Time;
use super::{Failure, ReachArgs};
use crate::bag::{Channel, Ending, Remap, Rename, Schedule, Span, Summary};
use crate::message::Untyped;
use crate::name::{self, escaped, escaped_path};
use crate::node::Node;
use crate::publisher::Publisher;
use crate::topology::{Encoding, TopicType};

/// Send what was recorded again: the same bytes, in the same order and at the same distances.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh bag play                             the most recent record_*.mcap here, with its parts
  mesh bag play run.mcap run_*.mcap         all files of one that was split
  mesh bag play run1.mcap --rate 0.5        at half the speed
  mesh bag play run1.mcap --start 1m --end 90s --loop
  mesh bag play run1.mcap --topics 'arm/**' --topics pose --remap arm/joint:=sim/joint
  mesh bag play run1.mcap --immediate       as fast as it goes

Keys on a terminal: space pauses, n sends the next message while it pauses, + and - change the
rate, q ends.
Exit codes: 0 played, 1 failed or damaged, 2 wrong usage.")]
pub struct PlayArgs {
    /// Which recording
    #[command(flatten)]
    pub input: InputArgs,
    /// So many times as fast as it was recorded
    #[arg(short, long, default_value_t = 1.0, value_parser = rate)]
    pub rate: f64,
    /// From this moment on, counted from the first message
    #[arg(long, value_name = "TIME", default_value = "0")]
    pub start: Time,
    /// Up to this moment
    #[arg(long, value_name = "TIME")]
    pub end: Option<Time>,
    /// Again and again
    #[arg(short = 'l', long = "loop")]
    pub is_loop: bool,
    /// This topic alone, or those of a pattern; once for each, or with commas between them
    #[arg(long, value_name = "TOPIC|PATTERN", value_delimiter = ',')]
    pub topics: Vec<String>,
    /// Send a topic under another name; once for each
    #[arg(long, value_name = "OLD:=NEW")]
    pub remap: Vec<Rename>,
    /// Do not wait between messages
    #[arg(long)]
    pub immediate: bool,
    /// Begin with a pause; a key ends it
    #[arg(long)]
    pub paused: bool,
    /// Wait so long for somebody to listen to each topic before it begins
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub wait: Time,
    /// Say what came of it as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Which mesh
    #[command(flatten)]
    pub mesh: ReachArgs,
}

impl PlayArgs {
    fn wants(&self, channel: &Channel) -> bool {
        let is_it = |wanted: &String| name::matches(plain(wanted), plain(&channel.topic));
        self.topics.is_empty() || self.topics.iter().any(is_it)
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate))
        .ok_or_else(|| format!("expected a number from {RATE_MIN} to {RATE_MAX}"))
}

/// Plays until the end, or until told to end.
///
/// # Errors
/// If the mesh or the file cannot be had, or the file is damaged.
pub(super) fn run(args: &PlayArgs) -> Result<(), Failure> {
    let remap = Remap::new(args.remap.iter().cloned());
    let remap = remap.map_err(|error| Failure::usage(format!("--remap: {error}")))?;
    let paths = args.input.paths()?;
    if args.paused && !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "--paused needs a terminal, for the key that ends the pause",
        ));
    }
    let mut whole = Summary::default();
    let mut summaries = Vec::new();
    for path in &paths {
        let (mut file, len) = input::open(path)?;
        let summary = Summary::read(&mut file, len, false);
        let summary = summary.map_err(|error| input::of(path, error))?;
        whole.add(summary.clone());
        summaries.push(summary);
    }
    check(args, &whole)?;
    let stops = Stops::listen()?;
    let node = args.mesh.join_blocking("bag-play")?;
    let mut player = Player::new(args, whole.start_ns, stops)?;
    let topics = whole.channels.iter().map(|found| &*found.channel.topic);
    for unused in remap.unused(&topics.collect::<Vec<_>>()) {
        let unused = escaped(unused);
        note!("warning: --remap: the recording has no topic {unused}");
    }
    for found in whole
        .channels
        .iter()
        .filter(|found| args.wants(&found.channel))
    {
        explain(&node, &found.channel);
    }
    for (path, summary) in paths.iter().zip(&summaries) {
        player.add(args, &node, &remap, path.clone(), summary)?;
    }
    player.wait_for_listeners(args.wait.0);
    let outcome = player.play(args);
    player.progress.clear();
    let said = player.say(args, &paths);
    let sent = player.sent;
    let is_told_to_end = player.stops.is_end();
    drop(player);
    node.close_blocking();
    outcome.and(said)?;
    match sent > 0 || is_told_to_end {
        true => Ok(()),
        false => Err(Failure::usage(
            "nothing was sent: the recording has no message of these topics between --start and \
             --end",
        )),
    }
}

/// Refuses what the recording does not have, before anything is sent.
fn check(args: &PlayArgs, whole: &Summary) -> Result<(), Failure> {
    let topics = whole
        .channels
        .iter()
        .map(|found| plain(&found.channel.topic));
    let topics: BTreeSet<&str> = topics.collect();
    if topics.is_empty() {
        return Err(Failure::usage("the recording has no messages"));
    }
    for pattern in &args.topics {
        name::check_pattern(pattern).map_err(|error| Failure::usage(error.to_string()))?;
        if !topics
            .iter()
            .any(|topic| name::matches(plain(pattern), topic))
        {
            let all: Vec<String> = topics.iter().map(|topic| escaped(topic)).collect();
            return Err(Failure::usage(format!(
                "--topics {pattern}: the recording has no such topic; it has {}",
                all.join(", ")
            )));
        }
    }
    let length = Duration::from_nanos(whole.end_ns.saturating_sub(whole.start_ns));
    if args.start.0 > length {
        return Err(Failure::usage(format!(
            "--start {:?}: the recording is {length:?} long",
            args.start.0
        )));
    }
    if let Some(end) = args.end.filter(|end| end.0 < args.start.0) {
        return Err(Failure::usage(format!(
            "--end {:?} is before --start {:?}; both are counted from the first message",
            end.0, args.start.0
        )));
    }
    Ok(())
}

/// Names of other programs may have a slash in front.
fn plain(topic: &str) -> &str {
    topic.trim_start_matches('/')
}

/// A file that is played.
struct Part {
    path: PathBuf,
    /// The publisher of each channel that is to be sent, by its number in the file.
    of_channel: BTreeMap<u16, usize>,
}

struct Player {
    parts: Vec<Part>,
    publishers: Vec<Publisher<Untyped>>,
    /// Where they are, by topic and type.
    known: BTreeMap<(String, String), usize>,
    span: Span,
    first_ns: u64,
    schedule: Schedule,
    is_immediate: bool,
    stops: Stops,
    keys: Option<Keys>,
    /// One message is to be sent in spite of the pause.
    is_stepping: bool,
    progress: Progress,
    sent: u64,
    /// How late messages were, in nanoseconds.
    late: Histogram<u64>,
    damages: u64,
}

impl Player {
    fn new(args: &PlayArgs, first_ns: u64, stops: Stops) -> Result<Self, Failure> {
        let mut schedule = Schedule::new(args.rate);
        if args.paused {
            schedule.pause(monotonic_ns());
        }
        Ok(Self {
            parts: Vec::new(),
            publishers: Vec::new(),
            known: BTreeMap::new(),
            span: Span {
                start_ns: args.start.ns(),
                end_ns: args.end.map(Time::ns),
            },
            first_ns,
            schedule,
            is_immediate: args.immediate,
            stops,
            keys: Keys::listen(),
            is_stepping: false,
            progress: Progress::new(!args.json),
            sent: 0,
            late: Histogram::new_with_bounds(1, LATE_NS_MAX, 3)?,
            damages: 0,
        })
    }

    /// Takes a file; what it has is announced.
    fn add(
        &mut self,
        args: &PlayArgs,
        node: &Node,
        remap: &Remap,
        path: PathBuf,
        summary: &Summary,
    ) -> Result<(), Failure> {
        let mut of_channel = BTreeMap::new();
        for found in &summary.channels {
            let channel = &found.channel;
            if !args.wants(channel) {
                continue;
            }
            let topic = remap.name(&channel.topic);
            let ty = playable(&channel.ty);
            let key = (topic.to_owned(), ty.to_string());
            let idx = match self.known.get(&key) {
                Some(idx) => *idx,
                None => {
                    self.publishers.push(publisher(node, topic, ty)?);
                    self.known.insert(key, self.publishers.len() - 1);
                    self.publishers.len() - 1
                }
            };
            of_channel.insert(found.number, idx);
        }
        self.parts.push(Part { path, of_channel });
        Ok(())
    }

    fn wait_for_listeners(&mut self, patience: Duration) {
        let start = Instant::now();
        for publisher in &mut self.publishers {
            let left = patience.saturating_sub(start.elapsed());
            let _ = publisher.wait_for_listener_blocking(left);
        }
    }

    fn play(&mut self, args: &PlayArgs) -> Result<(), Failure> {
        wake_exactly();
        loop {
            let before = self.sent;
            self.play_once()?;
            let is_over = !args.is_loop || self.stops.is_end();
            // A loop of nothing would never sleep.
            if is_over || self.sent == before {
                return Ok(());
            }
        }
    }

    fn play_once(&mut self) -> Result<(), Failure> {
        let mut is_first = true;
        for part in 0..self.parts.len() {
            if !self.play_part(part, &mut is_first)? {
                return Ok(());
            }
        }
        match self.damages {
            0 => Ok(()),
            damages => {
                Err(anyhow::anyhow!("{damages} damaged parts were left out; {REPAIR}").into())
            }
        }
    }

    /// False if it is told to end.
    fn play_part(&mut self, part: usize, is_first: &mut bool) -> Result<bool, Failure> {
        let path = self.parts[part].path.clone();
        let news = read_ahead(&path)?;
        while let Ok(news) = news.recv() {
            match news.map_err(|error| input::of(&path, error))? {
                News::Damage(error) => {
                    self.damages += 1;
                    note!("warning: {}: left out: {error}", escaped_path(&path));
                }
                News::End(Ending::Cut) => note!("note: {}: {CUT}", escaped_path(&path)),
                News::End(Ending::Whole) => {}
                News::Messages(batch) => {
                    for (message, payload) in batch.messages() {
                        if !self.span.has(message.log_ns.saturating_sub(self.first_ns)) {
                            continue;
                        }
                        let of_channel = &self.parts[part].of_channel;
                        let Some(idx) = of_channel.get(&message.number).copied() else {
                            continue;
                        };
                        if std::mem::take(is_first) {
                            self.schedule.begin(message.sent_ns, monotonic_ns());
                        }
                        if !self.wait_for(message.sent_ns) {
                            return Ok(false);
                        }
                        self.publishers[idx].publish_bytes(payload)?;
                        self.sent += 1;
                    }
                }
            }
        }
        Ok(true)
    }

    /// Waits until a message is due; false if it is not to be sent any more.
    fn wait_for(&mut self, sent_ns: u64) -> bool {
        loop {
            self.take_keys();
            if self.stops.is_end() {
                return false;
            }
            let now_ns = monotonic_ns();
            let due_ns = self.schedule.due_ns(sent_ns, now_ns);
            if self.progress.is_due() {
                let state = if self.schedule.is_paused() {
                    "paused"
                } else {
                    "playing"
                };
                let (sent, rate) = (self.sent, self.schedule.rate());
                self.progress
                    .text(format!("{state}  {sent} messages  rate {rate:.2}"));
            }
            if self.schedule.is_paused() {
                if std::mem::take(&mut self.is_stepping) {
                    return true;
                }
            } else if self.is_immediate {
                return true;
            }
            match due_ns {
                Some(due_ns) if due_ns <= now_ns + LOOK_NS => {
                    wait_until(due_ns);
                    let late_ns = monotonic_ns() - due_ns;
                    self.late.saturating_record(late_ns);
                    return true;
                }
                _ => sleep_until(now_ns + LOOK_NS),
            }
        }
    }

    fn take_keys(&mut self) {
        while let Some(key) = self.keys.as_ref().and_then(Keys::next) {
            let now_ns = monotonic_ns();
            let rate = self.schedule.rate();
            match key {
                Key::Pause if self.schedule.is_paused() => self.schedule.resume(now_ns),
                Key::Pause => self.schedule.pause(now_ns),
                Key::Next => self.is_stepping = self.schedule.is_paused(),
                Key::Faster => self.schedule.set_rate((rate * STEP).min(RATE_MAX), now_ns),
                Key::Slower => self.schedule.set_rate((rate / STEP).max(RATE_MIN), now_ns),
                Key::Quit => self.stops.end(),
            }
        }
    }

    fn say(&self, args: &PlayArgs, paths: &[PathBuf]) -> Result<(), Failure> {
        let us = |quantile: f64| self.late.value_at_quantile(quantile) / 1_000;
        let (p50, p99, max) = (us(0.5), us(0.99), self.late.max() / 1_000);
        let mut out = std::io::stdout().lock();
        if args.json {
            let word = json!({
                "file": paths.first().map(|path| path.display().to_string()),
                "files": paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
                "messages": self.sent,
                "topics": self.publishers.len(),
                "late_us": { "p50": p50, "p99": p99, "max": max },
                "damages": self.damages,
            });
            writeln!(out, "{word}")?;
        } else {
            write!(
                out,
                "played {} messages of {}",
                self.sent,
                names_text(paths)
            )?;
            match self.is_immediate {
                true => writeln!(out)?,
                false => writeln!(out, "; late by {p50} us, p99 {p99} us, at most {max} us")?,
            }
        }
        Ok(out.flush()?)
    }
}

/// What can be announced: encodings of other programs may have names that are none here.
fn playable(ty: &TopicType) -> TopicType {
    match ty.check() {
        Ok(()) => ty.clone(),
        Err(_) => TopicType {
            encoding: Encoding::Raw,
            name: "bytes".into(),
            hash: 0,
        },
    }
}

/// Has the node say what the messages of a channel look like, as far as the recording does.
fn explain(node: &Node, channel: &Channel) {
    let Some(recorded) = &channel.schema else {
        return;
    };
    let schema = match recorded.schema() {
        Ok(None) => return,
        Ok(Some(schema)) if schema.hash() == channel.ty.hash => Ok(schema),
        Ok(Some(_)) => Err("it is of another type".into()),
        Err(error) => Err(error.to_string()),
    };
    let added = schema.and_then(|schema| {
        let added = node.add_schema(Arc::new(schema));
        added.map_err(|error| error.to_string())
    });
    if let Err(why) = added {
        let topic = escaped(&channel.topic);
        note!("warning: playing {topic} without what describes its messages: {why}");
    }
}

fn publisher(node: &Node, topic: &str, ty: TopicType) -> Result<Publisher<Untyped>, Failure> {
    let built = node.publisher::<Untyped>(topic).ty(ty).build();
    built.map_err(|error| {
        let topic = escaped(topic);
        let next = format!("cannot send {topic}; send it elsewhere with --remap {topic}:=NEW");
        anyhow::Error::new(error).context(next).into()
    })
}

/// Slowest: a day takes three years.
const RATE_MIN: f64 = 0.001;
/// Fastest.
const RATE_MAX: f64 = 1_000_000.0;
/// What a key makes of the rate.
const STEP: f64 = 1.25;
/// It looks for keys and signals that often.
const LOOK_NS: u64 = 20_000_000;
/// What is later counts as this late: an hour.
const LATE_NS_MAX: u64 = 3_600_000_000_000;
