//! `mesh topic echo`: messages as JSON, a line each.
//!
//! While there are more, they are written in large pieces; when there are none, at once.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use super::check_wanted;
use crate::cli::output::Output;
use crate::cli::reach::ReachArgs;
use crate::cli::reading::{Reading, Unread, Wish};
use crate::cli::signals::Ends;
use crate::cli::{Failure, runtime};
use crate::endpoint::Overflow;
use crate::limits::{
    DEPTH_MAX, ECHO_BATCH, ECHO_BYTES, ECHO_DEPTH_DEFAULT, ECHO_PIPE_BYTES, FORMS_MAX, NOBODY_MS,
};
use crate::message::Untyped;
use crate::name::{escaped, is_pattern};
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// Print messages as JSON, a line each.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh topic echo imu
  mesh topic echo 'arm/**' --no-arr --no-str
  mesh topic echo imu --field acceleration.x --count 10
  mesh topic echo imu --json | jq 'select(.lost > 0)'
  mesh topic echo map -1

Reads JSON and MessagePack topics, and those of archives whose nodes say what they look like; raw
bytes are hexadecimal digits, and what else cannot be read comes as its encoding, length and bytes
in such digits. Of an array, and of raw bytes, --no-arr leaves \"[5]\"; of a text --no-str leaves
\"<5>\", which is characters. With --json each line has the topic, the publisher's name, the number
of the message, when it was sent, how many were lost before it, and the message as `data`. What
publishers with a history sent before comes first, unless --new is given. With several topics or a
pattern, those whose messages have no --field are left out. Waits while nobody sends. Ends at
Ctrl-C, or after --count messages; who does not read then has a second.
Exit codes: 0 success, 1 no coordinator, 2 no such field, or wrong usage.")]
pub struct EchoArgs {
    /// Names of topics, or patterns of names
    #[arg(value_name = "TOPIC", required = true)]
    pub topics: Vec<String>,
    /// End after so many messages
    #[arg(long, short, value_name = "N")]
    pub count: Option<u64>,
    /// End after one message: the same as --count 1
    #[arg(long, short = '1', conflicts_with = "count")]
    pub once: bool,
    /// Only what is sent from now on, not what publishers with a history sent before
    #[arg(long)]
    pub new: bool,
    /// Only this part of each message, such as `pose.x` or `joints[3].name`
    #[arg(long, value_name = "PATH")]
    pub field: Option<String>,
    /// Print the lengths of arrays, and of raw bytes, instead of what is in them
    #[arg(long)]
    pub no_arr: bool,
    /// Print the lengths of texts instead of what is in them
    #[arg(long)]
    pub no_str: bool,
    /// Messages of each publisher that may wait for this tool; the oldest give way
    #[arg(long, value_name = "N", default_value_t = ECHO_DEPTH_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    pub depth: u32,
    /// Print an object with the message and what is known of it
    #[arg(long)]
    pub json: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &EchoArgs) -> Result<(), Failure> {
    check_wanted(&args.topics)?;
    runtime()?.block_on(follow(args))
}

async fn follow(args: &EchoArgs) -> Result<(), Failure> {
    let mut ends = Ends::new()?;
    let node = args.reach.join("echo").await?;
    let mut topics = node.subscriber::<Untyped>(&args.topics[0]);
    for topic in &args.topics[1..] {
        topics = topics.also(topic);
    }
    topics = topics.overflow(Overflow::KeepLast(args.depth));
    if !args.new {
        topics = topics.latched();
    }
    let mut topics = topics.build()?;
    widen_pipe();
    let wish = Wish {
        field: args.field.clone(),
        without_arrays: args.no_arr,
        without_texts: args.no_str,
        is_for_terminal: std::io::stdout().is_terminal(),
    };
    let mut echo = Echo {
        args,
        reading: Reading::new(&node, wish),
        is_named: args.topics.len() > 1 || is_pattern(&args.topics[0]),
        count_max: if args.once { Some(1) } else { args.count },
        without_field: BTreeSet::new(),
        heading: Heading::default(),
        out: Vec::with_capacity(2 * ECHO_BYTES),
        output: Output::new(),
        count: 0,
    };
    let echoed = echo.run(&mut topics, &mut ends).await;
    echo.flush(&mut ends).await?;
    if !echo.out.is_empty() {
        note!(
            "mesh: {} bytes were not written: nobody read them",
            echo.out.len()
        );
    }
    let lost = topics.stats().lost;
    if lost > 0 {
        note!("mesh: {lost} messages were lost: they came faster than they could be printed");
    }
    echoed
}

/// Makes room in the pipe that is written to. What is none stays as it is, and so does a pipe whose
/// user has all the memory for pipes that he may have.
fn widen_pipe() {
    let out = rustix::stdio::stdout();
    if fcntl_getpipe_size(out).is_ok_and(|size| size < ECHO_PIPE_BYTES) {
        let _ = fcntl_setpipe_size(out, ECHO_PIPE_BYTES);
    }
}

struct Echo<'a> {
    args: &'a EchoArgs,
    reading: Reading<'a>,
    /// True if lines say their topic.
    is_named: bool,
    count_max: Option<u64>,
    /// Topics whose messages are left out for want of the field; that is said once of each.
    without_field: BTreeSet<String>,
    heading: Heading,
    /// What is not written yet.
    out: Vec<u8>,
    output: Output,
    count: u64,
}

