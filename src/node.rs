//! A node: its place in the mesh, and the maker of publishers and subscribers.

mod address;
mod handle;
mod schemas;
mod subscribers;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, Weak};
use std::time::Duration;

use shmesh_shm::{BellPage, Counters, Fencing, Origin, Parker, StatusPage, register_membarrier};
use tokio::sync::{Notify, oneshot, watch};

pub(crate) use self::address::is_address;
pub(crate) use self::address::with_default_port;
pub use self::address::with_port;
use self::handle::NodeHandle;
pub(crate) use self::subscribers::SubscriberSetup;
use crate::balance::{Balance, Groups};
use crate::bounds::{check_bounds, check_duration, whole_ns};
use crate::compression::Compression;
use crate::deadline::Deadlines;
use crate::driver::{self, Command, DriverConfig, NetworkSetup, Running};
use crate::endpoint::SubscriberShared;
use crate::endpoint::{Inbox, Outlets, PublisherShared, lock};
use crate::error::Error;
use crate::events::Promise;
use crate::flow::life::Life;
use crate::id::{HostId, NodeId};
use crate::known::View;
use crate::limits::{
    ENDPOINTS_PER_NODE_MAX, GRACE_MS_DEFAULT, HISTORY_MAX, JOIN_MS_DEFAULT, NETWORK_LINKS_MAX,
};
use crate::link::auth::AuthKey;
use crate::message::Payload;
use crate::metrics::Whose;
use crate::name;
use crate::priority::Priority;
use crate::publisher::{History, Order, Outbox, PublisherBuilder};
use crate::schema::Desk;
use crate::security;
use crate::service::Clients;
use crate::subscriber::SubscriberBuilder;
use crate::tls::Tls;
use crate::topology::{Encoding, Endpoint, NodeInfo, Role, TopicType};

/// Environment variable with the address of the coordinator.
pub const COORDINATOR_VARIABLE: &str = "SHMESH_COORDINATOR";
/// Environment variable with the directory for host links.
pub const RUNTIME_DIR_VARIABLE: &str = "SHMESH_RUNTIME_DIR";

/// Which ways to its peers a node takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transports {
    /// Shared memory where it can be had, and the network otherwise.
    #[default]
    Auto,
    /// Shared memory alone: nodes of other hosts are not reached.
    SharedMemory,
    /// The network alone, also to nodes of this host and this process.
    Network,
}

/// Environment variable with the address to listen at for nodes of other hosts.
pub const LISTEN_VARIABLE: &str = "SHMESH_LISTEN";
/// Environment variable with further addresses under which nodes of other hosts reach this one.
pub const ADVERTISE_VARIABLE: &str = "SHMESH_ADVERTISE";

/// Sets up a [`Node`].
#[derive(Clone, Debug)]
#[must_use = "call build() or build_blocking() to join the mesh"]
pub struct NodeBuilder {
    name: String,
    coordinator: Option<String>,
    is_embedding: bool,
    runtime_dir: Option<PathBuf>,
    join_timeout: Duration,
    grace: Duration,
    handles_signals: bool,
    mesh: Option<String>,
    key: Option<AuthKey>,
    tls: Option<Tls>,
    users: Vec<u32>,
    transports: Transports,
    network: NetworkSetup,
}

impl NodeBuilder {
    /// Address of the coordinator, `host:port` or `host`. Unless set: the environment variable
    /// `SHMESH_COORDINATOR`, else `127.0.0.1:7679`.
    pub fn coordinator(mut self, address: impl Into<String>) -> Self {
        self.coordinator = Some(address.into());
        self
    }

    /// Starts a coordinator in this process if none answers at the address, so that a program
    /// works with nothing else running. At port 0 it takes a free one: [`Node::coordinator`].
    pub fn embedded_coordinator(mut self) -> Self {
        self.is_embedding = true;
        self
    }

