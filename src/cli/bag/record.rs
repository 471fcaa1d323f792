//! `mesh bag record`.

use std::io::Write as _;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;
use shmesh_shm::monotonic_ns;

use super::clock::{Clock, sleep_until};
use super::ending::Ending;
use super::files::{self, Files, Series};
use super::input;
use super::progress::Progress;
use super::stops::Stops;
use super::units::{Size, Time, size_text};
use super::{Failure, ReachArgs};
use crate::bag::{BagError, Channel, Config, Message, Recorder, Saved, SchemaRecord, Split};
use crate::cli::{full_text, survey};
use crate::endpoint::Overflow;
use crate::error::{Error, RecvError};
use crate::events::PublisherId;
use crate::id::NodeId;
use crate::limits::{
    BAG_DEPTH_DEFAULT, BAG_LAST_BYTES_DEFAULT, SCHEMA_MS_MAX, TOPICS_PER_SUBSCRIBER_MAX,
};
use crate::message::Untyped;
use crate::name::{self, escaped, escaped_path};
use crate::node::{Node, block_on};
use crate::sample::Sample;
use crate::subscriber::Subscriber;
use crate::topology::{Encoding, TopicType, Topology};

/// Record topics into an MCAP file, which Foxglove and every MCAP tool open.
///
/// Messages keep their bytes. A recorder that does not keep up loses the oldest unread messages,
/// says how many, and slows nobody. A file that is cut off by a crash has all but the last second.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh bag record pose camera/left          two topics
  mesh bag record 'arm/**' --compress       all below arm, also those that come later; with LZ4
  mesh bag record --all -o run1             everything, into run1.mcap
  mesh bag record --all --split-size 1GB --split-duration 10m
                                            files run.mcap, run_1.mcap, run_2.mcap, ...
  mesh bag record --all --last 30s          keep the last 30 s in memory, and write them into a
                                            file at each SIGUSR1 (kill -USR1 PID) and at the end:
                                            run.mcap, run-2.mcap, run-3.mcap, ...

NAME_1.mcap, NAME_2.mcap are parts of the recording NAME.mcap, NAME-2.mcap is another one. A number
that is taken is passed over.
Ends at Ctrl-C or SIGTERM. Exit codes: 0 recorded, 1 could not go on (what was recorded before is a
whole file) or not save the last seconds, 2 wrong usage.")]
pub struct RecordArgs {
    /// Topics, or patterns of them: `*` is one part of a path, `**` any number of them
    #[arg(value_name = "TOPIC|PATTERN", required_unless_present = "all")]
    pub topics: Vec<String>,
    /// All topics
    #[arg(short, long, conflicts_with = "topics")]
    pub all: bool,
    /// File to write, with or without .mcap [default: record_DATE-TIME.mcap, in local time]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write over a file that is there, and remove what would look like its parts: an older
    /// FILE_1.mcap, ...
    #[arg(long)]
    pub overwrite: bool,
    /// Compress chunks with LZ4
    #[arg(short, long)]
    pub compress: bool,
    /// Write so many bytes at a time, and what is there after a second
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub chunk_size: Size,
    /// Begin another file before one is larger
    #[arg(long, value_name = "SIZE", conflicts_with = "last")]
    pub split_size: Option<Size>,
    /// Begin another file after so much time
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    pub split_duration: Option<Time>,
    /// Keep the messages of so much time in memory; write them at SIGUSR1 and at the end
    #[arg(long, value_name = "TIME")]
    pub last: Option<Time>,
    /// In no more memory than this
    #[arg(long, value_name = "SIZE", default_value = "256MiB", requires = "last")]
    pub last_size: Size,
    /// End after so much time
    #[arg(long, value_name = "TIME")]
    pub duration: Option<Time>,
    /// Messages of each publisher that may wait for the recorder, 128 bytes of the publisher's
    /// memory each
    #[arg(long, value_name = "COUNT", default_value_t = BAG_DEPTH_DEFAULT)]
    pub depth: u32,
    /// Record also what publishers with a history sent before
    #[arg(long)]
    pub latched: bool,
    /// Say what happens as lines of JSON
    #[arg(long)]
    pub json: bool,
    /// Which mesh
    #[command(flatten)]
    pub mesh: ReachArgs,
}

