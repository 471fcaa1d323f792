//! `mesh topic`: the topics of a mesh.

mod echo;
mod info;
mod list;
mod measure;
mod send;

use clap::Subcommand;

use self::measure::Measure;
use super::Failure;
use crate::name::{check_pattern, escaped};

/// The topics of a mesh.
#[derive(Clone, Debug, Subcommand)]
pub enum TopicVerb {
    /// List the topics
    List(list::ListArgs),
    /// Say who sends to a topic, who receives, and which types
    Info(info::InfoArgs),
    /// Say which type a topic has
    #[command(after_help = "\
Examples:
  mesh topic type camera/left
  mesh topic type camera/left --json | jq '.types[].name'

Of several types, each on a line; of archives `mesh topic info` says what they look like.
Exit codes: 0 success, 1 no coordinator, 2 nobody has to do with that topic, or wrong usage.")]
    Type(info::InfoArgs),
    /// Print messages as JSON
    Echo(echo::EchoArgs),
    /// Send a message that is given as JSON
    #[command(visible_alias = "pub")]
    Send(send::SendArgs),
    /// Say how often messages come
    #[command(after_help = "\
Examples:
  mesh topic hz imu
  mesh topic hz 'arm/*/joint' --window 100
  mesh topic hz imu --count 1000 --json | tail -1

Goes by the times of sending where messages have them, else of arrival. What was lost on the way to
this tool counts as sent, in the rate and in the periods: as if at equal distances. Waits while
nobody sends. Ends at Ctrl-C, or after --count messages.
Exit codes: 0 success, 1 no coordinator, 2 wrong usage.")]
    Hz(measure::MeasureArgs),
    /// Say how many bytes come
    #[command(after_help = "\
Examples:
  mesh topic bw camera
  mesh topic bw 'camera/*' --window 100

What was lost on the way to this tool counts as sent. Waits while nobody sends. Ends at Ctrl-C, or
after --count messages.
Exit codes: 0 success, 1 no coordinator, 2 wrong usage.")]
    Bw(measure::MeasureArgs),
    /// Say how long messages take to come here
    #[command(after_help = "\
Examples:
  mesh topic delay camera
  mesh topic delay camera --count 1000 --json | tail -1

From the time of sending to the time of receiving, which needs a publisher of this computer that
stamps its messages. Waits while nobody sends. Ends at Ctrl-C, or after --count messages.
Exit codes: 0 success, 1 no coordinator, 2 wrong usage.")]
    Delay(measure::MeasureArgs),
}

/// Does what the verb says.
///
/// # Errors
/// If the coordinator cannot be reached, or there is no such topic.
pub fn run(verb: &TopicVerb) -> Result<(), Failure> {
    match verb {
        TopicVerb::List(args) => list::run(args),
        TopicVerb::Info(args) => info::run(args),
        TopicVerb::Type(args) => info::run_type(args),
        TopicVerb::Echo(args) => echo::run(args),
        TopicVerb::Send(args) => send::run(args),
        TopicVerb::Hz(args) => measure::run(Measure::Rate, args),
        TopicVerb::Bw(args) => measure::run(Measure::Bandwidth, args),
        TopicVerb::Delay(args) => measure::run(Measure::Delay, args),
    }
}

/// Checks names of topics or patterns of them.
fn check_wanted(topics: &[String]) -> Result<(), Failure> {
    for topic in topics {
        refuse_services(check_pattern(topic)?)?;
    }
    Ok(())
}

/// What services send has its own verbs.
fn refuse_services(topic: &str) -> Result<(), Failure> {
    if !topic.starts_with('@') {
        return Ok(());
    }
    let topic = escaped(topic);
    let text = format!("{topic} belongs to a service: see `mesh service call` and `info`");
    Err(Failure::usage(text))
}
