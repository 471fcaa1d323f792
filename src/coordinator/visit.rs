//! Visitors: who is no node of the mesh, and asks who is, or wants nodes to leave.
//!
//! They come in by the same handshake as nodes, so with the key where there is one, and nobody is
//! told of them. They are bounded as nodes are: by connections, by what they may ask in a time, and
//! by how long they may be silent, or not read the answer.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::rate::Rate;
use super::state::Frames;
use super::{Mesh, encode};
use crate::endpoint::lock;
use crate::error::Error;
use crate::limits::VISIT_CHANGES;
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
    let mut rate = Rate::default();
    let mut question = first;
    loop {
        rate.take(VISIT_CHANGES, Instant::now().into_std())?;
        for block in answer(mesh, question)?.iter() {
            let written = timeout(lease, writer.write_all(block)).await;
            written.map_err(|_| Error::Timeout(lease))??;
        }
        question = reader.next(Kind::FromNode).await?;
    }
}

fn answer(mesh: &Mesh, question: FromNode) -> Result<Frames, Error> {
    match question {
        FromNode::Look => lock(&mesh.state).look(),
        FromNode::WantSchema { hash } => lock(&mesh.state).schema(hash),
        FromNode::Dismiss(nodes) => {
            let count = lock(&mesh.state).dismiss(&nodes)?;
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
