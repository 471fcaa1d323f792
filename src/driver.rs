//! The driver of a node: one thread that keeps it in the mesh and its channels connected.
//!
//! It follows the topology, dials peers, and brings publishers and subscribers their channels. No
//! message passes through it: when it sleeps, or the coordinator is gone, messages flow on.
//!
//! Invariants: of two nodes, the one with the smaller id dials. A channel is asked for by the
//! subscriber's node. A channel ends when its link ends or one of its two ends says so, never
//! because the coordinator forgot a node.

mod channels;
mod network;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::channels::Channels;
pub(crate) use self::network::NetworkSetup;
use self::network::{NetThread, addresses_of, open_door};
use crate::coordinator::Coordinator;
use crate::endpoint::lock;
use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{
    ACCEPT_PAUSE_MS, DIAL_TURN_MS, HEARTBEAT_MS, LEAVE_MS_MAX, RECONNECT_MS_MAX, RECONNECT_MS_MIN,
};
use crate::link::handshake::Credentials;
use crate::link::host::{self, HostListener};
use crate::link::net::task::NetConfig;
use crate::link::{LinkConfig, LinkEvent, LinkHandle};
use crate::membership::{MembershipConfig, MeshEvent, jittered, maintain};
use crate::node::{NodeShared, Transports, forget_in_process, in_process};
use crate::topology::{Change, NodeInfo, Role, Topology};

/// What a handle asks of the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// An endpoint came.
    Changed,
    SubscriberGone {
        subscriber: u32,
    },
    PublisherGone {
        publisher: u32,
    },
    /// A subscriber ended a channel.
    Detach {
        channel: u64,
    },
}

#[derive(Debug)]
pub(crate) struct DriverConfig {
    pub(crate) address: String,
    pub(crate) is_embedding: bool,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) join_timeout: Duration,
    pub(crate) handles_signals: bool,
    pub(crate) credentials: Credentials,
    /// Users with whom memory is shared, our own among them.
    pub(crate) users: Vec<u32>,
    pub(crate) network: NetworkSetup,
}

/// Where a node's socket is.
pub(crate) fn socket_path(runtime_dir: &Path, node: NodeId) -> PathBuf {
    runtime_dir.join(format!("{node}.sock"))
}

type Joined = oneshot::Sender<Result<(), Error>>;

/// Starts the driver's thread. `joined` learns whether the node got into the mesh.
pub(crate) fn spawn(
    shared: Arc<NodeShared>,
    config: DriverConfig,
    joined: Joined,
) -> Result<JoinHandle<()>, Error> {
    let what = "start the node's thread";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| Error::Io { what, source })?;
    let name = format!("shmesh-{:.8}", shared.info.name);
    let run = move || runtime.block_on(run(shared, config, joined));
    let thread = std::thread::Builder::new().name(name).spawn(run);
    thread.map_err(|source| Error::Io { what, source })
}

async fn run(shared: Arc<NodeShared>, config: DriverConfig, joined: Joined) {
    let signal = Driver::drive(&shared, &config, joined).await;
    shared.is_closed.send_replace(true);
    if let Some(signal) = signal {
        // The names of this node, which otherwise go with their owners.
        if let Some(status) = &shared.status {
            status.remove();
        }
        let _ = std::fs::remove_file(&shared.info.socket);
        // The last node of the process ends it as the signal would have.
        if forget_in_process(shared.info.id) {
            let ended = signal_hook::low_level::emulate_default_handler(signal);
            debug_assert!(ended.is_ok());
        }
    }
}

/// How a peer is to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// Its socket.
    Host(String),
    /// Its addresses.
    Network(Vec<String>),
}

/// Another node, as far as links go.
#[derive(Debug, Default)]
struct Peer {
    link: Option<LinkHandle>,
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

struct Driver<'a> {
    shared: &'a Arc<NodeShared>,
    channels: Channels<'a>,
    peers: HashMap<NodeId, Peer>,
    /// Mismatches that were logged.
    mismatched: HashSet<(NodeId, u32, u32)>,
    tasks: JoinSet<()>,
    links: LinkConfig,
    net: Arc<NetThread>,
    joined: Option<Joined>,
    /// Built up while a snapshot comes in, so that nothing is torn down meanwhile.
    incoming: Option<Topology>,
}

