//! What both ends share: the node, the topics beside the measured ones, and the three ways to wait.

use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use signal_hook::consts::SIGHUP;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::CommonArgs;
use super::spec::{Transport, Wait};
use crate::cli::reach::named_coordinator;
use crate::cli::signals::ending;
use crate::cli::{Failure, runtime};
use crate::limits::VISIT_MS_MAX;
use crate::{Node, Overflow, Publisher, Raw, RecvError, Sample, Subscriber};

/// How long one end waits for the other's word.
pub(super) const WORD_TIMEOUT: Duration = Duration::from_secs(10);

/// Joins the mesh.
pub(super) async fn join(
    name: &str,
    common: &CommonArgs,
    transport: Transport,
) -> Result<Node, Failure> {
    let builder = Node::builder(name).transports(transport.transports());
    let mut builder = builder.join_timeout(Duration::from_millis(VISIT_MS_MAX));
    if let Some(address) = named_coordinator(common.coordinator.as_ref())? {
        builder = builder.coordinator(address);
    }
    if let Some(address) = &common.listen {
        builder = builder.listen(address);
    }
    for address in &common.advertise {
        builder = builder.advertise(address);
    }
    Ok(common.security.secure_node(builder)?.build().await?)
}

/// A topic for short words in JSON.
pub(super) fn word_subscriber(node: &Node, topic: &str) -> Result<Subscriber<Raw>, Failure> {
    let overflow = Overflow::Block {
        depth: 16,
        deadline: WORD_TIMEOUT,
    };
    Ok(node.subscriber::<Raw>(topic).overflow(overflow).build()?)
}

pub(super) fn say<T: Serialize>(publisher: &mut Publisher<Raw>, word: &T) -> Result<(), Failure> {
    publisher.publish_bytes(&serde_json::to_vec(word)?)?;
    Ok(())
}

/// The next word, or `None` after `timeout`.
pub(super) fn hear<T: DeserializeOwned>(
    subscriber: &mut Subscriber<Raw>,
    timeout: Duration,
) -> Result<Option<T>, Failure> {
    match subscriber.recv_blocking(timeout) {
        Ok(sample) => Ok(Some(serde_json::from_slice(&sample)?)),
        Err(RecvError::Timeout { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The next message in the way that is measured, or `None` after `timeout`, or with `Wait::Async`
/// after a tick.
#[inline]
pub(super) async fn receive(
    subscriber: &mut Subscriber<Raw>,
    wait: Wait,
    timeout: Duration,
) -> Result<Option<Sample<Raw>>, RecvError> {
    let received = match wait {
        Wait::Spin => subscriber.recv_spin(timeout),
        Wait::Block => subscriber.recv_blocking(timeout),
        Wait::Async => match subscriber.try_recv()? {
            Some(sample) => Ok(sample),
            None => tokio::select! {
                biased;
                received = subscriber.recv() => received,
                () = ticks().notified() => return Ok(None),
            },
        },
    };
    match received {
        Ok(sample) => Ok(Some(sample)),
        Err(RecvError::Timeout { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says every now and then that some time has passed, from another thread: a timer in the runtime
/// would be set for each message, which no program that just waits for messages does.
pub(super) fn ticks() -> &'static Notify {
    static TICKS: Notify = Notify::const_new();
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(TICK);
                TICKS.notify_one();
            }
        });
    });
    &TICKS
}

const TICK: Duration = Duration::from_millis(50);

/// Has this process end as at SIGTERM, where its node leaves the mesh, also when its terminal is
/// closed; and, where that was asked for, when whoever started it is gone, and with it its end of
/// the pipe. All waits may spin, so threads look after that.
pub(super) fn end_well(args: &CommonArgs) {
    let end = || {
        let us = rustix::process::getpid();
        let _ = rustix::process::kill_process(us, rustix::process::Signal::TERM);
    };
    if args.until_eof {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            end();
        });
    }
    if !ending().any(|signal| signal == SIGHUP) {
        return;
    }
    std::thread::spawn(move || {
        let _ = runtime().map(|runtime| {
            runtime.block_on(async {
                if let Ok(mut hangup) = signal(SignalKind::hangup()) {
                    hangup.recv().await;
                    end();
                }
            });
        });
    });
}

/// Runs one end: all waits take turns on this thread.
pub(super) fn block_on<T>(run: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime()?.block_on(run)
}
