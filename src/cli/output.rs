//! Standard output of a tool that hears signals while nobody reads.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::signals::Ends;
use crate::limits::LAST_OUTPUT_MS_MAX;
use crate::wait::watched;

/// Where a tool writes to, and until when.
#[derive(Debug)]
pub(super) struct Output {
    opened: Option<AsyncFd<OwnedFd>>,
    /// After a signal: readers have until then.
    end_at: Option<Instant>,
}

impl Output {
    /// Needs a runtime.
    pub(super) fn new() -> Self {
        Self {
            opened: open_again(),
            end_at: None,
        }
    }

    /// A signal came: what is still to be written has a moment for that.
    pub(super) fn end(&mut self) {
        let moment = Duration::from_millis(LAST_OUTPUT_MS_MAX);
        self.end_at.get_or_insert_with(|| Instant::now() + moment);
    }

    /// True since a signal came.
    pub(super) const fn is_ending(&self) -> bool {
        self.end_at.is_some()
    }

    /// Writes all, and gives how much that was: less where a signal came, its moment is over or
    /// another one came, and nobody has read meanwhile.
    pub(super) async fn write(&mut self, bytes: &[u8], ends: &mut Ends) -> std::io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            let outcome = match &self.opened {
                Some(opened) => rustix::io::write(opened, rest),
                // Not by `Stdout`, which would look for ends of lines.
                None => rustix::io::write(rustix::stdio::stdout(), rest),
            };
            match outcome {
                Ok(some) => written += some,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.opened.is_some() => {
                    if !self.has_room(ends).await? {
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    /// Waits until it is worth trying again. False if it is time to end.
    async fn has_room(&mut self, ends: &mut Ends) -> std::io::Result<bool> {
        let Some(opened) = &self.opened else {
            return Ok(true);
        };
        let (is_ending, end_at) = (self.is_ending(), self.end_at.unwrap_or_else(Instant::now));
        tokio::select! {
            ready = opened.writable() => {
                ready?.clear_ready();
                Ok(true)
            }
            () = ends.recv() => {
                self.end();
                Ok(!is_ending)
            }
            () = tokio::time::sleep_until(end_at), if is_ending => Ok(false),
        }
    }
}

/// Others have the same pipe or terminal, so it is opened once more to be written to without
/// blocking. A file would begin anew by that, and is never full; a socket cannot be opened.
fn open_again() -> Option<AsyncFd<OwnedFd>> {
    let status = rustix::fs::fstat(rustix::stdio::stdout()).ok()?;
    let kind = FileType::from_raw_mode(status.st_mode);
    if !matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open("/proc/self/fd/1", flags, Mode::empty()).ok()?;
    watched(opened, Interest::WRITABLE).ok()
}
