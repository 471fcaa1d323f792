//! The signals at which a tool ends well.

use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that are taken down from now on, instead of ending the process.
#[derive(Debug)]
pub(super) struct Ends(Vec<Signal>);

impl Ends {
    /// Ctrl-C and SIGTERM. Needs a runtime.
    pub(super) fn new() -> std::io::Result<Self> {
        Self::at(&[SignalKind::interrupt(), SignalKind::terminate()])
    }

    /// Those, and the others that come from a terminal, which each would leave as it is.
    pub(super) fn of_terminal() -> std::io::Result<Self> {
        Self::at(&[
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ])
    }

    fn at(kinds: &[SignalKind]) -> std::io::Result<Self> {
        let signals = kinds.iter().map(|kind| signal(*kind));
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
}
