//! A launch file, checked: rosy's keys with rosy's meaning, and ours beside them.
//!
//! What is wrong names its line and its key, and for a key or word that is not known, the allowed
//! ones. What starts no process is decided here; nothing is asked of the system.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use self::section::Section;
use super::marked::{Marked, Value, Wrong, from_toml, from_yaml};
use crate::limits::{
    LAUNCH_DELAY_S_MAX, LAUNCH_DEPENDS_MS_DEFAULT, LAUNCH_FILE_BYTES_MAX, LAUNCH_PROCESSES_MAX,
};
use crate::name;

mod cycle;
mod section;

/// What a launch file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LaunchFile {
    pub(crate) coordinator: CoordinatorEntry,
    /// In the order of the file.
    pub(crate) nodes: Vec<NodeEntry>,
}

/// `coordinator`, as rosy has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CoordinatorEntry {
    /// Where it listens.
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    /// Where nodes find it.
    pub(crate) client_host: Option<String>,
    pub(crate) authkey: Option<Key>,
    pub(crate) post_delay: Duration,
    pub(crate) is_disabled: bool,
    pub(crate) on_host: Option<String>,
}

/// A key, which is not printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Zeroizing<String>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// One of `nodes`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeEntry {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// The program and its arguments; with a shell, that and the text for it.
    pub(crate) command: Vec<String>,
    /// Processes.
    pub(crate) number: u32,
    pub(crate) pre_delay: Duration,
    pub(crate) post_delay: Duration,
    pub(crate) is_disabled: bool,
    pub(crate) on_host: Option<String>,
    /// Variables to set, or, without a value, to take away.
    pub(crate) env: Vec<(String, Option<String>)>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) restart: Restart,
    pub(crate) depends_on: Vec<Dependency>,
    pub(crate) depends_timeout: Duration,
    /// Cores it may run on; all if empty.
    pub(crate) cpu: Vec<usize>,
    /// As `nice` counts: lower is more urgent.
    pub(crate) priority: Option<i32>,
}

/// When a process that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Restart {
    #[default]
    Never,
    OnFailure,
    Always,
}

/// What must be in the mesh before a node is started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependency {
    /// A node of this name.
    Node(String),
    /// A publisher of this topic, or of one that a pattern matches.
    Topic(String),
    /// A provider of this service.
    Service(String),
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Node(name) => ("node", name),
            Self::Topic(name) => ("topic", name),
            Self::Service(name) => ("service", name),
        };
        write!(f, "{kind} `{}`", name::escaped(name))
    }
}

/// The language of a launch file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Yaml,
    Toml,
}

/// Reads a launch file.
pub(crate) fn read(text: &str, language: Language) -> Result<LaunchFile, Wrong> {
    if text.len() > LAUNCH_FILE_BYTES_MAX {
        let text = format!("longer than {LAUNCH_FILE_BYTES_MAX} bytes");
        return Err(Wrong::at(0, text));
    }
    let tree = match language {
        Language::Yaml => from_yaml(text)?,
        Language::Toml => from_toml(text)?,
    };
    let top = Section::open("the file", &tree, &["coordinator", "nodes"])?;
    let coordinator = top.entry("coordinator").map_or_else(
        || Ok(CoordinatorEntry::default()),
        |(_, marked)| coordinator(marked),
    )?;
    let Some((_, listed)) = top.entry("nodes") else {
        return Err(Wrong::at(
            tree.line,
            "no `nodes`: a map of names to what to start",
        ));
    };
    let Value::Map(listed) = &listed.value else {
        return Err(Wrong::at(listed.line, "`nodes` is a map of names"));
    };
    let nodes = listed
        .iter()
        .map(|(key, marked)| node(&key.name, key.line, marked))
        .collect::<Result<Vec<_>, _>>()?;
    let count: u64 = nodes.iter().map(|node| u64::from(node.number)).sum();
    if count > LAUNCH_PROCESSES_MAX as u64 {
        let text = format!("{count} processes: at most {LAUNCH_PROCESSES_MAX}");
        return Err(Wrong::at(0, text));
    }
    cycle::check(&nodes)?;
    Ok(LaunchFile { coordinator, nodes })
}

