//! What to think of what was found. No I/O here: texts and numbers in, a [`Check`] out.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::limits::ENDPOINTS_PER_NODE_MAX;
use crate::link::handshake::PROTOCOL_VERSION;
use crate::name::escaped;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It works, worse than it could or not for long.
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) level: Level,
    pub(super) found: String,
    /// What to do about it.
    pub(super) advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn bad(name: &'static str, level: Level, found: impl Into<String>, advice: &str) -> Self {
        Self {
            level,
            advice: Some(advice.to_owned()),
            ..Self::ok(name, found)
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        writeln!(f, "{level:4} {:14} {}", self.name, self.found)?;
        if let Some(advice) = &self.advice {
            writeln!(f, "{:20}-> {advice}", "")?;
        }
        Ok(())
    }
}

fn bytes_text(bytes: u64) -> String {
    let mut amount = (bytes, "B");
    for unit in ["KiB", "MiB", "GiB", "TiB"] {
        if amount.0 < 10_240 {
            break;
        }
        amount = (amount.0 / 1024, unit);
    }
    format!("{} {}", amount.0, amount.1)
}

/// Total and free bytes of /dev/shm, or none where it cannot be asked.
pub(super) fn space(found: Option<(u64, u64)>) -> Check {
    let name = "/dev/shm";
    let mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm (docker: --shm-size)";
    let Some((total, free)) = found.filter(|(total, _)| *total > 0) else {
        return Check::bad(
            name,
            Level::Fail,
            "is not there: nodes have no status pages",
            mount,
        );
    };
    let used = 100 - free.min(total) * 100 / total;
    let text = format!("{}, {used} % used", bytes_text(total));
    let advice = "mesh doctor --clean removes what dead nodes left; else see who fills it: ls -lS \
                  /dev/shm";
    match free {
        0..PAGES_BYTES_FEW => Check::bad(name, Level::Fail, text, advice),
        _ if used >= 90 => Check::bad(name, Level::Warn, text, advice),
        _ => Check::ok(name, text),
    }
}

/// A status page has about 150 KiB; messages are not in /dev/shm.
const PAGES_BYTES_FEW: u64 = 1 << 20;

/// A status page of a node of this user.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) name: String,
    pub(super) state: PageState,
    pub(super) node: String,
    pub(super) pid: u64,
    pub(super) age: Duration,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PageState {
    Alive,
    Dead,
    /// Being made, or its maker died over it.
    NotReady,
    /// Why it cannot be read.
    Strange(String),
}

