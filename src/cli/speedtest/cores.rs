//! Pinning: each end on a core of its own, where the machine has them.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this process may run on.
fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

/// The core for an end: the asked one, else the first for the sender (0) and the second for the
/// receiver (1). `None` with a warning if there are not enough.
pub(super) fn choose(end: usize, asked: Option<usize>) -> Option<usize> {
    let allowed = allowed();
    match asked {
        Some(core) if allowed.contains(&core) => Some(core),
        Some(core) => {
            note!("warning: core {core} cannot be used; not pinned");
            None
        }
        None if allowed.len() < 2 => {
            note!("warning: only one core: both ends share it, and latencies say so");
            None
        }
        None => allowed.get(end).copied(),
    }
}

/// Pins the calling thread, and says so.
pub(super) fn pin(who: &str, core: Option<usize>) -> Option<usize> {
    let core = core?;
    let mut set = CpuSet::new();
    set.set(core);
    match sched_setaffinity(None, &set) {
        Ok(()) => {
            note!("{who} pinned to core {core}");
            Some(core)
        }
        Err(error) => {
            note!("warning: {who} cannot be pinned to core {core}: {error}");
            None
        }
    }
}