    /// Directory for the sockets of host links; nodes must share it to share memory. Unless set:
    /// `SHMESH_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/shmesh`, else `/tmp/shmesh-<uid>`.
    pub fn runtime_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.runtime_dir = Some(dir.into());
        self
    }

    /// How long to look for the coordinator before giving up; three seconds unless set.
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// How long handlers that run may go on when the node closes, or their listening ends; one
    /// second unless set. Then they are given up.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Joins the mesh of that name, which never mixes with another, on whatever network. Unless
    /// set: the environment variable `SHMESH_MESH`, else the mesh without a name.
    pub fn mesh(mut self, name: impl Into<String>) -> Self {
        self.mesh = Some(name.into());
        self
    }

    /// The key of the mesh: nobody without it is talked to, neither a coordinator nor a node.
    /// Unless set: the file in the environment variable `SHMESH_AUTHKEY_FILE`, else the text in
    /// `SHMESH_AUTHKEY`, else none.
    pub fn auth_key(mut self, key: AuthKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Talks to the coordinator and to nodes of other hosts inside TLS channels only, as they must
    /// do, too. Needs the feature `tls`. Unless set: the files in the environment variables
    /// `SHMESH_TLS_CERT`, `SHMESH_TLS_KEY` and `SHMESH_TLS_CA`, with `SHMESH_TLS_MUTUAL` (`1`) and
    /// `SHMESH_TLS_SERVER_NAME`, else none.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Shares memory with nodes of that user of this host, too, if they allow ours; with those of
    /// our own user alone unless set. May be called several times. A process of an allowed user
    /// is trusted as one's own is.
    pub fn allow_user(mut self, uid: u32) -> Self {
        self.users.push(uid);
        self
    }

    /// Which ways to its peers it takes; shared memory where it can be had unless set.
    pub fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// Address to listen at for nodes of other hosts: `host:port`, `host` (any free port), or
    /// `0.0.0.0:port` for all interfaces. Unless set: the environment variable `SHMESH_LISTEN`,
    /// else a free port of the address from which the coordinator is reached. With a coordinator
    /// on this host that is the loopback address.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.network.listen = Some(address.into());
        self
    }

    /// An address, `host:port`, under which nodes of other hosts reach this one, beside that it
    /// listens at: behind NAT, or with several interfaces. May be called several times. Unless
    /// set: those in the environment variable `SHMESH_ADVERTISE`, with commas between.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.network.advertise.push(address.into());
        self
    }

    /// Compresses large payloads on the way to nodes of other hosts that do so, too; not at all
    /// unless set. What goes through shared memory is never compressed.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.network.compression = Some(compression);
        self
    }

    /// Leaves Ctrl-C and SIGTERM to the program. Otherwise the node leaves the mesh at these
    /// signals, as in [`close`](Node::close), and the process then ends by them as if nobody had
    /// listened, unless somebody waits in [`forever`](Node::forever).
    pub fn without_signal_handling(mut self) -> Self {
        self.handles_signals = false;
        self
    }

    /// Joins the mesh.
    ///
    /// # Errors
    /// [`Error::CoordinatorUnreachable`] if nobody answers in time; [`Error::InvalidName`];
    /// whatever keeps the node from its memory, sockets or thread.
    pub async fn build(self) -> Result<Node, Error> {
        let (node, joined) = self.start()?;
        joined.await.unwrap_or(Err(Error::Closed))?;
        Ok(node)
    }

    /// Joins the mesh, waiting on this thread. Not to be called from async code.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_blocking(self) -> Result<Node, Error> {
        let (node, joined) = self.start()?;
        joined.blocking_recv().unwrap_or(Err(Error::Closed))?;
        Ok(node)
    }

    fn start(mut self) -> Result<(Node, oneshot::Receiver<Result<(), Error>>), Error> {
        name::check_node(&self.name)?;
        let id = NodeId::random()?;
        let uid = rustix::process::geteuid().as_raw();
        let credentials = security::credentials(self.mesh, self.key, self.tls)?;
        self.users.retain(|allowed| *allowed != uid);
        self.users.push(uid);
        let runtime_dir = self.runtime_dir.unwrap_or_else(|| default_runtime_dir(uid));
        let socket = driver::socket_path(&runtime_dir, id);
        let mut info = NodeInfo {
            id,
            name: self.name,
            host: HostId::of_this_host()?,
            uid,
            pid: std::process::id(),
            socket: socket.to_string_lossy().into_owned(),
            addresses: Vec::new(),
        };
        if self.transports == Transports::Network {
            // Nothing to be found by.
            info.socket.clear();
        }
        let network = self.network.or_environment()?;
        let status = StatusPage::create(id.0, &info.name).inspect_err(|error| {
            tracing::warn!(
                target: "shmesh::node", node = info.name, %error, "running without a status page"
            );
        });
        let status = status.ok();
        let counters = counters(status.as_ref(), Whose::Node, 0, "");
        let shared = Arc::new(NodeShared {
            bells: BellPage::create(2 * (ENDPOINTS_PER_NODE_MAX + NETWORK_LINKS_MAX))?,
            status,
            counters,
            fencing: register_membarrier(),
            transports: self.transports,
            info,
            registry: Mutex::default(),
            order: Arc::default(),
            coordinator: OnceLock::new(),
            view: View::default(),
            local: watch::Sender::new(Arc::default()),
            desk: Arc::default(),
            commands: Inbox::new(),
            commanded: Notify::new(),
            deadlines: Arc::default(),
            shutdown: watch::Sender::new(false),
            is_closed: watch::Sender::new(false),
            life: Life::new(self.grace),
            driver: Mutex::new(None),
        });
        let address = self
            .coordinator
            .or_else(|| std::env::var(COORDINATOR_VARIABLE).ok());
        let config = DriverConfig {
            address: with_port(address.as_deref().unwrap_or("127.0.0.1")),
            is_embedding: self.is_embedding,
            runtime_dir,
            join_timeout: self.join_timeout,
            handles_signals: self.handles_signals,
            credentials,
            users: self.users,
            network,
        };
        lock(&IN_PROCESS).insert(id, Arc::downgrade(&shared));
        let (joined, when_joined) = oneshot::channel();
        let driver = driver::spawn(Arc::clone(&shared), config, joined);
        // Made before the driver is looked at: dropping it takes the node off the list again.
        let node = Node {
            handle: NodeHandle::new(shared, false),
        };
        *lock(&node.handle.shared.driver) = Some(driver?);
        Ok((node, when_joined))
    }
}

