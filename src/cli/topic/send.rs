//! `mesh topic send`: JSON as messages of whatever type the topic has.

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::refuse_services;
use crate::cli::pace::Pace;
use crate::cli::reach::ReachArgs;
use crate::cli::show::{line, type_text};
use crate::cli::survey::topic_ends;
use crate::cli::time::Time;
use crate::cli::writing::{bytes_of, parse};
use crate::cli::{Failure, runtime};
use crate::error::Error;
use crate::limits::{NOBODY_MS, VISIT_MS_MAX};
use crate::message::Untyped;
use crate::name::{check_topic, escaped};
use crate::node::Node;
use crate::publisher::Publisher;
use crate::topology::{Encoding, TopicType, Topology};
use crate::visit::Visit;

/// Send a message that is given as JSON, in the type that those on the topic have.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh topic send move '{\"x\": 0.5, \"frame\": \"map\"}'
  mesh topic send move '{\"x\": 0.5, \"frame\": \"map\"}' --interval 0.1
  mesh topic send greetings '\"hello\"' --json-topic
  mesh topic send blob '[0, 255, 7]'

The type comes from who is on the topic: its subscribers, else its publishers. Archives and
MessagePack are written from the JSON; JSON topics get it as it is; raw ones a text's bytes, or a
list of bytes. Waits for somebody on the topic, and for a subscriber, unless told not to.
Exit codes: 0 sent, 1 no coordinator, nobody says what the topic carries or what its type looks
like, or Ctrl-C before anything was sent, 2 no JSON, no value of the type, types that contend for
the topic, or wrong usage; nothing is sent then.")]
pub struct SendArgs {
    /// Name of the topic
    #[arg(value_name = "TOPIC")]
    pub topic: String,
    /// The message
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub json: String,
    /// Send it again every so often, such as 0.5, 500ms or 2m
    #[arg(long, short, value_name = "TIME", allow_negative_numbers = true)]
    pub interval: Option<Time>,
    /// Send it so many times [default: once, or without end with --interval]
    #[arg(long, short, value_name = "N")]
    pub count: Option<u64>,
    /// Do not wait for a subscriber; those that are there already get it
    #[arg(long)]
    pub no_wait: bool,
    /// Make it a JSON topic of that type if nobody is there who says what it is
    #[arg(long, value_name = "TYPE", num_args = 0..=1, require_equals = true,
        default_missing_value = "Value")]
    pub json_topic: Option<String>,
    /// Say as a line of JSON how many messages were sent, and to how many subscribers
    #[arg(long = "json")]
    pub json_output: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &SendArgs) -> Result<(), Failure> {
    let topic = check_topic(&args.topic)?;
    refuse_services(topic)?;
    let value = parse(&args.json)?;
    runtime()?.block_on(async {
        let mut pace = Pace::new(args.interval, args.count)?;
        let mut visit = args.reach.visit().await?;
        if pace.is_over() {
            return say(args, topic, Sent::default());
        }
        let found = pace.ends.unless(find_type(&mut visit, topic, args)).await;
        let found = found.ok_or_else(unsent)??;
        let node = args.reach.join("send").await?;
        let sent = send(&node, args, topic, (&value, found), &mut pace).await;
        node.close().await;
        say(args, topic, sent?)
    })
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    messages: u64,
    /// When the last one was sent.
    subscribers: usize,
}

