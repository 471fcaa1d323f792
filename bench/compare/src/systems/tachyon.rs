//! Tachyon: one bus each way, neither end ever sleeping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tachyon_ipc::{Bus, TachyonError};

use super::{Ends, Side, System};
use crate::measure::{Setting, Task};

/// It has no call that looks for a message and does not wait for it.
pub static SYSTEM: System = System {
    name: "tachyon",
    can: |task, _| !task.is_tcp() && task != Task::Idle,
    play: |setting, side, part| part.play(setting, |setting| connect(setting, &side)),
};

struct Tachyon {
    sending: Bus,
    receiving: Bus,
    size: usize,
    is_written: bool,
}

fn connect(setting: &Setting, side: &Side<'_>) -> Result<Tachyon> {
    // The receiving end says only after 32 messages that they are read: with room for fewer, the
    // sending end waits for ever.
    let capacity = (40 * setting.size).next_power_of_two().max(1 << 20);
    let path = |name: &str| {
        format!(
            "/tmp/compare-{}-{}-{name}.sock",
            setting.id, setting.channel
        )
    };
    let (sending, receiving) = match side {
        Side::Here(_) => {
            let sending = error(Bus::listen(&path("there"), capacity))?;
            (sending, dial(&path("here"))?)
        }
        Side::There => {
            let receiving = dial(&path("there"))?;
            (error(Bus::listen(&path("here"), capacity))?, receiving)
        }
    };
    sending.set_polling_mode(1);
    receiving.set_polling_mode(1);
    let is_written = setting.task == Task::Stream && setting.size <= 1024;
    Ok(Tachyon {
        sending,
        receiving,
        size: setting.size,
        is_written,
    })
}

fn dial(path: &str) -> Result<Bus> {
    let started = Instant::now();
    loop {
        match Bus::connect(path) {
            Ok(bus) => return Ok(bus),
            Err(_) if started.elapsed() < Duration::from_secs(10) => std::thread::yield_now(),
            Err(failed) => return error(Err(failed)),
        }
    }
}

fn error<T>(result: Result<T, TachyonError>) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => bail!("tachyon: {error:?}"),
    }
}

impl Ends for Tachyon {
    #[inline]
    fn send(&mut self, number: u64) -> Result<()> {
        let slot = loop {
            match self.sending.acquire_tx(self.size) {
                Ok(slot) => break slot,
                Err(TachyonError::PeerDead) => bail!("the peer is dead"),
                Err(_) => std::hint::spin_loop(),
            }
        };
        if self.is_written {
            let mut message = [0x5a; 1024];
            message[..8].copy_from_slice(&number.to_le_bytes());
            slot.write(&message[..self.size]);
        } else {
            slot.write(&number.to_le_bytes());
        }
        error(slot.commit(self.size, 1))
    }

    /// Waits for the message: this API has no way to look without waiting.
    #[inline]
    fn try_receive(&mut self) -> Result<bool> {
        let slot = error(self.receiving.acquire_rx(u32::MAX))?;
        let is_there = slot.actual_size == self.size;
        error(slot.commit())?;
        Ok(is_there)
    }
}