impl<'a> Driver<'a> {
    /// Runs until shutdown; gives the signal that ended it, if one did.
    async fn drive(
        shared: &'a Arc<NodeShared>,
        config: &DriverConfig,
        joined: Joined,
    ) -> Option<i32> {
        let (link_events, mut from_links) = mpsc::channel(EVENT_QUEUE);
        let (mesh_events, mut from_mesh) = mpsc::channel(EVENT_QUEUE);
        let links = LinkConfig {
            ours: shared.info.id,
            users: config.users.clone().into(),
            credentials: config.credentials.clone(),
            events: link_events,
        };
        let net_config = NetConfig {
            bells: Arc::clone(&shared.bells),
            fencing: shared.fencing,
            events: links.events.clone(),
            compression: config.network.compression,
        };
        let net = NetThread::new(&shared.info.name, net_config);
        let mut tasks = JoinSet::new();
        let info = match listen(shared, config, &links, &net, &mut tasks).await {
            Ok(info) => info,
            Err(error) => {
                let _ = joined.send(Err(error));
                return None;
            }
        };
        if config.is_embedding {
            embed(config, shared, &mut tasks).await;
        }
        let membership = MembershipConfig {
            address: config.address.clone(),
            info,
            credentials: config.credentials.clone(),
        };
        let (local, shutdown) = (shared.local.subscribe(), shared.shutdown.subscribe());
        tasks.spawn(maintain(membership, local, mesh_events, shutdown));
        let mut driver = Driver {
            shared,
            channels: Channels::new(shared),
            peers: HashMap::new(),
            mismatched: HashSet::new(),
            tasks,
            links,
            net,
            joined: Some(joined),
            incoming: None,
        };
        let mut shutdown = shared.shutdown.subscribe();
        let give_up = Instant::now() + config.join_timeout;
        let signal = signals(config.handles_signals);
        tokio::pin!(signal);
        let mut last_error = None;
        let mut beat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
        let ended_by = loop {
            let retry = driver.next_retry();
            tokio::select! {
                Some(event) = from_mesh.recv() => driver.on_mesh(event, &mut last_error),
                Some(event) = from_links.recv() => driver.on_link(event),
                () = shared.commanded.notified() => driver.on_commands(),
                Some(_) = driver.tasks.join_next() => {}
                () = tokio::time::sleep_until(retry) => driver.retry(),
                _ = beat.tick() => driver.beat(),
                () = tokio::time::sleep_until(give_up), if driver.joined.is_some() => {
                    driver.give_up(last_error.take(), config.join_timeout);
                }
                _ = shutdown.wait_for(|is_over| *is_over) => break None,
                signal = &mut signal => break Some(signal),
            }
        };
        driver.leave(&mut from_links).await;
        ended_by
    }

    /// Could not join in time.
    fn give_up(&mut self, last_error: Option<Error>, waited: Duration) {
        if let Some(joined) = self.joined.take() {
            let _ = joined.send(Err(last_error.unwrap_or(Error::Timeout(waited))));
        }
    }

    fn on_mesh(&mut self, event: MeshEvent, last_error: &mut Option<Error>) {
        match event {
            MeshEvent::Joined { epoch } => {
                tracing::debug!(epoch, "joined the mesh");
                if let Some(joined) = self.joined.take() {
                    let _ = joined.send(Ok(()));
                }
            }
            MeshEvent::Reset => self.incoming = Some(Topology::default()),
            MeshEvent::Changes(changes) => match &mut self.incoming {
                Some(incoming) => apply(incoming, &changes),
                None => {
                    apply(&mut lock(&self.shared.topology), &changes);
                    self.connect();
                }
            },
            MeshEvent::SnapshotDone => {
                if let Some(incoming) = self.incoming.take() {
                    *lock(&self.shared.topology) = incoming;
                }
                self.connect();
            }
            MeshEvent::Lost { error } => {
                if self.joined.is_none() {
                    tracing::warn!(%error, "coordinator lost; traffic goes on, trying again");
                } else if !matches!(error, Error::CoordinatorUnreachable { .. }) {
                    // It answers, but not to us: trying on would not change that.
                    self.give_up(Some(error), Duration::ZERO);
                    return;
                }
                *last_error = Some(error);
            }
        }
    }

    fn on_commands(&mut self) {
        for command in self.shared.commands.take() {
            match command {
                Command::Changed => self.connect(),
                Command::SubscriberGone { subscriber } => self.channels.drop_subscriber(subscriber),
                Command::PublisherGone { publisher } => self.channels.drop_publisher(publisher),
                Command::Detach { channel } => self.channels.detach(channel),
            }
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { link, is_dialled } => self.on_up(link, is_dialled),
            LinkEvent::Frame {
                link,
                frame,
                descriptors,
            } => {
                if let Err(error) = self.channels.on_frame(&link, frame, descriptors) {
                    tracing::warn!(%error, peer = %link.peer(), "link ended");
                    link.close();
                }
                self.connect();
            }
            LinkEvent::Down { link, error } => {
                tracing::debug!(peer = %link.peer(), %error, "link down");
                self.channels.drop_link(&link);
                let peer = self.peers.entry(link.peer()).or_default();
                if peer
                    .link
                    .as_ref()
                    .is_some_and(|current| current.is_same(&link))
                {
                    peer.link = None;
                    peer.back_off();
                }
                self.connect();
            }
            LinkEvent::Failed { peer, error } => self.on_failed(peer, &error),
        }
    }

