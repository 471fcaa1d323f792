//! `mesh coordinator`: runs a coordinator until a signal.

use std::io::Write as _;

use clap::Args;

use super::security::SecurityArgs;
use super::signals::Ends;
use super::{Failure, runtime};
use crate::coordinator::Coordinator;
use crate::error::Error;
use crate::limits::COORDINATOR_PORT;

/// Tell nodes about each other. Messages never pass through the coordinator, and go on without it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh coordinator                      nodes of this computer
  mesh coordinator --host 0.0.0.0 --authkey-file key
                                        nodes of other computers that have the key
  mesh coordinator --host 127.0.0.1,10.0.0.2
                                        this computer, and one of its networks
  mesh coordinator --port 0 --json      a free port, said in JSON

Ends at Ctrl-C or SIGTERM. Exit codes: 0 ended so, 1 cannot listen, 2 wrong usage.")]
pub struct CoordinatorArgs {
    /// Addresses to listen at, separated by commas. Only this computer unless set
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen at; 0 takes a free one
    #[arg(long, default_value_t = COORDINATOR_PORT)]
    pub port: u16,
    /// Say where it listens as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Which mesh, and its key.
    #[command(flatten)]
    pub security: SecurityArgs,
}

impl Default for CoordinatorArgs {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: COORDINATOR_PORT,
            json: false,
            security: SecurityArgs::default(),
        }
    }
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// If it cannot listen.
pub fn run(args: &CoordinatorArgs) -> Result<(), Failure> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let coordinator = bind(&args.host, args.port).await?;
        let coordinator = args.security.secure_coordinator(coordinator)?;
        let addresses = coordinator.local_addrs()?;
        let is_reachable = addresses.iter().any(|address| !address.ip().is_loopback());
        if !coordinator.is_keyed() && is_reachable {
            note!("warning: whoever reaches this address can join: better with --authkey-file");
        }
        let mut ends = Ends::new()?;
        announce(&coordinator, args.json)?;
        coordinator.run(ends.recv()).await;
        Ok(())
    })
}

/// Listens at the addresses of all those hosts, separated by commas; all at one port. One that is
/// free at the first may be taken at another: then a further one is tried.
pub(super) async fn bind(hosts: &str, port: u16) -> Result<Coordinator, Error> {
    let mut tries_left = if port == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        tries_left -= 1;
        match bind_once(hosts, port).await {
            Err(Error::AddressInUse { .. }) if tries_left > 0 => {}
            bound => return bound,
        }
    }
}

const FREE_PORT_TRIES: u32 = 16;

async fn bind_once(hosts: &str, mut port: u16) -> Result<Coordinator, Error> {
    let mut hosts = hosts.split(',').map(str::trim);
    let first = hosts.next().unwrap_or_default();
    let mut coordinator = Coordinator::bind(&join_host(first, port)).await?;
    port = coordinator.local_addr()?.port();
    for host in hosts {
        coordinator = coordinator.also_at(&join_host(host, port)).await?;
    }
    Ok(coordinator)
}

pub(super) fn join_host(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn announce(coordinator: &Coordinator, as_json: bool) -> Result<(), Failure> {
    let addresses = coordinator.local_addrs()?;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut out = std::io::stdout().lock();
    if as_json {
        let word = serde_json::json!({
            "listening": addresses[0],
            "addresses": addresses,
            "epoch": coordinator.epoch(),
        });
        writeln!(out, "{word}")?;
    } else {
        writeln!(out, "coordinator listening on {}", addresses.join(", "))?;
    }
    out.flush()?;
    Ok(())
}
