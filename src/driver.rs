//! The driver of a node: one thread that keeps it in the mesh and its channels connected.
//!
//! It follows the topology, dials peers, and brings publishers and subscribers their channels. No
//! message passes through it: when it sleeps, or the coordinator is gone, messages flow on.
//!
//! Invariants: of two nodes, the one with the smaller id dials. A channel is asked for by the
//! subscriber's node. A channel ends when its link ends or one of its two ends says so, never
//! because the coordinator forgot a node.

mod channels;
mod listen;
mod network;
mod peers;
mod thread;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use shmesh_shm::{Counter, monotonic_ns};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::channels::Channels;
use self::listen::{embed, listen};
use self::network::NetThread;
pub(crate) use self::network::NetworkSetup;
use self::peers::Peers;
pub(crate) use self::thread::Running;
use crate::endpoint::{SubscriberEvent, lock};
use crate::error::Error;
use crate::events::Loss;
use crate::flow::forever::{dealt_with, dismissed, ended_by_signal, is_awaited};
use crate::id::NodeId;
use crate::known::apply;
use crate::limits::{HEARTBEAT_MS, LEAVE_MS_MAX};
use crate::link::handshake::Credentials;
use crate::link::{LinkConfig, LinkEvent, LinkHandle};
use crate::membership::{MembershipConfig, MeshEvent, maintain};
use crate::metrics::Sampler;
use crate::name::is_pattern;
use crate::node::{NodeShared, forget_in_process};
use crate::topology::{Endpoint, NodeInfo, Role, Topology};

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

/// Starts the driver. `joined` learns whether the node got into the mesh.
pub(crate) fn spawn(
    shared: Arc<NodeShared>,
    config: DriverConfig,
    joined: Joined,
) -> Result<Running, Error> {
    Running::start(run(shared, config, joined))
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
        // The last node of the process ends it as the signal would have, unless the program does.
        if !forget_in_process(shared.info.id) {
            return;
        }
        dealt_with();
        if !is_awaited() {
            let ended = signal_hook::low_level::emulate_default_handler(signal);
            debug_assert!(ended.is_ok());
        }
    }
}

struct Driver<'a> {
    shared: &'a Arc<NodeShared>,
    /// Where the coordinator is, and which run of it let us in; 0 before one did.
    address: &'a str,
    epoch: u64,
    channels: Channels<'a>,
    peers: Peers<'a>,
    /// Mismatches that were logged.
    mismatched: HashSet<(NodeId, u32, u32)>,
    tasks: JoinSet<()>,
    joined: Option<Joined>,
    sampler: Sampler,
    /// Built up while a snapshot comes in, so that nothing is torn down meanwhile.
    incoming: Option<Topology>,
}