const COORDINATOR_KEYS: [&str; 7] = [
    "host",
    "port",
    "client_host",
    "authkey",
    "post_delay",
    "disabled",
    "on_host",
];

fn coordinator(marked: &Marked) -> Result<CoordinatorEntry, Wrong> {
    let section = Section::open("coordinator", marked, &COORDINATOR_KEYS)?;
    let port = section.whole("port", 0..=65_535)?;
    let authkey = section.text("authkey")?;
    if let Some(key) = &authkey
        && let Err(error) = crate::AuthKey::from_text(key.as_bytes())
    {
        return Err(section.wrong("authkey", &error.to_string()));
    }
    Ok(CoordinatorEntry {
        host: section.text("host")?,
        port: port.and_then(|port| u16::try_from(port).ok()),
        client_host: section.text("client_host")?.filter(|host| !host.is_empty()),
        authkey: authkey.map(|key| Key(Zeroizing::new(key))),
        post_delay: section.seconds("post_delay")?.unwrap_or_default(),
        is_disabled: section.truth("disabled")?.unwrap_or(false),
        on_host: section.text("on_host")?,
    })
}

const NODE_KEYS: [&str; 14] = [
    "command",
    "number",
    "pre_delay",
    "post_delay",
    "disabled",
    "on_host",
    "shell",
    "env",
    "cwd",
    "restart",
    "depends_on",
    "depends_timeout",
    "cpu",
    "priority",
];

fn node(name: &str, line: usize, marked: &Marked) -> Result<NodeEntry, Wrong> {
    let shown = format!("nodes.{}", name::escaped(name));
    if let Err(error) = name::check_node(name) {
        return Err(Wrong::at(line, format!("{shown}: {error}")));
    }
    if matches!(marked.value, Value::Null) {
        return Err(Wrong::at(line, format!("{shown}: no `command`")));
    }
    let section = Section::open(&shown, marked, &NODE_KEYS)?;
    let number = section.whole("number", 0..=LAUNCH_PROCESSES_MAX as i64)?;
    let priority = section.whole("priority", -20..=19)?;
    let restart = section.word("restart", &["never", "on-failure", "always"])?;
    let timeout = Duration::from_millis(LAUNCH_DEPENDS_MS_DEFAULT);
    Ok(NodeEntry {
        name: name.to_owned(),
        line,
        command: command(&section, line)?,
        number: number.map_or(1, |number| u32::try_from(number).unwrap_or(1)),
        pre_delay: section.seconds("pre_delay")?.unwrap_or_default(),
        post_delay: section.seconds("post_delay")?.unwrap_or_default(),
        is_disabled: section.truth("disabled")?.unwrap_or(false),
        on_host: section.text("on_host")?,
        env: variables(&section)?,
        cwd: section.text("cwd")?.map(PathBuf::from),
        restart: match restart {
            Some("always") => Restart::Always,
            Some("on-failure") => Restart::OnFailure,
            _ => Restart::Never,
        },
        depends_on: dependencies(&section)?,
        depends_timeout: section.seconds("depends_timeout")?.unwrap_or(timeout),
        cpu: cores(&section)?,
        priority: priority.and_then(|priority| i32::try_from(priority).ok()),
    })
}

