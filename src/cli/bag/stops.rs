//! The signals of a recorder or a player, as flags that are looked at between two messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGUSR1};

use crate::cli::signals::ending;

/// What was asked for by signals.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    end: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

impl Stops {
    /// Those that end a tool are taken down from now on; the second Ctrl-C or SIGTERM ends the
    /// process at once. A terminal that closes may say so twice: by its shell, and by the kernel.
    /// SIGUSR1 means that something is to be saved.
    pub(super) fn listen() -> std::io::Result<Self> {
        let stops = Self::default();
        for signal in ending() {
            if signal != SIGHUP {
                // First, so that it does not see what the same signal sets.
                signal_hook::flag::register_conditional_default(signal, Arc::clone(&stops.end))?;
            }
            signal_hook::flag::register(signal, Arc::clone(&stops.end))?;
        }
        signal_hook::flag::register(SIGUSR1, Arc::clone(&stops.save))?;
        Ok(stops)
    }

    // Relaxed: nothing else is handed over.
    pub(super) fn is_end(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Ends as a signal would.
    pub(super) fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// True once for each time, or for several at once.
    pub(super) fn take_save(&self) -> bool {
        self.save.load(Ordering::Relaxed) && self.save.swap(false, Ordering::Relaxed)
    }
}