/// Says what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Voice {
    Text,
    Json,
}

/// Records until told to end.
///
/// # Errors
/// If the mesh or the file cannot be had, or nothing more can be written.
pub(super) fn run(args: &RecordArgs) -> Result<(), Failure> {
    let stops = Stops::listen()?;
    let clock = Clock::start();
    let series = match args.last {
        Some(_) => Series::Recordings,
        None => Series::Parts,
    };
    let output = args.output.as_deref();
    let files = Files::new(output, clock.now_ns(), series, args.overwrite);
    let topics = match args.all {
        true => vec!["**".to_owned()],
        false => args.topics.clone(),
    };
    if topics.len() > TOPICS_PER_SUBSCRIBER_MAX {
        return Err(Failure::usage(format!(
            "more than {TOPICS_PER_SUBSCRIBER_MAX} topics; name some by a pattern, or record --all"
        )));
    }
    for topic in &topics {
        name::check_pattern(topic).map_err(|error| Failure::usage(error.to_string()))?;
    }
    files.check()?;
    let config = config(args)?;
    let topology = args.mesh.look()?;
    let node = args.mesh.join_blocking("bag-record")?;
    // Not before: what is written over should not be lost to a coordinator that is not there.
    let at = files.at().to_owned();
    let recorder = Recorder::new(config, files).map_err(|error| match &error {
        BagError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            files::taken(&at)
        }
        _ => input::of(&at, error),
    })?;
    let mut recording = Recording {
        node,
        recorder,
        clock,
        stops,
        progress: Progress::new(!args.json),
        voice: if args.json { Voice::Json } else { Voice::Text },
        last_channel: None,
        refused: 0,
        unsaved: 0,
    };
    let subscribed = recording.subscribe(args, &topics);
    let mut subscriber = subscribed.inspect_err(|_| recording.recorder.target().remove())?;
    say_what_nobody_sends(&topology, &args.topics);
    let outcome = recording.go_on(args, &mut subscriber);
    let ended = recording.end(args, &subscriber, outcome);
    drop(subscriber);
    recording.node.close_blocking();
    ended
}

fn config(args: &RecordArgs) -> Result<Config, Failure> {
    let chunk_bytes = usize::try_from(args.chunk_size.0);
    Ok(Config {
        is_compressed: args.compress,
        chunk_bytes: chunk_bytes.map_err(|_| Failure::usage("--chunk-size: too large"))?,
        split: Split {
            bytes: args.split_size.map(|size| size.0),
            ns: args.split_duration.map(Time::ns),
        },
        last_ns: args.last.map(Time::ns),
        last_bytes_max: args
            .last
            .map_or(BAG_LAST_BYTES_DEFAULT, |_| args.last_size.0),
    })
}

/// It may be spelt wrongly.
fn say_what_nobody_sends(topology: &Topology, topics: &[String]) {
    let known = survey::topics(topology);
    let sent = known.iter().filter(|(_, ends)| !ends.publishers.is_empty());
    let sent: Vec<&str> = sent.map(|((_, name), _)| *name).collect();
    for topic in topics {
        let pattern = topic.strip_prefix('/').unwrap_or(topic);
        if !sent.iter().any(|name| name::matches(pattern, name)) {
            note!("note: nobody publishes {topic} yet: waiting for who does");
        }
    }
}

type Ears = Subscriber<Untyped>;

struct Recording {
    node: Node,
    recorder: Recorder<Files>,
    clock: Clock,
    stops: Stops,
    progress: Progress,
    voice: Voice,
    /// Of the message before: it is likely to be that of the next.
    last_channel: Option<((NodeId, u32), u16)>,
    /// Messages of publishers beyond those that a file can have.
    refused: u64,
    /// Times that the last seconds could not be saved.
    unsaved: u32,
}

