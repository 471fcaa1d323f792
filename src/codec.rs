//! Topics of values that are encoded and decoded: JSON and MessagePack through serde, and whatever
//! a [`Codec`] of the user's own writes.
//!
//! A value is encoded straight into the memory that subscribers read, and decoded when it is
//! received: who has a sample has a value. Programs agree on such a topic by the encoding and the
//! type's name alone, so that one without the type can take part.
//!
//! Non-goals: nothing is read in place here; rkyv messages are for that.

mod msgpack;
pub(crate) use self::msgpack::check as check_msgpack;

use core::fmt;
use core::marker::PhantomData;
use std::any::type_name;
use std::io::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shmesh_shm::Received;

use crate::message::{InvalidPayload, Payload, Validation, invalid, sealed, short_name};
use crate::sample::Sample;
use crate::topology::{Encoding, TopicType};

/// Why a value could not be encoded, or bytes not be decoded. `?` makes one of any error, and
/// `.into()` of a text.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// How values of `T` become bytes, and bytes values: for serializers that this crate does not have.
///
/// ```
/// use std::io::Write;
/// use shmesh::topology::Encoding;
/// use shmesh::{Codec, CodecError, Coded};
///
/// struct Temperature(f32);
///
/// /// A temperature as text.
/// struct Text;
///
/// impl Codec<Temperature> for Text {
///     fn encoding() -> Encoding {
///         Encoding::Custom("text".into())
///     }
///     fn encode(value: &Temperature, to: &mut impl Write) -> Result<(), CodecError> {
///         Ok(write!(to, "{}", value.0)?)
///     }
///     fn decode(bytes: &[u8]) -> Result<Temperature, CodecError> {
///         Ok(Temperature(std::str::from_utf8(bytes)?.parse()?))
///     }
/// }
///
/// # async fn run(node: shmesh::Node) -> Result<(), shmesh::Error> {
/// let mut temperatures = node.publisher::<Coded<Text, Temperature>>("temperature").build()?;
/// temperatures.publish(&Temperature(21.5))?;
/// # Ok(())
/// # }
/// ```
pub trait Codec<T>: 'static {
    /// What others on the topic have to understand. [`Encoding::Custom`] for what this crate has
    /// no name for; a codec that writes JSON in its own way may say [`Encoding::Json`].
    fn encoding() -> Encoding;

    /// Writes `value`, piece by piece if it likes: the pieces are put where subscribers read them.
    ///
    /// # Errors
    /// What keeps it from being written. Nothing is sent then, nor if a write failed.
    fn encode(value: &T, to: &mut impl Write) -> Result<(), CodecError>;

    /// Reads a value from all of `bytes`, which may be anything: they come from another program.
    /// It must not panic, nor follow nesting, or announced lengths, wherever they lead.
    ///
    /// # Errors
    /// What is wrong with them; the message counts as lost.
    fn decode(bytes: &[u8]) -> Result<T, CodecError>;
}

/// Marks a topic of `T` in the encoding of `C`: `node.publisher::<Coded<MyCodec, Pose>>("pose")`.
///
/// Its samples deref to `&T`, decoded when they are received, which takes the codec's time and
/// memory; [`Sample::into_value`] hands the value out. Bytes that are no `T` are
/// [`RecvError::Invalid`](crate::RecvError::Invalid) and count as lost.
///
/// Programs agree on the topic by the encoding's name and the type's name without its path: what
/// the fields are is between them, as always with JSON and the like.
pub struct Coded<C, T>(PhantomData<fn() -> (C, T)>);

/// Marks a topic of JSON texts: `node.publisher::<Json<Pose>>("pose")`, for any type with serde's
/// `Serialize` and `Deserialize`.
///
/// Nesting is bounded by [`CODED_DEPTH_MAX`](crate::limits::CODED_DEPTH_MAX). JSON has no word for
/// numbers that are not finite: they become `null`, which is no number at the other end.
pub type Json<T> = Coded<JsonCodec, T>;

/// Marks a topic of MessagePack values: `node.publisher::<MsgPack<Pose>>("pose")`, for any type
/// with serde's `Serialize` and `Deserialize`.
///
/// Structures are written as maps with the names of their fields, and also read as arrays. Nesting
/// is bounded as for [`Json`].
pub type MsgPack<T> = Coded<MsgPackCodec, T>;

/// JSON, by `serde_json`.
#[derive(Clone, Copy, Debug)]
pub struct JsonCodec;

/// MessagePack, by `rmp-serde`.
#[derive(Clone, Copy, Debug)]
pub struct MsgPackCodec;

impl<T: Serialize + DeserializeOwned> Codec<T> for JsonCodec {
    fn encoding() -> Encoding {
        Encoding::Json
    }

    fn encode(value: &T, to: &mut impl Write) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(to, value)?)
    }

    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for MsgPackCodec {
    fn encoding() -> Encoding {
        Encoding::MsgPack
    }

    fn encode(value: &T, to: &mut impl Write) -> Result<(), CodecError> {
        Ok(rmp_serde::encode::write_named(to, value)?)
    }

    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        // Its own bound on nesting does not count enums in enums, and it ignores what follows.
        msgpack::check(bytes)?;
        Ok(rmp_serde::from_slice(bytes)?)
    }
}