    /// A link is up. Of two between the same nodes the one stays that the node with the smaller id
    /// dialled, and of two of those the newer: both ends see it alike.
    fn on_up(&mut self, link: LinkHandle, is_dialled: bool) {
        let peer = self.peers.entry(link.peer()).or_default();
        let is_by_smaller = is_dialled == (self.shared.info.id < link.peer());
        if peer.link.is_some() && !is_by_smaller {
            link.close();
            return;
        }
        let is_without_memory = peer.is_without_memory;
        let replaced = std::mem::replace(
            peer,
            Peer {
                link: Some(link.clone()),
                is_without_memory,
                ..Peer::default()
            },
        );
        if let Some(older) = replaced.link {
            older.close();
        }
        self.channels.greet(&link);
        self.connect();
    }

    fn on_failed(&mut self, id: NodeId, error: &Error) {
        tracing::debug!(peer = %id, %error, "no link");
        let has_addresses = lock(&self.shared.topology)
            .node(id)
            .is_some_and(|node| !node.addresses.is_empty());
        let is_networking = self.shared.transports != Transports::SharedMemory;
        let peer = self.peers.entry(id).or_default();
        let was_memory = std::mem::take(&mut peer.is_dialling_memory);
        peer.is_dialling = false;
        peer.back_off();
        if was_memory && has_addresses && is_networking {
            if !std::mem::replace(&mut peer.is_without_memory, true) {
                tracing::info!(peer = %id, %error, "cannot share memory: going over the network");
            }
            peer.retry = None;
            self.connect();
        } else if peer.is_without_memory {
            // Neither way: both are tried again in turn.
            peer.is_without_memory = false;
        }
    }

    /// Brings links and channels to what the topology and our endpoints ask for.
    fn connect(&mut self) {
        let local = self.shared.local.borrow().clone();
        let topology = lock(&self.shared.topology);
        let mut wanted = Vec::new();
        for ours in local.values() {
            let others = match ours.role {
                Role::Publisher => Role::Subscriber,
                Role::Subscriber => Role::Publisher,
            };
            for (node, theirs) in topology.matching(&ours.topic, others) {
                if ours.ty != theirs.ty {
                    if self.mismatched.insert((node.id, theirs.id, ours.id)) {
                        tracing::warn!(
                            topic = ours.topic, node = node.name, ours = %ours.ty,
                            theirs = %theirs.ty, "types differ: not connected"
                        );
                    }
                    continue;
                }
                let neighbour = self.neighbour(node);
                if ours.role == Role::Subscriber {
                    self.channels
                        .attach(ours.id, node, theirs, neighbour.as_ref());
                }
                if neighbour.is_none()
                    && !wanted.iter().any(|(id, _)| *id == node.id)
                    && let Some(route) = self.route(node)
                {
                    wanted.push((node.id, route));
                }
            }
        }
        self.peers.retain(|id, peer| {
            peer.link.is_some() || peer.is_dialling || topology.node(*id).is_some()
        });
        drop(topology);
        for (id, route) in wanted {
            self.dial(id, route);
        }
    }

    /// A node of this process with which nothing but memory is needed.
    fn neighbour(&self, node: &NodeInfo) -> Option<Arc<NodeShared>> {
        let is_sharing = self.shared.transports != Transports::Network && !node.socket.is_empty();
        in_process(node.id).filter(|_| is_sharing)
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
        let peer = self.peers.get(&node.id);
        let is_without_memory = peer.is_some_and(|peer| peer.is_without_memory);
        if is_sharing && (addresses.is_empty() || !is_without_memory) {
            return Some(Route::Host(node.socket.clone()));
        }
        (!addresses.is_empty()).then_some(Route::Network(addresses))
    }

    fn dial(&mut self, id: NodeId, route: Route) {
        let now = Instant::now();
        let peer = self.peers.entry(id).or_default();
        let is_early = peer.retry.is_some_and(|retry| retry > now);
        if peer.link.is_some() || peer.is_dialling || is_early {
            return;
        }
        if self.shared.info.id > id {
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
            Route::Host(socket) => self.tasks.spawn(host::dial(links, id, socket)),
            Route::Network(addresses) => {
                let net = Arc::clone(&self.net);
                self.tasks.spawn(network::dial(links, net, id, addresses))
            }
        };
    }

