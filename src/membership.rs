//! A node's side of the coordinator connection: join, follow the deltas, come back after a loss.
//!
//! Losing the coordinator changes nothing for traffic: the driver keeps what it knows until a new
//! snapshot replaces it, and links live on their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shmesh_shm::StatusPage;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::error::Error;
use crate::id::{NodeId, random_bytes};
use crate::limits::{
    CHANGES_PER_FRAME_MAX, HEARTBEAT_MS, RECONNECT_MS_MAX, RECONNECT_MS_MIN, STALE_MS_MAX,
};
use crate::link::handshake::{Credentials, Hello, Purpose, Side};
use crate::link::stream::{self, FrameWriter, split};
use crate::link::wire::{self, Kind};
use crate::metrics::Report;
use crate::schema::{Desk, Said, SchemaBytes};
use crate::topology::{Change, Endpoint, NodeInfo};

/// A node's word to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNode {
    /// "This is me." First, and once.
    Register(NodeInfo),
    /// "This changed with me."
    Update(Vec<Change>),
    /// "I live."
    Heartbeat,
    /// "Who is there?" Of a visitor, who is no node and does not register.
    Look,
    /// "Have these leave." Of a visitor.
    Dismiss(Vec<NodeId>),
    /// "Messages of this type look like this." Before the first endpoint that has it.
    Schema {
        /// The schema's hash, as in the endpoint's type.
        hash: u64,
        /// The schema.
        schema: SchemaBytes,
    },
    /// "What do messages of this type look like?"
    WantSchema {
        /// The hash of the type.
        hash: u64,
    },
    /// "What do these count?" Of a visitor.
    WantCounts(Vec<NodeId>),
    /// "So much I count": to a visitor who wants to know.
    Counts {
        /// Whom the coordinator asked for.
        visitor: u64,
        /// A part of it.
        report: Report,
    },
}

/// The coordinator's word to a node, or to a visitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromCoordinator {
    /// "You are in."
    Welcome {
        /// Which run of the coordinator this is.
        epoch: u64,
    },
    /// A part of the whole; forget what you knew when the first one comes.
    Snapshot {
        /// The version this is, with its last part.
        version: u64,
        /// True for the first part.
        is_first: bool,
        /// True for the last part.
        is_last: bool,
        /// Additions only.
        changes: Vec<Change>,
    },
    /// What changed from the version before to this one.
    Delta {
        /// One more than the last.
        version: u64,
        /// The changes, in order.
        changes: Vec<Change>,
    },
    /// "I live."
    Heartbeat,
    /// "You are not in."
    Refused {
        /// Why.
        reason: String,
    },
    /// "Leave the mesh: a visitor wants you to."
    Leave,
    /// To a visitor: "I told so many of those to leave."
    Dismissed {
        /// How many.
        count: u32,
    },
    /// "They look like this": only to who asked.
    Schema {
        /// The hash of the type.
        hash: u64,
        /// The schema, if it is known.
        schema: Option<SchemaBytes>,
    },
    /// "What do you count?"
    WantCounts {
        /// Who wants to know; the coordinator knows him by this number.
        visitor: u64,
    },
    /// To a visitor: "So much that node counts."
    Counts {
        /// The node.
        node: NodeId,
        /// A part of it; none if the node cannot be asked.
        report: Option<Report>,
    },
}

/// What the driver learns.
#[derive(Debug)]
pub(crate) enum MeshEvent {
    /// In the mesh, under this run of the coordinator.
    Joined { epoch: u64 },
    /// A snapshot begins: what was known is void.
    Reset,
    /// Changes of the topology: parts of a snapshot after a reset, else what a version changed.
    Changes { version: u64, changes: Vec<Change> },
    /// The snapshot is whole.
    SnapshotDone { version: u64 },
    /// The coordinator asks us to leave.
    Dismissed,
    /// An attempt failed, or the connection is lost. It is tried again.
    Lost { error: Error },
}

#[derive(Clone, Debug)]
pub(crate) struct MembershipConfig {
    pub(crate) address: String,
    pub(crate) info: NodeInfo,
    pub(crate) credentials: Credentials,
    pub(crate) desk: Arc<Desk>,
    /// Where it counts, if it could have that.
    pub(crate) status: Option<Arc<StatusPage>>,
}

type Endpoints = Arc<HashMap<u32, Endpoint>>;

/// How far this node has come in the mesh.
#[derive(Debug, Default)]
struct Progress {
    /// True once it was let in on this connection.
    is_joined: bool,
    /// The highest epoch of all its connections; a lower one is of a coordinator that was replaced.
    epoch_max: u64,
    /// Since when no other coordinator but one of a lower epoch was met.
    stale_since: Option<Instant>,
}

