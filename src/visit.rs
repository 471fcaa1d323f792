//! A visit to the coordinator: to see who is in the mesh without being in it. For tools.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::error::Error;
use crate::id::NodeId;
use crate::limits::{NAMED_PER_FRAME_MAX, REPORT_MS_MAX, VISIT_MS_MAX};
use crate::link::handshake::{Credentials, Hello, Purpose, Side};
use crate::link::stream::{FrameReader, FrameWriter, dial, split};
use crate::link::wire::{self, Kind};
use crate::membership::{FromCoordinator, FromNode};
use crate::metrics::{Reports, Told};
use crate::schema::Schema;
use crate::topology::Topology;

/// A connection to the coordinator that is no node's. It lives as long as something is asked every
/// now and then (see [`LEASE_MS`](crate::limits::LEASE_MS)).
#[derive(Debug)]
pub(crate) struct Visit {
    reader: FrameReader,
    writer: FrameWriter,
}

impl Visit {
    /// Dials the coordinator at `host:port`.
    ///
    /// # Errors
    /// [`Error::CoordinatorUnreachable`] if nobody answers in time; what the handshake came to.
    pub(crate) async fn begin(address: &str, credentials: &Credentials) -> Result<Self, Error> {
        let ours = Hello::ours(Side::Node, Purpose::Membership, NodeId::random()?)?;
        let dialled = in_time(dial(address, ours, Side::Coordinator, credentials)).await;
        let (stream, _) = dialled.map_err(|error| match error {
            Error::Io { source, .. } => unreachable(address, source),
            Error::Timeout(_) => unreachable(address, std::io::ErrorKind::TimedOut.into()),
            other => other,
        })?;
        let (reader, writer) = split(stream);
        Ok(Self { reader, writer })
    }

    /// Who is in the mesh now.
    ///
    /// # Errors
    /// A connection that is lost, or too slow; what the coordinator must not say.
    pub(crate) async fn look(&mut self) -> Result<Topology, Error> {
        in_time(async {
            self.ask(&FromNode::Look).await?;
            let mut topology = Topology::default();
            loop {
                match self.answer().await? {
                    FromCoordinator::Snapshot {
                        is_last, changes, ..
                    } => {
                        for change in &changes {
                            topology.apply(change)?;
                        }
                        if is_last {
                            return Ok(topology);
                        }
                    }
                    _ => return Err(Error::Protocol("another answer than who is there")),
                }
            }
        })
        .await
    }

    /// What the archives of a type look like, if somebody said it.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub(crate) async fn schema(&mut self, hash: u64) -> Result<Option<Schema>, Error> {
        in_time(async {
            self.ask(&FromNode::WantSchema { hash }).await?;
            match self.answer().await? {
                FromCoordinator::Schema { schema, .. } => {
                    let schema = schema.and_then(|bytes| Schema::decode(&bytes.0).ok());
                    Ok(schema.filter(|schema| schema.hash() == hash))
                }
                _ => Err(Error::Protocol("another answer than a schema")),
            }
        })
        .await
    }

    /// Has nodes told to leave; how many could be told.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub(crate) async fn dismiss(&mut self, nodes: &[NodeId]) -> Result<u32, Error> {
        let mut told = 0;
        for part in nodes.chunks(NAMED_PER_FRAME_MAX) {
            told += in_time(async {
                self.ask(&FromNode::Dismiss(part.to_vec())).await?;
                match self.answer().await? {
                    FromCoordinator::Dismissed { count } => Ok(count),
                    _ => Err(Error::Protocol("another answer than how many")),
                }
            })
            .await?;
        }
        Ok(told)
    }

    /// What nodes count, of those who say it in time. Who is stopped, or gone, is left out.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub(crate) async fn counts(
        &mut self,
        nodes: &[NodeId],
    ) -> Result<BTreeMap<NodeId, Told>, Error> {
        let mut told = BTreeMap::new();
        for part in nodes.chunks(NAMED_PER_FRAME_MAX) {
            in_time(self.ask(&FromNode::WantCounts(part.to_vec()))).await?;
            let mut reports = Reports::of(part);
            let patience = sleep(Duration::from_millis(REPORT_MS_MAX));
            tokio::pin!(patience);
            while reports.is_waiting() {
                tokio::select! {
                    word = self.next() => match word? {
                        FromCoordinator::Counts { node, report } => reports.take(node, report),
                        _ => return Err(Error::Protocol("another answer than counts")),
                    },
                    () = &mut patience => break,
                }
            }
            told.append(&mut reports.whole());
        }
        Ok(told)
    }

    async fn ask(&mut self, question: &FromNode) -> Result<(), Error> {
        let frame = wire::encode(Kind::FromNode, question)?;
        self.writer.write_all(&frame).await
    }

    async fn answer(&mut self) -> Result<FromCoordinator, Error> {
        loop {
            match self.next().await? {
                // That node took its time; nobody waits for it any more.
                FromCoordinator::Counts { .. } => {}
                answer => return Ok(answer),
            }
        }
    }

    /// The next word. Cancel-safe.
    async fn next(&mut self) -> Result<FromCoordinator, Error> {
        match self.reader.next(Kind::FromCoordinator).await? {
            FromCoordinator::Refused { reason } => Err(Error::Refused {
                by: "the coordinator".into(),
                reason: crate::name::escaped(&reason),
            }),
            answer => Ok(answer),
        }
    }
}

fn unreachable(address: &str, source: std::io::Error) -> Error {
    Error::CoordinatorUnreachable {
        address: address.into(),
        source,
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let patience = Duration::from_millis(VISIT_MS_MAX);
    let answered = timeout(patience, asked).await;
    answered.map_err(|_| Error::Timeout(patience))?
}
