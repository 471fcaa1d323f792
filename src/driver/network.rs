//! The network side of a node: its door for peers of other hosts, the dialling of theirs, and the
//! thread that all its network links run on, which is started with the first of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::thread::RuntimeThread;
use crate::compression::Compression;
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_PER_NODE_MAX, HANDSHAKE_MS_MAX, NETWORK_LINKS_MAX,
};
use crate::link::door::{Door, Doorkeeper, Guest};
use crate::link::handshake::{Hello, Purpose, Side};
use crate::link::net::task::{NetConfig, serve};
use crate::link::stream::{self, Secured};
use crate::link::{LinkConfig, LinkEvent};
use crate::name::escaped;
use crate::node::{ADVERTISE_VARIABLE, LISTEN_VARIABLE, NodeShared, with_default_port};
use crate::topology::NodeInfo;

/// Runs the network links of a node. Ends with its owner.
#[derive(Debug)]
pub(super) struct NetThread {
    name: String,
    config: NetConfig,
    started: OnceLock<RuntimeThread>,
    /// One for each link there may be: strangers must not take what our own endpoints need.
    places: Arc<Semaphore>,
}

impl NetThread {
    pub(super) fn new(node: &NodeShared, setup: &NetworkSetup, links: &LinkConfig) -> Arc<Self> {
        Arc::new(Self {
            name: format!("shmesh-net-{:.4}", node.info.name),
            config: NetConfig {
                bells: Arc::clone(&node.bells),
                fencing: node.fencing,
                events: links.events.clone(),
                compression: setup.compression,
            },
            started: OnceLock::new(),
            places: Arc::new(Semaphore::new(NETWORK_LINKS_MAX as usize)),
        })
    }

    /// Takes over a connection that is past its handshake.
    fn serve(&self, stream: Secured, peer: Hello, is_dialled: bool) -> Result<(), Error> {
        let max = u64::from(NETWORK_LINKS_MAX);
        let full = |_| Error::OutOfBounds {
            what: "network links of a node",
            found: max + 1,
            min: 0,
            max,
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        let link = serve(self.config.clone(), stream, peer, is_dialled);
        let link = async move {
            link.await;
            drop(place);
        };
        if self.started.get().is_none() {
            // Only the driver's thread comes here, so nobody else has started it meanwhile.
            let what = "start the node's network thread";
            let started = RuntimeThread::start(self.name.clone(), what)?;
            let _ = self.started.set(started);
        }
        if let Some(started) = self.started.get() {
            started.spawn(link);
        }
        Ok(())
    }
}

/// Where a node of ours is found by others.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkSetup {
    /// Address to listen at, or none for the one from which the coordinator is reached.
    pub(crate) listen: Option<String>,
    /// Further addresses under which others reach it, first among those it announces.
    pub(crate) advertise: Vec<String>,
    /// How payloads are compressed, where the other end does so, too.
    pub(crate) compression: Option<Compression>,
}

impl NetworkSetup {
    /// What is set, and else what the environment says, checked.
    pub(crate) fn or_environment(mut self) -> Result<Self, Error> {
        let said = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        self.listen = self.listen.or_else(|| said(LISTEN_VARIABLE));
        self.listen = self.listen.map(|address| with_default_port(&address, 0));
        if self.advertise.is_empty()
            && let Some(list) = said(ADVERTISE_VARIABLE)
        {
            self.advertise = list.split(',').map(|one| one.trim().to_owned()).collect();
        }
        for address in &self.advertise {
            check_advertised(address)?;
        }
        let (what, max) = ("advertised addresses", ADDRESSES_PER_NODE_MAX as u64 - 1);
        let found = self.advertise.len() as u64;
        if found > max {
            return Err(Error::OutOfBounds {
                what,
                found,
                min: 0,
                max,
            });
        }
        Ok(self)
    }
}

