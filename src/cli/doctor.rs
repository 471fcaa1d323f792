//! `mesh doctor`: is this computer, and the mesh, as it should be?
//!
//! What is looked at is gathered here; what to think of it is in `checks`, which are functions of
//! texts and numbers.

mod checks;

use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use shmesh_shm::{StatusReader, status};

use self::checks::{Check, Level, Page, PageState};
use super::reach::{named_coordinator, parse_address};
use super::security::SecurityArgs;
use super::show::document;
use super::{Exit, Failure, runtime};
use crate::limits::VISIT_MS_MAX;
use crate::visit::Visit;
use crate::with_port;

/// Check this computer and the mesh, and say what to do about what is not as it should be.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh doctor            look, and change nothing
  mesh doctor --clean    and remove what dead nodes left in /dev/shm
  mesh doctor --coordinator robot-1
                         of a mesh on another computer

Exit codes: 0 nothing failed, 1 something did, 2 wrong usage.")]
pub struct DoctorArgs {
    /// Remove the status pages of dead nodes, as the next start of a node would
    #[arg(long)]
    pub clean: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Coordinator to look for [default: $SHMESH_COORDINATOR, else 127.0.0.1:7679]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_address)]
    pub coordinator: Option<String>,
    /// Which mesh, and its key.
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// Looks, and prints.
///
/// # Errors
/// If a check fails.
pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let named = named_coordinator(args.coordinator.as_ref())?;
    let mut all = of_this_computer(args.clean);
    all.extend(of_the_mesh(args, named));
    if args.json {
        document(&json!({"checks": all}))?;
    } else {
        let mut out = std::io::stdout().lock();
        for check in &all {
            write!(out, "{check}")?;
        }
        out.flush()?;
    }
    let failed: Vec<&str> = all
        .iter()
        .filter(|check| check.level == Level::Fail)
        .map(|check| check.name)
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure {
        exit: Exit::Failure,
        error: anyhow::anyhow!("failed: {}", failed.join(", ")),
    })
}

fn text_of(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn of_this_computer(cleans: bool) -> Vec<Check> {
    let space = rustix::fs::statvfs("/dev/shm").ok().map(|found| {
        let block = found.f_frsize;
        (found.f_blocks * block, found.f_bavail * block)
    });
    let removed = if cleans { status::sweep() } else { Vec::new() };
    let limits = text_of("/proc/self/limits").unwrap_or_default();
    let cgroup =
        ["pids.max", "pids.current"].map(|name| text_of(&format!("/sys/fs/cgroup/{name}")));
    let [pids_max, pids_now] = cgroup;
    let allowed = rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count());
    let online = text_of("/sys/devices/system/cpu/online").unwrap_or_default();
    let clock = text_of("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let huge = text_of("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let meminfo = text_of("/proc/meminfo").unwrap_or_default();
    let pages = pages();
    vec![
        checks::space(space),
        checks::orphans(&pages, &removed),
        checks::versions(&pages),
        checks::locked_memory(&limits),
        checks::files(&limits),
        checks::processes(&limits, pids_max.as_deref(), pids_now.as_deref()),
        checks::cores(allowed, online.trim()),
        checks::governor(&governors()),
        checks::clock(clock.as_deref()),
        checks::huge_pages(huge.as_deref(), &meminfo),
    ]
}

fn governors() -> Vec<String> {
    let Ok(cpus) = std::fs::read_dir("/sys/devices/system/cpu") else {
        return Vec::new();
    };
    let paths = cpus
        .flatten()
        .map(|cpu| cpu.path().join("cpufreq/scaling_governor"));
    let texts = paths.filter_map(|path| std::fs::read_to_string(path).ok());
    texts.map(|text| text.trim().to_owned()).collect()
}

/// The status pages of this user's nodes.
fn pages() -> Vec<Page> {
    let names = status::list().into_iter();
    names
        .map(|name| {
            let metadata = std::fs::metadata(format!("/dev/shm/{name}")).ok();
            let changed = metadata.as_ref().and_then(|found| found.modified().ok());
            let age = changed.and_then(|changed| changed.elapsed().ok());
            let (state, node, pid) = match StatusReader::open(&name) {
                Ok(reader) if reader.is_alive() => {
                    (PageState::Alive, reader.node().1, reader.pid())
                }
                Ok(reader) => (PageState::Dead, reader.node().1, reader.pid()),
                Err(shmesh_shm::ShmError::NotReady) => (PageState::NotReady, String::new(), 0),
                Err(error) => (PageState::Strange(error.to_string()), String::new(), 0),
            };
            Page {
                name,
                state,
                node,
                pid,
                age: age.unwrap_or_default(),
                bytes: metadata.map_or(0, |found| found.len()),
            }
        })
        .collect()
}

/// Can the coordinator be reached, and would it let us in?
fn of_the_mesh(args: &DoctorArgs, named: Option<String>) -> Vec<Check> {
    let is_named = named.is_some();
    let address = with_port(&named.unwrap_or_else(|| "127.0.0.1".to_owned()));
    let port = checks::port(&address, is_named, connect(&address));
    let is_reached = port.level == Level::Ok;
    let mut found = vec![port];
    if is_reached {
        found.push(checks::entry(&look(args, &address)));
    }
    found
}

fn connect(address: &str) -> std::io::Result<()> {
    let patience = Duration::from_millis(VISIT_MS_MAX);
    let mut last = std::io::ErrorKind::NotFound.into();
    for one in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&one, patience) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Names of the nodes in the mesh, or why it lets nobody in.
fn look(args: &DoctorArgs, address: &str) -> Result<Vec<String>, String> {
    let looked = || {
        let credentials = args.security.credentials()?;
        runtime()?.block_on(async {
            let mut visit = Visit::begin(address, &credentials).await?;
            let topology = visit.look().await?;
            Ok(topology.nodes().map(|info| info.name.clone()).collect())
        })
    };
    looked().map_err(|failure: Failure| super::full_text(&failure.error))
}
