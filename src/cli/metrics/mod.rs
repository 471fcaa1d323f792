//! `mesh metrics`: what the nodes of this host count, for Prometheus.
//!
//! It reads the status pages and asks no node anything: a node that hangs, or is dead, is seen as
//! it is, and one that works is not disturbed.

mod format;
mod http;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub(crate) use self::format::Page;
use super::signals::Ends;
use super::{Failure, runtime};
use crate::error::Error;
use crate::limits::{ACCEPT_PAUSE_MS, SCRAPES_MAX};

/// Serve what nodes of this host and user count, in the format of Prometheus.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh metrics                          serve http://127.0.0.1:9464/metrics
  mesh metrics --listen 0.0.0.0:9464    for a Prometheus on another computer
  mesh metrics --listen 127.0.0.1:0 --json
                                        a free port, said in JSON
  mesh metrics --once                   print them, and end

In prometheus.yml:
  scrape_configs:
    - job_name: shmesh
      static_configs: [{ targets: ['robot-1:9464'] }]

Messages a second, and those that were lost:
  sum by (topic) (rate(shmesh_messages_total{role=\"publisher\"}[1m]))
  sum by (node, topic, cause) (increase(shmesh_lost_total{role=\"subscriber\"}[5m])) > 0
Latencies of messages and calls, 99th percentile, of a sample:
  histogram_quantile(0.99, sum by (topic, le) (rate(shmesh_latency_seconds_bucket[1m])))
  histogram_quantile(0.99, sum by (service, le) (rate(shmesh_call_seconds_bucket[1m])))
Calls that failed:
  sum by (service, outcome) (rate(shmesh_calls_total{outcome!=\"ok\"}[1m])) > 0

Whoever reaches the address can read the names of nodes and topics.
Ends at Ctrl-C or SIGTERM. Exit codes: 0 ended so, 1 cannot listen, 2 wrong usage.")]
pub struct MetricsArgs {
    /// Address to listen at; port 0 takes a free one. Only this computer unless set
    #[arg(long, default_value = "127.0.0.1:9464")]
    pub listen: String,
    /// Say where it listens as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Print the metrics instead of serving them
    #[arg(long, conflicts_with_all = ["listen", "json"])]
    pub once: bool,
}

/// Serves until Ctrl-C or SIGTERM, or prints once.
///
/// # Errors
/// If it cannot listen, or print.
pub fn run(args: &MetricsArgs) -> Result<(), Failure> {
    if args.once {
        let mut out = std::io::stdout().lock();
        out.write_all(metrics().as_bytes())?;
        return Ok(out.flush()?);
    }
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut ends = Ends::new()?;
        let listener = listen(&args.listen).await?;
        announce(&listener, args.json)?;
        tokio::select! {
            () = ends.recv() => {}
            () = serve(listener) => {}
        }
        Ok(())
    })
}

async fn listen(address: &str) -> Result<TcpListener, Error> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|source| Error::of_listening(address, "listen for scrapes", source))
}

fn announce(listener: &TcpListener, as_json: bool) -> Result<(), Failure> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        note!("warning: whoever reaches this address can read the names of nodes and topics");
    }
    let mut out = std::io::stdout().lock();
    if as_json {
        let word = serde_json::json!({ "listening": address.to_string() });
        writeln!(out, "{word}")?;
    } else {
        writeln!(out, "metrics on http://{address}/metrics")?;
    }
    Ok(out.flush()?)
}

/// Serves scrapes, so many at once; more wait in the system's queue.
async fn serve(listener: TcpListener) {
    let places = Arc::new(Semaphore::new(SCRAPES_MAX));
    let mut has_warned = false;
    loop {
        // Fails never: nobody closes it.
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(scrape(stream, place.ok()));
            }
            Err(error) => {
                if !std::mem::replace(&mut has_warned, true) {
                    note!("warning: cannot take a scrape: {error}");
                }
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

async fn scrape<P>(stream: TcpStream, place: P) {
    http::serve(stream, metrics).await;
    drop(place);
}

/// The status pages of this host and user.
pub(crate) fn pages() -> Vec<Page> {
    let mut names = shmesh_shm::status::list();
    names.sort_unstable();
    names.iter().filter_map(|name| Page::read(name)).collect()
}

/// What they say, as text.
fn metrics() -> String {
    format::text(&pages())
}