/// A text is for the shell and a list is a program with its arguments, unless `shell` says
/// otherwise; then, as in Python, a list is a text for the shell with its arguments.
fn command(section: &Section<'_>, line: usize) -> Result<Vec<String>, Wrong> {
    let Some((_, marked)) = section.entry("command") else {
        return Err(Wrong::at(line, format!("{}: no `command`", section.name())));
    };
    let is_text = !matches!(marked.value, Value::List(_));
    let with_shell = section.truth("shell")?.unwrap_or(is_text);
    let words = section.texts("command")?;
    if words.first().is_none_or(|word| word.trim().is_empty()) {
        return Err(section.wrong("command", "there is nothing to start"));
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err(section.wrong("command", "a command has no zero bytes"));
    }
    if is_text && !with_shell {
        let text = "without a shell it is a list: [program, argument, ..]";
        return Err(section.wrong("command", text));
    }
    let shell = with_shell.then_some(["/bin/sh", "-c"]);
    let shell = shell.into_iter().flatten().map(str::to_owned);
    Ok(shell.chain(words).collect())
}

fn variables(section: &Section<'_>) -> Result<Vec<(String, Option<String>)>, Wrong> {
    let Some((_, marked)) = section.entry("env") else {
        return Ok(Vec::new());
    };
    let Value::Map(entries) = &marked.value else {
        return Err(section.wrong("env", "a map of names to values"));
    };
    let mut variables = Vec::new();
    for (key, value) in entries {
        let is_good = !key.name.is_empty() && !key.name.contains(['=', '\0']);
        let text = match &value.value {
            Value::Null => None,
            Value::Plain(text) | Value::Quoted(text) if !text.contains('\0') => Some(text.clone()),
            _ => {
                return Err(Wrong::at(
                    value.line,
                    format!("{}.env: a text", section.name()),
                ));
            }
        };
        if !is_good {
            let text = format!("{}.env: not the name of a variable", section.name());
            return Err(Wrong::at(key.line, text));
        }
        variables.push((key.name.clone(), text));
    }
    Ok(variables)
}

fn dependencies(section: &Section<'_>) -> Result<Vec<Dependency>, Wrong> {
    let Some((_, marked)) = section.entry("depends_on") else {
        return Ok(Vec::new());
    };
    let one = std::slice::from_ref(marked);
    let items = match &marked.value {
        Value::List(items) => items.as_slice(),
        _ => one,
    };
    let mut found = Vec::new();
    for item in items {
        if !matches!(item.value, Value::Map(_)) {
            let text = format!(
                "{}.depends_on: `node: NAME`, `topic: NAME` or `service: NAME`, or a list of such",
                section.name()
            );
            return Err(Wrong::at(item.line, text));
        }
        let shown = format!("{}.depends_on", section.name());
        let kinds = Section::open(&shown, item, &["node", "topic", "service"])?;
        for name in kinds.texts("node")? {
            let checked = name::check_node(&name);
            checked.map_err(|error| kinds.wrong("node", &error.to_string()))?;
            found.push(Dependency::Node(name));
        }
        for name in kinds.texts("topic")? {
            let plain = name::check_pattern(&name).map(str::to_owned);
            let plain = plain.map_err(|error| kinds.wrong("topic", &error.to_string()))?;
            found.push(Dependency::Topic(plain));
        }
        for name in kinds.texts("service")? {
            let plain = name::check_topic(&name).map(str::to_owned);
            let plain = plain.map_err(|error| kinds.wrong("service", &error.to_string()))?;
            found.push(Dependency::Service(plain));
        }
    }
    Ok(found)
}

/// `3`, `[0, 2]` or `0-2,5`.
fn cores(section: &Section<'_>) -> Result<Vec<usize>, Wrong> {
    let wrong = || section.wrong("cpu", "cores, as in 3, [0, 2] or \"0-2,5\"");
    let mut cores = Vec::new();
    for text in section.texts("cpu")? {
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let bound = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
            let (first, last) = (bound(first)?, bound(last)?);
            if last < first || last >= rustix::thread::CpuSet::MAX_CPU {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(cores)
}

const _: () = assert!(LAUNCH_DEPENDS_MS_DEFAULT <= LAUNCH_DELAY_S_MAX * 1000);

#[cfg(test)]
mod tests;
