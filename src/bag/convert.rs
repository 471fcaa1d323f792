//! The same messages in another file: whole again if it was cut off, without what is damaged,
//! compressed or not, as JSON.

use std::io::Read;
use std::sync::Arc;

use super::channel::{Channel, SchemaRecord};
use super::reader::{BagReader, gap, slot};
use super::recorder::{Message, Recorder, Target};
use super::{BagError, summary};
use crate::codec::{Codec, MsgPackCodec};
use crate::schema::Reader;
use crate::topology::{Encoding, TopicType};

/// What becomes of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum To {
    /// They keep their bytes.
    #[default]
    Same,
    /// They become JSON where their form is known, and keep their bytes elsewhere.
    Json,
}

/// What came of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Messages that were written.
    pub messages: u64,
    /// Messages left out, for they are no values of their type.
    pub invalid: u64,
    /// The first of these.
    pub first_invalid: Option<String>,
    /// Topics whose messages kept their bytes, for their form is not known.
    pub unchanged: Vec<String>,
    /// Parts of the file that were left out, for they are damaged or cannot be uncompressed.
    pub damages: Vec<String>,
}

/// How messages of a channel become JSON.
enum Form {
    /// As they are.
    Same,
    MsgPack,
    Archive(Box<Reader>),
}

/// A channel of the file, in the other.
struct Place {
    channel: u16,
    form: Form,
    /// Messages before those of the file that were lost.
    lost: u64,
}

/// Records the messages of files again, which together are one recording.
#[derive(Debug, Default)]
pub struct Converter {
    to: To,
    /// The sequence that would be next, of each channel of the other file.
    next: Vec<Option<u32>>,
    json: Vec<u8>,
}

impl Converter {
    /// Makes this of messages.
    #[must_use]
    pub fn new(to: To) -> Self {
        Self {
            to,
            ..Self::default()
        }
    }

    /// Records all messages of a file. What is damaged is left out.
    ///
    /// # Errors
    /// What the system says of reading or writing.
    pub fn add<R: Read, T: Target>(
        &mut self,
        reader: &mut BagReader<R>,
        recorder: &mut Recorder<T>,
    ) -> Result<Converted, BagError> {
        let mut converted = Converted::default();
        let mut places: Vec<Option<Place>> = Vec::new();
        let known = recorder.counts().count();
        loop {
            let message = match reader.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    if matches!(error, BagError::Io { .. }) {
                        return Err(error);
                    }
                    if converted.damages.len() < summary::DAMAGES_MAX {
                        converted.damages.push(error.to_string());
                    }
                    if error.is_fatal() {
                        break;
                    }
                    continue;
                }
            };
            let place = match slot(&mut places, message.number) {
                Some(place) => place,
                none => {
                    let channel = message.channel;
                    none.insert(place(channel, recorder, known, self.to, &mut converted)?)
                }
            };
            // Also of what is missing between two files.
            let lost_before = match message.channel.publisher {
                Some(_) => gap(slot(&mut self.next, place.channel), message.sequence),
                None => 0,
            };
            place.lost += lost_before;
            self.json.clear();
            if let Err(reason) = place.form.write(message.payload, &mut self.json) {
                converted.invalid += 1;
                let topic = &message.channel.topic;
                let sequence = message.sequence;
                converted
                    .first_invalid
                    .get_or_insert_with(|| format!("message {sequence} on {topic}: {reason}"));
                continue;
            }
            converted.messages += 1;
            recorder.record(&Message {
                channel: place.channel,
                sequence: u64::from(message.sequence),
                log_ns: message.log_ns,
                publish_ns: message.publish_ns,
                lost_before,
                payload: place.form.payload(message.payload, &self.json),
            })?;
        }
        // What its recorder lost before the first message or behind the last.
        for (id, lost) in summary::lost_of(reader.losses()) {
            let Some((_, channel)) = reader.channels().find(|(known, _)| *known == id) else {
                continue;
            };
            let place = match slot(&mut places, id) {
                Some(place) => place,
                none => none.insert(place(channel, recorder, known, self.to, &mut converted)?),
            };
            recorder.note_lost(place.channel, lost.saturating_sub(place.lost));
        }
        Ok(converted)
    }
}

/// Where a channel is in the other file. It is added, unless it is one of the first `known`, which
/// files before had.
fn place<T: Target>(
    channel: &Channel,
    recorder: &mut Recorder<T>,
    known: usize,
    to: To,
    converted: &mut Converted,
) -> Result<Place, BagError> {
    let (channel, form) = match to {
        To::Same => (channel.clone(), Form::Same),
        To::Json => as_json(channel).unwrap_or_else(|| {
            if !converted.unchanged.contains(&channel.topic) {
                converted.unchanged.push(channel.topic.clone());
            }
            (channel.clone(), Form::Same)
        }),
    };
    let before = (1..=u16::MAX).zip(recorder.counts().take(known));
    let mut ids = before.filter_map(|(id, (known, _))| (*known == channel).then_some(id));
    let found = ids.next();
    drop(ids);
    let channel = match found {
        Some(id) => id,
        None => recorder.add(channel)?,
    };
    let lost = 0;
    Ok(Place {
        channel,
        form,
        lost,
    })
}

/// The channel that has JSON of the same messages, if there can be one.
fn as_json(channel: &Channel) -> Option<(Channel, Form)> {
    let name = &channel.ty.name;
    let (schema, form) = match &channel.ty.encoding {
        Encoding::Json => (channel.schema.clone(), Form::Same),
        Encoding::MsgPack => (None, Form::MsgPack),
        Encoding::Rkyv => {
            let schema = channel.schema.as_ref()?.schema().ok()??;
            let text = schema.json_schema();
            let reader = Reader::new(Arc::new(schema)).ok()?;
            let record = SchemaRecord::json(name, text);
            (Some(record), Form::Archive(Box::new(reader)))
        }
        _ => return None,
    };
    let ty = TopicType {
        encoding: Encoding::Json,
        name: name.clone(),
        hash: 0,
    };
    let any = || SchemaRecord::json(name, r#"{"type":"object"}"#.into());
    let json = Channel {
        ty,
        schema: Some(schema.unwrap_or_else(any)),
        ..channel.clone()
    };
    Some((json, form))
}

impl Form {
    /// Writes the message as JSON, unless it stays as it is.
    fn write(&self, payload: &[u8], json: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Same => Ok(()),
            Self::MsgPack => {
                let value = <MsgPackCodec as Codec<serde_json::Value>>::decode(payload);
                let value = value.map_err(|error| error.to_string())?;
                serde_json::to_writer(json, &value).map_err(|error| error.to_string())
            }
            Self::Archive(reader) => reader
                .json(payload, json)
                .map_err(|error| error.to_string()),
        }
    }

    fn payload<'a>(&self, payload: &'a [u8], json: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Same => payload,
            Self::MsgPack | Self::Archive(_) => json,
        }
    }
}
