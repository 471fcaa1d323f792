//! The coordinator: tells nodes about each other. No message ever passes through it.
//!
//! Nodes register and keep their place by saying something at least every lease. Each gets one
//! snapshot, then versioned deltas. A first change goes out at once; those that follow within
//! [`DELTA_COALESCE_MS`] go out together, and so do the snapshots of nodes that join meanwhile. A
//! node that reads too slowly gets a new snapshot instead of a queue of history. Each run has its
//! own, growing epoch. All of that is decided in [`state`]; here are its sockets and its clock.
//! Visitors do not register: see `visit`.

mod pending;
mod rate;
mod schemas;
pub mod state;
mod visit;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::rate::Rate;
use self::state::{Frames, Sink, State};
use crate::endpoint::lock;
use crate::error::Error;
use crate::id::{NodeId, random_bytes};
use crate::limits::{
    CONNECTIONS_MAX, DELTA_COALESCE_MS, DELTA_QUEUE_FRAMES_MAX, HEARTBEAT_MS, LEASE_MS,
    SCHEMA_CHANGES,
};
use crate::link::auth::AuthKey;
use crate::link::door::{Door, Doorkeeper, Guest};
use crate::link::handshake::{Credentials, Purpose, Side};
use crate::link::stream::{FrameReader, FrameWriter, split};
use crate::link::wire::{self, Kind};
use crate::membership::{FromCoordinator, FromNode};
use crate::name::{self, escaped};
use crate::tls::Tls;
use crate::topology::Change;

/// A coordinator that listens, and works while [`run`](Self::run) is polled.
#[derive(Debug)]
pub struct Coordinator {
    door: Door,
    mesh: Arc<Mesh>,
    lease: Duration,
}

#[derive(Debug)]
struct Mesh {
    epoch: u64,
    state: Mutex<State<mpsc::Sender<Frames>>>,
    changed: Notify,
}

impl Coordinator {
    /// Listens at `address` (`host:port`; port 0 takes a free one).
    ///
    /// # Errors
    /// [`Error::AddressInUse`], or [`Error::Io`] if the address cannot be listened at.
    pub async fn bind(address: &str) -> Result<Self, Error> {
        let epoch = new_epoch()?;
        let keeper = Doorkeeper {
            id: NodeId(u128::from(epoch)),
            side: Side::Coordinator,
            purpose: Purpose::Membership,
            packs: false,
            credentials: Credentials::default(),
        };
        let mesh = Arc::new(Mesh {
            epoch,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        Ok(Self {
            door: Door::open(address, keeper).await?,
            mesh,
            lease: Duration::from_millis(LEASE_MS),
        })
    }

    /// Listens at a further address, too.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn also_at(mut self, address: &str) -> Result<Self, Error> {
        self.door.open_also(address).await?;
        Ok(self)
    }

    pub(crate) fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.door.keeper_mut().credentials = credentials;
        self
    }

    /// Lets in only nodes that have the key.
    #[must_use]
    pub fn with_auth_key(mut self, key: AuthKey) -> Self {
        self.door.keeper_mut().credentials.key = Some(key);
        self
    }

    /// Talks to nodes inside TLS channels only. Needs the feature `tls`.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.door.keeper_mut().credentials.tls = Some(tls);
        self
    }

    /// True if only nodes that have a key are let in.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.door.keeper().credentials.key.is_some()
    }

    /// Lets in only nodes of the mesh of that name; those of the mesh without a name unless set.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn with_mesh(mut self, name: &str) -> Result<Self, Error> {
        name::check_mesh(name)?;
        self.door.keeper_mut().credentials.mesh = name.to_owned();
        Ok(self)
    }

    /// Nodes that say nothing for this long are taken for dead; three seconds unless set.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Where it listens: all addresses, in the order asked for.
    ///
    /// # Errors
    /// [`Error::Io`] if the system does not say.
    pub fn local_addrs(&self) -> Result<Vec<SocketAddr>, Error> {
        self.door.local_addrs()
    }

    /// Where it listens, the first address.
    ///
    /// # Errors
    /// [`Error::Io`] if the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.door.local_addr()
    }

    /// Which run this is: greater than that of every earlier one, as far as the clock is right.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.mesh.epoch
    }

    /// Works until `shutdown` is ready.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        tasks.spawn(broadcast(Arc::clone(&self.mesh)));
        tokio::pin!(shutdown);
        loop {
            let guest = tokio::select! {
                guest = self.door.next() => guest,
                Some(_) = tasks.join_next() => continue,
                () = &mut shutdown => return,
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                continue;
            };
            let (mesh, lease) = (Arc::clone(&self.mesh), self.lease);
            tasks.spawn(async move {
                let address = guest.address;
                if let Err(error) = serve(&mesh, guest, lease).await {
                    tracing::info!(%address, %error, "node gone");
                }
                drop(permit);
            });
        }
    }
}

/// Seconds of the wall clock above, then its nanoseconds, and two random bits: it grows with every
/// start, also of two in one second.
fn new_epoch() -> Result<u64, Error> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let random = random_bytes::<1>()?[0] & 3;
    let below = now.tv_nsec.cast_unsigned() << 2 | u64::from(random);
    Ok(now.tv_sec.cast_unsigned() << 32 | below)
}

