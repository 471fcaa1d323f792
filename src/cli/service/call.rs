//! `mesh service call`: a request as JSON, and the reply as JSON.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::pace::Pace;
use crate::cli::reach::ReachArgs;
use crate::cli::reading::{Reading, Wish};
use crate::cli::survey::services;
use crate::cli::time::Time;
use crate::cli::writing::{bytes_of, parse};
use crate::cli::{Failure, full_text, runtime};
use crate::message::Untyped;
use crate::name::escaped;
use crate::node::Node;
use crate::topology::{TopicType, Topology};
use crate::visit::Visit;

/// Call a service with a request that is given as JSON, and print the reply as JSON.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh service call add '{\"left\": 2, \"right\": 40}'
  mesh service call battery null --interval 10
  mesh service call ready '\"?\"' --no-wait --timeout 500ms
  mesh service call add '{\"left\": 2, \"right\": 40}' --json | jq .seconds

The types come from who provides the service. Waits for a provider unless told not to.
Exit codes: 0 there was a reply, 1 no coordinator, no provider, no reply (or Ctrl-C before it), or
one that says an error, 2 no JSON, no value of the type, or wrong usage; nothing is sent then.")]
pub struct CallArgs {
    /// Name of the service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// The request
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub json: String,
    /// Call again every so often, such as 0.5, 500ms or 2m
    #[arg(long, short, value_name = "TIME", allow_negative_numbers = true)]
    pub interval: Option<Time>,
    /// Call so many times [default: once, or without end with --interval]
    #[arg(long, short, value_name = "N")]
    pub count: Option<u64>,
    /// Fail if nobody provides it now
    #[arg(long)]
    pub no_wait: bool,
    /// Wait so long for each reply
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        allow_negative_numbers = true
    )]
    pub timeout: Time,
    /// Print an object with the reply, or the error, and how long the call took
    #[arg(long = "json")]
    pub json_output: bool,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &CallArgs) -> Result<(), Failure> {
    let service = args.service.trim_start_matches('/');
    let topic = format!("{}{service}", crate::service::REQUESTS);
    crate::name::check_topic(&topic)?;
    let value = parse(&args.json)?;
    if args.timeout.0.is_zero() {
        return Err(Failure::usage("--timeout: expected more than 0"));
    }
    runtime()?.block_on(async {
        let mut pace = Pace::new(args.interval, args.count)?;
        let mut visit = args.reach.visit().await?;
        if pace.is_over() {
            return Ok(());
        }
        let found = pace.ends.unless(find_type(&mut visit, service, args)).await;
        let ty = found.ok_or_else(unanswered)??;
        let node = args.reach.join("call").await?;
        let called = call(&node, args, service, (&value, ty), &mut pace).await;
        node.close().await;
        called
    })
}

/// Calls, until there was enough or a signal comes.
async fn call(
    node: &Node,
    args: &CallArgs,
    service: &str,
    (value, ty): (&Value, TopicType),
    pace: &mut Pace,
) -> Result<(), Failure> {
    let request = pace.ends.unless(bytes_of(node, &ty, &args.json, value));
    let request = request.await.ok_or_else(unanswered)??;
    let timeout = args.timeout.0;
    let caller = node.caller::<Untyped, Untyped>(service).ty(ty);
    let mut caller = caller.timeout(timeout).build()?;
    let found = tokio::time::timeout(timeout, caller.wait_for_provider());
    let found = pace.ends.unless(found).await.ok_or_else(unanswered)?;
    found.map_err(|_| unreached(service, args.timeout))??;
    let wish = Wish {
        is_for_terminal: std::io::stdout().is_terminal(),
        ..Wish::default()
    };
    let mut reading = Reading::new(node, wish);
    let mut replies = 0_u64;
    while pace.next().await {
        let begun = Instant::now();
        let mut reply = Vec::new();
        let asked = async {
            let sample = caller.call(&request).await?;
            let read = reading.add(sample.topic_type(), &sample, &mut reply).await;
            read.map_err(|why| anyhow::anyhow!("the reply: {why}"))
        };
        let Some(answered) = pace.ends.unless(asked).await else {
            break;
        };
        let line = match args.json_output {
            true => json_line(service, &answered, &reply, begun.elapsed()),
            false => reply,
        };
        if !line.is_empty() {
            pace.print(&[&line[..], b"\n"].concat()).await?;
        }
        answered?;
        replies += 1;
    }
    if replies == 0 && args.interval.is_none() {
        return Err(unanswered());
    }
    Ok(())
}

/// A call and what came of it; the reply is JSON already.
fn json_line(
    service: &str,
    answered: &anyhow::Result<()>,
    reply: &[u8],
    took: Duration,
) -> Vec<u8> {
    let mut text = format!("{{\"service\":{},", json!(service)).into_bytes();
    match answered {
        Ok(()) => text.extend([&b"\"reply\":"[..], reply].concat()),
        Err(error) => {
            let error = json!(full_text(error));
            text.extend(format!("\"error\":{error}").into_bytes());
        }
    }
    text.extend(format!(",\"seconds\":{}}}", json!(took.as_secs_f64())).into_bytes());
    text
}

fn unanswered() -> Failure {
    anyhow::anyhow!("there was no reply: a signal came before").into()
}

/// It is listed, and yet it cannot be called.
fn unreached(service: &str, timeout: Time) -> Failure {
    let service = escaped(service);
    let text = format!(
        "no provider of {service} could be reached within {timeout} s: a longer --timeout, or \
         `mesh doctor`"
    );
    anyhow::anyhow!(text).into()
}

fn nobody(service: &str) -> Failure {
    let service = escaped(service);
    anyhow::anyhow!("nobody provides {service}: start a provider; see `mesh service list`").into()
}

/// What its providers are asked; waits until there is one.
async fn find_type(
    visit: &mut Visit,
    service: &str,
    args: &CallArgs,
) -> Result<TopicType, Failure> {
    let mut is_first = true;
    loop {
        if let Some(ty) = type_of(&visit.look().await?, service) {
            return Ok(ty);
        }
        if args.no_wait {
            return Err(nobody(service));
        }
        if std::mem::take(&mut is_first) {
            let service = escaped(service);
            note!("mesh: nobody provides {service} yet: waiting");
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Between two looks; a visitor may look that often.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

fn type_of(topology: &Topology, service: &str) -> Option<TopicType> {
    let services = services(topology);
    let provider = services.get(service)?.providers.first()?;
    Some(provider.endpoint.ty.clone())
}
