//! Who descends from this process, as /proc has it.

use rustix::process::{Pid, getpid};

/// Processes whose parent this process is: those that were adopted, too.
pub(super) fn children() -> Vec<Pid> {
    let own = getpid().as_raw_pid();
    let all = all();
    let children = all.iter().filter(|(_, parent)| *parent == own);
    children
        .filter_map(|(pid, _)| Pid::from_raw(*pid))
        .collect()
}

/// Children, and theirs.
pub(super) fn descendants() -> Vec<Pid> {
    let found = below(getpid().as_raw_pid(), &all());
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// All processes, with their parents.
fn all() -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let pids = names.filter(|name| name.as_encoded_bytes()[0].is_ascii_digit());
    let stats = pids.filter_map(|pid| {
        let path = std::path::Path::new("/proc").join(pid).join("stat");
        std::fs::read_to_string(path).ok()
    });
    stats.filter_map(|stat| parse(&stat)).collect()
}

/// The process and its parent from `/proc/PID/stat`. The program's name may have anything in it,
/// parentheses too.
fn parse(stat: &str) -> Option<(i32, i32)> {
    let (before, after) = stat.rsplit_once(')')?;
    let pid = before.split(' ').next()?.parse().ok()?;
    let parent = after.split_whitespace().nth(1)?.parse().ok()?;
    Some((pid, parent))
}

fn below(root: i32, all: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        let children = all.iter().filter(|(pid, of)| *of == parent && *pid != root);
        let new: Vec<i32> = children.map(|(pid, _)| *pid).collect();
        // The list was not made at one instant: a number may come twice.
        found.extend(
            new.into_iter()
                .filter(|pid| !found.contains(pid))
                .collect::<Vec<_>>(),
        );
        at += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_whatever_the_program_is_called() {
        assert_eq!(parse("12 (sh) S 7 12 12 0"), Some((12, 7)));
        assert_eq!(parse("12 (a) S 1 (b c) R 7 12"), Some((12, 7)));
        for bad in ["", "12", "12 (sh)", "12 (sh) S", "x (sh) S 7"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_loops_end() {
        let all = [(2, 1), (3, 2), (4, 3), (5, 1), (6, 9), (9, 6)];
        assert_eq!(below(2, &all), [3, 4]);
        assert_eq!(below(1, &all), [2, 5, 3, 4]);
        assert_eq!(below(6, &all), [9]);
    }
}