impl Progress {
    /// A coordinator of this epoch lets us in. One that was replaced is refused; but where nobody
    /// else answers for a while, the clock of its host was set back, and it is the right one.
    fn welcome(&mut self, epoch: u64, now: Instant) -> Result<(), Error> {
        let seen = self.epoch_max;
        if epoch < seen {
            let since = *self.stale_since.get_or_insert(now);
            if now - since < Duration::from_millis(STALE_MS_MAX) {
                return Err(Error::StaleCoordinator { seen, found: epoch });
            }
            tracing::warn!(
                target: "shmesh::topology", seen,
                epoch,
                "a coordinator with an older clock: it is the only one"
            );
        }
        self.stale_since = None;
        self.epoch_max = epoch;
        self.is_joined = true;
        Ok(())
    }
}

/// Keeps this node in the mesh until `shutdown`, then leaves. Reconnects for ever.
pub(crate) async fn maintain(
    config: MembershipConfig,
    mut local: watch::Receiver<Endpoints>,
    events: mpsc::Sender<MeshEvent>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut pause_ms = RECONNECT_MS_MIN;
    let mut progress = Progress::default();
    loop {
        progress.is_joined = false;
        let began = Instant::now();
        let outcome = tokio::select! {
            outcome = take_part(&config, &mut local, &events, &mut progress) => outcome,
            _ = shutdown.wait_for(|is_over| *is_over) => return,
        };
        let Err(mut error) = outcome else { return };
        if !progress.is_joined {
            error = unreachable_if_silent(&config.address, error);
        }
        if events.send(MeshEvent::Lost { error }).await.is_err() {
            return;
        }
        // Who is let in and thrown out at once must not come back at once for ever.
        let is_long = began.elapsed() >= Duration::from_millis(RECONNECT_MS_MAX);
        let is_settled = progress.is_joined && is_long;
        pause_ms = if is_settled {
            RECONNECT_MS_MIN
        } else {
            (2 * pause_ms).min(RECONNECT_MS_MAX)
        };
        tokio::select! {
            () = tokio::time::sleep(jittered(pause_ms)) => {}
            _ = shutdown.wait_for(|is_over| *is_over) => return,
        }
    }
}

/// A coordinator that hangs up or stalls before it lets us in (it is just starting, stopping or out
/// of descriptors) is as good as none: it is worth another try, as a refusal is not.
fn unreachable_if_silent(address: &str, error: Error) -> Error {
    let source = match error {
        Error::Io { source, .. } => source,
        Error::Timeout(_) => std::io::ErrorKind::TimedOut.into(),
        other => return other,
    };
    Error::CoordinatorUnreachable {
        address: address.into(),
        source,
    }
}

/// Half to all of `ms`: nodes that lost the same coordinator do not come back as one.
pub(crate) fn jittered(ms: u64) -> Duration {
    let random = random_bytes::<2>().map_or(0, u16::from_le_bytes);
    Duration::from_micros(500 * ms + 500 * ms * u64::from(random) / u64::from(u16::MAX))
}

/// One connection, from dialling to its loss. Ends well only when the driver is gone.
async fn take_part(
    config: &MembershipConfig,
    local: &mut watch::Receiver<Endpoints>,
    events: &mpsc::Sender<MeshEvent>,
    progress: &mut Progress,
) -> Result<(), Error> {
    let ours = Hello::ours(Side::Node, Purpose::Membership, config.info.id)?;
    let (address, credentials) = (&config.address, &config.credentials);
    let (stream, _) = stream::dial(address, ours, Side::Coordinator, credentials).await?;
    let (mut reader, mut writer) = split(stream);
    send(&mut writer, &FromNode::Register(config.info.clone())).await?;
    let mut told: Endpoints = Arc::default();
    let mut said = Said::default();
    ask(&mut writer, &config.desk, &mut said).await?;
    let mut heartbeat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    let mut version = None;
    local.mark_changed();
    loop {
        tokio::select! {
            frame = reader.next::<FromCoordinator>(Kind::FromCoordinator) => {
                match frame? {
                    FromCoordinator::Schema { hash, schema } => config.desk.answer(hash, schema),
                    FromCoordinator::WantCounts { visitor } => {
                        report(&mut writer, config.status.as_deref(), visitor).await?;
                    }
                    frame => if !take_in(frame, &mut version, events, progress).await? {
                        return Ok(());
                    }
                }
            }
            changed = local.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let current = local.borrow_and_update().clone();
                for (hash, schema) in said.announcements(&config.desk, current.values()) {
                    send(&mut writer, &FromNode::Schema { hash, schema }).await?;
                }
                tell(&mut writer, config, &told, &current).await?;
                told = current;
            }
            () = config.desk.asked.notified() => ask(&mut writer, &config.desk, &mut said).await?,
            _ = heartbeat.tick() => send(&mut writer, &FromNode::Heartbeat).await?,
        }
    }
}