/// What was taken before it looked for other things to do.
struct Batch {
    /// When the first message was there.
    came_ns: u64,
    taken: u32,
    bytes: usize,
}

impl Batch {
    const fn is_full(&self) -> bool {
        self.taken >= BATCH || self.bytes >= BATCH_BYTES
    }
}

impl Recording {
    fn subscribe(&self, args: &RecordArgs, topics: &[String]) -> Result<Ears, Failure> {
        let mut builder = self.node.subscriber::<Untyped>(&topics[0]);
        for topic in &topics[1..] {
            builder = builder.also(topic);
        }
        builder = builder.overflow(Overflow::KeepLast(args.depth));
        if args.latched {
            builder = builder.latched();
        }
        let subscriber = builder.build()?;
        let path = self.recorder.target().at();
        self.say(
            &json!({
                "event": "recording",
                "file": path.display().to_string(),
                "topics": topics,
                "pid": std::process::id(),
            }),
            || match args.last {
                None => format!("recording {} to {}", topics.join(" "), escaped_path(path)),
                Some(last) => format!(
                    "keeping the last {:?} of {}; kill -USR1 {} writes them",
                    last.0,
                    topics.join(" "),
                    std::process::id()
                ),
            },
        )?;
        Ok(subscriber)
    }

    fn say(&self, json: &serde_json::Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match self.voice {
            Voice::Json => writeln!(out, "{json}")?,
            Voice::Text => writeln!(out, "{}", text())?,
        }
        Ok(out.flush()?)
    }

    fn go_on(&mut self, args: &RecordArgs, subscriber: &mut Ears) -> Result<(), Failure> {
        let start = Instant::now();
        let is_over = || args.duration.is_some_and(|time| start.elapsed() >= time.0);
        while !self.stops.is_end() && !is_over() {
            let asked_ns = monotonic_ns();
            let batch = self.take_all(subscriber)?;
            let is_stream = batch.taken >= BUSY || batch.came_ns - asked_ns < STREAM_NS;
            self.recorder
                .tick(self.clock.now_ns())
                .map_err(|error| self.failed(error))?;
            if self.stops.take_save() && args.last.is_some() {
                self.save();
            }
            if self.progress.is_due() {
                let more = match args.last {
                    Some(_) => "in memory".into(),
                    None => format!("{} on disk", size_text(self.recorder.bytes())),
                };
                self.progress.say(self.recorder.total(), &more);
            }
            // Woken for each message it would cost publishers a call for each, and itself more.
            // What it took to write them is a part of the nap: images must not pile up.
            if is_stream && args.depth >= NAP_DEPTH_MIN {
                sleep_until(batch.came_ns + NAP_NS);
            }
        }
        self.drain(args, subscriber)
    }

    /// Takes what was sent before the signal came. It ends where nothing waits, or where publishers
    /// that go on are recorded past that moment; never by the clock alone, for this process may
    /// have been kept waiting. Nor because messages cannot be taken yet, unless it has slept for
    /// them in vain.
    fn drain(&mut self, args: &RecordArgs, subscriber: &mut Ears) -> Result<(), Failure> {
        let (start, start_ns) = (Instant::now(), monotonic_ns());
        let publishers = subscriber.stats().publishers as u64 + 1;
        let mut left = publishers * u64::from(args.depth);
        let mut naps = DRAIN_NAPS_MAX;
        while left > 0 && naps > 0 {
            let next = match subscriber.try_recv() {
                Ok(None) if subscriber.has_unread() => subscriber.recv_blocking(TICK),
                Ok(None) => break,
                Ok(Some(sample)) => Ok(sample),
                Err(error) => Err(error),
            };
            match next {
                Ok(sample) => {
                    let is_later = sample.sent_ns().is_some_and(|sent_ns| sent_ns > start_ns);
                    self.take(&sample, subscriber)?;
                    if is_later && start.elapsed() >= DRAIN_MAX {
                        break;
                    }
                }
                Err(RecvError::Closed) => break,
                Err(RecvError::Timeout { .. }) => naps -= 1,
                Err(error) => self.warn(&error),
            }
            left -= 1;
        }
        Ok(())
    }