/// What lines begin with that are of the same topic and publisher as the one before.
#[derive(Default)]
struct Heading {
    topic: String,
    publisher: String,
    json: String,
    plain: String,
}

impl Heading {
    fn of(sample: &Sample<Untyped>) -> Self {
        let [topic, publisher] = [sample.topic(), sample.publisher_name()];
        // Of characters that need no escapes: names have no others.
        let [shown, by] = [escaped(topic), escaped(publisher)];
        Self {
            topic: topic.into(),
            publisher: publisher.into(),
            json: format!("{{\"topic\":\"{shown}\",\"publisher\":\"{by}\",\"sequence\":"),
            plain: format!("{shown}: "),
        }
    }

    fn is_of(&self, sample: &Sample<Untyped>) -> bool {
        self.topic == sample.topic() && self.publisher == sample.publisher_name()
    }
}

impl Echo<'_> {
    async fn run(
        &mut self,
        topics: &mut Subscriber<Untyped>,
        ends: &mut Ends,
    ) -> Result<(), Failure> {
        let mut nobody = std::pin::pin!(tokio::time::sleep(Duration::from_millis(NOBODY_MS)));
        let mut is_patient = true;
        while !self.is_over() {
            let mut batch = 0;
            while batch < ECHO_BATCH
                && !self.is_over()
                && let Some(sample) = topics.try_recv()?
            {
                self.print(&sample, ends).await?;
                batch += 1;
            }
            if batch < ECHO_BATCH {
                self.flush(ends).await?;
            }
            if batch == ECHO_BATCH {
                // Signals are looked for while it waits.
                tokio::task::yield_now().await;
            }
            tokio::select! {
                biased;
                () = ends.recv() => self.output.end(),
                () = &mut nobody, if is_patient => {
                    is_patient = false;
                    if self.count == 0 && topics.stats().publishers == 0 {
                        let names = escaped(&self.args.topics.join(", "));
                        note!("mesh: nobody sends to {names} yet: waiting");
                    }
                }
                sample = topics.recv(), if !self.is_over() => self.print(&sample?, ends).await?,
                else => {}
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.output.is_ending() || self.count_max.is_some_and(|count| self.count >= count)
    }

    async fn print(&mut self, sample: &Sample<Untyped>, ends: &mut Ends) -> Result<(), Failure> {
        self.count += 1;
        let start = self.out.len();
        self.begin(sample)?;
        let (ty, out) = (sample.topic_type(), &mut self.out);
        match self.reading.add(ty, sample, out).await {
            Ok(()) => {}
            // Of one topic the first message is enough to see a mistake; later ones may differ.
            Err(Unread::NoSuchField(text)) if self.count == 1 && !self.is_named => {
                self.out.truncate(start);
                return Err(Failure::usage(text));
            }
            // Of several, those that have the field are wanted.
            Err(Unread::NoSuchField(text)) if self.is_named => {
                self.out.truncate(start);
                self.count -= 1;
                self.leave_out(sample.topic(), &text);
                return Ok(());
            }
            Err(why) if self.args.json => {
                self.out.extend_from_slice(b"null,\"error\":");
                serde_json::to_writer(&mut self.out, &why.to_string())?;
            }
            Err(why) => {
                self.out.truncate(start);
                let (topic, number) = (escaped(sample.topic()), sample.sequence());
                note!("mesh: message {number} of {topic}: {why}");
                return Ok(());
            }
        }
        self.out
            .extend_from_slice(if self.args.json { b"}\n" } else { b"\n" });
        if self.out.len() >= ECHO_BYTES {
            self.flush(ends).await?;
        }
        Ok(())
    }

    fn leave_out(&mut self, topic: &str, why: &str) {
        if self.without_field.contains(topic) {
            return;
        }
        note!("mesh: {} is left out: {why}", escaped(topic));
        if self.without_field.len() >= FORMS_MAX {
            self.without_field.clear();
        }
        self.without_field.insert(topic.to_owned());
    }

    /// What comes before the message.
    fn begin(&mut self, sample: &Sample<Untyped>) -> Result<(), Failure> {
        if !self.heading.is_of(sample) {
            self.heading = Heading::of(sample);
        }
        let out = &mut self.out;
        if self.args.json {
            out.extend_from_slice(self.heading.json.as_bytes());
            serde_json::to_writer(&mut *out, &sample.sequence())?;
            out.extend_from_slice(b",\"sent_ns\":");
            serde_json::to_writer(&mut *out, &sample.sent_ns())?;
            out.extend_from_slice(b",\"lost\":");
            serde_json::to_writer(&mut *out, &sample.lost_before())?;
            out.extend_from_slice(b",\"data\":");
        } else if self.is_named {
            out.extend_from_slice(self.heading.plain.as_bytes());
        }
        Ok(())
    }

    async fn flush(&mut self, ends: &mut Ends) -> Result<(), Failure> {
        let written = self.output.write(&self.out, ends).await?;
        self.out.drain(..written);
        Ok(())
    }
}
