//! Service round trips: the sender calls, the receiver provides.

use std::time::{Duration, Instant};

use shmesh_shm::monotonic_ns;

use super::peer::{WORD_TIMEOUT, ticks};
use super::report;
use super::sender::{Sending, WARM_UP};
use super::spec::{Payload, Spec, Wait, verify_byte};
use crate::cli::Failure;
use crate::service::{CallError, Provider, Reply, Request};
use crate::{Caller, Node, Raw, RecvError};

/// Calls for as long as `spec` says, with as many under way as it says. Latencies are whole round
/// trips.
pub(super) async fn measure(
    spec: &Spec,
    caller: &mut Caller<Raw, Raw>,
) -> Result<Sending, Failure> {
    let mut latencies = report::new_histogram();
    let mut message = vec![0; spec.message_size];
    let in_flight = spec.in_flight as usize;
    let (mut number, mut ended) = (0_u64, 0_u64);
    // Of those under way, by number.
    let (started, begin_ns) = (Instant::now(), monotonic_ns());
    let mut begun = vec![started; in_flight];
    let (mut elapsed, mut counted) = (0.0, (started, 0));
    let (warm_up, whole) = (spec.seconds * WARM_UP, spec.seconds * (1.0 + WARM_UP));
    while elapsed < whole || ended < number {
        while elapsed < whole && number - ended < in_flight as u64 {
            let place = usize::try_from(number).unwrap_or_default() % in_flight;
            spec.pace.wait(begin_ns, number);
            begun[place] = Instant::now();
            spec.payload.write(&mut message, number);
            caller.start(&message)?;
            number += 1;
        }
        let reply = next(caller, spec.wait).await;
        let now = Instant::now();
        let (_, reply) = reply?;
        let reply = reply?;
        // One provider serves them in the order in which they came.
        let place = usize::try_from(ended).unwrap_or_default() % in_flight;
        if reply.len() != spec.message_size {
            return Err(Failure::usage("a reply of another size than the request"));
        }
        let is_intact = |(idx, byte): (usize, &u8)| *byte == verify_byte(ended, idx);
        if spec.payload == Payload::Verify && !reply.iter().enumerate().all(is_intact) {
            return Err(Failure::usage("a reply was damaged"));
        }
        ended += 1;
        elapsed = (now - started).as_secs_f64();
        if elapsed < warm_up {
            counted = (now, ended);
            continue;
        }
        let nanos = u64::try_from((now - begun[place]).as_nanos());
        latencies.saturating_record(nanos.unwrap_or(u64::MAX));
    }
    let seconds = counted.0.elapsed().as_secs_f64();
    Ok((ended - counted.1, seconds, Some(latencies)))
}

async fn next(caller: &mut Caller<Raw, Raw>, wait: Wait) -> Result<Reply<Raw>, CallError> {
    match wait {
        Wait::Spin => caller.reply_spin(),
        Wait::Block => caller.reply_blocking(),
        Wait::Async => caller.reply().await,
    }
}

/// The calling end, connected.
pub(super) async fn caller(
    node: &Node,
    topic: &str,
    spec: &Spec,
) -> Result<Caller<Raw, Raw>, Failure> {
    let caller = node.caller::<Raw, Raw>(&format!("{topic}/call"));
    let caller = caller.in_flight_max(spec.in_flight).timeout(WORD_TIMEOUT);
    let mut caller = caller.build()?;
    tokio::time::timeout(WORD_TIMEOUT, caller.wait_for_provider()).await??;
    Ok(caller)
}

/// Serves until `is_over` says so: it is asked when nothing comes for a while.
pub(super) async fn serve(
    provider: &mut Provider<Raw, Raw>,
    spec: &Spec,
    idle: Duration,
    mut is_over: impl FnMut() -> Result<bool, Failure>,
) -> Result<u64, Failure> {
    let mut count = 0;
    loop {
        match receive(provider, spec.wait, idle).await {
            Ok(request) => {
                provider.reply(&request, &request)?;
                count += 1;
            }
            Err(RecvError::Timeout { .. }) if is_over()? => return Ok(count),
            Err(RecvError::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn receive(
    provider: &mut Provider<Raw, Raw>,
    wait: Wait,
    timeout: Duration,
) -> Result<Request<Raw>, RecvError> {
    match wait {
        Wait::Spin => provider.recv_spin(timeout),
        Wait::Block => provider.recv_blocking(timeout),
        Wait::Async => match provider.try_recv()? {
            Some(request) => Ok(request),
            None => tokio::select! {
                biased;
                received = provider.recv() => received,
                () = ticks().notified() => Err(RecvError::Timeout { timeout }),
            },
        },
    }
}