    /// Waits for a message and takes it, and all that are there.
    fn take_all(&mut self, subscriber: &mut Ears) -> Result<Batch, Failure> {
        let first = subscriber.recv_blocking(TICK);
        let mut batch = Batch {
            came_ns: monotonic_ns(),
            taken: 0,
            bytes: 0,
        };
        let mut next = match first {
            Err(RecvError::Timeout { .. }) => Ok(None),
            first => first.map(Some),
        };
        loop {
            match next {
                Ok(Some(sample)) => {
                    batch.taken += 1;
                    batch.bytes += sample.len();
                    self.take(&sample, subscriber)?;
                }
                Ok(None) => return Ok(batch),
                Err(RecvError::Closed) => {
                    self.stops.end();
                    return Ok(batch);
                }
                Err(error) => {
                    self.warn(&error);
                    batch.taken += 1;
                }
            }
            if batch.is_full() {
                return Ok(batch);
            }
            next = subscriber.try_recv();
        }
    }

    fn warn(&self, error: &RecvError) {
        self.progress.clear();
        note!("warning: {error}");
    }

    #[inline]
    fn take(&mut self, sample: &Sample<Untyped>, subscriber: &mut Ears) -> Result<(), Failure> {
        let Some(channel) = self.channel(sample, subscriber)? else {
            return Ok(());
        };
        let log_ns = self.clock.now_ns();
        let sent_ns = sample.sent_ns().map(|ns| self.clock.at(ns).min(log_ns));
        let recorded = self.recorder.record(&Message {
            channel,
            sequence: sample.sequence(),
            log_ns,
            publish_ns: sent_ns.unwrap_or(log_ns),
            lost_before: sample.lost_before(),
            payload: sample.bytes(),
        });
        recorded.map_err(|error| self.failed(error))
    }

    #[inline]
    fn channel(
        &mut self,
        sample: &Sample<Untyped>,
        subscriber: &mut Ears,
    ) -> Result<Option<u16>, Failure> {
        let publisher = sample.publisher_id();
        if let Some((known, channel)) = self.last_channel
            && known == publisher
        {
            return Ok(Some(channel));
        }
        let channel = match self.recorder.channel(publisher) {
            Some(channel) => channel,
            None => match self.recorder.add(self.described(sample, subscriber)) {
                Ok(channel) => channel,
                Err(error) => {
                    if self.refused == 0 {
                        note!("warning: {error}");
                    }
                    self.refused += 1;
                    return Ok(None);
                }
            },
        };
        self.last_channel = Some((publisher, channel));
        Ok(Some(channel))
    }

    /// What a file says of the publisher of a message.
    fn described(&self, sample: &Sample<Untyped>, subscriber: &mut Ears) -> Channel {
        let (node, endpoint) = sample.publisher_id();
        Channel {
            topic: sample.topic().to_owned(),
            ty: sample.topic_type().clone(),
            publisher: Some(PublisherId {
                node,
                endpoint,
                node_name: sample.publisher_name().to_owned(),
            }),
            schema: self.schema(sample.topic_type(), subscriber),
        }
    }

    /// What the mesh knows of a type. The publishers go on meanwhile, so after a moment it waits
    /// for that only as long as their messages may.
    fn schema(&self, ty: &TopicType, subscriber: &mut Ears) -> Option<SchemaRecord> {
        if ty.encoding != Encoding::Rkyv {
            return None;
        }
        let answer = async {
            let start = tokio::time::Instant::now();
            let mut looks = tokio::time::interval_at(start + SCHEMA_WAIT_MIN, SCHEMA_LOOK);
            let mut asked = pin!(self.node.schema(ty));
            loop {
                tokio::select! {
                    biased;
                    answer = &mut asked => return answer,
                    _ = looks.tick() => if subscriber.is_half_full() {
                        return Err(Error::Timeout(start.elapsed()));
                    }
                }
            }
        };
        let patience = Duration::from_millis(SCHEMA_MS_MAX);
        let schema = match block_on(patience, answer).and_then(|answer| answer) {
            Ok(schema) => schema?,
            Err(error) => {
                let name = escaped(&ty.name);
                note!("warning: recording {name} without what describes it: {error}");
                return None;
            }
        };
        SchemaRecord::of(&schema).ok()
    }

