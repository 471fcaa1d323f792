//! Connections: handshakes and frames, and the links between two nodes.

pub mod auth;
pub mod handshake;
pub mod wire;

pub mod session;

pub(crate) mod stream;

pub(crate) mod door;

mod listener;

pub(crate) mod host;

pub(crate) mod net;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use self::handshake::Credentials;
use self::host::HostLink;
use self::net::{FeedEvent, NetLink};
use self::session::LinkFrame;
use crate::error::Error;
use crate::id::NodeId;

/// A link that is up, whatever it goes over. Cheap to clone, for any thread.
#[derive(Clone, Debug)]
pub(crate) enum LinkHandle {
    Host(HostLink),
    Net(Arc<NetLink>),
}

impl LinkHandle {
    pub(crate) fn peer(&self) -> NodeId {
        match self {
            Self::Host(link) => link.peer(),
            Self::Net(link) => link.peer(),
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(one), Self::Host(other)) => one.is_same(other),
            (Self::Net(one), Self::Net(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Sends a frame that brings no descriptors. Never blocks.
    pub(crate) fn send(&self, frame: &LinkFrame) {
        match self {
            Self::Host(link) => link.send(frame, Vec::new()),
            Self::Net(link) => link.send(frame),
        }
    }

    /// Ends the link after what is queued.
    pub(crate) fn close(&self) {
        match self {
            Self::Host(link) => link.close(),
            Self::Net(link) => link.tell(FeedEvent::Close),
        }
    }
}

/// What the driver learns of links.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Up {
        link: LinkHandle,
        /// True if we dialled.
        is_dialled: bool,
    },
    Frame {
        link: LinkHandle,
        frame: LinkFrame,
        descriptors: Vec<OwnedFd>,
    },
    Down {
        link: LinkHandle,
        error: Error,
    },
    /// Dialling did not lead to a link.
    Failed {
        peer: NodeId,
        error: Error,
    },
}

/// What both ends of a link need of their node.
#[derive(Clone, Debug)]
pub(crate) struct LinkConfig {
    pub(crate) ours: NodeId,
    /// Users with whom memory is shared.
    pub(crate) users: Arc<[u32]>,
    pub(crate) credentials: Credentials,
    pub(crate) events: mpsc::Sender<LinkEvent>,
}