fn default_runtime_dir(uid: u32) -> PathBuf {
    if let Some(dir) = std::env::var_os(RUNTIME_DIR_VARIABLE) {
        return dir.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => PathBuf::from(dir).join("shmesh"),
        None => PathBuf::from(format!("/tmp/shmesh-{uid}")),
    }
}

/// The nodes of this process, which need no socket between them.
static IN_PROCESS: LazyLock<Mutex<HashMap<NodeId, Weak<NodeShared>>>> =
    LazyLock::new(Mutex::default);

/// A node of this process.
pub(crate) fn in_process(id: NodeId) -> Option<Arc<NodeShared>> {
    lock(&IN_PROCESS).get(&id).and_then(Weak::upgrade)
}

pub(crate) fn is_in_process(id: NodeId) -> bool {
    lock(&IN_PROCESS).contains_key(&id)
}

/// Takes a node off the list; true if it was the last.
pub(crate) fn forget_in_process(id: NodeId) -> bool {
    let mut nodes = lock(&IN_PROCESS);
    nodes.remove(&id);
    nodes.is_empty()
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) publishers: HashMap<u32, Arc<PublisherShared>>,
    pub(crate) subscribers: HashMap<u32, Arc<SubscriberShared>>,
    next_id: u32,
}

/// What a node's handles and its driver share.
#[derive(Debug)]
pub(crate) struct NodeShared {
    pub(crate) info: NodeInfo,
    pub(crate) bells: Arc<BellPage>,
    pub(crate) status: Option<Arc<StatusPage>>,
    /// Of the node itself; the driver counts.
    pub(crate) counters: Counters,
    pub(crate) fencing: Fencing,
    pub(crate) transports: Transports,
    pub(crate) registry: Mutex<Registry>,
    /// Of what its publishers send.
    order: Arc<Order>,
    /// Where the coordinator is: known before anybody gets the node.
    pub(crate) coordinator: OnceLock<String>,
    /// What the coordinator told, as far as it came.
    pub(crate) view: View,
    pub(crate) local: watch::Sender<Arc<HashMap<u32, Endpoint>>>,
    /// Where schemas of others are asked for.
    pub(crate) desk: Arc<Desk>,
    pub(crate) commands: Inbox<Command>,
    pub(crate) commanded: Notify,
    pub(crate) deadlines: Arc<Deadlines>,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) is_closed: watch::Sender<bool>,
    pub(crate) life: Life,
    driver: Mutex<Option<Running>>,
}

