//! What a topic's messages are, in our words and in MCAP's.

use std::collections::BTreeMap;

use crate::events::PublisherId;
use crate::id::NodeId;
use crate::schema::{Schema, SchemaError};
use crate::topology::{Encoding, TopicType};

/// What describes messages, as an MCAP file keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRecord {
    /// The type's name.
    pub name: String,
    /// How `data` are to be understood; empty if there are none.
    pub encoding: String,
    /// The description.
    pub data: Vec<u8>,
}

impl SchemaRecord {
    /// One of ours, for topics of rkyv messages.
    ///
    /// # Errors
    /// [`SchemaError`] if it is larger than schemas may be.
    pub fn of(schema: &Schema) -> Result<Self, SchemaError> {
        Ok(Self {
            name: schema.root().name.clone(),
            encoding: SCHEMA.into(),
            data: schema.encode()?,
        })
    }

    /// The schema, if it is one of ours, checked in full.
    ///
    /// # Errors
    /// [`SchemaError`] if it says that it is one, but is none.
    pub fn schema(&self) -> Result<Option<Schema>, SchemaError> {
        if self.encoding != SCHEMA {
            return Ok(None);
        }
        Schema::decode(&self.data).map(Some)
    }

    /// A JSON Schema of that name, as Foxglove wants it.
    pub(super) fn json(name: &str, text: String) -> Self {
        Self {
            name: name.to_owned(),
            encoding: JSON_SCHEMA.into(),
            data: text.into_bytes(),
        }
    }
}

/// Messages of one publisher on one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The topic.
    pub topic: String,
    /// What its messages are.
    pub ty: TopicType,
    /// Who sent them; unknown in files of other programs.
    pub publisher: Option<PublisherId>,
    /// What describes them.
    pub schema: Option<SchemaRecord>,
}

impl Channel {
    /// MCAP's name of the encoding where it has one, else ours.
    #[must_use]
    pub fn message_encoding(&self) -> &str {
        match &self.ty.encoding {
            // No publisher says that it sends any.
            Encoding::Raw | Encoding::Any => RAW,
            Encoding::Rkyv => RKYV,
            Encoding::Json => JSON,
            Encoding::MsgPack => MSGPACK,
            Encoding::Custom(name) => name,
        }
    }

    /// What MCAP has no field for.
    pub(super) fn metadata(&self) -> BTreeMap<&'static str, String> {
        let mut metadata = BTreeMap::from([
            (ENCODING_KEY, encoding_name(&self.ty.encoding).to_owned()),
            (TYPE_KEY, self.ty.name.clone()),
            (HASH_KEY, format!("{:016x}", self.ty.hash)),
        ]);
        if let Some(publisher) = &self.publisher {
            metadata.extend([
                (NODE_KEY, publisher.node_name.clone()),
                (NODE_ID_KEY, publisher.node.to_string()),
                (ENDPOINT_KEY, publisher.endpoint.to_string()),
            ]);
        }
        metadata
    }

    /// From a file, whoever wrote it.
    pub(super) fn from_mcap(record: mcap::records::Channel, schema: Option<&SchemaRecord>) -> Self {
        let metadata = |key: &str| record.metadata.get(key);
        let encoding = match (metadata(ENCODING_KEY).map(String::as_str), &record) {
            (Some("raw"), _) => Encoding::Raw,
            (Some("rkyv"), _) => Encoding::Rkyv,
            (Some("custom"), record) => Encoding::Custom(record.message_encoding.clone()),
            (_, record) => match record.message_encoding.as_str() {
                JSON => Encoding::Json,
                MSGPACK => Encoding::MsgPack,
                RAW | "" => Encoding::Raw,
                RKYV => Encoding::Rkyv,
                other => Encoding::Custom(other.to_owned()),
            },
        };
        let name = metadata(TYPE_KEY).cloned();
        let name = name.or_else(|| schema.map(|schema| schema.name.clone()));
        let hash = metadata(HASH_KEY).and_then(|text| u64::from_str_radix(text, 16).ok());
        let publisher = metadata(NODE_KEY).and_then(|node_name| {
            let node = u128::from_str_radix(metadata(NODE_ID_KEY)?, 16).ok()?;
            Some(PublisherId {
                node: NodeId(node),
                endpoint: metadata(ENDPOINT_KEY)?.parse().ok()?,
                node_name: node_name.clone(),
            })
        });
        Self {
            ty: TopicType {
                encoding,
                name: name.unwrap_or_default(),
                hash: hash.unwrap_or(0),
            },
            publisher,
            schema: schema.cloned(),
            topic: record.topic,
        }
    }
}