impl<'a> Driver<'a> {
    /// Runs until shutdown; gives the signal that ended it, if one did.
    async fn drive(
        shared: &'a Arc<NodeShared>,
        config: &'a DriverConfig,
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
        let net = NetThread::new(shared, &config.network, &links);
        let mut tasks = JoinSet::new();
        let address = match config.is_embedding {
            true => embed(config, shared, &mut tasks).await,
            false => config.address.clone(),
        };
        let address = shared.coordinator.get_or_init(|| address);
        let info = match listen(shared, config, &links, &net, &mut tasks).await {
            Ok(info) => info,
            Err(error) => {
                let _ = joined.send(Err(error));
                return None;
            }
        };
        let membership = MembershipConfig {
            address: address.clone(),
            info,
            credentials: config.credentials.clone(),
            desk: Arc::clone(&shared.desk),
            status: shared.status.clone(),
        };
        let (local, shutdown) = (shared.local.subscribe(), shared.shutdown.subscribe());
        tasks.spawn(maintain(membership, local, mesh_events, shutdown));
        let mut driver = Driver {
            shared,
            address,
            epoch: 0,
            channels: Channels::new(shared),
            peers: Peers::new(shared, links, net),
            mismatched: HashSet::new(),
            tasks,
            joined: Some(joined),
            sampler: Sampler::default(),
            incoming: None,
        };
        let mut shutdown = shared.shutdown.subscribe();
        let (mut last_error, give_up) = (None, Instant::now() + config.join_timeout);
        let mut signal = pin!(ended_by_signal(shared, config.handles_signals));
        let mut beat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
        let ended_by = loop {
            let timer = driver.next_timer();
            tokio::select! {
                Some(event) = from_mesh.recv() => driver.on_mesh(event, &mut last_error),
                Some(event) = from_links.recv() => driver.on_link(event),
                () = shared.commanded.notified() => driver.on_commands(),
                Some(_) = driver.tasks.join_next() => {}
                () = driver.peers.dialled() => {}
                () = tokio::time::sleep_until(timer) => driver.on_timer(),
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

    /// In the mesh, and it is known who else is.
    fn enter(&mut self) {
        if let Some(joined) = self.joined.take() {
            let _ = joined.send(Ok(()));
        }
        self.connect();
    }

    fn on_mesh(&mut self, event: MeshEvent, last_error: &mut Option<Error>) {
        match event {
            MeshEvent::Joined { epoch } => {
                tracing::debug!(target: "shmesh::topology", epoch, "joined the mesh");
                self.epoch = epoch;
                if self.joined.is_none() {
                    self.shared.counters.add(Counter::CoordinatorFoundAgain, 1);
                } else if self.shared.view.share(self.address, epoch) {
                    self.enter();
                }
            }
            MeshEvent::Reset => self.incoming = Some(Topology::default()),
            MeshEvent::Changes { version, changes } => match &mut self.incoming {
                Some(incoming) => apply(incoming, &changes),
                None => {
                    self.shared.view.advance(version, &changes);
                    self.connect();
                }
            },
            MeshEvent::SnapshotDone { version } => {
                if let Some(incoming) = self.incoming.take() {
                    let view = &self.shared.view;
                    view.begin(self.address, self.epoch, version, incoming);
                }
                self.enter();
            }
            MeshEvent::Dismissed => drop(self.tasks.spawn(dismissed(Arc::clone(self.shared)))),
            MeshEvent::Lost { error } => {
                if self.joined.is_none() {
                    tracing::warn!(
                        target: "shmesh::topology",
                        %error, "coordinator lost; traffic goes on, trying again"
                    );
                } else if self.epoch == 0 && !matches!(error, Error::CoordinatorUnreachable { .. })
                {
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
            LinkEvent::Up { link, is_dialled } => {
                if self.peers.on_up(&link, is_dialled) {
                    self.channels.greet(&link);
                    self.connect();
                }
            }
            LinkEvent::Frame {
                link,
                frame,
                descriptors,
            } => {
                if let Err(error) = self.channels.on_frame(&link, frame, descriptors) {
                    tracing::warn!(
                        target: "shmesh::link", %error, peer = %link.peer(), "link ended"
                    );
                    link.close();
                }
                self.connect();
            }
            LinkEvent::Down { link, error } => {
                tracing::debug!(target: "shmesh::link", peer = %link.peer(), %error, "link down");
                self.channels.drop_link(&link, loss_of(&link, &error));
                self.peers.on_down(&link);
                self.connect();
            }
            LinkEvent::Failed { peer, error } => {
                if self.peers.on_failed(peer, &error) {
                    self.connect();
                }
            }
        }
    }

    /// Brings links and channels to what the topology and our endpoints ask for.
    fn connect(&mut self) {
        self.channels.forget_ended();
        let local = self.shared.local.borrow().clone();
        let known = self.shared.view.known();
        let known = lock(&known);
        let topology = known.topology();
        for ours in local.values() {
            let others = match ours.role {
                Role::Publisher => Role::Subscriber,
                Role::Subscriber => Role::Publisher,
            };
            for (node, theirs) in topology.matching(&ours.topic, others) {
                if !ours.suits(theirs) {
                    if self.mismatched.insert((node.id, theirs.id, ours.id)) {
                        note_mismatch(node, ours, theirs);
                    }
                    continue;
                }
                let neighbour = self.peers.neighbour(node);
                if ours.role == Role::Subscriber {
                    self.channels
                        .attach(ours.id, node, theirs, neighbour.as_ref());
                }
                if neighbour.is_none() {
                    self.peers.want(node);
                }
            }
        }
        self.peers.forget_gone(topology);
        // A pattern may come upon many in its life.
        self.mismatched
            .retain(|(node, ..)| topology.node(*node).is_some());
    }

    /// Another second.
    fn beat(&mut self) {
        self.channels.measure();
        self.sampler.sample(self.shared);
        self.peers.beat();
    }

    /// When there is something to do that no event tells of.
    fn next_timer(&self) -> Instant {
        let retry = self.peers.next_retry();
        self.shared.deadlines.due_ns().map_or(retry, |due_ns| {
            let left_ns = due_ns.saturating_sub(monotonic_ns());
            retry.min(Instant::now() + Duration::from_nanos(left_ns).min(IDLE))
        })
    }

    fn on_timer(&mut self) {
        let now_ns = monotonic_ns();
        if self
            .shared
            .deadlines
            .due_ns()
            .is_some_and(|due_ns| due_ns <= now_ns)
        {
            self.shared.deadlines.run(now_ns);
        }
        if self.peers.next_retry() <= Instant::now() {
            self.peers.end_pauses();
            self.connect();
        }
    }

    /// Tells the peers that all is over; what is in the rings stays readable for them. No task of
    /// the driver is left then.
    async fn leave(&mut self, from_links: &mut mpsc::Receiver<LinkEvent>) {
        self.shared.shutdown.send_replace(true);
        let publishers: Vec<_> = {
            let registry = lock(&self.shared.registry);
            registry.publishers.values().cloned().collect()
        };
        publishers.iter().for_each(|publisher| publisher.close());
        self.channels.close_all();
        self.sampler.sample(self.shared);
        // After their channels: what had come is read before the end.
        for subscriber in lock(&self.shared.registry).subscribers.values() {
            subscriber.tell(SubscriberEvent::Over);
        }
        // What is queued for the peers (a segment that a message lies in) goes out first, but a
        // peer that does not read is not waited for.
        let flushed = async {
            while self.peers.has_links() {
                let Some(event) = from_links.recv().await else {
                    return;
                };
                if let LinkEvent::Down { .. } = event {
                    self.on_link(event);
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(LEAVE_MS_MAX), flushed).await;
        // What they listen at is free again when the node is closed.
        self.tasks.shutdown().await;
        self.peers.stop().await;
    }
}

fn note_mismatch(node: &NodeInfo, ours: &Endpoint, theirs: &Endpoint) {
    let topic = &theirs.topic;
    if is_pattern(&ours.topic) || is_pattern(topic) {
        // A pattern is for those of its type.
        tracing::debug!(
            target: "shmesh::channel",
            topic, node = node.name, ours = %ours.ty, theirs = %theirs.ty,
            "another type under a pattern: skipped"
        );
    } else {
        tracing::warn!(
            target: "shmesh::channel",
            topic, node = node.name, ours = %ours.ty, theirs = %theirs.ty,
            "types differ: not connected"
        );
    }
}

/// What the end of a link says of the publishers behind it.
fn loss_of(link: &LinkHandle, error: &Error) -> Loss {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match (link, error) {
        // The kernel closes it with its process.
        (LinkHandle::Host(_), _) => Loss::Died,
        (LinkHandle::Net(_), Error::Io { source, .. })
            if matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
        {
            Loss::Died
        }
        (LinkHandle::Net(_), _) => Loss::Unreachable,
    }
}

/// Longest sleep of a driver that has nothing to wait for.
const IDLE: Duration = Duration::from_secs(3600);
/// Events between tasks of one thread.
const EVENT_QUEUE: usize = 256;