impl NodeShared {
    pub(crate) fn coordinator(&self) -> &str {
        self.coordinator.get().map_or("", String::as_str)
    }

    pub(crate) fn command(&self, command: Command) {
        self.commands.push(command);
        self.commanded.notify_one();
    }

    /// Refuses a type that nobody may have, or that somebody on the topic is known not to share.
    /// Who subscribes to a pattern does not mind others: it gets those of its type.
    fn check_type(&self, role: Role, topic: &str, ty: &TopicType) -> Result<(), Error> {
        ty.check()?;
        let others = match role {
            Role::Publisher => Role::Subscriber,
            Role::Subscriber => Role::Publisher,
        };
        let known = self.view.known();
        let known = lock(&known);
        let mut others = known.topology().matching(topic, others);
        let suits = |other: &Endpoint| match role {
            Role::Publisher => other.ty.takes(ty),
            Role::Subscriber => ty.takes(&other.ty),
        };
        let is_other = |other: &Endpoint| !suits(other) && !name::is_pattern(&other.topic);
        let Some((node, other)) = others.find(|(_, other)| is_other(other)) else {
            return Ok(());
        };
        Err(Error::TypeMismatch {
            topic: topic.into(),
            ours: ty.to_string(),
            theirs: other.ty.to_string(),
            node: name::escaped(&node.name),
        })
    }

    fn announce(&self, endpoints: impl Iterator<Item = Endpoint>) {
        self.local.send_modify(|local| {
            Arc::make_mut(local).extend(endpoints.map(|endpoint| (endpoint.id, endpoint)));
        });
        self.command(Command::Changed);
    }

    fn withdraw(&self, endpoints: impl Iterator<Item = u32>) {
        self.local.send_modify(|local| {
            let local = Arc::make_mut(local);
            endpoints.for_each(|endpoint| drop(local.remove(&endpoint)));
        });
    }

    pub(crate) fn counters(&self, whose: Whose, endpoint: u32, topic: &str) -> Counters {
        counters(self.status.as_ref(), whose, endpoint, topic)
    }

    /// Counters for what a subscription takes of one of its topics, while that leaves enough of the
    /// page for others.
    pub(crate) fn share(&self, endpoint: u32, topic: &str) -> Option<Counters> {
        let page = self.status.as_ref().filter(|page| page.is_half_free())?;
        page.claim(Whose::Share.number(), endpoint, topic)
    }
}

/// Counters on the status page if there is room for them.
fn counters(page: Option<&Arc<StatusPage>>, whose: Whose, endpoint: u32, topic: &str) -> Counters {
    let claimed = page.and_then(|page| page.claim(whose.number(), endpoint, topic));
    claimed.unwrap_or_else(Counters::detached)
}

impl Registry {
    /// Numbers for `wanted` endpoints; the first of them.
    fn take_ids(&mut self, wanted: u32) -> Result<u32, Error> {
        let count = (self.publishers.len() + self.subscribers.len()) as u64 + u64::from(wanted);
        if count > u64::from(ENDPOINTS_PER_NODE_MAX) {
            let max = u64::from(ENDPOINTS_PER_NODE_MAX);
            let (what, found) = ("endpoints of the node", count);
            return Err(Error::OutOfBounds {
                what,
                found,
                min: 0,
                max,
            });
        }
        let id = self.next_id;
        self.next_id += wanted;
        Ok(id)
    }
}

#[derive(Debug)]
pub(crate) struct PublisherSetup {
    pub(crate) topic: String,
    pub(crate) arena_bytes_max: usize,
    pub(crate) is_stamping: bool,
    pub(crate) balance: Balance,
    pub(crate) history: u32,
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: Priority,
}

