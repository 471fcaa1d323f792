//! Visitors: who is no node of the mesh, and asks who is, or wants nodes to leave.
//!
//! They come in by the same handshake as nodes, so with the key where there is one, and nobody is
//! told of them. Nodes are asked what they count, and what they say is handed on as it comes.
//! Visitors are bounded as nodes are: by connections, by what they may ask in a time, and by how
//! long they may be silent, or not read the answer.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::rate::Rate;
use super::state::Frames;
use super::{Mesh, encode};
use crate::endpoint::lock;
use crate::error::Error;
use crate::limits::{REPORT_QUEUE_FRAMES_MAX, VISIT_CHANGES};
use crate::link::stream::{FrameReader, FrameWriter};
use crate::link::wire::Kind;
use crate::membership::{FromCoordinator, FromNode};

/// Answers until the visitor is gone, or says what none may.
pub(super) async fn serve(
    mesh: &Mesh,
    first: FromNode,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    lease: Duration,
) -> Result<(), Error> {
    let (sink, reports) = mpsc::channel(REPORT_QUEUE_FRAMES_MAX);
    let visitor = lock(&mesh.state).visit(sink);
    let visit = Visit {
        mesh,
        visitor,
        reports,
        lease,
    };
    let outcome = visit.converse(first, reader, writer).await;
    lock(&mesh.state).end_visit(visitor);
    outcome
}

/// A connection of a visitor.
struct Visit<'a> {
    mesh: &'a Mesh,
    visitor: u64,
    /// What nodes say to the visitor.
    reports: mpsc::Receiver<Frames>,
    lease: Duration,
}

impl Visit<'_> {
    async fn converse(
        mut self,
        first: FromNode,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
    ) -> Result<(), Error> {
        let mut rate = Rate::default();
        let mut frames = self.answer(first, &mut rate)?;
        loop {
            for block in frames.iter() {
                let written = timeout(self.lease, writer.write_all(block)).await;
                written.map_err(|_| Error::Timeout(self.lease))??;
            }
            frames = tokio::select! {
                question = reader.next(Kind::FromNode) => self.answer(question?, &mut rate)?,
                Some(report) = self.reports.recv() => report,
            };
        }
    }

    fn answer(&self, question: FromNode, rate: &mut Rate) -> Result<Frames, Error> {
        let change_count = match &question {
            FromNode::WantCounts(nodes) => VISIT_CHANGES.max(nodes.len()),
            _ => VISIT_CHANGES,
        };
        rate.take(change_count, Instant::now().into_std())?;
        let mut state = lock(&self.mesh.state);
        match question {
            FromNode::Look => state.look(),
            FromNode::WantSchema { hash } => state.schema(hash),
            FromNode::WantCounts(nodes) => state.ask_counts(self.visitor, &nodes),
            FromNode::Dismiss(nodes) => {
                let count = state.dismiss(&nodes)?;
                drop(state);
                tracing::info!(
                    asked = nodes.len(),
                    count,
                    "nodes told to leave by a visitor"
                );
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                let dismissed = encode(&FromCoordinator::Dismissed { count })?;
                Ok(Frames::from([dismissed]))
            }
            _ => Err(Error::Protocol("visitors only ask")),
        }
    }
}
