//! Services: requests that each go to one provider, and the replies to them.
//!
//! A service is two topics: callers publish on one and providers subscribe to it, and on the other
//! the roles are swapped. So calls take the rings and links of messages, wait in the same three
//! ways, and end when a peer dies as channels do. What a call adds is a head before each
//! payload, and that each message goes to one of the peers only.

mod call;
mod caller;
mod direct;
mod provider;
mod serving;
mod setup;

use std::borrow::Borrow;
use std::fmt::Display;
use std::time::Duration;

pub use self::call::{Calling, Client};
pub(crate) use self::caller::Call;
pub use self::caller::{CallId, Caller, Reply, To};
pub(crate) use self::direct::Clients;
pub use self::provider::{Provider, ProviderBuilder, ProviderStats, Request};
pub use self::serving::{Outcome, Serving};
pub use self::setup::CallerBuilder;
use crate::error::{Error, RecvError};
use crate::message::{Body, Payload};
use crate::node::Node;

impl Node {
    /// Starts setting up the serving end of a service:
    /// `node.provider::<Request, Reply>("add").serve(handler)?`.
    pub fn provider<Q: Payload, R: Body>(&self, service: &str) -> ProviderBuilder<Q, R> {
        ProviderBuilder::new(self.clone(), service)
    }

    /// Serves with `handler` on the current tokio runtime, for as long as what this gives lives.
    ///
    /// # Errors
    /// As [`ProviderBuilder::build`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve<Q, R, H, F, V, E>(&self, service: &str, handler: H) -> Result<Serving, Error>
    where
        Q: Payload,
        R: Body<In: 'static>,
        H: Fn(Request<Q>) -> F + Send + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
        V: Borrow<R::In> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.provider::<Q, R>(service).serve(handler)
    }

    /// Starts setting up the calling end of a service, for one thread at a time:
    /// `node.caller::<Request, Reply>("add").build()?`.
    pub fn caller<Q: Body, R: Payload>(&self, service: &str) -> CallerBuilder<Q, R> {
        CallerBuilder::new(self.clone(), service)
    }

    /// The calling end of a service, for any number of tasks.
    ///
    /// # Errors
    /// As [`CallerBuilder::build`].
    pub fn client<Q: Body, R: Payload>(&self, service: &str) -> Result<Client<Q, R>, Error> {
        self.caller(service).client()
    }
}

/// First part of the names of topics with requests.
pub(crate) const REQUESTS: &str = "@requests/";
/// First part of the names of topics with replies.
pub(crate) const REPLIES: &str = "@replies/";

/// Fewest requests or replies that may wait: beyond what is under way, so that credit for them is
/// given long before it is needed.
pub(crate) const RING_DEPTH_MIN: u32 = 64;

/// What goes before the payload of a request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The caller's number of the call.
    pub(crate) call: u64,
    /// In a request: the channel for the reply, as the caller numbers it.
    pub(crate) reply_to: u64,
    pub(crate) kind: Kind,
}

/// What a request or reply is. A whole word: of a smaller one the rest would be moved with it, in
/// pieces that overlap, and each such move waits for the one before (12 ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    /// A request that wants a reply.
    Call,
    /// A request that wants none.
    Tell,
    /// "Nobody waits for the reply any more."
    Cancel,
    /// A reply with a value.
    Done,
    /// A reply with the text of an error.
    Failed,
    /// The same, of a handler that panicked.
    Panicked,
    /// "There is no room for more."
    Overloaded,
    /// "I take no more, for I am about to end."
    Closing,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Call,
        Self::Tell,
        Self::Cancel,
        Self::Done,
        Self::Failed,
        Self::Panicked,
        Self::Overloaded,
        Self::Closing,
    ];
}

/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 32;

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.call.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.reply_to.to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.kind as u64).to_le_bytes());
        bytes
    }

    /// `None` for words that no head has.
    pub(crate) fn decode([call, reply_to, kind, _]: [u64; 4]) -> Option<Self> {
        let kind = Kind::ALL.into_iter().find(|known| *known as u64 == kind)?;
        Some(Self {
            call,
            reply_to,
            kind,
        })
    }
}

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody serves it now.
    #[error("nobody provides {service}: start a provider, or wait with `wait_for_provider`")]
    NoProvider {
        /// The service.
        service: String,
    },
    /// That node does not provide it, or is not there.
    #[error("no node {node} provides {service}: start it, or wait with `wait_for_provider`")]
    NoSuchNode {
        /// The service.
        service: String,
        /// Its name or id.
        node: String,
    },
    /// Somebody serves it, with other types.
    #[error(transparent)]
    TypeMismatch(Error),
    /// No reply came in time. The request may have been carried out all the same.
    #[error("no reply from {service} within {timeout:?}")]
    Timeout {
        /// The service.
        service: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The provider died, left, or cannot be reached any more. The request may have been carried
    /// out.
    #[error("{provider} went while it served the call")]
    ProviderLost {
        /// Name of its node.
        provider: String,
    },
    /// The handler failed.
    #[error("{provider} failed: {message}")]
    Failed {
        /// Name of its node.
        provider: String,
        /// What it said.
        message: String,
    },
    /// The handler panicked, which ended this call alone.
    #[error("{provider} panicked: {message}")]
    Panicked {
        /// Name of its node.
        provider: String,
        /// What it said.
        message: String,
    },
    /// All providers have as many calls waiting as they take: nothing was carried out.
    #[error("{service} is overloaded: call less often, or start more providers")]
    Overloaded {
        /// The service.
        service: String,
    },
    /// The provider is about to end and takes no more calls: nothing was carried out. Others are
    /// called from now on, if there are any.
    #[error("{provider} is about to end and takes no calls: call another provider, or later")]
    Closing {
        /// Name of its node.
        provider: String,
    },
    /// This caller has as many calls under way as it may.
    #[error("{max} calls are under way, the most allowed: raise `in_flight_max`")]
    TooManyCalls {
        /// The limit.
        max: u32,
    },
    /// A reply that is no value of the type.
    #[error("the reply of {provider} is invalid: {reason}")]
    Invalid {
        /// Name of its node.
        provider: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Replies cannot be received.
    #[error(transparent)]
    Receive(RecvError),
    /// The request could not be sent, or waiting failed.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<RecvError> for CallError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Wait(error) => Self::Other(error),
            RecvError::Closed => Self::Other(Error::Closed),
            other => Self::Receive(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_as_they_were_and_others_are_none() {
        for kind in Kind::ALL {
            let head = Head {
                call: u64::MAX - 1,
                reply_to: 7,
                kind,
            };
            let bytes = head.encode();
            let words = std::array::from_fn(|idx| {
                u64::from_le_bytes(std::array::from_fn(|at| bytes[idx * 8 + at]))
            });
            assert_eq!(Head::decode(words), Some(head));
        }
        assert_eq!(Head::decode([0, 0, 8, 0]), None);
        assert_eq!(Head::decode([0, 0, u64::MAX, 0]), None);
    }
}
