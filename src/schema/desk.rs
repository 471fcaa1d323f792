//! Schemas between a node and its coordinator: what is announced, what is asked for, and what was
//! told. Words and bookkeeping; the connection is `membership`'s.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use tokio::sync::{Notify, oneshot};

use super::{Schema, known};
use crate::endpoint::lock;
use crate::limits::{SCHEMA_BYTES_MAX, SCHEMAS_KEPT_MAX, SCHEMAS_PER_NODE_MAX};
use crate::topology::{Encoding, Endpoint, TopicType};

/// A schema as it travels. Whether it is one is looked at by who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaBytes(pub Vec<u8>);

/// Where a node's handles leave questions, and the connection to the coordinator answers.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    /// Somebody asks for something new.
    pub(crate) asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Vec<oneshot::Sender<Option<Arc<Schema>>>>>,
    /// Which of them were not asked for yet.
    new: HashSet<u64>,
    /// What was told, so that it is not asked for again.
    told: HashMap<u64, Arc<Schema>>,
    /// Those of types that this program has not, but sends.
    added: HashMap<u64, Arc<Schema>>,
}

/// What was said on one connection.
#[derive(Debug, Default)]
pub(crate) struct Said {
    announced: HashSet<u64>,
    /// True if questions were asked on it.
    has_asked: bool,
    /// True if not all was announced.
    is_beyond: bool,
}

impl Desk {
    /// What is known of a type here, or who will tell it once the coordinator has.
    pub(crate) fn ask(&self, ty: &TopicType) -> Asked {
        if ty.encoding != Encoding::Rkyv {
            return Asked::Known(None);
        }
        if let Some(schema) = self.own(ty.hash) {
            return Asked::Known(Some(schema));
        }
        let mut state = lock(&self.state);
        if let Some(schema) = state.told.get(&ty.hash) {
            return Asked::Known(Some(Arc::clone(schema)));
        }
        let (answer, told) = oneshot::channel();
        // Those who gave up are forgotten with the next question.
        state.waiting.retain(|_, waiting| {
            waiting.retain(|answer| !answer.is_closed());
            !waiting.is_empty()
        });
        let waiting = state.waiting.entry(ty.hash).or_default();
        waiting.push(answer);
        if waiting.len() == 1 {
            state.new.insert(ty.hash);
        }
        drop(state);
        self.asked.notify_one();
        Asked::Waiting(told)
    }

    /// Keeps a schema that is to be announced with endpoints of its type; false if there are as
    /// many as a node may announce.
    pub(crate) fn add(&self, schema: Arc<Schema>) -> bool {
        let added = &mut lock(&self.state).added;
        let is_new = !added.contains_key(&schema.hash());
        if is_new && added.len() >= SCHEMAS_PER_NODE_MAX {
            return false;
        }
        added.insert(schema.hash(), schema);
        true
    }

    /// The schema of a type that this program has, or sends.
    fn own(&self, hash: u64) -> Option<Arc<Schema>> {
        known::find(hash).or_else(|| lock(&self.state).added.get(&hash).cloned())
    }

    /// What this connection has to ask for: at first all that is waited for, then what is new.
    pub(crate) fn questions(&self, said: &mut Said) -> Vec<u64> {
        let mut state = lock(&self.state);
        let new = std::mem::take(&mut state.new);
        if std::mem::replace(&mut said.has_asked, true) {
            return new.into_iter().collect();
        }
        state.waiting.keys().copied().collect()
    }

    /// What the coordinator said: a schema, if it has one. It is believed if it is what was asked
    /// for, whoever announced it.
    pub(crate) fn answer(&self, hash: u64, bytes: Option<SchemaBytes>) {
        let schema = bytes.and_then(|SchemaBytes(bytes)| match Schema::decode(&bytes) {
            Ok(schema) if schema.hash() == hash => Some(Arc::new(schema)),
            Ok(_) => {
                tracing::warn!(target: "shmesh::topology", hash, "another schema than announced");
                None
            }
            Err(error) => {
                tracing::warn!(target: "shmesh::topology", hash, %error, "no schema");
                None
            }
        });
        let mut state = lock(&self.state);
        let waiting = state.waiting.remove(&hash).unwrap_or_default();
        if let Some(schema) = &schema
            && !waiting.is_empty()
        {
            if state.told.len() >= SCHEMAS_KEPT_MAX {
                state.told.clear();
            }
            state.told.insert(hash, Arc::clone(schema));
        }
        for answer in waiting {
            let _ = answer.send(schema.clone());
        }
    }
}

/// What comes of a question.
pub(crate) enum Asked {
    Known(Option<Arc<Schema>>),
    Waiting(oneshot::Receiver<Option<Arc<Schema>>>),
}

impl Said {
    /// The schemas of these endpoints' types that were not announced on this connection yet.
    pub(crate) fn announcements<'a>(
        &mut self,
        desk: &Desk,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> Vec<(u64, SchemaBytes)> {
        let mut new = Vec::new();
        let hashes = endpoints.filter(|endpoint| endpoint.ty.encoding == Encoding::Rkyv);
        for hash in hashes.map(|endpoint| endpoint.ty.hash) {
            if self.announced.contains(&hash) {
                continue;
            }
            if self.announced.len() >= SCHEMAS_PER_NODE_MAX {
                if !std::mem::replace(&mut self.is_beyond, true) {
                    tracing::warn!(
                        target: "shmesh::node", max = SCHEMAS_PER_NODE_MAX,
                        "too many types: tools will not be able to read all of this node's topics"
                    );
                }
                break;
            }
            let bytes = desk.own(hash).and_then(|schema| schema.encode().ok());
            if let Some(bytes) = bytes {
                self.announced.insert(hash);
                new.push((hash, SchemaBytes(bytes)));
            }
        }
        new
    }
}

// As bytes: serde takes a `Vec<u8>` for a list of numbers, which would be longer than a frame.
impl Serialize for SchemaBytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SchemaBytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_byte_buf(Bytes).map(SchemaBytes)
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {SCHEMA_BYTES_MAX} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        if bytes.len() > SCHEMA_BYTES_MAX {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(bytes.to_vec())
    }
}