/// One connection, from the end of the handshake to its own.
async fn serve(mesh: &Arc<Mesh>, guest: Guest, lease: Duration) -> Result<(), Error> {
    let (mut reader, mut writer) = split(guest.stream);
    reader.set_lease(lease);
    let first = reader.next(Kind::FromNode).await?;
    let info = match first {
        FromNode::Register(info) => info,
        FromNode::Look | FromNode::Dismiss(_) | FromNode::WantCounts(_) => {
            return visit::serve(mesh, first, &mut reader, &mut writer, lease).await;
        }
        _ => return Err(Error::Protocol("register first")),
    };
    if info.id != guest.hello.id {
        return Err(Error::Protocol("registered under another id"));
    }
    let node = info.id;
    let (frames, queue) = mpsc::channel(DELTA_QUEUE_FRAMES_MAX);
    let connection = match mesh.register(&Change::NodeUp(info), frames) {
        Ok(connection) => connection,
        Err(error) => {
            let reason = error.to_string();
            writer
                .write_all(&encode(&FromCoordinator::Refused { reason })?)
                .await?;
            return Err(error);
        }
    };
    let outcome = tokio::select! {
        outcome = listen(mesh, &mut reader, node) => outcome,
        outcome = talk(mesh, &mut writer, queue, node) => outcome,
    };
    if let Err(error) = &outcome
        && !matches!(error, Error::Io { .. })
    {
        // Best effort: the node learns why, if it still reads.
        let refused = FromCoordinator::Refused {
            reason: error.to_string(),
        };
        let _ = writer.write_all(&encode(&refused)?).await;
    }
    mesh.unregister(node, connection);
    outcome
}

/// Takes in what the node says, until it is gone or says too much.
async fn listen(mesh: &Mesh, reader: &mut FrameReader, node: NodeId) -> Result<(), Error> {
    let mut rate = Rate::default();
    let mut is_beyond = false;
    loop {
        let word = reader.next(Kind::FromNode).await?;
        let change_count = match &word {
            FromNode::Update(changes) => changes.len(),
            FromNode::Schema { .. } | FromNode::WantSchema { .. } => SCHEMA_CHANGES,
            _ => 0,
        };
        rate.take(change_count, Instant::now().into_std())?;
        match word {
            FromNode::Heartbeat => {}
            FromNode::Update(changes) => mesh.update(node, &changes)?,
            FromNode::Register(_) => return Err(Error::Protocol("registered twice")),
            FromNode::Look | FromNode::Dismiss(_) | FromNode::WantCounts(_) => {
                return Err(Error::Protocol("a visitor's question from a node"));
            }
            FromNode::Schema { hash, schema } => {
                if !lock(&mesh.state).keep_schema(node, hash, schema) && !is_beyond {
                    is_beyond = true;
                    tracing::warn!(%node, "no room for its schemas: tools cannot read all of it");
                }
            }
            FromNode::WantSchema { hash } => lock(&mesh.state).tell_schema(node, hash)?,
            FromNode::Counts { visitor, report } => {
                lock(&mesh.state).tell_counts(node, visitor, report)?;
            }
        }
    }
}

/// Sends the node what it must know, until the connection fails.
async fn talk(
    mesh: &Mesh,
    writer: &mut FrameWriter,
    mut queue: mpsc::Receiver<Frames>,
    node: NodeId,
) -> Result<(), Error> {
    let welcome = FromCoordinator::Welcome { epoch: mesh.epoch };
    writer.write_all(&encode(&welcome)?).await?;
    let mut heartbeat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    loop {
        if queue.is_empty() {
            mesh.catch_up(node)?;
        }
        tokio::select! {
            frames = queue.recv() => match frames {
                Some(frames) => for block in frames.iter() {
                    writer.write_all(block).await?;
                },
                None => return Err(Error::Protocol("replaced by a newer connection")),
            },
            _ = heartbeat.tick() => {
                writer.write_all(&encode(&FromCoordinator::Heartbeat)?).await?;
            }
        }
    }
}

/// Sends deltas: at once after quiet, together when they come thick.
async fn broadcast(mesh: Arc<Mesh>) {
    loop {
        mesh.changed.notified().await;
        mesh.flush();
        tokio::time::sleep(Duration::from_millis(DELTA_COALESCE_MS)).await;
    }
}

fn encode(word: &FromCoordinator) -> Result<Vec<u8>, Error> {
    Ok(wire::encode(Kind::FromCoordinator, word)?)
}

impl Mesh {
    fn register(&self, node_up: &Change, frames: mpsc::Sender<Frames>) -> Result<u64, Error> {
        let connection = lock(&self.state).register(node_up, frames)?;
        self.changed.notify_one();
        let name = || escaped(&format!("{node_up:?}"));
        tracing::debug!(node = %node_up.node(), name = name(), "node registered");
        Ok(connection)
    }

    fn unregister(&self, node: NodeId, connection: u64) {
        lock(&self.state).unregister(node, connection);
        self.changed.notify_one();
    }

    fn update(&self, node: NodeId, changes: &[Change]) -> Result<(), Error> {
        lock(&self.state).update(node, changes)?;
        self.changed.notify_one();
        Ok(())
    }

    fn catch_up(&self, node: NodeId) -> Result<(), Error> {
        lock(&self.state).catch_up(node)
    }

    fn flush(&self) {
        if let Err(error) = lock(&self.state).flush() {
            tracing::error!(%error, "a delta is left out; all get a snapshot");
        }
    }
}

/// The queue of a connection, which ends with it.
impl Sink for mpsc::Sender<Frames> {
    fn offer(&mut self, frames: &Frames) -> bool {
        self.try_send(Arc::clone(frames)).is_ok()
    }
}

#[cfg(test)]
mod tests;
