//! A cache line written here and read there, and one the other way.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Result;
use shmesh_shm::reference::{Line, PeerLine};

use super::{Ends, Side};

pub struct Bare {
    ours: Line,
    theirs: PeerLine,
    seen: u64,
}

pub fn connect(side: &mut Side<'_>) -> Result<Bare> {
    let ours = Line::create()?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), ours.fd().as_raw_fd());
    let other = match side {
        Side::Here(other) => {
            other.tell(&path)?;
            other.line()?
        }
        Side::There => {
            println!("{path}");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            line.trim().to_owned()
        }
    };
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
