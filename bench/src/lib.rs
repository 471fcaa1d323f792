//! Criterion benches of shmesh, see `benches/`, and what several of them need.

use std::path::PathBuf;
use std::process::Child;

/// The tool of this build.
///
/// # Panics
/// If it is not built.
#[must_use]
pub fn mesh() -> PathBuf {
    let own = std::env::current_exe().expect("invariant: Linux tells a process its program");
    let beside = own.ancestors().nth(2).map(|build| build.join("mesh"));
    let built = beside.filter(|mesh| mesh.exists());
    built.expect("first: cargo build --release --bin mesh")
}

/// Seconds that the threads of a child had a processor, in hundredths.
///
/// # Panics
/// If it was waited for already.
#[must_use]
#[allow(clippy::cast_precision_loss)] // of hundredths
pub fn cpu_s(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()));
    let stat = stat.expect("it was not waited for");
    // Behind the name, in which anything may be: field 3 and on; 14 and 15 are ticks.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    // Linux counts 100 a second for those who ask, on each architecture that this runs on.
    ticks as f64 / 100.0
}

/// The value in the middle; of an even number the upper one.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
