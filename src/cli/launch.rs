//! `mesh launch`: starts the nodes of a launch file together, and ends them together.
//!
//! What a file means is in `crate::launch`; here processes are started, and outlived. Three stand
//! one above the other, so that none is left if any two are killed: the `keeper`, which the user
//! started, the launcher (`driver`), and a guard for each process ([`child`]).

pub mod child;
mod driver;
mod keeper;
mod mesh;
mod output;
mod show;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::coordinator::join_host;
use super::security::SecurityArgs;
use super::time::{self, Time};
use super::{Exit, Failure};
use crate::launch::config::{CoordinatorEntry, Language, LaunchFile, NodeEntry, read};
use crate::limits::{COORDINATOR_PORT, LAUNCH_DELAY_S_MAX};
use crate::name::escaped_path;

/// Start the nodes of a launch file together, and end them together.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mesh launch                            the nodes of launch.yaml, and a coordinator
  mesh launch robot.toml -e camera lidar all but these
  mesh launch --dry-run                  what would be started
  mesh launch --log-dir logs             a file for each process

A launch file:
  coordinator: {port: 7679}              what it says is optional
  nodes:
    camera: {command: ./camera --rate 30, restart: on-failure}
    detector:
      command: [./detector]              a list needs no shell
      depends_on: {topic: image}

Ctrl-C ends the nodes, each after those that may need it; a second one kills them.
Exit codes: 0 all ended well, 1 one failed, 2 wrong usage or a wrong file, 130 after Ctrl-C,
143 after SIGTERM, 129 after SIGHUP.")]
pub struct LaunchArgs {
    /// The launch file, YAML or TOML [default: launch.yaml, else launch.toml]
    pub file: Option<PathBuf>,
    /// Nodes not to start: all names behind it. The launch file goes before it
    #[arg(short, long, value_name = "NODE", num_args = 1..)]
    pub exclude: Vec<String>,
    /// Start no coordinator
    #[arg(long)]
    pub no_coordinator: bool,
    /// Time for a process to end before it is killed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_grace,
        allow_negative_numbers = true)]
    pub grace: Duration,
    /// Write what nodes print into files in this directory, NAME.log each
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Say what would be started, and start nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Say what happens in lines of JSON, what nodes print included
    #[arg(long)]
    pub json: bool,
    /// Launch, as the child of the process that the user started
    #[arg(long, hide = true)]
    pub kept: bool,
    /// Which mesh, and its key.
    #[command(flatten)]
    pub security: SecurityArgs,
}

fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = text.parse().ok().map(|Time(grace)| grace);
    let grace = grace.filter(|grace| *grace <= Duration::from_secs(LAUNCH_DELAY_S_MAX));
    grace.ok_or_else(|| format!("{}; at most {LAUNCH_DELAY_S_MAX} s", time::FORM))
}

/// Launches, until all nodes ended or a signal says so.
///
/// # Errors
/// A wrong file, a coordinator that cannot listen, nodes that failed.
pub fn run(args: &LaunchArgs) -> Result<(), Failure> {
    if let Some(path) = args.exclude.iter().find(|name| is_launch_file(name)) {
        let path = crate::name::escaped(path);
        return Err(Failure::usage(format!(
            "--exclude {path}: that is a file, and all behind --exclude are nodes; name the file \
             before it: mesh launch {path} --exclude NODE.."
        )));
    }
    let path = chosen(args)?;
    let file = load(&path)?;
    let known = |name: &String| file.nodes.iter().any(|node| node.name == *name);
    if let Some(unknown) = args.exclude.iter().find(|name| !known(name)) {
        let names: Vec<&str> = file.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "--exclude {}: {} has no such node; it has {}",
            crate::name::escaped(unknown),
            escaped_path(&path),
            names.join(", ")
        )));
    }
    let host = host_name();
    let selection = Selection::new(&file, args, &host);
    if args.dry_run {
        return show::dry_run(&selection, args, &path);
    }
    if !args.kept {
        return keeper::run(args.grace);
    }
    driver::run(&selection, args, &path)
}

