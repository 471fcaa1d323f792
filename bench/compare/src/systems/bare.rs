//! A cache line written here and read there, and one the other way.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Result;
use shmesh_shm::reference::{Line, PeerLine};

use super::{Ends, Side, System};
use crate::measure::Task;

/// It has no payload and no queue.
pub static SYSTEM: System = System {
    name: "bare",
    can: |task, size| task == Task::Ping && size == 64,
    play: |setting, mut side, part| part.play(setting, |_| connect(&mut side)),
};

struct Bare {
    ours: Line,
    theirs: PeerLine,
    seen: u64,
}

fn connect(side: &mut Side<'_>) -> Result<Bare> {
    let ours = Line::create()?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), ours.fd().as_raw_fd());
    side.tell(&path)?;
    let other = side.line()?;
    let theirs = PeerLine::map(OwnedFd::from(File::open(other)?))?;
    Ok(Bare {
        ours,
        theirs,
        seen: 0,
    })
}

impl Ends for Bare {
    #[inline]
    fn send(&mut self, number: u64) -> Result<()> {
        self.ours.store(number + 1);
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self) -> Result<bool> {
        let word = self.theirs.load();
        let is_new = word != self.seen;
        self.seen = word;
        Ok(is_new)
    }
}