    fn failed(&self, error: BagError) -> Failure {
        input::of(self.recorder.target().at(), error)
    }

    /// Writes the last seconds; that this fails ends nothing.
    fn save(&mut self) {
        let outcome = self.recorder.save(self.clock.now_ns());
        let failure = match outcome {
            Err(error) => Some(error),
            Ok(None) => {
                let _ = self.say(&json!({"event": "saved", "messages": 0}), || {
                    "nothing to save: no message came".into()
                });
                None
            }
            Ok(Some(saved)) => {
                if saved.messages > 0 {
                    self.say_saved(&saved);
                }
                saved.failure
            }
        };
        if let Some(error) = failure {
            self.unsaved += 1;
            let why = full_text(&self.failed(error).error);
            self.progress.clear();
            note!("warning: the last seconds are not saved: {why}");
            if self.voice == Voice::Json {
                let _ = self.say(&json!({"event": "unsaved", "error": why}), String::new);
            }
        }
    }

    fn say_saved(&self, saved: &Saved) {
        let path = self.recorder.target().at();
        let messages = saved.messages;
        let word = json!({
            "event": "saved",
            "file": path.display().to_string(),
            "messages": messages,
            "bytes": saved.bytes,
            "is_short": saved.is_short,
        });
        let short = match saved.is_short {
            true => "; not all of the time fitted into --last-size",
            false => "",
        };
        let _ = self.say(&word, || {
            format!("saved {messages} messages to {}{short}", escaped_path(path))
        });
    }

    /// Ends the files and says what came of it. The first error is the one that is returned.
    fn end(
        &mut self,
        args: &RecordArgs,
        subscriber: &Ears,
        outcome: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let finished = match args.last {
            Some(_) => {
                self.save();
                match self.unsaved {
                    0 => Ok(()),
                    1 => Err(anyhow::anyhow!("the last seconds were not saved once").into()),
                    unsaved => Err(anyhow::anyhow!(
                        "the last seconds were not saved {unsaved} times"
                    )
                    .into()),
                }
            }
            None => self.recorder.finish().map_err(|error| self.failed(error)),
        };
        self.progress.clear();
        let total = self.recorder.total();
        if total.recorded == 0 {
            self.recorder.target().remove();
        }
        let files = self.recorder.target().written();
        let ending = Ending {
            recorder: &self.recorder,
            files: &files,
            lost: total.lost.max(subscriber.stats().lost) + self.refused,
            is_continuous: args.last.is_none(),
            unsaved: self.unsaved,
        };
        self.say(&ending.json(), || ending.text())?;
        outcome.and(finished)
    }
}

/// The coordinator has that long to tell of a type, whatever else is to be done.
const SCHEMA_WAIT_MIN: Duration = Duration::from_millis(100);
/// Beyond that it looks that often whether messages must be taken.
const SCHEMA_LOOK: Duration = Duration::from_millis(5);
/// Without messages it looks that often whether something else is to be done.
const TICK: Duration = Duration::from_millis(100);
/// Messages that are taken before it looks.
const BATCH: u32 = 4_096;
/// Or so many bytes, which take some tens of milliseconds to write.
const BATCH_BYTES: usize = 64 << 20;
/// So many at once are a stream: it sleeps then, and takes more at once.
const BUSY: u32 = 8;
/// So is one that came so soon. A recorder that always wakes in time would never see several.
const STREAM_NS: u64 = 500_000;
/// For so long: of 16,384 messages that may wait, 200 do at 100,000 a second.
const NAP_NS: u64 = 2_000_000;
/// Unless fewer than so many may wait.
const NAP_DEPTH_MIN: u32 = 1_024;
/// At the end publishers that go on are heard for so long at most.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Then so many ticks without one of the messages that wait.
const DRAIN_NAPS_MAX: u32 = 10;
