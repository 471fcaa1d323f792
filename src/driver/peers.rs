//! The other nodes, as far as links go: which way each is to be reached, when it is dialled, and
//! the link that leads to it.
//!
//! Invariant: of two links between the same nodes both ends keep the same one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shmesh_shm::Counter;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::IDLE;
use super::network::{self, NetThread, addresses_of};
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{DIAL_TURN_MS, RECONNECT_MS_MAX, RECONNECT_MS_MIN};
use crate::link::{LinkConfig, LinkHandle, host};
use crate::membership::jittered;
use crate::node::{NodeShared, Transports, in_process};
use crate::topology::{NodeInfo, Topology};

pub(super) struct Peers<'a> {
    shared: &'a NodeShared,
    links: LinkConfig,
    net: Arc<NetThread>,
    known: HashMap<NodeId, Peer>,
    dials: JoinSet<()>,
}

/// Another node.
#[derive(Debug, Default)]
struct Peer {
    link: Option<LinkHandle>,
    /// True once there was one.
    had_link: bool,
    is_dialling: bool,
    /// True if it is its socket that is dialled.
    is_dialling_memory: bool,
    /// True if its socket could not be reached: its addresses are next.
    is_without_memory: bool,
    /// True once it was given the time to dial us.
    had_its_turn: bool,
    /// Not to be dialled before; and how long to wait after the next failure.
    retry: Option<Instant>,
    pause_ms: u64,
}

/// How a peer is to be reached.
enum Route {
    /// Its socket.
    Host(String),
    /// Its addresses.
    Network(Vec<String>),
}

impl<'a> Peers<'a> {
    pub(super) fn new(shared: &'a NodeShared, links: LinkConfig, net: Arc<NetThread>) -> Self {
        Self {
            shared,
            links,
            net,
            known: HashMap::new(),
            dials: JoinSet::new(),
        }
    }

    /// A link is up; whether it is to be used. Of two between the same nodes the one stays that the
    /// node with the smaller id dialled, and of two of those the newer: both ends see it alike.
    pub(super) fn on_up(&mut self, link: &LinkHandle, is_dialled: bool) -> bool {
        let peer = self.known.entry(link.peer()).or_default();
        let is_by_smaller = is_dialled == (self.shared.info.id < link.peer());
        if peer.link.is_some() && !is_by_smaller {
            link.close();
            return false;
        }
        let is_without_memory = peer.is_without_memory;
        let replaced = std::mem::replace(
            peer,
            Peer {
                link: Some(link.clone()),
                is_without_memory,
                had_link: true,
                ..Peer::default()
            },
        );
        if replaced.had_link && replaced.link.is_none() {
            self.shared.counters.add(Counter::PeersFoundAgain, 1);
        }
        if let Some(older) = replaced.link {
            older.close();
        }
        true
    }

    pub(super) fn on_down(&mut self, link: &LinkHandle) {
        let peer = self.known.entry(link.peer()).or_default();
        if peer.link.take_if(|current| current.is_same(link)).is_some() {
            peer.back_off();
        }
    }

    /// A peer could not be reached; true if there is another way, to be tried at once.
    pub(super) fn on_failed(&mut self, id: NodeId, error: &Error) -> bool {
        tracing::debug!(target: "shmesh::link", peer = %id, %error, "no link");
        let has_addresses = self.shared.view.with(|topology| {
            let node = topology.node(id);
            node.is_some_and(|node| !node.addresses.is_empty())
        });
        let is_networking = self.shared.transports != Transports::SharedMemory;
        let peer = self.known.entry(id).or_default();
        let was_memory = std::mem::take(&mut peer.is_dialling_memory);
        peer.is_dialling = false;
        peer.back_off();
        if was_memory && has_addresses && is_networking {
            if !std::mem::replace(&mut peer.is_without_memory, true) {
                tracing::info!(
                    target: "shmesh::link",
                    peer = %id, %error, "cannot share memory: going over the network"
                );
            }
            peer.retry = None;
            return true;
        }
        // Neither way: both are tried again in turn.
        peer.is_without_memory = false;
        false
    }

