//! ZeroMQ: a pair of sockets, without and with keys (CURVE).

use anyhow::{Context as _, Result, ensure};
use zmq::{CurveKeyPair, Message, Socket, SocketType};

use super::{Side, System, TcpEnds};
use crate::measure::Setting;
use crate::tcp;

pub static PLAIN: System = System {
    name: "zeromq",
    can: |task, _| task.is_tcp(),
    play: |setting, mut side, part| {
        part.play_tcp(setting.task, || connect(setting, &mut side, Keys::None))
    },
};

/// Messages are encrypted. The connecting side knows the key of the other, which takes any.
pub static WITH_KEYS: System = System {
    name: "zeromq-key",
    can: |task, _| task.is_tcp(),
    play: |setting, mut side, part| {
        part.play_tcp(setting.task, || connect(setting, &mut side, Keys::Curve))
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    None,
    Curve,
}

struct ZeroMq {
    socket: Socket,
    size: usize,
    written: Vec<u8>,
    received: Message,
}

/// Messages up to this are copied, which costs less than giving memory away and back.
const COPIED_BYTES_MAX: usize = 1024;
/// Bytes that may wait on each side, as far as [`WAITING_MIN`] and [`WAITING_MAX`] let them.
const WAITING_BYTES: usize = 8 << 20;
const WAITING_MIN: usize = 8;
/// Messages that wait by default.
const WAITING_MAX: usize = 1000;

fn connect(setting: &Setting, side: &mut Side<'_>, keys: Keys) -> Result<ZeroMq> {
    let size = setting.size;
    let socket = zmq::Context::new().socket(SocketType::PAIR)?;
    let waiting = i32::try_from((WAITING_BYTES / size).clamp(WAITING_MIN, WAITING_MAX))?;
    let wait_ms = i32::try_from(tcp::WAIT.as_millis())?;
    socket.set_sndhwm(waiting)?;
    socket.set_rcvhwm(waiting)?;
    socket.set_sndtimeo(wait_ms)?;
    socket.set_rcvtimeo(wait_ms)?;
    // What the other end did not take would be waited for when this one is closed.
    socket.set_linger(0)?;
    let has_keys = keys == Keys::Curve;
    ensure!(
        !has_keys || zmq::has("curve") == Some(true),
        "this libzmq has no CURVE: build in bench/compare, whose .cargo takes the system's"
    );
    match side {
        Side::Here(_) => {
            if has_keys {
                let ours = CurveKeyPair::new()?;
                socket.set_curve_publickey(&ours.public_key)?;
                socket.set_curve_secretkey(&ours.secret_key)?;
                let theirs = zmq::z85_decode(&side.line()?).context("their key")?;
                socket.set_curve_serverkey(&theirs)?;
            }
            socket.connect(&side.line()?)?;
        }
        Side::There => {
            if has_keys {
                let ours = CurveKeyPair::new()?;
                socket.set_curve_server(true)?;
                socket.set_curve_secretkey(&ours.secret_key)?;
                side.tell(&zmq::z85_encode(&ours.public_key)?)?;
            }
            socket.bind("tcp://127.0.0.1:*")?;
            let endpoint = socket.get_last_endpoint()?.ok().context("endpoint")?;
            side.tell(&endpoint)?;
        }
    }
    Ok(ZeroMq {
        socket,
        size,
        written: vec![0; size.min(COPIED_BYTES_MAX)],
        received: Message::new(),
    })
}

impl TcpEnds for ZeroMq {
    fn send(&mut self, number: u64) -> Result<()> {
        if self.size <= COPIED_BYTES_MAX {
            tcp::write(&mut self.written, number);
            self.socket.send(&self.written, 0)?;
        } else {
            self.socket.send(tcp::written(self.size, number), 0)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        self.socket.recv(&mut self.received, 0)?;
        tcp::read([&self.received[..]], self.size)
    }
}
