//! A running coordinator, members as the driver runs them, and a connection to say anything on.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::*;
use crate::id::HostId;
use crate::link::handshake::{HELLO_BYTES, Hello};
use crate::link::stream::Secured;
use crate::membership::{MembershipConfig, MeshEvent, maintain};
use crate::topology::{Encoding, Endpoint, NodeInfo, Role, TopicType, Topology};

/// Only so that a failing test ends; nothing is measured against it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("never happened: {what}"),
    }
}

pub(in crate::coordinator) fn info(id: u128) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        name: format!("n{id}"),
        host: HostId(1),
        uid: 0,
        pid: 1,
        socket: format!("/run/{id}"),
        addresses: vec![],
    }
}

pub(in crate::coordinator) fn endpoint(id: u32, topic: &str) -> Endpoint {
    let ty = TopicType {
        encoding: Encoding::Raw,
        name: "bytes".into(),
        hash: 0,
    };
    Endpoint {
        id,
        role: Role::Publisher,
        topic: topic.into(),
        ty,
    }
}

pub(in crate::coordinator) fn endpoint_up(node: u128, endpoint: Endpoint) -> Change {
    Change::EndpointUp {
        node: NodeId(node),
        endpoint,
    }
}

pub(super) struct Running {
    pub(super) address: String,
    pub(super) epoch: u64,
    stop: oneshot::Sender<()>,
    pub(super) task: JoinHandle<()>,
}

impl Running {
    pub(super) async fn start(address: &str, lease_ms: u64) -> Self {
        let coordinator = Coordinator::bind(address).await.unwrap();
        Self::run(coordinator.with_lease(Duration::from_millis(lease_ms)))
    }

    /// A coordinator as if it had started at another time.
    pub(super) async fn of_epoch(address: &str, epoch: u64) -> Self {
        let mut coordinator = Coordinator::bind(address).await.unwrap();
        Arc::get_mut(&mut coordinator.mesh).unwrap().epoch = epoch;
        Self::run(coordinator)
    }

    fn run(coordinator: Coordinator) -> Self {
        let address = coordinator.local_addr().unwrap().to_string();
        let epoch = coordinator.epoch();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(coordinator.run(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            epoch,
            stop,
            task,
        }
    }

    pub(super) async fn new() -> Self {
        Self::start("127.0.0.1:0", LEASE_MS).await
    }

    /// Ends it with all its connections, and says where it was.
    pub(super) async fn stop(self) -> String {
        self.stop.send(()).unwrap();
        soon("the coordinator ends", self.task).await.unwrap();
        self.address
    }
}

/// A node as the driver runs it, with what it knows.
pub(super) struct Member {
    pub(super) info: NodeInfo,
    local: watch::Sender<Arc<HashMap<u32, Endpoint>>>,
    events: mpsc::Receiver<MeshEvent>,
    shutdown: watch::Sender<bool>,
    pub(super) task: JoinHandle<()>,
    pub(super) incoming: Option<Topology>,
    pub(super) topology: Topology,
    pub(super) epoch: u64,
    pub(super) lost: Vec<Error>,
}

impl Member {
    pub(super) fn join(address: &str, id: u128) -> Self {
        let (local, endpoints) = watch::channel(Arc::default());
        let (sender, events) = mpsc::channel(64);
        let (shutdown, over) = watch::channel(false);
        let config = MembershipConfig {
            credentials: Credentials::default(),
            address: address.into(),
            info: info(id),
            desk: Arc::default(),
            status: None,
        };
        Self {
            info: config.info.clone(),
            local,
            events,
            shutdown,
            task: tokio::spawn(maintain(config, endpoints, sender, over)),
            incoming: None,
            topology: Topology::default(),
            epoch: 0,
            lost: Vec::new(),
        }
    }

    pub(super) fn announce(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        let endpoints = endpoints.into_iter().map(|e| (e.id, e)).collect();
        self.local.send_replace(Arc::new(endpoints));
    }

    pub(super) fn take_in(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Joined { epoch } => self.epoch = epoch,
            MeshEvent::Reset => self.incoming = Some(Topology::default()),
            MeshEvent::Changes { changes, .. } => {
                let topology = self.incoming.as_mut().unwrap_or(&mut self.topology);
                for change in &changes {
                    topology.apply(change).unwrap();
                }
            }
            MeshEvent::SnapshotDone { .. } => self.topology = self.incoming.take().unwrap(),
            MeshEvent::Lost { error } => self.lost.push(error),
            MeshEvent::Dismissed => unreachable!("nobody asks"),
        }
    }

    /// Follows the mesh until it is as wished.
    pub(super) async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            let event = soon(what, self.events.recv()).await;
            self.take_in(event.expect("the membership goes on"));
        }
    }

    pub(super) async fn until_nodes(&mut self, count: usize) {
        let what = format!("{} knows {count} nodes", self.info.name);
        self.until(&what, |member| member.topology.nodes().count() == count)
            .await;
    }

    pub(super) async fn leave(self) {
        self.shutdown.send_replace(true);
        soon("the membership ends", self.task).await.unwrap();
    }
}

/// A connection on which anything can be said.
pub(super) struct Raw {
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
}

impl Raw {
    /// Says `hello`; what is answered, and the connection.
    pub(super) async fn greet(address: &str, hello: &[u8]) -> (Hello, Self) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(hello).await.unwrap();
        let mut answer = [0; HELLO_BYTES];
        let read = stream.read_exact(&mut answer);
        soon("a hello", read).await.unwrap();
        let (reader, writer) = split(Secured::Plain(stream));
        (Hello::decode(&answer).unwrap(), Self { reader, writer })
    }

    pub(super) async fn say(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    pub(super) async fn tell(&mut self, word: &FromNode) {
        self.say(&wire::encode(Kind::FromNode, word).unwrap()).await;
    }

    pub(super) async fn hear(&mut self) -> Result<FromCoordinator, Error> {
        soon("an answer", self.reader.next(Kind::FromCoordinator)).await
    }

    /// Says hello and registers; what comes is left to the test.
    pub(super) async fn register(address: &str, info: NodeInfo) -> Self {
        let hello = Hello::ours(Side::Node, Purpose::Membership, info.id).unwrap();
        let (_, mut raw) = Self::greet(address, &hello.encode()).await;
        raw.tell(&FromNode::Register(info)).await;
        raw
    }

    /// Reads until it is refused, and then to the end.
    pub(super) async fn until_refused(&mut self) -> String {
        let refusal = loop {
            if let FromCoordinator::Refused { reason } = self.hear().await.unwrap() {
                break reason;
            }
        };
        while self.hear().await.is_ok() {}
        refusal
    }
}