/// The encoding in one word.
pub(super) const fn encoding_name(encoding: &Encoding) -> &str {
    match encoding {
        Encoding::Raw | Encoding::Any => "raw",
        Encoding::Rkyv => "rkyv",
        Encoding::Json => JSON,
        Encoding::MsgPack => MSGPACK,
        Encoding::Custom(_) => "custom",
    }
}

/// Schemas of ours, as they travel.
const SCHEMA: &str = "shmesh-schema";
/// MCAP's own name of it.
const JSON_SCHEMA: &str = "jsonschema";
/// MCAP's own name of it.
const JSON: &str = "json";
/// MCAP's own name of it.
const MSGPACK: &str = "msgpack";
/// MCAP has no name for archives of rkyv.
const RKYV: &str = "shmesh-rkyv";
/// MCAP has no name for bytes of no meaning.
const RAW: &str = "shmesh-raw";

const ENCODING_KEY: &str = "shmesh.encoding";
const TYPE_KEY: &str = "shmesh.type";
const HASH_KEY: &str = "shmesh.hash";
const NODE_KEY: &str = "shmesh.node";
const NODE_ID_KEY: &str = "shmesh.node_id";
const ENDPOINT_KEY: &str = "shmesh.endpoint";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_the_same_after_a_file() {
        for encoding in [
            Encoding::Raw,
            Encoding::Rkyv,
            Encoding::Json,
            Encoding::MsgPack,
            Encoding::Custom("cbor".into()),
            // Somebody's own that is called as one of ours is.
            Encoding::Custom("json".into()),
        ] {
            let channel = Channel {
                topic: "arm/joint".into(),
                ty: TopicType {
                    encoding,
                    name: "Joint".into(),
                    hash: 0xfedc_ba98_7654_3210,
                },
                publisher: Some(PublisherId {
                    node: NodeId(u128::MAX - 5),
                    endpoint: 7,
                    node_name: "arm".into(),
                }),
                schema: None,
            };
            let metadata = channel.metadata();
            let texts = metadata.into_iter();
            let record = mcap::records::Channel {
                id: 3,
                schema_id: 0,
                topic: channel.topic.clone(),
                message_encoding: channel.message_encoding().into(),
                metadata: texts.map(|(key, value)| (key.to_owned(), value)).collect(),
            };
            assert_eq!(Channel::from_mcap(record, None), channel);
        }
    }

    #[test]
    fn channels_of_other_programs_have_the_type_of_their_schema() {
        let record = mcap::records::Channel {
            id: 1,
            schema_id: 1,
            topic: "/camera".into(),
            message_encoding: "cdr".into(),
            metadata: BTreeMap::new(),
        };
        let schema = SchemaRecord {
            name: "sensor_msgs/msg/Image".into(),
            encoding: "ros2msg".into(),
            data: b"uint8[] data".to_vec(),
        };
        let channel = Channel::from_mcap(record, Some(&schema));
        assert_eq!(channel.ty.name, "sensor_msgs/msg/Image");
        assert_eq!(channel.ty.encoding, Encoding::Custom("cdr".into()));
        assert_eq!((channel.ty.hash, channel.publisher), (0, None));
    }
}