/// Pages whose owner is dead.
pub(super) fn orphans(pages: &[Page], removed: &[String]) -> Check {
    let name = "status pages";
    let dead: Vec<&Page> = pages
        .iter()
        .filter(|page| page.state == PageState::Dead)
        .collect();
    let alive = pages
        .iter()
        .filter(|page| page.state == PageState::Alive)
        .count();
    let removed = match removed.len() {
        0 => String::new(),
        count => format!(", {count} of dead ones removed"),
    };
    if dead.is_empty() {
        return Check::ok(name, format!("{alive} nodes of this user live{removed}"));
    }
    let sum: u64 = dead.iter().map(|page| page.bytes).sum();
    let shown = dead.iter().take(SHOWN_MAX).map(|page| {
        let (node, age) = (escaped(&page.node), page.age.as_secs());
        format!("{node} (process {}, {age} s old)", page.pid)
    });
    let shown: Vec<String> = shown.collect();
    let more = match dead.len().saturating_sub(SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!(
        "{} of dead nodes, {}: {}{more}; {alive} live{removed}",
        dead.len(),
        bytes_text(sum),
        shown.join(", ")
    );
    let advice = "mesh doctor --clean removes them; the next start of a node does, too";
    Check::bad(name, Level::Warn, text, advice)
}

const SHOWN_MAX: usize = 5;

/// Pages that another version wrote, or nobody knows who.
pub(super) fn versions(pages: &[Page]) -> Check {
    let name = "version";
    let ours = format!(
        "{}, protocol {}",
        env!("CARGO_PKG_VERSION"),
        PROTOCOL_VERSION
    );
    let strange = pages.iter().filter_map(|page| match &page.state {
        PageState::Strange(why) => Some(format!("{}: {why}", escaped(&page.name))),
        _ => None,
    });
    let strange: Vec<String> = strange.take(SHOWN_MAX).collect();
    if strange.is_empty() {
        return Check::ok(name, ours);
    }
    let text = format!("{ours}; not ours: {}", strange.join(", "));
    let advice = "build all programs of a mesh with one version of shmesh";
    Check::bad(name, Level::Warn, text, advice)
}

/// Soft and hard limit of that name in `/proc/self/limits`; `None` is no limit.
fn limit(limits: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = rest.split_whitespace();
    let mut next = || {
        let word = words.next()?;
        if word == "unlimited" {
            return Some(None);
        }
        word.parse().ok().map(Some)
    };
    Some((next()?, next()?))
}

pub(super) fn locked_memory(limits: &str) -> Check {
    let name = "locked memory";
    match limit(limits, "Max locked memory") {
        Some((Some(soft), _)) if soft < LOCKED_BYTES_FEW => Check::bad(
            name,
            Level::Warn,
            format!("at most {}", bytes_text(soft)),
            "only for programs that lock their memory (mlockall): ulimit -l, or memlock in \
             /etc/security/limits.conf",
        ),
        Some((Some(soft), _)) => Check::ok(name, format!("at most {}", bytes_text(soft))),
        Some((None, _)) => Check::ok(name, "no limit"),
        None => Check::bad(name, Level::Warn, "not known", "is /proc mounted?"),
    }
}

/// What a small real-time program locks.
const LOCKED_BYTES_FEW: u64 = 8 << 20;

pub(super) fn files(limits: &str) -> Check {
    let name = "open files";
    let advice = "a node needs some for each peer and channel: ulimit -n 8192, or nofile in \
                  /etc/security/limits.conf, or LimitNOFILE= of a systemd unit";
    match limit(limits, "Max open files") {
        Some((Some(soft), hard)) => {
            let hard = hard.map_or_else(|| "no".to_owned(), |hard| hard.to_string());
            let text = format!("at most {soft} (hard limit {hard})");
            match soft {
                0..FILES_FEW => Check::bad(name, Level::Fail, text, advice),
                FILES_FEW..FILES_SOME => Check::bad(name, Level::Warn, text, advice),
                _ => Check::ok(name, text),
            }
        }
        Some((None, _)) => Check::ok(name, "no limit"),
        None => Check::bad(name, Level::Warn, "not known", "is /proc mounted?"),
    }
}

/// A node with a few peers has more.
const FILES_FEW: u64 = 64;
/// As many as a node may have endpoints.
const FILES_SOME: u64 = ENDPOINTS_PER_NODE_MAX as u64;

pub(super) fn processes(limits: &str, most: Option<&str>, now: Option<&str>) -> Check {
    let name = "processes";
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u64>().ok());
    if let (Some(most), Some(now)) = (number(most), number(now)) {
        let text = format!("{now} of {most} in this control group");
        let advice = "threads count, too: pids.max of the control group (docker: --pids-limit; \
                      systemd: TasksMax=)";
        return match most.saturating_sub(now) {
            0..=7 => Check::bad(name, Level::Fail, text, advice),
            _ if now * 10 >= most * 9 => Check::bad(name, Level::Warn, text, advice),
            _ => Check::ok(name, text),
        };
    }
    match limit(limits, "Max processes") {
        Some((Some(soft), _)) if soft < PROCESSES_FEW => Check::bad(
            name,
            Level::Warn,
            format!("at most {soft} of this user"),
            "threads count, too: ulimit -u, or nproc in /etc/security/limits.conf",
        ),
        Some((Some(soft), _)) => Check::ok(name, format!("at most {soft} of this user")),
        Some((None, _)) => Check::ok(name, "no limit"),
        None => Check::bad(name, Level::Warn, "not known", "is /proc mounted?"),
    }
}