/// Sends the value, as what was found on the topic, until there was enough or a signal comes.
async fn send(
    node: &Node,
    args: &SendArgs,
    topic: &str,
    (value, (ty, are_listening)): (&Value, (TopicType, bool)),
    pace: &mut Pace,
) -> Result<Sent, Failure> {
    let bytes = pace.ends.unless(bytes_of(node, &ty, &args.json, value));
    let bytes = bytes.await.ok_or_else(unsent)??;
    let publisher = node.publisher::<Untyped>(topic).ty(ty);
    let mut publisher: Publisher<Untyped> = publisher.build()?;
    if !args.no_wait {
        let found = pace.ends.unless(find_listener(&mut publisher, topic));
        found.await.ok_or_else(unsent)??;
    } else if are_listening {
        let patience = Duration::from_millis(VISIT_MS_MAX);
        let found = tokio::time::timeout(patience, publisher.wait_for_listener());
        // Perhaps it went: then nobody was there.
        let _ = pace.ends.unless(found).await.ok_or_else(unsent)?;
    }
    let mut sent = Sent::default();
    while pace.next().await {
        let published = pace.ends.unless(publisher.publish_bytes_async(&bytes));
        let Some(published) = published.await else {
            break;
        };
        published?;
        sent.messages += 1;
        sent.subscribers = publisher.listener_count();
    }
    if sent.messages == 0 && args.interval.is_none() {
        return Err(unsent());
    }
    Ok(sent)
}

fn unsent() -> Failure {
    anyhow::anyhow!("nothing was sent: a signal came before").into()
}

/// Waits for a subscriber, and says so after a moment.
async fn find_listener(publisher: &mut Publisher<Untyped>, topic: &str) -> Result<(), Error> {
    let mut found = pin!(publisher.wait_for_listener());
    tokio::select! {
        biased;
        found = &mut found => return found,
        () = tokio::time::sleep(Duration::from_millis(NOBODY_MS)) => {}
    }
    let topic = escaped(topic);
    note!("mesh: waiting for a subscriber of {topic} (Ctrl-C ends, --no-wait sends without)");
    found.await
}

fn say(args: &SendArgs, topic: &str, sent: Sent) -> Result<(), Failure> {
    if args.json_output {
        line(&json!({
            "topic": topic,
            "sent": sent.messages,
            "subscriber_count": sent.subscribers,
        }))?;
    }
    Ok(())
}

/// What the topic has, and whether somebody subscribes to it; waits until somebody is there.
async fn find_type(
    visit: &mut Visit,
    topic: &str,
    args: &SendArgs,
) -> Result<(TopicType, bool), Failure> {
    let mut is_first = true;
    loop {
        let topology = visit.look().await?;
        let are_listening = !topic_ends(&topology, topic).subscribers.is_empty();
        if let Some(ty) = type_on(&topology, topic)? {
            return Ok((ty, are_listening));
        }
        if let Some(name) = &args.json_topic {
            let ty = TopicType {
                encoding: Encoding::Json,
                name: name.clone(),
                hash: 0,
            };
            ty.check()
                .map_err(|error| Failure::usage(error.to_string()))?;
            return Ok((ty, are_listening));
        }
        if args.no_wait {
            let text = format!(
                "nobody on {topic} says what it carries: start a node that does, or make it a JSON \
                 topic with --json-topic"
            );
            return Err(anyhow::anyhow!(text).into());
        }
        if std::mem::take(&mut is_first) {
            note!("mesh: nobody says what {topic} carries yet: waiting (--json-topic does not)");
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Between two looks; a visitor may look that often.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The type of those who want the topic by name; else of who sends to it, or subscribes to
/// patterns.
fn type_on(topology: &Topology, topic: &str) -> Result<Option<TopicType>, Failure> {
    let ends = topic_ends(topology, topic);
    let exact = ends.subscribers.iter();
    let exact = exact.filter(|end| end.endpoint.topic == topic);
    let groups = [
        exact.collect::<Vec<_>>(),
        ends.publishers.iter().collect(),
        ends.subscribers.iter().collect(),
    ];
    for group in groups {
        let mut types: Vec<&TopicType> = Vec::new();
        for end in group {
            let ty = &end.endpoint.ty;
            if ty.encoding != Encoding::Any && !types.contains(&ty) {
                types.push(ty);
            }
        }
        match types[..] {
            [] => {}
            [ty] => return Ok(Some(ty.clone())),
            _ => {
                let mut names: Vec<String> = types.into_iter().map(type_text).collect();
                names.sort_unstable();
                let (topic, names) = (escaped(topic), names.join(", "));
                let text = format!("{topic} is contended for by {names}: see `mesh topic info`");
                return Err(Failure::usage(text));
            }
        }
    }
    Ok(None)
}