/// A member of the mesh. Cheap to clone; the node leaves when its last handle, publisher and
/// subscriber is gone, or at [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct Node {
    handle: Arc<NodeHandle>,
}

impl Node {
    /// Starts setting up a node.
    pub fn builder(name: impl Into<String>) -> NodeBuilder {
        NodeBuilder {
            name: name.into(),
            coordinator: None,
            is_embedding: false,
            runtime_dir: None,
            join_timeout: Duration::from_millis(JOIN_MS_DEFAULT),
            grace: Duration::from_millis(GRACE_MS_DEFAULT),
            handles_signals: true,
            mesh: None,
            key: None,
            tls: None,
            users: Vec::new(),
            transports: Transports::default(),
            network: NetworkSetup::default(),
        }
    }

    /// A handle that does not keep it in the mesh, for what the node keeps itself.
    pub(crate) fn guest(&self) -> Self {
        let handle = NodeHandle::new(Arc::clone(&self.handle.shared), true);
        Self { handle }
    }

    pub(crate) fn clients(&self) -> &Clients {
        &self.handle.clients
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.handle.shared
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.shared.info.name
    }

    /// Its id, new with every start.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.handle.shared.info.id
    }

    /// The address of the coordinator, as `host:port`: what [`NodeBuilder::coordinator`] was given;
    /// of port 0 it is the one that an
    /// [embedded coordinator](NodeBuilder::embedded_coordinator) took.
    #[must_use]
    pub fn coordinator(&self) -> &str {
        self.handle.shared.coordinator()
    }

    /// The other nodes of the mesh, as far as the coordinator told: names and ids. The first node
    /// of a process is built when it was told of all that were there; others share what it knows.
    #[must_use]
    pub fn peers(&self) -> Vec<(String, NodeId)> {
        self.handle.shared.view.with(|topology| {
            let others = topology.nodes().filter(|node| node.id != self.id());
            others.map(|node| (node.name.clone(), node.id)).collect()
        })
    }

    /// What is known of a node: whether it is on this host, and where it is found over a network.
    pub(crate) fn whereabouts(&self, id: NodeId) -> Option<(bool, Vec<String>)> {
        let shared = &self.handle.shared;
        shared.view.with(|topology| {
            let node = topology.node(id)?;
            Some((node.host == shared.info.host, node.addresses.clone()))
        })
    }

    /// Starts setting up a publisher: `node.publisher::<Pose>("pose").build()?`.
    pub fn publisher<P: Payload>(&self, topic: &str) -> PublisherBuilder<P> {
        PublisherBuilder::new(self.clone(), topic)
    }

    /// Starts setting up a subscriber: `node.subscriber::<Pose>("pose").build()?`. A name with `*`
    /// is a pattern: `arm/*/joint`, or `arm/**` for `arm` and all below; see
    /// [`SubscriberBuilder::also`] for several.
    pub fn subscriber<P: Payload>(&self, topic: &str) -> SubscriberBuilder<P> {
        SubscriberBuilder::new(self.clone(), topic)
    }

    /// Leaves the mesh. First handlers and timers take in nothing new, and calls that run may
    /// finish within the [grace period](NodeBuilder::grace). Then peers see it at once; what was
    /// sent stays readable for them. Publishers and subscribers of this node that are still there
    /// say [`Error::Closed`] from then on, subscribers after what had come.
    pub async fn close(self) {
        let mut is_closed = self.handle.shared.is_closed.subscribe();
        self.handle.shared.life.drain().await;
        self.handle.shared.shutdown.send_replace(true);
        // Fails only if it is closed already.
        let _ = is_closed.wait_for(|is_closed| *is_closed).await;
    }

    /// The same, waiting on this thread. Not to be called from async code.
    pub fn close_blocking(self) {
        // Without a runtime, for want of descriptors, handlers are not waited for.
        let _ = block_on(Duration::MAX, self.handle.shared.life.drain());
        self.handle.shared.shutdown.send_replace(true);
        let driver = lock(&self.handle.shared.driver).take();
        if let Some(driver) = driver {
            driver.join();
        }
    }

    pub(crate) fn add_publisher(
        &self,
        setup: PublisherSetup,
        ty: TopicType,
    ) -> Result<Outbox, Error> {
        let shared = &self.handle.shared;
        let topic = name::check_topic(&setup.topic)?.to_owned();
        check_bounds(&[("history", setup.history, 0, HISTORY_MAX)])?;
        check_duration("deadline in nanoseconds", setup.deadline)?;
        if ty.encoding == Encoding::Any {
            let (name, reason) = ("Any".into(), "only subscribers take any encoding".into());
            return Err(Error::InvalidName { name, reason });
        }
        shared.check_type(Role::Publisher, &topic, &ty)?;
        let parker = Parker::new(&shared.bells)?;
        let bell = parker.event().try_clone()?;
        let mut registry = lock(&shared.registry);
        // Under the lock: the driver closes those that are there by then.
        if *shared.shutdown.borrow() {
            return Err(Error::Closed);
        }
        let id = registry.take_ids(1)?;
        let counters = Arc::new(shared.counters(Whose::Endpoint(Role::Publisher), id, &topic));
        let endpoint = Endpoint {
            id,
            role: Role::Publisher,
            topic,
            ty,
        };
        let origin = Origin {
            node: shared.info.id.0,
            endpoint: id,
            node_name: shared.info.name.clone(),
            topic: endpoint.topic.clone(),
            about: Some(Arc::new(endpoint.ty.clone())),
        };
        let period_ns = setup.deadline.map(whole_ns);
        let promise = Promise::new(period_ns, &origin, &counters, &shared.deadlines);
        let publisher = Arc::new(PublisherShared {
            endpoint: endpoint.clone(),
            origin: Arc::new(origin),
            order: Arc::clone(&shared.order),
            inbox: Inbox::new(),
            outlets: Mutex::new(Outlets::default()),
            listeners: watch::Sender::new(0),
            bell,
            bell_index: parker.index(),
            counters: Arc::clone(&counters),
            history: (setup.history > 0).then(|| History::new(setup.history)),
            promise,
            priority: setup.priority,
        });
        registry.publishers.insert(id, Arc::clone(&publisher));
        drop(registry);
        shared.announce(std::iter::once(endpoint));
        let (max, is_stamping) = (setup.arena_bytes_max, setup.is_stamping);
        // Ids are random.
        #[allow(clippy::cast_possible_truncation)]
        let groups = Groups::new(setup.balance, true, shared.info.id.0 as u64);
        let outbox = Outbox::new(publisher, counters, parker, max, is_stamping, groups);
        Ok(outbox)
    }

    pub(crate) fn remove_publisher(&self, publisher: &PublisherShared) {
        let shared = &self.handle.shared;
        let id = publisher.endpoint.id;
        publisher.close();
        publisher.promise.queue.close();
        lock(&shared.registry).publishers.remove(&id);
        shared.withdraw(std::iter::once(id));
        shared.command(Command::PublisherGone { publisher: id });
    }

    /// Refuses a type that somebody on the topic is known not to share.
    pub(crate) fn check_type(&self, ours: &Endpoint) -> Result<(), Error> {
        let shared = &self.handle.shared;
        shared.check_type(ours.role, &ours.topic, &ours.ty)
    }

    /// Ends a channel whose publisher breaks the protocol.
    pub(crate) fn detach(&self, channel: u64) {
        self.handle.shared.command(Command::Detach { channel });
    }

    /// Waits for something, or for the end of the node.
    pub(crate) async fn or_closed<T, E>(
        &self,
        wait: impl Future<Output = Result<T, E>>,
    ) -> Result<(), Error> {
        let mut is_closed = self.handle.shared.is_closed.subscribe();
        tokio::select! {
            waited = wait => waited.map(|_| ()).map_err(|_| Error::Closed),
            _ = is_closed.wait_for(|is_closed| *is_closed) => Err(Error::Closed),
        }
    }
}

/// Runs a short wait on this thread.
pub(crate) fn block_on<T>(timeout: Duration, wait: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.map_err(|source| Error::Io {
        what: "make a runtime",
        source,
    })?;
    let waited = runtime.block_on(async { tokio::time::timeout(timeout, wait).await });
    waited.map_err(|_| Error::Timeout(timeout))
}
