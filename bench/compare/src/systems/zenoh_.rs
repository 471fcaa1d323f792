//! zenoh: two peers that know each other's address, no router, nothing searched for; reliable, and
//! a publisher waits for room.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use zenoh::handlers::FifoChannelHandler;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::CongestionControl;
use zenoh::sample::Sample;
use zenoh::{Config, Session, Wait as _};

use super::{Side, System, TcpEnds};
use crate::measure::{Setting, Task};
use crate::tcp;

pub static SYSTEM: System = System {
    name: "zenoh",
    can: |task, _| task.is_tcp(),
    play: |setting, mut side, part| part.play_tcp(setting.task, || connect(setting, &mut side)),
};

struct Zenoh {
    publisher: Publisher<'static>,
    subscriber: Subscriber<FifoChannelHandler<Sample>>,
    size: usize,
    _session: Session,
}

fn connect(setting: &Setting, side: &mut Side<'_>) -> Result<Zenoh> {
    let (ours, theirs, session) = match side {
        Side::Here(_) => ("there", "here", open("connect", &side.line()?)?),
        Side::There => {
            let address = tcp::free_address()?;
            let session = open("listen", &address)?;
            side.tell(&address)?;
            ("here", "there", session)
        }
    };
    let subscriber = session.declare_subscriber(format!("{}/{theirs}", setting.id));
    let subscriber = error(subscriber.wait())?;
    let publisher = session
        .declare_publisher(format!("{}/{ours}", setting.id))
        .congestion_control(CongestionControl::Block)
        // Not gathered with later ones: what zenoh's own ping does and its throughput does not.
        .express(setting.task == Task::TcpPing);
    let publisher = error(publisher.wait())?;
    let started = Instant::now();
    while !error(publisher.matching_status().wait())?.matching() {
        ensure!(started.elapsed() < tcp::WAIT, "the other end did not come");
        std::thread::yield_now();
    }
    Ok(Zenoh {
        publisher,
        subscriber,
        size: setting.size,
        _session: session,
    })
}

/// A session that only listens, or only connects.
fn open(how: &str, address: &str) -> Result<Session> {
    let other = if how == "listen" { "connect" } else { "listen" };
    let mut config = Config::default();
    let endpoint = format!("[\"tcp/{address}\"]");
    for (key, value) in [
        ("mode", "\"peer\""),
        ("scouting/multicast/enabled", "false"),
        ("scouting/gossip/enabled", "false"),
        (&format!("{other}/endpoints"), "[]"),
        (&format!("{how}/endpoints"), &endpoint),
    ] {
        error(config.insert_json5(key, value))?;
    }
    error(zenoh::open(config).wait())
}

fn error<T>(result: zenoh::Result<T>) -> Result<T> {
    result.map_err(anyhow::Error::from_boxed)
}

impl TcpEnds for Zenoh {
    fn send(&mut self, number: u64) -> Result<()> {
        let message = tcp::written(self.size, number);
        error(self.publisher.put(message).wait())
    }

    fn receive(&mut self) -> Result<u64> {
        let sample = error(self.subscriber.recv_timeout(tcp::WAIT))?.context("no message")?;
        tcp::read(sample.payload().slices(), self.size)
    }
}
