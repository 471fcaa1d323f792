//! A bare socket: a header of 16 bytes and the message, many of them in one call where they are
//! small. What a protocol adds to TCP is seen beside it.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Result, bail, ensure};

use super::{Side, System, TcpEnds};
use crate::measure::{Setting, Task};
use crate::tcp;

/// Sleeps until there is something to read.
pub static BLOCKING: System = System {
    name: "bare-tcp",
    can: |task, _| task.is_tcp(),
    play: |setting, mut side, part| {
        part.play_tcp(setting.task, || connect(setting, &mut side, Wait::Sleep))
    },
};

/// Reads in a loop. In a stream there is always something to read: nothing would change.
pub static POLLED: System = System {
    name: "bare-tcp-poll",
    can: |task, _| task == Task::TcpPing,
    play: |setting, mut side, part| {
        part.play_tcp(setting.task, || connect(setting, &mut side, Wait::Poll))
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Sleep,
    Poll,
}

struct BareTcp {
    socket: Socket,
    size: usize,
    /// Of messages that are sent together, `kept` of which are written.
    headers: Vec<[u8; HEADER_BYTES]>,
    payloads: Vec<u8>,
    kept: usize,
    /// What has come; from `start` to `end` it is not taken yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

struct Socket {
    stream: TcpStream,
    wait: Wait,
}

/// Bytes of the message, and its number.
const HEADER_BYTES: usize = 16;
/// Messages sent together: the kernel takes 1024 parts at once, and each message is two.
const GATHERED_MAX: usize = 512;
/// Bytes sent together, unless a message has more; few enough to stay in a core's own cache.
const GATHERED_BYTES: usize = 256 << 10;
/// Bytes received together, unless a message has more.
const BUFFER_BYTES: usize = 256 << 10;
/// Looks at a socket that is not ready before giving up: more than some seconds.
const LOOKS_MAX: u64 = 1 << 26;

fn connect(setting: &Setting, side: &mut Side<'_>, wait: Wait) -> Result<BareTcp> {
    let stream = match side {
        Side::Here(_) => TcpStream::connect(side.line()?)?,
        Side::There => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            side.tell(&listener.local_addr()?.to_string())?;
            listener.accept()?.0
        }
    };
    stream.set_nodelay(true)?;
    stream.set_nonblocking(wait == Wait::Poll)?;
    stream.set_read_timeout(Some(tcp::WAIT))?;
    stream.set_write_timeout(Some(tcp::WAIT))?;
    let size = setting.size;
    let gathered = match setting.task {
        Task::TcpStream => (GATHERED_BYTES / size).clamp(1, GATHERED_MAX),
        _ => 1,
    };
    Ok(BareTcp {
        socket: Socket { stream, wait },
        size,
        headers: vec![[0; HEADER_BYTES]; gathered],
        payloads: vec![0; gathered * size],
        kept: 0,
        buffer: vec![0; BUFFER_BYTES.max(HEADER_BYTES + size)],
        start: 0,
        end: 0,
    })
}

impl Socket {
    /// Reads or writes, waiting for something to read or for room.
    fn when_ready(
        &self,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Result<usize> {
        let mut looks = 0;
        loop {
            match attempt(&self.stream) {
                Ok(0) => bail!("the other end is gone"),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && self.wait == Wait::Poll
                        && looks < LOOKS_MAX =>
                {
                    looks += 1;
                    std::hint::spin_loop();
                }
                result => return Ok(result?),
            }
        }
    }
}

impl TcpEnds for BareTcp {
    fn send(&mut self, number: u64) -> Result<()> {
        let header = &mut self.headers[self.kept];
        header[..8].copy_from_slice(&(self.size as u64).to_le_bytes());
        header[8..].copy_from_slice(&number.to_le_bytes());
        let payload = &mut self.payloads[self.kept * self.size..][..self.size];
        tcp::write(payload, number);
        self.kept += 1;
        if self.kept == self.headers.len() {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut parts = Vec::with_capacity(2 * self.kept);
        let payloads = self.payloads.chunks_exact(self.size);
        for (header, payload) in self.headers.iter().zip(payloads).take(self.kept) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(payload));
        }
        let mut left = &mut parts[..];
        while !left.is_empty() {
            let written = self
                .socket
                .when_ready(|mut stream| stream.write_vectored(left))?;
            IoSlice::advance_slices(&mut left, written);
        }
        self.kept = 0;
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        loop {
            let come = &self.buffer[self.start..self.end];
            if let Some((header, rest)) = come.split_first_chunk::<HEADER_BYTES>()
                && let Some(payload) = rest.get(..self.size)
            {
                ensure!(header[..8] == (self.size as u64).to_le_bytes(), "a header");
                let number = tcp::read([payload], self.size)?;
                self.start += HEADER_BYTES + self.size;
                return Ok(number);
            }
            self.fill()?;
        }
    }
}

impl BareTcp {
    /// Reads what has come, or waits for something to come.
    fn fill(&mut self) -> Result<()> {
        let is_full = self.buffer.len() - self.start < HEADER_BYTES + self.size;
        if is_full || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = &mut self.buffer[self.end..];
        self.end += self.socket.when_ready(|mut stream| stream.read(room))?;
        Ok(())
    }
}
