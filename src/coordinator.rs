//! The coordinator: tells nodes about each other. No message ever passes through it.
//!
//! Nodes register and keep their place by saying something at least every lease. Each gets one
//! snapshot, then versioned deltas. A first change goes out at once; those that follow within
//! [`DELTA_COALESCE_MS`] go out together, and so do the snapshots of nodes that join meanwhile. A
//! node that reads too slowly gets a new snapshot instead of a queue of history. Each run has its
//! own, growing epoch. All of that is decided in [`state`]; here are its sockets and its clock.

mod listener;
mod pending;
mod rate;
pub mod state;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use self::listener::listen_at;
use self::rate::Rate;
use self::state::{Frames, Sink, State};
use crate::endpoint::lock;
use crate::error::Error;
use crate::id::{NodeId, random_bytes};
use crate::limits::{
    ACCEPT_PAUSE_MS, CONNECTIONS_MAX, DELTA_COALESCE_MS, DELTA_QUEUE_FRAMES_MAX, HANDSHAKE_MS_MAX,
    HEARTBEAT_MS, LEASE_MS,
};
use crate::link::handshake::{Hello, Side};
use crate::link::wire::{self, Kind};
use crate::membership::{FrameReader, FromCoordinator, FromNode, write_all};
use crate::name::escaped;
use crate::topology::Change;

/// A coordinator that listens, and works while [`run`](Self::run) is polled.
#[derive(Debug)]
pub struct Coordinator {
    listener: TcpListener,
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
        let listener = listen_at(address)
            .await
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::AddrInUse => Error::AddressInUse {
                    address: address.into(),
                },
                _ => Error::Io {
                    what: "listen at that address",
                    source,
                },
            })?;
        let mesh = Arc::new(Mesh {
            epoch: new_epoch()?,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        Ok(Self {
            listener,
            mesh,
            lease: Duration::from_millis(LEASE_MS),
        })
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
        let address = self.listener.local_addr();
        address.map_err(|source| Error::Io {
            what: "ask for the own address",
            source,
        })
    }

    /// Which run this is: greater than that of every earlier one, as far as the clock is right.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.mesh.epoch
    }

    /// Works until `shutdown` is ready.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        tasks.spawn(broadcast(Arc::clone(&self.mesh)));
        tokio::pin!(shutdown);
        let mut warned: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
                () = &mut shutdown => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                        continue;
                    };
                    let (mesh, lease) = (Arc::clone(&self.mesh), self.lease);
                    tasks.spawn(async move {
                        match serve(&mesh, stream, lease).await {
                            Err(error @ Error::Version { .. }) => {
                                tracing::warn!(%address, %error, "node refused");
                            }
                            Err(error) => tracing::info!(%address, %error, "node gone"),
                            Ok(()) => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) if is_exhausted(&error) => {
                    // The listener stays ready, so that without a pause this would spin; those who
                    // are in are served meanwhile.
                    let now = Instant::now();
                    if warned.is_none_or(|last| now - last >= ACCEPT_WARNING_EVERY) {
                        tracing::warn!(%error, "cannot let more nodes in; raise `ulimit -n`");
                        warned = Some(now);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)) => {}
                        () = &mut shutdown => return,
                    }
                }
                // The connection that was to be accepted is gone already; the next one may be well.
                Err(error) => tracing::debug!(%error, "a node went before it was let in"),
            }
        }
    }
}

/// A run without descriptors warns no more often than this.
const ACCEPT_WARNING_EVERY: Duration = Duration::from_secs(60);

/// True if `accept` failed for want of something that only time gives back.
fn is_exhausted(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|code| exhausted.contains(&code))
}

/// Seconds of the wall clock above, then its nanoseconds, and two random bits: it grows with every
/// start, also of two in one second.
fn new_epoch() -> Result<u64, Error> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let random = random_bytes::<1>()?[0] & 3;
    let below = now.tv_nsec.cast_unsigned() << 2 | u64::from(random);
    Ok(now.tv_sec.cast_unsigned() << 32 | below)
}

/// One connection, from the handshake to its end.
async fn serve(mesh: &Arc<Mesh>, stream: TcpStream, lease: Duration) -> Result<(), Error> {
    let io = |source| Error::Io {
        what: "set up the connection",
        source,
    };
    stream.set_nodelay(true).map_err(io)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = FrameReader::new(reader);
    reader.set_lease(lease);
    let deadline = Duration::from_millis(HANDSHAKE_MS_MAX);
    let greeting = greet(mesh, &mut reader, &mut writer);
    let first = timeout(deadline, greeting)
        .await
        .map_err(|_| Error::Timeout(deadline))??;
    let FromNode::Register(info) = first else {
        return Err(Error::Protocol("register first"));
    };
    let node = info.id;
    let (frames, queue) = mpsc::channel(DELTA_QUEUE_FRAMES_MAX);
    let connection = match mesh.register(&Change::NodeUp(info), frames) {
        Ok(connection) => connection,
        Err(error) => {
            let reason = error.to_string();
            write_all(&mut writer, &encode(&FromCoordinator::Refused { reason })?).await?;
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
        let _ = write_all(&mut writer, &encode(&refused)?).await;
    }
    mesh.unregister(node, connection);
    outcome
}

async fn greet(
    mesh: &Mesh,
    reader: &mut FrameReader,
    writer: &mut OwnedWriteHalf,
) -> Result<FromNode, Error> {
    let ours = Hello::ours(Side::Coordinator, NodeId(u128::from(mesh.epoch)))?;
    let theirs = reader.hello().await;
    // Answered even if it does not fit, so that the other side sees which version is here; to
    // garbage nothing is said.
    if matches!(theirs, Ok(_) | Err(Error::Version { .. })) {
        write_all(writer, &ours.encode()).await?;
    }
    ours.check(&theirs?, Side::Node)?;
    reader.next(Kind::FromNode).await
}

/// Takes in what the node says, until it is gone or says too much.
async fn listen(mesh: &Mesh, reader: &mut FrameReader, node: NodeId) -> Result<(), Error> {
    let mut rate = Rate::default();
    loop {
        let word = reader.next(Kind::FromNode).await?;
        let change_count = match &word {
            FromNode::Update(changes) => changes.len(),
            FromNode::Heartbeat | FromNode::Register(_) => 0,
        };
        rate.take(change_count, Instant::now().into_std())?;
        match word {
            FromNode::Heartbeat => {}
            FromNode::Update(changes) => mesh.update(node, &changes)?,
            FromNode::Register(_) => return Err(Error::Protocol("registered twice")),
        }
    }
}

/// Sends the node what it must know, until the connection fails.
async fn talk(
    mesh: &Mesh,
    writer: &mut OwnedWriteHalf,
    mut queue: mpsc::Receiver<Frames>,
    node: NodeId,
) -> Result<(), Error> {
    write_all(
        writer,
        &encode(&FromCoordinator::Welcome { epoch: mesh.epoch })?,
    )
    .await?;
    let mut heartbeat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    loop {
        if queue.is_empty() {
            mesh.catch_up(node)?;
        }
        tokio::select! {
            frames = queue.recv() => match frames {
                Some(frames) => for block in frames.iter() {
                    write_all(writer, block).await?;
                },
                None => return Err(Error::Protocol("replaced by a newer connection")),
            },
            _ = heartbeat.tick() => {
                write_all(writer, &encode(&FromCoordinator::Heartbeat)?).await?;
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
