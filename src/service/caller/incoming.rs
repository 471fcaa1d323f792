//! What replies say.

use shmesh_shm::Received;

use super::{CallError, CallId, Caller, Head, Kind, Reply};
use crate::id::NodeId;
use crate::message::{Body, Payload, Validation};
use crate::sample::Sample;

impl<Q: Body, R: Payload> Caller<Q, R> {
    /// What a reply says, if somebody waits for it.
    #[inline]
    pub(super) fn take_in(&mut self, mut received: Received) -> Option<Reply<R>> {
        let head = Head::decode(received.take_front()?)?;
        let id = CallId(head.call);
        let call = self.end(id)?;
        let provider = || received.origin().node_name.clone();
        let message = || String::from_utf8_lossy(received.bytes()).into_owned();
        let reply = match head.kind {
            Kind::Done => {
                let name = provider();
                let reply = found(received, name);
                self.meter.replied(&reply, &call);
                return Some((id, reply));
            }
            Kind::Overloaded => CallError::Overloaded {
                service: self.service.clone(),
            },
            Kind::Closing => {
                let node = NodeId(received.origin().node);
                let mut known = self.providers.iter_mut();
                if let Some(known) = known.find(|known| known.node == node) {
                    known.is_closing = true;
                }
                let provider = provider();
                CallError::Closing { provider }
            }
            Kind::Panicked => CallError::Panicked {
                provider: provider(),
                message: message(),
            },
            _ => CallError::Failed {
                provider: provider(),
                message: message(),
            },
        };
        let reply = Err(reply);
        self.meter.replied(&reply, &call);
        Some((id, reply))
    }
}

fn found<R: Payload>(received: Received, provider: String) -> Result<Sample<R>, CallError> {
    match R::find(received, Validation::InPlace) {
        Ok(held) => Ok(Sample { held }),
        Err(invalid) => Err(CallError::Invalid {
            provider,
            reason: invalid.0,
        }),
    }
}
