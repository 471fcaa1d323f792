//! `mesh service call`: a request as JSON, and the reply as JSON.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;

use crate::cli::pace::Pace;
use crate::cli::reach::ReachArgs;
use crate::cli::reading::{Reading, Wish};
use crate::cli::survey::services;
use crate::cli::writing::{bytes_of, parse};
use crate::cli::{Failure, runtime};
use crate::message::Untyped;
use crate::name::escaped;
use crate::topology::{TopicType, Topology};
use crate::visit::Visit;

/// Call a service with a request that is given as JSON, and print the reply as JSON.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh service call add '{\"left\": 2, \"right\": 40}'
  mesh service call battery null --interval 10
  mesh service call ready '\"?\"' --no-wait --timeout 0.5

The types come from who provides the service. Waits for a provider unless told not to.
Exit codes: 0 there was a reply, 1 no coordinator, no provider, no reply, or one that says an error,
2 no JSON, no value of the type, or wrong usage; nothing is sent then.")]
pub struct CallArgs {
    /// Name of the service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// The request
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub json: String,
    /// Call again every so many seconds
    #[arg(long, short, value_name = "S")]
    pub interval: Option<f64>,
    /// Call so many times [default: once, or without end with --interval]
    #[arg(long, short, value_name = "N")]
    pub count: Option<u64>,
    /// Fail if nobody provides it now
    #[arg(long)]
    pub no_wait: bool,
    /// Wait so many seconds for each reply
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub timeout: f64,
    /// Which mesh.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) fn run(args: &CallArgs) -> Result<(), Failure> {
    let service = args.service.trim_start_matches('/');
    let topic = format!("{}{service}", crate::service::REQUESTS);
    crate::name::check_topic(&topic).map_err(|error| Failure::usage(error.to_string()))?;
    let value = parse(&args.json)?;
    let timeout = Duration::try_from_secs_f64(args.timeout)
        .map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
    let mut pace = Pace::new(args.interval, args.count)?;
    runtime()?.block_on(async {
        let mut visit = args.reach.visit().await?;
        let ty = find_type(&mut visit, service, args).await?;
        let node = args.reach.join("call").await?;
        let request = bytes_of(&node, &ty, &args.json, &value).await?;
        let caller = node.caller::<Untyped, Untyped>(service).ty(ty);
        let mut caller = caller.timeout(timeout).build()?;
        let found = tokio::time::timeout(timeout, caller.wait_for_provider()).await;
        found.map_err(|_| nobody(service))??;
        let wish = Wish {
            is_for_terminal: std::io::stdout().is_terminal(),
            ..Wish::default()
        };
        let mut reading = Reading::new(&node, wish);
        while pace.next().await {
            let reply = caller.call(&request).await?;
            let mut line = Vec::new();
            let read = reading.add(reply.topic_type(), &reply, &mut line).await;
            read.map_err(|why| anyhow::anyhow!("the reply: {why}"))?;
            line.push(b'\n');
            pace.print(&line).await?;
        }
        node.close().await;
        Ok(())
    })
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
            eprintln!("mesh: nobody provides {service} yet: waiting");
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