    /// Another second: the links over networks say that they live, and look whether their peers do.
    fn beat(&self) {
        for peer in self.peers.values() {
            if let Some(LinkHandle::Net(link)) = &peer.link {
                link.beat();
            }
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        for peer in self.peers.values_mut() {
            peer.retry.take_if(|retry| *retry <= now);
        }
        self.connect();
    }

    /// When a failed peer is to be dialled again.
    fn next_retry(&self) -> Instant {
        let idle = Instant::now() + Duration::from_secs(3600);
        self.peers
            .values()
            .filter_map(|peer| peer.retry)
            .min()
            .unwrap_or(idle)
    }

    /// Tells the peers that all is over; what is in the rings stays readable for them.
    async fn leave(&mut self, from_links: &mut mpsc::Receiver<LinkEvent>) {
        let publishers: Vec<_> = {
            let registry = lock(&self.shared.registry);
            registry.publishers.values().cloned().collect()
        };
        publishers.iter().for_each(|publisher| publisher.close());
        self.channels.close_all();
        // What is queued for the peers (a segment that a message lies in) goes out first, but a
        // peer that does not read is not waited for.
        let flushed = async {
            while self.peers.values().any(|peer| peer.link.is_some()) {
                let Some(event) = from_links.recv().await else {
                    return;
                };
                if let LinkEvent::Down { .. } = event {
                    self.on_link(event);
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(LEAVE_MS_MAX), flushed).await;
    }
}

impl Peer {
    fn back_off(&mut self) {
        self.pause_ms = (2 * self.pause_ms).clamp(RECONNECT_MS_MIN, RECONNECT_MS_MAX);
        self.retry = Some(Instant::now() + jittered(self.pause_ms));
    }
}

fn apply(topology: &mut Topology, changes: &[Change]) {
    for change in changes {
        if let Err(error) = topology.apply(change) {
            tracing::warn!(%error, "the coordinator sent a change that cannot be");
        }
    }
}

async fn accept(listener: HostListener, links: LinkConfig) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(socket) => {
                    served.spawn(host::answer(links.clone(), socket));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
            Some(_) = served.join_next() => {}
        }
    }
}

/// Makes this node reachable, by whatever it may be reached; what it announces of itself.
async fn listen(
    shared: &Arc<NodeShared>,
    config: &DriverConfig,
    links: &LinkConfig,
    net: &Arc<NetThread>,
    tasks: &mut JoinSet<()>,
) -> Result<NodeInfo, Error> {
    let mut info = shared.info.clone();
    if shared.transports != Transports::Network {
        let is_shared = config.users.len() > 1;
        let listener = HostListener::bind(&config.runtime_dir, info.id, is_shared)?;
        debug_assert_eq!(listener.path(), Path::new(&info.socket));
        tasks.spawn(accept(listener, links.clone()));
    }
    if shared.transports == Transports::SharedMemory {
        return Ok(info);
    }
    match open_door(&config.network, &config.address, links).await {
        Ok((door, addresses)) => {
            info.addresses = addresses;
            tasks.spawn(network::receive(door, Arc::clone(net)));
        }
        // Not what was asked for: memory may do.
        Err(error) if shared.transports == Transports::Auto && config.network.listen.is_none() => {
            tracing::warn!(%error, "not reachable over a network");
        }
        Err(error) => return Err(error),
    }
    Ok(info)
}

/// Starts a coordinator here, unless the address is taken, by another one most likely.
async fn embed(config: &DriverConfig, shared: &Arc<NodeShared>, tasks: &mut JoinSet<()>) {
    let address = &config.address;
    match Coordinator::bind(address).await {
        Ok(coordinator) => {
            let coordinator = coordinator.with_credentials(config.credentials.clone());
            tracing::info!(address, "embedded coordinator");
            let mut shutdown = shared.shutdown.subscribe();
            tasks.spawn(async move {
                let over = async {
                    let _ = shutdown.wait_for(|is_over| *is_over).await;
                };
                coordinator.run(over).await;
            });
        }
        Err(error) => tracing::debug!(address, %error, "no embedded coordinator"),
    }
}

/// The signal that ends this process, if that is ours to see.
async fn signals(are_handled: bool) -> i32 {
    use tokio::signal::unix::{SignalKind, signal};
    if are_handled
        && let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        )
    {
        return tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        };
    }
    std::future::pending().await
}

/// Events between tasks of one thread.
const EVENT_QUEUE: usize = 256;