/// A message with the value it was decoded to.
#[doc(hidden)]
#[derive(Debug)]
pub struct Decoded<T> {
    received: Received,
    value: T,
}

// Derived, it would ask for that of codecs.
impl<C, T> fmt::Debug for Coded<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Coded")
    }
}

impl<C, T> sealed::Sealed for Coded<C, T> {}

impl<C: Codec<T>, T: Send + 'static> Payload for Coded<C, T> {
    type View = T;
    type Held = Decoded<T>;

    fn topic_type() -> TopicType {
        TopicType {
            encoding: C::encoding(),
            name: short_name(type_name::<T>()),
            hash: 0,
        }
    }

    fn find(received: Received, validation: Validation) -> Result<Decoded<T>, InvalidPayload> {
        let received = match validation {
            Validation::Copied => received.into_private().map_err(invalid)?,
            Validation::InPlace | Validation::Trusted(_) => received,
        };
        let value = C::decode(received.bytes()).map_err(invalid)?;
        Ok(Decoded { received, value })
    }

    #[inline]
    fn value(held: &Decoded<T>) -> &T {
        &held.value
    }

    #[inline]
    fn received(held: &Decoded<T>) -> &Received {
        &held.received
    }

    fn check(bytes: &[u8]) -> Result<(), InvalidPayload> {
        C::decode(bytes).map(drop).map_err(invalid)
    }
}

impl<C: Codec<T>, T: Send + 'static> Sample<Coded<C, T>> {
    /// The value itself; the message's memory goes back to its publisher.
    #[must_use]
    pub fn into_value(self) -> T {
        self.held.value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::limits::CODED_DEPTH_MAX;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf(f64),
        Branch(Vec<Self>),
        Only(Box<Self>),
        Named { left: Box<Self>, right: Option<u8> },
    }

    fn encoded<C: Codec<T>, T>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        C::encode(value, &mut bytes).unwrap();
        bytes
    }

    fn tree() -> Tree {
        let leaves = [0.1, 1.0 / 3.0, -5e-324, f64::MAX, 1e23].map(Tree::Leaf);
        Tree::Named {
            left: Box::new(Tree::Only(Box::new(Tree::Branch(leaves.into())))),
            right: Some(7),
        }
    }

    fn round_trip<C: Codec<Tree>>() {
        let bytes = encoded::<C, _>(&tree());
        assert_eq!(C::decode(&bytes).unwrap(), tree());
        for cut in 0..bytes.len() {
            assert!(C::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(C::decode(&[&bytes[..], &bytes[..]].concat()).is_err());
    }

    #[test]
    fn values_come_back_exactly_and_only_whole() {
        round_trip::<JsonCodec>();
        round_trip::<MsgPackCodec>();
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        // Parsed quickly instead of exactly, some of these are off by one in the last place.
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = f64::from_bits(seed);
            if number.is_finite() {
                let text = encoded::<JsonCodec, _>(&number);
                let found: f64 = JsonCodec::decode(&text).unwrap();
                assert_eq!(found.to_bits(), number.to_bits(), "{number:e}");
            }
        }
    }

    /// `Only` in `Only`, which is a map of one each.
    fn nested(depth: usize) -> [Vec<u8>; 2] {
        let (open, close) = (r#"{"Only":"#.repeat(depth), "}".repeat(depth));
        let json = format!("{open}{{\"Leaf\":1.0}}{close}");
        let packed = [b"\x81\xa4Only".repeat(depth), b"\x81\xa4Leaf\x01".to_vec()].concat();
        [json.into(), packed]
    }

    #[test]
    fn nesting_is_bounded_alike_and_before_the_stack_is() {
        let decode = [JsonCodec::decode, |bytes: &[u8]| {
            MsgPackCodec::decode(bytes)
        }];
        // The leaf is a level, too.
        let deepest = nested(CODED_DEPTH_MAX - 1);
        for (decode, bytes) in decode.into_iter().zip(&deepest) {
            let found: Result<Tree, _> = decode(bytes);
            assert!(found.is_ok(), "{found:?}");
        }
        for depth in [CODED_DEPTH_MAX, 1_000_000] {
            for (decode, bytes) in decode.into_iter().zip(&nested(depth)) {
                assert!(decode(bytes).is_err(), "{depth}");
            }
        }
    }

    #[test]
    fn msgpack_is_written_with_names_and_read_without_them_too() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Point {
            x: u8,
            y: u8,
        }
        let point = Point { x: 1, y: 2 };
        let bytes = encoded::<MsgPackCodec, _>(&point);
        let fields: BTreeMap<String, u8> = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(fields["x"] + fields["y"], 3);
        assert_eq!(
            Point { x: 1, y: 2 },
            MsgPackCodec::decode(&[0x92, 1, 2]).unwrap()
        );
    }

    #[test]
    fn types_are_told_apart_by_encoding_and_name_alone() {
        let [json, packed] = [Json::<Tree>::topic_type(), MsgPack::<Tree>::topic_type()];
        assert_eq!(
            (json.encoding, json.name.as_str(), json.hash),
            (Encoding::Json, "Tree", 0)
        );
        assert_eq!((packed.encoding, packed.hash), (Encoding::MsgPack, 0));
    }
}
