//! What other nodes said of their types.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::error::Error;
use crate::limits::SCHEMA_MS_MAX;
use crate::schema::{Asked, Schema};
use crate::topology::TopicType;

impl Node {
    /// What the messages of a topic type look like, for those who were not compiled with it: of
    /// this program's own types at once, of others from the coordinator, which some node told when
    /// it announced an endpoint of this type. Nothing if no such node is there any more, or the
    /// encoding needs no schema.
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