fn chosen(args: &LaunchArgs) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    let usual = ["launch.yaml", "launch.yml", "launch.toml"].map(PathBuf::from);
    let there = usual.into_iter().find(|path| path.exists());
    there.ok_or_else(|| Failure::usage("no launch.yaml or launch.toml here: name a file"))
}

/// True if that is meant as the launch file, and not as a node.
fn is_launch_file(name: &str) -> bool {
    let path = Path::new(name);
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_named_so = matches!(extension, Some("yaml" | "yml" | "toml"));
    (is_named_so || name.contains('/')) && path.is_file()
}

fn load(path: &Path) -> Result<LaunchFile, Failure> {
    let shown = escaped_path(path);
    let language = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => Language::Toml,
        _ => Language::Yaml,
    };
    let text = std::fs::read(path).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::usage(format!("{shown}: no text in UTF-8")))?;
    read(&text, language).map_err(|wrong| {
        let line = (wrong.line > 0).then(|| format!(":{}", wrong.line));
        Failure::usage(format!(
            "{shown}{}: {}",
            line.unwrap_or_default(),
            wrong.text
        ))
    })
}

/// As `on_host` counts, and as rosy asks for it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// What of a file is started here.
struct Selection<'a> {
    coordinator: &'a CoordinatorEntry,
    has_coordinator: bool,
    nodes: Vec<&'a NodeEntry>,
    /// Names of the others, and why not.
    left_out: Vec<(&'a str, String)>,
}

impl<'a> Selection<'a> {
    fn new(file: &'a LaunchFile, args: &LaunchArgs, host: &str) -> Self {
        let elsewhere = |on_host: &'a Option<String>| {
            let other = on_host.as_ref().filter(|wanted| wanted.as_str() != host);
            other.map(|other| format!("on host {}", crate::name::escaped(other)))
        };
        let mut nodes = Vec::new();
        let mut left_out = Vec::new();
        for node in &file.nodes {
            let why = if args.exclude.contains(&node.name) {
                Some("excluded".to_owned())
            } else if node.is_disabled {
                Some("disabled".to_owned())
            } else {
                elsewhere(&node.on_host)
            };
            match why {
                Some(why) => left_out.push((node.name.as_str(), why)),
                None => nodes.push(node),
            }
        }
        let coordinator = &file.coordinator;
        let is_here = !coordinator.is_disabled && elsewhere(&coordinator.on_host).is_none();
        Self {
            coordinator,
            has_coordinator: is_here && !args.no_coordinator,
            nodes,
            left_out,
        }
    }

    /// Where our coordinator listens: hosts, separated by commas, and a port.
    fn listen_at(&self) -> (&str, u16) {
        let hosts = match self.coordinator.host.as_deref() {
            None => "127.0.0.1",
            // Rosy's words for "all interfaces".
            Some("" | "None") => "0.0.0.0",
            Some(hosts) => hosts,
        };
        (hosts, self.coordinator.port.unwrap_or(COORDINATOR_PORT))
    }

    /// Where nodes find the coordinator: what the file says, or where ours listens. `None` leaves
    /// it to the environment.
    fn client_address(&self, listening: Option<std::net::SocketAddr>) -> Option<String> {
        let entry = self.coordinator;
        let port = listening.map(|address| address.port()).or(entry.port);
        let port_or_usual = port.unwrap_or(COORDINATOR_PORT);
        if let Some(host) = &entry.client_host {
            return Some(join_host(host, port_or_usual));
        }
        let Some(listening) = listening else {
            return port.map(|port| join_host("127.0.0.1", port));
        };
        if !listening.ip().is_unspecified() {
            return Some(listening.to_string());
        }
        let loopback = if listening.is_ipv6() {
            "::1"
        } else {
            "127.0.0.1"
        };
        Some(join_host(loopback, port_or_usual))
    }
}

/// For the end: nodes failed.
fn failed(names: &[String]) -> Failure {
    Failure {
        exit: Exit::Failure,
        error: anyhow::anyhow!("failed: {}", names.join(", ")),
    }
}
