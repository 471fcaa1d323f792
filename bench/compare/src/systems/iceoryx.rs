//! iceoryx2: byte slices, loaned; its defaults for ping; for stream no overflow, and waiting for
//! room.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use super::{Ends, Side, System};
use crate::measure::{Setting, Task};

pub static SYSTEM: System = System {
    name: "iceoryx2",
    can: |task, _| !task.is_tcp(),
    play: |setting, side, part| part.play(setting, |setting| connect(setting, &side)),
};

struct Iceoryx {
    publisher: Publisher<ipc::Service, [u8], ()>,
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    size: usize,
    is_written: bool,
    _node: Node<ipc::Service>,
}

fn connect(setting: &Setting, side: &Side<'_>) -> Result<Iceoryx> {
    let (ours, theirs) = match side {
        Side::Here(_) => ("there", "here"),
        Side::There => ("here", "there"),
    };
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let open = |name: &str| {
        let name = format!("{}/{}/{name}", setting.id, setting.channel);
        let service = node
            .service_builder(&name.as_str().try_into()?)
            .publish_subscribe::<[u8]>();
        let service = match setting.task {
            Task::Stream => service
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(if setting.size > 65_536 { 8 } else { 1024 }),
            _ => service,
        };
        anyhow::Ok(service.open_or_create()?)
    };
    let (sending, receiving) = (open(ours)?, open(theirs)?);
    let subscriber = receiving.subscriber_builder().create()?;
    let publisher = sending
        .publisher_builder()
        .initial_max_slice_len(setting.size)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    let started = Instant::now();
    while sending.dynamic_config().number_of_subscribers() == 0
        || receiving.dynamic_config().number_of_publishers() == 0
    {
        if started.elapsed() > Duration::from_secs(10) {
            bail!("the other end did not come");
        }
        std::thread::yield_now();
    }
    let is_written = setting.task == Task::Stream && setting.size <= 1024;
    Ok(Iceoryx {
        publisher,
        subscriber,
        size: setting.size,
        is_written,
        _node: node,
    })
}

impl Ends for Iceoryx {
    #[inline]
    fn send(&mut self, number: u64) -> Result<()> {
        let mut sample = self.publisher.loan_slice_uninit(self.size)?;
        let bytes = sample.payload_mut();
        if self.is_written {
            bytes.fill(std::mem::MaybeUninit::new(0x5a));
        }
        for (place, byte) in bytes.iter_mut().zip(number.to_le_bytes()) {
            place.write(byte);
        }
        // SAFETY: shared memory is zeroed when it is made, so every byte of it has a value.
        let sample = unsafe { sample.assume_init() };
        sample.send()?;
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self) -> Result<bool> {
        Ok(self.subscriber.receive()?.is_some())
    }
}
