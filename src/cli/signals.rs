//! The signals at which a tool ends well.

use std::task::Poll;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that are taken down from now on, instead of ending the process.
#[derive(Debug)]
pub(super) struct Ends(Vec<Signal>);

impl Ends {
    /// Those that [`ending`] names. Needs a runtime.
    pub(super) fn new() -> std::io::Result<Self> {
        Self::at(ending())
    }

    /// Those, and what else comes from a terminal, which each would leave as it is.
    pub(super) fn of_terminal() -> std::io::Result<Self> {
        Self::at(ending().chain([SIGQUIT]))
    }

    fn at(signals: impl Iterator<Item = i32>) -> std::io::Result<Self> {
        let signals = signals.map(|number| signal(SignalKind::from_raw(number)));
        signals.collect::<Result<_, _>>().map(Self)
    }

    /// The next of them. Cancel-safe.
    pub(super) async fn recv(&mut self) {
        std::future::poll_fn(|cx| {
            // All are asked, so that each of them wakes us.
            let came = self.0.iter_mut().map(|signal| signal.poll_recv(cx));
            match came.filter(Poll::is_ready).count() {
                0 => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// What comes of it, unless one of them comes first.
    pub(super) async fn unless<T>(&mut self, doing: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.recv() => None,
            done = doing => Some(done),
        }
    }
}

/// The signals at which a tool ends well: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal
/// or a connection to one is closed. `nohup` has that ignored, and then it is.
pub(super) fn ending() -> impl Iterator<Item = i32> {
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    [SIGINT, SIGTERM].into_iter().chain(hangup)
}

/// Whether whoever started this process has a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