/// Passes on what the coordinator said; false if nobody listens any more.
async fn take_in(
    frame: FromCoordinator,
    version: &mut Option<u64>,
    events: &mpsc::Sender<MeshEvent>,
    progress: &mut Progress,
) -> Result<bool, Error> {
    let mut news = Vec::with_capacity(3);
    match frame {
        FromCoordinator::Welcome { epoch } => {
            progress.welcome(epoch, Instant::now())?;
            news.push(MeshEvent::Joined { epoch });
        }
        // Which coordinator says so is not known yet.
        FromCoordinator::Snapshot { .. } | FromCoordinator::Delta { .. } if !progress.is_joined => {
            return Err(Error::Protocol("news before the welcome"));
        }
        FromCoordinator::Snapshot {
            version: new,
            is_first,
            is_last,
            changes,
        } => {
            if is_first {
                news.push(MeshEvent::Reset);
            }
            let parts = MeshEvent::Changes {
                version: new,
                changes,
            };
            news.push(parts);
            if is_last {
                *version = Some(new);
                news.push(MeshEvent::SnapshotDone { version: new });
            }
        }
        FromCoordinator::Delta {
            version: new,
            changes,
        } => {
            if version.is_none_or(|old| old.wrapping_add(1) != new) {
                return Err(Error::Protocol("a delta is missing"));
            }
            *version = Some(new);
            let delta = MeshEvent::Changes {
                version: new,
                changes,
            };
            news.push(delta);
        }
        FromCoordinator::Leave => news.push(MeshEvent::Dismissed),
        FromCoordinator::Dismissed { .. } | FromCoordinator::Counts { .. } => {
            return Err(Error::Protocol("an answer to a visitor"));
        }
        FromCoordinator::Heartbeat
        | FromCoordinator::Schema { .. }
        | FromCoordinator::WantCounts { .. } => {}
        FromCoordinator::Refused { reason } => {
            let reason = crate::name::escaped(&reason);
            return Err(Error::Refused {
                by: "the coordinator".into(),
                reason,
            });
        }
    }
    for event in news {
        if events.send(event).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends the difference between what the coordinator knows of us and what is.
async fn tell(
    writer: &mut FrameWriter,
    config: &MembershipConfig,
    told: &Endpoints,
    current: &Endpoints,
) -> Result<(), Error> {
    let node = config.info.id;
    let gone = told.keys().filter(|id| !current.contains_key(id));
    let gone = gone.map(|id| Change::EndpointDown {
        node,
        endpoint: *id,
    });
    let new = current
        .values()
        .filter(|endpoint| !told.contains_key(&endpoint.id));
    let new = new.map(|endpoint| Change::EndpointUp {
        node,
        endpoint: endpoint.clone(),
    });
    let changes: Vec<Change> = gone.chain(new).collect();
    for part in changes.chunks(CHANGES_PER_FRAME_MAX) {
        send(writer, &FromNode::Update(part.to_vec())).await?;
    }
    Ok(())
}

/// Asks for the schemas that somebody here waits for.
async fn ask(writer: &mut FrameWriter, desk: &Desk, said: &mut Said) -> Result<(), Error> {
    for hash in desk.questions(said) {
        send(writer, &FromNode::WantSchema { hash }).await?;
    }
    Ok(())
}

/// Says what this node counts.
async fn report(
    writer: &mut FrameWriter,
    status: Option<&StatusPage>,
    visitor: u64,
) -> Result<(), Error> {
    let entries = status.map(StatusPage::endpoints).unwrap_or_default();
    for report in Report::of(&entries, shmesh_shm::monotonic_ns()) {
        send(writer, &FromNode::Counts { visitor, report }).await?;
    }
    Ok(())
}

async fn send(writer: &mut FrameWriter, word: &FromNode) -> Result<(), Error> {
    writer.write_all(&wire::encode(Kind::FromNode, word)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_that_was_replaced_is_refused_unless_it_is_the_only_one() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        progress.welcome(7, at(0)).unwrap();
        assert!(progress.welcome(6, at(1)).is_err());
        assert!(progress.welcome(6, at(STALE_MS_MAX)).is_err());
        // The right one is back: the other starts over.
        progress.welcome(8, at(STALE_MS_MAX)).unwrap();
        let refused = progress.welcome(6, at(STALE_MS_MAX + 1));
        assert!(matches!(
            refused,
            Err(Error::StaleCoordinator { seen: 8, found: 6 })
        ));
        progress.welcome(6, at(2 * STALE_MS_MAX + 1)).unwrap();
        assert_eq!(progress.epoch_max, 6);
    }
}
