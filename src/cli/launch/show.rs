//! What would be started, and what happens, in words.

use std::io::Write as _;
use std::path::Path;

use serde_json::json;

use super::{LaunchArgs, Selection};
use crate::cli::Failure;
use crate::cli::coordinator::join_host;
use crate::launch::config::{NodeEntry, Restart};
use crate::launch::plan::End;
use crate::name::{escaped, escaped_path};

/// Prints what would be started, in order. Values of variables may be secrets and are left out.
pub(super) fn dry_run(
    selection: &Selection<'_>,
    args: &LaunchArgs,
    path: &Path,
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let address = selection.client_address(None);
    let listen = selection.has_coordinator.then(|| {
        let (hosts, port) = selection.listen_at();
        let addresses = hosts.split(',').map(|host| join_host(host.trim(), port));
        addresses.collect::<Vec<_>>().join(", ")
    });
    if args.json {
        let coordinator = json!({
            "event": "would_start_coordinator", "listen": listen, "nodes_use": address,
        });
        writeln!(out, "{coordinator}")?;
        for node in &selection.nodes {
            writeln!(out, "{}", described(node))?;
        }
        for (name, why) in &selection.left_out {
            let word = json!({"event": "would_leave_out", "node": name, "reason": why});
            writeln!(out, "{word}")?;
        }
        return Ok(());
    }
    writeln!(out, "{}:", escaped_path(path))?;
    match (listen, address) {
        (Some(listen), _) => writeln!(out, "coordinator at {}", escaped(&listen))?,
        (None, Some(address)) => {
            writeln!(out, "no coordinator; nodes use {}", escaped(&address))?;
        }
        (None, None) => writeln!(out, "no coordinator")?,
    }
    for node in &selection.nodes {
        writeln!(out, "{}", sentence(node))?;
    }
    for (name, why) in &selection.left_out {
        writeln!(out, "{name} is not started: {why}")?;
    }
    Ok(out.flush()?)
}

/// A command as one would type it.
pub(super) fn quoted(command: &[String]) -> String {
    let quote = |word: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            escaped(&format!("'{}'", word.replace('\'', "'\\''"))).replace("\\'", "'")
        }
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn restart_word(restart: Restart) -> &'static str {
    match restart {
        Restart::Never => "never",
        Restart::OnFailure => "on-failure",
        Restart::Always => "always",
    }
}

fn described(node: &NodeEntry) -> serde_json::Value {
    let names: Vec<&String> = node.env.iter().map(|(name, _)| name).collect();
    let depends: Vec<String> = node.depends_on.iter().map(ToString::to_string).collect();
    json!({
        "event": "would_start", "node": node.name, "command": node.command,
        "number": node.number, "pre_delay_s": node.pre_delay.as_secs_f64(),
        "post_delay_s": node.post_delay.as_secs_f64(), "restart": restart_word(node.restart),
        "depends_on": depends, "cpu": node.cpu, "priority": node.priority, "cwd": node.cwd,
        "env": names,
    })
}

fn sentence(node: &NodeEntry) -> String {
    let mut more = Vec::new();
    if node.number != 1 {
        more.push(format!("{} processes", node.number));
    }
    if !node.pre_delay.is_zero() {
        more.push(format!("after {} s", node.pre_delay.as_secs_f64()));
    }
    if !node.post_delay.is_zero() {
        more.push(format!("then {} s of pause", node.post_delay.as_secs_f64()));
    }
    if !node.depends_on.is_empty() {
        let names: Vec<String> = node.depends_on.iter().map(ToString::to_string).collect();
        more.push(format!("once there is {}", names.join(", ")));
    }
    if node.restart != Restart::Never {
        more.push(format!("restart {}", restart_word(node.restart)));
    }
    if !node.cpu.is_empty() {
        more.push(format!("on cores {:?}", node.cpu));
    }
    if let Some(priority) = node.priority {
        more.push(format!("priority {priority}"));
    }
    if let Some(cwd) = &node.cwd {
        more.push(format!("in {}", escaped_path(cwd)));
    }
    if !node.env.is_empty() {
        let names: Vec<&str> = node.env.iter().map(|(name, _)| name.as_str()).collect();
        more.push(format!("with {}", names.join(", ")));
    }
    let more = more.join("; ");
    let separator = if more.is_empty() { "" } else { "\n    " };
    format!("{}: {}{separator}{more}", node.name, quoted(&node.command))
}

/// How a process ended, for people.
pub(super) fn end_text(end: &End) -> String {
    match end {
        End::Code(0) => "ended".to_owned(),
        End::Code(code) => format!("failed with exit code {code}"),
        End::Signal(number) => format!("was ended by signal {number}"),
        End::NotStarted(why) => format!("could not be started: {}", escaped(why)),
    }
}

/// And for programs.
pub(super) fn end_json(end: &End) -> serde_json::Value {
    match end {
        End::Code(code) => json!({"code": code}),
        End::Signal(number) => json!({"signal": number}),
        End::NotStarted(why) => json!({"not_started": why}),
    }
}
