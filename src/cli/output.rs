//! Standard output of a tool that hears signals while nobody reads.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::signals::Ends;
use crate::limits::LAST_OUTPUT_MS_MAX;
use crate::wait::watched;

/// Where a tool writes to, and until when.
#[derive(Debug)]
pub(super) struct Output {
    way: Way,
    /// After a signal: readers have until then.
    end_at: Option<Instant>,
}

/// How to write without being held up. Others have the same pipe, terminal or socket, so its flags
/// stay as they are.
#[derive(Debug)]
enum Way {
    /// A pipe or terminal, opened once more.
    Opened(AsyncFd<OwnedFd>),
    /// A socket, which cannot be opened, but is told with each call.
    Socket(AsyncFd<OwnedFd>),
    /// A file, which is never full, and would begin anew if it were opened.
    Plain,
}

impl Output {
    /// Needs a runtime.
    pub(super) fn new() -> Self {
        Self {
            way: Way::find().unwrap_or(Way::Plain),
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
            match self.way.write(&bytes[written..]) {
                Ok(some) => written += some,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.way.watched().is_some() => {
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
        let Some(watched) = self.way.watched() else {
            return Ok(true);
        };
        let (is_ending, end_at) = (self.is_ending(), self.end_at.unwrap_or_else(Instant::now));
        tokio::select! {
            ready = watched.writable() => {
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

impl Way {
    /// Nothing where it is not to be had.
    fn find() -> Option<Self> {
        let stdout = rustix::stdio::stdout();
        let status = rustix::fs::fstat(stdout).ok()?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Fifo | FileType::CharacterDevice => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let opened = rustix::fs::open("/proc/self/fd/1", flags, Mode::empty()).ok()?;
                watched(opened, Interest::WRITABLE).ok().map(Self::Opened)
            }
            FileType::Socket => {
                let socket = rustix::io::fcntl_dupfd_cloexec(stdout, 0).ok()?;
                watched(socket, Interest::WRITABLE).ok().map(Self::Socket)
            }
            _ => None,
        }
    }

    const fn watched(&self) -> Option<&AsyncFd<OwnedFd>> {
        match self {
            Self::Opened(watched) | Self::Socket(watched) => Some(watched),
            Self::Plain => None,
        }
    }

    fn write(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Opened(opened) => rustix::io::write(opened, bytes),
            Self::Socket(socket) => {
                rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            }
            // Not by `Stdout`, which would look for ends of lines.
            Self::Plain => rustix::io::write(rustix::stdio::stdout(), bytes),
        }
    }
}