fn check_advertised(address: &str) -> Result<(), Error> {
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    let is_plain = address.bytes().all(|byte| byte.is_ascii_graphic());
    let reason = if !matches!(port, Some(Ok(1..))) {
        "an address to advertise is host:port"
    } else if address.len() > ADDRESS_BYTES_MAX || !is_plain {
        "longer than an address can be, or not plain text"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName {
        name: escaped(address),
        reason: reason.into(),
    })
}

/// Opens the door; the addresses to announce.
pub(super) async fn open_door(
    setup: &NetworkSetup,
    coordinator: &str,
    links: &LinkConfig,
) -> Result<(Door, Vec<String>), Error> {
    let address = match &setup.listen {
        Some(address) => address.clone(),
        None => SocketAddr::new(address_towards(coordinator).await, 0).to_string(),
    };
    let keeper = Doorkeeper {
        id: links.ours,
        side: Side::Node,
        purpose: Purpose::NetworkLink,
        packs: setup.compression.is_some(),
        credentials: links.credentials.clone(),
    };
    let door = Door::open(&address, keeper).await?;
    let mut local = door.local_addr()?;
    if local.ip().is_unspecified() {
        // All of them: the one that the coordinator sees is as good as any.
        local.set_ip(address_towards(coordinator).await);
    }
    let mut addresses: Vec<String> = setup.advertise.clone();
    addresses.push(local.to_string());
    Ok((door, addresses))
}

/// The address of ours from which the coordinator is reached: with a coordinator of this host the
/// loopback one, which nobody else reaches.
async fn address_towards(coordinator: &str) -> IpAddr {
    let found = async {
        let theirs = tokio::net::lookup_host(coordinator).await.ok()?.next()?;
        let any: IpAddr = match theirs {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        // Connecting a datagram socket sends nothing: it only asks for the route.
        let socket = UdpSocket::bind((any, 0)).await.ok()?;
        socket.connect(theirs).await.ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
    let found = timeout(limit, found).await.ok().flatten();
    found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Serves those who come to the door.
pub(super) async fn receive(mut door: Door, net: Arc<NetThread>) {
    loop {
        let Guest {
            stream,
            hello,
            address,
        } = door.next().await;
        if let Err(error) = net.serve(stream, hello, false) {
            tracing::warn!(target: "shmesh::link", %address, %error, "cannot serve a peer");
        }
    }
}

/// Dials a peer at its addresses in turn.
pub(super) async fn dial(
    links: LinkConfig,
    net: Arc<NetThread>,
    peer: NodeId,
    addresses: Vec<String>,
) {
    let mut outcome = Err(Error::Protocol("it announces no address"));
    for address in addresses {
        outcome = dial_at(&links, &net, peer, &address).await;
        if outcome.is_ok() {
            return;
        }
    }
    if let Err(error) = outcome {
        let _ = links.events.send(LinkEvent::Failed { peer, error }).await;
    }
}

async fn dial_at(
    links: &LinkConfig,
    net: &NetThread,
    peer: NodeId,
    address: &str,
) -> Result<(), Error> {
    let (purpose, credentials) = (Purpose::NetworkLink, &links.credentials);
    let mut ours = Hello::ours(Side::Node, purpose, links.ours)?;
    ours.packs = net.config.compression.is_some();
    let (stream, hello) = stream::dial(address, ours, Side::Node, credentials).await?;
    if hello.id != peer {
        return Err(Error::Protocol("another node answers at this address"));
    }
    net.serve(stream, hello, true)
}

/// Addresses of a node at which we may find it: not the loopback ones of another host.
pub(super) fn addresses_of(node: &NodeInfo, is_same_host: bool) -> Vec<String> {
    let is_loopback = |address: &str| {
        let parsed: Result<SocketAddr, _> = address.parse();
        parsed.is_ok_and(|address| address.ip().is_loopback())
    };
    let addresses = node.addresses.iter();
    let reachable = addresses.filter(|address| is_same_host || !is_loopback(address));
    reachable.cloned().collect()
}
