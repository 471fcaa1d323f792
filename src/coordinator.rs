//! The coordinator: tells nodes about each other. No message ever passes through it.
//!
//! Nodes register and keep their place by saying something at least every lease. Each gets one
//! snapshot, then versioned deltas. A first change goes out at once; those that follow within
//! [`DELTA_COALESCE_MS`] go out together. A node that reads too slowly gets a new snapshot instead
//! of a queue of history. Each run has its own, growing epoch.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::endpoint::lock;
use crate::error::Error;
use crate::id::{NodeId, random_bytes};
use crate::limits::{
    CHANGES_PER_FRAME_MAX, CONNECTIONS_MAX, DELTA_COALESCE_MS, DELTA_QUEUE_FRAMES_MAX,
    HEARTBEAT_MS, LEASE_MS,
};
use crate::link::auth::AuthKey;
use crate::link::door::{Door, Doorkeeper, Guest};
use crate::link::handshake::{Credentials, Purpose, Side};
use crate::link::stream::{FrameReader, FrameWriter, split};
use crate::link::wire::{self, Kind};
use crate::membership::{FromCoordinator, FromNode};
use crate::name::{self, escaped};
use crate::topology::{Change, Topology};

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
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    topology: Topology,
    version: u64,
    /// Applied, but not yet sent to the watchers.
    pending: Vec<Change>,
    watchers: HashMap<NodeId, Watcher>,
    connection_count: u64,
}

#[derive(Debug)]
struct Watcher {
    /// Which connection; a later one of the same node replaces it.
    connection: u64,
    frames: mpsc::Sender<Arc<Vec<u8>>>,
    /// True if frames were left out: it needs a snapshot.
    is_behind: bool,
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

    /// Where it listens.
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
    let FromNode::Register(info) = first else {
        return Err(Error::Protocol("register first"));
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

/// Takes in what the node says, until it is gone.
async fn listen(mesh: &Mesh, reader: &mut FrameReader, node: NodeId) -> Result<(), Error> {
    loop {
        match reader.next(Kind::FromNode).await? {
            FromNode::Heartbeat => {}
            FromNode::Update(changes) => mesh.update(node, &changes)?,
            FromNode::Register(_) => return Err(Error::Protocol("registered twice")),
        }
    }
}

/// Sends the node what it must know, until the connection fails.
async fn talk(
    mesh: &Mesh,
    writer: &mut FrameWriter,
    mut queue: mpsc::Receiver<Arc<Vec<u8>>>,
    node: NodeId,
) -> Result<(), Error> {
    let welcome = FromCoordinator::Welcome { epoch: mesh.epoch };
    writer.write_all(&encode(&welcome)?).await?;
    let mut heartbeat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    loop {
        if queue.is_empty()
            && let Some((version, changes)) = mesh.snapshot_if_behind(node)
        {
            send_snapshot(writer, version, &changes).await?;
        }
        tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => writer.write_all(&frame).await?,
                None => return Err(Error::Protocol("replaced by a newer connection")),
            },
            _ = heartbeat.tick() => {
                writer.write_all(&encode(&FromCoordinator::Heartbeat)?).await?;
            }
        }
    }
}

async fn send_snapshot(
    writer: &mut FrameWriter,
    version: u64,
    changes: &[Change],
) -> Result<(), Error> {
    let count = changes.len().div_ceil(CHANGES_PER_FRAME_MAX).max(1);
    for idx in 0..count {
        let start = idx * CHANGES_PER_FRAME_MAX;
        let end = (start + CHANGES_PER_FRAME_MAX).min(changes.len());
        let part = FromCoordinator::Snapshot {
            version,
            is_first: idx == 0,
            is_last: idx + 1 == count,
            changes: changes[start..end].to_vec(),
        };
        writer.write_all(&encode(&part)?).await?;
    }
    Ok(())
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
    fn register(&self, node_up: &Change, frames: mpsc::Sender<Arc<Vec<u8>>>) -> Result<u64, Error> {
        let node = node_up.node();
        // Looked at before anything is taken from a node of that id which may be in already.
        Topology::default().apply(node_up)?;
        let mut state = lock(&self.state);
        // A node that comes back on a new connection starts over.
        state.apply(&Change::NodeDown(node))?;
        state.apply(node_up)?;
        state.connection_count += 1;
        let connection = state.connection_count;
        // Behind from the start: the snapshot comes first.
        state.watchers.insert(
            node,
            Watcher {
                connection,
                frames,
                is_behind: true,
            },
        );
        drop(state);
        self.changed.notify_one();
        let name = escaped(&format!("{node_up:?}"));
        tracing::debug!(%node, name, "node registered");
        Ok(connection)
    }

    fn unregister(&self, node: NodeId, connection: u64) {
        let mut state = lock(&self.state);
        if state
            .watchers
            .get(&node)
            .is_some_and(|watcher| watcher.connection == connection)
        {
            state.watchers.remove(&node);
            let applied = state.apply(&Change::NodeDown(node));
            debug_assert!(applied.is_ok());
        }
        drop(state);
        self.changed.notify_one();
    }

    fn update(&self, node: NodeId, changes: &[Change]) -> Result<(), Error> {
        let mut state = lock(&self.state);
        for change in changes {
            let is_own = change.node() == node
                && matches!(
                    change,
                    Change::EndpointUp { .. } | Change::EndpointDown { .. }
                );
            if !is_own {
                return Err(Error::Protocol("a node may change its own endpoints only"));
            }
            state.apply(change)?;
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The whole, for a watcher that missed something, which then follows the deltas again.
    fn snapshot_if_behind(&self, node: NodeId) -> Option<(u64, Vec<Change>)> {
        let mut state = lock(&self.state);
        if !state.watchers.get(&node)?.is_behind {
            return None;
        }
        // What is in the snapshot must not come again as a delta of a later version.
        state.flush();
        state.watchers.get_mut(&node)?.is_behind = false;
        Some((state.version, state.topology.snapshot()))
    }

    fn flush(&self) {
        lock(&self.state).flush();
    }
}

impl State {
    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        if self.topology.apply(change)? {
            self.pending.push(change.clone());
        }
        Ok(())
    }

    /// Sends what is pending to all watchers, encoded once.
    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for part in pending.chunks(CHANGES_PER_FRAME_MAX) {
            self.version += 1;
            let delta = FromCoordinator::Delta {
                version: self.version,
                changes: part.to_vec(),
            };
            match encode(&delta) {
                Ok(frame) => self.send_all(&Arc::new(frame)),
                Err(error) => {
                    tracing::error!(%error, "delta left out; all watchers get a snapshot");
                    self.watchers
                        .values_mut()
                        .for_each(|watcher| watcher.is_behind = true);
                }
            }
        }
    }

    fn send_all(&mut self, frame: &Arc<Vec<u8>>) {
        for watcher in self
            .watchers
            .values_mut()
            .filter(|watcher| !watcher.is_behind)
        {
            watcher.is_behind = watcher.frames.try_send(Arc::clone(frame)).is_err();
        }
    }
}

#[cfg(test)]
mod tests;