    /// A node of this process with which nothing but memory is needed.
    pub(super) fn neighbour(&self, node: &NodeInfo) -> Option<Arc<NodeShared>> {
        let is_sharing = self.shared.transports != Transports::Network && !node.socket.is_empty();
        in_process(node.id).filter(|_| is_sharing)
    }

    /// Has a link to the node made, if there is none and it is time and our turn.
    pub(super) fn want(&mut self, node: &NodeInfo) {
        let now = Instant::now();
        let is_waiting = |peer: &Peer| {
            let is_early = peer.retry.is_some_and(|retry| retry > now);
            peer.link.is_some() || peer.is_dialling || is_early
        };
        if self.known.get(&node.id).is_some_and(is_waiting) {
            return;
        }
        let Some(route) = self.route(node) else {
            return;
        };
        let peer = self.known.entry(node.id).or_default();
        if self.shared.info.id > node.id {
            // Its turn. Over a network it may be that only we can reach it.
            if let Route::Host(_) = route {
                return;
            }
            if !std::mem::replace(&mut peer.had_its_turn, true) {
                peer.retry = Some(now + Duration::from_millis(DIAL_TURN_MS));
                return;
            }
        }
        peer.is_dialling = true;
        peer.is_dialling_memory = matches!(route, Route::Host(_));
        peer.retry = None;
        let links = self.links.clone();
        match route {
            Route::Host(socket) => self.dials.spawn(host::dial(links, node.id, socket)),
            Route::Network(addresses) => {
                let net = Arc::clone(&self.net);
                self.dials
                    .spawn(network::dial(links, net, node.id, addresses))
            }
        };
    }

    /// How a node is to be reached: by its socket if that is on this host, else by its addresses.
    fn route(&self, node: &NodeInfo) -> Option<Route> {
        let transports = self.shared.transports;
        let is_same_host = node.host == self.shared.info.host;
        let is_sharing =
            is_same_host && transports != Transports::Network && !node.socket.is_empty();
        let addresses = match transports {
            Transports::SharedMemory => Vec::new(),
            Transports::Auto | Transports::Network => addresses_of(node, is_same_host),
        };
        let peer = self.known.get(&node.id);
        let is_without_memory = peer.is_some_and(|peer| peer.is_without_memory);
        if is_sharing && (addresses.is_empty() || !is_without_memory) {
            return Some(Route::Host(node.socket.clone()));
        }
        (!addresses.is_empty()).then_some(Route::Network(addresses))
    }

    /// Forgets those who are in the mesh no more, and to whom no link leads.
    pub(super) fn forget_gone(&mut self, topology: &Topology) {
        self.known.retain(|id, peer| {
            peer.link.is_some() || peer.is_dialling || topology.node(*id).is_some()
        });
    }

    /// The links over networks say that they live, and look whether their peers do.
    pub(super) fn beat(&self) {
        for peer in self.known.values() {
            if let Some(LinkHandle::Net(link)) = &peer.link {
                link.beat();
            }
        }
    }

    /// When a failed peer is to be dialled again.
    pub(super) fn next_retry(&self) -> Instant {
        let retries = self.known.values().filter_map(|peer| peer.retry);
        retries.min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// Those whose time has come may be dialled again.
    pub(super) fn end_pauses(&mut self) {
        let now = Instant::now();
        for peer in self.known.values_mut() {
            peer.retry.take_if(|retry| *retry <= now);
        }
    }

    pub(super) fn has_links(&self) -> bool {
        self.known.values().any(|peer| peer.link.is_some())
    }

    /// The next dialling that is over; pending while there is none.
    pub(super) async fn dialled(&mut self) {
        if self.dials.join_next().await.is_none() {
            std::future::pending().await
        }
    }

    /// Ends what is still dialling.
    pub(super) async fn stop(&mut self) {
        self.dials.shutdown().await;
    }
}

impl Peer {
    fn back_off(&mut self) {
        self.pause_ms = (2 * self.pause_ms).clamp(RECONNECT_MS_MIN, RECONNECT_MS_MAX);
        self.retry = Some(Instant::now() + jittered(self.pause_ms));
    }
}
