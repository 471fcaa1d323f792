//! Requests to one node, whoever else provides the service.

use super::{CallError, CallId, Caller, Head, Kind, Known};
use crate::id::NodeId;
use crate::message::{Body, Payload};
use crate::name;

/// Which node a request is for; made of a name or an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum To<'a> {
    /// The node of that name; of several any one.
    Name(&'a str),
    /// That node and no other, though one of its name may follow it.
    Id(NodeId),
}

impl<'a> From<&'a str> for To<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for To<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl From<NodeId> for To<'_> {
    fn from(id: NodeId) -> Self {
        Self::Id(id)
    }
}

impl To<'_> {
    /// As it is shown.
    fn shown(self) -> String {
        match self {
            Self::Name(name) => name::escaped(name),
            Self::Id(id) => id.to_string(),
        }
    }
}

impl<Q: Body, R: Payload> Caller<Q, R> {
    /// Sends a request that has no reply to one node, by its name or id.
    ///
    /// # Errors
    /// [`CallError::NoSuchNode`] if that node is not there, or not connected yet, or does not
    /// provide the service; [`CallError::Closing`] if it is about to end; else as
    /// [`tell`](Self::tell).
    pub fn tell_to<'a>(
        &mut self,
        node: impl Into<To<'a>>,
        request: &Q::In,
    ) -> Result<(), CallError> {
        let idx = self.find(node.into())?;
        let head = Head {
            call: 0,
            reply_to: 0,
            kind: Kind::Tell,
        };
        self.send(idx, head, request)
    }

    /// Sends a request to one node, by its name or id; else as [`start`](Self::start).
    ///
    /// # Errors
    /// As [`tell_to`](Self::tell_to) and [`start`](Self::start).
    pub fn start_to<'a>(
        &mut self,
        node: impl Into<To<'a>>,
        request: &Q::In,
    ) -> Result<CallId, CallError> {
        let found = self.find(node.into());
        let idx = found.map_err(|error| self.unstarted(error))?;
        let started = self.start_at(idx, request);
        started.map_err(|error| self.unstarted(error))
    }

    fn find(&mut self, to: To<'_>) -> Result<usize, CallError> {
        self.refresh();
        let found = |(idx, known): (usize, &Known)| {
            let is_it = match to {
                To::Name(name) => known.name == name,
                To::Id(id) => known.node == id,
            };
            is_it.then_some((idx, known.is_closing))
        };
        let all = self.providers.iter().enumerate();
        // One that goes on, if there is one.
        match all
            .filter_map(found)
            .min_by_key(|(_, is_closing)| *is_closing)
        {
            Some((idx, false)) => Ok(idx),
            Some((idx, true)) => Err(CallError::Closing {
                provider: self.providers[idx].name.clone(),
            }),
            None => Err(self.not_there(to)),
        }
    }

    #[cold]
    fn not_there(&mut self, to: To<'_>) -> CallError {
        match self.nobody() {
            CallError::NoProvider { service } => CallError::NoSuchNode {
                service,
                node: to.shown(),
            },
            other => other,
        }
    }
}
