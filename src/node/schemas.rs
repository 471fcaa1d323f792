//! What nodes say of their types.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::error::Error;
use crate::limits::{SCHEMA_MS_MAX, SCHEMAS_PER_NODE_MAX};
use crate::schema::{Asked, Schema};
use crate::topology::TopicType;

impl Node {
    /// Lets the node explain messages of a type that this program was not compiled with, but sends:
    /// those of a recording, or of another mesh. It is announced with publishers of its type
    /// ([`PublisherBuilder::ty`](crate::PublisherBuilder::ty)) that are made after this.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] for more than 256.
    pub fn add_schema(&self, schema: Arc<Schema>) -> Result<(), Error> {
        if self.shared().desk.add(schema) {
            return Ok(());
        }
        let max = SCHEMAS_PER_NODE_MAX as u64;
        let (what, found) = ("schemas of the node", max + 1);
        Err(Error::OutOfBounds {
            what,
            found,
            min: 0,
            max,
        })
    }

    /// What the messages of a topic type look like, for those who were not compiled with it: of
    /// this program's own types at once, of others from the coordinator, which some node told when
    /// it announced an endpoint of this type, and may have left since: of those types the
    /// coordinator keeps 256. Nothing if it knows none, or the encoding needs no schema.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the coordinator does not answer within two seconds;
    /// [`Error::Closed`].
    pub async fn schema(&self, ty: &TopicType) -> Result<Option<Arc<Schema>>, Error> {
        let shared = self.shared();
        let told = match shared.desk.ask(ty) {
            Asked::Known(schema) => return Ok(schema),
            Asked::Waiting(told) => told,
        };
        let mut shutdown = shared.shutdown.subscribe();
        let answer = async {
            tokio::select! {
                told = told => told.map_err(|_| Error::Closed),
                _ = shutdown.wait_for(|is_over| *is_over) => Err(Error::Closed),
            }
        };
        let patience = Duration::from_millis(SCHEMA_MS_MAX);
        let answer = tokio::time::timeout(patience, answer).await;
        answer.unwrap_or(Err(Error::Timeout(patience)))
    }
}