/// A desktop alone has as many threads.
const PROCESSES_FEW: u64 = 1024;

pub(super) fn cores(allowed: u32, online: &str) -> Check {
    let text = format!("{allowed} for this process; {online} online");
    if allowed > 1 {
        return Check::ok("cores", text);
    }
    let advice = "publisher and subscriber take turns: let none spin (recv_spin, try_recv)";
    Check::bad("cores", Level::Warn, text, advice)
}

/// By core; none where the system has none, as in most virtual machines.
pub(super) fn governor(governors: &[String]) -> Check {
    let name = "governor";
    let mut kinds: Vec<&str> = governors.iter().map(String::as_str).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let text: Vec<String> = kinds.iter().map(|kind| escaped(kind)).collect();
    match kinds.as_slice() {
        [] => Check::ok(name, "none"),
        ["performance"] => Check::ok(name, "performance"),
        _ => Check::bad(
            name,
            Level::Warn,
            text.join(", "),
            "cores that slow down take longer to wake: cpupower frequency-set -g performance",
        ),
    }
}

pub(super) fn clock(source: Option<&str>) -> Check {
    let name = "clock source";
    let advice = "reading it may be a system call, and each send time costs that: boot with \
                  tsc=reliable if the processor's counter can be trusted, or publish \
                  without_timestamps";
    match source.map(str::trim) {
        Some(source) if FAST_CLOCKS.contains(&source) => Check::ok(name, source),
        Some(other) => Check::bad(name, Level::Warn, escaped(other), advice),
        None => Check::ok(name, "not known"),
    }
}

/// Those that are read without a system call.
const FAST_CLOCKS: [&str; 4] = [
    "tsc",
    "kvm-clock",
    "arch_sys_counter",
    "hyperv_clocksource_tsc_page",
];

/// From `shmem_enabled` and `/proc/meminfo`. Nothing of ours needs them.
pub(super) fn huge_pages(shmem: Option<&str>, meminfo: &str) -> Check {
    let shmem = shmem.and_then(|text| text.split(['[', ']']).nth(1));
    let count = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (total, free) = (count("HugePages_Total:"), count("HugePages_Free:"));
    let shmem = escaped(shmem.unwrap_or("not known"));
    let text = format!("for shared memory: {shmem}; reserved: {total}, free {free}");
    Check::ok("huge pages", text)
}

/// The coordinator's port.
pub(super) fn port(address: &str, is_named: bool, outcome: std::io::Result<()>) -> Check {
    let name = "coordinator";
    let address = escaped(address);
    let Err(error) = outcome else {
        return Check::ok(name, format!("{address} answers"));
    };
    let (level, advice) = if is_named {
        let advice = "is it running there (mesh coordinator --host 0.0.0.0), and does the \
                      firewall let TCP to that port through?";
        (Level::Fail, advice)
    } else {
        let advice = "start one (mesh), or name it (SHMESH_COORDINATOR); nodes with \
                      embedded_coordinator() need none";
        (Level::Warn, advice)
    };
    Check::bad(name, level, format!("{address}: {error}"), advice)
}

/// Whether it lets us in, and who is there.
pub(super) fn entry(seen: &Result<Vec<String>, String>) -> Check {
    let name = "mesh";
    match seen {
        Ok(nodes) => Check::ok(
            name,
            format!("it lets us in, and {} nodes are there", nodes.len()),
        ),
        Err(error) => Check::bad(
            name,
            Level::Fail,
            escaped(error),
            "all of a mesh have one version, name (--mesh), key (--authkey-file) and TLS or not",
        ),
    }
}

#[cfg(test)]
mod tests;
